"""``unipixel train ablation``: the paper's ablations, each as one command."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from unipixel.cli.output import check_folder, stderr


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
    from unipixel.ablation.conditions import ABLATIONS

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
    from unipixel.ablation.run import AblationPlan, run_ablation

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
