"""Objects tracked through a clip from the frames they are anchored on, forwards and backwards, frame by frame.

How a clip is tracked: every anchor of an object decides over its span of frames (`memory.set_spans`). One pass runs
forwards from the earliest anchor to the last frame of any span, and a second one backwards over what lies before the
first anchors. In a pass, all objects that are under way share the encoded frame; those prompted alike on one frame
form a cohort that is decoded in one batch.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from itertools import chain, groupby
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unipixel.engine.answer import Clock, MaskPiece
from unipixel.engine.memory import Anchor
from unipixel.masks import Rle, decode_rle, encode_rle
from unipixel.media import Media
from unipixel.model.segmenter import MEMORY_BIAS, MEMORY_SCALE, FrameFeatures, MaskPrediction, Segmenter
from unipixel.model.tracker import Tracker
from unipixel.processing import ImageSettings
from unipixel.processing.images import prepare_sam_frames

PIXELS_AT_ONCE = 1 << 24
"""Mask pixels at source size that are computed together."""
CACHED_FRAMES = 32
"""Frames whose features a session keeps by default; one costs 9.4 MB at Hiera-B+, 768 px, fp32."""
ENCODE_BATCH = 4
"""Frames that an accelerator encodes in one batch."""
FOLLOWING = 2 * ENCODE_BATCH - 1
"""Frames after the present one that a cache of features is told of."""
FRAMES_UNDER_WAY = 2
"""Frames on CUDA whose masks may be on their way to the host, and there into run lengths, while others are tracked."""

Anchored: TypeAlias = tuple[int, Anchor]
"""An object's id with one of its anchors."""
Written: TypeAlias = tuple[list[Rle | None], list[float]]
"""Masks and scores of the objects on a frame."""


def choose_encode_batch(device: torch.device) -> int:
    """Frames to encode in one batch: one on CPUs, where several take longer and their memory many times over."""
    return 1 if device.type == "cpu" else ENCODE_BATCH


class FrameFeatureCache:
    """SAM's features of single frames, encoded when first needed; the least recently used ones make room.

    A clip of at most ``capacity`` frames is encoded once, however many objects and questions there are. A longer one
    streams through, and memory stays what ``capacity`` frames need.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        media: Media,
        settings: ImageSettings,
        *,
        capacity: int = CACHED_FRAMES,
        clock: Clock | None = None,
        prefetch: bool | None = None,
        batch: int | None = None,
    ) -> None:
        """Prepare for the frames of a medium.

        Args:
            prefetch: read the next batch of frames while one is encoded; None does so on CUDA.
            batch: frames that are encoded together; None: as `choose_encode_batch` chooses for the device.
        """
        if capacity < 1 or (batch is not None and batch < 1):
            raise ValueError(f"the feature cache holds {capacity} frames in batches of {batch}; both are at least 1")
        self.capacity = capacity
        self.encoded = 0
        """Frames encoded so far, repetitions included."""
        self._segmenter, self._media, self._settings = segmenter, media, settings
        self._clock = clock or Clock()
        self._kept: OrderedDict[int, FrameFeatures] = OrderedDict()
        self._prefetch = prefetch
        self._given_batch = batch
        self._next: tuple[list[int], Future[Tensor]] | None = None

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def _device(self) -> torch.device:
        return self._segmenter.no_memory_embedding.device

    @property
    def _batch(self) -> int:
        return choose_encode_batch(self._device) if self._given_batch is None else self._given_batch

    @property
    def _prefetches(self) -> bool:
        return self._device.type == "cuda" if self._prefetch is None else self._prefetch

    def get(self, t: int, following: Sequence[int] = ()) -> FrameFeatures:
        """Features of frame ``t``; on a miss, missing ones of the frames ``following`` are encoded along with it."""
        if t not in self._kept:
            room = min(self._batch, self.capacity)
            missing = [f for f in following if f not in self._kept and f != t]
            wanted = [t, *(f for f in missing if f in following[: self._batch - 1])][:room]
            for frame, features in zip(
                wanted, self._encode(wanted, [f for f in missing if f not in wanted]), strict=True
            ):
                self._kept[frame] = features
                self._kept.move_to_end(frame)
            self._kept.move_to_end(t)
            while len(self._kept) > self.capacity:
                # never the frames just encoded: there are at most `capacity` of them, and they are the newest
                self._kept.popitem(last=False)
        self._kept.move_to_end(t)
        return self._kept[t]

    def clear(self) -> None:
        self._kept.clear()
        self._next = None

    @torch.no_grad()
    def _encode(self, frames: list[int], later: list[int]) -> list[FrameFeatures]:
        with self._clock.stage("read"):
            pixels = self._take_pixels(frames)
            if self._prefetches and later:
                later = later[: self._batch]
                self._next = later, get_threads().submit(self._read, later)
        self._clock.count("read", len(frames))
        with self._clock.stage("sam_encode"):
            pixels = pixels.to(self._device, non_blocking=True)
            if self._device.type == "cuda":
                pixels = prepare_sam_frames(pixels, self._settings)
            features = self._segmenter.encode(pixels)
            # slices would keep the whole batch alive
            parts = [features[i : i + 1] for i in range(len(frames))]
            if len(frames) > 1:
                parts = [part.clone() for part in parts]
        self._clock.count("sam_encode", len(frames))
        self.encoded += len(frames)
        return parts

    def _take_pixels(self, frames: list[int]) -> Tensor:
        """What `_read` returns, from the thread that has begun with it where these frames were foreseen."""
        foreseen, self._next = self._next, None
        if foreseen is None:
            return self._read(frames)
        if foreseen[0] == frames:
            return foreseen[1].result()
        wait([foreseen[1]])  # two threads must not read one medium; what went wrong there is of no interest
        return self._read(frames)

    def _read(self, frames: list[int]) -> Tensor:
        """Pixels of frames: on CUDA uint8 (T, H, W, 3), whence they are resized there, else as SAM sees them."""
        if self._device.type == "cuda":
            return torch.from_numpy(np.stack(list(self._media.select(frames)))).pin_memory()
        return torch.cat([prepare_sam_frames(one[None], self._settings) for one in self._media.select(frames)])


@lru_cache(maxsize=1)
def get_threads() -> ThreadPoolExecutor:
    """Threads that read frames and make run lengths beside the one that drives the device."""
    return ThreadPoolExecutor(thread_name_prefix="unipixel-frames")


def propagate(
    segmenter: Segmenter,
    features: FrameFeatureCache,
    size_hw: tuple[int, int],
    num_frames: int,
    anchors: Mapping[int, Sequence[Anchor]],
    *,
    is_wanted: Callable[[int], bool] = lambda _: True,
    clock: Clock | None = None,
    under_way: int | None = None,
) -> Iterator[MaskPiece]:
    """Track objects over the spans of their anchors: first everything forwards, then what lies before them, backwards.

    Args:
        features: SAM features of the clip.
        size_hw: source size, at which masks leave.
        num_frames: of the clip.
        anchors: by object id; all of its anchors, or those whose spans have to be tracked again.
        is_wanted: called before each frame; an object that is no longer wanted is dropped and its memory freed.
        under_way: frames that are tracked before the masks of an earlier one are waited for; None: `FRAMES_UNDER_WAY`
            on CUDA, else 0.
    """
    clock = clock or Clock()
    listed = [(i, anchor) for i, own in anchors.items() for anchor in own]
    earlier = [(i, anchor) for i, anchor in listed if anchor.first < anchor.frame]
    exact = {(i, anchor.frame): anchor.mask for i, anchor in listed if anchor.is_exact}
    passes = [_propagate_one_way(segmenter, features, num_frames, listed, 1, is_wanted, clock)] if listed else []
    if earlier:
        passes.append(_propagate_one_way(segmenter, features, num_frames, earlier, -1, is_wanted, clock))
    if under_way is None:
        under_way = FRAMES_UNDER_WAY if segmenter.no_memory_embedding.is_cuda else 0
    writing: deque[tuple[int, list[int], Callable[[], Written]]] = deque()

    def finish() -> MaskPiece:
        t, ids, receive = writing.popleft()
        with clock.stage("write"):
            rles, scores = receive()
            found = zip(ids, rles, scores, strict=True)
            # one that was dropped after its masks were on their way
            kept = [(i, rle, score) for i, rle, score in found if not under_way or is_wanted(i)]
            # a mask that was given leaves as it came, not as SAM's square would give it back
            masks = {i: exact.get((i, t), rle) for i, rle, _ in kept}
            return MaskPiece(t, masks, {i: score for i, _, score in kept})

    for t, ids, decoded in chain(*passes):
        with clock.stage("write"):
            writing.append((t, ids, send_masks(decoded, size_hw, wait_for=not under_way)))
        if len(writing) > under_way:
            yield finish()
    while writing:
        yield finish()


@torch.no_grad()
def _propagate_one_way(
    segmenter: Segmenter,
    features: FrameFeatureCache,
    num_frames: int,
    anchors: Sequence[Anchored],
    direction: int,
    is_wanted: Callable[[int], bool],
    clock: Clock,
) -> Iterator[tuple[int, list[int], MaskPrediction]]:
    """One pass in one direction. Backwards, the anchors' own frames are prompted again but not given out again."""
    forward = direction > 0
    frames = [anchor.frame for _, anchor in anchors]
    begin = min(frames) if forward else max(frames)
    end = max(anchor.last for _, anchor in anchors) if forward else min(anchor.first for _, anchor in anchors)
    order = list(range(begin, end + direction, direction))
    # each pass has a tracker of its own: SAM's memories are relative to the direction in which time runs, and what the
    # forward pass remembers of later frames must not reach the frames before the anchor
    tracker = Tracker(segmenter, num_frames)
    until: dict[int, int] = {}
    for place, t in enumerate(order):
        # an object leaves at the end of its span: the next anchor takes over, or there is nothing more to know
        tracker.remove([i for i in tracker.object_ids if (t - until[i]) * direction > 0 or not is_wanted(i)])
        starting = [(i, anchor) for i, anchor in anchors if anchor.frame == t and is_wanted(i)]
        if not starting and not tracker.object_ids:
            continue  # a gap between two spans: its frames need not even be encoded
        frame = features.get(t, order[place + 1 : place + 1 + FOLLOWING])
        parts: list[tuple[list[int], MaskPrediction]] = []
        with clock.stage("track"):
            # those under way first: an object that starts here must not see this frame twice
            ids = tracker.object_ids
            stepped = tracker.step(frame)
            if stepped is not None:
                parts.append((ids, stepped))
            started = _prompt_objects(segmenter, tracker, frame, starting, num_frames)
            if forward:
                parts += started
        until.update({i: anchor.last if forward else anchor.first for i, anchor in starting})
        clock.count("track", sum(len(ids) for ids, _ in parts))
        if parts:
            yield t, [i for ids, _ in parts for i in ids], concatenate_predictions([one for _, one in parts])


def _prompt_objects(
    segmenter: Segmenter, tracker: Tracker, frame: FrameFeatures, starting: Sequence[Anchored], num_frames: int
) -> list[tuple[list[int], MaskPrediction]]:
    """Prompt the objects that start on a frame; those prompted alike go together and share a cohort."""

    def describe_prompts(one: Anchored) -> tuple[bool, bool, int]:
        _, anchor = one
        # clicks are never padded to a common number: padding would change what an object gets
        clicks = len(anchor.clicks[1]) if anchor.clicks is not None else 0
        return anchor.queries is not None, anchor.mask is not None, clicks

    parts = []
    for _, same in groupby(sorted(starting, key=describe_prompts), describe_prompts):
        group = list(same)
        ids, anchors = [i for i, _ in group], [anchor for _, anchor in group]
        if anchors[0].is_exact:
            decoded = tracker.add_masks(frame, ids, _resize_to_square([a.mask for a in anchors], segmenter))
        elif anchors[0].mask is not None:
            decoded = correct_mask(segmenter, frame, anchors)
            if num_frames > 1:
                # from here on the corrected mask counts, as if it had been given
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
        frame = features.get(t, frames[place + 1 : place + 1 + FOLLOWING])
        with clock.stage("track"):
            scores.append(segmenter.decode(segmenter.add_no_memory(frame), frame, queries).scores)
    return [frames[place] for place in torch.stack(scores).argmax(0).tolist()]


def concatenate_predictions(parts: Sequence[MaskPrediction]) -> MaskPrediction:
    """Several batches of objects on one frame as one."""
    if len(parts) == 1:
        return parts[0]
    names = MaskPrediction.__dataclass_fields__
    return MaskPrediction(*(torch.cat([getattr(p, name) for p in parts]) for name in names))


def to_rles(low_res_masks: Tensor, size_hw: tuple[int, int]) -> list[Rle | None]:
    """Mask logits (N, 1, 4s, 4s) as masks at source size; None where no pixel is on.

    Source: SAM 2 inference: logits are resized bilinearly and compared with 0.
    """
    height, width = size_hw
    together = max(1, PIXELS_AT_ONCE // (height * width))
    rles: list[Rle | None] = []
    for part in low_res_masks.split(together):
        rles += _encode_masks(_enlarge_masks(part, size_hw).cpu())
    return rles


def _enlarge_masks(low_res_masks: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(N, H, W) bool."""
    return F.interpolate(low_res_masks.float(), size=size_hw, mode="bilinear", align_corners=False)[:, 0] > 0


def _encode_masks(masks: Tensor) -> list[Rle | None]:
    return [encode_rle(mask) if mask.any() else None for mask in masks.numpy()]


def send_masks(decoded: MaskPrediction, size_hw: tuple[int, int], *, wait_for: bool) -> Callable[[], Written]:
    """Start to bring masks and scores to the host; what is returned waits for them and gives them out.

    Args:
        wait_for: do everything here, in no more than `PIXELS_AT_ONCE` at a time; so are masks of more pixels.
    """
    if wait_for or len(decoded.low_res_masks) * size_hw[0] * size_hw[1] > PIXELS_AT_ONCE:
        written = to_rles(decoded.low_res_masks, size_hw), decoded.scores.tolist()
        return lambda: written
    # into pinned memory, without waiting
    masks = _enlarge_masks(decoded.low_res_masks, size_hw).to("cpu", non_blocking=True)
    scores = decoded.scores.to("cpu", non_blocking=True)
    event = torch.cuda.Event() if decoded.low_res_masks.is_cuda else None
    if event is not None:
        event.record()

    def receive() -> Written:
        if event is not None:
            event.synchronize()
        return _encode_masks(masks), scores.tolist()

    return get_threads().submit(receive).result


def _resize_to_square(masks: Iterable[Rle | None], segmenter: Segmenter) -> Tensor:
    """Source masks as SAM sees them, bool (N, S, S): half of a pixel's area, or any of it for what would vanish."""
    side = segmenter.config.image_size
    decoded = np.stack([decode_rle(mask) for mask in masks if mask is not None])
    full = torch.from_numpy(decoded)[:, None].float()  # on the CPU: not every device can resize with antialiasing
    share = F.interpolate(full, size=(side, side), mode="bilinear", antialias=True)[:, 0]  # (N, S, S)
    half = share >= 0.5
    square = torch.where(half.flatten(1).any(-1)[:, None, None], half, share > 0)
    return square.to(segmenter.no_memory_embedding.device)
