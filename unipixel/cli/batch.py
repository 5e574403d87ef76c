"""``unipixel batch``: one question, or many, about a folder, a list or a table of media."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from unipixel.cli import options
from unipixel.cli.options import parse_track
from unipixel.cli.output import build_progress, check_folder, print_error, print_json

Actors = Annotated[
    int,
    typer.Option(
        "--actors",
        metavar="N",
        help="Models that answer at the same time on Ray, one for each device; 0: in this process, without Ray.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="HOST:PORT", help="A Ray cluster that is running ('auto': the one of this machine)."
    ),
]


def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder, pattern in quotes ('clips/*.mp4'), list (.txt), table (.jsonl, .parquet) or file; on a disk "
            "or behind s3://, gs://, http(s)://.",
        ),
    ],
    question: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="The question, where an item has none of its own.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="OUT", help="Folder or address for the answers; taken up if it has some."),
    ] = None,
    actors: Actors = 0,
    address: Address = None,
    model: options.Model = "nano",
    base: options.Base = None,
    device: options.Device = "auto",
    dtype: options.DType = None,
    threads: Annotated[int, typer.Option("--threads", metavar="N", help="CPU threads of each actor; 0: default.")] = 0,
    num_frames: options.NumFrames = None,
    track: options.Track = "sampled",
    pool_memories: options.PoolMemories = False,
    each: options.Each = None,
    max_new_tokens: options.MaxTokens = 256,
    shard_size: Annotated[
        int, typer.Option("--shard-size", metavar="N", help="Items in one file of answers, and lost by a kill at most.")
    ] = 32,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", help="Pictures that the model reads together.")
    ] = 8,
    retries: Annotated[
        int, typer.Option("--retries", metavar="N", help="Further tries of an item that fails or ends its process.")
    ] = 3,
    overlays: Annotated[bool, typer.Option("--overlays", help="Also draw the answers.")] = False,
    masks: Annotated[bool, typer.Option("--masks", help="Also write a PNG of object ids for each frame.")] = False,
    coco: Annotated[bool, typer.Option("--coco", help="Also write each shard as COCO JSON.")] = False,
    max_bad: Annotated[
        float, typer.Option("--max-bad", metavar="SHARE", help="Share of failed items above which the exit code is 1.")
    ] = 0.1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON and nothing else.")] = False,
) -> None:
    """Ask about everything in SOURCE; what fails is a row with an error. The same command takes up a stopped run."""
    from unipixel.batch import run_batch

    if out is None:
        raise ValueError("there is no -o; name a folder or an address, in which a stopped run is taken up again")
    if actors < 0:
        raise ValueError(f"--actors is {actors}; it must be at least 0")
    if address is not None and not actors:
        raise ValueError("--address is given, but --actors is 0, which answers in this process; say how many")
    if not 0 <= max_bad <= 1:
        raise ValueError(f"--max-bad is {max_bad}; it must be from 0 to 1")
    parse_track(track)
    if "://" not in out:
        check_folder(Path(out), "--out")
    begin = time.monotonic()
    with build_progress(remaining=True) as bar:
        task = bar.add_task("items", total=None)

        def update(done: int, total: int, failed: int) -> None:
            rate = done / max(time.monotonic() - begin, 1e-3)
            words = f"items, {rate:.1f}/s" + (f", {failed} failed" if failed else "")
            bar.update(task, completed=done, total=total, description=words)

        totals = run_batch(
            source,
            out,
            question,
            actors=actors,
            address=address,
            progress=update,
            model=model,
            base=base,
            device=device,
            dtype=dtype,
            threads=threads,
            num_frames=num_frames,
            track=track,
            pool_memories=pool_memories,
            each=each,
            max_new_tokens=max_new_tokens,
            shard_size=shard_size,
            batch_size=batch_size,
            retries=retries,
            overlays=overlays,
            masks=masks,
            coco=coco,
        )
    seconds = time.monotonic() - begin
    if as_json:
        print_json({**totals, "seconds": round(seconds, 3)})
    else:
        typer.echo(f"{totals['items']} items, {totals['failed']} failed, {seconds:.1f} s: {out}/answers")
    if not as_json:
        for sentence in totals["failures"]:
            print_error(sentence)
    if totals["failed"] > max_bad * totals["items"]:
        print_error(
            f"{totals['failed']} of {totals['items']} items failed, more than the share of {max_bad:g} of --max-bad; "
            "the column 'error' of the answers says why"
        )
        raise typer.Exit(1)
