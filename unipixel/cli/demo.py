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
    ("picture.png", "picture", ("Please segment the dog.",)),
    ("clip.mp4", "video", ("Please segment every moving object.",)),
)
"""File, name of the result, questions."""


def bundled(name: str) -> AbstractContextManager[Path]:
    """A file that comes with the package, as a path for as long as the context lasts."""
    return as_file(files("unipixel") / "examples" / name)


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for the overlays.")] = Path("demo"),
    model: options.Model = "nano",
    device: options.Device = "auto",
) -> None:
    """Ask about a bundled picture and a bundled video, and write overlays to look at."""
    check_folder(out, "--out")
    engine = load_engine(model, device)
    for name, result, questions in EXAMPLES:
        with bundled(name) as path, engine.open(str(path)) as session:
            for number, question in enumerate(questions, start=1):
                typer.echo(f"\n{name}: {question}")
                answer = follow(session, question)
                show_objects(answer.objects, session.num_frames)
                suffix = ".mp4" if session.num_frames > 1 else ".png"
                place = out / (f"{result}-{number}{suffix}" if len(questions) > 1 else f"{result}{suffix}")
                show_written(save(answer, place))
