"""The object memory bank: stable ids, renaming, and objects that are not there."""

from __future__ import annotations

import numpy as np
import pytest

from unipixel.engine.memory import KnownObject, ObjectMemory, Recording, build_unseen
from unipixel.engine.tracking import TrackedFrame
from unipixel.errors import PromptError
from unipixel.masks import MaskTrack, encode_rle

RLE = encode_rle(np.eye(4, dtype=bool))


def thing(object_id: int, label: str = "") -> KnownObject:
    return build_unseen(object_id, (4, 4), 3, label=label)


def test_ids_count_from_one_and_are_never_given_twice() -> None:
    memory = ObjectMemory()
    ids = [memory.reserve_id() for _ in range(2)]
    for i in ids:
        memory.add(thing(i))
    memory.remove(2)
    assert ids == [1, 2]
    assert memory.reserve_id() == 3
    assert memory.reserve_id(9) == 9
    assert memory.reserve_id() == 10


def test_a_restored_memory_goes_on_counting() -> None:
    assert ObjectMemory([thing(1)], next_id=5).reserve_id() == 5
    assert ObjectMemory([thing(7)], next_id=2).reserve_id() == 8


def test_removing_and_renaming_one_object_leaves_the_others_as_they_are() -> None:
    memory = ObjectMemory([thing(1, "a"), thing(2, "b"), thing(3, "c")])
    others = memory[1], memory[3]
    memory.rename(2, "dog")
    assert memory[2].label == "dog"
    memory.remove(2)
    assert list(memory) == [1, 3]
    assert (memory[1], memory[3]) == others


def test_an_object_that_was_never_visible_is_kept_as_not_there() -> None:
    known = thing(1)
    assert known.score == "not there"
    assert not known.is_there
    assert not known.visible.any()
    assert known.masks.shape == (3, 4, 4)
    assert np.isnan(known.boxes).all()


def test_the_score_is_the_mean_over_visible_frames() -> None:
    recording = Recording(thing(1))
    for t, (rle, score) in enumerate([(RLE, 0.5), (None, 0.1), (RLE, 0.9)]):
        recording.add(TrackedFrame(t, (1,), (rle,), (score,)), 0)
    known = recording.finished()
    assert known.score == pytest.approx(0.7)
    assert known.visible.tolist() == [True, False, True]
    assert known.frame_scores == (0.5, 0.1, 0.9)


def test_a_recording_keeps_what_it_does_not_reach() -> None:
    before = KnownObject(id=1, label="x", track=MaskTrack((4, 4), (RLE, RLE)), frame_scores=(0.4, 0.6))
    recording = Recording(before)
    recording.add(TrackedFrame(1, (5, 1), (RLE, None), (1.0, 0.2)), 1)
    after = recording.finished()
    assert after.track.rles == (RLE, None)
    assert after.frame_scores == (0.4, 0.2)


@pytest.mark.parametrize("reference", [3, 0, "1", True, None, 1.0])
def test_unknown_objects_are_refused_by_name(reference: object) -> None:
    with pytest.raises(PromptError, match="is not known in this session; known are 1, 2"):
        ObjectMemory([thing(1), thing(2)]).find(reference)


def test_objects_are_known_by_id_and_by_the_object_of_an_answer() -> None:
    memory = ObjectMemory([thing(1), thing(2)])
    assert memory.find(2) is memory[2]
    assert memory.find(memory[1]) is memory[1]
