"""The one thread that runs the model: a bounded queue, shared fairly, that survives whatever a request does.

Work comes as generators. The thread goes around among the jobs that are under way and takes one piece of each, so a
long video keeps nobody else waiting. Lanes (a session, or a one-shot request) take turns, and jobs of one lane run one
after the other. One-shot jobs that wait together are answered in one batch.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from unipixel.serve.errors import CLIENT_CLOSED, LOG, ApiError, JobCancelled

T = TypeVar("T")


class JobStarted:
    """The first thing that a job tells: the model has taken it up."""


class _JobEnded:
    """The last thing, after the pieces."""


@dataclass(frozen=True)
class JobStats:
    """How a job went, for the counters."""

    kind: str
    outcome: str
    """``"done"``, ``"stopped"`` or ``"failed"``."""
    wait_s: float
    run_s: float
    batch_size: int
    """Jobs that ran in the same batch."""


class Job:
    """One piece of work for the model. Make it on the event loop, submit it, then await its pieces.

    Args:
        lane: jobs of one lane run one after the other.
        work: called on the model's thread; what it yields are the pieces.
        kind: a name for the counters.
        part: what a batch needs to do the same; only of jobs that may share one.
    """

    def __init__(self, lane: str, work: Callable[[], Iterator[Any]], *, kind: str, batch_item: Any = None) -> None:
        self.lane, self.work, self.kind, self.batch_item = lane, work, kind, batch_item
        self.submitted_s = self.started_s = time.monotonic()
        self.stop_reason: JobCancelled | None = None
        """Why it is to be stopped, if it is."""
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._on_cancel: Callable[[Job], None] = lambda _: None

    def cancel(self, reason: JobCancelled | None = None) -> None:
        """Stop the work; what it did so far is kept. Safe from any thread, and at any time."""
        if self.stop_reason is None:
            self.stop_reason = reason or JobCancelled(CLIENT_CLOSED, "the client has left", code="client_gone")
            self._on_cancel(self)

    def send(self, event: Any) -> None:
        """Hand something to whoever awaits the job."""
        with suppress(RuntimeError):  # the loop is closed: nobody does any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def events(self) -> AsyncIterator[Any]:
        """`Begun`, then the pieces.

        Raises:
            Exception: what the work raised, or `JobCancelled`.
        """
        while True:
            event = await self._events.get()
            if isinstance(event, _JobEnded):
                return
            if isinstance(event, BaseException):
                raise event
            yield event

    async def result(self) -> Any:
        """The last piece.

        Raises:
            Exception: what the work raised, or `JobCancelled`.
        """
        last = None
        async for piece in self.events():
            last = piece
        return last


class _Slot:
    """Jobs under way: one as a generator, or a batch that runs in one go."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = list(jobs)
        self.pieces: Iterator[Any] | None = None

    def close(self) -> None:
        if self.pieces is not None and hasattr(self.pieces, "close"):
            self.pieces.close()


class ModelWorker:
    """The model's thread and its queue.

    Args:
        max_queue: jobs that may wait.
        max_running: jobs among which it goes back and forth.
        batch_size: jobs with a part that are run together.
        together: runs parts in one batch and returns a result or an error for each.
        observe: told how every job went.
    """

    def __init__(
        self,
        *,
        max_queue: int,
        max_running: int,
        batch_size: int,
        answer_batch: Callable[[list[Any]], list[Any]],
        on_finish: Callable[[JobStats], None] = lambda _: None,
    ) -> None:
        self._max_queue, self._max_running, self._batch_size = max_queue, max_running, batch_size
        self._answer_batch, self._on_finish = answer_batch, on_finish
        self._condition = threading.Condition()
        self._lanes: OrderedDict[str, deque[Job]] = OrderedDict()
        self._slots: deque[_Slot] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._accepting, self._ended = True, False
        self._mean_s = 1.0
        self._current: _Slot | None = None
        self._unfinished: set[Job] = set()
        """Jobs that were taken in and have not ended."""
        self._thread = threading.Thread(target=self._run_forever, name="unipixel-model", daemon=True)

    # from the event loop

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Jobs in the queue."""
        with self._condition:
            return self._count_waiting()

    @property
    def num_running(self) -> int:
        """Jobs under way."""
        with self._condition:
            return sum(len(entry.jobs) for entry in self._slots)

    @property
    def is_ready(self) -> bool:
        """Whether it takes jobs."""
        return self._accepting and self._thread.is_alive()

    def submit(self, job: Job) -> Job:
        """Put a job into the queue.

        Raises:
            Refusal: the queue is full, or the server ends.
        """
        with self._condition:
            if not self._accepting:
                raise ApiError(503, "the server is shutting down", code="shutting_down", retry_after_s=5)
            waiting = self._count_waiting()
            if waiting >= self._max_queue:
                after = min(max(math.ceil(self._mean_s * waiting), 1), 120)
                sentence = f"{waiting} requests are waiting, as many as are allowed; try again in {after} s"
                raise ApiError(429, sentence, code="queue_full", retry_after_s=after)
            job._on_cancel = self._dequeue
            self._unfinished.add(job)
            self._lanes.setdefault(job.lane, deque()).append(job)
            self._condition.notify()
        return job

    async def call(self, call: Callable[[], T]) -> T:
        """Run something short on the model's thread, between two pieces, ahead of everything that waits."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def send(result: T | None, error: Exception | None) -> None:
            if not future.done():
                future.set_exception(error) if error is not None else future.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result, error = None, None
            try:
                result = call()
            except Exception as caught:
                error = caught
            except BaseException:  # it hits the thread, which goes on; nobody may wait for ever
                error = RuntimeError("the model's thread was interrupted")
                raise
            finally:
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(send, result, error)

        with self._condition:
            if self._ended:
                raise ApiError(503, "the server is shutting down", code="shutting_down", retry_after_s=5)
            self._calls.append(run)
            self._condition.notify()
        return await future

    async def drain(self, grace_s: float) -> None:
        """Take no more jobs, let those there are finish, and stop those that do not in time."""
        with self._condition:
            self._accepting = False
        end = time.monotonic() + grace_s
        while self.num_waiting + self.num_running and time.monotonic() < end:
            await asyncio.sleep(0.02)
        reason = JobCancelled(503, "the server is shutting down and stopped this answer", code="shutting_down")
        with self._condition:
            left = [job for lane in self._lanes.values() for job in lane]
            left += [job for entry in self._slots for job in entry.jobs]
        for job in left:
            job.cancel(reason)
        for _ in range(100):
            if not self.num_running:
                return
            await asyncio.sleep(0.02)

    def stop(self, wait_s: float = 5.0) -> None:
        """End the thread."""
        with self._condition:
            self._accepting, self._ended = False, True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    # on the model's thread

    def _run_forever(self) -> None:
        is_hit = False
        while not self._ended:
            try:
                if is_hit:
                    self._recover()
                    is_hit = False
                self._loop()
            except BaseException as error:  # the thread is what everybody waits for: it must not die
                is_hit = True
                LOG.critical("the model's thread was hit by %s and goes on", type(error).__name__, exc_info=error)

    def _recover(self) -> None:
        """Fail what was being worked at, and what was on its way between two places, so that nobody waits for ever."""
        entry, self._current = self._current, None
        if entry is not None:
            self._discard(entry)
        with self._condition:
            kept = {job for lane in self._lanes.values() for job in lane}
            kept |= {job for entry in self._slots for job in entry.jobs}
            lost = self._unfinished - kept
        for job in lost:
            self._finish(job, RuntimeError("the model's thread was interrupted"))

    def _loop(self) -> None:
        while True:
            with self._condition:
                while not (self._calls or self._slots or self._next_lane() is not None):
                    if self._ended:
                        return
                    self._condition.wait()
            self._close_cancelled()
            for _ in range(len(self._calls)):
                self._calls.popleft()()
            with self._condition:
                self._admit()
                entry = self._slots[0] if self._slots else None
                self._slots.rotate(-1)
            self._current = entry
            if entry is not None:
                self._step(entry)
            self._current = None

    def _count_waiting(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    def _next_lane(self) -> str | None:
        """The lane whose turn it is: the first that is not under way already."""
        if len(self._slots) >= self._max_running:
            return None
        busy = {job.lane for entry in self._slots for job in entry.jobs}
        in_batch = any(job.batch_item is not None for entry in self._slots for job in entry.jobs)
        for lane, jobs in self._lanes.items():
            # while one batch runs, the next one gathers
            if lane not in busy and not (in_batch and jobs[0].batch_item is not None):
                return lane
        return None

    def _admit(self) -> None:
        """Take jobs from the queue, in turn over the lanes."""
        while (lane := self._next_lane()) is not None:
            taken = [self._take(lane)]
            if taken[0].batch_item is not None:
                others = [name for name, jobs in self._lanes.items() if jobs[0].batch_item is not None]
                taken += [self._take(name) for name in others[: self._batch_size - 1]]
            for job in taken:
                job.started_s = time.monotonic()
            self._slots.append(_Slot(taken))

    def _take(self, lane: str) -> Job:
        jobs = self._lanes.pop(lane)
        job = jobs.popleft()
        if jobs:
            self._lanes[lane] = jobs  # at the end: it has had its turn
        return job

    def _dequeue(self, job: Job) -> None:
        """Take a job that was cancelled out of the queue; one that is under way is swept by the thread."""
        with self._condition:
            jobs = self._lanes.get(job.lane)
            if jobs is not None and job in jobs:
                jobs.remove(job)
                if not jobs:
                    del self._lanes[job.lane]
                job.started_s = time.monotonic()
                job.send(job.stop_reason)
                self._unfinished.discard(job)
            self._condition.notify()

    def _close_cancelled(self) -> None:
        """Close what was cancelled."""
        for entry in [entry for entry in self._slots if any(job.stop_reason for job in entry.jobs)]:
            gone = [job for job in entry.jobs if job.stop_reason is not None]
            if len(gone) == len(entry.jobs):
                self._discard(entry)
                entry.close()
            else:
                entry.jobs = [job for job in entry.jobs if job.stop_reason is None]
            for job in gone:
                self._finish(job, job.stop_reason)

    def _discard(self, entry: _Slot) -> None:
        with self._condition, suppress(ValueError):
            self._slots.remove(entry)

    def _step(self, entry: _Slot) -> None:
        if len(entry.jobs) > 1:
            self._run_batch(entry)
            return
        (job,) = entry.jobs
        try:
            if entry.pieces is None:
                entry.pieces = job.work()
                job.send(JobStarted())
            job.send(next(entry.pieces))
        except StopIteration:
            self._discard(entry)
            self._finish(job, None)
        except Exception as error:
            self._discard(entry)
            self._finish(job, error)

    def _run_batch(self, entry: _Slot) -> None:
        jobs = entry.jobs
        for job in jobs:
            job.send(JobStarted())
        try:
            results = self._answer_batch([job.batch_item for job in jobs])
        except Exception as error:
            results = [error] * len(jobs)
        self._discard(entry)
        for job, result in zip(jobs, results, strict=True):
            if not isinstance(result, Exception):
                job.send(result)
            self._finish(job, result if isinstance(result, Exception) else None, answer_batch=len(jobs))

    def _finish(self, job: Job, error: Exception | None, answer_batch: int = 1) -> None:
        now = time.monotonic()
        self._mean_s += 0.2 * ((now - job.started_s) / answer_batch - self._mean_s)
        outcome = "done" if error is None else "stopped" if isinstance(error, JobCancelled) else "failed"
        self._on_finish(JobStats(job.kind, outcome, job.started_s - job.submitted_s, now - job.started_s, answer_batch))
        job.send(_JobEnded() if error is None else error)
        self._unfinished.discard(job)
