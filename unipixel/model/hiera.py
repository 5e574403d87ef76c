"""Hiera, SAM 2.1's image encoder, run on transformers' layers without what their own forward wastes.

The forward of transformers' block computes an attention that nothing reads and projects the padding of its windows. Here
the projections see real tokens alone (a padded token is zero in front of a projection, so that the bias stands behind it), and in half
precision on CPUs attention is two products, which torch's fused kernel is slower than. In fp32 the results are the same
bit by bit. Training goes through transformers' own forward.

Source: Hiera (arXiv 2306.00989); SAM 2 (arXiv 2408.00714), appendix C.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel, do_pool

QUERIES = 512
"""Queries whose scores are computed at a time, so that they stay in the cache."""


def encode_stages(backbone: Sam2HieraDetModel, frames: Tensor) -> tuple[Tensor, ...]:
    """The output (T, H, W, C) of each of the four stages, finest first.

    Args:
        frames: (T, 3, S, S), normalised.
    """
    if torch.is_grad_enabled():
        return tuple(backbone(frames).intermediate_hidden_states)
    x = backbone.patch_embed(frames)
    x = x + backbone._get_pos_embed(x.shape[1:3])
    stages = []
    for number, block in enumerate(backbone.blocks):
        x = _run_block(block, x)
        if number in backbone.stage_ends:
            stages.append(x)
    return tuple(stages)


def _run_block(block: Any, x: Tensor) -> Tensor:
    """One block, (T, H, W, C) in; out with half the sides and twice the channels where a stage begins."""
    y = block.layer_norm1(x)
    if block.dim != block.dim_out:
        x = do_pool(block.proj(y), block.query_stride)
    x = x + _attend_in_windows(block, y, x.shape[1:3])
    return x + block.mlp(block.layer_norm2(x))


def _attend_in_windows(block: Any, y: Tensor, size: tuple[int, int]) -> Tensor:
    """Attention of a block, (T, H, W, C) in and (T, *size, C') out."""
    attention, (count, height, width, _) = block.attn, y.shape
    qkv = attention.qkv(y)
    side_y, side_x = (block.window_size,) * 2 if block.window_size else (height, width)
    down, across = -(-height // side_y), -(-width // side_x)
    if (down * side_y, across * side_x) != (height, width):
        padded = attention.qkv.bias.repeat(count, down * side_y, across * side_x, 1)
        padded[:, :height, :width] = qkv
        qkv = padded
    # (3, T, windows down, windows across, rows, columns, C'); the order in memory is that of transformers, because the
    # last bits of a product depend on it
    parts = qkv.view(count, down, side_y, across, side_x, 3, -1).permute(5, 0, 1, 3, 2, 4, 6)
    q, k, v = parts.reshape(3, -1, side_y, side_x, parts.shape[-1])
    if block.query_stride:
        q = do_pool(q, block.query_stride)
        side_y, side_x = q.shape[1:3]
    mixed = _attend(q, k, v, attention.num_attention_heads, attention.scale)
    mixed = mixed.view(count, down, across, side_y, side_x, -1).transpose(2, 3)
    mixed = mixed.reshape(count, down * side_y, across * side_x, -1)[:, : size[0], : size[1]]
    return attention.proj(mixed)


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """Windows (N, rows, columns, C), of fewer rows and columns for the queries; (N, queries, C) out."""
    q, k, v = (x.flatten(1, 2).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (N, heads, L, dim)
    if q.device.type != "cpu" or q.dtype == torch.float32:
        mixed = F.scaled_dot_product_attention(q, k, v, scale=scale)
    else:
        keys, values = k.reshape(-1, *k.shape[2:]).transpose(1, 2), v.reshape(-1, *v.shape[2:])
        pieces = (q * scale).reshape(-1, *q.shape[2:]).split(QUERIES, 1)
        mixed = torch.cat([torch.softmax(piece @ keys, -1) @ values for piece in pieces], 1).view(q.shape)
    return mixed.transpose(1, 2).flatten(2)
