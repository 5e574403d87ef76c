"""What all requests share while the server runs: the model's thread, threads for what blocks, kept sessions."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends
from starlette.requests import Request
from starlette.responses import Response

from unipixel.engine.engine import Engine
from unipixel.engine.generation import find_batch
from unipixel.engine.session import Session
from unipixel.errors import MediaError
from unipixel.serve.errors import ApiError
from unipixel.serve.folder import FolderProgress, MediaFolder
from unipixel.serve.guard import ByteBudget
from unipixel.serve.metrics import Counters
from unipixel.serve.responses import NO_CACHE
from unipixel.serve.settings import ServeSettings
from unipixel.serve.worker import ModelWorker

T = TypeVar("T")
THREADS = 8
"""Downloads, uploads and exports at the same time."""
TRIM_S = 5.0
"""Seconds after which memory that is free again goes back to the system."""
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
MAX_ARENAS, MMAP_BYTES = 2, 4 << 20
"""Heaps that threads share, and the size from which a block of memory is a mapping of its own."""


def limit_heaps() -> None:
    """Have the C library's allocator (glibc's; others are left alone) keep little of what is freed.

    By itself it makes a heap for every few threads, raises the size of blocks that it keeps up to 32 MB once such a
    block was freed, and gives back only what lies at a heap's end: a server's memory grew with every kind of request.
    """
    if (mallopt := _find_function("mallopt")) is not None:
        mallopt(_M_ARENA_MAX, MAX_ARENAS)
        mallopt(_M_MMAP_THRESHOLD, MMAP_BYTES)


def trim_heaps() -> None:
    """Give what is free in the middle of heaps back to the system; where the allocator is glibc's."""
    if (trim := _find_function("malloc_trim")) is not None:
        trim(0)


def _find_function(name: str) -> Callable[..., int] | None:
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):
        return None


class Runtime:
    """Everything that requests share."""

    def __init__(self, engine: Engine, settings: ServeSettings) -> None:
        self.engine, self.settings = engine, settings
        self.folder = None if settings.folder is None else MediaFolder(settings.folder)
        self.progress = FolderProgress(
            settings.state / f"folder-{self.folder.id}.json" if self.folder is not None and settings.state else None
        )
        self.created = int(time.time())
        self.counters = Counters(find_batch(engine.model).sizes)
        self.body_budget = ByteBudget(settings.max_bodies_bytes)
        self.session_cache = SessionCache(settings.cached_sessions)
        self.worker = ModelWorker(
            max_queue=settings.max_queue,
            max_running=settings.max_running,
            on_finish=self.counters.count_job,
        )
        self.on_tidy: list[Callable[[], Awaitable[None]]] = []
        """Called now and then, to close what nobody uses."""
        self.on_stop: list[Callable[[], None]] = []
        """Called once on the model's thread, after its last job."""
        self._limiter = anyio.CapacityLimiter(THREADS)
        self._tidy_task: asyncio.Task[None] | None = None
        self._background_tasks: set[asyncio.Task[Any]] = set()
        self._is_stopped = False

    def start(self) -> None:
        """Start the model's thread and the tidying; on the event loop."""
        self.worker.start()
        self._tidy_task = asyncio.create_task(self._tidy())

    async def stop(self) -> None:
        """Let running answers finish or cancel them, then close all sessions."""
        if self._is_stopped:
            return
        self._is_stopped = True
        await self.worker.drain(self.settings.grace_s)
        if self._tidy_task is not None:
            self._tidy_task.cancel()

        def close() -> None:
            for function in self.on_stop:
                function()

        with contextlib.suppress(ApiError, TimeoutError):
            await asyncio.wait_for(self.worker.call(close), timeout=30)
        self.worker.stop()

    async def _tidy(self) -> None:
        pause = min(max(self.settings.idle_s / 4, 0.05), TRIM_S)
        trimmed_s = time.monotonic()
        while True:
            await asyncio.sleep(pause)
            if time.monotonic() - trimmed_s >= TRIM_S:
                await asyncio.to_thread(trim_heaps)
                trimmed_s = time.monotonic()
            for function in self.on_tidy:
                await function()
            await self._close_sessions(self.session_cache.pop_expired(self.settings.idle_s))

    async def run_in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Call what blocks (downloads, decoding, exports) in a thread."""
        return await anyio.to_thread.run_sync(
            partial(function, *arguments), limiter=self._limiter, abandon_on_cancel=True
        )

    def run_in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something without waiting for it."""
        task = asyncio.ensure_future(work)
        self._background_tasks.add(task)
        task.add_done_callback(self._background_tasks.discard)
        # a server that shuts down refuses it, which is as good
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def check_clip(self, session: Session) -> None:
        """Refuse a clip with too many frames.

        Raises:
            MediaError: says how many.
        """
        max_frames, max_seen = self.settings.max_frames, self.settings.max_seen_frames
        if session.num_frames > max_frames:
            raise MediaError(
                f"the clip has {session.num_frames} frames; at most {max_frames} can be tracked, see every"
            )
        if len(session.seen_frames) > max_seen:
            raise MediaError(
                f"num_frames is {len(session.seen_frames)}; the language model may read at most {max_seen}"
            )

    def get_folder(self) -> MediaFolder:
        """The folder that clients may open.

        Raises:
            ApiError: there is none.
        """
        if self.folder is None:
            raise ApiError(404, "this server opens no folder; start it with --folder DIR", code="no_folder")
        return self.folder

    def keep_session(self, key: str, session: Session) -> None:
        """Keep a session for the next turn of its conversation, or close it if nothing is kept."""
        if not session.is_closed:
            self.close_in_background(
                self.session_cache.add(key, session) if self.settings.cached_sessions else [session]
            )

    def close_in_background(self, sessions: Iterable[Session]) -> None:
        """Close sessions on the model's thread."""
        self.run_in_background(self._close_sessions(sessions))

    async def _close_sessions(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            with contextlib.suppress(ApiError):
                await self.worker.call(session.close)


class SessionCache:
    """Sessions that are ready for the next turn of a conversation; the oldest make room.

    Each is handed out once: two requests that continue the same turn must not meet in one session.
    """

    def __init__(self, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._sessions: OrderedDict[str, tuple[Session, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def pop(self, key: str) -> Session | None:
        """The session that stands where a conversation goes on."""
        return self._sessions.pop(key, (None, 0.0))[0]

    def add(self, key: str, session: Session) -> list[Session]:
        """Keep a session; returns those that have to be closed for it."""
        evicted = [found] if (found := self.pop(key)) is not None else []
        self._sessions[key] = (session, time.monotonic())
        while len(self._sessions) > self._max_sessions:
            evicted.append(self._sessions.popitem(last=False)[1][0])
        return evicted

    def pop_expired(self, idle_s: float) -> list[Session]:
        """Take out the sessions that nobody has come back to."""
        old = [key for key, (_, since) in self._sessions.items() if time.monotonic() - since > idle_s]
        return [self._sessions.pop(key)[0] for key in old]


def get_runtime(request: Request) -> Runtime:
    """The server's runtime, for routes."""
    runtime: Runtime = request.app.state.runtime
    return runtime


def get_owner(request: Request) -> str:
    """Whose key a request carries, for routes; see `Guard`."""
    return str(request.state.owner)


def forbid_caching(response: Response) -> None:
    """What a route returns must be kept by no cache; routes that return a response of their own decide themselves."""
    response.headers.update(NO_CACHE)


RuntimeDep = Annotated[Runtime, Depends(get_runtime)]
OwnerDep = Annotated[str, Depends(get_owner)]
