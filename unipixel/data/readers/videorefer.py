"""VideoRefer-700K: captions of objects in videos, short and detailed, and questions about them.

Layout, under ``videorefer/VideoRefer-700K`` (UniPixel's release of it, with the masks taken out of the files)::

    videos/<video>
    videorefer-short-caption-500k-wo-masks.json      masks_short_caption/<row>.json
    videorefer-detailed-caption-125k-wo-masks.json   masks_detailed_caption/<row>.json
    videorefer-qa-75k-wo-masks.json                  masks_qa/<row>.json

A row, and its mask file (per object, per frame of the union of all objects' frames, a list of one RLE or null)::

    {"id": "...", "video": "a/b.mp4", "ratio": 0.62, "annotation": [{"12": ..., "40": ...}, {"12": ...}],
     "conversations": [{"from": "human", "value": "<video>\\nThere are 2 objects: <object0><region> and
                        <object1><region>.\\nWhat is <object0> doing?"}, {"from": "gpt", "value": "..."}]}

The clip of a row is what has masks: its annotated frames. A row that is annotated on one frame only is about the
whole video, with `Query.frame` the annotated one; of frames chosen for it, the nearest makes room for that frame.
Such rows (`Record.is_tracked` is false) are not for the memory form, which tracks.

Known defects and how they are handled: rows without an object are left out, and, of all but the short captions, those
with more than 5 or with a ``ratio`` under 0.3 (objects masked on few frames); ``<video>`` before or behind the question
is taken off; the line that introduces several objects ("There are ...") is kept apart (`Query.introduction`), since the
objects are often given with the question; tags become ``[id]``, a lone ``<region>`` becomes ``[0]``. Mask files are
named by the number of the row, not by its id, which is not unique.
Differs: the released loader gives a lone object a random id while reading; here that is left to the wording.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unipixel.data.encodings import rles_to_track
from unipixel.data.files import get_field, read_json
from unipixel.data.frames import read_clip
from unipixel.data.records import Dataset, Expression, Record, count_words
from unipixel.errors import DatasetError
from unipixel.sample import Query, Sample

FOLDER = "videorefer/VideoRefer-700K"
MAX_OBJECTS = 5
MIN_RATIO = 0.3
ONLY_ID = 0
"""Id of the object of a text that does not number its objects."""

_FIRST_MENTION = re.compile(r"(?:<object(\d+)>)?<region>")
_MENTION = re.compile(r"<object(\d+)>(?:<region>)?")


_FILES = {
    "videorefer_short_caption": ("videorefer-short-caption-500k-wo-masks.json", "masks_short_caption"),
    "videorefer_detailed_caption": ("videorefer-detailed-caption-125k-wo-masks.json", "masks_detailed_caption"),
    "videorefer_qa": ("videorefer-qa-75k-wo-masks.json", "masks_qa"),
}
"""Rows and folder of masks by dataset."""
_CAPTIONS = {"videorefer_short_caption": "short", "videorefer_detailed_caption": "detailed"}
"""Category of the datasets whose answers are captions."""
_ALL_ROWS = "videorefer_short_caption"
"""Where `MAX_OBJECTS` and `MIN_RATIO` do not apply: short captions are for pointing, which needs one frame alone."""


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """Every usable row; see the module's docstring for those that are left out.

    Raises:
        DatasetError: the annotation file is missing, damaged, or not in its documented layout.
    """
    file = root / FOLDER / _FILES[dataset][0]
    rows = read_json(file, f"{dataset}/{split}", list)
    records = []
    for number, raw in enumerate(rows):
        parsed = _parse_row(raw, number, dataset, f"{dataset}/{split} row {number} of {file.name}")
        if parsed is None:
            continue
        row, words = parsed
        records.append(
            Record(
                dataset=dataset,
                split=split,
                id=str(number),
                data_type="region_video",
                root=root,
                raw=row,
                words=words,
                is_tracked=len(row.frames) > 1,
            )
        )
    return records


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """One row with the masks of its objects.

    Raises:
        DatasetError: video or mask file is missing or damaged, or they do not fit the row.
    """
    row: Expression = record.raw
    whole = len(row.frames) == 1
    numbers, only = (None, row.frames[0]) if whole else (row.frames, None)
    media, chosen = read_clip(record, record.root / FOLDER / "videos" / row.video, numbers, frames, only)
    masks = _read_masks(record, record.root / FOLDER / row.masks[0])
    objects = {}
    for object_id, listed in zip(row.query.about, masks, strict=True):
        per_frame = [([] if t != only else listed[0]) if whole else listed[t] for t in chosen]
        objects[object_id] = rles_to_track(per_frame, media.size_hw, f"{record.source}, object {object_id}")
    query = replace(row.query, frame=None if only is None else chosen.index(only))
    return Sample(media=media, objects=objects, queries=(query,), source=record.source)


def find_tagged_ids(text: str, count: int, where: str) -> tuple[int, ...]:
    """Ids of the objects that a text introduces, in the order of the annotation.

    Args:
        text: as annotated.
        count: objects that the row has masks of.
        where: what messages call the row.

    Raises:
        DatasetError: the text introduces another number of objects, or one of them twice.
    """
    found = [int(number) if number else ONLY_ID for number in _FIRST_MENTION.findall(text)]
    if len(found) != count or len(set(found)) != count:
        raise DatasetError(
            f"{where}: the text introduces the objects {found or 'none'} by <region>, but there are masks of {count}; "
            f"it should introduce each of them once: {text!r:.80}"
        )
    return tuple(found)


def replace_tags(text: str) -> str:
    """The text with every object written as ``[id]``."""
    return _MENTION.sub(lambda found: f"[{int(found[1])}]", text).replace("<region>", f"[{ONLY_ID}]")


def find_annotated_frames(objects: Sequence[Any], where: str) -> tuple[int, ...]:
    """Numbers of all frames on which any object has a mask, ascending.

    Args:
        objects: per object a mapping from frame numbers (as text) to masks.
        where: what messages call the row.

    Raises:
        DatasetError: a frame number is none, or there is no frame at all.
    """
    names = {name for frames in objects for name in (frames if isinstance(frames, dict) else [repr(frames)[:40]])}
    wrong = sorted(str(name) for name in names if not re.fullmatch(r"0|[1-9][0-9]{0,8}", str(name)))
    if wrong or not names:
        found = f"the annotation numbers a frame {wrong[0]!r}" if wrong else "no object has an annotated frame"
        raise DatasetError(f"{where}: {found}; it should map frame numbers such as '12' to masks")
    return tuple(sorted({int(name) for name in names}))


def parse_frame_number(row: Any, numbers: Collection[int], where: str) -> int:
    """The field ``frame_idx`` of a benchmark row: the frame on which its objects are pointed at.

    Raises:
        DatasetError: it is missing, no number, or not one of the annotated frames.
    """
    value = get_field(row, "frame_idx", where, (str, int))
    number = int(value) if str(value).isascii() and str(value).isdigit() else None
    if number not in numbers or number is None:
        raise DatasetError(f"{where}: frame_idx is {value!r}; it should be one of the annotated frames {list(numbers)}")
    return number


def _parse_row(raw: Any, number: int, dataset: str, where: str) -> tuple[Expression, int] | None:
    """The row as the index keeps it, and its words; None for one that is left out."""
    objects = get_field(raw, "annotation", where, list)
    if not objects:
        return None
    if dataset != _ALL_ROWS and (
        len(objects) > MAX_OBJECTS or get_field(raw, "ratio", where, (int, float)) < MIN_RATIO
    ):
        return None
    turns = get_field(raw, "conversations", where, list)
    if len(turns) != 2:
        raise DatasetError(f"{where}: the conversation has {len(turns)} entries; it should be a question and an answer")
    question = get_field(turns[0], "value", where, str).strip()
    question = question.removeprefix("<video>\n").removesuffix("\n<video>").strip()
    answer = get_field(turns[1], "value", where, str).strip()
    words = count_words(question, answer)
    ids = find_tagged_ids(question, len(objects), where)
    introduction, line, rest = question.partition("\n")
    if line and introduction.startswith("There") and "<region>" in introduction:
        question = rest.strip()
    else:
        introduction = ""
    frames = find_annotated_frames(objects, where)
    if not question or not answer:
        raise DatasetError(f"{where}: the question is {question!r:.40} and the answer {answer!r:.40}; give both")
    query = Query(
        kind="caption" if dataset in _CAPTIONS else "qa",
        text=replace_tags(question),
        answer=replace_tags(answer),
        introduction=replace_tags(introduction),
        about=ids,
        category=_CAPTIONS.get(dataset, ""),
    )
    masks = f"{_FILES[dataset][1]}/{number}.json"
    video = get_field(raw, "video", where, str)
    return Expression(video=video, query=query, masks=(masks,), frames=frames), words


def _read_masks(record: Record, file: Path) -> list[Any]:
    """Per object, per annotated frame, the list of its RLEs."""
    row: Expression = record.raw
    count = len(row.query.about)
    masks = read_json(file, record.source, list)
    shapes = [len(frames) if isinstance(frames, list) else -1 for frames in masks]
    if shapes != [len(row.frames)] * count:
        raise DatasetError(
            f"{record.source}: {file} holds masks of {len(shapes)} objects on {shapes} frames; "
            f"the row has {count} on {len(row.frames)}"
        )
    return [[frame if isinstance(frame, list) else [frame] for frame in frames] for frames in masks]


DATASETS = {
    name: Dataset(
        title=f"VideoRefer-700K, {title}",
        paper="arXiv 2501.00599",
        licence="Apache-2.0; videos Panda-70M",
        home="huggingface.co/datasets/DAMO-NLP-SG/VideoRefer-700K; files without masks and mask folders: UniPixel's "
        "data release, huggingface.co/datasets/PolyU-ChenLab/UniPixel-SFT-1M",
        teaches=teaches,
        splits=("train",),
        files={"train": (*(f"{FOLDER}/{file}" for file in _FILES[name]), f"{FOLDER}/videos")},
        index=read_records,
        sample=read_sample,
    )
    for name, title, teaches in (
        ("videorefer_short_caption", "short captions", "an object in video -> short caption"),
        ("videorefer_detailed_caption", "detailed captions", "an object in video -> long caption"),
        ("videorefer_qa", "questions", "questions about objects in video; memory"),
    )
}
