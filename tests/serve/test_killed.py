"""Servers that are killed, gently and not: what was saved comes back, and nothing else is left."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from live import EXAMPLES

BOX = {"type": "box", "box": [60, 60, 160, 160]}


@contextmanager
def process(state: Path) -> Iterator[tuple[subprocess.Popen[str], httpx2.Client]]:
    """``unipixel serve`` in a process of its own, and a client for it."""
    command = [sys.executable, "-m", "unipixel", "serve", "--port", "0", "--state", str(state), "--device", "cpu"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        address = next(found[0] for line in server.stderr if (found := re.findall(r"http://\S+", line)))
        threading.Thread(target=server.stderr.read, daemon=True).start()
        with httpx2.Client(base_url=address, timeout=60) as http:
            yield server, http
    finally:
        server.kill()
        server.wait()


def opened(http: httpx2.Client) -> str:
    with open(EXAMPLES / "clip.mp4", "rb") as file:
        answer = http.post("/v1/sessions/upload", files={"file": file}, data={"num_frames": 8, "track": "all"})
    return f"/v1/sessions/{answer.json()['id']}"


def post(http: httpx2.Client, path: str, body: Any) -> Any:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_saved_sessions_come_back_after_a_kill_in_the_middle_of_work(tmp_path: Path, kill: signal.Signals) -> None:
    with process(tmp_path) as (server, http):
        saved, lost = opened(http), opened(http)
        post(http, f"{saved}/objects", {"prompts": [BOX], "label": "thing"})
        post(http, f"{saved}/ask", {"text": "What is [1]?"})
        before = post(http, f"{saved}/save", {})
        post(http, f"{lost}/objects", {"prompts": [BOX]})
        http.patch(f"{saved}/objects/1", json={"label": "another thing"})  # not saved, unless the server gets to it
        begun, ended = threading.Event(), threading.Event()

        def follow() -> None:
            try:
                with http.stream("POST", f"{lost}/track", json={"stream": True}) as answer:
                    for _ in answer.iter_lines():
                        begun.set()
            except httpx2.HTTPError:
                pass
            ended.set()

        threading.Thread(target=follow, daemon=True).start()
        assert begun.wait(60)
        server.send_signal(kill)
        assert server.wait(60) == -kill and ended.wait(20)
    folder = tmp_path / "sessions" / before["id"]
    (folder / "export-left").mkdir(exist_ok=True)  # as a kill in the middle of an export leaves it
    (folder / "export-left" / "coco.json").write_text("{")
    with process(tmp_path) as (_, http):
        listed = http.get("/v1/sessions").json()["sessions"]
        assert [one["id"] for one in listed] == [before["id"]]
        back = http.get(saved).json()
        label = "another thing" if kill == signal.SIGTERM else "thing"
        assert back["objects"][0]["label"] == label
        assert [one["rles"] for one in back["objects"]] == [one["rles"] for one in before["objects"]]
        assert back["turns"] == before["turns"] and back["objects"][0]["prompts"] == before["objects"][0]["prompts"]
        assert http.get(lost).status_code == 404
        assert sorted(path.name for path in folder.iterdir())[0] == "media" and len(list(folder.iterdir())) == 2
        assert [path.name for path in folder.parent.iterdir()] == [before["id"]]
        assert post(http, f"{saved}/track", {})["objects"][0]["rles"] == before["objects"][0]["rles"]
