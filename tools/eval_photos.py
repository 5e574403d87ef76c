"""The benchmarks ``photos`` and ``davis_clips`` on folders of their own, with a choice of photos and of frames.

    python tools/eval_photos.py [PHOTOS] [--clips CLIPS] [--model nano] [-n 100] [--spread] [--frames 0] [--alone]

PHOTOS and CLIPS are folders as the readers of `photos` and `davis_clips` read them; their split ``val`` is used. The
first photos of the collection are asked about, those of COCO; --spread takes as many evenly from all sets. Without a
choice, `unipixel eval photos davis_clips --data-root DIR -o OUT` does the same. --alone gives boxes and points to SAM
as its own prompts, past the language model: what a model that hands them on perfectly would have.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import unipixel
from unipixel.data import Record, open_index, read
from unipixel.engine.memory import KnownObject
from unipixel.engine.objects import build_click_anchor
from unipixel.engine.tracking import propagate
from unipixel.eval.benchmarks import BENCHMARKS
from unipixel.eval.predictors import EnginePredictor
from unipixel.eval.protocols import Figure, Prediction, Predictor, Question, Unit, select_frames
from unipixel.eval.runner import BenchmarkRun, predict
from unipixel.masks import MaskTrack
from unipixel.sample import Box, Point, Sample

ALONE = ("box", "point")
"""Splits that SAM can answer by itself."""


@dataclass(frozen=True, kw_only=True)
class ChosenRun(BenchmarkRun):
    """A run of some of the units."""

    count: int
    spread: bool = False
    """Evenly from all of them instead of the first."""

    def list_units(self) -> list[Unit]:
        """Those that are chosen."""
        units = super().list_units()
        if not self.spread or len(units) <= self.count:
            return units[: self.count]
        return [units[int(n)] for n in np.linspace(0, len(units) - 1, self.count)]


class SegmenterPredictor(EnginePredictor):
    """SAM by itself: a point or box is its own prompt, and no word is read."""

    answer_batch = Predictor.answer_batch

    def answer(self, question: Question) -> Prediction:
        """The mask of the prompts on the first frame."""
        session = self._open_session(question)
        space, size_hw = session._space, session.media.size_hw
        anchor = build_click_anchor(space, [one for one in question.prompts if isinstance(one, Box | Point)])
        (piece,) = propagate(space.model.segmenter, space.features, size_hw, 1, {1: [anchor]})
        track = MaskTrack(size_hw, (piece.rles[1],))
        return Prediction(objects=(KnownObject(id=1, label="", track=track, frame_scores=(piece.scores[1],)),))


def measure(run: BenchmarkRun, predictor: Predictor) -> list[Figure]:
    """Ask and score; what fails is printed and counts as the protocol says."""
    lines = predict(run, predictor, None).values()
    for line in lines:
        if not line.is_answered:
            print(f"{line.id}: {line.error or line.left_out}")
    return run.protocol.summarize([one for line in lines for one in line.measures])


def read_frames(record: Record, most: int) -> Sample:
    """The sample of a clip; from the first frame that shows its object at most so many, 0 for all."""
    sample = read(record)
    track = next(iter(sample.objects.values()))
    first = int(np.flatnonzero(track.visible)[0])
    return select_frames(sample, range(first, min(track.num_frames, first + most) if most else track.num_frames))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--spread", action="store_true")
    parser.add_argument("--frames", type=int, default=0, help="of each clip at most so many; 0: all")
    parser.add_argument("--alone", action="store_true", help="SAM without the language model, under boxes and points")
    options = parser.parse_args()
    if options.photos is None and options.clips is None:
        parser.error("give a folder of photos, or --clips, or both")
    if options.alone and options.clips is not None:
        parser.error("--alone is for photos; clips are tracked without the language model anyway")
    predictor = (SegmenterPredictor if options.alone else EnginePredictor)(unipixel.load(options.model))
    for name, root in (("photos", options.photos), ("davis_clips", options.clips)):
        for split, how in BENCHMARKS[name].splits.items() if root is not None else ():
            if options.alone and split not in ALONE:
                continue
            run = ChosenRun(
                name=name,
                split=split,
                protocol=how.protocol,
                records=open_index(name, root, "val"),
                read=read if name == "photos" else lambda record: read_frames(record, options.frames),
                model=options.model,
                count=options.n,
                spread=options.spread,
            )
            for figure in measure(run, predictor):
                trivial = "" if figure.baseline is None else f" ({figure.baseline_name}: {figure.baseline / 100:.3f})"
                print(f"{name}/{split} {figure.name} {figure.value / 100:.3f}{trivial}, {figure.count}", flush=True)


if __name__ == "__main__":
    main()
