"""Predictions on disk: one JSON line per unit, written so that a killed run loses at most the line it was writing.

And as the servers of MeViS and Ref-YouTube-VOS want them, one PNG per frame and expression in a zip:

MeViS:            ``<video>/<expression>/<frame>.png`` at the root of the zip
Ref-YouTube-VOS:  ``Annotations/<video>/<expression>/<frame>.png``

PNGs have one channel, 255 on the object and 0 elsewhere, at the size of the frames.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from unipixel.atomic import LineWriter, replace_file
from unipixel.checks import (
    check_integer,
    check_list,
    check_mapping,
    check_number,
    check_text,
    join_lines,
    parse_json,
)
from unipixel.errors import DatasetError
from unipixel.eval.protocols import Measures, Prediction
from unipixel.masks import MaskTrack
from unipixel.masks.rle import check_size_hw

ROOTS = {"mevis": "", "ref_youtube_vos": "Annotations/"}
"""Layout of an upload -> what stands in front of every name."""
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)
"""The same bytes for the same masks, whenever they are written."""


@dataclass(frozen=True, kw_only=True)
class RunHeader:
    """What a file of predictions is about; its first line."""

    benchmark: str
    split: str
    model: str
    protocol: str
    limit: int | None
    shard: int
    shards: int
    units: int
    """Units of the whole run, over all shards."""
    num_frames: int
    """Frames that the model sees at most."""

    @classmethod
    def from_json(cls, value: Any) -> RunHeader:
        """The first line of a file; ValueError says what is wrong with it."""
        record = check_mapping(value, "it", (one.name for one in fields(cls)))
        for name in ("benchmark", "split", "model", "protocol"):
            check_text(record[name], name)
        if record["limit"] is not None:
            check_integer(record["limit"], "limit", 1)
        check_integer(record["shard"], "shard", 0, check_integer(record["shards"], "shards", 1) - 1)
        check_integer(record["units"], "units")
        check_integer(record["num_frames"], "num_frames", 1)
        return cls(**record)

    @property
    def run_key(self) -> tuple[Any, ...]:
        """Equal for the shards of one run."""
        return self.benchmark, self.split, self.model, self.protocol, self.limit, self.units, self.num_frames


@dataclass(frozen=True, kw_only=True)
class PredictionLine:
    """One unit: what was predicted and what that is worth, or why there is nothing."""

    id: str
    place: int
    """Among all units of the run."""
    predictions: tuple[Prediction, ...] | None = None
    """None: the unit failed or was left out."""
    error: str = ""
    """Why the unit failed; empty: it did not."""
    left_out: str = ""
    """Why its data cannot be read; empty: they can."""
    measures: Sequence[Measures] = ()
    """One per question, or as the protocol divides the unit."""
    seconds: float = 0.0

    @property
    def is_answered(self) -> bool:
        return not self.error and not self.left_out

    def to_json(self) -> dict[str, Any]:
        """The line of the file; what is empty is left out."""
        replies = None if self.predictions is None else [one.to_json() for one in self.predictions]
        outcome = {"replies": replies, "error": self.error or None, "left_out": self.left_out or None}
        outcome = {name: value for name, value in outcome.items() if value is not None}
        return {"id": self.id, "place": self.place, **outcome, "measures": self.measures, "seconds": self.seconds}

    @classmethod
    def from_json(cls, value: Any) -> PredictionLine:
        """What `to_json` wrote; wrong fields raise TypeError, ValueError or LookupError."""
        values = dict(check_mapping(value, "it", ("id", "place")))
        replies = values.pop("replies", None)
        if replies is not None:
            replies = tuple(Prediction.from_json(one) for one in check_list(replies, "replies"))
        for name in ("id", "error", "left_out"):
            check_text(values.get(name, ""), name)
        check_integer(values["place"], "place")
        check_number(values.get("seconds", 0.0), "seconds", 0.0)
        for one in check_list(values.get("measures", []), "measures"):
            _check_finite(check_mapping(one, "a measure"), "a measure")
        return cls(predictions=replies, **values)


def _check_finite(value: Any, name: str) -> None:
    """Refuse numbers of a measure that are not finite, or larger than anything can be."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            _check_finite(one, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        check_number(value, name)


@dataclass(frozen=True, kw_only=True)
class GradeLine:
    """What a judge said of one unit's description."""

    id: str
    judge: str
    grades: Mapping[str, float] | None = None
    """By the short names of `captions.DIMENSIONS`; None: the judge gave none."""
    error: str = ""
    """Why it gave none."""

    @property
    def is_answered(self) -> bool:
        return not self.error

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value not in (None, "")}

    @classmethod
    def from_json(cls, value: Any) -> GradeLine:
        """What `to_json` wrote; wrong fields raise TypeError, ValueError or LookupError."""
        values = check_mapping(value, "it", ("id", "judge"))
        for name in ("id", "judge", "error"):
            check_text(values.get(name, ""), name)
        for grade in check_mapping(values.get("grades") or {}, "grades").values():
            check_number(grade, "a grade", 0.0)
        return cls(**values)


L = TypeVar("L", PredictionLine, GradeLine)


def read_lines(path: Path, kind: type[L]) -> tuple[RunHeader | None, list[L], int]:
    """What a file holds: its header (None if not even that is complete), its lines, and the bytes of both.

    A last line without its line break was cut off by a kill and does not count.

    Raises:
        DatasetError: a complete line is none of this kind, or the header another one.
    """
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror})") from error
    complete = data.rfind(b"\n") + 1
    header, lines = None, []
    for number, text in enumerate(data[:complete].splitlines(), start=1):
        try:
            value = parse_json(text)
        except ValueError as error:
            raise DatasetError(
                f"{path}, line {number} is no JSON ({join_lines(error)}); delete the file and run again"
            ) from error
        try:
            if header is None:
                header = RunHeader.from_json(value)
            else:
                lines.append(kind.from_json(value))
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            wrong = "does not begin with the header" if header is None else f"holds in line {number} no line"
            raise DatasetError(
                f"{path} {wrong} of an evaluation ({join_lines(error)}); delete the file and run again"
            ) from error
    return header, lines, complete


class LineFile(Generic[L]):
    """A file of lines, open for writing.

    Args:
        path: created where it does not exist, else continued; None keeps the lines in memory only.
        header: what the run is about.
        kind: of the lines.
        retry: drop the lines of units that failed or were left out, so that they are run again.

    Raises:
        ValueError: the file belongs to another run.
        DatasetError: it is damaged.
    """

    def __init__(self, path: Path | None, header: RunHeader, kind: type[L], *, retry: bool = False) -> None:
        self.lines: dict[str, L] = {}
        """By unit id."""
        self._file: LineWriter | None = None
        if path is None:
            return
        found, lines, _ = read_lines(path, kind)
        if found is not None and found != header:
            old, new = asdict(found), asdict(header)
            key = next(key for key in new if old[key] != new[key])
            raise ValueError(
                f"{path} holds a run with {key} {old[key]!r}, this one has {new[key]!r}; choose another -o, "
                "or delete that file"
            )
        kept: list[L] = [line for line in lines if line.is_answered or not retry]
        path.parent.mkdir(parents=True, exist_ok=True)
        if found is None or len(kept) < len(lines):
            with replace_file(path) as draft:
                draft.write_bytes(b"".join(map(_encode, [asdict(header), *(line.to_json() for line in kept)])))
        self.lines = {line.id: line for line in kept}
        self._file = LineWriter(path)

    def append(self, line: L) -> None:
        """Write a line, and do not return before it is on disk."""
        if self._file is not None:
            self._file.append(_encode(line.to_json()))
        self.lines[line.id] = line

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def write_zip(lines: Iterable[PredictionLine], layout: str, path: Path, *, original: bool = False) -> int:
    """Write the upload.

    Args:
        lines: of one run, complete; failed units have no masks to give.
        layout: a key of `ROOTS`.
        original: as the original writes them: the first object of a reply alone, and nothing for failed units.

    Returns:
        The number of PNGs.

    Raises:
        ValueError: an unknown layout.
        DatasetError: a unit failed, or its masks are not those of its frames.
    """
    if layout not in ROOTS:
        raise ValueError(f"the layout is {layout!r}; it must be one of {', '.join(ROOTS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    # PNGs are compressed already
    with replace_file(path) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
        for line in lines:
            for name, data in _list_files(line, ROOTS[layout], original):
                archive.writestr(zipfile.ZipInfo(name, _FIXED_DATE), data)
                count += 1
    return count


def _list_files(line: PredictionLine, root: str, original: bool) -> Iterable[tuple[str, bytes]]:
    """Names and contents of the PNGs of one expression, whose id is ``video/expression``."""
    if line.left_out or (line.error and not (original and names_frames(line))):
        raise DatasetError(
            f"{line.id} failed ({line.error or line.left_out}), so there is nothing to upload for it; "
            "run again with --retry"
        )
    tracks = [one.track for prediction in line.predictions or () for one in prediction.objects]
    tracks = tracks[: 1 if original else None]
    try:
        frames = [check_text(name, "the name of a frame") for name in line.measures[0]["frames"]]
        size_hw = check_size_hw(line.measures[0]["size_hw"])
    except (LookupError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{line.id}: what its frames are called is not written down ({join_lines(error)})"
        ) from error
    wrong = next((track for track in tracks if track.num_frames != len(frames)), None)
    if wrong is not None:
        raise DatasetError(f"{line.id}: there are masks of {wrong.num_frames} frames, the clip has {len(frames)}")
    if any(track.size_hw != size_hw for track in tracks):
        raise DatasetError(f"{line.id}: there are masks of another size than the frames'")
    for t, frame in enumerate(frames):
        yield f"{root}{line.id}/{frame}.png", encode_png(tracks, t, size_hw)


def names_frames(line: PredictionLine) -> bool:
    """Whether a line says what the frames of its unit are called, as an upload needs to know."""
    return bool(line.measures) and "frames" in line.measures[0]


def encode_png(tracks: list[MaskTrack], t: int, size_hw: tuple[int, int]) -> bytes:
    """The union of tracks on one frame as a grey PNG."""
    mask = np.zeros(size_hw, dtype=bool)
    for track in tracks:
        mask |= track.mask(t)
    buffer = io.BytesIO()
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8), mode="L").save(buffer, format="PNG")
    return buffer.getvalue()
