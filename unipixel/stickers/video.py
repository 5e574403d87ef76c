"""Videos: stickers that move, turn, grow, leave, pass behind things and come back, with exact masks on every frame."""

from __future__ import annotations

import numpy as np

from unipixel.stickers.backgrounds import draw_background
from unipixel.stickers.motion import describe_motion, plan_path
from unipixel.stickers.scene import (
    DEFAULT_SETTINGS,
    Scene,
    SceneObject,
    SceneSettings,
    add_noise,
    choose_appearance,
    choose_ids,
    choose_names,
)
from unipixel.stickers.sprites import Placement, SpritePatch, SpriteSet, draw_sprite, paste_patch

WALL_SHARE = 0.4
"""Share of the videos with something tall in front that objects pass behind."""

_Paths = list[list[Placement]]
_Rendering = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def generate_video(seed: int, index: int, settings: SceneSettings = DEFAULT_SETTINGS) -> Scene:
    """The video of that number: the same arguments always give the same frames and masks.

    Raises:
        ValueError: the settings leave no room for visible objects.
    """
    rng = np.random.default_rng((seed, index, 1))
    sprites = settings.load_sprites()
    num_frames = int(rng.integers(settings.num_frames[0], settings.num_frames[1] + 1))
    behind, on_photo = draw_background(rng, settings.size_hw, settings.photos, settings.photo_share, settings.patterns)
    front = _draw_wall(rng, settings.size_hw) if rng.random() < WALL_SHARE else None
    for _ in range(20):
        names, paths = _plan_objects(rng, settings, sprites, num_frames, front)
        names, paths, rendered = _prune_hidden(names, paths, sprites, behind, front, settings)
        if len(paths) >= settings.num_objects[0]:
            break
    else:
        raise ValueError(f"no video fits these settings; objects are too large or too small for {settings.size_hw}")
    frames, masks, inside, seen = rendered
    if rng.random() < settings.noise:
        frames = add_noise(rng, frames)
    shuffle = [int(n) for n in rng.permutation(len(paths))]
    ids = choose_ids(rng, len(paths))
    objects = []
    for number, n in zip(ids, shuffle, strict=True):
        does, may_do = describe_motion(paths[n], inside[n], seen[n], settings.size_hw)
        drawn = tuple(p if share > 0 else None for p, share in zip(paths[n], inside[n], strict=True))
        objects.append(
            SceneObject(id=number, thing=sprites.things[names[n]], placements=drawn, does=does, may_do=may_do)
        )
    return Scene(
        seed=seed,
        index=index,
        frames=frames,
        masks=masks[shuffle],
        objects=tuple(objects),
        is_video=True,
        drawing_order=tuple(shuffle.index(n) for n in range(len(shuffle))),
        on_photo=on_photo,
        names=settings.list_names(sprites),
    )


def _draw_wall(rng: np.random.Generator, size_hw: tuple[int, int]) -> tuple[np.ndarray, int, int]:
    """Something tall in front: its picture uint8 (H, w, 3), and the columns it covers."""
    height, width = size_hw
    wide = int(width * rng.uniform(0.22, 0.36))
    left = int(rng.uniform(0.25, 0.75) * width - wide / 2)
    return draw_background(rng, (height, wide))[0], left, left + wide


def _plan_objects(
    rng: np.random.Generator,
    settings: SceneSettings,
    sprites: SpriteSet,
    num_frames: int,
    front: tuple[np.ndarray, int, int] | None,
) -> tuple[list[str], _Paths]:
    """Names and paths of the objects, from the lowest to the one on top."""
    names = choose_names(rng, settings, sprites)
    names = [names[int(n)] for n in rng.permutation(len(names))]
    wall = None if front is None else (float(front[1]), float(front[2]))
    looks = [choose_appearance(rng, settings, sprites, name, len(names)) for name in names]
    return names, [plan_path(rng, placement, settings.size_hw, num_frames, wall, settings.pace) for placement in looks]


def _prune_hidden(
    names: list[str],
    paths: _Paths,
    sprites: SpriteSet,
    behind: np.ndarray,
    front: tuple[np.ndarray, int, int] | None,
    settings: SceneSettings,
) -> tuple[list[str], _Paths, _Rendering]:
    """The plan without what is hardly ever seen, and its rendering; the others can only get more visible by that."""
    rendered = _render(paths, sprites, behind, front)
    good = _find_visible(rendered[1], rendered[3], settings)
    while len(good) < len(paths):
        names, paths = [names[n] for n in good], [paths[n] for n in good]
        if not paths:
            break
        rendered = _render(paths, sprites, behind, front)
        good = _find_visible(rendered[1], rendered[3], settings)
    return names, paths, rendered


def _render(
    paths: _Paths, sprites: SpriteSet, behind: np.ndarray, front: tuple[np.ndarray, int, int] | None
) -> _Rendering:
    """Frames uint8 (T, H, W, 3), visible masks bool (N, T, H, W), and the shares inside and seen, float (N, T)."""
    height, width = behind.shape[:2]
    num_frames = len(paths[0])
    frames = np.repeat(behind[None], num_frames, 0)
    masks = np.zeros((len(paths), num_frames, height, width), bool)
    inside = np.zeros((len(paths), num_frames))
    drawn = np.zeros((len(paths), num_frames))
    for n, path in enumerate(paths):
        whole = _measure_whole_area(path[0], sprites) / path[0].size ** 2
        patch: SpritePatch | None = None
        for t, placement in enumerate(path):
            patch = patch if t and placement is path[t - 1] else draw_sprite(placement, sprites, (height, width))
            if patch is None:
                continue
            paste_patch(frames[t], patch)
            covered = patch.mask
            masks[(slice(n), t, *patch.window)] &= ~covered
            masks[(n, t, *patch.window)] = covered
            drawn[n, t] = np.count_nonzero(covered)
            inside[n, t] = min(1.0, drawn[n, t] / max(whole * placement.size**2, 1.0))
    if front is not None:
        left, right = max(front[1], 0), min(front[2], width)
        frames[:, :, left:right] = front[0][:, left - front[1] : right - front[1]]
        masks[:, :, :, left:right] = False
    areas = np.array([[np.count_nonzero(mask) for mask in track] for track in masks], float).reshape(drawn.shape)
    return frames, masks, inside, np.where(drawn > 0, areas / np.maximum(drawn, 1), 1.0)


def _measure_whole_area(placement: Placement, sprites: SpriteSet) -> int:
    """Pixels that the sticker covers when nothing cuts it off."""
    side = int(placement.size * 1.5) + 4
    centred = Placement(sprite=placement.sprite, x=side / 2, y=side / 2, size=placement.size, angle=placement.angle)
    patch = draw_sprite(centred, sprites, (side, side))
    return 0 if patch is None else int(patch.mask.sum())


def _find_visible(masks: np.ndarray, seen: np.ndarray, settings: SceneSettings) -> list[int]:
    """Objects that are well visible on at least a third of the frames."""
    least = settings.min_area * masks.shape[2] * masks.shape[3]
    num_frames = masks.shape[1]
    good = []
    for n in range(len(masks)):
        clear = sum(
            np.count_nonzero(masks[n, t]) >= least and seen[n, t] >= settings.min_visible for t in range(num_frames)
        )
        if clear * 3 >= num_frames:
            good.append(n)
    return good
