"""Whatever comes in, the answer is clean, the server lives on, and nothing is written outside its folder."""

from __future__ import annotations

import ctypes
import io
import json
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from live import LONG, Live, data_url, running, wait_for

from unipixel.engine.engine import Engine
from unipixel.errors import MediaError
from unipixel.media import Limits, open_media, urls
from unipixel.serve import ServeSettings

KEYS = ("first-key-of-the-test", "second-key-of-the-test")
BOX = {"type": "box", "box": [20, 10, 50, 40]}
CHAT = "/v1/chat/completions"


def refused(answer: httpx2.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
    return error


# who may ask


def test_server_for_others_needs_keys() -> None:
    with pytest.raises(ValueError, match="there is no API key"):
        ServeSettings(host="0.0.0.0")
    with pytest.raises(ValueError, match="at least 16 printable"):
        ServeSettings(api_keys=("short",))
    assert ServeSettings(host="0.0.0.0", api_keys=KEYS).host == "0.0.0.0"


def test_keys_are_asked_for_and_sessions_belong_to_theirs(quick_engine: Engine, media: Path) -> None:
    with running(quick_engine, api_keys=KEYS) as live:
        for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": KEYS[0]}, {"X-API-Key": "\xe4"}):
            answer = live.http.get("/v1/models", headers=[(k, v.encode("latin-1")) for k, v in headers.items()])
            assert refused(answer, 401)["code"] == "invalid_api_key" and answer.headers["www-authenticate"] == "Bearer"
        assert refused(live.http.get("/metrics"), 401) and live.http.get("/health").status_code == 200
        live.http.headers["Authorization"] = f"Bearer {KEYS[0]}"
        address = live.upload(media / "picture.png")
        other = {"Authorization": "", "X-API-Key": KEYS[1]}
        assert live.http.get("/v1/sessions", headers=other).json() == {"sessions": []}
        assert refused(live.http.get(address, headers=other), 404)
        assert refused(live.http.delete(address, headers=other), 404)
        assert live.get(address)["name"] == "picture.png"


def test_pages_and_names_of_others_are_kept_out(quick: Live) -> None:
    assert refused(quick.http.get("/health", headers={"Host": "evil.example"}), 403)["code"] == "wrong_host"
    assert refused(quick.http.get("/health", headers={"Origin": "https://evil.example"}), 403)["code"] == "wrong_origin"
    assert quick.http.get("/health", headers={"Origin": quick.url}).status_code == 200
    assert "access-control-allow-origin" not in quick.http.get("/health").headers


def test_allowed_origins_may_call(quick_engine: Engine) -> None:
    page = "https://tool.example"
    with running(quick_engine, cors_origins=(page,)) as live:
        asking = {"Origin": page, "Access-Control-Request-Method": "POST"}
        assert live.http.options(CHAT, headers=asking).headers["access-control-allow-origin"] == page
        assert live.http.get("/health", headers={"Origin": page}).headers["access-control-allow-origin"] == page


# what comes in


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"[" * 100_000,
        b'{"model": "nano", "messages": ' + b"9" * 5000 + b"}",
        b'{"model": "\\ud800", "messages": []}',
        b"\xff\xfe\x00",
        b'{"model": "nano", "messages": [{"role": "user", "content": NaN}]}',
        b'{"model": "nano", "messages": [{"role": "\xc3\xa4"}], "temperature": Infinity}',
        b'{"model": "nano", "messages": {"role": "user"}}',
        b'{"model": "nano", "messages": [{"role": "tool", "content": "x"}]}',
        b'{"model": "nano", "messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}',
    ],
)
def test_malformed_bodies_are_refused(quick: Live, body: bytes) -> None:
    for path in (CHAT, "/v1/sessions"):
        refused(quick.http.post(path, content=body, headers={"Content-Type": "application/json"}), 400)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/sessions/..%2f..%2fetc",
        "/v1/sessions/%2e%2e/export?format=coco",
        "/v1/sessions/s-0123456789012345678901/frames/0",
        "/v1/sessions/%00/objects",
        "/v1/nonsense",
        "/..%2f..%2fpyproject.toml",
        "//etc/passwd",
    ],
)
def test_paths_lead_nowhere_else(quick: Live, path: str) -> None:
    with socket.create_connection(("127.0.0.1", int(quick.url.rsplit(":", 1)[1]))) as line:
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: line.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 404")


def test_wrong_methods_and_types_are_told(quick: Live) -> None:
    assert refused(quick.http.put(CHAT, json={}), 405)["code"] == "method_not_allowed"
    assert refused(quick.http.post(CHAT, content=b"{}", headers={"Content-Type": "text/plain"}), 400)
    assert refused(quick.http.post("/v1/sessions/upload", data={"num_frames": "3"}), 400)["param"] == "file"
    files = {"file": ("x.png", b"x")}
    assert refused(quick.http.post("/v1/sessions/upload", files=files, data={"every": "0"}), 400)["param"] == "every"


def test_large_bodies_are_cut_off_announced_or_not(quick_engine: Engine) -> None:
    with running(quick_engine, max_body_bytes=1000, max_upload_bytes=2000) as live:
        assert refused(live.http.post(CHAT, content=b"x" * 1001), 413)["code"] == "too_large"
        chunks = (b"x" * 600 for _ in range(3))
        headers = {"Content-Type": "application/json"}
        assert refused(live.http.post(CHAT, content=chunks, headers=headers), 413)
        answer = live.http.post("/v1/sessions/upload", files={"file": ("x.png", b"\x89PNG" + b"x" * 4000)})
        assert "more than the limit of 2000" in refused(answer, 400)["message"]


def lying_png(width: int, height: int) -> bytes:
    """A few bytes that claim any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def test_media_that_lie_or_are_damaged_are_refused(quick: Live, media: Path) -> None:
    before = (
        {path.name for path in quick.sessions.entries()[0].folder.parent.iterdir()}
        if (quick.sessions.entries())
        else set()
    )
    clip = (media / "clip.mp4").read_bytes()
    for content, words in [
        (lying_png(60_000, 60_000), "pixels"),
        (lying_png(64, 48), "damaged"),
        (b"", "empty"),
        (b"just words", "neither an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "neither an image"),
        (b"PK\x03\x04" + b"\0" * 100, "neither an image"),
        (clip[: len(clip) // 2], ""),
    ]:
        answer = quick.http.post("/v1/sessions/upload", files={"file": ("../../x.mp4", content)})
        if answer.status_code == 201:  # a file may be found out only when its pixels are read
            asked = quick.http.post(f"/v1/sessions/{answer.json()['id']}/objects", json={"prompts": [BOX]})
            quick.http.delete(f"/v1/sessions/{answer.json()['id']}")
            answer = asked
        message = refused(answer, 400)["message"]
        assert words in message and "sessions" not in message, message
    after = {path.name for path in Path(quick.sessions._root).iterdir()}
    assert before <= after and len(after) == len(quick.sessions.entries())


# addresses


class Redirecting(BaseHTTPRequestHandler):
    """Leads elsewhere."""

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", f"http://127.0.0.2:{self.server.server_port}/secret")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def redirecting() -> Iterator[str]:
    server = ThreadingHTTPServer(("0.0.0.0", 0), Redirecting)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/picture.png"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/x",
        "http://localhost/x",
        "http://[::1]/x",
        "http://0x7f000001/x",
        "http://2130706433/x",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:10.0.0.1]/x",
        "http://user:hunter2@10.0.0.1/x",
        "ftp://example.org/x",
        "file:///etc/hostname",
        "/etc/hostname",
        "gopher://x",
    ],
)
def test_private_addresses_are_not_fetched(quick: Live, url: str) -> None:
    message = refused(quick.http.post("/v1/sessions", json={"url": url}), 400)["message"]
    assert any(words in message for words in ("public internet", "is no address", "user name or password"))
    assert "hunter2" not in message


def test_redirects_and_names_are_checked_where_they_lead(redirecting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(private_addresses=False)
    monkeypatch.setattr(urls, "is_public", lambda address: address == "127.0.0.1")  # the first hop, and only that
    with pytest.raises(MediaError, match=r"127\.0\.0\.2 is not on the public internet"):
        open_media(redirecting, limits=limits)
    monkeypatch.undo()
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(MediaError, match=r"rebinding\.example is not on the public internet"):
        open_media("http://rebinding.example/x", limits=limits)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("64:ff9b::808:808", True),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("fe80::1%eth0", False),
        ("0.0.0.0", False),
    ],
)
def test_public_is_what_everybody_can_reach(address: str, public: bool) -> None:
    assert urls.is_public(address) is public


# while it works


@pytest.mark.parametrize("stream", [True, False])
def test_work_of_a_client_that_has_left_is_stopped(quick: Live, media: Path, stream: bool) -> None:
    address = quick.upload(media / "long.mp4", track="all", num_frames=2)
    body = json.dumps({"prompts": [BOX], "stream": stream}).encode()
    head = f"POST {address}/objects HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", int(quick.url.rsplit(":", 1)[1]))) as line:
        line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_for(lambda: quick.sessions.find(address.rsplit("/", 1)[1], "").objects)
    wait_for(lambda: not quick.get(address)["is_busy"])
    reached = [sum(score > 0 for score in one["frame_scores"]) for one in quick.get(address)["objects"]]
    assert reached and max(reached) < LONG
    assert quick.http.delete(address).status_code == 204


def test_thread_that_is_hit_fails_one_request_only(quick: Live, media: Path) -> None:
    address = quick.upload(media / "long.mp4", track="all", num_frames=2, every=6)
    thread = next(t for t in threading.enumerate() if t is quick.runtime.worker._thread)
    answers: list[httpx2.Response] = []

    def ask() -> None:
        answers.append(quick.http.post(f"{address}/objects", json={"prompts": [BOX]}))

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for(lambda: quick.sessions.find(address.rsplit("/", 1)[1], "").objects)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
    asking.join()
    # between two pieces, where it may also hit, nothing is lost
    assert answers[0].status_code == 200 or refused(answers[0], 500)["code"] == "internal_error"
    assert quick.post(f"{address}/track", {})["objects"]
    quick.http.delete(address)


def test_session_that_is_closed_under_a_request_is_gone_for_it(quick: Live, media: Path) -> None:
    """Exports and frames are made beside the model's thread, which may close their session meanwhile."""
    found: set[int] = set()
    for pause_s in np.linspace(0, 0.05, 8):
        address = quick.upload(media / "long.mp4", track="all", num_frames=2, every=10)
        quick.post(f"{address}/objects", {"prompts": [BOX]})
        answers: list[httpx2.Response] = []

        def take(address: str = address, answers: list[httpx2.Response] = answers) -> None:
            for path in ("export?format=davis", "frames/3", "", "export?format=overlay"):
                answers.append(quick.http.get(f"{address}/{path}".rstrip("/")))

        taking = threading.Thread(target=take)
        taking.start()
        time.sleep(pause_s)
        assert quick.http.delete(address).status_code == 204
        taking.join()
        for answer in answers:
            found.add(answer.status_code)
            if answer.status_code != 200:
                assert refused(answer, 404)["code"] == "no_session"
        folder = quick.sessions._root / address.rsplit("/", 1)[1]
        wait_for(lambda folder=folder: not folder.exists())  # the request under way lets go of it last
    assert 404 in found


def test_longest_reply_is_the_servers_where_a_request_does_not_say(quick_engine: Engine, media: Path) -> None:
    with running(quick_engine, max_tokens=3) as live:
        address = live.upload(media / "picture.png")
        assert live.post(f"{address}/ask", {"text": "What is this?"})["usage"]["completion_tokens"] <= 3
        assert (
            "max_tokens is 4" in live.post(f"{address}/ask", {"text": "Hm", "max_tokens": 4}, 400)["error"]["message"]
        )


@pytest.mark.parametrize("grace_s", [20.0, 0.05])
def test_server_that_ends_lets_answers_finish_or_tells_them(quick_engine: Engine, media: Path, grace_s: float) -> None:
    with running(quick_engine, grace_s=grace_s) as live:
        address = live.upload(media / "long.mp4", track="all", num_frames=2, every=10 if grace_s > 1 else 1)
        names: list[str] = []

        def follow() -> None:
            with live.http.stream("POST", f"{address}/objects", json={"prompts": [BOX], "stream": True}) as answer:
                names.extend(line for line in answer.iter_lines() if line.startswith(("event", "data: [", 'data: {"e')))

        thread = threading.Thread(target=follow)
        thread.start()
        wait_for(lambda: live.sessions.find(address.rsplit("/", 1)[1], "").objects)
        live.begin_to_stop()
        wait_for(lambda: not live.runtime.worker.is_ready)
        thread.join()
    assert names[-1] == "data: [DONE]"
    if grace_s > 1:
        assert names[-2] == "event: objects"
    else:
        assert "shutting_down" in names[-2] and names[-3] == "event: error"


def test_full_queue_is_told_over_http(quick_engine: Engine, media: Path) -> None:
    with running(quick_engine, max_queue=1, max_running=1) as live:
        address = live.upload(media / "long.mp4", track="all", num_frames=2)
        threads = [
            threading.Thread(target=live.http.post, args=(f"{address}/objects",), kwargs={"json": {"prompts": [BOX]}})
            for _ in range(2)
        ]
        threads[0].start()
        wait_for(lambda: live.runtime.worker.num_running == 1)
        threads[1].start()
        wait_for(lambda: live.runtime.worker.num_waiting == 1)
        message = {"role": "user", "content": [{"type": "image_url", "image_url": data_url(media / "picture.png")}]}
        asked = {"model": "nano", "messages": [message], "unipixel": {"prompts": [BOX]}}
        answer = live.http.post(CHAT, json=asked)
        assert refused(answer, 429)["type"] == "rate_limit_error" and int(answer.headers["retry-after"]) > 0
        live.http.delete(address)  # stops both
        for thread in threads:
            thread.join()


def test_description_of_the_api_is_complete(quick: Live) -> None:
    described = quick.get("/openapi.json")
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"] and operation["description"], (method, path)
            assert {"400", "500"} <= set(operation["responses"]) and "422" not in operation["responses"]
            for answer in operation["responses"].values():  # what a client is sent is described, not just called text
                assert answer.get("content", {}).get("application/json", {}).get("schema") != {"type": "string"}, path
    schemas = described["components"]["schemas"]
    for name in ("ChatRequest", "OpenRequest", "AskRequest", "SegmentRequest", "CorrectRequest", "TrackRequest"):
        assert schemas[name]["examples"], name
    names = [one["operationId"] for operations in described["paths"].values() for one in operations.values()]
    assert len(names) == len(set(names)) and all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)
    text = json.dumps(described)
    assert all(reference in schemas for reference in _references(text))


def test_other_api_is_refused_in_one_sentence(quick: Live) -> None:
    error = refused(quick.http.post("/v1/responses", json={"model": "nano", "input": "Hello"}), 404)
    assert error["code"] == "not_supported" and "/v1/chat/completions" in error["message"]


def _references(text: str) -> set[str]:
    return {part.split('"')[0] for part in io.StringIO(text).read().split("#/components/schemas/")[1:]}
