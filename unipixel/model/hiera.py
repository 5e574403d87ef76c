"""Hiera, the image encoder of SAM 2.1, and the convolutions that bring its stages to one width.

Source: Hiera (arXiv 2306.00989); SAM 2 (arXiv 2408.00714), appendix C; its code of places: arXiv 2311.05613.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipixel.model.config import SamConfig

_Part = TypeVar("_Part", bound=nn.Module)
NORM_EPS = 1e-6
"""Added to variances by the layer norms of Hiera and by all norms over channels."""
QUERIES_AT_ONCE = 512
"""Queries whose scores are computed at a time, so that they stay in the cache."""
BAND = 1 << 22
"""Numbers between the two layers of a block's MLP that are computed at a time on a CPU."""
INITIAL_DEVIATION = 0.02
"""Standard deviation of fresh weights of the image encoder."""


class FeedForward(nn.Module):
    """Linear layers with an activation between them: ``proj_in``, further ``layers``, ``proj_out``."""

    def __init__(self, width: int, inner: int, out: int, depth: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.activation = activation()
        self.proj_in = nn.Linear(width, inner)
        self.proj_out = nn.Linear(inner, out)
        self.layers = nn.ModuleList(nn.Linear(inner, inner) for _ in range(depth - 2))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) in and (..., out) out."""
        x = self.activation(self.proj_in(x))
        for layer in self.layers:
            x = self.activation(layer(x))
        return self.proj_out(x)


def attend_heads(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of several heads, queries (N, L, C) against keys and values (N, K, C); (N, L, C) out.

    In half precision on CPUs it is two products, than which torch's fused kernel is slower; training leaves the choice
    to torch, or to what replaces its attention.
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))  # (N, heads, L, dim)
    if q.device.type != "cpu" or q.dtype == torch.float32 or torch.is_grad_enabled():
        mixed = F.scaled_dot_product_attention(q, k, v)
    else:
        scale = q.shape[-1] ** -0.5
        keys, values = k.reshape(-1, *k.shape[2:]).transpose(1, 2), v.reshape(-1, *v.shape[2:])
        pieces = (q * scale).reshape(-1, *q.shape[2:]).split(QUERIES_AT_ONCE, 1)
        mixed = torch.cat([torch.softmax(piece @ keys, -1) @ values for piece in pieces], 1).view(q.shape)
    return mixed.transpose(1, 2).flatten(2)


def _pool_squares(x: Tensor) -> Tensor:
    """Maxima (T, H/2, W/2, C) over squares of 2 x 2 cells."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def _list_pieces(length: int, side: int) -> list[tuple[int, int, int]]:
    """Where a length is cut: first cell, number of windows, cells of each; whole windows, and the one that is not."""
    whole, rest = divmod(length, side)
    return [(0, whole, side)] * (whole > 0) + [(whole * side, 1, rest)] * (rest > 0)


def _cut_windows(x: Tensor, side: int, filling: Tensor) -> Tensor:
    """(T, H, W, C) as windows (N, side, side, C), each by itself in memory; ``filling`` (C,) past the edges."""
    count, height, width, channels = x.shape
    down, across = -(-height // side), -(-width // side)
    windows = x.new_empty(count, down, across, side, side, channels)
    if rest := height % side:
        windows[:, -1, :, rest:] = filling
    if rest := width % side:
        windows[:, :, -1, :, rest:] = filling
    for top, m, rows in _list_pieces(height, side):
        for left, n, columns in _list_pieces(width, side):
            piece = x[:, top : top + m * rows, left : left + n * columns].unflatten(2, (n, columns))
            place = windows[:, top // side :, left // side :, :rows, :columns][:, :m, :n]
            place.copy_(piece.unflatten(1, (m, rows)).transpose(2, 3))
    return windows.flatten(0, 2)


def _join_windows(windows: Tensor, count: int, height: int, width: int) -> Tensor:
    """Windows (N, side, side, C) as (T, H, W, C), T being ``count``; cells past the edges are left out."""
    side, channels = windows.shape[2:]
    windows = windows.view(count, -(-height // side), -(-width // side), side, side, channels)
    x = windows.new_empty(count, height, width, channels)
    for top, m, rows in _list_pieces(height, side):
        for left, n, columns in _list_pieces(width, side):
            piece = windows[:, top // side :, left // side :, :rows, :columns][:, :m, :n]
            place = x[:, top : top + m * rows, left : left + n * columns].unflatten(2, (n, columns))
            place.unflatten(1, (m, rows)).copy_(piece.transpose(2, 3))
    return x


class HieraAttention(nn.Module):
    """Attention inside square windows, or of all cells of a picture.

    Projections see real cells alone: a padded cell is zero in front of a projection, so that the bias stands behind it.
    Where no cell is padded, windows are cut in front of the projection, whose output is three times as wide.

    Args:
        window: side of the windows in cells; 0: none.
        pools: whether 2 x 2 queries become one.
    """

    def __init__(self, width: int, out: int, heads: int, window: int, *, pools: bool) -> None:
        super().__init__()
        self.heads, self.window, self.pools = heads, window, pools
        self.qkv = nn.Linear(width, 3 * out)
        self.proj = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        """(T, H, W, C) in; (T, H, W, C'), or half of H and W, out."""
        count, height, width, _ = x.shape
        side = self.window
        if side and (height % side or width % side):
            qkv = self.qkv(x)
            qkv = _cut_windows(qkv, side, self.qkv.bias.to(qkv.dtype))
        else:
            qkv = self.qkv(_cut_windows(x, side, x) if side else x)
        q, k, v = qkv.chunk(3, -1)
        if self.pools:
            q, height, width = _pool_squares(q), height // 2, width // 2
        rows, columns = q.shape[1:3]
        mixed = attend_heads(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), self.heads)
        mixed = mixed.unflatten(1, (rows, columns))
        return self.proj(_join_windows(mixed, count, height, width) if side else mixed)


class HieraBlock(nn.Module):
    """One block; one that begins a stage halves the sides and doubles the channels."""

    def __init__(self, width: int, out: int, heads: int, window: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = HieraAttention(width, out, heads, window, pools=width != out)
        self.layer_norm2 = nn.LayerNorm(out, eps=NORM_EPS)
        self.mlp = FeedForward(out, 4 * out, out, 2, nn.GELU)
        if width != out:
            self.proj = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        """(T, H, W, C) in, (T, H', W', C') out."""
        if side := self.attn.window:
            return self._map_bands(lambda band: self._refine(self._look_around(band)), x, side)
        return self._map_bands(self._refine, self._look_around(x), 1)

    def _look_around(self, x: Tensor) -> Tensor:
        y = self.layer_norm1(x)
        if self.attn.pools:
            x = _pool_squares(self.proj(y))
        return x + self.attn(y)

    def _refine(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.layer_norm2(x))

    def _map_bands(self, run: Callable[[Tensor], Tensor], x: Tensor, side: int) -> Tensor:
        """What ``run`` makes of a picture, in inference on CPUs of bands of it, as high as a whole number of cells.

        A band's numbers fit the cache, and their memory, which a system takes long to hand out, serves the next band.
        """
        row = x.shape[0] * x.shape[2] * self.mlp.proj_in.out_features
        if x.device.type != "cpu" or torch.is_grad_enabled() or x.shape[1] * row <= BAND:
            return run(x)
        rows = side * max(1, BAND // (side * row))
        return torch.cat([run(band) for band in x.split(rows, 1)], 1)


class PatchProjection(nn.Module):
    """Pictures (T, 3, S, S) as cells (T, S/4, S/4, C), each of 7 x 7 pixels around a square of four by four."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, width, kernel_size=7, stride=4, padding=3)

    def forward(self, frames: Tensor) -> Tensor:
        """Project every cell."""
        return self.projection(frames).permute(0, 2, 3, 1)


class Hiera(nn.Module):
    """The backbone: four stages of blocks."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        width, window = config.embed_dim, config.window_sizes[0]
        self.patch_embed = PatchProjection(width)
        self.pos_embed = nn.Parameter(torch.zeros(1, width, *config.background_size))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, width, window, window))
        self.stage_ends = [end - 1 for end in accumulate(config.stages)]
        self.blocks = nn.ModuleList()
        for stage, depth in enumerate(config.stages):
            out, heads = config.embed_dim << stage, config.num_heads << stage
            for _ in range(depth):
                number = len(self.blocks)
                self.blocks.append(HieraBlock(width, out, heads, 0 if number in config.global_blocks else window))
                # the block that begins a stage still has the width and the windows of the one before
                width, window = out, config.window_sizes[stage]

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """The output (T, H, W, C) of each of the four stages, finest first.

        Args:
            frames: (T, 3, S, S), normalised.
        """
        x = self.patch_embed(frames)
        x = x + self._build_place_code(x.shape[1], x.shape[2])
        stages = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.stage_ends:
                stages.append(x)
        return tuple(stages)

    def _build_place_code(self, rows: int, columns: int) -> Tensor:
        """(1, rows, columns, C): one code stretched over the picture, and one repeated in every window."""
        whole = F.interpolate(self.pos_embed, size=(rows, columns), mode="bicubic")
        window = self.pos_embed_window.shape[-1]
        return (whole + self.pos_embed_window.tile(1, 1, rows // window, columns // window)).permute(0, 2, 3, 1)


class FeaturePyramid(nn.Module):
    """A convolution for each stage, coarsest first; `Segmenter.encode` adds their outputs up."""

    convs: Any  # of convolutions, which torch's list does not tell

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(config.embed_dim << stage, config.hidden_size, kernel_size=1) for stage in (3, 2, 1, 0)
        )


class ImageEncoder(nn.Module):
    """Backbone and neck, whose fresh weights are small."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.backbone = _draw_weights(Hiera(config))
        self.neck = _draw_weights(FeaturePyramid(config))


def _draw_weights(part: _Part) -> _Part:
    for module in part.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return part
