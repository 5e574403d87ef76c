"""The server as a process that is told to end while it answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from live import events

STARTING_S = 120


class Process:
    """``unipixel serve`` on a free port."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "unipixel", "serve", "--port", "0", "--device", "cpu", "--no-state", *options]
        environment = {name: value for name, value in os.environ.items() if name != "UNIPIXEL_API_KEYS"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.said: list[str] = []
        ready = threading.Event()

        def listen() -> None:
            assert self.process.stderr is not None
            for line in self.process.stderr:
                self.said.append(line)
                if " on http://" in line:
                    ready.set()

        threading.Thread(target=listen, daemon=True).start()
        assert ready.wait(STARTING_S), self.said
        self.url = next(line for line in self.said if " on http://" in line).split(" on ")[1].strip()

    def open(self, path: Path, every: int = 1) -> str:
        """The address of a session about a file."""
        with open(path, "rb") as file:
            data = {"num_frames": "4", "track": "all", "every": str(every)}
            answer = httpx2.post(f"{self.url}/v1/sessions/upload", files={"file": file}, data=data, timeout=60)
        return f"{self.url}/v1/sessions/{answer.json()['id']}"


@contextmanager
def process(*options: str) -> Iterator[Process]:
    """A process for as long as the context lasts."""
    one = Process(*options)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()


def stream_and(one: Process, session: str, act: Any) -> list[tuple[str, Any]]:
    """Events of objects being tracked, with something done once the first has come."""
    body = {"prompts": [{"type": "box", "box": [8, 8, 40, 40]}], "stream": True}
    received = ""
    with httpx2.stream("POST", f"{session}/objects", json=body, timeout=120) as answer:
        assert answer.status_code == 200
        for text in answer.iter_text():
            if not received:
                act()
            received += text
    return events(received)


@pytest.mark.parametrize("is_patient", [True, False])
def test_stream_finishes_or_is_told_when_the_process_gets_sigterm(media: Path, is_patient: bool) -> None:
    grace = "120" if is_patient else "0.3"
    with process("--grace-seconds", grace) as one:
        session = one.open(media / "long.mp4", every=10 if is_patient else 1)
        refused: list[int] = []

        def end() -> None:
            one.process.send_signal(signal.SIGTERM)
            until = time.monotonic() + 20
            while is_patient and not refused and time.monotonic() < until:
                answer = httpx2.get(f"{one.url}/health", timeout=20)
                if answer.status_code == 503:
                    refused.append(httpx2.post(f"{session}/track", json={}, timeout=20).status_code)

        told = stream_and(one, session, end)
        assert refused == ([503] if is_patient else [])
        name, last = told[-2]
        assert told[-1] == ("", "[DONE]")
        if is_patient:
            assert name == "objects" and last["objects"][0]["id"] == 1
        else:
            assert name == "error" and last["error"]["code"] == "shutting_down"
        assert one.process.wait(30) == -signal.SIGTERM


def test_second_signal_waits_for_nothing(media: Path) -> None:
    with process("--grace-seconds", "600") as one:
        session = one.open(media / "long.mp4")

        def end() -> None:
            one.process.send_signal(signal.SIGTERM)
            one.process.send_signal(signal.SIGINT)

        with suppress(httpx2.HTTPError):  # it may be broken off: that is what was asked for
            stream_and(one, session, end)
        assert one.process.wait(60) is not None
