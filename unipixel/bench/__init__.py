"""Measuring: time per stage, peak memory, and how much encoding once saves against encoding again for every object.

    from unipixel.bench import run_bench

    report = run_bench(quick=True)
    report.to_json()

Everything is measured on random weights, whose speed is that of trained ones. The peak memory of tracking through a
video is measured in a process of its own.

What it is measured against takes every object by itself, with all frames encoded again for it. This is the loop of the
original implementation, written with the same layers: for each `<|seg|>` all frames are encoded, the object is prompted
on the first one and tracked alone, and every frame is remembered, the last one too. It gives the same masks as tracking
all objects together.

Source: UniPixel's released inference on SAM 2's video predictor.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unipixel.bench.limits import measure_limits
from unipixel.bench.memory import measure_memory, peak_memory_mb, write_video
from unipixel.bench.scene import (
    QUESTION,
    Stopwatch,
    build_random_engine,
    draw_moving_discs,
    draw_random_queries,
)
from unipixel.engine.answer import STAGES, Answer, Timings
from unipixel.engine.engine import Engine
from unipixel.engine.machine import choose_device, computes_in_bf16
from unipixel.engine.memory import Anchor, set_spans
from unipixel.engine.tracking import FrameFeatureCache, choose_encode_batch, propagate, to_rles
from unipixel.masks import Rle, iou_rles
from unipixel.media import Media
from unipixel.model.config import POINTERS_IN_MEMORY, SamConfig
from unipixel.model.memory_attention import (
    build_axial_rotation,
    build_sine_encoding,
    build_time_encoding,
    rotate_pairs,
)
from unipixel.model.presets import SAM_SIZE, TINY_SAM
from unipixel.model.segmenter import FrameFeatures, Segmenter
from unipixel.processing import ImageSettings
from unipixel.processing.images import prepare_sam_frames
from unipixel.sample import Point

PARTS = ("memory", "image", "clip", "session", "limits")
"""What can be measured on its own."""
MEMORY_LIMIT = 1.1
"""Most that the longer video may take, as a multiple of the shorter one's peak."""
COUNTED = {
    "read": "frame",
    "vision_tower": "frame",
    "prefill": "token",
    "decode": "token",
    "sam_encode": "frame",
    "track": "object and frame",
}
"""Stage -> what is counted in it."""
REAL_SAM = SamConfig()
"""Hiera-B+ at 768 px, the segmenter of the released checkpoints."""


Attention = Literal["layers", "ours"]
"""Memory attention step by step, or by `Segmenter.attend`."""


@torch.no_grad()
def track_separately(
    segmenter: Segmenter,
    media: Media,
    settings: ImageSettings,
    query: Tensor,
    attention: Attention = "layers",
) -> list[Rle | None]:
    """Masks of one object on every frame, at source size, with nothing shared.

    Args:
        query: (1, Q, C) of its `<|seg|>`.
    """
    features = _encode(segmenter, media, settings)
    memories: list[Tensor] = []
    pointers: list[Tensor] = []
    rles: list[Rle | None] = []
    for t in range(len(features)):
        frame = features[t : t + 1]
        if t == 0:
            embed = segmenter.add_no_memory(frame)
        else:
            embed = _condition(segmenter, frame, memories, pointers, len(features), attention)
        decoded = segmenter.decode(embed, frame, query if t == 0 else None)
        memories.append(segmenter.encode_memory(frame.embed, decoded.low_res_masks, decoded.object_score_logits))
        pointers.append(decoded.object_pointer)
        rles += to_rles(decoded.low_res_masks, media.size_hw)
    return rles


def _encode(segmenter: Segmenter, media: Media, settings: ImageSettings) -> FrameFeatures:
    device = segmenter.no_memory_embedding.device
    batch = choose_encode_batch(device)
    chunks = [range(i, min(i + batch, media.num_frames)) for i in range(0, media.num_frames, batch)]
    return FrameFeatures.cat(
        [segmenter.encode(prepare_sam_frames(media.frames(chunk), settings).to(device)) for chunk in chunks]
    )


def _condition(
    segmenter: Segmenter,
    frame: FrameFeatures,
    memories: list[Tensor],
    pointers: list[Tensor],
    num_frames: int,
    attention: Attention,
) -> Tensor:
    """Features of the next frame after those remembered; ``memories`` hold every frame since the first."""
    t, slots = len(memories), segmenter.config.num_memories
    longest = max(min(num_frames, POINTERS_IN_MEMORY) - 1, 1)
    recent = range(max(1, t - slots + 1), t)
    seen = range(t - 1, 0, -1)[:longest]
    attend = segmenter.attend if attention == "ours" else partial(attend_by_layers, segmenter)
    return attend(
        frame.embed,
        torch.stack([memories[0], *(memories[i] for i in recent)], 1),
        [slots - 1, *(t - i - 1 for i in recent)],
        torch.stack([pointers[0], *(pointers[i] for i in seen)], 1),
        [age / longest for age in (t, *(t - i for i in seen))],
    )


def attend_by_layers(
    segmenter: Segmenter,
    embed: Tensor,
    memories: Tensor,
    memory_slots: Sequence[int],
    pointers: Tensor,
    pointer_distance: Sequence[float],
) -> Tensor:
    """What `Segmenter.attend` computes, for one object, step by step as SAM 2 describes it and by torch's attention."""
    _, _, _, width = memories.shape
    channels, grid, dtype = segmenter.config.hidden_size, segmenter.config.grid, segmenter.dtype
    place = build_sine_encoding(grid, width, embed.device).to(dtype)
    when = segmenter.memory_temporal_positional_encoding[list(memory_slots), 0]
    distance = torch.tensor(pointer_distance, dtype=torch.float32, device=embed.device)
    moment = segmenter.temporal_positional_encoding_projection_layer(build_time_encoding(distance, channels).to(dtype))
    code = torch.cat([(place + when).flatten(0, 1), moment.repeat_interleave(channels // width, 0)])
    tokens = torch.cat([memories.flatten(1, 2), pointers.reshape(1, -1, width)], 1)
    turn = build_axial_rotation(grid, channels, embed.device)
    turns = turn.repeat(memories.shape[1], 1)
    x = embed.flatten(2).transpose(1, 2) + 0.1 * build_sine_encoding(grid, channels, embed.device).to(dtype)
    for layer in segmenter.memory_attention.layers:
        own, cross, y = layer.self_attn, layer.cross_attn_image, layer.layer_norm1(x)
        query, key = rotate_pairs(own.q_proj(y), turn), rotate_pairs(own.k_proj(y), turn)
        x = x + own.o_proj(_attend(query, key, own.v_proj(y)))
        query, key = rotate_pairs(cross.q_proj(layer.layer_norm2(x)), turn), cross.k_proj(tokens + code)
        key = torch.cat([rotate_pairs(key[:, : len(turns)], turns), key[:, len(turns) :]], 1)
        x = x + cross.o_proj(_attend(query, key, cross.v_proj(tokens)))
        x = x + layer.linear2(layer.linear1(layer.layer_norm3(x)).relu())
    return segmenter.memory_attention.layer_norm(x).transpose(1, 2).unflatten(2, (grid, grid))


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of one head, (1, L, C) against (1, K, C)."""
    return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Two ways to the same thing, and how much faster ours is."""

    name: str
    required: float | None
    """Least speed-up that is required; None where the ratio is only reported."""
    ours: Stopwatch
    other: Stopwatch
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
    ours, alone = Stopwatch(engine.device), {way: Stopwatch(engine.device) for way in ways}
    together: list[list[Rle | None]] = []
    singly: dict[Attention, list[list[Rle | None]]] = {way: [] for way in ways}
    for number in range(num_objects):
        for way in ways:
            with alone[way]:
                query = queries[number : number + 1]
                singly[way].append(
                    track_separately(engine.model.segmenter, media, engine.processor.settings, query, way)
                )
        if number == (num_objects - 1) // 2:
            with ours:
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
    spent = [Stopwatch(engine.device), Stopwatch(engine.device)]
    answers: list[Answer] = []
    with engine.open(draw_moving_discs(num_frames, size_hw), num_frames=num_frames, fps=8) as session:
        for point, total in zip(points, spent, strict=True):
            with total:
                answers.append(session.ask(QUESTION, prompts=point, force=True, max_new_tokens=16))
    ratio = Ratio(
        name=f"second question, {num_frames} frames, a new object", required=required, ours=spent[1], other=spent[0]
    )
    return answers, ratio


@dataclass
class BenchReport:
    """Everything that was measured."""

    setting: dict[str, Any]
    """The machine, the sizes, the dtype."""
    stages: list[Timings] = field(default_factory=list)
    """Of the first question of a session, and of the second one; empty where they were not measured."""
    ratios: list[Ratio] = field(default_factory=list)
    memory: list[dict[str, float]] = field(default_factory=list)
    """Of tracking through a shorter and a longer video, see `track_video`."""
    peak_memory_mb: float | None = None
    """Of this process, with the large model."""
    limits: dict[str, Any] | None = None
    """What `limits.measure_limits` returns."""

    @property
    def memory_growth(self) -> float | None:
        """Peak memory of the longer video as a multiple of the shorter one's."""
        return self.memory[1]["peak_mb"] / self.memory[0]["peak_mb"] if self.memory else None

    def to_json(self) -> dict[str, Any]:
        return {
            "setting": self.setting,
            "stages": [self._convert_stage(name) for name in (self.stages[0] if self.stages else ())],
            "ratios": [ratio.to_json() for ratio in self.ratios],
            "memory": {
                "videos": self.memory,
                "growth": self.memory_growth,
                "limit": MEMORY_LIMIT,
            },
            "peak_memory_mb": self.peak_memory_mb,
            "limits": self.limits,
        }

    def _convert_stage(self, name: str) -> dict[str, Any]:
        (first, second), count = self.stages, self.stages[0].counts.get(name, 0)
        return {
            "name": name,
            "first_s": first[name],
            "second_s": second[name],
            "per": COUNTED.get(name, ""),
            "count": count,
            "each_s": first[name] / count if count else None,
        }


def run_bench(
    *,
    quick: bool = False,
    only: Sequence[str] = (),
    dtype: str = "auto",
    threads: int | None = None,
    device: str = "cpu",
    progress: Callable[[str], None] = lambda _: None,
) -> BenchReport:
    """Measure.

    Args:
        quick: very small sizes, to see in seconds that everything runs; the figures mean nothing.
        only: some of `PARTS`; empty for all.
        dtype: ``"fp32"``, ``"bf16"``, or ``"auto"``: the one that multiplies matrices faster here.
        threads: of torch; None leaves it to torch.
        device: where the model runs; ``"auto"`` as in `unipixel.load`.
        progress: called with what is measured next.

    Raises:
        ValueError: an argument is wrong, or the device is not there.
        RuntimeError: memory cannot be measured here.
    """
    unknown = [name for name in only if name not in PARTS]
    if unknown:
        raise ValueError(f"there is no measurement {unknown[0]!r}; choose from {', '.join(PARTS)}")
    if dtype not in ("auto", "fp32", "bf16"):
        raise ValueError(f"dtype is {dtype!r}; it must be 'fp32', 'bf16' or 'auto'")
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; it must be at least 1")
    place = choose_device(device)
    if threads:
        torch.set_num_threads(threads)
    kind = _choose_dtype(dtype, place)
    parts = tuple(only) or PARTS
    report = BenchReport(_describe_setting(place, kind, quick=quick))
    if "memory" in parts:
        lengths = (20, 60) if quick else (100, 1000)
        report.memory = _measure_memory(lengths, quick=quick, progress=progress)
    if set(parts) == {"memory"}:
        return report
    progress("building the model with random weights")
    engine = build_random_engine(TINY_SAM if quick else REAL_SAM, dtype=kind, device=place)
    if set(parts) - {"memory", "limits"}:
        _measure_speed(engine, parts, quick, report, progress)
    if "limits" in parts:
        report.limits = measure_limits(engine, quick=quick, progress=progress)
    report.peak_memory_mb = peak_memory_mb()
    return report


def _measure_speed(
    engine: Engine, parts: tuple[str, ...], quick: bool, report: BenchReport, progress: Callable[[str], None]
) -> None:
    size_hw = (96, 128) if quick else (480, 640)
    progress("warming up")
    compare_questions(engine, 2, 1.0, size_hw)
    if "session" in parts:
        progress("asking twice about one video")
        answers, ratio = compare_questions(engine, 4 if quick else 8, 5.0, size_hw)
        report.stages = _list_timings(answers)
        report.ratios.append(ratio)
    if "image" in parts:
        progress("objects of an image, together and one by one")
        report.ratios[:0] = compare_objects(engine, 1, 3 if quick else 8, 5.0, size_hw, strict=False)
    if "clip" in parts:
        progress("objects of a clip, together and one by one")
        found = compare_objects(engine, 4 if quick else 8, 2 if quick else 3, 2.5, size_hw, strict=True)
        place = 1 if "image" in parts else 0
        report.ratios[place:place] = found


def _measure_memory(
    lengths: tuple[int, int], *, quick: bool, progress: Callable[[str], None]
) -> list[dict[str, float]]:
    uses = []
    with tempfile.TemporaryDirectory() as folder:
        for length in lengths:
            progress(f"tracking through {length} frames")
            video = write_video(Path(folder) / f"{length}.mp4", length)
            uses.append(measure_memory(video, quick=quick, threads=torch.get_num_threads()))
    return uses


def _list_timings(answers: Sequence[Answer]) -> list[Timings]:
    """Of each answer, with the time that saving it takes."""
    timings = []
    with tempfile.TemporaryDirectory() as folder:
        for number, answer in enumerate(answers):
            stages = Timings({name: answer.timings[name] for name in STAGES}, answer.timings.counts)
            started = time.perf_counter()
            answer.save(Path(folder) / str(number))
            stages["save (overlay and JSON)"] = time.perf_counter() - started
            timings.append(stages)
    return timings


def _choose_dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
    in_half = device.type == "cuda" or (device.type == "cpu" and computes_in_bf16())
    return torch.bfloat16 if in_half else torch.float32


def _describe_setting(device: torch.device, dtype: torch.dtype, *, quick: bool) -> dict[str, Any]:
    sam = "a very small SAM at 64 px" if quick else "SAM 2.1 Hiera-B+ at 768 px"
    return {
        "model": f"{sam}, language and vision parts of nano's size, random weights",
        "memory_model": "a very small SAM at 64 px" if quick else f"nano's size (SAM at {SAM_SIZE} px), fp32",
        "device": str(device),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "quick": quick,
    }
