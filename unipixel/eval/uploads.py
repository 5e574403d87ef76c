"""Predictions as the servers of MeViS and Ref-YouTube-VOS want them: one PNG per frame and expression in a zip.

MeViS:            ``<video>/<expression>/<frame>.png`` at the root of the zip
Ref-YouTube-VOS:  ``Annotations/<video>/<expression>/<frame>.png``

PNGs have one channel, 255 on the object and 0 elsewhere, at the size of the frames.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from unipixel.errors import DatasetError
from unipixel.eval.predictions import Line
from unipixel.eval.questions import Prediction
from unipixel.masks import MaskTrack

ROOTS = {"mevis": "", "ref_youtube_vos": "Annotations/"}
"""Layout -> what stands in front of every name."""
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The same bytes for the same masks, whenever they are written."""


def write_zip(lines: Iterable[Line], layout: str, path: Path, *, original: bool = False) -> int:
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
    fresh, count = path.with_suffix(".new"), 0
    with zipfile.ZipFile(fresh, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed already
        for line in lines:
            for name, data in _list_files(line, ROOTS[layout], original):
                archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), data)
                count += 1
    os.replace(fresh, path)
    return count


def _list_files(line: Line, root: str, original: bool) -> Iterable[tuple[str, bytes]]:
    """Names and contents of the PNGs of one expression, whose id is ``video/expression``."""
    if "left_out" in line or ("error" in line and not (original and "frames" in line["measures"][0])):
        reason = line.get("error") or line["left_out"]
        raise DatasetError(
            f"{line['id']} failed ({reason}), so there is nothing to upload for it; run again with --retry"
        )
    objects = [one.track for reply in line.get("replies", ()) for one in Prediction.from_json(reply).objects]
    objects = objects[: 1 if original else None]
    frames, size_hw = line["measures"][0]["frames"], tuple(line["measures"][0]["size_hw"])
    wrong = next((track for track in objects if track.num_frames != len(frames)), None)
    if wrong is not None:
        raise DatasetError(f"{line['id']}: there are masks of {wrong.num_frames} frames, the clip has {len(frames)}")
    for t, frame in enumerate(frames):
        yield f"{root}{line['id']}/{frame}.png", encode_png(objects, t, size_hw)


def encode_png(tracks: list[MaskTrack], t: int, size_hw: tuple[int, int]) -> bytes:
    """The union of tracks on one frame as a grey PNG."""
    mask = np.zeros(size_hw, dtype=bool)
    for track in tracks:
        mask |= track.mask(t)
    buffer = io.BytesIO()
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8), mode="L").save(buffer, format="PNG")
    return buffer.getvalue()
