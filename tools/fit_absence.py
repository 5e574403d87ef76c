"""A checkpoint that decides better whether what it is asked for is there.

    python tools/fit_absence.py MODEL -o FITTED [--scenes 600] [--strength 0.01] [--seed 8000000]

Behind the name of what was asked for, the answer goes on with ``<|seg|>`` or with "is not there". Sticker scenes of
both worlds are asked about things in them and things that are not, and the difference between the two is fitted by a
logistic regression on the decoder's last state: the row of ``<|seg|>`` in the table of words is all that changes.
Seeds of the evaluation are far from those used here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unipixel.errors import UnipixelError
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import load_model, save_model
from unipixel.processing import Processor
from unipixel.stickers import WORLDS, Scene, generate_scene, generate_turns

QUESTIONS = 6
"""Of one scene; half of them about things that are not there."""


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=600, help="of each world")
    parser.add_argument("--strength", type=float, default=0.01, help="of the penalty on what is changed")
    parser.add_argument("--seed", type=int, default=8_000_000, help="of the scenes")
    options = parser.parse_args()
    try:
        model, processor = load_model(options.model).float(), Processor.from_folder(options.model)
        scenes = [generate_scene(options.seed, n, world) for world in WORLDS.values() for n in range(options.scenes)]
        states, margins, is_there = collect_decisions(model, processor, scenes, options.seed)
        change = fit_margin(states, margins, is_there, options.strength)
        for name, found in (("before", margins), ("after", margins + states @ change)):
            right = (found > 0) == is_there
            shares = f"absent {right[~is_there].float().mean():.3f}, present {right[is_there].float().mean():.3f}"
            print(f"{name}: right where it is {shares}, of {len(right)}")
        with torch.no_grad():
            model.lm_head.weight[model.config.seg_token_id] += change
        save_model(model, options.out)
        processor.save(options.out)
    except (UnipixelError, OSError) as error:
        parser.exit(2, f"fit_absence: {error}\n")


@torch.no_grad()
def collect_decisions(
    model: UniPixel, processor: Processor, scenes: list[Scene], seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised states (N, D) of N decisions, how much likelier ``<|seg|>`` is there (N,), and whether it is right."""
    states, margins, is_there = list[Tensor](), list[Tensor](), list[Tensor]()
    seg, denials = model.config.seg_token_id, [processor.chat.encode(word)[0] for word in (" is", " are")]
    for n, scene in enumerate(scenes):
        rng = np.random.default_rng((seed, n, 1))
        turns = generate_turns(scene, rng, QUESTIONS, {"absent": 1.0, "refer": 1.0})
        if not turns:
            continue
        inputs = processor.build_training_inputs(scene.to_sample(turns), sam_masks=False, independent_turns=True)
        batch = processor.collate([inputs], model.config)
        hidden, labels = model(**batch).hidden[0, :-1], batch["labels"][0]
        said, before = labels[1:], labels[:-1]
        begins = (said == seg) & (before != seg)  # of several masks the first is decided upon
        denies = torch.isin(said, torch.tensor(denials))
        chosen = begins | denies
        logits = model.compute_logits(hidden[chosen])
        states.append(model.language.norm(hidden[chosen]))
        margins.append(logits[:, seg] - logits[:, denials].logsumexp(1))
        is_there.append(begins[chosen])
    return torch.cat(states), torch.cat(margins), torch.cat(is_there)


def fit_margin(states: Tensor, margins: Tensor, is_there: Tensor, strength: float) -> Tensor:
    """(D,) what to add to the row of ``<|seg|>``; both answers weigh the same."""
    change = torch.zeros(states.shape[1], requires_grad=True)
    goal = is_there.float()
    weight = torch.where(is_there, 0.5 / goal.mean(), 0.5 / (1 - goal).mean())
    spread = states.std(0).mean()
    optimizer = torch.optim.LBFGS([change], max_iter=200, line_search_fn="strong_wolfe")

    def compute_loss() -> float:
        optimizer.zero_grad()
        entropy = F.binary_cross_entropy_with_logits(margins + states @ change, goal, weight)
        loss = entropy + strength * (spread * change).pow(2).sum()
        loss.backward()
        return loss.item()

    optimizer.step(compute_loss)
    return change.detach()


if __name__ == "__main__":
    main()
