"""Still pictures of a dataset, opened so that whatever is wrong names the record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unipixel.data.clips import resolve_frames
from unipixel.data.records import Record
from unipixel.errors import DatasetError, MediaError
from unipixel.masks import MaskTrack, encode_rle, load_index_png
from unipixel.media import Media, open_media

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".avif", ".heic", ".tif", ".tiff")
"""Endings of files that count as pictures, small letters."""


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


def read_index_picture(path: Path, where: str) -> np.ndarray:
    """A PNG of object or class numbers, uint8 or uint16 (H, W).

    Raises:
        DatasetError: missing, damaged, or a picture of colours.
    """
    try:
        return load_index_png(path)
    except MediaError as error:
        raise DatasetError(f"{where}: {error}") from error
