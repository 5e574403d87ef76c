"""Passages of random words for the language model, by themselves or behind what a conversation holds."""

from __future__ import annotations

import numpy as np
import torch

from unipixel.engine.generation import ConversationCache, PrefillInput
from unipixel.model.unipixel import UniPixel


def texts(model: UniPixel, lengths: tuple[int, ...]) -> list[PrefillInput]:
    """Passages of random words."""
    rng = np.random.default_rng(5)
    passages = []
    for length in lengths:
        ids = torch.from_numpy(rng.integers(10, 200, length))
        with torch.no_grad():
            embeds = model.embed(ids[None])[0]
        passages.append(PrefillInput(ids, embeds, torch.arange(length).expand(3, -1), length))
    return passages


def continued(model: UniPixel, conversation: ConversationCache, ids: list[int]) -> PrefillInput:
    start = int(conversation.next_position)
    tensor = torch.tensor(ids)
    with torch.no_grad():
        embeds = model.embed(tensor[None])[0]
    return PrefillInput(tensor, embeds, torch.arange(start, start + len(ids)).expand(3, -1), start + len(ids))
