"""``unipixel eval``: how good a checkpoint is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unipixel.cli import options
from unipixel.cli.asking import load_engine
from unipixel.cli.output import print_json

evaluation = typer.Typer(no_args_is_help=True, help="Measure a checkpoint.")


@evaluation.callback()
def benchmarks() -> None:
    """Measure a checkpoint."""


@evaluation.command("stickers")
def stickers(
    model: options.Model = "nano",
    device: options.Device = "auto",
    count: Annotated[
        int | None,
        typer.Option("-n", "--count", metavar="N", help="Held-out samples per task; by default the full set."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Also write the figures to this JSON file.")
    ] = None,
) -> None:
    """Measure a checkpoint on held-out samples of the built-in world, each figure beside the one of a trivial guess."""
    from unipixel.eval import stickers as measure

    if count is not None and count < 1:
        raise ValueError(f"--count is {count}; it must be at least 1")
    report = measure.evaluate(load_engine(model, device), count=count)
    if out is not None:
        report.save(out)
    if as_json:
        print_json(report.to_json())
    else:
        report.show()
