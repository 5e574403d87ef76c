"""Peak memory of tracking through a video, measured in a process of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from unipixel.bench.scene import build_random_engine, draw_moving_discs
from unipixel.draw import write_mp4
from unipixel.model.presets import TINY_SAM
from unipixel.sample import Box

SIZE_HW = (120, 160)
NUM_OBJECTS = 2


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


def measure_memory(video: Path, *, quick: bool, threads: int) -> dict[str, float]:
    """`track_video` in a fresh process.

    Raises:
        RuntimeError: the process failed, or the system does not say how much memory it took.
    """
    command = [sys.executable, "-c", f"from {__name__} import main; main()", str(video), "--threads", str(threads)]
    done = subprocess.run(command + ["--quick"] * quick, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring memory failed: {done.stderr.strip().splitlines()[-1:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def write_video(path: Path, num_frames: int) -> Path:
    """A video of ``num_frames`` frames whose objects wander."""
    period = draw_moving_discs(100, SIZE_HW)
    return write_mp4((period[t % len(period)] for t in range(num_frames)), path)


def track_video(video: Path, *, quick: bool) -> dict[str, float]:
    """Track two boxed objects through all frames of a video in this process.

    Returns:
        ``frames``, ``peak_mb`` (the most that was ever resident, the program and the model included), ``start_mb`` (the
        same before the video was opened), and ``seconds``.
    """
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
    return {"frames": frames, "peak_mb": after, "start_mb": before, "seconds": seconds}


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description="Track through a video and print the peak memory as JSON.")
    parser.add_argument("video", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps(track_video(options.video, quick=options.quick)))
