"""The baseline: every object by itself, with all frames encoded again for it.

This is the loop of the original implementation, written with the same layers: for each `<|seg|>` all frames are
encoded, the object is prompted on the first one and tracked alone, and every frame is remembered, the last one too. It
gives the same masks as tracking all objects together.

Source: UniPixel's released inference on SAM 2's video predictor.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from unipixel.engine.tracking import ENCODE_BATCH, to_rles
from unipixel.masks import Rle
from unipixel.media import Media
from unipixel.model.config import POINTERS_IN_MEMORY
from unipixel.model.segmenter import FrameFeatures, Segmenter, build_sine_encoding, build_time_encoding
from unipixel.processing import ImageSettings
from unipixel.processing.images import prepare_sam_frames

Attention = Literal["layers", "ours"]
"""Memory attention by the layers' own forward, or by `Segmenter.attend`."""


@torch.no_grad()
def track_separately(
    segmenter: Segmenter,
    media: Media,
    settings: ImageSettings,
    query: Tensor,
    attention: Attention = "layers",
) -> list[Rle | None]:
    """Masks of one object on every frame, at source size, with nothing shared.

    Args:
        query: (1, Q, C) of its `<|seg|>`.
    """
    features = _encode(segmenter, media, settings)
    memories: list[Tensor] = []
    pointers: list[Tensor] = []
    rles: list[Rle | None] = []
    for t in range(len(features)):
        frame = features[t : t + 1]
        if t == 0:
            embed = segmenter.add_no_memory(frame)
        else:
            embed = _condition(segmenter, frame, memories, pointers, len(features), attention)
        decoded = segmenter.decode(embed, frame, query if t == 0 else None)
        memories.append(segmenter.encode_memory(frame.embed, decoded.low_res_masks, decoded.object_score_logits))
        pointers.append(decoded.object_pointer)
        rles += to_rles(decoded.low_res_masks, media.size_hw)
    return rles


def _encode(segmenter: Segmenter, media: Media, settings: ImageSettings) -> FrameFeatures:
    device = segmenter.no_memory_embedding.device
    chunks = [range(i, min(i + ENCODE_BATCH, media.num_frames)) for i in range(0, media.num_frames, ENCODE_BATCH)]
    return FrameFeatures.cat(
        [segmenter.encode(prepare_sam_frames(media.frames(chunk), settings).to(device)) for chunk in chunks]
    )


def _condition(
    segmenter: Segmenter,
    frame: FrameFeatures,
    memories: list[Tensor],
    pointers: list[Tensor],
    num_frames: int,
    attention: Attention,
) -> Tensor:
    """Features of the next frame after those remembered; ``memories`` hold every frame since the first."""
    t, slots = len(memories), segmenter.config.num_memories
    longest = max(min(num_frames, POINTERS_IN_MEMORY) - 1, 1)
    recent = range(max(1, t - slots + 1), t)
    seen = range(t - 1, 0, -1)[:longest]
    attend = segmenter.attend if attention == "ours" else partial(attend_by_layers, segmenter)
    return attend(
        frame.embed,
        torch.stack([memories[0], *(memories[i] for i in recent)], 1),
        [slots - 1, *(t - i - 1 for i in recent)],
        torch.stack([pointers[0], *(pointers[i] for i in seen)], 1),
        [age / longest for age in (t, *(t - i for i in seen))],
    )


def attend_by_layers(
    segmenter: Segmenter,
    embed: Tensor,
    memories: Tensor,
    memory_slots: Sequence[int],
    pointers: Tensor,
    pointer_distance: Sequence[float],
) -> Tensor:
    """What `Segmenter.attend` computes, for one object, by the forward of the layers themselves."""
    _, _, _, width = memories.shape
    channels, grid, dtype = segmenter.config.hidden_size, segmenter.config.grid, segmenter.dtype
    place = build_sine_encoding(grid, width, embed.device).to(dtype)
    when = segmenter.memory_temporal_positional_encoding[list(memory_slots), 0]
    distance = torch.tensor(pointer_distance, dtype=torch.float32, device=embed.device)
    moment = segmenter.temporal_positional_encoding_projection_layer(build_time_encoding(distance, channels).to(dtype))
    code = torch.cat([(place + when).flatten(0, 1), moment.repeat_interleave(channels // width, 0)])
    tokens = torch.cat([memories.flatten(1, 2), pointers.reshape(1, -1, width)], 1)
    x = segmenter.memory_attention(
        current_vision_features=embed.flatten(2).permute(2, 0, 1),
        current_vision_position_embeddings=build_sine_encoding(grid, channels, embed.device).to(dtype)[:, None],
        memory=tokens.transpose(0, 1),
        memory_posision_embeddings=code[:, None],  # the argument is spelled so
        num_object_pointer_tokens=pointers.shape[1] * (channels // width),
    )
    # (cells, 1, C), or with one more axis of size one, depending on the version of transformers
    return x.reshape(grid * grid, channels).t().reshape(1, channels, grid, grid)
