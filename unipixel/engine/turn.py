"""How a question is answered: prompts to masks, then the question over them, then masks for what the reply names.

Source: UniPixel, section 3.3: memory pre-filling (points and boxes become masks) and memory injection (masks are
written in front of the question). Here both run freely; the original forces the first answer.

Objects are written by their ids in the session, ``[1]``, ``[2]`` and so on, in the model's text as in the user's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from unipixel.engine.answer import Answer, MaskPiece, Piece
from unipixel.engine.detokenizer import ReplyDetokenizer, find_label
from unipixel.engine.generation import DecodingOptions, Reply
from unipixel.engine.memory import Anchor, KnownObject
from unipixel.engine.objects import (
    Workspace,
    build_anchors,
    choose_start_frames,
    correct_object,
    preview_masks,
    track_objects,
)
from unipixel.engine.request_parser import write_as_sentence
from unipixel.engine.requests import Request, Start, choose_reference, is_seen, needs_model, select_clicks
from unipixel.masks import MaskTrack
from unipixel.processing.chat import REF, SEG
from unipixel.processing.regions import build_region_masks
from unipixel.processing.wording import CHOOSE, MEMORY_REQUESTS, join_words
from unipixel.sample import Prompt, Turn

PROMPT_ANSWER_TOKENS = 16
"""Tokens that the answer to the prompts may take per object, and once more."""
_MENTION = re.compile(r"\[(\d{1,6})\]")
_DEMONSTRATIVE = re.compile(
    r"\bth(?:is|ese)(?: (?:objects?|things?|regions?|ones?))?(?=\s*(?:[.,?!]|$))", re.IGNORECASE
)

T = TypeVar("T")
Steps: TypeAlias = Generator[Piece | Reply, None, T]
"""Yields pieces of the answer, the empty string among them where the model has written a token that adds no words, and
replies that the language model has to be made ready to write."""


def answer_request(space: Workspace, request: Request) -> Steps[None]:
    """Everything from a checked request to its answer, the last piece."""
    space.clock.take()
    memory, prompted = space.memory, request.prompts
    for object_id in prompted:
        memory.reserve_id(object_id)
    shown = {i: prompts for i, prompts in prompted.items() if needs_model(prompts, memory.get(i))}
    yield from _place_objects(space, request, {i: p for i, p in prompted.items() if i not in shown})
    answer = Answer(text="", raw_text="", objects=(), clip=space.clip, question=request.text)
    if shown:
        answer = yield from _segment_prompts(space, request, shown)
    if request.text:
        if request.parts:
            answer = yield from _answer_parts(space, request)
        else:
            answer = yield from _answer_question(space, request, shown)
        yield from _track_found(space, answer.objects, request.start)
    ids = dict.fromkeys([*prompted, *(one.id for one in answer.objects)])
    objects = tuple(memory[i] for i in ids if i in memory)
    yield replace(answer, question=request.text, objects=objects, timings=space.clock.take())


def answer_turn(
    space: Workspace, turn: Turn, objects: Mapping[int, MaskTrack], options: DecodingOptions, prefix: str
) -> Steps[None]:
    """One turn exactly as it is written, outside the conversation; see `Session.ask_turn`."""
    space.clock.take()
    reply = Reply(turn, objects, options, turn.answer, prefix, is_separate=True)
    yield reply
    if turn.answer:
        reply.finish()
        targets = [i for i in turn.targets if i is not None]
        found = _pair_with_queries(space, targets, reply)
        answer = Answer(text="", raw_text="", objects=found, clip=space.clip)
        for i in targets:
            space.memory.reserve_id(i)
    else:
        answer = yield from _write(space, reply, lambda _: space.memory.reserve_id(), turn.question)
    yield from _track_found(space, answer.objects, 0)
    known = tuple(space.memory[one.id] for one in answer.objects)
    yield replace(answer, question=turn.question, objects=known, timings=space.clock.take())


def _place_objects(
    space: Workspace, request: Request, prompted: Mapping[int, tuple[Prompt, ...]]
) -> Iterator[MaskPiece]:
    """Objects that need no language model: given by masks, or known and corrected."""
    objects, changed = [], {}
    for i, prompts in prompted.items():
        known = space.memory.get(i)
        base = known or space.new_object(i)
        if request.label is not None:
            base = replace(base, label=request.label)
        one, changed[i] = correct_object(space, base, prompts, is_new=known is None)
        objects.append(one)
    yield from track_objects(space, objects, changed)


def _segment_prompts(space: Workspace, request: Request, shown: Mapping[int, tuple[Prompt, ...]]) -> Steps[Answer]:
    """The first round: the model says which pixels the points and boxes are about; their masks enter the memory."""
    left = list(shown)

    def name(own: int | None) -> int:
        if not left:
            return space.memory.reserve_id()
        # the model numbers what it segments; where it does not, or wrongly, the order of the prompts counts
        return left.pop(left.index(own) if own in left else 0)

    longest = min(request.decoding.max_new_tokens, PROMPT_ANSWER_TOKENS * (1 + len(shown)))
    options = replace(request.decoding, max_new_tokens=longest)
    answer, found = Answer(text="", raw_text="", objects=(), clip=space.clip), dict[int, KnownObject]()
    if request.force != "always":
        reply = Reply(_build_prompt_turn(space, request, shown), options=options, is_separate=True)
        yield reply
        answer = yield from _write(space, reply, name, "", show=not request.text)
        # what it segments beyond the prompts is of interest only where its reply is the answer
        found = {one.id: one for one in answer.objects if one.id in shown or not request.text}
    missing = {i: prompts for i, prompts in shown.items() if i not in found}
    if missing and request.force:
        turn = _build_prompt_turn(space, request, missing, whole=len(missing) == len(shown))
        order = sort_by_reference(turn.question, list(missing))
        reply = Reply(turn, options=options, answer=write_prompt_answer(order), is_separate=True)
        yield reply
        reply.finish()
        found.update({one.id: one for one in _pair_with_queries(space, order, reply)})
    for i, prompts in shown.items():
        one = found.get(i) or space.new_object(i)
        found[i] = replace(one, prompts=prompts, label=request.label or "", earlier=(None,))
    yield from _track_found(space, tuple(found.values()), request.start)
    return answer


def _build_prompt_turn(
    space: Workspace, request: Request, prompted: Mapping[int, Sequence[Prompt]], *, whole: bool = True
) -> Turn:
    """The question of the first round; not ``whole``: about some of the prompted objects only."""
    given = {i: choose_reference(prompts) for i, prompts in prompted.items()}
    if request.prompt_question and whole:
        question = add_mentions(request.prompt_question, [], list(given))
    else:
        question = write_prompt_question(list(given), request.text, named=space.processor.chat.named)
    order = sort_by_reference(question, list(given))
    return Turn(question=question, references=tuple((given[i],) for i in order))


def _answer_question(space: Workspace, request: Request, shown: Mapping[int, tuple[Prompt, ...]]) -> Steps[Answer]:
    """The second round: the question over every object that it speaks of.

    An object of a point or box that the first round has not found, or that is on none of the frames that the language
    model sees, cannot be written as a region; the question then points at it once more. Models of ablations know of
    objects in other ways, see `Recall`.
    """
    memory, recall, own = space.memory, space.model.config.pixel.recall, request.prompts
    named = [i for i in memory if has_mention(request.text, i)]
    injected = sorted(i for i in {*request.about, *own, *named} if i in memory and is_seen(memory[i], space.visual))
    clicked = {i: memory[i].prompts for i in injected if select_clicks(memory[i].prompts)}
    pointed = {i: prompts for i, prompts in shown.items() if i not in injected}
    words = _word_question(space, request.text)
    text = add_mentions(words, [i for i in injected if i in own or i in request.about], list(pointed))
    if recall == "pointing" and clicked:
        text = add_mentions(text, [], list(clicked))
        pointed |= clicked
    if recall == "turn" and clicked:
        before = _build_prompt_turn(space, replace(request, prompt_question=""), clicked)
        answer = write_prompt_answer(sort_by_reference(before.question, list(clicked)))
        reply = Reply(before, options=request.decoding, answer=answer, shares_visual=True)
        yield reply
        reply.finish()
    if recall in ("pointing", "turn"):
        injected = [i for i in injected if i not in clicked]
    tracks = memory.find_tracks(injected)
    if recall == "frame":
        tracks |= {i: _keep_frame(tracks[i], choose_reference(p).frame) for i, p in clicked.items()}
    turn = Turn(
        question=text,
        regions=tuple(injected),
        references=tuple((choose_reference(pointed[i]),) for i in sort_by_reference(text, list(pointed))),
    )
    reply = Reply(
        turn,
        tracks,
        request.decoding,
        prefix=request.answer_prefix,
        choices=tuple(tuple(space.processor.chat.encode_answer(one)) for one in request.choices),
        shares_visual=recall == "turn" and bool(clicked),
    )
    yield reply
    return (yield from _write(space, reply, lambda _: memory.reserve_id(), words))


def _word_question(space: Workspace, text: str) -> str:
    """A question as the checkpoint has learnt to read it."""
    chat = space.processor.chat
    return write_as_sentence(text, lambda words: len(chat.encode(words))) if chat.named else text


def _keep_frame(track: MaskTrack, frame: int) -> MaskTrack:
    """The masks with that of one frame alone, if there is one there."""
    kept = tuple(rle if t == frame else None for t, rle in enumerate(track.rles))
    return track if kept[frame] is None else MaskTrack(track.size_hw, kept)


def _answer_parts(space: Workspace, request: Request) -> Steps[Answer]:
    """Ask for every part of a request separately, outside the conversation, which gets all of them as one answer.

    Differs: the original asks once, whatever the question, and a released checkpoint then gives one mask.
    """
    answers: list[Answer] = []
    for asked, most in request.parts:
        question = _word_question(space, asked)
        if most > 1:
            yield from _ask_repeatedly(space, request, question, most, answers)
        else:
            reply = _build_part_reply(request, question)
            yield reply
            name = _number_objects(space.memory.reserve_id() for _ in count())
            answers.append((yield from _write(space, reply, name, question, lead=_choose_gap(answers))))
    raw_text = " ".join(one.raw_text for one in answers if one.raw_text)
    if raw_text:
        turn = Turn(question=request.text)
        reply = Reply(turn, options=request.decoding, answer=raw_text, shares_visual=True)
        yield reply
        reply.finish()
    return Answer(
        text="".join(one.text for one in answers),
        raw_text=raw_text,
        tokens=tuple(token for one in answers for token in one.tokens),
        is_loop=any(one.is_loop for one in answers),
        objects=tuple(known for one in answers for known in one.objects),
        clip=space.clip,
    )


def _ask_repeatedly(space: Workspace, request: Request, question: str, most: int, answers: list[Answer]) -> Steps[None]:
    """Ask for a thing again and again, what was found hidden, and add an answer whenever something new is found.

    The language model does not see the visual tokens on which what was found lies; a mask that mostly covers, or is
    covered by, one of those found is not new.
    """
    found: list[MaskTrack] = []
    while len(found) < most:
        hidden = _find_visual_tokens(space, found)
        if hidden is not None and hidden.all():
            return
        reply = _build_part_reply(request, question, hidden)
        yield reply
        for _ in reply:
            yield ""  # its words are given out only if it finds something
        shapes = preview_masks(space, reply.compute_queries(space.model), request.start)
        fresh: list[int] = []
        for place, shape in enumerate(shapes):
            if len(found) + len(fresh) < most and _is_new(shape, [*found, *(shapes[k] for k in fresh)]):
                fresh.append(place)
        if found and not fresh:
            return
        # what is found nowhere is an object too, one that is not there
        named = fresh or [0]
        name = _number_objects(space.memory.reserve_id() if k in named else None for k in range(len(shapes)))
        answers.append((yield from _write(space, reply, name, question, lead=_choose_gap(answers))))
        if not fresh:
            return
        found += [shapes[k] for k in fresh]


def _choose_gap(answers: Sequence[Answer]) -> str:
    """What stands between the words so far and further ones."""
    return " " if any(one.text for one in answers) else ""


def _build_part_reply(request: Request, question: str, hidden: Tensor | None = None) -> Reply:
    return Reply(Turn(question=question), options=request.decoding, is_separate=True, hidden=hidden, shares_visual=True)


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
    reply: Reply,
    name: Callable[[int | None], int | None],
    question: str,
    *,
    show: bool = True,
    lead: str = "",
) -> Steps[Answer]:
    """Write a reply, yielding its words; its objects are named but not tracked yet.

    Args:
        name: the id of an object for which the model wrote its own number; None: it is left out.
        question: from which objects take their labels.
        show: whether the words are given out.
        lead: what is put in front of them.
    """
    found: list[tuple[int, str] | None] = []
    before = lead

    def name_object(words: str, own: int | None) -> int | None:
        number = name(own)
        found.append(None if number is None else (number, find_label(words, question)))
        return number

    processor, config = space.processor, space.model.config
    silent = {processor.turn_end_id, *config.eos_token_ids}
    text = ReplyDetokenizer(processor.tokenizer, config.seg_token_id, silent, name_object)
    for token in reply:
        shown = text.push(token)
        if shown and show:
            shown, lead = lead + shown, ""
        yield shown if show else ""
    shown = text.finish()
    if shown and show:
        yield lead + shown
    queries = reply.compute_queries(space.model)
    return Answer(
        text=before + text.text if text.text else "",
        raw_text=processor.decode_answer(reply.ids),
        tokens=tuple(reply.ids),
        is_loop=reply.is_loop,
        objects=tuple(
            space.new_object(one[0], label=one[1], anchors=(Anchor(0, query),))
            for one, query in zip(found, queries, strict=True)
            if one is not None
        ),
        clip=space.clip,
    )


def _pair_with_queries(space: Workspace, ids: Sequence[int], reply: Reply) -> tuple[KnownObject, ...]:
    """The objects that an answer which was given segments, not tracked yet."""
    queries = reply.compute_queries(space.model, given=True)
    return tuple(space.new_object(i, anchors=(Anchor(0, q),)) for i, q in zip(ids, queries, strict=True))


def _track_found(space: Workspace, objects: Sequence[KnownObject], start: Start) -> Iterator[MaskPiece]:
    """Masks of all objects in one batch, into the memory; one without a state is remembered as not there."""
    known = list(objects)
    # where something was pointed at is best by itself: its queries look for that place
    pointed = [(n, one) for n, one in enumerate(known) if start == "best" and one.queries is not None and one.prompts]
    shown = {n: int(choose_reference(one.prompts).frame) for n, one in pointed}
    named = [one.queries for n, one in enumerate(known) if one.queries is not None and n not in shown]
    frames = iter(choose_start_frames(space, torch.stack(named) if named else torch.zeros(0), start))
    for n, one in enumerate(known):
        if one.queries is not None:
            frame = shown[n] if n in shown else next(frames)
            known[n] = replace(one, anchors=build_anchors(space, one.queries, frame, one.prompts))
    yield from track_objects(space, known)


# The engine's own words


def write_prompt_question(object_ids: Sequence[int], question: str = "", *, named: bool = False) -> str:
    """The question of the first round: which pixels are these prompts about?

    Args:
        object_ids: the prompted objects.
        question: what the user asks about them; empty if nothing.
        named: whether the checkpoint learnt the short form, see `unipixel.processing.chat.NAMED_SEG`. The released
            ones learnt to localise the objects of a question: "What colour is [1] <|ref|>? Please localize the relevant
            objects with IDs."

    Source: UniPixel, section 3.3 (memory pre-filling); the answer is ``[id] <|seg|>`` per object, in order.
    """
    if named:
        return f"Please segment {join_words([f'[{i}] {REF}' for i in object_ids])}."
    question = question.removesuffix(CHOOSE).strip()
    others = [int(number) for number in _MENTION.findall(question) if int(number) not in object_ids]
    if not question or others:
        # what is known already has no <|ref|>, and a question that speaks of it was not learnt in this place
        mentions = join_words([f"[{i}]" for i in object_ids])
        question = f"What {'is' if len(object_ids) == 1 else 'are'} {mentions}?"
    if question[-1] not in ".?!":
        question += "."
    return MEMORY_REQUESTS[0].format(add_mentions(question, [], object_ids))


def write_prompt_answer(object_ids: Sequence[int]) -> str:
    """The answer that the first round should have."""
    return " ".join(f"[{i}] {SEG}" for i in object_ids)


def has_mention(text: str, object_id: int) -> bool:
    """Whether a text speaks of an object by its id."""
    return f"[{object_id}]" in text


def add_mentions(text: str, injected: Sequence[int], pointed: Sequence[int] = ()) -> str:
    """The user's question, speaking of every object by id.

    Args:
        injected: objects that are written as regions in front of the question.
        pointed: objects that could not be turned into regions; a ``<|ref|>`` is put behind their mention.

    "What is this?" becomes "What is [1]?"; a question without a word to replace gets "About [1]: " in front.
    """
    missing = [i for i in (*injected, *pointed) if not has_mention(text, i)]
    if missing:
        words = join_words([f"[{i}]" for i in missing])
        replaced, number = _DEMONSTRATIVE.subn(words, text, count=1)
        text = replaced if number else f"About {words}: {text}"
    for i in pointed:
        text = text.replace(f"[{i}]", f"[{i}] {REF}", 1)
    return text


def sort_by_reference(text: str, object_ids: Sequence[int]) -> list[int]:
    """Objects in the order in which their ``<|ref|>`` stands in the text."""
    return sorted(object_ids, key=lambda i: text.index(f"[{i}] {REF}"))
