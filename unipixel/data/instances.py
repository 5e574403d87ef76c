"""COCO instance files (images, annotations, categories), reduced to what an index keeps of them.

Masks stay as the file has them, but small: a polygon as an array of numbers instead of a list of Python floats, which
takes a quarter of the memory and matters with a million annotations in one file.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unipixel.data.encodings import regions_to_mask
from unipixel.data.files import get_field, read_json
from unipixel.errors import DatasetError

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotated object or part of it."""

    id: int
    category: str
    """Name of its category, as the file has it."""
    region: Any
    """Its mask: arrays of polygon corners, RLEs, or one RLE; see `unpack_region`."""
    box_xyxy: Box | None = None
    """The annotated box, right and bottom exclusive; None where the file has none."""
    is_crowd: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the file."""

    file_name: str
    size_hw: tuple[int, int]


@dataclass(frozen=True, slots=True)
class InstanceFile:
    """A COCO instance file."""

    pictures: dict[Any, Picture]
    """By image id, in the file's order."""
    annotations: list[dict[str, Any]]
    categories: dict[Any, str]
    """Name by category id."""


def read_instances(path: Path, dataset: str) -> InstanceFile:
    """The tables of a COCO instance file; its annotations are checked one by one in `instance`.

    Raises:
        DatasetError: missing, damaged, or not in COCO's layout.
    """
    document = read_json(path, dataset)
    where = f"{dataset}: {path}"
    pictures = {}
    for number, image in enumerate(get_field(document, "images", where, list)):
        place = f"{where}, image {number}"
        height, width = (get_field(image, side, place, (int, float)) for side in ("height", "width"))
        pictures[get_field(image, "id", place)] = Picture(
            get_field(image, "file_name", place, str), (int(height), int(width))
        )
    categories = {}
    for number, category in enumerate(get_field(document, "categories", where, list)):
        place = f"{where}, category {number}"
        categories[get_field(category, "id", place)] = get_field(category, "name", place, str)
    return InstanceFile(pictures, get_field(document, "annotations", where, list), categories)


def parse_instance(annotation: Mapping[str, Any], categories: Mapping[Any, str], where: str) -> Instance:
    """One annotation of the file.

    Raises:
        DatasetError: a field is missing or malformed, or its category is not in the file.
    """
    category = get_field(annotation, "category_id", where)
    if category not in categories:
        raise DatasetError(f"{where}: category {category!r} is not among the file's {len(categories)} categories")
    return Instance(
        get_field(annotation, "id", where),
        categories[category],
        pack_region(get_field(annotation, "segmentation", where), where),
        parse_box(annotation.get("bbox"), where),
        bool(annotation.get("iscrowd", 0)),
    )


def pack_region(segmentation: Any, where: str) -> Any:
    """COCO's ``segmentation`` in little memory.

    Raises:
        DatasetError: neither polygons nor RLEs.
    """
    if segmentation is None or isinstance(segmentation, dict):
        return segmentation
    if not isinstance(segmentation, list):
        raise DatasetError(f"{where}: the segmentation is {segmentation!r:.60}; it should be polygons or an RLE")
    try:
        return tuple(part if part is None or isinstance(part, dict) else array("d", part) for part in segmentation)
    except TypeError as error:
        raise DatasetError(f"{where}: a polygon is not a list of numbers ({error})") from error


def unpack_region(region: Any, size_hw: tuple[int, int], where: str) -> np.ndarray:
    """The pixels of a packed region, bool (H, W).

    Raises:
        DatasetError: it is malformed.
    """
    if isinstance(region, tuple):
        region = [part.tolist() if isinstance(part, array) else part for part in region]
    return regions_to_mask(region, size_hw, where)


def parse_box(bbox: Any, where: str) -> Box | None:
    """COCO's ``bbox`` x, y, width, height as corners.

    Raises:
        DatasetError: not four numbers.
    """
    if bbox is None:
        return None
    try:
        x, y, width, height = (float(value) for value in bbox)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{where}: the bbox is {bbox!r:.60}; it should be x, y, width, height") from error
    return x, y, x + width, y + height
