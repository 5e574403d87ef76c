"""``unipixel bench``: what this machine can do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from unipixel.atomic import write_text
from unipixel.cli.output import check_folder, is_quiet, print_json, show_written, stderr, stdout

if TYPE_CHECKING:
    from unipixel.bench import BenchReport

BUSY = 1.3
"""Seconds on the wall per processor second above which the machine counts as busy with something else."""


def bench(
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Very small sizes: shows in seconds that everything runs; the figures mean nothing."
        ),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="'memory', 'image', 'clip', 'session' or 'limits'; repeat."),
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="'float32', 'bfloat16' or 'auto': the faster one here.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", help="Threads of torch.")] = None,
    device: Annotated[str, typer.Option("--device", help="'cpu', 'cuda', 'mps' or 'auto'.")] = "cpu",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Also write the figures to a file, as JSON.")
    ] = None,
    gpu_report: Annotated[
        bool, typer.Option("--gpu-report", help="Everything on the GPU in bfloat16, decoding at the full depth of 3B.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
) -> None:
    """Measure this machine: seconds per stage, peak memory, and what encoding every frame once saves.

    Real sizes take some minutes and about 4 GB of memory.
    """
    if out is not None:
        if out.is_dir():
            raise ValueError(f"{out} is a folder; name a file")
        check_folder(out.parent, "--out")
    if gpu_report:
        import torch

        if not torch.cuda.is_available():
            raise ValueError("torch finds no CUDA device here, and --gpu-report measures one")
        device, dtype = "cuda", "bf16" if dtype == "auto" else dtype
    console = stderr()
    with console.status("starting") as status:
        from unipixel.bench import run_bench
        from unipixel.engine.machine import SHORT_NAMES

        short = {name: key for key, name in SHORT_NAMES.items()}.get(dtype, dtype)

        def say(step: str) -> None:
            status.update(step)
            if not console.is_terminal and not is_quiet():  # a log shows no spinner
                typer.echo(step, err=True)

        report = run_bench(quick=quick, only=only or (), dtype=short, threads=threads, device=device, progress=say)
    figures = report.to_json()
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, json.dumps(figures, indent=1) + "\n")
    if as_json:
        print_json(figures)
        return
    show_report(report)
    show_written([] if out is None else [out])


def show_report(report: BenchReport) -> None:
    """The report as tables."""
    from unipixel.bench import COUNTED

    out, setting = stdout(), report.setting
    out.print(
        f"{setting['model']}; {setting['dtype']} on {setting['device']}, {setting['threads']} thread(s), "
        f"torch {setting['torch']}"
    )
    if report.stages:
        table = Table("stage", "first question, s", "each, s", "second question, s", title="Time per stage")
        first, second = report.stages
        for name, seconds in first.items():
            count = first.counts.get(name, 0)
            each = f"{first.seconds_per_item(name):.4f} per {COUNTED.get(name, '')} ({count})" if count else ""
            table.add_row(name, f"{seconds:.3f}", each, f"{second[name]:.3f}")
        table.add_row("together", f"{first.total:.3f}", "", f"{second.total:.3f}")
        out.print(table)
    if report.ratios:
        _show_ratios(report)
    if report.limits is not None:
        _show_limits(report.limits)
    if report.peak_memory_mb is not None:
        out.print(f"peak memory of the run: {report.peak_memory_mb:.0f} MB")
    if report.memory:
        _show_memory(report)


def _show_ratios(report: BenchReport) -> None:
    table = Table("", "ours, s", "other way, s", "faster", "by CPU time", "asked", "same masks, IoU")
    table.title = "Encode once: all objects together, against the same layers run for each object by itself"
    for ratio in report.ratios:
        asked = ""
        if ratio.is_met is not None and not report.setting["quick"]:  # at toy sizes the figures mean nothing
            asked = f">= {ratio.required:g}x, {name_verdict(ratio.is_met)}"
        agreement = "" if ratio.agreement is None else f"{ratio.agreement:.3f}"
        table.add_row(
            ratio.name,
            f"{ratio.ours.wall_s:.2f}",
            f"{ratio.other.wall_s:.2f}",
            f"{ratio.speedup:.2f}x",
            f"{ratio.cpu_speedup:.2f}x",
            asked,
            agreement,
        )
    stdout().print(table)
    busy = max(spent.wall_s / max(spent.cpu_s, 1e-9) for ratio in report.ratios for spent in (ratio.ours, ratio.other))
    if busy > BUSY and report.setting["device"] == "cpu":
        stdout().print(
            f"Other programs kept the processor for up to {1 - 1 / busy:.0%} of the time: trust the ratio by CPU time."
        )


def _show_limits(limits: dict[str, Any]) -> None:
    rates = limits["rates"]
    table = Table("stage", "each, ms", "limit, ms", "share of the limit", "bound by")
    table.title = (
        f"Each stage beside its limit: {rates['flop_per_s'] / 1e9:.0f} GFLOP/s of a large product, "
        f"{rates['read_bytes_per_s'] / 1e9:.1f} GB/s of reading"
    )
    for row in limits["stages"]:
        seconds, least = (f"{1000 * row[name]:.2f}" for name in ("seconds", "limit_s"))
        table.add_row(row["stage"], seconds, least, f"{row['share']:.0%}", row["bound"])
    stdout().print(table)
    table = Table("what", "kernels", "the host waits", title="Operations of the host")
    for row in limits["host_operations"]:
        waits = ", ".join(f"{count} x {name}" for name, count in row["waits"].items())
        table.add_row(row["what"], f"{row['kernels']}", waits or "never")
    stdout().print(table)
    stdout().print(f"frames resized there differ from the host's by at most {limits['resizing_difference']:.1e}")


def _show_memory(report: BenchReport) -> None:
    from unipixel.bench import MEMORY_LIMIT

    table = Table("frames", "peak, MB", "of which tracking, MB", "seconds")
    table.title = f"Memory of tracking 2 objects, {report.setting['memory_model']}"
    for use in report.memory:
        peak = use["peak_mb"]
        table.add_row(f"{use['frames']}", f"{peak:.0f}", f"{peak - use['start_mb']:.0f}", f"{use['seconds']:.1f}")
    stdout().print(table)
    growth = report.memory_growth
    if growth is not None:
        within = name_verdict(growth <= MEMORY_LIMIT)
        stdout().print(f"peak grows to {growth:.3f} of the shorter video's (asked: at most {MEMORY_LIMIT:g}, {within})")


def name_verdict(is_met: bool) -> str:
    """A word for a target."""
    return "met" if is_met else "MISSED"
