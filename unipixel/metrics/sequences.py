"""J and F of videos: per frame, per object, and their statistics; ReVOS' accuracy and robustness.

Source: Perazzi et al., DAVIS (2016), section 4; Pont-Tuset et al., DAVIS 2017; Yan et al., VISA (ReVOS).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TypeAlias

import numpy as np

from unipixel.metrics import bits
from unipixel.metrics.boundary import boundary_radius, packed_boundary_f
from unipixel.metrics.regions import divide_counts

FrameScores: TypeAlias = dict[str, np.ndarray]
"""Scores of one object (or expression) in every frame of a clip, float (T,): ``J``, ``F``, and for ReVOS ``A`` and
``R``."""


def frame_scores(
    predictions: Iterable[np.ndarray],
    targets: Iterable[np.ndarray],
    voids: Iterable[np.ndarray] | None = None,
    *,
    bound: float = 0.008,
) -> FrameScores:
    """J and F of every frame.

    Frames are taken one by one, so a long video can be handed over as two generators.

    Args:
        predictions: bool (H, W) per frame, such as an array (T, H, W).
        targets: as many.
        voids: as many; pixels that count nowhere.
        bound: tolerance of F, see ``boundary_radius``.

    Raises:
        TypeError: a mask is no ``bool`` array.
        ValueError: sizes or numbers of frames differ, or there is no frame.
    """
    columns = [predictions, targets] if voids is None else [predictions, targets, voids]
    scores = []
    for t, (prediction, target, *void) in enumerate(zip_longest(*columns)):
        if any(mask is None for mask in (prediction, target, *void)):
            raise ValueError(f"one of predictions, targets and voids ends after {t} frames, they must be equally long")
        scores.append(_score_frame(prediction, target, void[0] if void else None, bound))
    if not scores:
        raise ValueError("the clip has 0 frames, at least one is needed to score it")
    values = np.array(scores)  # (T, 2)
    return {"J": values[:, 0], "F": values[:, 1]}


def mean_scores(scores: FrameScores) -> dict[str, float]:
    """Means over the frames by the same names, and ``J&F``."""
    means = {name: float(values.mean()) for name, values in scores.items()}
    return {"J": means["J"], "F": means["F"], "J&F": (means["J"] + means["F"]) / 2} | means


def _score_frame(
    prediction: np.ndarray, target: np.ndarray, void: np.ndarray | None, bound: float
) -> tuple[float, float]:
    """J and F from one packing of the masks."""
    bits.check_masks(prediction, target, void, 2)
    words = bits.pack(prediction, target)
    if void is not None:
        words &= ~bits.pack(void)
    J = divide_counts(bits.count_pixels(words[0] & words[1]), bits.count_pixels(words[0] | words[1]))
    return J, packed_boundary_f(words, target.shape[1], boundary_radius(target.shape, bound))


def statistics(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, recall (share above 0.5) and decay (mean of the first quarter minus that of the last) over frames.

    The quarters' ends are rounded to frames, and neighbouring quarters share their common end.

    Differs: the published code keeps these ends in 8 bits, which is wrong for clips of more than 256 frames.

    Args:
        values: float (T,).

    Raises:
        ValueError: ``values`` has another shape, or no frame.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values have shape {values.shape}, they must be (T,) with at least one frame")
    ends = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(int)
    first, last = values[: ends[1] + 1], values[ends[3] : ends[4] + 1]
    return float(values.mean()), float((values > 0.5).mean()), float(first.mean() - last.mean())


def davis_scores(objects: Sequence[FrameScores], *, drop_ends: bool = False) -> dict[str, float]:
    """Summarise the objects of a set of sequences as DAVIS 2016 and 2017 do, averaged over objects (not sequences).

    Args:
        objects: one entry per object of every sequence; a missing object is scored with empty masks beforehand.
        drop_ends: leave out the first and the last frame (semi-supervised protocol, where the first is given).

    Returns:
        The columns of DAVIS' table, see `statistics`: ``J&F-Mean``, ``J-Mean``, ``J-Recall``, ``J-Decay``, and the same
        of F.

    Raises:
        ValueError: there is no object, or no frame is left of one.
    """
    if not objects:
        raise ValueError("there are 0 objects to average, at least one is needed")
    kept = slice(1, -1) if drop_ends else slice(None)
    table: dict[str, float] = {}
    for name in ("J", "F"):
        averages = np.mean([statistics(scores[name][kept]) for scores in objects], axis=0)
        table |= {f"{name}-{column}": float(v) for column, v in zip(("Mean", "Recall", "Decay"), averages, strict=True)}
    return {"J&F-Mean": (table["J-Mean"] + table["F-Mean"]) / 2, **table}


def revos_frame_scores(
    predictions: np.ndarray, targets: np.ndarray, foregrounds: np.ndarray, *, original: bool = False
) -> FrameScores:
    """J and F of one expression, ``A``, the share of the pixels on which prediction and target agree, and ``R``.

    R, the robustness, is 1 minus the predicted area outside of the target, relative to the annotated foreground. Where
    a frame has none, it is 1 if nothing is predicted outside of the target and else 0.

    Args:
        predictions: bool (T, H, W).
        targets: bool (T, H, W), union of the expression's objects.
        foregrounds: bool (T, H, W), union of all annotated objects of the video.
        original: reproduce the published evaluation of UniPixel, which compares masks of 0 and 255 with masks of 0 and
            1: A then counts agreement on background only, and the area outside of the target weighs 255 times.

    Raises:
        TypeError: a mask is no ``bool`` array.
        ValueError: the shapes differ.
    """
    bits.check_masks(predictions, targets, foregrounds, 3)
    scores = frame_scores(predictions, targets)
    agree = ~(predictions | targets) if original else predictions == targets
    outside = np.count_nonzero(predictions & ~targets, axis=(1, 2)) * (255.0 if original else 1.0)
    foreground = np.count_nonzero(foregrounds, axis=(1, 2))
    spill = np.where(foreground > 0, outside / np.maximum(foreground, 1), outside > 0)
    return {**scores, "A": agree.mean(axis=(1, 2)), "R": np.maximum(0.0, 1.0 - spill)}


REVOS_GROUPS = {0: "referring", 1: "reasoning"}
"""Type ids; expressions of type 2 speak of no object and are not averaged."""


def revos_scores(expressions: Iterable[tuple[int, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """ReVOS' table in percent: the two groups, and their unweighted mean as ``overall``.

    Every expression's value is rounded to two decimals of a percent before averaging, as published.

    Args:
        expressions: (type id, `mean_scores`) per expression. Type 2 is skipped.

    Returns:
        Group name -> measure -> percent. A group without expressions is left out, also of ``overall``.

    Raises:
        ValueError: a type id is none of 0, 1, 2, or no expression is left.
    """
    groups: dict[str, list[Mapping[str, float]]] = {}
    for type_id, means in expressions:
        if type_id not in (*REVOS_GROUPS, 2):
            raise ValueError(f"type_id is {type_id}, it must be 0 (referring), 1 (reasoning) or 2 (no object)")
        if type_id in REVOS_GROUPS:
            groups.setdefault(REVOS_GROUPS[type_id], []).append(means)
    if not groups:
        raise ValueError("there are 0 referring or reasoning expressions to average, at least one is needed")
    table = {
        group: {key: float(np.mean([round(100 * means[key], 2) for means in rows])) for key in rows[0]}
        for group, rows in sorted(groups.items(), reverse=True)
    }
    keys = next(iter(table.values()))
    table["overall"] = {key: float(np.mean([row[key] for row in table.values()])) for key in keys}
    return table
