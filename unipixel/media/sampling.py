"""Which frames of a video are looked at."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Protocol

import numpy as np


class RandomChooser(Protocol):
    """Anything that draws one entry of a sequence: ``numpy.random.Generator`` or ``random.Random``."""

    def choice(self, seq: Any, /) -> Any:
        """One entry of ``seq``, all equally likely."""


def sample_indices(total: int, num_frames: int) -> list[int]:
    """Evenly spread frame indices, the first and the last frame included.

    Args:
        total: frames there are.
        num_frames: frames wanted; -1 means all. A shorter video gives all its frames.

    Raises:
        ValueError: ``total`` below 1, or ``num_frames`` neither -1 nor at least 1.

    Source: the released inference code, which rounds halves to even.
    Differs: one frame is the first one; the original divides by zero.
    """
    _check(total, num_frames)
    if num_frames == -1 or total <= num_frames:
        return list(range(total))
    if num_frames == 1:
        return [0]
    return _spread(total, num_frames - 1, num_frames).tolist()


def sample_random_indices(total: int, num_frames: int, rng: RandomChooser) -> list[int]:
    """One frame index out of each of ``num_frames`` equal segments, in order; training sees videos through these.

    Args:
        total: frames there are.
        num_frames: frames wanted; -1 means all. A shorter video gives all its frames.
        rng: draws once per segment.

    Raises:
        ValueError: ``total`` below 1, or ``num_frames`` neither -1 nor at least 1.

    Source: the released training code. The last frame belongs to no segment and is never drawn, as there.
    """
    _check(total, num_frames)
    if num_frames == -1 or total <= num_frames:
        return list(range(total))
    edges = _spread(total, num_frames, num_frames + 1).tolist()
    return [int(rng.choice(range(low, max(low + 1, high)))) for low, high in pairwise(edges)]


def sample_at_rate(total: int, fps: float, num_frames: int, *, rate: float = 2.0) -> tuple[list[int], float]:
    """Evenly spread frames of a video at about so many per second, and the rate that they come to.

    Args:
        total: frames there are.
        fps: frames per second of the video.
        num_frames: the most frames wanted.
        rate: frames wanted per second; a short video gives more, so that there are at least 4.

    Returns:
        An even number of indices, the first and the last frame included, and how many there are per second of the
        video.

    Raises:
        ValueError: ``total`` below 1, ``num_frames`` below 2, or a rate that is not positive.

    Source: the reader of video files that Qwen2.5-VL is released with.
    Differs: a video of one frame gives that frame; there it is refused.
    """
    _check(total, num_frames)
    if num_frames < 2 or not (fps > 0 and rate > 0):
        raise ValueError(f"num_frames is {num_frames}, fps {fps} and rate {rate}; use at least 2 and positive rates")
    if total == 1:
        return [0], rate
    most = min(num_frames, total) // 2 * 2
    count = int(min(max(total / fps * rate, 4), most, total)) // 2 * 2
    return _spread_rounded(total, count), count / total * fps


def _spread_rounded(total: int, count: int) -> list[int]:
    """``count`` numbers from 0 to ``total`` - 1, in float32 as there: where halves fall is decided by its rounding."""
    step = np.float32(total - 1) / np.float32(count - 1)
    half = count // 2
    first = np.arange(half, dtype=np.float32) * step
    last = np.float32(total - 1) - np.arange(count - half - 1, -1, -1, dtype=np.float32) * step
    return [int(index) for index in np.concatenate([first, last]).round()]


def _spread(total: int, parts: int, count: int) -> np.ndarray:
    # Stepping by a rounded float decides some halves, so the expression has to stay as the original has it.
    return np.arange(0, total, (total - 1) / parts)[:count].round().astype(np.int64)


def _check(total: int, num_frames: int) -> None:
    if total < 1:
        raise ValueError(f"a video has at least one frame, not {total}")
    if num_frames != -1 and num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, or -1 for all frames, not {num_frames}")
