"""What lies behind the stickers: plain colours, gradients, noise, stripes, checks, textures, and crops of photos."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from unipixel.errors import DatasetError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".webp")
"""PNG is left out: folders of photos often hold label maps in that format."""
Size = tuple[int, int]
Crop = tuple[Path, tuple[int, int, int, int]]
"""A photo, and the box (x1, y1, x2, y2) in its pixels that may be used of it."""


def draw_background(
    rng: np.random.Generator,
    size_hw: Size,
    photos: Path | tuple[Crop, ...] | None = None,
    photo_share: float = 0.5,
    patterns: tuple[str, ...] = (),
) -> tuple[np.ndarray, bool]:
    """One background picture, uint8 (H, W, 3), and whether it is a photo.

    Args:
        rng: source of randomness.
        size_hw: height and width in pixels.
        photos: folder of photos, or pieces of some, of which random crops are used.
        photo_share: share of backgrounds that are photo crops when ``photos`` is given.
        patterns: keys of `PATTERNS` that may be drawn; empty for all.
    """
    if photos is not None and rng.random() < photo_share:
        return _crop_photo(rng, size_hw, photos), True
    names = list(patterns or PATTERNS)
    pattern = PATTERNS[names[int(rng.integers(len(names)))]](rng, size_hw)
    if rng.random() < 0.5:
        grain = rng.integers(-int(rng.integers(2, 14)), 14, (size_hw[0], size_hw[1], 1), dtype=np.int16)
        pattern = np.clip(pattern.astype(np.int16) + grain, 0, 255).astype(np.uint8)
    return pattern, False


def _choose_colours(rng: np.random.Generator, count: int) -> np.ndarray:
    """uint8 (count, 3): random colours, some of them a family of similar ones."""
    colours = rng.integers(0, 256, (count, 3))
    if rng.random() < 0.5:
        colours = colours[:1] + rng.integers(-60, 61, (count, 3))
    return np.clip(colours, 0, 255).astype(np.uint8)


def _enlarge(small: np.ndarray, size_hw: Size, how: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
    """uint8 (h, w, 3) -> uint8 (H, W, 3)."""
    return np.asarray(Image.fromarray(small).resize((size_hw[1], size_hw[0]), how))


def _measure_along(rng: np.random.Generator, size_hw: Size) -> np.ndarray:
    """float32 (H, W): distance along a random direction, in units of the longer side."""
    angle = float(rng.random()) * np.pi
    scale = 1 / max(size_hw)
    y = np.arange(size_hw[0], dtype=np.float32)[:, None] * (np.sin(angle) * scale)
    x = np.arange(size_hw[1], dtype=np.float32)[None] * (np.cos(angle) * scale)
    return (y + x).astype(np.float32)


def _plain(rng: np.random.Generator, size_hw: Size) -> np.ndarray:
    return np.broadcast_to(_choose_colours(rng, 1), (*size_hw, 3)).copy()


def _gradient(rng: np.random.Generator, size_hw: Size) -> np.ndarray:
    return _enlarge(_choose_colours(rng, 4).reshape(2, 2, 3), size_hw)


def _clouds(rng: np.random.Generator, size_hw: Size) -> np.ndarray:
    """Octaves of smooth noise, each finer and fainter than the one before."""
    step = int(rng.choice([2, 3]))
    cells = int(rng.integers(2, 6))
    total = _enlarge(_choose_colours(rng, cells * cells).reshape(cells, cells, 3), size_hw).astype(np.int16)
    strength = int(rng.integers(20, 70))
    while cells * step < min(size_hw) and strength > 4:
        cells *= step
        octave = rng.integers(0, 256, (cells, cells, 3 if rng.random() < 0.5 else 1), dtype=np.uint8)
        octave = np.broadcast_to(octave, (cells, cells, 3)).copy()
        total += ((_enlarge(octave, size_hw).astype(np.int16) - 128) * strength) >> 7
        strength //= 2
    return np.clip(total, 0, 255).astype(np.uint8)


def _stripes(rng: np.random.Generator, size_hw: Size) -> np.ndarray:
    count = int(rng.integers(2, 5))
    bands = (_measure_along(rng, size_hw) * float(rng.uniform(3, 24)) + count).astype(np.int32) % count
    return _choose_colours(rng, count)[bands]


def _waves(rng: np.random.Generator, size_hw: Size) -> np.ndarray:
    """Rippled bands, as of wood or water."""
    ripple = np.sin(_measure_along(rng, size_hw) * float(rng.uniform(10, 50)))
    value = np.sin(_measure_along(rng, size_hw) * float(rng.uniform(15, 90)) + ripple * float(rng.uniform(0.5, 3)))
    first, second = _choose_colours(rng, 2).astype(np.float32)
    ramp = (first + np.linspace(0, 1, 64, dtype=np.float32)[:, None] * (second - first)).astype(np.uint8)
    return ramp[((value + 1) * 31.5).astype(np.int32)]


def _checks(rng: np.random.Generator, size_hw: Size) -> np.ndarray:
    first, second = _measure_along(rng, size_hw), _measure_along(rng, size_hw)
    scale = float(rng.uniform(4, 18))
    return _choose_colours(rng, 2)[((first * scale + 9).astype(np.int32) + (second * scale + 9).astype(np.int32)) & 1]


def _blocks(rng: np.random.Generator, size_hw: Size) -> np.ndarray:
    """Flat random tiles."""
    rows, columns = int(rng.integers(2, 12)), int(rng.integers(2, 12))
    return _enlarge(_choose_colours(rng, rows * columns).reshape(rows, columns, 3), size_hw, Image.Resampling.NEAREST)


def _bricks(rng: np.random.Generator, size_hw: Size) -> np.ndarray:
    """Courses of bricks, every other one shifted by half, with joints."""
    height = int(rng.integers(8, 30))
    width = int(height * rng.uniform(1.5, 3))
    y, x = np.arange(size_hw[0])[:, None], np.arange(size_hw[1])[None]
    row = y // height
    shifted = x + (row & 1) * (width // 2)
    joint = (y % height < 2) | (shifted % width < 2)
    shade = (row * 7 + (shifted // width) * 13) % 5
    first, second = _choose_colours(rng, 2).astype(np.int16)
    body = np.clip(first + (np.arange(5, dtype=np.int16)[:, None] - 2) * 8, 0, 255).astype(np.uint8)
    return np.where(joint[..., None], second.astype(np.uint8), body[shade])


def _dots(rng: np.random.Generator, size_hw: Size) -> np.ndarray:
    """A grid of round spots."""
    pitch = int(rng.integers(8, 40))
    radius = pitch * float(rng.uniform(0.15, 0.45))
    y = np.arange(size_hw[0], dtype=np.float32)[:, None] % pitch - pitch / 2
    x = np.arange(size_hw[1], dtype=np.float32)[None] % pitch - pitch / 2
    return _choose_colours(rng, 2)[(y * y + x * x < radius * radius).astype(np.int32)]


PATTERNS: dict[str, Callable[[np.random.Generator, Size], np.ndarray]] = {
    "plain": _plain,
    "gradient": _gradient,
    "clouds": _clouds,
    "more clouds": _clouds,
    "stripes": _stripes,
    "waves": _waves,
    "checks": _checks,
    "blocks": _blocks,
    "bricks": _bricks,
    "dots": _dots,
}


@lru_cache(maxsize=8)
def list_photos(folder: Path) -> tuple[Path, ...]:
    """The photos of a folder and the folders in it, in name order.

    Raises:
        DatasetError: the folder is missing or holds no photos.
    """
    if not folder.is_dir():
        raise DatasetError(f"the photo folder {str(folder)!r} does not exist; give a folder of JPEG or WebP files")
    files = tuple(sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES))
    if not files:
        raise DatasetError(f"the photo folder {str(folder)!r} holds no JPEG or WebP file")
    return files


@lru_cache(maxsize=512)
def _load_thumbnail(path: Path) -> Image.Image:
    """A photo at about 320 px, kept so that later crops cost no decoding.

    Raises:
        DatasetError: the file is not a readable picture.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (320, 320))
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f"the photo {str(path)!r} cannot be read ({error}); remove it or replace it") from error
    small.thumbnail((320, 320))
    return small


def _crop_photo(rng: np.random.Generator, size_hw: Size, photos: Path | tuple[Crop, ...]) -> np.ndarray:
    if isinstance(photos, Path):
        files = list_photos(photos)
        photo = _load_thumbnail(files[int(rng.integers(len(files)))])
        x1, y1, x2, y2 = 0, 0, photo.width, photo.height
    else:
        path, box = photos[int(rng.integers(len(photos)))]
        photo = _load_thumbnail(path)
        x1, y1, x2, y2 = box
        if x2 > photo.width or y2 > photo.height:
            raise DatasetError(
                f"the photo {str(path)!r} has {photo.width} x {photo.height} pixels (at most 320 are used of a side), "
                f"and {box} is to be cut out of it; fetch photo and labels again"
            )
    share = float(rng.uniform(0.4, 1.0) if isinstance(photos, Path) else rng.uniform(0.6, 1.0))
    scale = share * min((x2 - x1) / size_hw[1], (y2 - y1) / size_hw[0])
    width, height = max(1.0, size_hw[1] * scale), max(1.0, size_hw[0] * scale)
    left, top = float(rng.uniform(x1, x2 - width)), float(rng.uniform(y1, y2 - height))
    crop = photo.resize(
        (size_hw[1], size_hw[0]), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height)
    )
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(crop)
