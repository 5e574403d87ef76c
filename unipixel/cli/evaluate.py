"""``unipixel eval`` and ``unipixel report``: how good a checkpoint is."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from unipixel.cli import options
from unipixel.cli.options import load_engine
from unipixel.cli.output import check_folder, stderr
from unipixel.cli.reporting import write_report
from unipixel.cli.sticker_evaluation import measure_stickers

if TYPE_CHECKING:
    from unipixel.eval.judge import Judge
    from unipixel.eval.questions import Predictor
    from unipixel.eval.runner import BenchmarkRun

EXTREMES = ("perfect", "blank")
"""Models that need no checkpoint."""

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
    if names == ["stickers"] and (out is None or out.suffix.lower() == ".json"):
        measure_stickers(
            model=model,
            device=device,
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
    runs = open_runs(names, data_root, model=model, protocol=protocol, limit=limit, shard=parse_shard(shard))
    grader = _open_judge(judge, judge_model, protocol)
    _predict_runs(runs, _load_predictor(model, base, device, dtype), out, retry=retry, max_bad=max_bad, judge=grader)
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


def _load_predictor(model: str, base: str | None, device: str, dtype: str | None) -> Predictor:
    from unipixel.eval.predictors import BlankPredictor, EnginePredictor, PerfectPredictor

    if model in EXTREMES:
        return PerfectPredictor() if model == "perfect" else BlankPredictor()
    return EnginePredictor(load_engine(model, device, dtype, base))


def _open_judge(url: str | None, model: str, protocol: str) -> Judge | None:
    if url is None:
        return None
    from unipixel.eval.judge import EndpointJudge

    return EndpointJudge(model=model, base_url=url, original=protocol == "original")


def _predict_runs(
    runs: list[BenchmarkRun], predictor: Predictor, out: Path, *, retry: bool, max_bad: float, judge: Judge | None
) -> None:
    from unipixel.eval.benchmarks import BENCHMARKS
    from unipixel.eval.captions import Captions
    from unipixel.eval.judge import grade_predictions
    from unipixel.eval.runner import predict

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]}"),
        TimeElapsedColumn(), TimeRemainingColumn(), console=stderr(), disable=not sys.stderr.isatty(),
    )  # fmt: skip
    with bar:
        for run in runs:
            title = f"{BENCHMARKS[run.name].title} {run.split}"
            predict(run, predictor, out, retry=retry, max_bad=max_bad, progress=_ProgressLine(bar, title))
            if judge is not None and isinstance(run.protocol, Captions):
                grade_predictions(run.get_path(out), judge, _ProgressLine(bar, f"{title}, judge"), retry=retry)


class _ProgressLine:
    """One line of the progress display."""

    def __init__(self, bar: Progress, title: str) -> None:
        self._bar, self._task = bar, bar.add_task(title, total=None, failed="")

    def __call__(self, done: int, total: int, failed: int) -> None:
        self._bar.update(self._task, completed=done, total=total, failed=f"{failed} failed" if failed else "")
