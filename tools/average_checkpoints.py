"""The mean of two checkpoints of one architecture, which may have different vocabularies.

    python tools/average_checkpoints.py RUN/checkpoint-200 OLDER -o MEAN [--share 0.5] [--parts segmenter]

Tokenizer and settings are those of the first. Words that only it knows keep its vectors. With --parts only these are
averaged, and the rest is the first's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from unipixel.errors import UnipixelError
from unipixel.model.weights import load_model, save_model
from unipixel.processing import Processor
from unipixel.train.checkpoints import copy_weights


def main() -> None:
    """Average and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.5, help="of the first")
    parser.add_argument("--parts", nargs="+", default=[""], help="beginnings of names of weights; by default all")
    options = parser.parse_args()
    if not 0 <= options.share <= 1:
        parser.error(f"--share is {options.share}; give a number from 0 to 1")
    try:
        average(options.first, options.second, options.out, options.share, tuple(options.parts))
    except (UnipixelError, OSError) as error:
        parser.exit(2, f"average_checkpoints: {error}\n")


def average(first: Path, second: Path, out: Path, share: float, parts: tuple[str, ...]) -> None:
    """Write the mean of two checkpoints.

    Raises:
        CheckpointError: one of them is missing or damaged, or they are of different architectures.
    """
    processor = Processor.from_folder(first)
    model, other = (load_model(str(first)).float() for _ in range(2))
    copy_weights(other, second, parts, tokenizer=processor.tokenizer)
    with torch.no_grad():
        for own, given in zip(model.parameters(), other.parameters(), strict=True):  # a tied table comes once
            own.lerp_(given, 1 - share)
    save_model(model, out)
    processor.save(out)


if __name__ == "__main__":
    main()
