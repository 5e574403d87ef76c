"""Where the time of a training step of `nano` goes, and whether making samples keeps up with it.

    python tools/bench_training.py nano_finish nano_track nano_names

Seconds are those of this process on the CPU, so other work on the machine counts little. One process computes, another
makes samples: the last column says how many times faster samples are made than they are used. "fused" is the same step
with torch's own attention.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from unipixel.train.losses import TrainingStep
from unipixel.train.nano_recipes import NANO_RECIPES
from unipixel.train.recipe import StickerRecipe
from unipixel.train.run import set_trainable
from unipixel.train.setup import prepare_training
from unipixel.train.sticker_data import StickerDataset
from unipixel.train.trainer import MuonAdamW, PlainAttention

PARTS = {"vision": "encode_vision", "decoder": "decode", "segmenter": "segment"}
"""Column -> method of the model whose forward time it shows."""


class Clock:
    """CPU seconds by name."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        since = time.process_time()
        yield
        self.spent[name] += time.process_time() - since

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted."""

        def timed(*args: Any, **named: Any) -> Any:
            with self(name):
                return function(*args, **named)

        return timed


def batches(recipe: StickerRecipe, dataset: StickerDataset, collate: Any, count: int) -> tuple[list[Any], float]:
    """Batches, and CPU seconds that one takes to make once sprites are in memory."""
    for index in range(2 * recipe.batch_size):
        dataset[index]
    since, size = time.process_time(), recipe.batch_size
    made = [collate([dataset[k * size + i] for i in range(size)]) for k in range(2, 2 + count)]
    return made, (time.process_time() - since) / count


def measure(name: str, count: int) -> str:
    """A line of the table."""
    recipe = replace(NANO_RECIPES[name](), photo_share=0.0)
    begun = prepare_training(recipe)
    model = begun.model.train()
    set_trainable(model, recipe)
    made, making = batches(
        recipe, StickerDataset(begun.processor, recipe), partial(begun.processor.collate, config=model.config), count
    )
    step, clock = TrainingStep(model, recipe), Clock()
    learning = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    optimizer = MuonAdamW(learning, replace(recipe, learning_rate=0.0, rates={}, muon=2.0, weight_decay=0.0))
    for column, method in PARTS.items():
        setattr(model, method, clock.around(column, getattr(model, method)))
    for attention, where in (("plain", PlainAttention()), ("fused", nullcontext())):
        for round_number in range(count + 1):
            if round_number == 1 and attention == "plain":
                clock.spent.clear()  # the first step allocates
            batch = dict(made[round_number % count])
            before = dict(clock.spent)
            with torch.autocast("cpu", torch.bfloat16), where, clock("forward"):
                loss = step(**batch)["loss"]
            with clock("backward"):
                loss.backward()
            with clock("optimiser"):
                optimizer.step()
                optimizer.zero_grad()
            if attention == "fused":
                total = sum(clock.spent[k] - before.get(k, 0.0) for k in ("forward", "backward", "optimiser"))
                clock.spent = defaultdict(float, before)
                if round_number:
                    clock.spent["fused"] += total
    spent = {name: seconds / count for name, seconds in clock.spent.items()}
    whole = sum(spent[k] for k in ("forward", "backward", "optimiser"))
    cells = [spent.get(k, 0.0) for k in (*PARTS, "forward", "backward", "optimiser")] + [whole, spent["fused"], making]
    columns = " | ".join(f"{value:.3f}" for value in cells)
    return f"| `{name}` | {recipe.batch_size} | {columns} | {recipe.batch_size / whole:.1f} | {whole / making:.1f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Break a training step of nano down.")
    parser.add_argument("recipes", nargs="*", default=["nano_finish", "nano_track", "nano_names"])
    parser.add_argument("--batches", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| recipe | batch | vision | decoder | segmenter | forward | backward | optimiser | step | fused | "
        "making a batch | samples/s | making is faster by |"
    )
    print("|---" * 13 + "|")
    for name in given.recipes:
        torch.manual_seed(0)
        print(measure(name, given.batches), flush=True)


if __name__ == "__main__":
    main()
