"""Frame sampling against the released code's numbers and its edge cases."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from unipixel.media import sample_at_rate, sample_indices, sample_random_indices


@pytest.fixture(scope="module")
def rows(parity_file: Callable[[str], Path]) -> dict[str, list]:
    return json.loads(parity_file("preprocess.json").read_text(encoding="utf-8"))


def test_even_sampling_is_that_of_the_released_code_in_every_row(rows: dict[str, list]) -> None:
    assert rows["frame_sampling_uniform"]
    for total, num_frames, expected in rows["frame_sampling_uniform"]:
        assert sample_indices(total, num_frames) == expected, (total, num_frames)


def test_random_sampling_is_that_of_the_released_code_in_every_row(rows: dict[str, list]) -> None:
    assert rows["frame_sampling_random"]
    for total, num_frames, seed, expected in rows["frame_sampling_random"]:
        got = sample_random_indices(total, num_frames, random.Random(seed))
        assert got == expected, (total, num_frames, seed)


def test_folders_are_sampled_like_videos(rows: dict[str, list]) -> None:
    for total, num_frames, expected in rows["load_video_dir"]:
        assert sample_indices(total, num_frames) == expected


def test_even_sampling_takes_the_first_and_the_last_frame() -> None:
    assert sample_indices(9, 5) == [0, 2, 4, 6, 8]
    assert sample_indices(10, 4) == [0, 3, 6, 9]
    assert sample_indices(5, 2) == [0, 4]


def test_one_frame_is_the_first_one() -> None:
    assert sample_indices(100, 1) == [0]


def test_short_videos_give_all_their_frames() -> None:
    assert sample_indices(3, 16) == [0, 1, 2]
    assert sample_random_indices(3, 16, random.Random(0)) == [0, 1, 2]


def test_minus_one_means_all_frames() -> None:
    assert sample_indices(4, -1) == [0, 1, 2, 3]
    assert sample_random_indices(4, -1, random.Random(0)) == [0, 1, 2, 3]


def test_random_sampling_takes_a_numpy_generator_and_stays_in_order() -> None:
    first = sample_random_indices(100, 8, np.random.default_rng((7, 0, 3)))
    assert first == sample_random_indices(100, 8, np.random.default_rng((7, 0, 3)))
    assert first == sorted(set(first)) and 0 <= first[0] and first[-1] < 100
    assert all(type(index) is int for index in first)


@pytest.mark.parametrize("num_frames", [0, -2])
def test_a_senseless_number_of_frames_is_refused(num_frames: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, or -1 for all frames, not {num_frames}"):
        sample_indices(10, num_frames)


def test_a_video_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one frame, not 0"):
        sample_indices(0, 4)


@pytest.mark.parametrize(
    ("total", "fps", "most", "frames", "rate"),
    [
        (100, 10.0, 8, [0, 14, 28, 42, 57, 71, 85, 99], 0.8),  # 10 s at 2 per second are 20: as many as are wanted
        (24, 8.0, 16, [0, 5, 9, 14, 18, 23], 2.0),  # 3 s give 6
        (7, 7.0, 16, [0, 2, 4, 6], 4.0),  # 1 s gives the least, 4
        (9, 2.0, 16, [0, 1, 2, 3, 5, 6, 7, 8], 8 / 9 * 2),  # 9, cut down to an even number
        (3, 30.0, 8, [0, 2], 20.0),
        (1, 30.0, 8, [0], 2.0),
    ],
)
def test_a_rate_gives_an_even_number_of_frames_from_the_first_to_the_last(
    total: int, fps: float, most: int, frames: list[int], rate: float
) -> None:
    assert sample_at_rate(total, fps, most) == (frames, pytest.approx(rate))


def test_a_rate_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"fps 0\.0"):
        sample_at_rate(10, 0.0, 8)
    with pytest.raises(ValueError, match="num_frames is 1"):
        sample_at_rate(10, 5.0, 1)
