"""Drawing: one sprite, placed, turned, scaled and painted, onto a picture; and the mask of what it covers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from unipixel.stickers.sprites import SpriteSet


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a sprite lies in a picture."""

    sprite: int
    """Index in the sprite set."""
    x: float
    y: float
    """Centre in pixels; (0, 0) is the outer corner of the top-left pixel."""
    size: float
    """Side of the whole sprite square in pixels."""
    angle: float = 0.0
    """Turn in degrees, clockwise as seen."""
    flip: bool = False
    """Mirrored left to right."""
    paint: str | None = None
    """Colour it is repainted in."""
    brightness: float = 1.0


@dataclass(frozen=True, eq=False)
class SpritePatch:
    """The drawn sprite, clipped to the picture."""

    pixels: np.ndarray
    """uint8 (h, w, 4), colour multiplied by alpha."""
    left: int
    top: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the picture that the patch lies on."""
        height, width = self.pixels.shape[:2]
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @cached_property
    def mask(self) -> np.ndarray:
        """bool (h, w): where the sprite covers more than half of a pixel."""
        return self.pixels[..., 3] >= 128


def draw_sprite(placement: Placement, sprites: SpriteSet, size_hw: tuple[int, int]) -> SpritePatch | None:
    """The sprite as placed, clipped to a picture of that size; None when all of it lies outside."""
    p = placement
    picture = sprites.tint(p.sprite, p.size, p.paint, p.brightness)
    wide, high = sprites.sprites[p.sprite].extent
    cos, sin = math.cos(math.radians(p.angle)), math.sin(math.radians(p.angle))
    half_w = (abs(cos) * wide + abs(sin) * high) * p.size / 2 + 1
    half_h = (abs(sin) * wide + abs(cos) * high) * p.size / 2 + 1
    left, top = max(0, math.floor(p.x - half_w)), max(0, math.floor(p.y - half_h))
    right, bottom = min(size_hw[1], math.ceil(p.x + half_w)), min(size_hw[0], math.ceil(p.y + half_h))
    if right <= left or bottom <= top:
        return None
    # Picture pixel -> sprite pixel: move to the centre, turn back, scale, mirror.
    scale = picture.width / p.size
    a, b, d, e = cos * scale, sin * scale, -sin * scale, cos * scale
    if p.flip:
        a, b = -a, -b
    dx, dy = left - p.x, top - p.y
    matrix = (a, b, a * dx + b * dy + picture.width / 2, d, e, d * dx + e * dy + picture.height / 2)
    drawn = picture.transform(
        (right - left, bottom - top), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=(0, 0, 0, 0)
    )
    pixels = np.asarray(drawn)
    return SpritePatch(pixels, left, top)


def paste_patch(picture: np.ndarray, patch: SpritePatch) -> None:
    """Lay the patch over the picture, uint8 (H, W, 3), in place."""
    region = picture[patch.window]
    through = (255 - patch.pixels[..., 3:]).astype(np.uint16)
    region[...] = patch.pixels[..., :3] + ((region * through + 127) // 255).astype(np.uint8)
