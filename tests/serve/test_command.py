"""``unipixel serve``: what it refuses before it loads anything, and where keys come from."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from unipixel.cli import app
from unipixel.cli.serve import KEYS_VARIABLE, read_keys


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "there is no API key"),
        (["--port", "70000"], "the port is 70000"),
        (["--max-queue", "0"], "max_queue is 0"),
        (["--idle-minutes", "-1"], "idle_s is -60.0"),
        (["--model", "nowhere"], "nowhere is not a folder"),
        (["--state", "FILE"], "is a file"),
        (["--api-keys", "FILE"], "holds no key"),
        (["--api-keys", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_wrong_options_end_with_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    (tmp_path / "keys.txt").write_text("# none yet\n\n")
    given = [argument.replace("FILE", str(tmp_path / "keys.txt")) for argument in arguments]
    result = CliRunner().invoke(app, ["serve", "--port", "0", *given])
    assert result.exit_code == 2 and words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_keys_come_from_the_file_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys.txt").write_text("# for the annotators\nkey-one\n\n key-two \n")
    monkeypatch.setenv(KEYS_VARIABLE, "key-three, key-one,")
    assert read_keys(tmp_path / "keys.txt") == ("key-one", "key-two", "key-three")
