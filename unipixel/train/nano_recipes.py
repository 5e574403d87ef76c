"""How `nano` is trained: its stages, in the order in which they were run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from unipixel.stickers import SceneSettings
from unipixel.train.recipe import LossWeights, Mix, StickerRecipe

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


def nano_prompt() -> StickerRecipe:
    """First stage of `nano`: points and boxes to masks, without language.

    Small batches leave the plateau soonest; higher rates let the image features outgrow the code of place, and the
    segmenter then paints everything for every prompt.
    """
    return StickerRecipe(
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


def nano_words() -> StickerRecipe:
    """Beside the first stage: the vision tower learns the names of things, without decoder or masks."""
    return StickerRecipe(
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


def nano_names() -> StickerRecipe:
    """All names, in crowded scenes: five objects teach the vision tower more than two for the same time."""
    return replace(
        nano_words(),
        name="nano_names",
        seed=61,
        steps=8000,
        batch_size=16,
        muon=2.0,
        warmup_steps=20,
        photo_share=0.12,
        world=SceneSettings(num_objects=(3, 5), scale=(0.2, 0.5), repaint=0.3, twins=0.05),
        hard_share=0.15,
    )


def nano_bind() -> StickerRecipe:
    """Second stage: the decoder joins, and the first words find their pixels. The segmenter rests."""
    return StickerRecipe(
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


def nano_track() -> StickerRecipe:
    """The segmenter alone, in the whole world: clips, clicks that correct, small things on loud backgrounds."""
    return replace(
        nano_prompt(),
        name="nano_track",
        steps=3000,
        learning_rate=5e-4,
        decay_share=0.3,
        muon=2.0,
        turns=8,
        video_share=0.5,
        video_turns=3,
        given_masks=0.5,
        corrections=0.25,
        photo_share=0.25,
        hard_share=0.15,
        losses=replace(EASY, presence=0.5),
        world=SceneSettings(num_frames=(4, 4), pace=(0.01, 0.1)),
    )


def nano_choices() -> StickerRecipe:
    """The decoder alone learns to choose among options, in words: without pictures a step costs little."""
    return StickerRecipe(
        name="nano_choices",
        seed=130,
        trainable=("language.layers", "language.norm"),
        steps=1500,
        batch_size=48,
        learning_rate=7e-4,
        warmup_steps=20,
        decay_share=0.3,
        muon=2.0,
        turns=1,
        written_choices=1.0,
        mix={"choice": 1.0},
    )


def nano_talk() -> StickerRecipe:
    """Everything that is said, without the segmenter: mask queries learn where SAM's own prompts would point."""
    return replace(
        nano_bind(),
        name="nano_talk",
        seed=110,
        steps=2000,
        batch_size=16,
        learning_rate=6e-4,
        decay_share=0.3,
        muon=2.0,
        turns=5,
        masks=False,
        video_share=0.06,
        video_turns=4,
        photo_share=0.1,
        hard_share=0.15,
        conversation_share=0.08,
        written_choices=0.15,
        mix=TALK_MIX,
        dense_words=0.5,
        binding=0.1,
        pointing=2.0,
        world=SceneSettings(num_frames=(4, 4), pace=(0.02, 0.1)),
    )


TALK_MIX: Mix = {
    "refer": 5.0,
    "refer_many": 0.5,
    "point": 0.7,
    "box": 0.7,
    "absent": 4.0,
    "position": 0.2,
    "colour": 0.4,
    "size": 0.1,
    "category": 0.2,
    "name": 0.8,
    "name_mem": 2.2,
    "colour_of": 0.3,
    "yes_no": 0.3,
    "presence": 0.4,
    "choice": 4.0,
    "choice_mem": 0.3,
}
"""Everything that is measured, and a little of the rest."""


def nano_finish() -> StickerRecipe:
    """Last stage: everything learns together on the whole world, and the rate falls to nothing."""
    return replace(
        nano_talk(),
        name="nano_finish",
        trainable=("",),
        seed=120,
        steps=1400,
        learning_rate=5e-4,
        decay_share=0.8,
        turns=4,
        masks=True,
        video_share=0.12,
        written_choices=0.1,
        mix=TALK_MIX | {"point": 1.0, "box": 1.0, "choice": 3.0},
        pointing=0.3,
    )


NANO_RECIPES: dict[str, Callable[[], StickerRecipe]] = {
    recipe.__name__: recipe
    for recipe in (
        nano_prompt,
        nano_words,
        nano_names,
        nano_bind,
        nano_track,
        nano_choices,
        nano_talk,
        nano_finish,
    )
}
