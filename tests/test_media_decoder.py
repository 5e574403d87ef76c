"""Decoding in a process of its own, and headers that announce too much."""

from __future__ import annotations

import io
import os
import re
import signal
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import number_of, write_clip
from PIL import Image

from unipixel.errors import MediaError
from unipixel.media import LOCAL, Limits, open_media
from unipixel.media.decoder import _POOL, IsolatedSource, _Process

APART = Limits(isolated=True)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(seed: int, height: int = 40, width: int = 50) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def several(kind: str) -> bytes:
    return encoded(picture(0), kind, save_all=True, append_images=[picture(n) for n in range(1, 7)], duration=50)


def many_scans(count: int, side: int = 64) -> bytes:
    content = encoded(picture(0, side, side), "JPEG", progressive=True)
    place = content.rindex(b"\xff\xda")
    return content[:place] + content[place:-2] * count + content[-2:]


def tiff(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    known = {256: (3, 1, 4), 257: (3, 1, 4), 258: (3, 1, 8), 262: (3, 1, 1), 273: (4, 1, 8), 279: (4, 1, 16)}
    table = sorted({(tag, *rest) for tag, rest in known.items() if tag not in {one[0] for one in entries}} | {*entries})
    body = b"".join(struct.pack("<HHII", *one) for one in table)
    return b"II*\0" + struct.pack("<IH", 8, len(table)) + body + struct.pack("<I", following) + bytes(64)


def with_blocks(count: int) -> bytes:
    """A JPEG with so many blocks of EXIF of 60 KB."""
    content = encoded(picture(0), "JPEG")
    block = b"\xff\xe1" + struct.pack(">H", 60_002) + b"Exif\0\0" + bytes(59_994)
    return content[:2] + block * count + content[2:]


def with_png_chunk(kind: bytes, size: int) -> bytes:
    content = encoded(picture(0), "PNG")
    body = kind + bytes(size)
    return content[:33] + struct.pack(">I", size) + body + struct.pack(">I", zlib.crc32(body)) + content[33:]


def with_webp_chunk(size: int) -> bytes:
    content = encoded(picture(0), "WEBP", exif=b"Exif\0\0" + bytes(size), lossless=True)
    assert b"EXIF" in content
    return content


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "AVIF"])
def test_pictures_and_their_frames_are_those_of_this_process(kind: str, tmp_path: Path) -> None:
    for content in (encoded(picture(3), kind), several(kind) if kind != "JPEG" else encoded(picture(4), kind)):
        (tmp_path / "file").write_bytes(content)
        here, apart = open_media(content), open_media(str(tmp_path / "file"), limits=APART)
        assert (apart.num_frames, apart.size_hw, apart.fps) == (here.num_frames, here.size_hw, here.fps)
        assert apart.timestamps_s == here.timestamps_s
        order = [*range(here.num_frames), *range(here.num_frames - 1, -1, -2)]
        np.testing.assert_array_equal(apart.frames(order), here.frames(order))
        for t in (here.num_frames - 1, 0, here.num_frames // 2):
            np.testing.assert_array_equal(apart.frame(t), here.frame(t))


def test_videos_are_read_in_any_order_and_a_frame_is_the_callers_to_change(tmp_path: Path) -> None:
    media = open_media(str(write_clip(tmp_path / "clip.mp4", 40)), limits=APART)
    assert [number_of(media.frame(t)) for t in (0, 1, 2, 30, 5, 39)] == [0, 1, 2, 30, 5, 39]
    assert [number_of(frame) for frame in media] == list(range(40))
    still = open_media(encoded(picture(0), "PNG"), limits=APART)
    still.frame(0)[:] = 0
    np.testing.assert_array_equal(still.frame(0), np.asarray(picture(0)))
    media.close()
    assert number_of(media.frame(7)) == 7


def test_bytes_lie_in_a_file_for_as_long_as_their_media() -> None:
    source = IsolatedSource(encoded(picture(0), "PNG"), "bytes", APART)
    assert source._folder is not None
    folder = Path(source._folder.name)
    assert folder.exists()
    source.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del source
    assert not folder.exists()


def test_what_takes_too_much_memory_is_refused_and_the_next_file_opens() -> None:
    large, small = encoded(Image.new("RGB", (6000, 5000)), "PNG"), encoded(picture(0), "PNG")
    for _ in range(5):  # the process that was ended must not be asked again
        with pytest.raises(MediaError, match="takes more than 20000000 bytes of memory to decode"):
            open_media(large, limits=Limits(isolated=True, max_decoder_bytes=20_000_000))
        assert open_media(small, limits=APART).size_hw == (40, 50)
    assert open_media(large, limits=APART).size_hw == (5000, 6000)


def test_what_takes_too_long_is_refused_and_the_next_file_opens() -> None:
    slow = many_scans(900, 2500)
    limits = Limits(isolated=True, max_decoder_s=0.5, max_animation_pixels=1 << 50)
    with pytest.raises(MediaError, match=r"takes more than 0\.5 s to decode"):
        open_media(slow, limits=limits)
    assert open_media(encoded(picture(0), "PNG"), limits=APART).num_frames == 1


def test_a_decoder_that_stands_still_is_ended_and_the_next_file_opens(tmp_path: Path) -> None:
    """It takes no computing, so that the system's own bound never strikes."""
    write_clip(tmp_path / "a.mp4", 6)
    source = IsolatedSource(tmp_path / "a.mp4", "a.mp4", Limits(max_decoder_s=0.5))
    before = source.frame(0)
    for process in _POOL._idle:
        os.kill(process._popen.pid, signal.SIGSTOP)
    with pytest.raises(MediaError, match=r"a\.mp4 takes more than 0\.5 s to decode"):
        source.frame(1)
    for process in _POOL._idle:  # the others
        os.kill(process._popen.pid, signal.SIGCONT)
    again = IsolatedSource(tmp_path / "a.mp4", "a.mp4", LOCAL)
    np.testing.assert_array_equal(again.frame(0), before)


def test_a_decoder_knows_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIPIXEL_API_KEYS", "0123456789abcdef")
    process = _Process()
    try:
        variables = Path(f"/proc/{process._popen.pid}/environ")
        if variables.exists():
            assert b"PYTHONPATH" in variables.read_bytes() and b"UNIPIXEL_API_KEYS" not in variables.read_bytes()
    finally:
        process.close()


def test_a_decoder_that_dies_is_replaced(tmp_path: Path) -> None:
    media = open_media(str(write_clip(tmp_path / "clip.mp4", 20)), limits=APART)
    assert number_of(media.frame(3)) == 3
    for process in _POOL._idle:
        os.kill(process._popen.pid, signal.SIGSEGV)
        process._popen.wait()
    assert number_of(media.frame(4)) == 4


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(50), b"GIF89a", b"RIFF\0\0\0\0AVI LIST", bytes(100)])
def test_damaged_files_are_refused_in_the_words_of_this_process(content: bytes) -> None:
    with pytest.raises(MediaError) as here:
        open_media(content)
    with pytest.raises(MediaError) as apart:
        open_media(content, limits=APART)
    # a file in memory lies in one on disk for the decoder, and libraries name it
    words = [re.sub(r"BytesIO object at \w+|'[^']*'", "FILE", str(one.value)) for one in (here, apart)]
    assert words[0].split("(")[0] == words[1].split("(")[0]


def test_a_picture_that_is_cut_off_is_refused_where_it_is_opened() -> None:
    content = encoded(picture(0, 200, 200), "JPEG")
    with pytest.raises(MediaError, match="damaged"):
        open_media(content[: len(content) // 2], limits=APART)


def test_warnings_come_through() -> None:
    pages = encoded(picture(0), "TIFF", save_all=True, append_images=[picture(1, 10, 12)])
    with pytest.warns(UserWarning, match="2 pages of different sizes"):
        open_media(pages, limits=APART)


HEADERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "scans of a jpeg": (lambda: many_scans(400), "scans of 64 x 64 pixels, together more than the limit of 1048576"),
    "exif of a jpeg": (lambda: with_blocks(40), "more than 2000000 bytes of metadata"),
    "exif of a png": (lambda: with_png_chunk(b"eXIf", 3_000_000), "more than 2000000 bytes of metadata"),
    "an unknown chunk": (lambda: with_png_chunk(b"prVt", 3_000_000), "more than 2000000 bytes of metadata"),
    "exif of a webp": (lambda: with_webp_chunk(3_000_000), "more than 2000000 bytes of metadata"),
    "a tag of a tiff": (lambda: tiff((40000, 7, 3_000_000, 8)), "more than 2000000 bytes of metadata"),
    "tags of a tiff that share bytes": (
        lambda: tiff(*((40000 + n, 7, 60_000, 8) for n in range(40))),
        "more than 2000000 bytes of metadata",
    ),
    "strips of a tiff": (lambda: tiff((273, 4, 1 << 23, 8), (279, 4, 1 << 23, 8)), "8388608 strips or tiles"),
    "tiles of a tiff": (lambda: tiff((324, 16, 70_000, 8)), "70000 strips or tiles"),
    "chunks of a png": (
        lambda: encoded(picture(0), "PNG")[:33] + (bytes(4) + b"IDAT" + bytes(4)) * 70_000,
        "chunks, more than the limit of 65536",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_announce_too_much_are_refused_before_anything_is_decoded(name: str) -> None:
    make, words = HEADERS[name]
    limits = Limits(max_metadata_bytes=2_000_000, max_parts=1 << 16, max_animation_pixels=1 << 20)
    with pytest.raises(MediaError, match=words):
        open_media(make(), limits=limits)


def test_usual_files_pass_the_same_bounds() -> None:
    limits = Limits(max_metadata_bytes=2_000_000, max_parts=1 << 16, max_animation_pixels=1 << 20)
    for content in (many_scans(1), with_blocks(5), with_png_chunk(b"eXIf", 1000), with_webp_chunk(1000), tiff()):
        assert open_media(content, limits=limits).num_frames == 1
    assert open_media(with_blocks(40), limits=LOCAL).num_frames == 1


def test_pages_that_lead_in_a_circle_end() -> None:
    assert open_media(tiff(following=8)).num_frames == 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_one_entry_of_exif_is_read_and_not_the_block_that_others_share(order: str) -> None:
    entries = 1000
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, entries)
    table = struct.pack(order + "HHIHH", 0x0112, 3, 1, 6, 0)
    table += b"".join(struct.pack(order + "HHII", 40_000 + n, 7, 55_000, 8) for n in range(entries - 1))
    block = b"Exif\0\0" + head + table
    content = encoded(picture(0), "JPEG")
    content = content[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + content[2:]
    assert open_media(content, limits=LOCAL).size_hw == (50, 40)
    with pytest.raises(MediaError, match="more than 2000000 bytes of metadata"):
        open_media(content, limits=Limits(max_metadata_bytes=2_000_000))
