"""``unipixel data``: which datasets there are, whether they are complete, and what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.table import Table

from unipixel.cli.output import build_progress, check_folder, show_written, stderr, stdout
from unipixel.errors import DatasetError, UnipixelError

if TYPE_CHECKING:
    from unipixel.data import Dataset, Record
    from unipixel.masks import MaskTrack
    from unipixel.sample import Query, Sample, Turn

MAX_FRAMES, MAX_TEXTS, MAX_CHARACTERS = 4, 8, 400
"""Frames of a clip that are drawn on a sheet, texts of a record below it, and characters of each."""

data = typer.Typer(no_args_is_help=True, help="List, check and show datasets.")

Name = Annotated[str, typer.Argument(metavar="NAME[/SPLIT]", help="As in `unipixel data list`, or folder:PATH.")]
Root = Annotated[
    Path,
    typer.Option("--data-root", metavar="DIR", help="The folder that holds the datasets, or the one above its 'data'."),
]


@data.callback()
def configure_data() -> None:
    """List, check and show datasets."""


@data.command("list")
def list_datasets() -> None:
    """Name every dataset that can be read, with its splits, paper, licence and what it trains."""
    from unipixel.data import DATASETS

    table = Table("name", "splits", "trains", "paper", "licence")
    table.columns[0].no_wrap = True  # a name is there to be copied
    for name, dataset in DATASETS.items():
        table.add_row(name, ", ".join(dataset.splits), dataset.teaches, dataset.paper, dataset.licence)
    stdout().print(table)


@data.command()
def check(
    name: Name,
    root: Root = Path("."),
    quick: Annotated[bool, typer.Option("--quick", help="Read one record of each split, not all of them.")] = False,
    processes: Annotated[
        int | None, typer.Option("--processes", metavar="N", help="Processes that read; by default one per CPU.")
    ] = None,
) -> None:
    """Say what of a dataset is there and what is missing, and read every record: its media and its masks.

    Ends with exit code 1 if something is missing or damaged.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"--processes is {processes}; it must be at least 1")
    from unipixel.data import find_dataset, parse_name
    from unipixel.data.records import describe_left_out

    name, only = parse_name(name)
    dataset = find_dataset(name)
    table = Table("split", "files", "records", "first sample", title=f"{name}: {dataset.title}")
    problems: list[str] = []
    bad: dict[str, str] = {}
    left_out: list[tuple[str, str]] = []
    splits = (only,) if only else dataset.splits
    for split in splits:
        with stderr().status(f"reading {name}/{split}"):
            row, found, index = _check_split(name, dataset, split, root)
        table.add_row(split, *row)
        problems += [problem for problem in found if problem not in problems]
        left_out += [one for one in getattr(index, "left_out", ()) if one not in left_out]
        # of people's own data, "all" is what the other splits are parts of
        # the built-in world is drawn anew each time
        if not quick and dataset.location != "none" and (split == "all" or "all" not in splits):
            bad |= _read_all(f"{name}/{split}", index, processes)
    stdout().print(table)
    for note in describe_left_out(left_out):
        typer.echo(note)
    if bad:
        _show_bad(bad)
    shown = set(bad.values())
    for problem in problems:
        if problem.removeprefix("wrong: ") not in shown:
            typer.echo(problem)
    if problems or bad:
        typer.echo(f"where it comes from: {dataset.home}")
        raise typer.Exit(1)


def _read_all(title: str, index: Sequence[Record], processes: int | None) -> dict[str, str]:
    """Reasons by record of those that cannot be read."""
    from unipixel.data.catalogue import check_records

    bar = build_progress(title, remaining=True, transient=True)
    with bar:
        task = bar.add_task("", total=len(index))
        return check_records(index, processes=processes, progress=lambda count: bar.advance(task, count))


def _show_bad(bad: dict[str, str]) -> None:
    """Bad records by the kind of their fault, and the first of each."""
    from unipixel.data.records import MAX_NAMED, classify_reason

    kinds: dict[str, list[str]] = {}
    for source, reason in bad.items():
        message = reason if source in reason else f"{source}: {reason}"
        kinds.setdefault(classify_reason(reason), []).append(message)
    table = Table("fault", "records", title=f"cannot be read: {len(bad):,}")
    for kind, some in sorted(kinds.items(), key=lambda item: -len(item[1])):
        table.add_row(kind, f"{len(some):,}")
    stdout().print(table)
    for some in kinds.values():
        for message in some[:MAX_NAMED]:
            typer.echo(f"wrong: {message}")
        if len(some) > MAX_NAMED:
            typer.echo(f"... and {len(some) - MAX_NAMED} more of this kind")


@data.command()
def show(
    name: Name,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for the pictures.")],
    count: Annotated[int, typer.Option("-n", "--count", metavar="N", help="Samples per split.")] = 4,
    root: Root = Path("."),
) -> None:
    """Draw samples with their masks and texts on one sheet per split."""
    if count < 1:
        raise ValueError(f"--count is {count}; it must be at least 1")
    check_folder(out, "--out")
    from unipixel.data import find_dataset, parse_name

    name, only = parse_name(name)
    splits = [only] if only else [split for split in find_dataset(name).splits if not _find_missing(name, split, root)]
    if not splits:
        raise DatasetError(f"{name}: no split is complete in {root}; `unipixel data check {name}` says what is missing")
    skipped: list[DatasetError] = []
    for split in splits:
        with stderr().status(f"drawing {name}/{split}"):
            try:
                written = _draw_split(name, split, root, count, out)
            except DatasetError as error:
                skipped.append(error)
                continue
        show_written([written])
    if len(skipped) == len(splits):
        raise skipped[0]
    for reason in skipped:
        typer.echo(f"left out: {reason}", err=True)


def _check_split(
    name: str, dataset: Dataset, split: str, root: Path
) -> tuple[tuple[str, str, str], list[str], Sequence[Record]]:
    """The row of a split (files, records, first sample), what is wrong with it, and its records."""
    from unipixel.data import open_index, read

    missing = _find_missing(name, split, root)
    total = len(dataset.files.get(split, ()))
    files = f"{total - len(missing)} of {total}" if total else "none needed" if ":" not in name else "yours"
    if missing:
        return (files, "", ""), [f"missing: {path}" for path in missing], []
    index: Sequence[Record] = []
    try:
        index = open_index(name, root, split)
        if not index:
            raise DatasetError(f"{name}/{split}: there is no record; the annotation file is empty")
        return (files, f"{len(index):,}", _describe_sample(read(index[0]))), [], index
    except UnipixelError as error:
        return (files, f"{len(index):,}" if index else "", "unreadable"), [f"wrong: {error}"], index


def _find_missing(name: str, split: str, root: Path) -> list[Path]:
    """Files and folders of a split that do not exist."""
    from unipixel.data import find_dataset
    from unipixel.data.files import find_data_folder

    files = find_dataset(name).files.get(split, ())
    if not files:
        return []
    folder = find_data_folder(root)
    return [folder / file for file in files if not (folder / file).exists()]


def _describe_sample(sample: Sample) -> str:
    if sample.is_text_only:
        parts = ["words alone"]
    else:
        height, width = sample.media.size_hw
        frames = sample.media.num_frames
        parts = [f"{width} x {height}" + (f", {frames} frames" if sample.media.is_video else "")]
        parts.append(f"{len(sample.objects)} object(s)")
    texts = [query.text for query in sample.queries] + [turn.question for turn in sample.turns]
    if texts:
        parts.append(f"{len(texts)} text(s): {_shorten(texts[0], 40)!r}")
    return ", ".join(parts)


def _draw_split(name: str, split: str, root: Path, count: int, out: Path) -> Path:
    """Draw a split and return the file."""
    from unipixel.data import open_index
    from unipixel.draw import write_png
    from unipixel.media import sample_indices

    index = open_index(name, root, split)
    if not index:
        raise DatasetError(f"{name}/{split}: there is no record; the annotation file is empty")
    chosen: Sequence[int] = sample_indices(len(index), count)
    key = name.partition(":")[0]
    return write_png(draw_sheet([index[place] for place in chosen]), out / f"{key}_{split}.png")


def _shorten(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."


def draw_sheet(records: Sequence[Record]) -> np.ndarray:
    """Pictures of records with captions, uint8 (H, W, 3).

    Raises:
        DatasetError: a sample cannot be read.
    """
    from unipixel.data import read
    from unipixel.draw import make_contact_sheet
    from unipixel.media import sample_indices

    pictures, captions, is_video = [], [], False
    for record in records:
        # All of the clip where it names no frames: then only the video file knows how many there are.
        ts = None if record.num_frames is None else sample_indices(record.num_frames, MAX_FRAMES)
        sample = read(record, ts)
        pictures.append(_draw_sample(sample))
        captions.append("\n".join([record.id, *_list_texts(sample)]))
        is_video |= not sample.is_text_only and sample.media.num_frames > 1
    if is_video:
        return make_contact_sheet(pictures, captions, columns=2, cell_width=800)
    return make_contact_sheet(pictures, captions, cell_width=400)


def _draw_sample(sample: Sample) -> np.ndarray:
    """Up to four frames side by side with the masks of all objects; a grey field for words alone."""
    from unipixel.draw import mark_prompts, overlay
    from unipixel.media import sample_indices

    if sample.is_text_only:
        return np.full((100, 160, 3), 128, dtype=np.uint8)
    tracks: list[tuple[int, str, MaskTrack]] = []
    if "ignore" in sample.areas:
        tracks.append((0, "ignored", sample.areas["ignore"]))
    tracks += [(number, str(number), one) for number, one in sample.objects.items()]
    drawn = []
    for t in sample_indices(sample.media.num_frames, MAX_FRAMES):
        frame = sample.media.frame(t)
        if tracks:
            masks = np.stack([one.mask(t) for _, _, one in tracks])
            frame = overlay(frame, masks, [label for _, label, _ in tracks], [number for number, _, _ in tracks])
        drawn.append(mark_prompts(frame, boxes=list(sample.boxes.values())) if sample.boxes else frame)
    return np.concatenate(drawn, axis=1)


def _list_texts(sample: Sample) -> list[str]:
    texts = [_format_query(query) for query in sample.queries] + [_format_turn(turn) for turn in sample.turns]
    more = len(texts) - MAX_TEXTS
    return texts[:MAX_TEXTS] + ([f"... and {more} more"] if more > 0 else [])


def _format_query(query: Query) -> str:
    options = "".join(f" ({letter}) {text}" for letter, text in zip("ABCDEFGHIJ", query.options, strict=False))
    targets = ", ".join("not there" if target is None else str(target) for target in query.targets)
    answer = " ".join(filter(None, [query.answer, f"[{targets}]" if targets else ""]))
    return _shorten(f"{query.kind}: {query.text}{options}" + (f" -> {answer}" if answer else ""), MAX_CHARACTERS)


def _format_turn(turn: Turn) -> str:
    return _shorten(f"{turn.question} -> {turn.answer}", MAX_CHARACTERS)
