"""Runs a benchmark: asks what is not answered yet, writes every reply down, and counts what fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from unipixel.data import Record, open_index, read
from unipixel.data.bad_records import MAX_BAD, BadRecords
from unipixel.errors import DatasetError, MediaError
from unipixel.eval.benchmarks import BENCHMARKS, get_protocol
from unipixel.eval.predictions import Line, PredictionFile, RunHeader
from unipixel.eval.protocols import Measures, Protocol
from unipixel.eval.questions import Prediction, Predictor, Read, Unit
from unipixel.eval.sticker_figures import StickerFigures, sticker_records

log = logging.getLogger(__name__)
Progress = Callable[[int, int, int], None]
"""Called with the units done, those to do, and those that failed."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkRun:
    """One benchmark split, as it is asked."""

    name: str
    split: str
    protocol: Protocol
    records: Sequence[Record]
    read: Read
    model: str
    """Name of the model, for the report."""
    limit: int | None = None
    """Only the first so many units, or what the protocol makes of it."""
    shard: tuple[int, int] = (0, 1)
    """(i, n): the i-th of n parts; clips are never divided."""

    def __post_init__(self) -> None:
        place, number = self.shard
        if not 0 <= place < number:
            raise ValueError(f"the shard is {place}/{number}; it must be i/n with 0 <= i < n, such as 0/2 and 1/2")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"the limit is {self.limit}; it must be at least 1")

    def list_units(self) -> list[Unit]:
        """All units of the run, over all shards.

        Raises:
            DatasetError: the records do not fit the protocol, or two have one id.
        """
        units = self.protocol.group_records(self.records)[: self.limit if self.protocol.limits_units else None]
        seen: set[str] = set()
        for unit in units:
            if unit.id in seen:
                raise DatasetError(
                    f"{unit.records[0].source}: the id {unit.id!r} stands for two records; it must be one's own"
                )
            seen.add(unit.id)
        return units

    def select_shard(self, units: Sequence[Unit]) -> list[tuple[int, Unit]]:
        """This shard's units with their places among all; neighbours that show one clip stay together."""
        place, number = self.shard
        clips = [list(group) for _, group in groupby(enumerate(units), key=lambda item: item[1].clip)]
        return [item for clip in clips[place::number] for item in clip]

    def build_header(self, units: int, num_frames: int) -> RunHeader:
        """The first line of the file of predictions."""
        return RunHeader(
            benchmark=self.name,
            split=self.split,
            model=self.model,
            protocol="original" if self.protocol.original else "correct",
            limit=self.limit,
            shard=self.shard[0],
            shards=self.shard[1],
            units=units,
            num_frames=num_frames,
        )

    def get_path(self, out: Path) -> Path:
        """Where the predictions of this shard are written."""
        return out / self.name / self.split / f"{self.shard[0]}-of-{self.shard[1]}.jsonl"


def open_run(
    name: str,
    split: str,
    root: str | Path | None,
    *,
    model: str = "",
    protocol: str = "correct",
    limit: int | None = None,
    shard: tuple[int, int] = (0, 1),
) -> BenchmarkRun:
    """A run of one of the `BENCHMARKS` over data on disk.

    Args:
        root: the folder with the datasets; not needed for the built-in world.

    Raises:
        DatasetError: the data are missing or damaged.
        ValueError: there is no such protocol, or limit and shard are out of range.
    """
    how, benchmark = get_protocol(name, split, protocol).within(limit), BENCHMARKS[name]
    if isinstance(how, StickerFigures):
        records = sticker_records()
    else:
        records = open_index(benchmark.dataset, root, benchmark.splits[split].data)
    return BenchmarkRun(
        name=name, split=split, protocol=how, records=records, read=read, model=model, limit=limit, shard=shard
    )


def predict(
    run: BenchmarkRun,
    predictor: Predictor,
    out: Path,
    *,
    retry: bool = False,
    max_bad: float = MAX_BAD,
    progress: Progress | None = None,
) -> dict[str, Line]:
    """Ask everything that the file of predictions does not hold yet.

    Args:
        out: folder of the evaluation.
        retry: ask again what failed or was left out.
        max_bad: share of the units whose data may be unreadable; they are left out of the figures.
        progress: called before the first and after every unit.

    Returns:
        The lines of this shard by unit id.

    Raises:
        ValueError: the folder holds another run under the same name.
        DatasetError: the predictions on disk are damaged, the records do not fit the protocol, or too many of them
            cannot be read.
    """
    units = run.list_units()
    own = run.select_shard(units)
    bad = BadRecords(len(own), max_bad)
    lines = PredictionFile(run.get_path(out), run.build_header(len(units), predictor.num_frames), retry=retry)
    try:
        failed = sum("error" in line for line in lines.done.values())
        for line in lines.done.values():
            if "left_out" in line:
                bad.add(line["id"], line["left_out"])
        if progress is not None:
            progress(len(lines.done), len(own), failed)
        for place, unit in own:
            if unit.id in lines.done:
                continue
            line = {"id": unit.id, "place": place, **predict_unit(run.protocol, unit, run.read, predictor)}
            lines.append(line)
            if "left_out" in line:
                bad.add(unit.id, line["left_out"])
            failed += "error" in line
            if progress is not None:
                progress(len(lines.done), len(own), failed)
        return dict(lines.done)
    finally:
        lines.close()


def predict_unit(protocol: Protocol, unit: Unit, read: Read, predictor: Predictor) -> Line:
    """Ask one unit; whatever goes wrong becomes a failure that is written down, and the run goes on.

    Data that cannot be read are nobody's failure: the unit is left out. The original scores it as any other error.
    """
    begin = time.perf_counter()
    line: Line = {}
    try:
        replies, measures = protocol.perform(unit, read, predictor)
        line["replies"] = [reply.to_json() for reply in replies]
    except (DatasetError, MediaError) as error:
        told = " ".join(str(error).split())
        line["error" if protocol.original else "left_out"] = f"{type(error).__name__}: {told}"
        measures = _score_failure(protocol, unit, read, predictor.num_frames) if protocol.original else []
    except Exception as error:
        # a model's own faults count as its failures; where they come from is for the log
        log.info("%s failed", unit.id, exc_info=True)
        line["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        measures = _score_failure(protocol, unit, read, predictor.num_frames)
    line["measures"] = measures
    line["seconds"] = round(time.perf_counter() - begin, 3)
    return line


def _score_failure(protocol: Protocol, unit: Unit, read: Read, num_frames: int) -> list[Measures]:
    """What a failed unit contributes, as far as its records can be read."""
    try:
        return protocol.score_failed_unit(protocol.build_questions(unit, read, num_frames))
    except Exception:  # the records are the reason, or the truth is incomplete
        return protocol.score_failed_unit([])


def rescore(run: BenchmarkRun, lines: Sequence[Line], num_frames: int) -> list[Line]:
    """The lines with measures made anew from their replies and the ground truth; failures stay what they are.

    Raises:
        UnipixelError: a record cannot be read any more.
        ValueError: a line is of no unit of the run.
    """
    units = {unit.id: unit for unit in run.list_units()}
    fresh = []
    for line in lines:
        if "left_out" in line:
            fresh.append(line)
            continue
        if line["id"] not in units:
            raise ValueError(f"{line['id']!r} is no unit of {run.name}/{run.split}; the predictions are of other data")
        questions = run.protocol.build_questions(units[line["id"]], run.read, num_frames)
        if "error" in line:
            measures = _score_failure(run.protocol, units[line["id"]], run.read, num_frames)
        elif not questions:
            measures = line["measures"]
        else:
            measures = run.protocol.score_unit(questions, [Prediction.from_json(reply) for reply in line["replies"]])
        fresh.append({**line, "measures": measures})
    return fresh
