"""Points and boxes on the objects of a scene, as a person would give them."""

from __future__ import annotations

import numpy as np

from unipixel.masks import find_interior_point
from unipixel.sample import Box, Point
from unipixel.stickers.facts import tight_box
from unipixel.stickers.scene import Scene

BOX_NOISE = 0.1
"""Edges of training boxes are off by up to this share of the box's side."""


def choose_prompt_frame(scene: Scene, n: int, rng: np.random.Generator) -> int:
    """A frame on which object ``n`` is well visible: its best one in evaluation, else a random one."""
    if scene.is_held_out:
        return int(scene.best_frames[n])
    areas = scene.areas[n]
    good = np.flatnonzero(areas >= 0.5 * areas.max())
    return int(good[int(rng.integers(len(good)))])


def point_at_object(scene: Scene, n: int, rng: np.random.Generator) -> Point:
    """A click on object ``n``: a random visible pixel, in evaluation the most interior one."""
    t = choose_prompt_frame(scene, n, rng)
    mask = scene.masks[n, t]
    if scene.is_held_out:
        x, y = find_interior_point(mask)
        return Point(x=float(x), y=float(y), frame=t)
    return sample_point(mask, rng, t)


def sample_point(mask: np.ndarray, rng: np.random.Generator, t: int = 0) -> Point:
    """A click on a random pixel of a mask, bool (H, W), that is not empty."""
    spots = np.flatnonzero(mask)
    y, x = divmod(int(spots[int(rng.integers(len(spots)))]), mask.shape[1])
    return Point(x=x + 0.5, y=y + 0.5, frame=t)


def box_object(scene: Scene, n: int, rng: np.random.Generator) -> Box:
    """A box around the visible part of object ``n``: exact in evaluation, else with noise of up to `BOX_NOISE`."""
    t = choose_prompt_frame(scene, n, rng)
    mask = scene.masks[n, t]
    box = tight_box(mask)
    if box is None:
        raise ValueError(f"object {n} is not visible on frame {t}; prompts need a frame on which it is")
    if not scene.is_held_out:
        return jitter_box(box, mask.shape, rng, t)
    return Box(x1=float(box[0]), y1=float(box[1]), x2=float(box[2]), y2=float(box[3]), frame=t)


def jitter_box(box: np.ndarray, size_hw: tuple[int, ...], rng: np.random.Generator, t: int = 0) -> Box:
    """A box (x1, y1, x2, y2) whose edges are off by up to `BOX_NOISE` of its sides, kept inside the picture."""
    height, width = size_hw
    sides = np.tile(box[2:] - box[:2], 2)
    x1, y1, x2, y2 = np.clip(box + rng.uniform(-BOX_NOISE, BOX_NOISE, 4) * sides, 0, [width, height, width, height])
    return Box(x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), frame=t)


def sample_prompt(scene: Scene, n: int, rng: np.random.Generator) -> tuple[Point | Box, ...]:
    """A point or a box on object ``n``, half of the time each."""
    return (point_at_object(scene, n, rng),) if rng.random() < 0.5 else (box_object(scene, n, rng),)
