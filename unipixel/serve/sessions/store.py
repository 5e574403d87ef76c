"""Sessions by id: in memory while they are used, in a folder of their own, and on disk for as long as they are saved.

An id is made here, is not to be guessed, and is only ever looked up: no name from a request becomes part of a path.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from unipixel.atomic import PART, remove_folder, replace_folder, sync_path, write_text
from unipixel.checks import check_integer, check_list, check_mapping, check_text, parse_json, shorten
from unipixel.engine.answer import MaskPiece
from unipixel.engine.memory import KnownObject
from unipixel.engine.session import Session
from unipixel.errors import MediaError
from unipixel.media import open_media
from unipixel.serve.errors import LOG, ApiError, JobCancelled, describe_error, retry_after
from unipixel.serve.runtime import Runtime
from unipixel.serve.sessions.schemas import SessionSummary, TurnOut
from unipixel.serve.worker import Job

SESSION_ID = re.compile(r"s-[A-Za-z0-9_-]{22}")
MEDIA_FILE, RECORD_FILE, SAVED_FILE = "media", "about.json", "saved.session"
GENERATION = re.compile(r"saved-(\d{6,})")
"""Folder of one save inside of a session's folder; older versions wrote both files into the session's folder itself."""
LOCK_FILE = "lock"


@dataclass(frozen=True)
class SavedSession:
    """A session as it lies on disk."""

    folder: Path
    """With `RECORD_FILE` and `SAVED_FILE`, both of one moment."""
    record: dict[str, Any]


@dataclass(eq=False)
class SessionEntry:
    """One open session and what the server knows about it."""

    id: str
    owner: str
    name: str
    folder: Path
    session: Session
    created: int
    last_used_s: float = field(default_factory=time.monotonic)
    is_saved: bool = False
    is_warm: bool = False
    objects: dict[int, KnownObject] = field(default_factory=dict)
    """What the session knew when the model last paused: safe to read while the model works."""
    turns: list[TurnOut] = field(default_factory=list)
    jobs: set[Job] = field(default_factory=set)
    is_closed: bool = False
    is_kept: bool = False
    """Whether somebody works at it by hand: it is then saved after every change, where sessions can be saved."""
    is_working: bool = False
    """Whether the model is in the middle of a piece of its work."""
    problem: str = ""
    """Why its last changes could not be saved; empty if they were."""
    _revision: int = -1
    _saved: tuple[int, TurnOut | None] = (0, None)

    def __post_init__(self) -> None:
        self.note_saved()

    def note_saved(self) -> None:
        """Remember that what it knows now is on disk, or not worth saving."""
        self._saved, self.problem = (self.session.revision, self.turns[-1] if self.turns else None), ""

    @property
    def has_changed(self) -> bool:
        """Whether there is something that `note_saved` has not seen."""
        revision, turn = self._saved
        return not self.is_closed and (
            self.session.revision != revision or (self.turns[-1] if self.turns else None) is not turn
        )

    def touch(self) -> None:
        self.last_used_s = time.monotonic()

    def refresh_objects(self) -> None:
        """Copy what the session knows, if that has changed; on the model's thread."""
        if not self.is_closed and self.session.revision != self._revision:
            self._revision, self.objects = self.session.revision, self.session.objects

    def release_caches(self) -> None:
        """Free features and caches, which are computed again when needed; on the model's thread."""
        if not self.is_closed and not self.jobs:
            self.session.release_caches()
            self.is_warm = False

    def check_open(self) -> None:
        """Refuse a session that was closed meanwhile.

        Raises:
            ApiError: it was.
        """
        if self.is_closed:
            raise ApiError(404, "the session was closed", code="no_session")

    def record(self) -> dict[str, Any]:
        """What is saved beside the engine's file."""
        return {
            "id": self.id,
            "owner": self.owner,
            "name": self.name,
            "created": self.created,
            "is_kept": self.is_kept,
            "turns": [turn.model_dump() for turn in self.turns],
        }


class SessionStore:
    """All sessions of a server, open ones and those that are saved in its state folder."""

    def __init__(self, runtime: Runtime) -> None:
        state = runtime.settings.state
        self.can_save = state is not None
        self._runtime = runtime
        self._root = (state if state is not None else Path(tempfile.mkdtemp(prefix="unipixel-serve-"))) / "sessions"
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._state_lock = lock_state(self._root.parent)
        self._open: dict[str, SessionEntry] = {}
        self._saved: dict[str, SavedSession] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._opening = 0
        self._find_saved()
        runtime.on_tidy.append(self._suspend_idle)
        runtime.on_stop.append(self.close)

    def _find_saved(self) -> None:
        """Find what an earlier server saved, and clear away what it left."""
        for folder in sorted(self._root.iterdir()):
            if folder.name.startswith(".s-") and folder.name.endswith(PART):  # its removal was cut short
                shutil.rmtree(folder, ignore_errors=True)
            if not SESSION_ID.fullmatch(folder.name) or not folder.is_dir():
                continue
            try:
                places = _list_generations(folder)
                if not places:  # it was never saved
                    shutil.rmtree(folder, ignore_errors=True)
                    continue
                self._saved[folder.name] = saved = _find_newest(folder.name, places)
                _remove_leftovers(folder, saved)
            except (OSError, ValueError, KeyError, TypeError) as error:
                LOG.warning("the saved session %s cannot be read (%s) and is left alone", folder.name, error)

    def __len__(self) -> int:
        return len(self._open)

    def entries(self) -> list[SessionEntry]:
        """All open ones."""
        return list(self._open.values())

    def list_sessions(self, owner: str) -> list[SessionSummary]:
        """The sessions of an owner, suspended ones included, in the order in which they were made."""
        found = [
            SessionSummary(id=one.id, name=one.name, created=one.created, is_saved=one.is_saved, is_open=True)
            for one in self._open.values()
            if one.owner == owner
        ]
        found += [
            SessionSummary(
                id=session_id,
                name=str(saved.record.get("name", "")),
                created=int(saved.record.get("created", 0)),
                is_saved=True,
                is_open=False,
            )
            for session_id, saved in list(self._saved.items())
            if saved.record.get("owner", "") == owner and session_id not in self._open
        ]
        return sorted(found, key=lambda one: one.created)

    # open and find

    async def open(self, owner: str, store_media: Callable[[Path], str], options: dict[str, Any]) -> SessionEntry:
        """Open a session about a media file.

        Args:
            store_media: puts the file at a path and returns what to call it; called in a thread.
            options: of `Engine.open`.

        Raises:
            ApiError: as many sessions are open as are allowed.
            MediaError: the file is not usable, or its clip is longer than allowed.
        """
        await self._make_room()
        self._check_capacity()
        session_id = f"s-{secrets.token_urlsafe(16)}"
        folder = self._root / session_id
        folder.mkdir(mode=0o700)
        self._opening += 1
        try:
            name, session = await self._runtime.run_in_thread(self._open_media, folder, store_media, options)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            self._opening -= 1
        entry = SessionEntry(session_id, owner, name, folder, session, int(time.time()))
        self._open[session_id] = entry
        return entry

    def _open_media(
        self, folder: Path, store_media: Callable[[Path], str], options: dict[str, Any]
    ) -> tuple[str, Session]:
        path = folder / MEDIA_FILE
        name = store_media(path)
        session = self._runtime.engine.open(str(path), limits=self._runtime.settings.limits, **options)
        try:
            self._runtime.check_clip(session)
        except MediaError:
            session.close()
            raise
        return name, session

    async def _make_room(self) -> None:
        """Where as many sessions are open as may be, let the saved one sleep that was unused for longest."""
        if len(self._open) + self._opening < self._runtime.settings.max_sessions:
            return
        saved = [e for e in self.entries() if e.is_saved and not e.jobs and not e.has_changed]
        for entry in sorted(saved, key=lambda e: e.last_used_s)[:1]:
            await self._suspend(entry, 0.0)

    def _check_capacity(self) -> None:
        max_sessions = self._runtime.settings.max_sessions
        if len(self._open) + self._opening >= max_sessions:
            message = f"{max_sessions} sessions are open, as many as are allowed; close one, or try again later"
            raise ApiError(429, message, code="too_many_sessions", headers=retry_after(30))

    def find(self, session_id: str, owner: str) -> SessionEntry | None:
        """An open session of an owner; None if it is suspended.

        Raises:
            ApiError: there is none; that of another owner is none either.
        """
        entry = self._open.get(session_id)
        if entry is not None and entry.owner == owner and not entry.is_closed:
            entry.touch()
            return entry
        if entry is None and session_id in self._saved and self._saved[session_id].record.get("owner") == owner:
            return None
        message = f"there is no session {session_id[:40]!r}; it may have been closed, or have expired"
        raise ApiError(404, message, code="no_session")

    def has(self, session_id: str, owner: str) -> bool:
        """Whether an owner has a session of that id, open or suspended."""
        try:
            self.find(session_id, owner)
        except ApiError:
            return False
        return True

    async def get(self, session_id: str, owner: str) -> SessionEntry:
        """A session of an owner; a suspended one is restored.

        Raises:
            ApiError: there is none, or no more may be opened.
        """
        entry = self.find(session_id, owner)
        if entry is not None:
            return entry
        async with self._get_lock(session_id):
            entry = self.find(session_id, owner)
            if entry is None:
                await self._make_room()
                self._check_capacity()
                entry = await self._runtime.run_in_thread(self._restore, session_id)
                self._open[session_id] = entry
            return entry

    def _get_lock(self, session_id: str) -> asyncio.Lock:
        """Held while a session goes to disk or comes from there."""
        return self._locks.setdefault(session_id, asyncio.Lock())

    def _restore(self, session_id: str) -> SessionEntry:
        saved, folder = self._saved[session_id], self._root / session_id
        record = saved.record
        if not (folder / MEDIA_FILE).is_file():
            raise MediaError("the media of this session are gone")
        media = open_media(str(folder / MEDIA_FILE), limits=self._runtime.settings.limits)
        session = self._runtime.engine.open_session(saved.folder / SAVED_FILE, media)
        entry = SessionEntry(
            session_id,
            record["owner"],
            str(record.get("name", MEDIA_FILE)),
            folder,
            session,
            int(record["created"]),
            is_saved=True,
            is_kept=record.get("is_kept") is True,  # it may be gone on with before a tab gives a sign of life
            turns=[TurnOut.model_validate(turn) for turn in record.get("turns", [])],
        )
        entry.refresh_objects()
        return entry

    # work

    def submit(self, entry: SessionEntry, kind: str, work: Callable[[], Iterator[Any]]) -> Job:
        """Put work of a session into the queue; `finish_job` must follow.

        Raises:
            ApiError: the queue is full.
        """
        job = Job(entry.id, lambda: self._start_work(entry, kind, work), kind=kind)
        self._runtime.worker.submit(job)
        entry.touch()
        entry.jobs.add(job)
        return job

    def _start_work(self, entry: SessionEntry, kind: str, work: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        entry.check_open()
        known = len(entry.session.objects)
        if kind in ("ask", "segment") and known >= self._runtime.settings.max_objects:
            message = f"the session knows {known} objects, as many as are allowed; remove some"
            raise ApiError(409, message, code="full")
        pieces = work()  # raises at once for what is not usable
        entry.is_warm = True
        return self._run_and_save(entry, pieces)

    def _run_and_save(self, entry: SessionEntry, pieces: Any) -> Iterator[Any]:
        """Pieces of work, after each of which others can read what the session knows.

        What ends the work is acknowledged when it has been saved.
        """
        entry.is_working, last = True, None
        try:
            with closing(pieces):
                for piece in pieces:
                    entry.refresh_objects()
                    if isinstance(piece, str | MaskPiece):
                        yield piece
                    else:
                        last = piece
        finally:
            entry.is_working = False
            entry.refresh_objects()
            self.save_changes(entry)
        if last is not None:
            yield last

    def finish_job(self, entry: SessionEntry, job: Job) -> None:
        """Note that work of a session is over, whatever came of it; sessions not in use free their caches for it."""
        entry.jobs.discard(job)
        entry.touch()
        warm = sorted((e for e in self.entries() if e.is_warm and not e.jobs), key=lambda e: e.last_used_s)
        for one in warm[: max(0, len(warm) - self._runtime.settings.warm_sessions)]:
            self._runtime.run_in_background(self._runtime.worker.call(one.release_caches))

    # save and close

    def save_changes(self, entry: SessionEntry) -> None:
        """Save a session that is kept, if it has changed; on the model's thread.

        A failure is no failure of the change itself: it is told as `SessionEntry.problem`, and tried again.
        """
        if not (self.can_save and entry.is_kept) or entry.is_closed or entry.is_working or not entry.has_changed:
            return
        try:
            self.save(entry)
        except Exception as error:
            entry.problem = describe_error(error).message
            LOG.warning("the session %s could not be saved (%s)", entry.id, error)

    def save(self, entry: SessionEntry) -> None:
        """Write a session to the state folder as one new generation, on disk when this returns; on the model's thread.

        Raises:
            ApiError: the disk is full or not writable; what was saved before is as it was.
        """
        media = Path(entry.session.clip.source)
        before = _list_generations(entry.folder)
        numbers = [int(found[1]) for place in before if (found := GENERATION.fullmatch(place.name))]
        place, record = entry.folder / f"saved-{max(numbers, default=0) + 1:06d}", entry.record()
        try:
            if not entry.is_saved and (entry.folder / MEDIA_FILE).is_file():
                sync_path(entry.folder / MEDIA_FILE)
            with replace_folder(place) as draft:
                # the frames lie beside it already, unless the state folder was moved since
                entry.session.save(draft / SAVED_FILE, frames=None if not media.is_file() else False)
                write_text(draft / RECORD_FILE, json.dumps(record))
            if not entry.is_saved:
                sync_path(self._root)
        except OSError as error:
            if describe_error(error).status == 507:
                raise
            message = f"the session cannot be written to the server's disk ({error.strerror or type(error).__name__})"
            raise ApiError(507, f"{message}; what was saved before is kept", code="not_saved") from error
        self._saved[entry.id] = saved = SavedSession(place, record)
        entry.is_saved = True
        entry.note_saved()
        _remove_generations(before, saved)

    async def _suspend_idle(self) -> None:
        """Close idle sessions; saved ones are saved as they are now and can be restored."""
        for entry in self.entries():
            await self._suspend(entry, self._runtime.settings.idle_s)

    async def _suspend(self, entry: SessionEntry, least_idle_s: float) -> None:
        """Close a session, if it has been idle for so long and nothing is done in it."""
        async with self._get_lock(entry.id):  # who asks for it meanwhile waits, and then restores it
            idle_s = time.monotonic() - entry.last_used_s
            if entry.jobs or entry.is_closed or idle_s <= least_idle_s:
                return
            self._open.pop(entry.id, None)
            try:
                await self._runtime.worker.call(partial(self._close_entry, entry))
            finally:
                if not entry.is_closed:
                    self._open[entry.id] = entry

    async def delete(self, session_id: str, owner: str) -> None:
        """Stop what a session does, close it, and remove what was saved of it.

        Raises:
            ApiError: there is none.
        """
        self.find(session_id, owner)
        async with self._get_lock(session_id):  # not while it is restored or suspended
            entry = self.find(session_id, owner)
            if entry is None:
                await self._runtime.run_in_thread(self._delete_files, session_id)
                return
            for job in list(entry.jobs):
                job.cancel(JobCancelled(409, "the session was closed", code="stopped"))
            await self._runtime.worker.call(partial(self._close_entry, entry, delete=True))

    def close(self) -> None:
        """Close all sessions and remove what is not saved; on the model's thread."""
        for entry in self.entries():
            self._close_entry(entry)
        self._state_lock.release()
        if not self.can_save:
            shutil.rmtree(self._root.parent, ignore_errors=True)

    def _close_entry(self, entry: SessionEntry, *, delete: bool = False) -> None:
        """Close a session, saved as it is now if it was saved before; on the model's thread."""
        if entry.is_closed:
            return
        if not delete and (entry.is_saved or (self.can_save and entry.is_kept and entry.has_changed)):
            try:
                self.save(entry)
            except Exception as error:  # the earlier file is still there
                LOG.warning("the session %s could not be saved again (%s)", entry.id, error)
        entry.is_closed = True
        self._open.pop(entry.id, None)
        entry.session.close()
        if delete or not entry.is_saved:
            self._delete_files(entry.id)

    def _delete_files(self, session_id: str) -> None:
        self._locks.pop(session_id, None)
        if self._saved.pop(session_id, None) is not None:
            remove_folder(self._root / session_id)
        else:
            shutil.rmtree(self._root / session_id, ignore_errors=True)


def check_record(value: Any, session_id: str) -> dict[str, Any]:
    """What `SessionEntry.record` has written; later, a wrong field would fail every list of the owner's sessions.

    Raises:
        ValueError: says which field.
    """
    record = {"name": MEDIA_FILE, "turns": [], **check_mapping(value, "its record", ("id", "owner", "created"))}
    if record["id"] != session_id:
        raise ValueError(f"its id is {shorten(record['id'])}")
    for name in ("owner", "name"):
        check_text(record[name], name)
    check_integer(record["created"], "created")
    for turn in check_list(record["turns"], "turns"):
        check_text(TurnOut.model_validate(turn, strict=True).text, "a reply")
    return record


def lock_state(folder: Path) -> FileLock:
    """Take a state folder for this process; the lock goes with it, however it ends.

    Raises:
        ValueError: another server has the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"another server is using the state folder {folder}; stop it, or name another folder"
        ) from error
    return lock


def _list_generations(folder: Path) -> list[Path]:
    """Where in a session's folder saved states lie, whole or not, the newest first."""
    found = [path for path in folder.iterdir() if GENERATION.fullmatch(path.name) and path.is_dir()]
    found.sort(key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    # the older layout, in which a session without a record was cut off in its first save
    return [*found, folder] if (folder / RECORD_FILE).is_file() else found


def _find_newest(session_id: str, places: Sequence[Path]) -> SavedSession:
    """The newest saved state that is whole, else the newest whose record can be read.

    Raises:
        OSError, ValueError, KeyError, TypeError: no record can be read.
    """
    readable: list[SavedSession] = []
    reasons: list[Exception] = []
    for place in places:
        try:
            record = check_record(parse_json((place / RECORD_FILE).read_text(encoding="utf-8")), session_id)
            readable.append(SavedSession(place, record))
            with zipfile.ZipFile(place / SAVED_FILE):
                return readable[-1]
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            LOG.warning("the state %s of the session %s is torn (%s)", place.name, session_id, error)
            reasons.append(error)
    if not readable:
        raise reasons[0]
    return readable[0]


def _remove_generations(places: Sequence[Path], kept: SavedSession) -> None:
    """Remove saved states but one."""
    for place in places:
        if place == kept.folder:
            continue
        if GENERATION.fullmatch(place.name):
            shutil.rmtree(place, ignore_errors=True)
        else:
            for name in (RECORD_FILE, SAVED_FILE):
                (place / name).unlink(missing_ok=True)


def _remove_leftovers(folder: Path, saved: SavedSession) -> None:
    """Remove what a server that was killed has left beside a saved state: older and torn ones, exports and drafts."""
    kept = {folder / MEDIA_FILE, saved.folder}
    if saved.folder == folder:
        kept |= {folder / RECORD_FILE, folder / SAVED_FILE}
    for path in folder.iterdir():
        if path in kept:
            continue
        LOG.info("removed %s, which an earlier server has left in the session %s", path.name, folder.name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
