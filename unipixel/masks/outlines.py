"""Outlines with few corners: polygons as annotation tools and YOLO want them, close to the mask they stand for."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from unipixel.masks.geometry import mask_to_box, mask_to_polygons, polygons_to_mask, rasterize_polygon

MAX_POINTS, MIN_IOU = 100, 0.98
"""Corners of an outline, and how well it should cover its mask."""
MOST_POINTS = 1000
"""Corners of an outline around many parts; Ultralytics reduces every outline to as many."""
TOLERANCE = 1.0
"""Pixels by which a simplified outline may leave the mask's: the stairs of slanted edges go, and little else."""
MIN_AREA = 4.0
"""Pixels of a part that becomes a polygon of its own."""
_INWARD = 0.05
"""Pixels by which corners lie inside of the mask's edge, so that cut down to whole numbers they are pixels of it."""
_BELOW_HALF = 0.45
"""Furthest place in a pixel from which cutting and rounding lead to the same whole number."""
_SHARES = (0.0, 0.001, 0.004)
"""Shares of the mask's area below which parts and holes are left out, tried in turn."""


def fit_outline(
    mask: np.ndarray, reader: Literal["opencv", "coco"] = "opencv", *, max_points: int = MAX_POINTS
) -> tuple[np.ndarray, float]:
    """One outline around a mask that is drawn as nearly the same mask again.

    Parts are joined by the shortest ways, holes are cut open. Corners with the least area between them and their
    neighbours go first.

    Args:
        mask: bool (H, W), not empty.
        reader: how it will be drawn. ``"coco"``: pixels whose centre is inside. ``"opencv"``: by OpenCV or Pillow with
            corners brought to whole pixels, by cutting (Ultralytics) or by rounding (supervision), and the edge
            included; such an outline lies up to half a pixel inside of the mask.
        max_points: corners in all; if the mask has several parts and IoU `MIN_IOU` cannot be reached so, of each part,
            and `MOST_POINTS` in all.

    Returns:
        Corners (P, 2) in pixels, and the IoU with the mask.

    Source: Visvalingam and Whyatt, 1993.
    """
    box = mask_to_box(mask)
    if box is None:
        raise ValueError("an empty mask has no outline")
    x1, y1, x2, y2 = box
    crop = np.pad(mask[y1:y2, x1:x2], 1)
    best, best_iou, is_whole = np.zeros((0, 2)), -1.0, False
    for share in _SHARES:
        cleaned = _drop_specks(crop, share * int(crop.sum()))
        rings = [_move_inward(np.array(ring).reshape(-1, 2)) for ring in mask_to_polygons(cleaned)]
        number = sum(len(ring) for ring in rings)
        is_whole = is_whole or number <= max_points
        ways = 2 * (len(rings) - 1)  # corners of the ways from part to part
        for most in dict.fromkeys([max_points, min(max_points * len(rings), max(MOST_POINTS, max_points))]):
            if most - ways < 3 * len(rings) and best_iou >= 0:
                continue
            outline = join_rings(_simplify_rings(rings, most - ways))
            if reader == "opencv":
                outline = np.floor(outline) + np.minimum(outline % 1, _BELOW_HALF)
            drawn = draw_outline(outline, crop.shape) if reader == "opencv" else _fill(outline, crop)
            iou = _compute_iou(crop, drawn)
            if iou > best_iou:
                best, best_iou = outline, iou
            if best_iou >= MIN_IOU:
                break
        if best_iou >= MIN_IOU or is_whole:
            break
    return best + np.array([x1 - 1, y1 - 1]), best_iou


def draw_outline(corners: np.ndarray, size_hw: Sequence[int]) -> np.ndarray:
    """A polygon (P, 2) as Ultralytics draws it: corners cut down to whole pixels, edge included, bool (H, W)."""
    return rasterize_polygon(np.floor(np.asarray(corners) + 1e-6).astype(np.int64), (int(size_hw[0]), int(size_hw[1])))


def join_rings(rings: Sequence[np.ndarray]) -> np.ndarray:
    """One outline (P, 2) around several: each further part hangs on the nearest corner of those before it.

    Whoever draws the edge as well draws the way there and back, which is why it is the shortest.
    """
    joined = np.asarray(rings[0], dtype=np.float64)
    newest = joined
    left = [np.asarray(ring, dtype=np.float64) for ring in rings[1:]]
    # of every part that is left: squared distance, the nearest corner of what is joined, and the part's own
    ways = [(np.inf, joined[0], 0)] * len(left)
    while left:
        for number, ring in enumerate(left):
            away = ((newest[:, None] - ring[None]) ** 2).sum(axis=2)
            here, there = divmod(int(away.argmin()), len(ring))
            if away[here, there] < ways[number][0]:
                ways[number] = (float(away[here, there]), newest[here], there)
        number = min(range(len(left)), key=lambda n: ways[n][0])
        _, corner, there = ways.pop(number)
        newest = left.pop(number)
        ring = np.roll(newest, -there, axis=0)
        here = int((joined == corner).all(axis=1).argmax())
        joined = np.concatenate([joined[: here + 1], ring, ring[:1], joined[here:]])
    return joined


def simplify_polygons(polygons: Sequence[Sequence[float]]) -> list[np.ndarray]:
    """Polygons (P, 2) with fewer corners, without specks. An object that is all specks keeps its largest."""
    rings = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in polygons]
    rings.sort(key=measure_area, reverse=True)
    kept = [ring for place, ring in enumerate(rings) if place == 0 or measure_area(ring) >= MIN_AREA]
    return [simplify_ring(ring, TOLERANCE) for ring in kept]


def simplify_ring(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """A closed outline with those corners left out that lie within the tolerance of the line between others.

    Source: Douglas and Peucker, 1973.

    Args:
        ring: (P, 2).
        tolerance: in pixels.
    """
    if len(ring) <= 4:
        return ring
    far = int(np.argmax(((ring - ring[0]) ** 2).sum(axis=1)))
    closed = np.concatenate([ring, ring[:1]])
    keep = np.zeros(len(closed), dtype=bool)
    keep[[0, far, len(ring)]] = True
    spans = [(0, far), (far, len(ring))]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        away = _measure_distances(closed[first + 1 : last], closed[first], closed[last])
        worst = int(np.argmax(away))
        if away[worst] > tolerance:
            middle = first + 1 + worst
            keep[middle] = True
            spans += [(first, middle), (middle, last)]
    kept = ring[keep[:-1]]
    return kept if len(kept) >= 3 else ring


def measure_area(ring: np.ndarray) -> float:
    """Pixels inside a closed outline (P, 2)."""
    x, y = ring[:, 0], ring[:, 1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _measure_distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Pixels from each point (P, 2) to the stretch between two others."""
    along = end - start
    length = float(along @ along)
    share = np.clip((points - start) @ along / length, 0, 1) if length else np.zeros(len(points))
    return np.asarray(np.linalg.norm(points - start - share[:, None] * along, axis=1))


def _move_inward(ring: np.ndarray) -> np.ndarray:
    """Corners of a traced outline (mask on the right of every side) a little inside of the mask."""
    ahead = np.sign(np.roll(ring, -1, axis=0) - ring)
    before = np.roll(ahead, 1, axis=0)
    together = ahead + before
    return np.asarray(ring + _INWARD * np.stack([-together[:, 1], together[:, 0]], axis=1))


def _drop_specks(mask: np.ndarray, area: float) -> np.ndarray:
    """The mask without parts, and without holes, of fewer pixels."""
    if area < 1:
        return mask
    out = mask.copy()
    for value in (True, False):
        for ring in mask_to_polygons(out == value):
            if measure_area(np.array(ring).reshape(-1, 2)) < area:
                out[polygons_to_mask([ring], (mask.shape[0], mask.shape[1]))] = not value
    return out if out.any() else mask


def _fill(outline: np.ndarray, like: np.ndarray) -> np.ndarray:
    return polygons_to_mask([outline], (like.shape[0], like.shape[1]))


def _compute_iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def _simplify_rings(rings: Sequence[np.ndarray], budget: int) -> list[np.ndarray]:
    """Rings (P, 2) with so many corners in all; each keeps three."""
    points = np.concatenate(rings)
    lengths = [len(ring) for ring in rings]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    owner = np.repeat(np.arange(len(rings)), lengths).tolist()
    after, before = np.arange(1, len(points) + 1), np.arange(-1, len(points) - 1)
    after[starts[1:] - 1], before[starts[:-1]] = starts[:-1], starts[1:] - 1
    following, preceding = after.tolist(), before.tolist()
    xs, ys = points[:, 0].tolist(), points[:, 1].tolist()

    def measure(i: int) -> float:
        a, b = preceding[i], following[i]
        return abs((xs[i] - xs[a]) * (ys[b] - ys[a]) - (xs[b] - xs[a]) * (ys[i] - ys[a])) / 2

    sizes = [measure(i) for i in range(len(points))]
    heap = [(size, i) for i, size in enumerate(sizes)]
    heapq.heapify(heap)
    alive = [True] * len(points)
    left = len(points)
    while left > budget and heap:
        size, i = heapq.heappop(heap)
        if not alive[i] or size != sizes[i] or lengths[owner[i]] <= 3:
            continue
        alive[i] = False
        lengths[owner[i]] -= 1
        left -= 1
        a, b = preceding[i], following[i]
        following[a], preceding[b] = b, a
        for near in (a, b):
            # never less than what has gone, or a corner that its neighbours have moved away from would go at once
            sizes[near] = max(measure(near), size)
            heapq.heappush(heap, (sizes[near], near))
    kept = np.array(alive)
    return [points[start:end][kept[start:end]] for start, end in pairwise(starts.tolist())]
