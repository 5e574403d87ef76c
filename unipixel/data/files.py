"""Annotation files, read so that whatever is wrong with them is said in one sentence."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from unipixel.errors import DatasetError


def find_data_folder(root: str | Path) -> Path:
    """The folder that dataset paths are relative to: ``root/data`` if there is one, else ``root`` itself.

    Raises:
        DatasetError: ``root`` is not a folder.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DatasetError(f"the data root {str(root)!r} is not a folder; give the one that holds the datasets")
    return folder / "data" if (folder / "data").is_dir() else folder


def require(path: Path, dataset: str, what: str = "file") -> Path:
    """The path, if it is there.

    Raises:
        DatasetError: it is not.
    """
    if not path.exists():
        raise DatasetError(
            f"{dataset}: the {what} {path} does not exist; `unipixel data check {dataset.split('/')[0]}` "
            "says what belongs where"
        )
    return path


def read_json(path: Path, dataset: str, kind: type[dict[Any, Any]] | type[list[Any]] = dict) -> Any:
    """A JSON file whose outermost value is an object (``dict``) or an array (``list``).

    Raises:
        DatasetError: missing, unreadable, cut off, or of another shape.
    """
    require(path, dataset)
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{dataset}: {path} is not valid JSON ({error}); it may be cut off, fetch it again"
        ) from error
    if not isinstance(value, kind):
        wanted = "an object" if kind is dict else "an array"
        raise DatasetError(f"{dataset}: {path} holds a {type(value).__name__}; it should hold {wanted}")
    return value


@lru_cache(maxsize=64)
def read_json_cached(path: Path, dataset: str) -> dict[str, Any]:
    """`read_json` of a large dictionary that many records look into, such as a file of masks."""
    return read_json(path, dataset)


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, text and containers; refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse every class and function.

        Raises:
            pickle.UnpicklingError: always.
        """
        raise pickle.UnpicklingError(f"it names {module}.{name}, and only plain data is accepted")


def read_pickle(path: Path, dataset: str) -> Any:
    """A pickle of plain data (also of Python 2); nothing in it is run.

    Raises:
        DatasetError: missing, cut off, or more than plain data.
    """
    require(path, dataset)
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except (OSError, EOFError, ValueError, IndexError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise DatasetError(f"{dataset}: {path} is not a readable pickle ({error}); fetch it again") from error


@lru_cache(maxsize=64)
def read_pickle_cached(path: Path, dataset: str) -> Any:
    """`read_pickle` of a large object that many records look into."""
    return read_pickle(path, dataset)


def get_field(record: Mapping[str, Any], key: str, where: str, kind: type | tuple[type, ...] = object) -> Any:
    """A field of an annotation.

    Args:
        where: dataset, file and record, for the message.
        kind: what it must be.

    Raises:
        DatasetError: it is missing or something else.
    """
    if not isinstance(record, Mapping):
        raise DatasetError(f"{where}: a {type(record).__name__} stands where an object with {key!r} should be")
    if key not in record:
        raise DatasetError(f"{where}: the field {key!r} is missing; there are {', '.join(map(str, record)) or 'none'}")
    value = record[key]
    if not isinstance(value, kind):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise DatasetError(f"{where}: the field {key!r} is {value!r:.60}; it should be {names}")
    return value
