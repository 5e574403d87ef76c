"""RefCOCO and its kin, on the miniatures and on small trees with defects."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from unipixel.data.readers import refer
from unipixel.data.records import Record
from unipixel.errors import DatasetError

SPLITS = [
    *((dataset, split) for dataset in ("refcoco", "refcoco+") for split in ("train", "val", "testB")),
    ("refcoco", "testA"),
    ("refcocog", "val"),
    ("refcocog", "test"),
    *(("refclef", split) for split in ("train", "val", "test")),
]


def annotated(miniatures: Path, dataset: str) -> tuple[dict[int, Any], list[dict[str, Any]]]:
    """Annotations by id and references, read here without any code of ours."""
    folder = miniatures / "lisa" / "refer_seg" / dataset
    (path,) = folder.glob("refs(*).p")
    annotations = {a["id"]: a for a in json.loads((folder / "instances.json").read_bytes())["annotations"]}
    return annotations, pickle.loads(path.read_bytes(), encoding="latin1")


@pytest.mark.parametrize(("dataset", "split"), SPLITS)
def test_every_sentence_of_a_miniature_is_found_once(miniatures: Path, dataset: str, split: str) -> None:
    records = refer.read_records(miniatures, dataset, split)
    _, references = annotated(miniatures, dataset)
    letter = split[-1] if split in ("testA", "testB") else split
    own = [r for r in references if (letter in r["split"] if letter in "AB" else r["split"] == split)]
    sentences = sum(len(r["sentences"]) for r in own)
    photos = len({r["image_id"] for r in own})
    assert own and sum(len(record.raw[1]) for record in records) == sentences
    assert len(records) == (photos if split == "train" else sentences)
    assert len({record.id for record in records}) == len(records)
    assert all(record.num_frames == 1 and record.data_type == "seg_image" for record in records)


@pytest.mark.parametrize("dataset", ["refcoco", "refcocog", "refclef"])
def test_masks_and_boxes_are_those_of_the_annotation_file(miniatures: Path, dataset: str) -> None:
    annotations, listed = annotated(miniatures, dataset)
    references = {r["ref_id"]: r for r in listed}
    for record in refer.read_records(miniatures, dataset, "val"):
        sample = refer.read_sample(record)
        ref_id, number = map(int, record.id.split("/"))
        annotation = annotations[references[ref_id]["ann_id"]]
        assert sample.queries[0].text == references[ref_id]["sentences"][number]["sent"]
        assert sample.queries[0].targets == (1,) and sample.source == record.source
        regions = annotation["segmentation"]
        rles = regions if isinstance(regions[0], dict) else coco.frPyObjects(regions, *sample.media.size_hw)
        assert np.array_equal(sample.objects[1].mask(0), coco.decode(coco.merge(rles)).astype(bool))
        x, y, width, height = annotation["bbox"]
        assert sample.boxes[1] == (x, y, x + width, y + height)


def test_training_records_share_a_photo_and_number_its_objects(miniatures: Path) -> None:
    record = max(refer.read_records(miniatures, "refcoco", "train"), key=lambda r: len(r.raw[0].objects))
    sample, numbers = refer.read_sample(record), list(range(1, len(record.raw[0].objects) + 1))
    assert len(numbers) > 1 and list(sample.objects) == numbers and list(sample.boxes) == numbers
    assert {query.targets for query in sample.queries} == {(number,) for number in numbers}
    for number, box in sample.boxes.items():
        # Boxes and outlines were annotated apart and rounded: they agree to a few pixels.
        assert np.abs(sample.objects[number].boxes[0] - box).max() < 4


def test_a_photo_can_be_asked_for_as_a_clip_that_repeats_it(miniatures: Path) -> None:
    record = refer.read_records(miniatures, "refcoco", "val")[0]
    sample = refer.read_sample(record, [0, 0])
    assert sample.media.num_frames == 2 and sample.objects[1].num_frames == 2 and not sample.media.is_video
    with pytest.raises(ValueError, match="frame 1 was asked for"):
        refer.read_sample(record, [1])


@pytest.mark.parametrize(
    ("own", "wanted"),
    [("testA", "testA"), ("testAB", "testA"), ("testAB", "testB"), ("test", "test"), ("testB", "test"), ("val", "val")],
)
def test_test_parts_are_told_by_their_letters(own: str, wanted: str) -> None:
    assert refer._is_in_split(own, wanted)
    assert not refer._is_in_split("train", wanted) and not refer._is_in_split(own, "train")
    assert not refer._is_in_split("testB", "testA") and not refer._is_in_split("test", "testA")


Tree = Callable[..., list[Record]]


@pytest.fixture
def tree(tmp_path: Path, write_json: Callable[[str, Any], Path], write_picture: Callable[..., Path]) -> Tree:
    """A RefCLEF of one photo, 12 x 16, written with some fields changed, and its index."""

    def build(split: str = "train", references: Any = None, **annotation: Any) -> list[Record]:
        write_picture("lisa/refer_seg/images/saiapr_tc-12/1.jpg")
        one = {"id": 5, "image_id": 1, "category_id": 2, "bbox": [4, 2, 6, 5], **annotation}
        one.setdefault("segmentation", [[4, 2, 10, 2, 10, 7, 4, 7]])
        document = {
            "images": [{"id": 1, "file_name": "1.jpg", "height": 12, "width": 16}],
            "annotations": [one],
            "categories": [{"id": 2, "name": "hat"}],
        }
        path = write_json("lisa/refer_seg/refclef/instances.json", document)
        sentences = [{"sent": "the hat", "sent_id": 0}, {"sent": "red hat", "sent_id": 1}]
        reference = {"ref_id": 3, "ann_id": 5, "image_id": 1, "split": split, "sentences": sentences}
        value = [reference, {**reference, "ref_id": 4}] if references is None else references
        (path.parent / "refs(unc).p").write_bytes(pickle.dumps(value, protocol=2))
        return refer.read_records(tmp_path, "refclef", split)

    return build


def test_two_references_to_one_annotation_share_an_object(tree: Tree) -> None:
    (record,) = tree("train")
    sample = refer.read_sample(record)
    assert list(sample.objects) == [1] and [query.targets for query in sample.queries] == [(1,)] * 4
    assert sample.objects[1].areas[0] == 30


def test_a_bare_rle_is_read_like_a_list_of_one(tree: Tree) -> None:
    mask = np.zeros((12, 16), dtype=np.uint8, order="F")
    mask[3:6, 4:9] = 1
    rle = coco.encode(mask)
    rle = {"size": rle["size"], "counts": rle["counts"].decode()}
    for segmentation in (rle, [rle]):
        sample = refer.read_sample(tree("val", segmentation=segmentation)[0])
        assert np.array_equal(sample.objects[1].mask(0), mask.astype(bool))


def test_damaged_files_are_named(tree: Tree, tmp_path: Path) -> None:
    tree("train")
    folder = tmp_path / "lisa" / "refer_seg" / "refclef"
    path = folder / "refs(unc).p"
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    with pytest.raises(DatasetError, match=r"refclef: .*refs\(unc\)\.p is not a readable pickle"):
        refer.read_records(tmp_path, "refclef", "train")
    path.write_bytes(pickle.dumps([Path("x")]))
    with pytest.raises(DatasetError, match="only plain data is accepted"):
        refer.read_records(tmp_path, "refclef", "train")
    path.write_bytes(whole)
    (folder / "instances.json").write_text('{"images": [', encoding="utf-8")
    with pytest.raises(DatasetError, match=r"instances\.json is not valid JSON"):
        refer.read_records(tmp_path, "refclef", "train")
    (folder / "instances.json").unlink()
    with pytest.raises(DatasetError, match=r"instances\.json does not exist.*unipixel data check refclef"):
        refer.read_records(tmp_path, "refclef", "train")


def test_references_that_lead_nowhere_are_refused(tree: Tree) -> None:
    with pytest.raises(DatasetError, match="has no reference of the split 'val'"):
        tree("val", references=[])
    with pytest.raises(DatasetError, match="annotation 9 is not in"):
        tree("val", references=[{"ref_id": 1, "ann_id": 9, "image_id": 1, "split": "val", "sentences": []}])
    with pytest.raises(DatasetError, match="image 7 is not in"):
        tree("val", references=[{"ref_id": 1, "ann_id": 5, "image_id": 7, "split": "val", "sentences": []}])
    with pytest.raises(DatasetError, match="reference 0: the field 'split' is missing"):
        tree("val", references=[{}])


def test_photos_of_another_size_and_malformed_masks_are_refused(
    tree: Tree, tmp_path: Path, write_picture: Callable[..., Path]
) -> None:
    (record, *_) = tree("val", segmentation=[[1, 2]])
    with pytest.raises(DatasetError, match=r"refclef/val 3/0, annotation 5.*polygon"):
        refer.read_sample(record)
    with pytest.raises(DatasetError, match="a polygon is not a list of numbers"):
        tree("val", segmentation=[["a", "b"]])
    (record, *_) = tree("val")
    photo = write_picture("lisa/refer_seg/images/saiapr_tc-12/1.jpg", (24, 32))
    with pytest.raises(DatasetError, match=r"is for 12 x 16 pixels .*has 24 x 32"):
        refer.read_sample(record)
    photo.write_bytes(photo.read_bytes()[:60])
    with pytest.raises(DatasetError, match=r"refclef/val 3/0: .*1\.jpg"):
        refer.read_sample(record)
    photo.unlink()
    with pytest.raises(DatasetError, match=r"1\.jpg does not exist"):
        refer.read_sample(record)
