"""Datasets by name: their records, and the samples behind them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from unipixel.data.catalogue import DATASETS, WITHOUT_ROOT
from unipixel.data.files import find_data_folder
from unipixel.data.records import Dataset, Record
from unipixel.errors import DatasetError
from unipixel.sample import Sample

OWN = ("folder", "coco")
"""Readers of people's own data, which take a path: ``folder:PATH``."""


def find_dataset(name: str) -> Dataset:
    """A dataset of the catalogue, by its name or, for own data, ``folder:PATH`` or ``coco:PATH``.

    Raises:
        DatasetError: there is none of this name, or the path is missing.
    """
    key, _, path = name.partition(":")
    if key not in DATASETS or (path and key not in OWN):
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; `unipixel data list` names them all"
        raise DatasetError(f"there is no dataset {name!r}{hint}")
    if key in OWN and not path:
        raise DatasetError(f"the dataset {key!r} needs to know where your data are; write {key}:PATH")
    return DATASETS[key]


def parse_name(text: str) -> tuple[str, str | None]:
    """Dataset and split of ``NAME[/SPLIT]``; without a split, None.

    A path of own data is taken as it is if it exists, even if it ends like a split.

    Raises:
        DatasetError: there is no such dataset or split.
    """
    name, _, split = text.rpartition("/")
    key, _, path = text.partition(":")
    is_path = key in OWN and path and (Path(path).expanduser().exists() or split not in DATASETS[key].splits)
    if not name or is_path:
        find_dataset(text)
        return text, None
    _check_split(name, find_dataset(name), split)
    return name, split


def open_index(name: str, root: str | Path | None, split: str, *, protocol: str = "correct") -> list[Record]:
    """Every record of a split of a dataset.

    Args:
        name: as in `DATASETS`, or ``folder:PATH`` or ``coco:PATH``.
        root: the folder with the datasets, or the one above its ``data``; not looked at for own data and stickers.
        split: one of the dataset's splits.
        protocol: ``"original"`` for the records as the released training code makes them, see `Dataset.original`.

    Raises:
        DatasetError: there is no such dataset or split, or its files are missing or damaged.
    """
    dataset = find_dataset(name)
    _check_split(name, dataset, split)
    key, _, path = name.partition(":")
    index = dataset.original if protocol == "original" and dataset.original is not None else dataset.index
    return index(_find_root(name, path, root), key, split)


def read(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """The sample of a record.

    Args:
        frames: frames t of the record's clip that are wanted; by default all.

    Raises:
        DatasetError: a file is missing or damaged.
        ValueError: a frame is not in the clip.
    """
    return DATASETS[record.dataset].sample(record, frames)


def _find_root(name: str, path: str, root: str | Path | None) -> Path:
    """What the reader takes as its root."""
    if path:
        place = Path(path).expanduser()
        if not place.exists():
            raise DatasetError(f"{name}: there is nothing at {path!r}; give the folder or file that holds your data")
        return place
    if name in WITHOUT_ROOT:
        return Path()
    if root is None:
        raise DatasetError(f"{name}: no data root was given; give the folder that holds the datasets")
    return find_data_folder(root)


def _check_split(name: str, dataset: Dataset, split: str) -> None:
    if split not in dataset.splits:
        raise DatasetError(f"{name} has no split {split!r}; there are {', '.join(dataset.splits)}")
