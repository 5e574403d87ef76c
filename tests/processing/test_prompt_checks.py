"""Points, boxes and masks: what is refused and why, and where they lie in SAM's square."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unipixel.errors import PromptError
from unipixel.processing.prompts import (
    build_reference,
    build_sam_points,
    check_prompt,
    choose_strongest,
    format_noun_phrase,
    format_request,
)
from unipixel.sample import Box, Mask, Point

SIZE = (40, 60)
NAN = float("nan")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Point(60, 5), r"the point \(60, 5\) is outside the frame; x must be in 0 to 60 \(exclusive\)"),
        (Point(-0.1, 5), "outside the frame"),
        (Point(5, 40), "outside the frame"),
        (Point(NAN, 5), "a coordinate of the point is nan; it must be a finite number"),
        (Point(5, float("inf")), "is inf"),
        (Point("5", 5), "is '5'"),
        (Point(True, 5), "is True"),
        (Point(None, 5), "is None"),
        (Point(5, 5, frame=3), "the prompt's frame is 3; the clip has frames 0 to 2"),
        (Point(5, 5, frame=-1), "frame is -1"),
        (Point(5, 5, frame=1.0), "frame is 1.0"),
        (Point(5, 5, frame=True), "frame is True"),
        (Box(5, 5, 5, 20), r"the box \(5, 5, 5, 20\) is empty; it must be x1, y1, x2, y2 with x1 < x2"),
        (Box(20, 5, 10, 20), "is empty"),
        (
            Box(-1, 5, 10, 20),
            r"the box \(-1, 5, 10, 20\) leaves the frame by 1 pixels; x must be in 0 to 60 and y in 0 to 40",
        ),
        (Box(1, 5, 60.5, 20), "leaves the frame"),
        (Box(1, NAN, 6, 20), "a coordinate of the box is nan"),
        (Mask(np.zeros(SIZE, bool)), "the mask is empty"),
        (Mask(np.ones((60, 40), bool)), r"the mask has the shape \(60, 40\); the frame needs \(40, 60\)"),
        (Mask(np.ones((1, 40, 60), bool)), "shape"),
        (Mask(np.ones(SIZE, np.uint8)), "the mask is uint8; it must be a NumPy array of bool"),
        (Mask([[True]]), "the mask is list"),
        ((3, 4), "a prompt is a tuple, expected a Point, Box or Mask"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_with_the_reason(prompt: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        check_prompt(prompt, SIZE, 3)


@pytest.mark.parametrize(
    "prompt",
    [
        Point(0, 0),
        Point(59.99, 39.99, frame=2),
        Point(np.float32(3), np.int64(4), frame=np.int64(1)),
        Box(0, 0, 60, 40),
        Mask(np.eye(40, 60, dtype=bool)),
    ],
)
def test_a_prompt_inside_the_clip_is_taken(prompt: Any) -> None:
    check_prompt(prompt, SIZE, 3)


def test_points_and_boxes_are_scaled_to_sams_square() -> None:
    coords, labels, frame = build_reference([Point(30, 10, frame=2, positive=False)], SIZE, 3, 120)
    assert (coords.tolist(), labels.tolist(), frame) == ([[60, 30]], [0], 2)
    coords, labels, frame = build_reference([Box(0, 10, 60, 40)], SIZE, 3, 120)
    assert (coords.tolist(), labels.tolist(), frame) == ([[0, 30], [120, 120]], [2, 3], 0)


def test_one_reference_takes_a_point_or_two_or_a_box() -> None:
    _, labels, _ = build_reference([Point(6, 4), Point(12, 8, positive=False)], SIZE, 3, 120)
    assert labels.tolist() == [1, 0]
    with pytest.raises(PromptError, match="takes a point, two points, or one box"):
        build_reference([Point(6, 4), Box(1, 1, 9, 9)], SIZE, 3, 120)


def test_sam_takes_all_prompts_of_an_object_with_the_box_first() -> None:
    _, labels, _ = build_sam_points([Point(6, 4), Box(0, 0, 6, 4), Point(3, 2, positive=False)], SIZE, 3, 60)
    assert labels.tolist() == [2, 3, 1, 0]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "has no prompt"),
        ([Point(1, 1), Point(1, 1, frame=1)], r"are on frames \[0, 1\]"),
        ([Box(1, 1, 2, 2), Box(3, 3, 4, 4)], "has 2 boxes"),
        ([Mask(np.ones(SIZE, bool))], "a mask cannot be an object reference"),
    ],
)
def test_prompts_that_do_not_describe_one_object_are_refused(prompts: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        build_sam_points(prompts, SIZE, 3, 60)


def test_a_box_says_more_than_a_point_and_a_click_on_an_object_more_than_one_beside_it() -> None:
    beside, on, box = Point(1, 1, positive=False), Point(2, 2), Box(1, 1, 4, 4)
    assert choose_strongest([beside, on, box]) is box
    assert choose_strongest([beside, on]) is on
    assert choose_strongest([beside]) is beside


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("The tall dog.", "tall dog"),
        ("a cat", "cat"),
        ("Red car", "red car"),
        ("the", "the"),
        ("an  owl", " owl"),
        ("The Big Apple", "Big Apple"),
    ],
)
def test_a_query_becomes_a_bare_noun_phrase(text: str, phrase: str) -> None:
    assert format_noun_phrase(text) == phrase


def test_evaluation_wording_is_that_of_the_release() -> None:
    assert format_request("query", "The dog.", is_video=False) == "Please segment the dog in this image."
    assert format_request("query", "dog", is_video=True) == "Please segment the dog in this video."
    assert format_request("sentence", "Who runs?", is_video=True) == "Who runs? Please provide the segmentation mask."
    described = format_request("description", "A {tall} man", is_video=True)
    assert described == "Please segment the object according to the description: A {tall} man"
    with pytest.raises(ValueError, match="wording is 'poem'"):
        format_request("poem", "x", is_video=True)


def test_training_wording_varies_with_the_generator_alone() -> None:
    def drawn(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [format_request("query", "dog", is_video=False, rng=rng) for _ in range(20)]

    assert drawn(1) == drawn(1)
    assert len(set(drawn(1))) > 3
