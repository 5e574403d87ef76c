"""Animated GIF and PNG, put together as browsers show them.

Each file is taken apart into its patches without decoding one; a patch is then decoded as a picture of its own and laid
on a canvas that begins transparent. Pillow's own frames differ: what is disposed of to the background becomes black or
the palette's first colour, and a default image of a PNG, which is no part of its animation, counts as a frame.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

import numpy as np

from unipixel.errors import MediaError
from unipixel.media.limits import Limits

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UNSAID_S = 0.1
"""How long viewers show a frame that does not say it."""

Disposal = Literal["keep", "clear", "restore"]
Span = tuple[int, int]
"""Begin and end of bytes in the file."""


@dataclass(frozen=True, slots=True)
class AnimationPatch:
    """A part of the canvas that one frame draws."""

    x: int
    y: int
    width: int
    height: int
    duration_s: float
    disposal: Disposal
    """What happens to it before the next frame is drawn."""
    is_over: bool
    """Whether what lies below shows through; else the patch takes its place, transparent pixels included."""
    spans: tuple[Span, ...]
    """Where its pixels are coded."""
    control: bytes = b""
    """What else belongs to it: the extension block of a GIF."""


@dataclass(frozen=True, slots=True)
class Animation:
    """A file taken apart."""

    kind: Literal["GIF", "PNG"]
    size_hw: tuple[int, int]
    patches: tuple[AnimationPatch, ...]
    shared: bytes
    """What each patch needs to be a file: the palette of a GIF; header, palette and transparency of a PNG."""

    def encode_patch(self, patch: AnimationPatch, file: BinaryIO) -> bytes:
        """The patch as a picture of its own.

        Raises:
            MediaError: a part is damaged.
        """
        parts = []
        for begin, end in patch.spans:
            file.seek(begin)
            parts.append(file.read(end - begin))
        if self.kind == "GIF":
            flags = self.shared[0]
            head = b"GIF89a" + struct.pack("<HHBBB", patch.width, patch.height, flags, 0, 0) + self.shared[1:]
            # the descriptor without its place on the canvas
            return head + patch.control + b"," + bytes(4) + parts[0][5:] + b";"
        header = struct.pack(">II", patch.width, patch.height) + self.shared[8:13]
        chunks = [_build_chunk(b"IHDR", header), self.shared[13:], *(_build_chunk(b"IDAT", part) for part in parts)]
        return _PNG_SIGNATURE + b"".join(chunks) + _build_chunk(b"IEND", b"")

    def find_first_needed(self, index: int) -> int:
        """The last frame up to ``index`` from which drawing can begin, because it covers all that was before."""
        for number in range(index, 0, -1):
            patch = self.patches[number]
            covers = (patch.x, patch.y, patch.height, patch.width) == (0, 0, *self.size_hw)
            if covers and not patch.is_over and patch.disposal != "restore":
                return number
        return 0


def compose_frames(
    animation: Animation, file: BinaryIO, indices: Sequence[int], decode: Callable[[bytes], np.ndarray]
) -> Iterator[np.ndarray]:
    """Yield the canvas, uint8 (H, W, 4), as it is shown at each of ascending ``indices``.

    Args:
        decode: a picture's file to uint8 (h, w, 4).
    """
    height, width = animation.size_hw
    canvas, drawn = np.zeros((height, width, 4), dtype=np.uint8), -1
    before: np.ndarray | None = None
    for index in indices:
        start = animation.find_first_needed(index)
        if drawn < 0 or start > drawn:
            canvas[:] = 0
            drawn, before = start - 1, None
        for number in range(drawn + 1, index + 1):
            if number > start:
                _dispose(canvas, animation.patches[number - 1], before)
            patch = animation.patches[number]
            area = canvas[patch.y : patch.y + patch.height, patch.x : patch.x + patch.width]
            before = area.copy() if patch.disposal == "restore" else None
            if area.size:
                pixels = decode(animation.encode_patch(patch, file))[: area.shape[0], : area.shape[1]]
                if patch.is_over:
                    _blend_over(area, pixels)
                else:
                    area[:] = pixels
            drawn = number
        yield canvas


def _dispose(canvas: np.ndarray, patch: AnimationPatch, before: np.ndarray | None) -> None:
    area = canvas[patch.y : patch.y + patch.height, patch.x : patch.x + patch.width]
    if patch.disposal == "clear":
        area[:] = 0
    elif patch.disposal == "restore" and before is not None:
        area[:] = before


def _blend_over(below: np.ndarray, above: np.ndarray) -> None:
    """Lay pixels over others, in place."""
    solid, clear = above[..., 3] == 255, above[..., 3] == 0
    below[solid] = above[solid]
    mixed = ~solid & ~clear
    if mixed.any():
        top, under = above[mixed].astype(np.float32), below[mixed].astype(np.float32)
        alpha, rest = top[:, 3:] / 255, under[:, 3:] / 255
        total = alpha + rest * (1 - alpha)
        colour = (top[:, :3] * alpha + under[:, :3] * rest * (1 - alpha)) / np.maximum(total, 1e-6)
        below[mixed] = np.concatenate([colour, total * 255], axis=1).round().astype(np.uint8)


def read_gif(file: BinaryIO, name: str, limits: Limits) -> Animation:
    """Take a GIF apart.

    Raises:
        MediaError: it is cut off, holds no picture, or too many.
    """
    file.seek(0)
    head = _read_exactly(file, 13, name)
    width, height, flags = struct.unpack("<HHB", head[6:11])
    shared = bytes([flags & 0x87]) + _read_exactly(file, 3 << (flags & 7) + 1 if flags & 0x80 else 0, name)
    patches: list[AnimationPatch] = []
    control = b""
    while (kind := file.read(1)) not in (b";", b""):
        if kind == b"!":
            label = _read_exactly(file, 1, name)
            block = _read_sub_blocks(file, name)
            if label == b"\xf9" and len(block) >= 4:
                control = block[:4]
        elif kind == b",":
            begin = file.tell() - 1
            x, y, w, h, local = struct.unpack("<HHHHB", _read_exactly(file, 9, name))
            _read_exactly(file, (3 << (local & 7) + 1 if local & 0x80 else 0) + 1, name)
            _read_sub_blocks(file, name)
            if not w or not h:
                raise MediaError(f"{name} is damaged: frame {len(patches)} is {w} x {h} pixels")
            patches.append(_read_gif_patch((x, y, w, h), control, (begin, file.tell())))
            limits.check_frames(len(patches), name)
            control = b""
        elif kind != b"\0":
            break  # what follows is no GIF any more; viewers stop here
    if not patches:
        raise MediaError(f"{name} is damaged: it holds no picture")
    first = patches[0]
    size_hw = (max(height, first.y + first.height), max(width, first.x + first.width))
    return Animation("GIF", size_hw, tuple(patches), shared)


def _read_gif_patch(place: tuple[int, int, int, int], control: bytes, span: Span) -> AnimationPatch:
    flags, delay = (control[0], int.from_bytes(control[1:3], "little")) if control else (0, 0)
    disposals: dict[int, Disposal] = {2: "clear", 3: "restore"}
    return AnimationPatch(
        *place,
        duration_s=delay / 100 if delay > 1 else _UNSAID_S,
        disposal=disposals.get(flags >> 2 & 7, "keep"),
        is_over=bool(flags & 1),
        spans=(span,),
        control=b"!\xf9\x04" + bytes([flags & 1]) + control[1:] + b"\0" if control else b"",
    )


def read_png(file: BinaryIO, name: str, limits: Limits) -> Animation:
    """Take an animated PNG apart.

    Raises:
        MediaError: it is cut off, a frame leaves the canvas, or there are too many.
    """
    file.seek(8)
    header, shared, patches = b"", b"", list[AnimationPatch]()
    frame: AnimationPatch | None = None
    spans: list[Span] = []

    def finish() -> None:
        if frame is not None and spans:
            patches.append(replace(frame, spans=tuple(spans)))
            limits.check_frames(len(patches), name)

    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        begin = file.tell()
        if kind in (b"IDAT", b"fdAT"):
            skipped = 4 if kind == b"fdAT" else 0
            if frame is not None:
                spans.append((begin + skipped, begin + length))
            _verify_checksum(file, kind, length, name)
            continue
        body = _read_exactly(file, length, name) if kind in (b"IHDR", b"PLTE", b"tRNS", b"fcTL") else b""
        file.seek(begin + length + 4)
        if kind == b"IHDR":
            header = body
        elif kind in (b"PLTE", b"tRNS"):
            shared += _build_chunk(kind, body)
        elif kind == b"fcTL":
            finish()
            frame, spans = _read_png_patch(body, name), []
        elif kind == b"IEND":
            break
    else:
        raise MediaError(f"{name} is damaged: it ends in the middle")
    finish()
    if len(header) != 13 or not patches:
        raise MediaError(f"{name} is damaged: it says that it is animated and holds no frame")
    width, height = struct.unpack(">II", header[:8])
    for number, patch in enumerate(patches):
        if not patch.width or not patch.height or patch.x + patch.width > width or patch.y + patch.height > height:
            raise MediaError(f"{name} is damaged: frame {number} leaves its canvas of {width} x {height} pixels")
    if patches[0].disposal == "restore":  # to the canvas as it was before all of them
        patches[0] = replace(patches[0], disposal="clear")
    return Animation("PNG", (height, width), tuple(patches), header + shared)


def _read_png_patch(body: bytes, name: str) -> AnimationPatch:
    if len(body) != 26:
        raise MediaError(f"{name} is damaged: the control of a frame has {len(body)} bytes instead of 26")
    width, height, x, y, delay, per, disposal, blend = struct.unpack(">4x4IHHBB", body)
    disposals: dict[int, Disposal] = {1: "clear", 2: "restore"}
    return AnimationPatch(
        x, y, width, height, delay / (per or 100) or _UNSAID_S, disposals.get(disposal, "keep"), blend == 1, ()
    )  # fmt: skip


def _verify_checksum(file: BinaryIO, kind: bytes, length: int, name: str) -> None:
    """Pass a chunk, checking its sum piece by piece.

    Raises:
        MediaError: the chunk is damaged or cut off.
    """
    total, left = zlib.crc32(kind), length
    while left:
        piece = _read_exactly(file, min(left, 1 << 20), name)
        total, left = zlib.crc32(piece, total), left - len(piece)
    if int.from_bytes(_read_exactly(file, 4, name), "big") != total:
        raise MediaError(f"{name} is damaged: the check sum of a chunk {kind.decode('latin1')} is wrong")


def _build_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _read_sub_blocks(file: BinaryIO, name: str) -> bytes:
    """Pass the blocks up to the empty one; returns the first."""
    first: bytes | None = None
    while size := _read_exactly(file, 1, name)[0]:
        block = _read_exactly(file, size, name)
        first = block if first is None else first
    return first or b""


def _read_exactly(file: BinaryIO, size: int, name: str) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise MediaError(f"{name} is damaged: it ends in the middle")
    return data
