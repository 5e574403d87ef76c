"""What VideoRefer's training rows and its benchmarks share: object tags in texts, and clips of annotated frames.

Texts mention an object first as ``<object3><region>`` and then as ``<object3>``; a text about one object may write a
bare ``<region>``. Masks exist only for the frames that the annotation numbers, counted in the source video.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from unipixel.data.clips import resolve_frames
from unipixel.data.files import get_field
from unipixel.data.records import Record
from unipixel.errors import DatasetError, MediaError
from unipixel.media import Media, open_media

ONLY_ID = 0
"""Id of the object of a text that does not number its objects."""

_FIRST_MENTION = re.compile(r"(?:<object(\d+)>)?<region>")
_MENTION = re.compile(r"<object(\d+)>(?:<region>)?")


def find_tagged_ids(text: str, count: int, where: str) -> tuple[int, ...]:
    """Ids of the objects that a text introduces, in the order of the annotation.

    Args:
        text: as annotated.
        count: objects that the row has masks of.
        where: what messages call the row.

    Raises:
        DatasetError: the text introduces another number of objects, or one of them twice.
    """
    found = [int(number) if number else ONLY_ID for number in _FIRST_MENTION.findall(text)]
    if len(found) != count or len(set(found)) != count:
        raise DatasetError(
            f"{where}: the text introduces the objects {found or 'none'} by <region>, but there are masks of {count}; "
            f"it should introduce each of them once: {text!r:.80}"
        )
    return tuple(found)


def replace_tags(text: str) -> str:
    """The text with every object written as ``[id]``."""
    return _MENTION.sub(lambda found: f"[{int(found[1])}]", text).replace("<region>", f"[{ONLY_ID}]")


def find_annotated_frames(objects: Sequence[Any], where: str) -> tuple[int, ...]:
    """Numbers of all frames on which any object has a mask, ascending.

    Args:
        objects: per object a mapping from frame numbers (as text) to masks.
        where: what messages call the row.

    Raises:
        DatasetError: a frame number is none, or there is no frame at all.
    """
    names = {name for frames in objects for name in (frames if isinstance(frames, dict) else [repr(frames)[:40]])}
    wrong = sorted(str(name) for name in names if not re.fullmatch(r"0|[1-9][0-9]{0,8}", str(name)))
    if wrong or not names:
        found = f"the annotation numbers a frame {wrong[0]!r}" if wrong else "no object has an annotated frame"
        raise DatasetError(f"{where}: {found}; it should map frame numbers such as '12' to masks")
    return tuple(sorted({int(name) for name in names}))


def parse_frame_number(row: Any, numbers: Collection[int], where: str) -> int:
    """The field ``frame_idx`` of a benchmark row: the frame on which its objects are pointed at.

    Raises:
        DatasetError: it is missing, no number, or not one of the annotated frames.
    """
    value = get_field(row, "frame_idx", where, (str, int))
    number = int(value) if str(value).isascii() and str(value).isdigit() else None
    if number not in numbers or number is None:
        raise DatasetError(f"{where}: frame_idx is {value!r}; it should be one of the annotated frames {list(numbers)}")
    return number


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
