"""What comes over a bare socket: no HTTP, headers that contradict each other, clients that come in crowds or leave."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from live import LONG, Live, running, wait_for

from unipixel.engine.engine import Engine
from unipixel.serve import server

BOX = {"type": "box", "box": [20, 10, 50, 40]}
GET = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
POST = b"POST /v1/sessions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
UPLOAD = b"POST /v1/sessions/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'


def connected(live: Live) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(live.url.rsplit(":", 1)[1])), timeout=20)


def said(live: Live, content: bytes) -> tuple[int, dict[str, Any]]:
    """Status and body of what comes back to these bytes."""
    with connected(live) as line:
        line.sendall(content)
        answer = b""
        try:
            while piece := line.recv(65536):
                answer += piece
        except ConnectionResetError:  # closed before it had read everything
            pass
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00" + b"\0" * 100 + b"\r\n\r\n", 400, "bad_http"),
        (b"GET\r\n\r\n", 400, "bad_http"),
        (GET + b"".join(b"X%d: a\r\n" % n for n in range(20_000)) + b"\r\n", 400, "bad_http"),
        (GET + b"X: " + b"a" * 1_000_000, 400, "bad_http"),
        (GET + b"Broken header\r\n\r\n", 400, "bad_http"),
        (GET + b"X: a\r\n b\0\r\n\r\n", 400, "bad_http"),
        (GET + b"Host: evil.example\r\n\r\n", 400, "bad_http"),
        (b"GET /v1/models HTTP/1.1\r\n\r\n", 400, "bad_http"),
        (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", 400, "bad_http"),
        (POST + b"Content-Length: -2\r\n\r\n{}", 400, "bad_http"),
        (POST + b"Content-Length: 2, 3\r\n\r\n{}", 400, "bad_http"),
        (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}", 400, "bad_http"),
        (POST + b"Content-Length: " + b"9" * 20 + b"\r\n\r\n{}", 413, "too_large"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n", 400, "bad_http"),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", 400, "bad_request"),
        (POST + b"Content-Encoding: gzip\r\nContent-Length: 20\r\n\r\n\x1f\x8b" + b"x" * 18, 400, "bad_request"),
        (GET.replace(b"127.0.0.1", b"[::") + b"\r\n", 403, "wrong_host"),
        (GET.replace(b"127.0.0.1", b"127.0.0.1@evil.example") + b"\r\n", 403, "wrong_host"),
        (GET.replace(b"127.0.0.1", b"127.0.0.1.evil.example") + b"\r\n", 403, "wrong_host"),
        (b"GET /v1/models HTTP/1.0\r\n\r\n", 403, "wrong_host"),
        (GET + b"Origin: http://[\r\n\r\n", 403, "wrong_origin"),
        (GET + b"Origin: null\r\n\r\n", 403, "wrong_origin"),
        (GET + b"Origin: http://127.0.0.1:1\r\n\r\n", 403, "wrong_origin"),
        (GET.replace(b"/v1/models", b"http://evil.example/v1/models") + b"\r\n", 404, "not_found"),
        (GET.replace(b"GET", b"FOO") + b"\r\n", 405, "method_not_allowed"),
        (GET.replace(b"/v1/models", b"/v1/sessions/x/objects/" + b"9" * 5000) + b"\r\n", 404, "no_session"),
        (UPLOAD + b"Connection: close\r\nContent-Length: 5\r\n\r\nabcde", 400, "bad_request"),
        (
            UPLOAD.replace(b"; boundary=x", b"") + b"Connection: close\r\nContent-Length: 5\r\n\r\nabcde",
            400,
            "bad_request",
        ),
    ],
)
def test_what_is_no_proper_request_is_told_so(quick: Live, content: bytes, status: int, code: str) -> None:
    found, body = said(quick, content)
    error = body["error"]
    assert (found, error["code"]) == (status, code) and set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"] and quick.get("/health")["status"]


def test_number_of_an_object_that_is_none_is_told_so(quick: Live, media: Path) -> None:
    session = quick.upload(media / "picture.png")
    for number in ("9" * 5000, "one", "1.5"):
        assert quick.get(f"{session}/objects/{number}", 400)["error"]["code"] == "bad_request"
    quick.http.delete(session)


def test_connection_that_asks_nothing_is_closed(quick_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADER_TIMEOUT_S", 0.2)
    with running(quick_engine) as live:
        for begun in (b"", b"GET /health HTT", GET.replace(b"close", b"keep-alive") + b"\r\n"):
            with connected(live) as line:
                line.sendall(begun)
                while line.recv(65536):  # until the server has had enough
                    pass
        assert live.get("/health")["status"]


def test_crowd_of_connections_is_told_to_come_back(quick_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 20)
    with running(quick_engine) as live:
        crowd = [connected(live) for _ in range(20)]
        wait_for(lambda: len(live.server_state.connections) == 20)
        status, body = said(live, GET + b"\r\n")
        assert status == 503 and body["error"]["code"] == "too_many_connections"
        for line in crowd:
            line.close()
        wait_for(lambda: not live.server_state.connections)
        assert live.get("/v1/models")["data"]


def test_requests_in_memory_are_bounded_together(quick_engine: Engine) -> None:
    with running(quick_engine, max_body_bytes=10_000, max_bodies_bytes=25_000) as live:
        waiting = [connected(live) for _ in range(2)]
        for line in waiting:
            line.sendall(POST + b"Content-Length: 9500\r\n\r\n" + b" " * 9000)
        wait_for(lambda: live.runtime.body_budget.used == 18_000)
        status, body = said(live, POST + b"Content-Length: 9500\r\n\r\n" + b" " * 9500)
        assert status == 429 and body["error"]["code"] == "queue_full" and live.get("/v1/models")["data"]
        for line in waiting:
            line.close()
        wait_for(lambda: live.runtime.body_budget.used == 0)
        assert said(live, POST + b"Content-Length: 9500\r\n\r\n" + b" " * 9500)[0] == 400


def test_upload_that_breaks_off_leaves_nothing(quick_engine: Engine, tmp_path: Path) -> None:
    with running(quick_engine, state=tmp_path) as live:
        for content in (b"", FILE, FILE + b"\x89PNG" + b"x" * 2_000_000):
            with connected(live) as line:
                line.sendall(UPLOAD + b"Content-Length: 9000000\r\n\r\n" + content)
        wait_for(lambda: len(live.server_state.connections) <= 1)
        assert live.get("/v1/sessions") == {"sessions": []} and list((tmp_path / "sessions").iterdir()) == []


def test_many_who_leave_leave_the_others_alone(quick: Live, media: Path) -> None:
    stays, left = (quick.upload(media / "long.mp4", track="all", num_frames=2, every=10) for _ in range(2))
    expected = quick.post(f"{stays}/objects", {"prompts": [BOX]})["objects"][0]["rles"]
    body = json.dumps({"prompts": [BOX], "stream": True}).encode()
    head = f"POST {left}/objects HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(quick.post(f"{stays}/track", {})))
    asking.start()
    for place in range(10):
        with connected(quick) as line:
            line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            if place % 2:  # some of them after the first event
                line.recv(1000)
    asking.join()
    assert answers[0]["objects"][0]["rles"] == expected and len(expected) == LONG // 10
    wait_for(lambda: not quick.get(left)["is_busy"])
    assert quick.post(f"{left}/objects", {"prompts": [BOX]})["objects"]
    for address in (stays, left):
        assert quick.http.delete(address).status_code == 204
