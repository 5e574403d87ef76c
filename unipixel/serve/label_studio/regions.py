"""Objects that the model found, as regions that Label Studio draws: pixels become percent."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from unipixel.engine.memory import KnownObject
from unipixel.serve.label_studio.brush import encode_brush
from unipixel.serve.label_studio.config import Kind, LabelConfig
from unipixel.serve.label_studio.prompts import RegionRequest, Timeline, match_label
from unipixel.serve.label_studio.schemas import Region

TOLERANCE = 1.0
"""Pixels by which a polygon's outline may leave the mask's: the stairs of slanted edges go, and little else."""
MIN_AREA = 4.0
"""Pixels of a part that becomes a polygon."""


def build_regions(found: Sequence[tuple[RegionRequest, KnownObject]], config: LabelConfig) -> list[Region]:
    """Regions for objects, one per object and control, for polygons one per part."""
    regions = []
    for request, one in found:
        if not one.is_there:
            continue
        # the label that the model's own words are, or else the first
        label = request.label or match_label(one.label, config) or next(iter(config.queries))
        for kind, name, labels in config.controls:
            if label not in labels:
                continue
            for value in _build_values(kind, one, label, request.timeline):
                region = Region(
                    id=request.region_id or secrets.token_hex(5),
                    from_name=name,
                    to_name=config.object_name,
                    type=kind,
                    value=value,
                    score=round(float(one.score), 6),
                )
                if config.medium == "image":
                    region.original_height, region.original_width = one.track.size_hw
                    region.image_rotation = request.rotation
                regions.append(region)
    return regions


def _build_values(kind: Kind, one: KnownObject, label: str, timeline: Timeline | None) -> Iterator[dict[str, Any]]:
    if timeline is not None:
        yield {**build_sequence(one, timeline), "labels": [label]}
    elif kind == "brushlabels":
        yield {"format": "rle", "rle": encode_brush(one.track.mask(0)), "brushlabels": [label]}
    elif kind == "polygonlabels":
        height, width = one.track.size_hw
        for corners in simplify_polygons(one.track.polygons(0)):
            points = (corners * (100 / np.array([width, height]))).round(6).tolist()
            yield {"points": points, "closed": True, "polygonlabels": [label]}
    else:
        yield {**_to_percent(one, 0), "rectanglelabels": [label]}


def _to_percent(one: KnownObject, t: int) -> dict[str, float]:
    """The box of frame ``t``."""
    height, width = one.track.size_hw
    x1, y1, x2, y2 = (float(value) for value in one.boxes[t])
    box = {"x": x1 / width, "y": y1 / height, "width": (x2 - x1) / width, "height": (y2 - y1) / height}
    return {**{name: round(100 * share, 6) for name, share in box.items()}, "rotation": 0}


def build_sequence(one: KnownObject, timeline: Timeline) -> dict[str, Any]:
    """An object's boxes through a video.

    A keyframe holds until the next one, with boxes between them interpolated; one that is not ``enabled`` is the last
    of a visible stretch.
    """
    keys: dict[int, dict[str, Any]] = {}
    visible = one.visible
    for t in np.flatnonzero(visible).tolist():
        goes_on = t + 1 == len(visible) or bool(visible[t + 1])
        number = timeline.to_number(t)
        time = {"frame": number, "time": round(timeline.times_s[t], 6), "enabled": goes_on}
        keys[number] = {**_to_percent(one, t), **time}
    return {
        "framesCount": timeline.frames_count,
        "duration": round(timeline.duration, 6),
        "sequence": [keys[number] for number in sorted(keys)],
    }


def simplify_polygons(polygons: Sequence[Sequence[float]]) -> list[np.ndarray]:
    """Polygons (P, 2) with fewer corners, without specks. An object that is all specks keeps its largest."""
    rings = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in polygons]
    rings.sort(key=_measure_area, reverse=True)
    kept = [ring for place, ring in enumerate(rings) if place == 0 or _measure_area(ring) >= MIN_AREA]
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


def _measure_distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Pixels from each point (P, 2) to the stretch between two others."""
    along = end - start
    length = float(along @ along)
    share = np.clip((points - start) @ along / length, 0, 1) if length else np.zeros(len(points))
    return np.asarray(np.linalg.norm(points - start - share[:, None] * along, axis=1))


def _measure_area(ring: np.ndarray) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
