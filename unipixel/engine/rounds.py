"""How a question is answered: prompts to masks, then the question over them, then masks for what the reply names.

Source: UniPixel, section 3.3: memory pre-filling (points and boxes become masks) and memory injection (masks are
written in front of the question). Here both run freely; the original forces the first answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from unipixel.engine import wording
from unipixel.engine.answer import Answer, MaskPiece, TextPiece
from unipixel.engine.dialogue import Ask
from unipixel.engine.generate import Decoding, Reply
from unipixel.engine.objects import Workspace, placed, pursue, segmented, starts
from unipixel.engine.requests import Prompted, Request, is_seen
from unipixel.engine.tracking import legs
from unipixel.engine.writing import ReplyText
from unipixel.masks import MaskTrack
from unipixel.sample import Prompt, Turn

PREFILL_TOKENS = 16
"""Tokens that the first round may take per object, and once more."""

Piece: TypeAlias = TextPiece | MaskPiece | Answer


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a reply, still to be written (by iterating) or complete."""

    reply: Reply
    row: int = 0

    def __iter__(self) -> Iterator[int]:
        if self.reply.has_begun:
            yield from self.ids
            return
        for step in self.reply:
            token = step.ids[self.row]
            if token is not None:
                yield token

    @property
    def ids(self) -> list[int]:
        """All tokens so far."""
        return self.reply.ids[self.row]

    def queries(self, *, given: bool = False) -> Tensor:
        """(n, Q, C) of the `<|seg|>` tokens."""
        return self.reply.queries(self.row, given=given)


Rounds: TypeAlias = Generator[Piece | Ask, Row | None, None]
"""Yields pieces of the answer, and questions for the language model, whose reply is sent in."""


@dataclass(frozen=True, eq=False)
class Written:
    """A reply in words, and the objects it segments."""

    text: str = ""
    raw_text: str = ""
    tokens: tuple[int, ...] = ()
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True, eq=False)
class Segment:
    """An object that is to get masks."""

    id: int
    queries: Tensor | None
    """(Q, C) of its `<|seg|>`; None for one that the model has not found."""
    label: str = ""
    prompts: tuple[Prompt, ...] = ()


def rounds(space: Workspace, request: Request) -> Rounds:
    """Everything from a checked request to its answer, the last piece."""
    space.clock.take()
    memory, prompted = space.memory, [one.id for one in request.prompted]
    for object_id in prompted:
        memory.reserve(object_id)
    yield from pursue(space, *placed(space, [one for one in request.prompted if not one.is_pointed]))
    pointed = [one for one in request.prompted if one.is_pointed]
    written = Written()
    if pointed:
        written = yield from _prefill(space, request, pointed)
    if request.text:
        written = yield from _question(space, request)
        yield from _enter(space, request, written.segments)
    ids = dict.fromkeys([*prompted, *(one.id for one in written.segments)])
    yield Answer(
        text=written.text,
        raw_text=written.raw_text,
        objects=tuple(memory[i] for i in ids if i in memory),
        clip=space.clip,
        question=request.text,
        tokens=written.tokens,
        timings=space.clock.take(),
    )


def put(space: Workspace, turn: Turn, objects: Mapping[int, MaskTrack], decoding: Decoding, prime: str) -> Rounds:
    """One turn exactly as it is written, beside the conversation; see `Session.put`."""
    space.clock.take()
    row = _row((yield Ask(turn, decoding, objects, aside=True, answer=turn.answer, prime=prime)))
    if turn.answer:
        for _ in row:
            pass
        states = row.queries(given=True)
        named = [i for i in turn.targets if i is not None]
        written = Written(segments=tuple(Segment(i, q) for i, q in zip(named, states, strict=True)))
        for i in named:
            space.memory.reserve(i)
    else:
        written = yield from _write(space, row, lambda _: space.memory.reserve(), turn.question)
    yield from _enter(space, Request(text=turn.question, decoding=decoding), written.segments)
    yield Answer(
        text=written.text,
        raw_text=written.raw_text,
        objects=tuple(space.memory[one.id] for one in written.segments),
        clip=space.clip,
        question=turn.question,
        tokens=written.tokens,
        timings=space.clock.take(),
    )


def _prefill(
    space: Workspace, request: Request, pointed: Sequence[Prompted]
) -> Generator[Piece | Ask, Row | None, Written]:
    """The first round: the model says which pixels the points and boxes are about; their masks enter the memory."""
    expected = {one.id: one for one in pointed}
    left = list(expected)

    def name(own: int | None) -> int:
        if not left:
            return space.memory.reserve()
        # the model numbers what it segments; where it does not, or wrongly, the order of the prompts counts
        return left.pop(left.index(own) if own in left else 0)

    longest = min(request.decoding.max_new_tokens, PREFILL_TOKENS * (1 + len(pointed)))
    decoding = replace(request.decoding, max_new_tokens=longest)
    written, segments = Written(), dict[int, Segment]()
    if request.force != "always":
        row = yield Ask(_prefilling(pointed, request.prefill), decoding, aside=True)
        written = yield from _write(space, _row(row), name, "", show=not request.text)
        # what it segments beyond the prompts is of interest only where its reply is the answer
        segments = {one.id: one for one in written.segments if one.id in expected or not request.text}
    missing = [one for one in pointed if one.id not in segments]
    if missing and request.force:
        answer = wording.forced_answer([one.id for one in missing])
        turn = _prefilling(missing, request.prefill if len(missing) == len(pointed) else "")
        forced = _row((yield Ask(turn, decoding, aside=True, answer=answer)))
        for _ in forced:
            pass
        states = forced.queries(given=True)
        segments.update({one.id: Segment(one.id, q) for one, q in zip(missing, states, strict=True)})
    for one in pointed:
        segments[one.id] = replace(segments.get(one.id, Segment(one.id, None)), prompts=one.prompts, label="")
    yield from _enter(space, request, list(segments.values()))
    return written


def _prefilling(pointed: Sequence[Prompted], words: str = "") -> Turn:
    given = {one.id: one.reference for one in pointed}
    question = wording.with_mentions(words, [], list(given)) if words else wording.prefilling(list(given))
    order = wording.referenced(question, list(given))
    return Turn(question=question, references=tuple((given[i],) for i in order))


def _question(space: Workspace, request: Request) -> Generator[Piece | Ask, Row | None, Written]:
    """The second round: the question over every object that it speaks of.

    An object of a point or box that the first round has not found, or that is on none of the frames that the language
    model sees, cannot be written as a region; the question then points at it once more.
    """
    memory = space.memory
    own = {one.id: one for one in request.prompted}
    named = [i for i in memory if wording.mentions(request.text, i)]
    injected = sorted(i for i in {*request.about, *own, *named} if i in memory and is_seen(memory[i], space.visual))
    lost = {i: one for i, one in own.items() if one.is_pointed and i not in injected}
    text = wording.with_mentions(request.text, [i for i in injected if i in own or i in request.about], list(lost))
    turn = Turn(
        question=text,
        regions=tuple(injected),
        references=tuple((lost[i].reference,) for i in wording.referenced(text, list(lost))),
    )
    row = yield Ask(turn, request.decoding, memory.tracks(injected), prime=request.prime)
    return (yield from _write(space, _row(row), lambda _: memory.reserve(), request.text))


def _write(
    space: Workspace, row: Row, name: Callable[[int | None], int], question: str, *, show: bool = True
) -> Generator[Piece, None, Written]:
    """Write a reply, yielding its words."""
    segments: list[Segment] = []

    def named(before: str, own: int | None) -> int:
        segments.append(Segment(name(own), None, wording.label(before, question)))
        return segments[-1].id

    processor, config = space.processor, space.model.config
    silent = {processor.turn_end_id, *config.eos_token_ids}
    text = ReplyText(processor.tokenizer, config.seg_token_id, silent, named)
    for token in row:
        shown = text.push(token)
        if shown and show:
            yield TextPiece(shown)
    shown = text.finish()
    if shown and show:
        yield TextPiece(shown)
    complete = tuple(replace(one, queries=q) for one, q in zip(segments, row.queries(), strict=True))
    return Written(text.text, processor.answer_text(row.ids), tuple(row.ids), complete)


def _enter(space: Workspace, request: Request, segments: Sequence[Segment]) -> Iterator[MaskPiece]:
    """Masks of all objects in one batch, into the memory; one without a state is remembered as not there."""
    found = [one for one in segments if one.queries is not None]
    queries = torch.stack([one.queries for one in found if one.queries is not None]) if found else torch.zeros(0)
    begin = {one.id: start for one, start in zip(found, starts(space, queries, request.start), strict=True)}
    objects, routes = [], []
    for one in segments:
        anchors = segmented(space, one.queries, begin[one.id], one.prompts) if one.queries is not None else []
        objects.append(space.new_object(one.id, one.label, one.prompts, anchors))
        routes += legs(one.id, anchors, space.num_frames)
    yield from pursue(space, objects, routes)


def _row(row: Row | None) -> Row:
    if row is None:
        raise TypeError("a question for the language model was answered with nothing; send its reply")
    return row
