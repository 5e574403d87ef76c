"""The commands put together, and the boundary at which errors become one sentence and an exit code."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from unipixel import __version__
from unipixel.cli.ask import ask, chat
from unipixel.cli.batch import batch
from unipixel.cli.checkpoints import doctor, export, memory
from unipixel.cli.convert import convert
from unipixel.cli.data import data
from unipixel.cli.demo import demo, stickers
from unipixel.cli.diagnostics import bench
from unipixel.cli.evaluate import evaluate, report
from unipixel.cli.output import escape_unencodable, print_error
from unipixel.cli.serve import serve
from unipixel.cli.train import train
from unipixel.errors import CheckpointWarning, UnipixelError

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
"""Exit codes."""


class CommandGroup(TyperGroup):
    """Runs a command; whatever goes wrong ends in one sentence on stderr."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            check_arguments([*getattr(ctx, "_protected_args", ()), *ctx.args])
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print_error("interrupted; what was written before is kept")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # whoever read the output has had enough of it
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(FAILED) from None
        except Exception as error:
            if isinstance(error, typer.Abort) or hasattr(error, "exit_code"):
                raise  # typer's own ways to end a command
            _show_trace()
            code, sentence = describe_error(error)
            print_error(sentence)
            raise typer.Exit(code) from None


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse empty text where a name belongs: an unset variable would stand for the current folder.

    Only the question of ``ask``, behind the media, may be empty.

    Raises:
        ValueError: says which argument.
    """
    for place, text in enumerate(arguments):
        before = arguments[place - 1] if place else ""
        if text.strip() or (arguments[0] == "ask" and place > 1 and not before.startswith("-")):
            continue
        what = before if before.startswith("-") else f"argument {place} of `unipixel {arguments[0]}`"
        raise ValueError(f"{what} is empty; give it a value (is a variable unset?)")


def describe_error(error: Exception) -> tuple[int, str]:
    """Exit code and sentence for an error: bad input says what is wrong with it, anything else where to look."""
    if isinstance(error, UnipixelError | ValueError):
        return BAD_INPUT, str(error)
    if isinstance(error, OSError):
        return BAD_INPUT, f"{error.filename or 'a file'} cannot be used: {error.strerror or error}"
    return FAILED, f"failed with {type(error).__name__}: {error}; set UNIPIXEL_TRACE=1 to see where"


def _show_trace() -> None:
    if os.environ.get("UNIPIXEL_TRACE"):
        import traceback

        traceback.print_exc()


def _print_version(is_set: bool) -> None:
    if is_set:
        typer.echo(f"unipixel {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=CommandGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Point, segment, remember and answer: ask about the pixels of an image or a video.",
)


@app.callback()
def configure(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Point, segment, remember and answer: ask about the pixels of an image or a video."""


app.command()(ask)
app.command()(chat)
app.command()(demo)
app.command()(stickers)
app.command()(batch)
app.command()(convert)
app.command()(bench)
app.command()(serve)
app.command()(doctor)
app.command()(memory)
app.command("eval")(evaluate)
app.command()(train)
app.command()(report)
app.add_typer(data, name="data")
app.add_typer(export, name="export")


def main() -> None:
    """Run the command line of this process."""
    escape_unencodable()
    show = warnings.showwarning

    def show_warning(message: Any, category: Any, *rest: Any, **options: Any) -> None:
        # what the package warns of is one sentence; other packages' warnings are shown as ever
        own = category is UserWarning and "unipixel" in str(rest[0] if rest else "")
        if own or issubclass(category, CheckpointWarning):
            print_error(str(message))
        else:
            show(message, category, *rest, **options)

    warnings.showwarning = show_warning
    app()
