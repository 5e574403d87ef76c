"""What a user asks for, checked before anything is computed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from unipixel.engine.answer import AnswerObject
from unipixel.engine.generation import DecodingOptions
from unipixel.engine.memory import KnownObject, ObjectMemory
from unipixel.engine.request_parser import RequestPart
from unipixel.errors import PromptError
from unipixel.processing import VisualInput
from unipixel.processing.prompts import build_sam_points, check_prompt, choose_strongest, clip_to_frame
from unipixel.sample import Box, Mask, Point, Prompt

Start = int | Literal["best"]
"""The frame on which tracking starts: a frame of the clip, or the one where the object scores highest on its own."""

Force = bool | Literal["always"]
"""Whether masks are taken for what the model does not segment by itself, or for everything without asking it."""


@dataclass(frozen=True, eq=False)
class Prompted:
    """All prompts of one object."""

    id: int
    prompts: tuple[Prompt, ...]
    known: KnownObject | None = None
    """The object of the session that they correct; None starts a new one."""

    @property
    def is_pointed(self) -> bool:
        """Whether the model has to say which object is meant: a new object without a mask."""
        return self.known is None and not any(isinstance(p, Mask) for p in self.prompts)

    @property
    def reference(self) -> Point | Box:
        """The point or box that stands behind its ``<|ref|>``."""
        return choose_strongest(select_clicks(self.prompts))


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One checked question."""

    text: str
    """Empty: segment what the prompts show, and nothing else."""
    prompted: tuple[Prompted, ...] = ()
    about: tuple[int, ...] = ()
    start: Start = 0
    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    force: Force = False
    prime: str = ""
    prefill: str = ""
    """Words of the first round's question; empty: the engine's own."""
    wanted: tuple[RequestPart, ...] = ()
    """Things that are asked for one by one; empty: the question is asked as it is."""


def select_clicks(prompts: Iterable[Prompt]) -> list[Point | Box]:
    """The points and boxes among prompts."""
    return [p for p in prompts if not isinstance(p, Mask)]


def check_start(start: Any, num_frames: int) -> Start:
    """Refuse a start that is no frame of the clip.

    Raises:
        PromptError: neither ``"best"`` nor 0 .. num_frames - 1.
    """
    if start == "best":
        return "best"
    if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start < num_frames:
        raise PromptError(f"start is {start!r}; it must be 'best' or a frame from 0 to {num_frames - 1}")
    return start


def group_prompts(
    prompts: Prompt | Sequence[Prompt], memory: ObjectMemory, visual: VisualInput
) -> tuple[Prompted, ...]:
    """Prompts by object; those without an id each start an object of their own.

    Raises:
        PromptError: a prompt does not fit the clip, an id is not a positive number, or an object has several boxes or
            masks on one frame, or only negative points.
    """
    if isinstance(prompts, Point | Box | Mask):
        prompts = [prompts]
    size_hw, num_frames = visual.size_hw, visual.media.num_frames
    prompts = [clip_to_frame(prompt, size_hw) for prompt in prompts]
    for prompt in prompts:
        check_prompt(prompt, size_hw, num_frames)
        number = prompt.object_id
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1):
            raise PromptError(f"the prompt's object_id is {number!r}; it must be a whole number of at least 1, or None")
    named: dict[int, list[Prompt]] = {}
    free = max([memory.next_id, *(p.object_id + 1 for p in prompts if p.object_id is not None)])
    for prompt in prompts:
        number = prompt.object_id
        if number is None:
            number, free = free, free + 1
        named.setdefault(int(number), []).append(prompt)
    result = tuple(Prompted(i, tuple(group), memory.get(i)) for i, group in named.items())
    for one in result:
        _check_group(one, visual)
    return result


def _check_group(one: Prompted, visual: VisualInput) -> None:
    size_hw, num_frames, side = visual.size_hw, visual.media.num_frames, visual.settings.sam_size
    masks = [p for p in one.prompts if isinstance(p, Mask)]
    frames = [p.frame for p in masks]
    if len(set(frames)) < len(frames):
        raise PromptError(f"object {one.id} has two masks on one frame; give it one mask per frame")
    points = select_clicks(one.prompts)
    for frame in sorted({p.frame for p in points}):
        build_sam_points([p for p in points if p.frame == frame], size_hw, num_frames, side)
    if one.is_pointed and all(isinstance(p, Point) and not p.positive for p in points):
        raise PromptError(f"object {one.id} has negative points only; give it a positive point or a box too")


def check_about(about: Any, memory: ObjectMemory, visual: VisualInput, prompted: Sequence[Prompted]) -> tuple[int, ...]:
    """Ids of the known objects that a question is about.

    Raises:
        PromptError: an object is not known, not visible on any frame that the language model sees, or also prompted.
    """
    if isinstance(about, int | AnswerObject):
        about = [about]
    ids = list(dict.fromkeys(memory.find(one).id for one in about))
    for i in ids:
        if not is_seen(memory[i], visual):
            frames = ", ".join(map(str, visual.llm_frame_indices))
            raise PromptError(f"object {i} is visible on none of the frames that the model reads ({frames})")
        if any(one.id == i for one in prompted):
            raise PromptError(f"object {i} is given in about and has prompts of its own; give it once")
    return tuple(ids)


def check_named(text: str, memory: ObjectMemory, prompted: Sequence[Prompted]) -> None:
    """Refuse a question that names an object by an id which was given once and stands for nothing any more.

    Raises:
        PromptError: names the id.
    """
    own = {one.id for one in prompted}
    for number in map(int, re.findall(r"\[(\d{1,9})\]", text)):
        if 0 < number < memory.next_id and number not in memory and number not in own:
            have = ", ".join(map(str, memory)) or "none"
            raise PromptError(f"the question names [{number}], an object that was removed; known are {have}")


def is_seen(known: KnownObject, visual: VisualInput) -> bool:
    """Whether an object is visible on a frame that the language model sees."""
    return any(known.track.rles[t] is not None for t in visual.llm_frame_indices)
