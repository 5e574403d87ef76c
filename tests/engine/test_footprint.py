"""Predicted memory: sizes of the released checkpoints, weights counted exactly, and the command."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typer.testing import CliRunner

import unipixel
from unipixel.cli import app
from unipixel.engine.footprint import (
    LIBRARIES,
    _count_encoder,
    _count_memories,
    _count_tracking,
    count_weight_bytes,
    describe_size,
    predict_memory,
)
from unipixel.model.config import UniPixelConfig
from unipixel.model.segmenter import Segmenter
from unipixel.model.tracker import Tracker
from unipixel.model.weights import build_empty_model, list_expected_shapes


@pytest.mark.parametrize("name", ["3b", "7b"])
def test_named_sizes_are_those_of_the_released_checkpoints(name: str, released_file: Callable[[str], Path]) -> None:
    released = UniPixelConfig.from_folder(released_file(f"unipixel_{name}"))
    built = describe_size(name)[0]
    assert list_expected_shapes(build_empty_model(built)) == list_expected_shapes(build_empty_model(released))
    assert built.tie_word_embeddings == released.tie_word_embeddings


def test_weights_are_counted_to_the_byte() -> None:
    for dtype in ("float32", "bfloat16", "bf16-weights"):
        model = unipixel.load("nano", "cpu", dtype).model
        held = {t.data_ptr(): t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())}
        config, _ = describe_size("nano")
        counted = count_weight_bytes(build_empty_model(config), dtype)
        assert counted == sum(held.values())


def test_prediction_grows_with_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    config, settings = describe_size("3b")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})

    def predict(frames: int = 16, objects: int = 8, dtype: str = "bf16", tokens: int = 256) -> dict[str, int]:
        sizes = {"frames": frames, "objects": objects, "dtype": dtype, "max_new_tokens": tokens}
        return predict_memory(config, settings, **sizes)

    parts = predict()
    assert parts["peak"] == sum(value for name, value in parts.items() if name != "peak")
    assert parts["weights"] == pytest.approx(2 * 3.88e9, rel=0.01)
    # 36 layers, 2 heads of 128 for keys and values each, 2 bytes
    assert predict(tokens=1256)["cache"] - parts["cache"] == 36 * 2 * 2 * 128 * 2 * 1000
    order = [predict(dtype=dtype)["peak"] for dtype in ("fp32", "bf16-weights", "bf16", "int8", "int4")]
    assert order == sorted(order, reverse=True)
    # a picture in int4, as it was measured (docs/checkpoints.md)
    assert predict(frames=1, objects=1, dtype="int4")["peak"] == pytest.approx(4.4e9, rel=0.15)
    with monkeypatch.context() as other:  # what is not rounded is in float32 where bfloat16 would be emulated
        fast = predict(dtype="int4")
        other.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
        slow = predict(dtype="int4")
        assert slow["cache"] == 2 * fast["cache"] and 1 < slow["weights"] / fast["weights"] < 2
    assert predict(frames=64)["peak"] > parts["peak"] > predict(frames=1)["peak"] > LIBRARIES
    assert predict(objects=64)["peak"] > parts["peak"]
    with pytest.raises(ValueError, match="objects is 0"):
        predict(objects=0)
    with pytest.raises(ValueError, match="dtype is 'int3'"):
        predict(dtype="int3")


class LiveBytes(TorchDispatchMode):
    """The most bytes of tensors made inside that were there at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # a view of a weight is not made inside
        given = {one.untyped_storage()._cdata for one in tree_leaves(args) if isinstance(one, torch.Tensor)}
        for one in tree_leaves(result):
            if isinstance(one, torch.Tensor):
                storage = one.untyped_storage()
                key = storage._cdata
                if key not in self._sizes and key not in given:
                    self._sizes[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._free, key)
        self.most = max(self.most, self.now)
        return result

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("objects", [1, 8])
def test_what_sam_is_counted_to_take_is_what_its_tensors_take(dtype: torch.dtype, objects: int) -> None:
    """At the fullest line of the encoder, and of a step with all memories and pointers."""
    config, _ = describe_size("nano")
    sam, width = config.sam, dtype.itemsize
    segmenter = Segmenter(sam).eval().to(dtype)
    with LiveBytes() as encoding:
        frame = segmenter.encode(torch.zeros(1, 3, sam.image_size, sam.image_size))
    assert _count_encoder(config, 1, width, in_bands=True) == pytest.approx(encoding.most, rel=0.15)
    tracker = Tracker(segmenter, 30)
    tracker.add_prompts(frame, list(range(objects)), torch.zeros(objects, 2, sam.hidden_size, dtype=dtype))
    for _ in range(18):
        with LiveBytes() as tracking:
            tracker.step(frame)
    counted = _count_tracking(config, 20, objects, (90, 160), width)
    stacked = _count_memories(config, 20, objects, width) * 3 / 4
    assert counted + stacked == pytest.approx(tracking.most, rel=0.15)


@torch.inference_mode()
def test_a_large_picture_is_counted_in_bands() -> None:
    config, _ = describe_size("3b")
    counted = _count_encoder(config, 1, 4, in_bands=True)
    segmenter, frame = Segmenter(config.sam).eval(), torch.zeros(1, 3, config.sam.image_size, config.sam.image_size)
    with LiveBytes() as encoding:
        segmenter.encode(frame)
    assert counted == pytest.approx(encoding.most, rel=0.15)
    assert counted < 0.5 * _count_encoder(config, 1, 4, in_bands=False)


def test_command_prints_every_part() -> None:
    done = CliRunner().invoke(app, ["memory", "3b", "--num-frames", "16", "--objects", "8", "--json"])
    assert done.exit_code == 0, done.output
    config, settings = describe_size("3b")
    assert json.loads(done.stdout)["bf16"] == predict_memory(config, settings, frames=16, objects=8, dtype="bf16")
    shown = CliRunner().invoke(app, ["memory", "nano"])
    assert "weights" in shown.stdout and "peak" in shown.stdout
    assert CliRunner().invoke(app, ["memory", "nano", "--size", "wide"]).exit_code == 2
