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
    model: options.Model = "nano",
    base: options.Base = None,
    device: options.Device = "auto",
    dtype: options.DType = None,
) -> None:
    """Convert masks between the formats of annotation tools, datasets, answers and saved sessions.

    What OUT has no place for is said, with its number, and boxes without a mask are not guessed at. A session is
    written with --model, which asks on in it, and needs the pictures, as drawings do.
    """
    from unipixel.formats import guess_format, read_annotations, write_annotations

    kind = target_format or guess_format(target)
    if target.exists() and source.resolve() == target.resolve():
        raise ValueError(f"OUT is IN, {source}; name another file")
    check_folder(target.parent, "OUT")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        sets = read_annotations(source, source_format, media=media)
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


def _write_session(sets: Sequence[Annotations], target: Path, engine: Engine) -> Path:
    """A session about one picture or clip that knows the objects.

    Raises:
        DatasetError: there are several.
        MediaError: the pictures are not known.
    """
    if len(sets) != 1:
        raise DatasetError(f"a session is about one picture or clip, and there are {len(sets)}")
    (one,) = sets
    with engine.open(one.media, track="all") as session:
        for object_id, track in one.tracks.items():
            session.add_object(object_id, track, one.labels[object_id], one.scores.get(object_id))
        session.save(target)
    return target
