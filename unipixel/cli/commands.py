"""The commands put together, and the boundary at which errors become one sentence and an exit code."""

from __future__ import annotations

import atexit
import gc
import os
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from unipixel import __version__
from unipixel.cli.ask import ask
from unipixel.cli.batch import batch
from unipixel.cli.chat import chat
from unipixel.cli.checkpoints import doctor, export, memory
from unipixel.cli.convert import convert
from unipixel.cli.data import data
from unipixel.cli.demo import demo, stickers
from unipixel.cli.diagnostics import bench
from unipixel.cli.evaluate import evaluate, report
from unipixel.cli.info import info
from unipixel.cli.models import models
from unipixel.cli.output import (
    BAD_INPUT,
    FAILED,
    INTERRUPTED,
    describe_error,
    escape_unencodable,
    is_verbose,
    print_error,
    set_verbosity,
)
from unipixel.cli.serve import serve
from unipixel.cli.train import train
from unipixel.errors import CheckpointWarning

__all__ = ["BAD_INPUT", "FAILED", "INTERRUPTED", "CommandGroup", "app", "main"]
HELP_NAMES = ["-h", "--help"]


class CommandGroup(TyperGroup):
    """Runs a command; whatever goes wrong ends in one sentence on stderr."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        common = typer.main.get_command(_common).params
        for command in _list_commands(self):
            if not hasattr(command, "commands"):
                command.params += common
            if command is not self:
                _hide_flag_types(command.get_params(typer.Context(command, help_option_names=HELP_NAMES)))

    def get_params(self, ctx: Any) -> list[Any]:
        """Options of the group itself, those of completion included, which come late."""
        options = super().get_params(ctx)
        _hide_flag_types(options)
        return options

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        set_verbosity(0)
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
            if is_verbose():
                traceback.print_exc()
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


def _list_commands(group: Any) -> Iterator[Any]:
    """A group, its commands and those of its groups."""
    yield group
    for command in group.commands.values():
        yield from _list_commands(command) if hasattr(command, "commands") else (command,)


def _hide_flag_types(options: Iterable[Any]) -> None:
    """Let help say nothing where it would say <bool>."""
    for option in options:
        if getattr(option, "is_flag", False):
            option.metavar = ""


_common = typer.Typer(add_completion=False)


def _set_quiet(is_set: bool) -> None:
    if is_set:
        set_verbosity(-1)


def _set_verbose(is_set: bool) -> None:
    if is_set:
        set_verbosity(1)


@_common.command()
def take_common_options(
    quiet: Annotated[
        bool,
        typer.Option("-q", "--quiet", callback=_set_quiet, expose_value=False, help="Say nothing but the result."),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("-v", "--verbose", callback=_set_verbose, expose_value=False, help="Show the log and traces."),
    ] = False,
) -> None:
    """Options of every command, which `CommandGroup` adds."""


def _print_version(is_set: bool) -> None:
    if is_set:
        typer.echo(f"unipixel {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=CommandGroup,
    context_settings={"help_option_names": HELP_NAMES},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Point, segment, remember and answer: ask about the pixels of an image or a video.",
)


@app.callback()
def configure(
    version: Annotated[
        bool,
        typer.Option("-V", "--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Point, segment, remember and answer: ask about the pixels of an image or a video."""


app.command()(ask)
app.command()(chat)
app.command()(info)
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
app.add_typer(models, name="models")
app.add_typer(export, name="export")


def main() -> None:
    """Run the command line of this process."""
    atexit.register(gc.freeze)  # at the end nothing is looked through for garbage
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
