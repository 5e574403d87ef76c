"""Predictions on disk: one JSON line per unit, written so that a killed run loses at most the line it was writing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unipixel.errors import DatasetError

Line = dict[str, Any]


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

    @property
    def run_key(self) -> tuple[Any, ...]:
        """Equal for the shards of one run."""
        return self.benchmark, self.split, self.model, self.protocol, self.limit, self.units, self.num_frames


def read_predictions(path: Path) -> tuple[RunHeader | None, list[Line], int]:
    """What a file holds: its header (None if not even that is complete), its lines, and the bytes of both.

    A last line without its line break was cut off by a kill and does not count.

    Raises:
        DatasetError: a complete line is no JSON object, or the header another one.
    """
    data = path.read_bytes() if path.exists() else b""
    complete = data.rfind(b"\n") + 1
    values = []
    for number, text in enumerate(data[:complete].splitlines(), start=1):
        try:
            value = json.loads(text)
        except ValueError as error:
            raise DatasetError(f"{path}, line {number} is no JSON ({error}); delete the file and run again") from error
        if not isinstance(value, dict):
            raise DatasetError(f"{path}, line {number} holds a {type(value).__name__}; delete the file and run again")
        values.append(value)
    if not values:
        return None, [], 0
    try:
        header = RunHeader(**values[0])
    except TypeError as error:
        raise DatasetError(f"{path} does not begin with the header of an evaluation ({error})") from error
    return header, values[1:], complete


class PredictionFile:
    """A file of predictions that is being written.

    Args:
        path: made where it does not exist, else taken up.
        header: what the run is about.
        retry: forget the units that failed or were left out, so that they are asked again.

    Raises:
        ValueError: the file belongs to another run.
        DatasetError: it is damaged.
    """

    def __init__(self, path: Path, header: RunHeader, *, retry: bool = False) -> None:
        found, lines, complete = read_predictions(path)
        if found is not None and found != header:
            old, new = asdict(found), asdict(header)
            key = next(key for key in new if old[key] != new[key])
            raise ValueError(
                f"{path} holds a run with {key} {old[key]!r}, this one has {new[key]!r}; choose another -o, "
                "or delete that file"
            )
        kept = [line for line in lines if not (retry and ("error" in line or "left_out" in line))]
        path.parent.mkdir(parents=True, exist_ok=True)
        if found is None or len(kept) < len(lines):
            _replace_file(path, [asdict(header), *kept])
        elif complete < path.stat().st_size:
            os.truncate(path, complete)
        self.done: dict[str, Line] = {line["id"]: line for line in kept}
        """Lines by unit id."""
        self._file = open(path, "ab")  # noqa: SIM115  # closed by `close`

    def append(self, line: Line) -> None:
        """Write a line, and do not return before it is on disk."""
        self._file.write(_encode(line))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done[line["id"]] = line

    def close(self) -> None:
        """End writing."""
        self._file.close()


def _encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _replace_file(path: Path, values: list[Line]) -> None:
    """Replace a file in one step, so that a kill leaves the old or the new one."""
    fresh = path.with_suffix(".new")
    with open(fresh, "wb") as file:
        file.writelines(_encode(value) for value in values)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
