"""``unipixel data``: what it prints and draws, and how it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from unipixel.cli import app
from unipixel.masks import save_davis_png


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", *(str(argument) for argument in arguments)])


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Two pictures with masks."""
    for name in ("images", "masks"):
        (tmp_path / "own" / name).mkdir(parents=True)
    mask = np.zeros((48, 64), dtype=np.uint8)
    mask[10:30, 20:50] = 1
    for name in ("a", "b"):
        Image.fromarray(np.full((48, 64, 3), 200, dtype=np.uint8)).save(tmp_path / "own" / "images" / f"{name}.png")
        save_davis_png(mask, tmp_path / "own" / "masks" / f"{name}.png")
    return tmp_path / "own"


def test_every_dataset_is_listed() -> None:
    from unipixel.data import DATASETS

    result = invoke("list")
    assert result.exit_code == 0
    assert all(f" {name} " in result.stdout for name in DATASETS)


@pytest.mark.parametrize("command", ["list", "check", "show"])
def test_every_command_has_help(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0 and "Usage" in result.output


def test_complete_data_are_counted_and_read(own: Path) -> None:
    result = invoke("check", f"folder:{own}/all")
    assert result.exit_code == 0, result.output
    assert "64 x 48, 1 object(s), 1 text(s): 'object'" in result.stdout


def test_missing_files_are_listed_with_where_they_come_from(tmp_path: Path) -> None:
    (tmp_path / "data" / "lisa" / "coco" / "val2017").mkdir(parents=True)
    result = invoke("check", "cocostuff/val", "--data-root", tmp_path)
    assert result.exit_code == 1
    assert "1 of 2" in result.stdout and "train" not in result.stdout.split("missing")[0].replace("train2017", "")
    assert f"missing: {tmp_path / 'data' / 'lisa' / 'cocostuff' / 'val2017'}" in result.stdout
    assert "where it comes from: github.com/nightrome/cocostuff" in result.stdout


def test_damaged_files_are_told_and_end_with_an_error(own: Path) -> None:
    (own / "masks" / "a.png").write_bytes(b"no picture")
    result = invoke("check", f"folder:{own}/all")
    assert result.exit_code == 1
    assert "unreadable" in result.stdout and "wrong: folder/all a/0" in result.stdout


def test_samples_are_drawn_with_their_masks(own: Path, tmp_path: Path) -> None:
    result = invoke("show", f"folder:{own}/all", "-n", 2, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    path = tmp_path / "out" / "folder_all.png"
    assert f"wrote {path}" in result.stdout
    picture = np.asarray(Image.open(path))
    coloured = np.ptp(picture.astype(int), axis=2) > 40
    assert picture.shape[1] > 600 and coloured.mean() > 0.05


def test_clips_are_drawn_as_rows_of_frames(tmp_path: Path) -> None:
    result = invoke("show", "stickers/val_video", "-n", 1, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "stickers_val_video.png").is_file()


def test_splits_without_records_are_left_out_and_told(own: Path, tmp_path: Path) -> None:
    (own / "splits.json").write_text('{"train": ["a"], "val": []}', encoding="utf-8")
    result = invoke("show", f"folder:{own}", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["folder_all.png", "folder_train.png"]
    assert "left out: folder: none of the 2 pictures" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "nothing"], "there is no dataset 'nothing'"),
        (["check", "refcoco/test"], "refcoco has no split 'test'"),
        (["check", "refcoco", "--data-root", "nowhere"], "the data root 'nowhere' is not a folder"),
        (["show", "stickers/val", "-n", "0", "-o", "out"], "--count is 0"),
        (["show", "folder:nowhere", "-o", "out"], "there is nothing at 'nowhere'"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr and result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1


def test_nothing_is_shown_of_what_is_not_there(tmp_path: Path) -> None:
    result = invoke("show", "ade20k", "-o", tmp_path / "out", "--data-root", tmp_path)
    assert result.exit_code == 2 and "ade20k: no split is complete" in result.stderr
