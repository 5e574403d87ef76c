"""Masks of expressions: in pictures cIoU, gIoU, Prec@X and boxes from masks; in videos J and F.

Every expression of a video is a binary video of its own; all frames are tracked and scored. J&F of the set is the mean
over expressions of the means over frames.

Source: LISA (ReasonSeg), the REFER toolkit (RefCOCO, RefCOCO+, RefCOCOg), UniPixel (REC from masks); MeViS, VISA
(ReVOS, Ref-DAVIS17), Sa2VA (Ref-SAV), GroundMoRe; ReferFormer for `ClassicDavis`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np

from unipixel.data.records import Record
from unipixel.errors import DatasetError
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
    merge_predictions,
    merge_targets,
)
from unipixel.masks import MaskTrack
from unipixel.metrics import (
    davis_scores,
    frame_scores,
    mean_scores,
    overlap,
    overlap_scores,
    rec_hit,
    revos_frame_scores,
    revos_scores,
)
from unipixel.processing.wording import format_query
from unipixel.sample import Sample

NAMES = ("J", "F", "J&F")


class ImageMasks(BenchmarkProtocol):
    """IoU of one mask per expression, at the picture's own size.

    A reply's mask is the union of all objects it segments; pixels in the area ``"ignore"`` count nowhere.
    ``original``: only the first object counts, ignored pixels are background, and an error is scored as an empty mask.
    """

    mean_name: ClassVar[str] = "mIoU"
    """What the mean over expressions is called."""
    failure_rule: ClassVar[str] = "a failed question counts as IoU 0, with the whole target in the union of cIoU"

    def build_questions(self, unit: Unit, read: ReadRecord, num_frames: int) -> list[Question]:
        """One: the expression in the released wording."""
        sample = read(unit.records[0])
        query = get_query(sample)
        text = format_query(query, False)
        return [Question(sample=sample, query=query, text=text, clip=unit.clip, max_new_tokens=SEGMENT_TOKENS)]

    def score(self, question: Question, reply: Prediction) -> Measures:
        """Shared and covered pixels."""
        found = merge_predictions(question, reply, first_only=self.original).mask(0)
        ignored = question.sample.areas.get("ignore")
        ignore = None if ignored is None or self.original else ignored.mask(0)
        intersection, union = overlap(found, merge_targets(question).mask(0), ignore)
        return {"intersection": intersection, "union": union}

    def score_failure(self, question: Question | None) -> Measures:
        area = 1 if question is None else max(1, int(merge_targets(question).areas[0]))
        return {"intersection": 0, "union": area}

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """cIoU, the mean and precisions."""
        if not measures:
            return []
        scores = overlap_scores([(m["intersection"], m["union"]) for m in measures])
        names = {"gIoU": self.mean_name}
        return [Figure(name=names.get(n, n), value=100 * v, count=len(measures)) for n, v in scores.items()]


class ReasoningMasks(ImageMasks):
    """The same in reasoning segmentation, where the mean has another name."""

    mean_name = "gIoU"


class ReferringMasks(ImageMasks):
    """The same, and the box around the mask compared with the annotated box (REC)."""

    def build_questions(self, unit: Unit, read: ReadRecord, num_frames: int) -> list[Question]:
        """One question.

        Raises:
            DatasetError: the record lacks the box that REC needs.
        """
        (question,) = super().build_questions(unit, read, num_frames)
        sample = question.sample
        missing = [i for i in question.query.targets if i is not None and i not in sample.boxes]
        if missing:
            raise DatasetError(f"{sample.source}: object {missing[0]} has no annotated box, which REC needs")
        return [question]

    def score(self, question: Question, reply: Prediction) -> Measures:
        """Shared and covered pixels, and whether the box is hit."""
        found = merge_predictions(question, reply, first_only=self.original).mask(0)
        goals = [question.sample.boxes[i] for i in question.query.targets if i is not None]
        return {**super().score(question, reply), "hit": bool(goals) and rec_hit(found, goals[0])}

    def score_failure(self, question: Question | None) -> Measures:
        return {**super().score_failure(question), "hit": False}

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        hits = Figure(name="REC Acc@0.5", value=mean_percent([m["hit"] for m in measures]), count=len(measures))
        return [*super().summarize(measures), hits] if measures else []


class VideoMasks(BenchmarkProtocol):
    """J, F and J&F over expressions.

    A reply's masks are the union of all objects it segments. ``original``: only the first object of a reply counts, and
    an error is scored as an empty mask, which gains points on frames without the object.
    """

    def build_questions(self, unit: Unit, read: ReadRecord, num_frames: int) -> list[Question]:
        return [build_video_question(read(record), record, unit) for record in unit.records]

    def score(self, question: Question, reply: Prediction) -> Measures:
        """J and F of one expression."""
        found = merge_predictions(question, reply, first_only=self.original)
        truth = merge_targets(question)
        frames = range(truth.num_frames)
        scores = frame_scores((found.mask(t) for t in frames), (truth.mask(t) for t in frames))
        return {**mean_scores(scores), "category": question.query.category}

    def score_failure(self, question: Question | None) -> Measures:
        return {**dict.fromkeys(NAMES, 0.0), "category": question.query.category if question else ""}

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """Means over expressions."""
        if not measures:
            return []
        return [Figure(name=n, value=mean_percent([m[n] for m in measures]), count=len(measures)) for n in NAMES]


class CategorizedVideoMasks(VideoMasks):
    """The same, with J&F by `Query.category` as well."""

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """Means over expressions, then those of each category."""
        figures = super().summarize(measures)
        for category in sorted({m["category"] for m in measures} - {""}):
            values = [m["J&F"] for m in measures if m["category"] == category]
            figures.append(Figure(name=f"{category} J&F", value=mean_percent(values), count=len(values)))
        return figures


class UploadedVideoMasks(VideoMasks):
    """The truth is kept by a server; nothing is scored here, and what the upload needs is written down."""

    def score(self, question: Question, reply: Prediction) -> Measures:
        """What the PNGs of one expression are called, and how large they are."""
        found = merge_predictions(question, reply, first_only=self.original)
        return {"frames": list(question.frame_names), "size_hw": list(found.size_hw)}

    def score_failure(self, question: Question | None) -> Measures:
        return {}

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        return []


def build_video_question(sample: Sample, record: Record, unit: Unit) -> Question:
    """The question that segments what a record's query speaks of."""
    query = get_query(sample)
    text = format_query(query, sample.media.num_frames > 1)
    names = tuple(PurePosixPath(name).stem for name in record.frame_names or ())
    return Question(
        sample=sample, query=query, text=text, clip=unit.clip, frame_names=names, max_new_tokens=SEGMENT_TOKENS
    )


class Revos(VideoMasks):
    """ReVOS: the same in two groups, whose mean is the overall figure, with accuracy A and robustness R.

    Expressions of things that are not there are asked but not averaged, as published. ``original``: A and R compare
    masks of 0 and 255 with masks of 0 and 1, see `revos_frame_scores`.
    """

    types: ClassVar[dict[str, int]] = {"referring": 0, "reasoning": 1, "no object": 2}

    def score(self, question: Question, reply: Prediction) -> Measures:
        """J, F, A and R of one expression."""
        found = merge_predictions(question, reply, first_only=self.original)
        foreground = question.sample.areas.get("foreground")
        if foreground is None:
            raise DatasetError(f"{question.sample.source}: there is no foreground mask, which ReVOS' R needs")
        scores = revos_frame_scores(
            found.masks, merge_targets(question).masks, foreground.masks, original=self.original
        )
        return {**mean_scores(scores), "category": question.query.category}

    def score_failure(self, question: Question | None) -> Measures:
        return {**super().score_failure(question), "A": 0.0, "R": 0.0}

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """The table of the paper: overall, then the groups. A record that could not be read counts in both groups."""
        rows = [
            (type_id, {name: m[name] for name in (*NAMES, "A", "R")})
            for m in measures
            for type_id in ((0, 1) if not m["category"] else (self.types[m["category"]],))
        ]
        counts = {0: sum(t == 0 for t, _ in rows), 1: sum(t == 1 for t, _ in rows)}
        if not any(counts.values()):
            return []
        table = revos_scores(rows)
        number = {"referring": counts[0], "reasoning": counts[1], "overall": sum(counts.values())}
        return [
            Figure(
                name=name if group == "overall" else f"{group} {name}", value=table[group][name], count=number[group]
            )
            for group in ("overall", "referring", "reasoning")
            for name in (*NAMES, "A", "R")
            if group in table
        ]

    def list_notes(self, measures: Sequence[Measures]) -> list[str]:
        outside = sum(m["category"] == "no object" for m in measures)
        return [f"expressions of things that are not there, in no average: {outside}"] if outside else []


class Davis(VideoMasks):
    """Ref-DAVIS17 as UniPixel reports it: every expression by itself.

    ``original``: the evaluation numbers expressions by videos and ids sorted as strings, the masks by their order in
    the file; the truth of the n-th sorted expression is then the n-th mask of the file.
    """

    def group_records(self, records: Sequence[Record]) -> list[Unit]:
        """One per expression, in file order."""
        if not self.original:
            return super().group_records(records)
        ordered = sorted(range(len(records)), key=lambda n: tuple(records[n].id.rsplit("/", 1)))
        truths = {n: records[place] for place, n in enumerate(ordered)}
        return [Unit(record.id, (record,), (truths[n],)) for n, record in enumerate(records)]

    def build_questions(self, unit: Unit, read: ReadRecord, num_frames: int) -> list[Question]:
        """The expression, over the masks that count as its truth.

        Raises:
            DatasetError: these masks are of another video, which the original would not notice before it stops.
        """
        (question,) = super().build_questions(unit, read, num_frames)
        if not unit.truths or unit.truths[0] is unit.records[0]:
            return [question]
        other = read(unit.truths[0])
        if unit.truths[0].frame_names != unit.records[0].frame_names:
            raise DatasetError(
                f"{question.sample.source}: the original takes the masks of {other.source} for its truth, which is "
                "another video; use --protocol correct"
            )
        sample = replace(question.sample, objects=other.objects)
        return [replace(question, sample=sample, query=replace(question.query, targets=get_query(other).targets))]


class ClassicDavis(BenchmarkProtocol):
    """Ref-DAVIS17 as the field did it before: four passes, one per annotator, objects compete for pixels.

    Expression ids are 4 * object + annotator. On every frame a pixel belongs to the object with the highest score
    there; J and F are means over objects without the first and last frame, and the four passes are averaged.

    Differs: ReferFormer merges soft masks against a background of 0.1; replies hold binary masks, so that the score of
    an object's mask on the frame decides. The truth is the masks of the expressions' own objects.
    """

    def group_records(self, records: Sequence[Record]) -> list[Unit]:
        """One per video.

        Raises:
            DatasetError: a video's expressions are not numbered as said above.
        """
        units = []
        for video, group in groupby(records, key=lambda record: record.id.rsplit("/", 1)[0]):
            members = tuple(sorted(group, key=_parse_number))
            if [_parse_number(record) for record in members] != list(range(len(members))) or len(members) % 4:
                raise DatasetError(
                    f"{members[0].source}: the classic protocol needs four expressions per object, numbered "
                    f"4 * object + annotator; video {video} has {len(members)}; use ref_davis17/valid"
                )
            units.append(Unit(video, members))
        return units

    def build_questions(self, unit: Unit, read: ReadRecord, num_frames: int) -> list[Question]:
        return [build_video_question(read(record), record, unit) for record in unit.records]

    def score(self, question: Question, reply: Prediction) -> Measures:
        """Not used: objects are scored together."""
        raise NotImplementedError

    def score_unit(self, questions: Sequence[Question], replies: Sequence[Prediction]) -> list[Measures]:
        """J and F of every object in every pass."""
        found = []
        for annotator in range(4):
            own = list(zip(questions[annotator::4], replies[annotator::4], strict=True))
            index = _merge_by_score(
                [merge_predictions(q, r) for q, r in own], [_max_scores(r) for _, r in own]
            )  # (T, H, W)
            for number, (question, _) in enumerate(own, start=1):
                truth = merge_targets(question)
                frames = range(truth.num_frames)
                scores = frame_scores((index[t] == number for t in frames), (truth.mask(t) for t in frames))
                means = davis_scores([scores], drop_ends=truth.num_frames > 2)
                found.append({"pass": annotator, "J": means["J-Mean"], "F": means["F-Mean"]})
        return found

    def score_failure(self, question: Question | None) -> Measures:
        """Not used: objects are scored together."""
        raise NotImplementedError

    def score_failed_unit(self, questions: Sequence[Question]) -> list[Measures]:
        """Zero for every object in every pass; a video that could not be read counts as one object."""
        objects = max(1, len(questions) // 4)
        return [{"pass": annotator, "J": 0.0, "F": 0.0} for annotator in range(4) for _ in range(objects)]

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """Means of the four passes."""
        if not measures:
            return []
        values = {
            name: float(np.mean([mean_percent([m[name] for m in measures if m["pass"] == n]) for n in range(4)]))
            for name in ("J", "F")
        }
        values["J&F"] = (values["J"] + values["F"]) / 2
        return [Figure(name=name, value=values[name], count=len(measures)) for name in NAMES]


def _parse_number(record: Record) -> int:
    last = record.id.rsplit("/", 1)[1]
    return int(last) if last.isdecimal() else -1


def _max_scores(reply: Prediction) -> np.ndarray | None:
    """(T,) the highest score among a reply's objects, per frame."""
    return np.max([one.frame_scores for one in reply.objects], axis=0) if reply.objects else None


def _merge_by_score(tracks: Sequence[MaskTrack], scores: Sequence[np.ndarray | None]) -> np.ndarray:
    """uint16 (T, H, W): per pixel 1 + the place of the object with the highest score on that frame, 0 for none."""
    index = np.zeros((tracks[0].num_frames, *tracks[0].size_hw), dtype=np.uint16)
    for t in range(len(index)):
        strength = [0.0 if values is None else float(values[t]) for values in scores]
        order = sorted(range(len(tracks)), key=lambda n: (strength[n], -n))
        for n in order:
            index[t][tracks[n].mask(t)] = n + 1
    return index
