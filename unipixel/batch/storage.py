"""Folders on a disk of this machine or in an object store, whose files are whole or not there.

A place is a path, or an address that fsspec understands (``s3://bucket/folder``, ``gs://...``). On a disk a file is
written beside its place and moved there; an object store shows an object once all of it has arrived.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from unipixel.atomic import PART, replace_file
from unipixel.errors import MediaError
from unipixel.media import Limits
from unipixel.media.names import is_junk
from unipixel.media.sources import build_sort_key

FIRST_PAUSE_S = 1.0
"""Wait before the first repetition; each further one waits twice as long."""
FILE_SCHEME = "file://"
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError, ValueError)
"""Errors that no repetition mends."""
T = TypeVar("T")


def is_remote(place: str) -> bool:
    """Whether it is an address of fsspec's or of the web's, and no path of this machine."""
    return "://" in place and not place.startswith(FILE_SCHEME)


def to_local(place: str) -> Path:
    """The path that a local place stands for."""
    return Path(place.removeprefix(FILE_SCHEME)).expanduser()


def repeat(action: Callable[[], T], retries: int) -> T:
    """Do what may fail for a while (a network, a full disk), again and again with growing pauses.

    Raises:
        Exception: what the last of ``retries`` repetitions raised, or at once what no repetition mends.
    """
    pause = FIRST_PAUSE_S
    for left in range(retries, -1, -1):
        try:
            return action()
        except _LASTING:
            raise
        except Exception:  # libraries of object stores have trees of errors of their own
            if not left:
                raise
        time.sleep(pause)
        pause *= 2
    raise AssertionError("unreachable")


def open_filesystem(place: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it.

    Raises:
        ValueError: fsspec, or the package for this kind of address, is not installed.
    """
    try:
        from fsspec.core import url_to_fs

        # listings that are kept would hide what other processes have written; http has none to keep
        options = {} if place.startswith("http") else {"use_listings_cache": False}
        filesystem, path = url_to_fs(place, **options)
    except ImportError as error:
        raise ValueError(
            f"{place} needs a package that is not installed ({error}); pip install 'unipixel[scale]', and gcsfs for gs://"
        ) from error
    return filesystem, str(path)


class Store:
    """A folder that many processes write to, each file in one step.

    Args:
        place: path or address.
        retries: repetitions of what fails.
    """

    def __init__(self, place: str | Path, retries: int = 5) -> None:
        self.place = str(place).rstrip("/")
        self._retries = retries
        self._remote: tuple[Any, str] | None = None
        if is_remote(self.place):
            if self.place.startswith("http"):
                raise ValueError(
                    f"{self.place} cannot be written to; name a folder, or an address such as s3://bucket/x"
                )
            self._remote = open_filesystem(self.place)

    def write(self, name: str, data: bytes) -> None:
        """Put a file in its place, over what is there.

        Raises:
            OSError: it cannot be written, even after some time; what was there is as it was.
        """
        repeat(lambda: self._write(name, data), self._retries)

    def read(self, name: str) -> bytes | None:
        """A file's content, None if it is not there.

        Raises:
            OSError: it cannot be read.
        """
        try:
            return repeat(lambda: self._read(name), self._retries)
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Remove a file, which need not be there."""
        if self._remote is None:
            (to_local(self.place) / name).unlink(missing_ok=True)
            return
        filesystem, root = self._remote
        with suppress(FileNotFoundError):
            repeat(lambda: filesystem.rm_file(f"{root}/{name}"), self._retries)

    def list_names(self, folder: str) -> set[str]:
        """Names of the files in a folder, which need not be there.

        Raises:
            OSError: it cannot be listed.
        """
        if self._remote is None:
            try:
                paths = list((to_local(self.place) / folder).iterdir())
            except FileNotFoundError:
                return set()
            return {path.name for path in paths if not path.name.endswith(PART)}
        filesystem, root = self._remote
        try:
            found = repeat(lambda: filesystem.ls(f"{root}/{folder}", detail=False), self._retries)
        except FileNotFoundError:
            return set()
        return {str(one).rstrip("/").rsplit("/", 1)[-1] for one in found}

    def _write(self, name: str, data: bytes) -> None:
        if self._remote is not None:
            filesystem, root = self._remote
            filesystem.pipe_file(f"{root}/{name}", data)
            return
        path = to_local(self.place) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as draft:
            draft.write_bytes(data)

    def _read(self, name: str) -> bytes:
        if self._remote is not None:
            filesystem, root = self._remote
            return bytes(filesystem.cat_file(f"{root}/{name}"))
        return (to_local(self.place) / name).read_bytes()


@contextmanager
def fetch_media(media: str, limits: Limits, retries: int) -> Iterator[str]:
    """What `open_media` can open for media at any place; what was fetched is removed at the end.

    Paths and http(s) addresses stay as they are: `open_media` reads the latter itself, with bounds.

    Raises:
        MediaError: they cannot be fetched, or pass a limit.
    """
    if not is_remote(media) or media.startswith(("http://", "https://")):
        yield str(to_local(media)) if media.startswith(FILE_SCHEME) else media
        return
    folder = Path(tempfile.mkdtemp(prefix="unipixel-media-"))
    try:
        _fetch_file(media, folder / "media", limits, retries)
        yield str(folder / "media")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch_file(media: str, path: Path, limits: Limits, retries: int) -> None:
    filesystem, where = open_filesystem(media)
    try:
        limits.check_bytes(int(repeat(lambda: filesystem.size(where), retries) or 0), media)
        repeat(lambda: filesystem.get_file(where, str(path)), retries)
    except MediaError:
        raise
    except FileNotFoundError as error:
        raise MediaError(f"{media} does not exist") from error
    except Exception as error:  # see `repeat`
        raise MediaError(
            f"{media} cannot be fetched ({' '.join(str(error).split()) or type(error).__name__})"
        ) from error


def read_text(place: str, retries: int = 5) -> str:
    """A text file at any place.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is no UTF-8.
    """
    if not is_remote(place):
        return to_local(place).read_text(encoding="utf-8")
    filesystem, where = open_filesystem(place)
    return bytes(repeat(lambda: filesystem.cat_file(where), retries)).decode("utf-8")


def is_folder(place: str) -> bool:
    """Whether a place is a folder that is there."""
    if not is_remote(place):
        return to_local(place).is_dir()
    filesystem, where = open_filesystem(place)
    return bool(repeat(lambda: filesystem.isdir(where), 5))


def list_files(place: str) -> Iterator[str]:
    """All files of a folder and its folders, or those that match a pattern, in natural order; junk is passed over.

    Args:
        place: a folder, or a pattern with ``*``, ``?``, ``[...]`` and ``**``.

    Raises:
        OSError: it cannot be listed.
    """
    pattern = any(sign in place for sign in "*?[")
    if not is_remote(place):
        root = to_local(place)
        yield from _list_pattern(root) if pattern and not root.exists() else _walk(root)
        return
    filesystem, where = open_filesystem(place)
    found = repeat(lambda: filesystem.glob(where) if pattern else filesystem.find(where), 5)
    scheme = place.split("://", 1)[0]
    paths = (str(path) for path in found)
    kept = [path for path in paths if not is_junk(path.rsplit("/", 1)[-1])]
    for path in sorted(kept, key=_build_path_key):
        yield path if "://" in path else f"{scheme}://{path}"


def _walk(folder: Path) -> Iterator[str]:
    """Files before folders would depend on the system; natural order of all names does not."""
    for path in sorted(folder.iterdir(), key=lambda one: build_sort_key(one.name)):
        if is_junk(path.name):
            continue
        if path.is_dir():
            yield from _walk(path)
        else:
            yield str(path)


def _list_pattern(pattern: Path) -> Iterator[str]:
    parts = pattern.parts
    first = next(place for place, part in enumerate(parts) if any(sign in part for sign in "*?["))
    root = Path(*parts[:first]) if first else Path()
    found = [path for path in root.glob("/".join(parts[first:])) if path.is_file() and not is_junk(path.name)]
    yield from sorted(map(str, found), key=_build_path_key)


def _build_path_key(path: str) -> list[Any]:
    return [build_sort_key(part) for part in path.split("/")]


def has_suffix(name: str, suffixes: frozenset[str]) -> bool:
    """Whether a name ends in one of some suffixes, in letters of any case."""
    return any(fnmatchcase(name.lower(), f"*{suffix}") for suffix in suffixes)
