"""A tiny checkpoint, and a data folder with every dataset of the stages: miniatures and small trees of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unipixel.masks import encode_rle
from unipixel.train.checkpoints import save_whole
from unipixel.train.recipes import RECIPES
from unipixel.train.setup import prepare_training

SIZE = (24, 32)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of the smallest model with every part, its weights random."""
    folder = tmp_path_factory.mktemp("tiny")
    setup = prepare_training(RECIPES["debug"]())
    save_whole(setup.model.config, setup.model.state_dict(), folder, None)
    setup.processor.save(folder)
    return folder


def rle(row: int) -> dict[str, Any]:
    mask = np.zeros(SIZE, dtype=bool)
    mask[row : row + 8, 4:20] = True
    return dict(encode_rle(mask))


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def draw(path: Path, value: int = 90, *, grey: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full(SIZE if grey else (*SIZE, 3), value, dtype=np.uint8)
    Image.fromarray(picture).save(path)


def dialogue(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(texts)]


def write_videorefer(root: Path) -> None:
    folder = root / "videorefer/VideoRefer-700K"
    for k in range(10):
        draw(folder / f"videos/a/{k}.png", 20 * k)
    asks = {
        "short-caption-500k": ("short_caption", "<video>\nWhat is <region>?", "A grey bar."),
        "detailed-caption-125k": ("detailed_caption", "<video>\nDescribe <region>.", "A grey bar that does not move."),
        "qa-75k": ("qa", "<video>\nThere is one object: <object0><region>.\nWhat does <object0> do?", "Nothing."),
    }
    frames = {str(k): {} for k in range(1, 10)}
    for name, (masks, question, answer) in asks.items():
        row = {"id": "x", "video": "a", "ratio": 0.9, "annotation": [frames]}
        write(folder / f"videorefer-{name}-wo-masks.json", [row | {"conversations": dialogue(question, answer)}])
        write(folder / f"masks_{masks}/0.json", [[[rle(k)] for k in range(9)]])


def write_inst_it(root: Path) -> None:
    folder = root / "inst_it/Inst-IT-Dataset"
    draw(folder / "images_raw/b.png")
    image = {
        "image_id": "9",
        "image_path": "images/b.png",
        "instance_level_caption": {"1": {"short": "A bar.", "long": "A long bar."}},
        "segmentations": {"1": {"mask": rle(2)}},
    }
    write(folder / "inst_it_dataset_image_51k_w_mask.json", [image])
    for k in range(3):
        draw(folder / f"videos_raw/c/f{k}.png", 40 * k)
    video = {
        "video_id": "7",
        "video_path": "videos/c",
        "question_answer_pairs": [{"question": "What does [1] do at <2>?", "answer": "[1] rests."}],
        "segmentations": {f"f{k}.png": {"1": {"mask": rle(k)}} for k in range(3)},
    }
    write(folder / "inst_it_dataset_video_21k_w_mask.json", [video])


def write_osprey(root: Path) -> None:
    corners = [[2.0, 2.0, 20.0, 2.0, 20.0, 12.0, 2.0, 12.0]]
    row = {
        "id": 1,
        "file_name": "p.png",
        "height": SIZE[0],
        "width": SIZE[1],
        "annotation": [{"segmentation": corners}],
    }
    talk = row | {"conversations": dialogue("What is <region1>?", "A bar.")}
    for name, value in (
        ("osprey_conversation", talk),
        ("osprey_lvis_positive_negative", talk),
        ("osprey_detail_description", row | {"description": ["<region1>: A grey bar."]}),
    ):
        write(root / f"osprey/Osprey-724K/{name}.json", [value])
    for folder in ("train2014", "imgs"):
        draw(root / f"osprey/coco/{folder}/p.png")


def write_general(root: Path) -> None:
    rows = [
        {"id": 1, "image": "g.png", "conversations": dialogue("<image>\nWhat is it?", "Grey.")},
        {"id": 2, "conversations": dialogue("What is two and two?", "Four.")},
    ]
    write(root / "general/llava_v1_5_mix665k_with_videogpt_plus_576k.json", rows)
    draw(root / "llava_instruct/g.png")


def write_scenes(root: Path) -> None:
    for name, pictures, masks, suffix in (
        ("ade20k", "images/training", "annotations/training", "jpg"),
        ("mapillary", "training/images", "training/v2.0/labels", "jpg"),
    ):
        draw(root / f"lisa/{name}/{pictures}/s.{suffix}")
        draw(root / f"lisa/{name}/{masks}/s.png", 3, grey=True)


@pytest.fixture(scope="session")
def stage_data(miniatures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``data`` folder in which every source of the three stages is found by its real reader."""
    root = tmp_path_factory.mktemp("stages") / "data"
    root.mkdir()
    for place in miniatures.iterdir():
        if place.name not in ("lisa", "videorefer"):
            (root / place.name).symlink_to(place)
    (root / "lisa").mkdir()
    for place in (miniatures / "lisa").iterdir():
        (root / "lisa" / place.name).symlink_to(place)
    for make in (write_videorefer, write_inst_it, write_osprey, write_general, write_scenes):
        make(root)
    return root
