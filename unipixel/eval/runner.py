"""Runs a benchmark: asks what is not answered yet, writes every reply down, and counts what fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from unipixel.checks import join_lines
from unipixel.data import Record, read
from unipixel.data.records import MAX_BAD, BadRecords
from unipixel.errors import DatasetError, MediaError
from unipixel.eval.benchmarks import BENCHMARKS, get_protocol
from unipixel.eval.predictions import LineFile, PredictionLine, RunHeader
from unipixel.eval.protocols import BenchmarkProtocol, Measures, Prediction, Predictor, Question, ReadRecord, Unit

log = logging.getLogger(__name__)
Progress = Callable[[int, int, int], None]
"""Called with the units done, those to do, and those that failed."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkRun:
    """A benchmark split with its records, and which of them are run."""

    name: str
    split: str
    protocol: BenchmarkProtocol
    records: Sequence[Record]
    read: ReadRecord
    model: str
    """Name of the model, for the report."""
    limit: int | None = None
    """Only the first so many units."""
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
        units = self.protocol.group_records(self.records)[: self.limit]
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
    how, benchmark = get_protocol(name, split, protocol), BENCHMARKS[name]
    records = how.read_records(benchmark.dataset, root, benchmark.splits[split].data, limit)
    return BenchmarkRun(
        name=name, split=split, protocol=how, records=records, read=read, model=model, limit=limit, shard=shard
    )


def predict(
    run: BenchmarkRun,
    predictor: Predictor,
    out: Path | None,
    *,
    retry: bool = False,
    max_bad: float = MAX_BAD,
    progress: Progress | None = None,
) -> dict[str, PredictionLine]:
    """Ask everything that the file of predictions does not hold yet.

    Args:
        out: folder of the evaluation; None keeps the predictions in memory only.
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
    header = run.build_header(len(units), predictor.num_frames)
    file = LineFile(None if out is None else run.get_path(out), header, PredictionLine, retry=retry)

    failed = 0

    def count(lines: Iterable[PredictionLine]) -> None:
        nonlocal failed
        for line in lines:
            failed += bool(line.error)
            if line.left_out:
                bad.add(line.id, line.left_out)
        if progress is not None:
            progress(len(file.lines), len(own), failed)

    try:
        count(file.lines.values())
        missing = [item for item in own if item[1].id not in file.lines]
        for begin in range(0, len(missing), run.protocol.batch_size):
            batch = missing[begin : begin + run.protocol.batch_size]
            lines = predict_units(run.protocol, batch, run.read, predictor)
            for line in lines:
                file.append(line)
            count(lines)
        return dict(file.lines)
    finally:
        file.close()


def predict_units(
    protocol: BenchmarkProtocol, units: Sequence[tuple[int, Unit]], read: ReadRecord, predictor: Predictor
) -> list[PredictionLine]:
    """Answer and score a batch of units; an error becomes a failed line, and the run goes on.

    A unit whose data cannot be read is left out of the figures; the original scores it as any other error.

    Args:
        units: with their places among all units of the run.
    """
    begin = time.perf_counter()
    outcomes: list[list[Question] | Exception] = []
    for _, unit in units:
        try:
            outcomes.append(protocol.build_questions(unit, read, predictor.num_frames))
        except Exception as error:
            outcomes.append(error)
    questions = [question for one in outcomes if isinstance(one, list) for question in one]
    replies = iter(_answer(predictor, questions, together=protocol.batch_size > 1))
    lines = []
    for (place, unit), asked in zip(units, outcomes, strict=True):
        predictions: list[Prediction] = []
        failure = asked if isinstance(asked, Exception) else None
        for reply in [next(replies) for _ in asked] if isinstance(asked, list) else []:
            if isinstance(reply, Exception):
                failure = failure or reply
            else:
                predictions.append(reply)
        line = PredictionLine(id=unit.id, place=place, predictions=tuple(predictions))
        if isinstance(asked, list) and failure is None:
            try:
                line = replace(line, measures=protocol.score_unit(asked, predictions))
            except Exception as error:
                failure = error
        lines.append(line if failure is None else _fail(protocol, line, unit, failure, read, predictor.num_frames))
    seconds = round((time.perf_counter() - begin) / len(units), 3)
    return [replace(line, seconds=seconds) for line in lines]


def _answer(predictor: Predictor, questions: Sequence[Question], *, together: bool) -> Sequence[Prediction | Exception]:
    """Replies to questions, or what went wrong; without ``together`` the first error ends the asking."""
    try:
        return predictor.answer_batch(questions) if together else [predictor.answer(one) for one in questions]
    except Exception as error:
        return [error] * len(questions)


def _fail(
    protocol: BenchmarkProtocol, line: PredictionLine, unit: Unit, failure: Exception, read: ReadRecord, num_frames: int
) -> PredictionLine:
    """The line of a unit that failed or cannot be read."""
    reason = f"{type(failure).__name__}: {' '.join(str(failure).split())}"
    if isinstance(failure, DatasetError | MediaError) and not protocol.original:
        return replace(line, predictions=None, left_out=reason)
    # errors of the model count as failed questions; their tracebacks go to the log
    log.info("%s failed", unit.id, exc_info=failure)
    measures = _score_failure(protocol, unit, read, num_frames)
    return replace(line, predictions=None, error=reason, measures=measures)


def _score_failure(protocol: BenchmarkProtocol, unit: Unit, read: ReadRecord, num_frames: int) -> list[Measures]:
    """What a failed unit contributes, as far as its records can be read."""
    try:
        return protocol.score_failed_unit(protocol.build_questions(unit, read, num_frames))
    except Exception:  # the records are the reason, or the truth is incomplete
        return protocol.score_failed_unit([])


def rescore(run: BenchmarkRun, lines: Sequence[PredictionLine], num_frames: int) -> list[PredictionLine]:
    """The lines with measures made anew from their predictions and the ground truth; failures stay what they are.

    Raises:
        UnipixelError: a record cannot be read any more.
        ValueError: a line is of no unit of the run.
    """
    units = {unit.id: unit for unit in run.list_units()}
    fresh = []
    for line in lines:
        if line.left_out:
            fresh.append(line)
            continue
        if line.id not in units:
            raise ValueError(f"{line.id!r} is no unit of {run.name}/{run.split}; the predictions are of other data")
        unit = units[line.id]
        questions = run.protocol.build_questions(unit, run.read, num_frames)
        try:
            if line.predictions is None:
                measures = _score_failure(run.protocol, unit, run.read, num_frames)
            else:
                measures = run.protocol.score_unit(questions, line.predictions)
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise DatasetError(
                f"the predictions for {line.id} are not of its questions ({join_lines(error)})"
            ) from error
        fresh.append(replace(line, measures=measures))
    return fresh
