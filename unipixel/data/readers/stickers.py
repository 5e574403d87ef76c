"""The built-in world of stickers as a dataset: nothing to download, exact masks, any number of records.

The sprites' own licences are listed beside them in ``unipixel/stickers/LICENCES.md``.

Splits: ``train`` and ``val`` are pictures, ``train_video`` and ``val_video`` clips. Training scenes have seed 0,
the others `EVAL_SEED`, from which training never draws.

A record is (seed, index), from which picture, masks and questions follow; there are no files. A sample's questions
come worded, in `Sample.turns`; it has no queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unipixel import stickers
from unipixel.data.frames import resolve_frames
from unipixel.data.records import Dataset, Record
from unipixel.masks import MaskTrack
from unipixel.sample import Box, Point, Sample, Turn

TRAIN_RECORDS = 10_000
VAL_RECORDS = 500


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """The records of a split; ``root`` is not used."""
    is_train, is_video = split.startswith("train"), split.endswith("video")
    seed = 0 if is_train else stickers.EVAL_SEED
    return [
        Record(
            dataset=dataset,
            split=split,
            id=f"{seed}/{number}",
            data_type="seg_video" if is_video else "seg_image",
            root=root,
            raw=(seed, number),
        )
        for number in range(TRAIN_RECORDS if is_train else VAL_RECORDS)
    ]


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """A scene with its questions; of a choice of frames, the questions that point at other frames are left out."""
    seed, number = record.raw
    scene, turns = stickers.generate_scene_with_turns(seed, number, video=record.data_type == "seg_video")
    made = scene.to_sample(turns)
    if frames is not None:
        made = _cut_sample(made, resolve_frames(record, frames, made.media.num_frames))
    return replace(made, source=record.source)


def _cut_sample(made: Sample, frames: list[int]) -> Sample:
    objects = {n: MaskTrack(one.size_hw, tuple(one.rles[t] for t in frames)) for n, one in made.objects.items()}
    turns = [_move_turn(turn, frames) for turn in made.turns]
    return replace(
        made, media=made.media.select(frames), objects=objects, turns=tuple(turn for turn in turns if turn is not None)
    )


def _move_turn(turn: Turn, frames: list[int]) -> Turn | None:
    """The turn with its prompts' frames counted within the cut clip; None if one of them is not in it."""
    if any(prompt.frame not in frames for prompts in turn.references for prompt in prompts):
        return None

    def move_prompt(prompt: Point | Box) -> Point | Box:
        return replace(prompt, frame=frames.index(prompt.frame))

    return replace(
        turn, references=tuple(tuple(move_prompt(prompt) for prompt in prompts) for prompts in turn.references)
    )


DATASETS = {
    "stickers": Dataset(
        title="Stickers, the built-in world",
        paper="none",
        licence="as this package",
        home="made on the spot, nothing to fetch",
        teaches="everything, in small",
        splits=("train", "val", "train_video", "val_video"),
        location="none",
        index=read_records,
        sample=read_sample,
    )
}
