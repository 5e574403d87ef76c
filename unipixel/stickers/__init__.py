"""The built-in world: scenes and short videos of stickers, with exact masks and true questions and answers.

    from unipixel import stickers

    scene = stickers.generate_scene(seed=0, index=7)               # arrays: scene.frames, scene.masks
    turns = stickers.generate_turns(scene, numpy.random.default_rng(7), count=4)
    sample = scene.to_sample(turns)

Everything is a function of (seed, index). Seeds from `EVAL_SEED` on are held out for evaluation.
"""

from unipixel.stickers.facts import Facts
from unipixel.stickers.language import list_vocabulary_texts
from unipixel.stickers.records import describe_scene, generate_scene_with_turns, write_samples
from unipixel.stickers.scene import EVAL_SEED, HARD, WORLDS, Scene, SceneObject, SceneSettings, generate_scene
from unipixel.stickers.sprites import FURTHER_FAMILIES, HELD_OUT_FAMILY, TRAINING_FAMILIES
from unipixel.stickers.things import FAMILIAR, THINGS, Thing
from unipixel.stickers.turns import FULL_MIX, TASKS, generate_turns
from unipixel.stickers.video import generate_video

__all__ = [
    "EVAL_SEED",
    "FAMILIAR",
    "FULL_MIX",
    "HARD",
    "FURTHER_FAMILIES",
    "HELD_OUT_FAMILY",
    "TASKS",
    "THINGS",
    "TRAINING_FAMILIES",
    "WORLDS",
    "Facts",
    "Scene",
    "SceneObject",
    "SceneSettings",
    "Thing",
    "describe_scene",
    "generate_scene_with_turns",
    "generate_scene",
    "generate_turns",
    "generate_video",
    "list_vocabulary_texts",
    "write_samples",
]
