"""Masks as bits: 64 pixels of a row in one word, so that a whole frame fits into the processor's cache.

Bit ``i`` of word ``k`` of a row is pixel ``x = 64 k + i``; bits beyond the width are 0. Only the metrics use this form.
"""

from __future__ import annotations

from functools import lru_cache
from math import isqrt

import numpy as np

WORD = np.dtype("<u8")
"""Little-endian on every machine: the words are views on packed bytes."""


def check_masks(prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray | None, dimensions: int) -> None:
    """Refuse masks that are not ``bool`` arrays of one shape with the given number of dimensions.

    Raises:
        TypeError: a mask is no ``bool`` array.
        ValueError: the shapes differ, have the wrong number of dimensions, or hold no pixel.
    """
    # The target comes first: the others are compared with it.
    for name, mask in (("target", target), ("prediction", prediction), ("ignore", ignore)):
        if mask is None:
            continue
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            kind = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
            raise TypeError(f"{name} is {kind}, it must be a bool array (for example mask > 0)")
        if mask.shape != target.shape:
            raise ValueError(f"{name} has shape {mask.shape} and target {target.shape}, they must be equal")
    if target.ndim != dimensions or target.size == 0:
        raise ValueError(f"masks have shape {target.shape}, they need {dimensions} axes and at least one pixel")


def pack(*masks: np.ndarray) -> np.ndarray:
    """Pack bool masks (H, W) of one size into words.

    Returns:
        uint64 (number of masks, H, ceil(W / 64)).
    """
    height, width = masks[0].shape
    packed = np.zeros((len(masks), height, 8 * -(-width // 64)), np.uint8)
    for row, mask in zip(packed, masks, strict=True):
        row[:, : -(-width // 8)] = np.packbits(mask, axis=-1, bitorder="little")
    return packed.view(WORD)


def count_pixels(words: np.ndarray) -> int:
    """Number of set pixels."""
    return int(np.bitwise_count(words).sum(dtype=np.int64))


def find_boundary(words: np.ndarray, width: int) -> np.ndarray:
    """Boundary pixels of packed masks, as ``boundary_map`` defines them.

    Args:
        words: uint64 (..., H, ceil(width / 64)).
        width: pixels per row.

    Returns:
        uint64 of the same shape.
    """
    right = words >> 1
    right[..., :-1] |= words[..., 1:] << 63
    inner = _all_but_last_column(width)
    edges = (words ^ right) & inner
    edges[..., :-1, :] |= words[..., :-1, :] ^ words[..., 1:, :]
    edges[..., :-1, :] |= (words[..., :-1, :] ^ right[..., 1:, :]) & inner
    return edges


@lru_cache(maxsize=64)
def _all_but_last_column(width: int) -> np.ndarray:
    row = np.arange(width) < width - 1
    return pack(row[None])[0, 0]


def crop(words: np.ndarray) -> np.ndarray:
    """Cut packed masks (N, H, K) to the rows and words that any of them uses.

    Distances between pixels stay what they were, and the arrays become as small as the objects.
    """
    used = np.bitwise_or.reduce(words, axis=0)
    rows = np.flatnonzero(np.bitwise_or.reduce(used, axis=1))
    columns = np.flatnonzero(np.bitwise_or.reduce(used, axis=0))
    if not len(rows):
        return words[:, :0, :0]
    return words[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def dilate(words: np.ndarray, radius: int) -> np.ndarray:
    """Dilate packed masks by the disk of all offsets with ``dx**2 + dy**2 <= radius**2``.

    A disk is a stack of horizontal runs. The runs are grown step by step to the widths that occur in the disk, and each
    is written to the rows where the disk is that wide. All masks lie in one flat array, row beside row, so that every
    step is one pass over contiguous memory and a shift by whole rows is a slice.

    Args:
        words: uint64 (N, H, K).
        radius: in pixels.

    Returns:
        uint64 of the same shape; pixels beyond the width may be set.
    """
    number, height, columns = words.shape
    # Empty words before, between and after the rows: a run that leaves its row neither reaches the next row nor is
    # lost, for the next step still needs its end.
    gap = -(-radius // 64)
    stride = number * (gap + columns)
    run = np.zeros(height * stride + gap, WORD)
    run[: height * stride].reshape(height, number, -1)[:, :, gap:] = words.swapaxes(0, 1)

    rows_of_width: dict[int, list[int]] = {}
    for dy in range(min(radius, height - 1), -1, -1):
        rows_of_width.setdefault(isqrt(radius * radius - dy * dy), []).append(dy * stride)
    grown, half_width = np.zeros_like(run), 0
    for wanted, offsets in rows_of_width.items():  # widths ascend
        while half_width < wanted:
            step = min(wanted - half_width, 2 * half_width + 1, 63)  # larger steps would leave holes
            run = _widen_run(run, step)
            half_width += step
        for offset in offsets:
            grown[offset:] |= run[: len(run) - offset]
            grown[: len(run) - offset] |= run[offset:]
    return grown[: height * stride].reshape(height, number, -1)[:, :, gap:].swapaxes(0, 1)


def _widen_run(run: np.ndarray, step: int) -> np.ndarray:
    """Join a flat string of bits with itself moved by ``step`` (1 to 63) bits to either side."""
    wide, carry = run << step, run >> (64 - step)
    wide[1:] |= carry[:-1]
    wide |= run
    np.left_shift(run, 64 - step, out=carry)
    wide[:-1] |= carry[1:]
    np.right_shift(run, step, out=carry)
    wide |= carry
    return wide
