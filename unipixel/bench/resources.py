"""What something takes: seconds on the wall and of the processor, and memory.

The peak memory of tracking through a video is measured in a process of its own: ``python -m unipixel.bench.resources
VIDEO``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from unipixel.bench.inputs import build_random_engine, draw_moving_discs
from unipixel.draw import write_mp4
from unipixel.model.presets import TINY_SAM
from unipixel.sample import Box

SIZE_HW = (120, 160)
NUM_OBJECTS = 2


@dataclass
class TimeSpent:
    """Time that something took, added up."""

    wall_s: float = 0.0
    """As on a clock on the wall."""
    cpu_s: float = 0.0
    """Of all threads of this process; other programs on the machine do not count."""


@contextmanager
def measure_time(total: TimeSpent, device: torch.device) -> Iterator[None]:
    """Add the time until the end of the block to ``total``, work waiting on an accelerator included."""
    _synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        _synchronize(device)
        total.wall_s += time.perf_counter() - wall
        total.cpu_s += time.process_time() - cpu


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_mb() -> float | None:
    """Most memory that this process has ever had resident, in MB; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would also report the peak of the process that started this one
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 / (1024 if sys.platform == "darwin" else 1)


@dataclass(frozen=True)
class MemoryUse:
    """What tracking through one video took."""

    frames: int
    peak_mb: float
    """Most that was ever resident, the program and the model included."""
    start_mb: float
    """The same before the video was opened."""
    seconds: float


def measure_memory(video: Path, *, quick: bool, threads: int) -> MemoryUse:
    """Track through a video in a fresh process.

    Raises:
        RuntimeError: the process failed, or the system does not say how much memory it took.
    """
    command = [sys.executable, "-m", "unipixel.bench.resources", str(video), "--threads", str(threads)]
    done = subprocess.run(command + ["--quick"] * quick, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring memory failed: {done.stderr.strip().splitlines()[-1:]}")
    return MemoryUse(**json.loads(done.stdout.splitlines()[-1]))


def write_video(path: Path, num_frames: int) -> Path:
    """A video of ``num_frames`` frames whose objects wander."""
    period = draw_moving_discs(100, SIZE_HW)
    return write_mp4((period[t % len(period)] for t in range(num_frames)), path)


def track_video(video: Path, *, quick: bool) -> MemoryUse:
    """Track two boxed objects through all frames of a video in this process."""
    engine = build_random_engine(TINY_SAM if quick else None)
    before = peak_memory_mb()
    started = time.perf_counter()
    height, width = SIZE_HW
    boxes = [Box(width * x, height * x, width * (x + 0.3), height * (x + 0.3)) for x in (0.1, 0.5)][:NUM_OBJECTS]
    with engine.open(str(video), num_frames=8, track="all") as session:
        objects = session.segment(boxes, force=True)
        frames = session.num_frames
    seconds, after = time.perf_counter() - started, peak_memory_mb()
    if before is None or after is None:
        raise RuntimeError("this system does not say how much memory a process takes")
    if len(objects) != len(boxes) or any(one.track.num_frames != frames for one in objects):
        raise RuntimeError("not every object was tracked through all frames")
    return MemoryUse(frames, after, before, seconds)


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description="Track through a video and print the peak memory as JSON.")
    parser.add_argument("video", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps(vars(track_video(options.video, quick=options.quick))))


if __name__ == "__main__":
    main()
