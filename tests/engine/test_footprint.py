"""Predicted memory: sizes of the released checkpoints, weights counted exactly, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import unipixel
from unipixel.cli import app
from unipixel.engine.footprint import LIBRARIES, count_weight_bytes, describe_size, predict_memory
from unipixel.model.config import UniPixelConfig
from unipixel.model.weights import build_empty_model, list_expected_shapes


@pytest.mark.parametrize("name", ["3b", "7b"])
def test_named_sizes_are_those_of_the_released_checkpoints(name: str, released_file: Callable[[str], Path]) -> None:
    released = UniPixelConfig.from_folder(released_file(f"unipixel_{name}"))
    built = describe_size(name)[0]
    assert list_expected_shapes(build_empty_model(built)) == list_expected_shapes(build_empty_model(released))
    assert built.tie_word_embeddings == released.tie_word_embeddings


def test_weights_are_counted_to_the_byte() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = unipixel.load("nano", "cpu", dtype).model
        held = {t.data_ptr(): t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())}
        config, _ = describe_size("nano")
        counted = count_weight_bytes(build_empty_model(config), str(dtype).removeprefix("torch."))
        assert counted == sum(held.values())


def test_prediction_grows_with_what_is_asked() -> None:
    config, settings = describe_size("3b")

    def predict(frames: int = 16, objects: int = 8, dtype: str = "bf16", tokens: int = 256) -> dict[str, int]:
        sizes = {"frames": frames, "objects": objects, "dtype": dtype, "max_new_tokens": tokens}
        return predict_memory(config, settings, **sizes)

    parts = predict()
    assert parts["peak"] == sum(value for name, value in parts.items() if name != "peak")
    assert parts["weights"] == pytest.approx(2 * 3.88e9, rel=0.01)
    # 36 layers, 2 heads of 128 for keys and values each, 2 bytes
    assert predict(tokens=1256)["cache"] - parts["cache"] == 36 * 2 * 2 * 128 * 2 * 1000
    order = [predict(dtype=dtype)["peak"] for dtype in ("fp32", "bf16", "int8", "int4")]
    assert order == sorted(order, reverse=True) and order[-1] < 5e9
    assert predict(frames=64)["peak"] > parts["peak"] > predict(frames=1)["peak"] > LIBRARIES
    assert predict(objects=64)["peak"] > parts["peak"]
    with pytest.raises(ValueError, match="objects is 0"):
        predict(objects=0)
    with pytest.raises(ValueError, match="dtype is 'int3'"):
        predict(dtype="int3")


def test_command_prints_every_part() -> None:
    done = CliRunner().invoke(app, ["memory", "3b", "--num-frames", "16", "--objects", "8", "--json"])
    assert done.exit_code == 0, done.output
    config, settings = describe_size("3b")
    assert json.loads(done.stdout)["bf16"] == predict_memory(config, settings, frames=16, objects=8, dtype="bf16")
    shown = CliRunner().invoke(app, ["memory", "nano"])
    assert "weights" in shown.stdout and "peak" in shown.stdout
    assert CliRunner().invoke(app, ["memory", "nano", "--size", "wide"]).exit_code == 2
