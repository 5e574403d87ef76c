"""The one thread that runs the model: a bounded queue, shared fairly, that survives whatever a request does.

Work comes as generators, because torch runs best on one thread and a question about a long video takes minutes: the
thread goes around among the jobs in its slots and takes one piece of each, so nobody waits for another's video. Lanes
(a session, or a one-shot request) take turns for free slots, and jobs of one lane run one after the other, since a
session is not safe for two at a time. Replies that are under way in several slots are written together, token by token:
see `ContinuousBatch`, which needs nothing from here but that the pieces are small and taken in turn.

What is hard here is that a job can end in four ways (done, failed, cancelled, or with the thread hit by an error that
is not its own), from two threads, and whoever awaits it must hear of it exactly once. Hence the rules: `Job.send` hands
over to the event loop and never blocks; the queue is changed under the condition only; and what is in a slot is touched
by the model's thread alone, so that a generator is never closed while it runs.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from unipixel.serve.errors import CLIENT_CLOSED, LOG, ApiError, JobCancelled, retry_after

T = TypeVar("T")


JOB_STARTED, _JOB_ENDED = object(), object()
"""The first and the last thing that a job sends, around its pieces."""


class Job:
    """One piece of work for the model. Make it on the event loop, submit it, then await its pieces.

    Args:
        lane: jobs of one lane run one after the other.
        work: called on the model's thread; what it yields are the pieces.
        kind: a name for the counters.
    """

    def __init__(self, lane: str, work: Callable[[], Iterator[Any]], *, kind: str) -> None:
        self.lane, self.work, self.kind = lane, work, kind
        self.pieces: Iterator[Any] | None = None
        """What `work` returned; of the model's thread alone."""
        self.submitted_s = self.started_s = self.finished_s = time.monotonic()
        self.stop_reason: JobCancelled | None = None
        """Why it is to be stopped, if it is."""
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._on_cancel: Callable[[Job], None] = lambda _: None

    def cancel(self, reason: JobCancelled | None = None) -> None:
        """Stop the work; what it did so far is kept. Safe from any thread, and at any time.

        A job that waits ends at once. One in a slot is only marked: its generator may be running on the model's thread
        at this very moment and is closed there, before its next piece.
        """
        if self.stop_reason is None:
            self.stop_reason = reason or JobCancelled(CLIENT_CLOSED, "the client has left", code="client_gone")
            self._on_cancel(self)

    def send(self, event: Any) -> None:
        """Hand something to whoever awaits the job."""
        with suppress(RuntimeError):  # the loop is closed: nobody awaits it any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def events(self) -> AsyncIterator[Any]:
        """`JOB_STARTED`, then the pieces.

        Raises:
            Exception: what the work raised, or `JobCancelled`.
        """
        while True:
            event = await self._events.get()
            if event is _JOB_ENDED:
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


class ModelWorker:
    """The model's thread and its queue.

    Args:
        max_queue: jobs that may wait.
        max_running: slots, among which the thread goes back and forth.
        on_finish: called for every job with its outcome: ``"done"``, ``"stopped"`` or ``"failed"``.
    """

    def __init__(
        self, *, max_queue: int, max_running: int, on_finish: Callable[[Job, str], None] = lambda *_: None
    ) -> None:
        self._max_queue, self._max_running, self._on_finish = max_queue, max_running, on_finish
        # entered itself: a condition is entered by Python code, in which a thread can be hit while it has the lock
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        self._lanes: OrderedDict[str, deque[Job]] = OrderedDict()
        self._slots: deque[Job] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._is_accepting, self._is_stopped = True, False
        self._mean_s = 1.0
        self._current: Job | None = None
        self._unfinished: set[Job] = set()
        """Jobs that were submitted and have not ended: what `_recover` finds in no queue and no slot, it must fail."""
        self._thread = threading.Thread(target=self._run_forever, name="unipixel-model", daemon=True)

    # from the event loop

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Jobs in the queue."""
        with self._lock:
            return self._count_waiting()

    @property
    def num_running(self) -> int:
        """Jobs in slots."""
        with self._lock:
            return len(self._slots)

    @property
    def is_ready(self) -> bool:
        """Whether it takes jobs."""
        return self._is_accepting and self._thread.is_alive()

    def submit(self, job: Job) -> Job:
        """Put a job into the queue.

        Raises:
            ApiError: the queue is full, or the server shuts down.
        """
        with self._lock:
            if not self._is_accepting:
                raise ApiError(503, "the server is shutting down", code="shutting_down", headers=retry_after(5))
            waiting = self._count_waiting()
            if waiting >= self._max_queue:
                after = min(max(math.ceil(self._mean_s * waiting), 1), 120)
                message = f"{waiting} requests are waiting, as many as are allowed; try again in {after} s"
                raise ApiError(429, message, code="queue_full", headers=retry_after(after))
            job._on_cancel = self._dequeue
            self._unfinished.add(job)
            self._lanes.setdefault(job.lane, deque()).append(job)
            self._condition.notify()
        return job

    async def call(self, function: Callable[[], T]) -> T:
        """Run something short on the model's thread, between two pieces, ahead of everything that waits.

        Raises:
            Exception: what the function raised.
            ApiError: the thread has stopped.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def finish(result: T | None, error: Exception | None) -> None:
            if not future.done():
                future.set_exception(error) if error is not None else future.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result, error = None, None
            try:
                result = function()
            except Exception as caught:
                error = caught
            except BaseException:  # meant for the thread, which goes on; but whoever awaits this must hear of it too
                error = RuntimeError("the model's thread was interrupted")
                raise
            finally:
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(finish, result, error)

        with self._lock:
            if self._is_stopped:
                raise ApiError(503, "the server is shutting down", code="shutting_down", headers=retry_after(5))
            self._calls.append(run)
            self._condition.notify()
        return await future

    async def drain(self, grace_s: float) -> None:
        """Take no more jobs, let the present ones finish, and stop those that do not finish in time."""
        with self._lock:
            self._is_accepting = False
        end = time.monotonic() + grace_s
        while self.num_waiting + self.num_running and time.monotonic() < end:
            await asyncio.sleep(0.02)
        reason = JobCancelled(503, "the server is shutting down and stopped this answer", code="shutting_down")
        with self._lock:
            jobs = self._list_jobs()
        for job in jobs:
            job.cancel(reason)
        for _ in range(100):
            if not self.num_running:
                return
            await asyncio.sleep(0.02)

    def stop(self, wait_s: float = 5.0) -> None:
        """Stop the thread."""
        with self._lock:
            self._is_accepting, self._is_stopped = False, True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    # on the model's thread

    def _run_forever(self) -> None:
        must_recover = False
        while not self._is_stopped:
            try:
                if must_recover:
                    self._recover()
                    must_recover = False
                self._loop()
            except BaseException as error:  # everybody waits for this thread: it must not die
                must_recover = True
                LOG.critical("the model's thread was hit by %s and goes on", type(error).__name__, exc_info=error)

    def _recover(self) -> None:
        """Fail what ran when the thread was hit, so that nobody waits for ever.

        The error may have struck between any two lines, for instance when a job had left its queue and was in no slot
        yet. So this does not ask what the thread was doing: a job that is neither queued nor in a slot is lost.
        """
        job, self._current = self._current, None
        if job is not None:
            self._discard(job)
        with self._lock:
            lost = self._unfinished - set(self._list_jobs())
        for job in lost:
            self._finish(job, RuntimeError("the model's thread was interrupted"))

    def _loop(self) -> None:
        while True:
            with self._lock:
                while not (self._calls or self._slots or self._next_lane() is not None):
                    if self._is_stopped:
                        return
                    self._condition.wait()
            self._close_cancelled()  # first, so that no piece is computed for someone who has left
            for _ in range(len(self._calls)):
                self._calls.popleft()()
            with self._lock:
                self._admit()
                job = self._slots[0] if self._slots else None
                self._slots.rotate(-1)
            self._current = job
            if job is not None:
                self._step(job)
            self._current = None

    def _list_jobs(self) -> list[Job]:
        """All jobs, those that wait first; under the condition."""
        waiting = [job for lane in self._lanes.values() for job in lane]
        return [*waiting, *self._slots]

    def _count_waiting(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    def _next_lane(self) -> str | None:
        """The lane whose turn it is: the first without a job in a slot."""
        if len(self._slots) >= self._max_running:
            return None
        busy = {job.lane for job in self._slots}
        return next((lane for lane in self._lanes if lane not in busy), None)

    def _admit(self) -> None:
        """Take jobs from the queue, in turn over the lanes."""
        while (lane := self._next_lane()) is not None:
            jobs = self._lanes.pop(lane)
            job = jobs.popleft()
            if jobs:
                self._lanes[lane] = jobs  # at the end: it has had its turn
            job.started_s = time.monotonic()
            self._slots.append(job)

    def _dequeue(self, job: Job) -> None:
        """Take a cancelled job out of the queue; one in a slot is left to the model's thread, which this wakes."""
        with self._lock:
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
        """End what was cancelled."""
        for job in [job for job in self._slots if job.stop_reason is not None]:
            self._discard(job)
            close = getattr(job.pieces, "close", None)
            if close is not None:
                close()
            self._finish(job, job.stop_reason)

    def _discard(self, job: Job) -> None:
        with self._lock, suppress(ValueError):
            self._slots.remove(job)

    def _step(self, job: Job) -> None:
        """Compute the next piece of a job."""
        try:
            if job.pieces is None:
                job.pieces = job.work()
                job.send(JOB_STARTED)
            piece = next(job.pieces)
            if piece != "":
                job.send(piece)
        except StopIteration:
            self._discard(job)
            self._finish(job, None)
        except Exception as error:
            self._discard(job)
            self._finish(job, error)

    def _finish(self, job: Job, error: Exception | None) -> None:
        job.finished_s = time.monotonic()
        # those in the other slots took their share of the time
        self._mean_s += 0.2 * ((job.finished_s - job.started_s) / (1 + len(self._slots)) - self._mean_s)
        outcome = "done" if error is None else "stopped" if isinstance(error, JobCancelled) else "failed"
        self._on_finish(job, outcome)
        job.send(_JOB_ENDED if error is None else error)
        self._unfinished.discard(job)
