"""People's own data as pictures with masks: ``folder:PATH``.

Layout of the folder::

    images/cat.jpg               masks/cat.png               a picture and its objects
    images/street/00000.jpg      masks/street/00000.png      a video: a folder of frames
    labels.json                                              optional: what the objects are called
    splits.json                                              optional: {"train": ["cat"], "val": ["street"]}

A mask is a grey or palette PNG of the picture's size: 0 is background, k is object k, the same in all frames of a
video. A mask with no other values than 0 and 255 is one of yes and no: 255 is object 1. Every picture needs a mask (a
black one if nothing is on it); of a video, the frames that have a mask are the clip. ``labels.json`` says for a picture
or video, by its name without the ending, what its objects are::

    {"cat": {"1": "cat", "2": {"name": "cup", "expressions": ["the cup that is about to fall"]}}}

Records: in ``train`` one per picture or video with a query per name and expression, elsewhere one per query, id
``name/n``. Objects that share a name or expression are all targets of its query. A picture or video that is not in
``labels.json`` has the one query "object", for all objects on it. Splits: train, val, all; see `own.names_of_split`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unipixel.data.clips import chosen_frames, open_clip
from unipixel.data.encodings import track
from unipixel.data.files import read_json, require
from unipixel.data.own import Label, label_of, names_of_split, per_record, queries_of
from unipixel.data.pictures import PICTURE_SUFFIXES, check_size, index_picture, open_picture
from unipixel.data.record import Record
from unipixel.errors import DatasetError
from unipixel.media.sources import natural_key
from unipixel.sample import Query, Sample

UNNAMED = "object"
"""What is asked for where no label says more."""


class _Item(NamedTuple):
    """A picture or video."""

    is_video: bool
    frames: tuple[str, ...]
    masks: tuple[str, ...]


class _Raw(NamedTuple):
    """What a record keeps."""

    masks: tuple[str, ...]
    queries: tuple[Query, ...] | None
    """None: nothing is labelled."""
    labelled: tuple[int, ...]


def index(root: Path, dataset: str, split: str) -> list[Record]:
    """The records of a split.

    Raises:
        DatasetError: a folder or mask is missing, or a JSON file damaged or about other pictures.
    """
    items = _items(root, dataset)
    labels = _labels(root / "labels.json", items, dataset)
    records = []
    for name in names_of_split(items, split, root, dataset):
        item, queries = items[name], queries_of(labels[name]) if name in labels else None
        for ending, some in per_record(queries or (Query(kind="query", text=UNNAMED),), split):
            records.append(
                Record(
                    dataset=dataset,
                    split=split,
                    id=name + ending,
                    data_type="seg_video" if item.is_video else "seg_image",
                    root=root,
                    frame_names=item.frames,
                    raw=_Raw(item.masks, some if queries else None, tuple(labels.get(name, {}))),
                )
            )
    return records


def sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """A picture or clip with its objects.

    Raises:
        DatasetError: a file is missing, damaged or of another size, or a label names an object that is nowhere.
    """
    raw: _Raw = record.raw
    ts = chosen_frames(record, frames, len(raw.masks))
    media = open_clip(record, ts) if record.data_type == "seg_video" else open_picture(record, frames)
    numbers = [_numbers(record, raw.masks[t], media.size_hw) for t in ts]
    values = sorted({value for one in numbers for value in np.unique(one).tolist()} - {0})
    if values == [255]:
        numbers, values = [(one != 0).astype(np.uint8) for one in numbers], [1]
    unseen = sorted(set(raw.labelled) - set(values))
    if frames is None and unseen:
        raise DatasetError(
            f"{record.source}: labels.json names object {unseen[0]}, but the masks hold the objects "
            f"{', '.join(map(str, values)) or 'none'}"
        )
    objects = {
        value: track([one == value for one in numbers], where=record.source) for value in sorted({*values, *unseen})
    }
    queries = raw.queries
    if queries is None:
        queries = (Query(kind="query", text=UNNAMED, targets=tuple(values) or (None,)),)
    return Sample(media=media, objects=objects, queries=queries, source=record.source)


def _items(root: Path, dataset: str) -> dict[str, _Item]:
    """Pictures and videos by name, in natural order."""
    images, masks = (require(root / name, dataset, "folder") for name in ("images", "masks"))
    items: dict[str, _Item] = {}
    for path in sorted(images.iterdir(), key=lambda path: natural_key(path.name)):
        if path.name.startswith(".") or not (path.is_dir() or path.suffix.lower() in PICTURE_SUFFIXES):
            continue
        name = path.name if path.is_dir() else path.stem
        if name in items:
            raise DatasetError(f"{dataset}: two pictures in {images} are named {name!r}; rename one and its mask")
        items[name] = _video(path, masks / name, dataset) if path.is_dir() else _picture(path, masks, dataset)
    if not items:
        raise DatasetError(f"{dataset}: {images} holds no picture and no folder of frames")
    return items


def _picture(path: Path, masks: Path, dataset: str) -> _Item:
    mask = masks / f"{path.stem}.png"
    if not mask.is_file():
        raise DatasetError(f"{dataset}: {path} has no mask {mask}; add it, all black if nothing is on the picture")
    return _Item(False, (f"images/{path.name}",), (f"masks/{mask.name}",))


def _video(folder: Path, masks: Path, dataset: str) -> _Item:
    drawn = _stems(masks) if masks.is_dir() else set()
    paths = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.stem in drawn]
    if not paths:
        raise DatasetError(f"{dataset}: no frame of the video {folder} has a mask; {masks} should hold PNGs")
    paths.sort(key=lambda path: natural_key(path.name))
    frames = tuple(f"images/{folder.name}/{path.name}" for path in paths)
    return _Item(True, frames, tuple(f"masks/{folder.name}/{path.stem}.png" for path in paths))


def _stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir() if path.suffix == ".png"}


def _labels(path: Path, items: Mapping[str, Any], dataset: str) -> dict[str, dict[int, Label]]:
    """Labels by picture or video and object."""
    if not path.exists():
        return {}
    labels = {}
    for name, objects in read_json(path, dataset).items():
        where = f"{dataset}: {path}, {name!r}"
        if name not in items:
            raise DatasetError(f"{where}: there is no such picture or video; {_near(name, items)}")
        if not isinstance(objects, dict) or not objects:
            raise DatasetError(f"{where}: the labels are {objects!r:.60}; they should be an object, number: label")
        labels[name] = {
            _number(key, where): label_of(value, f"{where}, object {key}") for key, value in objects.items()
        }
    return labels


def _near(name: str, items: Iterable[str]) -> str:
    if Path(name).stem in items:
        return f"name it {Path(name).stem!r}, without the ending"
    return f"there is for example {next(iter(items))!r}"


def _number(key: str, where: str) -> int:
    if not key.isdecimal() or int(key) == 0:
        raise DatasetError(f"{where}: the object is {key!r}; it should be its pixel value in the mask, 1 or more")
    return int(key)


def _numbers(record: Record, name: str, size_hw: tuple[int, int]) -> np.ndarray:
    """One mask picture, uint8 or uint16 (H, W)."""
    values = index_picture(record.root / name, record.source)
    check_size((values.shape[0], values.shape[1]), size_hw, record, name)
    return values
