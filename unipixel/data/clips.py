"""Clips of a dataset, opened so that whatever is wrong names the record."""

from __future__ import annotations

from collections.abc import Sequence

from unipixel.data.records import Record
from unipixel.errors import DatasetError, MediaError
from unipixel.media import Media, open_media


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
