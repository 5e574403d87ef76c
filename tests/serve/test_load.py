"""A short run of ``tools/load_server.py``: clients side by side, each answer against the one that was given alone."""

from __future__ import annotations

import importlib
import platform
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from live import Live, running, wait_for

from unipixel.engine.engine import Engine
from unipixel.serve.runtime import THREADS


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    return importlib.import_module("load_server")


def test_clients_side_by_side_get_their_own_answers(load: Any, nano: Live) -> None:
    made = load.cases(2, "nano")
    before = nano.get("/v1/sessions")  # of other tests
    load.learn(nano.url, made)
    tally = load.phase(nano.url, clients=6, seconds=1.5, given=made, seed=0, pid=None)
    assert tally.answers and set(tally.verdicts) <= {"same", "inexact"}, tally.verdicts
    assert not tally.broken and set(tally.statuses) <= load.FINE
    assert nano.get("/v1/sessions") == before
    one, other = made[0].expected["chat"], made[1].expected["chat"]
    assert load.compare(one, one) == "same" and load.compare(one, other) == "wrong"


def test_queue_that_is_full_is_waited_for(load: Any, nano_engine: Engine) -> None:
    with running(nano_engine, max_queue=1, max_running=1) as live:
        made = load.cases(1, "nano")
        load.learn(live.url, made)
        tally = load.phase(live.url, clients=6, seconds=1.0, given=made, seed=0, pid=None)
    assert tally.statuses[429] and set(tally.statuses) <= load.FINE and not tally.broken
    assert tally.answers and not tally.verdicts["wrong"]


def test_work_that_is_cut_short_leaves_nothing(load: Any, quick_engine: Engine) -> None:
    with running(quick_engine) as live:
        made = load.cases(2, "nano")
        load.learn(live.url, made, load.MIXED)
        threads = threading.active_count()
        tally = load.phase(live.url, clients=4, seconds=2.0, given=made, seed=0, pid=None, tasks=load.MIXED)
        assert tally.answers and not tally.verdicts["wrong"], tally.verdicts
        assert not tally.broken and set(tally.statuses) <= load.FINE, (tally.broken, tally.statuses)
        for task in ("stop", "leave", "delete"):  # each of them, however few there were by chance
            load.cut_short(task, made[0], load.Client(live.url, load.Tally()))
        assert live.get("/v1/sessions") == {"sessions": []}
        wait_for(lambda: threading.active_count() <= threads + THREADS)
        assert list((live.sessions._root).iterdir()) == []


def test_memory_that_is_free_goes_back() -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("this C library keeps nothing that it could give back")
    code = """
import threading
from pathlib import Path
from unipixel.serve.runtime import limit_heaps, trim_heaps
def measure():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) // 1024
def work(left):
    blocks = []
    for _ in range(600):
        blocks.append(bytearray(100_000))
        left.append(bytearray(2_000))  # lies between them, so that no heap ends
limit_heaps()
before, left = measure(), []
threads = [threading.Thread(target=work, args=(left,)) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
kept = measure() - before
trim_heaps()
print(kept, measure() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, left = map(int, done.stdout.split())
    assert left < 30 and left < kept  # of 240 MB; 5 MB are in use
