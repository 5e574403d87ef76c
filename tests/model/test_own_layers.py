"""The short ways of inference, a token at a time and few rows at a time, give what the long way gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import nn

from unipixel.engine.engine import load
from unipixel.model import language
from unipixel.model.config import PixelConfig
from unipixel.model.memory_attention import build_sine_encoding, build_time_encoding
from unipixel.model.presets import TINY_SAM
from unipixel.model.prompt_encoder import RegionPool
from unipixel.model.segmenter import Segmenter
from unipixel.model.vision import encode_place


def test_one_token_through_the_short_way_is_the_last_of_many() -> None:
    model, generator = load("nano").model, torch.Generator().manual_seed(0)
    embeds = torch.randn(2, 12, model.config.language.hidden_size, generator=generator)
    positions = torch.arange(12).expand(3, 2, -1)
    keep = torch.ones(2, 12, dtype=torch.bool)
    keep[1, :4] = False
    for mask in (None, keep):
        with torch.no_grad():
            cache = language.KeyValueCache()
            language.decode(model.language, embeds[:, :11], positions[..., :11], _cut(mask, 11), cache)
            ours = language.decode(model.language, embeds[:, 11:], positions[..., 11:], mask, cache)
        whole = language.decode(model.language, embeds, positions, mask)  # with gradients: layer by layer
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


@pytest.mark.parametrize("order", ["raster", "window"])
@torch.no_grad()
def test_a_region_says_where_it_is_and_how_large_where_the_model_has_such_codes(
    order: Literal["raster", "window"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place is that in the picture, also where features are indexed in the order of windows."""
    model, generator, grid = load("nano").model, torch.Generator().manual_seed(0), (1, 16, 16)
    patches = torch.randn(256, 1176, generator=generator)
    masks = torch.zeros(1, 3, 8, 8, dtype=torch.bool)
    masks[0, 0, :2, :2], masks[0, 1, 6:, 6:], masks[0, 2] = True, True, True

    def pool_regions(coded: bool) -> torch.Tensor:
        pixel = replace(model.config.pixel, region_pool_order=order, region_place_encoding=coded)
        monkeypatch.setattr(model.config, "pixel", pixel)
        return model.pool_regions(model.encode_vision(patches, torch.tensor([grid])), [masks])

    plain, placed = pool_regions(False), pool_regions(True)
    matrix = model.segmenter.shared_image_embedding.positional_embedding
    code = encode_place((grid,), 2, plain.shape[1], matrix)
    cells = masks[0].flatten(1).float()
    content = plain / plain.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(placed, content + cells @ code / cells.sum(1, keepdim=True), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_region_is_the_mean_of_its_cells_by_their_weights() -> None:
    generator, grids = torch.Generator().manual_seed(0), ((2, 4, 6), (1, 4, 4))
    cells = torch.randn(16, 8, generator=generator)
    weights = torch.rand(2, 3, 2, 3, generator=generator)
    weights[1, 0] = 0  # the first object is not seen in the second step
    weights[0, 1] *= 1e-6  # hardly anything of the second one in the first
    found = RegionPool.pool(cells, grids, [weights, None])
    steps = cells[:12].unflatten(0, (2, 6))
    seen = [(n, t) for n in range(3) for t in range(2) if (n, t) != (0, 1)]
    expected = [(weights[t, n].flatten()[:, None] * steps[t]).sum(0) / weights[t, n].sum() for n, t in seen]
    torch.testing.assert_close(found, torch.stack(expected))
    whole = RegionPool.pool(cells, grids, [weights > 0, None])
    torch.testing.assert_close(whole, RegionPool.pool(cells, grids, [(weights > 0).float(), None]))


def test_the_code_of_a_region_asks_for_that_of_its_cells() -> None:
    with pytest.raises(ValueError, match="visual_place_encoding"):
        PixelConfig(region_place_encoding=True)


def _average_squares(grids: torch.Tensor, side: int) -> torch.Tensor:
    """Each cell of grids (..., side * side, C) as the mean of its square of 2 x 2."""
    kept = grids.clone()
    for row in range(0, side, 2):
        for column in range(0, side, 2):
            own = [
                row * side + column,
                row * side + column + 1,
                (row + 1) * side + column,
                (row + 1) * side + column + 1,
            ]
            kept[..., own, :] = grids[..., own, :].mean(-2, keepdim=True)
    return kept


def _turn(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Pairs of channels (K, C) turned by places (K, 2) of x and y: half of the pairs by each."""
    width = x.shape[-1]
    frequency = 10000.0 ** (-torch.arange(0, width, 4) / width)
    angle = torch.cat([places[:, :1] * frequency, places[:, 1:] * frequency], 1)
    even, odd = x[:, 0::2], x[:, 1::2]
    return torch.stack([even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1).flatten(1)


@torch.no_grad()
def test_a_pooled_key_is_four_keys_of_their_mean_in_their_middle() -> None:
    """All memories but the first; pointers stay."""
    torch.manual_seed(0)
    segmenter = Segmenter(TINY_SAM).eval()
    side, width, channels = TINY_SAM.grid, TINY_SAM.memory_size, TINY_SAM.hidden_size
    for parameter in segmenter.parameters():
        nn.init.normal_(parameter, std=0.3)
    embed, memories = torch.randn(1, channels, side, side), torch.randn(1, 3, side * side, width)
    pointers, slots, distances = torch.randn(1, 2, channels), [6, 1, 0], [0.4, 0.2]
    plain = segmenter.attend(embed, memories, slots, pointers, distances)
    segmenter.pools_memories = True
    pooled = segmenter.attend(embed, memories, slots, pointers, distances)
    only_first = segmenter.attend(embed, memories[:, :1], slots[:1], pointers, distances)
    segmenter.pools_memories = False
    assert torch.equal(plain, segmenter.attend(embed, memories, slots, pointers, distances))
    assert torch.equal(only_first, segmenter.attend(embed, memories[:, :1], slots[:1], pointers, distances))
    assert (plain - pooled).abs().max() > 1e-2

    # the same by as many keys as without pooling
    code = build_sine_encoding(side, width, embed.device) + segmenter.memory_temporal_positional_encoding[slots, 0]
    values, codes = (torch.cat([x[:1], _average_squares(x[1:], side)]).flatten(0, 1) for x in (memories[0], code))
    cell = torch.tensor([[x, y] for y in range(side) for x in range(side)], dtype=torch.float32)
    places = torch.cat([cell, *[_average_squares(cell, side)] * 2])
    moment = segmenter.temporal_positional_encoding_projection_layer(
        build_time_encoding(torch.tensor(distances), channels)
    ).repeat_interleave(channels // width, 0)
    values = torch.cat([values, pointers.reshape(-1, width)])
    keys = values + torch.cat([codes, moment])
    x = (embed.flatten(2)[0].t() + build_sine_encoding(side, channels, embed.device, scale=0.1)).float()
    for layer in segmenter.memory_attention.layers:
        own, cross, y = layer.self_attn, layer.cross_attn_image, layer.layer_norm1(x)
        scores = _turn(own.q_proj(y), cell) @ _turn(own.k_proj(y), cell).t() / channels**0.5
        x = x + own.o_proj(scores.softmax(-1) @ own.v_proj(y))
        key = cross.k_proj(keys)
        key = torch.cat([_turn(key[: len(places)], places), key[len(places) :]])
        scores = _turn(cross.q_proj(layer.layer_norm2(x)), cell) @ key.t() / channels**0.5
        x = x + cross.o_proj(scores.softmax(-1) @ cross.v_proj(values))
        x = x + layer.linear2(layer.linear1(layer.layer_norm3(x)).relu())
    expected = segmenter.memory_attention.layer_norm(x).t().unflatten(1, (side, side))[None]
    torch.testing.assert_close(pooled, expected, atol=1e-4, rtol=1e-4)
