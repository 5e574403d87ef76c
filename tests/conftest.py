"""Fixtures that several parts of the test suite use: golden numbers, miniatures of datasets, shared media.

Golden numbers come packed with the tests (``tests/fixtures``, see its README) and miniatures are drawn, so that a clone
alone runs them all. Environment variables name other folders; values, sizes and records there may be others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from miniatures import write_miniatures

from tools.trim_fixtures import unpack
from unipixel.bench.scene import build_random_engine
from unipixel.model.presets import TINY_SAM
from unipixel.model.weights import save_model

ROOT = Path(__file__).resolve().parent.parent
Find = Callable[[str], Path]


def get_named_folder(variable: str, holds: str = ".") -> Path | None:
    """The folder in an environment variable, None where it is not set; the test fails if ``holds`` is not in it."""
    named = os.environ.get(variable)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not (folder / holds).is_dir():
        pytest.fail(
            f"{variable} is {named}, which is not a folder" + (f" that holds '{holds}'" if holds != "." else "")
        )
    return folder


def find_golden_folder(variable: str, name: str, factory: pytest.TempPathFactory) -> Path:
    """The folder in an environment variable, else what the tests bring along under that name."""
    return get_named_folder(variable) or unpack(ROOT / f"tests/fixtures/{name}.tar.xz", factory.mktemp(name))


def make_finder(folder: Path, variable: str) -> Find:
    """Paths of files or folders by name; a test is skipped, by that name, where one is absent."""

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"{name} is absent; set {variable} to a folder that has it")
        return path

    return find


@pytest.fixture(scope="session")
def parity_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of golden numbers of the original, or the one in ``UNIPIXEL_PARITY_DIR``."""
    return find_golden_folder("UNIPIXEL_PARITY_DIR", "parity", tmp_path_factory)


@pytest.fixture(scope="session")
def released_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of checkpoints in the form of the original, or the one in ``UNIPIXEL_RELEASED_DIR``."""
    return find_golden_folder("UNIPIXEL_RELEASED_DIR", "released", tmp_path_factory)


@pytest.fixture(scope="session")
def protocols_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what the original asks and scores, or the one in ``UNIPIXEL_PROTOCOLS_DIR``."""
    return find_golden_folder("UNIPIXEL_PROTOCOLS_DIR", "protocols", tmp_path_factory)


@pytest.fixture(scope="session")
def parity_file(parity_dir: Path) -> Find:
    """Finds files of the golden numbers."""
    return make_finder(parity_dir, "UNIPIXEL_PARITY_DIR")


@pytest.fixture(scope="session")
def released_file(released_dir: Path) -> Find:
    """Finds files and folders of the released checkpoints."""
    return make_finder(released_dir, "UNIPIXEL_RELEASED_DIR")


@pytest.fixture(scope="session")
def real_miniatures() -> Path | None:
    """The ``data`` folder on which protocols were recorded: in ``UNIPIXEL_BENCHMARKS_DIR``, else None."""
    folder = get_named_folder("UNIPIXEL_BENCHMARKS_DIR", "data")
    return None if folder is None else folder / "data"


@pytest.fixture(scope="session")
def miniatures(real_miniatures: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``data`` folder with a miniature of each dataset: in ``UNIPIXEL_BENCHMARKS_DIR``, else drawn once a session."""
    return real_miniatures or write_miniatures(tmp_path_factory.mktemp("drawn") / "data")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real photos, clips and masks in ``UNIPIXEL_MEDIA_DIR``."""
    folder = get_named_folder("UNIPIXEL_MEDIA_DIR")
    if folder is None:
        pytest.skip("needs real media: set UNIPIXEL_MEDIA_DIR to a folder with `media` and `cases`")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small model of random weights, as a folder."""
    engine = build_random_engine(TINY_SAM)
    folder = tmp_path_factory.mktemp("checkpoint")
    save_model(engine.model, folder)
    engine.processor.save(folder)
    return folder
