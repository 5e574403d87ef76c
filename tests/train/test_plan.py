"""Which record comes when."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from unipixel.train.mixture import EpochPlan

TYPES = ["seg_image"] * 7 + ["seg_video"] * 5 + ["region_image"] * 2
LENGTHS = [1] * 7 + [2, 8, 8, 3, 5] + [1, 1]


def plan(repeats: float = 1.0, batch_size: int = 4, seed: int = 0) -> EpochPlan:
    return EpochPlan(TYPES, LENGTHS, [repeats] * len(TYPES), batch_size, seed)


def epoch(made: EpochPlan, number: int) -> list[int]:
    entries = [made[number * len(made) + k] for k in range(len(made))]
    assert {e for e, _ in entries} == {number}
    return [record for _, record in entries]


def test_an_epoch_has_every_record_and_fills_batches_with_the_same_type() -> None:
    made = plan()
    order = epoch(made, 0)
    assert len(order) == 8 + 8 + 4
    assert set(order) == set(range(14))
    for batch in np.array(order).reshape(-1, 4):
        assert len({TYPES[k] for k in batch}) == 1


def test_records_of_similar_length_share_a_batch() -> None:
    batches = np.array(epoch(plan(), 0)).reshape(-1, 4)
    video = [sorted(LENGTHS[k] for k in batch) for batch in batches if TYPES[batch[0]] == "seg_video"]
    assert min(max(lengths) for lengths in video) <= max(min(lengths) for lengths in video)


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    made = plan()
    second = epoch(made, 1)
    assert second == epoch(plan(), 1) and second != epoch(made, 0) and second != epoch(plan(seed=1), 1)


@pytest.mark.parametrize(("repeats", "least", "most"), [(3.0, 3, 5), (0.5, 0, 2)])
def test_records_are_repeated(repeats: float, least: int, most: int) -> None:
    counts = Counter(epoch(plan(repeats, batch_size=1), 0))
    images = [counts[k] for k in range(7)]
    assert sum(images) == int(7 * repeats) and least <= min(images) and max(images) <= most


def test_a_plan_without_records_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one record"):
        EpochPlan([], [], [], 2, 0)
