"""Referring comprehension (REC) from masks: a box around the predicted mask against the annotated box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unipixel.metrics import bits


def box_iou(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2); 0 when neither has an area."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    union = _compute_area(first) + _compute_area(second) - shared
    return float(shared / union) if union > 0 else 0.0


def _compute_area(box: Sequence[float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def box_from_mask(
    mask: np.ndarray, *, min_area: int = 10, inclusive: bool = True
) -> tuple[float, float, float, float] | None:
    """Tight box around all 8-connected components of a mask that are large enough.

    Args:
        mask: bool (H, W).
        min_area: components with fewer pixels are taken for noise and left out.
        inclusive: give the indices of the outermost pixels, as the published protocol does; False gives the outer
            edges, one pixel more to the right and below.

    Returns:
        (x1, y1, x2, y2), or None when no component is large enough.

    Raises:
        TypeError: the mask is no ``bool`` array.
        ValueError: the mask is not (H, W).

    Source: UniPixel (arXiv 2509.18094), REC evaluation.
    """
    bits.check_masks(mask, mask, None, 2)
    rows, starts, stops = _find_runs(mask)
    lengths = stops - starts
    labels = _label_components(rows, starts, stops, mask.shape[1])
    large = np.bincount(labels, weights=lengths, minlength=1)[labels] >= min_area if len(rows) else np.zeros(0, bool)
    if not large.any():
        return None
    edge = 0 if inclusive else 1
    right, bottom = stops[large].max() - 1 + edge, rows[large].max() + edge
    return float(starts[large].min()), float(rows[large].min()), float(right), float(bottom)


def _find_runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Horizontal runs of a mask in reading order: row, first column, one past the last column."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    return rows, starts, np.nonzero(steps == -1)[1]


def _label_components(rows: np.ndarray, starts: np.ndarray, stops: np.ndarray, width: int) -> np.ndarray:
    """Label of each run: the index of the first run of its 8-connected component."""
    stride = width + 2
    # Runs of the row above that touch run i, also diagonally, are neighbours in reading order: first[i] .. last[i] - 1.
    first = np.searchsorted(rows * stride + stops, (rows - 1) * stride + starts, side="left")
    last = np.searchsorted(rows * stride + starts, (rows - 1) * stride + stops, side="right")
    number = np.maximum(last - first, 0)
    below = np.repeat(np.arange(len(rows)), number)
    above = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number) + np.repeat(first, number)

    labels = np.arange(len(rows))
    while True:
        one, other = labels[below], labels[above]
        if np.array_equal(one, other):
            return labels
        # Hang the larger root under the smaller one, then let every run point at its root again.
        np.minimum.at(labels, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(labels, labels[labels]):
            labels = labels[labels]


def rec_hit(
    prediction: np.ndarray,
    target_xyxy: Sequence[float],
    *,
    threshold: float = 0.5,
    min_area: int = 10,
    inclusive: bool = True,
) -> bool:
    """Whether the box of a predicted mask fits the annotated box; the mean over expressions is REC's Acc@0.5.

    Args:
        prediction: bool (H, W).
        target_xyxy: annotated box (x1, y1, x2, y2) in pixels.
        threshold: smallest IoU that is a hit.
        min_area: see ``box_from_mask``.
        inclusive: see ``box_from_mask``.
    """
    box = box_from_mask(prediction, min_area=min_area, inclusive=inclusive)
    return box is not None and box_iou(box, target_xyxy) >= threshold
