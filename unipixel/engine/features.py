"""SAM's features of a clip's frames: each computed once, only so many kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

from unipixel.engine.timing import Clock
from unipixel.media import Media
from unipixel.model.segmenter import FrameFeatures, Segmenter
from unipixel.processing import ImageSettings
from unipixel.processing.images import prepare_sam_frames

CACHED_FRAMES = 32
"""Frames whose features a session keeps by default; one costs 9.4 MB at Hiera-B+, 768 px, fp32."""
ENCODE_BATCH = 4
"""Frames that are encoded in one batch."""


class FrameFeatureCache:
    """Features of single frames, encoded when first asked for; the least recently used ones make room.

    A clip of at most ``capacity`` frames is encoded once, however many objects and questions there are. A longer one
    streams through, and memory stays what ``capacity`` frames need.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        media: Media,
        settings: ImageSettings,
        *,
        capacity: int = CACHED_FRAMES,
        clock: Clock | None = None,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"the feature cache holds {capacity} frames; it must hold at least 1")
        self.capacity = capacity
        self.encoded = 0
        """Frames encoded so far, repetitions included."""
        self._segmenter, self._media, self._settings = segmenter, media, settings
        self._clock = clock or Clock()
        self._kept: OrderedDict[int, FrameFeatures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, t: int, following: Sequence[int] = ()) -> FrameFeatures:
        """Features of frame ``t``; on a miss, missing ones of the frames ``following`` are encoded along with it."""
        if t not in self._kept:
            room = min(ENCODE_BATCH, self.capacity)
            wanted = [t, *(f for f in following if f not in self._kept and f != t)][:room]
            for frame, features in zip(wanted, self._encode(wanted), strict=True):
                self._kept[frame] = features
                self._kept.move_to_end(frame)
            self._kept.move_to_end(t)
            while len(self._kept) > self.capacity:
                # never the frames just encoded: there are at most `capacity` of them, and they are the newest
                self._kept.popitem(last=False)
        self._kept.move_to_end(t)
        return self._kept[t]

    def clear(self) -> None:
        """Forget all features."""
        self._kept.clear()

    @torch.no_grad()
    def _encode(self, frames: list[int]) -> list[FrameFeatures]:
        with self._clock.stage("read"):
            pixels = prepare_sam_frames(self._media.frames(frames), self._settings)
        self._clock.count("read", len(frames))
        with self._clock.stage("sam_encode"):
            device = self._segmenter.no_memory_embedding.device
            features = self._segmenter.encode(pixels.to(device))
            # slices would keep the whole batch alive
            parts = [features[i : i + 1] for i in range(len(frames))]
            if len(frames) > 1:
                parts = [FrameFeatures(p.embed.clone(), p.high_res_0.clone(), p.high_res_1.clone()) for p in parts]
        self._clock.count("sam_encode", len(frames))
        self.encoded += len(frames)
        return parts
