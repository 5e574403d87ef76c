"""Objects that the model found, as regions that Label Studio draws: pixels become percent."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from unipixel.engine.memory import KnownObject
from unipixel.masks import encode_brush, simplify_polygons
from unipixel.serve.label_studio.config import Kind, LabelConfig
from unipixel.serve.label_studio.prompts import RegionRequest, Timeline, match_label
from unipixel.serve.label_studio.schemas import Region


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
