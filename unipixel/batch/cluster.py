"""A batch and an evaluation on Ray: one process with a model per device, fed by Ray Data.

Rows that go through Ray are small: numbers of shards, and what became of them. Media, plans and answers lie where every
node can reach them. Ray starts a process anew that has ended and gives it the shard again; that a shard is answered
once is seen to by `unipixel.batch` and not by Ray.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from unipixel.atomic import replace_file
from unipixel.batch.worker import ShardWorker
from unipixel.checks import join_lines
from unipixel.data.records import MAX_BAD, BadRecords
from unipixel.engine.engine import load as load_engine
from unipixel.errors import UnipixelError
from unipixel.eval.predictions import PredictionLine, read_lines
from unipixel.eval.predictors import choose_predictor
from unipixel.eval.report import prediction_files
from unipixel.eval.runner import BenchmarkRun, Progress, open_run, predict

LOCAL = "local"
"""The address that means: start Ray on this machine, and end it afterwards."""
MAX_BLOCKS = 4096
"""Pieces into which Ray Data divides the shards; with fewer shards, one for each."""
ENDS_PER_SHARD = 100
"""How often a shard is given to another process because the one that had it ended. Items that end it are given up long
before, see `worker`; this bounds a model that ends its process while it is loaded."""
ENDS_PER_PART = 3
"""The same of a part of a benchmark, in which nobody looks for the question that ends the process."""
PARTS = 16
"""Parts of a benchmark that a cluster answers independently."""


def import_ray() -> Any:
    """Ray with Ray Data.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError(
            f"several actors need Ray ({error.name} is not installed); pip install 'unipixel[scale]'"
        ) from error
    return ray


@contextmanager
def connect(address: str | None, actors: int, threads: int, device: str) -> Iterator[Any]:
    """Ray, connected to a cluster or started on this machine; what was started is ended.

    Raises:
        ValueError: Ray does not start, there is no cluster at the address, or it has too few devices.
    """
    ray = import_ray()
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")  # the command shows its own
    if address in (None, LOCAL):
        try:
            # one CPU more than the actors take, for the tasks that hand them their shards
            ray.init(address=LOCAL, num_cpus=actors * max(threads, 1) + 1, include_dashboard=None, log_to_driver=False)
        except Exception as error:  # Ray raises no narrower one
            raise ValueError(
                f"Ray does not start on this machine ({join_lines(error)}); beside other work it "
                "gives up within seconds: try again, or leave --actors out"
            ) from error
    else:
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, RuntimeError, TimeoutError) as error:
            raise ValueError(
                f"--address is {address}, where no Ray cluster answers ({error}); start one with `ray start --head`"
            ) from error
    try:
        needed = "GPU" if device.startswith("cuda") else "CPU"
        there = int(ray.cluster_resources().get(needed, 0))
        wanted = actors if needed == "GPU" else actors * max(threads, 1)
        if there < wanted:
            raise ValueError(f"--actors is {actors}, which takes {wanted} {needed}s, but the cluster has {there}")
        yield ray
    finally:
        ray.shutdown()


def map_rows(
    ray: Any,
    rows: Sequence[Mapping[str, Any]],
    kind: type,
    arguments: Mapping[str, Any],
    actors: int,
    ends: int,
    resources: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """What actors make of rows, as it comes.

    Args:
        kind: its instances take and give columns of numpy arrays, one row at a time.
        arguments: for its constructor.
        ends: how often a row is given to another process because the one that had it ended.
        resources: of each actor, as `ray.remote` takes them.

    Raises:
        UnipixelError, OSError, ValueError: what an actor raised.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    data = ray.data.from_items([dict(row) for row in rows], override_num_blocks=min(len(rows), MAX_BLOCKS))
    answered = data.map_batches(
        kind,
        fn_constructor_kwargs=dict(arguments),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
        ray_remote_args_fn=lambda: {"max_restarts": -1, "max_task_retries": ends},
        **resources,
    )
    try:
        yield from answered.iter_rows()
    except ray.exceptions.RayError as error:
        own = find_cause(error)
        if own is None:
            raise
        raise own from error


def find_cause(error: BaseException | None) -> BaseException | None:
    """The error of ours, or of the system, that Ray's errors are wrapped around; None if there is none."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, UnipixelError | OSError) or type(one) is ValueError:
            return one
        waiting += [getattr(one, "cause", None), one.__cause__, one.__context__]
    return None


def request_device(device: str, threads: int) -> dict[str, Any]:
    """What Ray sets aside for an actor."""
    if device.startswith("cuda"):
        return {"num_gpus": 1}
    return {"num_cpus": max(threads, 1)}


def answer_shards(
    numbers: Sequence[int], place: str, settings: Mapping[str, Any], actors: int, address: str | None
) -> Iterator[dict[str, Any]]:
    """Summaries of shards, in the order in which they are finished; see `worker.ShardWorker.answer_shard`.

    Raises:
        UnipixelError, OSError, ValueError: what an actor raised, or there is no cluster.
    """
    device = choose_device(str(settings["device"]))
    threads = int(settings["threads"])
    own = {**settings, "device": device, "threads": threads or (1 if device == "cpu" else 0)}
    with connect(address, actors, own["threads"], device) as ray:
        rows = [{"shard": number} for number in numbers]
        arguments = {"place": place, "settings": own}
        resources = request_device(device, own["threads"])
        for row in map_rows(ray, rows, ShardActor, arguments, min(actors, len(rows)), ENDS_PER_SHARD, resources):
            yield json.loads(row["summary"])


def choose_device(device: str) -> str:
    """The kind of device of each actor: Ray gives every actor its own, which it sees as the only one.

    Raises:
        ValueError: one device is named, which several actors cannot share.
    """
    if device in ("cpu", "cuda"):
        return device
    if device == "auto":
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    raise ValueError(f"--device is {device!r}; with --actors it must be 'auto', 'cpu' or 'cuda', for each has its own")


class ShardActor:
    """A `ShardWorker` as Ray Data calls it."""

    def __init__(self, place: str, settings: Mapping[str, Any]) -> None:
        self._worker = ShardWorker(place, settings)

    def __call__(self, columns: Mapping[str, Any]) -> dict[str, list[str]]:
        return {"summary": [json.dumps(self._worker.answer_shard(int(number))) for number in columns["shard"]]}


class PartActor:
    """Answers parts of benchmarks; each comes back as the lines of its file."""

    def __init__(self, model: str, load: Mapping[str, Any], data_root: str | None, how: Mapping[str, Any]) -> None:
        self._predictor = choose_predictor(load["name_or_path"], partial(load_engine, **load))
        self._model, self._root, self._how = model, data_root, dict(how)
        self._retry = bool(self._how.pop("retry"))
        self._runs: dict[tuple[Any, ...], BenchmarkRun] = {}

    def __call__(self, columns: Mapping[str, Any]) -> dict[str, list[Any]]:
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return {"part": [json.dumps(self._answer_part(row)) for row in rows]}

    def _answer_part(self, row: Mapping[str, Any]) -> dict[str, Any]:
        name, split, shard = str(row["name"]), str(row["split"]), (int(row["shard"]), int(row["shards"]))
        run = open_run(name, split, self._root, model=self._model, shard=shard, **self._how)
        with tempfile.TemporaryDirectory(prefix="unipixel-part-") as folder:
            path = run.get_path(Path(folder))
            path.parent.mkdir(parents=True)
            path.write_text(str(row["lines"]), encoding="utf-8")
            # how many may be unreadable is a question about the whole run
            predict(run, self._predictor, Path(folder), retry=self._retry, max_bad=1.0)
            return {"name": name, "split": split, "shard": shard, "lines": path.read_text(encoding="utf-8")}


def predict_parts(
    runs: Sequence[BenchmarkRun],
    out: Path,
    *,
    address: str,
    actors: int,
    load: Mapping[str, Any],
    data_root: Path | None,
    retry: bool = False,
    max_bad: float = MAX_BAD,
    progress: Progress | None = None,
) -> None:
    """Answer benchmarks on a cluster, part by part; each part's file is written here when it is finished.

    The files are those of `unipixel eval --shard i/n`, and are merged in the same way. Parts that are there are not
    asked again. The datasets must lie at the same place on all nodes.

    Args:
        runs: whole ones.
        load: what `unipixel.load` takes, the name included.
        retry, max_bad, progress: as in `eval.runner.predict`.

    Raises:
        DatasetError: more records than ``max_bad`` cannot be read.
        ValueError: a setting is wrong, or ``out`` holds another run.
    """
    device = choose_device(str(load["device"]))
    rows = []
    files: dict[tuple[str, str, int], Path] = {}
    for run in runs:
        number = choose_parts(run, out)
        for place in range(number):
            path = replace(run, shard=(place, number)).get_path(out)
            files[run.name, run.split, place] = path
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            rows.append({"name": run.name, "split": run.split, "shard": place, "shards": number, "lines": text})
    how = {"protocol": "original" if runs[0].protocol.original else "correct", "limit": runs[0].limit, "retry": retry}
    arguments = {
        "model": runs[0].model,
        "load": {**load, "device": device},
        "data_root": None if data_root is None else str(data_root.absolute()),
        "how": how,
    }
    total = {(run.name, run.split): len(run.list_units()) for run in runs}
    bad = {key: BadRecords(number, max_bad) for key, number in total.items()}
    done = failed = 0
    with connect(address, actors, 1, device) as ray:
        resources = request_device(device, 1)
        for row in map_rows(ray, rows, PartActor, arguments, min(actors, len(rows)), ENDS_PER_PART, resources):
            part = json.loads(row["part"])
            path = files[part["name"], part["split"], part["shard"][0]]
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(path) as draft:
                draft.write_text(part["lines"], encoding="utf-8")
            for line in read_lines(path, PredictionLine)[1]:
                done += 1
                failed += bool(line.error)
                if line.left_out:
                    bad[part["name"], part["split"]].add(line.id, line.left_out)
            if progress is not None:
                progress(done, sum(total.values()), failed)


def choose_parts(run: BenchmarkRun, out: Path) -> int:
    """Into how many parts a run is divided: as it was begun, else `PARTS`, or one for each unit.

    Raises:
        ValueError: the folder holds parts of several divisions.
    """
    known = {
        path.name.split("-of-")[1].split(".")[0]
        for path in prediction_files(out)
        if path.parts[-3:-1] == (run.name, run.split)
    }
    if len(known) > 1:
        raise ValueError(f"{out}/{run.name}/{run.split} holds shards of {len(known)} divisions; choose another -o")
    if known and next(iter(known)).isdecimal():
        return int(next(iter(known)))
    return max(1, min(PARTS, len(run.list_units())))
