"""From prompts and `<|seg|>` states to the anchors of objects, and from anchors to masks in the object memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unipixel.engine.answer import Clip, MaskPiece
from unipixel.engine.dialogue import Dialogue
from unipixel.engine.features import FrameFeatureCache
from unipixel.engine.memory import KnownObject, ObjectMemory, Recording, build_unseen
from unipixel.engine.requests import Prompted, Start, select_clicks
from unipixel.engine.timing import Clock
from unipixel.engine.tracking import Anchor, Leg, decode_frame, find_best_frames, legs, propagate, to_rles
from unipixel.errors import PromptError
from unipixel.masks import MaskTrack, Rle, encode_rle
from unipixel.model.unipixel import UniPixel
from unipixel.processing import Processor, VisualInput
from unipixel.processing.prompts import build_sam_points
from unipixel.sample import Box, Mask, Point, Prompt


@dataclass(frozen=True, eq=False)
class Workspace:
    """Everything that a session has."""

    model: UniPixel
    processor: Processor
    clip: Clip
    visual: VisualInput
    dialogue: Dialogue
    features: FrameFeatureCache
    memory: ObjectMemory
    clock: Clock

    @property
    def num_frames(self) -> int:
        """T: frames of the clip that are tracked."""
        return len(self.clip.frame_indices)

    def new_object(
        self, object_id: int, label: str = "", prompts: Sequence[Prompt] = (), anchors: Sequence[Anchor] = ()
    ) -> KnownObject:
        """An object that has not been tracked yet."""
        size_hw = self.clip.media.size_hw
        return build_unseen(object_id, size_hw, self.num_frames, label=label, prompts=prompts, anchors=anchors)


def build_click_anchor(space: Workspace, points: Sequence[Point | Box], base: Anchor | None = None) -> Anchor:
    """Clicks of one frame as an anchor, on top of the queries or, where there are none, the mask of ``base``."""
    visual, device = space.visual, space.model.device
    found = build_sam_points(points, visual.size_hw, visual.media.num_frames, visual.settings.sam_size)
    together = (found.coords.to(device), found.labels.to(device))
    if base is None:
        return Anchor(found.frame, clicks=together)
    return Anchor(found.frame, base.queries, together, None if base.queries is not None else base.mask)


def select_on_frame(prompts: Sequence[Prompt], frame: int) -> tuple[list[Point | Box], Mask | None]:
    """The clicks and the mask among prompts that are on one frame."""
    masks = [p for p in prompts if isinstance(p, Mask) and p.frame == frame]
    return [p for p in select_clicks(prompts) if p.frame == frame], masks[-1] if masks else None


def correct_object(space: Workspace, known: KnownObject, prompts: Sequence[Prompt]) -> tuple[KnownObject, list[Leg]]:
    """An object with more clicks or masks, and the legs that have to be tracked again because of them.

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
    known = replace(known, prompts=everything, anchors=tuple(sorted(anchors.values(), key=lambda a: a.frame)))
    routes = legs(known.id, known.anchors, space.num_frames)
    return known, [leg for leg in routes if leg.anchor.frame in changed]


def build_anchors(space: Workspace, queries: Tensor, start: int, prompts: Sequence[Prompt]) -> list[Anchor]:
    """Anchors of an object that the model has segmented: where tracking starts, or wherever there are extra clicks.

    A model that does not track has one on every frame.
    """
    if not space.model.config.pixel.propagate:
        given = {t: select_on_frame(prompts, t)[0] if len(prompts) > 1 else [] for t in range(space.num_frames)}
        plain = {t: Anchor(t, queries) for t in given}
        return [build_click_anchor(space, points, plain[t]) if points else plain[t] for t, points in given.items()]
    if len(prompts) < 2:
        return [Anchor(start, queries)]
    frames = sorted({int(p.frame) for p in prompts})
    return [build_click_anchor(space, select_on_frame(prompts, frame)[0], Anchor(frame, queries)) for frame in frames]


def choose_start_frames(space: Workspace, queries: Tensor, start: Start) -> list[int]:
    """The frame on which each of N objects with queries (N, Q, C) starts."""
    if start != "best":
        return [start] * len(queries)
    if not len(queries) or space.num_frames == 1:
        return [0] * len(queries)
    return find_best_frames(space.model.segmenter, space.features, queries, range(space.num_frames), space.clock)


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
        frame = space.features.get(t, frames[place + 1 : place + 4])
        with space.clock.stage("track"):
            decoded = decode_frame(segmenter, frame, [Anchor(t, query) for query in queries])
            for one, rle in zip(rles, to_rles(decoded.low_res_masks, size_hw), strict=True):
                one[t] = rle
        space.clock.count("track", len(queries))
    return [MaskTrack(size_hw, tuple(one)) for one in rles]


def place_objects(space: Workspace, given: Sequence[Prompted]) -> tuple[list[KnownObject], list[Leg]]:
    """Objects that need no language model: given by masks, or known and corrected."""
    objects, routes = [], []
    for one in given:
        known, changed = correct_object(space, one.known or space.new_object(one.id), one.prompts)
        objects.append(known)
        routes += changed
    return objects, routes


def restart_object(space: Workspace, known: KnownObject, start: int | None) -> KnownObject:
    """An object that is to be tracked anew from one frame, with that frame's anchor or mask as its only anchor.

    Raises:
        PromptError: nothing says where the object is on that frame.
    """
    if start is None:
        return known
    anchor = next((a for a in known.anchors if a.frame == start), None)
    if anchor is None and known.queries is not None:
        anchor = Anchor(start, known.queries)
    if anchor is None and known.track.rles[start] is not None:
        anchor = Anchor(start, mask=known.track.rles[start])
    if anchor is None:
        raise PromptError(
            f"object {known.id} is not visible on frame {start}; start where it is, or give it a prompt there"
        )
    return replace(known, anchors=(anchor,))


@torch.no_grad()
def track_objects(space: Workspace, objects: Sequence[KnownObject], routes: Sequence[Leg]) -> Iterator[MaskPiece]:
    """Track objects over their legs, remember them, and yield masks frame by frame.

    An object that is removed from the memory meanwhile is no longer followed. Stopping early keeps what was tracked.
    """
    if not objects:
        return
    memory = space.memory
    recordings = {one.id: Recording(one) for one in objects}
    for one in objects:
        memory.add(one)
    frames = propagate(
        space.model.segmenter,
        space.features,
        space.clip.media.size_hw,
        space.num_frames,
        routes,
        wanted=memory.__contains__,
        clock=space.clock,
    )
    try:
        for frame in frames if routes else ():
            for place, object_id in enumerate(frame.object_ids):
                recordings[object_id].add(frame, place)
            yield MaskPiece(
                frame.t,
                dict(zip(frame.object_ids, frame.rles, strict=True)),
                dict(zip(frame.object_ids, frame.scores, strict=True)),
            )
    finally:
        for object_id, recording in recordings.items():
            current = memory.get(object_id)
            # unless it was removed, or corrected, while this went on
            if current is not None and current.track is recording.known.track:
                memory.add(recording.finished(current))
