"""Masks of what a box, a point or a first mask shows, each figure beside that of a trivial guess.

Regions of photos by a box or a point, "the person" in photos, and clips that are tracked from a given mask. The
built-in world (`stickers`) is scored by the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unipixel.eval.protocols import (
    Figure,
    Measures,
    Prediction,
    Question,
    mean_percent,
    merge_predictions,
    merge_targets,
)
from unipixel.masks import MaskTrack
from unipixel.metrics import frame_scores, overlap, volume_scores
from unipixel.sample import Box, Point

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
    return {"iou": overlap(found, goal).iou, "trivial": overlap(filled, goal).iou}


def summarize_boxes(measures: Sequence[Measures]) -> list[Figure]:
    """Mean IoU."""
    return _summarize("box IoU", [m["iou"] for m in measures], [m["trivial"] for m in measures], "the box filled")


def score_point(question: Question, prediction: Prediction) -> Measures:
    """IoU of the mask under a point; the point and the true mask, from which `summarize_points` makes its discs."""
    goal, (point,) = merge_targets(question), question.prompts
    assert isinstance(point, Point)
    iou = overlap(merge_predictions(question, prediction).mask(0), goal.mask(0)).iou
    return {"iou": iou, "point": [point.x, point.y], "target": goal.to_json()}


def summarize_points(measures: Sequence[Measures]) -> list[Figure]:
    """Mean IoU, beside that of a disc around the point with the average share of the picture."""
    goals = [MaskTrack.from_json(m["target"]).mask(0) for m in measures]
    share = float(np.mean([goal.mean() for goal in goals])) if goals else 0.0
    trivial = []
    for m, goal in zip(measures, goals, strict=True):
        y, x = np.mgrid[: goal.shape[0], : goal.shape[1]]
        distance = (x + 0.5 - m["point"][0]) ** 2 + (y + 0.5 - m["point"][1]) ** 2
        trivial.append(overlap(distance <= share * goal.size / np.pi, goal).iou)
    return _summarize("point IoU", [m["iou"] for m in measures], trivial, "a disc of average area")


def score_given_mask(question: Question, prediction: Prediction, *, as_volume: bool) -> Measures:
    """J&F of an object on the frames after the first, whose true mask is given, and of that mask, unmoved.

    Args:
        as_volume: compare all frames as one volume (see `volume_scores`) instead of frame by frame.
    """
    goal = merge_targets(question).masks
    found = merge_predictions(question, prediction).masks[1:]
    still = np.broadcast_to(goal[:1], goal.shape)[1:].copy()
    if as_volume:
        ours, trivial = (volume_scores(masks, goal[1:]).JF for masks in (found, still))
    else:
        ours, trivial = (frame_scores(masks, goal[1:]).means()["J&F"] for masks in (found, still))
    return {"J&F": ours, "trivial": trivial}


def summarize_given_masks(measures: Sequence[Measures], name: str) -> list[Figure]:
    """Mean J&F."""
    return _summarize(name, [m["J&F"] for m in measures], [m["trivial"] for m in measures], "the first mask, unmoved")


def _summarize(name: str, values: Sequence[float], trivial: Sequence[float], baseline_name: str) -> list[Figure]:
    if not values:
        return []
    value, baseline = mean_percent(values), mean_percent(trivial)
    return [Figure(name=name, value=value, count=len(values), baseline=baseline, baseline_name=baseline_name)]
