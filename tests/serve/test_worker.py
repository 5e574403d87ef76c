"""The model's thread by itself: turns, bounds, cancellation, batches, and what goes wrong in a job."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from unipixel.serve.errors import ApiError, JobCancelled
from unipixel.serve.worker import Job, ModelWorker


def worker(**bounds: int) -> ModelWorker:
    return ModelWorker(**{"max_queue": 10, "max_running": 2, **bounds})


def counting(log: list[str], name: str, number: int) -> Callable[[], Iterator[str]]:
    def work() -> Iterator[str]:
        for place in range(number):
            log.append(name)
            yield f"{name}{place}"

    return work


class Gate:
    """Work that waits until it is let go, so that others gather behind it."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()

    def work(self) -> Iterator[str]:
        self.begun.set()
        self.open.wait(10)
        yield "gate"


async def behind_a_gate(made: ModelWorker, jobs: list[Job]) -> list[Any]:
    """Results of jobs that were all submitted before the first could begin."""
    gate = Gate()
    first = made.submit(Job("gate", gate.work, kind="gate"))
    while not gate.begun.is_set():
        await asyncio.sleep(0.001)
    for job in jobs:
        made.submit(job)
    gate.open.set()
    await first.result()
    return await asyncio.gather(*(job.result() for job in jobs), return_exceptions=True)


def run(made: ModelWorker, test: Callable[[], Any]) -> Any:
    async def main() -> Any:
        made.start()
        try:
            return await asyncio.wait_for(test(), 20)
        finally:
            made.stop()

    return asyncio.run(main())


def test_lanes_take_turns_piece_by_piece() -> None:
    made, log = worker(), []

    async def test() -> None:
        jobs = [Job(name, counting(log, name, 3), kind="t") for name in "ab"]
        assert await behind_a_gate(made, jobs) == ["a2", "b2"]

    run(made, test)
    assert log == ["a", "b", "a", "b", "a", "b"]


def test_busy_lane_does_not_keep_others_waiting() -> None:
    made, log = worker(max_running=1), []

    async def test() -> None:
        jobs = [Job("a", counting(log, f"a{n}", 1), kind="t") for n in range(3)]
        await behind_a_gate(made, [*jobs, Job("b", counting(log, "b", 1), kind="t")])

    run(made, test)
    assert log == ["a0", "b", "a1", "a2"]


def test_jobs_of_one_lane_run_one_after_the_other() -> None:
    made, log = worker(max_running=4), []

    async def test() -> None:
        await behind_a_gate(made, [Job("a", counting(log, name, 2), kind="t") for name in "xy"])

    run(made, test)
    assert log == ["x", "x", "y", "y"]


def test_full_queue_says_when_to_come_back() -> None:
    made = worker(max_queue=2)

    async def test() -> None:
        gate = Gate()
        jobs = [Job("gate", gate.work, kind="t") for _ in range(3)]
        made.submit(jobs[0])
        while made.num_waiting:
            await asyncio.sleep(0.001)
        for job in jobs[1:]:
            made.submit(job)
        with pytest.raises(ApiError, match="2 requests are waiting") as caught:
            made.submit(Job("other", gate.work, kind="t"))
        assert caught.value.status == 429 and int(caught.value.headers["Retry-After"]) >= 1
        gate.open.set()
        await asyncio.gather(*(job.result() for job in jobs))

    run(made, test)


def test_cancelled_jobs_leave_the_queue_and_close_their_work() -> None:
    made, closed = worker(), []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    async def test() -> None:
        job, waiting = Job("a", endless, kind="t"), Job("a", endless, kind="t")
        made.submit(job)
        made.submit(waiting)
        pieces = job.events()
        await anext(pieces)
        waiting.cancel()
        with pytest.raises(JobCancelled):
            await waiting.result()
        assert made.num_waiting == 0
        job.cancel()
        with pytest.raises(JobCancelled):
            async for _ in pieces:
                pass
        assert made.num_running == 0

    run(made, test)
    assert closed == [True]


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(3), MemoryError()])
def test_error_in_one_job_leaves_the_others_and_the_thread_alone(error: BaseException) -> None:
    made = worker()

    def failing() -> Iterator[int]:
        yield 1
        raise error

    async def test() -> None:
        bad, good = Job("a", failing, kind="t"), Job("b", counting([], "b", 5), kind="t")
        told = await behind_a_gate(made, [bad, good])
        assert isinstance(told[0], Exception) and told[1] == "b4"
        assert await made.submit(Job("c", counting([], "c", 1), kind="t")).result() == "c0"
        assert made.is_ready

    run(made, test)


def test_empty_pieces_give_others_their_turn_and_are_not_sent() -> None:
    made, log, got = worker(), [], []

    def quiet() -> Iterator[str]:
        for piece in ("", "", "words", ""):
            log.append("quiet")
            yield piece

    async def test() -> None:
        job = Job("q", quiet, kind="t")
        await behind_a_gate(made, [Job("a", counting(log, "a", 4), kind="t"), job])
        log.clear()
        again = made.submit(Job("q", quiet, kind="t"))
        got.extend([piece async for piece in again.events()])

    run(made, test)
    assert log == ["quiet"] * 4 and got[1:] == ["words"]


def test_short_calls_go_between_two_pieces() -> None:
    made, log = worker(), []

    async def test() -> None:
        job = made.submit(Job("a", counting(log, "a", 10_000_000), kind="t"))
        assert await made.call(lambda: threading.current_thread().name) == "unipixel-model"
        with pytest.raises(ZeroDivisionError):
            await made.call(lambda: 1 // 0)
        job.cancel()

    run(made, test)


def test_drained_worker_finishes_what_it_can_and_tells_the_rest() -> None:
    outcomes: list[tuple[str, str]] = []
    made = ModelWorker(max_queue=10, max_running=2, on_finish=lambda job, outcome: outcomes.append((job.lane, outcome)))

    async def test() -> None:
        short = made.submit(Job("a", counting([], "a", 3), kind="t"))
        endless = made.submit(Job("b", counting([], "b", 10**9), kind="t"))
        await made.drain(0.2)
        assert await short.result() == "a2"
        with pytest.raises(JobCancelled, match="shutting down"):
            await endless.result()
        with pytest.raises(ApiError, match="shutting down"):
            made.submit(Job("c", counting([], "c", 1), kind="t"))

    run(made, test)
    assert outcomes == [("a", "done"), ("b", "stopped")]


def test_short_call_that_hits_the_thread_fails_alone() -> None:
    made = worker()

    async def test() -> None:
        job = made.submit(Job("a", counting([], "a", 3), kind="t"))
        with pytest.raises(RuntimeError, match="interrupted"):
            await made.call(lambda: sys.exit(3))
        assert await job.result() == "a2" and made.is_ready

    run(made, test)


def test_job_that_is_lost_on_its_way_is_told_so() -> None:
    hits = [SystemExit(3), MemoryError()]

    def observe(*_: Any) -> None:
        if hits:  # between the end of the work and the news of it
            raise hits.pop()

    made = ModelWorker(max_queue=10, max_running=2, on_finish=observe)

    async def test() -> None:
        with pytest.raises(RuntimeError, match="interrupted"):
            await made.submit(Job("a", counting([], "a", 3), kind="t")).result()
        assert not hits and await made.submit(Job("b", counting([], "b", 1), kind="t")).result() == "b0"
        assert made.num_running == made.num_waiting == 0 and made.is_ready

    run(made, test)
