"""Label Studio: tasks as JSON, a picture each, with brush masks (pixel by pixel) or polygons.

Label Studio has no masks through videos: a clip becomes a task per frame. A region's id begins with the object's,
``object7``. Names and labels fit a configuration with ``<Image name="image">`` and ``<BrushLabels name="brush">`` or
``<PolygonLabels name="polygon">``, whatever it calls them when files are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unipixel.atomic import write_text
from unipixel.checks import check_list, check_mapping, check_number, check_text, parse_json, shorten
from unipixel.formats.annotations import (
    UNNAMED,
    Annotations,
    Losses,
    Picture,
    Shape,
    build_sets,
    count_unkept,
    fit_parts,
    iterate_pictures,
    read_score,
    read_with,
)
from unipixel.masks import (
    decode_brush,
    encode_brush,
    encode_rle,
    polygons_to_mask,
)
from unipixel.masks.rle import check_size_hw

_OBJECT = re.compile(r"object(\d{1,9})\b")
_UPLOAD = re.compile(r"[0-9a-f]{8}-")
"""What Label Studio puts in front of the names of files that were uploaded to it."""


def build_label_studio(sets: Sequence[Annotations], losses: Losses, *, polygons: bool = False) -> list[dict[str, Any]]:
    """Tasks with an annotation each."""
    tasks = []
    for one, t, name in iterate_pictures(sets):
        results = []
        for object_id, label, _, score in one.list_shapes(t):
            kind = "polygonlabels" if polygons else "brushlabels"
            values = _build_values(one.tracks[object_id].mask(t), label, polygons, losses)
            for part, value in enumerate(values):
                results.append(
                    {
                        "id": f"object{object_id}" + (f"-{part}" if part else ""),
                        "from_name": "polygon" if polygons else "brush",
                        "to_name": "image",
                        "type": kind,
                        "original_width": one.size_hw[1],
                        "original_height": one.size_hw[0],
                        "image_rotation": 0,
                        "value": value,
                        **({} if score is None else {"score": score}),
                    }
                )
        size = {"width": one.size_hw[1], "height": one.size_hw[0]}
        tasks.append({"data": {"image": name}, "annotations": [{"result": results}], "meta": size})
    return tasks


def _build_values(mask: np.ndarray, label: str, polygons: bool, losses: Losses) -> Iterator[dict[str, Any]]:
    if not polygons:
        yield {"format": "rle", "rle": encode_brush(mask), "brushlabels": [label]}
        return
    height, width = mask.shape
    for corners in fit_parts(mask, losses, "coco"):
        points = (corners * (100 / np.array([width, height]))).round(6).tolist()
        yield {"points": points, "closed": True, "polygonlabels": [label]}


def write_label_studio(
    sets: Sequence[Annotations], path: Path, losses: Losses, *, polygons: bool = False
) -> list[Path]:
    """Write `build_label_studio` as JSON."""
    count_unkept(sets, losses, scores=True)
    write_text(path, json.dumps(build_label_studio(sets, losses, polygons=polygons)), sync=False)
    return [path]


def read_label_studio(path: Path, losses: Losses, pictures: Path | None = None) -> list[Annotations]:
    """An export of Label Studio as JSON: of every task its first annotation, or else its first prediction.

    A picture without any region has no size in such a file, and is left out.

    Raises:
        DatasetError: it is damaged, or something else.
    """
    tasks = read_with(str(path), lambda: check_list(parse_json(path.read_bytes()), "it"))
    rows = []
    for number, task in enumerate(tasks):
        found = read_with(f"{path}, task {number}", partial(_read_task, task, losses))
        rows += [] if found is None else [found]
    return build_sets(rows, losses, [path.parent, path.parent / "images"] if pictures is None else [pictures])


def _read_task(task: Any, losses: Losses) -> Picture | None:
    data = check_mapping(check_mapping(task, "it", ("data",))["data"], "its data")
    name = next((value for key, value in data.items() if isinstance(value, str) and key == "image"), None)
    name = name or next((value for value in data.values() if isinstance(value, str) and "." in value), None)
    if name is None:
        raise ValueError("its data name no picture")
    drawn = task.get("annotations") or task.get("completions") or task.get("predictions") or [{"result": []}]
    if len(check_list(drawn, "annotations")) > 1:
        losses["further annotations of one task are left out"] += len(drawn) - 1
    regions = check_list(check_mapping(drawn[0], "annotations[0]", ("result",))["result"], "result")
    shapes: list[Shape] = []
    size_hw: tuple[int, int] | None = None
    meta = task.get("meta")
    if isinstance(meta, dict) and "width" in meta and "height" in meta:
        size_hw = check_size_hw([meta["height"], meta["width"]])
    for place, region in enumerate(regions):
        where = f"result[{place}]"
        region = check_mapping(region, where, ("type",))
        if region["type"] not in ("brushlabels", "polygonlabels", "brush", "polygon"):
            losses[f"regions of the type {shorten(region['type'])} have no mask and are left out"] += 1
            continue
        check_mapping(region, where, ("value", "original_width", "original_height"))
        size_hw = check_size_hw([region["original_height"], region["original_width"]])
        shapes.append(_read_region(region, size_hw, where))
    if size_hw is None:
        losses["pictures without a mask say nothing of their size and are left out"] += 1
        return None
    short = name.partition("?")[0]
    folder, slash, last = short.rpartition("/")
    is_upload = "/upload/" in short and _UPLOAD.match(last)
    return (last[9:] if is_upload else f"{folder}{slash}{last}"), size_hw, shapes


def _read_region(region: dict[str, Any], size_hw: tuple[int, int], where: str) -> Shape:
    value = check_mapping(region["value"], f"{where}.value")
    names = value.get(region["type"]) or value.get("labels") or [UNNAMED]
    label = check_text(check_list(names, f"{where}.value.{region['type']}")[0], f"{where}, the label")
    if "rle" in value:
        stream = check_list(value["rle"], f"{where}.value.rle")
        mask = decode_brush(stream, size_hw)
    else:
        points = check_list(value.get("points"), f"{where}.value.points")
        pairs = [check_list(pair, f"{where}.value.points", 2) for pair in points]
        corners = np.array([[check_number(v, f"{where}.value.points", -1000, 1000) for v in pair] for pair in pairs])
        mask = polygons_to_mask([corners.reshape(-1, 2) * (size_hw[1] / 100, size_hw[0] / 100)], size_hw)
    found = _OBJECT.match(str(region.get("id", "")))
    return int(found[1]) if found else None, label, encode_rle(mask), read_score(region.get("score"))
