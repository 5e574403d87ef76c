"""Recipes: everything that decides a training run, as functions that return a frozen record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from unipixel.stickers import TRAINING_FAMILIES, SceneSettings
from unipixel.train.losses import LossWeights

Mix = dict[str, float]
"""Task of a turn -> how often it is drawn."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One leg of training."""

    name: str
    objective: Literal["conversation", "prompt", "words"] = "conversation"
    """conversation: the training forward. prompt: mask queries come straight from `<|ref|>` embeddings and from SAM's
    own prompt tokens, so that segmenting under a point or box is learnt before language joins. words: the vision tower
    and the word embeddings learn alone, by `dense_words`."""
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
    world: SceneSettings = field(default_factory=SceneSettings)
    """What the sticker scenes look like."""
    dense_words: float = 0.0
    """Weight of the helper loss in which each visual token predicts the name of what it shows."""
    binding: float = 0.0
    """Weight of the helper loss by which states that predict `<|seg|>` look at their object (stills only)."""
    pointing: float = 0.0
    """Weight of the helper loss that draws mask queries towards SAM's own tokens of the object's box."""
    losses: LossWeights = field(default_factory=LossWeights)
    corrections: float = 0.0
    """Share of the "prompt" batches that are decoded again with a correcting click."""
    seed: int = 0


EASY = LossWeights(
    focal=0.0, entropy=5.0, dice=1.0, iou=1.0, presence=0.2, selection=1.0, every_candidate=0.1, full_resolution=False
)
"""Mask losses for a segmenter that starts from nothing, on the quarter-size grid."""


EASY_WORLD = SceneSettings(
    num_objects=(2, 4),
    scale=(0.2, 0.5),
    repaint=0.1,
    twins=0.1,
    noise=0.0,
    turn_degrees=20.0,
    patterns=("plain", "gradient", "clouds"),
)
"""Few and large things on quiet backgrounds, to begin with."""


# fmt: off
FIRST_NAMES = (
    "apple", "banana", "strawberry", "grapes", "watermelon", "pineapple", "tomato", "eggplant", "corn", "carrot",
    "mushroom", "pizza", "burger", "bread", "donut", "cookie", "cake", "egg", "dog", "cat", "mouse", "rabbit",
    "bear", "tiger", "cow", "pig", "frog", "penguin", "turtle", "fish", "octopus", "snail", "bee", "butterfly",
    "owl", "elephant", "car", "bus", "truck", "bicycle", "airplane", "rocket", "ship", "train", "house", "key",
    "lock", "bell", "book", "camera", "guitar", "umbrella", "crown", "hammer", "scissors", "chair", "star",
    "sunflower", "tree", "duck",
)
# fmt: on
"""Sixty names to begin with."""

FIRST_WORLD = replace(EASY_WORLD, names=FIRST_NAMES, families=("noto", "twemoji"), twins=0.0)
"""Few names in two styles."""


def nano_prompt() -> Recipe:
    """First leg of `nano`: points and boxes to masks, without language.

    Small batches leave the plateau soonest; higher rates let the image features outgrow the code of place, and the
    segmenter then paints everything for every prompt.
    """
    return Recipe(
        name="nano_prompt",
        objective="prompt",
        trainable=("segmenter", "prompt_encoder", "seg_head"),
        steps=3600,
        batch_size=4,
        learning_rate=6e-4,
        warmup_steps=50,
        decay_share=0.2,
        turns=8,
        mix={"point": 0.5, "box": 0.5},
        world=EASY_WORLD,
        losses=EASY,
    )


def nano_words() -> Recipe:
    """Beside the first leg: the vision tower learns the names of things, without decoder or masks."""
    return Recipe(
        name="nano_words",
        objective="words",
        trainable=("visual", "language.embed_tokens", "lm_head"),
        steps=4000,
        batch_size=8,
        learning_rate=7e-4,
        warmup_steps=50,
        decay_share=0.2,
        turns=1,
        mix={"name": 1.0},
        world=EASY_WORLD,
        dense_words=1.0,
    )


def nano_bind() -> Recipe:
    """Second leg: the decoder joins, and the first words find their pixels. The segmenter rests."""
    return Recipe(
        name="nano_bind",
        trainable=("visual", "language", "lm_head", "prompt_encoder", "seg_head", "region_pool"),
        steps=4000,
        batch_size=8,
        learning_rate=8e-4,
        warmup_steps=20,
        turns=6,
        mix={"refer": 6.0, "point": 1.5, "box": 1.5, "name": 2.0, "absent": 1.0},
        world=FIRST_WORLD,
        dense_words=0.5,
        binding=0.3,
        pointing=1.0,
        losses=EASY,
    )


def nano_track() -> Recipe:
    """The segmenter alone, in the whole world: clips, clicks that correct, small things on loud backgrounds."""
    return replace(
        nano_prompt(),
        name="nano_track",
        steps=3000,
        learning_rate=5e-4,
        decay_share=0.3,
        turns=8,
        video_share=0.35,
        video_turns=4,
        corrections=0.25,
        world=SceneSettings(num_frames=(4, 4)),
    )


def nano_settle() -> Recipe:
    """Third leg: harder scenes, questions over memory, and a falling rate."""
    return replace(
        nano_bind(),
        name="nano_settle",
        seed=1,
        steps=560,
        decay_share=0.6,
        mix={
            "refer": 5.0,
            "refer_many": 0.5,
            "point": 1.5,
            "box": 1.5,
            "name": 1.5,
            "name_mem": 1.0,
            "choice": 1.0,
            "absent": 1.0,
        },
        world=replace(
            FIRST_WORLD,
            num_objects=(2, 5),
            families=TRAINING_FAMILIES,
            repaint=0.2,
            twins=0.1,
            patterns=(),
        ),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    r().name: r for r in (nano_prompt, nano_words, nano_bind, nano_track, nano_settle)
}
