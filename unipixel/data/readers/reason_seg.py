"""ReasonSeg: questions about a photo whose answer is a region, reached only by thinking.

There are 239 photos in train, 200 in val and 779 in test.

Layout under ``data/lisa/reason_seg/ReasonSeg``: ``{train,val,test}/<name>.jpg`` beside ``<name>.json``, and
``explanatory/train.json``::

    {"text": ["Which animal here lays eggs?"], "is_sentence": true,
     "shapes": [{"label": "target", "shape_type": "polygon", "image_name": "<name>.jpg",
                 "points": [[177.6, 400.5], ...]}, ...]}

    [{"image": "<name>.jpg", "json": "<name>.json", "query": "Where would you bake a cake?",
      "outputs": "In the oven, because ..."}, ...]

Records: one per text, id ``<name>/n``, of kind ``sentence`` or, for a short phrase (``is_sentence`` false), ``query``;
in train also one per explanation, id ``<name>/explained n``, of kind ``explanatory`` with its answer. The target is
object 1. Shapes labelled ``ignore`` are the area ``"ignore"``, those labelled ``flag`` are left out.

Known defects, and what is done about them:

* Some annotation files are not UTF-8 but Windows-1252: both are read.
* The released evaluation turns the regions to ignore into background (its unsigned canvas cannot hold -1). Here they
  are kept apart, for the metrics to count neither way, as LISA's own evaluation does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unipixel.data.encodings import draw_lisa_masks
from unipixel.data.files import get_field, read_json, require
from unipixel.data.frames import open_picture, repeat_mask
from unipixel.data.records import Dataset, Record
from unipixel.errors import DatasetError
from unipixel.sample import Query, QueryKind, Sample

_FOLDER = "lisa/reason_seg/ReasonSeg"


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """The records of a split.

    Raises:
        DatasetError: the folder, a file or a field is missing or damaged.
    """
    folder = require(root / _FOLDER / split, dataset, "folder")
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise DatasetError(f"{dataset}: {folder} holds no annotation; there should be a .json beside every .jpg")
    queries = {path.stem: list(_read_queries(path, dataset)) for path in paths}
    if split == "train":
        _add_explanations(root, dataset, queries)
    return [
        Record(
            dataset=dataset,
            split=split,
            id=f"{name}/{key}",
            data_type="seg_image",
            root=root,
            frame_names=(f"{_FOLDER}/{split}/{name}.jpg",),
            raw=(f"{_FOLDER}/{split}/{name}.json", query),
        )
        for name, found in queries.items()
        for key, query in found
    ]


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """A photo with one question.

    Raises:
        DatasetError: the photo or its annotation is missing or damaged.
    """
    annotation, query = record.raw
    media = open_picture(record, frames)
    shapes = get_field(_read_annotation(record.root / annotation, record.dataset), "shapes", record.source, list)
    target, ignore = draw_lisa_masks(shapes, media.size_hw, record.source)
    areas = {"ignore": repeat_mask(ignore, media.num_frames)} if ignore.any() else {}
    return Sample(
        media=media,
        objects={1: repeat_mask(target, media.num_frames)},
        areas=areas,
        queries=(query,),
        source=record.source,
    )


def _read_queries(path: Path, dataset: str) -> list[tuple[str, Query]]:
    """The texts of a photo with their keys."""
    document, where = _read_annotation(path, dataset), f"{dataset}: {path}"
    is_sentence = bool(get_field(document, "is_sentence", where))
    texts = get_field(document, "text", where, list)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DatasetError(f"{where}: the field 'text' is {texts!r:.60}; it should be a list of at least one text")
    kind: QueryKind = "sentence" if is_sentence else "query"
    return [(str(n), Query(kind=kind, text=text, targets=(1,))) for n, text in enumerate(texts)]


def _add_explanations(root: Path, dataset: str, queries: dict[str, list[tuple[str, Query]]]) -> None:
    path = root / _FOLDER / "explanatory" / "train.json"
    for number, row in enumerate(read_json(path, dataset, list)):
        where = f"{dataset}: {path}, entry {number}"
        name = Path(get_field(row, "image", where, str)).stem
        if name not in queries:
            raise DatasetError(f"{where}: there is no photo {name!r} in the train split; fetch the photos again")
        text, answer = get_field(row, "query", where, str).strip(), get_field(row, "outputs", where, str).strip()
        explained = sum(key.startswith("explained") for key, _ in queries[name])
        query = Query(kind="explanatory", text=text, answer=answer, targets=(1,))
        queries[name].append((f"explained {explained}", query))


def _read_annotation(path: Path, dataset: str) -> dict[str, Any]:
    """An annotation file, in UTF-8 or Windows-1252."""
    require(path, dataset)
    try:
        data = path.read_bytes()
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp1252")
        document = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{dataset}: {path} is not valid JSON ({error}); it may be cut off, fetch it again"
        ) from error
    if not isinstance(document, dict):
        raise DatasetError(f"{dataset}: {path} holds a {type(document).__name__}; it should hold an object")
    return document


DATASETS = {
    "reason_seg": Dataset(
        title="ReasonSeg",
        paper="arXiv 2308.00692",
        licence="Apache-2.0; photos OpenImages, ScanNetv2",
        home="LISA's data folder, github.com/dvlab-research/LISA (dataset section of its README)",
        teaches="implicit questions -> mask, with reasons",
        splits=("train", "val", "test"),
        files={
            "train": (f"{_FOLDER}/train", f"{_FOLDER}/explanatory/train.json"),
            "val": (f"{_FOLDER}/val",),
            "test": (f"{_FOLDER}/test",),
        },
        index=read_records,
        sample=read_sample,
    )
}
