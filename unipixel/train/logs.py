"""What a run tells while it runs: lines on the console and in ``log.jsonl``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


class JsonLinesCallback(TrainerCallback):
    """Appends every log line to ``log.jsonl`` in the run folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "log.jsonl"
        self._began = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Write one line."""
        if state.is_world_process_zero:
            line = {"step": state.global_step, "seconds": round(time.monotonic() - self._began, 1), **(logs or {})}
            with self._file.open("a") as out:
                out.write(json.dumps(line) + "\n")


class ConsoleCallback(TrainerCallback):
    """One short line per log entry on stderr."""

    def __init__(self) -> None:
        self._began, self._first = time.monotonic(), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self._began, self._first = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Print one line."""
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        passed = time.monotonic() - self._began
        done = state.global_step - self._first
        left = passed / done * (state.max_steps - state.global_step) if done else 0.0
        figures = "  ".join(f"{name} {_format_value(value)}" for name, value in logs.items() if name != "epoch")
        print(
            f"step {state.global_step}/{state.max_steps}  {figures}  ({_format_duration(left)} left)", file=sys.stderr
        )


def _format_value(value: Any) -> str:
    return f"{float(value):.3g}" if isinstance(value, int | float | str) else str(value)


def _format_duration(seconds: float) -> str:
    return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02d}:{int(seconds % 60):02d}"
