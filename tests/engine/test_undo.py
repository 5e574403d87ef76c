"""Undo and redo: every kind of change of the objects, and prompts that are taken back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unipixel.engine.answer import MaskPiece
from unipixel.engine.engine import Engine
from unipixel.engine.memory import MAX_CHANGES, KnownObject
from unipixel.engine.session import Session
from unipixel.errors import PromptError, StalePromptError
from unipixel.masks import MaskTrack, encode_rle
from unipixel.sample import Box, Mask, Point

Clips = Callable[..., np.ndarray]
SHORT: dict[str, Any] = {"max_new_tokens": 6}
QUESTION = "Please segment the dog in this video."


def square(left: int = 20) -> np.ndarray:
    mask = np.zeros((90, 120), dtype=bool)
    mask[20:50, left : left + 40] = True
    return mask


def describe(objects: dict[int, KnownObject]) -> dict[int, tuple[Any, ...]]:
    """All that can be seen of objects."""
    return {
        i: (one.label, one.track, one.frame_scores, len(one.prompts), [a.frame for a in one.anchors])
        for i, one in objects.items()
    }


def ask(session: Session) -> None:
    assert session.ask(QUESTION, **SHORT).objects


def point(session: Session) -> None:
    session.segment(Point(30, 30), force=True)


def stop_half_way(session: Session) -> None:
    stream = session.stream(None, prompts=Mask(square(50)))
    assert any(isinstance(piece, MaskPiece) and piece.t == 1 for piece in stream)
    stream.close()


CHANGES: dict[str, Callable[[Session], Any]] = {
    "a question that makes objects": ask,
    "a prompt that makes an object": point,
    "a prompt that corrects": lambda s: s.segment(Point(25, 25, frame=1, object_id=1)),
    "a label together with a prompt": lambda s: s.segment(Mask(square(60)), label="cup"),
    "a correction": lambda s: s.correct(1, Box(15, 15, 70, 60, frame=2)),
    "a prompt that is taken back": lambda s: s.remove_prompt(1, 0),
    "a rename": lambda s: s.rename(1, "another"),
    "a removal": lambda s: s.remove(1),
    "tracking": lambda s: s.track(1, start=2),
    "an object given whole": lambda s: s.add_object(7, MaskTrack((90, 120), (encode_rle(square()),) * 3)),
    "a stream that is left early": stop_half_way,
}


def can_redo(session: Session) -> bool:
    """A call, so that the type checker does not hold on to what it was before."""
    return session.can_redo


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_undone_and_made_again(tiny_engine: Engine, clip: Clips, name: str) -> None:
    with tiny_engine.open(clip(3)) as session:
        session.segment([Mask(square(), object_id=1), Mask(square(70), object_id=2)], label="thing")
        before, revision = describe(session.objects), session.revision
        order, history = list(before), session.can_undo
        CHANGES[name](session)
        after = describe(session.objects)
        assert after != before and session.revision > revision and history and not can_redo(session)
        changed = {i for i in {*before, *after} if before.get(i) != after.get(i)}
        revision = session.revision
        assert changed <= set(session.undo())
        assert describe(session.objects) == before and list(session.objects) == order
        assert session.revision > revision and can_redo(session)
        assert changed <= set(session.redo())
        assert describe(session.objects) == after and not can_redo(session)
        session.undo()
        assert describe(session.objects) == before
        session.undo()  # the two masks
        assert session.objects == {} and not session.can_undo
        with pytest.raises(PromptError, match="there is no change of the objects to undo"):
            session.undo()


def test_changes_are_undone_one_by_one_and_a_new_one_ends_redo(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(3)) as session:
        states = [describe(session.objects)]
        for name in ("a prompt that makes an object", "a rename", "a correction", "a removal"):
            CHANGES[name](session)
            states.append(describe(session.objects))
        for state in reversed(states[:-1]):
            session.undo()
            assert describe(session.objects) == state
        for state in states[1:3]:
            session.redo()
            assert describe(session.objects) == state
        session.rename(1, "third")
        with pytest.raises(PromptError, match="there is no change of the objects to redo"):
            session.redo()
        session.undo()
        assert describe(session.objects) == states[2]


def test_what_changes_nothing_is_no_change(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(3)) as session:
        assert not session.can_undo and session.revision == 0
        with pytest.raises(PromptError):
            session.segment(Point(500, 3))
        with pytest.raises(PromptError):
            session.remove(4)
        assert not session.can_undo and session.revision == 0


def test_what_happens_while_a_stream_is_under_way_belongs_to_its_change(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(4)) as session:
        session.segment([Mask(square(), object_id=1), Mask(square(70), object_id=2)])
        before = describe(session.objects)
        for piece in session.propagate(start=0):
            if piece.t == 1:
                session.remove(1)
                session.rename(2, "cup")
        assert list(session.objects) == [2] and session.objects[2].label == "cup"
        session.undo()
        assert describe(session.objects) == before


def test_undo_ends_a_stream_that_is_still_open(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(4)) as session:
        stream = session.stream(None, prompts=Mask(square()))
        next(stream)
        assert session.objects
        session.undo()
        assert session.objects == {} and list(stream) == []


def test_a_correction_ends_a_stream_and_keeps_what_it_had(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(4)) as session, tiny_engine.open(clip(4)) as other:
        (whole,) = other.segment(Mask(square(), frame=0))
        stream = session.stream(None, prompts=Mask(square(), frame=0))
        for piece in stream:
            if isinstance(piece, MaskPiece) and piece.t == 2:
                break
        rles = session.correct(1, Mask(square(60), frame=3)).track.rles
        assert list(stream) == [] and rles == (*whole.track.rles[:3], encode_rle(square(60)))


def test_ids_are_not_given_again_after_an_undo(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(2)) as session:
        point(session)
        first = set(session.objects)
        session.undo()
        point(session)
        assert first and min(session.objects) > max(first)


def test_the_conversation_stays_and_a_new_beginning_has_no_past(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(2)) as session:
        ask(session)
        said = session._space.dialogue.transcript[0].input_ids.tolist()
        session.undo()
        assert session._space.dialogue.transcript[0].input_ids.tolist() == said
        revision = session.revision
        session.reset()
        assert not session.can_undo and not session.can_redo and session.revision > revision


def test_only_so_many_changes_are_kept(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(1)[0]) as session:
        session.add_object(1, MaskTrack((90, 120), (encode_rle(square()),)))
        for number in range(MAX_CHANGES + 5):
            session.rename(1, str(number))
        for _ in range(MAX_CHANGES):
            session.undo()
        assert not session.can_undo and session.objects[1].label == "4"


def test_a_prompt_taken_back_leaves_what_the_others_make(tiny_engine: Engine, clip: Clips) -> None:
    first, second, third = Mask(square(), frame=0), Point(70, 40, frame=2), Box(10, 10, 60, 60, frame=1)
    prompts = [first, second, third]
    for number in range(3):
        with tiny_engine.open(clip(4)) as session, tiny_engine.open(clip(4)) as other:
            for prompt in prompts:
                session.segment(_with_id(prompt), label="dog")
            left = [prompt for place, prompt in enumerate(prompts) if place != number]
            for prompt in left:
                other.segment(_with_id(prompt), force=True, label="dog")
            known = session.remove_prompt(1, number - 3 if number else 0)
            assert known is not None and known is session.objects[1]
            assert describe(session.objects) == describe({1: other.objects[1]})
            # and once more, of what is left
            again = session.remove_prompt(1, -1)
            with tiny_engine.open(clip(4)) as alone:
                alone.segment(_with_id(left[0]), force=True, label="dog")
                assert again is not None and describe({1: again}) == describe({1: alone.objects[1]})
            assert session.remove_prompt(1, 0) is None and session.objects == {}


def _with_id(prompt: Any) -> Any:
    return replace(prompt, object_id=1)


def test_an_object_made_by_words_comes_back_without_its_corrections(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(3)) as session:
        ask(session)
        before = describe(session.objects)[1]
        session.correct(1, Point(40, 40, frame=1))
        session.correct(1, Point(50, 40, frame=1))
        session.remove_prompt(1, 0)
        assert len(session.objects[1].prompts) == 1
        session.remove_prompt(1, 0)
        assert describe(session.objects)[1] == before


def test_taking_back_what_is_not_known_any_more_is_refused(tiny_engine: Engine, clip: Clips, tmp_path: Any) -> None:
    with tiny_engine.open(clip(3)) as session:
        ask(session)
        session.rename(1, "dog")
        session.correct(1, Point(40, 40, frame=1))
        session.segment(Mask(square(), object_id=9))
        session.save(tmp_path / "s.zip")
        for number in (1, -2):
            with pytest.raises(PromptError, match="object 1 has 1 prompts; there is none with number"):
                session.remove_prompt(1, number)
        with pytest.raises(PromptError, match="object 4 is not known"):
            session.remove_prompt(4, 0)
    with tiny_engine.open_session(tmp_path / "s.zip") as restored:
        before = restored.objects
        with pytest.raises(StalePromptError, match="prompt 0 of object 1 is too old to be taken back"):
            restored.remove_prompt(1, 0)
        assert restored.objects == before
        assert restored.remove_prompt(9, 0) is None  # nothing is left of which it could be made


def test_taking_back_that_is_stopped_half_way_changes_nothing(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(4)) as session:
        session.segment(Mask(square(), object_id=1))
        session.correct(1, Point(70, 40, frame=2))
        before = describe(session.objects)
        stream = session.stream_remove_prompt(1, 0)
        next(stream)
        stream.close()
        assert describe(session.objects) == before
        (known,) = (session.remove_prompt(1, 0),)
        assert known is not None and list(session.objects) == [1]


def test_caches_can_be_released_in_between(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(3)) as session, tiny_engine.open(clip(3)) as other:
        for one in (session, other):
            ask(one)
        session.release_caches()
        assert len(session._space.features) == 0
        answers = [one.ask("Where is [1]?", **SHORT) for one in (session, other)]
        assert answers[0].tokens == answers[1].tokens
        assert describe(session.objects).keys() == describe(other.objects).keys()
    assert session.is_closed


def test_tracking_streams_what_it_remembers(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(4)) as session:
        with pytest.raises(PromptError, match="the session knows no object"):
            session.propagate()
        session.segment([Mask(square(), object_id=1), Mask(square(70), object_id=2)])
        with pytest.raises(PromptError, match="start is 9"):
            session.propagate(start=9)
        seen = {(piece.t, i): rle for piece in session.propagate([2, 2], start=3) for i, rle in piece.rles.items()}
        assert {i for _, i in seen} == {2} and len(seen) == 4
        assert tuple(seen[t, 2] for t in range(4)) == session.objects[2].track.rles


def test_a_wrong_keyword_names_the_method(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(1)[0]) as session:
        for method in (session.ask, session.stream, session.prepare):
            with pytest.raises(TypeError, match=rf"Session\.{method.__name__}\(\) got an unexpected keyword"):
                method("What is this?", colour="red")
        with pytest.raises(TypeError, match=r"Session\.segment\(\) got an unexpected keyword"):
            session.segment(Point(3, 3), colour="red")
    with pytest.raises(TypeError, match=r"Engine\.ask\(\) got an unexpected keyword"):
        tiny_engine.ask(clip(1)[0], "What is this?", colour="red")
