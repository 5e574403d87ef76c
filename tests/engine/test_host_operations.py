"""What tracking asks of the host: masks on their way while others are tracked, frames read ahead, and no wait."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from unipixel.bench.counting import OperationCounter
from unipixel.engine.answer import MaskPiece
from unipixel.engine.engine import Engine
from unipixel.engine.memory import Anchor, set_spans
from unipixel.engine.tracking import ENCODE_BATCH, FrameFeatureCache, choose_encode_batch, propagate
from unipixel.media import Media
from unipixel.model.presets import TINY_SAM
from unipixel.model.segmenter import Segmenter
from unipixel.model.tracker import Tracker

Clips = Callable[..., np.ndarray]
MOST_KERNELS = 300
"""Operations that one more frame of tracking may take with two layers of memory attention, whatever the objects."""


def queries(count: int) -> torch.Tensor:
    return torch.randn(count, 2, 32, generator=torch.Generator().manual_seed(0)) * 5


def open_cache(engine: Engine, media: Media, **options: int) -> FrameFeatureCache:
    return FrameFeatureCache(engine.model.segmenter, media, engine.processor.settings, **options)


def track(engine: Engine, frames: np.ndarray, under_way: int, dropped_at: int = 99, batch: int = 1) -> list[MaskPiece]:
    """Three objects, tracked in both directions; the second is dropped when a frame has been given out."""
    cache, count = open_cache(engine, Media.from_array(frames), prefetch=under_way > 0, batch=batch), len(frames)
    anchors = {i: set_spans([Anchor(i, query)], count) for i, query in enumerate(queries(3))}
    pieces: list[MaskPiece] = []
    for piece in propagate(
        engine.model.segmenter,
        cache,
        frames.shape[1:3],
        count,
        anchors,
        is_wanted=lambda i: i != 1 or len(pieces) <= dropped_at,
        under_way=under_way,
    ):
        pieces.append(piece)
    return pieces


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("dropped_at", [99, 4])
def test_masks_on_their_way_are_those_that_are_waited_for(
    tiny_engine: Engine, clip: Clips, dropped_at: int, batch: int
) -> None:
    frames = clip(9)
    at_once, later = (track(tiny_engine, frames, under_way, dropped_at, batch) for under_way in (0, 2))
    assert [(one.t, one.rles, one.scores) for one in at_once] == [(one.t, one.rles, one.scores) for one in later]
    assert (1 in later[-1].rles) == (dropped_at == 99)


def test_the_thread_that_tracks_reads_no_tensor(tiny_engine: Engine, clip: Clips) -> None:
    frames, counts = clip(8), {}
    for under_way in (0, 2):
        cache = open_cache(tiny_engine, Media.from_array(frames), batch=4)
        cache.get(0, range(1, 4)), cache.get(4, range(5, 8))
        anchors = {i: set_spans([Anchor(0, query)], 8) for i, query in enumerate(queries(8))}
        steps = propagate(tiny_engine.model.segmenter, cache, (90, 120), 8, anchors, under_way=under_way)
        next(steps)
        with OperationCounter() as counts[under_way]:
            for _ in range(3):
                next(steps)
        steps.close()
    assert counts[2].waits.total() == 0, str(counts[2])
    assert counts[0].waits.total() >= 3  # the counter does see what the other way does


@torch.no_grad()
def test_a_frame_on_an_accelerator_costs_few_kernels_and_no_wait() -> None:
    """On torch's meta tensors, which are of another device than the host's and have no number to tell."""
    with torch.device("meta"):
        segmenter, kernels = Segmenter(TINY_SAM).eval(), []
        side = TINY_SAM.image_size
        with OperationCounter() as encoding:
            frame = segmenter.encode(torch.zeros(1, 3, side, side))
        for count in (1, 8):
            tracker = Tracker(segmenter, 30)
            tracker.add_prompts(frame, list(range(count)), torch.zeros(count, 2, TINY_SAM.hidden_size))
            for number in range(18):
                with OperationCounter() as tracking:
                    tracker.step(frame)
                assert number == 0 or tracking.waits.total() == 0, str(tracking)  # the codes of places are made once
            kernels.append(tracking.kernels.total())
    assert encoding.waits.total() == 0, str(encoding)
    assert max(kernels) <= MOST_KERNELS and abs(kernels[1] - kernels[0]) <= 20, kernels


@pytest.mark.parametrize("batch", [1, 4])
def test_frames_are_read_ahead_in_a_thread_and_give_the_same_features(
    tiny_engine: Engine, clip: Clips, batch: int
) -> None:
    frames, read = clip(8), []

    class Watched(Media):
        def __iter__(self) -> object:  # type: ignore[override]
            read.append((threading.current_thread() is threading.main_thread(), self._indices[0]))
            return super().__iter__()

    media = Media.from_array(frames)
    watched = Watched(media._frames, media.source, list(range(8)), 1)
    watched.select = lambda ts: Watched(media._frames, media.source, list(ts), 1)
    plain = open_cache(tiny_engine, media, batch=batch)
    ahead = open_cache(tiny_engine, watched, prefetch=True, batch=batch)
    for t in range(8):
        one, other = (cache.get(t, range(t + 1, 8)) for cache in (plain, ahead))
        assert torch.equal(one.embed, other.embed) and torch.equal(one.high_res_0, other.high_res_0)
    assert ahead.encoded == plain.encoded == 8
    assert read == [(t == 0, t) for t in range(0, 8, batch)]
    ahead.clear()
    read.clear()
    ahead.get(0, range(1, 8))
    ahead.get(6)  # not what was foreseen
    assert read == [(True, 0), (False, batch), (True, 6)]


def test_on_a_cpu_each_frame_is_encoded_by_itself(tiny_engine: Engine, clip: Clips) -> None:
    assert choose_encode_batch(torch.device("cpu")) == 1
    assert choose_encode_batch(torch.device("cuda")) == ENCODE_BATCH > 1
    alone, together = (open_cache(tiny_engine, Media.from_array(clip(4)), **o) for o in ({}, {"batch": 4}))
    one, other = (cache.get(0, (1, 2, 3)) for cache in (alone, together))
    assert (alone.encoded, len(alone)) == (1, 1) and (together.encoded, len(together)) == (4, 4)
    torch.testing.assert_close(one.embed, other.embed)
    with pytest.raises(ValueError, match="in batches of 0"):
        open_cache(tiny_engine, Media.from_array(clip(4)), batch=0)


@torch.no_grad()
def test_the_code_of_places_follows_its_matrix() -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(TINY_SAM)
    first = segmenter._build_image_encoding()
    assert segmenter._build_image_encoding() is first
    segmenter.shared_image_embedding.positional_embedding.mul_(2)
    second = segmenter._build_image_encoding()
    assert not torch.equal(first, second)
    segmenter.shared_image_embedding.positional_embedding.div_(2)
    assert torch.equal(segmenter._build_image_encoding(), first)
    segmenter.shared_image_embedding.positional_embedding = torch.zeros_like(
        segmenter.shared_image_embedding.positional_embedding
    )
    assert not torch.equal(segmenter._build_image_encoding(), first)
    assert segmenter.to(torch.bfloat16)._build_image_encoding().dtype == torch.bfloat16
