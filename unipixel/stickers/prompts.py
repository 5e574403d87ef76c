"""Points and boxes on the objects of a scene, as a person would give them."""

from __future__ import annotations

import numpy as np

from unipixel.masks import interior_point
from unipixel.sample import Box, Point
from unipixel.stickers.facts import tight_box
from unipixel.stickers.scene import Scene

BOX_NOISE = 0.1
"""Edges of training boxes are off by up to this share of the box's side."""


def prompt_frame(scene: Scene, n: int, rng: np.random.Generator) -> int:
    """A frame on which object ``n`` is well visible: its best one in evaluation, else a random one."""
    if scene.held_out:
        return int(scene.best_frames[n])
    areas = scene.areas[n]
    good = np.flatnonzero(areas >= 0.5 * areas.max())
    return int(good[int(rng.integers(len(good)))])


def point_on(scene: Scene, n: int, rng: np.random.Generator) -> Point:
    """A click on object ``n``: a random visible pixel, in evaluation the most interior one."""
    t = prompt_frame(scene, n, rng)
    mask = scene.masks[n, t]
    if scene.held_out:
        x, y = interior_point(mask)
        return Point(x=float(x), y=float(y), frame=t)
    spots = np.flatnonzero(mask)
    y, x = divmod(int(spots[int(rng.integers(len(spots)))]), mask.shape[1])
    return Point(x=x + 0.5, y=y + 0.5, frame=t)


def box_on(scene: Scene, n: int, rng: np.random.Generator) -> Box:
    """A box around the visible part of object ``n``: exact in evaluation, else with noise of up to `BOX_NOISE`."""
    t = prompt_frame(scene, n, rng)
    mask = scene.masks[n, t]
    box = tight_box(mask)
    if box is None:
        raise ValueError(f"object {n} is not visible on frame {t}; prompts need a frame on which it is")
    if not scene.held_out:
        height, width = mask.shape
        sides = np.tile(box[2:] - box[:2], 2)
        box = np.clip(box + rng.uniform(-BOX_NOISE, BOX_NOISE, 4) * sides, 0, [width, height, width, height])
    return Box(x1=float(box[0]), y1=float(box[1]), x2=float(box[2]), y2=float(box[3]), frame=t)


def reference(scene: Scene, n: int, rng: np.random.Generator) -> tuple[Point | Box, ...]:
    """A point or a box on object ``n``, half of the time each."""
    return (point_on(scene, n, rng),) if rng.random() < 0.5 else (box_on(scene, n, rng),)
