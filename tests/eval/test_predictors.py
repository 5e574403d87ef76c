"""A model as a predictor: every question is answered as if it were the only one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from worlds import choices, expressions, read

from unipixel.bench.subject import QUICK_SAM, random_engine
from unipixel.engine.engine import Engine
from unipixel.errors import PromptError
from unipixel.eval.choices import Choices
from unipixel.eval.pixelqa import PixelQA
from unipixel.eval.predict import RELEASED, EnginePredictor, Perfect
from unipixel.eval.protocols import Protocol
from unipixel.eval.questions import Question, Reply
from unipixel.eval.video_masks import VideoMasks
from unipixel.processing import Processor


@pytest.fixture(scope="module")
def engine() -> Engine:
    return random_engine(QUICK_SAM)


@pytest.fixture
def predictor(engine: Engine) -> Iterator[EnginePredictor]:
    made = EnginePredictor(engine)
    yield made
    made.close()


def questions(protocol: Protocol, records: list, num_frames: int = 4) -> list[Question]:
    asked = [one for unit in protocol.units(records) for one in protocol.questions(unit, read, num_frames)]
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
    assert session.workspace.features.encoded <= asked[0].sample.media.num_frames


def test_evaluation_asks_once_whatever_the_question_names(engine: Engine, predictor: EnginePredictor) -> None:
    (asked,) = questions(VideoMasks(), expressions(1, 1))[:1]
    asked = replace(asked, text="Please segment the dog and the two cats in this video.")
    with engine.open(asked.sample.media, track="all") as session:
        assert session.request(asked.text).wanted  # it would be taken apart elsewhere
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


def test_given_masks_reach_the_model_as_they_are(predictor: EnginePredictor) -> None:
    (asked, *_) = questions(Choices(style="videorefer", regions="single"), choices())
    predictor.answer(asked)
    session = predictor._session
    assert session is not None
    assert session.objects[0].track == asked.sample.objects[0]
    assert not session.objects[0].visible[0]


def test_prompts_become_objects_under_their_own_ids(predictor: EnginePredictor) -> None:
    (asked, *_) = questions(PixelQA(prompts="mixed", forced=True), choices())
    reply = predictor.answer(asked)
    assert [one.id for one in reply.objects] == [1, 4]
    assert all(one.track.num_frames == 4 for one in reply.objects)
    assert Reply.from_json(reply.to_json()) == Reply(
        reply.text, tuple(replace(one, scores=tuple(round(s, 4) for s in one.scores)) for one in reply.objects)
    )


def test_an_object_that_was_not_found_becomes_the_whole_frame_only_where_the_original_is_followed(
    predictor: EnginePredictor,
) -> None:
    (free, *_) = questions(PixelQA(prompts="point"), choices())
    # random weights write no <|seg|> by themselves
    reply = predictor.answer(free)
    assert all(not one.track.visible.any() for one in reply.objects)
    filled = predictor.answer(replace(free, fill_empty=True))
    session = predictor._session
    assert session is not None
    assert all(session.objects[i].masks.all() for i in (1, 4))
    assert all(not one.track.visible.any() for one in filled.objects)  # what was found is still nothing


def test_picture_sizes_of_a_protocol_are_for_released_checkpoints_only(engine: Engine) -> None:
    (asked, *_) = questions(Choices(style="videorefer", regions="single"), choices())
    assert EnginePredictor(engine)._engine(asked) is engine
    released = Engine(engine.model, Processor(engine.processor.tokenizer, RELEASED))
    settings = EnginePredictor(released)._engine(asked).processor.settings
    assert (settings.min_pixels, settings.max_pixels) == (100 * 28 * 28, 144 * 28 * 28)
    assert EnginePredictor(released)._engine(replace(asked, visual_tokens=None)) is released


def test_a_question_with_markup_is_an_error_and_the_next_one_is_answered(predictor: EnginePredictor) -> None:
    first, second = questions(VideoMasks(), expressions(1, 2))
    with pytest.raises(PromptError, match="reserved token"):
        predictor.answer(replace(first, text="Where is <|seg|>?"))
    assert isinstance(predictor.answer(second), Reply)


def test_the_truth_is_told_in_the_form_that_the_question_asks_for() -> None:
    (primed, *_) = questions(Choices(style="videorefer", regions="single"), choices())
    (plain, *_) = questions(PixelQA(prompts="box"), choices())
    assert Perfect().answer(primed).text == "B)"
    reply = Perfect().answer(plain)
    assert reply.text == "(B)"
    assert np.array_equal(reply.objects[1].track.masks, plain.sample.objects[4].masks)
