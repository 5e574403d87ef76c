"""What the headers of a picture announce, bounded before a decoder sees it.

Decoders believe headers: a few bytes make them reserve gigabytes for strips, or read the same pixels hundreds of times.
Only sizes are read here; whether the file is what it claims to be is for the decoder to say.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from unipixel.media.limits import Limits

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"fdAT", b"fcTL", b"acTL", b"IEND"})
_WEBP_METADATA = frozenset({b"EXIF", b"XMP ", b"ICCP"})
_JPEG_MARKER = re.compile(rb"\xff\xff*[\x01-\xcf\xd8-\xfe]")  # begins with one byte, which is found 17 times faster
_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_PARTS = frozenset({273, 279, 324, 325})
"""Tags with an entry for each strip or tile."""
_EXIF = b"Exif\0\0"
_ORIENTATION_TAG = 0x0112
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')

UPRIGHT = 1
"""EXIF's number for pixels that lie as they are shown."""

Buffer = mmap.mmap | bytes


def check_headers(data: Path | bytes, name: str, limits: Limits) -> None:
    """Refuse a picture whose headers announce more than ``limits`` allow: scans, strips, tiles, pages, metadata.

    Raises:
        MediaError: says of what there is too much.
        OSError: the file cannot be read.
    """
    with _map_file(data) as buffer:
        if buffer[:3] == b"\xff\xd8\xff":
            _check_jpeg(buffer, name, limits)
        elif buffer[:8] == _PNG_SIGNATURE:
            _check_png(buffer, name, limits)
        elif buffer[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            _check_tiff(buffer, name, limits)
        elif buffer[:4] == b"RIFF" and buffer[8:12] == b"WEBP":
            _check_webp(buffer, name, limits)
        elif buffer[4:8] == b"ftyp":
            _check_boxes(buffer, name, limits)


@contextmanager
def _map_file(data: Path | bytes) -> Iterator[Buffer]:
    if isinstance(data, bytes):
        yield data
        return
    with open(data, "rb") as file:
        if not file.seek(0, 2):
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield mapped


def _check_jpeg(buffer: Buffer, name: str, limits: Limits) -> None:
    """Scans are read one after the other, each over all pixels, so that they cost what frames do."""
    place, metadata, scans, size_hw, exif = 2, 0, 0, (0, 0), bytearray()
    while (found := _JPEG_MARKER.search(buffer, place)) is not None:
        marker = buffer[found.end() - 1]
        place = found.end()
        if marker == 0xD9 or len(head := buffer[place : place + 7]) < 7:
            break
        if marker in (0x01, 0xD8):
            continue
        length = int.from_bytes(head[:2], "big")
        place += max(length, 2)
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            metadata += length
            limits.check_metadata(metadata, name)
            if marker == 0xE1 and buffer[found.end() + 2 : found.end() + 8] == _EXIF:
                exif += buffer[found.end() + 8 : place]
        elif marker in _JPEG_FRAMES:
            size_hw = int.from_bytes(head[3:5], "big"), int.from_bytes(head[5:7], "big")
        elif marker == 0xDA:
            scans += 1
            if scans > 1:
                limits.check_work(scans, size_hw, name, what="scans", animated=True)
    # Pillow reads all entries as soon as it opens a JPEG
    limits.check_metadata(metadata + sum(n * _TIFF_SIZES.get(kind, 1) for _, kind, n, _ in _list_entries(exif)), name)


def _check_png(buffer: Buffer, name: str, limits: Limits) -> None:
    place, metadata, chunks = 8, 0, 0
    while len(head := buffer[place : place + 8]) == 8:
        length, kind = struct.unpack(">I4s", head)
        chunks += 1
        limits.check_parts(chunks, "chunks", name)
        if kind not in _PNG_PIXELS:
            metadata += length
            limits.check_metadata(metadata, name)
        if kind == b"IEND":
            return
        place += length + 12


def _check_webp(buffer: Buffer, name: str, limits: Limits) -> None:
    place, metadata, frames, chunks = 12, 0, 0, 0
    while len(head := buffer[place : place + 8]) == 8:
        kind, length = struct.unpack("<4sI", head)
        chunks += 1
        limits.check_parts(chunks, "chunks", name)
        if kind in _WEBP_METADATA:
            metadata += length
            limits.check_metadata(metadata, name)
        elif kind == b"ANMF":
            frames += 1
            limits.check_frames(frames, name)
        place += 8 + length + (length & 1)


def _check_boxes(buffer: Buffer, name: str, limits: Limits) -> None:
    """The boxes of an AVIF or HEIC file beside its pixels."""
    place = 0
    while len(head := buffer[place : place + 16]) >= 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:
            return
        if kind in (b"meta", b"moov"):
            limits.check_metadata(length, name)
        place += length


def _check_tiff(buffer: Buffer, name: str, limits: Limits) -> None:
    order = "<" if buffer[:2] == b"II" else ">"
    is_big = buffer[2:4] in (b"+\0", b"\0+")
    number, entry, long = ("Q", f"{order}HHQ8x", 8) if is_big else ("H", f"{order}HHI4x", 4)
    offset_form = f"{order}{'Q' if is_big else 'I'}"
    start = buffer[8:16] if is_big else buffer[4:8]
    seen: set[int] = set()
    metadata = entries = 0
    while len(start) == long:
        (offset,) = struct.unpack(offset_form, start)
        if not offset or offset in seen:
            return
        seen.add(offset)
        limits.check_frames(len(seen), name)
        width = struct.calcsize(order + number)
        head = buffer[offset : offset + width]
        if len(head) < width:
            return
        (count,) = struct.unpack(order + number, head)
        entries += count
        limits.check_parts(entries, "tags", name)
        size = struct.calcsize(entry)
        table = buffer[offset + width : offset + width + count * size]
        for tag, kind, values in struct.iter_unpack(entry, table[: len(table) // size * size]):
            if tag in _TIFF_PARTS:
                limits.check_parts(values, "strips or tiles", name)
            else:
                metadata += values * _TIFF_SIZES.get(kind, 1)
                limits.check_metadata(metadata, name)
        end = offset + width + count * size
        start = buffer[end : end + long]


def read_orientation(info: dict[Any, Any]) -> int:
    """EXIF's number for how a picture is to be turned, 1 to 8, from what Pillow has kept of its metadata.

    Only this one entry is read: all of a block may point to the same megabytes, which libraries copy for each.

    Args:
        info: ``Image.info``.
    """
    exif, xmp = info.get("exif"), info.get("xmp")
    if exif is None and isinstance(profile := info.get("Raw profile type exif"), str):
        with suppress(ValueError):
            exif = bytes.fromhex("".join(profile.split("\n")[3:]))
    found = _read_exif_orientation(exif) if isinstance(exif, bytes) else None
    if found is None:
        text = info.get("XML:com.adobe.xmp")
        match = _XMP_ORIENTATION.search(
            text.encode("utf-8", "replace") if isinstance(text, str) else xmp if isinstance(xmp, bytes) else b""
        )
        found = int(match[1]) if match else None
    return UPRIGHT if found is None else found


def _read_exif_orientation(exif: bytes) -> int | None:
    """The entry in a block of EXIF; None where it says none, or is broken."""
    order = "<" if exif.removeprefix(_EXIF)[:2] == b"II" else ">"
    for tag, kind, values, value in _list_entries(exif.removeprefix(_EXIF)):
        if tag == _ORIENTATION_TAG and values == 1 and kind in (1, 3, 4):
            (found,) = struct.unpack(order + {1: "B3x", 3: "H2x", 4: "I"}[kind], value)
            return found if 1 <= found <= 8 else None
    return None


def _list_entries(block: bytes | bytearray) -> Iterator[tuple[int, int, int, bytes]]:
    """Tag, type, number of values, and value or place of each entry of the first directory; none if it is broken."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(block[:2]))
    if order is None or len(block) < 10:
        return
    (offset,) = struct.unpack(order + "I", block[4:8])
    if len(head := block[offset : offset + 2]) < 2:
        return
    (count,) = struct.unpack(order + "H", head)
    table = block[offset + 2 : offset + 2 + count * 12]
    yield from struct.iter_unpack(order + "HHI4s", table[: len(table) // 12 * 12])
