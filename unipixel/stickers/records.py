"""Stickers as records for training and evaluation, and as files to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from unipixel.atomic import write_text
from unipixel.draw import make_contact_sheet, overlay, write_gif, write_png
from unipixel.masks import save_davis_png
from unipixel.sample import Turn
from unipixel.stickers.scene import DEFAULT_SETTINGS, Scene, SceneSettings, generate_scene
from unipixel.stickers.turns import FULL_MIX, generate_turns
from unipixel.stickers.video import generate_video as make_video


def generate_scene_with_turns(
    seed: int,
    index: int,
    *,
    video: bool = False,
    tasks: Mapping[str, float] = FULL_MIX,
    count: int = 3,
    settings: SceneSettings = DEFAULT_SETTINGS,
) -> tuple[Scene, tuple[Turn, ...]]:
    """A scene and questions about it as plain arrays, without encoding its masks: the fast way for training.

    Args:
        seed: from `EVAL_SEED` on only for evaluation.
        index: number of the scene within the seed.
        video: a clip instead of a picture.
        tasks: weight by task, keys of `TASKS`.
        count: how many turns.
        settings: what scenes look like.
    """
    made = make_video(seed, index, settings) if video else generate_scene(seed, index, settings)
    return made, generate_turns(made, np.random.default_rng((seed, index, 2)), count, tasks)


def write_samples(
    count: int,
    out_dir: str | Path,
    seed: int = 0,
    *,
    video: bool = False,
    tasks: Mapping[str, float] = FULL_MIX,
    turns_each: int = 6,
    settings: SceneSettings = DEFAULT_SETTINGS,
) -> list[Path]:
    """Write samples to look at, and return the files written.

    For each: the picture (``0000.png``) or clip (``0000.gif``), its masks as palette PNG with object ids as pixel
    values (``0000_masks.png``, or a folder ``0000_masks`` with one file a frame), and ``0000.json`` with objects and
    questions; besides them ``contact_sheet.png`` with all of them and their masks.

    Raises:
        ValueError: ``count`` is not positive.
    """
    if count < 1:
        raise ValueError(f"the number of samples is {count}; give 1 or more")
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    pictures: list[np.ndarray] = []
    captions: list[str] = []
    for index in range(count):
        made, questions = generate_scene_with_turns(
            seed, index, video=video, tasks=tasks, count=turns_each, settings=settings
        )
        files += _write_sample(made, questions, folder, f"{index:04d}")
        pictures.append(_draw_preview(made))
        captions.append("\n".join(f"{turn.question} {turn.answer}".replace("\n", " ") for turn in questions[:2]))
    files.append(write_png(_draw_sheet(pictures, captions, video), folder / "contact_sheet.png"))
    return files


def describe_scene(made: Scene, questions: tuple[Turn, ...]) -> dict[str, Any]:
    """Everything about a scene that is not pixels, ready for JSON."""
    objects = [
        {
            "id": item.id,
            "name": item.thing.name,
            "category": item.thing.category,
            "colour": made.get_colour(n),
            "does": sorted(item.does),
            "areas": [int(area) for area in made.areas[n]],
        }
        for n, item in enumerate(made.objects)
    ]
    return {
        "seed": made.seed,
        "index": made.index,
        "size_hw": list(made.frames.shape[1:3]),
        "num_frames": len(made.frames),
        "objects": objects,
        "turns": [_turn_to_json(turn) for turn in questions],
    }


def _turn_to_json(turn: Turn) -> dict[str, Any]:
    return {
        "task": turn.task,
        "question": turn.question,
        "answer": turn.answer,
        "references": [
            [{"kind": type(p).__name__.lower(), **asdict(p)} for p in prompts] for prompts in turn.references
        ],
        "regions": list(turn.regions),
        "targets": list(turn.targets),
    }


def build_index_masks(made: Scene) -> np.ndarray:
    """uint8 (T, H, W): the id of the object seen at each pixel, 0 for none."""
    ids = np.zeros(made.frames.shape[:3], np.uint8)
    for item, mask in zip(made.objects, made.masks, strict=True):
        ids[mask] = item.id
    return ids


def _write_sample(made: Scene, questions: tuple[Turn, ...], folder: Path, stem: str) -> list[Path]:
    text = folder / f"{stem}.json"
    write_text(text, json.dumps(describe_scene(made, questions), indent=2) + "\n", sync=False)
    ids = build_index_masks(made)
    if not made.is_video:
        picture, masks = folder / f"{stem}.png", folder / f"{stem}_masks.png"
        write_png(made.image, picture)
        save_davis_png(ids[0], masks)
        return [picture, masks, text]
    clip, mask_folder = folder / f"{stem}.gif", folder / f"{stem}_masks"
    write_gif(made.frames, clip, fps=4)
    mask_folder.mkdir(exist_ok=True)
    mask_files = [mask_folder / f"{t:05d}.png" for t in range(len(ids))]
    for t, path in enumerate(mask_files):
        save_davis_png(ids[t], path)
    return [clip, *mask_files, text]


def _draw_sheet(pictures: list[np.ndarray], captions: list[str], video: bool) -> np.ndarray:
    return make_contact_sheet(pictures, captions, columns=1 if video else None, cell_width=960 if video else 320)


def _draw_preview(made: Scene) -> np.ndarray:
    """The picture with its masks; for a clip up to four frames side by side."""
    ids = [item.id for item in made.objects]
    steps = np.unique(np.linspace(0, len(made.frames) - 1, 4).round().astype(int))
    return np.concatenate([overlay(made.frames[t], made.masks[:, t], ids=ids) for t in steps], 1)
