"""A clip's frames as Label Studio counts them: from 1, at a rate that need not be the video's own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from unipixel.errors import MediaError
from unipixel.media import Media

MAX_TRACKED_FRAMES = 200
"""Frames of one video on which objects are followed; between them Label Studio interpolates."""


@dataclass(frozen=True)
class Timeline:
    """The frames of a clip in time."""

    times_s: tuple[float, ...]
    """Seconds from the video's beginning to each frame of the clip."""
    duration_s: float
    """Of the whole video."""
    rate: float
    """Frames per second that Label Studio counts."""
    own_counts: tuple[int, float] | None = None
    """Frames and seconds of the video as Label Studio itself has said."""

    @property
    def frames_count(self) -> int:
        """Frames of the whole video, as Label Studio counts."""
        return self.own_counts[0] if self.own_counts else max(1, round(self.duration_s * self.rate))

    @property
    def duration(self) -> float:
        """Seconds of the whole video, as Label Studio says."""
        return self.own_counts[1] if self.own_counts else self.duration_s

    def apply_counts(self, frames_count: float, duration: float) -> Timeline:
        """The same with the numbers that a region of Label Studio's carries, if it carries any."""
        if not (1 <= frames_count <= 1e8 and 0 < duration < 1e8):
            return self
        return replace(self, rate=frames_count / duration, own_counts=(round(frames_count), float(duration)))

    def to_number(self, t: int) -> int:
        """Label Studio's number of frame ``t`` of the clip."""
        return min(max(round(self.times_s[t] * self.rate) + 1, 1), self.frames_count)

    def find_nearest(self, number: int) -> int:
        """The frame of the clip that is nearest to a frame by Label Studio's number."""
        return int(np.argmin(np.abs(np.array(self.times_s) - (number - 1) / self.rate)))


def select_clip(media: Media, most: int) -> Media:
    """The clip in which objects are followed: all frames of a video, or evenly every so many-th."""
    step = -(-media.num_frames // min(most, MAX_TRACKED_FRAMES))
    return media if step == 1 else media.select(range(0, media.num_frames, step))


def build_timeline(video: Media, clip: Media, rate: float) -> Timeline:
    """The timeline of a clip of a video.

    Raises:
        MediaError: the video does not say when its frames are shown.
    """
    every, chosen, fps = video.timestamps_s, clip.timestamps_s, video.fps
    if every is None or chosen is None:
        raise MediaError(f"{video.source} does not say when its frames are shown; Label Studio counts frames by time")
    gap = 1 / fps if fps else (every[-1] / (len(every) - 1) if len(every) > 1 else 0.0)
    return Timeline(chosen, every[-1] + gap, rate)
