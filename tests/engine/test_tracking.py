"""Tracking objects: alone and among others, both ways, bounded memory, and masks as they leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from unipixel.engine import tracking
from unipixel.engine.answer import MaskPiece
from unipixel.engine.engine import Engine
from unipixel.engine.memory import Anchor, set_spans
from unipixel.engine.tracking import FrameFeatureCache, find_best_frames, propagate, to_rles
from unipixel.masks import decode_rle, encode_rle
from unipixel.media import Media
from unipixel.model.segmenter import Segmenter

Clips = Callable[..., np.ndarray]
Anchors = dict[int, tuple[Anchor, ...]]


def cache(engine: Engine, frames: np.ndarray, capacity: int = 32) -> FrameFeatureCache:
    return FrameFeatureCache(
        engine.model.segmenter, Media.from_array(frames), engine.processor.settings, capacity=capacity
    )


def queries(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 2, 32, generator=torch.Generator().manual_seed(seed)) * 5


def tracked(
    engine: Engine, frames: np.ndarray, anchors: Anchors, capacity: int = 32
) -> dict[tuple[int, int], np.ndarray]:
    """Masks by (object, frame)."""
    found: dict[tuple[int, int], np.ndarray] = {}
    size = frames.shape[1:3]
    for frame in propagate(engine.model.segmenter, cache(engine, frames, capacity), size, len(frames), anchors):
        for object_id, rle in frame.rles.items():
            assert (object_id, frame.t) not in found
            found[object_id, frame.t] = np.zeros(size, bool) if rle is None else decode_rle(rle)
    return found


def whole(object_id: int, state: torch.Tensor, num_frames: int, start: int = 0) -> Anchors:
    return {object_id: set_spans([Anchor(start, state)], num_frames)}


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    return float((a == b).mean())


def test_an_object_alone_is_the_same_object_among_others(tiny_engine: Engine, clip: Clips) -> None:
    frames, states = clip(6), queries(4)
    anchors = {i: a for n in range(4) for i, a in whole(n + 1, states[n], 6, start=(0, 0, 2, 5)[n]).items()}
    together = tracked(tiny_engine, frames, anchors)
    for n in range(4):
        alone = tracked(tiny_engine, frames, {n + 1: anchors[n + 1]})
        assert sorted(alone) == [(n + 1, t) for t in range(6)]
        for key, mask in alone.items():
            assert agreement(mask, together[key]) > 0.9999, key


def test_frames_encoded_once_in_batches_give_the_masks_of_frames_encoded_each_time(
    tiny_engine: Engine, clip: Clips
) -> None:
    frames, route = clip(6), whole(1, queries(1)[0], 6, start=3)
    once = tracked(tiny_engine, frames, route, capacity=32)
    each = tracked(tiny_engine, frames, route, capacity=1)
    assert all(agreement(once[key], each[key]) > 0.9999 for key in once)


def test_a_short_clip_is_encoded_once_for_all_objects_and_questions(tiny_engine: Engine, clip: Clips) -> None:
    frames = clip(6)
    features = cache(tiny_engine, frames)
    for seed in range(3):
        route = whole(1, queries(1, seed)[0], 6, start=seed * 2)
        list(propagate(tiny_engine.model.segmenter, features, frames.shape[1:3], 6, route))
    assert features.encoded == 6


def test_backwards_from_the_last_frame_is_forwards_through_the_reversed_clip(tiny_engine: Engine, clip: Clips) -> None:
    frames, state = clip(5), queries(1)[0]
    backwards = tracked(tiny_engine, frames, whole(1, state, 5, start=4))
    forwards = tracked(tiny_engine, frames[::-1].copy(), whole(1, state, 5, start=0))
    for t in range(5):
        assert agreement(backwards[1, t], forwards[1, 4 - t]) > 0.9999


def test_tracking_does_not_hold_more_frames_the_longer_the_clip(
    tiny_engine: Engine, clip: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    trackers = []

    class Watched(tracking.Tracker):
        def __init__(self, segmenter: Segmenter, num_frames: int | None = None) -> None:
            super().__init__(segmenter, num_frames)
            trackers.append(self)

    def held() -> int:
        """Numbers that the tracker remembers."""
        (cohort,) = (cohort for _, cohort in trackers[-1]._cohorts)
        return sum(x.numel() for x in (*cohort._memories, *cohort._pointers, *cohort._first))

    monkeypatch.setattr(tracking, "Tracker", Watched)
    sizes = {}
    for length in (20, 50):
        frames = np.repeat(clip(5), length // 5, axis=0)
        features = cache(tiny_engine, frames, capacity=4)
        most = 0
        for _ in propagate(
            tiny_engine.model.segmenter, features, frames.shape[1:3], length, whole(1, queries(1)[0], length)
        ):
            most = max(most, len(features))
        sizes[length] = (held(), most)
        assert features.encoded == length
    assert sizes[20] == sizes[50]
    assert sizes[50][1] == 4


def test_an_object_that_is_dropped_midway_leaves_the_others_as_they_are(tiny_engine: Engine, clip: Clips) -> None:
    frames, states = clip(6), queries(2)
    anchors = whole(1, states[0], 6) | whole(2, states[1], 6)
    untouched = tracked(tiny_engine, frames, {2: anchors[2]})
    kept, seen = {1, 2}, []
    stream = propagate(
        tiny_engine.model.segmenter,
        cache(tiny_engine, frames),
        frames.shape[1:3],
        6,
        anchors,
        is_wanted=kept.__contains__,
    )
    for frame in stream:
        seen.append(tuple(frame.rles))
        if frame.t == 2:
            kept.discard(1)
        mask = frame.rles[2]
        assert (
            agreement(np.zeros(frames.shape[1:3], bool) if mask is None else decode_rle(mask), untouched[2, frame.t])
            > 0.9999
        )
    assert seen == [(1, 2)] * 3 + [(2,)] * 3


def test_an_object_that_joins_midway_leaves_the_others_as_they_are(tiny_engine: Engine, clip: Clips) -> None:
    frames, states = clip(5), queries(2)
    first = whole(1, states[0], 5)
    alone = tracked(tiny_engine, frames, first)
    joined = tracked(tiny_engine, frames, first | {2: (Anchor(3, states[1], first=3, last=4),)})
    assert sorted(key for key in joined if key[0] == 2) == [(2, 3), (2, 4)]
    assert all(agreement(mask, joined[key]) > 0.9999 for key, mask in alone.items())


def test_the_clip_is_shared_among_anchors() -> None:
    anchors = [Anchor(7), Anchor(2)]
    assert [(a.frame, a.first, a.last) for a in set_spans(anchors, 10)] == [(2, 0, 6), (7, 7, 9)]
    assert set_spans([], 10) == ()


def test_a_later_anchor_does_not_change_earlier_frames(tiny_engine: Engine, clip: Clips) -> None:
    frames, states = clip(6), queries(2)
    one = tracked(tiny_engine, frames, whole(1, states[0], 6))
    two = tracked(tiny_engine, frames, {1: set_spans([Anchor(0, states[0]), Anchor(3, states[1])], 6)})
    assert sorted(two) == sorted(one)
    assert all(agreement(one[1, t], two[1, t]) > 0.9999 for t in range(3))


def test_an_object_is_absent_where_its_score_has_fallen_too_far(
    tiny_engine: Engine, clip: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter, frames, states = tiny_engine.model.segmenter, clip(4), queries(2)
    anchors = whole(1, states[0], 4) | whole(2, states[1], 4)

    def follow(share: float, dropped: int = 0) -> list[MaskPiece]:
        monkeypatch.setattr(segmenter, "min_track_score", share)
        size, kept, found = frames.shape[1:3], {1, 2}, []
        for piece in propagate(segmenter, cache(tiny_engine, frames), size, 4, anchors, is_wanted=lambda i: i in kept):
            found.append(piece)
            if piece.t == 1:
                kept.discard(dropped)
        return found

    plain = follow(0.0)
    fallen = {i: plain[1].scores[i] / plain[0].scores[i] for i in (1, 2)}
    low, high = sorted(fallen, key=lambda i: fallen[i])
    found = follow((fallen[low] + fallen[high]) / 2, dropped=low)
    assert found[0].scores == plain[0].scores and found[0].rles == plain[0].rles
    assert plain[1].rles[low] is not None and found[1].rles[low] is None and found[1].scores[low] < 1e-3
    assert found[1].rles[high] == plain[1].rles[high] and found[1].scores[high] == plain[1].scores[high]
    # when this one is dropped, the other one is still measured by its own first frame
    lowest = min(piece.scores[high] for piece in plain[1:]) / plain[0].scores[high]
    for share, is_kept in ((0.999 * lowest, True), (1.001 * lowest, False)):
        shown = [piece.rles[high] for piece in follow(share, dropped=low)]
        assert (shown == [piece.rles[high] for piece in plain]) is is_kept


def test_a_given_mask_is_the_answer_on_its_frame(tiny_engine: Engine, clip: Clips) -> None:
    frames = clip(4)
    mask = np.zeros(frames.shape[1:3], bool)
    mask[20:50, 31:77] = True
    found = tracked(tiny_engine, frames, {1: set_spans([Anchor(1, mask=encode_rle(mask))], 4)})
    assert sorted(found) == [(1, t) for t in range(4)]
    np.testing.assert_array_equal(found[1, 1], mask)


def test_a_mask_too_thin_for_sams_grid_still_counts_as_there(tiny_engine: Engine, clip: Clips) -> None:
    frames = clip(2)
    mask = np.zeros(frames.shape[1:3], bool)
    mask[40, 60] = True
    frame = next(
        propagate(
            tiny_engine.model.segmenter,
            cache(tiny_engine, frames),
            frames.shape[1:3],
            2,
            {1: set_spans([Anchor(0, mask=encode_rle(mask))], 2)},
        )
    )
    assert frame.scores[1] > 0.99


def test_objects_with_different_numbers_of_clicks_do_not_pad_each_other(tiny_engine: Engine, clip: Clips) -> None:
    frames, states = clip(1), queries(3)
    clicks = [
        None,
        (torch.tensor([[20.0, 30.0]]), torch.tensor([1])),
        (torch.tensor([[20.0, 30.0], [40.0, 8.0]]), torch.tensor([1, 0])),
    ]
    anchors = {n + 1: (Anchor(0, states[n], clicks[n]),) for n in range(3)}
    together = tracked(tiny_engine, frames, anchors)
    for n in range(3):
        alone = tracked(tiny_engine, frames, {n + 1: anchors[n + 1]})
        assert agreement(alone[n + 1, 0], together[n + 1, 0]) > 0.9999


def test_the_best_frame_is_where_the_object_scores_highest_by_itself(tiny_engine: Engine, clip: Clips) -> None:
    frames, states = clip(5), queries(3)
    segmenter, features = tiny_engine.model.segmenter, cache(tiny_engine, frames)
    best = find_best_frames(segmenter, features, states, range(5))
    for n in range(3):
        scores = []
        for t in range(5):
            first = next(
                propagate(
                    segmenter, cache(tiny_engine, frames[t : t + 1]), frames.shape[1:3], 1, whole(1, states[n], 1)
                )
            )
            scores.append(first.scores[1])
        assert best[n] == int(np.argmax(scores))


def test_masks_are_resized_bilinearly_and_compared_with_zero() -> None:
    logits = torch.tensor([[-1.0, 3.0], [-1.0, -1.0]])[None, None]
    (rle,) = to_rles(logits, (4, 4))
    # along the first row -1, 0, 2, 3; downwards towards -1: 3, 2, 0, -1
    expected = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(decode_rle(rle), expected)
    assert to_rles(torch.full((2, 1, 2, 2), -5.0), (3, 3)) == [None, None]


def test_masks_of_many_objects_are_resized_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    at_once = to_rles(logits, (9, 7))
    monkeypatch.setattr(tracking, "PIXELS_AT_ONCE", 9 * 7 * 2)
    assert to_rles(logits, (9, 7)) == at_once


def test_a_still_image_is_decoded_without_memory(tiny_engine: Engine, clip: Clips) -> None:
    frames, state = clip(1), queries(1)[0]
    (frame,) = propagate(
        tiny_engine.model.segmenter, cache(tiny_engine, frames), frames.shape[1:3], 1, whole(1, state, 1)
    )
    assert isinstance(frame, MaskPiece)
    segmenter = tiny_engine.model.segmenter
    features = cache(tiny_engine, frames).get(0)
    with torch.no_grad():
        direct = segmenter.decode(segmenter.add_no_memory(features), features, state[None])
    assert list(frame.rles.values()) == to_rles(direct.low_res_masks, frames.shape[1:3])
    assert frame.scores[1] == pytest.approx(float(direct.scores[0]))


def test_the_feature_cache_refuses_to_hold_nothing(tiny_engine: Engine, clip: Clips) -> None:
    with pytest.raises(ValueError, match="holds 0 frames"):
        cache(tiny_engine, clip(1), capacity=0)


def test_an_anchor_says_whether_its_mask_is_final() -> None:
    rle = encode_rle(np.ones((2, 2), bool))
    assert Anchor(0, mask=rle).is_exact
    assert not replace(Anchor(0, mask=rle), clicks=(torch.zeros(1, 2), torch.zeros(1))).is_exact
    assert not Anchor(0).is_exact
