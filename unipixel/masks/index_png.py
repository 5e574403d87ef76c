"""Object ids in PNG files: DAVIS palettes out; palette, grey and 16-bit in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from unipixel.errors import MediaError


def save_davis_png(index_mask: np.ndarray, path: str | Path) -> None:
    """Write object ids, uint8 (H, W), as a palette PNG in the colours of DAVIS (0 is background, black).

    Raises:
        ValueError: Not whole numbers in 0..255 of shape (H, W).
    """
    index_mask = np.asarray(index_mask)
    if index_mask.ndim != 2 or not index_mask.size or index_mask.dtype.kind not in "biu":
        raise ValueError(f"an index mask must be whole numbers (H, W), not {index_mask.dtype} {index_mask.shape}")
    if int(index_mask.min()) < 0 or int(index_mask.max()) > 255:
        raise ValueError(f"a palette PNG holds ids 0 to 255, not {int(index_mask.min())} to {int(index_mask.max())}")
    image = Image.fromarray(np.ascontiguousarray(index_mask, dtype=np.uint8), mode="L")
    image.putpalette(davis_palette().reshape(-1).tolist())
    image.save(path, format="PNG")


def load_index_png(path: str | Path) -> np.ndarray:
    """Read object ids from a palette, grey (8 or 16 bit) or 1-bit PNG, uint8 or uint16 (H, W).

    Raises:
        MediaError: The file cannot be read, or holds colours instead of ids.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1", "I", "I;16", "I;16B"):
                raise MediaError(f"{path}: object ids need a palette or grey PNG, but this one is {image.mode}")
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path}: not a readable mask image ({error})") from error
    return values.astype(np.uint8 if image.mode in ("P", "L", "1") else np.uint16)


def davis_palette() -> np.ndarray:
    """The colours of ids 0..255 in PASCAL VOC and DAVIS masks, uint8 (256, 3): the id's bits, dealt out to r, g, b."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours
