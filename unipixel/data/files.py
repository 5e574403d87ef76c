"""Annotation files, read so that whatever is wrong with them is said in one sentence.

Large files of masks, of which each sample wants a few, are searched instead of loaded.
"""

from __future__ import annotations

import io
import json
import mmap
import pickle
import re
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


# No quotation mark occurs in run lengths or in the names inside an RLE, so this is found before masks only.
_KEY = re.compile(rb'"(\d+)"\s*:\s*(?=[\[n])')
_BLANK = b" \t\r\n"


class MaskLists:
    """Lists of RLEs by number in a ``mask_dict.json``, each parsed when it is asked for.

    These files hold up to gigabytes, which as Python objects would be in memory several times over, once per worker
    of a training. So the file is mapped into memory, where all processes share it, and only searched for its keys.

    Raises:
        DatasetError: the file is missing, empty, cut off, or no JSON object.
    """

    def __init__(self, path: Path, where: str) -> None:
        require(path, where, "mask file")
        self.path = path
        try:
            with open(path, "rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DatasetError(f"{where}: {path} cannot be read ({error}); fetch it again") from error
        if self._data[:64].lstrip(_BLANK)[:1] != b"{" or self._data[-64:].rstrip(_BLANK)[-1:] != b"}":
            raise DatasetError(
                f"{where}: {path} is not a complete JSON object, which begins with {{ and ends with }}; it may be cut "
                "off, fetch it again"
            )
        starts = [(match[1].decode(), match.end()) for match in _KEY.finditer(self._data)]
        ends = [start for _, start in starts[1:]] + [len(self._data)]
        self._spans = {key: (start, end) for (key, start), end in zip(starts, ends, strict=True)}

    def __len__(self) -> int:
        return len(self._spans)

    def find(self, key: str, where: str) -> Any:
        """The value of a key.

        Raises:
            DatasetError: there is no such key, or its value is damaged.
        """
        if key not in self._spans:
            raise DatasetError(_describe_missing_key(self.path, key, len(self), where))
        start, end = self._spans[key]
        try:
            return json.JSONDecoder().raw_decode(self._data[start:end].decode("utf-8"))[0]
        except ValueError as error:
            raise DatasetError(
                f"{where}: the masks {key!r} in {self.path} are not valid JSON ({error}); fetch the file again"
            ) from error


@lru_cache(maxsize=64)
def open_mask_lists(path: Path, where: str) -> MaskLists:
    """The `MaskLists` of a file, searched once."""
    return MaskLists(path, where)


def read_numbered_masks(path: Path, number: int, total: int, where: str) -> Any:
    """The masks of one expression in a ``mask_dict.pkl``, whose keys number the expressions of a split.

    Args:
        path: the pickle.
        number: of the expression.
        total: expressions of the split.
        where: dataset and record, for messages.

    Raises:
        DatasetError: the file is missing, damaged, or made for another list of expressions.
    """
    masks = read_pickle_cached(path, where.split(" ")[0])
    if not isinstance(masks, Mapping):
        raise DatasetError(f"{where}: {path} holds a {type(masks).__name__}; it should hold a dictionary of masks")
    if len(masks) != total:
        raise DatasetError(
            f"{where}: {path} holds the masks of {len(masks)} expressions, but the split has {total}; masks are "
            "matched by counting, so both files must come from the same release"
        )
    if str(number) not in masks:
        raise DatasetError(_describe_missing_key(path, str(number), len(masks), where))
    return masks[str(number)]


def _describe_missing_key(path: Path, key: str, total: int, where: str) -> str:
    return (
        f"{where}: {path} has no masks {key!r} among its {total} keys; masks and expressions must come from the same "
        "release of the dataset"
    )
