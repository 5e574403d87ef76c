"""ViCaS: requests for objects of a video's caption."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from unipixel.data.readers import vicas
from unipixel.errors import DatasetError

ALL = "vicas/annotations/annotations_wo_masks_v1.0.json"


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def copied(miniatures: Path, tmp_path: Path) -> Path:
    shutil.copytree(miniatures / "vicas", tmp_path / "vicas")
    return tmp_path


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_referral_of_the_split_is_a_record_with_its_masks(miniatures: Path, split: str) -> None:
    records = vicas.read_records(miniatures, "vicas", split)
    assert [record.id for record in records] == [
        f"{video:06d}/0" for video in read(miniatures / f"vicas/splits/v1.0/{split}.json")
    ]
    annotations = read(miniatures / ALL)
    for record in records:
        video = record.id[:6]
        sample = vicas.read_sample(record)
        masks = read(miniatures / f"vicas/masks/{video}/0.json")
        blank = np.zeros(sample.media.size_hw, dtype=bool)
        expected = np.stack([blank if rle is None else coco.decode(rle) > 0 for rle, *_ in masks])
        np.testing.assert_array_equal(sample.objects[1].masks, expected)
        frames = [frame["filename"] for frame in annotations[video]["segmentations"]]
        assert record.frame_names == tuple(f"vicas/video_frames/{video}/{frame}" for frame in frames)
        (query,) = sample.queries
        assert query.kind == "sentence" and query.targets == (1,)
        assert query.text == annotations[video]["object_referrals"][0]["prompt"]


def test_chosen_frames_have_their_own_masks(miniatures: Path) -> None:
    record = vicas.read_records(miniatures, "vicas", "train")[0]
    whole, part = vicas.read_sample(record), vicas.read_sample(record, [5, 1])
    np.testing.assert_array_equal(part.media.frames(), whole.media.frames([5, 1]))
    np.testing.assert_array_equal(part.objects[1].masks, whole.objects[1].masks[[5, 1]])


@pytest.mark.parametrize("folder", ["vicas/annotations", "vicas/annotations/v1.0"])
def test_the_authors_own_files_with_masks_inside_give_the_same_samples(copied: Path, folder: str) -> None:
    before = [vicas.read_sample(record) for record in vicas.read_records(copied, "vicas", "train")]
    (copied / folder).mkdir(exist_ok=True)
    size = list(before[0].media.size_hw)
    for video, value in read(copied / ALL).items():
        for frame, rles in zip(value["segmentations"], read(copied / f"vicas/masks/{video}/0.json"), strict=True):
            # Track 9 is another object, which no referral means.
            frame["track_ids"], frame["mask_rles"] = [9, 1], [{"size": size, "counts": [0, size[0] * size[1]]}, *rles]
        write(copied / folder / f"{video}.json", value)
    (copied / ALL).unlink()
    shutil.rmtree(copied / "vicas/masks")
    records = vicas.read_records(copied, "vicas", "train")
    for record, expected in zip(records, before, strict=True):
        sample = vicas.read_sample(record)
        np.testing.assert_array_equal(sample.objects[1].masks, expected.objects[1].masks)
        assert sample.queries == expected.queries
    path = copied / folder / "000001.json"
    value = read(path)
    value["segmentations"][2]["mask_rles"].pop()
    write(path, value)
    with pytest.raises(DatasetError, match=r"000001\.json, frame 2: 1 masks for 2 tracks"):
        vicas.read_sample(records[0])
    del value["segmentations"][2]["mask_rles"]
    write(path, value)
    with pytest.raises(DatasetError, match=r"masks/000001/0\.json does not exist; `unipixel data check vicas`"):
        vicas.read_sample(records[0])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vicas/splits/v1.0/train.json", r"vicas/train: .*train\.json does not exist; `unipixel data check vicas`"),
        (ALL, r"vicas/train: .*annotations_wo_masks_v1\.0\.json does not exist; `unipixel data check vicas`"),
        ("vicas/masks/000001/0.json", r"vicas/train 000001/0: .*0\.json does not exist; `unipixel data check vicas`"),
        (
            "vicas/video_frames/000001/00003.jpg",
            r"vicas/train 000001/0: .*00003\.jpg does not exist; `unipixel data check",
        ),
    ],
)
def test_missing_files_are_named_with_the_remedy(copied: Path, name: str, told: str) -> None:
    (copied / name).unlink()
    with pytest.raises(DatasetError, match=told):
        for record in vicas.read_records(copied, "vicas", "train"):
            vicas.read_sample(record)


@pytest.mark.parametrize("name", ["vicas/splits/v1.0/train.json", ALL, "vicas/masks/000001/0.json"])
def test_truncated_files_are_named_with_the_remedy(copied: Path, name: str) -> None:
    path = copied / name
    path.write_bytes(path.read_bytes()[: min(200, path.stat().st_size - 1)])
    with pytest.raises(DatasetError, match=rf"vicas/train.*{Path(name).name} is not valid JSON.*fetch it again"):
        for record in vicas.read_records(copied, "vicas", "train"):
            vicas.read_sample(record)


def test_wrong_files_are_named_with_what_would_be_right(copied: Path) -> None:
    record = vicas.read_records(copied, "vicas", "train")[0]
    write(copied / "vicas/masks/000001/0.json", [None, None])
    with pytest.raises(
        DatasetError, match=rf"000001/0\.json holds the masks of 2 frames; the video has {record.num_frames}"
    ):
        vicas.read_sample(record)
    write(copied / "vicas/splits/v1.0/val.json", [77])
    with pytest.raises(DatasetError, match=r"video 000077: the split names it, but it is not among the 3 annotated"):
        vicas.read_records(copied, "vicas", "val")
    write(copied / "vicas/splits/v1.0/val.json", ["seven"])
    with pytest.raises(DatasetError, match="should hold the numbers of videos"):
        vicas.read_records(copied, "vicas", "val")
    with pytest.raises(DatasetError, match="vicas has no split 'dev'; it has train, val, test"):
        vicas.read_records(copied, "vicas", "dev")
