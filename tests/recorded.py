"""What the original's runs were recorded on: small drawn files that come with the tests, or real photos and clips."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

PROTOCOLS = Path(__file__).resolve().parent / "fixtures" / "protocols.tar.xz"
REAL_MEDIA = (
    "recorded on real photos and clips, which may not be given out with the tests: set UNIPIXEL_BENCHMARKS_DIR to the "
    "folder whose `data` holds them"
)


def list_recorded(drawn: Sequence[str], real: Sequence[str]) -> list[Any]:
    """Parameters of a test: what was recorded on drawn files, and on real ones where there are any, else one skip."""
    if os.environ.get("UNIPIXEL_BENCHMARKS_DIR"):
        return [*drawn, *real]
    return [*drawn, pytest.param("real media", marks=pytest.mark.skip(reason=f"{', '.join(real)}: {REAL_MEDIA}"))]


def list_training_sets() -> tuple[list[str], list[str]]:
    """Names of the recorded training sets: those on drawn files, and those on real ones."""
    named = os.environ.get("UNIPIXEL_PROTOCOLS_DIR")
    documents = {}
    if named:
        for path in Path(named).expanduser().glob("train_*.json"):
            documents[path.stem] = json.loads(path.read_bytes())
    else:
        with tarfile.open(PROTOCOLS, "r:xz") as files:
            for member in files:
                if member.name.startswith("train_") and (stream := files.extractfile(member)) is not None:
                    documents[Path(member.name).stem] = json.loads(stream.read())
    sets: tuple[list[str], list[str]] = [], []
    for stem, document in sorted(documents.items()):
        sets[document["inputs"] == "miniatures"].append(stem.removeprefix("train_"))
    return sets
