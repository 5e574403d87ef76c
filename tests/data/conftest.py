"""Where the miniature benchmarks lie, and small trees of one's own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``data`` folder of the miniature benchmarks.

    ``UNIPIXEL_BENCHMARKS_DIR`` names an unpacked one (the folder that holds ``data``); else it is unpacked from
    ``../shared/benchmarks`` once per session.
    """
    named = os.environ.get("UNIPIXEL_BENCHMARKS_DIR")
    if named:
        folder = Path(named).expanduser()
        if not (folder / "data").is_dir():
            pytest.fail(f"UNIPIXEL_BENCHMARKS_DIR is {named}, which holds no folder 'data'")
        return folder / "data"
    unpack = SHARED / "benchmarks" / "unpack"
    if not unpack.is_file():
        pytest.skip(
            "there are no miniature benchmarks: neither UNIPIXEL_BENCHMARKS_DIR nor ../shared/benchmarks/unpack"
        )
    folder = tmp_path_factory.mktemp("benchmarks")
    subprocess.run(["bash", str(unpack), str(folder)], check=True, capture_output=True)
    return folder / "data"


@pytest.fixture
def write_json(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Writes a value as JSON to a path relative to ``tmp_path``."""

    def write(name: str, value: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_picture(tmp_path: Path) -> Callable[..., Path]:
    """Writes a grey picture of a size to a path relative to ``tmp_path``."""

    def write(name: str, size_hw: tuple[int, int] = (12, 16), value: int = 90) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size_hw, 3), value, dtype=np.uint8)).save(path)
        return path

    return write
