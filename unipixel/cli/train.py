"""``unipixel train``: a recipe, or one of the paper's ablations."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from unipixel.cli.output import check_folder, stderr, stdout

if TYPE_CHECKING:
    from unipixel.train.recipe import Recipe

LIST, ABLATION = "list", "ablation"


def train(
    name: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help=f"A recipe; '{LIST}' names them all; '{ABLATION}' NAME: an ablation."),
    ],
    study: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="The ablation: stages, unify, memory, tokens, time or propagation."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="RUN", help="Folder of the run; taken up where it stopped.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=VALUE", help="Change a field of the recipe, such as steps=300. Repeat."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="NAME[/SPLIT]", help="Train on these alone: folder:PATH, coco:PATH, a dataset. Repeat."
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option("--data-root", metavar="DIR", help="The folder with the datasets, or above its 'data'."),
    ] = None,
    skip_absent: Annotated[
        bool, typer.Option("--skip-absent", help="Leave out datasets of the mixture whose files are not there.")
    ] = False,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Start from 'nano', a checkpoint folder, or a Hub id.")
    ] = "",
    start: Annotated[
        list[str] | None,
        typer.Option("--start", metavar="FOLDER=PART,PART", help="Take over these parts of a checkpoint. Repeat."),
    ] = None,
    max_bad: Annotated[
        float | None,
        typer.Option(
            "--max-bad", metavar="SHARE", help="Share of records that may be unreadable and are left out; 0.05."
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", metavar="N", help="Processes that load data.")] = 1,
    parallel: Annotated[
        str, typer.Option("--parallel", help="Under torchrun: 'ddp', 'fsdp', 'zero2' or 'zero3'.")
    ] = "ddp",
    report: Annotated[
        list[str] | None,
        typer.Option("--report", help="Also report to 'wandb' or 'trackio'; 'none': not even TensorBoard."),
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="N,N", help="Ablations: seeds, over which the table has means.")
    ] = "0",
    count: Annotated[
        int | None,
        typer.Option("-n", "--count", metavar="N", help="Ablations: held-out pictures, or questions of a benchmark."),
    ] = None,
) -> None:
    """Train by a recipe, from the newest checkpoint in RUN if there is one; the result is RUN/final.

    `ablation NAME` trains and measures every condition of one of the paper's ablations, in the built-in world or, with
    --data-root, on the paper's data, and prints one table; OUT takes it as JSON and Markdown.

    Several processes: torchrun --nproc-per-node N -m -- unipixel train RECIPE -o RUN.
    """
    if name == LIST:
        _list_recipes()
        return
    if workers < 0:
        raise ValueError(f"--workers is {workers}; it must be 0 or more")
    if name == ABLATION:
        if data or start or parallel != "ddp" or report:
            raise ValueError(
                "an ablation chooses its data and starts; --data, --start, --parallel, --report are not for it"
            )
        ablate(
            study,
            out,
            model=model,
            settings=settings or [],
            data_root=data_root,
            skip_absent=skip_absent,
            workers=workers,
            seeds=seeds,
            count=count,
        )
        return
    if study is not None or seeds != "0" or count is not None:
        raise ValueError(f"a second name, --seeds and --count are for `unipixel train {ABLATION} NAME`")
    if out is None:
        raise ValueError("no folder was given for the run; add -o RUN")
    check_folder(out, "-o")
    from unipixel.train.recipe import keep_present_sources, override, set_data, set_start
    from unipixel.train.run import run

    settings = [*(settings or []), *([] if max_bad is None else [f"max_bad={max_bad}"])]
    recipe = set_start(set_data(override(_find_recipe(name), settings), data or []), model, start or [])
    if skip_absent:
        recipe, absent = keep_present_sources(recipe, data_root)
        if absent:
            stderr().print(f"left out, not there: {', '.join(absent)}")
    final = run(recipe, out, data_root=data_root, workers=workers, parallel=parallel, report=tuple(report or ()))
    stdout().print(str(final), soft_wrap=True)


def _find_recipe(name: str) -> Recipe:
    import difflib

    from unipixel.train.recipes import RECIPES

    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"`unipixel train {LIST}` names them all"
        raise ValueError(f"there is no recipe {name!r}; {hint}")
    return RECIPES[name]()


def _list_recipes() -> None:
    """Every recipe with what it is and its size."""
    from unipixel.train.recipes import RECIPES

    table = Table("recipe", "what", "length", "batch", "rate")
    table.columns[0].no_wrap = True
    for name, make in RECIPES.items():
        recipe = make()
        length = f"{recipe.steps} steps" if recipe.steps else f"{recipe.epochs:g} epoch"
        what = (make.__doc__ or "").strip().partition("\n")[0]
        table.add_row(name, what, length, str(recipe.batch_size), f"{recipe.learning_rate:g}")
    stdout().print(table)


def ablate(
    name: str | None,
    out: Path | None,
    *,
    model: str,
    settings: list[str],
    data_root: Path | None,
    skip_absent: bool,
    workers: int,
    seeds: str,
    count: int | None,
) -> None:
    """Train and measure every condition of an ablation, and print its table.

    Raises:
        ValueError: an argument is wrong.
    """
    from unipixel.ablation import ABLATIONS

    known = ", ".join(ABLATIONS)
    if name is None:
        raise ValueError(f"which ablation? There are {known}: unipixel train ablation NAME -o OUT")
    if out is None:
        raise ValueError("no folder was given for the ablation; add -o OUT")
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", seeds):
        raise ValueError(f"--seeds is {seeds!r}; it must be whole numbers with commas between, such as 0,1")
    if skip_absent and data_root is None:
        raise ValueError("--skip-absent is for real data; say where they are with --data-root")
    check_folder(out, "-o")
    from unipixel.ablation import AblationPlan, run_ablation

    plan = AblationPlan(
        name=name,
        out=out,
        model=model,
        data_root=data_root,
        settings=tuple(settings),
        seeds=tuple(dict.fromkeys(int(seed) for seed in seeds.split(","))),
        count=count,
        skip_absent=skip_absent,
        workers=workers,
    )
    typer.echo(run_ablation(plan, lambda text: stderr().print(text)))
