"""Files and folders that are written beside their place and moved there when they are whole.

Whatever happens meanwhile, a kill or a full disk, the place holds what it held before or what it shall hold, and
nothing in between.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part"
"""How the names of drafts end."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def get_draft(path: Path) -> Path:
    """Where what is meant for ``path`` lies until it is whole."""
    return path.with_name(f".{path.name}{PART}")


@contextmanager
def replace_file(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Give a draft to write, which becomes the file at ``path`` when the block ends without an error.

    What is there and no plain file (a pipe, a terminal) is written to directly; a link stays a link.

    Args:
        path: its folder must exist.
        sync: have it on disk at the end, so that it survives the loss of power, too.

    Raises:
        OSError: the disk is full or not writable; ``path`` is as it was.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        yield Path(path)
        return
    draft = get_draft(place)
    try:
        yield draft
        if place.exists():
            shutil.copymode(place, draft)
        publish(draft, place, sync=sync)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: str | Path, text: str, *, sync: bool = True) -> None:
    """Write a text file in one step; see `replace_file`."""
    with replace_file(path, sync=sync) as draft:
        draft.write_text(text, encoding="utf-8")


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Give an empty draft of a folder, which takes the place of the whole folder at ``path`` as `replace_file` does."""
    draft = get_draft(path)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True, mode=0o700)
    try:
        yield draft
        publish(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def publish(draft: Path, path: Path, *, sync: bool = True) -> None:
    """Move a whole file or folder to its place, over what is there; with ``sync`` only once all of it is on disk.

    Raises:
        OSError: the disk is full or not writable.
    """
    if sync:
        sync_tree(draft)
    if not path.is_dir():
        os.replace(draft, path)
    elif _exchange(draft, path):
        shutil.rmtree(draft, ignore_errors=True)
    else:  # no folder takes the place of another in one step here: for a moment, the old one has only its other name
        aside = path.with_name(f".{path.name}.old")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        draft.rename(path)
        shutil.rmtree(aside, ignore_errors=True)
    if sync:
        sync_path(path.parent)


def _exchange(draft: Path, path: Path) -> bool:
    """Let two folders change names; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(draft), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE) == 0)


def remove_folder(path: Path) -> None:
    """Remove a folder so that no kill leaves half of it under its name; what cannot be removed stays as a draft."""
    draft = get_draft(path)
    with suppress(FileNotFoundError):
        shutil.rmtree(draft, ignore_errors=True)
        path.rename(draft)
        sync_path(path.parent)
    shutil.rmtree(draft, ignore_errors=True)


def sync_tree(path: Path) -> None:
    """Have a file, or a folder with everything in it, on disk."""
    if path.is_dir():
        for inner in path.iterdir():
            sync_tree(inner)
    sync_path(path)


def sync_path(path: Path) -> None:
    """Have a file's content, or the names in a folder, on disk.

    Raises:
        OSError: they cannot be written.
    """
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cut_torn_line(path: Path) -> int:
    """Cut off the last line of a file if it has no end, as a kill leaves it; returns how many bytes that were."""
    if not path.is_file():
        return 0
    with open(path, "r+b") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - (1 << 16))
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                end = begin + found + 1
                break
            end = begin
        if end < size:
            file.truncate(end)
            os.fsync(file.fileno())
    return size - end


class LineWriter:
    """Appends whole lines to a file: one that does not fit on the disk leaves nothing of itself behind.

    Args:
        path: made if it is not there; a torn last line is cut off.
    """

    def __init__(self, path: Path) -> None:
        cut_torn_line(path)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  # closed by `close`

    def append(self, line: bytes, *, sync: bool = True) -> None:
        """Write a line that ends in a line break; with ``sync`` it is on disk when this returns.

        Raises:
            OSError: the disk is full or not writable.
        """
        size = os.fstat(self._file.fileno()).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            if sync:
                os.fsync(self._file.fileno())
        except OSError:
            with suppress(OSError):
                self._file.truncate(size)
            raise

    def close(self) -> None:
        self._file.close()
