"""Osprey-724K: conversations about regions of COCO pictures, descriptions of them, and questions of what they are.

Layout, under ``osprey``::

    Osprey-724K/osprey_conversation.json                 osprey_conversation        coco/train2014/<file_name>
    Osprey-724K/osprey_detail_description.json           osprey_detail_description  coco/train2014/<file_name>
    Osprey-724K/osprey_lvis_positive_negative.json       osprey_pos_neg             coco/imgs/<file_name>

A row; regions are numbered from 1 in the order of ``annotation``, whose polygons are drawn at ``height`` x ``width``::

    {"id": 1, "file_name": "COCO_train2014_000000000009.jpg", "height": 480, "width": 640,
     "annotation": [{"segmentation": [[x1, y1, x2, y2, ...]], "bbox": [...]}, ...],
     "conversations": [{"from": "human", "value": "What is <region1>?"}, {"from": "gpt", "value": "..."}, ...]}
    {..., "description": ["<region1>: A ...", ...]}      in place of conversations, in the descriptions

One record per row: a conversation is queries to be asked in order, a description one query per region.

Known defects and how they are handled: tags are misspelt (``<region1]``, ``<region 1>``, ``<region of1>``,
``<Region1>``, ``<regin 1>``, ``<region1.``) and are read as meant; rows with a tag without a number, with a number that
no region has, or without any region mentioned are left out, and so are conversations that do not alternate; a last
question without an answer is cut off.
Differs: the released loader swallows the character behind a misspelt tag, and takes ``<region0>`` for the last region.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unipixel.data.encodings import regions_to_mask
from unipixel.data.files import get_field, read_json
from unipixel.data.frames import open_picture, repeat_mask
from unipixel.data.records import Dataset, Record, count_words
from unipixel.errors import DatasetError
from unipixel.sample import Query, Sample

_SETS = {
    "osprey_conversation": ("osprey_conversation.json", "train2014"),
    "osprey_detail_description": ("osprey_detail_description.json", "train2014"),
    "osprey_pos_neg": ("osprey_lvis_positive_negative.json", "imgs"),
}
# Also finds tags without a number, with an empty group.
_TAG = re.compile(r"<\s*regi?o?n(?:(?:\s+of)?\s*(\d+)\s*[>\])}]?)?", re.IGNORECASE)
_DESCRIPTION = re.compile(r"\[(\d+)\]\s*:\s*(\S.*)", re.DOTALL)


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """One record per usable row; see the module's docstring for those that are left out.

    Raises:
        DatasetError: the annotation file is missing, damaged, or not in its documented layout.
    """
    name, folder = _SETS[dataset]
    records = []
    for number, row in enumerate(read_json(root / "osprey/Osprey-724K" / name, f"{dataset}/{split}", list)):
        where = f"{dataset}/{split} row {number} of {name}"
        count = len(get_field(row, "annotation", where, list))
        texts = _read_texts(row, "description" if dataset == "osprey_detail_description" else "conversations", where)
        mentioned = [_TAG.findall(text) for text in texts]
        if _is_usable(dataset, texts, mentioned, count):
            picture = f"osprey/coco/{folder}/{get_field(row, 'file_name', where, str)}"
            records.append(
                Record(
                    dataset=dataset,
                    split=split,
                    id=str(number),
                    data_type="region_image",
                    root=root,
                    frame_names=(picture,),
                    raw=row,
                    words=_count_row_words(dataset, texts),
                )
            )
    return records


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """One picture with the regions that its texts mention.

    Raises:
        DatasetError: the picture is missing, damaged or of another size, or a polygon is malformed.
    """
    row = record.raw
    if record.dataset == "osprey_detail_description":
        queries = _build_descriptions(_read_texts(row, "description", record.source))
    else:
        queries = _build_conversation(_read_texts(row, "conversations", record.source))
    size_hw = (get_field(row, "height", record.source, int), get_field(row, "width", record.source, int))
    media = open_picture(record, frames, size_hw)
    objects = {}
    for number in sorted({number for query in queries for number in query.about}):
        where = f"{record.source}, region {number}"
        mask = regions_to_mask(get_field(row["annotation"][number - 1], "segmentation", where), size_hw, where)
        if not mask.any():
            raise DatasetError(f"{where}: the segmentation is empty; it should cover at least one pixel")
        objects[number] = repeat_mask(mask, media.num_frames)
    return Sample(media=media, objects=objects, queries=queries, source=record.source)


def _read_texts(row: Any, key: str, where: str) -> list[str]:
    """The descriptions of a row, or its questions and answers by turns; nothing if the speakers do not alternate."""
    items = get_field(row, key, where, list)
    if key == "description":
        return [str(text).strip() for text in items]
    items = items[: len(items) // 2 * 2]
    if any(get_field(turn, "from", where) != ("human", "gpt")[k % 2] for k, turn in enumerate(items)):
        return []
    return [get_field(turn, "value", where, str) for turn in items]


def _is_usable(dataset: str, texts: list[str], mentioned: list[list[str]], count: int) -> bool:
    """Whether every tag names one of ``count`` regions, some do, and descriptions begin with their one tag."""
    numbers = [number for found in mentioned for number in found]
    if not numbers or not all(number and 1 <= int(number) <= count for number in numbers):
        return False
    if dataset != "osprey_detail_description":
        return any(
            question.strip() and answer.strip() for question, answer in zip(texts[::2], texts[1::2], strict=True)
        )
    # a second tag in a text means that two descriptions have run into each other
    return all(
        len(found) == 1 and _DESCRIPTION.fullmatch(_replace_tags(text))
        for text, found in zip(texts, mentioned, strict=True)
    )


def _count_row_words(dataset: str, texts: list[str]) -> int:
    """Words of a row, for limits; the released training takes off 100 for every request that it words itself."""
    if dataset != "osprey_detail_description":
        return count_words(*texts)
    return sum(count_words(query.answer) - 100 for query in _build_descriptions(texts))


def _build_conversation(texts: list[str]) -> tuple[Query, ...]:
    """Questions with their answers."""
    return tuple(
        Query(
            kind="conversation",
            text=_replace_tags(question),
            answer=_replace_tags(answer),
            about=tuple(dict.fromkeys(int(number) for number in _TAG.findall(f"{question} {answer}"))),
        )
        for question, answer in zip(texts[::2], texts[1::2], strict=True)
        if question.strip() and answer.strip()
    )


def _build_descriptions(texts: list[str]) -> tuple[Query, ...]:
    """A request to describe each region, with its answer."""
    found = [_DESCRIPTION.fullmatch(_replace_tags(text)) for text in texts]
    return tuple(
        Query(kind="caption", text="", answer=one[2], about=(int(one[1]),), category="detailed") for one in found if one
    )


def _replace_tags(text: str) -> str:
    """The text with regions written as ``[id]``."""
    return _TAG.sub(lambda tag: f"[{int(tag[1])}]", text)


DATASETS = {
    name: Dataset(
        title=f"Osprey-724K, {title}",
        paper="arXiv 2312.10032",
        licence="CC BY-NC 4.0; photos COCO",
        home=f"huggingface.co/datasets/AntGroup-MI/Osprey-724K; photos: cocodataset.org, {photos}",
        teaches=teaches,
        splits=("train",),
        files={"train": (f"osprey/Osprey-724K/{_SETS[name][0]}", f"osprey/coco/{_SETS[name][1]}")},
        index=read_records,
        sample=read_sample,
    )
    for name, title, photos, teaches in (
        ("osprey_conversation", "conversations about regions", "train2014", "conversations about regions"),
        ("osprey_detail_description", "descriptions of regions", "train2014", "a region -> long description"),
        (
            "osprey_pos_neg",
            "what a region is and is not",
            "train2017 and val2017 in one folder imgs",
            "is a region this thing?",
        ),
    )
}
