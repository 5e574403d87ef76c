"""Masks of what a box, a point or a first mask shows, each figure beside that of a trivial guess.

Regions of photos by a box or a point, "the person" in photos, and clips that are tracked from a given mask. The
built-in world (`stickers`) is scored by the same functions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from unipixel.data.readers.photos import read_regions
from unipixel.data.records import Record
from unipixel.eval.expression_masks import ImageMasks, VideoMasks
from unipixel.eval.protocols import (
    BenchmarkProtocol,
    Figure,
    Measures,
    Prediction,
    Question,
    ReadRecord,
    Unit,
    mean_percent,
    merge_predictions,
    merge_targets,
    select_frames,
)
from unipixel.masks import MaskTrack, decode_rle, find_interior_point, mask_to_box
from unipixel.metrics import frame_scores, iou, mean_scores, volume_scores
from unipixel.sample import Box, Mask, Point, Query, Sample

MIN_SHARE = 0.02
"""Least area of a photo's region that is pointed at, as a share of the picture."""
ANSWER_TOKENS = 24
"""Longest reply."""


def score_box(question: Question, prediction: Prediction) -> Measures:
    """IoU of the mask inside a box, and of the box filled."""
    goal, (box,) = merge_targets(question).mask(0), question.prompts
    assert isinstance(box, Box)
    filled = np.zeros_like(goal)
    filled[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = True
    found = merge_predictions(question, prediction).mask(0)
    return {"iou": iou(found, goal), "trivial": iou(filled, goal)}


def summarize_boxes(measures: Sequence[Measures]) -> list[Figure]:
    """Mean IoU."""
    trivial = [m["trivial"] for m in measures if "trivial" in m]
    return compare_with_trivial("box IoU", [m["iou"] for m in measures], trivial, "the box filled")


def score_point(question: Question, prediction: Prediction) -> Measures:
    """IoU of the mask under a point; the point and the true mask, from which `summarize_points` makes its discs."""
    goal, (point,) = merge_targets(question), question.prompts
    assert isinstance(point, Point)
    found = merge_predictions(question, prediction).mask(0)
    return {"iou": iou(found, goal.mask(0)), "point": [point.x, point.y], "target": goal.to_json()}


def summarize_points(measures: Sequence[Measures]) -> list[Figure]:
    """Mean IoU, beside that of a disc around the point with the average share of the picture."""
    goals = [(MaskTrack.from_json(m["target"]).mask(0), m["point"]) for m in measures if "target" in m]
    share = float(np.mean([goal.mean() for goal, _ in goals])) if goals else 0.0
    trivial = []
    for goal, (point_x, point_y) in goals:
        y, x = np.mgrid[: goal.shape[0], : goal.shape[1]]
        distance = (x + 0.5 - point_x) ** 2 + (y + 0.5 - point_y) ** 2
        trivial.append(iou(distance <= share * goal.size / np.pi, goal))
    return compare_with_trivial("point IoU", [m["iou"] for m in measures], trivial, "a disc of average area")


def score_given_mask(question: Question, prediction: Prediction, *, as_volume: bool) -> Measures:
    """J&F of an object on the frames after the first, whose true mask is given, and of that mask, unmoved.

    Args:
        as_volume: compare all frames as one volume (see `volume_scores`) instead of frame by frame.
    """
    goal = merge_targets(question).masks
    found = merge_predictions(question, prediction).masks[1:]
    still = np.broadcast_to(goal[:1], goal.shape)[1:].copy()
    ours, trivial = (
        volume_scores(masks, goal[1:]) if as_volume else mean_scores(frame_scores(masks, goal[1:]))
        for masks in (found, still)
    )
    return {"J&F": ours["J&F"], "trivial": trivial["J&F"]}


def compare_with_trivial(
    name: str, values: Sequence[float], trivial: Sequence[float], baseline_name: str
) -> list[Figure]:
    """The mean of values in 0..1 as a figure beside that of a trivial guess; none of no values."""
    if not values:
        return []
    value, baseline = mean_percent(values), mean_percent(trivial)
    return [Figure(name=name, value=value, count=len(values), baseline=baseline, baseline_name=baseline_name)]


class _PhotoRegions(BenchmarkProtocol):
    """IoU of the mask of one region of each photo.

    The region is drawn by the photo's place in the collection, so that photos behind it change nothing.
    """

    def group_records(self, records: Sequence[Record]) -> list[Unit]:
        """One per photo with a region of at least `MIN_SHARE`; ids end with the region's number."""
        units = []
        for place, record in enumerate(records):
            large = [
                n
                for n, region in enumerate(read_regions(record), 1)
                if decode_rle(region.regions[0]).mean() >= MIN_SHARE
            ]
            if large:
                number = large[int(np.random.default_rng(place).integers(len(large)))]
                units.append(Unit(f"{record.id}/{number}", (record,)))
        return units

    def build_questions(self, unit: Unit, read: ReadRecord, num_frames: int) -> list[Question]:
        sample = _keep_object(read(unit.records[0]), _parse_number(unit))
        prompt = self.build_prompt(sample.objects[1].mask(0))
        query = Query(kind="query", text="", targets=(1,), about=(1,))
        return [Question(sample=sample, query=query, text="", prompts=(prompt,), max_new_tokens=ANSWER_TOKENS)]

    @abstractmethod
    def build_prompt(self, mask: np.ndarray) -> Box | Point:
        """What shows a region, bool (H, W), as object 1."""

    def score_failure(self, question: Question | None) -> Measures:
        return {"iou": 0.0} if question is None else self.score(question, Prediction())


class PhotoBoxes(_PhotoRegions):
    """IoU of the mask of one region of each photo, in the exact box around it."""

    def build_prompt(self, mask: np.ndarray) -> Box:
        x1, y1, x2, y2 = mask_to_box(mask) or (0, 0, 1, 1)
        return Box(x1, y1, x2, y2, object_id=1)

    def score(self, question: Question, prediction: Prediction) -> Measures:
        return score_box(question, prediction)

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        return summarize_boxes(measures)


class PhotoPoints(_PhotoRegions):
    """IoU of the mask of one region of each photo, under its most interior point."""

    def build_prompt(self, mask: np.ndarray) -> Point:
        return Point(*find_interior_point(mask), object_id=1)

    def score(self, question: Question, prediction: Prediction) -> Measures:
        return score_point(question, prediction)

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        return summarize_points(measures)


class PhotoPersons(ImageMasks):
    """IoU of "the person" in each photo with exactly one."""

    def group_records(self, records: Sequence[Record]) -> list[Unit]:
        """One per photo with exactly one person; ids end with the region's number."""
        units = []
        for record in records:
            own = [n for n, region in enumerate(read_regions(record), 1) if region.name == "person"]
            if len(own) == 1:
                units.append(Unit(f"{record.id}/{own[0]}", (record,)))
        return units

    def build_questions(self, unit: Unit, read: ReadRecord, num_frames: int) -> list[Question]:
        query = Query(kind="query", text="the person", targets=(1,))
        sample = replace(_keep_object(read(unit.records[0]), _parse_number(unit)), queries=(query,))
        return super().build_questions(unit, lambda _: sample, num_frames)


class ClipsFromMask(BenchmarkProtocol):
    """J&F of each clip's object, tracked from its true mask on the first frame that shows it."""

    def build_questions(self, unit: Unit, read: ReadRecord, num_frames: int) -> list[Question]:
        """The first mask."""
        sample = _begin_with_object(read(unit.records[0]))
        first = Mask(sample.objects[1].mask(0), object_id=1)
        query = Query(kind="query", text="", targets=(1,), about=(1,))
        return [Question(sample=sample, query=query, text="", prompts=(first,), clip=unit.clip)]

    def score(self, question: Question, prediction: Prediction) -> Measures:
        return score_given_mask(question, prediction, as_volume=False)

    def score_failure(self, question: Question | None) -> Measures:
        if question is None:
            return {"J&F": 0.0, "trivial": 0.0}
        return {**self.score(question, Prediction()), "J&F": 0.0}

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        values, trivial = [m["J&F"] for m in measures], [m["trivial"] for m in measures]
        return compare_with_trivial("J&F", values, trivial, "the first mask, unmoved")


class ClipsByText(VideoMasks):
    """J&F of each clip's object by its first expression, on the same frames."""

    def build_questions(self, unit: Unit, read: ReadRecord, num_frames: int) -> list[Question]:
        """The question for the object's masks."""
        sample = read(unit.records[0])
        text = next(query.text for query in sample.queries if query.kind == "query")
        query = Query(kind="query", text=text, targets=(1,))
        sample = replace(_begin_with_object(sample), queries=(query,))
        return super().build_questions(unit, lambda _: sample, num_frames)


def _parse_number(unit: Unit) -> int:
    return int(unit.id.rpartition("/")[2])


def _keep_object(sample: Sample, number: int) -> Sample:
    """The sample with one object, as object 1."""
    return replace(sample, objects={1: sample.objects[number]}, queries=())


def _begin_with_object(sample: Sample) -> Sample:
    """The sample with its first object, as object 1, from the first frame that shows it."""
    number, track = next(iter(sample.objects.items()))
    first = int(np.flatnonzero(track.visible)[0])
    return select_frames(_keep_object(sample, number), range(first, track.num_frames))
