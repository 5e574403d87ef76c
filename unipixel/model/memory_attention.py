"""SAM 2.1's memory: masks and frames as memories, frame features that look at them, and codes of place and time.

Source: SAM 2 (arXiv 2408.00714), section 4 and appendix C; rotary codes of two axes: arXiv 2403.13298.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipixel.model.config import SamConfig
from unipixel.model.hiera import QUERIES_AT_ONCE
from unipixel.model.mask_decoder import ChannelNorm

FUSER_SCALE = 1e-6
"""What a fresh block of the fuser multiplies its output by."""


@lru_cache(maxsize=32)
def build_sine_encoding(
    size: int, width: int, device: torch.device, dtype: torch.dtype = torch.float32, scale: float = 1.0
) -> Tensor:
    """(size*size, width) normalised sine code of a square grid, y half before x half; kept, since it never changes."""
    # cached tensors may be asked for first under inference mode and later by training
    with torch.inference_mode(False):
        half = width // 2
        step = torch.arange(1, size + 1, dtype=torch.float32, device=device) / (size + 1e-6) * 2 * math.pi
        power = torch.arange(half, dtype=torch.float32, device=device)
        angle = step[:, None] / 10000 ** (2 * (power // 2) / half)  # (size, half)
        code = torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], -1).flatten(1)
        y, x = code[:, None].expand(size, size, half), code[None].expand(size, size, half)
        return scale * torch.cat([y, x], -1).flatten(0, 1).to(dtype)


def build_time_encoding(distance: Tensor, width: int) -> Tensor:
    """(P, width) sine code of scaled temporal distances (P,)."""
    angle = distance[:, None] / _build_time_scale(width // 2, distance.device)
    return torch.cat([angle.sin(), angle.cos()], -1)


@lru_cache(maxsize=32)
def _build_time_scale(half: int, device: torch.device) -> Tensor:
    """(half,) by what a distance is divided in each channel; kept."""
    with torch.inference_mode(False):
        power = torch.arange(half, dtype=torch.float32, device=device)
        return 10000 ** (2 * (power // 2) / half)


@lru_cache(maxsize=32)
def build_axial_rotation(size: int, width: int, device: torch.device, step: int = 1) -> Tensor:
    """Complex turns (cells, width/2) of 2-D rotary positions: x in the first half, y in the second; kept.

    Args:
        size: side of the grid.
        step: side of the squares of cells for whose centres the turns are; 1: of the cells themselves.
    """
    with torch.inference_mode(False):
        frequency = 1.0 / 10000.0 ** (torch.arange(0, width, 4, device=device)[: width // 4].float() / width)
        place, columns, centre = torch.arange((size // step) ** 2, device=device), size // step, (step - 1) / 2
        x, y = (place % columns).float() * step + centre, (place // columns).float() * step + centre
        angle = torch.cat([torch.outer(x, frequency), torch.outer(y, frequency)], -1)
        return torch.polar(torch.ones_like(angle), angle)


def rotate_pairs(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary encoding on neighbouring channel pairs, differentiable, computed in fp32."""
    # one complex product is many times faster on the CPU than shuffled real ones
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def _turn_keys(key: Tensor, turns: Sequence[tuple[Tensor, int]]) -> Tensor:
    """Keys (N, K, C) turned by their places; those after the grids of ``turns`` are pointers, which have none."""
    placed, start = [], 0
    for turn, grids in turns:
        spatial = key[:, start : start + grids * len(turn)].unflatten(1, (-1, len(turn)))
        placed.append(rotate_pairs(spatial, turn).flatten(1, 2))
        start += grids * len(turn)
    return torch.cat([*placed, key[:, start:]], 1)


def pool_cells(x: Tensor) -> Tensor:
    """Means (..., s*s/4, C) over squares of 2 x 2 cells of a grid (..., s*s, C)."""
    side = math.isqrt(x.shape[-2])
    return x.unflatten(-2, (side // 2, 2, side // 2, 2)).mean((-4, -2)).flatten(-3, -2)


class RotaryAttention(nn.Module):
    """Projections of an attention with one head, whose queries and keys are turned by their places."""

    def __init__(self, width: int, memory_width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(memory_width, width)
        self.v_proj = nn.Linear(memory_width, width)
        self.o_proj = nn.Linear(width, width)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Queries (1 or N, L, C) against (N, K, C) and (N, K, V), with (K,) added to scores; (N, L, V)."""
        query = query.expand(len(key), -1, -1)
        if self.training or query.device.type != "cpu":
            drop = self.dropout if self.training else 0.0
            added = None if bias is None else bias.expand(query.shape[1], -1)
            return F.scaled_dot_product_attention(
                query[:, None], key[:, None], value[:, None], attn_mask=added, dropout_p=drop
            )[:, 0]

        def compare(part: Tensor, keys: Tensor) -> Tensor:
            return part @ keys.t() if bias is None else torch.addmm(bias, part, keys.t())

        # CPU flash attention has no narrow values and no fast bf16; plain two-dimensional products over chunks of
        # queries are faster, and batched ones would copy every transposed key
        scale = query.shape[-1] ** -0.5
        return torch.stack(
            [
                torch.cat([torch.softmax(compare(part, k), -1) @ v for part in (q * scale).split(QUERIES_AT_ONCE)])
                for q, k, v in zip(query, key, value, strict=True)
            ]
        )


class MemoryAttentionLayer(nn.Module):
    """Frame features look at each other and at memories."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        c, inner = config.hidden_size, config.memory_attention_ffn
        self.dropout = config.dropout
        self.self_attn = RotaryAttention(c, c, config.dropout)
        self.cross_attn_image = RotaryAttention(c, config.memory_size, config.dropout)
        self.linear1 = nn.Linear(c, inner)
        self.linear2 = nn.Linear(inner, c)
        self.layer_norm1 = nn.LayerNorm(c)
        self.layer_norm2 = nn.LayerNorm(c)
        self.layer_norm3 = nn.LayerNorm(c)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, turns: Sequence[tuple[Tensor, int]], bias: Tensor | None
    ) -> Tensor:
        """(N, s*s, C) after this layer.

        Args:
            x: (1 or N, s*s, C).
            keys, values: (N, K, memory width).
            turns: rotations of one grid of keys, and how many such grids follow each other; first those of frames as
                they are.
            bias: (K,) added to the scores of the keys.
        """
        own, turn = self.self_attn, turns[0][0]
        y = self.layer_norm1(x)
        y = own.attend(rotate_pairs(own.q_proj(y), turn), rotate_pairs(own.k_proj(y), turn), own.v_proj(y))
        x = x + self._drop(own.o_proj(y))
        cross = self.cross_attn_image
        query = rotate_pairs(cross.q_proj(self.layer_norm2(x)), turn)
        key = _turn_keys(cross.k_proj(keys), turns)
        if self.training:
            y = cross.attend(query, key, cross.v_proj(values))
        else:
            # softmax rows sum to 1, so the value projection may follow the average over narrow memories
            y = cross.v_proj(cross.attend(query, key, values, bias))
        x = x + self._drop(cross.o_proj(y))
        y = self.linear2(self._drop(F.relu(self.linear1(self.layer_norm3(x)))))
        return x + self._drop(y)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class MemoryAttention(nn.Module):
    """Layers and a last norm; `Segmenter.attend` runs it."""

    layers: Any  # of `MemoryAttentionLayer`, which torch's list does not tell

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryAttentionLayer(config) for _ in range(config.memory_attention_layers))
        self.layer_norm = nn.LayerNorm(config.hidden_size)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, turns: Sequence[tuple[Tensor, int]], bias: Tensor | None
    ) -> Tensor:
        """(N, s*s, C); arguments as in `MemoryAttentionLayer`."""
        for layer in self.layers:
            x = layer(x, keys, values, turns, bias)
        return self.layer_norm(x)


class DownsamplerLayer(nn.Module):
    """A mask of half the side and four times the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 4 * width, kernel_size=3, stride=2, padding=1)
        self.layer_norm = ChannelNorm(4 * width)
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in, (N, 4 C, H/2, W/2) out."""
        return self.activation(self.layer_norm(self.conv(x)))


class MaskDownsampler(nn.Module):
    """Masks (N, 1, S, S) as features (N, C, S/16, S/16)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DownsamplerLayer(4**number) for number in range(4))
        self.final_conv = nn.Conv2d(4**4, width, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Bring masks down."""
        for layer in self.layers:
            x = layer(x)
        return self.final_conv(x)


class FuserBlock(nn.Module):
    """A block of ConvNeXt (arXiv 2201.03545)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(FUSER_SCALE * torch.ones(width))
        self.depthwise_conv = nn.Conv2d(width, width, kernel_size=7, padding=3, groups=width)
        self.layer_norm = ChannelNorm(width)
        self.activation = nn.GELU()
        self.pointwise_conv1 = nn.Linear(width, 4 * width)
        self.pointwise_conv2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, s, s) in and out."""
        y = self.layer_norm(self.depthwise_conv(x)).permute(0, 2, 3, 1)
        y = self.scale * self.pointwise_conv2(self.activation(self.pointwise_conv1(y)))
        return x + y.permute(0, 3, 1, 2)


class MemoryFuser(nn.Module):
    """Blocks over a mask that was added to its frame."""

    layers: Any  # of `FuserBlock`, which torch's list does not tell

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FuserBlock(width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, s, s) in and out."""
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """A frame's features and a mask on it to a memory."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        c = config.hidden_size
        self.mask_downsampler = MaskDownsampler(c)
        self.feature_projection = nn.Conv2d(c, c, kernel_size=1)
        self.memory_fuser = MemoryFuser(c, config.fuser_layers)
        self.projection = nn.Conv2d(c, config.memory_size, kernel_size=1)

    def forward(self, embed: Tensor, masks: Tensor) -> Tensor:
        """(N, memory width, s, s).

        Args:
            embed: (1 or N, C, s, s) features of the frame.
            masks: (N, 1, S, S), scaled as the encoder wants them.
        """
        x = self.mask_downsampler(masks)
        return self.projection(self.memory_fuser(self.feature_projection(embed) + x))
