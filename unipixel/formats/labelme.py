"""LabelMe: a JSON file per picture, as labelme 5.3 and later read it.

Masks are written as shapes of the type ``mask`` (pixel by pixel, a PNG of the box around them), or with
``polygons=True`` as one polygon per part. ``group_id`` is the object's id. Polygons, rectangles and circles are read as
labelme draws them, edge included.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from unipixel import draw
from unipixel.atomic import write_text
from unipixel.checks import check_integer, check_list, check_mapping, check_number, check_text, parse_json, shorten
from unipixel.errors import DatasetError
from unipixel.formats.annotations import (
    Annotations,
    Losses,
    Picture,
    Shape,
    build_sets,
    count_unkept,
    fit_parts,
    get_stem,
    iterate_pictures,
    read_with,
)
from unipixel.masks import encode_rle, mask_to_box
from unipixel.masks.rle import check_size_hw
from unipixel.media.names import is_junk
from unipixel.media.sources import build_sort_key

VERSION = "5.5.0"
"""Of labelme, whose layout is written."""
_POINTS = {"rectangle": 2, "circle": 2, "mask": 2, "polygon": 3}
"""Fewest points of the shapes that have an inside."""


def write_labelme(sets: Sequence[Annotations], path: Path, losses: Losses, *, polygons: bool = False) -> list[Path]:
    """A folder with a JSON file per picture and frame; the pictures, where they are known, lie beside them as PNG.

    A path that ends in ``.json`` holds one picture, which is not copied.
    """
    count_unkept(sets, losses)
    is_file = path.suffix.lower() == ".json"
    if is_file and sum(one.num_frames for one in sets) != 1:
        raise DatasetError(f"{path} holds one picture, and there are several; name a folder")
    paths = []
    for one, t, name in iterate_pictures(sets):
        height, width = one.size_hw
        picture = f"{get_stem(name)}.png" if one.has_pictures and not is_file else name
        shapes: list[dict[str, Any]] = []
        for object_id, label, _, _ in one.list_shapes(t):
            mask = one.tracks[object_id].mask(t)
            found = _build_polygons(mask, losses) if polygons else [_build_mask(mask)]
            shapes += [{"label": label, "group_id": object_id, "description": "", "flags": {}, **one} for one in found]
        document: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": picture.rpartition("/")[2],
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        target = path if is_file else path / f"{get_stem(name)}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, json.dumps(document, ensure_ascii=False, indent=1), sync=False)
        paths.append(target)
        if one.has_pictures and not is_file:
            paths.append(draw.write_png(one.media.frame(t), path / picture))
    return paths


def _build_mask(mask: np.ndarray) -> dict[str, Any]:
    x1, y1, x2, y2 = mask_to_box(mask) or (0, 0, 1, 1)
    packed = io.BytesIO()
    Image.fromarray(mask[y1:y2, x1:x2].astype(np.uint8) * 255).convert("1").save(packed, format="PNG")
    text = base64.b64encode(packed.getvalue()).decode("ascii")
    # corners are pixels, both included
    return {"shape_type": "mask", "points": [[x1, y1], [x2 - 1, y2 - 1]], "mask": text}


def _build_polygons(mask: np.ndarray, losses: Losses) -> list[dict[str, Any]]:
    parts = fit_parts(mask, losses)
    return [{"shape_type": "polygon", "points": np.floor(part).tolist(), "mask": None} for part in parts]


def read_labelme(path: Path, losses: Losses, pictures: Path | None = None) -> list[Annotations]:
    """A JSON file of labelme, or a folder of them.

    Raises:
        DatasetError: a file is damaged or something else.
    """
    root = path if path.is_dir() else path.parent
    files = sorted(path.rglob("*.json"), key=lambda one: build_sort_key(str(one))) if path.is_dir() else [path]
    files = [one for one in files if not is_junk(one.name)]
    if not files:
        raise DatasetError(f"{path} holds no JSON file of labelme")
    rows = []
    for file in files:
        name = file.relative_to(root).parent
        rows.append(read_with(str(file), partial(_read_file, file, name, losses)))
    return build_sets(rows, losses, [root] if pictures is None else [pictures])


def _read_file(path: Path, folder: Path, losses: Losses) -> Picture:
    document = check_mapping(parse_json(path.read_bytes()), "it", ("shapes", "imagePath", "imageHeight", "imageWidth"))
    size_hw = check_size_hw([document["imageHeight"], document["imageWidth"]])
    name = check_text(document["imagePath"], "imagePath").replace("\\", "/")
    shapes: list[Shape] = []
    for number, shape in enumerate(check_list(document["shapes"], "shapes")):
        where = f"shapes[{number}]"
        shape = check_mapping(shape, where, ("label", "points"))
        label = check_text(shape["label"], f"{where}.label")
        kind, group = shape.get("shape_type", "polygon"), shape.get("group_id")
        if kind not in _POINTS:
            losses[f"shapes of the type {shorten(kind)} have no mask and are left out"] += 1
            continue
        points = [
            [check_number(value, f"{where}.points", -1e6, 1e6) for value in check_list(pair, f"{where}.points", 2)]
            for pair in check_list(shape["points"], f"{where}.points")
        ]
        if len(points) < _POINTS[kind]:
            losses[f"shapes of the type {shorten(kind)} with too few points are left out"] += 1
            continue
        mask = _draw_shape(kind, points, shape.get("mask"), size_hw, where)
        shapes.append((group if isinstance(group, int) else None, label, encode_rle(mask), None))
    return (folder / name).as_posix(), size_hw, shapes


def _draw_shape(kind: str, points: list[list[float]], packed: Any, size_hw: tuple[int, int], where: str) -> np.ndarray:
    if kind == "mask":
        return _unpack_mask(points, packed, size_hw, where)
    if any(abs(value) > 1000 + 10 * max(size_hw) for pair in points for value in pair):
        raise ValueError(f"{where} has a point far outside of the {size_hw[1]} x {size_hw[0]} picture")
    picture = Image.new("L", (size_hw[1], size_hw[0]))
    pen = ImageDraw.Draw(picture)
    (x1, y1), (x2, y2) = points[:2]
    if kind == "circle":
        radius = math.hypot(x2 - x1, y2 - y1)
        pen.ellipse((x1 - radius, y1 - radius, x1 + radius, y1 + radius), outline=1, fill=1)
    elif kind == "rectangle":
        pen.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=1, fill=1)
    else:
        pen.polygon([(x, y) for x, y in points], outline=1, fill=1)
    return np.array(picture, dtype=bool)


def _unpack_mask(points: list[list[float]], packed: Any, size_hw: tuple[int, int], where: str) -> np.ndarray:
    (x1, y1), (x2, y2) = [[check_integer(int(value), f"{where}.points") for value in pair] for pair in points[:2]]
    if x2 < x1 or y2 < y1 or x2 >= size_hw[1] or y2 >= size_hw[0]:
        raise ValueError(
            f"{where}: the mask's box {points[:2]} is not inside of the {size_hw[1]} x {size_hw[0]} picture"
        )
    try:
        data = base64.b64decode(check_text(packed, f"{where}.mask"), validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.size != (x2 - x1 + 1, y2 - y1 + 1):
                raise ValueError(f"{where}: the mask is {picture.size}, its box {(x2 - x1 + 1, y2 - y1 + 1)}")
            values = np.asarray(picture.convert("L")) > 0
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: the mask is no PNG ({error})") from error
    out = np.zeros(size_hw, dtype=bool)
    out[y1 : y2 + 1, x1 : x2 + 1] = values
    return out
