"""What evaluation asks of a session: many questions about one clip, each as if it were the first, over given masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from unipixel.engine.answer import Answer
from unipixel.engine.engine import Engine
from unipixel.engine.generation import Reply
from unipixel.engine.session import Session
from unipixel.engine.turn import answer_request
from unipixel.errors import PromptError
from unipixel.masks import MaskTrack
from unipixel.sample import Point

Clips = Callable[..., np.ndarray]
SHORT: dict[str, Any] = {"max_new_tokens": 6}
QUESTION = "Please segment the dog in this image."
POINTS = [Point(20, 30, object_id=3), Point(70, 40, object_id=1)]


def same(first: Answer, second: Answer) -> bool:
    pairs = zip(first.objects, second.objects, strict=True)
    return first.raw_text == second.raw_text and all(a.track == b.track and a.id == b.id for a, b in pairs)


def first_ask(session: Session, **options: Any) -> Reply:
    asked = next(answer_request(session._space, session.prepare("What is [1] and [3]?", prompts=POINTS, **options)))
    assert isinstance(asked, Reply)
    return asked


def test_after_forgetting_an_answer_is_that_of_a_new_session_and_nothing_is_encoded_again(
    tiny_engine: Engine, clip: Clips
) -> None:
    with tiny_engine.open(clip(4)) as session:
        session.ask(QUESTION, prompts=[Point(20, 30)], **SHORT)
        encoded = session._space.features.encoded
        for text in ("What is this?", QUESTION):
            session.reset()
            assert session.objects == {}
            again = session.ask(text, **SHORT)
            assert same(again, tiny_engine.open(clip(4)).ask(text, **SHORT))
            assert again.timings.get("vision_tower", 0.0) == 0.0
        assert session._space.features.encoded == encoded


def test_a_remembered_object_keeps_its_masks_and_is_written_as_a_region(tiny_engine: Engine, clip: Clips) -> None:
    masks = np.zeros((4, 90, 120), dtype=bool)
    masks[2, 10:40, 20:60] = True
    track = MaskTrack.from_masks(masks)
    with tiny_engine.open(clip(4)) as session:
        known = session.add_object(0, track)
        assert known.score == 1.0
        asked = next(answer_request(session._space, session.prepare("What is [0]?")))
        assert isinstance(asked, Reply)
        assert asked.turn.regions == (0,)
        session.ask("What is [0]?", **SHORT)
        assert session.objects[0].track == track
        with pytest.raises(PromptError, match=r"object 1 are 1 frames of \(5, 6\); the clip has 4 of \(90, 120\)"):
            session.add_object(1, MaskTrack((5, 6), (None,)))


def test_the_first_round_can_be_worded_by_the_caller(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(2)) as session:
        turn = first_ask(session, prompt_question="Is [1] near [3]? Please localize the objects.").turn
        assert turn.question == "Is [1] <|ref|> near [3] <|ref|>? Please localize the objects."
        assert [prompts[0].object_id for prompts in turn.references] == [1, 3]
        with pytest.raises(PromptError, match="the question about the prompts contains the reserved token"):
            session.ask("What?", prompts=POINTS, prompt_question="[1] <|ref|>")


def test_forced_masks_can_be_taken_without_asking_the_model(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(2)) as session:
        asked = first_ask(session, force="always")
        assert asked.answer == "[1] <|seg|> [3] <|seg|>"  # in the order of the question
        session.reset()
        objects = session.segment(POINTS, force="always")
        assert [one.id for one in objects] == [3, 1]
        assert all(one.queries is not None for one in objects)
