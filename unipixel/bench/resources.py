"""What is measured, and what it takes: a model with random weights, frames, seconds and memory.

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
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from unipixel.draw import write_mp4
from unipixel.engine.engine import Engine
from unipixel.model.config import SamConfig
from unipixel.model.presets import IMAGE_SIZE, TINY_SAM, build_nano_config, initialise
from unipixel.model.unipixel import UniPixel
from unipixel.processing import ImageSettings, Processor
from unipixel.processing.chat import SYSTEM
from unipixel.processing.tokenizer import build_tokenizer
from unipixel.sample import Box

REAL_SAM = SamConfig()
"""Hiera-B+ at 768 px, the segmenter of the released checkpoints."""
QUESTION = "What is this?"
SIZE_HW = (120, 160)
NUM_OBJECTS = 2


def build_random_engine(
    sam: SamConfig | None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Engine:
    """An engine of random weights: language and vision parts of nano's size, the segmenter of the size given.

    Args:
        sam: size of the segmenter; None for nano's.
        dtype: of the parameters; buffers stay in fp32, as in a loaded checkpoint.
    """
    tokenizer = build_tokenizer(
        [SYSTEM, "system user assistant", QUESTION, "Please segment and tell about the region."]
    )
    nano = build_nano_config(len(tokenizer), Processor(tokenizer).chat.ids)
    config = nano if sam is None else replace(nano, sam=sam)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UniPixel(config)
    initialise(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        # every object counts as there, so that its masks take the whole way to the end
        model.segmenter.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(10.0)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    settings = ImageSettings(
        min_pixels=IMAGE_SIZE**2, max_pixels=IMAGE_SIZE**2, share_budget=False, sam_size=config.sam.image_size
    )
    return Engine(model.to(device), Processor(tokenizer, settings))


def draw_moving_discs(num_frames: int, size_hw: tuple[int, int], seed: int = 0) -> np.ndarray:
    """uint8 (T, H, W, 3): three coloured discs that wander over a gradient."""
    height, width = size_hw
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    plain = np.stack([x * 120 / width + 40, y * 120 / height + 40, np.full((height, width), 90.0)], -1).astype(np.uint8)
    colours = rng.integers(120, 256, (3, 3))
    phases = rng.random((3, 2)) * 2 * np.pi
    frames = np.repeat(plain[None], num_frames, 0)
    for t in range(num_frames):
        for colour, (a, b) in zip(colours, phases, strict=True):
            middle_x = width * (0.5 + 0.35 * np.sin(a + t / 9))
            middle_y = height * (0.5 + 0.35 * np.sin(b + t / 7))
            frames[t][(x - middle_x) ** 2 + (y - middle_y) ** 2 < (min(size_hw) / 8) ** 2] = colour
    return frames


def draw_random_queries(engine: Engine, count: int, seed: int = 0) -> torch.Tensor:
    """(N, Q, C) mask queries, as a reply with ``count`` `<|seg|>` tokens would give."""
    config = engine.model.config
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(count, config.hidden_tokens, config.sam.hidden_size, generator=generator)
    return queries.to(engine.device, engine.model.dtype)


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
