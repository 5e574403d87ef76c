"""``unipixel info``: what a picture, a clip or a saved session is, without a model."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from unipixel.cli import options
from unipixel.cli.options import open_source
from unipixel.cli.output import print_json, stderr, stdout


def info(
    source: Annotated[
        str,
        typer.Argument(metavar="MEDIA|SESSION", help="Image, video, folder of frames, URL, '-', or a saved session."),
    ],
    no_limits: options.NoLimits = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON and nothing else.")] = False,
) -> None:
    """Say what a picture, a video, a folder of frames or a saved session holds; no model is loaded."""
    is_session = source != "-" and zipfile.is_zipfile(source)
    facts = describe_session(Path(source)) if is_session else describe_source(source, no_limits)
    if as_json:
        print_json(facts)
        return
    table = Table("", "", title=str(facts["source"]), box=None, show_header=False)
    for name, value in facts.items():
        if name not in ("source", "objects") and value is not None:
            table.add_row(name.replace("_", " "), _write_value(name, value))
    stdout().print(table)
    if facts.get("objects"):
        show_known(facts["objects"], facts["frames"])


def describe_source(source: str, no_limits: bool) -> dict[str, Any]:
    """Kind, size in pixels, number of frames, and what the source says of its time.

    Raises:
        MediaError: it cannot be read, or its first or last frame cannot.
    """
    media = open_source(source, no_limits)
    height, width = media.size_hw
    count, fps = media.num_frames, media.fps
    path = Path(source)
    is_folder = source != "-" and "://" not in source and not source.startswith("data:") and path.is_dir()
    with stderr().status("reading the first and the last frame"):
        media.frames([0, count - 1])  # a header tells nothing of a file that is cut off
    size = None if is_folder or source == "-" or "://" in source else _measure(path)
    return {
        "source": media.source if source != "-" else "standard input",
        "kind": "folder of frames" if is_folder else "video" if media.is_video else "image",
        "width": width,
        "height": height,
        "frames": count,
        "fps": None if fps is None else round(fps, 3),
        "seconds": None if fps is None or count == 1 else round(count / fps, 3),
        "bytes": size,
    }


def describe_session(path: Path) -> dict[str, Any]:
    """What a session is about and the objects that it knows, by what the file says.

    Raises:
        DatasetError: it is no session, or it is damaged.
        MediaError: its frames are not those that were saved.
    """
    from unipixel.formats import read_annotations
    from unipixel.formats.annotations import compute_scores
    from unipixel.formats.sessions import RECORD

    (one,) = read_annotations(path, "session")
    with zipfile.ZipFile(path) as file:  # which has just been read whole, and found to be one
        record = json.loads(file.read(RECORD))
    height, width = one.size_hw
    objects = [
        {
            "id": number,
            "label": one.labels[number],
            "score": compute_scores(one, number),
            "frames_visible": int(track.visible.sum()),
            "first_frame": next((t for t, seen in enumerate(track.visible) if seen), None),
        }
        for number, track in one.tracks.items()
    ]
    return {
        "source": str(path),
        "kind": "saved session",
        "about": one.name,
        "frames_in_the_file": record["clip"]["path"] is None,
        "width": width,
        "height": height,
        "frames": one.num_frames,
        "fps": one.fps,
        "written_by": f"unipixel {record.get('version', '')}".strip(),
        "model": str(record.get("model", ""))[:16],
        "bytes": path.stat().st_size,
        "objects": objects,
    }


def show_known(objects: list[dict[str, Any]], frames: int) -> None:
    """The objects of a session as a table."""
    table = Table("id", "object", "score", "frames", "first", box=None)
    for one in objects:
        score = "" if one["score"] is None else f"{one['score']:.2f}"
        first = "" if one["first_frame"] is None else str(one["first_frame"])
        table.add_row(f"[{one['id']}]", one["label"], score, f"{one['frames_visible']} of {frames}", first)
    stdout().print(table)


def _write_value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if name == "bytes" else f"{value:g}" if isinstance(value, float) else str(value)


def _measure(path: Path) -> int | None:
    try:
        return path.expanduser().stat().st_size
    except (OSError, RuntimeError, ValueError):
        return None
