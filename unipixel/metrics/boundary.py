"""F, the boundary measure: how much of either mask's contour has the other's contour nearby.

Source: Perazzi et al., A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation (DAVIS), section 4.
"""

from __future__ import annotations

from math import ceil, hypot

import numpy as np

from unipixel.metrics import bits


def boundary_radius(size_hw: tuple[int, int], bound: float = 0.008) -> int:
    """Tolerance in pixels.

    Args:
        size_hw: frame size.
        bound: below 1 a share of the frame's diagonal (rounded up); from 1 on, a number of pixels.

    Raises:
        ValueError: ``bound`` is not positive.
    """
    if not bound > 0:
        raise ValueError(f"bound is {bound}, it must be positive: a share of the diagonal below 1, else pixels")
    return int(bound) if bound >= 1 else ceil(bound * hypot(*size_hw))


def boundary_map(mask: np.ndarray) -> np.ndarray:
    """Boundary of a mask, one pixel wide.

    A pixel is boundary when it differs from its right, lower or lower-right neighbour; on the last row only the right
    neighbour is compared, on the last column only the lower one, and the bottom-right pixel never is boundary.

    Args:
        mask: bool (H, W).

    Returns:
        bool (H, W).
    """
    bits.check_masks(mask, mask, None, 2)
    edges = bits.find_boundary(bits.pack(mask), mask.shape[1])[0]
    unpacked = np.unpackbits(edges.view(np.uint8), axis=-1, bitorder="little", count=mask.shape[1])
    return unpacked.astype(bool)


def boundary_f(
    prediction: np.ndarray, target: np.ndarray, void: np.ndarray | None = None, *, bound: float = 0.008
) -> float:
    """F of one frame: harmonic mean of boundary precision and recall.

    Precision is the share of the prediction's boundary pixels that have a boundary pixel of the target within the
    tolerance (a disk), recall the same with the roles exchanged. Without any boundary on either side (both empty, or
    both covering the whole frame) F is 1, with a boundary on one side only it is 0.

    Args:
        prediction: bool (H, W).
        target: bool (H, W).
        void: bool (H, W), pixels that count as background in both masks.
        bound: tolerance, see ``boundary_radius``.

    Returns:
        F in 0..1.

    Raises:
        TypeError: a mask is no ``bool`` array.
        ValueError: the sizes differ, or ``bound`` is not positive.
    """
    bits.check_masks(prediction, target, void, 2)
    words = bits.pack(prediction, target)
    if void is not None:
        words &= ~bits.pack(void)
    return packed_boundary_f(words, prediction.shape[1], boundary_radius(target.shape, bound))


def packed_boundary_f(words: np.ndarray, width: int, radius: int) -> float:
    """F of a packed pair of masks.

    Args:
        words: uint64 (2, H, ceil(width / 64)): prediction and target.
        width: pixels per row.
        radius: tolerance in pixels.
    """
    edges = bits.crop(bits.find_boundary(words, width))  # (2, h, k)
    of_prediction, of_target = bits.count_pixels(edges[0]), bits.count_pixels(edges[1])
    if not of_prediction or not of_target:
        return float(of_prediction == of_target)
    # Each boundary meets the other one's dilation.
    met = bits.dilate(edges, radius)[::-1] & edges
    precision, recall = bits.count_pixels(met[0]) / of_prediction, bits.count_pixels(met[1]) / of_target
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
