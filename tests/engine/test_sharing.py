"""A session in threads and event loops, and the short ways to write prompts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

import unipixel
from unipixel.engine.answer import Answer, MaskPiece
from unipixel.engine.engine import Engine
from unipixel.engine.requests import list_prompts
from unipixel.errors import PromptError
from unipixel.masks import MaskTrack
from unipixel.sample import Box, Mask, Point

Clips = Callable[..., np.ndarray]
QUESTION = "Please segment the dog in this video."
SHORT = {"max_new_tokens": 16}


def test_threads_take_turns_at_a_session(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(4)) as session, tiny_engine.open(clip(4)) as alone:
        results: list[Any] = []

        def ask() -> None:
            try:
                results.append(session.ask(QUESTION, **SHORT))
            except BaseException as error:  # reported below
                results.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = [alone.ask(QUESTION, **SHORT) for _ in range(4)]
        assert [one for one in results if not isinstance(one, Answer)] == []
        assert sorted(one.text for one in results) == sorted(one.text for one in expected)
        assert list(session.objects) == list(alone.objects)
        for _ in range(4):  # each was one change
            session.undo()
        assert not session.can_undo and session.objects == {}


def test_a_question_waits_for_the_piece_of_a_stream_and_ends_it(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(4)) as session:
        pieces = session.stream(QUESTION, **SHORT)
        first = next(pieces)
        answers: list[Answer] = []
        session._lock.acquire()  # as if another piece were being computed
        thread = threading.Thread(target=lambda: answers.append(session.ask("What is this?", **SHORT)))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive() and answers == []
        session._lock.release()
        thread.join()
        assert isinstance(first, str) and isinstance(answers[0], Answer)
        assert list(pieces) == []


def test_event_loops_ask_and_stream(tiny_engine: Engine, clip: Clips) -> None:
    frames = clip(4)

    async def run() -> tuple[list[Any], list[Answer], Answer]:
        with tiny_engine.open(frames) as session, tiny_engine.open(frames) as other:
            pieces = [piece async for piece in session.stream_async(QUESTION, **SHORT)]
            asked = await asyncio.gather(*(other.ask_async(QUESTION, **SHORT) for _ in range(2)))
            return pieces, asked, await tiny_engine.ask_async(frames, QUESTION, num_frames=4, **SHORT)

    pieces, asked, once = asyncio.run(run())
    assert isinstance(pieces[0], str) and any(isinstance(piece, MaskPiece) for piece in pieces)
    assert pieces[-1].text == asked[0].text == once.text
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == once.text
    assert {one.id for one in asked[0].objects}.isdisjoint(one.id for one in asked[1].objects)


def test_a_stream_of_an_event_loop_can_be_left_or_cancelled(tiny_engine: Engine, clip: Clips) -> None:
    async def run() -> None:
        with tiny_engine.open(clip(4)) as session:
            async with aclosing(session.stream_async(QUESTION, **SHORT)) as pieces:
                async for _ in pieces:
                    break
            assert isinstance(await session.ask_async(QUESTION, **SHORT), Answer)

            async def read() -> None:
                async for _ in session.stream_async(QUESTION, max_new_tokens=200):
                    started.set()

            started = asyncio.Event()
            task = asyncio.create_task(read())
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert isinstance(session.ask(QUESTION, **SHORT), Answer)

    asyncio.run(run())


def test_errors_of_an_event_loop_are_those_of_asking(tiny_engine: Engine, clip: Clips) -> None:
    async def run() -> None:
        with tiny_engine.open(clip(2)) as session:
            with pytest.raises(PromptError, match="the question is empty"):
                await session.ask_async("")
            with pytest.raises(PromptError, match="the question is empty"):
                async for _ in session.stream_async(""):
                    pass

    asyncio.run(run())


def test_engines_and_sessions_say_what_they_are(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine as engine:
        assert engine is tiny_engine
        assert repr(engine).startswith("Engine(") and repr(engine).endswith(" M parameters, float32 on cpu)")
        session = engine.open(clip(2))
    assert repr(session) == f"Session({session.media!r}, 0 objects)" and "2 frames" in repr(session)
    session.add_object(1, MaskTrack.from_masks(np.ones((2, 90, 120), bool)))
    assert repr(session).endswith(", 1 object)")
    session.close()
    assert repr(session) == "Session(closed)"


def test_pairs_are_points(tiny_engine: Engine, clip: Clips) -> None:
    point, box, mask = Point(40, 30), Box(1, 2, 3, 4), Mask(np.ones((2, 2), bool))
    assert list_prompts((40, 30)) == list_prompts([(40, 30)]) == list_prompts([np.array([40.0, 30])]) == [point]
    assert list_prompts(np.array([40, 30])) == [point] and list_prompts([]) == []
    assert list_prompts([(40, 30), box, mask, [5, 6.5]]) == [point, box, mask, Point(5, 6.5)]
    with tiny_engine.open(clip(2)) as one, tiny_engine.open(clip(2)) as other:
        first, second = (each.segment(p, **SHORT)[0] for each, p in ((one, (40, 30)), (other, point)))
        assert first.prompts[0] == second.prompts[0] and first.track.rles == second.track.rles
        assert one.correct(first, (10, 12)).prompts[-1] == Point(10, 12, object_id=first.id)
        with pytest.raises(PromptError, match=r"the point \(400, 30\) is outside the frame"):
            one.ask(prompts=(400, 30))
    asked = tiny_engine.ask(clip(2), prompts=(40, 30), **SHORT)
    (batched,) = tiny_engine.ask_batch([clip(2)], prompts=[[(40, 30)]], **SHORT)
    assert asked.objects[0].prompts[0] == batched.objects[0].prompts[0] == second.prompts[0]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ((1, 2, 3, 4), r"the prompt \(1, 2, 3, 4\) could be meant in several ways; write Box\(x1, y1, x2, y2\)"),
        ([(1, 2, 3)], r"the prompt \(1, 2, 3\) could be meant in several ways"),
        ([(1, "2")], "a prompt is a tuple, expected a Point, Box or Mask"),
        ([(True, False)], "a prompt is a tuple"),
        ("here", "prompts are of type str"),
        (7, "prompts are of type int"),
        ([np.ones((4, 4), bool)], "a prompt is a ndarray"),
    ],
)
def test_prompts_that_could_be_anything_are_refused(prompts: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        list_prompts(prompts)


def test_the_package_lists_its_public_names_only() -> None:
    assert dir(unipixel) == sorted(unipixel.__all__)
    assert all(hasattr(unipixel, name) for name in dir(unipixel))
