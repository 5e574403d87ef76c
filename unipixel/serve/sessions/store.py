"""Sessions by id: in memory while they are used, in a folder of their own, and on disk for as long as they are saved.

An id is made here, is not to be guessed, and is only ever looked up: no name from a request becomes part of a path.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from unipixel.checks import check_integer, check_list, check_mapping, check_text, parse_json, shorten
from unipixel.engine.memory import KnownObject
from unipixel.engine.session import Session
from unipixel.errors import MediaError
from unipixel.media import open_media
from unipixel.serve.errors import LOG, ApiError, JobCancelled, retry_after
from unipixel.serve.runtime import Runtime
from unipixel.serve.sessions.schemas import SessionSummary, TurnOut
from unipixel.serve.worker import Job

SESSION_ID = re.compile(r"s-[A-Za-z0-9_-]{22}")
MEDIA_FILE, RECORD_FILE, SAVED_FILE = "media", "about.json", "saved.session"


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
    _revision: int = -1

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
        turns = [turn.model_dump() for turn in self.turns]
        return {"id": self.id, "owner": self.owner, "name": self.name, "created": self.created, "turns": turns}


class SessionStore:
    """All sessions of a server, open ones and those that are saved in its state folder."""

    def __init__(self, runtime: Runtime) -> None:
        state = runtime.settings.state
        self.can_save = state is not None
        self._runtime = runtime
        self._root = (state if state is not None else Path(tempfile.mkdtemp(prefix="unipixel-serve-"))) / "sessions"
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._open: dict[str, SessionEntry] = {}
        self._saved: dict[str, dict[str, Any]] = {}
        self._restore_locks: dict[str, asyncio.Lock] = {}
        self._opening = 0
        self._find_saved()
        runtime.on_tidy.append(self._suspend_idle)
        runtime.on_stop.append(self.close)

    def _find_saved(self) -> None:
        """Find what an earlier server saved, and clear away what it left."""
        for folder in sorted(self._root.iterdir()):
            if not SESSION_ID.fullmatch(folder.name) or not folder.is_dir():
                continue
            try:
                record = check_record(parse_json((folder / RECORD_FILE).read_text(encoding="utf-8")), folder.name)
                if not (folder / SAVED_FILE).exists():
                    raise ValueError("incomplete")
                self._saved[folder.name] = record
                _remove_leftovers(folder)
            except FileNotFoundError:
                shutil.rmtree(folder, ignore_errors=True)
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
                name=str(record.get("name", "")),
                created=int(record.get("created", 0)),
                is_saved=True,
                is_open=False,
            )
            for session_id, record in self._saved.items()
            if record.get("owner", "") == owner and session_id not in self._open
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
        if entry is None and self._saved.get(session_id, {}).get("owner") == owner:
            return None
        message = f"there is no session {session_id[:40]!r}; it may have been closed, or have expired"
        raise ApiError(404, message, code="no_session")

    async def get(self, session_id: str, owner: str) -> SessionEntry:
        """A session of an owner; a suspended one is restored.

        Raises:
            ApiError: there is none, or no more may be opened.
        """
        entry = self.find(session_id, owner)
        if entry is not None:
            return entry
        async with self._restore_locks.setdefault(session_id, asyncio.Lock()):
            entry = self.find(session_id, owner)
            if entry is None:
                self._check_capacity()
                entry = await self._runtime.run_in_thread(self._restore, session_id)
                self._open[session_id] = entry
            return entry

    def _restore(self, session_id: str) -> SessionEntry:
        record, folder = self._saved[session_id], self._root / session_id
        if not (folder / MEDIA_FILE).is_file():
            raise MediaError("the media of this session are gone")
        media = open_media(str(folder / MEDIA_FILE), limits=self._runtime.settings.limits)
        session = self._runtime.engine.open_session(folder / SAVED_FILE, media)
        entry = SessionEntry(
            session_id,
            record["owner"],
            str(record.get("name", MEDIA_FILE)),
            folder,
            session,
            int(record["created"]),
            is_saved=True,
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
        return _refresh_after_each(entry, pieces)

    def finish_job(self, entry: SessionEntry, job: Job) -> None:
        """Note that work of a session is over, whatever came of it; sessions not in use free their caches for it."""
        entry.jobs.discard(job)
        entry.touch()
        warm = sorted((e for e in self.entries() if e.is_warm and not e.jobs), key=lambda e: e.last_used_s)
        for one in warm[: max(0, len(warm) - self._runtime.settings.warm_sessions)]:
            self._runtime.run_in_background(self._runtime.worker.call(one.release_caches))

    # save and close

    def save(self, entry: SessionEntry) -> None:
        """Write a session to the state folder; on the model's thread.

        Raises:
            OSError: the disk is full or not writable.
        """
        media = Path(entry.session.clip.source)
        # the frames lie beside it already, unless the state folder was moved since
        entry.session.save(entry.folder / SAVED_FILE, frames=None if not media.is_file() else False)
        record, draft = entry.record(), entry.folder / f".{RECORD_FILE}.part"
        draft.write_text(json.dumps(record), encoding="utf-8")
        os.replace(draft, entry.folder / RECORD_FILE)
        self._saved[entry.id] = record
        entry.is_saved = True

    async def _suspend_idle(self) -> None:
        """Close idle sessions; saved ones are saved as they are now and can be restored."""
        now = time.monotonic()
        for entry in self.entries():
            if not entry.jobs and now - entry.last_used_s > self._runtime.settings.idle_s:
                await self._runtime.worker.call(partial(self._close_entry, entry))

    async def delete(self, session_id: str, owner: str) -> None:
        """Stop what a session does, close it, and remove what was saved of it.

        Raises:
            ApiError: there is none.
        """
        entry = self.find(session_id, owner)
        if entry is not None:
            for job in list(entry.jobs):
                job.cancel(JobCancelled(409, "the session was closed", code="stopped"))
            await self._runtime.worker.call(partial(self._close_entry, entry, delete=True))
        else:
            self._delete_files(session_id)

    def close(self) -> None:
        """Close all sessions and remove what is not saved; on the model's thread."""
        for entry in self.entries():
            self._close_entry(entry)
        if not self.can_save:
            shutil.rmtree(self._root.parent, ignore_errors=True)

    def _close_entry(self, entry: SessionEntry, *, delete: bool = False) -> None:
        """Close a session, saved as it is now if it was saved before; on the model's thread."""
        if entry.is_closed:
            return
        if entry.is_saved and not delete:
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
        self._saved.pop(session_id, None)
        self._restore_locks.pop(session_id, None)
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


def _refresh_after_each(entry: SessionEntry, pieces: Any) -> Iterator[Any]:
    """Pieces of work, after each of which others can read what the session knows."""
    try:
        with closing(pieces):
            for piece in pieces:
                entry.refresh_objects()
                yield piece
    finally:
        entry.refresh_objects()


def _remove_leftovers(folder: Path) -> None:
    """Remove what a server that was killed has left beside a saved session: exports and drafts."""
    for path in folder.iterdir():
        if path.name in (MEDIA_FILE, RECORD_FILE, SAVED_FILE):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
