"""Tiny datasets in memory: squares that move, with expressions, questions and captions about them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unipixel.data.records import Record
from unipixel.eval.predictors import PerfectPredictor
from unipixel.eval.protocols import BenchmarkProtocol, Prediction, Question
from unipixel.eval.runner import BenchmarkRun
from unipixel.masks import MaskTrack, encode_rle, save_davis_png
from unipixel.media import Media
from unipixel.sample import Query, Sample

SIZE_HW = (24, 32)
FRAMES = 6


def square(x: int, y: int, frames: int = FRAMES, *, hidden: Sequence[int] = (), side: int = 8) -> MaskTrack:
    """A square that moves right by one pixel a frame; not there on the hidden frames."""
    masks = np.zeros((frames, *SIZE_HW), dtype=bool)
    for t in range(frames):
        if t not in hidden:
            masks[t, y : y + side, x + t : x + t + side] = True
    return MaskTrack.from_masks(masks)


def media(frames: int = FRAMES, seed: int = 0) -> Media:
    """Noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (frames, *SIZE_HW, 3), dtype=np.uint8)
    return Media.from_array(pixels if frames > 1 else pixels[0])


def record(record_id: str, made: Callable[[], Sample], frames: int = FRAMES, dataset: str = "squares") -> Record:
    """A record that carries how its sample is made."""
    video = record_id.rsplit("/", 1)[0]
    names = tuple(f"{video}/{t:05d}.jpg" for t in range(frames))
    return Record(
        dataset=dataset, split="test", id=record_id, data_type="seg_video", root=Path(), frame_names=names, raw=made
    )


def read(record: Record) -> Sample:
    """The sample of a record of this module."""
    sample: Sample = record.raw()
    return sample


def expressions(videos: int = 3, each: int = 2) -> list[Record]:
    """Referring expressions: videos ``v0``, ``v1``, ...; the second object of a video is hidden on its last frames."""

    def made(video: int, number: int) -> Callable[[], Sample]:
        def make() -> Sample:
            track = square(2 + 3 * number, 4 + number, hidden=range(4, FRAMES) if number else ())
            return Sample(
                media=media(seed=video),
                objects={1: track},
                areas={"foreground": track.union(square(12, 12))},
                queries=(
                    Query(
                        kind="query",
                        text=f"thing {number}",
                        targets=(1,),
                        category=("referring", "reasoning")[number % 2],
                    ),
                ),
                source=f"squares/test v{video}/{number}",
            )

        return make

    return [record(f"v{v}/{e}", made(v, e)) for v in range(videos) for e in range(each)]


def choices(number: int = 4) -> list[Record]:
    """Questions about two objects, 0 and 3, with the right letters B, C, D, A, ..."""

    def made(place: int) -> Callable[[], Sample]:
        def make() -> Sample:
            query = Query(
                kind="choice",
                text="What does [0] do to [3]?",
                answer="BCDA"[place % 4],
                about=(0, 3),
                options=("it pushes [3]", "nothing", "it hides", "it leaves"),
                frame=2,
                category=("Basic Questions", "Future Predictions")[place % 2],
            )
            objects = {0: square(1, 1), 3: square(14, 10)}
            return Sample(media=media(seed=place), objects=objects, queries=(query,), source=f"squares/test {place}")

        return make

    return [record(f"{place}", made(place)) for place in range(number)]


def captions(texts: Sequence[str] = ("a red car drives left", "two dogs play in the snow")) -> list[Record]:
    """Descriptions to be made of object 0."""

    def made(text: str) -> Callable[[], Sample]:
        query = Query(kind="caption", text="", answer=text, about=(0,), frame=1, category="detailed")
        return lambda: Sample(media=media(), objects={0: square(3, 3)}, queries=(query,), source="squares/test")

    return [record(f"{place}", made(text)) for place, text in enumerate(texts)]


def run(protocol: BenchmarkProtocol, records: Sequence[Record], name: str, split: str, **options: Any) -> BenchmarkRun:
    """A run over records of this module under the name of a benchmark."""
    options = {"model": "test", **options}
    return BenchmarkRun(name=name, split=split, protocol=protocol, records=records, read=read, **options)


class Counting(PerfectPredictor):
    """Knows the truth, counts its questions, and fails or stops where it is told to."""

    def __init__(self, fail: Sequence[int] = (), stop_at: int | None = None) -> None:
        self.asked = 0
        self._fail, self._stop = fail, stop_at

    def answer(self, question: Question) -> Prediction:
        """The truth."""
        self.asked += 1
        if self._stop == self.asked - 1:
            raise KeyboardInterrupt
        if self.asked - 1 in self._fail:
            raise RuntimeError("out of\nmemory")
        return super().answer(question)


def write_photos(root: Path, name_of_set: str, stems: list[str]) -> None:
    """A set of photos with four overlapping boxes each; in every other one the first is a person."""
    folder = root / name_of_set / "images"
    folder.mkdir(parents=True)
    lines = []
    for number, stem in enumerate(stems):
        Image.fromarray(np.full((40, 50, 3), 9, np.uint8)).save(folder / f"{stem}.jpg")
        instances = []
        for k in range(4):
            mask = np.zeros((40, 50), bool)
            mask[4 * k + 1 : 4 * k + 20, 5 : 30 + number] = True
            rle = encode_rle(mask)
            category = "person" if k == 0 and number % 2 == 0 else "cup"
            instances.append({"category": category, "area": int(mask.sum()), "rle": rle, "bbox": [5, 1, 9, 9]})
        line = {"image": f"images/{stem}.jpg", "width": 50, "height": 40, "instances": instances}
        lines.append(json.dumps(line))
    (folder.parent / "labels.jsonl").write_text("\n".join(lines))


def held_out(count: int) -> list[str]:
    """Names of photos that belong to ``val``."""
    return [f"p{n}" for n in range(400) if zlib.crc32(f"p{n}".encode()) % 10 == 0][:count]


def write_clip(root: Path) -> str:
    """A clip that opens empty; then its object stands still, and on the last frame it is elsewhere."""
    name = next(f"c{n}" for n in range(100) if zlib.crc32(f"c{n}".encode()) % 5 == 0)
    (root / name).mkdir(parents=True)
    (root / "masks" / name).mkdir(parents=True)
    for t in range(5):
        ids = np.zeros((48, 64), np.uint8)
        if t:
            ids[10:30, 10:30] = 1
        if t == 4:
            ids = np.roll(ids, 30, 1)
        picture = np.where(ids[..., None] == 1, (250, 30, 30), (20, 60, 90)).astype(np.uint8)
        Image.fromarray(picture).save(root / name / f"{t:05d}.jpg")
        save_davis_png(ids, root / "masks" / name / f"{t:05d}.png")
    (root / name / "labels.jsonl").write_text(
        json.dumps({"id": 1, "category": "box", "expressions": ["the box"]}) + "\n"
    )
    (root / "sequences.jsonl").write_text(json.dumps({"sequence": name}) + "\n")
    return name
