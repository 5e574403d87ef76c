"""The tool that measures held-out photos and clips."""

from __future__ import annotations

import importlib.util
import json
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import unipixel
from unipixel.data.readers import photos
from unipixel.masks import encode_rle, save_davis_png

TOOL = Path(__file__).parent.parent / "tools" / "eval_photos.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("eval_photos", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_first_photos_or_evenly_from_all(tool: ModuleType) -> None:
    numbers = list(range(100))
    assert tool.chosen(numbers, 4, False) == [0, 1, 2, 3]
    assert tool.chosen(numbers, 4, True) == [0, 33, 66, 99]
    assert tool.chosen(numbers[:3], 4, True) == [0, 1, 2]


def test_added_sets_change_no_question_about_the_first_ones(tool: ModuleType, tmp_path: Path) -> None:
    held_out = [f"p{n}" for n in range(400) if zlib.crc32(f"p{n}".encode()) % 10 == 0]

    def add(name_of_set: str, stems: list[str]) -> None:
        folder = tmp_path / name_of_set / "images"
        folder.mkdir(parents=True)
        lines = []
        for number, stem in enumerate(stems):
            Image.fromarray(np.full((40, 50, 3), 9, np.uint8)).save(folder / f"{stem}.jpg")
            instances = []
            for k in range(4):
                mask = np.zeros((40, 50), bool)
                mask[4 * k + 1 : 4 * k + 20, 5 : 30 + number] = True
                rle = encode_rle(mask)
                instances.append({"category": "cup", "area": int(mask.sum()), "rle": rle, "bbox": [5, 1, 9, 9]})
            line = {"image": f"images/{stem}.jpg", "width": 50, "height": 40, "instances": instances}
            lines.append(json.dumps(line))
        (folder.parent / "labels.jsonl").write_text("\n".join(lines))

    add("coco_subset", held_out[:6])
    before = tool.regions(tmp_path, 6, False)
    for name in photos.SETS[4:]:
        add(name, held_out[6:8])
    after = tool.regions(tmp_path, 6, False)
    assert all((a[1] == b[1]).all() for a, b in zip(before, after, strict=True))
    assert len(tool.regions(tmp_path, 1000, True)) == 6 + 2 * len(photos.SETS[4:])


def test_clips_are_scored_from_the_frame_behind_the_given_mask(tool: ModuleType, tmp_path: Path) -> None:
    name = next(f"c{n}" for n in range(100) if zlib.crc32(f"c{n}".encode()) % 5 == 0)
    (tmp_path / name).mkdir()
    (tmp_path / "masks" / name).mkdir(parents=True)
    for t in range(5):
        ids = np.zeros((48, 64), np.uint8)
        if t:  # the clip opens empty, then the object stands still, and on the last frame it is elsewhere
            ids[10:30, 10:30] = 1
        if t == 4:
            ids = np.roll(ids, 30, 1)
        picture = np.where(ids[..., None] == 1, (250, 30, 30), (20, 60, 90)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / name / f"{t:05d}.jpg")
        save_davis_png(ids, tmp_path / "masks" / name / f"{t:05d}.png")
    (tmp_path / name / "labels.jsonl").write_text(
        json.dumps({"id": 1, "category": "box", "expressions": ["the box"]}) + "\n"
    )
    (tmp_path / "sequences.jsonl").write_text(json.dumps({"sequence": name}) + "\n")
    engine = unipixel.load("nano")
    ((found, ours, still, asked),) = tool.given_and_asked(engine, tmp_path, 0)
    assert found == name and still == pytest.approx(2 / 3)
    assert 0 <= ours <= 1 and 0 <= asked <= 1
    ((_, ours, still, _),) = tool.given_and_asked(engine, tmp_path, 3)
    assert still == 1.0 and ours > 0.2
