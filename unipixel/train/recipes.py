"""Every recipe by name: the paper's three stages, for the 3B and 7B models and for `nano`, and data of one's own.

Source: UniPixel (arXiv 2509.18094), section 4.1, and the launch scripts of its release: mixtures, repeat factors,
what learns, rates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from unipixel.stickers import HARD, SceneSettings
from unipixel.train.nano_recipes import EASY, NANO_RECIPES, nano_bind
from unipixel.train.recipe import (
    Lora,
    MixtureRecipe,
    Recipe,
    RecordLimits,
    Source,
    Start,
    StickerRecipe,
    ValidationSettings,
)

QWEN_3B = "Qwen/Qwen2.5-VL-3B-Instruct"
QWEN_7B = "Qwen/Qwen2.5-VL-7B-Instruct"

PROMPT_PROJECTIONS = tuple(
    f"prompt_encoder.{name}."
    for name in ("single_project", "double_project", "project", "time_embedding", "time_project")
)
"""From SAM's code of a point or box, and the code of its time, to a `<|ref|>` embedding."""
JOINT_PARTS = ("language.embed_tokens.", "lm_head.", "prompt_encoder.", "region_pool.", "seg_head.", "segmenter.")
"""What learns whole in the third stage, beside LoRA."""

REFER_SOURCES = (
    Source(dataset="videorefer_short_caption", form="bare"),
    Source(dataset="inst_it_image_short_caption_raw", form="bare"),
)
SEGMENT_SOURCES = (
    Source(dataset="refcoco", repeat=5),
    Source(dataset="refcoco+", repeat=5),
    Source(dataset="refcocog", repeat=5),
    Source(dataset="refclef", repeat=5),
    Source(dataset="ref_youtube_vos", repeat=3),
)
JOINT_SOURCES = (
    Source(dataset="revos", repeat=5),
    Source(dataset="mevis", repeat=5),
    Source(dataset="lvvis", repeat=3),
    Source(dataset="ref_youtube_vos", repeat=5),
    Source(dataset="ref_davis17", repeat=10),
    Source(dataset="ref_sav", repeat=3),
    Source(dataset="groundmore", repeat=3),
    Source(dataset="vicas", repeat=3),
    Source(dataset="reason_seg", repeat=10),
    Source(dataset="ade20k", repeat=3),
    Source(dataset="cocostuff", repeat=3),
    Source(dataset="mapillary", repeat=3),
    Source(dataset="paco_lvis", repeat=3),
    Source(dataset="pascal_part", repeat=3),
    Source(dataset="refcoco", repeat=10),
    Source(dataset="refcoco+", repeat=10),
    Source(dataset="refcocog", repeat=10),
    Source(dataset="refclef", repeat=10),
    Source(dataset="videorefer_detailed_caption", repeat=5),
    Source(dataset="videorefer_qa", repeat=5),
    Source(dataset="inst_it_video_qa_raw", repeat=5, frames=0, one_frame_share=0.5, random_ids=False),
    Source(dataset="osprey_conversation", repeat=5, random_ids=False),
    Source(dataset="osprey_detail_description", repeat=5, turns=0, random_ids=False),
    Source(dataset="osprey_pos_neg", repeat=5, random_ids=False),
    Source(dataset="videorefer_qa", repeat=3, form="memory"),
    Source(dataset="inst_it_video_qa_raw", repeat=3, form="memory", frames=0, max_frames=8, random_ids=False),
    Source(dataset="llava_instruct_665k_videogpt_plus_576k", rate=2.0, as_images=True),
)


def _stage(name: str) -> MixtureRecipe:
    """What the stages share."""
    return MixtureRecipe(
        name=name,
        start=Start(qwen=QWEN_3B, sam="sam2.1_hiera_base_plus.pt"),
        steps=0,
        epochs=1,
        micro_batch=1,
        schedule="cosine",
        warmup_steps=0,
        warmup_share=0.03,
        weight_decay=0.0,
        adam_beta2=0.999,
        max_grad_norm=1.0,
        checkpointing=True,
        evaluation=ValidationSettings(every=1000, samples=8),
        log_steps=10,
        save_steps=500,
        save="adapter",
        protocol="original",
    )


def refer() -> MixtureRecipe:
    """Stage 1: a caption for what is pointed at; the projections from points and boxes to `<|ref|>` learn."""
    return replace(
        _stage("refer"), trainable=PROMPT_PROJECTIONS, sources=REFER_SOURCES, batch_size=256, learning_rate=1e-3
    )


def segment() -> MixtureRecipe:
    """Stage 2: referring segmentation; the head that makes mask queries learns."""
    return replace(
        _stage("segment"), trainable=("seg_head.",), sources=SEGMENT_SOURCES, batch_size=256, learning_rate=1e-3
    )


def joint() -> MixtureRecipe:
    """Stage 3: everything together, on all data; LoRA on the attention of language model and vision tower."""
    return replace(
        _stage("joint"),
        trainable=JOINT_PARTS,
        lora=Lora(),
        sources=JOINT_SOURCES,
        batch_size=32,
        learning_rate=2e-5,
        rates={"segmenter": 5e-6},
        limits=RecordLimits(words=200),
    )


def _switch_to_7b(recipe: MixtureRecipe) -> MixtureRecipe:
    return replace(recipe, name=f"{recipe.name}_7b", start=replace(recipe.start, qwen=QWEN_7B))


def refer_7b() -> MixtureRecipe:
    """Stage 1 for the 7B model."""
    return _switch_to_7b(refer())


def segment_7b() -> MixtureRecipe:
    """Stage 2 for the 7B model."""
    return _switch_to_7b(segment())


def joint_7b() -> MixtureRecipe:
    """Stage 3 for the 7B model."""
    return _switch_to_7b(joint())


def _nano_stage(name: str) -> StickerRecipe:
    return replace(
        nano_bind(),
        name=name,
        start=Start(model="nano"),
        seed=100,
        steps=1000,
        schedule="cosine",
        warmup_steps=30,
        video_share=0.2,
        world=SceneSettings(),
        dense_words=0.0,
        binding=0.0,
        losses=EASY,
    )


def nano_refer() -> StickerRecipe:
    """Stage 1 in small: names of what is pointed at on stickers."""
    return replace(_nano_stage("nano_refer"), trainable=PROMPT_PROJECTIONS, mix={"name": 1.0}, pointing=0.0)


def nano_segment() -> StickerRecipe:
    """Stage 2 in small: referring segmentation of stickers."""
    return replace(
        _nano_stage("nano_segment"), trainable=("seg_head.",), mix={"refer": 1.0, "refer_many": 0.2}, pointing=0.0
    )


def nano_joint() -> StickerRecipe:
    """Stage 3 in small: every task of the sticker world; the whole model learns, the segmenter slowly."""
    return replace(_nano_stage("nano_joint"), trainable=("",), learning_rate=3e-4, rates={"segmenter": 1e-4})


def finetune() -> MixtureRecipe:
    """Your own data, from `nano`: names and expressions to masks, points and boxes to masks. Everything learns."""
    return MixtureRecipe(
        name="finetune",
        start=Start(model="nano"),
        steps=200,
        batch_size=8,
        learning_rate=5e-4,
        schedule="cosine",
        warmup_steps=10,
        turns=6,
        losses=replace(EASY, dice=5.0),
        evaluation=ValidationSettings(samples=16),
        log_steps=20,
    )


def finetune_lora() -> MixtureRecipe:
    """Your own data, from a released checkpoint: LoRA of rank 32, and the modules of the third stage but the words."""
    return replace(
        _stage("finetune_lora"),
        start=Start(model="PolyU-ChenLab/UniPixel-3B"),
        trainable=tuple(part for part in JOINT_PARTS if part not in ("language.embed_tokens.", "lm_head.")),
        lora=Lora(rank=32, alpha=64.0),
        batch_size=16,
        learning_rate=2e-5,
        rates={"segmenter": 5e-6},
        evaluation=ValidationSettings(every=200, samples=16),
        protocol="correct",
    )


def debug() -> StickerRecipe:
    """Does it learn at all? A tiny fresh model and one batch of scenes, again and again; under a minute."""
    return StickerRecipe(
        name="debug",
        start=Start(fresh="debug"),
        steps=60,
        batch_size=2,
        learning_rate=3e-3,
        warmup_steps=5,
        turns=3,
        mix={"refer": 1.0, "point": 1.0, "name": 1.0},
        world=HARD,  # small pictures, which the tiny model sees whole
        distinct=2,
        losses=EASY,
        bf16=False,
        evaluation=ValidationSettings(samples=2),
        log_steps=5,
        save_steps=20,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        refer,
        segment,
        joint,
        refer_7b,
        segment_7b,
        joint_7b,
        nano_refer,
        nano_segment,
        nano_joint,
        finetune,
        finetune_lora,
        debug,
    )
}
RECIPES |= NANO_RECIPES
"""By name; a recipe is a function without arguments, whose docstring says what it is."""
