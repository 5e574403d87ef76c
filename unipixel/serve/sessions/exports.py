"""Exports: the objects of one session, or of a whole set of pictures, as the files of a tool."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Depends, Query, Response
from starlette.responses import StreamingResponse

from unipixel.engine.answer import Answer
from unipixel.engine.memory import KnownObject
from unipixel.engine.session import Session
from unipixel.errors import DatasetError, PromptError
from unipixel.formats import Annotations, Losses, assign_subsets, describe_losses, write_sets
from unipixel.formats.rasters import write_davis_frames
from unipixel.serve.errors import ApiError
from unipixel.serve.runtime import OwnerDep, RuntimeDep, forbid_caching
from unipixel.serve.sessions.routes import SESSION_PATH, EntryDep, StoreDep, run_in_thread
from unipixel.serve.sessions.store import MEDIA_FILE, SessionEntry

ExportFormat: TypeAlias = Literal[
    "coco", "cvat", "datumaro", "davis", "jsonl", "label-studio", "labelme", "numpy", "overlay", "yolo", "youtube-vis"
]
SetFormat: TypeAlias = Literal["coco", "cvat", "davis", "datumaro", "jsonl", "label-studio", "labelme", "yolo"]
Share: TypeAlias = Annotated[int, Query(ge=0, le=100, description="Its share, in hundredths; all three make 100.")]
EXPORT_FILES: dict[str, str] = {
    "coco": "coco.json",
    "cvat": "cvat.xml",
    "jsonl": "objects.jsonl",
    "label-studio": "label-studio.json",
    "numpy": "masks.npz",
    "youtube-vis": "youtube-vis.json",
}
"""Exports that are one file, under any system's name; the others are folders, sent as a zip, and the overlay."""
MAX_EXPORTED = 1000
"""Sessions of one export: their ids are in its address, of which servers read 64 kB."""
EXPORTED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": {
            **{kind: {} for kind in ("application/json", "application/xml", "application/zip")},
            **{kind: {} for kind in ("application/jsonl", "video/mp4", "image/png")},
        },
    }
}

export_router = APIRouter(tags=["sessions"], dependencies=[Depends(forbid_caching)])


@export_router.get(
    SESSION_PATH + "/export",
    summary="Export objects",
    response_class=Response,
    responses=EXPORTED,
)
async def export_objects(
    runtime: RuntimeDep,
    entry: EntryDep,
    kind: Annotated[ExportFormat, Query(alias="format", description="`overlay` is MP4, or PNG of a still image.")],
    objects: Annotated[list[int] | None, Query(description="Ids; by default all.")] = None,
) -> Response:
    """As the files of a tool, a zip where they are several, or the clip with masks drawn over it.

    What the format has no place for is counted in the header `X-Left-Out`.
    """
    known = dict(entry.objects)
    missing = [i for i in objects or () if i not in known]
    if missing:
        raise PromptError(f"object {missing[0]} is not known in this session; known are {sorted(known) or 'none'}")
    chosen = [known[i] for i in dict.fromkeys(objects)] if objects is not None else list(known.values())

    def write() -> tuple[str, list[str], IO[bytes]]:
        folder = Path(tempfile.mkdtemp(prefix="export-", dir=entry.folder))
        try:
            path, left_out = write_export(entry.session, chosen, entry.name, kind, folder)
            return path.name, left_out, open(path, "rb")
        finally:  # an open file is read to its end, whatever becomes of its name and of the session
            shutil.rmtree(folder, ignore_errors=True)
            if entry.is_closed:  # whoever closed it could not remove its folder while ours was in it
                with suppress(OSError):
                    entry.folder.rmdir()  # only if nothing is left in it

    name, left_out, file = await run_in_thread(runtime, entry, write)
    return _send_file(name, left_out, file)


def _send_file(name: str, left_out: Sequence[str], file: IO[bytes]) -> Response:
    types = {"json": "application/json", "xml": "application/xml", "mp4": "video/mp4", "png": "image/png"}
    types |= {"jsonl": "application/jsonl"}
    headers = {"X-Left-Out": "; ".join(left_out).encode("ascii", "replace").decode()} if left_out else {}
    headers |= {
        "Content-Length": str(os.fstat(file.fileno()).st_size),
        "Content-Disposition": f'attachment; filename="{name}"',
    }
    return StreamingResponse(
        _read_chunks(file), media_type=types.get(name.rpartition(".")[2], "application/zip"), headers=headers
    )


def write_export(
    session: Session, objects: Sequence[KnownObject], name: str, kind: ExportFormat, folder: Path
) -> tuple[Path, list[str]]:
    """Write objects into a folder, as one file.

    ``davis`` is a zip of palette PNGs without folders. Pictures go into a zip if they are stills; all frames of a clip
    would be larger than the clip.

    Args:
        objects: as they were when the model last paused.
        name: what the media are called.

    Returns:
        The file, and what the format has no place for.

    Raises:
        ApiError: an object id does not fit the format.
        OSError: the disk is full.
    """
    answer = Answer(text="", raw_text="", objects=tuple(objects), clip=replace(session.clip, source=name))
    annotations, losses, inner = answer.to_annotations(), Losses(), folder / "files"
    try:
        if kind == "overlay":
            return answer.save(folder / ("overlay.mp4" if session.num_frames > 1 else "overlay.png")), []
        if kind == "davis":
            write_davis_frames(annotations, inner, losses)
        else:
            annotations = annotations.drop_pictures() if annotations.is_video else annotations
            write_sets([annotations], folder / EXPORT_FILES[kind] if kind in EXPORT_FILES else inner, kind, losses)
    except (ValueError, DatasetError) as error:
        raise ApiError(400, str(error), code="bad_export", param="format") from error
    if kind in EXPORT_FILES:
        return folder / EXPORT_FILES[kind], describe_losses(losses)
    return pack_folder(inner, folder / f"{kind}.zip"), describe_losses(losses)


def pack_folder(folder: Path, path: Path) -> Path:
    """Put the files of a folder into a zip, without their times."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            archive.writestr(
                zipfile.ZipInfo(file.relative_to(folder).as_posix()), file.read_bytes(), zipfile.ZIP_DEFLATED
            )
    return path


def _read_chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(1 << 18):
            yield chunk


@export_router.get("/v1/export", summary="Export a set of sessions", response_class=Response, responses=EXPORTED)
async def export_set(
    runtime: RuntimeDep,
    store: StoreDep,
    owner: OwnerDep,
    session: Annotated[list[str], Query(min_length=1, max_length=MAX_EXPORTED, description="Ids, in their order.")],
    kind: Annotated[SetFormat, Query(alias="format")],
    classes: Annotated[list[str] | None, Query(alias="class", description="Those that come first, in order.")] = None,
    train: Share = 0,
    val: Share = 0,
    test: Share = 0,
) -> Response:
    """One file, or one zip, of many pictures and clips; pictures are called as their files, and lie in a zip of YOLO's.

    Labels are the classes. A picture without objects is in it, too. Of several with one name the later are numbered.
    With shares, each picture and clip goes to one of the parts, always to the same; COCO is then a file for each part.
    """
    shares = {"train": train, "val": val, "test": test}
    if sum(shares.values()) not in (0, 100):
        raise PromptError(f"the shares of train, val and test are {train}, {val} and {test}; they must make 100, or 0")
    folder = Path(tempfile.mkdtemp(prefix="unipixel-export-"))
    try:
        sets, names = list[Annotations](), set[str]()
        for number, session_id in enumerate(dict.fromkeys(session)):
            entry = await store.get(session_id, owner)
            place, name = folder / "media" / str(number), _choose_name(entry.name, names)
            sets.append(await run_in_thread(runtime, entry, partial(_collect, entry, name, place)))

        def write() -> tuple[str, list[str], IO[bytes]]:
            losses, inner = Losses(), folder / "files"
            inner.mkdir()
            path = inner / EXPORT_FILES[kind] if kind in EXPORT_FILES else inner
            if any(shares.values()):
                assign_subsets(sets, shares)
                path = inner / "instances.json" if kind == "coco" else path
            try:
                written = write_sets(sets, path, kind, losses, classes=classes or ())
            except (ValueError, DatasetError) as error:
                raise ApiError(400, str(error), code="bad_export", param="format") from error
            single = written == [path]
            path = path if single else pack_folder(inner, folder / f"{kind}.zip")
            return path.name, describe_losses(losses), open(path, "rb")

        name, left_out, file = await runtime.run_in_thread(write)
    finally:  # an open file is read to its end
        shutil.rmtree(folder, ignore_errors=True)
    return _send_file(name, left_out, file)


def _choose_name(name: str, taken: set[str]) -> str:
    """A file name whose stem no other has, whatever the case; added to those that are taken."""
    path, stem, number = Path(name), Path(name).stem, 1
    while stem.lower() in taken:
        number += 1
        stem = f"{path.stem}-{number}"
    taken.add(stem.lower())
    return stem + path.suffix


def _collect(entry: SessionEntry, name: str, place: Path) -> Annotations:
    """What a session knows, with a picture's file under its name: the session may be closed before it is read."""
    clip = replace(entry.session.clip, source=name)
    answer = Answer(text="", raw_text="", objects=tuple(entry.objects.values()), clip=clip)
    found = answer.to_annotations()
    media = entry.folder / MEDIA_FILE
    if found.is_video or not media.is_file():
        return found.drop_pictures()
    place.mkdir(parents=True)
    file = place / name
    try:
        os.link(media, file)
    except OSError:  # another disk
        shutil.copyfile(media, file)
    return Annotations(
        found.name, found.size_hw, found.tracks, found.labels, found.scores, fps=found.fps, pictures=[file]
    )
