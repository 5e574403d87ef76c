"""COCO run lengths to and from ``bool`` arrays, with everything from outside checked before C code sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from pycocotools import mask as coco

from unipixel.checks import shorten

MAX_MASK_PIXELS = 1 << 28
"""Largest height times width of one mask; a few characters of run lengths can claim any size."""


class Rle(TypedDict):
    """A mask in COCO's compressed run lengths, counted down the columns."""

    size: list[int]
    counts: str


def encode_rle(mask: np.ndarray) -> Rle:
    """The run lengths of a mask.

    Args:
        mask: bool (H, W).

    Raises:
        ValueError: The array has not two dimensions, or holds other values than true and false.
    """
    mask = check_mask(mask)
    encoded = coco.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": [int(side) for side in mask.shape], "counts": encoded["counts"].decode("ascii")}


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """The mask of an RLE, bool (H, W).

    Raises:
        ValueError: The RLE is malformed, see :func:`parse_rle`.
    """
    (height, width), runs = _check_runs(rle)
    pixels = np.repeat(np.arange(runs.size) % 2 == 1, runs)
    return np.ascontiguousarray(pixels.reshape(width, height).T)


def parse_rle(value: Mapping[str, Any]) -> Rle:
    """A checked RLE out of whatever JSON held: counts as text, bytes or COCO's uncompressed list.

    The C code behind ``pycocotools`` trusts its input, so run lengths from outside come through here first.

    Raises:
        ValueError: No ``size`` or ``counts``, a size out of range, or runs that do not add up to H times W.
    """
    (height, width), runs = _check_runs(value)
    counts = value["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    elif not isinstance(counts, str):
        packed = coco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
        counts = packed["counts"].decode("ascii")
    return {"size": [height, width], "counts": counts}


def check_size_hw(size: Any) -> tuple[int, int]:
    """Height and width out of untrusted input.

    Raises:
        ValueError: Not two positive whole numbers, or more than :data:`MAX_MASK_PIXELS` pixels.
    """
    if not isinstance(size, (list, tuple)) or len(size) != 2:
        raise ValueError(f"a mask size must be [height, width], not {shorten(size)}")
    if any(isinstance(side, bool) or not isinstance(side, (int, np.integer)) or side < 1 for side in size):
        raise ValueError(f"a mask size must be two whole numbers of at least 1, not {shorten(size)}")
    if int(size[0]) * int(size[1]) > MAX_MASK_PIXELS:
        raise ValueError(f"a mask of {size[0]} x {size[1]} is larger than the {MAX_MASK_PIXELS} pixels allowed")
    return int(size[0]), int(size[1])


def union_rles(rles: Sequence[Mapping[str, Any]]) -> Rle:
    """The union of masks of one size.

    Raises:
        ValueError: No mask at all, or masks of different sizes.
    """
    if not rles:
        raise ValueError("a union needs at least one mask, got none")
    _check_same_size(rles)
    merged = coco.merge([dict(rle) for rle in rles], intersect=False)
    return {"size": [int(side) for side in merged["size"]], "counts": merged["counts"].decode("ascii")}


def area_rle(rle: Mapping[str, Any]) -> int:
    """Number of pixels of a mask."""
    return int(coco.area(rle))


def iou_rles(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """Intersection over union of two masks of one size; 1 when both are empty, as in the DAVIS J.

    Raises:
        ValueError: The sizes differ.
    """
    _check_same_size([first, second])
    if area_rle(first) == 0 and area_rle(second) == 0:
        return 1.0
    return float(coco.iou([dict(first)], [dict(second)], [False])[0, 0])


def check_mask(mask: np.ndarray) -> np.ndarray:
    """The array as bool (H, W).

    Raises:
        ValueError: Another number of dimensions, an empty side, or values other than true and false.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or not mask.size:
        raise ValueError(f"a mask must have the shape (H, W) with no side 0, not {mask.shape}")
    if mask.dtype != bool:
        if not np.isin(mask, (0, 1)).all():
            raise ValueError(f"a mask must hold true and false only, not {mask.dtype} values beyond 0 and 1")
        mask = mask.astype(bool)
    return mask


def format_size(size: Sequence[int]) -> str:
    """Height and width as messages write them."""
    return f"{size[0]} x {size[1]}"


def _check_runs(value: Mapping[str, Any]) -> tuple[tuple[int, int], np.ndarray]:
    """Size and run lengths, int64, of an untrusted RLE; see :func:`parse_rle`."""
    if not isinstance(value, Mapping) or "size" not in value or "counts" not in value:
        raise ValueError(f"an RLE must be a mapping with 'size' and 'counts', not {shorten(value)}")
    height, width = check_size_hw(value["size"])
    counts = value["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", errors="replace")
    if isinstance(counts, str):
        runs = _decode_runs(counts)
    elif isinstance(counts, (list, tuple)) and all(isinstance(run, (int, np.integer)) for run in counts):
        # A number beyond 64 bits is no run of any mask; cut down, it is refused below like any other that is too long.
        runs = np.array([min(int(run), MAX_MASK_PIXELS + 1) for run in counts], dtype=np.int64)
    else:
        raise ValueError(f"the counts of an RLE must be text or a list of whole numbers, not {shorten(counts)}")
    if runs.size and int(runs.min()) < 0:
        raise ValueError(f"the runs of an RLE must not be negative, but one is {int(runs.min())}")
    if int(runs.sum()) != height * width:
        raise ValueError(
            f"the runs of an RLE of {height} x {width} must add up to {height * width}, not {int(runs.sum())}"
        )
    return (height, width), runs


def _decode_runs(counts: str) -> np.ndarray:
    """Run lengths of COCO's text form: 5 bits a character, low bits first, each run the change from two before it."""
    try:
        codes = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        codes = np.array([-1])
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        raise ValueError(f"the counts of an RLE are not COCO's text form: {shorten(counts)}")
    last = np.flatnonzero((codes & 0x20) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if int((last - first).max()) > 6:
        raise ValueError(f"the counts of an RLE hold a number too long for a mask: {shorten(counts)}")
    place = np.arange(codes.size) - np.repeat(first, last - first + 1)
    runs = np.add.reduceat((codes & 0x1F) << (5 * place), first)
    runs -= np.where(codes[last] & 0x10, 1 << (5 * (last - first + 1)), 0)
    for start in (1, 2):
        runs[start::2] = np.cumsum(runs[start::2])
    return runs


def _check_same_size(rles: Sequence[Mapping[str, Any]]) -> None:
    sizes = {tuple(rle["size"]) for rle in rles}
    if len(sizes) > 1:
        raise ValueError(f"masks must have one size, not {' and '.join(format_size(size) for size in sorted(sizes))}")
