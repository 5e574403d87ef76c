"""What every protocol has: how records become questions, replies become measures, and measures become figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from unipixel.data.records import Record
from unipixel.eval.questions import Figure, Prediction, Predictor, Question, Read, Unit
from unipixel.masks import MaskTrack
from unipixel.media import sample_indices
from unipixel.sample import Query, Sample

Measures = dict[str, Any]
"""What one question contributes to the figures; plain JSON values."""


SEGMENT_TOKENS = 512
"""Longest reply to a request for masks, or for a description."""


@dataclass(frozen=True, kw_only=True)
class Protocol(ABC):
    """How a benchmark is asked and scored."""

    original: bool = False
    """Do it as the published evaluation of UniPixel does, where that differs (see `differences.DIFFERENCES`)."""

    failure_rule: ClassVar[str] = "a failed question counts as 0"
    """What becomes of questions that raised an error; the report states it."""
    limits_units: ClassVar[bool] = True
    """Whether a limit of a run cuts the units, or is `within`'s alone."""

    def within(self, limit: int | None) -> Protocol:
        """The protocol of a run that is limited."""
        return self

    def group_records(self, records: Sequence[Record]) -> list[Unit]:
        """The records as they are asked and scored together, in order."""
        return [Unit(record.id, (record,)) for record in records]

    @abstractmethod
    def build_questions(self, unit: Unit, read: Read, num_frames: int) -> list[Question]:
        """The questions of a unit.

        Args:
            num_frames: frames of a clip that the predictor sees at most.

        Raises:
            UnipixelError: a record cannot be read.
        """

    @abstractmethod
    def score(self, question: Question, reply: Prediction) -> Measures:
        """What a reply is worth."""

    @abstractmethod
    def score_failure(self, question: Question | None) -> Measures:
        """What a failed question contributes; None where not even its sample could be read."""

    @abstractmethod
    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """The numbers of a benchmark."""

    def perform(self, unit: Unit, read: Read, predictor: Predictor) -> tuple[list[Prediction], list[Measures]]:
        """Ask a unit's questions and measure the replies.

        Raises:
            UnipixelError: a record cannot be read, or a question not be asked.
        """
        questions = self.build_questions(unit, read, predictor.num_frames)
        replies = [predictor.answer(question) for question in questions]
        return replies, self.score_unit(questions, replies)

    def score_unit(self, questions: Sequence[Question], replies: Sequence[Prediction]) -> list[Measures]:
        """What a unit contributes."""
        return [self.score(question, reply) for question, reply in zip(questions, replies, strict=True)]

    def score_failed_unit(self, questions: Sequence[Question]) -> list[Measures]:
        """What a unit contributes that could not be answered; the original takes every exception for an empty mask."""
        if self.original and questions:
            return self.score_unit(questions, [Prediction()] * len(questions))
        return [self.score_failure(question) for question in questions] or [self.score_failure(None)]

    def list_notes(self, measures: Sequence[Measures]) -> list[str]:
        """What a reader of the figures should know."""
        return []

    def counts(self, measures: Sequence[Measures]) -> tuple[int, int]:
        """Questions measured, and those among them that failed without failing their unit."""
        return len(measures), 0


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


def merge_predictions(question: Question, reply: Prediction, *, first_only: bool = False) -> MaskTrack:
    """Everything that a reply segments, or only its first object.

    Raises:
        ValueError: the masks are not those of the clip.
    """
    tracks = [one.track for one in reply.objects[: 1 if first_only else None]]
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
