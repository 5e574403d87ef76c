"""Points in a mask and boxes around it: exact ones, and random ones such as a person would give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unipixel.masks.rle import check_mask

_INTERIOR_SIDE = 192
"""Masks whose box is larger than this are thinned to blocks before the search for the most interior point."""


def mask_to_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """The tight box (x1, y1, x2, y2) of a bool (H, W) mask in pixels, right and bottom exclusive; None if empty."""
    mask = check_mask(mask)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def find_interior_point(mask: np.ndarray, *, exact: bool = False) -> tuple[float, float]:
    """The centre (x, y) of the pixel that lies deepest inside a bool (H, W) mask.

    Depth is the Euclidean distance to the nearest pixel outside, the image border counting as outside. On a large mask
    the search runs on blocks of pixels that lie wholly inside it, so the depth may fall short by about one block.

    Args:
        exact: search every pixel, and take the first in reading order among equals, as SAM 2's clicks do.

    Raises:
        ValueError: The mask is empty.
    """
    mask = check_mask(mask)
    box = mask_to_box(mask)
    if box is None:
        raise ValueError("an empty mask has no interior point")
    x1, y1, x2, y2 = box
    crop = mask[y1:y2, x1:x2]
    block = 1 if exact else -(-max(crop.shape) // _INTERIOR_SIDE)
    if block > 1:
        height, width = (side // block * block for side in crop.shape)
        blocks: np.ndarray = crop[:height, :width].reshape(height // block, block, width // block, block)
        blocks = np.all(blocks, axis=(1, 3))
        if blocks.any():
            row, column = _find_deepest(blocks)
            return x1 + column * block + block // 2 + 0.5, y1 + row * block + block // 2 + 0.5
    row, column = _find_deepest(crop, first=exact)
    return x1 + column + 0.5, y1 + row + 0.5


def sample_point(mask: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """The centre (x, y) of a random pixel of a bool (H, W) mask, which must not be empty."""
    pixels = np.flatnonzero(mask)
    y, x = divmod(int(pixels[int(rng.integers(len(pixels)))]), mask.shape[1])
    return x + 0.5, y + 0.5


def jitter_box(
    box_xyxy: Sequence[float],
    size_hw: Sequence[float],
    rng: np.random.Generator,
    *,
    noise: float = 0.1,
    most: float = np.inf,
) -> tuple[float, float, float, float]:
    """A box with edges that are off, kept inside the picture.

    Args:
        size_hw: of the picture.
        noise: edges are off by up to this share of the box's side,
        most: and by no more than this share of the picture's side.

    Source: SAM 2, which its training boxes are drawn like.
    """
    x1, y1, x2, y2 = box_xyxy
    height, width = size_hw
    sides = np.minimum([x2 - x1, y2 - y1] * 2, np.multiply(most / noise, [width, height] * 2))
    edges = np.asarray(box_xyxy, float) + rng.uniform(-noise, noise, 4) * sides
    x1, y1, x2, y2 = np.clip(edges, 0, [width, height, width, height]).tolist()
    return x1, y1, x2, y2


def _find_deepest(mask: np.ndarray, *, first: bool = False) -> tuple[int, int]:
    """Row and column of the largest Euclidean distance to a pixel outside a bool (H, W) mask with some pixel set.

    Among equals it is the first in reading order, or the one nearest to the middle.
    """
    padded = np.pad(mask, 1)
    rows = np.arange(padded.shape[0])[:, None]
    above = np.maximum.accumulate(np.where(padded, 0, rows), axis=0)
    below = np.minimum.accumulate(np.where(padded, padded.shape[0], rows)[::-1], axis=0)[::-1]
    vertical = np.minimum(rows - above, below - rows).astype(np.int64) ** 2
    # Squared distance = min over columns k away of k² + vertical²: a pixel is settled once k² reaches its minimum.
    row, column = np.nonzero(padded)
    middle_row, middle_column = row.mean(), column.mean()
    distance = vertical[row, column]
    best, deepest, k = 0, [(0, 0)], 1
    while row.size:
        settled = distance <= k * k
        highest = int(distance[settled].max(initial=0))
        if highest > best:
            best, deepest = highest, []
        if highest == best:
            winners = settled & (distance == best)
            deepest += zip(row[winners].tolist(), column[winners].tolist(), strict=True)
        rest = ~settled & (distance >= best)
        row, column, distance = row[rest], column[rest], distance[rest]
        left, right = np.maximum(column - k, 0), np.minimum(column + k, padded.shape[1] - 1)
        distance = np.minimum(distance, np.minimum(vertical[row, left], vertical[row, right]) + k * k)
        k += 1
    if first:
        row_of_first, column_of_first = min(deepest)
        return row_of_first - 1, column_of_first - 1
    # on a long bar its centre rather than one end
    chosen = min(deepest, key=lambda place: (place[0] - middle_row) ** 2 + (place[1] - middle_column) ** 2)
    return chosen[0] - 1, chosen[1] - 1
