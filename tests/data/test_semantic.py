"""Sets with a class for every pixel: COCO-Stuff on its miniature, the others on small trees in their layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unipixel.data.readers import semantic
from unipixel.data.readers.semantic import ADE20K, COCO_STUFF, MAPILLARY
from unipixel.data.records import Record
from unipixel.errors import DatasetError
from unipixel.sample import Sample


def test_class_lists_have_their_official_lengths_and_places() -> None:
    assert (len(ADE20K), len(COCO_STUFF), len(MAPILLARY)) == (150, 182, 124)
    assert (ADE20K[0], ADE20K[12], ADE20K[149]) == ("wall", "person", "flag")
    assert (COCO_STUFF[0], COCO_STUFF[89], COCO_STUFF[91], COCO_STUFF[181]) == (
        "person",
        "toothbrush",
        "banner",
        "wood",
    )
    assert (MAPILLARY[0], MAPILLARY[21], MAPILLARY[108], MAPILLARY[123]) == ("bird", "road", "car", "unlabeled")
    assert all(name and name == name.strip() for name in ADE20K + COCO_STUFF + MAPILLARY)


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_class_of_a_coco_stuff_photo_is_one_object(miniatures: Path, split: str) -> None:
    records = semantic.read_records(miniatures, "cocostuff", split)
    assert len(records) == len(list((miniatures / f"lisa/cocostuff/{split}2017").glob("*.png"))) > 0
    for record in records[:8]:
        sample = semantic.read_sample(record)
        values = np.asarray(Image.open(miniatures / record.raw[0]))
        wanted = [v for v in np.unique(values).tolist() if v != 255 and "-" not in COCO_STUFF[v]]
        assert list(sample.objects) == [value + 1 for value in wanted]
        assert [query.text for query in sample.queries] == [COCO_STUFF[value] for value in wanted]
        assert all(np.array_equal(sample.objects[v + 1].mask(0), values == v) for v in wanted)


def test_people_and_plain_stuff_are_kept_and_catch_all_classes_left_out(miniatures: Path) -> None:
    asked = {
        query.text
        for split in ("train", "val")
        for record in semantic.read_records(miniatures, "cocostuff", split)
        for query in semantic.read_sample(record).queries
    }
    assert {"person", "grass", "dirt", "fence"} <= asked
    assert not any("-" in text for text in asked)


Write = Callable[..., Path]


@pytest.fixture
def write_labels(tmp_path: Path) -> Write:
    """Writes rows of class numbers as a PNG of 3 x 4."""

    def write(name: str, *rows: list[int], dtype: Any = np.uint8) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array(rows, dtype=dtype)).save(path)
        return path

    return write


def only_sample(root: Path, dataset: str, split: str = "train") -> Sample:
    (record,) = semantic.read_records(root, dataset, split)
    return semantic.read_sample(record)


def test_ade20k_counts_its_classes_from_one(tmp_path: Path, write_picture: Write, write_labels: Write) -> None:
    write_picture("lisa/ade20k/images/training/ADE_train_1.jpg", (3, 4))
    write_labels("lisa/ade20k/annotations/training/ADE_train_1.png", [0, 0, 1, 1], [150, 150, 1, 1], [255, 3, 3, 3])
    sample = only_sample(tmp_path, "ade20k")
    assert [(query.text, query.targets) for query in sample.queries] == [
        ("wall", (1,)),
        ("sky", (3,)),
        ("flag", (150,)),
    ]
    assert {number: int(track.areas[0]) for number, track in sample.objects.items()} == {1: 4, 3: 3, 150: 2}


def test_mapillary_takes_its_names_from_its_own_file(
    tmp_path: Path, write_picture: Write, write_labels: Write, write_json: Write
) -> None:
    write_picture("lisa/mapillary/validation/images/x.jpg", (3, 4))
    write_labels("lisa/mapillary/validation/v2.0/labels/x.png", [0, 0, 1, 1], [123, 123, 1, 1], [255, 0, 0, 0])
    assert [query.text for query in only_sample(tmp_path, "mapillary", "val").queries] == ["bird", "ground animal"]
    write_json("lisa/mapillary/config_v2.0.json", {"labels": [{"readable": "Pigeon"}, {"readable": "Moose"}]})
    sample = only_sample(tmp_path, "mapillary", "val")
    assert [(query.text, query.targets) for query in sample.queries] == [("pigeon", (1,)), ("moose", (2,))]


def test_wrong_trees_are_named(tmp_path: Path, write_picture: Write, write_labels: Write) -> None:
    labels, images = "lisa/ade20k/annotations/validation", "lisa/ade20k/images/validation"
    with pytest.raises(DatasetError, match=r"ade20k: the folder .*validation does not exist"):
        semantic.read_records(tmp_path, "ade20k", "val")
    path = write_labels(f"{labels}/a.png", [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 151])
    (tmp_path / images).mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"1 of 1 photos are missing.*a\.jpg"):
        semantic.read_records(tmp_path, "ade20k", "val")
    write_picture(f"{images}/a.jpg", (6, 8))
    (record,) = semantic.read_records(tmp_path, "ade20k", "val")
    with pytest.raises(DatasetError, match=r"ade20k/val a: .* is for 3 x 4 pixels .*has 6 x 8"):
        semantic.read_sample(record)
    write_picture(f"{images}/a.jpg", (3, 4))
    with pytest.raises(DatasetError, match="holds the value 151, but there are 150 classes"):
        semantic.read_sample(record)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(DatasetError, match=r"ade20k/val a: .*not a readable mask image"):
        semantic.read_sample(record)
    path.unlink()
    with pytest.raises(DatasetError, match="holds no PNG of classes"):
        semantic.read_records(tmp_path, "ade20k", "val")


def test_the_original_s_list_of_what_is_left_out_is_shifted_by_one(miniatures: Path) -> None:
    names = semantic._SOURCES["cocostuff"].names
    for split in ("train", "val"):
        for ours, theirs in zip(
            *(make(miniatures, "cocostuff", split) for make in (semantic.read_records, semantic.read_original_records)),
            strict=True,
        ):
            present = set(np.unique(np.asarray(Image.open(miniatures / ours.raw[0]))).tolist()) - {255}
            catch_alls = {value for value in present if "-" in names[value]}
            assert _values(ours, names) == present - catch_alls
            shifted = {0} | {value + 1 for value, name in enumerate(names) if "-" in name}
            assert _values(theirs, names) == present - shifted


def _values(record: Record, names: tuple[str, ...]) -> set[int]:
    return {names.index(query.text) for query in semantic.read_sample(record).queries}
