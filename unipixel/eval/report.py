"""From predictions on disk to a table: our figures, the published ones, and what failed.

The shards of a run are merged; everything is read from the folders of predictions, so that a report can be made again
at any time, and is the same however often a run was interrupted or divided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unipixel.checks import check_number, join_lines
from unipixel.data.differences import describe_differences
from unipixel.data.records import format_reasons
from unipixel.errors import DatasetError
from unipixel.eval.benchmarks import BENCHMARKS, PublishedFigure, get_protocol
from unipixel.eval.judge import merge_grades
from unipixel.eval.predictions import PredictionLine, RunHeader, names_frames, read_lines
from unipixel.eval.protocols import BenchmarkProtocol, Figure

EMPTY_RULE = "an error is scored as an empty reply"
FAILURES_NAMED = 10
"""Failed units that a report names."""


@dataclass(frozen=True, kw_only=True)
class ReportSection:
    """One benchmark split, run with one model by one protocol."""

    header: RunHeader
    lines: tuple[PredictionLine, ...]
    """Merged from all shards, in the order of the units."""
    figures: tuple[Figure, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{BENCHMARKS[self.header.benchmark].title} {self.header.split}"

    @property
    def published(self) -> Mapping[str, PublishedFigure]:
        """By the name of the figure."""
        return BENCHMARKS[self.header.benchmark].splits[self.header.split].published

    @property
    def rows(self) -> list[tuple[str, Figure | None, PublishedFigure | None]]:
        """Every figure beside the published one of its name; then the published ones that cannot be had here."""
        own = [(one.name, one, self.published.get(one.name)) for one in self.figures]
        have = {one.name for one in self.figures}
        return [*own, *((name, None, given) for name, given in self.published.items() if name not in have)]

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
            "figures": [_convert_row(*row) for row in self.rows],
            "notes": list(self.notes),
        }


def _convert_row(name: str, figure: Figure | None, given: PublishedFigure | None) -> dict[str, Any]:
    """A row as JSON values."""
    both = {"UniPixel-3B": given.small, "UniPixel-7B": given.large} if given else {}
    published = {model: value for model, value in both.items() if value is not None}
    return {
        "name": name,
        **({} if figure is None else figure.to_json()),
        "published": published,
        "difference": {model: _subtract(figure, value) for model, value in published.items()},
        "release": given.releases if given else {},
        "secondary_source": bool(given and given.secondary),
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
        sections.append(build_section(header, renew(header, lines) if renew else lines, notes))
    order = list(BENCHMARKS)
    return sorted(sections, key=lambda s: (order.index(s.header.benchmark), s.header.split, s.header.run_key[2:4]))


def build_section(header: RunHeader, lines: Sequence[PredictionLine], remarks: Sequence[str] = ()) -> ReportSection:
    """The figures of a run.

    Raises:
        DatasetError: there is no such benchmark any more, or the measures are not its own.
        ValueError: there is no such protocol.
    """
    if header.benchmark not in BENCHMARKS or header.split not in BENCHMARKS[header.benchmark].splits:
        raise DatasetError(f"the predictions are of {header.benchmark}/{header.split}, which is no benchmark here")
    protocol = get_protocol(header.benchmark, header.split, header.protocol)
    try:
        return _build_section(header, protocol, lines, remarks)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise DatasetError(
            f"the measures of {header.benchmark}/{header.split} are not those of its protocol ({join_lines(error)}); "
            "make them anew with --rescore, or run again into another folder"
        ) from error


def _build_section(
    header: RunHeader, protocol: BenchmarkProtocol, lines: Sequence[PredictionLine], remarks: Sequence[str]
) -> ReportSection:
    split = BENCHMARKS[header.benchmark].splits[header.split]
    measures = [one for line in lines for one in line.measures]
    failed = sum(bool(line.error) for line in lines)
    figures = []
    for figure in protocol.summarize(measures):
        check_number(figure.value, figure.name)
        figures.append(figure)
        if figure.baseline is not None:
            name = f"{figure.name} by {figure.baseline_name}"
            figures.append(Figure(name=name, value=figure.baseline, count=figure.count))
    notes, differs = [*remarks, *protocol.list_notes(measures)], describe_differences(header.benchmark, header.split)
    if header.protocol == "original":
        notes.append(f"as in the original: {differs}")
    elif differs and split.published:
        notes.append(f"the published figures are of the original's protocol (--protocol original): {differs}")
    if failed:
        notes.append(f"failed: {failed} ({EMPTY_RULE if protocol.original else protocol.failure_rule})")
    bad = {line.id: line.left_out for line in lines if line.left_out}
    if bad:
        notes.append(f"left out: {len(bad)} of {len(lines)}, whose data cannot be read: {format_reasons(bad)}")
    if len(lines) < header.units:
        notes.append(f"not complete: {len(lines)} of {header.units} done")
    if header.limit is not None:
        notes.append(f"limited to the first {header.limit}; not comparable with published figures")
    if split.layout:
        ready = is_uploadable(header, lines)
        notes.append("scored by a server: upload the zip" if ready else "a zip is written when everything is answered")
    return ReportSection(header=header, lines=tuple(lines), figures=tuple(figures), notes=tuple(notes))


def is_uploadable(header: RunHeader, lines: Sequence[PredictionLine]) -> bool:
    """Whether there is everything that a server needs: no limit, nothing missing, nothing failed or left out.

    As the original does it, a failed question whose frames are known is an empty mask.
    """
    empty = header.protocol == "original"
    failed = any(line.left_out or (line.error and not (empty and names_frames(line))) for line in lines)
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
    if any(given.secondary for one in sections for given in one.published.values()):
        parts += [SECONDARY, ""]
    return "\n".join(parts)


COLUMNS = ("figure", "ours", "UniPixel-3B", "difference", "UniPixel-7B", "difference", "of", "published figures")
SECONDARY = "\\* read from notes on the paper's tables, less certain than the other published figures"


def format_rows(one: ReportSection) -> list[tuple[str, ...]]:
    """The rows of a section as text, in the order of `COLUMNS`."""
    rows = []
    for name, figure, published in one.rows:
        decimals = figure.decimals if figure else _count_decimals(published)
        star = "*" if published and published.secondary else ""
        cells = [name, f"{figure.value:.{decimals}f}" if figure else ""]
        for value in (published.small, published.large) if published else (None, None):
            difference = _subtract(figure, value)
            cells.append("" if value is None else f"{value:.{decimals}f}{star}")
            cells.append("" if difference is None else f"{difference:+.{decimals}f}")
        releases = dict.fromkeys(published.releases.values()) if published else ()
        rows.append((*cells, str(figure.count) if figure else "", "; ".join(releases)))
    return rows


def _count_decimals(given: PublishedFigure | None) -> int:
    """Decimals of published numbers, at least one."""
    values = [value for value in (given.small, given.large) if value is not None] if given else []
    return max([1, *(len(str(value).partition(".")[2]) for value in values)])
