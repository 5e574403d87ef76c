"""Object ids in PNG files: DAVIS palettes out; palette, grey and 16-bit in, also as people draw them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from unipixel.atomic import replace_file
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
    image.putpalette(build_davis_palette().reshape(-1).tolist())
    with replace_file(path, sync=False) as draft:
        image.save(draft, format="PNG")


def load_index_png(path: str | Path) -> np.ndarray:
    """Read object ids from a palette, grey (8 or 16 bit) or 1-bit PNG, uint8 or uint16 (H, W).

    Raises:
        MediaError: The file cannot be read, or holds colours instead of ids.
    """
    values, kind = _read(path, strict=True)
    if kind == "lossy":
        raise MediaError(f"{path}: object ids need a palette or grey PNG; a JPEG does not keep them exactly")
    return values


def load_annotated_ids(path: str | Path, *, of_one: bool = False) -> tuple[np.ndarray, bool]:
    """Read a mask that people or their tools have drawn: object ids, or one object in black and white.

    Grey edges (antialiasing) and a JPEG's noise are no objects: where grey values lie between black and white, and but
    along edges, the mask is one object, cut at half white.

    Args:
        of_one: the picture is known to show one object; no values are refused, and what is not black is the object.

    Returns:
        Ids, uint8 or uint16 (H, W), 255 on a single object that was cut out of grey values; and whether it was.

    Raises:
        MediaError: The file cannot be read, holds colours, or grey values that are neither ids nor one object's.
    """
    values, kind = _read(path)
    top = 255 if values.dtype == np.uint8 else 65535
    levels = np.unique(values)
    if kind == "exact" or (levels[levels > 0].size <= 1 and kind != "lossy"):
        return values, False
    if kind == "lossy" and levels[-1] == 0:
        return values, False
    is_soft = _is_soft(values, top, is_lossy=kind == "lossy")
    if is_soft:
        return np.where(values > top // 2, 255, 0).astype(np.uint8), True
    if of_one:
        return (values > 0).astype(np.uint8), False
    if is_soft is None:
        few = ", ".join(map(str, levels[:8].tolist())) + (", ..." if levels.size > 8 else "")
        raise MediaError(
            f"{path}: its {levels.size} grey values ({few}) are neither black and white nor one value per object; save "
            "it without smoothing, as a grey or palette PNG"
        )
    return values, False


def _read(path: str | Path, *, strict: bool = False) -> tuple[np.ndarray, Literal["exact", "grey", "lossy"]]:
    """Values as they are shown, uint8 or uint16 (H, W), and what they can be: ids as they stand, any grey, or noisy."""
    try:
        with Image.open(path) as opened:
            is_lossy = opened.format in ("JPEG", "MPO")
            image = ImageOps.exif_transpose(opened)
            is_exact = image.mode in ("P", "1")
            image = _to_grey(image, path, strict=strict)
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path}: not a readable mask image ({error})") from error
    values = values.astype(np.uint8 if image.mode in ("P", "L", "1") else np.uint16)
    return values, "lossy" if is_lossy else "exact" if is_exact else "grey"


def _to_grey(image: Image.Image, path: str | Path, *, strict: bool) -> Image.Image:
    """The picture, where it is one of numbers; unless ``strict``, colours that are all grey and opaque count as such.

    Raises:
        MediaError: it has colours or transparent pixels.
    """
    if image.mode in ("P", "L", "1", "I", "I;16", "I;16B"):
        return image
    if image.mode in ("LA", "RGBA") and not strict:
        if image.getchannel("A").getextrema() != (255, 255):
            raise MediaError(f"{path}: a mask needs opaque pixels, grey or of a palette, but some here are transparent")
        image = image.convert("L" if image.mode == "LA" else "RGB")
    if image.mode == "RGB" and not strict:
        red, green, blue = (np.asarray(channel) for channel in image.split())
        if np.array_equal(red, green) and np.array_equal(red, blue):
            return image.getchannel(0)
    if image.mode == "L":
        return image
    raise MediaError(f"{path}: object ids need a palette or grey PNG, but this one is {image.mode}")


def _is_soft(values: np.ndarray, top: int, *, is_lossy: bool) -> bool | None:
    """Whether grey values are one object's with soft edges; None if they are neither that nor ids.

    Values are solid where nine pixels together have them. Those of soft edges are not, and lie beside brighter ones.
    """
    levels = np.unique(values)
    dark, bright, half = top // 16, top - top // 16, top // 2
    extreme = (values <= dark) | (values >= bright)
    if is_lossy:
        return True if levels[-1] > half and extreme.mean() > 0.8 else None
    solid = np.unique(values[_is_flat(values)])
    solid = solid[solid > 0]
    thin = np.setdiff1d(levels[levels > 0], solid)
    if not thin.size:
        return False
    is_white_solid = bool(((solid <= dark) | (solid >= bright)).all()) and levels[-1] >= bright
    if thin.size >= 12 and thin.size >= 3 * solid.size and is_white_solid and extreme.mean() >= 0.9:
        return True  # noise all over, as a JPEG leaves it
    edges = np.isin(values, thin[(thin < bright)])
    if not edges.any():
        return False
    beside = _find_brightest_neighbours(values)[edges] > values[edges]
    if beside.mean() < 0.7:
        return None if thin.size > 16 else False
    if bool((solid >= bright).all()) and levels[-1] > half:
        return True if extreme.mean() >= 0.5 else None  # a gradient or a photo is grey throughout
    return None if beside.mean() >= 0.9 or thin.size > 16 else False


def _is_flat(values: np.ndarray) -> np.ndarray:
    """Where a pixel and its eight neighbours have one value, bool (H, W); those beyond the border count as equal."""
    padded = np.pad(values, 1, mode="edge")
    height, width = values.shape
    flat = np.ones(values.shape, dtype=bool)
    for row in range(3):
        for column in range(3):
            flat &= padded[row : row + height, column : column + width] == values
    return flat


def _find_brightest_neighbours(values: np.ndarray) -> np.ndarray:
    """The highest value among a pixel and its eight neighbours, (H, W)."""
    padded = np.pad(values, 1, mode="edge")
    height, width = values.shape
    found = values
    for row in range(3):
        for column in range(3):
            found = np.maximum(found, padded[row : row + height, column : column + width])
    return found


def build_davis_palette() -> np.ndarray:
    """The colours of ids 0..255 in PASCAL VOC and DAVIS masks, uint8 (256, 3): the id's bits, dealt out to r, g, b."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours
