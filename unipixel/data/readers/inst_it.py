"""Inst-IT: captions of single objects in images, and questions about objects in short clips.

Layout, under ``inst_it/Inst-IT-Dataset``::

    inst_it_dataset_image_51k_w_mask.json    images_raw/<path without its first folder>
    inst_it_dataset_video_21k_w_mask.json    videos_raw/<path without its first folder>/<frame>.jpg or .png

Rows of the two files (ids and times count from 1)::

    {"image_id": "1", "image_path": "images/a/b.jpg", "instance_level_caption": {"1": {"short": "...", "long": "..."}},
     "segmentations": {"1": {"mask": {"size": [H, W], "counts": "..."}}}}
    {"video_id": "7", "video_path": "videos/c/d", "question_answer_pairs":
       [{"question": "What does [1] do between <1> and <3>?", "answer": "[1] ..."}],
     "segmentations": {"0001.jpg": {"1": {"mask": {...}}}, ...}}

Datasets: ``inst_it_image_short_caption_raw`` and ``inst_it_image_long_caption_raw``, one record per object;
``inst_it_video_qa_raw``, one record per question, never thinned out in time: its texts speak of the n-th frame as <n>.
The memory form wants clips of at most 8 frames (see `Record.num_frames`).

Known defects and how they are handled: times are sometimes counted from 0 (``<0>`` becomes ``<1>``); ids have a leading
zero (``[03]`` becomes ``[3]``); questions that mention no object, one without a mask, or more than 5 objects are left
out, and so are clips of more than 10 frames. The frames of a clip are those in its folder, not those that have masks:
a frame without any object has no entry, and the times in the texts count it.
Differs: the released loader counts to 5 over all questions of a clip where objects are given as regions;
`Record.clip_objects` lets training do the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unipixel.data.encodings import rle_to_mask, rles_to_track
from unipixel.data.files import get_field, read_json, require
from unipixel.data.frames import open_clip, open_picture, repeat_mask, resolve_frames
from unipixel.data.records import Dataset, Record, count_words
from unipixel.errors import DatasetError
from unipixel.sample import Query, Sample

FOLDER = "inst_it/Inst-IT-Dataset"
MAX_FRAMES = 10
_FILES = {"images": "inst_it_dataset_image_51k_w_mask.json", "videos": "inst_it_dataset_video_21k_w_mask.json"}
MAX_OBJECTS = 5

_LENGTHS = {"inst_it_image_short_caption_raw": "short", "inst_it_image_long_caption_raw": "long"}
_ID = re.compile(r"\[0*(\d+)\]")


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """One record per captioned object, or per question; see the module's docstring for those that are left out.

    Raises:
        DatasetError: the annotation file or the folder of a clip is missing, damaged, or not as documented.
    """
    images = dataset in _LENGTHS
    name = _FILES["images" if images else "videos"]
    records = []
    for number, row in enumerate(read_json(root / FOLDER / name, f"{dataset}/{split}", list)):
        where = f"{dataset}/{split} row {number} of {name}"
        found = _read_captions(row, _LENGTHS[dataset], where) if images else _read_questions(row, root, where)
        clip_objects = 0 if images else _count_clip_objects(row, where)
        for number_within, (frame_names, raw) in found:
            records.append(
                Record(
                    dataset=dataset,
                    split=split,
                    id=f"{get_field(row, 'image_id' if images else 'video_id', where)}/{number_within}",
                    data_type="region_image" if len(frame_names) == 1 else "region_video",
                    root=root,
                    frame_names=frame_names,
                    raw=raw,
                    words=0 if images else count_words(raw[0], raw[1]),
                    clip_objects=0 if images else clip_objects,
                )
            )
    return records


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """One captioned object or one question.

    Raises:
        DatasetError: a picture is missing or damaged, or a mask does not fit it.
    """
    if record.dataset in _LENGTHS:
        object_id, mask, caption = record.raw
        media = open_picture(record, frames)
        track = repeat_mask(rle_to_mask(mask, media.size_hw, record.source), media.num_frames)
        query = Query(kind="caption", text="", answer=caption, about=(object_id,), category=_LENGTHS[record.dataset])
        return Sample(media=media, objects={object_id: track}, queries=(query,), source=record.source)
    question, answer, about, masks = record.raw
    names = record.frame_names or ()
    chosen = resolve_frames(record, frames, len(names))
    media = open_clip(record, chosen)
    objects = {}
    for object_id in about:
        where = f"{record.source}, object {object_id}"
        rles = [_find_mask(masks, Path(names[t]).name, object_id, where) for t in chosen]
        objects[object_id] = rles_to_track(rles, media.size_hw, where)
    query = Query(kind="qa", text=question, answer=answer, about=about)
    return Sample(media=media, objects=objects, queries=(query,), source=record.source)


_Found = tuple[tuple[str, ...], Any]
"""Frame names and `Record.raw`."""


def _read_captions(row: Any, length: str, where: str) -> list[tuple[str, _Found]]:
    """Every captioned object of an image by its id."""
    names = (f"{FOLDER}/images_raw/{_drop_first_folder(get_field(row, 'image_path', where, str), where)}",)
    masks = get_field(row, "segmentations", where, dict)
    found: list[tuple[str, _Found]] = []
    for object_id, captions in get_field(row, "instance_level_caption", where, dict).items():
        caption = get_field(captions, length, where, str)
        mask = get_field(get_field(masks, object_id, where, dict), "mask", where, dict)
        if not object_id.isdigit():
            raise DatasetError(f"{where}: an object has the id {object_id!r}; it should be a number")
        if caption.strip():
            found.append((object_id, (names, (int(object_id), mask, caption))))
    return found


def _read_questions(row: Any, root: Path, where: str) -> list[tuple[str, _Found]]:
    """Every usable question about a clip by its number."""
    folder = f"{FOLDER}/videos_raw/{_drop_first_folder(get_field(row, 'video_path', where, str), where)}"
    names = [path.name for path in require(root / folder, where, "folder of frames").iterdir()]
    names = sorted((name for name in names if name.lower().endswith((".jpg", ".png"))), key=_parse_time)
    if not names:
        raise DatasetError(f"{where}: {root / folder} holds no frames; it should hold .jpg or .png files")
    if len(names) > MAX_FRAMES:
        return []
    by_frame = get_field(row, "segmentations", where, dict)
    masks = {name: get_field(by_frame, name, where, dict) for name in names if name in by_frame}
    seen = {object_id for objects in masks.values() for object_id in objects}
    found: list[tuple[str, _Found]] = []
    order: dict[int, None] = {}
    for number, pair in enumerate(get_field(row, "question_answer_pairs", where, list)):
        question, answer = (_repair_ids(get_field(pair, key, where, str)) for key in ("question", "answer"))
        # As they come up in the clip's questions; those of one question are in any order in the released loader.
        ids = sorted({int(object_id) for object_id in _ID.findall(f"{question} {answer}")})
        order |= dict.fromkeys(ids)
        about = tuple(object_id for object_id in order if object_id in ids)
        usable = 1 <= len(about) <= MAX_OBJECTS and all(str(object_id) in seen for object_id in about)
        if usable and question.strip() and answer.strip():
            paths = tuple(f"{folder}/{name}" for name in names)
            found.append((str(number), (paths, (question, answer, about, masks))))
    return found


def _count_clip_objects(row: Any, where: str) -> int:
    """Objects that all questions about a clip mention, with their answers."""
    pairs = get_field(row, "question_answer_pairs", where, list)
    texts = (str(get_field(pair, key, where)) for pair in pairs for key in ("question", "answer"))
    return len({number for text in texts for number in _ID.findall(text)})


def _repair_ids(text: str) -> str:
    return _ID.sub(lambda number: f"[{int(number[1])}]", text).replace("<0>", "<1>")


def _find_mask(masks: Mapping[str, Any], name: str, object_id: int, where: str) -> list[Any]:
    """The RLE of an object on a frame in a list, or an empty one."""
    found = masks.get(name, {}).get(str(object_id))
    return [] if found is None else [get_field(found, "mask", where, (dict, type(None)))]


def _drop_first_folder(path: str, where: str) -> str:
    _, slash, rest = path.partition("/")
    if not slash or not rest:
        raise DatasetError(f"{where}: the path is {path!r}; it should have a first folder, which is left out")
    return rest


def _parse_time(name: str) -> tuple[int, str]:
    """Frames are in the order of the number in their name, whatever stands before it."""
    number = re.search(r"\d+", name)
    return int(number[0]) if number else -1, name


DATASETS = {
    name: Dataset(
        title=f"Inst-IT, {title}",
        paper="arXiv 2412.03565",
        licence=f"Apache-2.0; {media} of their sources",
        home="huggingface.co/datasets/Inst-IT/Inst-It-Dataset (images_raw, videos_raw; annotations with masks)",
        teaches=teaches,
        splits=("train",),
        files={"train": (f"{FOLDER}/{_FILES[media]}", f"{FOLDER}/{media}_raw")},
        index=read_records,
        sample=read_sample,
    )
    for name, title, media, teaches in (
        (
            "inst_it_image_short_caption_raw",
            "short captions of objects in images",
            "images",
            "an object in an image -> short caption",
        ),
        (
            "inst_it_image_long_caption_raw",
            "long captions of objects in images",
            "images",
            "an object in an image -> long caption",
        ),
        ("inst_it_video_qa_raw", "questions about clips", "videos", "questions about objects in video; memory"),
    )
}
