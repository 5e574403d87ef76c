"""Servers for all tests: one with nano, one with a model that answers in milliseconds; and media for them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from live import LONG, Live, running

import unipixel
from unipixel.bench.scene import draw_moving_discs
from unipixel.draw import write_mp4, write_png
from unipixel.engine.engine import Engine
from unipixel.model.unipixel import UniPixel
from unipixel.processing import ImageSettings, Processor, build_tokenizer

SIZE = (48, 64)


@pytest.fixture(scope="session")
def nano_engine() -> Engine:
    return unipixel.load(device="cpu")


@pytest.fixture(scope="session")
def quick_engine() -> Engine:
    """The engine tests' model of random weights, which answers in milliseconds, with objects as often as not."""
    spec = spec_from_file_location("engine_parts", Path(__file__).parent.parent / "engine" / "conftest.py")
    assert spec is not None and spec.loader is not None
    parts = module_from_spec(spec)
    spec.loader.exec_module(parts)
    tokenizer = build_tokenizer(parts.TEXTS)
    torch.manual_seed(0)
    model = UniPixel(parts.tiny_config(tokenizer, len(tokenizer)))
    parts.randomise(model)
    pixels = {"min_pixels": 28 * 28 * 4, "max_pixels": 28 * 28 * 9, "share_budget": False}
    settings = ImageSettings(**pixels, max_frames=6, sam_size=parts.SIDE, target_rule="nearest")
    return Engine(model, Processor(tokenizer, settings))


@pytest.fixture(scope="session")
def nano(nano_engine: Engine) -> Iterator[Live]:
    with running(nano_engine) as live:
        yield live


@pytest.fixture(scope="session")
def quick(quick_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with running(quick_engine, state=tmp_path_factory.mktemp("state")) as live:
        yield live


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``picture.png``, ``clip.mp4`` of 5 frames and ``long.mp4``."""
    folder = tmp_path_factory.mktemp("media")
    frames = draw_moving_discs(LONG, SIZE)
    write_png(frames[0], folder / "picture.png")
    write_mp4(frames[:5], folder / "clip.mp4")
    write_mp4(frames, folder / "long.mp4")
    return folder
