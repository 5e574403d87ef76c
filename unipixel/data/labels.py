"""What the readers of people's own data share: names and expressions of objects, and the split by name."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unipixel.data.files import read_json
from unipixel.data.records import Instance
from unipixel.errors import DatasetError
from unipixel.media.names import NameAliases
from unipixel.sample import Query

SPLITS = ("train", "val", "all")
VAL_PERCENT = 10
"""Share of the names that fall into ``val`` where there is no ``splits.json``."""


def parse_label(value: Any, where: str) -> Instance:
    """What a file says of an object in words: a name, or an object with ``name`` and ``expressions``.

    Raises:
        DatasetError: something else, or no word at all.
    """
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict):
        raise DatasetError(f"{where}: the label is {value!r:.60}; it should be a name, or an object with 'name'")
    name, expressions = value.get("name", ""), value.get("expressions", [])
    if not isinstance(name, str):
        raise DatasetError(f"{where}: the name is {name!r:.60}; it should be text")
    label = Instance(name.strip(), parse_expressions(expressions, where))
    if not label.name and not label.expressions:
        raise DatasetError(f"{where}: the label has neither a name nor an expression; give it one")
    return label


def parse_expressions(value: Any, where: str) -> tuple[str, ...]:
    """A list of expressions.

    Raises:
        DatasetError: something else, or an empty text.
    """
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        raise DatasetError(f"{where}: the expressions are {value!r:.60}; they should be a list of texts")
    return tuple(text.strip() for text in value)


def build_queries(labels: Mapping[int, Instance]) -> tuple[Query, ...]:
    """One query per name and per expression, each for all objects that carry it, in the order of the labels."""
    targets: dict[str, list[int]] = {}
    for object_id, label in labels.items():
        for text in dict.fromkeys(filter(None, (label.name, *label.expressions))):
            targets.setdefault(text, []).append(object_id)
    return tuple(
        Query(kind="sentence" if text.endswith("?") else "query", text=text, targets=tuple(ids))
        for text, ids in targets.items()
    )


def split_queries(queries: Sequence[Query], split: str) -> list[tuple[str, tuple[Query, ...]]]:
    """Queries of one picture or video by the records they go into, each with the end of the record's id.

    All of them in one record for training, and one record each for everything else.
    """
    if split == "train":
        return [("", tuple(queries))]
    return [(f"/{number}", (query,)) for number, query in enumerate(queries)]


def choose_names(
    names: Iterable[str], split: str, folder: Path, dataset: str, aliases: NameAliases | None = None
) -> list[str]:
    """The names of pictures and videos that belong to a split, in the order given.

    A file ``splits.json`` in ``folder``, ``{"train": [names], "val": [names]}``, decides; without one, a name falls
    into ``val`` by its checksum, about one in ten, so that it stays there when others are added.

    Args:
        aliases: how else ``splits.json`` may call them; by default with or without their endings.

    Raises:
        DatasetError: the split is unknown or empty, or ``splits.json`` damaged or about other names.
    """
    names, path = list(names), folder / "splits.json"
    if split == "all":
        chosen = names
    elif split not in SPLITS:
        raise DatasetError(f"{dataset}: the split is {split!r}; it should be one of {', '.join(SPLITS)}")
    elif path.is_file():
        listed = read_json(path, dataset).get(split)
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise DatasetError(f"{dataset}: {path} has {split!r} as {listed!r:.60}; it should be a list of names")
        aliases = aliases or NameAliases(names)
        found = {name: aliases.find(name) for name in listed}
        unknown = sorted(name for name, meant in found.items() if meant is None)
        if unknown:
            raise DatasetError(f"{dataset}: {path} names {unknown[0]!r} in {split!r}, which is not in {folder}")
        wanted = set(found.values())
        chosen = [name for name in names if name in wanted]
    else:
        chosen = [name for name in names if (zlib.crc32(name.encode()) % 100 < VAL_PERCENT) == (split == "val")]
    if not chosen:
        raise DatasetError(
            f"{dataset}: none of the {len(names)} pictures and videos in {folder} falls into {split!r}; "
            f"write {path} to choose them, or take the split 'all'"
        )
    return chosen
