"""A short run of ``tools/fuzz_serve.py``: requests made from the description, right, wrong and broken ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from live import running

from unipixel.engine.engine import Engine

pytest.importorskip("schemathesis", reason="the package schemathesis is not installed")

from hypothesis.configuration import set_hypothesis_home_dir

from tools.fuzz_serve import MODES, Fuzzer


def test_every_answer_is_as_the_description_says(quick_engine: Engine, tmp_path: Path) -> None:
    set_hypothesis_home_dir(tmp_path / "hypothesis")
    with running(quick_engine, state=tmp_path / "state", max_tokens=8, max_frames=16) as live:
        report = Fuzzer(live.url, seed=0).run(200)
        described = live.get("/openapi.json")["paths"]
    assert not report.failures, "\n".join(report.lines())
    assert report.total >= 200 and set(report.operations) == {
        f"{method.upper()} {path}" for path, methods in described.items() for method in methods
    }
    for mode in MODES:  # they come through, and are refused
        statuses = {status for one, status in report.statuses if one == mode}
        assert statuses & {400, 404} and (mode == "negative" or statuses & {200, 201, 204})
    assert list((tmp_path / "state" / "sessions").iterdir()) == []
