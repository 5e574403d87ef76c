"""The figures of the built-in world as one of the benchmarks; each of them is one unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from unipixel.data.records import Record
from unipixel.eval import stickers
from unipixel.eval.protocols import Measures, Protocol
from unipixel.eval.questions import Figure, Prediction, Predictor, Question, Read, Unit
from unipixel.stickers import SceneSettings

COUNT, VIDEO_COUNT = 200, 40


@dataclass(frozen=True, kw_only=True)
class StickerFigures(Protocol):
    """All figures of `stickers.FIGURES`, in percent, beside those of a trivial guess."""

    count: int = COUNT
    """Questions per figure on pictures."""
    video_count: int = VIDEO_COUNT
    """Questions on videos."""
    settings: SceneSettings = field(default_factory=SceneSettings)

    limits_units: ClassVar[bool] = False

    def within(self, limit: int | None) -> StickerFigures:
        """The same with at most so many questions per figure."""
        if limit is None:
            return self
        return replace(self, count=min(self.count, limit), video_count=min(self.video_count, limit))

    def perform(self, unit: Unit, read: Read, predictor: Predictor) -> tuple[list[Prediction], list[Measures]]:
        """One figure, with everything it takes to get it; there are no replies to keep."""
        evaluation = stickers.StickerEvaluation(
            predictor.answer_stickers, self.settings, count=self.count, video_count=self.video_count
        )
        return [], [figure.to_json() for figure in evaluation.run((unit.id,))]

    def build_questions(self, unit: Unit, read: Read, num_frames: int) -> list[Question]:
        """None: scenes are made and asked by the figures themselves."""
        return []

    def score(self, question: Question, reply: Prediction) -> Measures:
        """Not used: there are no questions."""
        raise NotImplementedError

    def score_failure(self, question: Question | None) -> Measures:
        """A figure that could not be made at all."""
        return {"name": "", "value": 0.0, "baseline": 0.0, "baseline_means": "", "count": 0, "failed": 0}

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """Every figure, and that of a trivial guess."""
        return [
            figure
            for m in measures
            if m["name"]
            for figure in (
                Figure(name=m["name"], value=100 * m["value"], count=m["count"]),
                Figure(name=f"{m['name']} by {m['baseline_means']}", value=100 * m["baseline"], count=m["count"]),
            )
        ]

    def counts(self, measures: Sequence[Measures]) -> tuple[int, int]:
        """Questions asked, and those that raised an error."""
        return sum(m["count"] for m in measures), sum(m["failed"] for m in measures)


def sticker_records() -> list[Record]:
    """One per figure; they need no files."""
    return [
        Record(dataset="stickers", split="val", id=name, data_type="seg_image", root=Path())
        for name in stickers.FIGURES
    ]
