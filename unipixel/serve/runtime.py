"""The parts of a running server, and their life: start, tidy up, stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from unipixel.engine.engine import Engine
from unipixel.engine.session import Session
from unipixel.errors import MediaError
from unipixel.media import open_media
from unipixel.serve.counters import Counters
from unipixel.serve.faults import LOG, Refusal, Stopped
from unipixel.serve.fetching import Threads
from unipixel.serve.oneshot import Kept, answer_all
from unipixel.serve.sessions import MEDIA, SAVED, Entry, SessionStore
from unipixel.serve.settings import ServeSettings
from unipixel.serve.worker import Job, ModelWorker

THREADS = 8
"""Downloads, uploads and exports at the same time."""


class Held:
    """Bytes of requests that are in memory, those of all clients together."""

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0


class Runtime:
    """Everything that requests share."""

    def __init__(self, engine: Engine, settings: ServeSettings) -> None:
        self.engine, self.settings = engine, settings
        self.created = int(time.time())
        self.counters = Counters()
        self.bodies = Held(settings.max_bodies_bytes)
        self.threads = Threads(THREADS)
        self.sessions = SessionStore(settings.state, settings.max_sessions)
        self.kept = Kept(settings.kept_conversations)
        self.worker = ModelWorker(
            max_queue=settings.max_queue,
            max_running=settings.max_running,
            batch_size=settings.batch_size,
            together=answer_all,
            observe=self.counters.job,
        )
        self._tidying: asyncio.Task[None] | None = None
        self._asides: set[asyncio.Task[Any]] = set()
        self._is_stopped = False

    # life

    def start(self) -> None:
        """Start the model's thread and the tidying; on the event loop."""
        self.worker.start()
        self._tidying = asyncio.create_task(self._tidy())

    async def stop(self) -> None:
        """Let running answers finish or tell them, put saved sessions to sleep, close the rest."""
        if self._is_stopped:
            return
        self._is_stopped = True
        await self.worker.drain(self.settings.grace_s)
        if self._tidying is not None:
            self._tidying.cancel()

        def close() -> None:
            for entry in self.sessions.entries():
                if entry.is_saved:
                    self._save_quietly(entry)
            self.sessions.close()

        with contextlib.suppress(Refusal, TimeoutError):
            await asyncio.wait_for(self.worker.between(close), timeout=30)
        self.worker.end()

    async def _tidy(self) -> None:
        """Close what nobody uses, and free what is not used at the moment."""
        pause = min(max(self.settings.idle_s / 4, 0.05), 30.0)
        while True:
            await asyncio.sleep(pause)
            now = time.monotonic()
            for entry in self.sessions.entries():
                if not entry.jobs and now - entry.used > self.settings.idle_s:
                    await self.put_to_sleep(entry)
            await self.close_quietly(self.kept.expired(self.settings.idle_s))

    # sessions

    async def entry(self, session_id: str, owner: str) -> Entry:
        """A session of an owner; one that sleeps is woken.

        Raises:
            Refusal: there is none.
        """
        found = self.sessions.find(session_id, owner)
        if found is not None:
            return found
        async with self.sessions.waking(session_id):
            found = self.sessions.find(session_id, owner)
            if found is None:
                self.sessions.check_room()
                found = await self.threads.run(self._wake, session_id)
                self.sessions.woken(found)
            return found

    def _wake(self, session_id: str) -> Entry:
        record, folder = self.sessions.asleep(session_id)
        media = open_media(str(self.sessions.media_of(folder)), limits=self.settings.limits)
        session = self.engine.open_session(folder / SAVED, media)
        name, turns = str(record.get("name", MEDIA)), list(record.get("turns", []))
        entry = Entry(session_id, record["owner"], name, folder, session, int(record["created"]), turns=turns)
        entry.look()
        return entry

    def open_file(self, path: Path, options: dict[str, Any]) -> Session:
        """A session about a file in its folder; in a thread.

        Raises:
            MediaError: the file is not usable, or its clip is longer than allowed.
        """
        session = self.engine.open(str(path), limits=self.settings.limits, **options)
        try:
            self.check_clip(session)
        except MediaError:
            session.close()
            raise
        return session

    def check_clip(self, session: Session) -> None:
        """Refuse a clip with too many frames.

        Raises:
            MediaError: says how many.
        """
        most, seen = self.settings.max_frames, self.settings.max_seen_frames
        if session.num_frames > most:
            raise MediaError(f"the clip has {session.num_frames} frames; at most {most} can be tracked, see every")
        if len(session.seen_frames) > seen:
            raise MediaError(f"num_frames is {len(session.seen_frames)}; the language model may read at most {seen}")

    async def put_to_sleep(self, entry: Entry) -> None:
        """Close an idle session; if it was saved, it is saved as it is now and can be woken."""

        def close() -> None:
            if entry.is_saved:
                self._save_quietly(entry)
            self.sessions.drop(entry, forget=False)

        await self.worker.between(close)

    async def close_session(self, entry: Entry) -> None:
        """Stop what a session does, close it, and forget what was saved of it."""
        for job in list(entry.jobs):
            job.cancel(Stopped(409, "the session was closed", code="stopped"))
        await self.worker.between(lambda: self.sessions.drop(entry, forget=True))

    def _save_quietly(self, entry: Entry) -> None:
        try:
            self.sessions.save(entry)
        except Exception as error:  # the earlier file is still there
            LOG.warning("the session %s could not be saved again (%s)", entry.id, error)

    # work

    def submit(self, entry: Entry, kind: str, work: Callable[[], Iterator[Any]]) -> Job:
        """Put work of a session into the queue.

        Raises:
            Refusal: the queue is full.
        """
        job = Job(entry.id, lambda: self._checked(entry, kind, work), kind=kind)
        self.worker.submit(job)
        entry.touch()
        entry.jobs.add(job)
        return job

    def ended(self, entry: Entry, job: Job) -> None:
        """Work of a session is over, whatever came of it; features of sessions that are not in use make room."""
        entry.jobs.discard(job)
        entry.touch()
        warm = sorted((e for e in self.sessions.entries() if e.is_warm and not e.jobs), key=lambda e: e.used)
        for one in warm[: max(0, len(warm) - self.settings.warm_sessions)]:
            self._aside(self.worker.between(partial(_cool, one)))

    async def close_quietly(self, sessions: list[Session]) -> None:
        """Close sessions of conversations that are not kept."""
        for session in sessions:
            with contextlib.suppress(Refusal):
                await self.worker.between(session.close)

    def close_aside(self, sessions: list[Session]) -> None:
        """The same without waiting for it."""
        if sessions:
            self._aside(self.close_quietly(sessions))

    def _aside(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)
        task.add_done_callback(lambda t: t.cancelled() or t.exception())  # a server that ends refuses it; so be it

    def _checked(self, entry: Entry, kind: str, work: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        if entry.is_closed:
            raise Refusal(404, "the session was closed", code="no_session")
        known = len(entry.session.objects)
        if kind in ("ask", "segment") and known >= self.settings.max_objects:
            raise Refusal(409, f"the session knows {known} objects, as many as are allowed; remove some", code="full")
        return work()


def _cool(entry: Entry) -> None:
    if not entry.is_closed and not entry.jobs:
        entry.cool()


def to_json(value: Any) -> str:
    """Compact JSON that any reader takes."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
