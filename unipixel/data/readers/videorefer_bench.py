"""VideoRefer-Bench: questions with options about objects in videos (Q), and descriptions of objects (D).

Q has 1,000 questions of five types, D 400 objects.

Layout, under ``videorefer/VideoRefer-Bench``::

    VideoRefer-Bench-Q.json    videos/<video>                   a folder of frames (or a file)
    VideoRefer-Bench-D.json    videos/Panda-70M-part/<video>    MP4

Rows of Q and of D::

    {"id": 0, "video": "DAVIS/JPEGImages/480p/aerobatics", "Question": "What is <object3><region> doing?",
     "type": "Basic Questions", "options": ["(A) Flying", "(B) ..."], "Answer": "(A) Flying", "frame_idx": "12",
     "annotation": [{"0": {"segmentation": {"size": [...], "counts": "..."}}, "2": {"segmentation": null}, ...}]}
    {"id": 0, "video": "x.mp4", "caption": "A ...", "frame_idx": "0", "annotation": [{...}]}

The clip is the 32 annotated frames, not the video; `Query.frame` is ``frame_idx`` within it. Of frames chosen from
the clip the nearest one makes room for that frame, as in the released evaluation, so that the single-frame mode (only
the mask of `Query.frame` is given) and PixelQA (a point or box on it) always have it.
The object of D is [0]; its question is fixed and therefore not in the file: `Query.text` is empty.

Known defects and how they are handled: ``frame_idx`` and the frame numbers are text; a frame on which an object is not
seen is missing from its annotation or has ``null``; options and answers may mention objects by tags, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unipixel.data.encodings import rles_to_track
from unipixel.data.files import get_field, read_json
from unipixel.data.frames import read_clip
from unipixel.data.readers.videorefer import (
    ONLY_ID,
    find_annotated_frames,
    find_tagged_ids,
    parse_frame_number,
    replace_tags,
)
from unipixel.data.records import Dataset, Record
from unipixel.errors import DatasetError
from unipixel.sample import Query, Sample

FOLDER = "videorefer/VideoRefer-Bench"

_FILES = {
    "videorefer_bench_q": ("VideoRefer-Bench-Q.json", "videos"),
    "videorefer_bench_d": ("VideoRefer-Bench-D.json", "videos/Panda-70M-part"),
}
_OPTION = re.compile(r"\(([A-Z])\)\s*(.*)", re.DOTALL)


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """One record per question (Q) or object (D).

    Raises:
        DatasetError: the annotation file is missing, damaged, or not in its documented layout.
    """
    name, _ = _FILES[dataset]
    rows = read_json(root / FOLDER / name, f"{dataset}/{split}", list)
    records = []
    for number, row in enumerate(rows):
        where = f"{dataset}/{split} row {number} of {name}"
        objects = get_field(row, "annotation", where, list)
        numbers = find_annotated_frames(objects, where)
        query = (
            _parse_question(row, len(objects), where)
            if dataset == "videorefer_bench_q"
            else _parse_description(row, where)
        )
        raw = (get_field(row, "video", where, str), objects, numbers, parse_frame_number(row, numbers, where), query)
        records.append(
            Record(dataset=dataset, split=split, id=str(number), data_type="region_video", root=root, raw=raw)
        )
    return records


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """One question or object, with the objects' masks on the annotated frames.

    Raises:
        DatasetError: the video is missing, damaged, or does not fit the annotation.
    """
    video, annotation, numbers, pointed, query = record.raw
    t = numbers.index(pointed)
    path = record.root / FOLDER / _FILES[record.dataset][1] / video
    media, chosen = read_clip(record, path, numbers, frames, t)
    objects = {}
    for object_id, masks in zip(query["about"], annotation, strict=True):
        where = f"{record.source}, object {object_id}"
        listed = [masks.get(str(numbers[k])) for k in chosen]
        rles = [[] if mask is None else [get_field(mask, "segmentation", where, (dict, type(None)))] for mask in listed]
        objects[object_id] = rles_to_track(rles, media.size_hw, where)
    asked = Query(**query, frame=chosen.index(t))
    return Sample(media=media, objects=objects, queries=(asked,), source=record.source)


def _parse_question(row: Any, count: int, where: str) -> dict[str, Any]:
    """Fields of the `Query` of a row of Q."""
    text = get_field(row, "Question", where, str).strip()
    options = [_OPTION.fullmatch(str(option).strip()) for option in get_field(row, "options", where, list)]
    letters = [option[1] if option else "?" for option in options]
    answer = _OPTION.match(get_field(row, "Answer", where, str).strip())
    if letters != [chr(ord("A") + k) for k in range(len(letters))] or not answer or answer[1] not in letters:
        raise DatasetError(
            f"{where}: the options are lettered {letters} and the answer is {row['Answer']!r:.40}; "
            "they should begin with (A), (B), ... and the answer with one of them"
        )
    return {
        "kind": "choice",
        "text": replace_tags(text),
        "answer": answer[1],
        "about": find_tagged_ids(text, count, where),
        "options": tuple(replace_tags(option[2].strip()) for option in options if option),
        "category": get_field(row, "type", where, str),
    }


def _parse_description(row: Any, where: str) -> dict[str, Any]:
    """Fields of the `Query` of a row of D."""
    if len(row["annotation"]) != 1:
        raise DatasetError(f"{where}: there are masks of {len(row['annotation'])} objects; a description is of one")
    caption = get_field(row, "caption", where, str).strip()
    return {"kind": "caption", "text": "", "answer": caption, "about": (ONLY_ID,), "category": "detailed"}


DATASETS = {
    name: Dataset(
        title=title,
        paper="arXiv 2501.00599",
        licence=f"Apache-2.0; videos {videos}",
        home="huggingface.co/datasets/DAMO-NLP-SG/VideoRefer-Bench; DAVIS and MeViS frames from their own sites",
        teaches=f"nothing, evaluation: {what}",
        splits=("test",),
        files={"test": tuple(f"{FOLDER}/{file}" for file in _FILES[name])},
        index=read_records,
        sample=read_sample,
    )
    for name, title, videos, what in (
        ("videorefer_bench_q", "VideoRefer-Bench-Q", "DAVIS, MeViS", "choices about objects"),
        ("videorefer_bench_d", "VideoRefer-Bench-D", "Panda-70M", "descriptions of objects"),
    )
}
