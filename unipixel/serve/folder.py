"""The server's folder: the pictures and videos of it that clients may open, and how far they are with them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from unipixel.atomic import write_text
from unipixel.checks import check_integer, check_list, check_mapping, check_text, parse_json, shorten
from unipixel.errors import MediaError
from unipixel.media import Limits
from unipixel.media.images import SUFFIXES
from unipixel.media.names import VIDEO_SUFFIXES, is_junk
from unipixel.media.sources import build_sort_key
from unipixel.serve.errors import LOG
from unipixel.serve.media import clean_name, store_upload

FOLDER_SCHEME = "folder:"
"""What a URL begins with that names a file of the server's folder."""
MAX_LISTED = 50_000

ItemState = Literal["new", "work", "done", "broken"]
Item = dict[Literal["session", "state"], str]
"""How far a picture is, an `ItemState`, and the session in which it is worked on; empty: none."""
Progress = dict[Literal["revision", "classes", "shares", "items"], int | list[str] | list[int] | dict[str, Item]]
"""What is told of an owner's work in the folder, see `FolderProgress`."""
MAX_CLASSES, MAX_CLASS_NAME = 1000, 80


class MediaFolder:
    """A folder of this machine of which clients may open pictures and videos: by names that it lists, never by paths.

    Args:
        root: with folders inside; leftovers of operating systems and what is linked to from elsewhere are passed over.

    Raises:
        ValueError: it is not there, no folder, cannot be read, or holds neither pictures nor videos.
    """

    def __init__(self, root: Path) -> None:
        try:
            os.listdir(root)
        except FileNotFoundError as error:
            raise ValueError(f"the folder {root} does not exist") from error
        except NotADirectoryError as error:
            raise ValueError(f"{root} is a file; name a folder of pictures and videos") from error
        except OSError as error:
            raise ValueError(f"the folder {root} cannot be read ({error.strerror or error})") from error
        self.root = root.resolve()
        self.id = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        """Tells folders apart without saying where they are."""
        self._names: set[str] = set()
        if not self.list_names()[0]:
            raise ValueError(f"the folder {root} holds neither pictures nor videos")

    def list_names(self) -> tuple[list[str], int]:
        """Names of its files in the order of their numbers, folders separated by ``/``; and how many are too many."""
        names = sorted(self._iterate_names(), key=lambda name: [build_sort_key(part) for part in name.split("/")])
        self._names = set(names[:MAX_LISTED])
        return names[:MAX_LISTED], max(0, len(names) - MAX_LISTED)

    def _iterate_names(self) -> Iterator[str]:
        for place, folders, names in os.walk(self.root, onerror=_warn_of_folder):
            folders[:] = [name for name in folders if not is_junk(name)]
            inner = Path(place).relative_to(self.root).as_posix()
            for name in names:
                suffix = os.path.splitext(name)[1].lower()
                if is_junk(name) or (suffix not in SUFFIXES and suffix not in VIDEO_SUFFIXES):
                    continue
                path = os.path.join(place, name)
                is_inside = self._is_inside(Path(path)) if os.path.islink(path) else os.path.isfile(path)
                whole = name if inner == "." else f"{inner}/{name}"
                if is_inside and whole.encode("utf-8", "ignore").decode() == whole:  # else it could not be sent
                    yield whole

    def _is_inside(self, file: Path) -> bool:
        """Whether it is a file of the folder, wherever links lead."""
        try:
            return file.is_file() and file.resolve().is_relative_to(self.root)
        except OSError:
            return False

    def find(self, name: str) -> Path:
        """The file of a name.

        Raises:
            MediaError: none is called so.
        """
        if name not in self._names:
            self.list_names()  # it may have come since
        file = self.root / name
        if name not in self._names or not self._is_inside(file):
            raise _complain_of(name)
        return file

    def check_listed(self, names: Collection[str]) -> None:
        """Refuse names that the folder does not list.

        Raises:
            MediaError: names the first.
        """
        if not self._names.issuperset(names):
            self.list_names()  # it may have come since
        for name in names:
            if name not in self._names:
                raise _complain_of(name)

    def copy(self, name: str, path: Path, limits: Limits) -> str:
        """Put a file of the folder to a path, and return what to call it.

        Raises:
            MediaError: none is called so, it is too large, or it cannot be read.
        """
        file = self.find(name)
        try:
            with open(file, "rb") as source:
                limits.check_bytes(os.fstat(source.fileno()).st_size, clean_name(name))
                store_upload(source, path)
        except PermissionError as error:
            raise MediaError(f"{clean_name(name)} cannot be read by the server ({error.strerror})") from error
        return clean_name(name)


def _complain_of(name: str) -> MediaError:
    return MediaError(f"there is no picture and no video {name[:80]!r} in the server's folder")


def _warn_of_folder(error: OSError) -> None:
    LOG.warning("the folder %s cannot be read (%s), and its pictures are left out", error.filename, error.strerror)


class FolderProgress:
    """How far the folder's pictures are, which classes they have and how they are divided, of every owner by itself.

    All clients of an owner go on from it; each change has a number, so that a client hears only of what is new to it.

    Args:
        path: a file in which it outlives the server; None: it does not.
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self._lock = path, asyncio.Lock()
        self._changes = self._saved = 0
        self._owners: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            try:
                self._read(path)
            except (OSError, ValueError) as error:
                aside = path.with_name(f"{path.name}.damaged")
                LOG.warning("%s cannot be read (%s); it is called %s now", path, error, aside.name)
                self._owners = {}
                path.replace(aside)

    def _read(self, path: Path) -> None:
        for owner, one in check_mapping(parse_json(path.read_bytes()), "it").items():
            check_mapping(one, "an owner", ("revision", "classes", "shares", "items"))
            check_integer(one["revision"], "revision")
            check_classes([check_text(name, "a class") for name in check_list(one["classes"], "classes")])
            check_shares([check_integer(share, "a share") for share in check_list(one["shares"], "shares")])
            for item in check_mapping(one["items"], "items").values():
                check_mapping(item, "an item", ("session", "state", "revision"))
                check_text(item["session"], "session")
                check_integer(item["revision"], "revision")
                check_state(item["state"])
            self._owners[owner] = one

    def _get(self, owner: str) -> dict[str, Any]:
        return self._owners.setdefault(owner, {"revision": 0, "classes": [], "shares": [], "items": {}})

    def list_names(self, owner: str) -> list[str]:
        """Names of the pictures that something is known of."""
        return list(self._get(owner)["items"])

    def tell(self, owner: str, since: int = 0) -> Progress:
        """Classes, shares and pictures of an owner, and the number of the last change.

        Args:
            since: only pictures that have changed after the change of this number; all of them if there was none.
        """
        known = self._get(owner)
        since = since if since <= known["revision"] else 0
        items: dict[str, Item] = {
            name: {"session": item["session"], "state": item["state"]}
            for name, item in known["items"].items()
            if item["revision"] > since
        }
        return {**{name: known[name] for name in ("revision", "classes", "shares")}, "items": items}

    def change(
        self,
        owner: str,
        items: Mapping[str, Item],
        classes: Sequence[str] | None,
        shares: Sequence[int] | None,
        is_alive: Callable[[str], bool],
    ) -> None:
        """Take over what a client has done.

        A picture stays with the session in which it is worked on while there is one: whoever opened it at the same
        time in another hears of that by `tell`.

        Args:
            items: by the name of the picture, as the folder lists it; of a session "" stands for none.
            classes: all of them, in their order; None: as they were.
            shares: of training, validation and test in hundredths; empty: not divided; None: as they were.
            is_alive: whether there is a session of an id.

        Raises:
            ValueError: a state, the classes or the shares are not usable; nothing is changed then.
        """
        known = self._get(owner)
        for item in items.values():
            check_state(item["state"])
        check_classes(classes or ())
        check_shares(shares or ())
        if not items and classes is None and shares is None:
            return
        self._changes += 1
        known["revision"] += 1
        if classes is not None:
            known["classes"] = list(classes)
        if shares is not None:
            known["shares"] = list(shares)
        for name, item in items.items():
            before = known["items"].get(name, {"session": "", "state": "new"})
            if item["session"] and item["session"] != before["session"] and before["state"] in ("work", "done"):
                item = before if before["session"] and is_alive(before["session"]) else item
            known["items"][name] = {"session": item["session"], "state": item["state"], "revision": known["revision"]}

    async def save(self, run: Callable[..., Awaitable[Any]]) -> None:
        """Write it down, if there is something new; ``run`` runs a function in a thread.

        Raises:
            OSError: the disk is full or not writable.
        """
        async with self._lock:
            if self._path is None or self._saved == self._changes:
                return
            changes = self._changes
            await run(write_text, self._path, json.dumps(self._owners))
            self._saved = changes


def check_state(state: Any) -> None:
    """Refuse what is no `ItemState`.

    Raises:
        ValueError: names those that there are.
    """
    if state not in get_args(ItemState):
        raise ValueError(f"the state {shorten(state)} is none of {', '.join(get_args(ItemState))}")


def check_classes(names: Sequence[str]) -> None:
    """Refuse names of classes that are empty, too long, too many, or there twice.

    Raises:
        ValueError: says which.
    """
    if len(names) > MAX_CLASSES:
        raise ValueError(f"there are {len(names)} classes; at most {MAX_CLASSES} are allowed")
    for name in names:
        if not name.strip() or len(name) > MAX_CLASS_NAME:
            raise ValueError(f"the class {shorten(name)} has {len(name)} signs; it must have 1 to {MAX_CLASS_NAME}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the class {shorten(twice)} is there twice")


def check_shares(shares: Sequence[int]) -> None:
    """Refuse shares of training, validation and test that do not make the whole.

    Raises:
        ValueError: says what they are.
    """
    if shares and (len(shares) != 3 or min(shares) < 0 or sum(shares) != 100):
        raise ValueError(f"the shares are {shorten(list(shares))}; they must be three that make 100, or none")
