"""``unipixel data``: which datasets there are, whether they are complete, and what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from unipixel.cli.output import check_folder, show_written, stderr, stdout
from unipixel.errors import DatasetError

if TYPE_CHECKING:
    from unipixel.data import Dataset
    from unipixel.sample import Sample

data = typer.Typer(no_args_is_help=True, help="List, check and look at datasets.")

Name = Annotated[str, typer.Argument(metavar="NAME[/SPLIT]", help="As in `unipixel data list`, or folder:PATH.")]
Root = Annotated[
    Path, typer.Option("--root", metavar="DIR", help="The folder that holds the datasets, or the one above its 'data'.")
]


@data.callback()
def datasets() -> None:
    """List, check and look at datasets."""


@data.command("list")
def list_() -> None:
    """Name every dataset that can be read, with its splits, paper, licence and what it trains."""
    from unipixel.data import DATASETS
    from unipixel.data.catalogue import TRAINS

    table = Table("name", "splits", "trains", "paper", "licence")
    table.columns[0].no_wrap = True  # a name is there to be copied
    for name, dataset in DATASETS.items():
        table.add_row(name, ", ".join(dataset.splits), TRAINS.get(name, ""), dataset.paper, dataset.licence)
    stdout().print(table)


@data.command()
def check(name: Name, root: Root = Path(".")) -> None:
    """Say what of a dataset is there and what is missing, count its records, and read one sample of each split.

    Ends with exit code 1 if something is missing or damaged.
    """
    from unipixel.data import find, split_name

    name, only = split_name(name)
    dataset = find(name)
    table = Table("split", "files", "records", "first sample", title=f"{name}: {dataset.title}")
    problems: list[str] = []
    for split in (only,) if only else dataset.splits:
        with stderr().status(f"reading {name}/{split}"):
            row, found = _check_split(name, dataset, split, root)
        table.add_row(split, *row)
        problems += [problem for problem in found if problem not in problems]
    stdout().print(table)
    for problem in problems:
        typer.echo(problem)
    if problems:
        typer.echo(f"where it comes from: {dataset.home}")
        raise typer.Exit(1)


@data.command()
def show(
    name: Name,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for the pictures.")],
    count: Annotated[int, typer.Option("-n", "--count", metavar="N", help="Samples per split.")] = 4,
    root: Root = Path("."),
) -> None:
    """Draw samples with their masks and texts on one sheet per split, to look at."""
    if count < 1:
        raise ValueError(f"--count is {count}; it must be at least 1")
    check_folder(out, "--out")
    from unipixel.data import find, split_name

    name, only = split_name(name)
    splits = [only] if only else [split for split in find(name).splits if not _missing(name, split, root)]
    if not splits:
        raise DatasetError(f"{name}: no split is complete in {root}; `unipixel data check {name}` says what is missing")
    skipped: list[DatasetError] = []
    for split in splits:
        with stderr().status(f"drawing {name}/{split}"):
            try:
                written = _sheet(name, split, root, count, out)
            except DatasetError as error:
                skipped.append(error)
                continue
        show_written([written])
    if len(skipped) == len(splits):
        raise skipped[0]
    for reason in skipped:
        typer.echo(f"left out: {reason}", err=True)


def _check_split(name: str, dataset: Dataset, split: str, root: Path) -> tuple[tuple[str, str, str], list[str]]:
    """The row of a split (files, records, first sample), and what is wrong."""
    from unipixel.data import open_index, read

    missing = _missing(name, split, root)
    total = len(dataset.files.get(split, ()))
    files = f"{total - len(missing)} of {total}" if total else "none needed" if ":" not in name else "yours"
    if missing:
        return (files, "", ""), [f"missing: {path}" for path in missing]
    records = 0
    try:
        index = open_index(name, root, split)
        records = len(index)
        if not index:
            raise DatasetError(f"{name}/{split}: there is no record; the annotation file is empty")
        return (files, f"{records:,}", _described(read(index[0]))), []
    except DatasetError as error:
        return (files, f"{records:,}" if records else "", "unreadable"), [f"wrong: {error}"]


def _missing(name: str, split: str, root: Path) -> list[Path]:
    """Files and folders of a split that do not exist."""
    from unipixel.data import find
    from unipixel.data.files import data_folder

    files = find(name).files.get(split, ())
    if not files:
        return []
    folder = data_folder(root)
    return [folder / file for file in files if not (folder / file).exists()]


def _described(sample: Sample) -> str:
    if sample.words_only:
        parts = ["words alone"]
    else:
        height, width = sample.media.size_hw
        frames = sample.media.num_frames
        parts = [f"{width} x {height}" + (f", {frames} frames" if sample.media.is_video else "")]
        parts.append(f"{len(sample.objects)} object(s)")
    texts = [query.text for query in sample.queries] + [turn.question for turn in sample.turns]
    if texts:
        parts.append(f"{len(texts)} text(s): {_short(texts[0], 40)!r}")
    return ", ".join(parts)


def _sheet(name: str, split: str, root: Path, count: int, out: Path) -> Path:
    """Draw a split and return the file."""
    from unipixel.cli.sheets import sheet
    from unipixel.data import open_index
    from unipixel.draw import write_png
    from unipixel.media import sample_indices

    index = open_index(name, root, split)
    if not index:
        raise DatasetError(f"{name}/{split}: there is no record; the annotation file is empty")
    chosen: Sequence[int] = sample_indices(len(index), count)
    key = name.partition(":")[0]
    return write_png(sheet([index[place] for place in chosen]), out / f"{key}_{split}.png")


def _short(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."
