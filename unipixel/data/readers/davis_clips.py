"""DAVIS clips with a mask in every frame: one object per clip, the whole foreground, with names and expressions.

A sequence is in ``val`` when the CRC-32 of its name is divisible by 5.

Layout, in the folder that is given or in ``davis_clips`` in it::

    sequences.jsonl, <sequence>/labels.jsonl, <sequence>/00000.jpg ..., masks/<sequence>/00000.png ...

One line of ``sequences.jsonl``: ``{"sequence": "bear", "width": 320, "height": 180, ...}``. One line of
``labels.jsonl``: ``{"id": 1, "category": "bear", "expressions": ["the bear", ...], "motion_expression": "the animal
walking ...", ...}``; masks are palette PNGs whose values are those ids.

Known defects: motion expressions speak of the whole sequence and are not read; riders with their bikes are one object,
so that "the bike" alone has no mask; some frames show no object.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unipixel.data.encodings import read_index_png
from unipixel.data.files import get_field, require
from unipixel.data.frames import open_clip, resolve_frames
from unipixel.data.records import Dataset, Record
from unipixel.errors import DatasetError
from unipixel.masks import MaskTrack
from unipixel.sample import Query, Sample

VAL_EVERY = 5
"""One in so many sequences is held out, by its name."""


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """Every sequence of a split.

    Raises:
        DatasetError: a file is missing or not as documented, or a sequence has no frames.
    """
    root = root / "davis_clips" if (root / "davis_clips").is_dir() else root
    records = []
    for line in _read_lines(root / "sequences.jsonl", f"{dataset}/{split}"):
        where = f"{dataset}/{split}"
        name = get_field(line, "sequence", where, str)
        if (zlib.crc32(name.encode()) % VAL_EVERY == 0) != (split == "val"):
            continue
        frames = sorted((root / name).glob("*.jpg"))
        if not frames:
            raise DatasetError(f"{where} {name}: there are no frames in {root / name}; fetch the sequence again")
        records.append(
            Record(
                dataset=dataset,
                split=split,
                id=name,
                data_type="seg_video",
                root=root,
                frame_names=tuple(f"{name}/{path.name}" for path in frames),
                raw=_read_lines(root / name / "labels.jsonl", f"{where} {name}"),
            )
        )
    return records


def _read_lines(path: Path, where: str) -> list[dict[str, Any]]:
    require(path, where)
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{where}: line {number} of {path} is not valid JSON ({error})") from error
        if not isinstance(value, dict):
            raise DatasetError(f"{where}: line {number} of {path} is no JSON object; fetch the file again")
        found.append(value)
    return found


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """A clip with its objects, what they are called, and expressions for them.

    Raises:
        DatasetError: a frame or mask is missing, damaged, or of another size.
    """
    names = record.frame_names or ()
    ts = resolve_frames(record, frames, len(names))
    media = open_clip(record, ts)
    ids = []
    for t in ts:
        path = record.root / "masks" / Path(names[t]).with_suffix(".png")
        ids.append(read_index_png(path, record.source))
        if ids[-1].shape != media.size_hw:
            raise DatasetError(f"{record.source}: the mask {path} is {ids[-1].shape}, its frame {media.size_hw}")
    stacked = np.stack(ids)
    objects, queries = {}, []
    for one in record.raw:
        number, category = get_field(one, "id", record.source, int), get_field(one, "category", record.source, str)
        objects[number] = MaskTrack.from_masks(stacked == number)
        texts = one.get("expressions", ())
        queries += [Query(kind="query", text=text, targets=(number,), category=category) for text in texts]
        queries.append(Query(kind="caption", text=f"What is [{number}]?", answer=f"the {category}", about=(number,)))
    return Sample(media=media, objects=objects, queries=tuple(queries), source=record.source)


DATASETS = {
    "davis_clips": Dataset(
        title="DAVIS clips with names and expressions, of which nano learns",
        paper="Perazzi et al., CVPR 2016",
        licence="CC BY-NC 4.0; a few clips belong to their owners",
        home="davischallenge.org; labels.jsonl of each sequence; or the folder 'davis_clips' of the root",
        teaches="names and expressions -> mask in video",
        splits=("train", "val"),
        index=read_records,
        sample=read_sample,
    )
}
