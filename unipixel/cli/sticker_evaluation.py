"""``unipixel eval stickers`` by itself: a table of figures, each beside that of a trivial guess."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from unipixel.cli.output import check_out, print_json, stderr, stdout

if TYPE_CHECKING:
    from unipixel.eval.protocols import Figure, Predictor
    from unipixel.stickers import SceneSettings


def measure_stickers(
    *,
    model: str,
    load_predictor: Callable[[], Predictor],
    only: Sequence[str] | None,
    count: int,
    videos: int,
    sprites: Path | None,
    world: str,
    style: str | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Measure a checkpoint on held-out scenes of the built-in world.

    Raises:
        ValueError: an option is wrong.
    """
    from unipixel.data import read
    from unipixel.eval.runner import BenchmarkRun, predict
    from unipixel.eval.stickers import STICKER_TASKS, StickerProtocol

    _check_options(count, videos, sprites, out)
    unknown = [name for name in only or () if name not in STICKER_TASKS]
    if unknown:
        raise ValueError(f"there is no figure {unknown[0]!r}; there are {', '.join(STICKER_TASKS)}")
    settings = get_world_settings(world, sprites, style)
    predictor = load_predictor()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=stderr(),
        disable=not sys.stderr.isatty(),
    )
    measured: list[tuple[list[Figure], int]] = []
    with bar:
        for name, task in STICKER_TASKS.items():
            if only and name not in only:
                continue
            number = videos if task.is_video else count
            protocol = StickerProtocol(task=task, settings=settings, count=number)
            records = protocol.read_records("stickers", None, "val")
            run = BenchmarkRun(name="stickers", split=name, protocol=protocol, records=records, read=read, model=model)
            progress = partial(_update, bar, bar.add_task(name, total=number))
            lines = predict(run, predictor, None, progress=progress).values()
            figures = protocol.summarize([one for line in lines for one in line.measures])
            measured.append((figures, sum(bool(line.error) for line in lines)))
    values = [_to_json(*one) for one in measured]
    report = {"model": model, "world": world, "style": style, "figures": values}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if as_json:
        print_json(report)
        return
    _show_figures(measured)
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


def _update(bar: Progress, task: TaskID, done: int, total: int, failed: int) -> None:
    bar.update(task, completed=done, total=total)


def _to_json(figures: Sequence[Figure], failed: int) -> dict[str, object]:
    first, *others = figures
    return {
        "name": first.name,
        "value": round(first.value / 100, 4),
        "baseline": round((first.baseline or 0) / 100, 4),
        "baseline_means": first.baseline_name,
        "count": first.count,
        "failed": failed,
        **{one.name: round(one.value / 100, 4) for one in others},
    }


def _show_figures(measured: Sequence[tuple[Sequence[Figure], int]]) -> None:
    table = Table("figure", "value", "trivial", "what is trivial", "questions", "failed", "more")
    for (first, *others), failed in measured:
        more = ", ".join(f"{one.name} {one.value / 100:.3f}" for one in others)
        value, baseline = f"{first.value / 100:.3f}", f"{(first.baseline or 0) / 100:.3f}"
        table.add_row(first.name, value, baseline, first.baseline_name, str(first.count), str(failed), more)
    stdout().print(table)
