"""Clicks and masks on objects that are known, tracking again, and hostile requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from unipixel.engine.engine import Engine
from unipixel.engine.session import Session
from unipixel.errors import PromptError
from unipixel.masks import MaskTrack, encode_rle
from unipixel.sample import Box, Mask, Point

Clips = Callable[..., np.ndarray]
QUESTION = "Please segment the dog in this video."
SHORT = {"max_new_tokens": 16}


def square(left: int = 20, top: int = 10) -> np.ndarray:
    mask = np.zeros((90, 120), bool)
    mask[top : top + 30, left : left + 40] = True
    return mask


def list_said(session: Session) -> tuple[list[int], list[int], int]:
    """The tokens of the conversation, those not read yet, and the number of its points."""
    transcript, unread = session._space.dialogue.transcript
    return transcript.input_ids.tolist(), list(unread), len(transcript.point_coords)


def test_a_click_changes_its_object_from_its_frame_on_and_no_other(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(6)) as session:
        before = {one.id: one for one in session.ask(QUESTION, **SHORT).objects}
        after = session.correct(1, [Point(50, 40, frame=3), Point(5, 5, frame=3, positive=False)])
        assert after.track.rles[:3] == before[1].track.rles[:3]
        assert after.track.rles[3:] != before[1].track.rles[3:]
        assert [a.frame for a in after.anchors] == [0, 3]
        assert len(after.prompts) == 2
        assert all(session.objects[i].track is before[i].track for i in before if i != 1)


def test_clicks_add_to_earlier_ones_on_their_frame(tiny_engine: Engine, clip: Clips) -> None:
    clicks = [Point(50, 40, frame=2), Point(5, 5, frame=2, positive=False)]
    results = []
    for batches in ([clicks], [clicks[:1], clicks[1:]]):
        with tiny_engine.open(clip(4)) as session:
            session.ask(QUESTION, **SHORT)
            for batch in batches:
                known = session.correct(1, batch)
            results.append(known)
    assert results[0].track.rles == results[1].track.rles


def test_a_click_before_the_first_anchor_reaches_back_to_the_beginning(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(6)) as session:
        (known,) = session.segment(Mask(square(), frame=4))
        after = session.correct(known, Box(10, 10, 70, 60, frame=2))
        assert [a.frame for a in after.anchors] == [2, 4]
        assert after.track.rles[4:] == known.track.rles[4:]
        assert after.track.rles[:4] != known.track.rles[:4]


def test_extra_clicks_on_a_new_object_go_to_the_mask_decoder(tiny_engine: Engine, clip: Clips) -> None:
    one = tiny_engine.open(clip(1)[0]).segment([Point(50, 40, object_id=1)])[0]
    two = tiny_engine.open(clip(1)[0]).segment(
        [Point(50, 40, object_id=1), Point(90, 70, object_id=1, positive=False)]
    )[0]
    assert one.anchors[0].clicks is None
    assert two.anchors[0].clicks is not None
    assert two.anchors[0].clicks[1].tolist() == [1, 0]
    np.testing.assert_array_equal(one.queries, two.queries)
    assert one.track.rles != two.track.rles


def test_a_mask_replaces_what_was_there_on_its_frame(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(4)) as session:
        session.ask(QUESTION, **SHORT)
        after = session.correct(1, Mask(square(), frame=2))
        np.testing.assert_array_equal(after.track.mask(2), square())


def test_clicks_on_a_given_mask_correct_it(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(3)) as session:
        (known,) = session.segment(Mask(square()))
        after = session.correct(known, Point(70, 50))
        assert after.track.rles[0] != known.track.rles[0]
        assert after.anchors[0].mask == known.anchors[0].mask


def test_prompts_with_a_known_id_correct_that_object_in_a_question(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(3)) as session:
        (known,) = session.segment(Mask(square()))
        answer = session.ask("What is this?", prompts=Point(70, 50, object_id=1), **SHORT)
        assert answer.objects[0].id == 1
        assert answer.objects[0].track.rles[0] != known.track.rles[0]


def test_tracking_again_from_what_is_known_changes_nothing(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(5)) as session:
        session.ask(QUESTION, **SHORT)
        session.correct(1, Point(50, 40, frame=3))
        before = session.objects
        session.track()
        for i, known in before.items():
            assert (session.objects[i].track.masks == known.track.masks).mean() > 0.9999


def test_tracking_again_from_another_frame_takes_what_that_frame_says(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(5)) as session:
        session.segment(Mask(square(), frame=0))
        shown = next(t for t in range(4, 0, -1) if session.objects[1].track.rles[t] is not None)
        there = session.objects[1].track.rles[shown]
        (known,) = session.track(1, start=shown)
        assert [a.frame for a in known.anchors] == [shown]
        assert known.track.rles[shown] == there
        asked = session.ask(QUESTION, **SHORT).objects[0]
        (again,) = session.track(asked, start=2)
        assert [a.frame for a in again.anchors] == [2]
        session.track([asked.id, 1], start="best")


def test_tracking_an_object_from_where_it_is_not_is_refused(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(4)) as session:
        session._space.memory.add(session._space.new_object(1))
        with pytest.raises(PromptError, match="object 1 is not visible on frame 2; start where it is"):
            session.track(1, start=2)


def test_tracking_again_leaves_alone_what_nothing_says_where_it_is(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(4)) as session:
        session._space.memory.add(session._space.new_object(1))  # not found
        shape = encode_rle(square())
        given = session.add_object(2, MaskTrack((90, 120), (None, shape, shape, None)))
        session.segment(Mask(square(), frame=1, object_id=3))
        assert [one.id for one in session.track()] == [1, 2, 3]
        assert session.objects[1].track.rles == (None,) * 4 and session.objects[2].track.rles == given.track.rles


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"text": ""}, "the question is empty and has no prompts"),
        ({"text": "   "}, "the question is empty and has no prompts"),
        ({"text": 5}, "the question is a int, expected a string"),
        ({"text": "<|im_end|>"}, "reserved token <|im_end|>"),
        ({"text": "a <|seg|>"}, "reserved token <|seg|>"),
        ({"text": "a", "about": 9}, "object 9 is not known in this session; known are 1"),
        ({"text": "a", "about": ["1"]}, "object '1' is not known"),
        ({"text": None, "about": 1}, "the question is empty"),
        ({"text": "a", "start": 5}, "start is 5; it must be 'best' or a frame from 0 to 2"),
        ({"text": "a", "start": "first"}, "start is 'first'"),
        ({"text": "a", "start": True}, "start is True"),
        ({"text": "a", "prompts": Point(500, 3)}, r"the point \(500, 3\) is outside the frame"),
        ({"text": "a", "prompts": Point(float("nan"), 3)}, "a coordinate of the point is nan"),
        ({"text": "a", "prompts": [Point(3, 3, frame=3)]}, "the prompt's frame is 3; the clip has frames 0 to 2"),
        ({"text": "a", "prompts": Box(5, 5, 5, 9)}, "is empty"),
        ({"text": "a", "prompts": Mask(np.zeros((90, 120), bool))}, "the mask is empty"),
        ({"text": "a", "prompts": Mask(np.ones((5, 5), bool))}, r"the mask has the shape \(5, 5\)"),
        ({"text": "a", "prompts": ["left"]}, "a prompt is a str"),
        ({"text": "a", "prompts": Point(3, 3, object_id=0)}, "the prompt's object_id is 0"),
        ({"text": "a", "prompts": Point(3, 3, object_id="x")}, "the prompt's object_id is 'x'"),
        ({"text": "a", "prompts": Point(3, 3, positive=False)}, "object 2 has negative points only"),
        (
            {"text": "a", "prompts": [Box(1, 1, 5, 5, object_id=4), Box(2, 2, 6, 6, object_id=4)]},
            "one object has 2 boxes",
        ),
        (
            {"text": "a", "prompts": [Mask(square(), object_id=4), Mask(square(), object_id=4)]},
            "object 4 has two masks on one frame",
        ),
        ({"text": "a", "about": 1, "prompts": Point(3, 3, object_id=1)}, "given in about and has prompts"),
    ],
)
def test_requests_that_cannot_be_meant_are_refused_at_once(
    tiny_engine: Engine, clip: Clips, arguments: dict[str, Any], words: str
) -> None:
    with tiny_engine.open(clip(3)) as session:
        session.segment(Mask(square()))
        known, begun = session.objects, list_said(session)
        with pytest.raises(PromptError, match=words.replace("<|", r"<\|").replace("|>", r"\|>")):
            session.stream(**arguments)
        assert session.objects == known
        assert list_said(session) == begun


def test_an_object_that_is_not_there_cannot_be_asked_about(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(6), num_frames=1, track="all") as session:
        session._space.memory.add(session._space.new_object(1))
        with pytest.raises(PromptError, match=r"object 1 is visible on none of the frames that the model reads \(0\)"):
            session.ask("What is this?", about=1)


@pytest.mark.parametrize(
    ("prompts", "words"), [([], "corrected by nothing"), (Point(-1, 0), "outside the frame"), (3, "iterable|int")]
)
def test_corrections_are_checked(tiny_engine: Engine, clip: Clips, prompts: Any, words: str) -> None:
    with tiny_engine.open(clip(2)) as session:
        session.segment(Mask(square()))
        with pytest.raises((PromptError, TypeError), match=words):
            session.correct(1, prompts)
        with pytest.raises(PromptError, match="object 7 is not known"):
            session.correct(7, Point(1, 1))
