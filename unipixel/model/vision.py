"""Qwen2.5-VL's vision tower: patches of pictures and clips in, visual tokens for the language model out.

All windows of a layer go through one padded attention. Besides the tokens, the tower returns the features before its
last MLP, which object memory pools.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipixel.model.config import SectionConfig, UniPixelConfig

Grid = tuple[int, int, int]
"""(t, h, w) of one visual in patches."""
NORM_EPS = 1e-6
"""What the tower's norms, and that of the seg head, add to the mean square."""
ROTARY_BASE = 10000.0


@dataclass(frozen=True)
class VisionFeatures:
    """What the vision tower says about a batch of visuals, R = sum of t*h*w / 4 cells."""

    merged: Tensor
    """(R, D) visual tokens for the language model, raster order."""
    pre_merge: Tensor
    """(R, 4 * vision width) input of the merger's MLP, in the order that `pixel.region_pool_order` names."""
    grid_thw: tuple[Grid, ...]
    place: Tensor | None = None
    """(R, D) code of each token's place, of models with `pixel.region_place_encoding`."""


class RMSNorm(nn.Module):
    """Features divided by their root mean square, times a weight for each; in fp32, rounded before the weight.

    Source: Zhang and Sennrich, arXiv 1910.07467; the order of rounding is that of the released weights' training.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) in and out."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale).to(x.dtype)


class GatedMLP(nn.Module):
    """SwiGLU (arXiv 2002.05202): ``down(silu(gate(x)) * up(x))``."""

    def __init__(self, width: int, inner: int, *, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=bias)
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) in and out."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def draw_weights(module: nn.Module, deviation: float) -> None:
    """Draw what a new network begins with: weights around 0, biases 0, norms 1.

    Args:
        deviation: standard deviation of the weights of linear layers, convolutions and word tables.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding | nn.Conv3d):
            nn.init.normal_(part.weight, std=deviation)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


class VisionAttention(nn.Module):
    """Attention inside runs of patches, with queries and keys turned by their rows and columns."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """(patches, width) in and out; ``lengths`` of the runs that see each other."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)
        return self.proj(_attend(_rotate(q, cos, sin), _rotate(k, cos, sin), v, lengths).flatten(1))


class VisionBlock(nn.Module):
    """One layer of the vision tower."""

    def __init__(self, config: SectionConfig) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size, NORM_EPS)
        self.norm2 = RMSNorm(config.hidden_size, NORM_EPS)
        self.attn = VisionAttention(config.hidden_size, config.num_heads)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, bias=True)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """As `VisionAttention`."""
        x = x + self.attn(self.norm1(x), cos, sin, lengths)
        return x + self.mlp(self.norm2(x))


class PatchEmbedding(nn.Module):
    """Pixels of a patch to its features."""

    def __init__(self, config: SectionConfig) -> None:
        super().__init__()
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.in_channels, config.hidden_size, kernel, stride=kernel, bias=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(patches, channels * time * height * width) to (patches, width)."""
        # each patch is a whole kernel, so its convolution is one product, which is several times faster on CPUs
        kernel = self.proj.weight.flatten(1)
        return F.linear(pixel_values.to(kernel), kernel)


class PatchMerger(nn.Module):
    """Squares of 2 x 2 patches to one visual token each."""

    def __init__(self, config: SectionConfig) -> None:
        super().__init__()
        self.patches = config.spatial_merge_size**2
        width = config.hidden_size * self.patches
        self.ln_q = RMSNorm(config.hidden_size, NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, config.out_hidden_size))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Patches (4R, width) to the MLP's input (R, 4 * width) and the tokens (R, D)."""
        pre_merge = self.ln_q(x).unflatten(0, (-1, self.patches)).flatten(1)
        return pre_merge, self.mlp(pre_merge)


class VisionTower(nn.Module):
    """The weights of the tower; `encode_vision` runs it.

    Args:
        config: sizes, `UniPixelConfig.vision`.
    """

    def __init__(self, config: SectionConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(config)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = PatchMerger(config)
        draw_weights(self, config.initializer_range)


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


def encode_vision(
    tower: VisionTower,
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

    Source: Qwen2.5-VL technical report, section 2.1, and its released code for the order of windows.
    """
    vision = config.vision
    merge = vision.spatial_merge_size
    cells = vision.window_size // vision.patch_size // merge
    window_index, positions, window_lengths = _build_windows(grids, merge, cells)
    frame_lengths = tuple(h * w for t, h, w in grids for _ in range(t))
    x = tower.patch_embed(pixel_values)
    window_index = window_index.to(x.device)  # where the tower lies, which may be another device than the rest
    x = x.unflatten(0, (-1, merge**2))[window_index].flatten(0, 1)  # window order

    quarter = vision.hidden_size // vision.num_heads // 2
    frequency = 1.0 / ROTARY_BASE ** (torch.arange(0, quarter, 2, dtype=torch.float32, device=x.device) / quarter)
    angle = (positions.to(x.device)[..., None] * frequency).flatten(1)
    angle = torch.cat([angle, angle], -1)[:, None]  # (patches, 1, head dim)
    cos, sin = angle.cos(), angle.sin()
    for number, block in enumerate(tower.blocks):
        lengths = frame_lengths if number in vision.fullatt_block_indexes else window_lengths
        x = block(x, cos, sin, lengths)

    pre_merge, merged = tower.merger(x)
    raster_index = window_index.argsort()
    merged = merged[raster_index]
    place, home = None, pixel_values.device
    if config.pixel.visual_place_encoding:
        # content is brought to the scale of the code: left alone it grows until the code is lost in it
        content = F.rms_norm(merged.float(), merged.shape[-1:])
        code = encode_place(grids, merge, merged.shape[-1], place_matrix).to(content.device)
        merged = (content + code).to(merged.dtype)
        place = code.to(home) if config.pixel.region_place_encoding else None
    if config.pixel.region_pool_order == "raster":
        pre_merge = pre_merge[raster_index]
    return VisionFeatures(merged.to(home), pre_merge.to(home), grids, place)


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
