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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unipixel.engine.memory import KnownObject
from unipixel.engine.session import Session
from unipixel.errors import MediaError
from unipixel.sample import Prompt
from unipixel.serve.errors import LOG, ApiError
from unipixel.serve.worker import Job

SESSION_ID = re.compile(r"s-[A-Za-z0-9_-]{22}")
MEDIA_FILE, RECORD_FILE, SAVED_FILE = "media", "about.json", "saved.session"
MAX_REVISIONS = 64


@dataclass(frozen=True)
class PromptRevision:
    """An object before some prompts were added to it."""

    before: KnownObject | None
    """None: these prompts made it."""
    prompts: tuple[Prompt, ...]


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
    turns: list[dict[str, Any]] = field(default_factory=list)
    revisions: dict[int, list[PromptRevision]] = field(default_factory=dict)
    jobs: set[Job] = field(default_factory=set)
    is_closed: bool = False

    def touch(self) -> None:
        """It was just used."""
        self.last_used_s = time.monotonic()

    def refresh_objects(self) -> None:
        """Take over what the session knows; on the model's thread."""
        if not self.is_closed:
            self.objects = self.session.objects

    def release_caches(self) -> None:
        """Free features and caches, which are computed again when needed; on the model's thread."""
        space = self.session.workspace
        space.dialogue.transcript()  # closing alone would lose the last reply
        space.dialogue.close()
        space.features.clear()
        self.is_warm = False

    def record(self) -> dict[str, Any]:
        """What is saved beside the engine's file."""
        return {"id": self.id, "owner": self.owner, "name": self.name, "created": self.created, "turns": self.turns}


class SessionStore:
    """All sessions.

    Args:
        state: folder in which saved ones outlive the server; None: a temporary one, and nothing can be saved.
        most: sessions that may be open.
    """

    def __init__(self, state: Path | None, max_sessions: int) -> None:
        self.can_save = state is not None
        self._max_sessions = max_sessions
        self._root = (state if state is not None else Path(tempfile.mkdtemp(prefix="unipixel-serve-"))) / "sessions"
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._open: dict[str, SessionEntry] = {}
        self._suspended: dict[str, dict[str, Any]] = {}
        self._wake_locks: dict[str, asyncio.Lock] = {}
        self._opening = 0
        self._find_saved()

    def _find_saved(self) -> None:
        """Find what an earlier server saved, and clear away what it left."""
        for folder in sorted(self._root.iterdir()):
            if not SESSION_ID.fullmatch(folder.name) or not folder.is_dir():
                continue
            try:
                record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
                if record["id"] != folder.name or not (folder / SAVED_FILE).exists():
                    raise ValueError("incomplete")
                self._suspended[folder.name] = record
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

    def list_sessions(self, owner: str) -> list[dict[str, Any]]:
        """The sessions of an owner, those that sleep included."""
        found = [(e.id, e.name, e.created, e.is_saved, True) for e in self._open.values() if e.owner == owner]
        found += [
            (i, str(r.get("name", "")), int(r.get("created", 0)), True, False)
            for i, r in self._suspended.items()
            if r.get("owner", "") == owner and i not in self._open
        ]
        names = ("id", "name", "created", "is_saved", "is_open")
        return [dict(zip(names, one, strict=True)) for one in sorted(found, key=lambda one: one[2])]

    def reserve(self) -> tuple[str, Path]:
        """A new id with its folder; `add` or `release` must follow.

        Raises:
            Refusal: as many sessions are open as are allowed.
        """
        self.check_capacity()
        session_id = f"s-{secrets.token_urlsafe(16)}"
        folder = self._root / session_id
        folder.mkdir(mode=0o700)
        self._opening += 1
        return session_id, folder

    def check_capacity(self) -> None:
        """Refuse one more session than allowed.

        Raises:
            Refusal: there are as many.
        """
        if len(self._open) + self._opening >= self._max_sessions:
            sentence = f"{self._max_sessions} sessions are open, as many as are allowed; close one, or try again later"
            raise ApiError(429, sentence, code="too_many_sessions", retry_after_s=30)

    def add(self, entry: SessionEntry) -> SessionEntry:
        """Take over a session that was opened."""
        self._opening -= 1
        self._open[entry.id] = entry
        return entry

    def release(self, folder: Path) -> None:
        """Give back an id whose session could not be opened."""
        self._opening -= 1
        shutil.rmtree(folder, ignore_errors=True)

    def find(self, session_id: str, owner: str) -> SessionEntry | None:
        """An open session of an owner; None if it sleeps.

        Raises:
            Refusal: there is none; that of another owner is none either.
        """
        entry = self._open.get(session_id)
        if entry is not None and entry.owner == owner and not entry.is_closed:
            entry.touch()
            return entry
        if entry is None and self._suspended.get(session_id, {}).get("owner") == owner:
            return None
        raise ApiError(
            404,
            f"there is no session {session_id[:40]!r}; it may have been closed, or have expired",
            code="no_session",
        )

    def get_wake_lock(self, session_id: str) -> asyncio.Lock:
        """The lock under which a sleeping session is opened."""
        return self._wake_locks.setdefault(session_id, asyncio.Lock())

    def get_saved(self, session_id: str) -> tuple[dict[str, Any], Path]:
        """The record and the folder of a sleeping session."""
        return self._suspended[session_id], self._root / session_id

    def add_restored(self, entry: SessionEntry) -> SessionEntry:
        """Take over a session that slept."""
        entry.is_saved = True
        self._open[entry.id] = entry
        return entry

    def save(self, entry: SessionEntry) -> None:
        """Write a session to the state folder; on the model's thread.

        Raises:
            OSError: the disk is full or not writable.
        """
        media = Path(entry.session.workspace.clip.source)
        # the frames lie beside it already, unless the state folder was moved since
        entry.session.save(entry.folder / SAVED_FILE, frames=None if not media.is_file() else False)
        record, draft = entry.record(), entry.folder / f".{RECORD_FILE}.part"
        draft.write_text(json.dumps(record), encoding="utf-8")
        os.replace(draft, entry.folder / RECORD_FILE)
        self._suspended[entry.id] = record
        entry.is_saved = True

    def close_entry(self, entry: SessionEntry, *, forget: bool) -> None:
        """Close a session; on the model's thread.

        Args:
            forget: remove what was saved, too.
        """
        if entry.is_closed:
            return
        entry.is_closed = True
        self._open.pop(entry.id, None)
        entry.session.close()
        if forget:
            self.delete(entry.id)
        elif not entry.is_saved:
            shutil.rmtree(entry.folder, ignore_errors=True)

    def delete(self, session_id: str) -> None:
        """Remove a session's folder."""
        self._suspended.pop(session_id, None)
        self._wake_locks.pop(session_id, None)
        shutil.rmtree(self._root / session_id, ignore_errors=True)

    def find_media(self, folder: Path) -> Path:
        """The file of a session's media.

        Raises:
            MediaError: it is gone.
        """
        path = folder / MEDIA_FILE
        if not path.is_file():
            raise MediaError("the media of this session are gone")
        return path

    def close(self) -> None:
        """Close all sessions and remove what is not saved."""
        for entry in self.entries():
            self.close_entry(entry, forget=False)
        if not self.can_save:
            shutil.rmtree(self._root.parent, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove what a server that was killed has left beside a saved session: exports and drafts."""
    for path in folder.iterdir():
        if path.name in (MEDIA_FILE, RECORD_FILE, SAVED_FILE):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
