"""What ``unipixel eval`` and ``unipixel report`` end with: tables, files and uploads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from unipixel.cli.output import print_json, show_written, stdout

if TYPE_CHECKING:
    from unipixel.eval.predictions import Line, RunHeader
    from unipixel.eval.report import ReportSection
    from unipixel.eval.runner import BenchmarkRun


def write_report(
    folders: Sequence[Path], out: Path, *, data_root: Path | None, rescored: bool = False, as_json: bool = False
) -> None:
    """Merge predictions, show them, and write ``report.json``, ``.md``, ``.html`` and the zips for servers.

    Raises:
        UnipixelError: there are no predictions, or they are damaged.
    """
    from unipixel.eval.pages import render_page, select_examples
    from unipixel.eval.report import collect_sections, render_markdown
    from unipixel.eval.runner import rescore

    def reopen_run(header: RunHeader) -> BenchmarkRun:
        from unipixel.eval.runner import open_run

        return open_run(
            header.benchmark, header.split, data_root, model=header.model, protocol=header.protocol, limit=header.limit
        )

    def rescore_lines(header: RunHeader, lines: list[Line]) -> list[Line]:
        return rescore(reopen_run(header), lines, header.num_frames)

    sections = collect_sections(folders, rescore_lines if rescored else None)
    values = {"sections": [one.to_json() for one in sections]}
    shown = [select_examples(one, lambda section: reopen_run(section.header)) for one in sections]
    texts = {
        "report.json": json.dumps(values, indent=1, ensure_ascii=False) + "\n",
        "report.md": render_markdown(sections),
        "report.html": render_page(sections, shown),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    zips = [path for one in sections if (path := _write_upload(one, out)) is not None]
    if as_json:
        print_json(values)
        return
    for one in sections:
        _show_section(one)
    show_written([*(out / name for name in texts), *zips])


def _write_upload(one: ReportSection, out: Path) -> Path | None:
    """The zip for the server that scores a benchmark, once everything is answered."""
    from unipixel.eval.benchmarks import BENCHMARKS
    from unipixel.eval.report import is_uploadable
    from unipixel.eval.uploads import write_zip

    layout = BENCHMARKS[one.header.benchmark].splits[one.header.split].layout
    if not layout or not is_uploadable(one.header, one.lines):
        return None
    path = out / f"{one.header.benchmark}-{one.header.split}-{one.header.protocol}.zip"
    write_zip(one.lines, layout, path, original=one.header.protocol == "original")
    return path


def _show_section(one: ReportSection) -> None:
    from unipixel.eval.report import COLUMNS, FAILURES_NAMED, SECONDARY, format_rows

    console = stdout()
    counts = f"questions: {one.questions}, failed: {one.failed}"
    shown = Table(*COLUMNS, title=f"{one.title}: {one.header.model}, protocol {one.header.protocol}; {counts}")
    for column in shown.columns[1:]:
        column.justify = "right"
    for cells in format_rows(one):
        shown.add_row(*cells)
    console.print(shown)
    if any(row.published and row.published.secondary for row in one.rows):
        console.print(SECONDARY.replace("\\", ""))
    for note in one.notes:
        console.print(f"- {note}")
    for unit, error in one.failures[:FAILURES_NAMED]:
        console.print(f"- {unit} failed: {error}")
    typer.echo()
