"""The container file: what it copies is there and let through, and what it starts is a command that exists."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from unipixel.cli import app
from unipixel.cli.serve import KEYS_VARIABLE

ROOT = Path(__file__).parents[2]
CONTAINER = (ROOT / "Containerfile").read_text(encoding="utf-8")


def test_everything_that_is_copied_is_there_and_not_ignored() -> None:
    lines = [line.split() for line in re.findall(r"^COPY (?!--from)(.*)$", CONTAINER, re.MULTILINE)]
    copied = {source for *sources, _ in lines for source in sources}
    assert {"unipixel", "pyproject.toml"} <= copied and all((ROOT / name).exists() for name in copied)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied


def test_entry_point_is_the_server_which_wants_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    found = re.search(r"^ENTRYPOINT (.*)$", CONTAINER, re.MULTILINE)
    assert found is not None
    program, *arguments = json.loads(found[1])
    assert program == "unipixel"
    given = [argument.replace("/state", str(tmp_path)) for argument in arguments]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 2 and "there is no API key" in result.stderr


def test_what_it_installs_is_what_is_tested_and_has_hashes() -> None:
    def read(name: str) -> dict[str, str]:
        pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
        return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in pins}

    locked, pinned = read("container.lock"), read("constraints.txt")
    assert locked.items() <= pinned.items() and {"fastapi", "transformers", "pillow", "filelock"} <= locked.keys()
    entries = re.split(r"\n(?=[A-Za-z])", (ROOT / "container.lock").read_text(encoding="utf-8"))
    assert all("--hash=sha256:" in entry for entry in entries if "==" in entry.splitlines()[0])
