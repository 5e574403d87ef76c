"""Datumaro's own JSON: ``annotations/SUBSET.json`` with ``images/SUBSET`` beside it; masks as COCO run lengths.

An annotation's ``group`` and its attribute ``track_id`` are the object's id, the attribute ``score`` its score.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from unipixel import draw
from unipixel.atomic import write_text
from unipixel.checks import check_integer, check_list, check_mapping, check_text, parse_json, shorten
from unipixel.errors import DatasetError
from unipixel.formats.annotations import (
    UNNAMED,
    Annotations,
    Losses,
    Picture,
    Shape,
    build_sets,
    count_unkept,
    get_stem,
    group_subsets,
    iterate_pictures,
    list_classes,
    read_score,
    read_with,
    read_with_path,
)
from unipixel.masks import encode_rle, parse_rle, polygons_to_mask
from unipixel.masks.rle import check_size_hw
from unipixel.media.names import is_junk

SUBSET = "default"
VERSION = "1.0"


def write_datumaro(
    sets: Sequence[Annotations], path: Path, losses: Losses, *, polygons: bool = False, classes: Sequence[str] = ()
) -> list[Path]:
    """A folder with a file for each subset, and the pictures, where they are known, as PNG."""
    count_unkept(sets, losses, scores=True, subsets=True)
    classes = list_classes(sets, classes)
    groups = group_subsets(sets).items()
    return [file for subset, some in groups for file in _write_subset(subset or SUBSET, some, path, classes, polygons)]


def _write_subset(
    subset: str, sets: Sequence[Annotations], path: Path, classes: Sequence[str], polygons: bool
) -> list[Path]:
    items: list[dict[str, Any]] = []
    paths = []
    for one, t, name in iterate_pictures(sets):
        picture = f"{get_stem(name)}.png" if one.has_pictures else name
        if one.has_pictures:
            paths.append(draw.write_png(one.media.frame(t), path / "images" / subset / picture))
        found: list[dict[str, Any]] = []
        for object_id, label, rle, score in one.list_shapes(t):
            attributes: dict[str, Any] = {"track_id": object_id}
            attributes |= {} if score is None else {"score": score}
            common = {"attributes": attributes, "group": object_id, "label_id": classes.index(label), "z_order": 0}
            track = one.tracks[object_id]
            forms: list[dict[str, Any]] = [{"type": "mask", "rle": rle}]
            if polygons:
                forms = [{"type": "polygon", "points": part} for part in track.polygons(t)]
            for form in forms:
                found.append({"id": len(found), **form, **common})
        size = {"path": picture, "size": list(one.size_hw)}
        items.append({"id": get_stem(name), "annotations": found, "attr": {"frame": t}, "image": size})
    labels = [{"name": name, "parent": "", "attributes": []} for name in classes]
    document = {
        "dm_format_version": VERSION,
        "infos": {},
        "categories": {"label": {"labels": labels, "attributes": []}},
        "items": items,
    }
    target = path / "annotations" / f"{subset}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, json.dumps(document), sync=False)
    return [target, *paths]


def read_datumaro(path: Path, losses: Losses, pictures: Path | None = None) -> list[Annotations]:
    """A folder of Datumaro's, or one of its JSON files.

    Raises:
        DatasetError: it is damaged, or something else.
    """
    folder = path / "annotations" if (path / "annotations").is_dir() else path
    files = sorted(folder.glob("*.json")) if folder.is_dir() else [folder]
    files = [file for file in files if not is_junk(file.name)]
    if not files:
        raise DatasetError(f"{path} holds no JSON file of Datumaro's")
    sets = []
    for file in files:
        document = read_with_path(file, _read_document)
        classes = read_with(str(file), partial(_read_classes, document))
        rows: list[Picture] = []
        for number, item in enumerate(document["items"]):
            rows += read_with(f"{file}, item {number}", partial(_list_item, item, classes, losses))
        images = file.parent.parent / "images"
        sets += build_sets(rows, losses, [images / file.stem, images] if pictures is None else [pictures])
    return sets


def _read_document(file: Path) -> dict[str, Any]:
    document = check_mapping(parse_json(file.read_bytes()), "it", ("items", "categories"))
    check_list(document["items"], "items")
    return document


def _list_item(item: Any, classes: Sequence[str], losses: Losses) -> list[Picture]:
    return list(_read_item(item, classes, losses))


def _read_classes(document: dict[str, Any]) -> list[str]:
    tables = check_mapping(document["categories"], "categories")
    labels = check_list(check_mapping(tables.get("label", {}), "categories.label").get("labels", []), "labels")
    return [check_text(check_mapping(one, "a label", ("name",))["name"], "the name of a label") for one in labels]


def _read_item(item: Any, classes: Sequence[str], losses: Losses) -> Iterator[Picture]:
    item = check_mapping(item, "it", ("id", "annotations"))
    image = item.get("image")
    size_hw: tuple[int, int] | None = None
    if isinstance(image, dict) and image.get("size") is not None:
        size_hw = check_size_hw(image["size"])
    shapes: list[Shape] = []
    for number, one in enumerate(check_list(item["annotations"], "annotations")):
        where = f"annotations[{number}]"
        one = check_mapping(one, where, ("type",))
        if one["type"] == "mask":
            rle = parse_rle(check_mapping(one, where, ("rle",))["rle"])
            size_hw = size_hw or (rle["size"][0], rle["size"][1])
            if tuple(rle["size"]) != size_hw:
                raise ValueError(f"{where} is {rle['size']} (height, width), its picture {size_hw}")
        elif one["type"] == "polygon" and size_hw is not None:
            rle = encode_rle(polygons_to_mask([one.get("points")], size_hw))
        else:
            losses[f"annotations of the type {shorten(one['type'])} have no mask and are left out"] += 1
            continue
        label = one.get("label_id")
        name = UNNAMED if label is None else classes[check_integer(label, f"{where}.label_id", 0, len(classes) - 1)]
        attributes = one.get("attributes")
        attributes = attributes if isinstance(attributes, dict) else {}
        keys = (attributes.get("track_id"), one.get("object_id"), one.get("group"))
        key = next((key for key in keys if type(key) is int and key > 0), None)
        shapes.append((key, name, rle, read_score(attributes.get("score"))))
    if size_hw is None:
        losses["pictures whose size is not said are left out"] += 1
        return
    path = image.get("path") if isinstance(image, dict) else None
    ending = Path(path).suffix if isinstance(path, str) else ""  # Datumaro itself puts all files into one folder
    yield check_text(item["id"], "id") + (ending or ".png"), size_hw, shapes
