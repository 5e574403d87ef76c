"""Ref-SAV: descriptions of objects in SA-V videos."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pycocotools import mask as coco

from unipixel.data import sav
from unipixel.errors import DatasetError

DESCRIPTIONS = "ref_sav/Ref-SAV-Min-Ratio-0.3.json"


@pytest.fixture
def one_video(miniatures: Path, tmp_path: Path) -> Path:
    """A copy of the shortest video with its description and masks."""
    folder = tmp_path / "sav/sav_train/sav_000"
    folder.mkdir(parents=True)
    for name in ("davis_car-shadow.mp4", "davis_car-shadow_manual.json"):
        shutil.copyfile(miniatures / "sav/sav_train/sav_000" / name, folder / name)
    videos = json.loads((miniatures / DESCRIPTIONS).read_bytes())
    (tmp_path / "ref_sav").mkdir()
    (tmp_path / DESCRIPTIONS).write_text(json.dumps({"davis_car-shadow": videos["davis_car-shadow"]}), encoding="utf-8")
    return tmp_path


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes), encoding="utf-8")


def test_every_described_object_is_a_record(miniatures: Path) -> None:
    records = sav.read_records(miniatures, "ref_sav", "train")
    assert [record.id for record in records] == ["davis_cows/0", "davis_car-shadow/0", "davis_goat/0"]
    assert all(record.num_frames is None and record.data_type == "seg_video" for record in records)


def test_every_fourth_frame_of_the_video_has_its_mask(miniatures: Path) -> None:
    record = sav.read_records(miniatures, "ref_sav", "train")[1]
    sample = sav.read_sample(record)
    folder = miniatures / "sav/sav_train/sav_000"
    with av.open(str(folder / "davis_car-shadow.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    masks = json.loads((folder / "davis_car-shadow_manual.json").read_bytes())["masklet"]
    assert sample.media.num_frames == len(masks) == 10 and len(frames) == 40
    assert sample.media.frame_indices == tuple(range(0, 40, 4))
    np.testing.assert_array_equal(sample.media.frame(3), frames[12])
    expected = np.moveaxis(coco.decode([objects[0] for objects in masks]), 2, 0) > 0
    np.testing.assert_array_equal(sample.objects[1].masks, expected)
    (query,) = sample.queries
    assert query.kind == "description" and query.targets == (1,) and query.text.startswith("A small silver car")


def test_chosen_frames_are_counted_in_the_clip(miniatures: Path) -> None:
    record = sav.read_records(miniatures, "ref_sav", "train")[1]
    whole, part = sav.read_sample(record), sav.read_sample(record, [9, 2])
    assert part.media.frame_indices == (36, 8)
    np.testing.assert_array_equal(part.media.frames(), whole.media.frames([9, 2]))
    np.testing.assert_array_equal(part.objects[1].masks, whole.objects[1].masks[[9, 2]])
    with pytest.raises(ValueError, match="frame 10 was asked for; the clip has frames 0 to 9"):
        sav.read_sample(record, [10])


def test_the_evaluation_split_is_read_as_videos_with_expressions(miniatures: Path) -> None:
    record = sav.read_records(miniatures, "ref_sav", "valid")[0]
    sample = sav.read_sample(record, [0, 1])
    assert record.id == "blackswan/0" and sample.queries[0].kind == "description" and sample.objects[1].num_frames == 2


def test_an_unknown_split_is_refused(miniatures: Path) -> None:
    with pytest.raises(DatasetError, match="ref_sav has no split 'test'"):
        sav.read_records(miniatures, "ref_sav", "test")


def test_a_video_one_frame_short_is_cut_and_a_shorter_one_refused(one_video: Path) -> None:
    path = one_video / "sav/sav_train/sav_000/davis_car-shadow_manual.json"
    masks = json.loads(path.read_bytes())["masklet"]
    (record,) = sav.read_records(one_video, "ref_sav", "train")
    for length in (9, 11):
        edited(path, masklet=(masks * 2)[:length])
        assert (
            sav.read_sample(record).media.num_frames == sav.read_sample(record).objects[1].num_frames == min(length, 10)
        )
    edited(path, masklet=masks[:5])
    with pytest.raises(DatasetError, match=r"masks for 5 frames, but every 4th frame of the video makes 10.*fetch"):
        sav.read_sample(record)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"video_path": "x/sav_val/v.mp4"}, r"a path is 'x/sav_val/v\.mp4'; it should be <folder>/sav_train"),
        ({"video_path": "x/sav_train/../../secret.mp4"}, "it should be <folder>/sav_train"),
        ({"anno_path": "x/sav_train/v_auto.json"}, r"_manual\.json"),
        ({"objects": {"first": {}}}, "an object is called 'first'"),
        ({"objects": {"0": {}}}, "object 0: the field 'formated' is missing"),
        ({"objects": []}, "the field 'objects' is"),
    ],
)
def test_malformed_descriptions_are_named(one_video: Path, changes: dict[str, Any], told: str) -> None:
    video = json.loads((one_video / DESCRIPTIONS).read_bytes())["davis_car-shadow"] | changes
    (one_video / DESCRIPTIONS).write_text(json.dumps({"davis_car-shadow": video}), encoding="utf-8")
    with pytest.raises(DatasetError, match=rf"ref_sav/train: .*Ratio-0\.3\.json, video 'davis_car-shadow'.*{told}"):
        sav.read_records(one_video, "ref_sav", "train")


@pytest.mark.parametrize("name", ["davis_car-shadow.mp4", "davis_car-shadow_manual.json"])
def test_missing_and_truncated_files_are_named(one_video: Path, name: str) -> None:
    path = one_video / "sav/sav_train/sav_000" / name
    (record,) = sav.read_records(one_video, "ref_sav", "train")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DatasetError, match=rf"ref_sav/train davis_car-shadow/0: .*{name}.*fetch it again"):
        sav.read_sample(record)
    path.unlink()
    with pytest.raises(DatasetError, match=rf"{name} does not exist; `unipixel data check ref_sav`"):
        sav.read_sample(record)


def test_masks_of_another_size_than_the_video_are_refused(one_video: Path) -> None:
    path = one_video / "sav/sav_train/sav_000/davis_car-shadow_manual.json"
    empty = {"size": [90, 160], "counts": [90 * 160]}
    edited(path, masklet=[[empty]] * 10, video_height=90.0, video_width=160.0)
    (record,) = sav.read_records(one_video, "ref_sav", "train")
    with pytest.raises(DatasetError, match=r"masks are 90 x 160 .*video 180 x 320"):
        sav.read_sample(record)
