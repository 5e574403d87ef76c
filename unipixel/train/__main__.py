"""``python -m unipixel.train RECIPE -o RUN``: train `nano` on stickers."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from unipixel.model.unipixel import UniPixel
from unipixel.processing.chat import SYSTEM
from unipixel.processing.images import ImageSettings
from unipixel.processing.processor import Processor
from unipixel.processing.tokenizer import build_tokenizer
from unipixel.stickers import vocabulary_texts
from unipixel.train.data import StickerTraining
from unipixel.train.nano import IMAGE_SIZE, initialise, nano_config
from unipixel.train.recipes import RECIPES
from unipixel.train.trainer import load_into, train


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument(
        "--start", action="append", default=[], metavar="FOLDER=PART,PART", help="weights to begin with, by part"
    )
    parser.add_argument("--steps", type=int)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    recipe = RECIPES[options.recipe]()
    if options.steps:
        recipe = dataclasses.replace(recipe, steps=options.steps)
    tokenizer = build_tokenizer([SYSTEM, "system user assistant", *vocabulary_texts()])
    area = IMAGE_SIZE**2
    # the margin keeps every square at exactly IMAGE_SIZE after rounding
    settings = ImageSettings(
        min_pixels=area - 1000, max_pixels=area + 1000, share_budget=False, sam_size=160, target_rule="nearest"
    )
    processor = Processor(tokenizer, settings)
    config = nano_config(len(tokenizer), processor.chat.ids)
    model = UniPixel(config)
    initialise(model, torch.Generator().manual_seed(recipe.seed))
    for start in options.start:
        folder, _, parts = start.partition("=")
        load_into(model, folder, tuple(parts.split(",")))
    train(
        model,
        processor,
        recipe,
        StickerTraining(processor, recipe, options.photos),
        options.out,
        workers=options.workers,
    )


if __name__ == "__main__":
    main()
