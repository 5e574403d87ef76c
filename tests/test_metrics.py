"""Metrics against hand-computed cases, brute force, pycocotools and the official golden values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from unipixel import metrics
from unipixel.metrics import bits

PAIRS = ["blackswan_00024", "bmx-trees_00040", "dog_00030", "paragliding-launch_00050"]


def blank(height: int = 6, width: int = 8) -> np.ndarray:
    return np.zeros((height, width), bool)


def box(y1: int, x1: int, y2: int, x2: int, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    mask = blank(*size)
    mask[y1:y2, x1:x2] = True
    return mask


def slow_boundary(mask: np.ndarray) -> np.ndarray:
    """Pixel by pixel, from the definition."""
    height, width = mask.shape
    edges = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            around = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if y == height - 1:
                around = [(y, x + 1)]
            elif x == width - 1:
                around = [(y + 1, x)]
            edges[y, x] = any(mask[y, x] != mask[j, i] for j, i in around if j < height and i < width)
    return edges


def slow_f(prediction: np.ndarray, target: np.ndarray, radius: int) -> float:
    """All pairs of boundary pixels."""
    one, other = np.argwhere(slow_boundary(prediction)), np.argwhere(slow_boundary(target))
    if not len(one) or not len(other):
        return float(len(one) == len(other))
    near = ((one[:, None] - other[None]) ** 2).sum(-1) <= radius**2
    precision, recall = near.any(1).mean(), near.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


# --- overlap -------------------------------------------------------------------------------------------------------


def test_iou_of_two_boxes_is_their_shared_pixels_over_all_pixels() -> None:
    assert metrics.overlap(box(0, 0, 4, 4), box(2, 2, 6, 6)) == (4, 28)
    assert metrics.iou(box(0, 0, 4, 4), box(2, 2, 6, 6)) == pytest.approx(4 / 28)


@pytest.mark.parametrize(
    ("prediction", "target", "expected"),
    [(blank(), blank(), 1.0), (blank(), box(0, 0, 1, 1), 0.0), (box(0, 0, 1, 1), blank(), 0.0)],
)
def test_empty_masks_have_j_and_f_one_when_both_are_empty_and_else_zero(
    prediction: np.ndarray, target: np.ndarray, expected: float
) -> None:
    assert metrics.iou(prediction, target) == expected
    assert metrics.boundary_f(prediction, target) == expected
    scores = metrics.frame_scores([prediction], [target])
    assert (scores["J"][0], scores["F"][0]) == (expected, expected)


def test_single_pixels_score_one_when_equal_and_j_zero_when_apart() -> None:
    one, other = box(2, 3, 3, 4), box(2, 5, 3, 6)
    assert metrics.iou(one, one) == metrics.boundary_f(one, one) == 1.0
    assert metrics.iou(one, other) == 0.0
    assert metrics.boundary_f(one, other, bound=2) == 1.0


def test_iou_agrees_with_pycocotools() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        one, other = rng.random((2, 13, 70)) > rng.random()
        encoded = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in (one, other)]
        expected = coco_mask.iou([encoded[0]], [encoded[1]], [0])[0, 0]
        assert metrics.iou(one, other) == pytest.approx(expected)


def test_ignored_pixels_count_nowhere() -> None:
    target, ignore = box(0, 0, 2, 4), box(0, 2, 6, 8)
    assert metrics.overlap(box(0, 0, 4, 4), target, ignore) == (4, 8)
    rng = np.random.default_rng(2)
    noise = rng.random(target.shape) > 0.5
    changed = np.where(ignore, noise, target)
    assert metrics.overlap(changed, target, ignore) == metrics.overlap(target, target, ignore) == (4, 4)
    assert metrics.boundary_f(changed, target, ignore) == 1.0
    assert metrics.iou(box(0, 4, 2, 6), blank(), ignore) == 1.0


def test_giou_is_the_mean_over_samples_and_ciou_pools_pixels() -> None:
    scores = metrics.overlap_scores([(1, 2), (90, 100), (0, 0), (0, 8)])
    assert scores["gIoU"] == pytest.approx((0.5 + 0.9 + 1 + 0) / 4)
    assert scores["cIoU"] == pytest.approx(91 / 110)
    assert [scores[f"Prec@{x}"] for x in (0.5, 0.6, 0.7, 0.8, 0.9)] == [0.5, 0.5, 0.5, 0.5, 0.25]


def test_ciou_of_samples_without_any_pixel_is_one_and_of_no_sample_is_refused() -> None:
    assert metrics.overlap_scores([(0, 0)])["cIoU"] == 1.0
    with pytest.raises(ValueError, match="0 overlaps"):
        metrics.overlap_scores([])


def test_volume_scores_take_all_frames_together() -> None:
    predictions = np.stack([box(0, 0, 2, 2), blank(), box(0, 0, 2, 2)])
    targets = np.stack([box(0, 0, 2, 2), box(0, 0, 2, 2), box(0, 0, 2, 4)])
    scores = metrics.volume_scores(predictions, targets)
    assert (scores["J"], scores["F"]) == (pytest.approx(8 / 16), pytest.approx(16 / 24))
    assert scores["J&F"] == pytest.approx((8 / 16 + 16 / 24) / 2)
    assert metrics.volume_scores(predictions & False, targets & False)["J&F"] == 1.0
    assert metrics.volume_scores(predictions & False, targets)["J&F"] == 0.0


# --- boundary ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size_hw", "expected"), [((480, 854), 8), ((720, 1280), 12), ((180, 320), 3), ((1, 1), 1), ((4320, 7680), 71)]
)
def test_tolerance_is_a_share_of_the_diagonal_rounded_up(size_hw: tuple[int, int], expected: int) -> None:
    assert metrics.boundary_radius(size_hw) == expected


def test_tolerance_from_one_on_is_in_pixels_and_must_be_positive() -> None:
    assert metrics.boundary_radius((480, 854), 5) == 5
    with pytest.raises(ValueError, match="bound is 0"):
        metrics.boundary_radius((480, 854), 0)


def test_boundary_of_a_box_is_one_pixel_wide_and_shifted_to_the_top_left() -> None:
    expected = np.array(
        [
            [0, 0, 0, 0, 0],
            [0, 1, 1, 1, 0],
            [0, 1, 0, 1, 0],
            [0, 1, 1, 1, 0],
            [0, 0, 0, 0, 0],
        ],
        bool,
    )
    assert np.array_equal(metrics.boundary_map(box(2, 2, 4, 4, (5, 5))), expected)


def test_last_row_compares_right_last_column_compares_down_and_the_corner_never_counts() -> None:
    corner = box(2, 2, 3, 3, (3, 3))
    assert np.array_equal(metrics.boundary_map(corner), np.array([[0, 0, 0], [0, 1, 1], [0, 1, 0]], bool))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (3, 63), (4, 64), (5, 65), (30, 129)])
def test_boundary_map_equals_the_definition_at_every_size(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    for share in (0.0, 0.1, 0.5, 1.0):
        mask = rng.random(size) < share
        assert np.array_equal(metrics.boundary_map(mask), slow_boundary(mask))


@pytest.mark.parametrize("size", [(1, 1), (1, 80), (80, 1), (40, 64), (33, 70), (20, 200)])
@pytest.mark.parametrize("radius", [1, 2, 3, 5, 8, 12, 66])
def test_boundary_f_equals_brute_force(size: tuple[int, int], radius: int) -> None:
    rng = np.random.default_rng((radius, *size))
    for share in (0.002, 0.02, 0.5):
        prediction, target = rng.random((2, *size)) < share
        measured = metrics.boundary_f(prediction, target, bound=radius)
        assert measured == pytest.approx(slow_f(prediction, target, radius), abs=1e-12)


def test_boundary_f_equals_brute_force_on_shapes_that_touch_the_frame() -> None:
    y, x = np.mgrid[:90, :150]
    for seed in range(6):
        rng = np.random.default_rng(seed)
        discs = [np.hypot(y - rng.uniform(0, 90), x - rng.uniform(0, 150)) < rng.uniform(5, 60) for _ in range(2)]
        assert metrics.boundary_f(*discs) == pytest.approx(
            slow_f(*discs, metrics.boundary_radius((90, 150))), abs=1e-12
        )


@pytest.mark.parametrize("radius", [0, 1, 4, 8, 12, 40, 70, 130])
@pytest.mark.parametrize(("row", "column"), [(20, 70), (0, 0), (59, 149), (0, 149), (59, 0), (30, 63), (30, 64)])
def test_dilation_grows_one_pixel_into_exactly_a_disk(row: int, column: int, radius: int) -> None:
    mask = blank(60, 150)
    mask[row, column] = True
    y, x = np.mgrid[:60, :150]
    # Masks beside it in the same call must stay untouched.
    grown = bits.dilate(bits.pack(blank(60, 150), mask, blank(60, 150)), radius)
    unpacked = np.unpackbits(np.ascontiguousarray(grown).view(np.uint8), axis=-1, bitorder="little", count=150)
    assert np.array_equal(unpacked[1] > 0, (y - row) ** 2 + (x - column) ** 2 <= radius**2)
    assert not unpacked[[0, 2]].any()


def test_a_shift_within_the_tolerance_keeps_f_at_one_and_a_larger_one_does_not() -> None:
    target = box(40, 40, 80, 120, (120, 200))  # tolerance 2
    assert metrics.boundary_f(np.roll(target, 2, axis=1), target) == 1.0
    assert metrics.boundary_f(np.roll(target, 3, axis=1), target) < 1.0


def test_f_is_symmetric_and_masks_of_the_whole_frame_have_no_boundary() -> None:
    rng = np.random.default_rng(5)
    one, other = rng.random((2, 50, 60)) > 0.9
    assert metrics.boundary_f(one, other) == pytest.approx(metrics.boundary_f(other, one))
    full = ~blank()
    assert metrics.boundary_f(full, full) == metrics.boundary_f(full, blank()) == 1.0
    assert metrics.boundary_f(full, box(0, 0, 2, 2)) == 0.0


# --- official values -----------------------------------------------------------------------------------------------


@pytest.fixture
def golden(shared_dir: Path) -> Path:
    """The folder of DAVIS masks with the official scores."""
    return shared_dir / "media" / "golden"


def test_j_and_f_equal_the_official_values(golden: Path) -> None:
    for name in PAIRS:
        expected = json.loads((golden / "davis16_osvos_jf.json").read_text(encoding="utf-8"))["pairs"][name]
        prediction, target = (np.asarray(Image.open(golden / f"{name}_{kind}.png")) > 0 for kind in ("pred", "gt"))
        scores = metrics.mean_scores(metrics.frame_scores([prediction], [target]))
        assert scores["J"] == pytest.approx(expected["J"], abs=1e-6), name
        assert scores["F"] == pytest.approx(expected["F"], abs=1e-6), name
        assert metrics.iou(prediction, target) == scores["J"]
        assert metrics.boundary_f(prediction, target) == scores["F"]


def test_dataset_means_of_the_official_table_are_means_over_its_sequences(golden: Path) -> None:
    table = json.loads((golden / "davis16_osvos_jf.json").read_text(encoding="utf-8"))
    objects = [
        {"J": np.full(row["frames"], row["J"]), "F": np.full(row["frames"], row["F"])}
        for row in table["per_sequence"].values()
    ]
    scores = metrics.davis_scores(objects)
    assert scores["J-Mean"] == pytest.approx(table["mean_J"], abs=1e-9)
    assert scores["F-Mean"] == pytest.approx(table["mean_F"], abs=1e-9)
    assert pytest.approx(table["JF"], abs=1e-9) == scores["J&F-Mean"]
