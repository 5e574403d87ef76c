"""One run from its recipe: model, data, loop, result."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.utils.checkpoint

from unipixel.atomic import PART
from unipixel.errors import DatasetError
from unipixel.model.unipixel import UniPixel
from unipixel.processing.processor import Processor
from unipixel.train.arguments import build_arguments, is_first_process
from unipixel.train.checkpoints import add_lora, check_state, list_checkpoints, resume_weights, write_run_record
from unipixel.train.mixture import MixtureDataset
from unipixel.train.recipe import MixtureRecipe, Recipe, StickerRecipe
from unipixel.train.setup import TrainingSetup, build_training_processor, prepare_training
from unipixel.train.sticker_data import StickerDataset
from unipixel.train.trainer import WRITING, UniPixelTrainer
from unipixel.train.validation import Validation

BAD_FILE = "bad_records.jsonl"
"""File of a run with the records that could not be read."""


def run(
    recipe: Recipe,
    folder: Path,
    *,
    data_root: Path | None = None,
    workers: int = 1,
    parallel: str = "ddp",
    report: tuple[str, ...] = (),
) -> Path:
    """Train, going on from the newest checkpoint in ``folder`` if there is one.

    Args:
        recipe: what to do.
        folder: of the run; made if it is not there.
        data_root: folder with the datasets of a mixture.
        workers: processes that load data, beside this one.
        parallel: how several processes share the run, a key of `arguments.PARALLEL`.
        report: trackers besides TensorBoard.

    Returns:
        The folder of the trained model, ``final`` in ``folder``.

    Raises:
        DatasetError: more samples are damaged than `MixtureRecipe.max_bad`; names dataset and records.
        CheckpointError: the start, or the run's own checkpoint, does not fit.
        ValueError: the recipe contradicts itself.
    """
    check_recipe(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    if is_first_process():
        for leftover in (folder / WRITING, *folder.glob(f".*{PART}")):  # of a start that was killed
            shutil.rmtree(leftover, ignore_errors=True)
    torch.manual_seed(recipe.seed)
    setup = prepare_training(recipe)
    if is_first_process():
        (folder / BAD_FILE).unlink(missing_ok=True)
    dataset, recipe = build_dataset(setup.processor, recipe, data_root, folder / BAD_FILE)
    if is_first_process():
        left_out = {}
        if isinstance(dataset, MixtureDataset):
            left_out = dict(dataset.left_out)
            for note in dataset.notes:
                print(note, file=sys.stderr)
        write_run_record(folder, recipe, data_root=data_root, samples=len(dataset), left_out=left_out, workers=workers)
    validation = None
    if recipe.evaluation.samples:
        validation = Validation(_adapt_processor(setup.processor, recipe), recipe, data_root, folder)
    return train(setup, recipe, dataset, folder, validation, workers=workers, parallel=parallel, report=report)


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe that contradicts itself.

    Raises:
        ValueError: says which settings.
    """
    if recipe.steps < 1 and recipe.epochs <= 0:
        raise ValueError(f"steps is {recipe.steps} and epochs {recipe.epochs}; one of them must be more than 0")
    if recipe.epochs and not recipe.steps and not isinstance(recipe, MixtureRecipe):
        raise ValueError(f"the recipe {recipe.name} draws endless scenes and has no epochs; set steps")
    if recipe.save == "adapter" and recipe.start.fresh:
        raise ValueError("save is 'adapter', yet the start is fresh: there is no base to lay it over; use 'whole'")
    if recipe.recall != "memory" and isinstance(recipe, StickerRecipe) and recipe.photo_share:
        raise ValueError(f"recall is {recipe.recall!r}, which photos do not know; set photo_share to 0")
    if recipe.batch_size < 1 or recipe.micro_batch < 0:
        raise ValueError(f"batch_size is {recipe.batch_size} and micro_batch {recipe.micro_batch}; use 1 or more")


def build_dataset(
    processor: Processor, recipe: Recipe, root: Path | None, bad_file: Path | None = None
) -> tuple[StickerDataset | MixtureDataset, Recipe]:
    """The run's samples, and the recipe with its number of steps; ``bad_file`` as in `MixtureDataset`.

    Raises:
        DatasetError: a source is missing or damaged.
    """
    if isinstance(recipe, StickerRecipe):
        return StickerDataset(processor, recipe), recipe
    assert isinstance(recipe, MixtureRecipe)
    dataset = MixtureDataset(_adapt_processor(processor, recipe), recipe, root, bad_file=bad_file)
    return dataset, replace(recipe, steps=len(dataset) // recipe.batch_size)


def _adapt_processor(processor: Processor, recipe: Recipe) -> Processor:
    return build_training_processor(processor, recipe.num_frames) if isinstance(recipe, MixtureRecipe) else processor


def train(
    setup: TrainingSetup,
    recipe: Recipe,
    dataset: Any,
    folder: Path,
    validation: Validation | None = None,
    **options: Any,
) -> Path:
    """Run the loop on a model and data that are at hand.

    Args:
        validation: samples that are set aside; None: there are none.
        options: ``workers``, ``parallel`` and ``report`` as in `run`.
    """
    model = setup.model.train()
    torch.manual_seed(recipe.seed)  # what is drawn now is the same in every process and every time
    lora = add_lora(model, recipe.lora) if recipe.lora else None
    set_trainable(model, recipe)
    if recipe.checkpointing:
        enable_checkpointing(model)
    found = list_checkpoints(folder)
    if found:
        check_state(found[-1])
        resume_weights(model, found[-1], recipe)
    trainer = UniPixelTrainer(
        setup, recipe, lora, validation, args=build_arguments(recipe, folder, **options), train_dataset=dataset
    )
    began = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=str(found[-1]) if found else None)
    except DatasetError as error:
        raise DatasetError(extract_message(error)) from error
    trainer.validate()
    if is_first_process():
        minutes = (time.monotonic() - began) / 60
        if isinstance(dataset, MixtureDataset) and dataset.bad.describe():
            print(dataset.bad.describe(), file=sys.stderr)
        print(f"done in {minutes:.1f} minutes: {folder / 'final'}", file=sys.stderr)
    trainer.finish(folder / "final")
    return folder / "final"


def set_trainable(model: UniPixel, recipe: Recipe) -> None:
    """Have the recipe's parts and LoRA learn, and nothing else; to be called after LoRA was added.

    Raises:
        ValueError: a part, or one that has its own rate, fits no parameter.
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for setting, parts in (("trainable", recipe.trainable), ("rates", tuple(recipe.rates))):
        unknown = [part for part in parts if not any(name.startswith(part) for name in names)]
        if unknown:
            known = ", ".join(name for name, _ in model.named_children())
            raise ValueError(f"{setting} names {unknown[0]!r}, which fits no parameter; parts are {known}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name or name.startswith(recipe.trainable))


def enable_checkpointing(model: UniPixel) -> None:
    """Have decoder, vision tower and SAM's encoder compute their activations again in the backward pass."""
    parts = (model.visual.blocks, model.language.layers, model.segmenter.vision_encoder.backbone.blocks)
    for block in chain(*parts):
        # hooks of the block, such as those that gather its shards, stay outside
        block.forward = partial(_recompute, block, block.forward)


def _recompute(block: torch.nn.Module, forward: Callable[..., Any], *args: Any, **named: Any) -> Any:
    if not block.training:
        return forward(*args, **named)
    return torch.utils.checkpoint.checkpoint(forward, *args, use_reentrant=False, **named)


def extract_message(error: Exception) -> str:
    """The message of an error, also of one that a loader process raised and torch has wrapped in its trace."""
    text = str(error).strip()
    if "Original Traceback" not in text:
        return text
    return text.splitlines()[-1].partition(": ")[2]
