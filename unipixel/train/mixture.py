"""Records of a mixture of datasets as training samples; which one comes when depends on (seed, epoch, index) alone."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from unipixel import data
from unipixel.data import Record
from unipixel.data.records import BadRecords, describe_left_out
from unipixel.engine.turn import write_prompt_answer, write_prompt_question
from unipixel.errors import DatasetError, UnipixelError
from unipixel.media import sample_at_rate, sample_random_indices
from unipixel.processing.collation import TrainingInputs
from unipixel.processing.processor import Processor
from unipixel.processing.wording import PointingForm, write_turns
from unipixel.sample import Query, Sample
from unipixel.train.recipe import MixtureRecipe, Source

CHUNK = 50
"""Batches whose records are sorted by length together; the order stays random at a larger scale."""


LOG = logging.getLogger(__name__)
MAX_DRAWS = 10
"""Choices of frames that are tried until one shows every object that is asked about."""
MAX_REPLACED = 10
"""Records in a row that may be over the limits before that is an error."""
MAX_CLIP_OBJECTS = 5
"""Objects that all questions about a clip may have together where the original's protocol is followed."""
Entry = tuple[Source, Record]


class EpochPlan:
    """The order of a mixture.

    An epoch has every record as often as it is repeated; a fraction of a repeat is a random choice of the records.
    Consecutive runs of ``batch_size`` entries are of one type and of similar length. What a type lacks to a whole batch
    is filled with others of its records, so an epoch has a few entries more than records.
    """

    def __init__(
        self, types: Sequence[str], lengths: Sequence[int], repeats: Sequence[float], batch_size: int, seed: int
    ) -> None:
        """Take one entry per record.

        Args:
            types: data type.
            lengths: anything that grows with the time a record takes.
            repeats: times it is seen in an epoch.
        """
        names, self._types = np.unique(np.array(types), return_inverse=True)
        self._lengths, self._repeats = np.asarray(lengths), np.asarray(repeats, dtype=float)
        self._batch, self._seed, self._count = batch_size, seed, len(names)
        if not len(self._lengths):
            raise ValueError("a plan needs at least one record")
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def __len__(self) -> int:
        """Entries of an epoch, a multiple of the batch size; the same for all epochs."""
        totals = (self._count_entries(kind) for kind in range(self._count))
        return sum(math.ceil(total / self._batch) * self._batch for total in totals)

    def __getitem__(self, index: int) -> tuple[int, int]:
        """(epoch, number of the record) of an entry; indices go on over epochs without end."""
        epoch, place = divmod(index, len(self))
        return epoch, int(self._order(epoch)[place])

    def _count_entries(self, kind: int) -> int:
        return max(1, int(self._repeats[self._types == kind].sum() + 1e-9))

    def _shuffle(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self._seed, 10, epoch))
        batches = []
        for kind in range(self._count):
            numbers = self._draw_records(kind, rng)
            missing = -len(numbers) % self._batch
            numbers = np.concatenate([numbers, np.resize(numbers, missing)])
            for chunk in np.array_split(numbers, math.ceil(len(numbers) / (CHUNK * self._batch))):
                batches.append(chunk[np.argsort(self._lengths[chunk], kind="stable")])
        rows = np.concatenate(batches).reshape(-1, self._batch)
        return rows[rng.permutation(len(rows))].ravel()

    def _draw_records(self, kind: int, rng: np.random.Generator) -> np.ndarray:
        """The records of a type, each as often as it is repeated, in random order."""
        members = np.flatnonzero(self._types == kind)
        whole = np.floor(self._repeats[members]).astype(int)
        numbers = np.repeat(members, whole)
        left = self._count_entries(kind) - len(numbers)
        if left > 0:
            rest = self._repeats[members] - whole
            share = rest / rest.sum() if rest.sum() else None
            numbers = np.concatenate([numbers, rng.choice(members, left, replace=left > len(members), p=share)])
        return rng.permutation(numbers)


def add_prompt_turns(sample: Sample, rng: np.random.Generator | None, most: int, *, named: bool = False) -> Sample:
    """The sample with a turn for each of at most ``most`` objects, pointed at or boxed, under ids from 1 on.

    Args:
        rng: chooses objects, prompts and frames; None: the first objects, prompted as in evaluation.
        named: the form of the question, see `turn.write_prompt_question`; to be taken from the checkpoint.

    Raises:
        DatasetError: the sample shows no object.
    """
    shown = [number for number, track in sample.objects.items() if track.visible.any()]
    if not shown:
        raise DatasetError(f"{sample.source or 'sample'}: no object is seen on it, and points need one")
    order = shown if rng is None else [shown[int(k)] for k in rng.permutation(len(shown))]
    number = {old: new for new, old in enumerate(order[:most], 1)}
    queries = tuple(Query(kind="query", text=f"[{n}]", about=(n,), targets=(n,)) for n in number.values())
    objects = {new: sample.objects[old] for old, new in number.items()}
    made = write_turns(replace(sample, objects=objects, queries=queries, turns=()), rng, form="mixed")
    turns = [
        replace(
            turn,
            question=write_prompt_question(query.about, named=named),
            answer=write_prompt_answer(query.about),
            task="prompt",
        )
        for turn, query in zip(made.turns, made.queries, strict=True)
    ]
    return replace(made, turns=tuple(turns))


class MixtureDataset(Dataset[TrainingInputs]):
    """The sources of a recipe, cut to the length of a run."""

    def __init__(
        self,
        processor: Processor,
        recipe: MixtureRecipe,
        root: Path | None,
        generator: Callable[[tuple[int, ...]], np.random.Generator] = np.random.default_rng,
        bad_file: Path | None = None,
    ) -> None:
        """Read the annotation files of all sources.

        Args:
            processor: with the pixel budget of training, see `setup.build_training_processor`.
            root: the folder with the datasets.
            generator: makes the generator of a seed; it decides all that varies within a sample.
            bad_file: where loader processes write down records that cannot be read; they are left out of the run.

        Raises:
            DatasetError: a source is missing or damaged, or holds no usable record.
        """
        self._processor, self._recipe = processor, recipe
        self._generator = generator
        self.entries, self.left_out, self.notes = collect_entries(recipe, root)
        self.bad = BadRecords(len({record.source for _, record in self.entries}), recipe.max_bad, bad_file)
        self.pointing = assign_pointing([source for source, _ in self.entries], generator((recipe.seed, 12)))
        self._kinds = [
            f"{record.data_type} {source.form} {pointing}"
            for (source, record), pointing in zip(self.entries, self.pointing, strict=True)
        ]
        self.plan = EpochPlan(
            self._kinds,
            [_count_frames(source, record, recipe) for source, record in self.entries],
            [source.repeat for source, _ in self.entries],
            recipe.batch_size,
            recipe.seed,
        )

    def __len__(self) -> int:
        recipe = self._recipe  # an epoch of the plan is whole batches
        steps = recipe.steps or max(1, round(recipe.epochs * len(self.plan) / recipe.batch_size))
        return steps * recipe.batch_size

    def __getitem__(self, index: int) -> TrainingInputs:
        epoch, number = self.plan[index]
        for attempt in range(MAX_REPLACED):
            record = self.entries[number][1]
            try:
                made = self.build_inputs(number, self._generator((self._recipe.seed, 11, epoch, index, attempt)))
            except DatasetError as error:
                made = str(error)
                if self.bad.add(record.source, made):
                    LOG.warning("left out: %s", made)
            else:
                if not isinstance(made, str):
                    return made
                LOG.warning("%s is left out: %s", record.source, made)
            number = self._find_next(number)
        raise DatasetError(f"{record.source} and {MAX_REPLACED - 1} records before it cannot be used: {made}")

    def _find_next(self, number: int) -> int:
        """The next record of the same type, so that a batch stays one of its kind."""
        for step in range(1, len(self.entries) + 1):
            other = (number + step) % len(self.entries)
            if self._kinds[other] == self._kinds[number]:
                return other
        return number

    def build_inputs(self, number: int, rng: np.random.Generator) -> TrainingInputs | str:
        """An entry as tensors, or the limit that it is over.

        Raises:
            DatasetError: the sample is damaged; names dataset and record.
        """
        recipe, processor = self._recipe, self._processor
        source, record = self.entries[number]
        try:
            sample = draw_sample(source, record, recipe, rng)
            sample = add_turns(
                sample,
                source,
                recipe,
                rng,
                named=processor.chat.named,
                pointing=self.pointing[number],
                grid=processor.settings.sam_size,
            )
            out = processor.build_training_inputs(sample)
        except UnipixelError as error:
            text = str(error)
            raise DatasetError(text if record.source in text else f"{record.source}: {text}") from error
        if len(out["input_ids"]) > recipe.limits.tokens:
            return f"{len(out['input_ids'])} tokens, at most {recipe.limits.tokens}"
        tasks = [turn.task for turn in sample.turns for _ in turn.targets]
        return _limit_objects(out, tasks, recipe.objects, rng)


def collect_entries(recipe: MixtureRecipe, root: Path | None) -> tuple[list[Entry], Counter[str], list[str]]:
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
            indexed[key] = data.open_index(source.dataset, root, source.split, protocol=recipe.protocol)
            notes += describe_left_out(getattr(indexed[key], "left_out", ()))
        kept = [(source, record) for record in indexed[key] if _is_usable(source, record, recipe)]
        left_out[source.dataset] += len(indexed[key]) - len(kept)
        if not kept:
            raise DatasetError(
                f"{source.dataset}/{source.split} has {len(indexed[key])} records, none of which can be used"
            )
        entries += kept
    return entries, +left_out, notes


def _is_usable(source: Source, record: Record, recipe: MixtureRecipe) -> bool:
    """Whether a record is within the limits and fit for its form."""
    if (record.num_frames or 0) > (source.max_frames or recipe.limits.frames):
        return False
    if source.form == "memory":
        return record.is_tracked  # its masks are asked for on all frames
    if source.form != "regions":
        return True
    if recipe.protocol == "original" and record.clip_objects > MAX_CLIP_OBJECTS:
        return False
    return record.words <= recipe.limits.words


def assign_pointing(sources: Sequence[Source], rng: np.random.Generator) -> list[PointingForm]:
    """What every entry points with: of each source that points, half of the entries (rounded down) with points."""
    out: list[PointingForm] = ["mixed"] * len(sources)
    members: dict[Source, list[int]] = {}
    for number, source in enumerate(sources):
        if source.form in ("bare", "memory"):
            members.setdefault(source, []).append(number)
    for numbers in members.values():
        order = [numbers[int(k)] for k in rng.permutation(len(numbers))]
        for place, number in enumerate(order):
            out[number] = "points" if place < len(order) // 2 else "boxes"
    return out


def _count_frames(source: Source, record: Record, recipe: MixtureRecipe) -> int:
    """Frames that the record will have; those of a video file are known only when it is opened."""
    drawn_frames = recipe.num_frames if source.frames < 0 else source.frames
    total = record.num_frames or recipe.num_frames
    return min(total, drawn_frames) if drawn_frames else total


def draw_sample(source: Source, record: Record, recipe: MixtureRecipe, rng: np.random.Generator) -> Sample:
    """The sample on frames drawn at random, on which every object that is asked about is seen.

    Raises:
        DatasetError: it is damaged, or a video whose frames are to be taken by time does not say how many it has per
            second.
    """
    if record.data_type == "video" and source.rate:
        return _read_at_rate(source, record, recipe)
    if record.data_type in ("image", "text"):
        return replace(data.read(record), as_image=source.as_images and record.data_type == "image")
    wanted = recipe.num_frames if source.frames < 0 else source.frames
    if not wanted:
        return data.read(record)
    total = record.num_frames
    if total is None:
        total = data.read(record).media.num_frames
    if total <= wanted:
        return data.read(record)
    for _ in range(MAX_DRAWS):
        sample = data.read(record, sample_random_indices(total, wanted, rng))
        if all(sample.objects[n].visible.any() for query in sample.queries for n in query.about if n in sample.objects):
            break
    return sample  # what no draw has shown is refused, by name, when it is put into words


def _read_at_rate(source: Source, record: Record, recipe: MixtureRecipe) -> Sample:
    """The sample on evenly spread frames, with their rate."""
    media = data.read(record).media
    if not media.fps:
        raise DatasetError(f"{record.source}: the video does not say how many frames it has per second; encode it anew")
    frames, fps = sample_at_rate(media.num_frames, media.fps, recipe.num_frames, rate=source.rate)
    return replace(data.read(record, frames), fps=fps)


def add_turns(
    sample: Sample,
    source: Source,
    recipe: MixtureRecipe,
    rng: np.random.Generator | None,
    *,
    named: bool,
    pointing: PointingForm = "mixed",
    grid: int | None = None,
) -> Sample:
    """The sample with its turns; a dataset that words its own questions keeps them.

    Args:
        named: as `wording.write_turns`; to be taken from the checkpoint.
        pointing: as `wording.write_turns`.
        grid: side of SAM's frames, from which the original's protocol takes points and boxes.
    """
    turns = recipe.turns if source.turns < 0 else source.turns
    is_pointed = source.form == "prompts" or not (sample.queries or sample.turns)
    # of a picture with nothing on it only words can be learnt, of one with nothing to ask for only pointing
    if is_pointed and (not sample.queries or any(track.visible.any() for track in sample.objects.values())):
        return add_prompt_turns(sample, rng, turns or len(sample.objects), named=named)
    if sample.turns and not sample.queries:
        return replace(sample, turns=sample.turns[: turns or None])
    return write_turns(
        sample,
        rng,
        form="regions" if source.form == "prompts" else source.form,
        max_turns=turns or None,
        pointing=pointing,
        one_frame_share=source.one_frame_share,
        random_ids=source.random_ids,
        grid=grid if recipe.protocol == "original" else None,
        named=named,
    )


def _limit_objects(out: TrainingInputs, tasks: list[str], most: int, rng: np.random.Generator) -> TrainingInputs:
    """At most so many of the objects that are segmented, chosen at random, with the task of each."""
    targets = out["target_masks"]
    count = 0 if targets is None else targets.shape[1]
    if targets is not None and most and count > most:
        chosen = np.sort(rng.choice(count, most, replace=False))
        out["target_masks"] = targets[:, chosen]
        out["chosen_objects"] = torch.from_numpy(chosen)
        tasks = [tasks[int(k)] for k in chosen]
    out["seg_tasks"] = tasks if targets is not None else []
    return out
