"""A session's objects as files that other programs read."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from unipixel.engine.answer import Answer
from unipixel.engine.memory import KnownObject
from unipixel.engine.session import Session
from unipixel.serve.errors import ApiError

ExportFormat: TypeAlias = Literal["coco", "davis", "overlay", "yolo"]
MAX_DAVIS_ID = 255


def write_export(session: Session, objects: Sequence[KnownObject], name: str, kind: ExportFormat, folder: Path) -> Path:
    """Write objects into a folder.

    ``coco``: a COCO dataset as JSON. ``davis``: a zip of one palette PNG per frame. ``overlay``: the clip with masks
    drawn over it, MP4, or PNG of a still image. ``yolo``: a zip of one text file of polygons per frame.

    Args:
        objects: as they were when the model last paused.
        name: what the media are called.

    Raises:
        ApiError: an object id does not fit the format.
        OSError: the disk is full.
    """
    clip = replace(session.clip, source=name)
    answer = Answer(text="", raw_text="", objects=tuple(objects), clip=clip)
    if kind == "coco":
        path = folder / "coco.json"
        path.write_text(json.dumps(answer.to_coco()), encoding="utf-8")
        return path
    if kind == "overlay":
        return answer.save(folder / ("overlay.mp4" if session.num_frames > 1 else "overlay.png"))
    if kind == "davis":
        highest = max((one.id for one in objects), default=0)
        if highest > MAX_DAVIS_ID:
            message = f"object id {highest} does not fit a palette PNG, which holds ids up to {MAX_DAVIS_ID}"
            raise ApiError(400, message, code="bad_export", param="format")
        return _write_zip(folder / "davis.zip", ((p.name, p.read_bytes()) for p in answer.to_davis(folder / "masks")))
    return _write_zip(folder / "yolo.zip", build_yolo_files(answer))


def build_yolo_files(answer: Answer) -> Iterator[tuple[str, bytes]]:
    """``data.yaml`` with the classes, and ``labels/FRAME.txt``, of a still ``labels/NAME.txt``.

    Each has a line per object, ``class x1 y1 x2 y2 ...`` in 0..1.

    An object of several parts stays one line: its outlines are joined by cuts of no width.
    """
    labels = list(dict.fromkeys(one.label or "object" for one in answer.objects))
    names = "".join(f"  {number}: {quote_yaml(label)}\n" for number, label in enumerate(labels))
    yield "data.yaml", f"names:\n{names}".encode() if labels else b"names: {}\n"
    height, width = answer.clip.media.size_hw
    for t, index in enumerate(answer.clip.frame_indices):
        lines = []
        for one in answer.objects:
            polygons = one.track.polygons(t) if one.track.rles[t] is not None else []
            if polygons:
                corners = join_polygons(polygons) / (width, height)
                numbers = " ".join(f"{value:.6f}" for value in corners.reshape(-1))
                lines.append(f"{labels.index(one.label or 'object')} {numbers}\n")
        name = f"{index:05d}" if answer.clip.media.is_video else get_still_name(answer.clip.source)
        yield f"labels/{name}.txt", "".join(lines).encode()


def quote_yaml(text: str) -> str:
    """Text in YAML's double quotes: what prints as it is, the rest escaped, and nothing that UTF-8 cannot hold."""
    text = text.encode("utf-8", errors="replace").decode("utf-8")
    quoted = {'"': '\\"', "\\": "\\\\"}
    signs = (quoted.get(c) or (c if c.isprintable() else f"\\U{ord(c):08X}") for c in text)
    return f'"{"".join(signs)}"'


def get_still_name(source: str) -> str:
    """What files about a picture are called: as the picture, without folders and its ending."""
    last = re.split(r"[/\\]", source.split("?", 1)[0])[-1]
    stem = last.rpartition(".")[0] or last
    return "".join(c for c in stem if c.isprintable() and c not in '<>:"|?*').strip(" .") or "picture"


def join_polygons(polygons: Sequence[Sequence[float]]) -> np.ndarray:
    """One outline (P, 2) around several: from the first corner to each further part and back."""
    parts = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in polygons]
    if len(parts) == 1:
        return parts[0]
    home = parts[0][:1]
    pieces = [parts[0], home]
    for part in parts[1:]:
        pieces += [part, part[:1], home]
    return np.concatenate(pieces)


def _write_zip(path: Path, files: Iterator[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return path
