"""All measurements of ``unipixel bench``, in one run."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unipixel.bench.ratios import Ratio, compare_objects, compare_questions
from unipixel.bench.resources import (
    REAL_SAM,
    MemoryUse,
    build_random_engine,
    measure_memory,
    peak_memory_mb,
    write_video,
)
from unipixel.engine.answer import STAGES, Answer
from unipixel.engine.engine import Engine, choose_device, choose_dtype
from unipixel.model.presets import TINY_SAM

PARTS = ("memory", "image", "clip", "session")
"""What can be measured on its own."""
MEMORY_LIMIT = 1.1
"""Most that the longer video may take, as a multiple of the shorter one's peak."""
_COUNTED = {
    "read": "frame",
    "vision_tower": "frame",
    "prefill": "token",
    "decode": "token",
    "sam_encode": "frame",
    "track": "object and frame",
}


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """What to measure, and how."""

    quick: bool = False
    """Very small sizes, to see in seconds that everything runs; the figures mean nothing."""
    only: tuple[str, ...] = ()
    """Some of `PARTS`; empty for all."""
    dtype: str = "auto"
    """``"fp32"``, ``"bf16"``, or ``"auto"``: the one that multiplies matrices faster here."""
    threads: int | None = None
    """Threads of torch; None leaves it to torch."""
    device: str = "cpu"
    """Where the model runs; ``"auto"`` as in `unipixel.load`."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.only if name not in PARTS]
        if unknown:
            raise ValueError(f"there is no measurement {unknown[0]!r}; choose from {', '.join(PARTS)}")
        if self.dtype not in ("auto", "fp32", "bf16"):
            raise ValueError(f"dtype is {self.dtype!r}; it must be 'fp32', 'bf16' or 'auto'")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}; it must be at least 1")


@dataclass(frozen=True)
class StageTime:
    """One row of the table of times."""

    name: str
    first_s: float
    """In the first question of a session."""
    second_s: float
    """In the second one."""
    per: str = ""
    """What is counted."""
    count: int = 0
    """How many of it the first question had."""

    @property
    def each_s(self) -> float | None:
        """Seconds for one of them, in the first question."""
        return self.first_s / self.count if self.count else None


@dataclass
class BenchReport:
    """Everything that was measured."""

    setting: dict[str, Any]
    """The machine, the sizes, the dtype."""
    stages: list[StageTime] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    memory: list[MemoryUse] = field(default_factory=list)
    """Of tracking through a shorter and a longer video."""
    peak_memory_mb: float | None = None
    """Of this process, with the large model."""

    @property
    def memory_growth(self) -> float | None:
        """Peak memory of the longer video as a multiple of the shorter one's."""
        return self.memory[1].peak_mb / self.memory[0].peak_mb if self.memory else None

    def to_json(self) -> dict[str, Any]:
        return {
            "setting": self.setting,
            "stages": [{**vars(stage), "each_s": stage.each_s} for stage in self.stages],
            "ratios": [ratio.to_json() for ratio in self.ratios],
            "memory": {
                "videos": [vars(use) for use in self.memory],
                "growth": self.memory_growth,
                "limit": MEMORY_LIMIT,
            },
            "peak_memory_mb": self.peak_memory_mb,
        }


def run_bench(settings: BenchSettings, progress: Callable[[str], None] = lambda _: None) -> BenchReport:
    """Measure.

    Args:
        progress: called with what is measured next.

    Raises:
        ValueError: the device is not there.
        RuntimeError: memory cannot be measured here.
    """
    device = choose_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    dtype = _choose_dtype(settings.dtype, device)
    parts = settings.only or PARTS
    report = BenchReport(_describe_setting(settings, device, dtype))
    if "memory" in parts:
        lengths = (20, 60) if settings.quick else (100, 1000)
        report.memory = _measure_memory(lengths, quick=settings.quick, progress=progress)
    if set(parts) == {"memory"}:
        return report
    progress("building the model with random weights")
    engine = build_random_engine(TINY_SAM if settings.quick else REAL_SAM, dtype=dtype, device=device)
    _measure_speed(engine, parts, settings.quick, report, progress)
    report.peak_memory_mb = peak_memory_mb()
    return report


def _measure_speed(
    engine: Engine, parts: tuple[str, ...], quick: bool, report: BenchReport, progress: Callable[[str], None]
) -> None:
    size_hw = (96, 128) if quick else (480, 640)
    progress("warming up")
    compare_questions(engine, 2, 1.0, size_hw)
    if "session" in parts:
        progress("asking twice about one video")
        answers, ratio = compare_questions(engine, 4 if quick else 8, 5.0, size_hw)
        report.stages = _build_stages(answers)
        report.ratios.append(ratio)
    if "image" in parts:
        progress("objects of an image, together and one by one")
        report.ratios[:0] = compare_objects(engine, 1, 3 if quick else 8, 5.0, size_hw, strict=False)
    if "clip" in parts:
        progress("objects of a clip, together and one by one")
        found = compare_objects(engine, 4 if quick else 8, 2 if quick else 3, 2.5, size_hw, strict=True)
        place = 1 if "image" in parts else 0
        report.ratios[place:place] = found


def _measure_memory(lengths: tuple[int, int], *, quick: bool, progress: Callable[[str], None]) -> list[MemoryUse]:
    uses = []
    with tempfile.TemporaryDirectory() as folder:
        for length in lengths:
            progress(f"tracking through {length} frames")
            video = write_video(Path(folder) / f"{length}.mp4", length)
            uses.append(measure_memory(video, quick=quick, threads=torch.get_num_threads()))
    return uses


def _build_stages(answers: Sequence[Answer]) -> list[StageTime]:
    first, second = (answer.timings for answer in answers)
    rows = [
        StageTime(name, first[name], second[name], _COUNTED.get(name, ""), first.counts.get(name, 0)) for name in STAGES
    ]
    saved = []
    with tempfile.TemporaryDirectory() as folder:
        for number, answer in enumerate(answers):
            started = time.perf_counter()
            answer.save(Path(folder) / str(number))
            saved.append(time.perf_counter() - started)
    return [*rows, StageTime("save (overlay and JSON)", saved[0], saved[1])]


def _choose_dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
    if device.type != "cpu":
        return choose_dtype(None, "", device)
    return torch.bfloat16 if _time_product(torch.bfloat16) < 0.8 * _time_product(torch.float32) else torch.float32


def _time_product(dtype: torch.dtype) -> float:
    """Least processor seconds of a matrix product: processors without bf16 units emulate them slowly."""
    matrix = torch.ones(768, 768, dtype=dtype)
    times = []
    for _ in range(5):
        started = time.process_time()
        matrix @ matrix
        times.append(time.process_time() - started)
    return min(times)


def _describe_setting(settings: BenchSettings, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    sam = "a very small SAM at 64 px" if settings.quick else "SAM 2.1 Hiera-B+ at 768 px"
    return {
        "model": f"{sam}, language and vision parts of nano's size, random weights",
        "memory_model": "a very small SAM at 64 px" if settings.quick else "nano's size (SAM at 160 px), fp32",
        "device": str(device),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "quick": settings.quick,
    }
