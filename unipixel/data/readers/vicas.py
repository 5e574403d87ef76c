"""ViCaS: requests for the objects of a video's caption.

Layout under ``data/vicas``::

    splits/v1.0/{train,val,test}.json                        video numbers
    annotations/annotations_wo_masks_v1.0.json               all videos, without masks; or instead of it
    annotations/<6 digits>.json                              one file per video (also in annotations/v1.0)
    video_frames/<6 digits>/00000.jpg
    masks/<6 digits>/<referral>.json                         per annotated frame a list of RLE or null

Raw record::

    "000001": {"filename": "000001.mp4", "segmentations": [{"filename": "00000.jpg", "track_ids": [1, 2]}, ...],
               "object_referrals": [{"track_ids": [1], "prompt": "Can you segment the boy?"}]}

A record is one referral; its object, the union of the referral's tracks, has id 1. The clip is the annotated frames.

* Masks: from ``masks/``, else from ``mask_rles`` beside the ``track_ids`` of each frame in the per-video file, as the
  authors release them.
* Frames on which none of the tracks is seen have no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unipixel.data.encodings import read_vicas_track, rles_to_track
from unipixel.data.files import get_field, read_json, require
from unipixel.data.frames import open_clip, resolve_frames
from unipixel.data.records import Dataset, Expression, Record
from unipixel.errors import DatasetError
from unipixel.masks import MaskTrack
from unipixel.sample import Query, Sample

_SPLITS = ("train", "val", "test")
_ALL = "vicas/annotations/annotations_wo_masks_v1.0.json"
_FOLDERS = ("vicas/annotations", "vicas/annotations/v1.0")


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """One record per referral, in the order of the split.

    Raises:
        DatasetError: no such split, or a file is missing or damaged.
    """
    if split not in _SPLITS:
        raise DatasetError(f"{dataset} has no split {split!r}; it has {', '.join(_SPLITS)}")
    where = f"{dataset}/{split}"
    path = root / f"vicas/splits/v1.0/{split}.json"
    numbers = read_json(path, where, list)
    if not all(str(number).isdigit() for number in numbers):
        raise DatasetError(f"{where}: {path} should hold the numbers of videos")
    together = read_json(root / _ALL, where) if (root / _ALL).exists() else None
    records: list[Record] = []
    for number in numbers:
        records += _read_video(root, dataset, split, f"{int(number):06d}", together)
    return records


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """The clip with its referral as the one query, and as object 1 what it refers to.

    Raises:
        DatasetError: a file is missing or damaged, or masks do not fit their frames.
        ValueError: a frame is not in the clip.
    """
    raw: Expression = record.raw
    ts = resolve_frames(record, frames, record.num_frames or 0)
    media = open_clip(record, ts)
    path = record.root / f"vicas/masks/{raw.video}/{raw.expression}.json"
    if path.exists() or not raw.masks:
        masks = read_vicas_track(path, ts, record.source, size_hw=media.size_hw, total=record.num_frames)
    else:
        masks = _read_own_masks(record, raw, ts, media.size_hw)
    return Sample(media=media, objects={1: masks}, queries=(raw.query,), source=record.source)


def _read_video(root: Path, dataset: str, split: str, video: str, together: dict[str, Any] | None) -> list[Record]:
    where = f"{dataset}/{split}"
    own = None
    if together is not None:
        place = f"{where}: {root / _ALL}, video {video}"
        value = get_field(together, video, f"{where}: {root / _ALL}", dict) if video in together else None
        if value is None:
            raise DatasetError(f"{place}: the split names it, but it is not among the {len(together)} annotated videos")
    else:
        own = next((name for name in (f"{folder}/{video}.json" for folder in _FOLDERS) if (root / name).exists()), None)
        place = f"{where}: {root / (own or _ALL)}"
        value = read_json(root / (own or _ALL), where)
    frames = [
        get_field(frame, "filename", f"{place}, frame {t}", str)
        for t, frame in enumerate(get_field(value, "segmentations", place, list))
    ]
    if not frames:
        raise DatasetError(f"{place}: it has no annotated frame")
    names = tuple(f"vicas/video_frames/{video}/{frame}" for frame in frames)
    records = []
    for number, referral in enumerate(get_field(value, "object_referrals", place, list)):
        there = f"{place}, referral {number}"
        text = get_field(referral, "prompt", there, str).strip()
        raw = Expression(
            video=video,
            expression=str(number),
            query=Query(kind="sentence", text=text, targets=(1,)),
            ids=tuple(int(track) for track in get_field(referral, "track_ids", there, list)),
            masks=() if own is None else (own,),
        )
        record = Record(
            dataset=dataset,
            split=split,
            id=f"{video}/{number}",
            data_type="seg_video" if len(names) > 1 else "seg_image",
            root=root,
            frame_names=names,
            raw=raw,
        )
        records.append(record)
    return records


def _read_own_masks(record: Record, raw: Expression, ts: Sequence[int], size_hw: tuple[int, int]) -> MaskTrack:
    """The referral's object by the masks that a per-video annotation holds itself."""
    path = record.root / raw.masks[0]
    where = f"{record.source}: {path}"
    listed = get_field(read_json(path, record.source), "segmentations", where, list)
    rles = []
    for t in ts:
        place = f"{where}, frame {t}"
        tracks = get_field(listed[t], "track_ids", place, list)
        if "mask_rles" not in listed[t]:
            require(record.root / f"vicas/masks/{raw.video}/{raw.expression}.json", record.source, "mask file")
        masks = get_field(listed[t], "mask_rles", place, list)
        if len(masks) != len(tracks):
            raise DatasetError(f"{place}: {len(masks)} masks for {len(tracks)} tracks; there should be one for each")
        rles.append([mask for track, mask in zip(tracks, masks, strict=True) if track in raw.ids])
    return rles_to_track(rles, size_hw, where)


DATASETS = {
    "vicas": Dataset(
        title="ViCaS",
        paper="arXiv 2412.09754",
        licence="research only",
        home="github.com/Ali2500/ViCaS",
        teaches="sentences -> masks in video",
        splits=_SPLITS,
        files={
            split: (f"vicas/splits/v1.0/{split}.json", "vicas/annotations", "vicas/video_frames") for split in _SPLITS
        },
        index=read_records,
        sample=read_sample,
    )
}
