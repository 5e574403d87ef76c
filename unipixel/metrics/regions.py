"""Overlap of masks, and the figures that are averaged from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unipixel.metrics import bits

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def overlap(prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray | None = None) -> tuple[int, int]:
    """Count the pixels that two masks share (the intersection) and cover (the union).

    Args:
        prediction: bool (H, W).
        target: bool (H, W).
        ignore: bool (H, W), pixels that count nowhere (ReasonSeg's ignore polygons, DAVIS' void).

    Raises:
        TypeError: a mask is no ``bool`` array.
        ValueError: the sizes differ.
    """
    bits.check_masks(prediction, target, ignore, 2)
    if ignore is not None:
        prediction, target = prediction & ~ignore, target & ~ignore
    return int(np.count_nonzero(prediction & target)), int(np.count_nonzero(prediction | target))


def iou(prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray | None = None) -> float:
    """Intersection over union of two masks (H, W), which is DAVIS' J of a frame; 1 when both are empty."""
    return divide_counts(*overlap(prediction, target, ignore))


def divide_counts(intersection: int, union: int) -> float:
    """Intersection over union; 1 when both masks are empty, since nothing was asked for and nothing was claimed."""
    return intersection / union if union else 1.0


def overlap_scores(
    overlaps: Sequence[tuple[int, int]], thresholds: Sequence[float] = PRECISION_THRESHOLDS
) -> dict[str, float]:
    """Average samples with one mask each (RefCOCO family, ReasonSeg).

    Differs: published ReasonSeg code divides by union + 1e-5; this is exact, so that a perfect prediction scores 1.

    Args:
        overlaps: intersection and union of each expression, as `overlap` counts them.
        thresholds: the X of Prec@X.

    Returns:
        ``cIoU``: sum of the intersections over the sum of the unions, also called overall IoU, in which large objects
        weigh more; ``gIoU``: mean of the samples' IoU, called mIoU in referring segmentation; ``Prec@X``: share of the
        samples with an IoU above X.

    Raises:
        ValueError: there is no sample to average.
    """
    if not overlaps:
        raise ValueError("there are 0 overlaps to average, at least one is needed")
    ious = np.array([divide_counts(*pair) for pair in overlaps])
    total = divide_counts(*map(sum, zip(*overlaps, strict=True)))
    precision = {f"Prec@{threshold}": float((ious > threshold).mean()) for threshold in thresholds}
    return {"cIoU": total, "gIoU": float(ious.mean()), **precision}


def volume_scores(predictions: np.ndarray, targets: np.ndarray, *, original: bool = False) -> dict[str, float]:
    """Compare an object's masks over a clip as one volume (PixelQA); both empty score 1.

    Args:
        predictions: bool (T, H, W).
        targets: bool (T, H, W).
        original: as in the published evaluation of UniPixel, in single precision and with 1e-6 added to every
            denominator: both empty score 0.

    Returns:
        ``J``: intersection over union of the volumes; ``F``: their Dice coefficient, which PixelQA calls so and which
        is no boundary measure; ``J&F``: the mean of both.

    Raises:
        TypeError: a mask is no ``bool`` array.
        ValueError: the shapes differ.

    Source: UniPixel (arXiv 2509.18094), PixelQA.
    """
    bits.check_masks(predictions, targets, None, 3)
    intersection = int(np.count_nonzero(predictions & targets))
    predicted, wanted = int(np.count_nonzero(predictions)), int(np.count_nonzero(targets))
    areas = predicted + wanted
    if original:
        little, shared = np.float32(1e-6), np.float32(intersection)
        union_share = shared / (np.float32(areas - intersection) + little)
        precision, recall = (shared / (np.float32(area) + little) for area in (predicted, wanted))
        J, F = float(union_share), float(2 * precision * recall / (precision + recall + little))
    else:
        J, F = (intersection / (areas - intersection), 2 * intersection / areas) if areas else (1.0, 1.0)
    return {"J": J, "F": F, "J&F": (J + F) / 2}
