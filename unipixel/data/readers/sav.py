"""Ref-SAV: long descriptions of single objects in SA-V videos.

Videos and masks are those of SAM 2 (arXiv 2408.00714). The split train is read here; valid, the evaluation half, has
the layout of videos with expressions and is read by `expressions`.

Layout under ``data``::

    ref_sav/Ref-SAV-Min-Ratio-0.3.json             descriptions
    sav/sav_train/sav_000/<video>.mp4              videos, 24 frames per second
    sav/sav_train/sav_000/<video>_manual.json      masks, 6 per second

Raw record::

    "sav_000001": {"video_path": "x/sav_train/sav_000/sav_000001.mp4", "anno_path": "x/sav_train/.../..._manual.json",
                   "objects": {"0": {"video_id": "sav_000001", "obj_id": 0, "formated": "A white cow with ..."}}}

A record is one object; its key is its place in the masks' lists, its object id here 1.

* The first part of both paths is the releaser's folder and dropped; the rest must begin with ``sav_train``.
* Mask k belongs to frame 4k of the video: the clip is every 4th frame of the video, as far as there are masks. A video
  that ends up to one mask early is cut to what both have.
* How long a clip is only shows when it is opened: `Record.num_frames` is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from unipixel.data.encodings import sav_to_track
from unipixel.data.files import get_field, read_json, require
from unipixel.data.frames import resolve_frames
from unipixel.data.readers import expressions
from unipixel.data.records import Dataset, Expression, Record
from unipixel.errors import DatasetError, MediaError
from unipixel.media import open_media
from unipixel.sample import Query, Sample

STRIDE = 4
"""Frames of the video from one mask to the next."""

_DESCRIPTIONS = "ref_sav/Ref-SAV-Min-Ratio-0.3.json"


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """One record per described object, in file order.

    Raises:
        DatasetError: no such split, or a file is missing or damaged.
    """
    if split != "train":
        return expressions.read_records(root, dataset, split)
    where = f"{dataset}/{split}"
    path = root / _DESCRIPTIONS
    records = []
    for video, value in read_json(path, where).items():
        place = f"{where}: {path}, video {video!r}"
        media = _relocate(get_field(value, "video_path", place, str), ".mp4", place)
        masks = _relocate(get_field(value, "anno_path", place, str), "_manual.json", place)
        for key, described in get_field(value, "objects", place, dict).items():
            if not str(key).isdigit():
                raise DatasetError(f"{place}: an object is called {key!r}; it should be its number among the masks")
            text = get_field(described, "formated", f"{place}, object {key}", str).strip()
            query = Query(kind="description", text=text, targets=(1,))
            raw = Expression(video=media, expression=key, query=query, ids=(int(key),), masks=(masks,))
            record = Record(
                dataset=dataset, split=split, id=f"{video}/{key}", data_type="seg_video", root=root, raw=raw
            )
            records.append(record)
    return records


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """The clip with its description as the one query, and as object 1 what it describes.

    Raises:
        DatasetError: a file is missing or damaged, or masks do not fit their frames.
        ValueError: a frame is not in the clip.
    """
    if record.split != "train":
        return expressions.read_sample(record, frames)
    raw: Expression = record.raw
    path, place = record.root / raw.masks[0], raw.ids[0]
    document = read_json(path, record.source)
    try:
        media = open_media(require(record.root / raw.video, record.source, "video"), every=STRIDE)
    except MediaError as error:
        raise DatasetError(f"{record.source}: {error}; fetch it again") from error
    ts = resolve_frames(record, frames, _check_length(document, media.num_frames, record))
    masks = sav_to_track(document, place, ts, f"{record.source}: {path}")
    if masks.size_hw != media.size_hw:
        raise DatasetError(
            f"{record.source}: the masks are {masks.size_hw[0]} x {masks.size_hw[1]} (height x width), but the video "
            f"{media.size_hw[0]} x {media.size_hw[1]}; take the video at its original size"
        )
    return Sample(media=media.select(ts), objects={1: masks}, queries=(raw.query,), source=record.source)


def _relocate(text: str, ending: str, where: str) -> str:
    """A path of the releaser as one under the ``data`` folder.

    Raises:
        DatasetError: it does not lie in ``sav_train``, or has another ending.
    """
    parts = PurePosixPath(text).parts[1:]
    if not parts or parts[0] != "sav_train" or ".." in parts or not text.endswith(ending):
        raise DatasetError(f"{where}: a path is {text!r}; it should be <folder>/sav_train/.../<video>{ending}")
    return str(PurePosixPath("sav", *parts))


def _check_length(document: Mapping[str, Any], num_frames: int, record: Record) -> int:
    """Frames of the clip, given how many every 4th of the video are.

    Raises:
        DatasetError: the masks are those of a longer or shorter video.
    """
    num_masks = len(get_field(document, "masklet", record.source, list))
    if abs(num_masks - num_frames) > 1 or not num_masks:
        raise DatasetError(
            f"{record.source}: the annotation has masks for {num_masks} frames, but every {STRIDE}th frame of the "
            f"video makes {num_frames}; one of the two files is cut off, fetch them again"
        )
    return min(num_masks, num_frames)


DATASETS = {
    "ref_sav": Dataset(
        title="Ref-SAV",
        paper="arXiv 2501.04001 (Sa2VA)",
        licence="CC BY 4.0 (SA-V)",
        home="huggingface.co/datasets/Dense-World/Sa2VA-Training; videos: ai.meta.com/datasets/segment-anything-video",
        teaches="long descriptions -> mask in video",
        splits=("train", "valid"),
        files={"train": (_DESCRIPTIONS, "sav/sav_train"), "valid": expressions.LAYOUTS["ref_sav"]["valid"].files},
        index=read_records,
        sample=read_sample,
    )
}
