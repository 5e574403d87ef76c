"""Known objects as `<|mem|>` embeddings: visual features pooled under their masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unipixel.model.config import UniPixelConfig
from unipixel.model.language import VisionFeatures


class RegionPool(nn.Module):
    """Mean of the pre-merge features under a mask, per object and temporal step.

    Source: UniPixel, section 3.3 (object memory bank).
    """

    def __init__(self, config: UniPixelConfig) -> None:
        super().__init__()
        v, d = 4 * config.vision.hidden_size, config.language.hidden_size
        self.project = nn.Sequential(nn.Linear(v, v), nn.GELU(), nn.Linear(v, d))

    @staticmethod
    def pool(features: VisionFeatures, masks: Sequence[Tensor | None]) -> Tensor:
        """Average features, object by object and step by step; steps where an object has no cell are left out.

        Args:
            features: of a batch of visuals.
            masks: per visual bool (t, N, h/2, w/2) on the token grid, or None where it has no regions.

        Returns:
            (rows, 4 * vision width).
        """
        rows, base = [], 0
        for (t, h, w), mask in zip(features.grid_thw, masks, strict=True):
            cells = h * w // 4
            if mask is not None and mask.numel():
                steps = features.pre_merge[base : base + t * cells].unflatten(0, (t, cells))
                weight = mask.to(steps).flatten(2).transpose(0, 1)  # (N, t, cells)
                count = weight.sum(-1)  # (N, t)
                mean = torch.einsum("ntc,tcv->ntv", weight, steps) / count.clamp(min=1)[..., None]
                rows.append(mean[count > 0])
            base += t * cells
        return torch.cat(rows) if rows else features.pre_merge.new_zeros(0, features.pre_merge.shape[-1])

    def forward(self, features: VisionFeatures, masks: Sequence[Tensor | None]) -> Tensor:
        """(rows, D) memory embeddings; arguments as in `pool`."""
        return self.project(self.pool(features, masks))
