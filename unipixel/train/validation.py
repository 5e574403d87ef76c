"""Validation while a model is trained: the loss of held-out samples, the IoU of their masks, and a picture of them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F

from unipixel import data
from unipixel.data import DATASETS, Record
from unipixel.draw import make_contact_sheet, overlay, write_png
from unipixel.errors import UnipixelError
from unipixel.media import sample_indices
from unipixel.model.unipixel import TrainingOutput
from unipixel.processing.collation import TrainingInputs
from unipixel.processing.processor import Processor
from unipixel.sample import Sample
from unipixel.train.mixture import add_turns
from unipixel.train.recipe import MixtureRecipe, Recipe, Source

LOG = logging.getLogger(__name__)
Predict = Callable[[TrainingInputs], tuple[dict[str, Any], TrainingOutput]]
"""Loss terms and output of a `TrainingStep` on one sample, without learning from it."""
MAX_DRAWN = 12
"""Samples in the picture."""


class Validation:
    """Samples of the ``val`` splits, in the fixed wording, answered as they should be.

    The answers are given, so what is measured is how well the masks are made where the right words are said.
    """

    def __init__(self, processor: Processor, recipe: Recipe, root: Path | None, folder: Path) -> None:
        """Read the samples; ``folder`` is that of the run. Those that cannot be read are left out with a warning."""
        self._folder = folder / "samples"
        self._samples = list(_read_samples(processor, recipe, root))
        if not self._samples:
            LOG.warning("no source of %s has a usable val split, so nothing is validated", recipe.name)

    def __call__(self, predict: Predict, step: int, *, draw: bool) -> dict[str, float]:
        """Loss and mask IoU, also by task, of the model behind ``predict``; draws ``samples/step-N.png``."""
        if not self._samples:
            return {}
        losses: list[float] = []
        pictures: list[np.ndarray] = []
        captions: list[str] = []
        ious: dict[str, list[float]] = defaultdict(list)
        for sample, inputs in self._samples:
            terms, output = predict(inputs)
            losses.append(float(terms["loss"]))
            masks = extract_masks(output, sample)
            if masks is None:
                continue
            truth = _stack_truth(sample)
            found = compute_ious(masks, truth)
            tasks = [turn.task for turn in sample.turns for _ in turn.targets]
            for task, iou in zip(tasks, found, strict=True):
                ious[task].append(iou)
            if draw and len(pictures) < 2 * MAX_DRAWN:
                t = int(truth.any((0, 2, 3)).argmax() if not truth.any((2, 3)).all(0).any() else 0)
                frame = sample.media.frame(t)
                pictures += [overlay(frame, truth[:, t]), overlay(frame, masks[:, t])]
                captions += [sample.turns[0].question[:80], f"predicted, IoU {np.mean(found):.2f}"]
        if draw and pictures:
            write_png(make_contact_sheet(pictures, captions, columns=4), self._folder / f"step-{step:06d}.png")
        figures = {"eval_loss": float(np.mean(losses))}
        if ious:
            figures["eval_iou"] = float(np.mean([iou for some in ious.values() for iou in some]))
            figures |= {f"eval_iou_{task}": float(np.mean(some)) for task, some in sorted(ious.items())}
        return {name: round(value, 4) for name, value in figures.items()}


def _read_samples(processor: Processor, recipe: Recipe, root: Path | None) -> Iterator[tuple[Sample, TrainingInputs]]:
    """As many samples as the recipe says, evenly spread over all sources and over each."""
    if isinstance(recipe, MixtureRecipe):
        sources = tuple(
            replace(s, split="val") for s in recipe.sources if "val" in DATASETS[s.dataset.partition(":")[0]].splits
        )
        most, turns = recipe.num_frames, recipe.turns
    else:
        sources, most, turns = (Source(dataset="stickers", split="val"),), 8, 3
    settings = MixtureRecipe(name=recipe.name, turns=turns)
    for k, source in enumerate(sources):
        # an even share for each; the first ones take what is left over
        share = (recipe.evaluation.samples + len(sources) - 1 - k) // len(sources)
        records = data.open_index(source.dataset, root, source.split)
        # spread, because one picture often fills many records in a row
        for place in sample_indices(len(records), share) if records and share else []:
            try:
                sample = add_turns(
                    _read_frames(records[place], most), source, settings, None, named=processor.chat.named
                )
                inputs = processor.build_training_inputs(sample)
            except UnipixelError as error:
                LOG.warning("not validated: %s: %s", records[place].source, error)
                continue
            yield sample, inputs


def _read_frames(record: Record, most: int) -> Sample:
    total = record.num_frames
    if total is None:
        total = data.read(record).media.num_frames
    return data.read(record, sample_indices(total, most))


def _stack_truth(sample: Sample) -> np.ndarray:
    """bool (O, T, H, W) in the order of the answers' ``<|seg|>``."""
    numbers = [number for turn in sample.turns for number in turn.targets]
    empty = np.zeros((sample.media.num_frames, *sample.media.size_hw), dtype=bool)
    return np.stack([empty if number is None else sample.objects[number].masks for number in numbers])


def extract_masks(output: TrainingOutput, sample: Sample) -> np.ndarray | None:
    """bool (O, T, H, W) of the one sample of a batch; None if it segments nothing."""
    steps = output.decoded[0]
    if steps is None:
        return None
    frames = []
    for step in steps:
        logits = F.interpolate(step.low_res_masks.float(), size=sample.media.size_hw, mode="bilinear")[:, 0]
        there = step.object_score_logits.float().reshape(-1, 1, 1) > 0
        frames.append(((logits > 0) & there).cpu().numpy())
    return np.stack(frames, 1)


def compute_ious(masks: np.ndarray, truth: np.ndarray) -> list[float]:
    """IoU of each object over all frames of its clip; 1 where it is rightly found absent."""
    joint, whole = (masks & truth).sum((1, 2, 3)), (masks | truth).sum((1, 2, 3))
    return [float(j / w) if w else 1.0 for j, w in zip(joint, whole, strict=True)]
