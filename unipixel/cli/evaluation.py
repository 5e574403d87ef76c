"""``unipixel eval``: how good a checkpoint is."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from unipixel.cli import options
from unipixel.cli.asking import load_engine
from unipixel.cli.output import check_out, print_json, stderr, stdout

if TYPE_CHECKING:
    from unipixel.eval.stickers import Figure

evaluation = typer.Typer(no_args_is_help=True, help="Measure a checkpoint.")


@evaluation.callback()
def benchmarks() -> None:
    """Measure a checkpoint."""


@evaluation.command("stickers")
def stickers(
    model: options.Model = "nano",
    device: options.Device = "auto",
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="One of the figures, such as 'refer' or 'video'; repeat for more."),
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", metavar="N", help="Questions per figure on pictures.")] = 200,
    videos: Annotated[int, typer.Option("--videos", metavar="N", help="Questions on videos.")] = 40,
    sprites: Annotated[
        Path | None,
        typer.Option("--sprites", metavar="DIR", help="Draw with the PNGs and labels.json of this folder instead."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Also write the figures to this .json file.")
    ] = None,
) -> None:
    """Measure a checkpoint on held-out scenes of the built-in world, each figure beside that of a trivial guess."""
    _check(count, videos, sprites, out)
    engine = load_engine(model, device)
    from unipixel.eval.stickers import Evaluation
    from unipixel.stickers import SceneSettings

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=stderr(),
        disable=not sys.stderr.isatty(),
    )
    tasks: dict[str, Any] = {}

    def progress(name: str, done: int, total: int) -> None:
        if name not in tasks:
            tasks[name] = bar.add_task(name, total=total)
        bar.update(tasks[name], completed=done)

    measure = Evaluation(engine, SceneSettings(sprites=sprites), count=count, video_count=videos, progress=progress)
    with bar:
        figures = measure.run(tuple(only or ()))
    values = {"model": model, "figures": [figure.to_json() for figure in figures]}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if as_json:
        print_json(values)
        return
    _show(figures)
    if out is not None:
        typer.echo(f"wrote {out}")


def _check(count: int, videos: int, sprites: Path | None, out: Path | None) -> None:
    for option, number in (("--count", count), ("--videos", videos)):
        if number < 1:
            raise ValueError(f"{option} is {number}; it must be at least 1")
    if sprites is not None and not sprites.is_dir():
        raise ValueError(f"--sprites is {sprites}, which is not a folder")
    if out is not None and out.suffix.lower() != ".json":
        raise ValueError(f"--out is {out}; name a file that ends in .json")
    check_out(out)


def _show(figures: Sequence[Figure]) -> None:
    table = Table("figure", "value", "trivial", "what is trivial", "questions", "failed", "more")
    for one in figures:
        more = ", ".join(f"{name} {value:.3f}" for name, value in one.more.items())
        table.add_row(
            one.name,
            f"{one.value:.3f}",
            f"{one.baseline:.3f}",
            one.baseline_means,
            str(one.count),
            str(one.failed),
            more,
        )
    stdout().print(table)
