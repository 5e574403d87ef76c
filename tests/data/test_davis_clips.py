"""DAVIS clips: which are held out, masks by frame, damaged files."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unipixel.data.readers import davis_clips
from unipixel.errors import DatasetError
from unipixel.masks import save_davis_png
from unipixel.train.sticker_data import PhotoSampler

HEIGHT, WIDTH, LENGTH = 60, 100, 12


def names(held_out: bool, count: int) -> list[str]:
    """That many names that are held out, or are not."""
    every = (f"clip{n}" for n in range(1000))
    chosen = [name for name in every if (zlib.crc32(name.encode()) % 5 == 0) == held_out]
    return chosen[:count]


def add(root: Path, name: str, empty: tuple[int, ...] = ()) -> None:
    """A clip whose object is a square that moves by 4 pixels a frame, and whose grey says which frame it is."""
    (root / name).mkdir(parents=True)
    (root / "masks" / name).mkdir(parents=True)
    for t in range(LENGTH):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        if t not in empty:
            mask[20:50, 10 + 4 * t : 40 + 4 * t] = 1
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 60 + 10 * t, np.uint8)).save(root / name / f"{2 * t:05d}.jpg")
        save_davis_png(mask, root / "masks" / name / f"{2 * t:05d}.png")
    label = {"id": 1, "category": "duck", "expressions": ["the duck", "the bird on the left"]}
    (root / name / "labels.jsonl").write_text(json.dumps(label) + "\n")
    with open(root / "sequences.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"sequence": name, "width": WIDTH, "height": HEIGHT}) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*names(True, 1), *names(False, 2)):
        add(tmp_path, name, empty=(5,))
    return tmp_path


def test_a_sequence_is_held_out_by_its_name(folder: Path) -> None:
    assert [r.id for r in davis_clips.read_records(folder, "clips", "val")] == names(True, 1)
    assert [r.id for r in davis_clips.read_records(folder, "clips", "train")] == names(False, 2)


def test_masks_and_frames_are_those_asked_for_in_their_order(folder: Path) -> None:
    record = davis_clips.read_records(folder, "clips", "train")[0]
    sample = davis_clips.read_sample(record, [7, 5, 2])
    assert [int(frame.mean()) // 10 - 6 for frame in sample.media.frames(range(3)).astype(int) + 3] == [7, 5, 2]
    masks = sample.objects[1].masks
    assert [int(np.flatnonzero(m.any(0))[0]) if m.any() else -1 for m in masks] == [38, -1, 18]
    assert {q.text for q in sample.queries if q.kind == "query"} == {"the duck", "the bird on the left"}
    assert [q.answer for q in sample.queries if q.kind == "caption"] == ["the duck"]


@pytest.mark.parametrize("damage", ["frames", "mask", "labels", "size"])
def test_damaged_sequences_are_named(folder: Path, damage: str) -> None:
    name = names(False, 1)[0]
    if damage == "frames":
        for path in (folder / name).glob("*.jpg"):
            path.unlink()
    elif damage == "mask":
        (folder / "masks" / name / "00004.png").unlink()
    elif damage == "labels":
        (folder / name / "labels.jsonl").write_text("{")
    else:
        save_davis_png(np.zeros((3, 4), np.uint8), folder / "masks" / name / "00004.png")
    with pytest.raises(DatasetError, match=name):
        davis_clips.read_sample(davis_clips.read_records(folder, "clips", "train")[0])


def test_training_clips_begin_with_the_object_and_move_evenly(folder: Path) -> None:
    clips, strides = PhotoSampler("davis_clips", str(folder)), set()
    for seed in range(40):
        sample = clips.draw(np.random.default_rng(seed), 4, 2, {"box": 1.0, "refer": 1.0, "absent": 3.0})
        assert sample.media.num_frames == 4 and sample.objects[1].areas[0] > 0
        assert sample.source.endswith(tuple(names(False, 2)))
        assert all(turn.targets == (1,) for turn in sample.turns) and len(sample.turns) == 2
        assert all("image" not in turn.question for turn in sample.turns)
        grey = sample.media.frames(range(4)).astype(float).mean((1, 2, 3))
        steps = np.diff(grey)
        assert (steps > 0).all() or (steps < 0).all()
        strides.add(round(abs(float(np.median(steps))) / 10))
        whole = all(m.any() for m in sample.objects[1].masks)
        if whole and sample.media.size_hw == (HEIGHT, WIDTH):
            left = [int(np.flatnonzero(m.any(0))[0]) for m in sample.objects[1].masks]
            assert len(set(np.diff(left).tolist())) == 1
    assert strides >= {1, 2, 3}


def test_clips_that_are_too_short_are_refused(folder: Path) -> None:
    with pytest.raises(DatasetError, match=f"has {LENGTH} frames, and clips of {LENGTH + 1} are wanted"):
        PhotoSampler("davis_clips", str(folder)).draw(np.random.default_rng(0), LENGTH + 1, 1, {"box": 1.0})


def test_mirrored_clips_are_not_asked_about_left_and_right(folder: Path) -> None:
    clips = PhotoSampler("davis_clips", str(folder))
    asked = [clips.draw(np.random.default_rng(seed), 2, 1, {"refer": 1.0}).turns[0].answer for seed in range(60)]
    assert "the duck<|seg|>" in asked and asked.count("the bird on the left<|seg|>") < 20
