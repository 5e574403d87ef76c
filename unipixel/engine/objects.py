"""From prompts and `<|seg|>` states to the anchors of objects, and from anchors to masks in the object memory."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unipixel.engine.answer import Clip, Clock, MaskPiece
from unipixel.engine.dialogue import Dialogue
from unipixel.engine.memory import MAX_CHANGES, Anchor, KnownObject, ObjectMemory, build_unseen, set_spans
from unipixel.engine.requests import Start, select_clicks
from unipixel.engine.tracking import (
    CACHED_FRAMES,
    FOLLOWING,
    FrameFeatureCache,
    decode_frame,
    find_best_frames,
    propagate,
    to_rles,
)
from unipixel.errors import PromptError
from unipixel.masks import MaskTrack, Rle, encode_rle
from unipixel.model.unipixel import UniPixel
from unipixel.processing import Processor, VisualInput
from unipixel.processing.prompts import build_sam_points
from unipixel.sample import Box, Mask, Point, Prompt


class Workspace:
    """Everything that a session about a clip has.

    Args:
        num_frames: frames of the clip that the language model sees at most, evenly spread.
        feature_frames: frames whose SAM features are kept; the bound of a long clip's memory.
        memory: the objects that are known already.
    """

    def __init__(
        self,
        model: UniPixel,
        processor: Processor,
        clip: Clip,
        num_frames: int,
        feature_frames: int = CACHED_FRAMES,
        memory: ObjectMemory | None = None,
    ) -> None:
        settings, media = processor.settings, clip.media
        self.model, self.processor, self.clip, self.clock = model, processor, clip, Clock(model.device)
        self.memory = ObjectMemory() if memory is None else memory
        self.visual = VisualInput(media, replace(settings, max_frames=num_frames))
        self.dialogue = Dialogue(model, processor, self.visual, self.clock)
        self.features = FrameFeatureCache(model.segmenter, media, settings, capacity=feature_frames, clock=self.clock)

    @property
    def num_frames(self) -> int:
        return len(self.clip.frame_indices)

    @property
    def default_start(self) -> Start:
        """Where objects start if nobody says where."""
        return "best" if self.model.config.pixel.start_frame == "best" else 0

    def new_object(self, object_id: int, **fields: Any) -> KnownObject:
        """An object that has not been tracked yet, with any further fields of `KnownObject`."""
        return build_unseen(object_id, self.clip.media.size_hw, self.num_frames, **fields)


def build_click_anchor(space: Workspace, points: Sequence[Point | Box], base: Anchor | None = None) -> Anchor:
    """Clicks of one frame as an anchor, on top of the queries or, where there are none, the mask of ``base``."""
    visual, device = space.visual, space.model.device
    coords, labels, frame = build_sam_points(points, visual.size_hw, visual.media.num_frames, visual.settings.sam_size)
    together = (coords.to(device), labels.to(device))
    if base is None:
        return Anchor(frame, clicks=together)
    return Anchor(frame, base.queries, together, None if base.queries is not None else base.mask)


def select_on_frame(prompts: Sequence[Prompt], frame: int) -> tuple[list[Point | Box], Mask | None]:
    """The clicks and the mask among prompts that are on one frame."""
    masks = [p for p in prompts if isinstance(p, Mask) and p.frame == frame]
    return [p for p in select_clicks(prompts) if p.frame == frame], masks[-1] if masks else None


def correct_object(
    space: Workspace, known: KnownObject, prompts: Sequence[Prompt], *, is_new: bool = False
) -> tuple[KnownObject, tuple[Anchor, ...]]:
    """An object with more clicks or masks, and its anchors that have to be tracked again because of them.

    Clicks add to earlier ones on the same frame. A correction reaches forward to the next frame with an anchor, and
    back only if no anchor is before it; all other frames keep their masks.
    """
    anchors = {anchor.frame: anchor for anchor in known.anchors}
    everything = (*known.prompts, *prompts)
    changed = sorted({int(p.frame) for p in prompts})
    for frame in changed:
        points, mask = select_on_frame(everything, frame)
        if mask is not None:
            anchors[frame] = Anchor(frame, mask=encode_rle(mask.mask))
            later = everything[max(i for i, p in enumerate(everything) if p is mask) :]
            points = select_on_frame(later, frame)[0]
        if points:
            # what SAM corrects: the model's own idea of the object, or else the mask that is there
            before = anchors.get(frame)
            queries = None if mask is not None else known.queries
            shape = before.mask if before is not None and before.mask is not None else known.track.rles[frame]
            anchors[frame] = build_click_anchor(space, points, Anchor(frame, queries, mask=shape))
    known = replace(
        known,
        prompts=everything,
        anchors=set_spans(anchors.values(), space.num_frames),
        earlier=(None,) if is_new else (*known.earlier, replace(known, earlier=()))[-MAX_CHANGES:],
    )
    return known, tuple(anchor for anchor in known.anchors if anchor.frame in changed)


def build_anchors(space: Workspace, queries: Tensor, start: int, prompts: Sequence[Prompt]) -> tuple[Anchor, ...]:
    """Anchors of an object that the model has segmented: where tracking starts, or wherever there are extra clicks.

    A model that does not track has one on every frame.
    """
    if not space.model.config.pixel.propagate:
        frames = list(range(space.num_frames))
    else:
        frames = [start] if len(prompts) < 2 else sorted({int(p.frame) for p in prompts})
    anchors = []
    for frame in frames:
        points = select_on_frame(prompts, frame)[0] if len(prompts) > 1 else []
        plain = Anchor(frame, queries)
        anchors.append(build_click_anchor(space, points, plain) if points else plain)
    return set_spans(anchors, space.num_frames)


def choose_start_frames(space: Workspace, queries: Tensor, start: Start) -> list[int]:
    """The frame on which each of N objects with queries (N, Q, C) starts."""
    if start != "best":
        return [start] * len(queries)
    if not len(queries) or space.num_frames == 1:
        return [0] * len(queries)
    return find_best_frames(space.model.segmenter, space.features, queries, space.visual.llm_frame_indices, space.clock)


@torch.no_grad()
def preview_masks(space: Workspace, queries: Tensor, start: Start) -> list[MaskTrack]:
    """Masks of N objects with queries (N, Q, C) on the frames that count before anything is tracked.

    Those are the frames that the language model sees and those on which the objects start, each decoded by itself.
    """
    segmenter, size_hw = space.model.segmenter, space.clip.media.size_hw
    rles: list[list[Rle | None]] = [[None] * space.num_frames for _ in queries]
    frames = (
        sorted({*space.visual.llm_frame_indices, *choose_start_frames(space, queries, start)}) if len(queries) else []
    )
    for place, t in enumerate(frames):
        frame = space.features.get(t, frames[place + 1 : place + 1 + FOLLOWING])
        with space.clock.stage("track"):
            decoded = decode_frame(segmenter, frame, [Anchor(t, query) for query in queries])
            for one, rle in zip(rles, to_rles(decoded.low_res_masks, size_hw), strict=True):
                one[t] = rle
        space.clock.count("track", len(queries))
    return [MaskTrack(size_hw, tuple(one)) for one in rles]


def restart_object(space: Workspace, known: KnownObject, start: int) -> KnownObject:
    """An object that is to be tracked anew from one frame, with that frame's anchor or mask as its only anchor.

    Raises:
        PromptError: nothing says where the object is on that frame.
    """
    anchor = next((a for a in known.anchors if a.frame == start), None)
    if anchor is None and known.queries is not None:
        anchor = Anchor(start, known.queries)
    if anchor is None and known.track.rles[start] is not None:
        anchor = Anchor(start, mask=known.track.rles[start])
    if anchor is None:
        raise PromptError(
            f"object {known.id} is not visible on frame {start}; start where it is, or give it a prompt there"
        )
    return replace(known, anchors=set_spans([anchor], space.num_frames))


@torch.no_grad()
def track_objects(
    space: Workspace, objects: Sequence[KnownObject], anchors: Mapping[int, Sequence[Anchor]] | None = None
) -> Generator[MaskPiece, None, None]:
    """Remember objects, track them, and yield masks frame by frame.

    An object that is removed from the memory meanwhile is dropped. Stopping early keeps what was tracked; frames that
    are not reached keep what they had.

    Args:
        anchors: by object id, those whose spans are tracked; None: all anchors of every object.
    """
    memory = space.memory
    masks = {one.id: list(one.track.rles) for one in objects}
    scores = {one.id: list(one.frame_scores) for one in objects}
    for one in objects:
        memory.add(one)
    try:
        for piece in propagate(
            space.model.segmenter,
            space.features,
            space.clip.media.size_hw,
            space.num_frames,
            {one.id: one.anchors for one in objects} if anchors is None else anchors,
            is_wanted=memory.__contains__,
            clock=space.clock,
        ):
            for i, rle in piece.rles.items():
                masks[i][piece.t], scores[i][piece.t] = rle, piece.scores[i]
            yield piece
    finally:
        for one in objects:
            current = memory.get(one.id)
            # unless it was removed, or corrected, while this went on
            if current is not None and current.track is one.track:
                track = MaskTrack(one.track.size_hw, tuple(masks[one.id]))
                memory.add(replace(current, track=track, frame_scores=tuple(scores[one.id])))
