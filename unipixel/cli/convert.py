"""``unipixel convert``: objects from the files of one tool into those of another."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unipixel.cli import options
from unipixel.cli.output import check_folder, print_error, show_written
from unipixel.errors import DatasetError

if TYPE_CHECKING:
    from unipixel.engine.engine import Engine
    from unipixel.formats import Annotations

MAX_SHOWN = 5
"""Files that are named one by one."""


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A file or folder with masks.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write, or a new folder.")],
    source_format: Annotated[
        str | None, typer.Option("--from", metavar="FORMAT", help="The format of IN; by default what is found in it.")
    ] = None,
    target_format: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="The format of OUT: coco, youtube-vis, davis, yolo, labelme, cvat, label-studio, datumaro, numpy, "
            "answer, overlay, session; by default what its name says.",
        ),
    ] = None,
    media: Annotated[
        str | None,
        typer.Option(
            "--media",
            metavar="PATH",
            help="The picture or video that the masks are about, or the folder of pictures, where IN does not lead "
            "there.",
        ),
    ] = None,
    polygons: Annotated[
        bool, typer.Option("--polygons", help="Write outlines where the format knows masks as well.")
    ] = False,
    divide: Annotated[
        str | None,
        typer.Option(
            "--divide",
            metavar="A,B,C",
            help="Make parts for training, validation and tests, of so many hundredths each, such as 80,10,10; which "
            "part a picture goes to depends on the names alone.",
        ),
    ] = None,
    model: options.Model = "nano",
    base: options.Base = None,
    device: options.Device = "auto",
    dtype: options.DType = None,
) -> None:
    """Convert masks between the formats of annotation tools, datasets, answers and saved sessions.

    What OUT has no place for is said, with its number, and boxes without a mask are not guessed at. A session is
    written with --model, which asks on in it, and needs the pictures, as drawings do.
    """
    from unipixel.formats import assign_subsets, guess_format, read_annotations, write_annotations

    shares = None if divide is None else _parse_shares(divide)
    kind = target_format or guess_format(target)
    if target.exists() and source.resolve() == target.resolve():
        raise ValueError(f"OUT is IN, {source}; name another file")
    check_folder(target.parent, "OUT")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        sets = read_annotations(source, source_format, media=media)
        if shares is not None:
            assign_subsets(sets, shares)
        if kind == "session":
            engine = options.load_engine(model, device, dtype, base)
            written = [_write_session(sets, target, engine)]
        else:
            written = write_annotations(sets, target, kind, polygons=polygons)
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            print_error(str(warning.message))
    # counted over everything, since a dataset has more pictures than anybody reads names of
    objects, frames = sum(len(one.tracks) for one in sets), sum(one.num_frames for one in sets)
    typer.echo(f"{len(sets)} pictures and clips, {frames} frames, {objects} objects")
    show_written(written if len(written) <= MAX_SHOWN else [target])


def _parse_shares(text: str) -> dict[str, int]:
    """The shares of training, validation and test.

    Raises:
        ValueError: they are not three whole numbers that make 100.
    """
    words = [word.strip() for word in text.split(",")]
    if len(words) == 3 and all(word.isascii() and word.isdigit() for word in words):
        numbers = [int(word[:4]) for word in words]
        if sum(numbers) == 100:
            return dict(zip(("train", "val", "test"), numbers, strict=True))
    raise ValueError(f"--divide is {text[:40]!r}; give three whole numbers that make 100, such as 80,10,10")


def _write_session(sets: Sequence[Annotations], target: Path, engine: Engine) -> Path:
    """A session about one picture or clip that knows the objects.

    Raises:
        DatasetError: there are several.
        MediaError: the pictures are not known.
    """
    if len(sets) != 1:
        raise DatasetError(f"a session is about one picture or clip, and there are {len(sets)}")
    (one,) = sets
    if one.subset:
        warnings.warn(f"{target} has no place for the part of the dataset, {one.subset}", stacklevel=2)
    with engine.open(one.media, track="all") as session:
        for object_id, track in one.tracks.items():
            session.add_object(object_id, track, one.labels[object_id], one.scores.get(object_id))
        session.save(target)
    return target
