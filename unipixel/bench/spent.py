"""Seconds on the wall and of the processor, and the memory of this process."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class TimeSpent:
    """Time that something took, added up."""

    wall_s: float = 0.0
    """As on a clock on the wall."""
    cpu_s: float = 0.0
    """Of all threads of this process; other programs on the machine do not count."""

    def __add__(self, other: TimeSpent) -> TimeSpent:
        return TimeSpent(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s)


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
