"""Qwen2.5-VL as we run it: the vision tower, mRoPE positions, and the decoder layers around our KV cache.

The layers are transformers' own; what is ours is how they are driven. The vision tower runs one padded attention per
layer for all windows, and also returns the features before its last MLP, which object memory pools. The decoder returns
the residual stream before the final norm, from which `<|seg|>` states are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLTextModel,
)

from unipixel.model.config import UniPixelConfig

Grid = tuple[int, int, int]
"""(t, h, w) of one visual in patches."""


@dataclass(frozen=True)
class VisionFeatures:
    """What the vision tower says about a batch of visuals, R = sum of t*h*w / 4 cells."""

    merged: Tensor
    """(R, D) visual tokens for the language model, raster order."""
    pre_merge: Tensor
    """(R, 4 * vision width) input of the merger's MLP, in the order that `pixel.region_pool_order` names."""
    grid_thw: tuple[Grid, ...]


@lru_cache(maxsize=64)
def _build_windows(grids: tuple[Grid, ...], merge: int, window_cells: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """(R,) the raster cell of each cell in window order, (4R, 2) row and column of each patch, patches per window."""
    index, lengths, positions, base = [], [], [], 0
    for t, h, w in grids:
        rows, columns = h // merge, w // merge
        raster = np.arange(rows * columns).reshape(rows, columns)
        windows = [
            raster[r : r + window_cells, c : c + window_cells].ravel()
            for r in range(0, rows, window_cells)
            for c in range(0, columns, window_cells)
        ]
        one = np.concatenate(windows)
        inner = np.stack(list(np.mgrid[0:merge, 0:merge]), -1).reshape(-1, 2)
        cells = np.stack([one // columns, one % columns], -1) * merge  # (cells, 2)
        patches = (cells[:, None] + inner).reshape(-1, 2)
        for step in range(t):
            index.append(one + base + step * rows * columns)
            positions.append(patches)
            lengths += [len(x) * merge**2 for x in windows]
        base += t * rows * columns
    # cached tensors may be asked for first under inference mode and later by training
    with torch.inference_mode(False):
        return torch.from_numpy(np.concatenate(index)), torch.from_numpy(np.concatenate(positions)), tuple(lengths)


def _attend(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Attention inside consecutive runs of ``lengths`` tokens, as one padded call. (N, heads, dim) in and out."""
    longest, runs = max(lengths), len(lengths)
    if min(lengths) == longest:
        q, k, v = (x.unflatten(0, (runs, longest)).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)
    sizes = torch.tensor(lengths, device=q.device)
    inside = torch.arange(longest, device=q.device) < sizes[:, None]  # (runs, longest)

    def pad(x: Tensor) -> Tensor:
        out = x.new_zeros(runs, longest, *x.shape[1:])
        out[inside] = x
        return out.transpose(1, 2)

    out = F.scaled_dot_product_attention(pad(q), pad(k), pad(v), attn_mask=inside[:, None, None])
    return out.transpose(1, 2)[inside]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.float().chunk(2, -1)
    return (x.float() * cos + torch.cat([-b, a], -1) * sin).to(x.dtype)


def _vision_block(block: Any, x: Tensor, cos: Tensor, sin: Tensor, lengths: tuple[int, ...], heads: int) -> Tensor:
    """One block of the vision tower, as transformers' own but with padded attention. (patches, width) in and out."""
    q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, heads, -1)).unbind(1)
    mixed = _attend(_rotate(q, cos, sin), _rotate(k, cos, sin), v, lengths)
    x = x + block.attn.proj(mixed.flatten(1))
    return x + block.mlp(block.norm2(x))


def encode_vision(
    tower: Qwen2_5_VisionTransformerPretrainedModel,
    config: UniPixelConfig,
    pixel_values: Tensor,
    grids: tuple[Grid, ...],
    place_matrix: Tensor,
) -> VisionFeatures:
    """Run the vision tower over any number of visuals at once.

    Args:
        pixel_values: (sum of t*h*w, 3 * 2 * 14 * 14) normalised patches in merge-block order.
        grids: (t, h, w) of every visual, in patches.
        place_matrix: of SAM's Fourier code, for models with `visual_place_encoding`.

    Source: Qwen2.5-VL technical report, section 2.1; window order as in transformers.
    """
    vision = config.vision
    merge = vision.spatial_merge_size
    cells = vision.window_size // vision.patch_size // merge
    window_index, positions, window_lengths = _build_windows(grids, merge, cells)
    frame_lengths = tuple(h * w for t, h, w in grids for _ in range(t))
    # each patch is a whole kernel, so its convolution is one product, which is several times faster on CPUs
    kernel = tower.patch_embed.proj.weight.flatten(1)
    window_index = window_index.to(kernel.device)  # where the tower lies, which may be another device than the rest
    x = F.linear(pixel_values.to(kernel), kernel)
    x = x.unflatten(0, (-1, merge**2))[window_index].flatten(0, 1)  # window order

    heads = vision.num_heads
    quarter = vision.hidden_size // heads // 2
    frequency = 1.0 / 10000.0 ** (torch.arange(0, quarter, 2, dtype=torch.float32, device=x.device) / quarter)
    angle = (positions.to(x.device)[..., None] * frequency).flatten(1)
    angle = torch.cat([angle, angle], -1)[:, None]  # (patches, 1, head dim)
    cos, sin = angle.cos(), angle.sin()
    for number, block in enumerate(tower.blocks):
        lengths = frame_lengths if number in vision.fullatt_block_indexes else window_lengths
        if block.training and block.gradient_checkpointing:
            x = block._gradient_checkpointing_func(_vision_block, block, x, cos, sin, lengths, heads)
        else:
            x = _vision_block(block, x, cos, sin, lengths, heads)

    pre_merge = tower.merger.ln_q(x).reshape(-1, merge**2 * vision.hidden_size)
    raster_index = window_index.argsort()
    merged = tower.merger.mlp(pre_merge)[raster_index]
    if config.pixel.visual_place_encoding:
        # content is brought to the scale of the code: left alone it grows until the code is lost in it
        content = F.rms_norm(merged.float(), merged.shape[-1:])
        code = encode_place(grids, merge, merged.shape[-1], place_matrix).to(content.device)
        merged = (content + code).to(merged.dtype)
    if config.pixel.region_pool_order == "raster":
        pre_merge = pre_merge[raster_index]
    home = pixel_values.device
    return VisionFeatures(merged.to(home), pre_merge.to(home), grids)


@lru_cache(maxsize=64)
def _compute_cell_centres(grids: tuple[Grid, ...], merge: int) -> Tensor:
    """(R, 2) x and y of every visual token's centre in its image, 0..1."""
    with torch.inference_mode(False):
        rows = []
        for t, h, w in grids:
            y = (torch.arange(h // merge) + 0.5) / (h // merge)
            x = (torch.arange(w // merge) + 0.5) / (w // merge)
            row, column = torch.meshgrid(y, x, indexing="ij")
            rows.append(torch.stack([column, row], -1).flatten(0, 1).repeat(t, 1))
        return torch.cat(rows)


def encode_place(grids: tuple[Grid, ...], merge: int, width: int, matrix: Tensor) -> Tensor:
    """(R, width) fixed code of each visual token's place in its image, in fp32.

    The first C channels are SAM's own Fourier code, so that a place that the decoder has looked at can be handed on to
    the mask decoder as it is; the others are sines and cosines of x and y at rising frequencies.

    Args:
        matrix: (2, C/2) of SAM's Fourier code.
    """
    centre = _compute_cell_centres(grids, merge).to(matrix.device)
    angle = 2 * math.pi * (2 * centre - 1) @ matrix.float()
    rest = width - 2 * matrix.shape[1]
    frequency = math.pi * torch.logspace(-1, 3.5, rest // 4, base=2.0, device=centre.device)
    plain = (centre[..., None] * frequency).flatten(1)
    return torch.cat([angle.sin(), angle.cos(), plain.sin(), plain.cos()], -1)


def compute_rope_index(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    video_grid_thw: list[Grid],
    second_per_grid: list[float],
    config: UniPixelConfig,
    image_grid_thw: list[Grid] | None = None,
) -> tuple[Tensor, Tensor]:
    """mRoPE positions of a batch of prompts.

    Args:
        input_ids: (B, L) with every visual already expanded to its tokens.
        attention_mask: (B, L), 0 where padded; None when nothing is.
        video_grid_thw: (t, h, w) of each video in the order of the whole batch.
        second_per_grid: seconds between temporal grid steps of each video.
        image_grid_thw: the same for visuals given as still images.

    Returns:
        (3, B, L) positions on the temporal, row and column axes, and (B,) the next free position.

    Source: Qwen2.5-VL technical report, section 2.1.2.
    """
    merge, rate = config.vision.spatial_merge_size, config.vision.tokens_per_second
    positions = torch.ones(3, *input_ids.shape, dtype=torch.long)
    following = torch.zeros(len(input_ids), dtype=torch.long)
    videos, images = iter(zip(video_grid_thw, second_per_grid, strict=True)), iter(image_grid_thw or [])
    for row, ids in enumerate(input_ids.cpu()):
        keep = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask[row].bool().cpu()
        tokens = ids[keep].numpy()
        visual = (tokens == config.video_token_id) | (tokens == config.image_token_id)
        parts, start, i = [], 0, 0
        while i < len(tokens):
            if not visual[i]:
                ahead = visual[i:].argmax() if visual[i:].any() else len(tokens) - i
                parts.append(np.broadcast_to(np.arange(start, start + ahead), (3, ahead)))
                start, i = start + int(ahead), i + int(ahead)
                continue
            if tokens[i] == config.video_token_id:
                (t, h, w), seconds = next(videos)
                seconds = int(seconds) if config.pixel.integer_seconds_per_grid else seconds
            else:
                (t, h, w), seconds = next(images), 0
            time = (np.arange(t) * seconds * rate).astype(np.int64)
            block = np.stack(np.meshgrid(time, np.arange(h // merge), np.arange(w // merge), indexing="ij"))
            block = block.reshape(3, -1) + start
            parts.append(block)
            start = int((block if config.pixel.rope_restart == "all_axes" else block[1:]).max()) + 1
            i += block.shape[1]
        positions[:, row, keep] = torch.from_numpy(np.concatenate(parts, 1))
        following[row] = start
    return positions.to(input_ids.device), following.to(input_ids.device)


def build_attention_bias(
    attention_mask: Tensor | None, batch: int, length: int, past: int, device: torch.device
) -> Tensor | None:
    """(B, 1, L, past + L) bool mask: causal, and blind to padding. None where attention needs to be told nothing."""
    if attention_mask is not None and attention_mask.ndim == 4:
        return attention_mask.bool()
    if attention_mask is None and (length == 1 or not past):
        return None  # a single token sees everything, and attention without a mask is causal
    keys = torch.arange(past + length, device=device)
    queries = torch.arange(past, past + length, device=device)
    causal = keys[None] <= queries[:, None]
    if attention_mask is None:
        return causal.expand(batch, 1, -1, -1)
    # a padded query sees itself, so that its (unused) softmax stays finite
    itself = keys[None] == queries[:, None]
    return (causal & attention_mask.bool()[:, None, None]) | itself


FEW_ROWS = 8
"""Rows of input up to which a product on a CPU is bound by reading the weight."""


def project(linear: nn.Module, x: Tensor) -> Tensor:
    """What a linear layer computes, on CPUs near the rate at which its weight can be read when the rows are few.

    torch turns a linear layer on few rows in half precision into a matrix product made for many, which reads the
    weight at half the rate of a product of matrix and vector (one row) or of the product turned round (a few).
    """
    if torch.is_grad_enabled() or type(linear) is not nn.Linear or linear.weight.device.type != "cpu":
        return linear(x)
    weight, rows = linear.weight, x.numel() // linear.in_features
    if weight.dtype == torch.float32 or rows > FEW_ROWS:
        return linear(x)
    flat = x.reshape(rows, -1)
    y = torch.mv(weight, flat[0])[None] if rows == 1 else (weight @ flat.t()).t()
    y = y if linear.bias is None else y + linear.bias
    return y.reshape(*x.shape[:-1], -1)


def _project_together(linears: Sequence[nn.Module], x: Tensor) -> Tensor:
    """What several linear layers make of one input, side by side; one product where `fuse_projections` was here."""
    if all(type(one) is nn.Linear and one.weight.device == x.device for one in linears):
        weight, bias = (_join_neighbours([getattr(one, name) for one in linears]) for name in ("weight", "bias"))
        if weight is not None and (bias is not None or all(one.bias is None for one in linears)):
            return F.linear(x, weight, bias)
    return torch.cat([project(one, x) for one in linears], -1)


def _join_neighbours(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Tensors of the same further axes that lie one behind the other in memory, as one tensor without a copy."""
    first = parts[0]
    if first is None:
        return None
    storage, end = first.untyped_storage()._cdata, first.storage_offset()
    for part in parts:
        if part is None or part.untyped_storage()._cdata != storage or part.storage_offset() != end:
            return None
        end += part.numel()
    rows = sum(len(part) for part in parts if part is not None)
    return first.as_strided((rows, *first.shape[1:]), first.stride())


@torch.no_grad()
def fuse_projections(language: Qwen2_5_VLTextModel) -> None:
    """Lay the weights of layers that read the same input one behind the other, so that one product serves them.

    Queries, keys and values lie together afterwards, and gate and up. The layers keep their parameters, as views of
    what lies together; one group at a time is copied, so that the weights never lie in memory twice.
    """
    for layer in language.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for group in ((attention.q_proj, attention.k_proj, attention.v_proj), (mlp.gate_proj, mlp.up_proj)):
            if any(type(one) is not nn.Linear for one in group):
                continue  # rounded or adapted: these go one by one
            for name in ("weight", "bias"):
                parts = [getattr(one, name) for one in group]
                if any(part is None for part in parts) or _join_neighbours(parts) is not None:
                    continue
                together = torch.cat([part.data for part in parts])
                for part, piece in zip(parts, together.split([len(part) for part in parts]), strict=True):
                    part.data = piece


def _normalise(norm: Any, x: Tensor) -> Tensor:
    """What an RMS norm of transformers computes, in one operation instead of six or eight."""
    if norm.weight.device != x.device:
        brought: Tensor = norm(x)  # its weight waits elsewhere, and a hook brings it, see `placement`
        return brought
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _add_product(hidden: Tensor, linear: nn.Module, x: Tensor) -> Tensor:
    """``hidden`` plus what a linear layer makes of ``x``; on accelerators in place, as a part of the product."""
    has_bias = getattr(linear, "bias", None) is not None
    if hidden.device.type == "cpu" or type(linear) is not nn.Linear or has_bias:
        return hidden + project(linear, x)
    return hidden.addmm_(x, linear.weight.t())


Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
"""Takes the number of a layer, grouped queries (B, heads of keys, heads that share them, dim), the new keys and values
(B, heads of keys, 1, dim) and the scale, keeps keys and values, and returns what the queries see, of their shape."""


def attend_over(caches: Sequence[Any], masks: Sequence[Tensor | None]) -> Attend:
    """Attention of new tokens over what came before them.

    Args:
        caches: one for all rows, or for each row one of its own, then of any lengths; ``update(keys, values, number of
            the layer)`` with (B, heads, 1, dim) returns (B, heads, K, dim).
        masks: one for each cache, (B, 1, 1, K) of what is seen of its K keys, bool or added; None for all.
    """

    def attend(number: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        mixed = []
        parts = zip(*(x.chunk(len(caches)) for x in (queries, keys, values)), caches, masks, strict=True)
        for q, k, v, cache, mask in parts:
            k, v = cache.update(k, v, number)
            mixed.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale))
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    return attend


def _read_token(layer: Any, number: int, hidden: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
    """One decoder layer for one new token per row, (B, D) in and out; for inference.

    The heads that share keys and values are laid side by side as queries of one head, so that attention reads
    the cache once instead of once per head.
    """
    attention, mlp, (cos, sin) = layer.self_attn, layer.mlp, rotary
    shared = attention.config.num_key_value_heads
    x = _normalise(layer.input_layernorm, hidden)
    x = _project_together((attention.q_proj, attention.k_proj, attention.v_proj), x)
    x = x.unflatten(-1, (-1, attention.head_dim))  # (B, heads of queries, of keys and of values, dim)
    turned, v = x[:, :-shared], x[:, -shared:, None]
    a, b = turned.chunk(2, -1)
    turned = turned * cos + torch.cat([b, a], -1) * sin
    grouped = turned[:, :-shared].unflatten(1, (shared, -1))  # (B, heads of keys, heads that share them, dim)
    mixed = attend(number, grouped, turned[:, -shared:, None], v, attention.scaling)
    hidden = _add_product(hidden, attention.o_proj, mixed.flatten(1))
    x = _project_together((mlp.gate_proj, mlp.up_proj), _normalise(layer.post_attention_layernorm, hidden))
    gate, up = x.chunk(2, -1)
    return _add_product(hidden, mlp.down_proj, mlp.act_fn(gate) * up)


def decode_token(language: Qwen2_5_VLTextModel, embeds: Tensor, position_ids: Tensor, attend: Attend) -> Tensor:
    """The decoder layers for one new token per row, as few operations as there are; no one of them waits for the host.

    Args:
        embeds: (B, D) embeddings, on accelerators overwritten.
        position_ids: (3, B, 1).
        attend: see `attend_over`.

    Returns:
        (B, D), the residual stream before the final norm.
    """
    cos, sin = language.rotary_emb(embeds[:, None], position_ids)  # (B, 1, dim)
    half = sin.shape[-1] // 2
    rotary = cos, torch.cat([-sin[..., :half], sin[..., half:]], -1)
    for number, layer in enumerate(language.layers):
        embeds = _read_token(layer, number, embeds, rotary, attend)
    return embeds


def decode(
    language: Qwen2_5_VLTextModel,
    embeds: Tensor,
    position_ids: Tensor,
    attention_mask: Tensor | None = None,
    cache: Cache | None = None,
) -> Tensor:
    """Run the decoder layers and return the residual stream before the final norm.

    Args:
        embeds: (B, L, D) embeddings of the new tokens.
        position_ids: (3, B, L).
        attention_mask: (B, past + L) bool, False on padding; or a complete (B, 1, L, past + L) mask; None if nothing
            is padded.
        cache: keys and values of earlier tokens, extended in place.

    Returns:
        (B, L, D).
    """
    past = cache.get_seq_length() if cache is not None else 0
    mask = build_attention_bias(attention_mask, embeds.shape[0], embeds.shape[1], past, embeds.device)
    if cache is not None and embeds.shape[1] == 1 and embeds.device.type == "cpu" and not torch.is_grad_enabled():
        return decode_token(language, embeds[:, 0], position_ids, attend_over([cache], [mask]))[:, None]
    rotary, hidden = language.rotary_emb(embeds, position_ids), embeds
    for layer in language.layers:
        hidden = layer(
            hidden,
            attention_mask=mask,
            position_embeddings=rotary,
            past_key_values=cache,
            use_cache=cache is not None,
        )
    return hidden.to(embeds.device)  # the last layer may lie on another device


def build_language_model(
    config: UniPixelConfig,
) -> tuple[Qwen2_5_VisionTransformerPretrainedModel, Qwen2_5_VLTextModel, nn.Linear]:
    """The vision tower, the decoder and its head, freshly initialised."""
    tower, text = Qwen2_5_VLVisionConfig(**vars(config.vision)), Qwen2_5_VLTextConfig(**vars(config.language))
    tower._attn_implementation = text._attn_implementation = "sdpa"
    visual = Qwen2_5_VisionTransformerPretrainedModel(tower)
    language = Qwen2_5_VLTextModel(text)
    head = nn.Linear(config.language.hidden_size, config.language.vocab_size, bias=False)
    if config.tie_word_embeddings:
        head.weight = language.embed_tokens.weight
    return visual, language, head
