"""How much each term of the loss counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the terms; defaults are the paper's."""

    focal: float = 100.0
    dice: float = 5.0
    iou: float = 5.0
    presence: float = 5.0
    entropy: float = 0.0
    """Plain pixel-wise cross-entropy; easier than the focal loss for a segmenter that starts from nothing."""
    selection: float = 0.0
    """Cross-entropy on the pixels of all asked objects alone, where telling one from another is all that counts."""
    every_candidate: float = 0.0
    """Share of the mask loss that all three candidates get, not only the best, so that none dies early."""
    full_resolution: bool = True
    """Compare masks at SAM size (the paper's way) or, faster, on the decoder's quarter-size grid."""
