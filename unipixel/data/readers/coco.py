"""People's own data as a COCO instance file: ``coco:PATH``, the file or the folder it lies in.

Layout: the JSON file (in a folder: ``annotations.json``; or the only JSON file there, in ``annotations``, or one folder
further down; or one per split, recognised by "train" and "val" in their names, such as ``instances_train2017.json``)
and the pictures, named by ``file_name`` relative to a folder ``images`` beside the file, to the file's own folder, to
one that is called as the end of the file's name (``train2017``, ``images/default``), or to the same places one folder
further up. Names with ``\\`` or with folders that are not there are understood as well. Three kinds of annotations
are read:

* pictures, as in COCO: ``images``, ``annotations``, ``categories``;
* videos frame by frame, as in COCO-VID and BDD100K: every entry of ``images`` has a ``video_id`` (and ``frame_id`` or
  ``frame_index``; else they are in order), every annotation a ``track_id`` (or ``instance_id``);
* videos as a whole, as in YouTube-VIS: ``videos`` with ``file_names``, annotations with ``video_id`` and
  ``segmentations``, one per frame, null where the object is not seen.

A mask is a list of polygons or an RLE. What has none (``"segmentation": []``, polygons of two corners, run lengths
without a pixel) is left out and counted: what is asked for by its name or expressions is not asked in ``train``, and
its box is the area ``"ignore"``. An object of less than a pixel is not there. Any annotation may have
``"expressions": ["the dog on the left", ...]``; of a track, those of all its annotations count. ``iscrowd``
annotations are the area ``"ignore"``. One annotation::

    {"id": 5, "image_id": 1, "category_id": 3, "segmentation": [[10, 10, 40, 10, 40, 30]], "bbox": [10, 10, 30, 20],
     "expressions": ["the dog on the left"]}

Records: in ``train`` one per picture or video with a query per category and expression, elsewhere one per query, id
``name/n``. Objects are numbered 1, 2, ... in the file's order; those that share a name or expression are all targets of
its query. Splits: train, val and all, see `labels.choose_names`; names are those of the files or videos. Pictures and
videos without an annotation give no record; one with objects but nothing to ask for is a record without queries in
``train``, where its objects can be pointed at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from unipixel.data.coco_files import CocoClip, read_clips, unpack_region
from unipixel.data.encodings import build_track
from unipixel.data.frames import check_size, open_clip, open_picture, resolve_frames
from unipixel.data.labels import SPLITS, build_queries, choose_names, split_queries
from unipixel.data.records import Box, Dataset, Record, Records
from unipixel.errors import DatasetError
from unipixel.masks import MaskTrack
from unipixel.media.names import NameAliases, find_file, is_junk
from unipixel.sample import Query, Sample

MAX_PROBES = 25
"""Pictures that are looked for to find the folder they lie in."""
_NOT_COCO = {"splits.json", "labels.json"}
_SPLIT_WORDS = {"train": {"train", "training"}, "val": {"val", "valid", "validation"}, "test": {"test", "testing"}}


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """The records of a split.

    Args:
        root: the JSON file, or the folder it lies in.

    Raises:
        DatasetError: the file is missing, damaged, or in another layout, or no picture of it is found.
    """
    records: list[Record] = []
    left_out: list[tuple[str, str]] = []
    seen: dict[str, Path] = {}
    for path, is_of_split in find_files(root, split, dataset):
        clips, all_names, unmasked = read_clips(path, dataset)
        left_out += unmasked
        names = list(clips) if is_of_split else choose_names(clips, split, path.parent, dataset, NameAliases(all_names))
        twice = next((name for name in names if name in seen), None)
        if twice is not None:
            raise DatasetError(
                f"{dataset}: {twice!r} is in {seen[twice].name} and in {path.name}; a name has one split"
            )
        seen.update(dict.fromkeys(names, path))
        folder = find_picture_folder(path, [frame for name in names for frame in clips[name].frames], dataset)
        files = _locate_pictures(folder, {frame for name in names for frame in clips[name].frames}, dataset)
        for name in names:
            clip = clips[name]
            queries = build_queries(clip.objects)
            unasked = clip.incomplete_texts if split == "train" else clip.unlocated_texts
            for ending, some in split_queries([query for query in queries if query.text not in unasked], split):
                records.append(
                    Record(
                        dataset=dataset,
                        split=split,
                        id=name + ending,
                        data_type="seg_video" if clip.is_video else "seg_image",
                        root=folder,
                        frame_names=tuple(files[frame] for frame in clip.frames),
                        raw=(clip, some),
                    )
                )
    return Records(records, left_out)


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """A picture or clip with its objects.

    Raises:
        DatasetError: a picture is missing, damaged or of another size, or a mask malformed.
    """
    clip: CocoClip
    clip, queries = record.raw
    ts = resolve_frames(record, frames, len(clip.frames))
    media = open_clip(record, ts) if clip.is_video else open_picture(record, frames)
    check_size(clip.size_hw, media.size_hw, record, "the annotation")
    objects = {n: _build_object_track(one.regions, ts, media.size_hw, record) for n, one in clip.objects.items()}
    if not clip.is_video:
        objects, queries = _drop_invisible(objects, queries)
    crowds = [_build_object_track(regions, ts, media.size_hw, record) for regions in clip.crowds]
    areas: dict[str, MaskTrack] = {}
    for crowd in crowds:
        areas["ignore"] = areas["ignore"].union(crowd) if areas else crowd
    boxes: dict[int, Box] = {}
    if not clip.is_video:
        boxes = {n: one.box_xyxy for n, one in clip.objects.items() if n in objects and one.box_xyxy is not None}
    return Sample(media=media, objects=objects, areas=areas, boxes=boxes, queries=queries, source=record.source)


def _drop_invisible(
    objects: dict[int, MaskTrack], queries: tuple[Query, ...]
) -> tuple[dict[int, MaskTrack], tuple[Query, ...]]:
    """The objects of a picture that can be seen, of a pixel or more; queries for the others have no target."""
    kept = {n: one for n, one in objects.items() if one.visible.any()}
    if len(kept) == len(objects):
        return objects, queries
    return kept, tuple(replace(q, targets=tuple(n for n in q.targets if n in kept) or (None,)) for q in queries)


def _build_object_track(
    regions: dict[int, object], ts: list[int], size_hw: tuple[int, int], record: Record
) -> MaskTrack:
    """The masks of an object on the frames ``ts``."""
    masks: dict[int, np.ndarray] = {
        t: unpack_region(regions[t], size_hw, f"{record.source}, frame {t}") for t in set(ts) if t in regions
    }
    return build_track([masks.get(t) for t in ts], size_hw=size_hw, where=record.source)


def find_files(root: Path, split: str, dataset: str) -> list[tuple[Path, bool]]:
    """The files to read for a split, and whether each holds that split alone."""
    if root.is_file():
        return [(root, False)]
    usual = root / "annotations.json"
    if usual.is_file():
        return [(usual, False)]
    for pattern in ("*.json", "annotations/*.json", "*/*.json"):
        found = [path for path in sorted(root.glob(pattern)) if path.name not in _NOT_COCO and not is_junk(path.name)]
        # beside those of objects, COCO has captions and key points
        found = [path for path in found if path.name.startswith("instances")] or found
        if len(found) == 1:
            return [(found[0], False)]
        splits = {path: _guess_split(path) for path in found}
        if found and None not in splits.values() and len(set(splits.values())) == len(found):
            chosen = [path for path, own in splits.items() if split in ("all", own)]
            if not chosen:
                raise DatasetError(f"{dataset}: none of {_format_names(found)} in {root} is of the split {split!r}")
            return [(path, True) for path in chosen]
        if found:
            break
    raise DatasetError(
        f"{dataset}: {root} should be a COCO JSON file or a folder with one; it holds {_format_names(found)}"
    )


def _format_names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:4]) or "none"


def _guess_split(path: Path) -> str | None:
    """The split that a file's name, or that of its folder, speaks of."""
    for name in (path.stem.lower(), path.parent.name.lower()):
        words = set(re.findall("[a-z]+", name))
        for split, known in _SPLIT_WORDS.items():
            if words & known:
                return split
    return None


def find_picture_folder(path: Path, names: Sequence[str], dataset: str) -> Path:
    """The folder that a file's pictures are relative to: of all that could be it, the one that holds most of them.

    Raises:
        DatasetError: none holds any.
    """
    subset = path.stem.partition("_")[2]
    inner = [*(["images/" + subset, subset, subset + "/images"] if subset else []), "images", "", "JPEGImages"]
    folders = [base / one for base in (path.parent, path.parent.parent) for one in inner]
    some = [names[int(place)] for place in np.unique(np.linspace(0, len(names) - 1, MAX_PROBES).astype(int))]
    for is_stripped in (False, True):
        held = {
            folder: sum(find_file(folder, name, strip=is_stripped) is not None for name in some) for folder in folders
        }
        best = max(folders, key=lambda folder: held[folder])
        if held[best]:
            return best
    raise DatasetError(
        f"{dataset}: the picture {names[0]!r} of {path} is in none of {', '.join(map(str, folders))}; put the pictures "
        "into a folder 'images' beside the file"
    )


def _locate_pictures(folder: Path, names: set[str], dataset: str) -> dict[str, str]:
    """Each name's file relative to the folder; the name itself where there is none, which is refused when it is read.

    Raises:
        DatasetError: two names lead to one file.
    """
    files: dict[str, str] = {}
    meant: dict[Path, str] = {}
    for name in sorted(names):
        path = find_file(folder, name, strip=False) or find_file(folder, name)
        if path is None:
            files[name] = name
            continue
        if meant.setdefault(path, name) != name:
            raise DatasetError(
                f"{dataset}: {meant[path]!r} and {name!r} both lead to {path}, which is one picture; keep the folders "
                "that the names speak of"
            )
        files[name] = path.relative_to(folder).as_posix()
    return files


DATASETS = {
    "coco": Dataset(
        title="Own data: a COCO instance file (coco:PATH)",
        paper="yours",
        licence="yours",
        home="docs: your own data; a COCO JSON beside images/",
        teaches="your names and expressions -> masks",
        splits=SPLITS,
        location="path",
        index=read_records,
        sample=read_sample,
    )
}
