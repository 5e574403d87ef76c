"""``unipixel eval stickers`` by itself: a table of figures, each beside that of a trivial guess."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from unipixel.cli.options import load_engine
from unipixel.cli.output import check_out, print_json, stderr, stdout

if TYPE_CHECKING:
    from unipixel.eval.stickers import StickerFigure
    from unipixel.stickers import SceneSettings


def measure_stickers(
    *,
    model: str,
    device: str,
    only: Sequence[str] | None,
    count: int,
    videos: int,
    sprites: Path | None,
    world: str,
    style: str | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Measure a checkpoint on held-out scenes of the built-in world."""
    _check_options(count, videos, sprites, out)
    settings = get_world_settings(world, sprites, style)
    engine = load_engine(model, device)
    from unipixel.eval.stickers import StickerEvaluation, ask_engine

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

    measure = StickerEvaluation(
        lambda questions: ask_engine(engine, questions),
        settings,
        count=count,
        video_count=videos,
        progress=progress,
    )
    with bar:
        figures = measure.run(tuple(only or ()))
    values = {"model": model, "world": world, "style": style, "figures": [figure.to_json() for figure in figures]}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if as_json:
        print_json(values)
        return
    _show_figures(figures)
    if out is not None:
        typer.echo(f"wrote {out}")


def get_world_settings(world: str, sprites: Path | None, style: str | None = None) -> SceneSettings:
    """The settings called ``world``, drawn with the sprites of a folder or in one built-in style.

    Raises:
        ValueError: there is no world or style of that name.
    """
    from unipixel.stickers import HELD_OUT_FAMILY, TRAINING_FAMILIES, WORLDS

    if world not in WORLDS:
        raise ValueError(f"--world is {world!r}; there are {', '.join(WORLDS)}")
    settings = replace(WORLDS[world], sprites=sprites)
    styles = (*TRAINING_FAMILIES, HELD_OUT_FAMILY)
    if style is not None and style not in styles:
        raise ValueError(f"--style is {style!r}; there are {', '.join(styles)}, of which the last is never trained on")
    return settings if style is None else replace(settings, families=(style,))


def _check_options(count: int, videos: int, sprites: Path | None, out: Path | None) -> None:
    for option, number in (("--count", count), ("--videos", videos)):
        if number < 1:
            raise ValueError(f"{option} is {number}; it must be at least 1")
    if sprites is not None and not sprites.is_dir():
        raise ValueError(f"--sprites is {sprites}, which is not a folder")
    check_out(out)


def _show_figures(figures: Sequence[StickerFigure]) -> None:
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
