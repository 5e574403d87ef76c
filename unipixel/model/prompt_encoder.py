"""Objects in the language model's input: points and boxes as `<|ref|>`, known masks as `<|mem|>` embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipixel.model.config import UniPixelConfig
from unipixel.model.mask_decoder import SamPromptEncoder
from unipixel.model.vision import Grid, VisionFeatures


class PointEncoder(nn.Module):
    """One embedding per object from its point or box and the frame it was given on.

    Source: UniPixel, section 3.2 (prompt encoder).
    """

    time_matrix: Tensor

    def __init__(self, config: UniPixelConfig) -> None:
        super().__init__()
        c, d = config.sam.hidden_size, config.language.hidden_size
        self.encoder = SamPromptEncoder(c, config.sam.image_size)
        self.single_project = nn.Linear(2 * c, 3 * c)
        self.double_project = nn.Linear(3 * c, 3 * c)
        self.register_buffer("time_matrix", torch.randn(1, c // 2))
        self.time_embedding = nn.Embedding(1, c)
        self.time_project = nn.Linear(c, 3 * c)
        self.project = nn.Sequential(nn.GELU(), nn.Linear(6 * c, d))

    def encode_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Embed N prompts of P points each, with the padding point that SAM appends. (N, P + 1, C)."""
        return self.encoder(coords, labels)

    def encode_time(self, frames: Tensor, num_frames: Tensor) -> Tensor:
        """(N, C) code of frame indices (N,) inside clips of ``num_frames`` (N,), padded to even."""
        unit = 2 * frames.to(self.time_matrix.dtype) / (num_frames - 1) - 1
        angle = 2 * math.pi * unit[:, None] * self.time_matrix
        return torch.cat([angle.sin(), angle.cos()], -1) + self.time_embedding.weight[0]

    def forward(self, coords: Sequence[Tensor], labels: Sequence[Tensor], frames: Tensor, num_frames: Tensor) -> Tensor:
        """Encode N objects.

        Args:
            coords: per object (P, 2) in SAM pixels, P 1 (a point) or 2 (a box, or two points).
            labels: per object (P,): 1 foreground, 0 background, 2 box top-left, 3 bottom-right.
            frames: (N,) frame of each prompt in the clip.
            num_frames: (N,) frames of each prompt's clip, padded to even.

        Returns:
            (N, D).
        """
        dtype, device = self.single_project.weight.dtype, self.single_project.weight.device
        width = self.single_project.out_features
        space = torch.zeros(len(coords), width, dtype=dtype, device=device)
        for count, project in ((1, self.single_project), (2, self.double_project)):
            rows = [i for i, c in enumerate(coords) if len(c) == count]
            if rows:
                xy = torch.stack([coords[i] for i in rows]).to(device, torch.float32)
                kind = torch.stack([labels[i] for i in rows]).to(device)
                # SAM's Fourier code takes the dtype of its matrix, which stays in fp32 for exact coordinates
                embedded = project(self.encode_points(xy, kind).flatten(1).to(dtype))
                space = space.index_copy(0, torch.tensor(rows, device=device), embedded)
        moment = self.time_project(self.encode_time(frames.to(device), num_frames.to(device)).to(dtype))
        return self.project(torch.cat([space, moment], -1))


class RegionPool(nn.Module):
    """Mean of the pre-merge features under a mask, weighted where the mask has weights, per object and temporal step.

    Source: UniPixel, section 3.3 (object memory bank).
    """

    def __init__(self, config: UniPixelConfig) -> None:
        super().__init__()
        v, d = 4 * config.vision.hidden_size, config.language.hidden_size
        self.project = nn.Sequential(nn.Linear(v, v), nn.GELU(), nn.Linear(v, d))

    @staticmethod
    def pool(cells: Tensor, grid_thw: Sequence[Grid], masks: Sequence[Tensor | None]) -> Tensor:
        """Average features, object by object and step by step; steps where an object has no cell are left out.

        Args:
            cells: (R, C) features of the cells of a batch of visuals.
            grid_thw: (t, h, w) of each visual, in patches.
            masks: per visual (t, N, h/2, w/2) on the token grid, bool or weights of the cells from 0 to 1, or None
                where it has no regions.

        Returns:
            (rows, C).
        """
        rows, base = [], 0
        for (t, h, w), mask in zip(grid_thw, masks, strict=True):
            count = h * w // 4
            if mask is not None and mask.numel():
                steps = cells[base : base + t * count].unflatten(0, (t, count))
                weight = mask.to(steps).flatten(2).transpose(0, 1)  # (N, t, cells)
                total = weight.sum(-1, keepdim=True)  # (N, t, 1)
                mean = torch.einsum("ntc,tcv->ntv", weight, steps) / total.where(total > 0, 1)
                rows.append(mean[mask.flatten(2).any(-1).T])
            base += t * count
        return torch.cat(rows) if rows else cells.new_zeros(0, cells.shape[-1])

    def forward(self, features: VisionFeatures, masks: Sequence[Tensor | None]) -> Tensor:
        """(rows, D) memory embeddings of regions; ``masks`` as in `pool`."""
        content = self.project(self.pool(features.pre_merge, features.grid_thw, masks))
        if features.place is None:
            return content
        place = self.pool(features.place, features.grid_thw, masks)
        return (F.rms_norm(content.float(), content.shape[-1:]) + place).to(content.dtype)
