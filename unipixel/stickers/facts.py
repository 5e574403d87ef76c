"""What is true of a scene, measured on its masks, and phrases that fit exactly one of its objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from unipixel.masks import mask_to_box
from unipixel.stickers.colours import COLOURS
from unipixel.stickers.language import MOTIONS, ORDINALS, PLACES, RELATIONS
from unipixel.stickers.scene import Scene
from unipixel.stickers.things import KINDS, USES

LOW, HIGH, SLACK = 0.36, 0.64, 0.05
"""A centre below LOW of the side is left (top), above HIGH right (bottom); within SLACK of either it is unclear."""

CLEARLY = 1.35
"""How many times the area makes a thing plainly the larger one."""


class Facts:
    """Measurements of a scene. Every phrase it hands out is true of one object and clearly false of all others.

    In videos, places and sizes are those of the first frame, where objects that come in later have none.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.things = [item.thing for item in scene.objects]
        self.names = [thing.name for thing in self.things]
        self.count = len(self.things)

    @cached_property
    def boxes(self) -> np.ndarray:
        """float (N, 4): x1, y1, x2, y2 on the first frame, as shares of the sides; nan where unseen."""
        height, width = self.scene.masks.shape[2:]
        boxes = np.full((self.count, 4), np.nan)
        for n in range(self.count):
            box = mask_to_box(self.scene.masks[n, 0])
            if box is not None:
                boxes[n] = box / np.array([width, height, width, height])
        return boxes

    @cached_property
    def centres(self) -> np.ndarray:
        """float (N, 2): centre of mass on the first frame, as shares of the sides; nan where unseen."""
        masks = self.scene.masks[:, 0]
        height, width = masks.shape[1:]
        area = self.scene.areas[:, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            x = masks.sum(1) @ (np.arange(width) + 0.5) / area / width
            y = masks.sum(2) @ (np.arange(height) + 0.5) / area / height
        return np.stack([x, y], 1)

    @cached_property
    def _spots(self) -> list[tuple[float, float]]:
        return [(x, y) for x, y in self.centres.tolist()]

    @cached_property
    def shares(self) -> np.ndarray:
        """float (N,): visible area on the first frame as a share of the picture."""
        return self.scene.areas[:, 0] / (self.scene.frames.shape[1] * self.scene.frames.shape[2])

    @cached_property
    def cells(self) -> list[tuple[int | None, int | None]]:
        """(column, row) of each object in a 3 x 3 grid, -1, 0 or 1; None where it is too near a border to say."""
        return [(_find_third(x), _find_third(y)) for x, y in self.centres]

    def get_place(self, n: int) -> str | None:
        """Where object ``n`` is, as a key phrase such as "on the left", or None when that is arguable."""
        column, row = self.cells[n]
        return None if column is None or row is None else PLACES[column, row]

    def has_colour(self, n: int, colour: str) -> bool | None:
        """Whether the object is of that colour: True, False, or None when one could argue."""
        if self.scene.get_colour(n) == colour:
            return True
        return None if self.scene.colours[n][COLOURS.index(colour)] > 0.15 else False

    def is_kind(self, n: int, kind: str) -> bool | None:
        """Whether the object is of that kind (None: arguable)."""
        thing = self.things[n]
        return True if kind in thing.kinds else None if kind in thing.maybe_kinds else False

    def has_use(self, n: int, use: str) -> bool | None:
        """Whether the object has that use (None: arguable)."""
        thing = self.things[n]
        return True if use in thing.uses else None if use in thing.maybe_uses else False

    def find_single(
        self, test: Callable[..., bool | None], *details: Any, among: list[int] | None = None
    ) -> int | None:
        """The one object for which ``test(n, *details)`` holds while all others plainly fail, or None."""
        verdicts = {n: test(n, *details) for n in (range(self.count) if among is None else among)}
        if any(verdict is None for verdict in verdicts.values()):
            return None
        passing = [n for n, verdict in verdicts.items() if verdict]
        return passing[0] if len(passing) == 1 else None

    def _find_singles(self, test: Callable[..., bool | None], *details: Any) -> Iterator[tuple[int, str]]:
        """(object, noun) of each group with a `find_single` of its own."""
        for noun, among in self._group_by_name():
            found = self.find_single(test, *details, among=among)
            if found is not None:
                yield found, noun

    def find_named(self, name: str) -> list[int]:
        return [n for n in range(self.count) if self.names[n] == name]

    def is_single(self, n: int) -> bool:
        return self.names.count(self.names[n]) == 1

    def find_colour_phrase(self, n: int) -> str | None:
        """Such as "red car", when the object is plainly red and no other car is; else None."""
        colour = self.scene.get_colour(n)
        if colour is None or self.find_single(self.has_colour, colour, among=self.find_named(self.names[n])) != n:
            return None
        return f"{colour} {self.names[n]}"

    def find_phrase(self, n: int, rng: np.random.Generator, colour_share: float = 0.3) -> str | None:
        """A short noun phrase ending in the object's name that fits it alone: "dog" or "red dog"; else None."""
        if self.is_single(n):
            return (self.find_colour_phrase(n) if rng.random() < colour_share else None) or self.names[n]
        return self.find_colour_phrase(n)

    def _is_on(self, n: int, axis: int, side: int) -> bool | None:
        """Whether the object is clearly on that side (-1 or 1), clearly not, or neither (None)."""
        value = self._spots[n][axis]
        if value != value:  # nan: it is not in the first frame
            return None
        distance = value if side < 0 else 1 - value
        return True if distance < LOW - SLACK else False if distance > 0.46 else None

    def _is_in_the_middle(self, n: int) -> bool | None:
        cell = self.cells[n]
        return None if None in cell else cell == (0, 0)

    def list_place_phrases(self) -> Iterator[tuple[int, str]]:
        """(object, "dog on the left") for all places that single an object out among its namesakes or among all."""
        words = {"on the left": (0, -1), "on the right": (0, 1), "at the top": (1, -1), "at the bottom": (1, 1)}
        for place, (axis, side) in words.items():
            for found, noun in self._find_singles(self._is_on, axis, side):
                yield found, f"{noun} {place}"
        for found, noun in self._find_singles(self._is_in_the_middle):
            yield found, f"{noun} in the middle"

    def list_order_phrases(self) -> Iterator[tuple[int, str]]:
        """(object, "second thing from the left") wherever the order is clear."""
        for noun, among in self._group_by_name():
            for axis, near, far in ((0, "left", "right"), (1, "top", "bottom")):
                order = sorted(among, key=lambda k: self.centres[k, axis])
                spots = self.centres[order, axis]
                too_few = len(order) < (3 if noun == "thing" else 2)
                if too_few or np.isnan(spots).any() or np.diff(spots).min(initial=1.0) < 0.06:
                    continue
                for rank, n in enumerate(order):
                    if rank < len(ORDINALS) and rank * 2 < len(order):
                        yield n, f"{ORDINALS[rank]} {noun} from the {near}"
                    if len(order) - 1 - rank < len(ORDINALS) and (len(order) - 1 - rank) * 2 < len(order):
                        yield n, f"{ORDINALS[len(order) - 1 - rank]} {noun} from the {far}"

    def list_size_phrases(self) -> Iterator[tuple[int, str]]:
        """(object, "largest thing"), when it is so by a clear margin both in area and in extent."""
        spans = (self.boxes[:, 2] - self.boxes[:, 0]) + (self.boxes[:, 3] - self.boxes[:, 1])
        for noun, among in self._group_by_name():
            if np.isnan(spans[among]).any():
                continue
            order = sorted(among, key=lambda k: self.shares[k])
            small, large = order[0], order[-1]
            if self.shares[large] > CLEARLY * self.shares[order[-2]] and spans[large] > spans[order[:-1]].max():
                yield large, f"largest {noun}"
            if self.shares[order[1]] > CLEARLY * self.shares[small] and spans[small] < spans[order[1:]].min():
                yield small, f"smallest {noun}"

    def is_related(self, n: int, anchor: int, relation: str) -> bool | None:
        """Whether object ``n`` is left of (right of, above, below) the anchor; None when one could argue."""
        dx, dy = RELATIONS[relation]
        (x, y), (x0, y0) = self._spots[n], self._spots[anchor]
        along, across = ((x - x0) * dx, abs(y - y0)) if dx else ((y - y0) * dy, abs(x - x0))
        if along != along or across != across:  # nan: one of them is not in the first frame
            return None
        if along > 0.1 and along > 0.7 * across:
            return True
        return False if along < 0.02 else None

    def list_relation_phrases(self) -> Iterator[tuple[int, str]]:
        """(object, "thing left of the dog") and (object, "cat left of the dog") wherever only one object fits."""
        for anchor in range(self.count):
            if not self.is_single(anchor):
                continue
            others = [k for k in range(self.count) if k != anchor]
            for relation in RELATIONS:
                found = self.find_single(self.is_related, anchor, relation, among=others)
                if found is not None:
                    yield found, f"thing {relation} the {self.names[anchor]}"
                for name in dict.fromkeys(self.names[k] for k in others if not self.is_single(k)):
                    found = self.find_single(self.is_related, anchor, relation, among=self.find_named(name))
                    if found is not None:
                        yield found, f"{name} {relation} the {self.names[anchor]}"
            gaps = np.linalg.norm(self.centres[others] - self.centres[anchor], axis=1)
            if len(others) > 1 and not np.isnan(gaps).any():
                order = np.argsort(gaps)
                if gaps[order[1]] > 1.4 * gaps[order[0]]:
                    yield others[int(order[0])], f"thing closest to the {self.names[anchor]}"

    def list_kind_phrases(self) -> Iterator[tuple[int, str]]:
        """(object, "animal") wherever only one object is of a kind."""
        for kind in self.kinds:
            found = self.find_single(self.is_kind, kind)
            if found is not None:
                yield found, kind

    def list_use_phrases(self) -> Iterator[tuple[int, str]]:
        """(object, "thing you can eat"), and (object, "animal that can fly") with a kind that narrows it down."""
        for use, words in USES.items():
            found = self.find_single(self.has_use, use)
            if found is not None:
                yield found, f"thing {words}"
            for kind in ("animal", "vehicle", "toy"):
                among = [k for k in range(self.count) if self.is_kind(k, kind)]
                found = self.find_single(self.has_use, use, among=among)
                if found is not None and all(self.is_kind(k, kind) is not None for k in range(self.count)):
                    yield found, f"{kind} {words}"

    def list_colour_phrases(self) -> Iterator[tuple[int, str]]:
        """(object, "red thing") and (object, "red car" among other cars)."""
        for colour in COLOURS:
            for found, noun in self._find_singles(self.has_colour, colour):
                yield found, f"{colour} {noun}"

    def has_motion(self, n: int, motion: str) -> bool | None:
        """Whether the object does that in the video (None: arguable)."""
        item = self.scene.objects[n]
        return True if motion in item.does else None if motion in item.may_do else False

    def list_motion_phrases(self) -> Iterator[tuple[int, str]]:
        """(object, "thing moving left") and (object, "dog that leaves") in videos."""
        if not self.scene.is_video:
            return
        for motion, words in MOTIONS.items():
            for found, noun in self._find_singles(self.has_motion, motion):
                yield found, f"{noun} {words}"
            for n in range(self.count):
                if self.is_single(n) and self.has_motion(n, motion):
                    yield n, f"{self.names[n]} {words}"

    @cached_property
    def kinds(self) -> list[str]:
        """Kinds that occur in the scene, the built-in ones first."""
        present = {kind for thing in self.things for kind in thing.kinds}
        return [kind for kind in KINDS if kind in present] + sorted(present - set(KINDS))

    def _group_by_name(self) -> list[tuple[str, list[int]]]:
        """("thing", all objects) and (name, namesakes) for each name that occurs more than once."""
        groups = [("thing", list(range(self.count)))] if self.count > 1 else []
        return groups + [
            (name, self.find_named(name)) for name in dict.fromkeys(self.names) if self.names.count(name) > 1
        ]


def _find_third(value: float) -> int | None:
    if np.isnan(value) or abs(value - LOW) < SLACK or abs(value - HIGH) < SLACK:
        return None
    return -1 if value < LOW else 1 if value > HIGH else 0
