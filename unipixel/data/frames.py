"""Pictures and clips of a dataset, opened so that whatever is wrong names the record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unipixel.data.records import Record
from unipixel.errors import DatasetError, MediaError
from unipixel.masks import MaskTrack, encode_rle
from unipixel.media import Media, open_media

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".avif", ".heic", ".tif", ".tiff")
"""Endings of files that count as pictures, small letters."""


def resolve_frames(record: Record, frames: Sequence[int] | None, num_frames: int) -> list[int]:
    """The frames t to read of a clip of ``num_frames``: those given, by default all.

    Raises:
        ValueError: none is given, or one is not in the clip.
    """
    if frames is None:
        return list(range(num_frames))
    ts = [int(t) for t in frames]
    wrong = [t for t in ts if not 0 <= t < num_frames]
    if not ts or wrong:
        asked = f"frame {wrong[0]}" if wrong else "no frame"
        raise ValueError(f"{record.source}: {asked} was asked for; the clip has frames 0 to {num_frames - 1}")
    return ts


def open_clip(record: Record, ts: Sequence[int]) -> Media:
    """The frames ``ts`` of a record that names its frames; the others are not touched.

    Raises:
        DatasetError: a frame is missing or damaged, or they differ in size.
    """
    names = record.frame_names or ()
    try:
        return open_media([record.root / names[t] for t in ts])
    except MediaError as error:
        raise DatasetError(
            f"{record.source}: {error}; `unipixel data check {record.dataset}` says what belongs where"
        ) from error


def open_picture(record: Record, frames: Sequence[int] | None, size_hw: tuple[int, int] | None = None) -> Media:
    """The one picture of a record.

    Args:
        frames: t of the clip as every reader takes them; a picture has only 0.
        size_hw: what the annotation says; None where it does not say.

    Raises:
        DatasetError: there is no such picture, it cannot be read, or it has another size.
    """
    names = record.frame_names or ()
    if len(names) != 1:
        raise DatasetError(f"{record.source}: a record of one picture names {len(names)} files")
    try:
        media = open_media(record.root / names[0])
    except MediaError as error:
        raise DatasetError(f"{record.source}: {error}") from error
    if size_hw is not None:
        check_size(size_hw, media.size_hw, record, "the annotation")
    return media if frames is None else media.select(resolve_frames(record, frames, 1))


def check_size(size_hw: tuple[int, int], media_hw: tuple[int, int], record: Record, what: str) -> None:
    """Refuse masks of another size than the picture's.

    Raises:
        DatasetError: names the record and both sizes.
    """
    if tuple(size_hw) != tuple(media_hw):
        picture = (record.frame_names or ("the picture",))[0]
        raise DatasetError(
            f"{record.source}: {what} is for {size_hw[0]} x {size_hw[1]} pixels (height x width), but {picture} has "
            f"{media_hw[0]} x {media_hw[1]}; use the picture that was annotated, at its own size"
        )


def repeat_mask(mask: np.ndarray, num_frames: int) -> MaskTrack:
    """A mask, bool (H, W), on every frame of a clip that repeats one picture."""
    rle = encode_rle(mask) if mask.any() else None
    return MaskTrack((int(mask.shape[0]), int(mask.shape[1])), (rle,) * num_frames)


def include_frame(frames: Sequence[int], t: int) -> list[int]:
    """The frames with ``t`` among them: where it is missing, it takes the place of the one nearest to it."""
    kept = [int(frame) for frame in frames]
    if kept and t not in kept:
        kept[min(range(len(kept)), key=lambda i: abs(kept[i] - t))] = t
    return kept


def read_clip(
    record: Record, path: Path, numbers: Sequence[int] | None, frames: Sequence[int] | None, t: int | None
) -> tuple[Media, list[int]]:
    """The frames asked for, and which of the clip's they are.

    Args:
        record: named in messages.
        path: video file or folder of frames.
        numbers: the clip, as frame numbers of the video; None: all of the video.
        frames: wanted frames of the clip; None: all.
        t: frame of the clip that must be among them, see `include_frame`; None: no such frame.

    Raises:
        DatasetError: the video cannot be read, or has fewer frames than the annotation numbers.
    """
    try:
        media = open_media(path)
    except MediaError as error:
        raise DatasetError(
            f"{record.source}: {error}; `unipixel data check {record.dataset}` says what belongs where"
        ) from error
    last = max([*(numbers or ()), *([t] if numbers is None and t is not None else [])], default=0)
    if last >= media.num_frames:
        raise DatasetError(
            f"{record.source}: frame {last} is annotated, but {path} has {media.num_frames} frames; "
            "it may be cut off or another version of the video"
        )
    clip = media if numbers is None else media.select(numbers)
    chosen = resolve_frames(record, frames, clip.num_frames)
    if t is not None:
        chosen = include_frame(chosen, t)
    return clip.select(chosen), chosen
