"""GroundMoRe: questions about actions, answered in words and by the masks of who or what takes part.

Layout under ``data/groundmore``::

    trainval_v2.json, test_v2.json                          questions
    annotations/<video>/images/frame_000000.jpg             6 frames per second; in some videos 0000000.jpg
    annotations/<video>/masks/frame_000000.png              pixel = object id; only on annotated frames

Raw record::

    {"videos": {"x_0010_0027": {"questions": {"0": {"question": "Who jumps?", "answer": "The man", "obj_id": "1",
        "q_type": "Causal", "action_start": "0:10", "action_end": "0:26"}}}}}

A record is one question; its object, the union of the ids in ``obj_id`` ("1" or "1, 2"), has id 1.

* The last 9 characters of a video's id are the start and end of the clip in its source, ``MMSS_MMSS``; ``action_start``
  and ``action_end`` count from the source's beginning as well.
* Images and masks belong together by number, whatever the image is called.
* **train**: the clip is the frames that have a mask.
* **test**: 20 evenly spaced images, repeated where there are fewer. The object counts as there only while the action
  lasts: from 6 * (start - clip start) to 6 * (end - clip start) - 1, as in the authors' evaluation, and only on frames
  with a mask. Elsewhere the truth is "nothing".
* Some questions lack their question mark; it is added.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unipixel.data.encodings import build_track, read_id_mask
from unipixel.data.files import get_field, read_json, require
from unipixel.data.frames import open_clip, resolve_frames
from unipixel.data.records import Dataset, Expression, Record
from unipixel.errors import DatasetError
from unipixel.sample import Query, Sample

FPS = 6
"""Images per second of the source video."""
TEST_FRAMES = 20
"""Images that a test clip has."""

_QUESTIONS = {"train": "groundmore/trainval_v2.json", "test": "groundmore/test_v2.json"}
_NUMBERED = re.compile(r"(\d+)\.(?:jpg|png)$")
_CLIP = re.compile(r"(\d\d)(\d\d)_(\d\d)(\d\d)")


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """One record per question, in file order.

    Raises:
        DatasetError: no such split, or a file or folder is missing or damaged.
    """
    if split not in _QUESTIONS:
        raise DatasetError(f"{dataset} has no split {split!r}; it has {', '.join(_QUESTIONS)}")
    where = f"{dataset}/{split}"
    path = root / _QUESTIONS[split]
    records = []
    for video, value in get_field(read_json(path, where), "videos", f"{where}: {path}", dict).items():
        place = f"{where}: {path}, video {video!r}"
        clip_start = _parse_clip_start(video, place)
        folder = f"groundmore/annotations/{video}"
        images, masks = _map_numbers(root, f"{folder}/images", where), _map_numbers(root, f"{folder}/masks", where)
        numbers = _choose_numbers(images, masks, split, place)
        for expression, question in get_field(value, "questions", place, dict).items():
            query, ids, action = _parse_question(question, clip_start, f"{place}, question {expression!r}")
            first, last = action if split == "test" else (0, numbers[-1])
            found = tuple(masks.get(number, "") if first <= number <= last else "" for number in numbers)
            record = Record(
                dataset=dataset,
                split=split,
                id=f"{video}/{expression}",
                data_type="seg_video" if len(numbers) > 1 else "seg_image",
                root=root,
                frame_names=tuple(images[number] for number in numbers),
                raw=Expression(video=video, expression=expression, query=query, ids=ids, masks=found, frames=numbers),
            )
            records.append(record)
    return records


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """The clip with its question as the one query, and as object 1 whom it asks for.

    Raises:
        DatasetError: a file is missing or damaged, or masks do not fit their frames.
        ValueError: a frame is not in the clip.
    """
    raw: Expression = record.raw
    ts = resolve_frames(record, frames, record.num_frames or 0)
    media = open_clip(record, ts)
    names = [raw.masks[t] for t in ts]
    masks = (read_id_mask(record.root / name, raw.ids, record.source) if name else None for name in names)
    objects = {1: build_track(masks, size_hw=media.size_hw, where=record.source)}
    return Sample(media=media, objects=objects, queries=(raw.query,), source=record.source)


def parse_seconds(text: str, where: str) -> int:
    """Seconds of a time written as ``s``, ``m:ss`` or ``h:mm:ss``.

    Raises:
        DatasetError: it is written otherwise.
    """
    parts = [part.strip() for part in text.split(":")]
    if not 1 <= len(parts) <= 3 or not all(part.isdigit() for part in parts):
        raise DatasetError(f"{where}: a time is {text!r}; it should be minutes:seconds such as 0:07")
    total = 0
    for part in parts:
        total = 60 * total + int(part)
    return total


def _parse_clip_start(video: str, where: str) -> int:
    match = _CLIP.fullmatch(video[-9:])
    if match is None:
        raise DatasetError(f"{where}: an id should end with the clip's start and end, such as _0005_0014")
    return 60 * int(match[1]) + int(match[2])


def _map_numbers(root: Path, folder: str, where: str) -> dict[int, str]:
    """Paths of the numbered pictures of a folder by number, in order."""
    require(root / folder, where, "folder")
    found = ((_NUMBERED.search(path.name), path.name) for path in (root / folder).iterdir())
    return {int(match[1]): f"{folder}/{name}" for match, name in sorted(found, key=lambda item: item[1]) if match}


def _choose_numbers(images: dict[int, str], masks: dict[int, str], split: str, where: str) -> tuple[int, ...]:
    """Numbers of the images that make the clip."""
    if split == "train":
        numbers = [number for number in sorted(images) if number in masks]
    else:
        ordered = sorted(images)
        numbers = [ordered[place] for place in np.linspace(0, len(ordered) - 1, TEST_FRAMES).astype(int) if ordered]
    if not numbers:
        raise DatasetError(
            f"{where}: there are {len(images)} images and {len(masks)} masks in its folder, and none that a clip can "
            "be made of; unpack them again"
        )
    return tuple(numbers)


def _parse_question(value: Any, clip_start: int, where: str) -> tuple[Query, tuple[int, ...], tuple[int, int]]:
    """The question, the pixel values of what it means, and first and last frame of the action, from the clip's start.

    Frames count at `FPS`; the category is Causal, Sequential, Counterfactual or Descriptive.
    """
    text = get_field(value, "question", where, str).strip()
    ids = [part.strip() for part in str(get_field(value, "obj_id", where, (str, int))).split(",")]
    if not all(part.isdigit() for part in ids):
        raise DatasetError(f"{where}: obj_id is {value['obj_id']!r}; it should be numbers such as '1' or '1, 2'")
    start, end = (parse_seconds(get_field(value, f"action_{side}", where, str), where) for side in ("start", "end"))
    query = Query(
        kind="question",
        text=text if text.endswith("?") else f"{text}?",
        answer=get_field(value, "answer", where, str).strip(),
        targets=(1,),
        category=get_field(value, "q_type", where, str).strip(),
    )
    return query, tuple(int(part) for part in ids), (FPS * (start - clip_start), FPS * (end - clip_start) - 1)


DATASETS = {
    "groundmore": Dataset(
        title="GroundMoRe",
        paper="arXiv 2411.09921",
        licence="none stated; research only",
        home="groundmore.github.io",
        teaches="questions -> words and masks in video",
        splits=tuple(_QUESTIONS),
        files={split: (path, "groundmore/annotations") for split, path in _QUESTIONS.items()},
        index=read_records,
        sample=read_sample,
    )
}
