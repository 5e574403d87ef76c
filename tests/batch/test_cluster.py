"""A batch and an evaluation on Ray; tools/scale_batch.py does the same for longer, and does harm."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from unipixel.batch import cluster
from unipixel.batch.cluster import LOCAL, choose_device, find_cause, import_ray, request_device
from unipixel.cli import app
from unipixel.errors import DatasetError


def test_without_ray_several_actors_are_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"several actors need Ray .*pip install 'unipixel\[scale\]'"):
        import_ray()


def test_a_ray_that_does_not_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(**_: Any) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=give_up, data=SimpleNamespace()))
    monkeypatch.setitem(sys.modules, "ray.data", SimpleNamespace())
    with (
        pytest.raises(ValueError, match=r"Ray does not start on this machine \(The current node timed out") as caught,
        cluster.connect(LOCAL, 2, 1, "cpu"),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_the_error_of_ours_is_found_in_what_it_is_wrapped_in() -> None:
    own = DatasetError("the plan is damaged")
    wrapped = RuntimeError("a task failed")
    wrapped.cause = own  # as Ray does
    outer = RuntimeError("the job failed")
    outer.__cause__ = wrapped
    assert find_cause(outer) is own and find_cause(RuntimeError("x")) is None and find_cause(None) is None
    wrapped.cause = wrapped
    assert find_cause(wrapped) is None


def test_every_actor_has_a_device_of_its_own() -> None:
    assert request_device("cuda", 4) == {"num_gpus": 1} and request_device("cpu", 0) == {"num_cpus": 1}
    assert choose_device("cuda") == "cuda"
    with pytest.raises(ValueError, match="'cuda:1'; with --actors it must be"):
        choose_device("cuda:1")


@pytest.mark.parametrize("model", ["perfect", "blank"])
def test_parts_of_an_evaluation_give_the_report_of_one_process(
    model: str, miniatures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole road of ``eval --address`` but for Ray: its rows go to one actor here, last part first."""

    @contextmanager
    def connect(*_: Any) -> Iterator[None]:
        yield

    def map_rows(ray: Any, rows: Any, kind: Any, arguments: Any, *_: Any) -> Iterator[dict[str, Any]]:
        actor = kind(**arguments)
        for row in reversed(rows):
            columns = actor({name: np.array([value]) for name, value in row.items()})
            yield {name: values[0] for name, values in columns.items()}

    monkeypatch.setattr(cluster, "connect", connect)
    monkeypatch.setattr(cluster, "map_rows", map_rows)
    words = ["eval", "refcoco/testA", "mevis/valid", "--model", model, "--data-root", str(miniatures), "-o"]
    runner = CliRunner()
    assert runner.invoke(app, [*words, str(tmp_path / "whole")]).exit_code == 0
    where = ["--address", "local", "--actors", "2"]
    done = runner.invoke(app, [*words, str(tmp_path / "parts"), *where])
    assert done.exit_code == 0, done.output
    parts = sorted((tmp_path / "parts").glob("*/*/*-of-*.jsonl"))
    assert len(parts) > 2
    for name in ("report.json", "report.md", "report.html"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # a part that was lost is answered again, the others stay
    before = parts[1].read_bytes()
    parts[0].unlink()
    assert runner.invoke(app, [*words, str(tmp_path / "parts"), *where]).exit_code == 0
    assert parts[0].exists() and parts[1].read_bytes() == before
    refused = runner.invoke(app, [*words, str(tmp_path / "x"), "--actors", "2"])
    assert refused.exit_code == 2 and "--address does not say" in refused.stderr
    refused = runner.invoke(app, [*words, str(tmp_path / "x"), "--address", "local", "--shard", "0/2"])
    assert refused.exit_code == 2 and "--address divides the run by itself" in refused.stderr


@pytest.mark.slow
def test_ray_of_this_machine_gives_rows_to_actors() -> None:
    pytest.importorskip("ray", reason="Ray is not installed (unipixel[scale])")
    from unipixel.batch.cluster import connect, map_rows

    with connect(LOCAL, 2, 1, "cpu") as ray:
        rows = [{"shard": number} for number in range(6)]
        done = list(map_rows(ray, rows, Doubler, {"by": 2}, 2, 1, {"num_cpus": 1}))
    assert sorted(int(row["shard"]) for row in done) == [0, 2, 4, 6, 8, 10]


class Doubler:
    def __init__(self, by: int) -> None:
        self._by = by

    def __call__(self, columns: dict[str, object]) -> dict[str, object]:
        return {"shard": columns["shard"] * self._by}
