"""Where the time of an answer goes: seconds and counts per stage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

STAGES = ("read", "vision_tower", "prefill", "decode", "sam_encode", "track", "write")
"""Reading frames, the vision tower, reading the prompt, writing tokens, SAM's image encoder, tracking (mask decoder and
memory), and turning logits into stored masks."""


class Clock:
    """Adds up the seconds spent in named stages. A stage inside another is taken out of the outer one.

    Args:
        device: on an accelerator each stage waits for its work to finish, so that the time is booked where it belongs.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self._device = device
        self._inner: list[float] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Book the time until the end of the block under ``name``."""
        self._wait()
        started = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            self._wait()
            spent = time.perf_counter() - started
            self.add({name: spent - self._inner.pop()})
            if self._inner:
                self._inner[-1] += spent

    def add(self, seconds: Mapping[str, float]) -> None:
        """Book time that was measured elsewhere."""
        for name, spent in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def count(self, name: str, number: int = 1) -> None:
        """Add to the number of things that a stage has done, such as tokens or frames."""
        self.counts[name] = self.counts.get(name, 0) + number

    def take(self) -> Timings:
        """Everything booked since the last call, in the order of `STAGES`; the clock starts again at zero."""
        timings = Timings({s: self.seconds.get(s, 0.0) for s in STAGES}, dict(self.counts))
        self.seconds, self.counts = {}, {}
        return timings

    def _wait(self) -> None:
        if self._device is None or self._device.type == "cpu":
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()


class Timings(dict[str, float]):
    """Seconds per stage of one answer.

    Attributes:
        counts: how many frames, tokens or objects a stage has handled.
    """

    def __init__(self, seconds: dict[str, float] | None = None, counts: dict[str, int] | None = None) -> None:
        super().__init__(seconds or {})
        self.counts = counts or {}

    @property
    def total(self) -> float:
        """Seconds of all stages together."""
        return sum(self.values())

    def seconds_per_item(self, stage: str) -> float:
        """Seconds per counted item of a stage, such as per decoded token; nan if it counted none."""
        number = self.counts.get(stage, 0)
        return self[stage] / number if number else float("nan")
