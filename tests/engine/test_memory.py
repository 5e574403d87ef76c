"""The object memory bank: stable ids, renaming, and objects that are not there."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from unipixel.engine.answer import MaskPiece
from unipixel.engine.memory import KnownObject, ObjectMemory, build_unseen
from unipixel.engine.objects import track_objects
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


def test_removing_and_replacing_one_object_leaves_the_others_as_they_are() -> None:
    memory = ObjectMemory([thing(1, "a"), thing(2, "b"), thing(3, "c")])
    others = memory[1], memory[3]
    memory.add(thing(2, "dog"))
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


def track(known: KnownObject, pieces: list[MaskPiece], monkeypatch: pytest.MonkeyPatch) -> KnownObject:
    """An object after it was tracked with these results."""
    monkeypatch.setattr("unipixel.engine.objects.propagate", lambda *_, **__: iter(pieces))
    memory = ObjectMemory()
    clip = SimpleNamespace(media=SimpleNamespace(size_hw=(4, 4)))
    model = SimpleNamespace(segmenter=None)
    space = SimpleNamespace(memory=memory, model=model, features=None, clip=clip, num_frames=3, clock=None)
    assert list(track_objects(space, [known])) == pieces
    return memory[known.id]


def test_the_score_is_the_mean_over_visible_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    results = enumerate([(RLE, 0.5), (None, 0.1), (RLE, 0.9)])
    known = track(thing(1), [MaskPiece(t, {1: rle}, {1: score}) for t, (rle, score) in results], monkeypatch)
    assert known.score == pytest.approx(0.7)
    assert known.visible.tolist() == [True, False, True]
    assert known.frame_scores == (0.5, 0.1, 0.9)


def test_tracking_keeps_what_it_does_not_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    before = KnownObject(id=1, label="x", track=MaskTrack((4, 4), (RLE, RLE)), frame_scores=(0.4, 0.6))
    after = track(before, [MaskPiece(1, {1: None}, {1: 0.2})], monkeypatch)
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
