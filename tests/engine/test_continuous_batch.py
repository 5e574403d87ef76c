"""Replies of several conversations that are under way at the same time, read together token by token."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from passages import continued, texts

from unipixel import load
from unipixel.engine import generation
from unipixel.engine.answer import Answer
from unipixel.engine.engine import Engine
from unipixel.engine.generation import ConversationCache, DecodingOptions, PrefillInput, Reply, generate, prefill
from unipixel.engine.session import Session
from unipixel.masks import mask_to_box
from unipixel.model import language
from unipixel.model.unipixel import UniPixel
from unipixel.sample import Box
from unipixel.stickers import EVAL_SEED, generate_scene

LENGTHS = (5, 17, 11, 8)
Steps = Generator[tuple[torch.Tensor, torch.Tensor], None, None]


@pytest.fixture
def model(tiny_engine: Engine) -> UniPixel:
    generation.find_batch(tiny_engine.model).sizes.clear()
    return tiny_engine.model


def start(model: UniPixel, row: int, **settings: float) -> tuple[ConversationCache, Reply, Steps]:
    conversation, reply = ConversationCache(), Reply()
    options = DecodingOptions(**{"max_new_tokens": 12, **settings})
    return conversation, reply, generate(model, conversation, [texts(model, LENGTHS)[row]], [reply], options)


def write(model: UniPixel, conversation: ConversationCache, passage: PrefillInput, number: int) -> list[int]:
    reply = Reply()
    list(generate(model, conversation, [passage], [reply], DecodingOptions(max_new_tokens=number)))
    return reply.ids


def write_alone(model: UniPixel, row: int, **settings: float) -> tuple[list[int], torch.Tensor]:
    _, reply, steps = start(model, row, **settings)
    states = [hidden for hidden, _ in steps]
    return reply.ids, torch.cat(states)


def test_replies_that_join_and_leave_at_any_step_are_those_of_each_alone(model: UniPixel) -> None:
    rows = range(len(LENGTHS))
    options = [{}, {"max_new_tokens": 5}, {"temperature": 2.0, "seed": 3}, {"max_new_tokens": 9}]
    alone = [write_alone(model, row, **options[row]) for row in rows]
    sizes = generation.find_batch(model).sizes
    sizes.clear()
    under_way = [start(model, row, **options[row]) for row in rows]
    states: list[list[torch.Tensor]] = [[] for _ in rows]
    for turn in range(20):
        for row in rows:
            if turn >= row:  # each begins one turn after the one before it
                step = next(under_way[row][2], None)
                states[row] += [] if step is None else [step[0]]
    for row in rows:
        assert under_way[row][1].ids == alone[row][0]
        torch.testing.assert_close(torch.cat(states[row]), alone[row][1], atol=1e-4, rtol=1e-4)
    assert max(sizes) == len(LENGTHS)
    read = sum(len(one[1].ids) - 1 for one in under_way)
    assert sum(size * times for size, times in sizes.items()) == read  # no token was read twice
    batch = generation.find_batch(model)
    assert not batch._waiting and batch.num_under_way == 0


@torch.no_grad()
def test_one_reply_by_itself_takes_the_same_steps_as_ever(model: UniPixel) -> None:
    passage = texts(model, (9,))[0]
    reply = Reply()
    options = DecodingOptions(max_new_tokens=6)
    steps = list(generate(model, ConversationCache(), [passage], [reply], options))
    conversation = ConversationCache()
    hidden, _ = prefill(model, conversation, [passage])
    for (own, _), token in zip(steps, reply.ids, strict=True):
        assert torch.equal(own, hidden)
        conversation.extend()
        hidden, _ = generation._advance(model, conversation, [token])


def test_replies_in_threads_are_those_of_each_alone(model: UniPixel) -> None:
    alone = [write_alone(model, row)[0] for row in range(len(LENGTHS))]
    under_way = [start(model, row) for row in range(len(LENGTHS))]
    for _, _, steps in under_way:
        next(steps)
    barrier = threading.Barrier(len(LENGTHS))

    def write_to_the_end(steps: Iterator[object]) -> None:
        barrier.wait(30)
        for _ in steps:
            pass

    threads = [threading.Thread(target=write_to_the_end, args=(steps,)) for _, _, steps in under_way]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [reply.ids for _, reply, _ in under_way] == alone
    assert max(generation.find_batch(model).sizes) > 1


def test_on_an_accelerator_one_reply_takes_fixed_memory_and_others_beside_it_are_written_together(
    model: UniPixel, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [write_alone(model, row)[0] for row in range(3)]
    monkeypatch.setattr(generation, "is_suited", lambda _: True)
    made: list[int] = []
    take = generation.take_decoder
    monkeypatch.setattr(generation, "take_decoder", lambda *given: made.append(given[1]) or take(*given))
    batch = generation.find_batch(model)
    batch.sizes.clear()
    under_way = [start(model, row) for row in range(3)]
    for _ in range(12):
        for _, _, steps in under_way:
            next(steps, None)
    for _, _, steps in under_way:
        steps.close()
    assert [reply.ids for _, reply, _ in under_way] == alone
    assert made == [1] and set(batch.sizes) <= {1, 2} and batch.num_under_way == 0


@pytest.mark.parametrize("turns", [1, 3])
def test_a_reply_that_is_given_up_leaves_its_conversation_where_it_ended(model: UniPixel, turns: int) -> None:
    """Also where the others have read its next token ahead."""
    _, long, others = start(model, 0)
    conversation, reply, steps = start(model, 2)
    for _ in range(turns):
        next(steps)
    next(others)
    next(others)  # reads the waiting token of both
    steps.close()
    assert len(reply.ids) == turns and conversation.unread == reply.ids[-1:]
    assert conversation.length == LENGTHS[2] + turns - 1
    ids = [*conversation.unread, 30, 31]
    after = write(model, conversation, continued(model, conversation, ids), 4)
    list(others)

    again, _, steps = start(model, 2)
    for _ in range(turns):
        next(steps)
    steps.close()
    assert after == write(model, again, continued(model, again, ids), 4)
    assert long.ids == write_alone(model, 0)[0]


def test_looking_at_a_conversation_does_not_stop_its_reply_but_going_on_does(model: UniPixel) -> None:
    alone = write_alone(model, 1)[0]
    _, _, others = start(model, 0)
    conversation, reply, steps = start(model, 1)
    next(steps)
    next(others)
    next(others)
    assert conversation.length == LENGTHS[1] and conversation.unread == reply.ids
    assert conversation.fork().length == LENGTHS[1]
    next(steps)
    next(steps)
    assert reply.ids == alone[:3]
    prefill(model, conversation, [continued(model, conversation, [30, 31])])
    with pytest.raises(RuntimeError, match="gone on without it"):
        next(steps)
    list(others)


def test_a_transcript_of_a_reply_that_others_read_ahead_needs_no_new_cache(tiny_engine: Engine) -> None:
    def begin(stack: ExitStack) -> tuple[Session, Iterator[object]]:
        session = stack.enter_context(tiny_engine.open(np.zeros((32, 32, 3), np.uint8)))
        return session, session.stream("What is this?", max_new_tokens=12, every_token=True)

    with ExitStack() as stack:
        (session, stream), (_, others) = begin(stack), begin(stack)
        for steps in (stream, others, others):
            next(steps)
        dialogue = session._space.dialogue
        batch = generation.find_batch(tiny_engine.model)
        assert any(place.following is not None for place in batch._waiting)
        _, unread = dialogue.transcript
        assert len(unread) == 1 and dialogue._main is not None


def test_hidden_tokens_stay_hidden_beside_other_replies(model: UniPixel) -> None:
    def begin() -> tuple[Reply, Iterator[object]]:
        opening, way = texts(model, (9, 4))
        conversation, reply = ConversationCache(), Reply()
        prefill(model, conversation, [opening])
        conversation.padding_mask = torch.tensor([[True] * 3 + [False] * 4 + [True] * 2])
        inputs = continued(model, conversation, way.ids.tolist())
        return reply, generate(model, conversation, [inputs], [reply], DecodingOptions(max_new_tokens=8))

    alone, steps = begin()
    list(steps)
    reply, steps = begin()
    _, _, others = start(model, 1)
    for _ in range(12):
        next(others, None)
        next(steps, None)
    assert reply.ids == alone.ids


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_middle_leaves_everybody_before_the_step(
    model: UniPixel, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """One that is no interruption may come from another's row, so each is then read by itself."""
    alone = [write_alone(model, row)[0] for row in range(2)]
    under_way = [start(model, row) for row in range(2)]
    for _, _, steps in under_way:
        next(steps)
    whole = language._read_token

    def fail(layer: object, number: int, hidden: torch.Tensor, *rest: object) -> torch.Tensor:
        result = whole(layer, number, hidden, *rest)
        if len(hidden) > 1 and number == 0:  # the caches of a layer have grown, those of the others have not
            raise error
        return result

    monkeypatch.setattr(language, "_read_token", fail)
    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            next(under_way[0][2])
        monkeypatch.undo()
        conversation, reply, _ = under_way[0]
        assert conversation.unread == reply.ids and conversation.length == LENGTHS[0]
    else:
        list(under_way[0][2])
        assert under_way[0][1].ids == alone[0]
    list(under_way[1][2])
    assert under_way[1][1].ids == alone[1]


def take_in_turns(streams: list[Iterator[object]]) -> list[Answer]:
    """The answers, the last pieces, of streams that are read a piece of each at a time."""
    last: list[object] = [None] * len(streams)
    under_way = dict(enumerate(streams))
    while under_way:
        for place, stream in list(under_way.items()):
            piece = next(stream, None)
            if piece is None:
                del under_way[place]
            else:
                last[place] = piece
    return [one for one in last if isinstance(one, Answer)]


def test_sessions_that_are_asked_in_turns_answer_as_each_by_itself() -> None:
    """With masks, memory and second questions; a session that is closed in the middle disturbs nobody."""
    engine = load("nano")
    scenes = [generate_scene(EVAL_SEED, number) for number in range(3)]
    box = mask_to_box(scenes[1].masks[0, 0])
    assert box is not None
    first: list[dict[str, object]] = [
        {"text": f"Please segment the {scenes[0].objects[0].thing.name}."},
        {"text": "What is this?", "prompts": [Box(*box)]},
        {"text": f"Is there a {scenes[2].objects[0].thing.name}?"},
    ]
    second = f"Please segment the {scenes[1].objects[0].thing.name}."
    expected: list[list[Answer]] = [[], []]
    for scene, question in zip(scenes, first, strict=True):
        with engine.open(scene.image) as session:
            expected[0].append(session.ask(**question))
            expected[1].append(session.ask(second))
    batch = generation.find_batch(engine.model)
    batch.sizes.clear()
    with ExitStack() as stack:
        sessions = [stack.enter_context(engine.open(scene.image)) for scene in scenes]
        closed = engine.open(scenes[0].image)
        left = closed.stream(second, every_token=True)
        next(left)
        streams: list[Iterator[object]] = [
            one.stream(**given, every_token=True) for one, given in zip(sessions, first, strict=True)
        ]
        told = [next(stream) for stream in streams]
        assert told and batch.num_under_way == 4
        closed.close()
        answers = [take_in_turns(streams), take_in_turns([one.stream(second, every_token=True) for one in sessions])]
    assert [[one.tokens for one in row] for row in answers] == [[one.tokens for one in row] for row in expected]
    for row, right in zip(answers, expected, strict=True):
        for one, other in zip(row, right, strict=True):
            assert [found.id for found in one.objects] == [found.id for found in other.objects]
            for found, same in zip(one.objects, other.objects, strict=True):
                # bit by bit they need not be: states of several rows are rounded otherwise
                assert (found.masks != same.masks).mean() < 0.002
    assert max(batch.sizes) >= 3 and batch.num_under_way == 0
