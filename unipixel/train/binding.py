"""A helper for models that learn language and sight at once: the state that predicts `<|seg|>` looks at its object.

Where a decoder starts from nothing, words bind to pixels only after tens of thousands of scenes. This term shows the
way: in one decoder layer, half of the heads are asked to attend to the object's visual tokens, of all that they see.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from unipixel.model import language
from unipixel.model.unipixel import UniPixel


@contextmanager
def record_layer_input(model: UniPixel, layer: int) -> Iterator[dict[str, Any]]:
    """Keep what a decoder layer is given during a forward pass: ``hidden`` (B, L, D) and ``rotary``."""
    kept: dict[str, Any] = {}

    def keep(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        kept.update(hidden=args[0], rotary=named["position_embeddings"])

    handle = model.language.layers[layer].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield kept
    finally:
        handle.remove()


def binding_loss(
    model: UniPixel, layer: int, kept: dict[str, Any], batch: dict[str, Any], counts: list[int]
) -> dict[str, Tensor]:
    """Negative log share of attention on the object's cells, and that share itself.

    Args:
        layer: number of the decoder layer whose input was kept.
        kept: from `record_layer_input`.
        batch: of the training forward, one visual per sample.
        counts: number of `<|seg|>` in each sample.
    """
    config, attention = model.config, model.language.layers[layer].self_attn
    ids, (cos, sin) = batch["input_ids"], kept["rotary"]
    x = model.language.layers[layer].input_layernorm(kept["hidden"])
    head = attention.head_dim
    query = attention.q_proj(x).unflatten(-1, (-1, head)).transpose(1, 2)
    key = attention.k_proj(x).unflatten(-1, (-1, head)).transpose(1, 2)
    query, key = apply_rotary_pos_emb(query, key, cos, sin)
    query = query[:, ::2]  # the heads whose keys began as copies of them; one per group
    visible = language.build_attention_bias(batch["attention_mask"], len(ids), ids.shape[1], 0, ids.device)
    assert visible is not None  # only a single token has no mask
    merge = config.vision.spatial_merge_size
    losses, shares = [], []
    for b, (t, h, w) in enumerate(batch["grid_thw"].tolist()):
        target = batch["target_masks"][b]
        if not counts[b] or target is None:
            continue
        asking = torch.nonzero(ids[b, 1:] == config.seg_token_id)[:, 0]
        seen = torch.nonzero(ids[b] == config.video_token_id)[:, 0]
        steps = target[torch.linspace(0, len(target) - 1, t).round().long()].float()  # (t, O, S, S)
        cover = F.adaptive_avg_pool2d(steps, (h // merge, w // merge)).transpose(0, 1).flatten(1)  # (O, t * cells)
        there = cover.amax(1) > 0.1
        if not there.any():
            continue
        wanted = (cover / cover.amax(1, keepdim=True).clamp(min=1e-6))[there]
        logits = query[b][:, asking[there]].float() @ key[b].float().transpose(1, 2) / head**0.5
        logits = logits.masked_fill(~visible[b, 0, asking[there]], float("-inf"))
        share = (logits.softmax(-1)[..., seen] * wanted).sum(-1).clamp(min=1e-6)  # (heads, O)
        losses.append(-share.log().mean(0))
        shares.append(share.mean(0))
    if not losses:
        zero = kept["hidden"].new_zeros(())
        return {"binding": zero, "binding_share": zero}
    return {"binding": torch.cat(losses).mean(), "binding_share": torch.cat(shares).mean().detach()}
