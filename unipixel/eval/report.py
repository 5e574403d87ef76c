"""From predictions on disk to a table: our figures, the published ones, and what failed.

The shards of a run are merged; everything is read from the folders of predictions, so that a report can be made again
at any time, and is the same however often a run was interrupted or divided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unipixel.data.differences import describe_differences
from unipixel.data.records import format_reasons
from unipixel.errors import DatasetError
from unipixel.eval.benchmarks import BENCHMARKS, PAPER, RELEASES, get_protocol
from unipixel.eval.judge import merge_grades
from unipixel.eval.predictions import PredictionLine, RunHeader, read_lines
from unipixel.eval.protocols import BenchmarkProtocol, Figure

EMPTY_RULE = "an error is scored as an empty reply"
FAILURES_NAMED = 10
"""Failed units that a report names."""


class ReportSection:
    """One benchmark split, run with one model by one protocol.

    Args:
        header: of any of the run's shards.
        lines: merged from all shards, in the order of the units.
        remarks: what there is to note besides.

    Attributes:
        split: what is known of the benchmark split.
        figures: in the protocol's order, each with its trivial guess.
        notes: what a reader should know.

    Raises:
        DatasetError: there is no such benchmark any more.
    """

    def __init__(self, header: RunHeader, lines: Sequence[PredictionLine], remarks: Sequence[str] = ()) -> None:
        benchmark = BENCHMARKS.get(header.benchmark)
        if benchmark is None or header.split not in benchmark.splits:
            raise DatasetError(f"the predictions are of {header.benchmark}/{header.split}, which is no benchmark here")
        self.header, self.lines, self.split = header, tuple(lines), benchmark.splits[header.split]
        self.title = f"{benchmark.title} {header.split}"
        self.figures: list[Figure] = []
        protocol = get_protocol(header.benchmark, header.split, header.protocol)
        measures = [one for line in self.lines for one in line.measures]
        for figure in protocol.summarize(measures):
            self.figures.append(figure)
            if figure.baseline is not None:
                name = f"{figure.name} by {figure.baseline_name}"
                self.figures.append(Figure(name=name, value=figure.baseline, count=figure.count))
        self.notes = [*remarks, *protocol.list_notes(measures), *self._list_notes(protocol)]

    def _list_notes(self, protocol: BenchmarkProtocol) -> Iterator[str]:
        header, split, bad = self.header, self.split, self.left_out
        differs = describe_differences(header.benchmark, header.split)
        if header.protocol == "original":
            yield f"as in the original: {differs}"
        elif differs and (split.published or split.in_paper):
            yield f"the published figures are of the original's protocol (--protocol original): {differs}"
        if self.failures:
            yield f"failed: {self.failed} ({EMPTY_RULE if protocol.original else protocol.failure_rule})"
        if bad:
            yield f"left out: {len(bad)} of {len(self.lines)}, whose data cannot be read: {format_reasons(bad)}"
        if len(self.lines) < header.units:
            yield f"not complete: {len(self.lines)} of {header.units} done"
        if header.limit is not None:
            yield f"limited to the first {header.limit}; not comparable with published figures"
        if split.layout:
            ready = is_uploadable(header, self.lines)
            yield "scored by a server: upload the zip" if ready else "a zip is written when everything is answered"

    @property
    def rows(self) -> list[tuple[str, Figure | None, dict[str, float]]]:
        """Every figure with the published ones of its name by model; then those that cannot be had here."""
        pairs = {**self.split.published, **self.split.in_paper}
        published = {
            name: {model: value for model, value in zip(RELEASES, pair, strict=True) if value is not None}
            for name, pair in pairs.items()
        }
        own = [(one.name, one, published.get(one.name, {})) for one in self.figures]
        have = {one.name for one in self.figures}
        return [*own, *((name, None, given) for name, given in published.items() if name not in have)]

    def get_release(self, name: str, model: str) -> str:
        """Which release the published figure of a name and model is of."""
        return PAPER if name in self.split.in_paper else RELEASES[model]

    @property
    def questions(self) -> int:
        return sum(len(line.measures) for line in self.lines)

    @property
    def failed(self) -> int:
        return len(self.failures)

    @property
    def failures(self) -> list[tuple[str, str]]:
        """Units that failed, with the reason."""
        return [(line.id, line.error) for line in self.lines if line.error]

    @property
    def left_out(self) -> dict[str, str]:
        """Units whose data cannot be read, with the reason."""
        return {line.id: line.left_out for line in self.lines if line.left_out}

    def to_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.header.benchmark,
            "split": self.header.split,
            "model": self.header.model,
            "protocol": self.header.protocol,
            "limit": self.header.limit,
            "units": self.header.units,
            "done": len(self.lines),
            "questions": self.questions,
            "failed": self.failed,
            "failures": [{"id": unit, "error": error} for unit, error in self.failures],
            "left_out": [{"id": unit, "reason": reason} for unit, reason in self.left_out.items()],
            "figures": [self._convert_row(*row) for row in self.rows],
            "notes": self.notes,
        }

    def _convert_row(self, name: str, figure: Figure | None, published: Mapping[str, float]) -> dict[str, Any]:
        return {
            "name": name,
            **({} if figure is None else figure.to_json()),
            "published": published,
            "difference": {model: _subtract(figure, value) for model, value in published.items()},
            "release": {model: self.get_release(name, model) for model in published},
            "secondary_source": name in self.split.in_paper,
        }


def _subtract(figure: Figure | None, published: float | None) -> float | None:
    return None if published is None or figure is None else round(figure.value - published, 4)


def prediction_files(out: Path) -> list[Path]:
    """The files of predictions in a folder that `predict` has written to."""
    return sorted(path for path in out.glob("*/*/*-of-*.jsonl") if not path.name.endswith(".grades.jsonl"))


def collect_sections(
    folders: Iterable[Path], renew: Callable[[RunHeader, list[PredictionLine]], list[PredictionLine]] | None = None
) -> list[ReportSection]:
    """Everything that was predicted in some folders, shards merged, in the order of `BENCHMARKS`.

    Args:
        renew: makes the lines of a run anew, such as `rescore`.

    Raises:
        DatasetError: a folder holds no predictions, or a file is damaged.
    """
    runs: dict[tuple[Any, ...], tuple[RunHeader, dict[str, PredictionLine], list[str]]] = {}
    for folder in folders:
        files = prediction_files(folder)
        if not files:
            raise DatasetError(f"{folder} holds no predictions; name a folder that `unipixel eval ... -o` has written")
        for path in files:
            header, lines, _ = read_lines(path, PredictionLine)
            if header is None:
                continue
            _, merged, notes = runs.setdefault(header.run_key, (header, {}, []))
            graded, remarks = merge_grades(path, lines)
            notes += [remark for remark in remarks if remark not in notes]
            for line in graded:
                # a unit that two shards have asked: an answer is worth more than a failure
                if line.id not in merged or not merged[line.id].is_answered:
                    merged[line.id] = line
    sections = []
    for header, merged, notes in runs.values():
        lines = sorted(merged.values(), key=lambda line: line.place)
        sections.append(ReportSection(header, renew(header, lines) if renew else lines, notes))
    order = list(BENCHMARKS)
    return sorted(sections, key=lambda s: (order.index(s.header.benchmark), s.header.split, s.header.run_key[2:4]))


def is_uploadable(header: RunHeader, lines: Sequence[PredictionLine]) -> bool:
    """Whether there is everything that a server needs: no limit, nothing missing, nothing failed or left out.

    As the original does it, a failed question whose frames are known is an empty mask.
    """
    empty = header.protocol == "original"
    failed = any(line.left_out or (line.error and not (empty and "frames" in line.measures[0])) for line in lines)
    return header.limit is None and len(lines) == header.units and not failed


def render_markdown(sections: Sequence[ReportSection]) -> str:
    """The report as Markdown."""
    parts = ["# Evaluation", ""]
    for one in sections:
        parts += [f"## {one.title}: {one.header.model}, protocol {one.header.protocol}", ""]
        parts += [f"Questions: {one.questions}, failed: {one.failed}.", ""]
        parts += ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
        parts += ["| " + " | ".join(cells) + " |" for cells in format_rows(one)]
        parts.append("")
        parts += [f"* {note}" for note in one.notes]
        parts += [f"* failed: {unit}: {error}" for unit, error in one.failures[:FAILURES_NAMED]]
        parts.append("")
    if any(one.split.in_paper for one in sections):
        parts += [SECONDARY, ""]
    return "\n".join(parts)


COLUMNS = ("figure", "ours", "UniPixel-3B", "difference", "UniPixel-7B", "difference", "of", "published figures")
SECONDARY = "\\* read from notes on the paper's tables, less certain than the other published figures"


def format_rows(one: ReportSection) -> list[tuple[str, ...]]:
    """The rows of a section as text, in the order of `COLUMNS`."""
    rows = []
    for name, figure, published in one.rows:
        decimals = figure.decimals if figure else _count_decimals(published.values())
        star = "*" if name in one.split.in_paper else ""
        cells = [name, f"{figure.value:.{decimals}f}" if figure else ""]
        for value in map(published.get, RELEASES):
            difference = _subtract(figure, value)
            cells.append("" if value is None else f"{value:.{decimals}f}{star}")
            cells.append("" if difference is None else f"{difference:+.{decimals}f}")
        releases = dict.fromkeys(one.get_release(name, model) for model in published)
        rows.append((*cells, str(figure.count) if figure else "", "; ".join(releases)))
    return rows


def _count_decimals(values: Iterable[float]) -> int:
    """Decimals of published numbers, at least one."""
    return max([1, *(len(str(value).partition(".")[2]) for value in values)])
