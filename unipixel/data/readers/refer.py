"""RefCOCO, RefCOCO+, RefCOCOg and RefCLEF: expressions that name one object of a photo.

In RefCOCO and RefCOCO+, testA is people and testB other objects; RefCOCOg has the UMD split of Nagaraja et al.; the
test split of RefCLEF is its three test parts together.

Layout under ``data/lisa/refer_seg``::

    refcoco/{instances.json, refs(unc).p}      refcoco+/...      refcocog/{..., refs(umd).p}      refclef/...
    images/mscoco/images/train2014/COCO_train2014_000000000072.jpg
    images/saiapr_tc-12/<file_name>            RefCLEF's photos

``instances.json`` is a COCO instance file; the pickle, written by Python 2, is a list of::

    {"ref_id": 7, "ann_id": 1719310, "category_id": 1, "image_id": 581857, "split": "train",
     "sentences": [{"sent_id": 21, "sent": "the lady with the blue shirt", "raw": ..., "tokens": [...]}, ...]}

Records: in ``train`` one per photo with a query per sentence; elsewhere one per sentence, id ``ref_id/n``. Objects are
numbered 1, 2, ... in the order in which the photo's expressions name them. `Sample.boxes` holds the annotated boxes.

Known defects, and what is done about them:

* RefCLEF's masks are lists of run lengths; a single RLE, on which the released loader stops, is read as well.
* A reference's own ``file_name`` ends in the annotation's id and names no file: the name in ``instances.json`` counts.
* The pickle is never run: anything in it but plain data is refused.
* Several references may name one annotation; they then share an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unipixel.data.coco_files import CocoClip, parse_instance, read_instances, unpack_region
from unipixel.data.files import get_field, read_pickle
from unipixel.data.frames import open_picture, repeat_mask
from unipixel.data.records import Dataset, Instance, Record
from unipixel.errors import DatasetError
from unipixel.sample import Query, Sample

_FOLDER = "lisa/refer_seg"
_COLLECTED_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd", "refclef": "unc"}
_PHOTOS = {"refclef": "images/saiapr_tc-12"}
_COCO_PHOTOS = "images/mscoco/images/train2014"


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """The records of a split.

    Raises:
        DatasetError: a file is missing or damaged, or a reference leads nowhere.
    """
    folder = root / _FOLDER / dataset
    path = folder / f"refs({_COLLECTED_BY[dataset]}).p"
    references = read_pickle(path, dataset)
    if not isinstance(references, list):
        raise DatasetError(f"{dataset}: {path} holds a {type(references).__name__}; it should hold a list")
    chosen = [
        (reference, f"{dataset}: {path}, reference {number}")
        for number, reference in enumerate(references)
        if _is_in_split(get_field(reference, "split", f"{dataset}: {path}, reference {number}", str), split)
    ]
    if not chosen:
        raise DatasetError(f"{dataset}: {path} has no reference of the split {split!r}")
    if split == "train":
        return _index_by_photo(root, dataset, chosen)
    return _index_by_sentence(root, dataset, split, chosen)


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """A photo with its expressions.

    Raises:
        DatasetError: the photo is missing, damaged or of another size, or a mask malformed.
    """
    photo: CocoClip
    photo, queries = record.raw
    media = open_picture(record, frames, photo.size_hw)
    objects, boxes = {}, {}
    for object_id, one in photo.objects.items():
        where = f"{record.source}, annotation {one.id}"
        objects[object_id] = repeat_mask(unpack_region(one.regions[0], photo.size_hw, where), media.num_frames)
        if one.box_xyxy is not None:
            boxes[object_id] = one.box_xyxy
    return Sample(media=media, objects=objects, boxes=boxes, queries=queries, source=record.source)


def _is_in_split(own: str, wanted: str) -> bool:
    """Whether a reference belongs to a split; RefCLEF writes ``testAB`` for what is in two of its test parts."""
    if wanted == "test":
        return own.startswith("test")
    if wanted.startswith("test"):
        return own.startswith("test") and wanted[-1] in own[len("test") :]
    return own == wanted


class _ReferenceLookup:
    """Looks references up in the instance file."""

    def __init__(self, root: Path, dataset: str) -> None:
        path = root / _FOLDER / dataset / "instances.json"
        self._where = f"{dataset}: {path}"
        self._pictures, annotations, self._categories = read_instances(path, dataset)
        self._annotations = {get_field(a, "id", self._where): a for a in annotations}
        self._folder = f"{_FOLDER}/{_PHOTOS.get(dataset, _COCO_PHOTOS)}"

    def find_photo(self, reference: Any, where: str) -> tuple[str, CocoClip]:
        """Path of a reference's photo, and the photo without its objects."""
        image_id = get_field(reference, "image_id", where)
        if image_id not in self._pictures:
            raise DatasetError(f"{where}: image {image_id!r} is not in {self._where}; the two files do not fit")
        photo = self._pictures[image_id]
        return f"{self._folder}/{photo.frames[0]}", photo

    def find_instance(self, reference: Any, where: str) -> Instance:
        """The object that a reference names."""
        annotation_id = get_field(reference, "ann_id", where)
        if annotation_id not in self._annotations:
            raise DatasetError(f"{where}: annotation {annotation_id!r} is not in {self._where}; the two do not fit")
        return parse_instance(
            self._annotations[annotation_id], self._categories, f"{self._where}, annotation {annotation_id}"
        )


def _read_sentences(reference: Any, where: str) -> list[str]:
    found = get_field(reference, "sentences", where, list)
    return [get_field(sentence, "sent", where, str) for sentence in found]


def _index_by_sentence(root: Path, dataset: str, split: str, chosen: list[tuple[Any, str]]) -> list[Record]:
    photos, records = _ReferenceLookup(root, dataset), []
    for reference, where in chosen:
        name, photo = photos.find_photo(reference, where)
        photo = replace(photo, objects={1: photos.find_instance(reference, where)})
        for number, text in enumerate(_read_sentences(reference, where)):
            records.append(
                Record(
                    dataset=dataset,
                    split=split,
                    id=f"{get_field(reference, 'ref_id', where)}/{number}",
                    data_type="seg_image",
                    root=root,
                    frame_names=(name,),
                    raw=(photo, (Query(kind="query", text=text, targets=(1,)),)),
                )
            )
    return records


def _index_by_photo(root: Path, dataset: str, chosen: list[tuple[Any, str]]) -> list[Record]:
    photos = _ReferenceLookup(root, dataset)
    groups: dict[Any, list[tuple[Any, str]]] = {}
    for reference, where in chosen:
        groups.setdefault(get_field(reference, "image_id", where), []).append((reference, where))
    records = []
    for image_id, references in groups.items():
        name, photo = photos.find_photo(*references[0])
        numbers: dict[int, int] = {}
        queries: list[Query] = []
        for reference, where in references:
            one = photos.find_instance(reference, where)
            if one.id not in numbers:
                numbers[one.id] = len(numbers) + 1
                photo.objects[numbers[one.id]] = one
            texts = (text for text in _read_sentences(reference, where) if text.strip())
            queries += [Query(kind="query", text=text, targets=(numbers[one.id],)) for text in texts]
        if queries:
            records.append(
                Record(
                    dataset=dataset,
                    split="train",
                    id=str(image_id),
                    data_type="seg_image",
                    root=root,
                    frame_names=(name,),
                    raw=(photo, tuple(queries)),
                )
            )
    return records


def _describe(
    name: str, title: str, paper: str, teaches: str, splits: tuple[str, ...], photos: str = "cocodataset.org, train2014"
) -> Dataset:
    folder = f"{_FOLDER}/{name}"
    files = (
        f"{folder}/instances.json",
        f"{folder}/refs({_COLLECTED_BY[name]}).p",
        f"{_FOLDER}/{_PHOTOS.get(name, _COCO_PHOTOS)}",
    )
    return Dataset(
        title=title,
        paper=paper,
        licence=f"Apache-2.0; photos {'research only' if name in _PHOTOS else 'Flickr'}",
        home=f"github.com/lichengunc/refer (expressions); photos: {photos}",
        teaches=teaches,
        splits=splits,
        files=dict.fromkeys(splits, files),
        index=read_records,
        sample=read_sample,
    )


_YU, _KAZEMZADEH = "arXiv 1608.00272", "Kazemzadeh et al., EMNLP 2014"
_TESTS_AB = ("train", "val", "testA", "testB")
_TESTS_ABC = ("train", "val", "test", "testA", "testB", "testC")
DATASETS = {
    row[0]: _describe(*row)
    for row in (
        ("refcoco", "RefCOCO", _YU, "expressions -> mask", _TESTS_AB),
        ("refcoco+", "RefCOCO+", _YU, "expressions without places -> mask", _TESTS_AB),
        ("refcocog", "RefCOCOg (UMD split)", "arXiv 1511.02283", "long expressions -> mask", ("train", "val", "test")),
        ("refclef", "RefCLEF (UNC split)", _KAZEMZADEH, "expressions -> mask", _TESTS_ABC, "SAIAPR TC-12"),
    )
}
