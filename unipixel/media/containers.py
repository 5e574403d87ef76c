"""Containers by their first bytes: which one a file is, and whether the file is all there."""

from __future__ import annotations

import os
from typing import BinaryIO, Literal

from unipixel.errors import MediaError

FORMATS = "mp4, mov, webm, mkv, avi"

_MOV_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
_AVIF_BRANDS = frozenset({"avif", "avis"})
_HEIF_BRANDS = frozenset({"heic", "heix", "heim", "heis", "avci", "mif1", "mif2", "miaf"})
_HEIF_SEQUENCES = frozenset({"hevc", "hevx", "hevm", "hevs", "avcs", "msf1"})
_RAW_BRANDS = frozenset({"crx "})
_VIDEO_BRANDS = frozenset({"qt  ", "isom", "mp41", "mp42", "avc1", "M4V ", *(f"iso{n}" for n in range(2, 10))})
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"


def find_still_brand(head: bytes) -> tuple[Literal["avif", "heif", "heif sequence", "raw"], str] | None:
    """What kind of picture an ISO base media file is, and the brand that says so; None: a video, or no such file.

    Pictures of phones and videos share one container and only their brands tell them apart; a video demuxer finds one
    of the tiles of a picture and takes it for the whole.

    Args:
        head: the first (at least 64, where there are as many) bytes.
    """
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big") or len(head), len(head))
    major = head[8:12].decode("latin1")
    others = [head[place : place + 4].decode("latin1") for place in range(16, end - 3, 4)]
    brands = [major]
    if (major not in _VIDEO_BRANDS and not _VIDEO_BRANDS & set(others)) or major in {"mif1", "msf1", "miaf"}:
        brands += others
    found = set(brands)
    if found & _AVIF_BRANDS and not major.startswith("he"):
        return "avif", major
    if found & _RAW_BRANDS:
        return "raw", major.strip()
    if major in _HEIF_SEQUENCES:
        return "heif sequence", major
    if found & _HEIF_BRANDS:
        return "heif", major
    return None


def find_container_format(head: bytes) -> str | None:
    """FFmpeg's name of the container whose file begins with these (at least 16) bytes; None if it is none of ours.

    Naming the format keeps FFmpeg from trying all of them, some of which open other files and addresses.
    """
    if head[4:8] in _MOV_BOXES:
        return "mov"
    if head[:4] == _EBML:
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    return None


def check_complete(file: BinaryIO, container: str, name: str) -> None:
    """Compare the size that the container announces with that of the file; demuxers just stop at a file's end.

    Containers written to a pipe announce no size; they pass.

    Raises:
        MediaError: The file is shorter than announced.
    """
    size = file.seek(0, os.SEEK_END)
    if container == "mov":
        announced = _measure_mov(file, size)
    elif container == "matroska":
        announced = _measure_matroska(file)
    else:
        file.seek(4)
        riff = int.from_bytes(file.read(4), "little")
        announced = riff + 8 if 0 < riff < 0xFFFFFFFF else 0
    if announced > size:
        raise MediaError(f"{name} is cut off: it announces {announced} bytes and holds {size}")


def _measure_mov(file: BinaryIO, size: int) -> int:
    """The end of the last top-level box that begins inside the file."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:16], "big")
        if length < 8 or not head[4:8].isalnum():
            return end  # 0 means "to the end of the file"; anything else here is no box but stray bytes at the end
        end += length
    return end


def _measure_matroska(file: BinaryIO) -> int:
    """The end of the segment; 0 when the file does not say."""
    file.seek(4)
    header = _read_vint(file)
    if header is None:
        return 0
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return 0
    segment = _read_vint(file)
    return 0 if segment is None else file.tell() + segment


def _read_vint(file: BinaryIO) -> int | None:
    """A size in EBML's form: as many leading zero bits as bytes follow; all ones means unknown."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    width = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0xFF >> width)]) + file.read(width - 1), "big")
    return None if value == (1 << 7 * width) - 1 else value
