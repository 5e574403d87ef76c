"""Large files of masks by key, of which each sample wants a few."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from unipixel.data.files import read_pickle_cached, require
from unipixel.errors import DatasetError

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
