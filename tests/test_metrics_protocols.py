"""Scores of videos, boxes and choices against cases computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from unipixel import metrics


def blank(height: int = 6, width: int = 8) -> np.ndarray:
    return np.zeros((height, width), bool)


def box(y1: int, x1: int, y2: int, x2: int, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    mask = blank(*size)
    mask[y1:y2, x1:x2] = True
    return mask


# --- sequences -----------------------------------------------------------------------------------------------------


def test_frame_scores_are_those_of_the_single_frames_and_take_generators() -> None:
    rng = np.random.default_rng(0)
    predictions, targets, voids = rng.random((3, 5, 40, 70)) > 0.8
    scores = metrics.frame_scores(iter(predictions), iter(targets), iter(voids))
    for t in range(5):
        assert scores["J"][t] == metrics.iou(predictions[t], targets[t], voids[t])
        assert scores["F"][t] == metrics.boundary_f(predictions[t], targets[t], voids[t])
    means = metrics.mean_scores(scores)
    assert means["J&F"] == pytest.approx((scores["J"].mean() + scores["F"].mean()) / 2)


def test_a_perfect_prediction_scores_one_in_every_frame() -> None:
    targets = np.stack([box(0, 0, 3, 3), blank(), ~blank(), box(5, 7, 6, 8)])
    assert metrics.mean_scores(metrics.frame_scores(targets, targets)) == {"J": 1.0, "F": 1.0, "J&F": 1.0}


def test_statistics_are_mean_share_above_half_and_loss_from_first_to_last_quarter() -> None:
    mean, recall, decay = metrics.statistics(np.array([1.0, 0.9, 0.8, 0.5, 0.4, 0.3, 0.2, 0.1]))
    assert mean == pytest.approx(4.2 / 8)
    assert recall == pytest.approx(3 / 8)
    # Ends of the quarters: 1, 2.75, 4.5, 6.25, 8 -> frames 0, 2, (3), 5, 7, both ends inside.
    assert decay == pytest.approx((1.0 + 0.9 + 0.8) / 3 - (0.3 + 0.2 + 0.1) / 3)


def test_statistics_of_one_frame_and_of_a_very_long_clip() -> None:
    assert metrics.statistics(np.array([0.7])) == (0.7, 1.0, 0.0)
    long = np.repeat([1.0, 0.5, 0.5, 0.0], 250)
    assert metrics.statistics(long)[2] == pytest.approx(1.0, abs=0.01)
    with pytest.raises(ValueError, match="at least one frame"):
        metrics.statistics(np.zeros(0))


def test_davis_averages_over_objects_and_drops_the_given_frames() -> None:
    first = {"J": np.array([0.0, 1.0, 1.0, 0.0]), "F": np.array([0.0, 0.5, 0.5, 0.0])}
    second = {"J": np.array([0.0, 0.2, 0.4, 0.0]), "F": np.array([0.0, 0.6, 0.8, 0.0])}
    scores = metrics.davis_scores([first, second], drop_ends=True)
    assert scores["J-Mean"] == pytest.approx((1.0 + 0.3) / 2)
    assert scores["J-Recall"] == pytest.approx(0.5)
    assert scores["F-Mean"] == pytest.approx((0.5 + 0.7) / 2)
    assert pytest.approx((0.65 + 0.6) / 2) == scores["J&F-Mean"]
    assert metrics.davis_scores([first, second])["J-Mean"] == pytest.approx(0.65 / 2)
    with pytest.raises(ValueError, match="0 objects"):
        metrics.davis_scores([])


def test_revos_measures_agreement_and_spill_relative_to_the_annotated_foreground() -> None:
    targets = np.stack([box(0, 0, 2, 4), blank()])  # 8 pixels, none
    predictions = np.stack([box(0, 0, 2, 5), box(0, 0, 1, 4)])  # 2 outside, 4 outside
    foregrounds = np.stack([box(0, 0, 4, 4), box(0, 0, 4, 4)])  # 16 pixels
    scores = metrics.revos_frame_scores(predictions, targets, foregrounds)
    assert scores["A"] == pytest.approx([46 / 48, 44 / 48])
    assert scores["R"] == pytest.approx([1 - 2 / 16, 1 - 4 / 16])
    assert scores["J"] == pytest.approx([0.8, 0.0])
    assert set(metrics.mean_scores(scores)) == {"J", "F", "J&F", "A", "R"}


def test_revos_robustness_is_one_inside_the_target_and_never_negative() -> None:
    target, foreground = box(0, 0, 4, 4)[None], box(0, 0, 4, 4)[None]
    assert metrics.revos_frame_scores(box(1, 1, 2, 2)[None], target, foreground)["R"][0] == 1.0
    assert metrics.revos_frame_scores(~blank()[None], target, foreground)["R"][0] == 0.0
    assert metrics.revos_frame_scores(blank()[None], blank()[None], blank()[None])["R"][0] == 1.0
    assert metrics.revos_frame_scores(box(0, 0, 1, 1)[None], blank()[None], blank()[None])["R"][0] == 0.0


def test_original_revos_counts_background_only_and_punishes_spill_255_times() -> None:
    target, foreground = box(0, 0, 2, 4)[None], ~blank()[None]
    scores = metrics.revos_frame_scores(target, target, foreground, original=True)
    assert scores["A"][0] == pytest.approx(40 / 48)
    assert scores["R"][0] == 1.0
    assert metrics.revos_frame_scores(box(0, 0, 2, 5)[None], target, foreground, original=True)["R"][0] == 0.0


def test_revos_overall_is_the_unweighted_mean_of_the_groups_of_rounded_percents() -> None:
    rows = [(0, {"J": 0.123456}), (0, {"J": 0.5}), (1, {"J": 0.9}), (2, {"J": 0.0})]
    table = metrics.revos_scores(rows)
    assert table["referring"]["J"] == pytest.approx((12.35 + 50.0) / 2)
    assert table["reasoning"]["J"] == pytest.approx(90.0)
    assert table["overall"]["J"] == pytest.approx((31.175 + 90.0) / 2)
    assert metrics.revos_scores(rows[2:3])["overall"] == {"J": pytest.approx(90.0)}


def test_revos_refuses_unknown_types_and_tables_without_rows() -> None:
    with pytest.raises(ValueError, match="type_id is 3"):
        metrics.revos_scores([(3, {"J": 1.0})])
    with pytest.raises(ValueError, match="0 referring or reasoning"):
        metrics.revos_scores([(2, {"J": 1.0})])


# --- boxes ---------------------------------------------------------------------------------------------------------


def slow_box(mask: np.ndarray, min_area: int) -> tuple[float, ...] | None:
    """Flood fill, pixel by pixel."""
    left, kept = set(map(tuple, np.argwhere(mask).tolist())), []
    while left:
        stack = [left.pop()]
        component = list(stack)
        while stack:
            y, x = stack.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            stack += near
            component += near
        if len(component) >= min_area:
            kept += component
    if not kept:
        return None
    points = np.array(kept)
    return (*points.min(0)[::-1].tolist(), *points.max(0)[::-1].tolist())


def test_box_iou_of_overlapping_apart_and_flat_boxes() -> None:
    assert metrics.box_iou((0, 0, 4, 4), (2, 2, 6, 6)) == pytest.approx(4 / 28)
    assert metrics.box_iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0.0
    assert metrics.box_iou((1, 1, 1, 5), (1, 1, 1, 5)) == 0.0


def test_box_from_mask_leaves_out_specks_and_joins_diagonal_pixels() -> None:
    mask = box(2, 3, 5, 7, (20, 20))  # 12 pixels
    mask[15, 15:18] = True
    assert metrics.box_from_mask(mask) == (3, 2, 6, 4)
    assert metrics.box_from_mask(mask, inclusive=False) == (3, 2, 7, 5)
    assert metrics.box_from_mask(mask, min_area=1) == (3, 2, 17, 15)
    assert metrics.box_from_mask(np.eye(12, dtype=bool)) == (0, 0, 11, 11)
    assert metrics.box_from_mask(np.eye(9, dtype=bool)) is None
    assert metrics.box_from_mask(blank()) is None


@pytest.mark.parametrize("share", [0.05, 0.2, 0.35, 0.5, 0.9])
def test_box_from_mask_equals_flood_fill(share: float) -> None:
    for seed in range(10):
        mask = np.random.default_rng(seed).random((24, 31)) < share
        assert metrics.box_from_mask(mask) == slow_box(mask, 10)


def test_a_spiral_is_one_component() -> None:
    spiral = blank(21, 21)
    spiral[0, :] = spiral[:, 20] = spiral[20, 2:] = spiral[2:, 2] = spiral[2, 2:18] = True
    spiral[3, 18] = spiral[4:18, 17] = True
    assert metrics.box_from_mask(spiral, min_area=int(spiral.sum())) == (0, 0, 20, 20)


def test_rec_hits_from_an_iou_of_one_half_on() -> None:
    mask = box(0, 0, 11, 11, (30, 30))  # box 0, 0, 10, 10
    assert metrics.rec_hit(mask, (0, 0, 10, 20))
    assert not metrics.rec_hit(mask, (0, 0, 10, 20.1))
    assert not metrics.rec_hit(blank(), (0, 0, 10, 10))


# --- choices -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B) the cat", "b"),
        ("(C).", "c"),
        ("d", "d"),
        ("Because it is", "b"),
        ("e) beyond the options", None),
        ("7", None),
        ("", None),
        ("().", None),
    ],
)
def test_first_word_of_a_primed_reply_names_the_option(text: str, expected: str | None) -> None:
    assert metrics.parse_choice(text, 4) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("The answer is (B) cat", "b"), ("I say C) dog, not (A)", "a"), ("I say C) dog", "c"), (". D", "d"), ("", None)],
)
def test_bracketed_rule_looks_for_brackets_first(text: str, expected: str | None) -> None:
    assert metrics.parse_choice(text, 4, rule="bracketed") == expected


def test_unknown_rules_and_numbers_of_options_are_refused() -> None:
    with pytest.raises(ValueError, match="rule is 'guess'"):
        metrics.parse_choice("a", 4, rule="guess")
    with pytest.raises(ValueError, match="num_options is 0"):
        metrics.parse_choice("a", 0)


def test_unreadable_replies_are_wrong_and_choices_are_divided_by_category() -> None:
    right = metrics.grade_choices(["a", "B", None, "c"], ["A", "b", "c", "d"], ["basic", "basic", "basic", "future"])
    assert right == {"basic": [True, True, False], "future": [False]}


def test_the_original_reads_letters_to_the_first_blank_and_none_of_what_begins_with_one() -> None:
    for text, letter in {"B) x": "b", "(c).": "c", "a\nb": "a", " a": None, "": None, ",a": None, "z": None}.items():
        assert metrics.parse_choice(text, 4, rule="original") == letter, text
    assert metrics.parse_choice(",a", 4) == metrics.parse_choice(" a", 4) == "a"


def test_the_original_gives_nothing_for_two_empty_volumes() -> None:
    empty, full = np.zeros((2, 4, 6), dtype=bool), np.ones((2, 4, 6), dtype=bool)
    assert metrics.volume_scores(empty, empty) == {"J": 1.0, "F": 1.0, "J&F": 1.0}
    assert metrics.volume_scores(empty, empty, original=True) == {"J": 0.0, "F": 0.0, "J&F": 0.0}
    scores = metrics.volume_scores(full, full, original=True)
    assert scores["J"] == 1.0 and scores["F"] == pytest.approx(1.0, abs=1e-6)


def test_choices_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="1 predicted, 2 expected"):
        metrics.grade_choices(["a"], ["a", "b"], ["all", "all"])
    with pytest.raises(ValueError, match="at least 1"):
        metrics.grade_choices([], [], [])


# --- wrong input ---------------------------------------------------------------------------------------------------


def test_masks_of_other_types_and_sizes_are_refused_with_what_they_are() -> None:
    mask = box(0, 0, 2, 2)
    with pytest.raises(TypeError, match="prediction is uint8, it must be a bool array"):
        metrics.iou(mask.astype(np.uint8) * 255, mask)
    with pytest.raises(TypeError, match="target is list"):
        metrics.boundary_f(mask, [[True]])
    with pytest.raises(ValueError, match=r"prediction has shape \(6, 8\) and target \(5, 8\)"):
        metrics.iou(mask, mask[:5])
    with pytest.raises(ValueError, match="need 3 axes"):
        metrics.volume_scores(mask, mask)
    with pytest.raises(ValueError, match="at least one pixel"):
        metrics.iou(mask[:0], mask[:0])


def test_clips_of_different_or_no_length_are_refused() -> None:
    with pytest.raises(ValueError, match="ends after 1 frames"):
        metrics.frame_scores([blank()], [blank(), blank()])
    with pytest.raises(ValueError, match="ends after 1 frames"):
        metrics.frame_scores([blank()] * 2, [blank()] * 2, iter([blank()]))
    with pytest.raises(ValueError, match="0 frames"):
        metrics.frame_scores([], [])
