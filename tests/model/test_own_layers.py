"""Layers that inference runs in our own way give what transformers' own forward gives; training goes through that."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import DynamicCache
from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel

from unipixel.engine.engine import load
from unipixel.model import language
from unipixel.model.config import SamConfig
from unipixel.model.presets import NANO_SAM, TINY_SAM
from unipixel.model.segmenter import encode_stages


@pytest.mark.parametrize("size", [TINY_SAM, NANO_SAM], ids=["tiny", "nano"])
def test_the_image_encoder_is_transformers_own_bit_by_bit(size: SamConfig) -> None:
    """In fp32, at a size whose windows fit and at one whose last window is padded."""
    config = size.to_transformers().vision_config.backbone_config
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    backbone = Sam2HieraDetModel(config).eval()
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.1)  # a bias of zero would hide what stands behind padding
    side = size.image_size
    for frames in (torch.randn(1, 3, side, side), torch.randn(2, 3, side + 32, side + 32)):
        with torch.no_grad():
            ours, theirs = encode_stages(backbone, frames), backbone(frames).intermediate_hidden_states
            half = encode_stages(backbone.to(torch.bfloat16), frames.to(torch.bfloat16))
            backbone.float()
        for mine, other, rough in zip(ours, theirs, half, strict=True):
            assert torch.equal(mine, other)
            assert (rough - other).norm() < 0.03 * other.norm()


def test_one_token_through_our_layer_is_one_token_through_transformers() -> None:
    model, generator = load("nano").model, torch.Generator().manual_seed(0)
    embeds = torch.randn(2, 12, model.config.language.hidden_size, generator=generator)
    positions = torch.arange(12).expand(3, 2, -1)
    keep = torch.ones(2, 12, dtype=torch.bool)
    keep[1, :4] = False
    for mask in (None, keep):
        with torch.no_grad():
            cache = DynamicCache()
            language.decode(model.language, embeds[:, :11], positions[..., :11], _cut(mask, 11), cache)
            ours = language.decode(model.language, embeds[:, 11:], positions[..., 11:], mask, cache)
        whole = language.decode(model.language, embeds, positions, mask)  # with gradients: transformers' layers
        assert whole.requires_grad and not ours.requires_grad
        torch.testing.assert_close(ours[:, 0], whole[:, -1], atol=1e-4, rtol=1e-4)


def _cut(mask: torch.Tensor | None, length: int) -> torch.Tensor | None:
    return None if mask is None else mask[:, :length]


@pytest.mark.parametrize("rows", [1, 2, 8, 9])
def test_few_rows_are_multiplied_as_many_are(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    linear = nn.Linear(48, 40).to(torch.bfloat16)
    x = torch.randn(rows, 1, 48, generator=generator).to(torch.bfloat16)
    with torch.no_grad():
        torch.testing.assert_close(language.project(linear, x), linear(x), atol=2e-2, rtol=2e-2)
    assert language.project(linear, x).requires_grad
