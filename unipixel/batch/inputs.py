"""What is asked of a batch: items out of folders, patterns, lists, tables and Ray Datasets, in an order that stays.

An item is a mapping of ``media`` (path or address), ``question`` (text or None), ``prompts`` (a list), ``options`` (of
`ITEM_OPTIONS`) and ``id`` (text of the caller's own). Items are read one after another; they are never all in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from unipixel.batch.storage import (
    has_suffix,
    is_folder,
    is_remote,
    list_files,
    open_filesystem,
    read_text,
    to_local,
)
from unipixel.checks import (
    check_flag,
    check_integer,
    check_list,
    check_mapping,
    check_number,
    check_text,
    join_lines,
    parse_json,
    shorten,
)
from unipixel.errors import DatasetError
from unipixel.masks import decode_rle, parse_rle
from unipixel.media.images import SUFFIXES
from unipixel.media.names import VIDEO_SUFFIXES
from unipixel.sample import Box, Mask, Point, Prompt

LIST_SUFFIXES = frozenset((".txt", ".lst", ".list"))
TABLE_SUFFIXES = frozenset((".jsonl", ".ndjson", ".parquet"))
FIELDS = ("media", "question", "prompts", "options", "id")
ITEM_OPTIONS = ("num_frames", "track", "start", "each", "force", "max_new_tokens", "temperature", "top_p", "seed")
"""Options of single items; they go before those of the batch."""


def read_items(source: Any, question: str | None = None) -> Iterator[dict[str, Any]]:
    """Items of a source, in an order that depends on nothing but the source.

    Args:
        source: a folder (all pictures and videos in it and its folders); a pattern such as ``clips/*.mp4``; a list
            file (``.txt``, one place a line, relative to the list); ``.jsonl`` or ``.parquet`` with the columns
            `FIELDS`, or a pattern of such files; one picture or video; or a Ray Dataset with those columns.
        question: asked where an item has none of its own.

    Raises:
        DatasetError: the source is not there, holds nothing, or a row is not as it should be.
    """
    count = 0
    for name, row in _read_rows(source):
        try:
            yield build_item(row, question)
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{name}: {join_lines(error)}") from error
        count += 1
    if not count:
        raise DatasetError(f"{source} holds no pictures, videos or rows to ask about")


def build_item(row: Any, question: str | None = None) -> dict[str, Any]:
    """A checked item out of a row of any source; what is empty is left to the defaults.

    Raises:
        ValueError: a field is not as it should be.
    """
    record = {name: value for name, value in check_mapping(row, "it", ("media",)).items() if value is not None}
    unknown = next((name for name in record if name not in FIELDS), None)
    if unknown is not None:
        raise ValueError(f"it has the field {shorten(unknown)}; there are {', '.join(FIELDS)}")
    media = check_text(record["media"], "media")
    if not media.strip():
        raise ValueError("media is empty; it must be a path or an address")
    prompts, options = (
        _parse_cell(record.get(name, empty), name) for name, empty in (("prompts", []), ("options", {}))
    )
    text = check_text(record.get("question", question or ""), "question")
    if not text.strip() and not prompts:
        raise ValueError("there is neither a question nor a prompt; give --question, or one of them for each item")
    parse_prompts(prompts)
    return {
        "id": str(record.get("id", media)),
        "media": _make_absolute(media),
        "question": text or None,
        "prompts": prompts,
        "options": _check_options({key: one for key, one in options.items() if one is not None}),
    }


def _make_absolute(media: str) -> str:
    """The same place for a process that stands in another folder."""
    return media if is_remote(media) or media.startswith("data:") else str(to_local(media).absolute())


def _parse_cell(value: Any, name: str) -> Any:
    """Prompts and options of tables may be JSON in text, as a column of Parquet holds them."""
    if isinstance(value, str):
        value = parse_json(value) if value.strip() else ([] if name == "prompts" else {})
    if hasattr(value, "tolist"):
        value = value.tolist()
    return check_mapping(value, name) if name == "options" else check_list(value, name)


def _check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        if name not in ITEM_OPTIONS:
            raise ValueError(f"options has the field {shorten(name)}; there are {', '.join(ITEM_OPTIONS)}")
        if name in ("num_frames", "max_new_tokens"):
            check_integer(value, name, 1)
        elif name == "seed" or (name == "start" and value != "best"):
            check_integer(value, name)
        elif name in ("each", "force"):
            check_flag(value, name)
        elif name in ("temperature", "top_p"):
            check_number(value, name, 0.0)
        elif name == "track" and value not in ("sampled", "all"):
            raise ValueError(f"track is {shorten(value)}; it must be 'sampled' or 'all'")
    return dict(options)


def parse_prompts(values: Any) -> list[Prompt]:
    """Prompts in the form of the HTTP interface.

    ``{"type": "point", "x": 4, "y": 5}``, ``{"type": "box", "box": [...]}`` or ``{"type": "mask", "rle": {...}}``, each
    with ``frame``, ``object_id`` and, of points, ``positive``.

    Raises:
        ValueError: one of them is not written so.
    """
    return [_parse_prompt(value, f"prompts[{place}]") for place, value in enumerate(check_list(values, "prompts"))]


def _parse_prompt(value: Any, name: str) -> Prompt:
    record = {key: one for key, one in check_mapping(value, name, ("type",)).items() if one is not None}
    kind = record["type"]
    needed = {"point": ("x", "y"), "box": ("box",), "mask": ("rle",)}.get(kind if isinstance(kind, str) else "")
    if needed is None:
        raise ValueError(f"{name}.type is {shorten(kind)}; it must be 'point', 'box' or 'mask'")
    check_mapping(record, name, needed)
    known = {"type", "frame", "object_id", *needed, *(("positive",) if kind == "point" else ())}
    unknown = next((key for key in record if key not in known), None)
    if unknown is not None:
        raise ValueError(f"{name} has the field {shorten(unknown)}, which a {kind} does not have")
    frame = check_integer(record.get("frame", 0), f"{name}.frame")
    number = record.get("object_id")
    object_id = None if number is None else check_integer(number, f"{name}.object_id", 1)
    if kind == "point":
        x, y = (check_number(record[axis], f"{name}.{axis}") for axis in ("x", "y"))
        return Point(x, y, frame, check_flag(record.get("positive", True), f"{name}.positive"), object_id)
    if kind == "box":
        corners = [check_number(one, f"{name}.box") for one in check_list(record["box"], f"{name}.box", 4)]
        return Box(corners[0], corners[1], corners[2], corners[3], frame, object_id)
    return Mask(decode_rle(parse_rle(check_mapping(record["rle"], f"{name}.rle"))), frame, object_id)


def _read_rows(source: Any) -> Iterator[tuple[str, Any]]:
    """Rows with what messages call them."""
    if hasattr(source, "iter_rows"):
        yield from ((f"row {number} of the Dataset", row) for number, row in enumerate(source.iter_rows()))
        return
    place = str(source)
    try:
        yield from _read_place(place)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or join_lines(error)
        raise DatasetError(f"{place} cannot be read ({reason})") from error


def _read_place(place: str) -> Iterator[tuple[str, Any]]:
    is_there = is_remote(place) or to_local(place).exists()
    if any(sign in place for sign in "*?[") and (is_remote(place) or not is_there):
        files = list_files(place)
    elif not is_there:
        raise DatasetError(f"{place} does not exist; name a folder, a pattern, a list, a table, a picture or a video")
    elif has_suffix(place, TABLE_SUFFIXES):
        yield from _read_table(place)
        return
    elif has_suffix(place, LIST_SUFFIXES):
        yield from _read_list(place)
        return
    elif is_folder(place):
        files = (path for path in list_files(place) if has_suffix(path, SUFFIXES | VIDEO_SUFFIXES))
    else:
        files = iter([place])
    for path in files:
        if has_suffix(path, TABLE_SUFFIXES):
            yield from _read_table(path)
        else:
            yield path, {"media": path}


def _read_list(place: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(read_text(place).splitlines(), start=1):
        if line.strip():
            yield f"{place}, line {number}", {"media": resolve_media(line.strip(), place)}


def resolve_media(media: str, table: str) -> str:
    """Where a name in a list or table leads: beside that file, unless it is a whole path or address."""
    if "://" in media or media.startswith(("/", "~", "data:")) or Path(media).is_absolute():
        return media
    if is_remote(table):
        return f"{table.rsplit('/', 1)[0]}/{media}"
    return str(to_local(table).parent / media)


def _read_table(place: str) -> Iterator[tuple[str, Any]]:
    rows = _read_parquet(place) if has_suffix(place, frozenset((".parquet",))) else _read_json_lines(place)
    for name, row in rows:
        if isinstance(row, dict) and isinstance(row.get("media"), str) and row["media"].strip():
            own = row["media"] if row.get("id") is None else row["id"]
            row = {**row, "id": own, "media": resolve_media(row["media"], place)}
        yield name, row


def _read_json_lines(place: str) -> Iterator[tuple[str, Any]]:
    if is_remote(place):
        lines: Iterable[str] = read_text(place).splitlines()
        yield from _parse_lines(lines, place)
        return
    with open(to_local(place), encoding="utf-8") as file:
        yield from _parse_lines(file, place)


def _parse_lines(lines: Iterable[str], place: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name = f"{place}, line {number}"
        try:
            yield name, parse_json(line)
        except ValueError as error:
            raise DatasetError(f"{name} is no JSON ({join_lines(error)})") from error


def _read_parquet(place: str) -> Iterator[tuple[str, Any]]:
    arrow = import_arrow()
    with ExitStack() as opened:
        source: Any = to_local(place)
        if is_remote(place):
            filesystem, where = open_filesystem(place)
            source = opened.enter_context(filesystem.open(where, "rb"))
        try:
            file, number = opened.enter_context(open_parquet(source)), 0
            for batch in file.iter_batches(batch_size=1024, use_threads=False):
                for row in batch.to_pylist():
                    yield f"{place}, row {number}", row
                    number += 1
        except arrow.ArrowException as error:
            raise DatasetError(f"{place} is no Parquet file, or a damaged one ({join_lines(error)})") from error


def import_arrow() -> Any:
    """pyarrow, with its Parquet module.

    Raises:
        ValueError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("Parquet needs pyarrow, which is not installed; pip install 'unipixel[scale]'") from error
    return pyarrow


def open_parquet(source: Any) -> Any:
    """A ``ParquetFile``; read it with ``use_threads=False``.

    Nothing of it is read in the background: a thread of Arrow's that lets go of a Python object while the interpreter
    ends takes the whole process with it, after all work was done (apache/arrow, issue 34314).
    """
    return import_arrow().parquet.ParquetFile(source, pre_buffer=False)


def encode_item(item: Mapping[str, Any]) -> bytes:
    """An item as a line of a plan: the same bytes for the same item."""
    return json.dumps(item, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def decode_items(data: bytes, name: str) -> list[dict[str, Any]]:
    """The items of a part of a plan.

    Raises:
        DatasetError: it is damaged.
    """
    try:
        return [build_item(parse_json(line)) for line in data.splitlines()]
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{name} is damaged ({join_lines(error)})") from error
