"""Recipes: everything that decides a training run, as functions that return a frozen record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from unipixel.train.losses import LossWeights

Mix = dict[str, float]
"""Task of a turn -> how often it is drawn."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One leg of training."""

    name: str
    objective: Literal["conversation", "prompt", "words"] = "conversation"
    """"conversation" is the training forward. "prompt" takes mask queries straight from `<|ref|>` embeddings, so that
    segmenting under a point or box is learnt before language joins. "words" teaches the vision tower and the word
    embeddings alone, by `dense_words`."""
    trainable: tuple[str, ...] = ("",)
    """Prefixes of the parameters that learn."""
    steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    decay_share: float = 0.4
    """Last part of the steps over which the rate falls to zero."""
    weight_decay: float = 0.01
    adam_beta2: float = 0.98
    max_grad_norm: float = 2.0
    turns: int = 6
    """Questions per picture."""
    independent_turns: bool = True
    """Questions do not see each other; otherwise they are one conversation."""
    mix: Mix = field(default_factory=dict)
    video_share: float = 0.0
    """Share of the batches that are clips."""
    video_turns: int = 4
    num_frames: tuple[int, int] = (4, 4)
    num_objects: tuple[int, int] = (2, 6)
    dense_words: float = 0.0
    """Weight of the helper loss in which each visual token predicts the name of what it shows."""
    losses: LossWeights = field(default_factory=LossWeights)
    corrections: float = 0.0
    """Share of the "prompt" batches that are decoded again with a correcting click."""
    seed: int = 0


EASY = LossWeights(
    focal=0.0, entropy=5.0, dice=1.0, iou=1.0, presence=0.2, every_candidate=0.1, full_resolution=False
)
"""Mask losses for a segmenter that starts from nothing, on the quarter-size grid."""


def nano_prompt() -> Recipe:
    """First leg of `nano`: points and boxes to masks, without language."""
    return Recipe(
        name="nano_prompt",
        objective="prompt",
        trainable=("segmenter", "prompt_encoder", "seg_head"),
        steps=1000,
        turns=8,
        mix={"point": 0.5, "box": 0.5},
        corrections=0.25,
        losses=EASY,
    )


def nano_words() -> Recipe:
    """Beside the first leg: the vision tower learns the names of things, without decoder or masks."""
    return Recipe(
        name="nano_words",
        objective="words",
        trainable=("visual", "language.embed_tokens", "lm_head"),
        steps=1200,
        turns=1,
        mix={"name": 1.0},
        dense_words=1.0,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"nano_prompt": nano_prompt, "nano_words": nano_words}
