"""Polygons to masks as COCO rasterises them, and masks to polygons along the edges of their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

from unipixel.masks.contours import trace_polygons
from unipixel.masks.rle import check_mask, check_size_hw, decode_rle, shorten


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
        corners = _to_corners(polygon)
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
    return trace_polygons(check_mask(mask))


_FRACTION = 16
"""Bits behind the point in which the sides of a drawn polygon are followed from row to row."""


def rasterize_polygon(corners: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """A polygon with its outline, as OpenCV draws both on whole pixels, bool (H, W).

    A pixel is on if it lies on the one pixel wide outline, or if its centre lies inside (an odd number of sides away
    from the outside). Equal to OpenCV for corners inside of the picture; with corners outside, about one in twenty-five
    random polygons differs in pixels at the picture's edge.

    Args:
        corners: int (P, 2), (x, y) pixels, P at least 1; the last is joined to the first.
        size_hw: height and width of the mask.

    Source: OpenCV's ``polylines`` and ``fillPoly`` with their defaults, with which ReasonSeg's regions are drawn.
    """
    height, width = size_hw
    mask = np.zeros((height, width), dtype=bool)
    begins = [(int(x), int(y)) for x, y in corners]
    sides = list(zip(begins, begins[1:] + begins[:1], strict=True))
    # where every side crosses the rows that it covers, its lower end excluded
    rows, crossings = [], []
    for begin, end in sides:
        inside, ends = _clip_line(begin, end, width, height)
        if inside:
            _draw_line(mask, *ends)
        top, below = sorted((begin[1], end[1]))
        if top == below:
            continue
        # the slope is that between the ends as they were cut
        (x1, y1), (x2, y2) = ends if ends[0][1] != ends[1][1] else (begin, end)
        run, rise = (x2 - x1) << _FRACTION, y2 - y1
        step = abs(run) // abs(rise) * (1 if (run >= 0) == (rise > 0) else -1)  # rounded towards zero
        covered = np.arange(max(top, 0), min(below, height), dtype=np.int64)
        rows.append(covered)
        crossings.append((x1 << _FRACTION) + (covered - y1) * step)
    if not rows:
        return mask
    row, x = np.concatenate(rows), np.concatenate(crossings)
    order = np.lexsort((x, row))
    row, x = row[order], x[order]
    firsts = np.maximum((x[::2] + (1 << _FRACTION) - 1) >> _FRACTION, 0)
    lasts = np.clip(x[1::2] >> _FRACTION, -1, width - 1)
    for y, first, last in zip(row[::2].tolist(), firsts.tolist(), lasts.tolist(), strict=True):
        mask[y, first : last + 1] = True
    return mask


def _draw_line(mask: np.ndarray, begin: tuple[int, int], end: tuple[int, int]) -> None:
    """A line of single pixels that touch at least at corners, drawn from left to right (Bresenham)."""
    (x, y), (x2, y2) = (begin, end) if begin[0] <= end[0] else (end, begin)
    across, down, sign = x2 - x, abs(y2 - y), 1 if y2 >= y else -1
    steep = down > across
    longer, shorter = (down, across) if steep else (across, down)
    along = np.arange(longer + 1)
    # the side step is taken once the line is more than half a pixel away
    beside = np.maximum(-(-(2 * shorter * along - longer) // (2 * longer)), 0) if longer else along
    rows, columns = (sign * along, beside) if steep else (sign * beside, along)
    mask[y + rows, x + columns] = True


def _clip_line(
    begin: tuple[int, int], end: tuple[int, int], width: int, height: int
) -> tuple[bool, tuple[tuple[int, int], tuple[int, int]]]:
    """Whether a line is inside the picture anywhere, and its ends, cut to whole pixels of the picture where it is.

    Source: Cohen and Sutherland's outcodes, with the ends cut towards zero as OpenCV does.
    """
    right, bottom = width - 1, height - 1
    (x1, y1), (x2, y2) = begin, end

    def code(x: int, y: int) -> int:
        return (x < 0) + 2 * (x > right) + 4 * (y < 0) + 8 * (y > bottom)

    def code_across(x: int) -> int:
        return (x < 0) + 2 * (x > right)

    c1, c2 = code(x1, y1), code(x2, y2)
    if not c1 & c2 and c1 | c2:
        if c1 & 12:
            edge = 0 if c1 < 8 else bottom
            x1, y1 = x1 + int((edge - y1) * (x2 - x1) / (y2 - y1)), edge
            c1 = code_across(x1)
        if c2 & 12:
            edge = 0 if c2 < 8 else bottom
            x2, y2 = x2 + int((edge - y2) * (x2 - x1) / (y2 - y1)), edge
            c2 = code_across(x2)
        if not c1 & c2 and c1 | c2:
            if c1:
                edge = 0 if c1 == 1 else right
                x1, y1 = edge, y1 + int((edge - x1) * (y2 - y1) / (x2 - x1))
                c1 = 0
            if c2:
                edge = 0 if c2 == 1 else right
                x2, y2 = edge, y2 + int((edge - x2) * (y2 - y1) / (x2 - x1))
                c2 = 0
    return not c1 | c2, ((x1, y1), (x2, y2))


def _to_corners(polygon: Any) -> np.ndarray:
    try:
        corners = np.asarray(polygon, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"a polygon must be a list of numbers, not {shorten(polygon)}") from None
    corners = corners.reshape(-1, 2) if corners.ndim == 1 and corners.size % 2 == 0 else corners
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ValueError(f"a polygon must be at least three x, y pairs, not {shorten(polygon)}")
    return corners
