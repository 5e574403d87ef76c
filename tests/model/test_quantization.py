"""Rounded weights: how near they are, that every way to multiply with them agrees, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from unipixel.engine.engine import load
from unipixel.errors import CheckpointError
from unipixel.model.quantization import QuantizedLinear, count_weights, find_packed_block, name_precision
from unipixel.model.weights import save_model

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
        error = (layer(x).double() - exact).abs().max() / exact.abs().max()
        assert error < (1e-5 if dtype == torch.float32 else 2e-2), f"{rows} rows: {error:.1e}"


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_moves_no_weight_by_more_than_half_a_step(bits: int) -> None:
    weight = torch.randn(128, 64, generator=torch.Generator().manual_seed(1))
    layer = QuantizedLinear(weight, bias=False, bits=bits)
    moved = (layer.dequantize() - weight).abs()
    if layer.bits == 8:
        step = weight.abs().amax(1, keepdim=True) / 127
    else:
        low, high = weight.unflatten(1, (-1, 32)).aminmax(dim=-1, keepdim=True)
        step = ((high - low) / 15).expand(-1, -1, 32).flatten(1)
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


def test_a_type_that_the_device_cannot_use_is_refused() -> None:
    with pytest.raises(ValueError, match="on a CPU, 'int8' or 'int4'"):
        load("nano", dtype="int3")
    with pytest.raises(ValueError, match="made for CPUs"):
        load("nano", dtype="int4", device="meta")
