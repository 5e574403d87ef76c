"""``unipixel eval`` and ``unipixel report``: how good a checkpoint is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from unipixel.atomic import write_text
from unipixel.cli import options
from unipixel.cli.options import load_engine
from unipixel.cli.output import build_progress, check_folder, check_out, print_json, show_written, stdout

if TYPE_CHECKING:
    from unipixel.eval.judge import Judge
    from unipixel.eval.predictions import PredictionLine, RunHeader
    from unipixel.eval.protocols import Figure, Predictor
    from unipixel.eval.report import ReportSection
    from unipixel.eval.runner import BenchmarkRun
    from unipixel.stickers import SceneSettings

Names = Annotated[
    list[str],
    typer.Argument(metavar="NAME[/SPLIT] ...", help="Benchmarks, such as 'revos', 'mevis/valid', 'stickers'."),
]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="The folder with the datasets, or above its 'data'.")
]


def evaluate(
    names: Names,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="NAME",
            help="'nano', a checkpoint folder, or a Hub id; 'perfect' (the truth fed back) or 'blank' (nothing).",
        ),
    ] = "nano",
    base: options.Base = None,
    data_root: DataRoot = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="OUT", help="Folder for predictions and report; taken up if it has some."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="Only the first N questions of each benchmark.")
    ] = None,
    shard: Annotated[
        str, typer.Option("--shard", metavar="i/n", help="Only the i-th of n parts, from 0/n on.")
    ] = "0/1",
    protocol: Annotated[
        str,
        typer.Option("--protocol", help="'correct', or 'original': as UniPixel's own evaluation, mistakes included."),
    ] = "correct",
    retry: Annotated[bool, typer.Option("--retry", help="Ask again what failed or was left out before.")] = False,
    max_bad: Annotated[
        float, typer.Option("--max-bad", metavar="SHARE", help="Records that may be unreadable and are left out.")
    ] = 0.05,
    judge: Annotated[
        str | None,
        typer.Option("--judge", metavar="URL", help="OpenAI-compatible endpoint that grades descriptions."),
    ] = None,
    judge_model: Annotated[str, typer.Option("--judge-model", metavar="NAME", help="Model that grades.")] = "gpt-4o",
    device: options.Device = "auto",
    dtype: options.DType = None,
    pool_memories: options.PoolMemories = False,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="Answer on the Ray cluster there ('auto': of this machine; 'local': started for this run).",
        ),
    ] = None,
    actors: Annotated[
        int, typer.Option("--actors", metavar="N", help="With --address: models that answer at the same time.")
    ] = 1,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Stickers: one of the figures, such as 'refer'; repeat for more."),
    ] = None,
    count: Annotated[
        int, typer.Option("-n", "--count", metavar="N", help="Stickers: questions per figure on pictures.")
    ] = 200,
    videos: Annotated[int, typer.Option("--videos", metavar="N", help="Stickers: questions on videos.")] = 40,
    sprites: Annotated[
        Path | None,
        typer.Option("--sprites", metavar="DIR", help="Stickers: draw with the PNGs and labels.json of this folder."),
    ] = None,
    world: Annotated[
        str,
        typer.Option("--world", help="Stickers: 'default', or 'hard' for small and crowded pictures of all things."),
    ] = "default",
    style: Annotated[
        str | None, typer.Option("--style", help="Stickers: one drawing style, such as 'fxemoji', never trained on.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
) -> None:
    """Measure a checkpoint on benchmarks, each figure beside the published one.

    Predictions are kept in OUT as they come; the same command goes on where it was stopped. Shards of one run may share
    OUT, or be merged with `unipixel report OUT1 OUT2 ...`. 'stickers' by itself needs no OUT, or takes a .json file.
    """
    # a run with pooled memories is another one, and its report says so
    called = f"{model}, memories pooled" if pool_memories else model
    if names == ["stickers"] and (out is None or out.suffix.lower() == ".json"):
        measure_stickers(
            model=called,
            load_predictor=lambda: _load_predictor(model, base, device, dtype, pool_memories),
            only=only,
            count=count,
            videos=videos,
            sprites=sprites,
            world=world,
            style=style,
            as_json=as_json,
            out=out,
        )
        return
    if address is None and actors != 1:
        raise ValueError(f"--actors is {actors}, but --address does not say on which Ray cluster ('local' starts one)")
    if only or sprites or style or (count, videos, world) != (200, 40, "default"):
        raise ValueError(
            "--only, --count, --videos, --sprites, --world and --style are for `unipixel eval stickers` without a "
            "folder OUT"
        )
    if out is None:
        raise ValueError("there is no -o; name a folder for the predictions, in which a stopped run is taken up again")
    if out.suffix.lower() in (".json", ".md", ".html", ".zip"):
        raise ValueError(f"--out is {out}; name a folder, without a suffix")
    check_folder(out, "--out")
    runs = open_runs(names, data_root, model=called, protocol=protocol, limit=limit, shard=parse_shard(shard))
    grader = _open_judge(judge, judge_model, protocol)
    if address is None:
        predictor = _load_predictor(model, base, device, dtype, pool_memories)
        _predict_runs(runs, predictor, out, retry=retry, max_bad=max_bad, judge=grader)
    else:
        if shard != "0/1":
            raise ValueError(f"--shard is {shard!r}, but --address divides the run by itself; give one of the two")
        from unipixel.batch.cluster import predict_parts

        with build_progress(remaining=True) as bar:
            predict_parts(
                runs,
                out,
                address=address,
                actors=actors,
                load={
                    "name_or_path": model,
                    "device": device,
                    "dtype": dtype,
                    "base": base,
                    "pool_memories": pool_memories,
                },
                data_root=data_root,
                retry=retry,
                max_bad=max_bad,
                progress=_track_progress(bar, "questions"),
            )
        _grade_parts(runs, out, grader, retry=retry)
    write_report([out], out, data_root=data_root, as_json=as_json)


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="OUT ...", help="Folders that `unipixel eval` has written.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Where to write; by default the first OUT.")
    ] = None,
    data_root: DataRoot = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Score all predictions anew against the data (needs --data-root).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")] = False,
) -> None:
    """Merge the shards of an evaluation into tables: terminal, report.json, report.md, report.html.

    The page shows pictures of examples if --data-root says where the data are. Uploads for servers are written as zips.
    """
    check_folder(out or folders[0], "--out")
    write_report(folders, out or folders[0], data_root=data_root, rescored=rescore, as_json=as_json)


def parse_shard(text: str) -> tuple[int, int]:
    """Place and number of parts.

    Raises:
        ValueError: the text is not ``i/n``.
    """
    if not re.fullmatch(r"\d{1,6}/\d{1,6}", text):
        raise ValueError(f"--shard is {text!r}; it must be i/n, such as 0/2 and 1/2 for two halves")
    place, number = text.split("/")
    return int(place), int(number)


def open_runs(names: list[str], data_root: Path | None, **how: Any) -> list[BenchmarkRun]:
    """The runs that were asked for, with their data indexed, before any model is loaded.

    Raises:
        ValueError: a name or option is wrong.
        DatasetError: data are missing or damaged.
    """
    from unipixel.eval.benchmarks import select_splits
    from unipixel.eval.runner import open_run

    pairs = list(dict.fromkeys(pair for name in names for pair in select_splits(name)))
    return [open_run(name, split, data_root, **how) for name, split in pairs]


def _load_predictor(model: str, base: str | None, device: str, dtype: str | None, pool_memories: bool) -> Predictor:
    from unipixel.eval.predictors import choose_predictor

    return choose_predictor(model, lambda: load_engine(model, device, dtype, base, pool_memories))


def _open_judge(url: str | None, model: str, protocol: str) -> Judge | None:
    if url is None:
        return None
    from unipixel.eval.judge import EndpointJudge

    return EndpointJudge(model, url, original=protocol == "original")


def _predict_runs(
    runs: list[BenchmarkRun], predictor: Predictor, out: Path, *, retry: bool, max_bad: float, judge: Judge | None
) -> None:
    from unipixel.eval.benchmarks import BENCHMARKS
    from unipixel.eval.captions import Captions
    from unipixel.eval.judge import grade_predictions
    from unipixel.eval.runner import predict

    with build_progress(remaining=True) as bar:
        for run in runs:
            title = f"{BENCHMARKS[run.name].title} {run.split}"
            predict(run, predictor, out, retry=retry, max_bad=max_bad, progress=_track_progress(bar, title))
            if judge is not None and isinstance(run.protocol, Captions):
                grade_predictions(run.get_path(out), judge, _track_progress(bar, f"{title}, judge"), retry=retry)


def _grade_parts(runs: list[BenchmarkRun], out: Path, judge: Judge | None, *, retry: bool) -> None:
    """Have descriptions graded that a cluster has written."""
    from unipixel.eval.captions import Captions
    from unipixel.eval.judge import grade_predictions
    from unipixel.eval.report import prediction_files

    described = {(run.name, run.split) for run in runs if isinstance(run.protocol, Captions)}
    with build_progress(remaining=True) as bar:
        for path in prediction_files(out) if judge is not None else []:
            if judge is not None and path.parts[-3:-1] in described:
                grade_predictions(path, judge, _track_progress(bar, f"{path.parent.name}, judge"), retry=retry)


def _track_progress(bar: Progress, title: str) -> Callable[[int, int, int], None]:
    """One line of a progress display, to be called with the numbers of done, of all, and of failed questions."""
    task = bar.add_task(title, total=None)

    def update(done: int, total: int, failed: int) -> None:
        bar.update(task, completed=done, total=total, description=f"{title}, {failed} failed" if failed else title)

    return update


def write_report(
    folders: Sequence[Path], out: Path, *, data_root: Path | None, rescored: bool = False, as_json: bool = False
) -> None:
    """Merge predictions, show them, and write ``report.json``, ``.md``, ``.html`` and the zips for servers.

    Raises:
        UnipixelError: there are no predictions, or they are damaged.
    """
    from unipixel.eval.pages import render_examples, render_page
    from unipixel.eval.report import collect_sections, render_markdown
    from unipixel.eval.runner import rescore

    def reopen_run(header: RunHeader) -> BenchmarkRun:
        from unipixel.eval.runner import open_run

        return open_run(
            header.benchmark, header.split, data_root, model=header.model, protocol=header.protocol, limit=header.limit
        )

    def rescore_lines(header: RunHeader, lines: list[PredictionLine]) -> list[PredictionLine]:
        return rescore(reopen_run(header), lines, header.num_frames)

    sections = collect_sections(folders, rescore_lines if rescored else None)
    values = {"sections": [one.to_json() for one in sections]}
    shown = [render_examples(one, lambda section: reopen_run(section.header)) for one in sections]
    texts = {
        "report.json": json.dumps(values, indent=1, ensure_ascii=False) + "\n",
        "report.md": render_markdown(sections),
        "report.html": render_page(sections, shown),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(out / name, text)
    zips = [path for one in sections if (path := _write_upload(one, out)) is not None]
    if as_json:
        print_json(values)
        return
    for one in sections:
        _show_section(one)
    show_written([*(out / name for name in texts), *zips])


def _write_upload(one: ReportSection, out: Path) -> Path | None:
    """The zip for the server that scores a benchmark, once everything is answered."""
    from unipixel.eval.predictions import write_zip
    from unipixel.eval.report import is_uploadable

    if not one.split.layout or not is_uploadable(one.header, one.lines):
        return None
    path = out / f"{one.header.benchmark}-{one.header.split}-{one.header.protocol}.zip"
    write_zip(one.lines, one.split.layout, path, original=one.header.protocol == "original")
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
    if one.split.in_paper:
        console.print(SECONDARY.replace("\\", ""))
    for note in one.notes:
        console.print(f"- {note}")
    for unit, error in one.failures[:FAILURES_NAMED]:
        console.print(f"- {unit} failed: {error}")
    typer.echo()


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
    from unipixel.eval.stickers import STICKER_TASKS

    _check_options(count, videos, sprites, out)
    unknown = [name for name in only or () if name not in STICKER_TASKS]
    if unknown:
        raise ValueError(f"there is no figure {unknown[0]!r}; there are {', '.join(STICKER_TASKS)}")
    settings = get_world_settings(world, sprites, style)
    predictor = load_predictor()
    measured: list[tuple[list[Figure], int]] = []
    with build_progress() as bar:
        for name, task in STICKER_TASKS.items():
            if only and name not in only:
                continue
            number = videos if task.is_video else count
            protocol = replace(task, settings=settings, count=number)
            records = protocol.read_records("stickers", None, "val")
            run = BenchmarkRun(name="stickers", split=name, protocol=protocol, records=records, read=read, model=model)
            lines = predict(run, predictor, None, progress=_track_progress(bar, name)).values()
            figures = protocol.summarize([one for line in lines for one in line.measures])
            measured.append((figures, sum(bool(line.error) for line in lines)))
    values = [_to_json(*one) for one in measured]
    report = {"model": model, "world": world, "style": style, "figures": values}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, json.dumps(report, indent=1) + "\n")
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
    from unipixel.stickers import FURTHER_FAMILIES, HELD_OUT_FAMILY, TRAINING_FAMILIES, WORLDS

    if world not in WORLDS:
        raise ValueError(f"--world is {world!r}; there are {', '.join(WORLDS)}")
    settings = replace(WORLDS[world], sprites=sprites)
    styles = (*TRAINING_FAMILIES, *FURTHER_FAMILIES, HELD_OUT_FAMILY)
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
