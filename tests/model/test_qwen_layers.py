"""The vision tower and the decoder against transformers' classes with the same weights."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLTextModel,
)

from unipixel.model.language import KeyValueCache, LanguageModel, RotaryEmbedding, decode
from unipixel.model.vision import Grid, VisionTower, encode_vision

ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}


def vary(module: nn.Module) -> None:
    """Weights that leave nothing out: norms and biases too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, one in sorted(module.named_parameters()):
            one.copy_(torch.randn(one.shape, generator=generator) * 0.2 + ("norm" in name or "ln_q" in name))


def build_decoders(heads: int, groups: int) -> tuple[LanguageModel, Any]:
    config = Qwen2_5_VLTextConfig(
        vocab_size=50,
        hidden_size=16 * heads,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        rope_parameters=ROPE,
        rms_norm_eps=1e-5,
    )
    config._attn_implementation = "sdpa"
    ours, theirs = LanguageModel(config), Qwen2_5_VLTextModel(config)
    vary(ours)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def build_towers() -> tuple[VisionTower, Any, Any]:
    config = Qwen2_5_VLVisionConfig(
        depth=3, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=24, patch_size=14, window_size=56,
        fullatt_block_indexes=[1],
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    ours, theirs = VisionTower(config), Qwen2_5_VisionTransformerPretrainedModel(config)
    vary(ours)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, config


def take_positions(rows: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, 90, (3, rows, length), generator=generator).sort(-1)[0]


@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (2, 2), (3, 1)])
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 7), (3, 13)])
@pytest.mark.parametrize("is_padded", [False, True])
def test_the_decoder_is_transformers_own_bit_by_bit(
    heads: int, groups: int, rows: int, length: int, is_padded: bool
) -> None:
    """A prompt and what follows it, in fp32, with gradients, so that every token goes through the layers."""
    ours, theirs = build_decoders(heads, groups)
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(rows, length + 3, 16 * heads, generator=generator)
    positions, keep = take_positions(rows, length + 3), torch.ones(rows, length + 3, dtype=torch.bool)
    keep[-1, : length // 2] = not is_padded
    own_cache, cache = KeyValueCache(), DynamicCache()
    for start, end in ((0, length), (length, length + 2), (length + 2, length + 3)):
        mask = keep[:, :end] if is_padded else None
        found = ours.norm(decode(ours, embeds[:, start:end], positions[..., start:end], mask, own_cache))
        allowed = torch.ones(length + 3, length + 3, dtype=torch.bool).tril()[start:end, :end]
        allowed = (allowed & keep[:, None, None, :end]) | torch.eye(length + 3, dtype=torch.bool)[start:end, :end]
        rotary, hidden = theirs.rotary_emb(embeds[:, start:end], positions[..., start:end]), embeds[:, start:end]
        told = None if not is_padded and (not start or end - start == 1) else allowed
        for layer in theirs.layers:
            hidden = layer(hidden, told, past_key_values=cache, position_embeddings=rotary)
        assert torch.equal(found, theirs.norm(hidden)), (found - theirs.norm(hidden)).abs().max()
    assert own_cache.length == cache.get_seq_length() == length + 3


def test_gradients_of_the_decoder_are_transformers_own() -> None:
    ours, theirs = build_decoders(4, 2)
    embeds, positions = torch.randn(2, 9, 64), take_positions(2, 9)
    ours.norm(decode(ours, embeds, positions)).square().mean().backward()
    theirs(inputs_embeds=embeds, position_ids=positions).last_hidden_state.square().mean().backward()
    known = dict(theirs.named_parameters())
    for name, one in ours.named_parameters():
        if name != "embed_tokens.weight":
            torch.testing.assert_close(one.grad, known[name].grad, atol=1e-7, rtol=1e-4, msg=name)


@pytest.mark.parametrize("grids", [((1, 2, 2),), ((1, 8, 10),), ((2, 6, 14), (1, 4, 4)), ((3, 8, 8),)])
def test_the_tower_is_transformers_own(grids: tuple[Grid, ...]) -> None:
    """Windows that fit and such that do not, stills and clips, one and several."""
    tower, theirs, vision = build_towers()
    config: Any = SimpleNamespace(
        vision=vision, pixel=SimpleNamespace(visual_place_encoding=False, region_pool_order="raster")
    )
    pixels = torch.randn(sum(t * h * w for t, h, w in grids), 3 * 2 * 14 * 14)
    found = encode_vision(tower, config, pixels, grids, torch.zeros(2, 4))
    expected = theirs(pixels, torch.tensor(grids)).pooler_output
    torch.testing.assert_close(found.merged, expected, atol=1e-5, rtol=1e-5)
    found.merged.square().mean().backward()
    expected.square().mean().backward()
    known = dict(theirs.named_parameters())
    for name, one in tower.named_parameters():
        torch.testing.assert_close(one.grad, known[name].grad, atol=1e-6, rtol=1e-3, msg=name)


def test_rotary_frequencies_are_not_rounded_with_the_weights() -> None:
    config = Qwen2_5_VLTextConfig(hidden_size=64, num_attention_heads=4, rope_parameters=ROPE)
    positions = take_positions(1, 5) + 4000
    exact = RotaryEmbedding(config)(torch.zeros(1), positions)
    rounded = RotaryEmbedding(config).bfloat16()(torch.zeros(1, dtype=torch.bfloat16), positions)
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.bfloat16
        assert torch.equal(one.bfloat16(), other)


def test_names_and_first_values_are_those_of_transformers() -> None:
    ours, theirs = build_decoders(4, 2)
    tower, other, _ = build_towers()
    for mine, whole in ((ours, theirs), (tower, other)):
        assert mine.state_dict().keys() == whole.state_dict().keys()
        fresh = copy.deepcopy(mine)
        fresh.__init__(whole.config)  # drawn anew
        for name, one in fresh.named_parameters():
            if one.ndim > 1:
                assert 0.015 < float(one.detach().std()) < 0.025, name
            else:
                assert torch.equal(one, torch.full_like(one, float("norm" in name or "ln_q" in name))), name


def test_forks_of_a_cache_share_what_they_have_and_go_apart() -> None:
    def fill(cache: KeyValueCache, value: float, count: int) -> None:
        for number in range(2):
            cache.update(torch.full((1, 2, count, 4), value), torch.full((1, 2, count, 4), -value), number)

    cache = KeyValueCache()
    assert cache.length == 0
    fill(cache, 1.0, 5)
    fork = cache.fork()
    fill(cache, 2.0, 1)
    fill(fork, 3.0, 100)
    assert (cache.length, fork.length) == (6, 105)
    assert cache.layers[1].keys[0, 0, :, 0].tolist() == [1.0] * 5 + [2.0]
    assert fork.layers[1].values[0, 1, :, 3].tolist() == [-1.0] * 5 + [-3.0] * 100
    cache.shorten(3)
    fill(cache, 4.0, 1)
    assert cache.layers[0].keys[0, 0, :, 0].tolist() == [1.0] * 3 + [4.0]
    assert fork.layers[0].keys[0, 0, :6, 0].tolist() == [1.0] * 5 + [3.0]
