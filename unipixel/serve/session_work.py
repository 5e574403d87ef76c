"""What a session does on the model's thread: answer, take prompts in and back, track."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from unipixel.engine.answer import Answer
from unipixel.engine.memory import KnownObject
from unipixel.engine.objects import choose_start_frames, restart_object, track_objects
from unipixel.engine.requests import check_start
from unipixel.engine.tracking import legs
from unipixel.errors import PromptError
from unipixel.sample import Prompt
from unipixel.serve.errors import ApiError
from unipixel.serve.store import MAX_REVISIONS, PromptRevision, SessionEntry


class ObjectsPiece:
    """The last piece of work on objects: which ones it was about."""

    def __init__(self, objects: Sequence[KnownObject]) -> None:
        self.objects = tuple(objects)


def ask(entry: SessionEntry, text: str | None, prompts: Sequence[Prompt], options: dict[str, Any]) -> Iterator[Any]:
    """Answer a question; the last piece is the `Answer`.

    Raises:
        PromptError: the question is not usable; raised at once.
    """
    before = dict(entry.session.objects)
    pieces = entry.session.stream(text, prompts=prompts, **options)

    def run() -> Iterator[Any]:
        for piece in pieces:
            if isinstance(piece, Answer):
                _record_revision(entry, before, prompts, [one.id for one in piece.objects])
            yield piece

    return _refresh_after_each(entry, run, pieces)


def segment(
    entry: SessionEntry, prompts: Sequence[Prompt], options: dict[str, Any], label: str | None = None
) -> Iterator[Any]:
    """Make objects of prompts, or correct those that are known; the last piece is `ObjectsPiece`.

    Raises:
        PromptError: a prompt is not usable; raised at once.
    """
    asking = ask(entry, None, prompts, options)

    def run() -> Iterator[Any]:
        for piece in asking:
            if not isinstance(piece, Answer):
                yield piece
                continue
            ids = [one.id for one in piece.objects if one.id in entry.session.objects]
            if label is not None:
                for i in ids:
                    if entry.session.objects[i].prompts:  # not what the model found besides
                        entry.session.rename(i, label)
            yield ObjectsPiece([entry.session.objects[i] for i in ids])

    return _refresh_after_each(entry, run, asking)


def retract(entry: SessionEntry, object_id: int, number: int) -> Iterator[Any]:
    """Take one prompt of an object back: it becomes what it would be without it. The last piece is `ObjectsPiece`.

    What came before that prompt is restored; prompts that came later are applied again.

    Raises:
        PromptError: no such object, or it has no such prompt.
        Refusal: nothing is left from which the object could be made, and it was not made by words.
    """
    session, memory = entry.session, entry.session.workspace.memory
    known = memory.find(object_id)
    if not -len(known.prompts) <= number < len(known.prompts):
        raise PromptError(f"object {object_id} has {len(known.prompts)} prompts; there is none with number {number}")
    base, kept, later = _find_revision(entry, known, number % len(known.prompts))

    def run() -> Iterator[Any]:
        done = False
        past = list(entry.revisions.get(object_id, ()))
        try:
            if base is None:
                memory.remove(object_id)
                entry.revisions.pop(object_id, None)
            else:
                memory.add(replace(base, label=known.label))
                entry.revisions[object_id] = past[: len(past) - len(later) - 1]
            for prompts in [group for group in (kept, *later) if group]:
                yield from _skip_answer(
                    ask(entry, None, [replace(p, object_id=object_id) for p in prompts], {"force": True})
                )
            if object_id in memory:
                memory.rename(object_id, known.label)
            done = True
        finally:
            if not done:  # stopped or failed half-way: as if it had not been tried
                memory.add(known)
                entry.revisions[object_id] = past
        yield ObjectsPiece([session.objects[object_id]] if object_id in memory else [])

    return _refresh_after_each(entry, run, None)


def track(entry: SessionEntry, objects: Sequence[int] | None, start: Any) -> Iterator[Any]:
    """Track objects again, frame by frame, as `Session.track` does in one go. The last piece is `ObjectsPiece`.

    Raises:
        PromptError: an object is not known, or nothing says where it is on that frame; raised at once.
    """
    space = entry.session.workspace
    wanted = [space.memory.find(i) for i in (list(space.memory) if objects is None else dict.fromkeys(objects))]
    if not wanted:
        raise PromptError("the session knows no object; segment one first")
    if start is not None:
        frame = check_start(start, space.num_frames)
        begin = [_find_best_frame(entry, one) if frame == "best" else frame for one in wanted]
        wanted = [restart_object(space, one, where) for one, where in zip(wanted, begin, strict=True)]
    routes = [leg for one in wanted for leg in legs(one.id, one.anchors, space.num_frames)]
    pieces = track_objects(space, wanted, routes)

    def run() -> Iterator[Any]:
        yield from pieces
        yield ObjectsPiece([space.memory[one.id] for one in wanted if one.id in space.memory])

    return _refresh_after_each(entry, run, pieces)


def _find_best_frame(entry: SessionEntry, known: KnownObject) -> int | None:
    if known.queries is None:
        return None
    return choose_start_frames(entry.session.workspace, known.queries[None], "best")[0]


def _skip_answer(asking: Iterator[Any]) -> Iterator[Any]:
    for piece in asking:
        if not isinstance(piece, Answer):
            yield piece


def _refresh_after_each(entry: SessionEntry, run: Callable[[], Iterator[Any]], inner: Any) -> Iterator[Any]:
    """Pieces of work, after each of which what the session knows can be read by others."""

    def watched() -> Iterator[Any]:
        try:
            for piece in run():
                entry.refresh_objects()
                yield piece
        finally:
            if inner is not None:
                inner.close()
            entry.refresh_objects()

    entry.is_warm = True
    return watched()


def _record_revision(
    entry: SessionEntry, before: dict[int, KnownObject], prompts: Sequence[Prompt], ids: Sequence[int]
) -> None:
    """Note what objects were before prompts were added to them."""
    now = entry.session.objects
    for i in ids:
        known = now.get(i)
        old = before.get(i)
        if known is None or len(known.prompts) == (0 if old is None else len(old.prompts)):
            continue
        added = known.prompts[0 if old is None else len(old.prompts) :]
        past = entry.revisions.setdefault(i, [])
        past.append(PromptRevision(old, tuple(added)))
        del past[:-MAX_REVISIONS]


def _find_revision(
    entry: SessionEntry, known: KnownObject, number: int
) -> tuple[KnownObject | None, tuple[Prompt, ...], list[tuple[Prompt, ...]]]:
    """An object before the prompts that one of its prompts came with; the others of them; and all later ones.

    Raises:
        Refusal: see `retract`.
    """
    past = entry.revisions.get(known.id, [])
    first = len(known.prompts) - sum(len(one.prompts) for one in past)
    for place, revision in enumerate(past):
        if first <= number < first + len(revision.prompts):
            kept = tuple(p for i, p in enumerate(revision.prompts) if i != number - first)
            return revision.before, kept, [one.prompts for one in past[place + 1 :]]
        first += len(revision.prompts)
    # what it was before that prompt is not known any more: it is made anew from the prompts that are left
    kept = tuple(p for i, p in enumerate(known.prompts) if i != number)
    if known.label and known.queries is not None:
        raise ApiError(
            409,
            f"prompt {number} of object {known.id} is too old to be taken back; correct the object, or remove it",
            code="too_old",
        )
    return None, kept, []
