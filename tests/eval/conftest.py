"""Where the miniature benchmarks lie."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(scope="session")
def benchmarks_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the ``data`` of the miniature benchmarks: ``UNIPIXEL_BENCHMARKS_DIR`` or unpacked anew."""
    named = os.environ.get("UNIPIXEL_BENCHMARKS_DIR")
    if named:
        return Path(named).expanduser()
    unpack = SHARED / "benchmarks" / "unpack"
    if not unpack.is_file():
        pytest.skip("no miniature benchmarks: neither UNIPIXEL_BENCHMARKS_DIR nor ../shared/benchmarks/unpack")
    folder = tmp_path_factory.mktemp("benchmarks")
    subprocess.run(["bash", str(unpack), str(folder)], check=True, capture_output=True)
    return folder
