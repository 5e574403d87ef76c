"""Sprites: small pictures with transparency, from the built-in sheets or from a folder with a ``labels.json``.

And how they are drawn: placed, turned, scaled and painted onto a picture, with the mask of what they cover.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unipixel.errors import DatasetError
from unipixel.stickers.colours import COLOURS, repaint
from unipixel.stickers.things import KINDS, THINGS, USES, Thing

TRAINING_FAMILIES = ("noto", "twemoji", "fluent-emoji-flat", "emojione")
FURTHER_FAMILIES = ("noto-v1", "fluent-emoji", "streamline-emojis")
"""Styles that some training has besides, by `SceneSettings.families`; no held-out question is drawn in them."""
HELD_OUT_FAMILY = "fxemoji"
"""The drawing style that nothing is ever trained on."""

SHEETS = Path(__file__).parent / "sheets"
LEVELS = (96, 64, 44, 30, 20)
"""Sides in pixels at which a sprite is kept ready, so that drawing it small does not skip pixels."""


@dataclass(frozen=True, eq=False)
class Sprite:
    """One picture of one thing."""

    thing: Thing
    family: str
    picture: Image.Image
    """Square, mode RGBA."""
    extent: tuple[float, float]
    """Width and height of the visible part, as a share of the side."""


class SpriteSet:
    """Sprites by name, with smaller versions of each made on first use."""

    weights: np.ndarray | None = None
    """float (names,): how often each name is drawn; None: all alike."""

    def __init__(self, sprites: list[Sprite]) -> None:
        self.sprites = tuple(sprites)
        self.things: dict[str, Thing] = {sprite.thing.name: sprite.thing for sprite in sprites}
        self.by_name: dict[str, tuple[int, ...]] = dict.fromkeys(self.things, ())
        for index, sprite in enumerate(sprites):
            self.by_name[sprite.thing.name] += (index,)
        self.names = tuple(self.things)
        self._levels: dict[tuple[int, int], Image.Image] = {}
        self._tinted: dict[tuple[int, int, str | None, float], Image.Image] = {}

    def get_level(self, index: int, size: float) -> Image.Image:
        """The sprite, colour multiplied by alpha (mode RGBa), at the stored side next above ``size`` pixels."""
        side = next((level for level in reversed(LEVELS) if level >= size * 0.95), LEVELS[0])
        key = (index, side)
        if key not in self._levels:
            picture = self.sprites[index].picture.convert("RGBa")
            if side != picture.width:
                picture = picture.resize((side, side), Image.Resampling.BOX if side < 40 else Image.Resampling.HAMMING)
            self._levels[key] = picture
        return self._levels[key]

    def tint(self, index: int, size: float, paint: str | None, brightness: float) -> Image.Image:
        """The sprite of `level`, repainted and lit; the last few are kept, for the frames of a video."""
        plain = self.get_level(index, size)
        if paint is None and brightness == 1.0:
            return plain
        key = (index, plain.width, paint, brightness)
        if key not in self._tinted:
            patch = np.asarray(plain).astype(np.float32)
            if paint is not None:
                patch = repaint(patch, paint)
            patch[..., :3] = np.minimum(patch[..., :3] * np.float32(brightness), patch[..., 3:])
            if len(self._tinted) >= 64:
                self._tinted.pop(next(iter(self._tinted)))
            self._tinted[key] = Image.frombytes("RGBa", plain.size, (patch + 0.5).astype(np.uint8).tobytes())
        return self._tinted[key]


def _build_sprite(thing: Thing, family: str, picture: Image.Image) -> Sprite:
    box = picture.getchannel("A").point([0] * 128 + [255] * 128).getbbox()
    if box is None:
        raise DatasetError(f"the sprite of {thing.name!r} in {family!r} is blank; give a picture with visible pixels")
    # Extents are about the centre, where the sprite is held when it is drawn.
    half = picture.width / 2
    width = 2 * max(half - box[0], box[2] - half) / picture.width
    height = 2 * max(half - box[1], box[3] - half) / picture.width
    return Sprite(thing=thing, family=family, picture=picture, extent=(width, height))


@lru_cache(maxsize=8)
def load_built_in(families: tuple[str, ...] = TRAINING_FAMILIES) -> SpriteSet:
    """The sprites of some of the built-in families.

    Raises:
        ValueError: an unknown family is asked for.
    """
    index = json.loads((SHEETS / "index.json").read_text(encoding="utf-8"))
    size, columns = index["size"], index["columns"]
    sprites: list[Sprite] = []
    for family in families:
        if family not in index["families"]:
            raise ValueError(f"there is no sprite family {family!r}; choose from {', '.join(index['families'])}")
        with Image.open(SHEETS / f"{family}.webp") as opened:
            sheet = opened.convert("RGBA")
        for cell, name in enumerate(index["families"][family]):
            left, top = cell % columns * size, cell // columns * size
            sprites.append(_build_sprite(THINGS[name], family, sheet.crop((left, top, left + size, top + size))))
    return SpriteSet(sprites)


@lru_cache(maxsize=4)
def load_folder(folder: Path) -> SpriteSet:
    """Sprites from a folder of PNG files described by its ``labels.json``.

    The file maps each PNG to what it shows::

        {"dog1.png": {"name": "dog"},
         "tub.png": {"name": "bathtub", "category": "furniture", "plural": "bathtubs", "uses": ["sit"],
                     "colour": "white"}}

    Only ``name`` is required. A name of the built-in table brings its own category and uses along unless they are
    given. ``category`` is one of `KINDS` or a word of your own, ``uses`` are keys of `USES`, ``colour`` is one of
    `COLOURS`.

    Raises:
        DatasetError: a file is missing or unreadable, or ``labels.json`` is not in this layout.
    """
    labels = _read_labels(folder)
    sprites: list[Sprite] = []
    for file, label in labels.items():
        thing = _parse_label(file, label)
        try:
            with Image.open(folder / file) as opened:
                picture = opened.convert("RGBA")
        except (OSError, ValueError, SyntaxError) as error:
            raise DatasetError(f"the sprite {file!r} named in labels.json cannot be read ({error})") from error
        sprites.append(_build_sprite(thing, folder.name, _crop_to_square(picture)))
    if len({sprite.thing.name for sprite in sprites}) < 2:
        raise DatasetError(f"{folder.name}/labels.json names fewer than 2 different things; scenes need at least 2")
    return SpriteSet(sprites)


def _read_labels(folder: Path) -> dict[str, Any]:
    path = folder / "labels.json"
    if not path.is_file():
        raise DatasetError(f"{str(folder)!r} has no labels.json; a sprite folder needs one beside its PNG files")
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise DatasetError(f"labels.json in {folder.name!r} is not valid JSON ({error})") from error
    if not isinstance(labels, dict) or not labels:
        raise DatasetError(f"labels.json in {folder.name!r} must be an object that maps file names to labels")
    return labels


def _parse_label(file: str, label: Any) -> Thing:
    """The thing that one entry of ``labels.json`` describes, checked."""
    name = label.get("name") if isinstance(label, dict) else None
    if not isinstance(name, str) or not name.replace(" ", "").isalpha() or name != name.lower():
        raise DatasetError(f'labels.json entry {file!r} must be {{"name": lower-case word, ...}}, not {label!r}')
    unknown = set(label) - {"name", "category", "plural", "uses", "colour"}
    if unknown:
        raise DatasetError(
            f"labels.json entry {file!r} has the unknown field {sorted(unknown)[0]!r}; "
            "known are name, category, plural, uses and colour"
        )
    known = THINGS.get(name, Thing(name=name))
    category, uses, colour = label.get("category"), label.get("uses"), label.get("colour", known.colour)
    if category is not None and (not isinstance(category, str) or not category.isalpha()):
        raise DatasetError(
            f"labels.json entry {file!r}: category must be a word such as {next(iter(KINDS))!r}, not {category!r}"
        )
    if uses is not None and (not isinstance(uses, list) or not all(use in tuple(USES) for use in uses)):
        raise DatasetError(f"labels.json entry {file!r}: uses must be a list of {', '.join(USES)}, not {uses!r}")
    if colour and colour not in COLOURS:
        raise DatasetError(f"labels.json entry {file!r}: colour must be one of {', '.join(COLOURS)}, not {colour!r}")
    plural = label.get("plural") or known.plural or name + "s"
    if not isinstance(plural, str):
        raise DatasetError(f"labels.json entry {file!r}: plural must be a word, not {plural!r}")
    return Thing(
        name=name,
        plural=plural,
        kinds=known.kinds if category is None else frozenset({category}),
        maybe_kinds=known.maybe_kinds if category is None else frozenset(KINDS) - {category},
        uses=known.uses if uses is None else frozenset(uses),
        maybe_uses=known.maybe_uses if uses is None else frozenset(),
        colour=colour,
        recolour=known.recolour,
    )


def _crop_to_square(picture: Image.Image) -> Image.Image:
    """The picture cropped to its visible part, centred on a square of the largest stored side."""
    box = picture.getchannel("A").point([0] * 128 + [255] * 128).getbbox()
    picture = picture.crop(box) if box else picture
    scale = (LEVELS[0] - 4) / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    canvas = Image.new("RGBA", (LEVELS[0], LEVELS[0]))
    canvas.paste(
        picture.resize(size, Image.Resampling.LANCZOS), ((LEVELS[0] - size[0]) // 2, (LEVELS[0] - size[1]) // 2)
    )
    return canvas


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


class SpritePatch:
    """The drawn sprite, clipped to the picture.

    Attributes:
        pixels: uint8 (h, w, 4), colour multiplied by alpha.
        window: rows and columns of the picture that it lies on.
        mask: bool (h, w), where the sprite covers more than half of a pixel.
    """

    def __init__(self, pixels: np.ndarray, left: int, top: int) -> None:
        self.pixels, self.mask = pixels, pixels[..., 3] >= 128
        self.window = slice(top, top + len(pixels)), slice(left, left + pixels.shape[1])


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
    return SpritePatch(np.asarray(drawn), left, top)


def paste_patch(picture: np.ndarray, patch: SpritePatch) -> None:
    """Lay the patch over the picture, uint8 (H, W, 3), in place."""
    region = picture[patch.window]
    through = (255 - patch.pixels[..., 3:]).astype(np.uint16)
    region[...] = patch.pixels[..., :3] + ((region * through + 127) // 255).astype(np.uint8)
