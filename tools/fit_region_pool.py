"""A checkpoint in which objects in memory read as their names.

    python tools/fit_region_pool.py nano -o FITTED --scenes 1800

The layers that make `<|mem|>` of pooled features begin as those that make visual tokens of them, which the language
model can read, and learn by themselves that each object, read by the language head, says its name. Cells weigh in the
mean as much as the mask covers of them (`ImageSettings.region_rule`). Prints how many held-out objects are read right
before and after; the language model has to learn what its objects look like now, by a few hundred steps of
`nano_talk`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipixel.errors import UnipixelError
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import load_model, resolve_checkpoint, save_model
from unipixel.processing import Processor
from unipixel.processing.regions import pool_to_grid
from unipixel.stickers import EVAL_SEED, WORLDS, generate_scene

SEED = 71_000
"""Of the scenes that are learnt from."""
HELD_OUT_SEED = EVAL_SEED + 8_800
"""Of those that tell how well; `unipixel eval stickers` asks about others."""
BATCH = 256
RATE = 3e-4


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="'nano' or a checkpoint folder")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=1800, help="pictures of each world to learn from")
    parser.add_argument("--steps", type=int, default=900)
    options = parser.parse_args()
    if options.scenes < 1 or options.steps < 1:
        parser.error("--scenes and --steps must be at least 1")
    try:
        fit(options.source, options.out, options.scenes, options.steps)
    except (UnipixelError, OSError, ValueError) as error:
        parser.exit(2, f"fit_region_pool: {error}\n")


@torch.no_grad()
def pool_objects(model: UniPixel, processor: Processor, world: str, seed: int, count: int) -> tuple[Tensor, ...]:
    """Objects of so many scenes: pooled features (N, 4 v), pooled code of place (N, D) and the token of the name (N,).

    Things whose name does not end in a single token are left out.
    """
    rows, places, words = [], [], []
    for number in range(count):
        scene = generate_scene(seed, number, WORLDS[world])
        tokens = [processor.chat.encode(f" {one.thing.name.split()[-1]}") for one in scene.objects]
        named = [n for n, token in enumerate(tokens) if len(token) == 1]
        visual = processor.build_visual(scene.to_sample(()).media)
        features = model.encode_vision(visual.pixel_values, visual.grid_thw)
        if features.place is None:
            raise ValueError("the model has no region_place_encoding, by which its objects say where they are")
        masks = np.repeat(scene.masks[named, :1].swapaxes(0, 1), 2, axis=0)
        cells = [pool_to_grid(masks, visual.grid, rule="covered")]
        rows.append(model.region_pool.pool(features.pre_merge, features.grid_thw, cells))
        places.append(model.region_pool.pool(features.place, features.grid_thw, cells))
        words += [tokens[n][0] for n in named]
    return torch.cat(rows), torch.cat(places), torch.tensor(words)


def read_names(model: UniPixel, rows: Tensor, places: Tensor) -> Tensor:
    """(N, vocabulary) logits of what the language head reads of each object."""
    content = model.region_pool.project(rows)
    seen = F.rms_norm(content, content.shape[-1:]) + places
    return model.lm_head(F.rms_norm(seen, seen.shape[-1:]))


def fit(source: str, out: Path, scenes: int, steps: int) -> None:
    """Write the fitted checkpoint.

    Raises:
        ValueError: the model's objects have no code of place.
    """
    folder = resolve_checkpoint(source)
    model, processor = load_model(folder).float().eval(), Processor.from_folder(folder)
    project = model.region_pool.project
    linear = [layer for layer in model.visual.merger.modules() if isinstance(layer, nn.Linear)]
    project[0].load_state_dict(linear[0].state_dict())
    project[2].load_state_dict(linear[1].state_dict())
    held_out = {world: pool_objects(model, processor, world, HELD_OUT_SEED, max(scenes // 12, 1)) for world in WORLDS}
    pooled = [pool_objects(model, processor, world, SEED, scenes) for world in WORLDS]
    rows, places, words = (torch.cat(parts) for parts in zip(*pooled, strict=True))

    def report(when: str) -> None:
        for world, (held_rows, held_places, held_words) in held_out.items():
            with torch.no_grad():
                right = (read_names(model, held_rows, held_places).argmax(-1) == held_words).float().mean()
            print(f"{when}: {float(right):.3f} of {len(held_words)} objects of {world} scenes read as their names")

    report("before")
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(project.parameters(), RATE, weight_decay=0.02)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / steps)
        drawn = torch.randint(len(rows), (BATCH,), generator=generator)
        logits = read_names(model, rows[drawn], places[drawn])
        optimizer.zero_grad()
        F.cross_entropy(logits, words[drawn], label_smoothing=0.05).backward()
        optimizer.step()
    report("after")
    save_model(model, out)
    Processor(processor.tokenizer, replace(processor.settings, region_rule="covered")).save(out)


if __name__ == "__main__":
    main()
