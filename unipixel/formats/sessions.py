"""Our own files: answers as JSON, one or a line for each, and what a saved session knows, read without its model.

A session is a zip of ``session.json``, ``tensors.safetensors`` and, for short clips, the frames as PNG;
`unipixel.engine.storage` writes it and reads the rest.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from unipixel.atomic import write_text
from unipixel.checks import check_integer, check_list, check_mapping, check_number, check_text, parse_json, shorten
from unipixel.errors import DatasetError, MediaError
from unipixel.formats.annotations import Annotations, Losses, compute_scores, count_subsets, read_with
from unipixel.masks import MaskTrack
from unipixel.masks.rle import check_size_hw
from unipixel.media import Media, MediaLike, open_media

FORMAT = 1
RECORD, TENSORS = "session.json", "tensors.safetensors"
MAX_BYTES = 4 << 30
"""Largest file that is read, unpacked."""
SMALL_BYTES, MAX_RATIO = 16 << 20, 32
"""A file unpacks to so many bytes and so many times its own size at most. Larger entries are written as they are, so
that no session that was saved can be refused for being well packed."""
NOT_THERE: Literal["not there"] = "not there"
_FRAME = re.compile(r"frames/\d{6}\.png")


def describe_object(
    object_id: int, label: str, track: MaskTrack, frame_scores: Sequence[float], score: float | Literal["not there"]
) -> dict[str, Any]:
    """An object as plain JSON values; masks are COCO RLE, boxes null where it is not visible."""
    boxes = [None if np.isnan(box[0]) else [float(v) for v in box] for box in track.boxes]
    return {
        "id": object_id,
        "label": label,
        "score": score if isinstance(score, str) else round(score, 6),
        "frame_scores": [round(s, 6) for s in frame_scores],
        "visible": track.visible.tolist(),
        "boxes_xyxy": boxes,
        **track.to_json(),
    }


def describe_media(one: Annotations) -> dict[str, Any]:
    """What an answer's JSON says of the picture or clip that it is about."""
    height, width = one.size_hw
    return {
        "source": one.name,
        "height": height,
        "width": width,
        "fps": one.fps,
        "frame_indices": list(one.frame_indices),
        "is_video": one.is_video,
    }


def write_answer(sets: Sequence[Annotations], path: Path, losses: Losses) -> list[Path]:
    """The JSON that `Answer.to_json` makes, with no words in it; one picture or clip.

    Raises:
        DatasetError: there are several.
    """
    if len(sets) != 1:
        raise DatasetError(f"{path} holds one picture or clip, and there are {len(sets)}; .jsonl holds several")
    count_subsets(sets, losses)
    document = {"question": "", "text": "", "raw_text": "", **_describe(sets[0]), "num_tokens": 0, "timings_s": {}}
    write_text(path, json.dumps(document, indent=1) + "\n", sync=False)
    return [path]


def write_jsonl(sets: Sequence[Annotations], path: Path, losses: Losses) -> list[Path]:
    """One line per picture or clip: ``file_name``, its part of the dataset, ``media`` and ``objects`` as of an answer.

    Beside the pictures and called ``metadata.jsonl``, the `datasets` library reads it as columns.
    """
    lines = [
        {"file_name": one.name, **({"subset": one.subset} if one.subset else {}), **_describe(one)} for one in sets
    ]
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines), sync=False)
    return [path]


def _describe(one: Annotations) -> dict[str, Any]:
    objects = []
    for object_id, track in one.tracks.items():
        scores = one.scores.get(object_id, tuple(map(float, track.visible)))
        mean = compute_scores(one, object_id)
        score = NOT_THERE if not track.visible.any() else 1.0 if mean is None else mean
        objects.append(describe_object(object_id, one.labels[object_id], track, scores, score))
    return {"media": describe_media(one), "objects": objects}


def read_answer(path: Path, losses: Losses) -> list[Annotations]:
    """The objects of an answer's JSON, or of a folder that holds one as ``answer.json``.

    Raises:
        DatasetError: it is damaged, or something else.
    """
    file = path / "answer.json" if path.is_dir() else path
    return read_with(str(file), lambda: [_parse_answer(parse_json(file.read_bytes()))])


def read_jsonl(path: Path, losses: Losses) -> list[Annotations]:
    """The pictures and clips of a file that `write_jsonl` has written.

    Raises:
        DatasetError: a line is damaged, or something else.
    """
    sets = []
    for number, line in enumerate(read_with(str(path), lambda: path.read_text(encoding="utf-8").splitlines()), 1):
        if line.strip():
            sets.append(read_with(f"{path}, line {number}", partial(_parse_line, line)))
    return sets


def _parse_line(line: str) -> Annotations:
    document = parse_json(line)
    one = _parse_answer(document)
    one.subset = check_text(document.get("subset", ""), "subset")
    return one


def _parse_answer(document: Any) -> Annotations:
    record = check_mapping(document, "it", ("media", "objects"))
    media = check_mapping(record["media"], "media", ("source", "height", "width", "frame_indices"))
    size_hw = check_size_hw([media["height"], media["width"]])
    indices = _check_indices(media["frame_indices"])
    fps = media.get("fps")
    source = check_text(media["source"], "media.source")
    tracks, labels, scores = _parse_objects(record["objects"], None)
    pictures: list[Path] | Media | None = None
    found = find_source(source)
    is_video = bool(media.get("is_video", len(indices) > 1))
    if found is not None and not is_video and found.is_file():
        pictures = [found]
    return Annotations(
        source,
        size_hw,
        tracks,
        labels,
        scores,
        frame_indices=indices,
        fps=None if fps is None else check_number(fps, "media.fps", 1e-6, 1e6),
        is_video=is_video,
        pictures=pictures,
    )


def _parse_objects(value: Any, key: str | None) -> tuple[dict[int, MaskTrack], dict[int, str], dict[int, list[float]]]:
    """Masks, labels and scores by id. The track is the object itself, or its field ``key``."""
    tracks: dict[int, MaskTrack] = {}
    labels: dict[int, str] = {}
    scores: dict[int, list[float]] = {}
    for place, one in enumerate(check_list(value, "objects")):
        name = f"objects[{place}]"
        one = check_mapping(one, name, ("id", "label", *([key] if key else [])))
        number = check_integer(one["id"], f"{name}.id", 1)
        if number in tracks:
            raise ValueError(f"two objects have the id {number}")
        tracks[number] = MaskTrack.from_json(one[key] if key else one)
        labels[number] = check_text(one["label"], f"{name}.label")
        some = check_list(one.get("frame_scores", []), f"{name}.frame_scores")
        if some:
            scores[number] = [check_number(score, f"{name}.frame_scores", 0.0, 1.0) for score in some]
    return tracks, labels, scores


def read_session(path: Path, losses: Losses) -> list[Annotations]:
    """The objects of a saved session, and its frames, if they are in the file or where they were.

    Raises:
        DatasetError: it is no session, or it is damaged.
        MediaError: its frames are not those that were saved.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return [_parse_session(file, path)]
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DatasetError(f"{path} is not a session file, or it is damaged ({error})") from error


def _parse_session(file: zipfile.ZipFile, path: Path) -> Annotations:
    def read() -> Annotations:
        names = check_entries(file, path)
        record = check_mapping(parse_json(file.read(RECORD)), "the record", ("format", "clip", "objects"))
        if record["format"] != FORMAT or isinstance(record["format"], bool):
            raise ValueError(f"it has the session format {shorten(record['format'])}; this version reads {FORMAT}")
        clip = check_mapping(record["clip"], "clip", ("size_hw", "path"))
        size_hw = check_size_hw(clip["size_hw"])
        is_gone = clip["path"] is not None and find_source(check_text(clip["path"], "clip.path")) is None
        media, source, indices, fps = read_clip(record["clip"], file, names, None, is_needed=not is_gone)
        tracks, labels, scores = _parse_objects(record["objects"], "track")
        return Annotations(
            source,
            size_hw,
            tracks,
            labels,
            scores,
            frame_indices=indices,
            fps=fps,
            is_video=len(indices) > 1 if media is None else media.is_video,
            pictures=media,
        )

    return read_with(str(path), read)


def check_entries(file: zipfile.ZipFile, path: Path) -> set[str]:
    """Names in the zip, once they and what they unpack to are what a session can have.

    Raises:
        MediaError: it unpacks to too much.
        ValueError: an entry is foreign, missing, there twice or packed in another way.
    """
    entries = [info for info in file.infolist() if info.filename != "frames/"]
    size, allowed = sum(info.file_size for info in entries), SMALL_BYTES + MAX_RATIO * path.stat().st_size
    if size > min(allowed, MAX_BYTES):
        raise MediaError(f"{path} unpacks to {size} bytes, more than the {min(allowed, MAX_BYTES)} allowed for it")
    names = {info.filename for info in entries}
    for info in entries:
        if info.filename not in (RECORD, TENSORS) and not _FRAME.fullmatch(info.filename):
            raise ValueError(f"it has an entry {shorten(info.filename)}, which no session has")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"the entry {info.filename} is not packed by deflate")
    if len(names) < len(entries):
        raise ValueError("it has two entries of one name")
    if lacking := {RECORD, TENSORS} - names:
        raise ValueError(f"it has no {min(lacking)}")
    return names


def find_source(source: str) -> Path | None:
    """The file or folder that a source names, if it is there."""
    try:
        path = Path(source)
        return path.resolve() if path.exists() else None
    except (OSError, ValueError):
        return None


def name_frame(t: int) -> str:
    """What frame ``t`` is called in the zip."""
    return f"frames/{t:06d}.png"


def compute_checksum(media: Media) -> int:
    """Of the first and the last frame: enough to notice that a file was replaced."""
    return zlib.crc32(media.frames([0, media.num_frames - 1]).tobytes())


def _check_indices(value: Any) -> tuple[int, ...]:
    indices = tuple(check_integer(i, "a frame index") for i in check_list(value, "frame_indices"))
    if not indices or any(b <= a for a, b in pairwise(indices)):
        raise ValueError("frame_indices must be ascending, with at least one")
    return indices


def read_clip(
    value: Any, file: zipfile.ZipFile, names: set[str], media: MediaLike | None, *, is_needed: bool = True
) -> tuple[Media | None, str, tuple[int, ...], float | None]:
    """A session's frames, what their source is called, their numbers in it and its frames per second.

    Args:
        value: the record's field ``clip``.
        names: of the entries of the zip.
        media: where the source is now.
        is_needed: whether there is no use without the frames; else they may be None.

    Raises:
        MediaError: they are gone or changed.
        ValueError: a field is malformed.
    """
    record = check_mapping(value, "clip", ("source", "path", "size_hw", "fps", "frame_indices", "checksum"))
    source, size_hw = check_text(record["source"], "clip.source"), list(check_size_hw(record["size_hw"]))
    fps = record["fps"]
    if fps is not None and check_number(fps, "clip.fps", 0.0) == 0:
        raise ValueError("clip.fps is 0; it must be more")
    indices = _check_indices(record["frame_indices"])
    if not is_needed:
        return None, source, indices, None if fps is None else float(fps)
    if media is None and record["path"] is None:
        wanted = [name_frame(t) for t in range(len(indices))]
        if names - {RECORD, TENSORS} != set(wanted):
            raise ValueError(f"its frames are not those of its {len(indices)} frame_indices")
        packed = [file.read(name) for name in wanted]
        for _ in _open_frames(packed, size_hw):
            pass  # a damaged frame is refused now, not when a question needs it
        opened = _open_frames(packed, size_hw)
    else:
        if media is None:
            media = check_text(record["path"], "clip.path")
            if find_source(media) is None:  # an address in a file from elsewhere is not followed
                raise MediaError(f"{media} does not exist; pass media= with where the source of the session is now")
        whole = open_media(media)
        if max(indices) >= whole.num_frames:
            raise MediaError(f"{whole.source} has {whole.num_frames} frames, but the session uses frame {max(indices)}")
        opened = whole.select(indices)
    if list(opened.size_hw) != size_hw or compute_checksum(opened) != record["checksum"]:
        raise MediaError(f"{opened.source} is not what the session was about: its frames have changed")
    return opened, source, indices, None if fps is None else float(fps)


def _open_frames(packed: Sequence[bytes], size_hw: list[int]) -> Media:
    """Frames that lie in the file, each of the size that was said: a few bytes can claim any."""
    pictures = [Image.open(io.BytesIO(data), formats=["PNG"]) for data in packed]
    if any([picture.height, picture.width] != size_hw for picture in pictures):
        raise ValueError(f"a frame is not {size_hw[1]} x {size_hw[0]} pixels")
    return open_media(pictures)
