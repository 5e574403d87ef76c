"""How much faster it is to share: all objects in one go, and a second question on the same video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unipixel.bench.reencoding import Attention, track_separately
from unipixel.bench.resources import QUESTION, TimeSpent, draw_moving_discs, draw_random_queries, measure_time
from unipixel.engine.answer import Answer
from unipixel.engine.engine import Engine
from unipixel.engine.memory import Anchor, set_spans
from unipixel.engine.tracking import FrameFeatureCache, propagate
from unipixel.masks import Rle, iou_rles
from unipixel.media import Media
from unipixel.sample import Point


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Two ways to the same thing, and how much faster ours is."""

    name: str
    required: float | None
    """Least speed-up that is required; None where the ratio is only reported."""
    ours: TimeSpent
    other: TimeSpent
    agreement: float | None = None
    """Mean IoU between the masks of both ways."""

    @property
    def speedup(self) -> float:
        return self.other.wall_s / self.ours.wall_s

    @property
    def cpu_speedup(self) -> float:
        """Ratio of processor seconds, which other programs on the machine distort less."""
        return self.other.cpu_s / self.ours.cpu_s

    @property
    def is_met(self) -> bool | None:
        """Whether both ratios reach the required one: on a busy machine wall time alone can mislead."""
        if self.required is None:
            return None
        return min(self.speedup, self.cpu_speedup) >= self.required

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "required": self.required,
            "is_met": self.is_met,
            "speedup": self.speedup,
            "cpu_speedup": self.cpu_speedup,
            "ours_s": self.ours.wall_s,
            "other_s": self.other.wall_s,
            "ours_cpu_s": self.ours.cpu_s,
            "other_cpu_s": self.other.cpu_s,
            "agreement": self.agreement,
        }


def compare_objects(
    engine: Engine, num_frames: int, num_objects: int, required: float, size_hw: tuple[int, int], *, strict: bool
) -> list[Ratio]:
    """All objects of a reply in one batch over shared features, against `track_separately` for each of them.

    The two ways take turns, so that a machine that slows down meanwhile slows both down.

    Args:
        strict: also compare with a loop that has our own, faster memory attention.
    """
    media = Media.from_array(draw_moving_discs(num_frames, size_hw))
    queries = draw_random_queries(engine, num_objects)
    ways: list[Attention] = ["layers", "ours"] if strict else ["layers"]
    ours, alone = TimeSpent(), {way: TimeSpent() for way in ways}
    together: list[list[Rle | None]] = []
    singly: dict[Attention, list[list[Rle | None]]] = {way: [] for way in ways}
    for number in range(num_objects):
        for way in ways:
            with measure_time(alone[way], engine.device):
                query = queries[number : number + 1]
                singly[way].append(
                    track_separately(engine.model.segmenter, media, engine.processor.settings, query, way)
                )
        if number == (num_objects - 1) // 2:
            with measure_time(ours, engine.device):
                together = track_together(engine, media, queries)
    what = "1 image" if num_frames == 1 else f"{num_frames} frames"
    name = f"{what}, {num_objects} objects"
    names = {"layers": name, "ours": f"{name}, the loop with our attention"}
    return [
        Ratio(
            name=names[way],
            required=required if way == "layers" else None,
            ours=ours,
            other=alone[way],
            agreement=_mean_iou(together, singly[way]),
        )
        for way in ways
    ]


def track_together(engine: Engine, media: Media, queries: torch.Tensor) -> list[list[Rle | None]]:
    """Masks of all objects on every frame by the engine's own tracking, from a clip that nothing is known of yet."""
    segmenter, count = engine.model.segmenter, media.num_frames
    cache = FrameFeatureCache(segmenter, media, engine.processor.settings)
    anchors = {i: set_spans([Anchor(0, query)], count) for i, query in enumerate(queries)}
    rles: list[list[Rle | None]] = [[] for _ in queries]
    for frame in propagate(segmenter, cache, media.size_hw, count, anchors):
        for i, rle in frame.rles.items():
            rles[i].append(rle)
    return rles


def _mean_iou(one: list[list[Rle | None]], other: list[list[Rle | None]]) -> float:
    scores = []
    for track, twin in zip(one, other, strict=True):
        for a, b in zip(track, twin, strict=True):
            scores.append(float(a is b) if a is None or b is None else iou_rles(a, b))
    return float(np.mean(scores))


def compare_questions(
    engine: Engine, num_frames: int, required: float, size_hw: tuple[int, int]
) -> tuple[list[Answer], Ratio]:
    """Point at one object and ask what it is, then point at another one and ask again.

    Returns:
        Both answers, and what the second one took beside the first.
    """
    height, width = size_hw
    points = [Point(width * 0.3, height * 0.3), Point(width * 0.6, height * 0.6)]
    spent = [TimeSpent(), TimeSpent()]
    answers: list[Answer] = []
    with engine.open(draw_moving_discs(num_frames, size_hw), num_frames=num_frames, fps=8) as session:
        for point, total in zip(points, spent, strict=True):
            with measure_time(total, engine.device):
                answers.append(session.ask(QUESTION, prompts=point, force=True, max_new_tokens=16))
    ratio = Ratio(
        name=f"second question, {num_frames} frames, a new object", required=required, ours=spent[1], other=spent[0]
    )
    return answers, ratio
