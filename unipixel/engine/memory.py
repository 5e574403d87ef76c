"""The object memory bank: every object of a session under an id that stays its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from unipixel.engine.answer import AnswerObject
from unipixel.engine.tracking import Anchor, TrackedFrame
from unipixel.errors import PromptError
from unipixel.masks import MaskTrack, Rle
from unipixel.sample import Prompt


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownObject(AnswerObject):
    """An object of the session, with what it was made from.

    One that was never visible is kept as such, its score is "not there".
    """

    prompts: tuple[Prompt, ...] = ()
    """Everything the user has said about it: points, boxes, masks."""
    anchors: tuple[Anchor, ...] = ()
    """The frames on which something says where it is; see `unipixel.engine.tracking`."""

    @property
    def queries(self) -> Tensor | None:
        """(Q, C) from the `<|seg|>` state, if the model has segmented it."""
        return next((anchor.queries for anchor in self.anchors if anchor.queries is not None), None)


class ObjectMemory(Mapping[int, KnownObject]):
    """Objects by id. Ids count from 1 and are never given twice, not even after `remove`.

    Source: UniPixel, section 3.3.
    """

    def __init__(self, objects: Iterable[KnownObject] = (), next_id: int = 1) -> None:
        self._objects = {one.id: one for one in objects}
        self.next_id = max([next_id, *(i + 1 for i in self._objects)])
        """The id that the next new object gets."""

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
        self._objects[known.id] = known

    def remove(self, object_id: int) -> KnownObject:
        """Forget an object and return it.

        Raises:
            PromptError: no such object.
        """
        known = self.find(object_id)
        del self._objects[known.id]
        return known

    def rename(self, object_id: int, label: str) -> KnownObject:
        """Give an object another label.

        Raises:
            PromptError: no such object.
        """
        self._objects[object_id] = replace(self.find(object_id), label=label)
        return self._objects[object_id]

    def find(self, reference: Any) -> KnownObject:
        """The object that an id, or an object of an answer, stands for.

        Raises:
            PromptError: no such object.
        """
        object_id = reference.id if isinstance(reference, AnswerObject) else reference
        if isinstance(object_id, bool) or not isinstance(object_id, int) or object_id not in self._objects:
            have = ", ".join(map(str, self._objects)) or "none"
            raise PromptError(f"object {object_id!r} is not known in this session; known are {have}")
        return self._objects[object_id]

    def find_tracks(self, object_ids: Sequence[int]) -> dict[int, MaskTrack]:
        """Masks of these objects."""
        return {i: self.find(i).track for i in object_ids}


class Recording:
    """Masks of one object while it is tracked; frames that are not reached keep what they had."""

    def __init__(self, known: KnownObject) -> None:
        self.known = known
        self._rles: list[Rle | None] = list(known.track.rles)
        self._scores = list(known.frame_scores)

    def add(self, frame: TrackedFrame, place: int) -> None:
        """Take entry ``place`` of a tracked frame."""
        self._rles[frame.t], self._scores[frame.t] = frame.rles[place], frame.scores[place]

    def finished(self, known: KnownObject | None = None) -> KnownObject:
        """The object (or its renamed self) with the masks so far."""
        track = MaskTrack(self.known.track.size_hw, tuple(self._rles))
        return replace(known or self.known, track=track, frame_scores=tuple(self._scores))


def build_unseen(
    object_id: int,
    size_hw: tuple[int, int],
    num_frames: int,
    *,
    label: str = "",
    prompts: Sequence[Prompt] = (),
    anchors: Sequence[Anchor] = (),
) -> KnownObject:
    """An object that is (not yet) visible on any frame."""
    return KnownObject(
        id=object_id,
        label=label,
        track=MaskTrack(size_hw, (None,) * num_frames),
        frame_scores=(0.0,) * num_frames,
        prompts=tuple(prompts),
        anchors=tuple(anchors),
    )
