"""Photos with labelled regions in one JSON line each: the collection that `nano` is trained on besides stickers.

Paper: none; gathered from COCO (Lin et al., arXiv 1405.0312), LVIS (Gupta et al., arXiv 1908.03195) and Clothing
Co-Parsing (Yang et al., CVPR 2014).
Licence: annotations CC BY 4.0 and Apache-2.0; photos under the licence named in each line.
Splits: ``train`` and ``val``; a photo is in ``val`` when the CRC-32 of its file's stem is divisible by 10, so that a
photo that several sets contain is held out of all of them.

Layout, for each set of ``coco_subset``, ``coco_single_person``, ``lvis_val100_subset``, ``ccp_fashion``::

    <set>/labels.jsonl, <set>/images/*.jpg

One line: ``{"image": "images/000000000009.jpg", "width": 320, "height": 240, "instances": [{"id": 1, "category":
"bowl", "iscrowd": 0, "bbox": [x, y, w, h], "area": 30143, "rle": {"size": [240, 320], "counts": "..."}, "exprs":
[{"text": "the lowest bowl", "type": "position"}]}], "person_rle": ...}``

Defects: crowds cover many objects and are left out; regions of Clothing Co-Parsing are classes, whose ids are no
object numbers, so objects are numbered by their place in the line; its whole person stands in ``person_rle`` and
becomes one more object. Expressions and their uniqueness are heuristic.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unipixel.data.encodings import rle_mask
from unipixel.data.files import entry, require
from unipixel.data.record import Record
from unipixel.errors import DatasetError
from unipixel.masks import MaskTrack
from unipixel.media import open_media
from unipixel.sample import Query, Sample

SETS = ("coco_subset", "coco_single_person", "lvis_val100_subset", "ccp_fashion")
MIN_SHARE = 0.004
"""Smaller regions, as a share of the picture, are left out."""


def index(root: Path, dataset: str, split: str) -> list[Record]:
    """Every photo of a split that shows a usable region.

    Raises:
        DatasetError: no set is there, or a line is not as documented.
    """
    present = [name for name in SETS if (root / name / "labels.jsonl").is_file()]
    if not present:
        require(root / SETS[0] / "labels.jsonl", f"{dataset}/{split}")
    records = []
    for name in present:
        path = root / name / "labels.jsonl"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            where = f"{dataset}/{split}: line {number} of {path}"
            try:
                raw = json.loads(line)
            except ValueError as error:
                raise DatasetError(f"{where} is not valid JSON ({error}); fetch the file again") from error
            image = Path(entry(raw, "image", where, str))
            held_out = zlib.crc32(image.stem.encode()) % 10 == 0
            if held_out != (split == "val") or not _regions(raw, where):
                continue
            records.append(
                Record(
                    dataset=dataset,
                    split=split,
                    id=f"{name}/{image.stem}",
                    data_type="seg_image",
                    root=root,
                    frame_names=(f"{name}/{image}",),
                    raw=raw,
                )
            )
    return records


def _regions(raw: dict[str, Any], where: str) -> list[tuple[str, dict[str, Any], tuple[str, ...]]]:
    """Name, RLE and expressions of each usable region."""
    least = MIN_SHARE * entry(raw, "width", where, int) * entry(raw, "height", where, int)
    found = []
    for one in entry(raw, "instances", where, list):
        if one.get("iscrowd") or entry(one, "area", where, (int, float)) < least:
            continue
        texts = tuple(e["text"] for e in one.get("exprs", ()))
        found.append((entry(one, "category", where, str).replace("_", " "), entry(one, "rle", where, dict), texts))
    if "person_rle" in raw:
        found.append(("person", raw["person_rle"], ("the person",)))
    return found


def sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """A photo with its regions, an expression or two for some of them, and the name of each.

    Raises:
        DatasetError: a mask does not fit.
        MediaError: the photo cannot be read.
    """
    assert record.frame_names is not None
    media = open_media([record.root / record.frame_names[0]])
    objects, queries = {}, []
    for number, (name, rle, texts) in enumerate(_regions(record.raw, record.source), 1):
        mask = rle_mask(rle, media.size_hw, record.source)
        objects[number] = MaskTrack.from_masks(mask[None])
        queries += [Query(kind="query", text=text, targets=(number,), category=name) for text in texts]
        queries.append(Query(kind="caption", text=f"What is [{number}]?", answer=f"the {name}", about=(number,)))
    return Sample(media=media, objects=objects, queries=tuple(queries), source=record.source)
