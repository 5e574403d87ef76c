"""What the commands show: answers on stdout, progress and complaints on stderr."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from unipixel.engine.answer import Answer
    from unipixel.engine.memory import KnownObject
    from unipixel.engine.session import Session

SUFFIXES = (".json", ".png", ".gif", ".mp4")
PIPE_WIDTH = 130
"""Columns of a table that nobody sees at a terminal."""


def stdout() -> Console:
    """The console for results. Made anew, because tests and pipes replace the stream."""
    # a file or a pipe has no width of its own, and tables squeezed into 80 columns cannot be read
    return Console(soft_wrap=True, highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def stderr() -> Console:
    """The console for progress."""
    return Console(stderr=True, highlight=False, markup=False)


def build_progress(title: str = "{task.description}", *, remaining: bool = False, transient: bool = False) -> Progress:
    """Progress bars on stderr, which are silent where nobody watches.

    Args:
        title: in front of each bar.
        remaining: show an estimate of the time that is left.
        transient: remove the bars at the end.
    """
    columns = [TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    columns += [TimeRemainingColumn()] if remaining else []
    return Progress(*columns, console=stderr(), transient=transient, disable=not sys.stderr.isatty())


def print_error(sentence: str) -> None:
    """One sentence on stderr."""
    typer.echo(f"unipixel: {' '.join(sentence.split())}", err=True)


def print_json(value: Any) -> None:
    """JSON on stdout, and nothing else; in ASCII where the stream cannot hold every sign."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "").replace("_", "")
    typer.echo(json.dumps(value, indent=1, ensure_ascii=not encoding.startswith("utf")))


def escape_unencodable() -> None:
    """Have stdout and stderr write signs that their encoding lacks as escapes, rather than fail after the work."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def check_out(out: Path | None) -> None:
    """Refuse a place to write before any work is done.

    Raises:
        ValueError: a suffix that cannot be written, or a file where a folder should be.
    """
    if out is None:
        return
    if out.suffix and out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{out} cannot be written; name a folder, or a file that ends in {', '.join(SUFFIXES)}")
    if out.suffix and out.is_dir():
        raise ValueError(f"{out} is a folder; name a file, or a folder without a suffix")
    folder = out.parent if out.suffix else out
    check_folder(folder, "--out")


def check_folder(folder: Path, option: str) -> None:
    """Refuse a folder that cannot be made because a file is in its way.

    Raises:
        ValueError: names the file.
    """
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if there is not None and not there.is_dir():
        raise ValueError(f"{option} leads to {folder}, but {there} is a file; name a folder")


def save_answer(answer: Answer, out: Path) -> list[Path]:
    """Write an answer and return what was written; beside a picture or video lies the JSON, with masks as COCO RLE."""
    if not out.suffix:
        answer.save(out)
        return sorted(path for path in out.iterdir() if path.name.startswith(("answer", "overlay")))
    written = [answer.save(out.with_suffix(".json"))]
    if out.suffix.lower() != ".json":
        written.append(answer.save(out))
    return written


def show_stream(session: Session, text: str | None, *, quiet: bool = False, **options: Any) -> Answer:
    """Ask, showing the answer as it comes: its words on stdout, a bar on stderr while objects are tracked.

    Args:
        quiet: show no words.
        options: of `Session.stream`.
    """
    from unipixel.engine.answer import Answer, MaskPiece

    bar, answer, has_words = build_progress("tracking", transient=True), None, False
    try:
        for piece in session.stream(text, **options):
            if isinstance(piece, str):
                bar.stop()
                for task in bar.task_ids:
                    bar.remove_task(task)
                if not quiet:
                    typer.echo(piece, nl=False)
                    sys.stdout.flush()
                    has_words = True
            elif isinstance(piece, MaskPiece) and session.num_frames > 1:
                if not bar.task_ids:
                    bar.add_task("", total=session.num_frames)
                    bar.start()
                bar.advance(bar.task_ids[0])
            elif isinstance(piece, Answer):
                answer = piece
    finally:
        bar.stop()
        if has_words:
            typer.echo()
    if answer is None:
        raise RuntimeError("the session ended without an answer")
    return answer


def show_objects(objects: Iterable[KnownObject], num_frames: int) -> None:
    """A table of objects, if there are any."""
    listed = list(objects)
    if not listed:
        return
    table = Table("id", "object", "score", "box (x1, y1, x2, y2)" if num_frames == 1 else "first box", box=None)
    if num_frames > 1:
        table.add_column("frames")
    for one in listed:
        seen = [t for t, visible in enumerate(one.visible) if visible]
        box = ", ".join(f"{value:.0f}" for value in one.boxes[seen[0]]) if seen else ""
        where = f"{box} @{seen[0]}" if seen and num_frames > 1 else box
        score = one.score if isinstance(one.score, str) else f"{one.score:.2f}"
        frames = [f"{len(seen)} of {num_frames}"] if num_frames > 1 else []
        table.add_row(f"[{one.id}]", one.label, score, where, *frames)
    stdout().print(table)


def show_written(paths: Iterable[Path]) -> None:
    """Names of files, one a line."""
    for path in paths:
        typer.echo(f"wrote {path}")
