"""Rounded weights: how near they are, that every way to multiply with them agrees, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from unipixel.engine.engine import load
from unipixel.engine.storage import compute_fingerprint
from unipixel.errors import CheckpointError
from unipixel.model import quantization
from unipixel.model.quantization import (
    FEW_ROWS,
    HALF_BITS,
    HalfLinear,
    QuantizedLinear,
    count_weights,
    find_packed_block,
    list_quantized_weights,
    name_precision,
)
from unipixel.model.weights import save_model
from unipixel.stickers import SceneSettings, generate_video

SIZES = ((64, 32), (128, 96), (50, 64), (17, 3424), (48, 50))
"""Outputs and inputs; the last ones fill neither blocks nor registers."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("size", SIZES)
def test_every_number_of_rows_gives_the_product_with_the_rounded_weight(
    size: tuple[int, int], bits: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(size, generator=generator).to(dtype)
    layer = QuantizedLinear(weight, bias=True, bits=bits)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, 0.5)
    for rows in (1, 2, 16, 17, 70):
        x = torch.randn(rows, size[1], generator=generator).to(dtype)
        exact = x.double() @ layer.dequantize().double().t() + 0.5
        y = layer(x)
        assert y.dtype == dtype
        error = (y.double() - exact).abs().max() / exact.abs().max()
        # torch's kernels for a few rows get inputs in bfloat16, in which alone they are fast
        is_packed = rows <= FEW_ROWS[layer.bits] and not size[1] % 32
        assert error < (1e-5 if dtype == torch.float32 and not is_packed else 2e-2), f"{rows} rows: {error:.1e}"


@pytest.mark.parametrize("size", SIZES)
def test_a_weight_held_in_half_is_multiplied_in_the_type_of_the_input(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "PIECE", 1000)  # several pieces, the last one smaller
    generator = torch.Generator().manual_seed(2)
    layer = HalfLinear(size[1], size[0])
    layer.weight = nn.Parameter(layer.weight.detach().bfloat16(), requires_grad=False)
    for rows in (1, 5, 70):
        x = torch.randn(3, rows, size[1], generator=generator)
        expected = nn.functional.linear(x, layer.weight.float(), layer.bias)
        y = layer(x)
        assert y.shape == expected.shape and torch.allclose(y, expected, atol=1e-5)
    half = layer.bfloat16()
    assert torch.equal(half(x.bfloat16()), nn.functional.linear(x.bfloat16(), half.weight, half.bias))


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_moves_no_weight_by_more_than_half_a_step(bits: int) -> None:
    weight = torch.randn(128, 64, generator=torch.Generator().manual_seed(1))
    layer = QuantizedLinear(weight, bias=False, bits=bits)
    moved = (layer.dequantize() - weight).abs()
    if layer.bits == 8:  # as the scales are stored, rounded to bfloat16
        step = layer.scales.float()[:, None]
        assert torch.allclose(step, weight.abs().amax(1, keepdim=True) / 127, rtol=2**-8)
    else:
        low, high = weight.unflatten(1, (-1, 32)).aminmax(dim=-1, keepdim=True)
        step = layer.scales[..., 0].float().t().repeat_interleave(32, 1)
        assert torch.allclose(step, ((high - low) / 15).expand(-1, -1, 32).flatten(1), rtol=2**-8)
    assert (moved <= 0.5 * step + 1e-5).all()


def test_sizes_that_int4_does_not_take_are_held_in_int8() -> None:
    assert QuantizedLinear(torch.randn(64, 50), bias=False, bits=4).bits == 8
    if find_packed_block() is not None:
        assert QuantizedLinear(torch.randn(64, 64), bias=False, bits=4).bits == 4


def test_a_row_of_zeros_stays_zero() -> None:
    for bits in (8, 4):
        layer = QuantizedLinear(torch.zeros(64, 32), bias=False, bits=bits)
        assert torch.equal(layer(torch.ones(3, 32)), torch.zeros(3, 64))


def test_a_rounded_model_answers_and_says_what_it_is(tmp_path: Path) -> None:
    full, rounded = load("nano"), load("nano", dtype="int8", device="cpu")
    assert (name_precision(full.model), name_precision(rounded.model)) == ("float32", "int8")
    assert count_weights(rounded.model) == count_weights(full.model)
    kept = [name for name, module in rounded.model.named_modules() if isinstance(module, QuantizedLinear)]
    assert kept and all(name.startswith(("visual.blocks.", "language.layers.")) for name in kept)
    with pytest.raises(CheckpointError, match="int8"):
        save_model(rounded.model, tmp_path)


def test_a_model_with_weights_in_half_answers_as_in_full_and_is_saved(tmp_path: Path) -> None:
    """nano's file has its weights in bfloat16, so that nothing is rounded."""
    full, held = load("nano", device="cpu"), load("nano", device="cpu", dtype="bf16-weights")
    assert name_precision(held.model) == "bf16-weights" and held.model.dtype == torch.float32
    layers = {name for name, module in held.model.named_modules() if isinstance(module, HalfLinear)}
    assert layers and {f"{name}.weight" for name in layers} == set(list_quantized_weights(full.model, HALF_BITS))
    question = "Please segment the pineapple in this video."
    frames = generate_video(3, 0, SceneSettings(num_frames=(2, 2))).frames
    one, other = (engine.ask(frames, question, max_new_tokens=8) for engine in (full, held))
    assert one.text == other.text and compute_fingerprint(full.model) == compute_fingerprint(held.model)
    assert [np.array_equal(a.masks, b.masks) for a, b in zip(one.objects, other.objects, strict=True)] == [True]
    save_model(held.model, tmp_path, dtype=torch.float32)
    held.processor.save(tmp_path)
    again = load(tmp_path, device="cpu").model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in full.model.state_dict().items())


def test_a_type_that_the_device_cannot_use_is_refused() -> None:
    with pytest.raises(ValueError, match="on a CPU, 'bf16-weights', 'int8', 'int4'"):
        load("nano", dtype="int3")
    with pytest.raises(ValueError, match="made for CPUs"):
        load("nano", dtype="int4", device="meta")
