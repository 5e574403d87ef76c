"""Media behind addresses, from a server of our own on this machine."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from clips import number_of, write_clip
from PIL import Image

from unipixel.errors import MediaError
from unipixel.media import Limits, open_media
from unipixel.media.urls import is_url, shorten_url

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers with ``files``, and badly where the path asks for it."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        self.path = self.path.split("?")[0]
        if self.path in ("/loop", "/to-file", "/to-picture"):
            target = {"/loop": "/loop", "/to-file": "file:///etc/hostname", "/to-picture": "/picture.png"}[self.path]
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()
        elif self.path == "/drip":
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(100):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.05)
            except OSError:  # the reader has lost patience, as it should
                return
        elif self.path in ("/endless", "/announced", "/broken"):
            self.send_response(200)
            if self.path != "/endless":
                self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"\x89PNG" + b"x" * (1 if self.path == "/broken" else 50_000))
        elif self.path in self.files:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.files[self.path])
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    clip = write_clip(tmp_path_factory.mktemp("urls") / "clip.mp4", 12)
    Handler.files = {"/picture.png": png(), "/clip": clip.read_bytes(), "/empty": b"", "/text": b"just a few words"}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_pictures_and_videos_are_fetched(address: str) -> None:
    np.testing.assert_array_equal(open_media(f"{address}/picture.png").frame(0), PIXELS)
    media = open_media(f"{address}/clip?token=secret", num_frames=3)
    assert [number_of(frame) for frame in media] == [0, 6, 11]
    assert media.source == f"{address}/clip"


def test_redirects_are_followed(address: str) -> None:
    np.testing.assert_array_equal(open_media(f"{address}/to-picture").frame(0), PIXELS)


def test_downloads_are_gone_with_their_media(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    media = open_media(f"{address}/clip").select([2])
    assert len(list(tmp_path.iterdir())) == 1
    assert number_of(media.frame(0)) == 2
    del media
    assert not list(tmp_path.iterdir())
    with pytest.raises(MediaError):
        open_media(f"{address}/text")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing", "answered with the error 404"),
        ("/to-file", r"302 .*not allowed"),
        ("/loop", "redirect"),
        ("/empty", "is empty"),
        ("/text", "neither an image"),
        ("/broken", "broke off|cannot be fetched"),
        ("/announced", "is 1000000 bytes, more than the limit of 10000"),
        ("/endless", "more than the limit of 10000"),
    ],
)
def test_bad_answers_are_media_errors(address: str, path: str, message: str) -> None:
    limits = Limits() if path == "/broken" else Limits(max_bytes=10_000)
    with pytest.raises(MediaError, match=message):
        open_media(address + path, limits=limits)


def test_a_dripping_server_cannot_hold_us(address: str) -> None:
    start = time.monotonic()
    with pytest.raises(MediaError, match=r"took longer than 0\.3 s"):
        open_media(f"{address}/drip", limits=Limits(url_timeout_s=0.3))
    assert time.monotonic() - start < 2


def test_a_server_that_is_not_there_is_a_media_error() -> None:
    with pytest.raises(MediaError, match="cannot be fetched"):
        open_media("http://127.0.0.1:1/picture.png", limits=Limits(url_timeout_s=2))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://example.org/a.png", "must begin with http://"),
        ("file:///etc/hostname", "must begin with http://"),
        ("http:///a.png", "names no host"),
        ("http://[::1/a.png", "cannot be understood"),
        ("http://exa mple.org/a b", "cannot be fetched"),
    ],
)
def test_other_addresses_are_refused(url: str, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        open_media(url)


def test_data_urls_hold_pictures() -> None:
    encoded = base64.b64encode(png()).decode()
    np.testing.assert_array_equal(open_media(f"data:image/png;base64,{encoded}").frame(0), PIXELS)
    np.testing.assert_array_equal(open_media(f"DATA:;BASE64,{encoded.replace('+', '%2B')}").frame(0), PIXELS)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:image/png;base64,!!!!", "not valid base64"),
        ("data:image/png;base64,", "is empty"),
        ("data:nothing", "the comma before them is missing"),
        ("data:text/plain,hello", "neither an image"),
        ("data:image/png;base64," + "A" * 20_000, "more than the limit of 10000"),
    ],
)
def test_bad_data_urls_are_refused_without_repeating_them(url: str, message: str) -> None:
    with pytest.raises(MediaError, match=message) as caught:
        open_media(url, limits=Limits(max_bytes=10_000))
    assert len(str(caught.value)) < 250


def test_messages_show_no_password_or_query() -> None:
    assert shorten_url("https://user:secret@example.org/a.png?token=1") == "https://example.org/a.png"


def test_paths_are_not_taken_for_addresses() -> None:
    assert not any(is_url(path) for path in ("a.png", "C:/a.png", "C:\\a.png", "folder/data:x", "./a:b"))
    assert all(is_url(url) for url in ("http://a/b", "HTTPS://a/b", "data:,x", "s3://a/b"))
