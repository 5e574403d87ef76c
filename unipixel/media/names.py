"""Names of files as other systems write them: what is no data at all, separators, and letters with accents."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".3gp", ".ogv"))
"""Endings of videos, in small letters; what a file is, its content says."""
_JUNK = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "icon\r"})


def is_junk(name: str) -> bool:
    """Whether a file or folder is a leftover of an operating system: ``._cat.jpg``, ``.DS_Store``, ``Thumbs.db``."""
    return name.startswith(".") or name.lower() in _JUNK


def normalize_name(name: str) -> str:
    """A name with its accents in one form; macOS writes them as signs of their own (NFD), others mostly do not."""
    return unicodedata.normalize("NFC", name)


def find_file(folder: Path, name: str, *, strip: bool = True) -> Path | None:
    """The file that a name in some annotation means; None if it is not there.

    Tried in turn: the name as it is; with ``\\`` as separator; each in another Unicode form or with an ending in other
    letters (``.JPG``).

    Args:
        strip: try it without the drive and folders in front, one after the other, as well. Whoever asks so for several
            names must see to it that no two lead to one file.
    """
    spellings = _list_spellings(name)
    for one in spellings if strip else spellings[: 2 if "\\" in name else 1]:
        if (folder / one).is_file():
            return folder / one
        found = _list_names((folder / one).parent).get(_build_key(one.name))
        if found is not None and (folder / one).with_name(found).is_file():
            return (folder / one).with_name(found)
    return None


class NameAliases:
    """Names by whatever else they may be called in a file beside them.

    Args:
        names: without doubles.
        endings: what each may be called with in addition, such as the file's own name for a picture's stem.
    """

    def __init__(self, names: Iterable[str], endings: Mapping[str, str] | None = None) -> None:
        self._names = {normalize_name(name): name for name in names}
        others: dict[str, set[str]] = {}
        for name in self._names.values():
            full = (endings or {}).get(name, name)
            for other in (full, PurePosixPath(name).with_suffix("").as_posix() if PurePosixPath(name).suffix else name):
                others.setdefault(normalize_name(other), set()).add(name)
        self._others = {other: next(iter(found)) for other, found in others.items() if len(found) == 1}

    def find(self, name: str) -> str | None:
        """The name that is meant, with or without its ending; None if there is none, or several could be."""
        for one in (normalize_name(name), normalize_name(name.replace("\\", "/"))):
            if one in self._names:
                return self._names[one]
            if one in self._others:
                return self._others[one]
        return None


def _list_spellings(name: str) -> list[PurePosixPath]:
    found = [PurePosixPath(name)] if name not in ("", ".", "..") else []
    parts = PureWindowsPath(name).parts  # understands both separators
    relative = parts[1:] if PureWindowsPath(name).anchor else parts
    found += [PurePosixPath(*relative[start:]) for start in range(len(relative))]
    return list(dict.fromkeys(found))


def _build_key(name: str) -> str:
    path = PurePosixPath(normalize_name(name))
    return path.stem + path.suffix.lower()


def _list_names(folder: Path) -> dict[str, str]:
    try:
        return _read_folder_names(str(folder), folder.stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=256)
def _read_folder_names(folder: str, _changed: int) -> dict[str, str]:
    """Names in a folder by what they are compared by, without those that two files share."""
    names: dict[str, str] = {}
    twice = set()
    for path in Path(folder).iterdir():
        if _build_key(path.name) in names:
            twice.add(_build_key(path.name))
        names[_build_key(path.name)] = path.name
    return {key: name for key, name in names.items() if key not in twice}
