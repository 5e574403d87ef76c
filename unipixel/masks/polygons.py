"""Polygons to masks as COCO rasterises them, and masks to polygons along the edges of their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

from unipixel.masks.contours import trace_polygons
from unipixel.masks.rle import as_mask, check_size_hw, decode_rle, short


def polygons_to_mask(polygons: Sequence[Any], size_hw: tuple[int, int]) -> np.ndarray:
    """The union of filled polygons, rasterised as COCO does, bool (H, W).

    Args:
        polygons: each a flat list x1, y1, x2, y2, ... or an array (P, 2) of (x, y) pixels; none gives an empty mask.
        size_hw: height and width of the mask.

    Raises:
        ValueError: A polygon has fewer than three corners, or a coordinate that is not finite or far outside.
    """
    height, width = check_size_hw(size_hw)
    flat = []
    for polygon in polygons:
        corners = _as_corners(polygon)
        # The rasteriser walks every edge pixel by pixel, so a far-away corner would cost memory and time.
        if not np.isfinite(corners).all() or np.abs(corners).max() > 1000 + 10 * max(height, width):
            raise ValueError(f"a polygon on {height} x {width} pixels has a corner that is not finite or far outside")
        flat.append(corners.reshape(-1).tolist())
    if not flat:
        return np.zeros((height, width), dtype=bool)
    return decode_rle(coco.merge(coco.frPyObjects(flat, height, width)))


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines of a mask along the edges of its pixels, each a flat list x1, y1, x2, y2, ...

    One polygon per 4-connected part. A hole is joined to the outline around it by a cut of no width, so that
    ``polygons_to_mask(mask_to_polygons(mask))`` is the mask again, pixel by pixel.

    Args:
        mask: bool (H, W).
    """
    return trace_polygons(as_mask(mask))


def _as_corners(polygon: Any) -> np.ndarray:
    try:
        corners = np.asarray(polygon, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"a polygon must be a list of numbers, not {short(polygon)}") from None
    corners = corners.reshape(-1, 2) if corners.ndim == 1 and corners.size % 2 == 0 else corners
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ValueError(f"a polygon must be at least three x, y pairs, not {short(polygon)}")
    return corners
