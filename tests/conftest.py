"""Fixtures that several parts of the test suite use: where golden numbers and shared media lie."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """The folder of golden numbers: ``UNIPIXEL_PARITY_DIR``, else ``../shared/parity``, else ``tests/parity_data``.

    Its values, sizes and widths may be others than those of the folder that is usually there.
    """
    named = os.environ.get("UNIPIXEL_PARITY_DIR")
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            pytest.fail(f"UNIPIXEL_PARITY_DIR is {named}, which is not a folder")
        return folder
    for folder in (ROOT.parent / "shared" / "parity", ROOT / "tests" / "parity_data"):
        if folder.is_dir():
            return folder
    pytest.skip("there is no parity folder: neither UNIPIXEL_PARITY_DIR, ../shared/parity nor tests/parity_data")


@pytest.fixture(scope="session")
def parity_file(parity_dir: Path) -> Callable[[str], Path]:
    """Path of a file or folder of the parity folder by name; the test is skipped, by that name, where it is absent."""

    def find(name: str) -> Path:
        path = parity_dir / name
        if not path.exists():
            pytest.skip(f"{name} is absent from the parity folder")
        return path

    return find


@pytest.fixture(scope="session")
def protocols_dir() -> Path:
    """The folder of what the original asks and scores: ``UNIPIXEL_PROTOCOLS_DIR``, else ``parity/protocols`` in shared.

    Its records, seeds and files may be others than those of the folder that is usually there.
    """
    named = os.environ.get("UNIPIXEL_PROTOCOLS_DIR")
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            pytest.fail(f"UNIPIXEL_PROTOCOLS_DIR is {named}, which is not a folder")
        return folder
    folder = ROOT.parent / "shared" / "parity" / "protocols"
    if not folder.is_dir():
        pytest.skip("there is no folder of protocols: neither UNIPIXEL_PROTOCOLS_DIR nor ../shared/parity/protocols")
    return folder


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder ``../shared`` with media and training photos; tests that need it are skipped where it is absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is absent")
    return folder


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
    unpack = ROOT.parent / "shared" / "benchmarks" / "unpack"
    if not unpack.is_file():
        pytest.skip(
            "there are no miniature benchmarks: neither UNIPIXEL_BENCHMARKS_DIR nor ../shared/benchmarks/unpack"
        )
    folder = tmp_path_factory.mktemp("benchmarks")
    subprocess.run(["bash", str(unpack), str(folder)], check=True, capture_output=True)
    return folder / "data"


@pytest.fixture(scope="session")
def released_dir() -> Path:
    """The folder of checkpoints in the form of the original: ``UNIPIXEL_RELEASED_DIR``, else ``../shared/released``.

    Its seeds, sizes and number of shards may be others than those of the folder that is usually there.
    """
    named = os.environ.get("UNIPIXEL_RELEASED_DIR")
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            pytest.fail(f"UNIPIXEL_RELEASED_DIR is {named}, which is not a folder")
        return folder
    folder = ROOT.parent / "shared" / "released"
    if not folder.is_dir():
        pytest.skip("there are no released checkpoints: neither UNIPIXEL_RELEASED_DIR nor ../shared/released")
    return folder


@pytest.fixture(scope="session")
def released_file(released_dir: Path) -> Callable[[str], Path]:
    """Path of a file or folder of the released checkpoints; the test is skipped, by that name, where it is absent."""

    def find(name: str) -> Path:
        path = released_dir / name
        if not path.exists():
            pytest.skip(f"{name} is absent from the released checkpoints")
        return path

    return find
