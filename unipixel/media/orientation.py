"""Which way up pixels are shown: the eight orientations of EXIF, whoever states them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

UPRIGHT = 1
"""EXIF's number for pixels that lie as they are shown."""


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (H, W, ...) as they are shown; contiguous, and a copy only where something moves.

    Args:
        pixels: as they lie in the file.
        orientation: EXIF's number, 1 to 8; from 5 on height and width change places.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def turn_size(size_hw: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Height and width of pixels once they are turned."""
    return (size_hw[1], size_hw[0]) if orientation >= 5 else size_hw


def read_matrix_orientation(matrix: Sequence[int]) -> int:
    """EXIF's number for a display matrix of a video: a, b, u, c, d, v, x, y, w, as ISO base media files have it.

    A pixel at (x, y) is shown at (a x + c y, b x + d y). What is no quarter turn counts as the nearest one.
    """
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return {(False, False): 1, (True, False): 2, (True, True): 3, (False, True): 4}[a < 0, d < 0]
    return {(False, False): 5, (False, True): 6, (True, True): 7, (True, False): 8}[b < 0, c < 0]
