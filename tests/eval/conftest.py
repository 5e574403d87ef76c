"""Where the miniature benchmarks lie."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def benchmarks_dir(miniatures: Path) -> Path:
    """The folder that holds the ``data`` of the miniature benchmarks."""
    return miniatures.parent
