"""Commands about checkpoints: what is wrong with one, what memory it takes, and how it becomes a folder for others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from unipixel.cli.options import Base, MaxTokens
from unipixel.cli.output import check_folder, print_json, stderr, stdout

if TYPE_CHECKING:
    from unipixel.engine.doctor import Finding

MAX_TENSORS = 8
"""Tensors of a kind that are listed; ``--json`` lists all."""
export = typer.Typer(help="Write a checkpoint for other libraries.", no_args_is_help=True)


@export.callback()
def describe_export() -> None:
    """Write a checkpoint for other libraries."""


@export.command("hf")
def export_folder(
    name: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="'nano', a checkpoint folder, or a Hub id.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    base: Base = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="'float32', 'bfloat16' or 'float16'; by default that of the checkpoint."),
    ] = None,
    shard: Annotated[str, typer.Option("--max-shard-size", metavar="SIZE", help="Largest file of weights.")] = "5GB",
) -> None:
    """Write a folder that transformers' AutoModel and AutoProcessor load, with a model card; unipixel loads it too.

    A part of a model (LoRA, a training stage) becomes a whole one.
    """
    check_folder(out, "OUT")
    from unipixel.engine.machine import read_dtype
    from unipixel.engine.pretrained import export_checkpoint

    wanted = None if dtype is None else read_dtype(dtype)
    with stderr().status(f"writing {out}"):
        export_checkpoint(name, out, base=base, dtype=wanted, max_shard_size=shard)
    typer.echo(f"wrote {out}; AutoModel.from_pretrained({str(out)!r}, trust_remote_code=True) loads it")


def memory(
    name: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="'3b', '7b', or as elsewhere.")] = "nano",
    frames: Annotated[int, typer.Option("--num-frames", metavar="N", help="Frames of the clip.")] = 16,
    objects: Annotated[int, typer.Option("--objects", metavar="N", help="Objects that are tracked together.")] = 1,
    size: Annotated[str, typer.Option("--size", metavar="WxH", help="Size of the source, pixels.")] = "1280x720",
    max_new_tokens: MaxTokens = 256,
    device: Annotated[str, typer.Option("--device", help="'cpu' or 'cuda'.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print bytes as JSON.")] = False,
) -> None:
    """Predict the memory that a question takes, part by part and for each type, before anything is loaded."""
    from unipixel.engine.footprint import describe_size, predict_memory
    from unipixel.engine.machine import read_available_memory

    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    if found is None or "0" in found.groups():
        raise ValueError(f"--size is {size!r}; write width x height in pixels, such as 1280x720")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device is {device!r}; it must be 'cpu' or 'cuda'")
    config, settings = describe_size(name)
    kinds = ("fp32", "bf16", "bf16-weights", "int8", "int4") if device == "cpu" else ("fp32", "bf16")
    parts = {
        kind: predict_memory(
            config,
            settings,
            frames=frames,
            objects=objects,
            size_hw=(int(found[2]), int(found[1])),
            dtype=kind,
            max_new_tokens=max_new_tokens,
            device=device,
        )
        for kind in kinds
    }
    if as_json:
        print_json(parts)
        return
    table = Table("MB", *kinds, title=f"{name}: {frames} frames of {size}, {objects} object(s), on {device}")
    for names in zip(*parts.values(), strict=True):
        label = names[0] if len(set(names)) == 1 else "activations"
        values = [parts[kind][own] / 1e6 for kind, own in zip(kinds, names, strict=True)]
        table.add_row(label, *(f"{value:,.0f}" for value in values))
    stdout().print(table)
    free = read_available_memory() if device == "cpu" else None
    if free is not None:
        fits = [kind for kind in kinds if parts[kind]["peak"] <= free]
        stdout().print(f"{free / 1e6:,.0f} MB are free here; it fits in {', '.join(fits) or 'none of them'}.")
    if frames > 1:
        stdout().print("Clips have taken up to 0.8 GB more than predicted where that was measured.")


def doctor(
    name: Annotated[str, typer.Argument(metavar="FOLDER|HUB_ID", help="A checkpoint folder, 'nano', or a Hub id.")],
    base: Base = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what a checkpoint is, what of it is missing or different, and what it would ask of this machine.

    Only small files and the headers of the weights are read, on the Hub too. The exit code is 0 if it can be loaded,
    else 2.
    """
    from unipixel.engine.doctor import examine

    finding = examine(name, base=base)
    if as_json:
        print_json(finding.to_json())
    else:
        show_finding(finding)
    if not finding.is_usable:
        raise typer.Exit(2)


def show_finding(finding: Finding) -> None:
    """The finding as tables."""
    out = stdout()
    table = Table("", "", title=finding.name, show_header=False)
    table.add_row("form", finding.form)
    if finding.size:
        table.add_row("size", f"{finding.size}, {finding.parameters / 1e6:,.1f} million parameters")
    for what, value in finding.facts.items():
        table.add_row(what, value)
    for file, value in finding.files.items():
        table.add_row(file, value)
    for kind in ("missing", "unexpected", "misshapen"):
        names = [name for name in getattr(finding, kind) if kind != "missing" or name not in finding.promised]
        shown = "\n".join(names[:MAX_TENSORS]) + (
            f"\nand {len(names) - MAX_TENSORS} more" if len(names) > MAX_TENSORS else ""
        )
        table.add_row(f"{kind} tensors", f"{len(names)}\n{shown}".strip() if names else "none")
    if finding.promised:
        table.add_row("in missing files", f"{len(finding.promised)} tensors")
    out.print(table)
    if finding.memory:
        show_memory(finding)
    for title, lines in (("Differs from the released form:", finding.differences), ("Problems:", finding.problems)):
        if lines:
            out.print(title)
            for line in lines:
                out.print(f"  - {line}")
    out.print("It can be loaded." if finding.is_usable else "It cannot be loaded as it is.")


def show_memory(finding: Finding) -> None:
    """What it asks of the machine."""
    table = Table("type", "weights, GB", "cache of 16 frames, GB", "SAM features, GB", "together, GB", title="Memory")
    for dtype, parts in finding.memory.items():
        table.add_row(dtype, *(f"{value:.2f}" for value in (*parts.values(), sum(parts.values()))))
    stdout().print(table)
    machine = finding.machine
    free = "unknown" if machine["free_memory_gb"] is None else f"{machine['free_memory_gb']} GB"
    verdict = {None: "", True: ", which fits", False: ", which does NOT fit"}[machine["fits"]]
    stdout().print(
        f"Here {free} of main memory are free; on this processor it would be loaded in {machine['type_on_cpu']} and "
        f"take {machine['needed_gb']} GB and activations{verdict}. On a GPU: bfloat16."
    )
