"""A model as a predictor: every question is answered as if it were the only one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from worlds import choices, expressions, read

from unipixel.bench.scene import build_random_engine
from unipixel.engine.engine import Engine
from unipixel.engine.session import Session
from unipixel.errors import PromptError
from unipixel.eval.choices import Choices
from unipixel.eval.expression_masks import VideoMasks
from unipixel.eval.pixelqa import PixelQA
from unipixel.eval.predictors import RELEASED, EnginePredictor, PerfectPredictor
from unipixel.eval.protocols import BenchmarkProtocol, Prediction, Question
from unipixel.masks import MaskTrack
from unipixel.model.presets import TINY_SAM
from unipixel.processing import ImageSettings, Processor
from unipixel.sample import Turn


@pytest.fixture(scope="module")
def engine() -> Engine:
    return build_random_engine(TINY_SAM)


@pytest.fixture
def predictor(engine: Engine) -> Iterator[EnginePredictor]:
    made = EnginePredictor(engine)
    yield made
    made.close()


def questions(protocol: BenchmarkProtocol, records: list, num_frames: int = 4) -> list[Question]:
    asked = [
        one for unit in protocol.group_records(records) for one in protocol.build_questions(unit, read, num_frames)
    ]
    return [replace(one, max_new_tokens=4) for one in asked]


def test_questions_about_one_clip_share_its_features_and_nothing_else(
    engine: Engine, predictor: EnginePredictor
) -> None:
    # the third is about the object of the second, were it remembered
    asked = questions(VideoMasks(), expressions(1, 2))
    asked.append(replace(asked[0], text="What is [1]?"))
    together = [predictor.answer(one) for one in asked]
    session = predictor._session
    assert session is not None
    alone = []
    for one in asked:
        fresh = EnginePredictor(engine)
        alone.append(fresh.answer(one))
        fresh.close()
    assert together == alone
    assert session._space.features.encoded <= asked[0].sample.media.num_frames


def test_evaluation_asks_once_whatever_the_question_names(engine: Engine, predictor: EnginePredictor) -> None:
    (asked,) = questions(VideoMasks(), expressions(1, 1))[:1]
    asked = replace(asked, text="Please segment the dog and the two cats in this video.")
    with engine.open(asked.sample.media, track="all") as session:
        assert session.prepare(asked.text).parts  # it would be taken apart elsewhere
        once = session.ask(asked.text, max_new_tokens=4, each=False)
    reply = predictor.answer(asked)
    assert reply.text == once.raw_text
    assert [one.track for one in reply.objects] == [one.track for one in once.objects]


def test_another_clip_is_opened_anew(predictor: EnginePredictor) -> None:
    first, second = questions(VideoMasks(), expressions(2, 1))
    predictor.answer(first)
    session = predictor._session
    predictor.answer(second)
    assert predictor._session is not session
    again = predictor._session
    predictor.answer(replace(second, clip=None))  # who knows what it shows
    assert predictor._session is not again


def test_given_masks_reach_the_model_as_they_are(predictor: EnginePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    (asked, *_) = questions(Choices(style="videorefer", regions="single"), choices())
    given, opening = [], Processor.build_first_turn
    monkeypatch.setattr(
        Processor, "build_first_turn", lambda self, *all_of: given.append(all_of[2]) or opening(self, *all_of)
    )
    predictor.answer(asked)
    assert given[-1] == asked.sample.objects
    assert not asked.sample.objects[0].visible[0]


def test_prompts_become_objects_under_their_own_ids(predictor: EnginePredictor) -> None:
    (asked, *_) = questions(PixelQA(prompts="mixed", forced=True), choices())
    reply = predictor.answer(asked)
    assert [one.id for one in reply.objects] == [1, 4]
    assert all(one.track.num_frames == 4 for one in reply.objects)
    assert not any(one.prompts or one.anchors for one in reply.objects)  # a run keeps all of its predictions
    stored = Prediction.from_json(reply.to_json())
    assert stored.text == reply.text
    for one, other in zip(stored.objects, reply.objects, strict=True):
        assert (one.id, one.track) == (other.id, other.track)
        assert one.frame_scores == tuple(round(score, 4) for score in other.frame_scores)


def test_an_object_that_was_not_found_becomes_the_whole_frame_only_where_the_original_is_followed(
    predictor: EnginePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (free, *_) = questions(PixelQA(prompts="point"), choices())
    # random weights write no <|seg|> by themselves
    reply = predictor.answer(free)
    assert all(not one.track.visible.any() for one in reply.objects)
    seen = []

    def nothing_found(self: Session, turn: Turn, objects: Any = None, **options: Any) -> Any:
        answer = given(self, turn, objects, **options)
        if turn.answer:
            empty = tuple(
                replace(one, track=MaskTrack(one.track.size_hw, (None,) * one.track.num_frames))
                for one in answer.objects
            )
            return replace(answer, objects=empty)
        seen.append(objects)
        return answer

    given = Session.ask_turn
    monkeypatch.setattr(Session, "ask_turn", nothing_found)
    (original, *_) = questions(PixelQA(prompts="point", original=True), choices())
    filled = predictor.answer(original)
    assert [one.id for one in filled.objects] == [0, 3]
    assert all(not one.track.visible.any() for one in filled.objects)  # what was found is still nothing
    assert list(seen[0]) == [0, 3] and all(track.masks.all() for track in seen[0].values())


def test_picture_sizes_of_a_protocol_are_for_released_checkpoints_only(engine: Engine) -> None:
    (asked, *_) = questions(Choices(style="videorefer", regions="single"), choices())
    assert EnginePredictor(engine)._get_engine(asked.view) is engine
    released = Engine(engine.model, Processor(engine.processor.tokenizer, RELEASED))
    settings = EnginePredictor(released)._get_engine(asked.view).processor.settings
    assert (settings.min_pixels, settings.max_pixels) == (100 * 28 * 28, 144 * 28 * 28)
    assert EnginePredictor(released)._get_engine(None) is released
    view = ImageSettings(share_budget=False, fps=0.5, frame_resize="tensor")
    settings = EnginePredictor(released)._get_engine(view).processor.settings
    assert (settings.compute_max_area(1), settings.fps, settings.frame_resize) == (256 * 28 * 28, 0.5, "tensor")


def test_a_view_keeps_the_rate_of_a_checkpoint_unless_it_has_one_of_its_own(engine: Engine) -> None:
    slow = Engine(engine.model, Processor(engine.processor.tokenizer, ImageSettings(fps=1.0)))
    for view, fps in ((ImageSettings(), 1.0), (ImageSettings(fps=4.0), 4.0)):
        assert EnginePredictor(slow)._get_engine(view).processor.settings.fps == fps


def test_objects_that_are_given_stand_in_the_order_of_the_question_and_one_that_is_unseen_keeps_its_line(
    predictor: EnginePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (asked, *_) = questions(Choices(style="videorefer", regions="multiple"), choices())
    sample = asked.sample
    unseen = MaskTrack(sample.media.size_hw, (None,) * sample.media.num_frames)
    turns = []
    opening = Processor.build_first_turn
    monkeypatch.setattr(
        Processor, "build_first_turn", lambda self, *given: turns.append(opening(self, *given)) or turns[-1]
    )
    predictor.answer(replace(asked, regions=(3, 0), sample=replace(sample, objects={**sample.objects, 0: unseen})))
    text = predictor.engine.processor.decode_answer(turns[-1].input_ids.tolist())
    lines = text.split("highlighted regions are as follows:\n")[1].split("\n")
    assert lines[0] == "[3]: <1>-<2> <|mem|> <3>-<4> <|mem|>" and lines[1] == "[0]: "
    alone = replace(asked, regions=(0,), sample=replace(sample, objects={0: unseen}))
    assert isinstance(predictor.answer(alone), Prediction)


def test_a_question_with_markup_is_an_error_and_the_next_one_is_answered(predictor: EnginePredictor) -> None:
    first, second = questions(VideoMasks(), expressions(1, 2))
    with pytest.raises(PromptError, match="reserved token"):
        predictor.answer(replace(first, text="Where is <|seg|>?"))
    assert isinstance(predictor.answer(second), Prediction)


def test_the_truth_is_told_in_the_form_that_the_question_asks_for() -> None:
    (primed, *_) = questions(Choices(style="videorefer", regions="single"), choices())
    (plain, *_) = questions(PixelQA(prompts="box"), choices())
    assert PerfectPredictor().answer(primed).text == "B)"
    reply = PerfectPredictor().answer(plain)
    assert reply.text == "(B)"
    assert np.array_equal(reply.objects[1].track.masks, plain.sample.objects[4].masks)
