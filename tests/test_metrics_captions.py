"""Caption metrics against values computed by hand."""

from __future__ import annotations

import math

import pytest

from unipixel.metrics import cider_d, token_f1
from unipixel.metrics.texts import caption_words


def test_words_are_small_and_without_punctuation_and_contractions_are_cut() -> None:
    assert caption_words("A man's black-and-white dog (2) doesn’t run!") == [
        "a",
        "man",
        "'s",
        "black-and-white",
        "dog",
        "2",
        "does",
        "n't",
        "run",
    ]


def test_a_caption_equal_to_its_only_reference_scores_10_times_the_lengths_it_has() -> None:
    # Four words: runs of 1 to 4 words exist and all are equal, so every cosine is 1. Two words: only two of the four.
    scores = cider_d(["a red dog runs", "two cats"], [["a red dog runs"], ["two cats"]])
    assert scores == pytest.approx((10.0, 5.0))
    assert scores.mean() == pytest.approx(7.5)


def test_cider_d_by_hand_with_rarity_and_the_penalty_for_length() -> None:
    # Two pictures: "a" is in both references (weight log 2/2 = 0), every other run in one (weight log 2).
    scores = cider_d(["a dog", "x y z"], [["a red dog"], ["a cat"]])
    # single words: caption {dog}, reference {red, dog}: cosine 1/sqrt(2); pairs: {a dog} against {a red, red dog}: 0
    expected = 10 * math.exp(-(1**2) / (2 * 6**2)) * (1 / math.sqrt(2)) / 4
    assert scores == pytest.approx((expected, 0.0))


def test_repeating_a_rare_word_gains_nothing_over_the_reference() -> None:
    once, often = (cider_d([text, "x"], [["dog"], ["cat"]])[0] for text in ("dog", "dog dog dog"))
    # counts are clipped to 1, the norm grows to 3, and the length costs
    assert once == pytest.approx(2.5)
    assert often == pytest.approx(2.5 / 3 * math.exp(-(2**2) / 72))


def test_several_references_are_averaged() -> None:
    scores = cider_d(["dog", "x"], [["dog", "bird"], ["cat"]])
    assert scores[0] == pytest.approx(1.25)


def test_captions_of_a_single_picture_have_no_rarity_and_score_0() -> None:
    assert cider_d(["a dog"], [["a dog"]]).mean() == 0


def test_overlap_of_words_is_the_f_measure_of_the_best_reference() -> None:
    assert token_f1("a red dog", ["the dog runs"]) == pytest.approx(1 / 3)
    assert token_f1("a red dog", ["something else", "Red dog, a!"]) == 1
    assert token_f1("dog dog", ["dog"]) == pytest.approx(2 / 3)
    assert token_f1("", ["dog"]) == 0
    assert token_f1("", [""]) == 1


def test_missing_captions_and_references_are_refused() -> None:
    with pytest.raises(ValueError, match="0 captions"):
        cider_d([], [])
    with pytest.raises(ValueError, match="at least one reference each"):
        cider_d(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="no reference"):
        token_f1("a", [])
