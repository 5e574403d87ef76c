"""Scenes: pictures made of a background and a few stickers, with the exact mask of each sticker's visible part."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from unipixel.masks import MaskTrack, find_interior_point, jitter_box, mask_to_box, sample_point
from unipixel.media import Media
from unipixel.sample import Box, Point, Sample, Turn
from unipixel.stickers.backgrounds import Crop, draw_background
from unipixel.stickers.colours import PAINTS, choose_colour_name, measure_colour_shares
from unipixel.stickers.sprites import (
    TRAINING_FAMILIES,
    Placement,
    SpritePatch,
    SpriteSet,
    draw_sprite,
    load_built_in,
    load_folder,
    paste_patch,
)
from unipixel.stickers.things import FAMILIAR, Thing

EVAL_SEED = 1_000_000
"""Seeds from here on are held out for evaluation: nothing may be trained on them."""


@dataclass(frozen=True, kw_only=True)
class SceneSettings:
    """What scenes look like."""

    size_hw: tuple[int, int] = (224, 224)
    """Height and width in pixels."""
    num_objects: tuple[int, int] = (2, 5)
    """Fewest and most objects of a scene."""
    scale: tuple[float, float] = (0.2, 0.55)
    """Smallest and largest side of an object, as a share of the shorter side of the picture."""
    turn_degrees: float = 30.0
    """Objects are turned by up to this much either way."""
    repaint: float = 0.35
    """Share of the objects that are repainted in a named colour."""
    twins: float = 0.2
    """Share of the scenes with several objects of one name, so that colour, place or size must tell them apart."""
    min_visible: float = 0.4
    """Least share of an object that stays visible when others lie over it."""
    min_area: float = 0.004
    """Least visible area of an object, as a share of the picture."""
    names: tuple[str, ...] | None = None
    """Only these things are used; empty for all. None: the `FAMILIAR` ones of the built-in sprites, all of a folder."""
    families: tuple[str, ...] = TRAINING_FAMILIES
    """Drawing styles; the held-out one is `HELD_OUT_FAMILY`."""
    sprites: Path | SpriteSet | None = None
    """Folder of PNG files with a ``labels.json``, or a set made elsewhere, that replaces the built-in sprites."""
    patterns: tuple[str, ...] = ()
    """Procedural backgrounds that are used, keys of `backgrounds.PATTERNS`; empty for all."""
    photos: Path | tuple[Crop, ...] | None = None
    """Folder of photos, or pieces of some, whose crops serve as backgrounds."""
    photo_share: float = 0.5
    """Share of backgrounds that are photo crops when ``photos`` is given."""
    noise: float = 0.3
    """Share of the scenes with sensor noise and changed contrast."""
    num_frames: tuple[int, int] = (8, 16)
    """Fewest and most frames of a video."""
    pace: tuple[float, float] | None = (0.02, 0.05)
    """Slowest and fastest motion per frame of a video, as a share of the side; None: paths cross much of the picture,
    however few the frames."""

    def load_sprites(self) -> SpriteSet:
        """The sprites that these settings draw with."""
        if isinstance(self.sprites, SpriteSet):
            return self.sprites
        return load_built_in(self.families) if self.sprites is None else load_folder(self.sprites)

    def list_names(self, sprites: SpriteSet) -> tuple[str, ...]:
        if self.names is None and self.sprites is None:
            return tuple(name for name in FAMILIAR if name in sprites.by_name)
        return self.names or sprites.names


DEFAULT_SETTINGS = SceneSettings()
HARD = SceneSettings(
    size_hw=(168, 168),
    num_objects=(2, 6),
    scale=(0.15, 0.5),
    twins=0.35,
    names=(),
    num_frames=(4, 8),
    pace=None,
)
"""Small and crowded pictures of all things, clips that jump: the world of the first three versions of `nano`."""
WORLDS = {"default": DEFAULT_SETTINGS, "hard": HARD}
"""Named settings."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneObject:
    """One sticker of a scene."""

    id: int
    """Its id, 1 to 9, in questions and answers."""
    thing: Thing
    placements: tuple[Placement | None, ...]
    """How it lies in each frame; None where it is not drawn."""
    does: frozenset[str] = frozenset()
    """In videos, what it plainly does: keys of `language.MOTIONS`."""
    may_do: frozenset[str] = frozenset()
    """What one could argue that it does; never claimed of it, nor denied."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A picture or clip of stickers; objects are in no meaningful order (not in that of drawing)."""

    seed: int
    index: int
    frames: np.ndarray
    """uint8 (T, H, W, 3)."""
    masks: np.ndarray
    """bool (N, T, H, W): the visible part of each object."""
    objects: tuple[SceneObject, ...]
    is_video: bool = False
    drawing_order: tuple[int, ...] = field(default=())
    """Indices of ``objects`` from the lowest to the one on top."""
    on_photo: bool = False
    """Whether the background is a photo, which may show real things of its own."""
    names: tuple[str, ...] = ()
    """Every name that could have been drawn, for questions about things that are not there."""

    @property
    def image(self) -> np.ndarray:
        """uint8 (H, W, 3): the first frame."""
        return self.frames[0]

    @property
    def is_held_out(self) -> bool:
        """Whether the scene belongs to evaluation, where prompts are exact."""
        return self.seed >= EVAL_SEED

    @cached_property
    def areas(self) -> np.ndarray:
        """int (N, T): visible pixels of each object."""
        return np.array([[np.count_nonzero(mask) for mask in track] for track in self.masks])

    @cached_property
    def best_frames(self) -> np.ndarray:
        """int (N,): the frame on which most of each object is seen."""
        return self.areas.argmax(1)

    @cached_property
    def colours(self) -> tuple[np.ndarray, ...]:
        """Shares of each colour class among the visible pixels of each object, on its best frame."""
        shares = []
        for n, t in enumerate(self.best_frames):
            rows = np.flatnonzero(self.masks[n, t].any(1))
            band = slice(rows[0], rows[-1] + 1) if len(rows) else slice(0)
            shares.append(measure_colour_shares(self.frames[t, band][self.masks[n, t, band]]))
        return tuple(shares)

    @cached_property
    def _colour_names(self) -> tuple[str | None, ...]:
        return tuple(choose_colour_name(shares) for shares in self.colours)

    def get_colour(self, n: int) -> str | None:
        """The colour that object ``n`` plainly has, or None."""
        return self._colour_names[n]

    def build_tracks(self) -> dict[int, MaskTrack]:
        """The masks as `MaskTrack`s by object id."""
        return {item.id: MaskTrack.from_masks(mask) for item, mask in zip(self.objects, self.masks, strict=True)}

    def to_sample(self, turns: tuple[Turn, ...]) -> Sample:
        """The scene as a `Sample` with a conversation about it."""
        media = Media.from_array(self.frames if self.is_video else self.image)
        return Sample(
            media=media, objects=self.build_tracks(), turns=turns, source=f"stickers {self.seed}/{self.index}"
        )


def generate_scene(seed: int, index: int, settings: SceneSettings = DEFAULT_SETTINGS) -> Scene:
    """The still scene of that number: the same arguments always give the same picture and masks.

    Raises:
        ValueError: the settings leave no room for visible objects, or name unknown things.
    """
    rng = np.random.default_rng((seed, index))
    sprites = settings.load_sprites()
    behind, on_photo = draw_background(rng, settings.size_hw, settings.photos, settings.photo_share, settings.patterns)
    for _ in range(20):
        picture = behind.copy()
        placements, masks, names = _compose(rng, settings, sprites, choose_names(rng, settings, sprites), picture)
        if len(placements) >= settings.num_objects[0]:
            break
    else:
        raise ValueError(f"no scene fits these settings; objects are too large or too small for {settings.size_hw}")
    if rng.random() < settings.noise:
        picture = add_noise(rng, picture)
    shuffle = [int(n) for n in rng.permutation(len(placements))]
    ids = choose_ids(rng, len(placements))
    objects = tuple(
        SceneObject(id=ids[k], thing=sprites.things[names[n]], placements=(placements[n],))
        for k, n in enumerate(shuffle)
    )
    return Scene(
        seed=seed,
        index=index,
        frames=picture[None],
        masks=np.stack([masks[n] for n in shuffle])[:, None],
        objects=objects,
        drawing_order=tuple(shuffle.index(n) for n in range(len(shuffle))),
        on_photo=on_photo,
        names=settings.list_names(sprites),
    )


def choose_names(rng: np.random.Generator, settings: SceneSettings, sprites: SpriteSet) -> list[str]:
    """Names of the objects of a scene, some of them twice or three times.

    Raises:
        ValueError: the settings ask for names without sprites.
    """
    pool = settings.list_names(sprites)
    missing = [name for name in pool if name not in sprites.by_name]
    if missing:
        raise ValueError(f"there is no sprite of {missing[0]!r}; choose names from the sprite set's `names`")
    count = int(rng.integers(settings.num_objects[0], settings.num_objects[1] + 1))
    twins = int(rng.integers(1, 3)) if count > 1 and rng.random() < settings.twins else 0
    distinct = max(1, min(count - twins, len(pool)))
    weights = None if settings.names else sprites.weights
    picked = [pool[int(n)] for n in rng.choice(len(pool), distinct, replace=False, p=weights)]
    return picked + picked[:1] * (count - distinct if twins else 0)


def choose_ids(rng: np.random.Generator, count: int) -> list[int]:
    """Ids for that many objects: mostly 1, 2, 3 ..., now and then any of 1 to 9."""
    if rng.random() < 0.8 or count > 9:
        return list(range(1, count + 1))
    return [int(n) for n in rng.choice(9, count, replace=False) + 1]


def choose_appearance(
    rng: np.random.Generator, settings: SceneSettings, sprites: SpriteSet, name: str, crowd: int
) -> Placement:
    """The appearance of an object: picture, size, turn, mirroring and paint; its place is chosen later."""
    low, high = settings.scale
    high = min(high, max(low, high * (1.15 - 0.11 * crowd)))
    options = sprites.by_name[name]
    return Placement(
        sprite=int(options[int(rng.integers(len(options)))]),
        x=0.0,
        y=0.0,
        size=float(rng.uniform(low, high)) * min(settings.size_hw),
        angle=float(rng.uniform(-1, 1) * settings.turn_degrees) if rng.random() < 0.7 else 0.0,
        flip=bool(rng.random() < 0.5),
        paint=choose_paint(rng) if sprites.things[name].recolour and rng.random() < settings.repaint else None,
        brightness=float(rng.uniform(0.85, 1.1)) if rng.random() < 0.4 else 1.0,
    )


def choose_paint(rng: np.random.Generator) -> str:
    """A colour to repaint something in."""
    return list(PAINTS)[int(rng.integers(len(PAINTS)))]


def _compose(
    rng: np.random.Generator, settings: SceneSettings, sprites: SpriteSet, names: list[str], picture: np.ndarray
) -> tuple[list[Placement], list[np.ndarray], list[str]]:
    """Put the named things onto the picture, one over the other, each kept visible enough. Changes ``picture``."""
    placements: list[Placement] = []
    masks: list[np.ndarray] = []
    full: list[int] = []
    kept: list[str] = []
    order = [names[int(n)] for n in rng.permutation(len(names))]
    for name in order:
        found = _find_place(
            rng, settings, sprites, choose_appearance(rng, settings, sprites, name, len(names)), masks, full
        )
        if found is None:
            continue
        placement, patch = found
        paste_patch(picture, patch)
        for mask in masks:
            mask[patch.window] &= ~patch.mask
        own = np.zeros(settings.size_hw, bool)
        own[patch.window] = patch.mask
        placements.append(placement)
        masks.append(own)
        full.append(int(own.sum()))
        kept.append(name)
    return placements, masks, kept


def _find_place(
    rng: np.random.Generator,
    settings: SceneSettings,
    sprites: SpriteSet,
    placement: Placement,
    masks: list[np.ndarray],
    full: list[int],
) -> tuple[Placement, SpritePatch] | None:
    """A place mostly inside the picture that leaves enough of what lies below visible; None if none is found."""
    height, width = settings.size_hw
    least = settings.min_area * height * width
    for attempt in range(12):
        size = placement.size * 0.93**attempt
        margin = size * (0.5 if rng.random() < 0.8 else 0.35)
        x = float(rng.uniform(min(margin, width / 2), max(width - margin, width / 2)))
        y = float(rng.uniform(min(margin, height / 2), max(height - margin, height / 2)))
        candidate = move_placement(placement, x=x, y=y, size=size)
        patch = draw_sprite(candidate, sprites, settings.size_hw)
        if patch is None or patch.mask.sum() < least:
            continue
        if all(
            _stays_visible(mask, patch, settings.min_visible * whole, least)
            for mask, whole in zip(masks, full, strict=True)
        ):
            return candidate, patch
    return None


def _stays_visible(mask: np.ndarray, patch: SpritePatch, least: float, least_area: float) -> bool:
    lost = int((mask[patch.window] & patch.mask).sum())
    return lost == 0 or int(mask.sum()) - lost >= max(least, least_area)


def move_placement(
    placement: Placement, *, x: float, y: float, size: float | None = None, angle: float | None = None
) -> Placement:
    """The same sticker elsewhere (several times faster than `dataclasses.replace`)."""
    return Placement(
        sprite=placement.sprite,
        x=x,
        y=y,
        size=placement.size if size is None else size,
        angle=placement.angle if angle is None else angle,
        flip=placement.flip,
        paint=placement.paint,
        brightness=placement.brightness,
    )


def add_noise(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """A picture or clip with a little noise and another contrast and brightness."""
    gain, offset = float(rng.uniform(0.8, 1.1)), float(rng.uniform(-12, 12))
    table = np.clip(np.arange(256) * gain + offset, 0, 255).astype(np.int16)
    spread = int(rng.integers(1, 8))
    noise = rng.integers(-spread, spread + 1, pixels.shape, dtype=np.int8)
    return np.clip(table[pixels] + noise, 0, 255).astype(np.uint8)


def choose_prompt_frame(scene: Scene, n: int, rng: np.random.Generator) -> int:
    """A frame on which object ``n`` is well visible: its best one in evaluation, else a random one."""
    if scene.is_held_out:
        return int(scene.best_frames[n])
    areas = scene.areas[n]
    good = np.flatnonzero(areas >= 0.5 * areas.max())
    return int(good[int(rng.integers(len(good)))])


def point_at_object(scene: Scene, n: int, rng: np.random.Generator) -> Point:
    """A click on object ``n``: a random visible pixel, in evaluation the most interior one."""
    t = choose_prompt_frame(scene, n, rng)
    mask = scene.masks[n, t]
    return Point(*(find_interior_point(mask) if scene.is_held_out else sample_point(mask, rng)), frame=t)


def box_object(scene: Scene, n: int, rng: np.random.Generator) -> Box:
    """A box around the visible part of object ``n``: exact in evaluation, else with noise, see `jitter_box`.

    Raises:
        ValueError: the object is seen on no frame.
    """
    t = choose_prompt_frame(scene, n, rng)
    mask = scene.masks[n, t]
    box = mask_to_box(mask)
    if box is None:
        raise ValueError(f"object {n} is not visible on frame {t}; prompts need a frame on which it is")
    x1, y1, x2, y2 = box if scene.is_held_out else jitter_box(box, mask.shape, rng)
    return Box(float(x1), float(y1), float(x2), float(y2), frame=t)


def sample_prompt(scene: Scene, n: int, rng: np.random.Generator) -> tuple[Point | Box, ...]:
    """A point or a box on object ``n``, half of the time each."""
    return (point_at_object(scene, n, rng),) if rng.random() < 0.5 else (box_object(scene, n, rng),)
