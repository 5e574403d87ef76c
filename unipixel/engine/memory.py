"""The object memory bank: every object of a session under an id that stays its own, and how it came to be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from torch import Tensor

from unipixel.errors import PromptError
from unipixel.formats.sessions import NOT_THERE, describe_object
from unipixel.masks import MaskTrack, Rle
from unipixel.sample import Prompt

MAX_CHANGES = 64
"""Changes that can be undone, and groups of prompts of one object that can be taken back exactly."""


@dataclass(frozen=True, eq=False)
class Anchor:
    """What says where an object is on one frame: a `<|seg|>` state, clicks, a known mask, or several of them."""

    frame: int
    queries: Tensor | None = field(default=None, repr=False)
    """(Q, C) from the `<|seg|>` state."""
    clicks: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    """Coordinates (P, 2) in SAM pixels and labels (P,)."""
    mask: Rle | None = field(default=None, repr=False)
    """At source size. Taken as it is, or, with clicks, as what they correct."""
    first: int = 0
    last: int = 0
    """The frames over which it decides, both included; set by `set_spans`."""

    @property
    def is_exact(self) -> bool:
        """Whether the mask is the answer on this frame, not only a hint."""
        return self.mask is not None and self.clicks is None


def set_spans(anchors: Iterable[Anchor], num_frames: int) -> tuple[Anchor, ...]:
    """An object's anchors in order: the earliest one decides back to frame 0, each forward to the next one."""
    ordered = sorted(anchors, key=lambda a: a.frame)
    ends = [a.frame - 1 for a in ordered[1:]] + [num_frames - 1]
    return tuple(
        replace(a, first=a.frame if place else 0, last=last)
        for place, (a, last) in enumerate(zip(ordered, ends, strict=False))
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class KnownObject:
    """An object of the session, in the clip's frames, with what it was made from.

    One that was never visible is kept as such, its score is "not there".
    """

    id: int
    """Stable over the session, counted from 1."""
    label: str
    """The words that the model wrote for it, or what was asked for; empty where there are none."""
    track: MaskTrack
    """Masks at source size, one per frame of the clip."""
    frame_scores: tuple[float, ...]
    """(T,) predicted IoU times the probability that the object is there, in 0..1."""

    prompts: tuple[Prompt, ...] = ()
    """Everything the user has said about it: points, boxes, masks."""
    anchors: tuple[Anchor, ...] = ()
    """The frames on which something says where it is. One without any, which was not found or whose masks were given,
    stays as it is."""
    earlier: tuple[KnownObject | None, ...] = ()
    """What it was before each group of its prompts was added, the oldest first; None before it existed."""

    def __repr__(self) -> str:
        seen = sum(rle is not None for rle in self.track.rles)
        score = self.score if isinstance(self.score, str) else f"score {self.score:.2f}"
        return f"KnownObject({self.id}, {self.label!r}, on {seen} of {self.track.num_frames} frames, {score})"

    @property
    def masks(self) -> np.ndarray:
        """bool (T, H, W)."""
        return self.track.masks

    @property
    def visible(self) -> np.ndarray:
        """bool (T,)."""
        return self.track.visible

    @property
    def boxes(self) -> np.ndarray:
        """float (T, 4) x1, y1, x2, y2 in source pixels, right and bottom exclusive; nan where not visible."""
        return self.track.boxes

    @property
    def is_there(self) -> bool:
        """Whether it is visible on any frame."""
        return any(rle is not None for rle in self.track.rles)

    @cached_property
    def score(self) -> float | Literal["not there"]:
        """Mean score of the frames it is visible on, 0..1; ``"not there"`` if there is none."""
        seen = [s for s, rle in zip(self.frame_scores, self.track.rles, strict=True) if rle is not None]
        return float(np.mean(seen)) if seen else NOT_THERE

    def to_json(self) -> dict[str, Any]:
        """The object as plain JSON values; masks are COCO RLE, boxes null where it is not visible."""
        return describe_object(self.id, self.label, self.track, self.frame_scores, self.score)

    @property
    def queries(self) -> Tensor | None:
        """(Q, C) from the `<|seg|>` state, if the model has segmented it."""
        return next((anchor.queries for anchor in self.anchors if anchor.queries is not None), None)

    def find_prompts_of(self, number: int) -> tuple[int, int, int] | None:
        """The group that one of its prompts came with: its place in `earlier`, and where it begins and ends."""
        bounds = [0 if one is None else len(one.prompts) for one in (*self.earlier, self)]
        spans = enumerate(pairwise(bounds))
        return next(((place, start, end) for place, (start, end) in spans if start <= number < end), None)


def build_unseen(object_id: int, size_hw: tuple[int, int], num_frames: int, **fields: Any) -> KnownObject:
    """An object that is (not yet) visible on any frame."""
    track = MaskTrack(size_hw, (None,) * num_frames)
    return KnownObject(**{"id": object_id, "label": "", "track": track, "frame_scores": (0.0,) * num_frames, **fields})


class ObjectMemory(Mapping[int, KnownObject]):
    """Objects by id. Ids count from 1 and are never given twice, not even after `remove` or `undo`.

    Source: UniPixel, section 3.3.
    """

    def __init__(self, objects: Iterable[KnownObject] = (), next_id: int = 1) -> None:
        self._objects = {one.id: one for one in objects}
        self.next_id = max([next_id, *(i + 1 for i in self._objects)])
        """The id that the next new object gets."""
        self.revision = 0
        """Grows with every change of an object."""
        self._before: dict[int, KnownObject] | None = None
        self._past: list[dict[int, KnownObject]] = []
        self._future: list[dict[int, KnownObject]] = []

    def __getitem__(self, object_id: int) -> KnownObject:
        return self._objects[object_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)

    def reserve_id(self, object_id: int | None = None) -> int:
        """A new id: the next free one, or the one asked for."""
        taken = self.next_id if object_id is None else object_id
        self.next_id = max(self.next_id, taken + 1)
        return taken

    def add(self, known: KnownObject) -> None:
        """Remember an object; one with the same id is replaced."""
        self.reserve_id(known.id)
        with self.change():
            self._objects[known.id] = known
            self.revision += 1

    def remove(self, object_id: int) -> KnownObject:
        """Forget an object and return it.

        Raises:
            PromptError: no such object.
        """
        known = self.find(object_id)
        with self.change():
            del self._objects[known.id]
            self.revision += 1
        return known

    def find(self, reference: Any) -> KnownObject:
        """The object that an id, or an object of an answer, stands for.

        Raises:
            PromptError: no such object.
        """
        object_id = reference.id if isinstance(reference, KnownObject) else reference
        if isinstance(object_id, bool) or not isinstance(object_id, int) or object_id not in self._objects:
            have = ", ".join(map(str, self._objects)) or "none"
            raise PromptError(f"object {object_id!r} is not known in this session; known are {have}")
        return self._objects[object_id]

    def find_tracks(self, object_ids: Sequence[int]) -> dict[int, MaskTrack]:
        return {i: self.find(i).track for i in object_ids}

    def clear(self) -> None:
        """Forget every object, every change and every id that was given."""
        self.next_id, self._objects, self._past, self._future = 1, {}, [], []
        self.revision += 1

    # changes

    @contextmanager
    def change(self) -> Iterator[None]:
        """Everything in the block is one change for `undo`; a change within another is a part of it."""
        if self._before is not None:
            yield
            return
        before = self._before = dict(self._objects)
        try:
            yield
        finally:
            self._before = None
            if _find_differences(before, self._objects):
                self._past = [*self._past, before][-MAX_CHANGES:]
                self._future = []

    @property
    def can_undo(self) -> bool:
        return bool(self._past)

    @property
    def can_redo(self) -> bool:
        return bool(self._future)

    def undo(self) -> tuple[int, ...]:
        """Undo the last change; returns the ids of the objects that it was about.

        Raises:
            PromptError: there is none.
        """
        return self._exchange(self._past, self._future, "undo")

    def redo(self) -> tuple[int, ...]:
        """Redo the change that was undone last; returns the ids of the objects that it is about.

        Raises:
            PromptError: there is none.
        """
        return self._exchange(self._future, self._past, "redo")

    def _exchange(self, source: list[dict[int, KnownObject]], target: list[Any], verb: str) -> tuple[int, ...]:
        if not source:
            raise PromptError(f"there is no change of the objects to {verb}")
        now, self._objects = self._objects, source.pop()
        target.append(now)
        self.revision += 1
        return _find_differences(now, self._objects)


def _find_differences(first: Mapping[int, KnownObject], second: Mapping[int, KnownObject]) -> tuple[int, ...]:
    """Ids of objects that are not the same in both."""
    return tuple(i for i in dict.fromkeys([*first, *second]) if first.get(i) is not second.get(i))
