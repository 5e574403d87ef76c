"""Objects followed through a clip from the frames they start on, forwards and backwards, frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unipixel.engine.features import FrameFeatureCache
from unipixel.engine.timing import Clock
from unipixel.masks import Rle, decode_rle, encode_rle
from unipixel.model.segmenter import MEMORY_BIAS, MEMORY_SCALE, FrameFeatures, MaskPrediction, Segmenter
from unipixel.model.tracker import Tracker

PIXELS_AT_ONCE = 1 << 24
"""Mask pixels at source size that are computed together."""


@dataclass(frozen=True, eq=False)
class Anchor:
    """What says where an object is on one frame: a `<|seg|>` state, clicks, a known mask, or several of them."""

    frame: int
    queries: Tensor | None = None
    """(Q, C) from the `<|seg|>` state."""
    clicks: tuple[Tensor, Tensor] | None = None
    """Coordinates (P, 2) in SAM pixels and labels (P,)."""
    mask: Rle | None = None
    """At source size. Taken as it is, or, with clicks, as what they correct."""

    @property
    def is_exact(self) -> bool:
        """Whether the mask is the answer on this frame, not only a hint."""
        return self.mask is not None and self.clicks is None


@dataclass(frozen=True, eq=False)
class Leg:
    """The frames over which one anchor of an object decides: ``first`` to ``last``, both included."""

    object_id: int
    anchor: Anchor
    first: int
    last: int


def legs(object_id: int, anchors: Sequence[Anchor], num_frames: int) -> list[Leg]:
    """The legs of an object: the earliest anchor reaches back to frame 0, each one forward to the next.

    One without an anchor, which was not found or whose masks were given, has none: it stays as it is.
    """
    if not anchors:
        return []
    ordered = sorted(anchors, key=lambda a: a.frame)
    ends = [a.frame - 1 for a in ordered[1:]] + [num_frames - 1]
    starts = [0, *(a.frame for a in ordered[1:])]
    return [Leg(object_id, a, first, last) for a, first, last in zip(ordered, starts, ends, strict=True)]


@dataclass(frozen=True)
class TrackedFrame:
    """What is known of one frame when it has been tracked; one entry per object."""

    t: int
    object_ids: tuple[int, ...]
    rles: tuple[Rle | None, ...]
    """Masks at source size; None where the object is not visible."""
    scores: tuple[float, ...]
    """Predicted IoU times the probability that the object is there."""


def compute_scores(decoded: MaskPrediction) -> Tensor:
    """(N,) predicted IoU times presence."""
    return decoded.iou_scores.float() * decoded.object_score_logits.float().sigmoid()


def propagate(
    segmenter: Segmenter,
    features: FrameFeatureCache,
    size_hw: tuple[int, int],
    num_frames: int,
    routes: Sequence[Leg],
    *,
    wanted: Callable[[int], bool] = lambda _: True,
    clock: Clock | None = None,
) -> Iterator[TrackedFrame]:
    """Track objects over their legs: first all frames forwards in time, then what lies before the anchors, backwards.

    Args:
        features: SAM features of the clip.
        size_hw: source size, at which masks leave.
        num_frames: of the clip.
        routes: legs of any number of objects; those of one object must not overlap.
        wanted: asked before each frame; an object that is no longer wanted is dropped and its memory freed.
    """
    clock = clock or Clock()
    exact = {(leg.object_id, leg.anchor.frame): leg.anchor.mask for leg in routes if leg.anchor.is_exact}
    sweeps = [_propagate_one_way(segmenter, features, num_frames, routes, 1, wanted, clock)]
    earlier = [leg for leg in routes if leg.first < leg.anchor.frame]
    if earlier:
        sweeps.append(_propagate_one_way(segmenter, features, num_frames, earlier, -1, wanted, clock))
    for sweep in sweeps:
        for t, ids, decoded in sweep:
            with clock.stage("write"):
                rles = to_rles(decoded.low_res_masks, size_hw)
                rles = [exact.get((i, t), rle) for i, rle in zip(ids, rles, strict=True)]
                frame = TrackedFrame(t, tuple(ids), tuple(rles), tuple(compute_scores(decoded).tolist()))
            yield frame


@torch.no_grad()
def _propagate_one_way(
    segmenter: Segmenter,
    features: FrameFeatureCache,
    num_frames: int,
    routes: Sequence[Leg],
    direction: int,
    wanted: Callable[[int], bool],
    clock: Clock,
) -> Iterator[tuple[int, list[int], MaskPrediction]]:
    """One pass in one direction. Backwards, the anchors' own frames are prompted again but not given out again."""
    forward = direction > 0
    begin = min(leg.anchor.frame for leg in routes) if forward else max(leg.anchor.frame for leg in routes)
    end = max(leg.last for leg in routes) if forward else min(leg.first for leg in routes)
    order = list(range(begin, end + direction, direction))
    tracker = Tracker(segmenter, num_frames)
    until: dict[int, int] = {}
    for place, t in enumerate(order):
        over = [i for i in tracker.object_ids if (t - until[i]) * direction > 0 or not wanted(i)]
        tracker.remove(over)
        starting = [leg for leg in routes if leg.anchor.frame == t and wanted(leg.object_id)]
        if not starting and not tracker.object_ids:
            continue
        frame = features.get(t, order[place + 1 : place + 4])
        parts: list[tuple[list[int], MaskPrediction]] = []
        with clock.stage("track"):
            ids = tracker.object_ids
            stepped = tracker.step(frame)
            if stepped is not None:
                parts.append((ids, stepped))
            started = _prompt_objects(segmenter, tracker, frame, starting, num_frames)
            if forward:
                parts += started
        until.update({leg.object_id: leg.last if forward else leg.first for leg in starting})
        clock.count("track", sum(len(ids) for ids, _ in parts))
        if parts:
            yield t, [i for ids, _ in parts for i in ids], concatenate_decoded([decoded for _, decoded in parts])


def _prompt_objects(
    segmenter: Segmenter, tracker: Tracker, frame: FrameFeatures, starting: Sequence[Leg], num_frames: int
) -> list[tuple[list[int], MaskPrediction]]:
    """Prompt the objects that start on a frame; those prompted alike go together and share a cohort."""

    def describe_prompts(leg: Leg) -> tuple[bool, bool, int]:
        anchor = leg.anchor
        # clicks are never padded to a common number: padding would change what an object gets
        return (
            anchor.queries is not None,
            anchor.mask is not None,
            len(anchor.clicks[1]) if anchor.clicks is not None else 0,
        )

    parts = []
    for _, same in groupby(sorted(starting, key=describe_prompts), describe_prompts):
        group = list(same)
        ids, anchors = [leg.object_id for leg in group], [leg.anchor for leg in group]
        if anchors[0].is_exact:
            decoded = tracker.add_masks(frame, ids, _resize_to_square([a.mask for a in anchors], segmenter))
        elif anchors[0].mask is not None:
            decoded = correct_mask(segmenter, frame, anchors)
            if num_frames > 1:
                side = segmenter.config.image_size
                full = F.interpolate(decoded.low_res_masks.float(), size=(side, side), mode="bilinear")
                tracker.add_masks(frame, ids, full[:, 0] > 0)
        elif num_frames == 1:
            # a still image needs no memory
            decoded = decode_frame(segmenter, frame, anchors)
        else:
            hidden, points = _stack_prompts(anchors)
            decoded = tracker.add_prompts(frame, ids, hidden, points)
        parts.append((ids, decoded))
    return parts


def _stack_prompts(anchors: Sequence[Anchor]) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
    """Queries (N, Q, C) and clicks of anchors that are prompted alike."""
    queries = [a.queries for a in anchors if a.queries is not None]
    clicks = [a.clicks for a in anchors if a.clicks is not None]
    points = (torch.stack([c for c, _ in clicks]), torch.stack([label for _, label in clicks])) if clicks else None
    return torch.stack(queries) if queries else None, points


def decode_frame(segmenter: Segmenter, frame: FrameFeatures, anchors: Sequence[Anchor]) -> MaskPrediction:
    """Masks on one frame alone, without memory."""
    hidden, points = _stack_prompts(anchors)
    return segmenter.decode(segmenter.add_no_memory(frame), frame, hidden, points)


def correct_mask(segmenter: Segmenter, frame: FrameFeatures, anchors: Sequence[Anchor]) -> MaskPrediction:
    """Known masks corrected by clicks: the masks go in as SAM's dense prompt.

    Source: SAM 2, section 4 (a click refines the mask of the round before).
    """
    side = 4 * segmenter.config.grid
    masks = _resize_to_square([a.mask for a in anchors], segmenter).to(segmenter.dtype)
    # 4 x 4 pixels of the square are one of the low-resolution mask
    logits = F.avg_pool2d(masks[:, None], segmenter.config.image_size // side) * MEMORY_SCALE + MEMORY_BIAS
    dense = segmenter.prompt_encoder.mask_embed(logits)
    hidden, points = _stack_prompts(anchors)
    return segmenter.decode(segmenter.add_no_memory(frame), frame, hidden, points, dense=dense)


@torch.no_grad()
def find_best_frames(
    segmenter: Segmenter,
    features: FrameFeatureCache,
    queries: Tensor,
    frames: Sequence[int],
    clock: Clock | None = None,
) -> list[int]:
    """For each object the frame on which it scores highest when decoded on its own.

    Args:
        queries: (N, Q, C).
        frames: frames to try.
    """
    clock = clock or Clock()
    scores = []
    for place, t in enumerate(frames):
        frame = features.get(t, frames[place + 1 : place + 4])
        with clock.stage("track"):
            scores.append(compute_scores(segmenter.decode(segmenter.add_no_memory(frame), frame, queries)))
    return [frames[place] for place in torch.stack(scores).argmax(0).tolist()]


def concatenate_decoded(parts: Sequence[MaskPrediction]) -> MaskPrediction:
    """Several batches of objects on one frame as one."""
    if len(parts) == 1:
        return parts[0]
    return MaskPrediction(
        *(torch.cat([getattr(p, name) for p in parts]) for name in MaskPrediction.__dataclass_fields__)
    )


def to_rles(low_res_masks: Tensor, size_hw: tuple[int, int]) -> list[Rle | None]:
    """Mask logits (N, 1, 4s, 4s) as masks at source size; None where no pixel is on.

    Source: SAM 2 inference: logits are resized bilinearly and compared with 0.
    """
    height, width = size_hw
    together = max(1, PIXELS_AT_ONCE // (height * width))
    rles: list[Rle | None] = []
    for part in low_res_masks.split(together):
        on = F.interpolate(part.float(), size=size_hw, mode="bilinear", align_corners=False)[:, 0] > 0
        rles += [encode_rle(mask) if mask.any() else None for mask in on.cpu().numpy()]
    return rles


def _resize_to_square(masks: Iterable[Rle | None], segmenter: Segmenter) -> Tensor:
    """Source masks as SAM sees them, bool (N, S, S): half of a pixel's area, or any of it for what would vanish."""
    side = segmenter.config.image_size
    decoded = np.stack([decode_rle(mask) for mask in masks if mask is not None])
    full = torch.from_numpy(decoded)[:, None].float()  # on the CPU: not every device can resize with antialiasing
    share = F.interpolate(full, size=(side, side), mode="bilinear", antialias=True)[:, 0]  # (N, S, S)
    half = share >= 0.5
    square = torch.where(half.flatten(1).any(-1)[:, None, None], half, share > 0)
    return square.to(segmenter.no_memory_embedding.device)
