"""Small videos whose frames carry their own number, for tests that must know which frame they got."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

STEP = 8  # grey levels between numbers; compression moves flat patches by less than half of it


def numbered_frame(number: int, size_hw: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A frame, uint8 (H, W, 3), that says its number (below 1024): low digit on the left, high digit on the right."""
    height, width = size_hw
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    frame[:, : width // 2] = STEP * (number % 32)
    frame[:, width // 2 :] = STEP * (number // 32)
    return frame


def number_of(frame: np.ndarray) -> int:
    """The number that a frame says."""
    half = frame.shape[1] // 2
    low, high = (round(float(part[4:-4, 4:-4].mean()) / STEP) for part in (frame[:, :half], frame[:, half:]))
    return low + 32 * high


def write_clip(
    path: Path,
    num_frames: int = 30,
    codec: str = "libx264",
    *,
    size_hw: tuple[int, int] = (48, 64),
    fps: float = 10,
    times_ms: list[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a video of numbered frames, at even times or at ``times_ms``."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size_hw, "yuv420p"
        stream.bit_rate, stream.codec_context.thread_count = 1_000_000, 1
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, size_hw), format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
