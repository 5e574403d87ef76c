"""Label Studio's brush masks: run lengths of an RGBA picture, packed bit by bit.

The stream begins with the number of values (32 bits), the width of one value less one (5 bits) and four widths of run
lengths less one (4 bits each). Blocks follow, each with a bit that says whether one value is repeated, two bits that
choose the width of the length, the length less one, and then the value, or as many values. The picture's channels lie
side by side, row by row, so that a mask of H x W pixels is 4 H W values; the alpha channel is the mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unipixel.masks.rle import check_mask, check_size_hw, format_size

CHANNELS = 4
_WIDTHS = np.array([3, 4, 8, 16])
"""Bits of a run's length, shortest first."""
_VALUE_BITS = 8
_HEADER_BITS = 32 + 5 + 4 * 4
_SLAB = 1 << 18
"""Runs that are packed at once."""


def encode_brush(mask: np.ndarray) -> list[int]:
    """A mask as Label Studio's bytes, 255 in all four channels where it is set.

    Args:
        mask: bool (H, W).
    """
    flat = check_mask(mask).reshape(-1)
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    lengths = np.diff(np.append(starts, flat.size)) * CHANNELS
    values = flat[starts].astype(np.uint64) * 255
    # a run that is too long for 16 bits becomes several
    longest = 1 << int(_WIDTHS[-1])
    pieces = -(-lengths // longest)
    values, sizes = np.repeat(values, pieces), np.full(int(pieces.sum()), longest)
    sizes[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * longest
    bits = [
        _to_bits(np.array([flat.size * CHANNELS]), np.array([32])),
        _to_bits(np.array([_VALUE_BITS - 1]), np.array([5])),
    ]
    bits.append(_to_bits(_WIDTHS - 1, np.full(4, 4)))
    for first in range(0, sizes.size, _SLAB):
        bits.append(_pack_runs(sizes[first : first + _SLAB], values[first : first + _SLAB]))
    return np.packbits(np.concatenate(bits)).tolist()


def decode_brush(stream: Sequence[int], size_hw: tuple[int, int]) -> np.ndarray:
    """The mask in Label Studio's bytes, bool (H, W): where the picture is at least half as opaque as anywhere.

    Args:
        stream: bytes as whole numbers.
        size_hw: what the picture's size must be.

    Raises:
        ValueError: the stream is malformed, or of a picture of another size.
    """
    height, width = check_size_hw(size_hw)
    try:
        data = bytes(stream)
    except (TypeError, ValueError):
        raise ValueError("a brush mask must be a list of whole numbers from 0 to 255") from None
    values = _read_values(data, height * width * CHANNELS, format_size((height, width)))
    alpha = values.reshape(height, width, CHANNELS)[:, :, 3]
    return alpha >= max(1, (int(alpha.max()) + 1) // 2)


def _pack_runs(sizes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Blocks of repeated values, one bit per entry."""
    kinds = np.searchsorted(1 << _WIDTHS, sizes)
    widths = _WIDTHS[kinds]
    codes = np.uint64(0b100) | kinds.astype(np.uint64)
    codes = (codes << widths.astype(np.uint64)) | (sizes - 1).astype(np.uint64)
    codes = (codes << np.uint64(_VALUE_BITS)) | values
    return _to_bits(codes, 3 + widths + _VALUE_BITS)


def _to_bits(codes: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The last ``widths`` bits of each code, one after the other, uint8 of 0 and 1."""
    spread = np.unpackbits(codes.astype(">u4").view(np.uint8).reshape(-1, 4), axis=1)
    return spread[np.arange(32) >= 32 - widths[:, None]]


def _read_values(data: bytes, number: int, size: str) -> np.ndarray:
    """All values of a stream that should hold so many, uint8.

    Raises:
        ValueError: it holds another number or kind, or ends too early.
    """
    total = len(data) * 8
    padded = data + bytes(8)

    def read(at: int, width: int) -> int:
        window = int.from_bytes(padded[at >> 3 : (at >> 3) + 8], "big")
        return (window >> (64 - (at & 7) - width)) & ((1 << width) - 1)

    if total < _HEADER_BITS or read(0, 32) != number:
        found = read(0, 32) if total >= _HEADER_BITS else 0
        raise ValueError(f"a brush mask holds {found} values; a picture of {size} has {number}")
    if read(32, 5) + 1 != _VALUE_BITS:
        raise ValueError(f"a brush mask has values of {read(32, 5) + 1} bits; they must have {_VALUE_BITS}")
    widths = [read(37 + 4 * kind, 4) + 1 for kind in range(4)]
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    out = np.zeros(number, dtype=np.uint8)
    at, done = _HEADER_BITS, 0
    while done < number:
        if at + 3 > total:
            raise ValueError(f"a brush mask ends after {done} of {number} values")
        is_run, width = read(at, 1), widths[read(at + 1, 2)]
        length = read(at + 3, width) + 1
        at += 3 + width
        taken = _VALUE_BITS * (1 if is_run else length)
        if at + taken > total or done + length > number:
            raise ValueError(f"a brush mask ends after {done} of {number} values")
        if is_run:
            out[done : done + length] = read(at, _VALUE_BITS)
        else:
            out[done : done + length] = np.packbits(bits[at : at + taken])
        at, done = at + taken, done + length
    return out
