"""Small trees of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


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
