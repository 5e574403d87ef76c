"""A short run of ``tools/load_server.py``: clients side by side, each answer against the one that was given alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from live import Live, running

from unipixel.engine.engine import Engine


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
    with running(nano_engine, max_queue=1, max_running=1, batch_size=1) as live:
        made = load.cases(1, "nano")
        load.learn(live.url, made)
        tally = load.phase(live.url, clients=6, seconds=1.0, given=made, seed=0, pid=None)
    assert tally.statuses[429] and set(tally.statuses) <= load.FINE and not tally.broken
    assert tally.answers and not tally.verdicts["wrong"]
