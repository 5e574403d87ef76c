"""A checkpoint whose SAM has more blocks in its image encoder, and answers as before.

    python tools/deepen_encoder.py nano -o DEEPER --stages 2,3,6,2 --global-blocks 7,9,10

Each new block is a copy of the one in front of it (or fresh, behind one that begins a stage) whose output is zero, so
that it changes nothing before it has learnt. Source: identity initialisation of residual blocks, ReZero
(arXiv 2003.04887); training of grown networks, Net2Net (arXiv 1511.05641).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from unipixel.errors import UnipixelError
from unipixel.model.presets import initialise
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import load_model, resolve_checkpoint, save_model
from unipixel.processing import Processor

BLOCKS = "segmenter.vision_encoder.backbone.blocks."
OUTPUTS = ("attn.proj.", "mlp.proj_out.")
"""Layers whose output is added to what a block was given."""


def main() -> None:
    """Deepen and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="'nano' or a checkpoint folder")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--stages", type=parse_numbers, required=True, help="blocks of the four stages")
    parser.add_argument("--global-blocks", type=parse_numbers, required=True, help="those that see the whole picture")
    options = parser.parse_args()
    try:
        deepen(options.source, options.out, options.stages, options.global_blocks)
    except (UnipixelError, OSError, ValueError) as error:
        parser.exit(2, f"deepen_encoder: {error}\n")


def parse_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    return tuple(int(number) for number in text.split(","))


def place_blocks(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[int, bool]]:
    """Of every block of the deeper encoder, the old block that it is or follows, and whether it is new.

    New blocks are spread over their stage from its end on.

    Raises:
        ValueError: a stage would lose blocks, or there is another number of stages.
    """
    if len(before) != len(after) or any(new < old for old, new in zip(before, after, strict=False)):
        raise ValueError(f"the stages {after} cannot hold those of the checkpoint, {before}")
    places, first = [], 0
    for old, new in zip(before, after, strict=True):
        for number in range(old):
            places.append((first + number, False))
            added = (new - old + number) // old  # the last block is the first to be followed by a new one
            places += [(first + number, True)] * added
        first += old
    return places


@torch.no_grad()
def deepen(source: str, out: Path, stages: tuple[int, ...], global_blocks: tuple[int, ...]) -> None:
    """Write the deeper checkpoint.

    Raises:
        ValueError: the stages cannot hold those of the checkpoint, or its output would change.
    """
    folder = resolve_checkpoint(source)
    old = load_model(folder).float().eval()
    places = place_blocks(old.config.sam.stages, stages)
    config = replace(old.config, sam=replace(old.config.sam, stages=stages, global_blocks=global_blocks))
    model = UniPixel(config).eval()
    initialise(model, torch.Generator().manual_seed(0))
    known = old.state_dict()
    state: dict[str, Tensor] = {}
    for name, fresh in model.state_dict().items():
        if not name.startswith(BLOCKS):
            state[name] = known[name]
            continue
        number, part = name.removeprefix(BLOCKS).split(".", 1)
        origin, is_new = places[int(number)]
        copied = known.get(f"{BLOCKS}{origin}.{part}")
        if is_new and part.startswith(OUTPUTS):
            state[name] = torch.zeros_like(fresh)
        else:  # the first block of a stage is narrower on one side
            state[name] = copied if copied is not None and copied.shape == fresh.shape else fresh
    model.load_state_dict(state)
    side = config.sam.image_size
    frame = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    if not torch.equal(old.segmenter.encode(frame).embed, model.segmenter.encode(frame).embed):
        raise ValueError(f"with {global_blocks} as blocks that see the whole picture the old ones see something else")
    save_model(model, out)
    Processor.from_folder(folder).save(out)


if __name__ == "__main__":
    main()
