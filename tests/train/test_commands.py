"""``unipixel train`` from the command line, and the tutorial as it is written."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from unipixel.cli import app
from unipixel.cli.commands import BAD_INPUT
from unipixel.masks import encode_rle

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "finetune.md"


def unipixel(command: str) -> str:
    done = CliRunner().invoke(app, shlex.split(command))
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def garments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tutorial's folder in miniature; the working directory is the one above it."""
    rng = np.random.default_rng(0)
    for name in ("0001", "0002", "0003"):
        mask = np.zeros((60, 40), dtype=np.uint8)
        mask[30:50, 10:30], mask[10:28, 12:28] = 1, 2
        picture = rng.integers(0, 60, (60, 40, 3), dtype=np.uint8) + np.uint8(90) * mask[..., None]
        for place, array, suffix in (("images", picture, "jpg"), ("masks", mask, "png")):
            (tmp_path / "garments" / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "garments" / place / f"{name}.{suffix}")
    labels = {
        name: {"1": "skirt", "2": {"name": "shirt", "expressions": ["the top"]}} for name in ("0001", "0002", "0003")
    }
    (tmp_path / "garments/labels.json").write_text(json.dumps(labels))
    (tmp_path / "garments/splits.json").write_text(json.dumps({"train": ["0001", "0002"], "val": ["0003"]}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


SHORT = " --set steps=1 --set batch_size=1 --set micro_batch=1 --set evaluation.samples=2 --workers 0 --report none"


def test_the_tutorial_runs_as_it_is_written(garments: Path, tiny: Path) -> None:
    write_coco(garments / "garments", garments / "garments-coco")
    shutil.copytree(tiny, garments / "UniPixel-3B")  # a stand-in with every part of the released one
    blocks = re.findall(r"```bash\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)
    commands = [line for block in blocks for line in block.strip().splitlines()]
    assert {command.split()[1] for command in commands} == {"data", "train", "ask"}
    for command in commands:
        unipixel(command.removeprefix("unipixel ") + (SHORT if " train " in command else ""))
    run = garments / "runs/garments"
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval_iou" in line] == [0, 1]
    assert (run / "samples/step-000001.png").is_file()
    assert {line["eval_iou"] for line in lines if "eval_iou" in line and line["step"] == 0} == {
        line["eval_iou"]
        for line in map(json.loads, (garments / "runs/garments-coco/log.jsonl").read_text().splitlines())
        if "eval_iou" in line and line["step"] == 0
    }
    assert any((garments / "answer").iterdir()) and any((garments / "answer-3b").iterdir())
    adapter, whole = (garments / f"runs/garments-{name}/final" for name in ("3b", "whole"))
    assert (adapter / "adapter_config.json").is_file() and not (whole / "adapter_config.json").exists()


def write_coco(garments: Path, folder: Path) -> None:
    """The tutorial's folder once more as a COCO instance file."""
    names, pictures, annotations = {"skirt": 1, "shirt": 2}, [], []
    labels = json.loads((garments / "labels.json").read_text())
    for number, (stem, objects) in enumerate(labels.items(), 1):
        mask = np.array(Image.open(garments / f"masks/{stem}.png"))
        height, width = mask.shape
        pictures.append({"id": number, "file_name": f"{stem}.jpg", "height": height, "width": width})
        for value, label in objects.items():
            found = mask == int(value)
            rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
            box = [int(columns[0]), int(rows[0]), len(columns), len(rows)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": names[label if isinstance(label, str) else label["name"]],
                    "segmentation": encode_rle(found),
                    "bbox": box,
                    "area": int(found.sum()),
                    "iscrowd": 0,
                }
            )
    tree = {
        "images": pictures,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in names.items()],
    }
    shutil.copytree(garments / "images", folder / "images")
    (folder / "instances.json").write_text(json.dumps(tree))
    splits = json.loads((garments / "splits.json").read_text())
    named = {split: [f"{stem}.jpg" for stem in stems] for split, stems in splits.items()}
    (folder / "splits.json").write_text(json.dumps(named))


def test_list_names_every_recipe() -> None:
    text = unipixel("train list")
    assert all(name in text for name in ("refer", "segment", "joint_7b", "nano_joint", "finetune", "debug"))


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("train finetun -o run", "did you mean 'finetune'"),
        ("train finetune", "add -o RUN"),
        ("train finetune -o run", "--data"),
        ("train finetune -o run --data folder:nowhere", "nowhere"),
        ("train debug -o run --set steps=0", "steps is 0"),
        ("train debug -o run --set trainable=heart", "fits no parameter"),
        ("train debug -o run --set rates.segmentr=0.1", "rates names 'segmentr', which fits no parameter"),
        ("train debug -o run --set micro_batch=3", "cannot share evenly"),
        ("train debug -o run --report paper", "tracker 'paper'"),
        ("train debug -o run --parallel magic", "ddp, fsdp, zero2, zero3"),
        ("train debug -o run --model nowhere", "nowhere is not a folder"),
        ("train joint -o run", "sam2.1_hiera_base_plus.pt"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    command: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, shlex.split(command))
    assert done.exit_code == BAD_INPUT, done.output
    assert told in done.output and "Traceback" not in done.output
