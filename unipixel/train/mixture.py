"""Records of a mixture of datasets as training samples; which one comes when depends on (seed, epoch, index) alone."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from unipixel import data
from unipixel.data import Record
from unipixel.data.bad_records import BadRecords, told_annotations
from unipixel.errors import DatasetError, UnipixelError
from unipixel.media import sample_random_indices
from unipixel.processing.batch import TrainingInputs
from unipixel.processing.processor import Processor
from unipixel.processing.wording import worded
from unipixel.sample import Sample
from unipixel.train.clicks import prompted
from unipixel.train.plan import Plan
from unipixel.train.recipe import MixtureRecipe, Source

LOG = logging.getLogger(__name__)
DRAWS = 10
"""Choices of frames that are tried until one shows every object that is asked about."""
REPLACED = 10
"""Records in a row that may be over the limits before that is an error."""

Entry = tuple[Source, Record]


class MixtureTraining(Dataset[TrainingInputs]):
    """The sources of a recipe, cut to the length of a run."""

    def __init__(
        self,
        processor: Processor,
        recipe: MixtureRecipe,
        root: Path | None,
        count: Callable[[Plan], int],
        bad_file: Path | None = None,
    ) -> None:
        """Read the annotation files of all sources.

        Args:
            processor: with the pixel budget of training, see `starting.training_processor`.
            root: the folder with the datasets.
            count: samples of the run, given the plan.
            bad_file: where loader processes write down records that cannot be read; they are left out of the run.

        Raises:
            DatasetError: a source is missing or damaged, or holds no usable record.
        """
        self._processor, self._recipe = processor, recipe
        self.entries, self.left_out, self.notes = entries_of(recipe, root)
        self.bad = BadRecords(len({record.source for _, record in self.entries}), recipe.max_bad, bad_file)
        self.plan = Plan(
            [record.data_type for _, record in self.entries],
            [_length(source, record, recipe) for source, record in self.entries],
            [source.repeat for source, _ in self.entries],
            recipe.batch_size,
            recipe.seed,
        )
        self._count = count(self.plan)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> TrainingInputs:
        epoch, number = self.plan[index]
        kind = self.entries[number][1].data_type
        for attempt in range(REPLACED):
            source, record = self.entries[number]
            rng = np.random.default_rng((self._recipe.seed, 11, epoch, index, attempt))
            try:
                made = self._inputs(source, record, rng)
            except DatasetError as error:
                made = str(error)
                if self.bad.add(record.source, made):
                    LOG.warning("left out: %s", made)
            else:
                if not isinstance(made, str):
                    return made
                LOG.warning("%s is left out: %s", record.source, made)
            number = self._next(number, kind)
        raise DatasetError(f"{record.source} and {REPLACED - 1} records before it cannot be used: {made}")

    def _next(self, number: int, kind: str) -> int:
        """The next record of the same type, so that a batch stays one of its kind."""
        for step in range(1, len(self.entries) + 1):
            other = (number + step) % len(self.entries)
            if self.entries[other][1].data_type == kind:
                return other
        return number

    def _inputs(self, source: Source, record: Record, rng: np.random.Generator) -> TrainingInputs | str:
        """The sample as tensors, or the limit that it is over.

        Raises:
            DatasetError: the sample is damaged; names dataset and record.
        """
        recipe = self._recipe
        try:
            sample = drawn(source, record, recipe, rng)
            if source.form == "memory" and any(query.frame is not None for query in sample.queries):
                return "it is annotated on one frame only, and the memory form tracks"
            sample = asked(sample, source, recipe, rng, named=self._processor.chat.named)
            words = sum(len(f"{turn.question} {turn.answer}".split()) for turn in sample.turns)
            if words > recipe.limits.words:
                return f"{words} words, at most {recipe.limits.words}"
            out = self._processor.training(sample)
        except UnipixelError as error:
            text = str(error)
            raise DatasetError(text if record.source in text else f"{record.source}: {text}") from error
        if len(out["input_ids"]) > recipe.limits.tokens:
            return f"{len(out['input_ids'])} tokens, at most {recipe.limits.tokens}"
        tasks = [turn.task for turn in sample.turns for _ in turn.targets]
        return _with_some_objects(out, tasks, recipe.objects, rng)


def entries_of(recipe: MixtureRecipe, root: Path | None) -> tuple[list[Entry], Counter[str], list[str]]:
    """Every record of every source, how many were left out, by dataset, and sentences about annotations that were.

    Raises:
        DatasetError: a source is missing or damaged; names all that are missing.
    """
    if not recipe.sources:
        raise DatasetError(f"the recipe {recipe.name} has no data; name some with --data, such as folder:PATH")
    entries: list[Entry] = []
    left_out: Counter[str] = Counter()
    indexed: dict[tuple[str, str], list[Record]] = {}
    notes: list[str] = []
    for source in recipe.sources:
        key = (source.dataset, source.split)
        if key not in indexed:
            indexed[key] = data.open_index(source.dataset, root, source.split)
            notes += told_annotations(getattr(indexed[key], "left_out", ()))
        longest = source.max_frames or recipe.limits.frames
        kept = [
            (source, record)
            for record in indexed[key]
            if record.data_type != "text" and (record.num_frames or 0) <= longest
        ]
        left_out[source.dataset] += len(indexed[key]) - len(kept)
        if not kept:
            raise DatasetError(
                f"{source.dataset}/{source.split} has {len(indexed[key])} records, none of which can be used"
            )
        entries += kept
    return entries, +left_out, notes


def _length(source: Source, record: Record, recipe: MixtureRecipe) -> int:
    """Frames that the record will have; those of a video file are known only when it is opened."""
    drawn_frames = recipe.num_frames if source.frames < 0 else source.frames
    total = record.num_frames or recipe.num_frames
    return min(total, drawn_frames) if drawn_frames else total


def drawn(source: Source, record: Record, recipe: MixtureRecipe, rng: np.random.Generator) -> Sample:
    """The sample on frames drawn at random, on which every object that is asked about is seen."""
    wanted = recipe.num_frames if source.frames < 0 else source.frames
    if not wanted:
        return data.read(record)
    total = record.num_frames
    if total is None:
        total = data.read(record).media.num_frames
    if total <= wanted:
        return data.read(record)
    for _ in range(DRAWS):
        sample = data.read(record, sample_random_indices(total, wanted, rng))
        if all(sample.objects[n].visible.any() for query in sample.queries for n in query.about if n in sample.objects):
            break
    return sample  # what no draw has shown is refused, by name, when it is put into words


def asked(
    sample: Sample, source: Source, recipe: MixtureRecipe, rng: np.random.Generator | None, *, named: bool
) -> Sample:
    """The sample with its turns; a dataset that words its own questions keeps them.

    Args:
        named: as `wording.worded`; to be taken from the checkpoint.
    """
    is_pointed = source.form == "prompts" or not (sample.queries or sample.turns)
    # of a picture with nothing on it only words can be learnt, of one with nothing to ask for only pointing
    if is_pointed and (not sample.queries or any(track.visible.any() for track in sample.objects.values())):
        return prompted(sample, rng, recipe.turns)
    if sample.turns and not sample.queries:
        return replace(sample, turns=sample.turns[: recipe.turns])
    return worded(
        sample,
        rng,
        form="regions" if source.form == "prompts" else source.form,
        max_turns=recipe.turns,
        one_frame_share=source.one_frame_share,
        named=named,
    )


def _with_some_objects(out: TrainingInputs, tasks: list[str], most: int, rng: np.random.Generator) -> TrainingInputs:
    """At most so many of the objects that are segmented, chosen at random, with the task of each."""
    targets = out["target_masks"]
    count = 0 if targets is None else targets.shape[1]
    if targets is not None and most and count > most:
        chosen = np.sort(rng.choice(count, most, replace=False))
        out["target_masks"] = targets[:, chosen]
        out["chosen_objects"] = torch.from_numpy(chosen)  # type: ignore[typeddict-unknown-key]
        tasks = [tasks[int(k)] for k in chosen]
    out["seg_tasks"] = tasks if targets is not None else []  # type: ignore[typeddict-unknown-key]
    return out
