"""How a question is answered: prompts to masks, then the question over them, then masks for what the reply names.

Source: UniPixel, section 3.3: memory pre-filling (points and boxes become masks) and memory injection (masks are
written in front of the question). Here both run freely; the original forces the first answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeAlias

import torch
from torch import Tensor

from unipixel.engine import wording
from unipixel.engine.answer import Answer, MaskPiece, TextPiece
from unipixel.engine.detokenizer import ReplyDetokenizer
from unipixel.engine.dialogue import Ask
from unipixel.engine.generation import DecodingOptions, Reply
from unipixel.engine.objects import (
    Workspace,
    build_anchors,
    choose_start_frames,
    place_objects,
    preview_masks,
    track_objects,
)
from unipixel.engine.request_parser import RequestPart
from unipixel.engine.requests import Prompted, Request, is_seen, select_clicks
from unipixel.engine.tracking import legs
from unipixel.masks import MaskTrack
from unipixel.processing.regions import build_region_masks
from unipixel.sample import Prompt, Turn

PROMPT_ANSWER_TOKENS = 16
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
        return self.reply.compute_queries(self.row, given=given)


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


def answer_request(space: Workspace, request: Request) -> Rounds:
    """Everything from a checked request to its answer, the last piece."""
    space.clock.take()
    memory, prompted = space.memory, [one.id for one in request.prompted]
    for object_id in prompted:
        memory.reserve_id(object_id)
    yield from track_objects(space, *place_objects(space, [one for one in request.prompted if not one.is_pointed]))
    pointed = [one for one in request.prompted if one.is_pointed]
    written = Written()
    if pointed:
        written = yield from _segment_prompts(space, request, pointed)
    if request.wanted:
        written = yield from _answer_parts(space, request)
        yield from _track_segments(space, request, written.segments)
    elif request.text:
        written = yield from _answer_question(space, request)
        yield from _track_segments(space, request, written.segments)
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


def answer_turn(
    space: Workspace, turn: Turn, objects: Mapping[int, MaskTrack], decoding: DecodingOptions, prime: str
) -> Rounds:
    """One turn exactly as it is written, beside the conversation; see `Session.put`."""
    space.clock.take()
    row = _check_row((yield Ask(turn, decoding, objects, aside=True, answer=turn.answer, prime=prime)))
    if turn.answer:
        for _ in row:
            pass
        states = row.queries(given=True)
        named = [i for i in turn.targets if i is not None]
        written = Written(segments=tuple(Segment(i, q) for i, q in zip(named, states, strict=True)))
        for i in named:
            space.memory.reserve_id(i)
    else:
        written = yield from _write(space, row, lambda _: space.memory.reserve_id(), turn.question)
    yield from _track_segments(space, Request(text=turn.question, decoding=decoding), written.segments)
    yield Answer(
        text=written.text,
        raw_text=written.raw_text,
        objects=tuple(space.memory[one.id] for one in written.segments),
        clip=space.clip,
        question=turn.question,
        tokens=written.tokens,
        timings=space.clock.take(),
    )


def _segment_prompts(
    space: Workspace, request: Request, pointed: Sequence[Prompted]
) -> Generator[Piece | Ask, Row | None, Written]:
    """The first round: the model says which pixels the points and boxes are about; their masks enter the memory."""
    expected = {one.id: one for one in pointed}
    left = list(expected)

    def name(own: int | None) -> int:
        if not left:
            return space.memory.reserve_id()
        # the model numbers what it segments; where it does not, or wrongly, the order of the prompts counts
        return left.pop(left.index(own) if own in left else 0)

    longest = min(request.decoding.max_new_tokens, PROMPT_ANSWER_TOKENS * (1 + len(pointed)))
    decoding = replace(request.decoding, max_new_tokens=longest)
    written, segments = Written(), dict[int, Segment]()
    if request.force != "always":
        row = yield Ask(_build_prompt_turn(space, request, pointed), decoding, aside=True)
        written = yield from _write(space, _check_row(row), name, "", show=not request.text)
        # what it segments beyond the prompts is of interest only where its reply is the answer
        segments = {one.id: one for one in written.segments if one.id in expected or not request.text}
    missing = [one for one in pointed if one.id not in segments]
    if missing and request.force:
        turn = _build_prompt_turn(space, request, missing, whole=len(missing) == len(pointed))
        order = wording.sort_by_reference(turn.question, [one.id for one in missing])
        forced = _check_row((yield Ask(turn, decoding, aside=True, answer=wording.write_prompt_answer(order))))
        for _ in forced:
            pass
        states = forced.queries(given=True)
        segments.update({i: Segment(i, q) for i, q in zip(order, states, strict=True)})
    for one in pointed:
        segments[one.id] = replace(segments.get(one.id, Segment(one.id, None)), prompts=one.prompts, label="")
    yield from _track_segments(space, request, list(segments.values()))
    return written


def _build_prompt_turn(space: Workspace, request: Request, pointed: Sequence[Prompted], *, whole: bool = True) -> Turn:
    """The question of the first round; not ``whole``: about some of the prompted objects only."""
    given = {one.id: one.reference for one in pointed}
    if request.prefill and whole:
        question = wording.add_mentions(request.prefill, [], list(given))
    else:
        question = wording.write_prompt_question(list(given), request.text, named=space.processor.chat.named)
    order = wording.sort_by_reference(question, list(given))
    return Turn(question=question, references=tuple((given[i],) for i in order))


def _answer_question(space: Workspace, request: Request) -> Generator[Piece | Ask, Row | None, Written]:
    """The second round: the question over every object that it speaks of.

    An object of a point or box that the first round has not found, or that is on none of the frames that the language
    model sees, cannot be written as a region; the question then points at it once more. Models of ablations know of
    objects in other ways, see `Recall`.
    """
    memory, recall = space.memory, space.model.config.pixel.recall
    own = {one.id: one for one in request.prompted}
    named = [i for i in memory if wording.has_mention(request.text, i)]
    injected = sorted(i for i in {*request.about, *own, *named} if i in memory and is_seen(memory[i], space.visual))
    clicked = {i: Prompted(i, memory[i].prompts) for i in injected if select_clicks(memory[i].prompts)}
    lost = {i: one for i, one in own.items() if one.is_pointed and i not in injected}
    text = wording.add_mentions(request.text, [i for i in injected if i in own or i in request.about], list(lost))
    if recall == "pointing" and clicked:
        text = wording.add_mentions(text, [], list(clicked))
        lost |= clicked
    if recall == "turn" and clicked:
        before = _build_prompt_turn(space, replace(request, prefill=""), list(clicked.values()))
        answer = wording.write_prompt_answer(wording.sort_by_reference(before.question, list(clicked)))
        for _ in _check_row((yield Ask(before, request.decoding, answer=answer, one_of_many=True))):
            pass
    if recall in ("pointing", "turn"):
        injected = [i for i in injected if i not in clicked]
    tracks = memory.find_tracks(injected)
    if recall == "frame":
        tracks |= {i: _keep_frame(tracks[i], one.reference.frame) for i, one in clicked.items()}
    turn = Turn(
        question=text,
        regions=tuple(injected),
        references=tuple((lost[i].reference,) for i in wording.sort_by_reference(text, list(lost))),
    )
    one_of_many = recall == "turn" and bool(clicked)
    row = yield Ask(turn, request.decoding, tracks, prime=request.prime, one_of_many=one_of_many)
    return (yield from _write(space, _check_row(row), lambda _: memory.reserve_id(), request.text))


def _keep_frame(track: MaskTrack, frame: int) -> MaskTrack:
    """The masks with that of one frame alone, if there is one there."""
    kept = tuple(rle if t == frame else None for t, rle in enumerate(track.rles))
    return track if kept[frame] is None else MaskTrack(track.size_hw, kept)


def _answer_parts(space: Workspace, request: Request) -> Generator[Piece | Ask, Row | None, Written]:
    """Every wanted thing by a question of its own, beside the conversation; within it, all of them as one answer.

    Differs: the original asks once, whatever the question, and a released checkpoint then gives one mask.
    """
    parts: list[Written] = []
    for wanted in request.wanted:
        if wanted.most > 1:
            yield from _ask_repeatedly(space, request, wanted, parts)
        else:
            row = _check_row((yield _build_part_question(request, wanted)))
            name = _number_objects(space.memory.reserve_id() for _ in count())
            parts.append((yield from _write(space, row, name, wanted.question, lead=_choose_gap(parts))))
    raw_text = " ".join(part.raw_text for part in parts if part.raw_text)
    if raw_text:
        for _ in _check_row(
            (yield Ask(Turn(question=request.text), request.decoding, answer=raw_text, one_of_many=True))
        ):
            pass
    return Written(
        "".join(part.text for part in parts),
        raw_text,
        tuple(token for part in parts for token in part.tokens),
        tuple(segment for part in parts for segment in part.segments),
    )


def _ask_repeatedly(
    space: Workspace, request: Request, wanted: RequestPart, parts: list[Written]
) -> Generator[Piece | Ask, Row | None, None]:
    """Ask for a thing again and again, what was found hidden, and add to the parts whatever finds something new.

    The language model does not see the visual tokens on which what was found lies; a mask that mostly covers, or is
    covered by, one of those found is not new.
    """
    found: list[MaskTrack] = []
    while len(found) < wanted.most:
        hidden = _find_visual_tokens(space, found)
        if hidden is not None and hidden.all():
            return
        row = _check_row((yield _build_part_question(request, wanted, hidden)))
        for _ in row:
            pass  # its words are given out only if it finds something
        shapes = preview_masks(space, row.queries(), request.start)
        fresh: list[int] = []
        for place, shape in enumerate(shapes):
            if len(found) + len(fresh) < wanted.most and _is_new(shape, [*found, *(shapes[k] for k in fresh)]):
                fresh.append(place)
        if found and not fresh:
            return
        # what is found nowhere is an object too, one that is not there
        named = fresh or [0]
        name = _number_objects(space.memory.reserve_id() if k in named else None for k in range(len(shapes)))
        parts.append((yield from _write(space, row, name, wanted.question, lead=_choose_gap(parts))))
        if not fresh:
            return
        found += [shapes[k] for k in fresh]


def _choose_gap(parts: Sequence[Written]) -> str:
    """What stands between the words so far and further ones."""
    return " " if any(part.text for part in parts) else ""


def _build_part_question(request: Request, wanted: RequestPart, hidden: Tensor | None = None) -> Ask:
    return Ask(Turn(question=wanted.question), request.decoding, aside=True, hidden=hidden, one_of_many=True)


def _number_objects(numbers: Iterator[int | None]) -> Callable[[int | None], int | None]:
    """Names objects by the numbers in turn, whatever the model calls them."""
    return lambda _: next(numbers)


def _find_visual_tokens(space: Workspace, tracks: Sequence[MaskTrack]) -> Tensor | None:
    """bool (visual tokens,): those on which any of the masks lies; None if there is none."""
    seen = space.visual.llm_frame_indices
    shown = {n: track for n, track in enumerate(tracks) if any(track.rles[t] is not None for t in seen)}
    return build_region_masks(shown, space.visual).any(1).flatten() if shown else None


def _is_new(track: MaskTrack, others: Sequence[MaskTrack]) -> bool:
    """Whether a mask shows something, and nothing of the others: it shares no half of the smaller of the two."""
    shown = [t for t, rle in enumerate(track.rles) if rle is not None]
    for other in others:
        shared = sum(int((track.mask(t) & other.mask(t)).sum()) for t in shown if other.rles[t] is not None)
        if 2 * shared > min(int(track.areas.sum()), int(other.areas.sum())):
            return False
    return bool(shown)


def _write(
    space: Workspace,
    row: Row,
    name: Callable[[int | None], int | None],
    question: str,
    *,
    show: bool = True,
    lead: str = "",
) -> Generator[Piece, None, Written]:
    """Write a reply, yielding its words.

    Args:
        name: the id of an object for which the model wrote its own number; None: it is left out.
        question: from which objects take their labels.
        show: whether the words are given out.
        lead: what is put in front of them.
    """
    segments: list[Segment | None] = []
    before = lead

    def named(words: str, own: int | None) -> int | None:
        number = name(own)
        segments.append(None if number is None else Segment(number, None, wording.find_label(words, question)))
        return number

    processor, config = space.processor, space.model.config
    silent = {processor.turn_end_id, *config.eos_token_ids}
    text = ReplyDetokenizer(processor.tokenizer, config.seg_token_id, silent, named)
    for token in row:
        shown = text.push(token)
        if shown and show:
            yield TextPiece(lead + shown)
            lead = ""
    shown = text.finish()
    if shown and show:
        yield TextPiece(lead + shown)
    complete = [replace(one, queries=q) for one, q in zip(segments, row.queries(), strict=True) if one is not None]
    return Written(
        before + text.text if text.text else "", processor.decode_answer(row.ids), tuple(row.ids), tuple(complete)
    )


def _track_segments(space: Workspace, request: Request, segments: Sequence[Segment]) -> Iterator[MaskPiece]:
    """Masks of all objects in one batch, into the memory; one without a state is remembered as not there."""
    found = [one for one in segments if one.queries is not None]
    queries = torch.stack([one.queries for one in found if one.queries is not None]) if found else torch.zeros(0)
    begin = {
        one.id: start for one, start in zip(found, choose_start_frames(space, queries, request.start), strict=True)
    }
    objects, routes = [], []
    for one in segments:
        anchors = build_anchors(space, one.queries, begin[one.id], one.prompts) if one.queries is not None else []
        objects.append(space.new_object(one.id, one.label, one.prompts, anchors))
        routes += legs(one.id, anchors, space.num_frames)
    yield from track_objects(space, objects, routes)


def _check_row(row: Row | None) -> Row:
    if row is None:
        raise TypeError("a question for the language model was answered with nothing; send its reply")
    return row
