"""The modules between Qwen2.5-VL and SAM 2.1 before any training: copies of released ones, and drawn matrices.

Source: UniPixel (arXiv 2509.18094), section 3.2; laws and copies as its training code leaves them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unipixel.model.tensor_files import StoredTensor

FRESH_PREFIXES = ("seg_head.", "ref_encoder.", "ref_proj", "tem_", "msk_proj.")
"""Beginnings of the disk names of modules that neither Qwen2.5-VL nor SAM 2.1 has."""
_COPIES = {"ref_encoder.": "sam2.sam_prompt_encoder.", "msk_proj.": "visual.merger.mlp."}
"""Beginning of a disk name, and of the one that it starts as a copy of."""
_MATRIX = "positional_encoding_gaussian_matrix"


def init_fresh_modules(
    shapes: Mapping[str, tuple[int, ...]],
    released: Mapping[str, StoredTensor],
    generator: torch.Generator,
    *,
    deviation: float = 0.02,
) -> dict[str, StoredTensor]:
    """Initial values of modules between the released parts.

    The encoder of `<|ref|>` prompts is SAM's prompt encoder and the projection of `<|mem|>` is the MLP of the vision
    tower's merger, bit by bit; seg head and projections of prompts are Xavier-uniform with zero bias, the embedding of
    time normal. The two Fourier matrices (of `<|ref|>` and of time) are drawn and not copied: they are buffers, which
    the original's copy leaves out.

    Args:
        shapes: what to make, by disk name; all under `JOINTS`.
        released: tensors of Qwen2.5-VL and SAM 2.1, to be copied from.
        generator: what is drawn is drawn from it, in the order of ``shapes``.
        deviation: standard deviation of the embedding of time, Qwen's ``initializer_range``.
    """
    made = {}
    for name, shape in shapes.items():
        origin = next((name.replace(a, b, 1) for a, b in _COPIES.items() if name.startswith(a)), None)
        if origin is not None and not name.endswith(_MATRIX):
            made[name] = released[origin]
        else:
            made[name] = StoredTensor.from_tensor(_init_tensor(name, shape, generator, deviation))
    return made


def _init_tensor(name: str, shape: tuple[int, ...], generator: torch.Generator, deviation: float) -> Tensor:
    if name.endswith(_MATRIX):
        return torch.randn(shape, generator=generator)
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if name == "tem_emb.weight":
        return torch.empty(shape).normal_(0.0, deviation, generator=generator)
    if len(shape) == 1:  # the norm at the entry of the seg head
        return torch.ones(shape)
    return nn.init.xavier_uniform_(torch.empty(shape), generator=generator)
