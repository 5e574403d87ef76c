"""Queries put into words: the fixed wording, the drawn one, and every form on its way into training inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest

import unipixel
from unipixel.errors import DatasetError
from unipixel.masks import MaskTrack
from unipixel.media import Media
from unipixel.processing import Processor
from unipixel.processing.prompts import ANSWERS, build_reference
from unipixel.processing.regions import build_target_masks
from unipixel.processing.wording import (
    CHOICE_PRIMERS,
    DETAILED_CAPTIONS,
    PromptForm,
    format_choice,
    format_query,
    write_turns,
)
from unipixel.sample import Box, Point, Query, Sample
from unipixel.stickers import generate_scene_with_turns

FORMS: tuple[PromptForm, ...] = get_args(PromptForm)
CHOICE = Query(kind="choice", text="What is [3]?", options=("a dog", "a cat"), answer="B", about=(3,))
QA = Query(kind="qa", text="Is [1] near [3]?", answer="[3] is.", about=(1, 3), frame=1)


@pytest.fixture(scope="module")
def nano() -> Processor:
    return Processor.from_folder(Path(unipixel.__file__).parent / "checkpoints" / "nano")


def clip(*queries: Query) -> Sample:
    """Three frames of 40 x 60 pixels; object 1 on all of them, object 3 on the last two."""
    masks = np.zeros((2, 3, 40, 60), dtype=bool)
    masks[0, :, 4:20, 10:30] = True
    masks[1, 1, 30:33, 40:43] = True
    masks[1, 2, 25:35, 40:56] = True
    objects = {1: MaskTrack.from_masks(masks[0]), 3: MaskTrack.from_masks(masks[1])}
    media = Media.from_array(np.zeros((3, 40, 60, 3), dtype=np.uint8))
    return Sample(media=media, objects=objects, queries=queries, source="test/train 0")


@pytest.mark.parametrize(
    ("query", "question", "answer"),
    [
        (
            Query(kind="query", text="The Red dog.", targets=(1,)),
            "Please segment the Red dog in this video.",
            ANSWERS[0],
        ),
        (Query(kind="part", text="dog:left ear", targets=(1,)), "Please segment the dog left ear in this video.", None),
        (
            Query(kind="sentence", text="What barks?", targets=(1,)),
            "What barks? Please provide the segmentation mask.",
            None,
        ),
        (
            Query(kind="explanatory", text="What barks?", answer="It is a dog.", targets=(1,)),
            "What barks? Please provide the segmentation mask and explain why.",
            "The target is <|seg|>. It is a dog.",
        ),
        (
            Query(kind="question", text="Who barks?", answer="The dog.", targets=(1,)),
            "Who barks? Please answer the question and provide the segmentation mask.",
            "The dog <|seg|>.",
        ),
        (
            Query(kind="description", text="A dog that barks.", targets=(1,)),
            "Please segment the object according to the description: A dog that barks.",
            None,
        ),
        (Query(kind="query", text="dogs", targets=(1, 3)), None, "The target is <|seg|> and <|seg|>."),
        (Query(kind="query", text="unicorn", targets=(None,)), None, "The target is <|seg|>."),
        (Query(kind="conversation", text="Hello!", answer="Hi."), "Hello!", "Hi."),
        (
            Query(kind="caption", text="", answer="A dog.", about=(1,), category="detailed"),
            "Please give a detailed description of the highlighted object [1] in the video.",
            "A dog.",
        ),
        (
            Query(kind="caption", text="", answer="A dog.", about=(1,), category="short"),
            "Give me a short description of [1].",
            None,
        ),
        (Query(kind="caption", text="And [1]?", answer="A dog.", about=(1,)), "And [1]?", "A dog."),
        (
            CHOICE,
            "What is [3]?\nOptions:\n(A) a dog\n(B) a cat\nPlease only give the best option.",
            "(B)",
        ),
        (
            replace(CHOICE, text="What is it?", about=()),
            "What is it?\nOptions:\n(A) A dog\n(B) A cat\nPlease only give the best option.",
            "(B)",
        ),
    ],
)
def test_the_fixed_wording_of_evaluation(query: Query, question: str | None, answer: str | None) -> None:
    (turn,) = write_turns(clip(query)).turns
    if question is not None:
        assert turn.question == question == format_query(query, True)
    if answer is not None:
        assert turn.answer == answer
    assert turn.answer.count("<|seg|>") == len(turn.targets) == len(query.targets)
    assert turn.regions == query.about and turn.task == query.kind


def test_images_and_videos_are_called_what_they_are() -> None:
    assert format_query(Query(kind="query", text="dog"), False) == "Please segment the dog in this image."
    assert format_query(Query(kind="caption", text="", about=(0,)), False) == DETAILED_CAPTIONS[0].format(
        "[0]", "image"
    )


def test_choices_have_two_styles_with_their_beginnings_of_an_answer() -> None:
    assert "(A) a dog\n(B) a cat" in format_choice(CHOICE, "videorefer")
    assert "(A) A dog\n(B) A cat" in format_choice(CHOICE, "mvbench")
    assert CHOICE_PRIMERS == {"videorefer": "The best option is (", "mvbench": "Best Option: ("}


def test_a_query_without_targets_or_answer_is_only_asked() -> None:
    (turn,) = write_turns(clip(Query(kind="sentence", text="What barks?"))).turns
    assert (turn.answer, turn.targets) == ("", ())


def test_regions_are_given_once_in_front_of_the_conversation() -> None:
    talk = [Query(kind="conversation", text=f"And [{k}]?", answer="Yes.", about=(k,)) for k in (3, 1)]
    first, second = write_turns(clip(*talk)).turns
    assert (first.question, first.regions, first.references) == ("And [3]?", (3, 1), ())
    assert (second.question, second.regions) == ("And [1]?", ())


def test_points_stand_beside_the_first_mention_in_the_conversation() -> None:
    later = Query(kind="qa", text="Where is it?", answer="Left of [1].", about=(1,))
    first, second, third = write_turns(clip(CHOICE, later, QA), form="points").turns
    assert first.question.startswith("What is [3] <|ref|>?\nOptions:")
    assert second.question == "About [1] <|ref|>: Where is it?"
    assert third.question == QA.text and third.references == ()


def test_fixed_points_are_the_most_interior_pixel_on_the_named_or_the_best_frame() -> None:
    (turn,) = write_turns(clip(QA), form="points").turns
    assert turn.question == "Is [1] <|ref|> near [3] <|ref|>?"
    (one,), (three,) = turn.references
    assert isinstance(one, Point) and one.frame == 1 and 10 < one.x < 30 and 4 < one.y < 20
    assert three == Point(41.5, 31.5, frame=1)
    ((best,),) = write_turns(clip(CHOICE), form="points").turns[0].references
    assert best.frame == 2


def test_fixed_boxes_are_exact() -> None:
    (turn,) = write_turns(clip(QA), form="boxes").turns
    assert turn.references == ((Box(10, 4, 30, 20, frame=1),), (Box(40, 30, 43, 33, frame=1),))


def test_mixed_gives_half_of_the_objects_by_points_and_lone_ones_by_either() -> None:
    (turn,) = write_turns(clip(QA), form="mixed").turns
    assert {type(reference[0]) for reference in turn.references} == {Point, Box}
    lone = [write_turns(replace(clip(CHOICE), source=f"r {k}"), form="mixed").turns[0] for k in range(40)]
    boxes = sum(isinstance(turn.references[0][0], Box) for turn in lone)
    assert 10 <= boxes <= 30


def test_memory_asks_for_the_masks_of_what_a_question_is_about() -> None:
    qa, choice = write_turns(clip(QA, CHOICE), form="memory", pointing="boxes").turns
    assert qa.question == (
        "Is [1] <|ref|> near [3] <|ref|>?\nOptions:\n(A) [3] is. Please localize the relevant objects with IDs."
    )
    assert (qa.answer, qa.targets, qa.task) == ("[1] <|seg|> [3] <|seg|>", (1, 3), "memory")
    assert all(isinstance(reference[0], Box) for reference in qa.references)
    assert choice.question.startswith("What is [3] <|ref|>?\nOptions:\n(A) a dog\n(B) a cat Please localize")
    (plain,) = write_turns(clip(Query(kind="query", text="dog", targets=(1,))), form="memory").turns
    assert plain.targets == (1,) and plain.references == ()


def test_masks_in_a_memory_answer_are_in_the_order_of_the_question() -> None:
    turned = replace(QA, text="Is [3] near [1]?")
    (turn,) = write_turns(clip(turned), form="memory", pointing="points").turns
    assert turn.answer == "[3] <|seg|> [1] <|seg|>" and turn.targets == (3, 1)
    assert turn.references[0][0].x > turn.references[1][0].x


def test_an_introduction_goes_in_front_of_what_asks_for_masks_only() -> None:
    introduced = replace(QA, introduction="There are [1] and [3].")
    (turn,) = write_turns(clip(introduced), form="memory").turns
    assert turn.question.startswith("There are [1] <|ref|> and [3] <|ref|>.\nIs [1] near [3]?\nOptions:\n(A) [3] is. ")
    assert turn.answer == "[1] <|seg|> [3] <|seg|>"
    for form in ("regions", "points"):
        assert "There are" not in write_turns(clip(introduced), form=form).turns[0].question
    alone = replace(QA, text="[3]?", answer="x", about=(3,), introduction="There is [3].")
    sample = replace(clip(alone), objects={3: clip().objects[3]})
    assert set(asked(sample, 0, "memory").objects) == {3}


def test_bare_references_take_the_place_of_ids() -> None:
    sample = clip(replace(QA, text="Is [3] near [1], and is [3] big?"))
    (turn,) = write_turns(sample, np.random.default_rng(0), form="bare", pointing="boxes").turns
    assert turn.question == "Is <|ref|> near <|ref|>, and is [3] big?"
    (three,), (one,) = turn.references
    assert isinstance(three, Box) and isinstance(one, Box) and three.x1 > one.x1
    lone = replace(clip(Query(kind="caption", text="", about=(3,), category="short")), objects={3: clip().objects[3]})
    (turn,) = write_turns(lone, np.random.default_rng(0), form="bare", pointing="points").turns
    assert "<|ref|>" in turn.question and "[" not in turn.question and isinstance(turn.references[0][0], Point)


@pytest.mark.parametrize("pointing", ["points", "boxes"])
def test_prompts_on_a_grid_are_whole_pixels_of_the_stretched_mask(pointing: Literal["points", "boxes"]) -> None:
    side = 96
    seen = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        (turn,) = write_turns(clip(QA), rng, form="bare", pointing=pointing, grid=side).turns
        for number, (prompt,) in zip((1, 3), turn.references, strict=True):
            track = clip().objects[number]
            coords, _, _ = build_reference([prompt], track.size_hw, 3, side)
            stretched = build_target_masks([track], 3, side, "touched")[prompt.frame, 0].numpy()
            x, y = coords.numpy().T
            if pointing == "points":
                assert (x % 1 == 0).all() and (y % 1 == 0).all()
                assert stretched[y.astype(int), x.astype(int)].all()
                seen.add((number, *coords[0].tolist()))
                continue
            rows, columns = np.flatnonzero(stretched.any(1)), np.flatnonzero(stretched.any(0))
            exact = np.array([[columns[0], rows[0]], [columns[-1], rows[-1]]])
            bound = np.minimum(0.1 * (exact[1] - exact[0]), 20 / 768 * side) + 1e-4
            assert (np.abs(coords.numpy() - exact) <= bound).all()
            assert coords.min() >= 0 and coords.max() <= side - 1
    assert pointing == "boxes" or len(seen) > 30


def test_a_box_on_one_column_of_the_grid_still_has_an_inside() -> None:
    mask = np.zeros((1, 40, 60), dtype=bool)
    mask[0, 5:9, 0] = True
    sample = replace(clip(replace(QA, text="[1]?", about=(1,))), objects={1: MaskTrack.from_masks(mask.repeat(3, 0))})
    for side in (16, 60, 768):
        (turn,) = write_turns(sample, form="boxes", grid=side).turns
        coords, _, _ = build_reference(turn.references[0], (40, 60), 3, side)
        assert (coords[1] > coords[0]).all()


def asked(sample: Sample, seed: int, form: PromptForm) -> Sample:
    return write_turns(sample, np.random.default_rng(seed), form=form)


@pytest.mark.parametrize("form", FORMS)
def test_a_generator_decides_everything_and_nothing_else_does(form: PromptForm) -> None:
    queries = (QA, CHOICE, Query(kind="query", text="the dog", targets=(1,)))
    np.random.seed(1)  # noqa: NPY002 - must not matter
    before = [asked(clip(*queries), seed, form).turns for seed in range(12)]
    np.random.seed(2)  # noqa: NPY002
    assert before == [asked(clip(*queries), seed, form).turns for seed in range(12)]
    assert len(set(before)) > 8
    assert write_turns(clip(*queries), form=form).turns == write_turns(clip(*queries), form=form).turns


def test_drawn_prompts_lie_on_their_objects_on_frames_that_show_them() -> None:
    sample, frames, kinds = clip(replace(QA, frame=None)), set(), set()
    for seed in range(60):
        for turn in asked(sample, seed, "mixed").turns:
            for number, (prompt,) in zip(sample.queries[0].about, turn.references, strict=True):
                track = sample.objects[number]
                frames.add((number, prompt.frame))
                kinds.add((number, type(prompt)))
                if isinstance(prompt, Point):
                    assert track.mask(prompt.frame)[int(prompt.y), int(prompt.x)]
                else:
                    exact = track.boxes[prompt.frame]
                    found = np.array([prompt.x1, prompt.y1, prompt.x2, prompt.y2])
                    sides = np.tile(exact[2:] - exact[:2], 2)
                    bound = np.minimum(0.1 * sides, 20 / 768 * np.array([60, 40, 60, 40]))
                    assert (np.abs(found - exact) <= bound + 1e-9).all() and (found != exact).any()
    assert frames == {(1, 0), (1, 1), (1, 2), (3, 1), (3, 2)}
    assert kinds == {(number, kind) for number in (1, 3) for kind in (Point, Box)}


def test_a_named_frame_is_kept_also_by_a_generator() -> None:
    prompts = [p for seed in range(10) for (p,) in asked(clip(QA), seed, "points").turns[0].references]
    assert {prompt.frame for prompt in prompts} == {1}


def test_a_lone_object_gets_ids_from_0_to_15_everywhere() -> None:
    query = Query(kind="choice", text="[3]?", options=("[3]", "x"), answer="A", about=(3,))
    alone = replace(clip(query), objects={3: clip().objects[3]}, boxes={3: (40.0, 25.0, 56.0, 35.0)})
    ids = set()
    for seed in range(150):
        out = asked(alone, seed, "regions")
        ((number, track),) = out.objects.items()
        ids.add(number)
        assert out.turns[0].question.startswith(f"[{number}]?\nOptions:\n(A) [{number}]")
        assert out.turns[0].regions == out.queries[0].about == (number,)
        assert track is alone.objects[3] and list(out.boxes) == [number]
    assert ids == set(range(16))
    assert set(asked(clip(CHOICE), 0, "regions").objects) == {1, 3}


def test_as_many_turns_as_allowed_random_ones_but_conversations_whole() -> None:
    queries = tuple(Query(kind="query", text=f"thing {k}", targets=(1,)) for k in range(6))
    assert write_turns(clip(*queries), max_turns=2).queries == queries[:2]
    drawn = {write_turns(clip(*queries), np.random.default_rng(k), max_turns=2).queries for k in range(20)}
    assert len(drawn) > 10 and all(len(set(chosen)) == 2 for chosen in drawn)
    talk = tuple(replace(query, kind="conversation", answer="x", targets=()) for query in queries)
    assert write_turns(clip(*talk), np.random.default_rng(0), max_turns=3).queries == talk


def test_a_share_of_clips_keeps_masks_of_one_frame_that_shows_all_objects() -> None:
    shown = []
    for seed in range(40):
        out = write_turns(clip(replace(QA, frame=None)), np.random.default_rng(seed), one_frame_share=0.5)
        visible = [track.visible.tolist() for track in out.objects.values()]
        if sum(visible[0]) == 1:
            assert visible[0] == visible[1] and visible[0][out.queries[0].frame or 0]
            shown.append(visible[0].index(True))
        else:
            assert visible == [[True, True, True], [False, True, True]]
    assert 10 < len(shown) < 30 and set(shown) == {1, 2}


def test_bad_samples_and_arguments_are_refused() -> None:
    with pytest.raises(DatasetError, match="test/train 0: there is no query"):
        write_turns(clip())
    with pytest.raises(DatasetError, match=r"test/train 0: object 7, .* is not among the objects"):
        write_turns(clip(replace(QA, about=(7,))))
    hidden = replace(clip(CHOICE), objects={3: MaskTrack((40, 60), (None,) * 3)})
    with pytest.raises(DatasetError, match="object 3, which is asked about, is seen on none"):
        write_turns(hidden, form="points")
    with pytest.raises(ValueError, match="form and pointing are 'lines' and 'mixed'"):
        write_turns(clip(QA), form="lines")
    with pytest.raises(ValueError, match="max_turns is 0"):
        write_turns(clip(QA), max_turns=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("video", [False, True], ids=["still", "clip"])
@pytest.mark.parametrize("seed", [None, 5])
def test_every_form_goes_through_the_processor_of_training(
    nano: Processor, form: PromptForm, video: bool, seed: int | None
) -> None:
    scene, turns = generate_scene_with_turns(3, 4, video=video)
    made = scene.to_sample(turns)
    first, second = [number for number, track in made.objects.items() if track.visible.any()][:2]
    queries = (
        Query(kind="qa", text=f"Is [{first}] left of [{second}]?", answer="yes", about=(first, second)),
        Query(kind="choice", text=f"What is [{second}]?", options=("dog", "cat"), answer="A", about=(second,)),
        Query(kind="caption", text="", answer="the dog", about=(first,), category="short"),
        Query(kind="query", text="the dog", targets=(first,)),
    )
    rng = None if seed is None else np.random.default_rng(seed)
    sample = write_turns(replace(made, queries=queries, turns=()), rng, form=form)
    inputs = nano.build_training_inputs(sample)
    ids = inputs["input_ids"].tolist()
    count = {token: ids.count(nano.chat.ids[token]) for token in ("<|ref|>", "<|mem|>", "<|seg|>")}
    assert inputs["target_masks"] is not None and inputs["target_masks"].shape[1] == count["<|seg|>"]
    assert count["<|seg|>"] == (5 if form == "memory" else 1)
    assert len(inputs["point_coords"]) == count["<|ref|>"] == {"regions": 0, "memory": 4, "bare": 2}.get(form, 2)
    assert (inputs["region_masks"] is None) == (form != "regions")
    if form == "regions":
        assert inputs["region_masks"].flatten(2).any(-1).sum() == count["<|mem|>"] > 0
    assert (inputs["labels"] != -100).sum() > 10
