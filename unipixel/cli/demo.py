"""``unipixel demo``: the bundled picture and video, asked about and drawn over."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from unipixel.cli import options
from unipixel.cli.asking import load_engine
from unipixel.cli.output import check_folder, follow, save, show_objects, show_written

EXAMPLES = (
    ("picture.png", "picture.png", "Please segment the dog in this image."),
    ("picture.png", "picture-rocket.png", "Please segment the rocket in this image."),
    ("clip.mp4", "video.mp4", "Please segment the rocket and the butterfly in this video."),
    ("clip.mp4", "video-pizza.mp4", "Please segment the pizza in this video."),
)
"""Bundled file, name of the overlay, question. Both are scenes of stickers with a held-out seed."""


def bundled(name: str) -> AbstractContextManager[Path]:
    """A file that comes with the package, as a path for as long as the context lasts."""
    return as_file(files("unipixel") / "examples" / name)


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for the overlays.")] = Path("demo"),
    model: options.Model = "nano",
    device: options.Device = "auto",
    max_new_tokens: options.MaxTokens = 64,
) -> None:
    """Ask about a bundled picture and a bundled video of several moving objects, and write overlays to look at."""
    check_folder(out, "--out")
    engine = load_engine(model, device)
    for name, result, question in EXAMPLES:
        with bundled(name) as path, engine.open(str(path)) as session:
            typer.echo(f"\n{name}: {question}")
            answer = follow(session, question, max_new_tokens=max_new_tokens)
            show_objects(answer.objects, session.num_frames)
            show_written(save(answer, out / result))
