"""The command line with names that are empty, output that cannot hold every sign, and media over the bounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from unipixel.cli import app
from unipixel.cli.options import open_source, parse_box
from unipixel.errors import MediaError
from unipixel.masks import save_davis_png
from unipixel.sample import Box


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ask", "", "What is this?"], "argument 1 of `unipixel ask` is empty"),
        (["ask", "a.png", "What?", "--model", ""], "--model is empty"),
        (["ask", "a.png", "What?", "-o", " "], "-o is empty"),
        (["stickers", "-n", "1", "-o", ""], "-o is empty"),
        (["report", ""], "argument 1 of `unipixel report` is empty"),
        (["eval", "revos", "--data-root", "", "-o", "x"], "--data-root is empty"),
        (["data", "check", ""], "argument 2 of `unipixel data` is empty"),
        (["train", "finetune", "--data", "", "-o", "x"], "--data is empty"),
    ],
)
def test_empty_text_is_no_name(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2 and words in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]  # nothing was written into it


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_json_and_words_are_written_to_any_stream(encoding: str, tmp_path: Path) -> None:
    code = (
        "from unipixel.cli.output import print_json, show_written, escape_unencodable; escape_unencodable();"
        "print_json({'label': '狗 🐕 é'}); show_written(['图 片.png'])"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    text = done.stdout.decode(encoding, errors="replace")  # the command line library writes UTF-8 to ASCII streams
    value, end = json.JSONDecoder().raw_decode(text)
    assert value == {"label": "狗 🐕 é"} and "wrote" in text[end:]


def test_sentences_about_bounds_name_the_option(tmp_path: Path) -> None:
    Image.new("1", (30_000, 10_000)).save(tmp_path / "wide.png")
    with pytest.raises(MediaError, match=r"30000 x 10000 pixels, more than .*--no-limits opens it all the same"):
        open_source(str(tmp_path / "wide.png"))
    assert open_source(str(tmp_path / "wide.png"), no_limits=True).size_hw == (10_000, 30_000)
    assert all("--no-limits" in invoke(command, "--help").output for command in ("ask", "chat"))


def test_boxes_may_begin_outside() -> None:
    assert parse_box("-1,2,30,40") == Box(-1, 2, 30, 40)
    assert parse_box("2=1,-0.5,30,40@3") == Box(1, -0.5, 30, 40, frame=3, object_id=2)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Eight pictures with masks."""
    mask = np.zeros((48, 64), dtype=np.uint8)
    mask[10:30, 20:50] = 1
    for place in ("images", "masks"):
        (tmp_path / place).mkdir()
    for number in range(8):
        Image.fromarray(np.full((48, 64, 3), 200, dtype=np.uint8)).save(tmp_path / "images" / f"{number}.jpg")
        save_davis_png(mask, tmp_path / "masks" / f"{number}.png")
    (tmp_path / "splits.json").write_text(json.dumps({"train": [str(n) for n in range(6)], "val": ["6", "7"]}))
    return tmp_path


def test_the_check_reads_everything_and_reports_by_kind_of_fault(own: Path) -> None:
    path = own / "images" / "5.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    (own / "masks" / "3.png").unlink()
    (own / "masks" / "4.png").unlink()
    result = invoke("data", "check", f"folder:{own}")
    assert result.exit_code == 1
    assert "cannot be read: 3" in result.stdout
    for kind, count in (("a file that is missing", 2), ("a damaged picture or video", 1)):
        assert any(kind in line and str(count) in line for line in result.stdout.splitlines())
    for number in (3, 4, 5):
        assert f"wrong: folder/all {number}/0" in result.stdout
    assert invoke("data", "check", f"folder:{own}", "--quick").exit_code == 0
    assert invoke("data", "check", f"folder:{own}", "--processes", "0").exit_code == 2


def test_pictures_without_objects_are_lawful(own: Path) -> None:
    for number in range(8):
        save_davis_png(np.zeros((48, 64), dtype=np.uint8), own / "masks" / f"{number}.png")
    assert invoke("data", "check", f"folder:{own}").exit_code == 0
    assert invoke("data", "show", f"folder:{own}", "-o", own / "out").exit_code == 0
