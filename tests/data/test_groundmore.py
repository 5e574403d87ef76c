"""GroundMoRe: questions about actions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unipixel.data.readers import groundmore
from unipixel.errors import DatasetError

SIZE = (12, 16)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_test_clips_are_twenty_even_frames_with_masks_while_the_action_lasts(miniatures: Path) -> None:
    records = groundmore.read_records(miniatures, "groundmore", "test")
    videos = json.loads((miniatures / "groundmore/test_v2.json").read_bytes())["videos"]
    told = {f"{video}/{key}": value for video, one in videos.items() for key, value in one["questions"].items()}
    assert [record.id for record in records] == list(told)
    video, question = records[0].id.split("/")[0], told[records[0].id]
    folder = miniatures / "groundmore/annotations" / video
    count = len(list((folder / "images").iterdir()))
    numbers = [int(place) for place in np.linspace(0, count - 1, 20)]
    sample = groundmore.read_sample(records[0])
    assert records[0].frame_names == tuple(
        f"groundmore/annotations/{video}/images/frame_{number:06d}.jpg" for number in numbers
    )
    # six pictures a second from the clip's start, which its name tells
    start = int(video[-9:-7]) * 60 + int(video[-7:-5])
    first, end = (
        6 * (groundmore.parse_seconds(question[key], "x") - start) for key in ("action_start", "action_end")
    )  # fmt: skip
    assert first < end - 1 < numbers[-1]
    for t, number in enumerate(numbers):
        there = np.isin(
            pixels(folder / f"masks/frame_{number:06d}.png"), [int(k) for k in question["obj_id"].split(",")]
        )
        np.testing.assert_array_equal(sample.objects[1].mask(t), there & (first <= number < end))
        np.testing.assert_array_equal(sample.media.frame(t), pixels(folder / f"images/frame_{number:06d}.jpg"))


def test_questions_answers_and_types_are_as_annotated(miniatures: Path) -> None:
    lacking = 0
    for split, file in (("test", "test_v2"), ("train", "trainval_v2")):
        videos = json.loads((miniatures / f"groundmore/{file}.json").read_bytes())["videos"]
        for record in groundmore.read_records(miniatures, "groundmore", split):
            video, _, key = record.id.rpartition("/")
            told = videos[video]["questions"][key]
            (query,) = groundmore.read_sample(record, [0]).queries
            assert (query.kind, query.category, query.targets) == ("question", told["q_type"], (1,))
            assert (query.text, query.answer) == (told["question"].removesuffix("?") + "?", told["answer"])
            lacking += not told["question"].endswith("?")
    assert lacking, "no question lacks its mark"


def test_chosen_frames_have_their_own_masks(miniatures: Path) -> None:
    record = groundmore.read_records(miniatures, "groundmore", "train")[0]
    whole, last = groundmore.read_sample(record), record.num_frames - 1
    part = groundmore.read_sample(record, [last, 2])
    assert whole.media.num_frames == record.num_frames > 3 and whole.objects[1].visible.all()
    np.testing.assert_array_equal(part.media.frames(), whole.media.frames([last, 2]))
    np.testing.assert_array_equal(part.objects[1].masks, whole.objects[1].masks[[last, 2]])


@pytest.fixture
def tree(tmp_path: Path, write_picture: Callable[..., Path], write_json: Callable[[str, Any], Path]) -> Path:
    """A video of six images, called by seven digits; masks of two objects on images 2 to 4."""
    folder = "groundmore/annotations/x_0100_0101"
    for number in range(6):
        write_picture(f"{folder}/images/{number:07d}.jpg", SIZE)
    ids = np.zeros(SIZE, dtype=np.uint8)
    ids[2:5, 2:5], ids[6:9, 2:5], ids[6:9, 8:12] = 1, 2, 3
    (tmp_path / folder / "masks").mkdir()
    for number in (2, 3, 4):
        Image.fromarray(ids).save(tmp_path / folder / f"masks/frame_{number:06d}.png")
    for name in ("trainval_v2.json", "test_v2.json"):
        write_json(f"groundmore/{name}", questions())
    return tmp_path


def questions(video: str = "x_0100_0101", **changes: Any) -> dict[str, Any]:
    """A question file with one question, asked of objects 1 and 3, with fields changed or (None) left out."""
    question = {"question": "Who waves", "answer": "Both", "obj_id": "1, 3", "q_type": "Causal "}
    question |= {"action_start": "1:00", "action_end": "1:01"} | changes
    return {"videos": {video: {"questions": {"0": {k: v for k, v in question.items() if v is not None}}}}}


def test_training_clips_are_the_frames_with_a_mask(tree: Path) -> None:
    (record,) = groundmore.read_records(tree, "groundmore", "train")
    assert record.raw.frames == (2, 3, 4) and record.num_frames == 3
    track = groundmore.read_sample(record).objects[1]
    expected = np.zeros(SIZE, dtype=bool)
    expected[2:5, 2:5] = expected[6:9, 8:12] = True
    np.testing.assert_array_equal(track.masks, np.stack([expected] * 3))


def test_short_test_clips_repeat_frames_and_lack_masks_outside_of_the_action(tree: Path) -> None:
    (record,) = groundmore.read_records(tree, "groundmore", "test")
    assert record.raw.frames == tuple(int(place) for place in np.linspace(0, 5, 20)) and record.num_frames == 20
    visible = groundmore.read_sample(record).objects[1].visible
    assert visible.tolist() == [number in (2, 3, 4) for number in record.raw.frames]
    later = questions(action_start="01:00", action_end="0:01:00")
    (tree / "groundmore/test_v2.json").write_text(json.dumps(later), encoding="utf-8")
    (record,) = groundmore.read_records(tree, "groundmore", "test")
    assert not groundmore.read_sample(record).objects[1].visible.any()


@pytest.mark.parametrize(("text", "expected"), [("7", 7), ("0:07", 7), ("1:02:03", 3723), (" 10:00", 600)])
def test_times_are_read_in_seconds(text: str, expected: int) -> None:
    assert groundmore.parse_seconds(text, "x") == expected


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (questions(action_start="soon"), r"question '0': a time is 'soon'; it should be minutes:seconds"),
        (questions(obj_id="one"), r"question '0': obj_id is 'one'; it should be numbers"),
        (questions(question=None), r"question '0': the field 'question' is missing"),
        (questions("x_0100"), r"video 'x_0100': an id should end with the clip's start and end"),
        (questions("y_0100_0101"), r"the folder .*y_0100_0101/images does not exist; `unipixel data check groundmore`"),
        ({"videos": []}, r"the field 'videos' is \[\]"),
    ],
)
def test_malformed_questions_are_named(tree: Path, written: dict[str, Any], told: str) -> None:
    (tree / "groundmore/test_v2.json").write_text(json.dumps(written), encoding="utf-8")
    with pytest.raises(DatasetError, match=rf"^groundmore/test: .*{told}"):
        groundmore.read_records(tree, "groundmore", "test")


def test_missing_and_damaged_files_are_named(tree: Path) -> None:
    folder = tree / "groundmore/annotations/x_0100_0101"
    (record,) = groundmore.read_records(tree, "groundmore", "train")
    mask = folder / "masks/frame_000003.png"
    mask.write_bytes(mask.read_bytes()[:50])
    with pytest.raises(DatasetError, match=r"groundmore/train x_0100_0101/0: .*frame_000003\.png.*fetch it again"):
        groundmore.read_sample(record)
    Image.fromarray(np.ones((4, 4), dtype=np.uint8)).save(mask)
    with pytest.raises(DatasetError, match=r"groundmore/train x_0100_0101/0: masks must all .*4 x 4 and 12 x 16"):
        groundmore.read_sample(record)
    (folder / "images/0000002.jpg").unlink()
    with pytest.raises(DatasetError, match=r"0000002\.jpg does not exist; `unipixel data check groundmore`"):
        groundmore.read_sample(record)
    for path in (folder / "masks").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="5 images and 0 masks in its folder, and none that a clip can be made of"):
        groundmore.read_records(tree, "groundmore", "train")
    with pytest.raises(DatasetError, match="groundmore has no split 'val'; it has train, test"):
        groundmore.read_records(tree, "groundmore", "val")
