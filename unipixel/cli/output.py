"""What the commands show: answers on stdout, progress and complaints on stderr."""

from __future__ import annotations

import io
import json
import logging
import signal
import sys
import tempfile
import threading
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from unipixel.errors import UnipixelError

if TYPE_CHECKING:
    from unipixel.engine.answer import Answer, Piece
    from unipixel.engine.memory import KnownObject
    from unipixel.engine.session import Session

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
"""Exit codes."""
SUFFIXES = (".json", ".png", ".gif", ".mp4")
PIPE_WIDTH = 130
"""Columns of a table that nobody sees at a terminal."""


_VERBOSITY = {"level": 0}


def set_verbosity(level: int) -> None:
    """How much is said beside the result: -1 nothing, 0 progress and what was written, 1 the log and traces as well."""
    _VERBOSITY["level"] = level
    log = logging.getLogger("unipixel")
    log.setLevel({-1: logging.ERROR, 0: logging.NOTSET, 1: logging.DEBUG}[level])
    if level > 0 and not logging.getLogger().handlers:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def is_quiet() -> bool:
    """Whether -q was given."""
    return _VERBOSITY["level"] < 0


def is_verbose() -> bool:
    """Whether -v was given."""
    return _VERBOSITY["level"] > 0


def stdout() -> Console:
    """The console for results. Made anew, because tests and pipes replace the stream."""
    # a file or a pipe has no width of its own, and tables squeezed into 80 columns cannot be read
    return Console(soft_wrap=True, highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def stderr() -> Console:
    """The console for progress, which is silent under -q."""
    return Console(stderr=True, highlight=False, markup=False, quiet=is_quiet())


def build_progress(title: str = "{task.description}", *, remaining: bool = False, transient: bool = False) -> Progress:
    """Progress bars on stderr, which are silent where nobody watches.

    Args:
        title: in front of each bar.
        remaining: show an estimate of the time that is left.
        transient: remove the bars at the end.
    """
    columns = [TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    columns += [TimeRemainingColumn()] if remaining else []
    return Progress(*columns, console=stderr(), transient=transient, disable=not sys.stderr.isatty() or is_quiet())


def describe_error(error: Exception) -> tuple[int, str]:
    """Exit code and sentence for an error: bad input says what is wrong with it, anything else where to look."""
    if isinstance(error, UnipixelError | ValueError):
        return BAD_INPUT, str(error)
    if isinstance(error, OSError):
        return BAD_INPUT, f"{error.filename or 'a file'} cannot be used: {error.strerror or error}"
    return FAILED, f"failed with {type(error).__name__}: {error}; -v shows where"


def print_error(sentence: str) -> None:
    """One sentence on stderr."""
    typer.echo(f"unipixel: {' '.join(sentence.split())}", err=True)


def print_json(value: Any, *, one_line: bool = False) -> None:
    """JSON on stdout, and nothing else; in ASCII where the stream cannot hold every sign."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "").replace("_", "")
    typer.echo(json.dumps(value, indent=None if one_line else 1, ensure_ascii=not encoding.startswith("utf")))


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
    """Refuse a folder that cannot be made, because a file is in its way, or that nothing can be written into.

    Raises:
        ValueError: names what is in the way.
    """
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if there is not None and not there.is_dir():
        raise ValueError(f"{option} leads to {folder}, but {there} is a file; name a folder")
    if there is not None:
        try:  # a trial alone tells: rights, read-only disks and quotas are each asked for in another way
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"{option} leads to {folder}, and {there} cannot be written to ({reason})") from error


def save_answer(answer: Answer, out: Path) -> list[Path]:
    """Write an answer and return what was written; beside a picture or video lies the JSON, with masks as COCO RLE."""
    if not out.suffix:
        answer.save(out)
        return sorted(path for path in out.iterdir() if path.name.startswith(("answer", "overlay")))
    written = [answer.save(out.with_suffix(".json"))]
    if out.suffix.lower() != ".json":
        written.append(answer.save(out))
    return written


def show_stream(
    session: Session, text: str | None, *, quiet: bool = False, can_stop: bool = False, **options: Any
) -> Answer | None:
    """Ask, showing the answer as it comes: its words on stdout, a bar on stderr while objects are tracked.

    Args:
        quiet: show no words.
        can_stop: Ctrl-C ends this answer at its next word or frame, a second one at once; then there is none.
        options: of `Session.stream`.

    Raises:
        KeyboardInterrupt: Ctrl-C, where it is not for the answer alone, or the second one.
    """
    from unipixel.engine.answer import Answer, MaskPiece

    bar, answer, has_words = build_progress("tracking", transient=True), None, False
    waiting = stderr().status("reading" if session.num_frames == 1 else f"reading {session.num_frames} frames")
    pieces = _take_pieces(session.stream(text, **options), can_stop)
    waiting.start()
    try:
        for piece in pieces:
            waiting.stop()
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
        pieces.close()
        waiting.stop()
        bar.stop()
        if has_words:
            typer.echo()
    if answer is not None and answer.is_loop:
        stderr().print("warning: the answer began to repeat itself and was stopped there")
    if answer is None and not can_stop:
        raise RuntimeError("the session ended without an answer")
    return answer


def _take_pieces(pieces: Iterator[Piece], can_stop: bool) -> Generator[Piece, None, None]:
    """The pieces of an answer, up to Ctrl-C. Ended between two of them, the session is as whole as ever."""
    before, presses = signal.getsignal(signal.SIGINT), 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        if presses > 1:
            raise KeyboardInterrupt
        stderr().print("stopping; Ctrl-C once more does not wait")

    is_noted = can_stop and threading.current_thread() is threading.main_thread()  # others get no signals
    if is_noted:
        signal.signal(signal.SIGINT, note)
    try:
        for piece in pieces:
            yield piece
            if presses:
                return
    finally:
        cast("Generator[Piece, None, None]", pieces).close()
        if is_noted:
            signal.signal(signal.SIGINT, before)


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
    """Names of files, one a line; none under -q."""
    for path in () if is_quiet() else paths:
        typer.echo(f"wrote {path}")
