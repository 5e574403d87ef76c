"""Every dataset that can be read, by name: its records, and the samples behind them."""

from __future__ import annotations

import difflib
import multiprocessing
import os
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import import_module
from pathlib import Path

from unipixel.data import readers
from unipixel.data.files import find_data_folder
from unipixel.data.records import Dataset, Record
from unipixel.errors import DatasetError, UnipixelError
from unipixel.sample import Sample

CHUNK = 32
"""Records that a process reads at a time; neighbours often show one picture, which is then decoded once."""
MAX_PROCESSES = 8


def collect_datasets() -> dict[str, Dataset]:
    """The rows of all modules in `unipixel.data.readers`, by name, in the order of the alphabet.

    Raises:
        ValueError: two readers have a dataset of one name.
    """
    rows: dict[str, Dataset] = {}
    for module in pkgutil.iter_modules(readers.__path__, f"{readers.__name__}."):
        own: dict[str, Dataset] = import_module(module.name).DATASETS
        twice = sorted(rows.keys() & own)
        if twice:
            raise ValueError(f"{module.name} declares the dataset {twice[0]!r}, which another reader has already")
        rows |= own
    return dict(sorted(rows.items()))


DATASETS = collect_datasets()
"""By name."""


def find_dataset(name: str) -> Dataset:
    """A dataset of the catalogue, by its name or, for own data, ``folder:PATH`` or ``coco:PATH``.

    Raises:
        DatasetError: there is none of this name, or the path is missing.
    """
    key, _, path = name.partition(":")
    if key not in DATASETS or (path and DATASETS[key].location != "path"):
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; `unipixel data list` names them all"
        raise DatasetError(f"there is no dataset {name!r}{hint}")
    if DATASETS[key].location == "path" and not path:
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
    is_own = path and key in DATASETS and DATASETS[key].location == "path"
    if not name or (is_own and (Path(path).expanduser().exists() or split not in DATASETS[key].splits)):
        find_dataset(text)
        return text, None
    _check_split(name, find_dataset(name), split)
    return name, split


def open_index(name: str, root: str | Path | None, split: str, *, protocol: str = "correct") -> list[Record]:
    """Every record of a split of a dataset.

    Args:
        name: as in `DATASETS`, or ``folder:PATH`` or ``coco:PATH``.
        root: the folder with the datasets, or the one above its ``data``; not used for own data and stickers.
        split: one of the dataset's splits.
        protocol: ``"original"`` for the records as the released training code makes them, see `Dataset.original`.

    Raises:
        DatasetError: there is no such dataset or split, or its files are missing or damaged.
    """
    dataset = find_dataset(name)
    _check_split(name, dataset, split)
    key, _, path = name.partition(":")
    index = dataset.original if protocol == "original" and dataset.original is not None else dataset.index
    return index(_find_root(name, dataset, path, root), key, split)


def read(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """The sample of a record.

    Args:
        frames: frames t of the record's clip that are wanted; by default all.

    Raises:
        DatasetError: a file is missing or damaged.
        ValueError: a frame is not in the clip.
    """
    return DATASETS[record.dataset].sample(record, frames)


def _find_root(name: str, dataset: Dataset, path: str, root: str | Path | None) -> Path:
    """What the reader takes as its root."""
    if path:
        place = Path(path).expanduser()
        if not place.exists():
            raise DatasetError(f"{name}: there is nothing at {path!r}; give the folder or file that holds your data")
        return place
    if dataset.location == "none":
        return Path()
    if root is None:
        raise DatasetError(f"{name}: no data root was given; give the folder that holds the datasets")
    return find_data_folder(root)


def _check_split(name: str, dataset: Dataset, split: str) -> None:
    if split not in dataset.splits:
        raise DatasetError(f"{name} has no split {split!r}; there are {', '.join(dataset.splits)}")


def check_records(
    records: Sequence[Record], *, processes: int | None = None, progress: Callable[[int], None] | None = None
) -> dict[str, str]:
    """Read all records.

    Args:
        processes: by default one per CPU, and only this one for few records.
        progress: called with the number of records that were read since the last call.

    Returns:
        The reason by record (`Record.source`) of each that cannot be read, in the order of the records.
    """
    chunks = [records[start : start + CHUNK] for start in range(0, len(records), CHUNK)]
    if processes is None:
        processes = min(MAX_PROCESSES, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
    found: dict[str, str] = {}
    for size, defects in _check_chunks(chunks, min(processes, len(chunks) // 4)):
        found |= defects
        if progress is not None:
            progress(size)
    return {record.source: found[record.source] for record in records if record.source in found}


def _check_chunks(chunks: Sequence[Sequence[Record]], processes: int) -> Iterator[tuple[int, dict[str, str]]]:
    if processes < 2:
        yield from ((len(chunk), find_defects(chunk)) for chunk in chunks)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(find_defects, chunk): len(chunk) for chunk in chunks}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def find_defects(records: Sequence[Record]) -> dict[str, str]:
    """What is wrong with some records, by `Record.source`; those that are right are not in it."""
    defects: dict[str, str] = {}
    decoded: dict[object, str] = {}
    for record in records:
        try:
            sample = read(record)
            shown = (record.root, record.frame_names or sample.media.source)
            if shown not in decoded:
                decoded[shown] = ""
                try:
                    for _ in sample.media:
                        pass
                except UnipixelError as error:
                    decoded[shown] = str(error)
                finally:
                    sample.media.close()
            if decoded[shown]:
                defects[record.source] = decoded[shown]
        except UnipixelError as error:
            defects[record.source] = str(error)
    return defects
