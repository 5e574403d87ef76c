"""Requests made from the server's own description, right, wrong and broken ones, and every answer checked against it.

    python tools/fuzz_serve.py --requests 10000 --seed 0
    python tools/fuzz_serve.py --url http://127.0.0.1:8000 --requests 500

Without ``--url`` it starts a server with a tiny model of random weights, and looks at the end for files that were left
outside the server's folder. Ends with 1 if an answer is a 5xx other than 503 and 507, does not match the description,
accepts what the description forbids, changes a session that nobody asked about, or if a file was left behind.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import hypothesis
import numpy as np
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis import GenerationMode
from schemathesis import checks as known_checks
from schemathesis.core.failures import Failure, FailureGroup

from unipixel.bench.scene import build_random_engine, draw_moving_discs
from unipixel.draw import write_mp4
from unipixel.model.presets import TINY_SAM
from unipixel.serve import ServeSettings
from unipixel.serve.server import Server

Mode: TypeAlias = Literal["positive", "negative", "broken"]
MODES: tuple[Mode, ...] = ("positive", "negative", "broken")
CHECKS = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")
HONEST = (503, 507)
"""Server errors that are an answer: it is shutting down or out of memory, its disk is full."""
SIZE_HW = (48, 64)
MOST_SESSIONS = 8
TIMEOUT_S = 120.0
WRONG_TYPES = ("text/plain", "application/xml", "multipart/form-data", "multipart/form-data; boundary=x", "", "\x7f")
REQUEST_PARTS = ("method", "url", "headers", "files", "data", "params", "auth", "cookies", "json")


@dataclass
class Report:
    """What came back."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Answers by mode and status."""
    operations: Counter[str] = field(default_factory=Counter)
    """Requests by operation."""
    failures: Counter[str] = field(default_factory=Counter)
    """What was wrong, and how often."""
    examples: dict[str, str] = field(default_factory=dict)
    """The first request of each failure."""

    @property
    def total(self) -> int:
        """Requests that were answered."""
        return sum(self.statuses.values())

    def lines(self) -> Iterator[str]:
        """For people."""
        for operation, count in sorted(self.operations.items()):
            yield f"{count:6d}  {operation}"
        for mode in MODES:
            found = {status: n for (one, status), n in sorted(self.statuses.items()) if one == mode}
            yield f"{mode}: {sum(found.values())} requests, by status {found}"
        yield f"{self.total} requests, {sum(self.failures.values())} failures"
        for failure, count in self.failures.items():
            yield f"FAILED {count}x {failure}\n    {self.examples.get(failure, '')}"


class World:
    """What requests need to be about something: media, and sessions that are open."""

    def __init__(self, url: str) -> None:
        self.url, self.http = url, requests.Session()
        self.model = self.http.get(f"{url}/health", timeout=TIMEOUT_S).json()["model"]
        self.picture, self.clip = _media()
        self._sessions: list[str] = []
        self.bystander = self._open()
        self.before = self._look()

    def session(self) -> str:
        """An open session with an object."""
        if not self._sessions:
            self._sessions.append(self._open())
        return self._sessions[-1]

    def told(self, response: Any) -> None:
        """Take note of sessions that a request has opened or closed, and keep their number bounded."""
        if response.status_code == 201:
            self._sessions.insert(0, response.json()["id"])
        elif response.status_code in (204, 404) and self._sessions:
            alive = self.http.get(f"{self.url}/v1/sessions", timeout=TIMEOUT_S).json()["sessions"]
            self._sessions = [one for one in self._sessions if one in {line["id"] for line in alive}]
        while len(self._sessions) > MOST_SESSIONS:
            self.http.delete(f"{self.url}/v1/sessions/{self._sessions.pop(0)}", timeout=TIMEOUT_S)

    def is_untouched(self) -> bool:
        """Whether the session that no request was about is as it was."""
        return self._look() == self.before

    def close(self) -> None:
        """Close all sessions."""
        for one in (*self._sessions, self.bystander):
            self.http.delete(f"{self.url}/v1/sessions/{one}", timeout=TIMEOUT_S)

    def _open(self) -> str:
        sessions = f"{self.url}/v1/sessions"
        options: Any = {"url": self.clip, "num_frames": 3}
        opened = self.http.post(sessions, json=options, timeout=TIMEOUT_S).json()["id"]
        prompts: Any = {"prompts": [{"type": "point", "x": 20, "y": 20}]}
        self.http.post(f"{sessions}/{opened}/objects", json=prompts, timeout=TIMEOUT_S).raise_for_status()
        return str(opened)

    def _look(self) -> Any:
        return self.http.get(f"{self.url}/v1/sessions/{self.bystander}", timeout=TIMEOUT_S).json()


class Fuzzer:
    """Makes requests of the description and judges the answers.

    Args:
        url: of a running server.
        seed: the same requests for the same description, model and seed.
    """

    def __init__(self, url: str, seed: int) -> None:
        self._seed, self._rng = seed, np.random.default_rng(seed)
        self.world, self.report = World(url), Report()
        self._schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        self._checks: Any = known_checks.CHECKS.get_by_names(list(CHECKS))
        self._rejection: Any = known_checks.CHECKS.get_by_names(["negative_data_rejection"])

    def run(self, count: int) -> Report:
        """Make at least so many requests, in rounds over all operations and modes."""
        described: list[Any] = list(self._schema.get_all_operations())
        operations = [one.ok() for one in described]
        for turn in range(1000):
            left = count - self.report.total
            if left <= 0:
                break
            share = max(1, min(40, left // (len(operations) * len(MODES))))
            for operation in operations:
                for mode in MODES:
                    self._drawn(operation, mode, share, self._seed * 1000 + turn)
        if not self.world.is_untouched():
            self.report.failures["a session that no request was about has changed"] += 1
        if requests.get(f"{self.world.url}/health", timeout=TIMEOUT_S).status_code != 200:
            self.report.failures["the server is not well at the end"] += 1
        self.world.close()
        return self.report

    def _drawn(self, operation: Any, mode: Mode, count: int, seed: int) -> None:
        generation = GenerationMode.NEGATIVE if mode == "negative" else GenerationMode.POSITIVE

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=generation))
        def run(case: Any) -> None:
            self._send(case, mode)

        with suppress(Unsatisfiable):  # an operation without parameters cannot be asked wrongly
            run()

    def _send(self, case: Any, mode: Mode) -> None:
        if "session_id" in (case.path_parameters or {}) and self._rng.random() < 0.8:
            case.path_parameters["session_id"] = self.world.session()
        if mode == "positive" and self._rng.random() < 0.8:
            self._make_likely(case)
        sent = case.as_transport_kwargs(base_url=self.world.url)
        if mode == "broken":
            sent = self._broken(sent)
        response = self.world.http.request(**sent, timeout=TIMEOUT_S, allow_redirects=False)
        name = f"{case.operation.method.upper()} {case.operation.path}"
        self.report.statuses[mode, response.status_code] += 1
        self.report.operations[name] += 1
        for failure in self._judged(case, mode, response):
            told = f"{response.status_code} {name} ({mode}): {failure}"
            self.report.failures[told] += 1
            self.report.examples.setdefault(told, (repr(sent) if mode == "broken" else case.as_curl_command())[:2000])
        self.world.told(response)

    def _judged(self, case: Any, mode: Mode, response: Any) -> Iterator[str]:
        if response.status_code >= 500 and response.status_code not in HONEST:
            yield response.text[:300]
        checks = [*self._checks, *(self._rejection if mode == "negative" else [])]
        try:
            case.validate_response(response, checks=checks)
        except (Failure, FailureGroup) as failure:
            found = failure.exceptions if isinstance(failure, FailureGroup) else [failure]
            yield from (f"{type(one).__name__}: {' '.join(str(one).split())[:600]}" for one in found)

    def _make_likely(self, case: Any) -> None:
        """Put in media that there are, ids that are known and places that are within, so that requests go far."""
        if isinstance(case.body, dict):
            case.body = self._likely(case.body)
        likely = {"t": 1, "object_id": 1, "objects": [1], "model": self.world.model, "number": -1}
        for given in (case.path_parameters or {}, case.query or {}):
            for name in set(given) & set(likely):
                given[name] = likely[name]
        if isinstance(case.body, dict) and "file" in case.body:
            case.body["file"] = base64.b64decode(self.world.picture.partition(",")[2])

    def _likely(self, value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: self._likely(inner, key) for key, inner in value.items()}
        if name in ("url", "image_url", "video_url") and isinstance(value, str):
            return self.world.clip if name == "video_url" else self.world.picture
        likely: dict[str, Any] = {
            "model": self.world.model,
            "frame": 0,
            "start": 0,
            "object_id": None,
            "about": [],
            "objects": None,
            "box": [5, 5, 40, 40],
            "size": list(SIZE_HW),
            "counts": [100, 200, SIZE_HW[0] * SIZE_HW[1] - 300],
            "x": 20,
            "y": 20,
            "max_tokens": 4,
            "max_completion_tokens": 4,
            "every": 1,
        }
        if name in likely:
            return likely[name]
        return [self._likely(one) for one in value] if isinstance(value, list) else value

    def _broken(self, sent: dict[str, Any]) -> dict[str, Any]:
        """The request with its bytes or headers damaged."""
        prepared = requests.Request(**{key: sent[key] for key in sent if key in REQUEST_PARTS}).prepare()
        whole: Any = prepared.body or b"{}"
        body = whole.encode() if isinstance(whole, str) else whole
        headers = {key: value for key, value in prepared.headers.items() if key.lower() != "content-length"}
        damages: list[Callable[[bytes], bytes]] = [
            lambda data: data[: int(self._rng.integers(len(data) + 1))],
            lambda data: data + data,
            lambda data: b"[" * int(self._rng.integers(1, 5000)) + data,
            lambda data: bytes(b ^ int(self._rng.integers(256)) if self._rng.random() < 0.05 else b for b in data),
            lambda data: data.replace(b'"', b"'"),
            lambda data: data.replace(b":", b":1e999,", 1),
            lambda data: self._rng.bytes(int(self._rng.integers(200))),
            lambda data: data.decode("utf-8", "replace").encode("utf-16"),
        ]
        if self._rng.random() < 0.3:
            headers["Content-Type"] = str(self._rng.choice(WRONG_TYPES))
        data = damages[int(self._rng.integers(len(damages)))](body)
        return {"method": prepared.method, "url": prepared.url, "headers": headers, "data": data}


def _media() -> tuple[str, str]:
    """A picture and a clip of 3 frames as ``data:`` URLs."""
    frames = draw_moving_discs(3, SIZE_HW)
    packed = io.BytesIO()
    Image.fromarray(frames[0]).save(packed, "PNG")
    with tempfile.TemporaryDirectory() as folder:
        write_mp4(frames, Path(folder) / "clip.mp4")
        clip = (Path(folder) / "clip.mp4").read_bytes()
    picture = f"data:image/png;base64,{base64.b64encode(packed.getvalue()).decode()}"
    return picture, f"data:video/mp4;base64,{base64.b64encode(clip).decode()}"


@contextmanager
def own_server(folder: Path) -> Iterator[str]:
    """A server with a tiny model; it works in ``folder``, where ``state`` and ``tmp`` are all that it may touch."""
    ready = threading.Event()
    (folder / "tmp").mkdir()
    before, tempfile.tempdir = tempfile.tempdir, str(folder / "tmp")
    place = Path.cwd()
    os.chdir(folder)
    settings = ServeSettings(port=0, state=folder / "state", max_tokens=16, max_frames=16, max_source_frames=64)
    server = Server(build_random_engine(TINY_SAM), settings, lambda _: ready.set())
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        if not ready.wait(60):
            raise RuntimeError("the server did not start")
        yield server.address
    finally:
        server.should_exit = True
        thread.join()
        tempfile.tempdir = before
        os.chdir(place)


def left_over(folder: Path) -> list[Path]:
    """What a server whose sessions were all closed should not have left: any file, and any folder of its own making."""
    known = {folder / "tmp", folder / "state", folder / "state" / "sessions"}
    return sorted(set(folder.rglob("*")) - known)


def main() -> None:
    """Print the report, and end with 1 if something was wrong."""
    parser = argparse.ArgumentParser(description="Fuzz a server with requests made from its own description.")
    parser.add_argument("--url", help="of a running server; by default one is started")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        set_hypothesis_home_dir(Path(name) / "hypothesis")
        folder = Path(name) / "server"
        folder.mkdir()
        if given.url:
            report = Fuzzer(given.url.rstrip("/"), given.seed).run(given.requests)
        else:
            with own_server(folder) as url:
                report = Fuzzer(url, given.seed).run(given.requests)
        report.failures.update(f"left behind: {path}" for path in left_over(folder))
    print("\n".join(report.lines()))
    raise SystemExit(1 if report.failures else 0)


if __name__ == "__main__":
    os.environ.setdefault("NO_PROXY", "*")
    main()
