"""Attention in fp32 inside bf16 autocast: on CPUs the latter is slower (58 ms against 36 ms a layer of `nano`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from unipixel.model.unipixel import UniPixel

_NAME = "sdpa_float"


def _forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **named: Any
) -> tuple[Tensor, Tensor | None]:
    with torch.autocast(query.device.type, enabled=False):
        mask = attention_mask
        if mask is not None and mask.is_floating_point():
            mask = mask.float()
        out, weights = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **named)
    return out.to(query.dtype), weights


def use_float_attention(model: UniPixel) -> None:
    """Have the language model of a training run attend in fp32."""
    AttentionInterface.register(_NAME, _forward)
    model.config.language._attn_implementation = _NAME
