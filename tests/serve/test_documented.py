"""What ``docs/serving.md`` prints runs as it is printed, with the address and the media of this test in place."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live import EXAMPLES, Live, data_url, running

from unipixel.engine.engine import Engine

DOCUMENT = Path(__file__).parents[2] / "docs" / "serving.md"
PRINTED = "http://127.0.0.1:8000"
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def block(language: str, words: str) -> str:
    (found,) = [one for one in blocks(language) if words in one]
    return found


@pytest.fixture
def saving(nano_engine: Engine, tmp_path: Path) -> Iterator[Live]:
    with running(nano_engine, state=tmp_path / "state") as live:
        yield live


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the media that the document names."""
    shutil.copy(EXAMPLES / "picture.png", tmp_path / "photo.png")
    shutil.copy(EXAMPLES / "clip.mp4", tmp_path / "clip.mp4")
    return tmp_path


def typed(script: str, live: Live, folder: Path) -> str:
    """What the shell prints; a server's error fails it."""
    assert PRINTED in script
    script = script.replace(PRINTED, live.url).replace("curl ", "curl --silent --show-error --fail-with-body ")
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_curl
def test_chat_with_curl_answers_as_the_engine(saving: Live, folder: Path) -> None:
    told = json.loads(typed(block("bash", "/v1/chat/completions"), saving, folder))
    expected = saving.engine.ask(str(folder / "photo.png"), "Please segment the dog in this image.")
    assert told["choices"][0]["message"]["content"] == expected.text
    objects = told["choices"][0]["message"]["unipixel"]["objects"]
    assert [one["rles"] for one in objects] == [one.to_json()["rles"] for one in expected.objects]


@needs_curl
def test_session_with_curl_does_every_step(saving: Live, folder: Path) -> None:
    told = typed(block("bash", "/v1/sessions\n"), saving, folder)
    assert told.count("data: [DONE]") == 2 and "event: masks" in told and "event: answer" in told
    exported: dict[str, Any] = json.loads((folder / "coco.json").read_text())
    assert exported["annotations"] and exported["images"]
    assert saving.get("/v1/sessions") == {"sessions": []}  # the last command closes it


def test_openai_client_runs_as_printed(saving: Live, folder: Path) -> None:
    script = block("python", "from openai import OpenAI").replace(f"{PRINTED}/v1", f"{saving.url}/v1")
    script = script.replace("https://example.org/clip.mp4", data_url(folder / "clip.mp4", "video/mp4"))
    names: dict[str, Any] = {}
    exec(script, names)
    message = names["reply"].choices[0].message
    assert message.content and message.unipixel["media"]["num_frames"] == 8


def test_every_route_of_the_table_exists(saving: Live) -> None:
    described = saving.get("/openapi.json")["paths"]
    text = DOCUMENT.read_text(encoding="utf-8")
    for path in ("/v1/chat/completions", "/v1/models", "/health", "/metrics", "/v1/sessions", "/v1/sessions/upload"):
        assert path in described and f"`{path}`" in text.replace("GET ", "").replace("POST ", "")
    mentioned = set(re.findall(r"…/([a-z]+)", text))
    known = {path.split("/")[4] for path in described if path.startswith("/v1/sessions/{session_id}/")}
    assert known <= mentioned
