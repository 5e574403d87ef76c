"""``unipixel serve``: what it refuses before it loads anything, and where keys come from."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from unipixel.cli import app
from unipixel.cli.serve import KEYS_VARIABLE, find_own_state, read_keys
from unipixel.serve import lock_state


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "there is no API key"),
        (["--port", "70000"], "the port is 70000"),
        (["--max-queue", "0"], "max_queue is 0"),
        (["--idle-minutes", "-1"], "idle_s is -60.0"),
        (["--model", "nowhere"], "nowhere is not a folder"),
        (["--state", "FILE"], "is a file"),
        (["--state", "sessions", "--no-state"], "give one of them"),
        (["--folder", "FILE"], "is a file; name a folder of pictures and videos"),
        (["--folder", "nowhere"], "the folder nowhere does not exist"),
        (["--folder", "EMPTY"], "holds neither pictures nor videos"),
        (["--folder", "LOCKED"], "LOCKED cannot be read (Permission denied)"),
        (["--api-keys", "FILE"], "holds no key"),
        (["--api-keys", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_wrong_options_end_with_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    (tmp_path / "keys.txt").write_text("# none yet\n\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "._cat.jpg").write_bytes(b"junk")
    given = [argument.replace("FILE", str(tmp_path / "keys.txt")) for argument in arguments]
    given = [argument.replace("EMPTY", str(tmp_path / "empty")) for argument in given]
    list_folder = os.listdir

    def refuse(path: Path) -> list[str]:
        if str(path) == "LOCKED":  # whoever may do everything can read every folder
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return list_folder(path)

    monkeypatch.setattr(os, "listdir", refuse)
    result = CliRunner().invoke(app, ["serve", "--port", "0", *given, *([] if "--state" in given else ["--no-state"])])
    assert result.exit_code == 2 and words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_every_server_has_a_state_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default below the user's own folder for state, one for each model and for each server at a time."""
    monkeypatch.setattr("platformdirs.user_state_path", lambda *_, **__: tmp_path / "state")
    first = find_own_state("nano")
    assert (
        first == find_own_state("nano") == tmp_path / "state" / "serve" / "nano"
        and str(first) in capsys.readouterr().err
    )
    assert find_own_state("PolyU-ChenLab/UniPixel-3B") == first.parent / "PolyU-ChenLab-UniPixel-3B"
    lock = lock_state(first)
    assert find_own_state("nano") == first.parent / "nano-2"
    lock.release()
    (tmp_path / "state" / "serve" / "..").resolve().rename(tmp_path / "old")
    (tmp_path / "state").write_text("a file is in the way")
    capsys.readouterr()
    assert find_own_state("nano") is None
    told = capsys.readouterr().err
    assert told.startswith("warning: sessions will not outlive this server (") and told.count("\n") == 1


def test_keys_come_from_the_file_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys.txt").write_text("# for the annotators\nkey-one\n\n key-two \n")
    monkeypatch.setenv(KEYS_VARIABLE, "key-three, key-one,")
    assert read_keys(tmp_path / "keys.txt") == ("key-one", "key-two", "key-three")
