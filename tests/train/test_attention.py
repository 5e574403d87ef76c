"""Plain attention on CPUs gives what torch's own gives, forwards and backwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from unipixel.train.trainer import PlainAttention


def tensors(groups: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 7, 16), (2, groups, 9, 16), (2, groups, 9, 24))
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def attended(inputs: list[torch.Tensor], plain: bool, **options: Any) -> list[torch.Tensor]:
    """The result and the gradients of the inputs."""
    if plain:
        with PlainAttention():
            out = F.scaled_dot_product_attention(*inputs, **options)
    else:
        out = F.scaled_dot_product_attention(*inputs, **options)
    return [out, *torch.autograd.grad(out.square().sum(), inputs)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.arange(9)[None] < torch.arange(2, 9)[:, None]},
        {"attn_mask": torch.linspace(-2, 2, 63).reshape(7, 9)},
    ],
    ids=["plain", "scaled", "causal", "masked", "biased"],
)
def test_results_and_gradients_equal_those_of_torch(options: dict[str, Any]) -> None:
    for ours, theirs in zip(attended(tensors(), True, **options), attended(tensors(), False, **options), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_grouped_queries_share_their_keys() -> None:
    ours, theirs = (attended(tensors(2), plain, enable_gqa=True) for plain in (True, False))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_autocast_decides_the_dtype_as_it_does_for_torch() -> None:
    with torch.autocast("cpu", torch.bfloat16), PlainAttention():
        out = F.scaled_dot_product_attention(*tensors())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), F.scaled_dot_product_attention(*tensors()), atol=0.03, rtol=0.03)


def test_dropout_leaves_the_mean_and_changes_the_values() -> None:
    torch.manual_seed(0)
    query, key = torch.zeros(1, 1, 2000, 8), torch.zeros(1, 1, 50, 8)
    with PlainAttention():
        out = F.scaled_dot_product_attention(query, key, torch.ones(1, 1, 50, 8), dropout_p=0.2)
    assert abs(float(out.mean()) - 1) < 0.01
    assert float(out.std()) > 0.01
