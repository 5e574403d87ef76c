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

from unipixel.data.readers import sav
from unipixel.errors import DatasetError

DESCRIPTIONS = "ref_sav/Ref-SAV-Min-Ratio-0.3.json"


def described(miniatures: Path) -> dict[str, Any]:
    """The file of descriptions, read here without any code of ours."""
    return json.loads((miniatures / DESCRIPTIONS).read_bytes())


@pytest.fixture
def shortest(miniatures: Path) -> str:
    """The id of the video with the fewest masks."""
    folder = miniatures / "sav/sav_train/sav_000"
    return min(
        described(miniatures), key=lambda v: len(json.loads((folder / f"{v}_manual.json").read_bytes())["masklet"])
    )


@pytest.fixture
def one_video(miniatures: Path, shortest: str, tmp_path: Path) -> Path:
    """A copy of the shortest video, called ``v``, with the description of one object and its masks."""
    folder = tmp_path / "sav/sav_train/sav_000"
    folder.mkdir(parents=True)
    for ending in (".mp4", "_manual.json"):
        shutil.copyfile(miniatures / f"sav/sav_train/sav_000/{shortest}{ending}", folder / f"v{ending}")
    value = json.loads(json.dumps(described(miniatures)[shortest]).replace(shortest, "v"))
    value["objects"] = dict(list(value["objects"].items())[:1])
    (tmp_path / "ref_sav").mkdir()
    (tmp_path / DESCRIPTIONS).write_text(json.dumps({"v": value}), encoding="utf-8")
    return tmp_path


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes), encoding="utf-8")


def test_every_described_object_is_a_record(miniatures: Path) -> None:
    records = sav.read_records(miniatures, "ref_sav", "train")
    told = [f"{video}/{key}" for video, value in described(miniatures).items() for key in value["objects"]]
    assert [record.id for record in records] == told
    assert all(record.num_frames is None and record.data_type == "seg_video" for record in records)


def test_every_fourth_frame_of_the_video_has_its_mask(miniatures: Path, one_video: Path) -> None:
    (record,) = sav.read_records(one_video, "ref_sav", "train")
    sample = sav.read_sample(record)
    folder = one_video / "sav/sav_train/sav_000"
    with av.open(str(folder / "v.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    masks = json.loads((folder / "v_manual.json").read_bytes())["masklet"]
    assert sample.media.num_frames == len(masks) >= 10 and len(frames) == 4 * len(masks)
    assert sample.media.frame_indices == tuple(range(0, len(frames), 4))
    np.testing.assert_array_equal(sample.media.frame(3), frames[12])
    (key, described_object), *_ = json.loads((one_video / DESCRIPTIONS).read_bytes())["v"]["objects"].items()
    expected = np.moveaxis(coco.decode([objects[int(key)] for objects in masks]), 2, 0) > 0
    np.testing.assert_array_equal(sample.objects[1].masks, expected)
    (query,) = sample.queries
    assert query.kind == "description" and query.targets == (1,) and query.text == described_object["formated"]


def test_chosen_frames_are_counted_in_the_clip(one_video: Path) -> None:
    (record,) = sav.read_records(one_video, "ref_sav", "train")
    whole, part = sav.read_sample(record), sav.read_sample(record, [9, 2])
    assert part.media.frame_indices == (36, 8)
    np.testing.assert_array_equal(part.media.frames(), whole.media.frames([9, 2]))
    np.testing.assert_array_equal(part.objects[1].masks, whole.objects[1].masks[[9, 2]])
    count = whole.media.num_frames
    with pytest.raises(ValueError, match=f"frame {count} was asked for; the clip has frames 0 to {count - 1}"):
        sav.read_sample(record, [count])


def test_the_evaluation_split_is_read_as_videos_with_expressions(miniatures: Path) -> None:
    record = sav.read_records(miniatures, "ref_sav", "valid")[0]
    sample = sav.read_sample(record, [0, 1])
    (video, *_) = json.loads((miniatures / "ref_sav/valid/meta_expressions_valid.json").read_bytes())["videos"]
    assert record.id == f"{video}/0" and sample.queries[0].kind == "description"
    assert sample.objects[1].num_frames == 2


def test_an_unknown_split_is_refused(miniatures: Path) -> None:
    with pytest.raises(DatasetError, match="ref_sav has no split 'test'"):
        sav.read_records(miniatures, "ref_sav", "test")


def test_a_video_one_frame_short_is_cut_and_a_shorter_one_refused(one_video: Path) -> None:
    path = one_video / "sav/sav_train/sav_000/v_manual.json"
    masks = json.loads(path.read_bytes())["masklet"]
    (record,) = sav.read_records(one_video, "ref_sav", "train")
    for length in (len(masks) - 1, len(masks) + 1):
        edited(path, masklet=(masks * 2)[:length])
        assert (
            sav.read_sample(record).media.num_frames
            == sav.read_sample(record).objects[1].num_frames
            == min(length, len(masks))
        )
    edited(path, masklet=masks[:5])
    with pytest.raises(
        DatasetError, match=rf"masks for 5 frames, but every 4th frame of the video makes {len(masks)}.*fetch"
    ):
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
    video = json.loads((one_video / DESCRIPTIONS).read_bytes())["v"] | changes
    (one_video / DESCRIPTIONS).write_text(json.dumps({"v": video}), encoding="utf-8")
    with pytest.raises(DatasetError, match=rf"ref_sav/train: .*Ratio-0\.3\.json, video 'v'.*{told}"):
        sav.read_records(one_video, "ref_sav", "train")


@pytest.mark.parametrize("name", ["v.mp4", "v_manual.json"])
def test_missing_and_truncated_files_are_named(one_video: Path, name: str) -> None:
    path = one_video / "sav/sav_train/sav_000" / name
    (record,) = sav.read_records(one_video, "ref_sav", "train")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DatasetError, match=rf"ref_sav/train v/0: .*{name}.*fetch it again"):
        sav.read_sample(record)
    path.unlink()
    with pytest.raises(DatasetError, match=rf"{name} does not exist; `unipixel data check ref_sav`"):
        sav.read_sample(record)


def test_masks_of_another_size_than_the_video_are_refused(one_video: Path) -> None:
    path = one_video / "sav/sav_train/sav_000/v_manual.json"
    value = json.loads(path.read_bytes())
    height, width = int(value["video_height"]), int(value["video_width"])
    empty = {"size": [height // 2, width // 2], "counts": [(height // 2) * (width // 2)]}
    half = {"video_height": height / 2, "video_width": width / 2}
    edited(path, masklet=[[empty]] * len(value["masklet"]), **half)
    (record,) = sav.read_records(one_video, "ref_sav", "train")
    told = rf"masks are {height // 2} x {width // 2} .*video {height} x {width}"
    with pytest.raises(DatasetError, match=told):
        sav.read_sample(record)
