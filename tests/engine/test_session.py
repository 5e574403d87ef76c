"""Sessions: questions, objects over several turns, streaming, and what is computed only once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from unipixel.engine.answer import STAGES, Answer, MaskPiece
from unipixel.engine.engine import Engine
from unipixel.engine.memory import Anchor
from unipixel.engine.session import Session
from unipixel.engine.tracking import decode_frame
from unipixel.errors import PromptError
from unipixel.masks import MaskTrack
from unipixel.model.segmenter import FrameFeatures
from unipixel.model.unipixel import UniPixel
from unipixel.processing import Processor
from unipixel.sample import Box, Mask, Point, Turn

Clips = Callable[..., np.ndarray]
QUESTION = "Please segment the dog in this video."
SHORT = {"max_new_tokens": 16}


def agreement(a: MaskTrack, b: MaskTrack) -> float:
    return float((a.masks == b.masks).mean())


def same(a: Answer, b: Answer, share: float = 0.9999) -> None:
    """Two answers say and show the same."""
    assert a.text == b.text
    assert a.raw_text == b.raw_text
    assert [(o.id, o.label) for o in a.objects] == [(o.id, o.label) for o in b.objects]
    for one, other in zip(a.objects, b.objects, strict=True):
        assert agreement(one.track, other.track) >= share
        np.testing.assert_allclose(one.frame_scores, other.frame_scores, atol=1e-3)


def speechless(engine: Engine) -> Engine:
    """The same model without a `<|seg|>` on its tongue."""
    model = copy.deepcopy(engine.model)
    with torch.no_grad():
        model.lm_head.weight[model.config.seg_token_id] = 0
    return Engine(model, engine.processor)


def test_an_answer_has_words_and_an_object_for_every_seg_token(tiny_engine: Engine, clip: Clips) -> None:
    frames = clip(5)
    with tiny_engine.open(frames) as session:
        answer = session.ask(QUESTION, max_new_tokens=24)
        count = answer.raw_text.count("<|seg|>")
        assert count > 1
        assert [one.id for one in answer.objects] == list(range(1, count + 1))
        assert all(f"[{i + 1}]" in answer.text for i in range(count))
        assert "<|seg|>" not in answer.text
        assert session.objects == {one.id: one for one in answer.objects}
    for one in answer.objects:
        assert one.masks.shape == frames.shape[:3]
        assert one.masks.dtype == bool
        assert one.score == "not there" or 0 <= one.score <= 1
        np.testing.assert_array_equal(one.visible, one.masks.any((1, 2)))


def test_ids_go_on_through_a_session(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(3)) as session:
        first = session.ask(QUESTION, **SHORT)
        removed = first.objects[-1]
        session.remove(removed)
        second = session.ask("Please segment the ball.", **SHORT)
        assert min(one.id for one in second.objects) == removed.id + 1
        assert removed.id not in session.objects


def test_streaming_gives_the_answer_that_asking_gives(tiny_engine: Engine, clip: Clips) -> None:
    frames = clip(4)
    asked = tiny_engine.open(frames).ask("What is this?", prompts=Point(40, 30, frame=1), **SHORT)
    pieces = list(tiny_engine.open(frames).stream("What is this?", prompts=Point(40, 30, frame=1), **SHORT))
    streamed = pieces[-1]
    assert isinstance(streamed, Answer)
    same(asked, streamed, share=1.0)
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == streamed.text
    shown: dict[int, dict[int, object]] = {}
    for piece in pieces:
        if isinstance(piece, MaskPiece):
            for object_id, rle in piece.rles.items():
                shown.setdefault(object_id, {})[piece.t] = rle
                assert piece.mask(object_id) is None or piece.mask(object_id).shape == frames.shape[1:3]
    for one in streamed.objects:
        assert tuple(shown[one.id][t] for t in range(4)) == one.track.rles


def test_a_second_question_reuses_frames_and_cache(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(4)) as session:
        first = session.ask(QUESTION, **SHORT)
        vision = session._space.dialogue.vision
        second = session.ask("What colour is [1]?", about=first.objects[0], **SHORT)
        assert session._space.dialogue.vision is vision
        assert session._space.features.encoded == 4
        assert second.timings["vision_tower"] == second.timings["sam_encode"] == second.timings["read"] == 0
        assert first.timings["vision_tower"] > 0
        assert list(first.timings) == list(STAGES)
        assert first.timings.counts["decode"] == len(first.tokens) - 1


def test_turns_on_the_cache_answer_as_turns_read_from_the_beginning(tiny_engine: Engine, clip: Clips) -> None:
    frames = clip(4)
    live, again = tiny_engine.open(frames), tiny_engine.open(frames)
    for session in (live, again):
        session.ask(QUESTION, **SHORT)
        session.ask("What colour is [1]?", about=[1], **SHORT)
    again._space.dialogue.restore(*again._space.dialogue.transcript)
    same(live.ask("Where is the ball?", **SHORT), again.ask("Where is the ball?", **SHORT))


def test_points_are_segmented_beside_the_conversation_and_injected_as_memory(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(4)) as session:
        answer = session.ask("What is this?", prompts=[Point(40, 30), Box(10, 10, 60, 60, frame=2)], **SHORT)
        assert [one.id for one in answer.objects[:2]] == [1, 2]
        ids = session._space.dialogue.transcript[0].input_ids.tolist()
        text = tiny_engine.processor.tokenizer.decode(ids)
        assert "Please segment [1] <|ref|>" not in text
        assert "[1]: <1>-<2> <|mem|>" in text
        assert "What is [1] and [2]?" in text
        assert session.objects[1].prompts == (Point(40, 30),)


def test_without_a_question_the_first_round_is_the_answer(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(3)) as session:
        answer = session.ask(prompts=[Point(40, 30), Point(80, 60)])
        assert {1, 2} <= {one.id for one in answer.objects}
        assert "[1]" in answer.text
        # nothing was said in the conversation itself
        transcript, unread = session._space.dialogue.transcript
        assert (transcript.input_ids.tolist(), unread) == ([], [])
        assert session.segment(Point(20, 20))[0].id == max(one.id for one in answer.objects) + 1


def test_a_point_that_the_model_does_not_segment_is_not_there_unless_forced(tiny_engine: Engine, clip: Clips) -> None:
    engine, frames = speechless(tiny_engine), clip(3)
    with engine.open(frames) as session:
        answer = session.ask("What is this?", prompts=Point(40, 30), **SHORT)
        assert [(one.id, one.score) for one in answer.objects] == [(1, "not there")]
        ids = session._space.dialogue.transcript[0].input_ids.tolist()
        assert "What is [1] <|ref|>?" in engine.processor.tokenizer.decode(ids)
    with engine.open(frames) as session:
        forced = session.ask("What is this?", prompts=Point(40, 30), force=True, **SHORT)
        assert [one.id for one in forced.objects] == [1]
        assert session.objects[1].queries is not None
        assert forced.objects[0].is_there


def test_a_mask_enters_the_memory_as_it_is(tiny_engine: Engine, clip: Clips) -> None:
    frames = clip(4)
    mask = np.zeros(frames.shape[1:3], bool)
    mask[10:40, 20:70] = True
    with tiny_engine.open(frames) as session:
        answer = session.ask("What is this?", prompts=Mask(mask, frame=2), **SHORT)
        np.testing.assert_array_equal(answer.objects[0].track.mask(2), mask)
        (known,) = session.segment(Mask(mask, frame=0, object_id=9))
        assert known.id == 9
        assert session.ask(prompts=Mask(mask, frame=0, object_id=12)).text == ""


def test_one_prompted_object_is_the_same_among_others(tiny_engine: Engine, clip: Clips) -> None:
    frames = clip(4)
    mask = np.zeros(frames.shape[1:3], bool)
    mask[10:40, 20:70] = True
    alone = tiny_engine.open(frames).segment(Mask(mask, object_id=1))[0]
    other = np.roll(mask, 30, axis=1)
    many = tiny_engine.open(frames).segment([Mask(other, object_id=2), Mask(mask, object_id=1), Mask(other, 3)])
    assert agreement(next(one for one in many if one.id == 1).track, alone.track) > 0.9999


def test_objects_can_be_removed_while_they_are_tracked(tiny_engine: Engine, clip: Clips) -> None:
    frames = clip(6)
    whole = tiny_engine.open(frames).ask(QUESTION, max_new_tokens=24)
    assert len(whole.objects) > 1
    session, seen = tiny_engine.open(frames), []
    for piece in session.stream(QUESTION, max_new_tokens=24):
        if isinstance(piece, MaskPiece):
            seen.append(tuple(piece.rles))
            if piece.t == 2:
                session.remove(1)
    rest = tuple(one.id for one in whole.objects[1:])
    assert seen == [(1, *rest)] * 3 + [rest] * 3
    assert isinstance(piece, Answer)
    assert [one.id for one in piece.objects] == list(rest)
    for one, other in zip(piece.objects, whole.objects[1:], strict=True):
        assert agreement(one.track, other.track) > 0.9999


def test_a_stream_that_is_left_early_keeps_what_it_had(tiny_engine: Engine, clip: Clips) -> None:
    frames = clip(6)
    whole = tiny_engine.open(frames).ask(QUESTION, **SHORT)
    session = tiny_engine.open(frames)
    stream = session.stream(QUESTION, **SHORT)
    for piece in stream:
        if isinstance(piece, MaskPiece) and piece.t == 3:
            break
    stream.close()
    for one in whole.objects:
        assert session.objects[one.id].track.rles[:4] == one.track.rles[:4]
        assert session.objects[one.id].track.rles[4:] == (None, None)
    assert isinstance(session.ask("What is this?", **SHORT), Answer)


def test_a_stream_that_is_left_in_its_words_can_be_followed_by_a_question(tiny_engine: Engine, clip: Clips) -> None:
    session = tiny_engine.open(clip(2))
    stream = session.stream(QUESTION, **SHORT)
    next(stream)
    stream.close()
    answer = session.ask("What is this?", **SHORT)
    text = tiny_engine.processor.tokenizer.decode(session._space.dialogue.transcript[0].input_ids.tolist())
    assert text.count("<|im_end|>\n<|im_start|>user") == 1
    assert answer.raw_text


def test_a_new_question_ends_a_stream_that_is_still_open(tiny_engine: Engine, clip: Clips) -> None:
    session = tiny_engine.open(clip(3))
    stream = session.stream(QUESTION, **SHORT)
    next(stream)
    answer = session.ask("What is this?", **SHORT)
    assert list(stream) == []
    transcript, unread = session._space.dialogue.transcript
    assert [*transcript.input_ids.tolist(), *unread][-len(answer.tokens) :] == list(answer.tokens)


def test_a_turn_is_put_as_it_is_written_beside_the_conversation(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip()) as session:
        plain = session.ask("What is this?", **SHORT)
        put = session.ask_turn(Turn(question="What is this?"), **SHORT)
        assert put.tokens == plain.tokens
        again = session.ask("What is this?", **SHORT)
        with tiny_engine.open(clip()) as other:
            other.ask("What is this?", **SHORT)
            assert other.ask("What is this?", **SHORT).tokens == again.tokens  # nothing stood in between


def test_a_dictated_answer_gives_the_masks_that_forcing_gives(tiny_engine: Engine, clip: Clips) -> None:
    points = [Point(20, 30, object_id=2), Point(60, 40, object_id=1)]
    words = "Where are [2] <|ref|> and [1] <|ref|>?"
    with tiny_engine.open(clip()) as session:
        forced = session.segment(points, prompt_question="Where are [2] and [1]?", force="always")
    turn = Turn(
        question=words, answer="[2] <|seg|> [1] <|seg|>", references=tuple((p,) for p in points), targets=(2, 1)
    )
    with tiny_engine.open(clip()) as session:
        put = session.ask_turn(turn)
        assert (put.text, [one.id for one in put.objects]) == ("", [2, 1])
        assert {one.id: one.track for one in put.objects} == {one.id: one.track for one in forced}
        with pytest.raises(PromptError, match=r"the answer has 2 <\|seg\|>, expected 1"):
            session.ask_turn(replace(turn, targets=(2,)))
        outside = replace(turn, references=((Box(96, 96, -1, -1),), (points[1],)))
        with pytest.raises(PromptError, match="is empty"):
            session.ask_turn(outside)
        assert len(session.ask_turn(replace(outside, as_written=True)).objects) == 2


def test_a_primed_reply_goes_on_from_its_beginning(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(2)) as session:
        answer = session.ask("What is this?", answer_prefix="The target is", **SHORT)
        transcript, unread = session._space.dialogue.transcript
        said = tiny_engine.processor.tokenizer.decode([*transcript.input_ids.tolist(), *unread])
        assert said.endswith(f"<|im_start|>assistant\nThe target is{answer.raw_text}")
        with pytest.raises(PromptError, match="the beginning of the answer contains the reserved token"):
            session.ask("What is this?", answer_prefix="<|seg|>")


def test_start_best_tracks_both_ways_from_the_frame_with_the_highest_score(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(5)) as session:
        answer = session.ask(QUESTION, start="best", **SHORT)
        starts = {one.id: session.objects[one.id].anchors[0].frame for one in answer.objects}
        for one in answer.objects:
            again = tiny_engine.open(clip(5)).ask(QUESTION, start=starts[one.id], **SHORT)
            assert agreement(again.objects[one.id - 1].track, one.track) > 0.9999


def build_starting_at_best(engine: Engine, **settings: Any) -> Engine:
    """The same weights; objects start on their best frame."""
    pixel = replace(engine.model.config.pixel, start_frame="best")
    model = UniPixel(replace(engine.model.config, pixel=pixel)).eval()
    model.load_state_dict(engine.model.state_dict())
    processor = engine.processor
    return Engine(model, Processor(processor.tokenizer, replace(processor.settings, **settings)))


@torch.no_grad()
def score_alone(engine: Engine, frame: FrameFeatures, anchor: Anchor) -> float:
    """Score of one object on one frame, with nothing remembered."""
    return decode_frame(engine.model.segmenter, frame, [anchor]).scores.item()


def test_a_checkpoint_says_where_objects_start(tiny_engine: Engine, clip: Clips) -> None:
    engine = build_starting_at_best(tiny_engine, still_frames=True)
    with engine.open(clip(7), num_frames=4, track="all") as session:
        assert session.seen_frames == (0, 2, 4, 6)
        found = [session.objects[one.id] for one in session.ask(QUESTION, **SHORT).objects]
        frames = {t: session._space.features.get(t) for t in session.seen_frames}
        for known in found:
            assert known.queries is not None
            scores = {t: score_alone(engine, frame, Anchor(t, known.queries)) for t, frame in frames.items()}
            assert known.anchors[0].frame == max(scores, key=lambda t: scores[t])
        assert found
        assert [one.anchors[0].frame for one in session.segment(Point(30, 30, frame=3), force="always")] == [3]
        assert session.segment(Point(30, 30, frame=3), start=1, force="always")[0].anchors[0].frame == 1
    with tiny_engine.open(clip(5)) as session:
        for one in session.ask(QUESTION, **SHORT).objects:
            assert session.objects[one.id].anchors[0].frame == 0


def test_the_language_model_sees_samples_of_a_clip_that_is_tracked_whole(tiny_engine: Engine, clip: Clips) -> None:
    frames = clip(20)
    with tiny_engine.open(frames, num_frames=4, track="all") as session:
        assert session.num_frames == 20
        assert session.seen_frames == (0, 6, 13, 19)
        answer = session.ask(QUESTION, **SHORT)
        assert answer.objects[0].masks.shape[0] == 20
        assert session.ask("What is this?", prompts=Point(30, 30, frame=17), **SHORT).objects[0].track.num_frames == 20
    with tiny_engine.open(frames, num_frames=4) as session:
        assert session.num_frames == 4
        assert session.frame_indices == (0, 6, 13, 19)


def test_a_still_image_is_a_clip_of_one_frame(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(1)[0]) as session:
        answer = session.ask("Please segment the dog in this image.", prompts=Box(5, 5, 60, 60), **SHORT)
        assert session.num_frames == 1
        assert answer.objects[0].masks.shape == (1, 90, 120)
        text = tiny_engine.processor.tokenizer.decode(session._space.dialogue.transcript[0].input_ids.tolist())
        assert "highlighted regions:\n[1]: <|mem|>\n" in text


def test_a_conversation_that_outgrows_the_model_is_refused(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(1)[0]) as session, pytest.raises(PromptError, match="the model reads at most 2048"):
        session.ask("word " * 3000)


def test_a_closed_session_says_so(tiny_engine: Engine, clip: Clips) -> None:
    session = tiny_engine.open(clip(1)[0])
    answer = session.ask("Please segment the dog in this image.", **SHORT)
    session.close()
    session.close()
    with pytest.raises(ValueError, match="the session is closed"):
        session.ask("What is this?")
    assert answer.draw().shape == (90, 120, 3)
    assert isinstance(session, Session)


def test_a_question_that_names_a_removed_object_is_refused(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(2)) as session:
        one, two = session.segment([Box(5, 5, 40, 40), Box(50, 10, 90, 60)], force="always")
        session.remove(two)
        for text in (f"What is [{two.id}]?", f"Is [{one.id}] beside [{two.id}]?"):
            with pytest.raises(
                PromptError, match=rf"names \[{two.id}\], an object that was removed; known are {one.id}"
            ):
                session.ask(text, max_new_tokens=1)
        session.ask(f"What is [{one.id}]?", max_new_tokens=1)
        with pytest.raises(PromptError, match="was removed"):
            session.prepare(f"And [{two.id}]?")
        session.prepare(f"Find [{two.id}].", prompts=[Point(60, 20, object_id=two.id)])  # pointed at anew
        session.remove(one)
        with pytest.raises(PromptError, match="known are none"):
            session.prepare("What is [1]?")


def test_boxes_are_cut_to_the_frame_by_a_pixel_at_most(tiny_engine: Engine, clip: Clips) -> None:
    with tiny_engine.open(clip(1)) as session:
        height, width = session.media.size_hw
        for box in (Box(0, 0, width + 1e-4, height), Box(-1, 0, 9, 9), Box(2, -0.5, 9, height + 1)):
            (one,) = session.prepare(None, prompts=[box]).prompts.values()
            cut = one[0]
            assert cut.x1 >= 0 and cut.y1 >= 0 and cut.x2 <= width and cut.y2 <= height
        with pytest.raises(
            PromptError, match=rf"the box \(0, 0, {width + 1.0001}, 9\) leaves the frame by 1\.0001 pixels"
        ):
            session.prepare(None, prompts=[Box(0, 0, width + 1.0001, 9)])
        with pytest.raises(PromptError, match="leaves the frame by 2 pixels"):
            session.prepare(None, prompts=[Box(-2, 0, 9, 9)])
