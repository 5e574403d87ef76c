"""A server on a free port of this machine, and a client for it."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

import unipixel
from unipixel.engine.engine import Engine
from unipixel.serve import ServeSettings
from unipixel.serve.server import Server

LONG = 250
"""Frames of the clip that takes a while."""
EXAMPLES = Path(unipixel.__file__).parent / "examples"


class Live:
    """A server that runs in a thread, and a client for it."""

    def __init__(self, engine: Engine, **settings: Any) -> None:
        self.engine = engine
        ready = threading.Event()
        self._server = Server(engine, ServeSettings(**{"port": 0, **settings}), lambda _: ready.set())
        self.runtime, self.sessions = self._server.runtime, self._server.sessions
        self.server_state = self._server.server_state
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        assert ready.wait(20)
        self.url = self._server.address
        self.http = httpx2.Client(base_url=self.url, timeout=60)

    def begin_to_stop(self) -> None:
        self._server.should_exit = True

    def stop(self) -> None:
        self.begin_to_stop()
        self._thread.join(20)
        self.http.close()
        assert not self._thread.is_alive()

    def upload(self, path: Path, **options: Any) -> str:
        """Open a session and return its address."""
        with open(path, "rb") as file:
            answer = self.http.post("/v1/sessions/upload", files={"file": file}, data=options)
        assert answer.status_code == 201, answer.text
        return f"/v1/sessions/{answer.json()['id']}"

    def post(self, path: str, body: Any, status: int = 200) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def get(self, path: str, status: int = 200, **query: Any) -> Any:
        answer = self.http.get(path, params=query)
        assert answer.status_code == status, answer.text
        return answer.json()


@contextmanager
def running(engine: Engine, **settings: Any) -> Iterator[Live]:
    """A server for as long as the context lasts."""
    live = Live(engine, **settings)
    try:
        yield live
    finally:
        live.stop()


def events(text: str) -> list[tuple[str, Any]]:
    """Server-sent events with their names."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            data = fields["data"]
            found.append((fields.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return found


def data_url(path: Path, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def wait_for(condition: Any) -> None:
    """Wait until something is so, and fail if it takes too long."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
