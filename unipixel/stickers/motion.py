"""How stickers move in videos, and what can truly be said of a movement."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from unipixel.stickers.scene import move_placement
from unipixel.stickers.sprites import Placement

Size = tuple[int, int]
Trajectory = list[Placement]
"""One placement per frame."""


def plan_path(
    rng: np.random.Generator,
    placement: Placement,
    size_hw: Size,
    num_frames: int,
    wall: tuple[float, float] | None,
    pace: tuple[float, float] | None = None,
) -> Trajectory:
    """A path for one sticker.

    Args:
        rng: source of randomness.
        placement: how it looks; its place is chosen here.
        size_hw: of the picture.
        num_frames: T.
        wall: left and right edge of something tall that it may pass behind, when there is one.
        pace: slowest and fastest motion per frame as a share of the side; None for paths that cross the picture.
    """
    if pace is not None:
        return _plan_slow_path(rng, placement, size_hw, num_frames, wall, pace)
    names = list(PATHS)
    weights = np.array([2.0, 2.0, 2.0, 2.0, 2.5, 1.5, 1.2, 1.2, 1.5, 1.5, 1.2])
    if wall is not None and rng.random() < 0.35 and placement.size < 1.1 * (wall[1] - wall[0]):
        return _pass_behind(rng, placement, size_hw, num_frames, wall)
    return PATHS[names[int(rng.choice(len(names), p=weights / weights.sum()))]](rng, placement, size_hw, num_frames)


def _choose_inside(rng: np.random.Generator, size: float, side: int) -> float:
    """A coordinate at which a thing of that size is wholly inside."""
    margin = min(size / 2, side / 2)
    return float(rng.uniform(margin, max(side - margin, margin)))


def _build_straight_path(step_x: int, step_y: int) -> Callable[..., Trajectory]:
    """Paths across the picture in one direction."""

    def path(rng: np.random.Generator, p: Placement, size_hw: Size, num_frames: int) -> Trajectory:
        height, width = size_hw
        length = width if step_x else height
        room = max(length - p.size, 0.2 * length)
        way = float(rng.uniform(0.5, 1.0)) * room
        start = (length - room) / 2 + float(rng.uniform(0, room - way))
        steps = np.linspace(start, start + way, num_frames)
        if step_x + step_y < 0:
            steps = steps[::-1]
        other = _choose_inside(rng, p.size, height if step_x else width)
        drift = float(rng.uniform(-0.1, 0.1)) * way
        others = np.linspace(other, other + drift, num_frames)
        return [
            move_placement(p, x=float(a if step_x else b), y=float(b if step_x else a))
            for a, b in zip(steps, others, strict=True)
        ]

    return path


def _stay_still(rng: np.random.Generator, p: Placement, size_hw: Size, num_frames: int) -> Trajectory:
    return [
        move_placement(p, x=_choose_inside(rng, p.size, size_hw[1]), y=_choose_inside(rng, p.size, size_hw[0]))
    ] * num_frames


def _turn(rng: np.random.Generator, p: Placement, size_hw: Size, num_frames: int) -> Trajectory:
    x, y = _choose_inside(rng, p.size, size_hw[1]), _choose_inside(rng, p.size, size_hw[0])
    whole = float(rng.uniform(90, 300)) * (1 if rng.random() < 0.5 else -1)
    return [move_placement(p, x=x, y=y, angle=p.angle + float(turn)) for turn in np.linspace(0, whole, num_frames)]


def _build_resizing_path(low: float, high: float) -> Callable[..., Trajectory]:
    """Paths that stay in place and change in size."""

    def path(rng: np.random.Generator, p: Placement, size_hw: Size, num_frames: int) -> Trajectory:
        last = p.size * float(rng.uniform(low, high))
        largest = max(last, p.size)
        x, y = _choose_inside(rng, largest, size_hw[1]), _choose_inside(rng, largest, size_hw[0])
        return [move_placement(p, x=x, y=y, size=float(size)) for size in np.geomspace(p.size, last, num_frames)]

    return path


def _choose_outside(rng: np.random.Generator, p: Placement, size_hw: Size) -> tuple[float, float, float, float]:
    """A place inside and one outside, straight left, right, above or below of it."""
    height, width = size_hw
    x, y = _choose_inside(rng, p.size, width), _choose_inside(rng, p.size, height)
    reach = p.size * 0.75
    ways = ((-reach, y), (width + reach, y), (x, -reach), (x, height + reach))
    out_x, out_y = ways[int(rng.integers(4))]
    return x, y, out_x, out_y


def _leave(rng: np.random.Generator, p: Placement, size_hw: Size, num_frames: int) -> Trajectory:
    x, y, out_x, out_y = _choose_outside(rng, p, size_hw)
    gone = max(2, round(num_frames * float(rng.uniform(0.55, 0.8))))
    share = np.minimum(np.arange(num_frames) / gone, 1.0)
    return [move_placement(p, x=float(x + s * (out_x - x)), y=float(y + s * (out_y - y))) for s in share]


def _enter(rng: np.random.Generator, p: Placement, size_hw: Size, num_frames: int) -> Trajectory:
    return _leave(rng, p, size_hw, num_frames)[::-1]


def _return(rng: np.random.Generator, p: Placement, size_hw: Size, num_frames: int) -> Trajectory:
    """Out of the picture and back in."""
    x, y, out_x, out_y = _choose_outside(rng, p, size_hw)
    share = np.minimum(1.35 * np.sin(np.linspace(0, np.pi, num_frames)), 1.0)
    return [move_placement(p, x=float(x + s * (out_x - x)), y=float(y + s * (out_y - y))) for s in share]


def _pass_behind(
    rng: np.random.Generator,
    p: Placement,
    size_hw: Size,
    num_frames: int,
    wall: tuple[float, float],
    ease: float = 1.6,
) -> Trajectory:
    """From one side of the wall to the other, hidden in between; slower behind it the more ``ease`` is above 1."""
    height, width = size_hw
    left, right = wall[0] - 0.55 * p.size, wall[1] + 0.55 * p.size
    left, right = max(left, 0.2 * p.size), min(right, width - 0.2 * p.size)
    y = _choose_inside(rng, p.size, height)
    # In few frames quick at both ends and slow in the middle, so that some frame shows nothing of it.
    share = np.linspace(-1, 1, num_frames)
    share = (np.sign(share) * np.abs(share) ** ease + 1) / 2
    xs = left + share * (right - left)
    if rng.random() < 0.5:
        xs = xs[::-1]
    return [move_placement(p, x=float(x), y=y) for x in xs]


def _plan_slow_path(
    rng: np.random.Generator,
    p: Placement,
    size_hw: Size,
    num_frames: int,
    wall: tuple[float, float] | None,
    pace: tuple[float, float],
) -> Trajectory:
    """A path on which nothing moves faster than a person would call natural, whatever the number of frames.

    What would have to hurry to leave, return or come out behind the wall moves in another way.
    """
    last, side = max(num_frames - 1, 1), min(size_hw)
    step = float(rng.uniform(*pace)) * side  # pixels per frame
    reach = 1.5 * pace[1] * side * last  # the farthest that anything may go
    if (
        wall is not None
        and p.size < 1.1 * (wall[1] - wall[0])
        and wall[1] - wall[0] + 1.1 * p.size < reach
        and rng.random() < 0.35
    ):
        return _pass_behind(rng, p, size_hw, num_frames, wall, ease=1.0)
    kinds = ["across", "curve", "still", "turn", "resize", "leave", "enter", "return"]
    weights = np.array([5.0, 3.0, 1.5, 1.2, 2.4, 1.8, 1.5, 1.2])
    kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
    out = 1.25 * p.size  # from wholly inside, at the edge, to out of sight
    gone = round(last * float(rng.uniform(0.6, 0.85)))
    if kind in ("leave", "enter") and out < reach * gone / last:
        share = np.minimum(np.arange(num_frames) / gone, 1.0)
        path = _move_outwards(rng, p, size_hw, max(step * gone, out), share)
        return path[::-1] if kind == "enter" else path
    if kind == "return" and 2.2 * out < reach:
        share = np.minimum(1.1 * (1 - np.abs(np.linspace(-1, 1, num_frames))), 1.0)
        return _move_outwards(rng, p, size_hw, out, share)
    if kind == "still":
        return _stay_still(rng, p, size_hw, num_frames)
    if kind == "turn":
        x, y = _choose_inside(rng, p.size, size_hw[1]), _choose_inside(rng, p.size, size_hw[0])
        whole = float(rng.uniform(4, 12)) * last * (1 if rng.random() < 0.5 else -1)
        return [move_placement(p, x=x, y=y, angle=p.angle + float(turn)) for turn in np.linspace(0, whole, num_frames)]
    if kind == "resize":
        most = min(2.0, 1.08**last)
        factor = float(rng.uniform(1 + 0.5 * (most - 1), most))
        factor = factor if rng.random() < 0.5 else 1 / factor
        return _build_resizing_path(factor, factor)(rng, p, size_hw, num_frames)
    return _stroll(rng, p, size_hw, num_frames, step, bends=kind == "curve")


def _move_outwards(rng: np.random.Generator, p: Placement, size_hw: Size, way: float, share: np.ndarray) -> Trajectory:
    """So much of a way of that many pixels, which ends out of sight, on each frame; it begins inside."""
    x, y, out_x, out_y = _choose_outside(rng, p, size_hw)
    room = float(np.hypot(out_x - x, out_y - y))
    x = _clamp(out_x + (x - out_x) * way / room, p, size_hw[1], moves=x != out_x)
    y = _clamp(out_y + (y - out_y) * way / room, p, size_hw[0], moves=y != out_y)
    return [move_placement(p, x=float(x + s * (out_x - x)), y=float(y + s * (out_y - y))) for s in share]


def _clamp(value: float, p: Placement, length: int, *, moves: bool) -> float:
    """A starting coordinate inside the picture; one that does not move stays."""
    margin = min(p.size / 2, length / 2)
    return float(min(max(value, margin), length - margin)) if moves else value


def _stroll(
    rng: np.random.Generator, p: Placement, size_hw: Size, num_frames: int, step: float, *, bends: bool
) -> Trajectory:
    """So many pixels a frame in one direction, mostly along a side; or in a bend. The whole way is inside."""
    height, width = size_hw
    angle = float(rng.integers(4)) * np.pi / 2 + float(rng.uniform(-0.2, 0.2) if not bends else rng.uniform(-0.8, 0.8))
    bend = float(rng.uniform(-1.2, 1.2)) if bends else 0.0
    headings = angle + np.linspace(0, bend, max(num_frames - 1, 1))
    xs = np.concatenate([[0.0], np.cumsum(np.cos(headings))])[:num_frames] * step
    ys = np.concatenate([[0.0], np.cumsum(np.sin(headings))])[:num_frames] * step
    places = []
    for offsets, length in ((xs, width), (ys, height)):
        margin = min(p.size / 2, length / 2)
        span, room = float(np.ptp(offsets)), max(length - 2 * margin, 0.2 * length)
        offsets = offsets * min(1.0, room / max(span, 1e-6))
        low, high = (length - room) / 2 - offsets.min(), (length + room) / 2 - offsets.max()
        places.append(offsets + float(rng.uniform(low, max(high, low))))
    return [move_placement(p, x=float(x), y=float(y)) for x, y in zip(*places, strict=True)]


PATHS: dict[str, Callable[..., Trajectory]] = {
    "left": _build_straight_path(-1, 0),
    "right": _build_straight_path(1, 0),
    "up": _build_straight_path(0, -1),
    "down": _build_straight_path(0, 1),
    "still": _stay_still,
    "turn": _turn,
    "grow": _build_resizing_path(1.5, 2.2),
    "shrink": _build_resizing_path(0.45, 0.66),
    "leave": _leave,
    "enter": _enter,
    "return": _return,
}
"""Kind of path -> how it is made."""


def describe_motion(
    path: Sequence[Placement], inside: np.ndarray, seen: np.ndarray, size_hw: Size
) -> tuple[frozenset[str], frozenset[str]]:
    """What a sticker plainly does, and what one could argue that it does.

    Args:
        path: its placement in each frame.
        inside: float (T,), share of the sticker that is inside the picture.
        seen: float (T,), share of that part that nothing covers.
        size_hw: of the picture.

    Returns:
        Keys of `language.MOTIONS` that are true, and keys that are neither true nor plainly false.
    """
    verdicts: dict[str, bool | None] = {}
    height, width = size_hw
    dx, dy = (path[-1].x - path[0].x) / width, (path[-1].y - path[0].y) / height
    for motion, along, across in (("left", -dx, dy), ("right", dx, dy), ("up", -dy, dx), ("down", dy, dx)):
        verdicts[motion] = True if along > 0.15 and along > 2 * abs(across) else None if along > 0.03 else False
    if inside.min() < 0.7:  # what leaves or returns also moves, in a way
        verdicts |= dict.fromkeys(("left", "right", "up", "down"))
    roam = max(abs(p.x - path[0].x) / width + abs(p.y - path[0].y) / height for p in path)
    turned = max(abs(p.angle - path[0].angle) for p in path)
    growth = path[-1].size / path[0].size
    calm = roam < 0.05
    verdicts["still"] = False if not calm else True if roam < 0.01 and turned < 5 and abs(growth - 1) < 0.05 else None
    verdicts["turn"] = True if turned >= 60 else None if turned > 10 else False
    verdicts["grow"] = True if growth >= 1.35 else None if growth > 1.08 else False
    verdicts["shrink"] = True if growth <= 1 / 1.35 else None if growth < 1 / 1.08 else False
    gone = inside < 0.02
    cut = inside < 0.6
    verdicts["leave"] = True if not cut[0] and gone[-1] else None if not gone[0] and cut.any() else False
    verdicts["enter"] = True if gone[0] and not cut[-1] else None if cut.any() and not gone[-1] else False
    away = not cut[0] and not cut[-1] and gone[1:-1].any()
    verdicts["return"] = True if away else None if cut.any() and not gone[-1] and not gone[0] else False
    shown = (inside > 0.5) & (seen > 0.5)
    covered = bool(((seen < 0.02) & (inside > 0.5)).any()) and shown[0] and shown[-1]
    verdicts["hide"] = True if covered else None if (seen < 0.45).any() else False
    does = frozenset(motion for motion, verdict in verdicts.items() if verdict)
    return does, frozenset(motion for motion, verdict in verdicts.items() if verdict is None)
