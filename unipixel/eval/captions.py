"""Descriptions of objects (VideoRefer-Bench-D): graded by a judge, or written down with word overlap as a stand-in.

Source: VideoRefer Suite (arXiv 2501.00599), Bench-D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unipixel.eval.choices import keep_query_frame
from unipixel.eval.protocols import (
    SEGMENT_TOKENS,
    BenchmarkProtocol,
    Figure,
    Measures,
    Prediction,
    Question,
    ReadRecord,
    Unit,
    get_query,
    mean_percent,
    select_frames,
    spread_frames,
)
from unipixel.metrics.texts import cider_d, token_f1
from unipixel.processing.wording import format_query

DIMENSIONS = {
    "SC": "Subject Correspondence",
    "AD": "Appearance Description",
    "TD": "Temporal Description",
    "HD": "Hallucination Detection",
}
"""Short and full names of what a judge grades, each 0 to 5."""
BEST_GRADE = 5.0


@dataclass(frozen=True, kw_only=True)
class Captions(BenchmarkProtocol):
    """One description per object, with the caption that it is to match."""

    regions: Literal["single", "multiple"]
    """Masks that the model is given: those of the query's frame, or those of all frames."""

    def build_questions(self, unit: Unit, read: ReadRecord, num_frames: int) -> list[Question]:
        """One question over evenly spread frames, the query's own among them."""
        sample = read(unit.records[0])
        frames = spread_frames(sample.media.num_frames, num_frames, get_query(sample).frame)
        sample = select_frames(sample, frames)
        if self.regions == "single":
            sample = keep_query_frame(sample)
        query = get_query(sample)
        return [
            Question(
                sample=sample,
                query=query,
                text=format_query(query, True),
                regions=query.about,
                max_new_tokens=SEGMENT_TOKENS,
                clip=(unit.clip, tuple(frames)),
            )
        ]

    def score(self, question: Question, reply: Prediction) -> Measures:
        """The two texts; a judge adds ``grades`` later."""
        return {"caption": question.query.answer, "prediction": reply.text}

    def score_failure(self, question: Question | None) -> Measures:
        return {
            "caption": question.query.answer if question else "",
            "prediction": "",
            "grades": dict.fromkeys(DIMENSIONS, 0.0),
        }

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """A judge's grades where there are any; word overlap, under names that say that it is no judge."""
        if not measures:
            return []
        return [*average_grades(measures), *_measure_word_overlap(measures)]

    def list_notes(self, measures: Sequence[Measures]) -> list[str]:
        missing = sum("grades" not in m for m in measures)
        if not missing:
            return []
        return [
            f"descriptions without grades: {missing}; name a judge (--judge) to get the published kind of figure, "
            "the word overlap is only a stand-in"
        ]


def average_grades(measures: Sequence[Measures]) -> list[Figure]:
    """Mean grade per dimension over the descriptions that have it, and the mean of the four."""
    figures = []
    for short in DIMENSIONS:
        values = [m["grades"][short] for m in measures if short in m.get("grades", {})]
        if values:
            figures.append(_build_grade_figure(short, float(np.mean(values)), len(values)))
    if len(figures) == len(DIMENSIONS):
        average = float(np.mean([figure.value for figure in figures]))
        figures.insert(0, _build_grade_figure("average", average, max(figure.count for figure in figures)))
    return figures


def _build_grade_figure(name: str, value: float, count: int) -> Figure:
    return Figure(name=name, value=value, count=count, best=BEST_GRADE, decimals=2)


def _measure_word_overlap(measures: Sequence[Measures]) -> list[Figure]:
    predictions, captions = [m["prediction"] for m in measures], [[m["caption"]] for m in measures]
    overlaps = [token_f1(text, given) for text, given in zip(predictions, captions, strict=True)]
    consensus = float(cider_d(predictions, captions).mean())
    return [
        Figure(name="token F1 (no judge)", value=mean_percent(overlaps), count=len(measures)),
        Figure(name="CIDEr-D (no judge)", value=10 * consensus, count=len(measures)),
    ]
