"""The mean of two checkpoints of one architecture, which may have different vocabularies.

    python tools/average_checkpoints.py RUN/checkpoint-200 OLDER -o MEAN [--share 0.5]

Tokenizer and settings are those of the first. Words that only it knows keep its vectors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

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
    options = parser.parse_args()
    if not 0 <= options.share <= 1:
        parser.error(f"--share is {options.share}; give a number from 0 to 1")
    processor = Processor.from_folder(options.first)
    model, other = (load_model(str(options.first)).float() for _ in range(2))
    copy_weights(other, options.second, tokenizer=processor.tokenizer)
    with torch.no_grad():
        for own, given in zip(model.parameters(), other.parameters(), strict=True):  # a tied table comes once
            own.lerp_(given, 1 - options.share)
    save_model(model, options.out)
    processor.save(options.out)


if __name__ == "__main__":
    main()
