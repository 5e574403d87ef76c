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
from unipixel.serve.errors import LOG, ApiError, JobCancelled
from unipixel.serve.media import ThreadPool
from unipixel.serve.metrics import Counters
from unipixel.serve.oneshot import SessionCache, answer_batch
from unipixel.serve.settings import ServeSettings
from unipixel.serve.store import MEDIA_FILE, SAVED_FILE, SessionEntry, SessionStore
from unipixel.serve.worker import Job, ModelWorker

THREADS = 8
"""Downloads, uploads and exports at the same time."""


class ByteBudget:
    """Bytes of requests that are in memory, those of all clients together."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0


class Runtime:
    """Everything that requests share."""

    def __init__(self, engine: Engine, settings: ServeSettings) -> None:
        self.engine, self.settings = engine, settings
        self.created = int(time.time())
        self.counters = Counters()
        self.body_budget = ByteBudget(settings.max_bodies_bytes)
        self.threads = ThreadPool(THREADS)
        self.sessions = SessionStore(settings.state, settings.max_sessions)
        self.session_cache = SessionCache(settings.kept_conversations)
        self.worker = ModelWorker(
            max_queue=settings.max_queue,
            max_running=settings.max_running,
            batch_size=settings.batch_size,
            answer_batch=answer_batch,
            on_finish=self.counters.count_job,
        )
        self._tidy_task: asyncio.Task[None] | None = None
        self._background_tasks: set[asyncio.Task[Any]] = set()
        self._is_stopped = False

    # life

    def start(self) -> None:
        """Start the model's thread and the tidying; on the event loop."""
        self.worker.start()
        self._tidy_task = asyncio.create_task(self._tidy())

    async def stop(self) -> None:
        """Let running answers finish or tell them, put saved sessions to sleep, close the rest."""
        if self._is_stopped:
            return
        self._is_stopped = True
        await self.worker.drain(self.settings.grace_s)
        if self._tidy_task is not None:
            self._tidy_task.cancel()

        def close() -> None:
            for entry in self.sessions.entries():
                if entry.is_saved:
                    self._try_save(entry)
            self.sessions.close()

        with contextlib.suppress(ApiError, TimeoutError):
            await asyncio.wait_for(self.worker.call(close), timeout=30)
        self.worker.stop()

    async def _tidy(self) -> None:
        """Close what nobody uses, and free what is not used at the moment."""
        pause = min(max(self.settings.idle_s / 4, 0.05), 30.0)
        while True:
            await asyncio.sleep(pause)
            now = time.monotonic()
            for entry in self.sessions.entries():
                if not entry.jobs and now - entry.last_used_s > self.settings.idle_s:
                    await self.suspend_session(entry)
            await self.close_sessions(self.session_cache.pop_expired(self.settings.idle_s))

    # sessions

    async def get_entry(self, session_id: str, owner: str) -> SessionEntry:
        """A session of an owner; one that sleeps is woken.

        Raises:
            Refusal: there is none.
        """
        found = self.sessions.find(session_id, owner)
        if found is not None:
            return found
        async with self.sessions.get_wake_lock(session_id):
            found = self.sessions.find(session_id, owner)
            if found is None:
                self.sessions.check_capacity()
                found = await self.threads.run(self._restore_entry, session_id)
                self.sessions.add_restored(found)
            return found

    def _restore_entry(self, session_id: str) -> SessionEntry:
        record, folder = self.sessions.get_saved(session_id)
        media = open_media(str(self.sessions.find_media(folder)), limits=self.settings.limits)
        session = self.engine.open_session(folder / SAVED_FILE, media)
        name, turns = str(record.get("name", MEDIA_FILE)), list(record.get("turns", []))
        entry = SessionEntry(session_id, record["owner"], name, folder, session, int(record["created"]), turns=turns)
        entry.refresh_objects()
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

    async def suspend_session(self, entry: SessionEntry) -> None:
        """Close an idle session; if it was saved, it is saved as it is now and can be woken."""

        def close() -> None:
            if entry.is_saved:
                self._try_save(entry)
            self.sessions.close_entry(entry, forget=False)

        await self.worker.call(close)

    async def close_session(self, entry: SessionEntry) -> None:
        """Stop what a session does, close it, and forget what was saved of it."""
        for job in list(entry.jobs):
            job.cancel(JobCancelled(409, "the session was closed", code="stopped"))
        await self.worker.call(lambda: self.sessions.close_entry(entry, forget=True))

    def _try_save(self, entry: SessionEntry) -> None:
        try:
            self.sessions.save(entry)
        except Exception as error:  # the earlier file is still there
            LOG.warning("the session %s could not be saved again (%s)", entry.id, error)

    # work

    def submit(self, entry: SessionEntry, kind: str, work: Callable[[], Iterator[Any]]) -> Job:
        """Put work of a session into the queue.

        Raises:
            Refusal: the queue is full.
        """
        job = Job(entry.id, lambda: self._start_work(entry, kind, work), kind=kind)
        self.worker.submit(job)
        entry.touch()
        entry.jobs.add(job)
        return job

    def finish_job(self, entry: SessionEntry, job: Job) -> None:
        """Work of a session is over, whatever came of it; features of sessions that are not in use make room."""
        entry.jobs.discard(job)
        entry.touch()
        warm = sorted((e for e in self.sessions.entries() if e.is_warm and not e.jobs), key=lambda e: e.last_used_s)
        for one in warm[: max(0, len(warm) - self.settings.warm_sessions)]:
            self._run_in_background(self.worker.call(partial(_release_caches, one)))

    async def close_sessions(self, sessions: list[Session]) -> None:
        """Close sessions of conversations that are not kept."""
        for session in sessions:
            with contextlib.suppress(ApiError):
                await self.worker.call(session.close)

    def close_in_background(self, sessions: list[Session]) -> None:
        """The same without waiting for it."""
        if sessions:
            self._run_in_background(self.close_sessions(sessions))

    def _run_in_background(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background_tasks.add(task)
        task.add_done_callback(self._background_tasks.discard)
        task.add_done_callback(lambda t: t.cancelled() or t.exception())  # a server that ends refuses it; so be it

    def _start_work(self, entry: SessionEntry, kind: str, work: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        if entry.is_closed:
            raise ApiError(404, "the session was closed", code="no_session")
        known = len(entry.session.objects)
        if kind in ("ask", "segment") and known >= self.settings.max_objects:
            raise ApiError(409, f"the session knows {known} objects, as many as are allowed; remove some", code="full")
        return work()


def _release_caches(entry: SessionEntry) -> None:
    if not entry.is_closed and not entry.jobs:
        entry.release_caches()


def dump_json(value: Any) -> str:
    """Compact JSON that any reader takes."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
