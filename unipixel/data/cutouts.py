"""Objects cut out of photos, as sprites, and clean pieces of photos to lay them on: scenes that look real, with exact
masks and names, as many as are wanted.

    settings = SceneSettings(sprites=cutouts(PHOTOS), photos=clean_crops(PHOTOS), photo_share=0.9, repaint=0.0)
    picture = stickers.generate_scene(0, 0, settings)

Source: Simple Copy-Paste (Ghiasi et al., arXiv 2012.07177). PHOTOS is a folder as `data.readers.photos` reads it; its
split ``train`` alone is used.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from unipixel.data.encodings import rle_to_mask
from unipixel.data.readers import photos
from unipixel.data.records import Record
from unipixel.errors import DatasetError
from unipixel.stickers import THINGS, Thing
from unipixel.stickers.backgrounds import Crop
from unipixel.stickers.sprites import SpriteSet
from unipixel.stickers.things import KINDS, USES

WHOLE_OBJECTS = (
    "duts_objects",
    "ecssd_objects",
    "oxford_pets",
    "human_photos",
    "penn_fudan",
    "weizmann_horses",
    "flowers17",
    "voc2007_instances",
    "msrc_cows",
    "ccp_fashion",
)
"""Sets whose outlines are exact enough; polygons show a rim of the old background. Of garments only the person."""
LITTLE_LABELLED = (
    "coco_single_person",
    "lvis_val100_subset",
    "penn_fudan",
    "feral_cats",
    "car_parts",
    "flowers17",
    "nuts_dates_figs",
)
"""Sets with much that has no label, whose photos are no clean background."""
LONGEST, SHORTEST = 72, 24
"""Pixels that the longer and the shorter side of an object must have."""
BORDER = 2
"""Pixels between an object and the border of its photo; nearer ones may be cut off by it."""
MIN_FILL = 0.2
"""Share of its box that an object must fill: less is mostly rim."""
MIN_PER_NAME = 2
"""Objects that a name must have."""
LEVELS = (176, 128, 92, 64, 44)
"""Sides at which an object is made ready to be drawn."""
VARIANTS = 4
"""Lightings in which every object is had; the first is that of its photo."""
PIECE = 96
"""Least side of a clean piece of a photo, pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cutout:
    """One object in one lighting; its pixels are read when it is first drawn."""

    thing: Thing
    record: Record
    rle: dict[str, Any]
    box: tuple[int, int, int, int]
    """x1, y1, x2, y2 of what is cut out, in pixels of the photo."""
    variant: int = 0
    family: str = "photos"

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height as a share of the longer side."""
        width, height = self.box[2] - self.box[0], self.box[3] - self.box[1]
        return width / max(width, height), height / max(width, height)

    def draw_gains(self) -> np.ndarray:
        """float32 (3,): how much brighter each channel is made, from the name of the photo."""
        if not self.variant:
            return np.ones(3, np.float32)
        rng = np.random.default_rng((zlib.crc32(self.record.id.encode()), self.variant))
        return (rng.uniform(0.75, 1.2) * rng.uniform(0.9, 1.1, 3)).astype(np.float32)


class CutoutSet(SpriteSet):
    """Cut-outs by name, drawn like the sprites of a sheet."""

    def __init__(self, sprites: list[Cutout]) -> None:
        super().__init__(sprites)  # type: ignore[arg-type]  # what has no picture in memory, and is asked for `level`
        counts = np.array([len(self.by_name[name]) for name in self.names], float)
        self.weights = np.sqrt(counts) / np.sqrt(counts).sum()
        self._patches: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}

    def get_level(self, index: int, size: float) -> Image.Image:
        """The object, colour multiplied by alpha (mode RGBa), on a square at the side next above ``size`` pixels."""
        side = next((level for level in reversed(LEVELS) if level >= size * 0.95), LEVELS[0])
        if (index, side) not in self._levels:
            if len(self._levels) >= 64:
                self._levels.pop(next(iter(self._levels)))
            self._levels[index, side] = self._render(self.sprites[index], side)  # type: ignore[arg-type]
        return self._levels[index, side]

    def _render(self, cutout: Cutout, side: int) -> Image.Image:
        key = (cutout.record.id, cutout.box)
        if key not in self._patches:
            self._patches[key] = cut_out(cutout.record, cutout.rle, cutout.box)
        patch = self._patches[key]
        height, width = patch.shape[:2]
        scale = side / max(width, height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        how = Image.Resampling.BILINEAR if scale > 1 else Image.Resampling.HAMMING
        picture = Image.frombytes("RGBa", (width, height), patch.tobytes()).resize(size, how)
        square = Image.new("RGBa", (side, side))
        square.paste(picture, ((side - size[0]) // 2, (side - size[1]) // 2))
        if not cutout.variant:
            return square
        *colours, alpha = square.split()
        lit = [
            ImageChops.darker(band.point((np.arange(256) * gain).clip(0, 255).astype(np.uint8).tolist()), alpha)
            for band, gain in zip(colours, cutout.draw_gains(), strict=True)
        ]
        return Image.merge("RGBa", (*lit, alpha))


def cut_out(record: Record, rle: dict[str, Any], box: tuple[int, int, int, int]) -> np.ndarray:
    """One object, uint8 (h, w, 4), colour multiplied by alpha, the longer side at most the largest of `LEVELS`.

    The outermost pixel of the mask, which shows some of the old background, is left out, and the edge is soft over
    about a pixel either way, in the colours of the object.

    Raises:
        DatasetError: the photo cannot be read, or the mask does not fit it.
    """
    assert record.frame_names is not None
    path = record.root / record.frame_names[0]
    try:
        with Image.open(path) as opened:
            photo = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f"{record.source}: the photo {path} cannot be read ({error}); fetch it again") from error
    mask = rle_to_mask(rle, (photo.height, photo.width), record.source)[box[1] : box[3], box[0] : box[2]]
    whole, photo = Image.fromarray(mask.astype(np.uint8) * 255), photo.crop(box)
    scale = LEVELS[0] / max(photo.size)
    if scale < 1:
        size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
        whole, photo = (image.resize(size, Image.Resampling.HAMMING) for image in (whole, photo))
    inside = whole.point([0] * 250 + [255] * 6)  # pixels that lie wholly on the object
    if scale > 0.7:
        inside = inside.filter(ImageFilter.MinFilter(3))
    colours = Image.composite(photo, Image.new("RGB", inside.size), inside)
    alpha = np.asarray(inside.filter(ImageFilter.GaussianBlur(0.7)))
    wide = ImageFilter.BoxBlur(2)
    weight = np.maximum(np.asarray(inside.filter(wide)), 8).astype(np.float32) / 255
    rgb = np.minimum(np.asarray(colours.filter(wide)) / weight[..., None], 255)
    rgb = np.where(np.asarray(inside)[..., None] > 0, np.asarray(colours), rgb)
    patch = np.concatenate([rgb * (alpha[..., None] / np.float32(255)), alpha[..., None]], -1)
    return np.ascontiguousarray((patch + 0.5).astype(np.uint8))


@lru_cache(maxsize=1)
def _read_training_photos(folder: Path) -> list[Record]:
    return photos.read_records(folder, "photos", "train")


@lru_cache(maxsize=2)
def find_cutouts(folder: Path) -> CutoutSet:
    """Every object of the training photos that is whole, large enough and exactly outlined, in `VARIANTS` lightings.

    Raises:
        DatasetError: no set is there, a label is malformed, or fewer than 2 names are left.
    """
    found: list[Cutout] = []
    for record in _read_training_photos(folder):
        name_of_set = record.id.split("/")[0]
        if name_of_set not in WHOLE_OBJECTS:
            continue
        size_hw = (int(record.raw["height"]), int(record.raw["width"]))
        candidates = [region for region in photos.read_regions(record) if region.is_thing]
        if name_of_set == "ccp_fashion":
            candidates = [region for region in candidates if region.regions[0] is record.raw.get("person_rle")]
        masks = [rle_to_mask(region.regions[0], size_hw, record.source) for region in candidates]
        for number, (region, mask) in enumerate(zip(candidates, masks, strict=True)):
            box = _find_whole_box(mask)
            if box is None or _is_touched(mask, box, masks[:number] + masks[number + 1 :]):
                continue
            found.append(Cutout(thing=build_thing(region.name), record=record, rle=region.regions[0], box=box))
    counts = Counter(one.thing.name for one in found)
    kept = [replace(one, variant=k) for one in found if counts[one.thing.name] >= MIN_PER_NAME for k in range(VARIANTS)]
    if len({one.thing.name for one in kept}) < 2:
        raise DatasetError(
            f"{folder} has {len(found)} whole objects of {len(counts)} names, which are too few for scenes; there must "
            f"be {MIN_PER_NAME} or more each of 2 names in {', '.join(WHOLE_OBJECTS)}"
        )
    return CutoutSet(kept)


def build_thing(name: str) -> Thing:
    """A thing of that name, never repainted; of one that stickers do not know, every kind and use is arguable."""
    known = THINGS.get(name)
    if known is not None:
        return replace(known, recolour=False)
    return Thing(
        name=name,
        plural=name + "s",
        maybe_kinds=frozenset(KINDS),
        maybe_uses=frozenset(USES),
        recolour=False,
    )


def _find_whole_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """The box to cut out, a little larger than the object; None when the object is cut off, too small or too thin."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    if min(left, top) < BORDER or right > width - BORDER or bottom > height - BORDER:
        return None
    sides = (right - left, bottom - top)
    if max(sides) < LONGEST or min(sides) < SHORTEST or mask.sum() < MIN_FILL * math.prod(sides):
        return None
    return left - 1, top - 1, right + 1, bottom + 1


def _is_touched(mask: np.ndarray, box: tuple[int, int, int, int], others: list[np.ndarray]) -> bool:
    """Whether another object lies against this one, and so perhaps over it."""
    if not others:
        return False
    window = (slice(max(box[1] - 2, 0), box[3] + 2), slice(max(box[0] - 2, 0), box[2] + 2))
    grown = np.asarray(Image.fromarray(mask[window]).convert("L").filter(ImageFilter.MaxFilter(5))) > 0
    return any(bool((other[window] & grown).any()) for other in others)


@lru_cache(maxsize=2)
def find_clean_crops(folder: Path) -> tuple[Crop, ...]:
    """Pieces of the training photos that show (nearly) nothing of what is labelled, as (file, box).

    Raises:
        DatasetError: no set is there, a label is malformed, or no photo has such a piece.
    """
    found: list[Crop] = []
    for record in _read_training_photos(folder):
        assert record.frame_names is not None
        if record.id.split("/")[0] in LITTLE_LABELLED:
            continue
        boxes = [one["bbox"] for one in record.raw["instances"] if one.get("isthing", True)]
        rng = np.random.default_rng(zlib.crc32(record.id.encode()))
        piece = _find_clean_piece(np.array(boxes, float).reshape(-1, 4), record.raw["height"], record.raw["width"], rng)
        if piece is not None:
            found.append((record.root / record.frame_names[0], piece))
    if not found:
        raise DatasetError(f"no photo in {folder} has a piece of {PIECE} x {PIECE} pixels without a labelled object")
    return tuple(found)


def _find_clean_piece(
    boxes: np.ndarray, height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """The largest of some random squares with less than 1 % in boxes (N, 4) x, y, w, h; None where there is none."""
    if min(height, width) < PIECE:
        return None
    side = rng.integers(PIECE, min(height, width) + 1, 200)
    top = (rng.random(200) * (height - side + 1)).astype(int)
    left = (rng.random(200) * (width - side + 1)).astype(int)
    x, y, w, h = boxes.T[..., None]
    across = np.minimum(left + side, x + w) - np.maximum(left, x)
    down = np.minimum(top + side, y + h) - np.maximum(top, y)
    covered = (across.clip(0) * down.clip(0)).sum(0)
    side = np.where(covered <= 0.01 * side * side, side, 0)
    best = int(side.argmax())
    if not side[best]:
        return None
    return int(left[best]), int(top[best]), int(left[best] + side[best]), int(top[best] + side[best])


def list_whole_photos(folder: Path) -> tuple[Crop, ...]:
    """Every training photo, as a background of stickers.

    Raises:
        DatasetError: no set is there, or a label is malformed.
    """
    found = []
    for record in _read_training_photos(folder):
        assert record.frame_names is not None
        box = (0, 0, int(record.raw["width"]), int(record.raw["height"]))
        found.append((record.root / record.frame_names[0], box))
    return tuple(found)
