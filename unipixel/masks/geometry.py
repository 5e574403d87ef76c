"""Shapes and masks: boxes and points, exact or random, and polygons to and from ``bool`` arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

from unipixel.checks import shorten
from unipixel.masks.rle import check_mask, check_size_hw, decode_rle


def trace_polygons(mask: np.ndarray) -> list[list[float]]:
    """Polygons x1, y1, x2, y2, ... of a bool (H, W) mask, one per 4-connected part, each hole joined by a cut.

    The cut runs from the top left corner of a hole straight up to the next edge. It lies on the boundary between two
    pixel columns, where no pixel centre can fall into it.
    """
    width = mask.shape[1] + 1  # lattice points per row
    loops, holes, owners = _walk_loops(mask)
    cuts: dict[int, dict[int, list[int]]] = defaultdict(dict)  # loop -> position in it -> the hole walked from there
    # A hole's cut ends on a loop that starts higher, so going upwards each hole is complete before it is joined.
    for hole in sorted(holes, key=lambda number: -loops[number][0]):
        y, x = divmod(loops[hole][0], width)
        outside = np.flatnonzero(~mask[:y, x])
        top = int(outside[-1]) + 1 if outside.size else 0
        owner, position = owners[top * width + x]
        cuts[owner][position] = _join_cuts(loops[hole], cuts[hole])
    outlines = [number for number in range(len(loops)) if number not in holes]
    return [_drop_straight_points(_join_cuts(loops[number], cuts[number]), width) for number in outlines]


def _join_cuts(corners: list[int], cuts: dict[int, list[int]]) -> list[int]:
    """A loop with the holes that are walked from its positions."""
    walk: list[int] = []
    done = 0
    for position in sorted(cuts):
        hole = cuts[position]
        walk += corners[done : position + 1] + hole + [hole[0], corners[position]]
        done = position + 1
    return walk + corners[done:]


def _walk_loops(mask: np.ndarray) -> tuple[list[list[int]], set[int], dict[int, tuple[int, int]]]:
    """All closed walks along pixel edges, the mask always on the right (y points down): outlines run clockwise.

    Returns:
        The loops in raster order, each as lattice points y * (W + 1) + x from the topmost, and of those the leftmost;
        which of them are holes; for each edge that runs right its start -> (loop, position in it).
    """
    padded = np.pad(mask, 1)
    north_west, north_east = padded[:-1, :-1], padded[:-1, 1:]
    south_west, south_east = padded[1:, :-1], padded[1:, 1:]
    # Edges that leave a lattice point: right, down, left, up.
    leaving = [south_east & ~north_east, south_west & ~south_east, north_west & ~south_west, north_east & ~north_west]
    direction_at = np.select(leaving, [0, 1, 2, 3], default=0).ravel().tolist()
    crossing = (np.sum(leaving, axis=0) > 1).ravel().tolist()
    steps = (1, mask.shape[1] + 1, -1, -(mask.shape[1] + 1))
    seen = (bytearray(len(crossing)), bytearray(len(crossing)))
    loops: list[list[int]] = []
    holes: set[int] = set()
    owners: dict[int, tuple[int, int]] = {}
    starts = (leaving[0] | leaving[1]).ravel()
    right, down = leaving[0].ravel(), leaving[1].ravel()
    for start in np.flatnonzero(starts).tolist():
        # The first corner of a loop in raster order is left to the right by an outline, downwards by a hole.
        direction = 0 if right[start] else 1
        if seen[direction][start] or (direction == 1 and not down[start]):
            continue
        corners: list[int] = []
        corner = start
        if direction == 1:
            holes.add(len(loops))
        while True:
            if direction < 2:
                if seen[direction][corner]:
                    break
                seen[direction][corner] = 1
                if direction == 0:
                    owners[corner] = (len(loops), len(corners))
            corners.append(corner)
            corner += steps[direction]
            # Where two pixels touch at a corner, turning right stays on the same pixel: parts are 4-connected.
            direction = (direction + 1) % 4 if crossing[corner] else direction_at[corner]
        loops.append(corners)
    return loops, holes, owners


def _drop_straight_points(walk: list[int], width: int) -> list[float]:
    """The walk as a flat list of x, y with only the points where it turns."""
    points = np.stack(np.divmod(np.array(walk), width)[::-1], axis=1)  # (P, 2) x, y
    ahead = np.sign(np.roll(points, -1, axis=0) - points)
    turns = (ahead != np.roll(ahead, 1, axis=0)).any(axis=1)
    return points[turns].astype(float).ravel().tolist()


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


_INTERIOR_SIDE = 192
"""Masks whose box is larger than this are thinned to blocks before the search for the most interior point."""


def mask_to_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """The tight box (x1, y1, x2, y2) of a bool (H, W) mask in pixels, right and bottom exclusive; None if empty."""
    mask = check_mask(mask)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def find_interior_point(mask: np.ndarray, *, exact: bool = False) -> tuple[float, float]:
    """The centre (x, y) of the pixel that lies deepest inside a bool (H, W) mask.

    Depth is the Euclidean distance to the nearest pixel outside, the image border counting as outside. On a large mask
    the search runs on blocks of pixels that lie wholly inside it, so the depth may fall short by about one block.

    Args:
        exact: search every pixel, and take the first in reading order among equals, as SAM 2's clicks do.

    Raises:
        ValueError: The mask is empty.
    """
    mask = check_mask(mask)
    box = mask_to_box(mask)
    if box is None:
        raise ValueError("an empty mask has no interior point")
    x1, y1, x2, y2 = box
    crop = mask[y1:y2, x1:x2]
    block = 1 if exact else -(-max(crop.shape) // _INTERIOR_SIDE)
    if block > 1:
        height, width = (side // block * block for side in crop.shape)
        blocks: np.ndarray = crop[:height, :width].reshape(height // block, block, width // block, block)
        blocks = np.all(blocks, axis=(1, 3))
        if blocks.any():
            row, column = _find_deepest(blocks)
            return x1 + column * block + block // 2 + 0.5, y1 + row * block + block // 2 + 0.5
    row, column = _find_deepest(crop, first=exact)
    return x1 + column + 0.5, y1 + row + 0.5


def sample_point(mask: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """The centre (x, y) of a random pixel of a bool (H, W) mask, which must not be empty."""
    pixels = np.flatnonzero(mask)
    y, x = divmod(int(pixels[int(rng.integers(len(pixels)))]), mask.shape[1])
    return x + 0.5, y + 0.5


def jitter_box(
    box_xyxy: Sequence[float],
    size_hw: Sequence[float],
    rng: np.random.Generator,
    *,
    noise: float = 0.1,
    most: float = np.inf,
) -> tuple[float, float, float, float]:
    """A box with edges that are off, kept inside the picture.

    Args:
        size_hw: of the picture.
        noise: edges are off by up to this share of the box's side,
        most: and by no more than this share of the picture's side.

    Source: SAM 2, which its training boxes are drawn like.
    """
    x1, y1, x2, y2 = box_xyxy
    height, width = size_hw
    sides = np.minimum([x2 - x1, y2 - y1] * 2, np.multiply(most / noise, [width, height] * 2))
    edges = np.asarray(box_xyxy, float) + rng.uniform(-noise, noise, 4) * sides
    x1, y1, x2, y2 = np.clip(edges, 0, [width, height, width, height]).tolist()
    return x1, y1, x2, y2


def _find_deepest(mask: np.ndarray, *, first: bool = False) -> tuple[int, int]:
    """Row and column of the largest Euclidean distance to a pixel outside a bool (H, W) mask with some pixel set.

    Among equals it is the first in reading order, or the one nearest to the middle.
    """
    padded = np.pad(mask, 1)
    rows = np.arange(padded.shape[0])[:, None]
    above = np.maximum.accumulate(np.where(padded, 0, rows), axis=0)
    below = np.minimum.accumulate(np.where(padded, padded.shape[0], rows)[::-1], axis=0)[::-1]
    vertical = np.minimum(rows - above, below - rows).astype(np.int64) ** 2
    # Squared distance = min over columns k away of k² + vertical²: a pixel is settled once k² reaches its minimum.
    row, column = np.nonzero(padded)
    middle_row, middle_column = row.mean(), column.mean()
    distance = vertical[row, column]
    best, deepest, k = 0, [(0, 0)], 1
    while row.size:
        settled = distance <= k * k
        highest = int(distance[settled].max(initial=0))
        if highest > best:
            best, deepest = highest, []
        if highest == best:
            winners = settled & (distance == best)
            deepest += zip(row[winners].tolist(), column[winners].tolist(), strict=True)
        rest = ~settled & (distance >= best)
        row, column, distance = row[rest], column[rest], distance[rest]
        left, right = np.maximum(column - k, 0), np.minimum(column + k, padded.shape[1] - 1)
        distance = np.minimum(distance, np.minimum(vertical[row, left], vertical[row, right]) + k * k)
        k += 1
    if first:
        row_of_first, column_of_first = min(deepest)
        return row_of_first - 1, column_of_first - 1
    # on a long bar its centre rather than one end
    chosen = min(deepest, key=lambda place: (place[0] - middle_row) ** 2 + (place[1] - middle_column) ** 2)
    return chosen[0] - 1, chosen[1] - 1
