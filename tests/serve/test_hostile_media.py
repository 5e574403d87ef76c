"""Media that lie about themselves or unpack to more than they seem: refused in one sentence, and nothing is left."""

from __future__ import annotations

import base64
import gzip
import io
import socket
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import Live, running
from PIL import Image

from unipixel.draw import write_mp4
from unipixel.engine.engine import Engine
from unipixel.errors import MediaError
from unipixel.media import Limits, open_media

CHAT = "/v1/chat/completions"
SIDE = 100
BOUNDS: dict[str, Any] = {
    "max_pixels": SIDE * SIDE,
    "max_source_frames": 30,
    "max_animation_pixels": 4 * SIDE * SIDE,
    "max_video_pixels": 20 * 64 * 64,
}


@pytest.fixture(scope="module")
def bounded(quick_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose bounds are small, so that small files pass them."""
    with running(quick_engine, state=tmp_path_factory.mktemp("bounded"), **BOUNDS) as live:
        yield live


def packed(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain(side: int, value: int = 0) -> Image.Image:
    return Image.new("L", (side, side), value)


def animation(kind: str, side: int, number: int) -> bytes:
    rest = [plain(side, 6 * n + 6) for n in range(number - 1)]
    return packed(plain(side), kind, save_all=True, append_images=rest, duration=20)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, data: bytes, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A picture of one pixel with 50 MB of compressed text."""
    return png_of(1, 1, b"\0\0", chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 50_000_000)))


def zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("picture.png", b"\0" * 20_000_000)
    return file.getvalue()


def video(folder: Path, number: int) -> bytes:
    write_mp4(np.zeros((number, 64, 64, 3), np.uint8), folder / "video.mp4")
    return (folder / "video.mp4").read_bytes()


def lying_gif() -> bytes:
    """A screen of one pixel, and a frame on it that claims to be huge."""
    content = bytearray(packed(plain(1), "GIF"))
    place = content.index(b",\0\0\0\0")
    content[place + 5 : place + 9] = struct.pack("<HH", 60_000, 60_000)
    return bytes(content)


def lying_apng() -> bytes:
    """An animation that claims two thousand million frames."""
    return png_of(1, 1, b"\0\0", chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)))


BOMBS: dict[str, tuple[Any, str]] = {
    "declared size": (lambda _: png_of(60_000, 60_000, b"\0"), "60000 x 60000 pixels"),
    "png that unpacks": (lambda _: png_of(4000, 4000, b"\0" * (4001 * 4000)), "more than the limit"),
    "png with more than it says": (lambda _: png_of(10, 10, b"\0" * 30_000_000), ""),
    "text in a png": (lambda _: text_bomb(), "damaged"),
    "webp": (lambda _: packed(plain(4000), "WEBP", lossless=True), "4000 x 4000 pixels, more than the limit"),
    "gif": (lambda _: packed(plain(4000), "GIF"), "4000 x 4000 pixels, more than the limit"),
    "frames of a gif": (lambda _: animation("GIF", SIDE, 6), "6 frames of 100 x 100 pixels, together more"),
    "frames of a webp": (lambda _: animation("WEBP", SIDE, 6), "6 frames of 100 x 100 pixels, together more"),
    "frames of an apng": (lambda _: animation("PNG", SIDE, 6), "6 frames of 100 x 100 pixels, together more"),
    "too many small frames": (lambda _: animation("GIF", 2, 40), "more frames than the limit of 30"),
    "gif that lies": (lambda _: lying_gif(), ""),
    "frame count that lies": (lambda _: lying_apng(), ""),
    "frames of a video": (lambda folder: video(folder, 25), "21 frames of 64 x 64 pixels, together more"),
    "zip": (lambda _: zip_bomb(), "neither an image"),
    "gzip": (lambda _: gzip.compress(png_of(1, 1, b"\0\0")), "neither an image"),
    "playlist": (lambda _: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "neither an image"),
    "list of files": (lambda _: b"ffconcat version 1.0\nfile /etc/hostname\n", "neither an image"),
    "drawing": (
        lambda _: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///x'/></svg>",
        "neither",
    ),
    "postscript": (lambda _: b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/hostname) run\n", "neither an image"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_files_that_unpack_to_more_than_allowed_are_refused(bounded: Live, tmp_path: Path, name: str) -> None:
    make, words = BOMBS[name]
    answer = bounded.http.post("/v1/sessions/upload", files={"file": ("../../etc/clip.mp4", make(tmp_path))})
    if answer.status_code == 201:  # it is no more than it should be, whatever it claims
        address = f"/v1/sessions/{answer.json()['id']}"
        assert answer.json()["media"]["height"] <= SIDE and answer.json()["media"]["num_frames"] <= 30
        assert bounded.http.get(f"{address}/frames/0").status_code in (200, 400)
        assert bounded.http.delete(address).status_code == 204
        assert not words
    else:
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["code"] == "bad_media" and words in error["message"], error
        assert "\n" not in error["message"] and "sessions" not in error["message"]
    assert list(bounded.sessions._root.iterdir()) == []
    assert bounded.get("/health")["sessions"] == 0


def test_names_say_nothing_about_what_a_file_is(quick: Live, media: Path) -> None:
    for name in ("clip.jpg", "x.exe", "..", "con", "a" * 500, "/etc/passwd", "a\u202egnp.mp4", ""):
        content = (media / "clip.mp4").read_bytes()
        answer = quick.http.post("/v1/sessions/upload", files={"file": (name or "_", content)}, data={"num_frames": 2})
        opened = answer.json()
        assert answer.status_code == 201 and opened["media"]["num_frames"] == 2, opened
        assert len(opened["name"]) <= 80 and not set("/\\<>\"'`") & set(opened["name"]) and opened["name"].isprintable()
        folder = quick.sessions.find(opened["id"], "").folder
        assert [path.name for path in folder.iterdir()] == ["media"]
        quick.http.delete(f"/v1/sessions/{opened['id']}")


def test_cut_off_video_is_refused_wherever_it_is_cut(quick: Live, media: Path) -> None:
    content = (media / "clip.mp4").read_bytes()
    for size in np.linspace(1, len(content) - 1, 12).astype(int):
        answer = quick.http.post("/v1/sessions/upload", files={"file": ("clip.mp4", content[:size])})
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "bad_media", (size, answer.text)


def test_pictures_of_one_question_are_bounded_together(bounded: Live) -> None:
    url = f"data:image/png;base64,{_base64(packed(plain(SIDE), 'PNG'))}"
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": url}}] * 3
    body = {"model": "nano", "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}]}
    assert "the first 3 of 3 pictures have 30000 pixels together" in bounded.post(CHAT, body, 400)["error"]["message"]
    body["messages"][0]["content"] = [*parts[:2], {"type": "text", "text": "What?"}]
    assert bounded.post(CHAT, {**body, "max_tokens": 2})["choices"]


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


# addresses whose answers are hostile


@pytest.fixture
def speaking() -> Iterator[Any]:
    """Starts servers that say the bytes they are given, as slowly as told, whatever they are asked."""
    over, lines = threading.Event(), []

    def start(pieces: list[bytes], pause_s: float = 0.0) -> str:
        line = socket.create_server(("127.0.0.1", 0))
        lines.append(line)

        def speak() -> None:
            try:
                while not over.is_set():
                    client, _ = line.accept()
                    with client:
                        client.recv(65536)
                        for piece in pieces:
                            client.sendall(piece)
                            over.wait(pause_s)
            except OSError:  # nobody listens any more
                return

        threading.Thread(target=speak, daemon=True).start()
        return f"http://127.0.0.1:{line.getsockname()[1]}/picture.png"

    yield start
    over.set()
    for line in lines:
        line.close()


def test_server_that_drips_its_headers_is_left(speaking: Any) -> None:
    address = speaking([b"HTTP/1.1 200 OK\r\n", *[b"X-A: b\r\n"] * 1000], pause_s=0.05)
    with pytest.raises(MediaError, match=r"took longer than 0\.3 s"):
        open_media(address, limits=Limits(url_timeout_s=0.3))


def test_packed_answers_are_not_unpacked(quick_engine: Engine, speaking: Any) -> None:
    bomb = gzip.compress(b"\x89PNG\r\n\x1a\n" + b"\0" * 20_000_000)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    with running(quick_engine, private_urls=True, max_upload_bytes=1 << 20) as live:
        for said, words in [
            ([head, bomb], "neither an image"),
            ([b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n"], "more than the limit"),
            ([b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nGIF89a"], "broke off after 6 of 1000"),
            ([b"nonsense\r\n\r\n"], "cannot be fetched"),
            ([b"HTTP/1.1 302 Found\r\nLocation: file:///etc/hostname\r\n\r\n"], "is not allowed"),
        ]:
            error = live.post("/v1/sessions", {"url": speaking(said)}, 400)["error"]
            assert words in error["message"] and error["code"] == "bad_media"
        assert list(live.sessions._root.iterdir()) == []
