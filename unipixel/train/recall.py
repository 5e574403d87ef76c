"""Questions about objects in the forms of the ablations: how a question knows of what was pointed at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from unipixel.masks import MaskTrack
from unipixel.model.config import Recall
from unipixel.processing.chat import REF, SEG
from unipixel.processing.wording import join_words
from unipixel.sample import Box, Point, Sample, Turn
from unipixel.stickers import Scene
from unipixel.stickers.scene import box_object, point_at_object


def draw_prompt(world: Scene, n: int, rng: np.random.Generator) -> Point | Box:
    """A point or a box on an object of a scene."""
    return (point_at_object if rng.random() < 0.5 else box_object)(world, n, rng)


def apply_recall(sample: Sample, prompts: Mapping[int, Point | Box], recall: Recall) -> Sample:
    """The sample with its questions about objects in another form than by their memory.

    Args:
        sample: a conversation whose questions have objects as regions.
        prompts: a point or box on each of those objects.
        recall: see `Recall`. "turn" segments an object in a turn before the first question about it.
    """
    if recall == "memory":
        return sample
    asked = {number for turn in sample.turns for number in turn.regions}
    if recall == "frame":
        frames = {number: prompts[number].frame for number in asked}
        return replace(sample, objects={i: _keep_frame(t, frames.get(i)) for i, t in sample.objects.items()})
    turns: list[Turn] = []
    known: set[int] = set()
    for turn in sample.turns:
        if recall == "pointing":
            turns.append(point_at_objects(turn, prompts))
            continue
        new = [number for number in turn.regions if number not in known]
        known.update(new)
        turns += [build_segment_turn(new, prompts), replace(turn, regions=())] if new else [replace(turn, regions=())]
    return replace(sample, turns=tuple(turns))


def point_at_objects(turn: Turn, prompts: Mapping[int, Point | Box]) -> Turn:
    """The same question with a ``<|ref|>`` behind the first mention of each object instead of its memory."""
    text = turn.question
    for number in turn.regions:
        text = text.replace(f"[{number}]", f"[{number}] {REF}", 1)
    order = sorted(turn.regions, key=lambda number: text.index(f"[{number}] {REF}"))
    references = (*turn.references, *((prompts[number],) for number in order))
    return replace(turn, question=text, references=references, regions=()) if turn.regions else turn


def build_segment_turn(numbers: list[int], prompts: Mapping[int, Point | Box]) -> Turn:
    """The turn in which objects are segmented."""
    return Turn(
        question=f"Please segment {join_words([f'[{number}] {REF}' for number in numbers])}.",
        answer=" ".join(f"[{number}] {SEG}" for number in numbers),
        references=tuple((prompts[number],) for number in numbers),
        targets=tuple(numbers),
        task="point",
    )


def _keep_frame(track: MaskTrack, frame: int | None) -> MaskTrack:
    if frame is None or track.rles[frame] is None:
        return track
    return MaskTrack(track.size_hw, tuple(rle if t == frame else None for t, rle in enumerate(track.rles)))
