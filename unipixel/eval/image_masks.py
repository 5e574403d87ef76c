"""Referring and reasoning segmentation in pictures: cIoU, gIoU, Prec@X and boxes from masks.

Source: LISA (ReasonSeg), the REFER toolkit (RefCOCO, RefCOCO+, RefCOCOg), UniPixel (REC from masks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from unipixel.errors import DatasetError
from unipixel.eval.protocols import (
    SEGMENT_TOKENS,
    Measures,
    Protocol,
    get_query,
    mean_percent,
    merge_predictions,
    merge_targets,
)
from unipixel.eval.questions import Figure, Prediction, Question, Read, Unit
from unipixel.metrics import Overlap, overlap, overlap_scores, rec_hit
from unipixel.processing.wording import format_query


@dataclass(frozen=True, kw_only=True)
class ImageMasks(Protocol):
    """IoU of one mask per expression, at the picture's own size.

    A reply's mask is the union of all objects it segments; pixels in the area ``"ignore"`` count nowhere.
    ``original``: only the first object counts, ignored pixels are background, and an error is scored as an empty mask.
    """

    boxes: bool = False
    """Also compare the box around the mask with the annotated box (REC)."""
    mean_name: str = "mIoU"
    """What the mean over expressions is called: mIoU in referring, gIoU in reasoning segmentation."""

    failure_rule: ClassVar[str] = "a failed question counts as IoU 0, with the whole target in the union of cIoU"

    def build_questions(self, unit: Unit, read: Read, num_frames: int) -> list[Question]:
        """One question.

        Raises:
            DatasetError: the record lacks the box that REC needs.
        """
        sample = read(unit.records[0])
        query = get_query(sample)
        missing = [i for i in query.targets if i is not None and i not in sample.boxes]
        if self.boxes and missing:
            raise DatasetError(f"{sample.source}: object {missing[0]} has no annotated box, which REC needs")
        text = format_query(query, False)
        return [Question(sample=sample, query=query, text=text, clip=unit.clip, max_new_tokens=SEGMENT_TOKENS)]

    def score(self, question: Question, reply: Prediction) -> Measures:
        """Shared and covered pixels, and whether the box is hit."""
        found = merge_predictions(question, reply, first_only=self.original).mask(0)
        ignored = question.sample.areas.get("ignore")
        ignore = None if ignored is None or self.original else ignored.mask(0)
        counts = overlap(found, merge_targets(question).mask(0), ignore)
        measures: Measures = {"intersection": counts.intersection, "union": counts.union}
        if self.boxes:
            goals = [question.sample.boxes[i] for i in question.query.targets if i is not None]
            measures["hit"] = bool(goals) and rec_hit(found, goals[0])
        return measures

    def score_failure(self, question: Question | None) -> Measures:
        """Nothing found."""
        area = 1 if question is None else max(1, int(merge_targets(question).areas[0]))
        return {"intersection": 0, "union": area, **({"hit": False} if self.boxes else {})}

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """cIoU, the mean, precisions and REC's accuracy."""
        if not measures:
            return []
        scores = overlap_scores([Overlap(m["intersection"], m["union"]) for m in measures])
        values = {"cIoU": 100 * scores.cIoU, self.mean_name: 100 * scores.gIoU}
        values |= {f"Prec@{threshold}": 100 * share for threshold, share in scores.precision.items()}
        if self.boxes:
            values["REC Acc@0.5"] = mean_percent([m["hit"] for m in measures])
        return [Figure(name=name, value=value, count=len(measures)) for name, value in values.items()]
