"""PACO-LVIS and Pascal-Part, on the miniatures and on a small tree with defects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from unipixel.data.readers import parts
from unipixel.errors import DatasetError

FILES = {
    "paco_lvis": "lisa/vlpart/paco/annotations/paco_lvis_v1_train.json",
    "pascal_part": "lisa/vlpart/pascal_part/train.json",
}


@pytest.mark.parametrize("dataset", FILES)
def test_every_name_of_a_photo_is_one_query(miniatures: Path, dataset: str) -> None:
    records = parts.read_records(miniatures, dataset, "train")
    annotations = json.loads((miniatures / FILES[dataset]).read_bytes())["annotations"]
    photos = {one["image_id"] for one in annotations}
    names = {(one["image_id"], one["category_id"]) for one in annotations}
    assert (len(records), sum(len(record.raw[1]) for record in records)) == (len(photos), len(names))
    assert len({record.id for record in records}) == len(photos) > 0


@pytest.mark.parametrize("dataset", FILES)
def test_masks_are_the_union_of_the_annotations_of_a_name(miniatures: Path, dataset: str) -> None:
    document = json.loads((miniatures / FILES[dataset]).read_bytes())
    names = {category["id"]: category["name"] for category in document["categories"]}
    for record in parts.read_records(miniatures, dataset, "train")[:10]:
        sample = parts.read_sample(record)
        unions: dict[str, Any] = {}
        for annotation in document["annotations"]:
            if annotation["image_id"] == int(record.id):
                mask = coco.decode(annotation["segmentation"]).astype(bool)
                name = names[annotation["category_id"]]
                unions[name] = unions.get(name, False) | mask
        assert len(sample.queries) == len(unions) == len(sample.objects)
        for query, union in zip(sample.queries, unions.values(), strict=True):
            assert np.array_equal(sample.objects[query.targets[0]].mask(0), union)


@pytest.mark.parametrize("dataset", FILES)
def test_the_original_asks_for_every_annotation_by_itself(miniatures: Path, dataset: str) -> None:
    document = json.loads((miniatures / FILES[dataset]).read_bytes())
    for record in parts.read_original_records(miniatures, dataset, "train")[:10]:
        own = [one for one in document["annotations"] if one["image_id"] == int(record.id)]
        sample = parts.read_sample(record)
        assert len(sample.queries) == len(own)
        for query, annotation in zip(sample.queries, own, strict=True):
            mask = coco.decode(annotation["segmentation"]).astype(bool)
            assert np.array_equal(sample.objects[query.targets[0]].mask(0), mask)


def test_parts_are_told_from_wholes_by_the_colon(miniatures: Path) -> None:
    samples = [parts.read_sample(record) for record in parts.read_records(miniatures, "pascal_part", "train")[:4]]
    kinds = {(query.kind, ":" in query.text) for sample in samples for query in sample.queries}
    assert kinds == {("part", True), ("query", False)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("glass_(drink_container)", "glass"),
        ("monitor_(computer_equipment) computer_monitor", "monitor"),
        ("trash_can:rim", "trash can:rim"),
        ("mouse_(computer_equipment):left_button", "mouse:left button"),
    ],
)
def test_senses_and_underscores_go(name: str, text: str) -> None:
    assert parts._format_query(name) == text


def test_wrong_files_are_named(tmp_path: Path, write_json: Callable[[str, Any], Path]) -> None:
    def index(**changed: Any) -> Any:
        document = {
            "images": [{"id": 1, "file_name": "1.jpg", "height": 12, "width": 16}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "segmentation": [[0, 0, 4, 0, 4, 4]]}],
            "categories": [{"id": 2, "name": "cat:tail"}],
            **changed,
        }
        write_json(FILES["pascal_part"], document)
        return parts.read_records(tmp_path, "pascal_part", "train")

    with pytest.raises(DatasetError, match=r"pascal_part: the file .*train\.json does not exist"):
        parts.read_records(tmp_path, "pascal_part", "train")
    (record,) = index()
    with pytest.raises(DatasetError, match=r"pascal_part/train 1: .*1\.jpg does not exist"):
        parts.read_sample(record)
    with pytest.raises(DatasetError, match="annotation 0: image 1 is not among the file's 0 images"):
        index(images=[])
    with pytest.raises(DatasetError, match="category 2 is not among"):
        index(categories=[])
    with pytest.raises(DatasetError, match="the field 'annotations' is 3; it should be list"):
        index(annotations=3)
    with pytest.raises(DatasetError, match="the field 'segmentation' is missing"):
        index(annotations=[{"id": 1, "image_id": 1, "category_id": 2}])
