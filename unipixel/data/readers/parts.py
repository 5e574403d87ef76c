"""PACO-LVIS and Pascal-Part: objects and their parts, by name.

Layout: ``data/lisa/vlpart/paco/annotations/paco_lvis_v1_{train,val}.json`` with photos in ``data/lisa/coco``, and
``data/lisa/vlpart/pascal_part/train.json`` with photos in
``data/lisa/vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages``. Both are COCO instance files; PACO's ``file_name`` begins
with the folder (``train2017/000000000009.jpg``). An annotation and its category::

    {"id": 861, "image_id": 6460, "category_id": 1057, "segmentation": <RLE or polygons>, "bbox": [137, 63, 9, 56]}
    {"id": 1057, "name": "bottle:cap"}              an object alone: {"id": 4, "name": "glass_(drink_container)"}

Records: one per photo, with a query per name that occurs in it: of kind ``part`` with the text ``whole:part``, or of
kind ``query`` with the name. Objects are numbered 1, 2, ... in the order of the queries.

Known defects, and what is done about them:

* A photo often has several objects of one name, and a name says nothing about which is meant. The released loader asks
  for each annotation alone, so that one question has several right answers in its training data; here the annotations
  of one name are one object, their union. `read_original_records` asks as the released loader does.
* Names carry the senses of LVIS (``glass_(drink_container)``) and underscores: the sense is cut off, underscores
  become spaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unipixel.data.coco_files import parse_instance, read_instances, unpack_region
from unipixel.data.files import get_field
from unipixel.data.frames import open_picture, repeat_mask
from unipixel.data.records import Dataset, Instance, Record
from unipixel.errors import DatasetError
from unipixel.sample import Query, Sample

_FILES = {
    "paco_lvis": ("lisa/vlpart/paco/annotations/paco_lvis_v1_{}.json", "lisa/coco"),
    "pascal_part": ("lisa/vlpart/pascal_part/{}.json", "lisa/vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages"),
}
"""Annotations and photos by dataset."""


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """The records of a split: the photos that have an annotation.

    Raises:
        DatasetError: the annotation file is missing, damaged or not in COCO's layout.
    """
    return _group_by_photo(root, dataset, split, by_name=True)


def read_original_records(root: Path, dataset: str, split: str) -> list[Record]:
    """The records with a query for every annotation, as in the released loader.

    Raises:
        DatasetError: as `index`.
    """
    return _group_by_photo(root, dataset, split, by_name=False)


def _group_by_photo(root: Path, dataset: str, split: str, *, by_name: bool) -> list[Record]:
    annotations, photos = _FILES[dataset]
    path = root / annotations.format(split)
    pictures, rows, categories = read_instances(path, dataset)
    texts = {key: _format_query(name) for key, name in categories.items()}
    queries: dict[object, list[tuple[str, list[Instance]]]] = {}
    for number, annotation in enumerate(rows):
        where = f"{dataset}: {path}, annotation {number}"
        image_id = get_field(annotation, "image_id", where)
        if image_id not in pictures:
            raise DatasetError(f"{where}: image {image_id!r} is not among the file's {len(pictures)} images")
        one = parse_instance(annotation, texts, where)
        found = queries.setdefault(image_id, [])
        same = next((members for text, members in found if text == one.name), None) if by_name else None
        if same is None:
            found.append((one.name, [one]))
        else:
            same.append(one)
    return [
        Record(
            dataset=dataset,
            split=split,
            id=str(image_id),
            data_type="seg_image",
            root=root,
            frame_names=(f"{photos}/{picture.frames[0]}",),
            raw=(picture.size_hw, queries[image_id]),
        )
        for image_id, picture in pictures.items()
        if image_id in queries
    ]


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """A photo with the names of its objects and parts.

    Raises:
        DatasetError: the photo is missing, damaged or of another size, or a mask malformed.
    """
    size_hw, asked = record.raw
    media = open_picture(record, frames, size_hw)
    objects, queries = {}, []
    for object_id, (text, instances) in enumerate(asked, start=1):
        mask = np.zeros(size_hw, dtype=bool)
        for one in instances:
            mask |= unpack_region(one.regions[0], size_hw, f"{record.source}, annotation {one.id}")
        objects[object_id] = repeat_mask(mask, media.num_frames)
        queries.append(Query(kind="part" if ":" in text else "query", text=text, targets=(object_id,)))
    return Sample(media=media, objects=objects, queries=tuple(queries), source=record.source)


def _format_query(name: str) -> str:
    """A category's name as a query has it."""
    return ":".join(half.split("_(")[0].replace("_", " ").strip() for half in name.split(":", 1))


DATASETS = {
    name: Dataset(
        title=title,
        paper=paper,
        licence=licence,
        home=home,
        teaches=teaches,
        splits=splits,
        files={split: (_FILES[name][0].format(split), _FILES[name][1]) for split in splits},
        index=read_records,
        sample=read_sample,
        original=read_original_records,
    )
    for name, title, paper, licence, home, teaches, splits in (
        (
            "paco_lvis",
            "PACO-LVIS",
            "arXiv 2301.01795",
            "MIT; photos Flickr",
            "github.com/facebookresearch/paco; photos: cocodataset.org, train2017 and val2017",
            "names of objects and parts -> masks",
            ("train", "val"),
        ),
        (
            "pascal_part",
            "Pascal-Part",
            "arXiv 1406.2031",
            "none stated; photos Flickr",
            "github.com/facebookresearch/VLPart (train.json); photos: PASCAL VOC 2010",
            "names of parts -> masks",
            ("train",),
        ),
    )
}
