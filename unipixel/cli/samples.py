"""``unipixel stickers``: samples of the built-in world to look at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from unipixel.cli.output import check_folder, stderr


def stickers(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder to write to.")],
    count: Annotated[int, typer.Option("-n", "--count", metavar="N", help="How many samples.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, other samples.")] = 0,
    video: Annotated[bool, typer.Option("--video", help="Clips instead of pictures.")] = False,
    sprites: Annotated[
        Path | None,
        typer.Option("--sprites", metavar="DIR", help="Draw with the PNGs and labels.json of this folder instead."),
    ] = None,
    world: Annotated[
        str, typer.Option("--world", help="'default', or 'hard' for small and crowded pictures of all things.")
    ] = "default",
    photos: Annotated[
        Path | None, typer.Option("--photos", metavar="DIR", help="Photos whose crops serve as backgrounds.")
    ] = None,
) -> None:
    """Write samples of the built-in world: pictures or clips, exact masks, questions and answers, a contact sheet."""
    from unipixel.cli.sticker_evaluation import get_world_settings
    from unipixel.stickers import write_samples

    if seed < 0:
        raise ValueError(f"--seed is {seed}; it must be 0 or more")
    for name, folder in (("--sprites", sprites), ("--photos", photos)):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{name} is {folder}, which is not a folder")
    check_folder(out, "--out")
    settings = replace(get_world_settings(world, sprites), photos=photos)
    with stderr().status(f"drawing {count} samples"):
        files = write_samples(count, out, seed, video=video, settings=settings)
    typer.echo(f"wrote {len(files)} files to {out}; start with {files[-1]}")
