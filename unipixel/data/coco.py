"""People's own data as a COCO instance file: ``coco:PATH``, the file or the folder it lies in.

Layout: the JSON file (in a folder: ``annotations.json``, or the only JSON file there) and the pictures, named by
``file_name`` relative to a folder ``images`` beside the file, to the file's own folder, or to the same two places one
folder further up. Three kinds of annotations are read:

* pictures, as in COCO: ``images``, ``annotations``, ``categories``;
* videos frame by frame, as in COCO-VID and BDD100K: every entry of ``images`` has a ``video_id`` (and ``frame_id`` or
  ``frame_index``; else they are in order), every annotation a ``track_id`` (or ``instance_id``);
* videos as a whole, as in YouTube-VIS: ``videos`` with ``file_names``, annotations with ``video_id`` and
  ``segmentations``, one per frame, null where the object is not seen.

A mask is a list of polygons or an RLE. Any annotation may have ``"expressions": ["the dog on the left", ...]``; of a
track, those of all its annotations count. ``iscrowd`` annotations are the area ``"ignore"``. One annotation::

    {"id": 5, "image_id": 1, "category_id": 3, "segmentation": [[10, 10, 40, 10, 40, 30]], "bbox": [10, 10, 30, 20],
     "expressions": ["the dog on the left"]}

Records: in ``train`` one per picture or video with a query per category and expression, elsewhere one per query, id
``name/n``. Objects are numbered 1, 2, ... in the file's order; those that share a name or expression are all targets of
its query. Splits: train, val and all, see `own.names_of_split`; names are those of the files or videos. Pictures and
videos without an annotation give no record.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unipixel.data.clips import chosen_frames, open_clip
from unipixel.data.coco_clips import Clip, read_clips
from unipixel.data.encodings import track
from unipixel.data.instances import Box, instance_mask
from unipixel.data.own import Label, names_of_split, per_record, queries_of
from unipixel.data.pictures import check_size, open_picture
from unipixel.data.record import Record
from unipixel.errors import DatasetError
from unipixel.masks import MaskTrack
from unipixel.sample import Query, Sample


class _Raw(NamedTuple):
    """What a record keeps."""

    clip: Clip
    queries: tuple[Query, ...]


def index(root: Path, dataset: str, split: str) -> list[Record]:
    """The records of a split.

    Args:
        root: the JSON file, or the folder it lies in.

    Raises:
        DatasetError: the file is missing, damaged, or in another layout, or no picture of it is found.
    """
    path = _json_file(root, dataset)
    clips = read_clips(path, dataset)
    folder = _picture_folder(path, next(iter(clips.values())).frames[0], dataset)
    records = []
    for name in names_of_split(clips, split, path.parent, dataset):
        clip = clips[name]
        queries = queries_of({n: Label(one.name, one.expressions) for n, one in clip.objects.items()})
        for ending, some in per_record(queries, split):
            records.append(
                Record(
                    dataset=dataset,
                    split=split,
                    id=name + ending,
                    data_type="seg_video" if clip.is_video else "seg_image",
                    root=folder,
                    frame_names=clip.frames,
                    raw=_Raw(clip, some),
                )
            )
    return records


def sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """A picture or clip with its objects.

    Raises:
        DatasetError: a picture is missing, damaged or of another size, or a mask malformed.
    """
    raw: _Raw = record.raw
    ts = chosen_frames(record, frames, len(raw.clip.frames))
    media = open_clip(record, ts) if raw.clip.is_video else open_picture(record, frames)
    check_size(raw.clip.size_hw, media.size_hw, record, "the annotation")
    objects = {n: _track(one.regions, ts, media.size_hw, record) for n, one in raw.clip.objects.items()}
    crowds = [_track(regions, ts, media.size_hw, record) for regions in raw.clip.crowds]
    areas: dict[str, MaskTrack] = {}
    for crowd in crowds:
        areas["ignore"] = areas["ignore"].union(crowd) if areas else crowd
    boxes: dict[int, Box] = {}
    if not raw.clip.is_video:
        boxes = {n: one.box_xyxy for n, one in raw.clip.objects.items() if one.box_xyxy is not None}
    return Sample(media=media, objects=objects, areas=areas, boxes=boxes, queries=raw.queries, source=record.source)


def _track(regions: dict[int, object], ts: list[int], size_hw: tuple[int, int], record: Record) -> MaskTrack:
    """The masks of an object on the frames ``ts``."""
    masks: dict[int, np.ndarray] = {
        t: instance_mask(regions[t], size_hw, f"{record.source}, frame {t}") for t in set(ts) if t in regions
    }
    return track([masks.get(t) for t in ts], size_hw=size_hw, where=record.source)


def _json_file(root: Path, dataset: str) -> Path:
    if root.is_file():
        return root
    usual = root / "annotations.json"
    if usual.is_file():
        return usual
    found = sorted(path for path in root.glob("*.json") if path.name != "splits.json") if root.is_dir() else []
    if len(found) != 1:
        listed = ", ".join(path.name for path in found[:4]) or "none"
        raise DatasetError(f"{dataset}: {root} should be a COCO JSON file or a folder with one; it holds {listed}")
    return found[0]


def _picture_folder(path: Path, first: str, dataset: str) -> Path:
    folders = [base / inner for base in (path.parent, path.parent.parent) for inner in ("images", "")]
    for folder in folders:
        if (folder / first).is_file():
            return folder
    raise DatasetError(
        f"{dataset}: the picture {first!r} of {path} is in none of {', '.join(map(str, folders))}; put the pictures "
        "into a folder 'images' beside the file"
    )
