"""What a user asks for, checked before anything is computed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from numbers import Real
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeAlias, TypeVar

import numpy as np

from unipixel.engine.generation import DecodingOptions
from unipixel.engine.memory import KnownObject, ObjectMemory
from unipixel.engine.request_parser import RequestPart
from unipixel.errors import PromptError
from unipixel.processing import VisualInput
from unipixel.processing.chat import ChatTemplate
from unipixel.processing.prompts import build_sam_points, check_prompt, choose_strongest, clip_to_frame
from unipixel.sample import Box, Mask, Point, Prompt

if TYPE_CHECKING:
    from unipixel.engine.session import Session

Start: TypeAlias = int | Literal["best"]
"""The frame on which tracking starts: a frame of the clip, or the one where the object scores highest on its own."""

Force: TypeAlias = bool | Literal["always"]
"""Whether masks are taken for what the model does not segment by itself, or for everything without asking it."""

Pair: TypeAlias = tuple[float, float]
"""(x, y) of a `Point` on the first frame that starts an object of its own."""
Prompts: TypeAlias = Prompt | Pair | Sequence[Prompt | Pair]
R = TypeVar("R")
A = ParamSpec("A")
ObjectRef: TypeAlias = int | KnownObject
About: TypeAlias = ObjectRef | Sequence[ObjectRef]


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One checked question of a session; made by `Session.prepare`."""

    session: Session
    text: str
    """Empty: segment what the prompts show, and nothing else."""
    prompts: Mapping[int, tuple[Prompt, ...]] = field(default_factory=dict)
    """All prompts by the id of the object that they describe."""
    about: tuple[int, ...] = ()
    start: Start = 0
    label: str | None = None
    """What the prompted objects are called; None: nothing new."""
    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    force: Force = False
    answer_prefix: str = ""
    choices: tuple[str, ...] = ()
    """If given, the reply is one of them."""
    prompt_question: str = ""
    """Words of the question that shows the points and boxes to the model; empty: the engine's own."""
    parts: tuple[RequestPart, ...] = ()
    """Things that are asked for one by one; empty: the question is asked as it is."""


def take_turns(method: Callable[Concatenate[Session, A], R]) -> Callable[Concatenate[Session, A], R]:
    """The method of a session, which waits until no other thread is at work on it."""

    @wraps(method)
    def wait_and_call(self: Session, /, *arguments: A.args, **options: A.kwargs) -> R:
        with self._lock:
            return method(self, *arguments, **options)

    return wait_and_call


def select_clicks(prompts: Iterable[Prompt]) -> list[Point | Box]:
    """The points and boxes among prompts."""
    return [p for p in prompts if not isinstance(p, Mask)]


def choose_reference(prompts: Iterable[Prompt]) -> Point | Box:
    """The point or box of an object that stands behind its ``<|ref|>``."""
    return choose_strongest(select_clicks(prompts))


def needs_model(prompts: Iterable[Prompt], known: KnownObject | None) -> bool:
    """Whether the model has to say which object prompts are about: a new object without a mask."""
    return known is None and not any(isinstance(p, Mask) for p in prompts)


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


def list_prompts(prompts: Prompts) -> list[Prompt]:
    """Prompts one by one, pairs of numbers made into points.

    Raises:
        PromptError: something is neither a prompt nor such a pair.
    """
    listed = [prompts] if isinstance(prompts, Point | Box | Mask) or _is_numeric(prompts) else prompts
    if not isinstance(listed, Iterable) or isinstance(listed, str | bytes | Mapping):
        raise PromptError(
            f"prompts are of type {type(prompts).__name__}, expected Point, Box, Mask or (x, y), or a list of them"
        )
    return [_to_prompt(one) for one in listed]


def _is_numeric(value: Any) -> bool:
    """Whether it is a row of numbers, whatever they mean."""
    return (
        isinstance(value, list | tuple | np.ndarray)
        and len(value) > 0
        and all(isinstance(one, Real) and not isinstance(one, bool | np.bool_) for one in value)
    )


def _to_prompt(one: Any) -> Prompt:
    if isinstance(one, Point | Box | Mask):
        return one
    if not _is_numeric(one):
        raise PromptError(f"a prompt is a {type(one).__name__}, expected a Point, Box or Mask, or (x, y)")
    if len(one) == 2:
        return Point(float(one[0]), float(one[1]))
    words = ", ".join(f"{float(value):.10g}" for value in one[:6])
    raise PromptError(
        f"the prompt ({words}) could be meant in several ways; write Box(x1, y1, x2, y2) for a box, "
        "Point(x, y, frame=...) for a point, and (x, y) for one on the first frame"
    )


def group_prompts(prompts: Prompts, memory: ObjectMemory, visual: VisualInput) -> dict[int, tuple[Prompt, ...]]:
    """Prompts by object; those without an id each start an object of their own.

    Raises:
        PromptError: a prompt does not fit the clip, an id is not a positive number, or an object has several boxes or
            masks on one frame, or only negative points.
    """
    size_hw, num_frames = visual.size_hw, visual.media.num_frames
    listed = [clip_to_frame(prompt, size_hw) for prompt in list_prompts(prompts)]
    for prompt in listed:
        check_prompt(prompt, size_hw, num_frames)
        number = prompt.object_id
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1):
            raise PromptError(f"the prompt's object_id is {number!r}; it must be a whole number of at least 1, or None")
    groups: dict[int, list[Prompt]] = {}
    free = max([memory.next_id, *(p.object_id + 1 for p in listed if p.object_id is not None)])
    for prompt in listed:
        number = prompt.object_id
        if number is None:
            number, free = free, free + 1
        groups.setdefault(int(number), []).append(prompt)
    for number, group in groups.items():
        _check_group(number, group, memory.get(number), visual)
    return {number: tuple(group) for number, group in groups.items()}


def _check_group(number: int, prompts: Sequence[Prompt], known: KnownObject | None, visual: VisualInput) -> None:
    size_hw, num_frames, side = visual.size_hw, visual.media.num_frames, visual.settings.sam_size
    frames = [p.frame for p in prompts if isinstance(p, Mask)]
    if len(set(frames)) < len(frames):
        raise PromptError(f"object {number} has two masks on one frame; give it one mask per frame")
    clicks = select_clicks(prompts)
    for frame in sorted({p.frame for p in clicks}):
        build_sam_points([p for p in clicks if p.frame == frame], size_hw, num_frames, side)
    if needs_model(prompts, known) and all(isinstance(p, Point) and not p.positive for p in clicks):
        raise PromptError(f"object {number} has negative points only; give it a positive point or a box too")


def check_about(about: Any, memory: ObjectMemory, visual: VisualInput, prompted: Iterable[int]) -> tuple[int, ...]:
    """Ids of the known objects that a question is about.

    Raises:
        PromptError: an object is not known, not visible on any frame that the language model sees, or also prompted.
    """
    if isinstance(about, int | KnownObject):
        about = [about]
    ids = list(dict.fromkeys(memory.find(one).id for one in about))
    for i in ids:
        if not is_seen(memory[i], visual):
            frames = ", ".join(map(str, visual.llm_frame_indices))
            raise PromptError(f"object {i} is visible on none of the frames that the model reads ({frames})")
        if i in prompted:
            raise PromptError(f"object {i} is given in about and has prompts of its own; give it once")
    return tuple(ids)


def check_named(text: str, memory: ObjectMemory, prompted: Iterable[int]) -> None:
    """Refuse a question that names an object by an id which was given once and stands for nothing any more.

    Raises:
        PromptError: names the id.
    """
    for number in map(int, re.findall(r"\[(\d{1,9})\]", text)):
        if 0 < number < memory.next_id and number not in memory and number not in prompted:
            have = ", ".join(map(str, memory)) or "none"
            raise PromptError(f"the question names [{number}], an object that was removed; known are {have}")


def check_choices(choices: Iterable[str], question: str, chat: ChatTemplate) -> tuple[str, ...]:
    """The texts of which one is to be the reply.

    Raises:
        PromptError: one is empty, given twice, or no text that an answer may be; or there is no question.
    """
    listed = list(choices) if isinstance(choices, Iterable) and not isinstance(choices, str | bytes) else None
    if listed is None:
        raise PromptError(f"choices is a {type(choices).__name__}; it must be a list of texts")
    for one in listed:
        chat.check_text(one, "choice")
        if not one.strip() or listed.count(one) > 1:
            raise PromptError(f"the choice {one!r} is empty or given twice; each must be a text of its own")
    if listed and not question:
        raise PromptError("there are choices but the question is empty; ask which of them")
    return tuple(listed)


def is_seen(known: KnownObject, visual: VisualInput) -> bool:
    """Whether an object is visible on a frame that the language model sees."""
    return any(known.track.rles[t] is not None for t in visual.llm_frame_indices)
