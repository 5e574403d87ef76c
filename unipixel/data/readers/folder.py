"""People's own data as pictures with masks: ``folder:PATH``.

Layout of the folder::

    images/cat.jpg               masks/cat.png               a picture and its objects
    images/street/00000.jpg      masks/street/00000.png      a video: a folder of frames
    labels.json                                              optional: what the objects are called
    splits.json                                              optional: {"train": ["cat"], "val": ["street"]}

A mask is a grey or palette PNG of the picture's size: 0 is background, k is object k, the same in all frames of a
video. A mask with no other values than 0 and 255 is one of yes and no: 255 is object 1. So is one with grey edges
between black and white, or a JPEG, cut at half white; other greys are refused (`masks.load_annotated_ids`). Every
picture needs a mask (a black one if nothing is on it); of a video, the frames that have a mask are the clip. Leftovers
of operating systems (``._cat.jpg``, ``Thumbs.db``) are no pictures. ``labels.json`` says for a picture or video, by its
name with or without the ending, what its objects are::

    {"cat": {"1": "cat", "2": {"name": "cup", "expressions": ["the cup that is about to fall"]}}}

Records: in ``train`` one per picture or video with a query per name and expression, elsewhere one per query, id
``name/n``. Objects that share a name or expression are all targets of its query. A picture or video that is not in
``labels.json`` has the one query "object", for all objects on it. Splits: train, val, all; see `labels.choose_names`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unipixel.data.encodings import build_track
from unipixel.data.files import read_json, require
from unipixel.data.frames import PICTURE_SUFFIXES, check_size, open_clip, open_picture, resolve_frames
from unipixel.data.labels import SPLITS, build_queries, choose_names, parse_label, split_queries
from unipixel.data.records import Dataset, Instance, Record
from unipixel.errors import DatasetError, MediaError
from unipixel.masks import load_annotated_ids
from unipixel.media.names import NameAliases, is_junk, normalize_name
from unipixel.media.sources import build_sort_key
from unipixel.sample import Query, Sample

UNNAMED = "object"
"""What is asked for where no label says more."""
_Paths = tuple[tuple[str, ...], tuple[str, ...]]
"""Of frames, and of their masks."""


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """The records of a split.

    Raises:
        DatasetError: a folder or mask is missing, or a JSON file damaged or about other pictures.
    """
    items = _find_items(root, dataset, split)
    pictures = ((name, item.frame_names) for name, item in items.items() if item.data_type == "seg_image")
    aliases = NameAliases(items, {name: Path(frames[0]).name for name, frames in pictures if frames})
    labels = _read_labels(root / "labels.json", items, aliases, dataset)
    records = []
    for name in choose_names(items, split, root, dataset, aliases):
        item, queries = items[name], build_queries(labels[name]) if name in labels else None
        for ending, some in split_queries(queries or (Query(kind="query", text=UNNAMED),), split):
            raw = (item.raw, some if queries else None, tuple(labels.get(name, {})))
            records.append(replace(item, id=name + ending, raw=raw))
    return records


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """A picture or clip with its objects.

    Raises:
        DatasetError: a file is missing, damaged or of another size, or a label names an object that is nowhere.
    """
    masks: tuple[str, ...]
    queries: tuple[Query, ...] | None  # None: nothing is labelled
    labelled: tuple[int, ...]
    masks, queries, labelled = record.raw
    ts = resolve_frames(record, frames, len(masks))
    media = open_clip(record, ts) if record.data_type == "seg_video" else open_picture(record, frames)
    read = [_read_numbers(record, masks[t], media.size_hw) for t in ts]
    numbers = [one for one, _ in read]
    values = sorted({value for one in numbers for value in np.unique(one).tolist()} - {0})
    if any(is_cut for _, is_cut in read) and values != [255]:
        few = ", ".join(map(str, values[:8]))
        raise DatasetError(
            f"{record.source}: some of its masks are one object in shades of grey, others hold the numbers {few}; "
            "draw all of them in one way"
        )
    if values == [255] and 255 not in labelled:
        numbers, values = [(one != 0).astype(np.uint8) for one in numbers], [1]
    unseen = sorted(set(labelled) - set(values))
    if frames is None and unseen:
        raise DatasetError(
            f"{record.source}: labels.json names object {unseen[0]}, but the masks hold the objects "
            f"{', '.join(map(str, values)) or 'none'}"
        )
    objects = {
        value: build_track([one == value for one in numbers], where=record.source)
        for value in sorted({*values, *unseen})
    }
    if queries is None:
        queries = (Query(kind="query", text=UNNAMED, targets=tuple(values) or (None,)),)
    return Sample(media=media, objects=objects, queries=queries, source=record.source)


def _find_items(root: Path, dataset: str, split: str) -> dict[str, Record]:
    """A record of each picture or video by its name, in natural order, with the paths of the masks alone."""
    images, masks = (require(root / name, dataset, "folder") for name in ("images", "masks"))
    items: dict[str, Record] = {}
    drawn = _map_stems(masks, dataset)
    for path in sorted(images.iterdir(), key=lambda path: build_sort_key(path.name)):
        if is_junk(path.name) or not (path.is_dir() or path.suffix.lower() in PICTURE_SUFFIXES):
            continue
        name = normalize_name(path.name if path.is_dir() else path.stem)
        if name in items:
            raise DatasetError(f"{dataset}: two pictures in {images} are named {name!r}; rename one and its mask")
        frames, paths = _pair_frames(path, masks, dataset) if path.is_dir() else _pair_picture(path, drawn)
        items[name] = Record(
            dataset=dataset,
            split=split,
            id=name,
            data_type="seg_video" if path.is_dir() else "seg_image",
            root=root,
            frame_names=frames,
            raw=paths,
        )
    items = {name: item for name, item in items.items() if item.frame_names}
    if not items:
        raise DatasetError(f"{dataset}: {images} holds no picture and no folder of frames")
    return items


def _pair_picture(path: Path, drawn: Mapping[str, str]) -> _Paths:
    # a missing one is refused when its record is read, so that it does not stand in the way of all others
    mask = drawn.get(normalize_name(path.stem), f"{path.stem}.png")
    return (f"images/{path.name}",), (f"masks/{mask}",)


def _pair_frames(folder: Path, masks: Path, dataset: str) -> _Paths:
    masks = next(
        (path for path in masks.iterdir() if normalize_name(path.name) == normalize_name(folder.name)),
        masks / folder.name,
    )
    drawn = _map_stems(masks, dataset) if masks.is_dir() else {}
    frames = _map_stems(folder, dataset)
    stems = sorted(set(frames) & set(drawn) or set(frames), key=lambda stem: build_sort_key(frames[stem]))
    return (
        tuple(f"images/{folder.name}/{frames[stem]}" for stem in stems),
        tuple(f"masks/{masks.name}/{drawn.get(stem, f'{stem}.png')}" for stem in stems),
    )


def _map_stems(folder: Path, dataset: str) -> dict[str, str]:
    """Names of the pictures in a folder by what they are called without the ending; of two masks, the PNG.

    Raises:
        DatasetError: two pictures of one kind are called the same.
    """
    found: dict[str, str] = {}
    paths = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and not is_junk(path.name)]
    for path in sorted(paths, key=lambda path: (path.suffix.lower() == ".png", path.name)):
        stem = normalize_name(path.stem)
        if stem in found and Path(found[stem]).suffix.lower() == path.suffix.lower():
            raise DatasetError(f"{dataset}: {found[stem]!r} and {path.name!r} in {folder} are one name; rename one")
        found[stem] = path.name
    return found


def _read_labels(
    path: Path, items: Mapping[str, Any], aliases: NameAliases, dataset: str
) -> dict[str, dict[int, Instance]]:
    """Labels by picture or video and object."""
    if not path.exists():
        return {}
    labels: dict[str, dict[int, Instance]] = {}
    written: dict[str, str] = {}
    for key, objects in read_json(path, dataset).items():
        where, name = f"{dataset}: {path}, {key!r}", aliases.find(key)
        if name in written:
            raise DatasetError(f"{where}: {written[name]!r} means the same picture; put their objects together")
        if name is not None:
            written[name] = key
        if name is None:
            raise DatasetError(
                f"{where}: there is no such picture or video; there is for example {next(iter(items))!r}"
            )
        if not isinstance(objects, dict) or not objects:
            raise DatasetError(f"{where}: the labels are {objects!r:.60}; they should be an object, number: label")
        labels[name] = {
            _parse_number(key, where): parse_label(value, f"{where}, object {key}") for key, value in objects.items()
        }
    return labels


def _parse_number(key: str, where: str) -> int:
    if not key.isdecimal() or int(key) == 0:
        raise DatasetError(f"{where}: the object is {key!r}; it should be its pixel value in the mask, 1 or more")
    return int(key)


def _read_numbers(record: Record, name: str, size_hw: tuple[int, int]) -> tuple[np.ndarray, bool]:
    """One mask picture, uint8 or uint16 (H, W), and whether it is one object that was cut out of grey."""
    if not (record.root / name).is_file():
        raise DatasetError(
            f"{record.source}: the mask {record.root / name} does not exist; add it, all black if nothing is on "
            "the picture"
        )
    try:
        values, is_cut = load_annotated_ids(record.root / name)
    except MediaError as error:
        raise DatasetError(f"{record.source}: {error}") from error
    check_size((values.shape[0], values.shape[1]), size_hw, record, name)
    return values, is_cut


DATASETS = {
    "folder": Dataset(
        title="Own data: pictures and masks (folder:PATH)",
        paper="yours",
        licence="yours",
        home="docs: your own data; images/ and masks/ with the object's number in every pixel",
        teaches="your names and expressions -> masks",
        splits=SPLITS,
        location="path",
        index=read_records,
        sample=read_sample,
    )
}
