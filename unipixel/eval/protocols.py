"""What every protocol has: how records become questions, predictions become measures, and measures become figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from unipixel.checks import check_integer, check_list, check_mapping, check_number, check_text
from unipixel.data import open_index
from unipixel.data.records import Record
from unipixel.engine.memory import KnownObject
from unipixel.errors import UnipixelError
from unipixel.masks import MaskTrack
from unipixel.media import sample_indices
from unipixel.processing import ImageSettings
from unipixel.sample import Prompt, Query, Sample

ReadRecord = Callable[[Record], Sample]
"""Reads the sample of a record, with all frames of its clip."""
Measures = dict[str, Any]
"""What one question contributes to the figures; JSON values, of which every protocol has its own."""

SEGMENT_TOKENS = 512
"""Longest reply to a request for masks, or for a description."""


@dataclass(frozen=True, eq=False)
class Unit:
    """Records whose questions are answered and scored together: for most protocols a single one."""

    id: str
    records: tuple[Record, ...]
    truths: tuple[Record, ...] = ()
    """Records whose masks are the truth, where a protocol takes those of another record than it asks."""

    @property
    def clip(self) -> Hashable:
        """Units with equal clips show the same frames; those whose frames only a video file knows stay apart."""
        names = self.records[0].frame_names
        return self.id if names is None else (self.records[0].root, names)


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """One question about one sample, in the words that a predictor gets."""

    sample: Sample
    """Its media are the clip that is asked about; the masks of ``sample.objects`` are the truth."""
    query: Query
    text: str
    """Empty: only the masks of what the prompts show are wanted."""
    prompts: tuple[Prompt, ...] = ()
    """Each with the ``object_id`` of the object in ``sample.objects`` that it shows."""
    regions: tuple[int, ...] = ()
    """Ids of objects in ``sample.objects`` whose masks the predictor is given, in the order of their lines."""
    prime: str = ""
    """Words that the answer begins with."""
    prefill: str = ""
    """Words of the question that turns the prompts into masks."""
    forced: bool = False
    """Take the prompts' masks without letting the model write that answer by itself."""
    as_written: bool = False
    """Ask about the prompts exactly as the original does: the pre-filling question holds their ``<|ref|>`` already, its
    answer is dictated, and an object that gets no mask is given the whole frame before the question is asked."""
    view: ImageSettings | None = None
    """How a checkpoint of the released size sees the clip: limits and sharing of pixels, resizing and frames per
    second count. None: as it sees clips by itself."""
    all_frames: bool = False
    """With a view: whether the model sees every frame of the clip, whatever it usually sees at most."""
    max_new_tokens: int = 256
    frame_names: tuple[str, ...] = ()
    """Names of the clip's frames without their endings, where a server wants them."""
    clip: Hashable = None
    """Equal for questions about the same frames; None: unknown."""


@dataclass(frozen=True)
class Prediction:
    """What a predictor answers."""

    text: str = ""
    """As the model wrote it, without the words it was primed with."""
    objects: tuple[KnownObject, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Text, and ids, masks and scores of the objects; not their labels, which nothing scores."""
        objects = [
            {"id": one.id, **one.track.to_json(), "scores": [round(score, 4) for score in one.frame_scores]}
            for one in self.objects
        ]
        return {"text": self.text, "objects": objects}

    @classmethod
    def from_json(cls, value: Any) -> Prediction:
        """What `to_json` wrote; wrong fields raise TypeError, ValueError or LookupError."""
        record = check_mapping(value, "a reply", ("text", "objects"))
        return cls(
            check_text(record["text"], "the text of a reply"),
            tuple(_read_object(one) for one in check_list(record["objects"], "the objects of a reply")),
        )


def _read_object(value: Any) -> KnownObject:
    record, track = check_mapping(value, "an object", ("id", "scores")), MaskTrack.from_json(value)
    scores = check_list(record["scores"], "the scores of an object", track.num_frames)
    return KnownObject(
        id=check_integer(record["id"], "the id of an object"),
        label="",
        track=track,
        frame_scores=tuple(check_number(score, "a score") for score in scores),
    )


class Predictor(ABC):
    """Whatever answers questions: a model, or one of the two extremes that tests compare with."""

    num_frames: int = 16
    """Frames of a clip that it sees at most."""

    @abstractmethod
    def answer(self, question: Question) -> Prediction:
        """The reply to one question, independent of all others.

        Raises:
            UnipixelError: the clip cannot be read, or the question does not fit it.
        """

    def answer_batch(self, questions: Sequence[Question]) -> list[Prediction | UnipixelError]:
        """Replies to a batch of questions; an error stands in the place of its reply."""
        replies: list[Prediction | UnipixelError] = []
        for question in questions:
            try:
                replies.append(self.answer(question))
            except UnipixelError as error:
                replies.append(error)
        return replies


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a benchmark."""

    name: str
    value: float
    count: int
    """Questions (or objects) it is averaged from."""
    best: float = 100.0
    """What a perfect predictor gets."""
    decimals: int = 1
    """With which it is published."""
    baseline: float | None = None
    """What a trivial guess gets."""
    baseline_name: str = ""
    """What that guess is."""

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "value": round(self.value, 4), "count": self.count, "best": self.best}


@dataclass(frozen=True, kw_only=True)
class BenchmarkProtocol(ABC):
    """How the questions of a benchmark are built and scored."""

    original: bool = False
    """Do it as the published evaluation of UniPixel does, where that differs (see `data.differences.EVALUATION`)."""

    failure_rule: ClassVar[str] = "a failed question counts as 0"
    """What becomes of questions that raised an error; the report states it."""
    batch_size: ClassVar[int] = 1
    """Units whose questions the model answers together."""

    def read_records(
        self, dataset: str, root: str | Path | None, split: str, limit: int | None = None
    ) -> Sequence[Record]:
        """The records of a split.

        Args:
            limit: most units that the run needs; protocols whose records cost time make no more.

        Raises:
            DatasetError: the data are missing or damaged.
        """
        return open_index(dataset, root, split)

    def group_records(self, records: Sequence[Record]) -> list[Unit]:
        """The units of the records, in order."""
        return [Unit(record.id, (record,)) for record in records]

    @abstractmethod
    def build_questions(self, unit: Unit, read: ReadRecord, num_frames: int) -> list[Question]:
        """The questions of a unit.

        Args:
            num_frames: frames of a clip that the predictor sees at most.

        Raises:
            UnipixelError: a record cannot be read.
        """

    @abstractmethod
    def score(self, question: Question, prediction: Prediction) -> Measures:
        """What a prediction is worth."""

    @abstractmethod
    def score_failure(self, question: Question | None) -> Measures:
        """What a failed question contributes; None where not even its sample could be read."""

    @abstractmethod
    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """The numbers of a benchmark."""

    def score_unit(self, questions: Sequence[Question], predictions: Sequence[Prediction]) -> list[Measures]:
        """What a unit contributes."""
        return [self.score(*pair) for pair in zip(questions, predictions, strict=True)]

    def score_failed_unit(self, questions: Sequence[Question]) -> list[Measures]:
        """What a unit contributes that could not be answered; the original takes every exception for an empty mask."""
        if self.original and questions:
            return self.score_unit(questions, [Prediction()] * len(questions))
        return [self.score_failure(question) for question in questions] or [self.score_failure(None)]

    def list_notes(self, measures: Sequence[Measures]) -> list[str]:
        """What a reader of the figures should know."""
        return []


def get_query(sample: Sample) -> Query:
    """The query of a sample that has one.

    Raises:
        ValueError: it has another number.
    """
    if len(sample.queries) != 1:
        raise ValueError(f"{sample.source}: there are {len(sample.queries)} queries; a benchmark's record has one")
    return sample.queries[0]


def merge_tracks(tracks: Sequence[MaskTrack], like: Sample) -> MaskTrack:
    """The pixels of any of the tracks; an empty track of the sample's size without any."""
    if not tracks:
        return MaskTrack(like.media.size_hw, (None,) * like.media.num_frames)
    joined = tracks[0]
    for track in tracks[1:]:
        joined = joined.union(track)
    return joined


def merge_targets(question: Question) -> MaskTrack:
    """Everything that the right answer segments."""
    sample = question.sample
    return merge_tracks([sample.objects[i] for i in question.query.targets if i is not None], sample)


def merge_predictions(question: Question, prediction: Prediction, *, first_only: bool = False) -> MaskTrack:
    """Everything that a prediction segments, or only its first object.

    Raises:
        ValueError: the masks are not those of the clip.
    """
    tracks = [one.track for one in prediction.objects[: 1 if first_only else None]]
    media = question.sample.media
    for track in tracks:
        if track.size_hw != media.size_hw or track.num_frames != media.num_frames:
            raise ValueError(
                f"{question.sample.source}: predicted masks are {track.num_frames} frames of {track.size_hw}, "
                f"the clip has {media.num_frames} of {media.size_hw}"
            )
    return merge_tracks(tracks, question.sample)


def spread_frames(total: int, number: int, keep: int | None = None) -> list[int]:
    """Evenly spread frames; one that must be among them replaces the nearest.

    Source: UniPixel, evaluation of VideoRefer-Bench and PixelQA.
    """
    if total <= number:
        return list(range(total))
    chosen = sample_indices(total, number)
    if keep is not None and keep not in chosen:
        place = min(range(len(chosen)), key=lambda i: (abs(chosen[i] - keep), i))
        chosen[place] = keep
    return sorted(set(chosen))


def select_frames(sample: Sample, frames: Sequence[int]) -> Sample:
    """The sample of some frames of its clip."""
    if list(frames) == list(range(sample.media.num_frames)):
        return sample
    place = {t: n for n, t in enumerate(frames)}

    def cut(tracks: Mapping[Any, MaskTrack]) -> dict[Any, MaskTrack]:
        return {key: MaskTrack(track.size_hw, tuple(track.rles[t] for t in frames)) for key, track in tracks.items()}

    queries = tuple(replace(q, frame=None if q.frame is None else place.get(q.frame)) for q in sample.queries)
    media = sample.media.select(list(frames))
    return replace(sample, media=media, objects=cut(sample.objects), areas=cut(sample.areas), queries=queries)


def mean_percent(values: Sequence[float]) -> float:
    """Mean in percent of values in 0..1; 0 of none."""
    return 100 * float(np.mean(values)) if len(values) else 0.0
