"""Overlap of masks, and the figures that are averaged from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unipixel.metrics import bits

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Overlap:
    """Pixel counts of a prediction against its target; everything that overlap figures need of a sample."""

    intersection: int
    """Pixels in both masks."""
    union: int
    """Pixels in either mask."""

    @property
    def iou(self) -> float:
        """Intersection over union; 1 when both masks are empty, since nothing was asked for and nothing was claimed."""
        return self.intersection / self.union if self.union else 1.0


def overlap(prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray | None = None) -> Overlap:
    """Count the pixels that two masks share and cover.

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
    return Overlap(int(np.count_nonzero(prediction & target)), int(np.count_nonzero(prediction | target)))


def iou(prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray | None = None) -> float:
    """Intersection over union of two masks (H, W), which is DAVIS' J of a frame; 1 when both are empty."""
    return overlap(prediction, target, ignore).iou


@dataclass(frozen=True, kw_only=True)
class OverlapScores:
    """What is reported of a set of samples (expressions) with one mask each."""

    gIoU: float
    """Mean of the samples' IoU."""
    cIoU: float
    """Sum of the intersections over the sum of the unions, also called overall IoU: large objects weigh more."""
    precision: dict[float, float]
    """Prec@X: share of the samples with an IoU above X."""

    @property
    def mIoU(self) -> float:
        """The name of gIoU in referring segmentation."""
        return self.gIoU


def overlap_scores(overlaps: Sequence[Overlap], thresholds: Sequence[float] = PRECISION_THRESHOLDS) -> OverlapScores:
    """Average samples into gIoU, cIoU and Prec@X (RefCOCO family, ReasonSeg).

    Differs: published ReasonSeg code divides by union + 1e-5; this is exact, so that a perfect prediction scores 1.

    Args:
        overlaps: one entry per expression.
        thresholds: the X of Prec@X.

    Raises:
        ValueError: there is no sample to average.
    """
    if not overlaps:
        raise ValueError("there are 0 overlaps to average, at least one is needed")
    ious = np.array([sample.iou for sample in overlaps])
    total = Overlap(sum(sample.intersection for sample in overlaps), sum(sample.union for sample in overlaps))
    return OverlapScores(
        gIoU=float(ious.mean()),
        cIoU=total.iou,
        precision={threshold: float((ious > threshold).mean()) for threshold in thresholds},
    )


@dataclass(frozen=True)
class VolumeScores:
    """PixelQA's mask quality of one object, over all frames together."""

    J: float
    """Intersection over union of the volumes."""
    F: float
    """Dice coefficient of the volumes; PixelQA calls it F, and it is no boundary measure."""

    @property
    def JF(self) -> float:
        return (self.J + self.F) / 2


def volume_scores(predictions: np.ndarray, targets: np.ndarray, *, original: bool = False) -> VolumeScores:
    """Compare an object's masks over a clip as one volume (PixelQA); both empty score 1.

    Args:
        predictions: bool (T, H, W).
        targets: bool (T, H, W).
        original: as in the published evaluation of UniPixel, in single precision and with 1e-6 added to every
            denominator: both empty score 0.

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
        J = shared / (np.float32(areas - intersection) + little)
        precision, recall = (shared / (np.float32(area) + little) for area in (predicted, wanted))
        return VolumeScores(float(J), float(2 * precision * recall / (precision + recall + little)))
    if not areas:
        return VolumeScores(1.0, 1.0)
    return VolumeScores(intersection / (areas - intersection), 2 * intersection / areas)
