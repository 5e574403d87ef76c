"""MVBench and Video-MME: multiple-choice questions about whole videos.

**MVBench**, ``mvbench``: 20 tasks of 200 questions. Under ``mvbench``: ``json/<task>.json`` and
``video/<folder>/<video>``, see `TASKS`. A row::

    {"video": "166583.webm", "question": "What ...?", "candidates": ["a", "b", "c"], "answer": "b"}

The answer is the text of a candidate; the letter of the first that equals it is kept. ``start`` and ``end``, which some
tasks have, are not used, as in the released evaluation. The videos of "Episodic Reasoning" are folders of frames at
3 per second; their clip is every (n // 31)-th frame, at most 32 (every frame where there are fewer than 31).

**Video-MME**, ``videomme``: 2,700 questions about 900 videos, grouped by duration (short, medium, long). Under
``videomme``: the questions in ``test-00000-of-00001.parquet``, the videos as
``videos_3fps_480_noaudio/<videoID>.mp4``; subtitles are not used. A row::

    {"question_id": "001-1", "videoID": "fFjv93ACGo8", "duration": "short", "question": "...",
     "options": ["A. x", "B. y", "C. z", "D. w"], "answer": "C", ...}

Reading it needs the optional package ``pyarrow``.

Known defects and how they are handled: runs of white space, line breaks among them, in questions become one space.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from unipixel.data.files import get_field, read_json, require
from unipixel.data.frames import read_clip
from unipixel.data.records import Dataset, Record
from unipixel.errors import DatasetError
from unipixel.sample import Query, Sample

TASKS: dict[str, tuple[str, str]] = {
    "Episodic Reasoning": ("episodic_reasoning", "tvqa/frames_fps3_hq"),
    "Action Sequence": ("action_sequence", "star/Charades_v1_480"),
    "Action Prediction": ("action_prediction", "star/Charades_v1_480"),
    "Action Antonym": ("action_antonym", "ssv2_video"),
    "Fine-grained Action": ("fine_grained_action", "Moments_in_Time_Raw/videos"),
    "Unexpected Action": ("unexpected_action", "FunQA_test/test"),
    "Object Existence": ("object_existence", "clevrer/video_validation"),
    "Object Interaction": ("object_interaction", "star/Charades_v1_480"),
    "Object Shuffle": ("object_shuffle", "perception/videos"),
    "Moving Direction": ("moving_direction", "clevrer/video_validation"),
    "Action Localization": ("action_localization", "sta/sta_video"),
    "Scene Transition": ("scene_transition", "scene_qa/video"),
    "Action Count": ("action_count", "perception/videos"),
    "Moving Count": ("moving_count", "clevrer/video_validation"),
    "Moving Attribute": ("moving_attribute", "clevrer/video_validation"),
    "State Change": ("state_change", "perception/videos"),
    "Fine-grained Pose": ("fine_grained_pose", "nturgbd"),
    "Character Order": ("character_order", "perception/videos"),
    "Egocentric Navigation": ("egocentric_navigation", "vlnqa"),
    "Counterfactual Inference": ("counterfactual_inference", "clevrer/video_validation"),
}
"""Task of MVBench -> its file in ``json`` and its folder in ``video``."""

VIDEOMME_FILE = "videomme/test-00000-of-00001.parquet"
FOLDER_FRAMES = 32
"""Frames kept of a video that is a folder of frames."""

_VIDEOMME_COLUMNS = ("question_id", "videoID", "duration", "question", "options", "answer")


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """One record per question.

    Raises:
        DatasetError: an annotation file is missing, damaged, or not in its documented layout; or pyarrow is missing.
    """
    questions = _read_mvbench(root, split) if dataset == "mvbench" else _read_videomme(root, split)
    return [
        Record(dataset=dataset, split=split, id=record_id, data_type="video", root=root, raw=(path, query))
        for record_id, path, query in questions
    ]


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """One question about a video.

    Raises:
        DatasetError: the video is missing or damaged.
    """
    path, query = record.raw
    video = record.root / path
    numbers = None
    if video.is_dir():
        count = sum(file.suffix.lower() == ".jpg" for file in video.iterdir())
        numbers = range(0, count, max(1, count // (FOLDER_FRAMES - 1)))[:FOLDER_FRAMES]
    media, _ = read_clip(record, video, numbers or None, frames, None)
    return Sample(media=media, queries=(query,), source=record.source)


def _read_mvbench(root: Path, split: str) -> list[tuple[str, str, Query]]:
    """Record id, path of the video and query of every question, task by task."""
    found = []
    for task, (name, folder) in TASKS.items():
        rows = read_json(root / "mvbench" / "json" / f"{name}.json", f"mvbench/{split}", list)
        for number, row in enumerate(rows):
            where = f"mvbench/{split} row {number} of {name}.json"
            options = tuple(str(option) for option in get_field(row, "candidates", where, list))
            answer = str(get_field(row, "answer", where))
            if answer not in options:
                raise DatasetError(f"{where}: the answer {answer!r} is not one of the candidates {list(options)!r:.80}")
            query = _build_choice(get_field(row, "question", where, str), options, options.index(answer), task)
            found.append((f"{name}/{number}", f"mvbench/video/{folder}/{get_field(row, 'video', where, str)}", query))
    return found


def _read_videomme(root: Path, split: str) -> list[tuple[str, str, Query]]:
    """Record id, path of the video and query of every question."""
    found = []
    for number, row in enumerate(_read_parquet(root / VIDEOMME_FILE, f"videomme/{split}", _VIDEOMME_COLUMNS)):
        where = f"videomme/{split} row {number} of {Path(VIDEOMME_FILE).name}"
        options = [str(option) for option in get_field(row, "options", where, (list, tuple))]
        letters = "".join(option[:1] for option in options)
        answer = get_field(row, "answer", where, str)
        if letters != "ABCD" or any(option[1:3] != ". " for option in options) or answer not in tuple("ABCD"):
            raise DatasetError(
                f"{where}: the options are {options!r:.80} and the answer is {answer!r}; "
                "they should be 'A. ...' to 'D. ...' and the answer one of the letters"
            )
        query = _build_choice(
            get_field(row, "question", where, str),
            tuple(option[3:] for option in options),
            letters.index(answer),
            get_field(row, "duration", where, str),
        )
        path = f"videomme/videos_3fps_480_noaudio/{get_field(row, 'videoID', where, str)}.mp4"
        found.append((get_field(row, "question_id", where, str), path, query))
    return found


def _build_choice(question: str, options: tuple[str, ...], right: int, category: str) -> Query:
    return Query(
        kind="choice",
        text=re.sub(r"\s+", " ", question).strip(),
        answer=chr(ord("A") + right),
        options=options,
        category=category,
    )


def _read_parquet(path: Path, dataset: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a parquet file.

    Raises:
        DatasetError: pyarrow is not installed, or the file is missing, damaged or lacks a column.
    """
    require(path, dataset)
    try:
        pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise DatasetError(
            f"{dataset}: reading {path} needs the package pyarrow; run `pip install 'unipixel[parquet]'`"
        ) from error
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path, columns=list(columns)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(f"{dataset}: {path} is not a readable parquet file ({error}); fetch it again") from error
    return rows


DATASETS = {
    "mvbench": Dataset(
        title="MVBench",
        paper="arXiv 2311.17005",
        licence="MIT; videos of their sources",
        home="huggingface.co/datasets/OpenGVLab/MVBench",
        teaches="nothing, evaluation: choices about video",
        splits=("test",),
        files={
            "test": (
                *(f"mvbench/json/{name}.json" for name, _ in TASKS.values()),
                *dict.fromkeys(f"mvbench/video/{folder}" for _, folder in TASKS.values()),
            )
        },
        index=read_records,
        sample=read_sample,
    ),
    "videomme": Dataset(
        title="Video-MME",
        paper="arXiv 2405.21075",
        licence="its own, research only",
        home="huggingface.co/datasets/lmms-lab/Video-MME (videos re-encoded at 3 fps, 480 pixels, without sound)",
        teaches="nothing, evaluation: choices about video",
        splits=("test",),
        files={"test": (VIDEOMME_FILE, "videomme/videos_3fps_480_noaudio")},
        index=read_records,
        sample=read_sample,
    ),
}
