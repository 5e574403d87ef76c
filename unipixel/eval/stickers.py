"""The benchmark of the built-in world: eight figures on held-out scenes, each beside that of a trivial guess.

Scenes come from seeds at and above `EVAL_SEED`, which training never draws from; every split has a seed of its own. A
record is the number of a scene, from which picture, masks and question follow.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np

from unipixel.data.records import Record
from unipixel.eval.choices import score_letter
from unipixel.eval.pixelqa import pair_masks
from unipixel.eval.prompted_masks import (
    score_box,
    score_given_mask,
    score_point,
    summarize_boxes,
    summarize_given_masks,
    summarize_points,
)
from unipixel.eval.protocols import (
    BenchmarkProtocol,
    Figure,
    Measures,
    Prediction,
    Question,
    ReadRecord,
    Unit,
    mean_percent,
    merge_predictions,
    merge_targets,
    merge_tracks,
)
from unipixel.masks import MaskTrack
from unipixel.media import Media
from unipixel.metrics import Overlap, overlap, overlap_scores, volume_scores
from unipixel.sample import Mask, Prompt, Query, Sample
from unipixel.stickers import EVAL_SEED, Scene, SceneSettings, generate_scene, generate_turns, generate_video
from unipixel.stickers.choice_tasks import LETTERS
from unipixel.stickers.scene import box_object, point_at_object

COUNT, VIDEO_COUNT = 200, 40
"""Scenes that are asked about for a figure."""
ANSWER_TOKENS = 24
"""Longest reply."""


class StickerTask(ABC):
    """What is asked about a scene, and how the replies are scored."""

    seed: int
    """Of the scenes, counted from `EVAL_SEED`."""
    is_video = False
    records_per_unit = 1

    @abstractmethod
    def ask(self, scene: Scene, rng: np.random.Generator) -> Question | None:
        """The question about a scene, if it allows one."""

    @abstractmethod
    def score(self, question: Question, prediction: Prediction) -> Measures:
        """What a prediction is worth."""

    @abstractmethod
    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """The figure of the task beside that of a trivial guess, and what belongs to it; of one measure at least."""

    def score_failure(self, question: Question) -> Measures:
        """The same as nothing said and nothing segmented."""
        return self.score(question, Prediction())

    def list_records(self, settings: SceneSettings, count: int) -> list[Record]:
        """The first scenes that allow a question; others are passed over."""
        return list(islice(self.iterate_records(settings, self.seed), count))

    def iterate_records(self, settings: SceneSettings, seed: int) -> Iterator[Record]:
        """Scenes that allow a question, endlessly.

        Args:
            seed: counted from `EVAL_SEED`.
        """
        for index in itertools.count():
            record = Record(
                dataset="stickers",
                split="val",
                id=f"{EVAL_SEED + seed}/{index}",
                data_type="seg_video" if self.is_video else "seg_image",
                root=Path(),
                raw=(EVAL_SEED + seed, index),
            )
            if self.ask_record(record, settings) is not None:
                yield record

    def ask_record(self, record: Record, settings: SceneSettings) -> Question | None:
        """The question about the scene of a record."""
        seed, index = record.raw
        generate = generate_video if self.is_video else generate_scene
        return self.ask(generate(seed, index, settings), np.random.default_rng((seed, index, 1)))


@dataclass(frozen=True, kw_only=True)
class StickerProtocol(BenchmarkProtocol):
    """Questions of one task about held-out scenes."""

    task: StickerTask
    settings: SceneSettings = field(default_factory=SceneSettings)
    """What the scenes look like."""
    count: int | None = None
    """Scenes; None: 200, or 40 videos."""

    batch_size: ClassVar[int] = 16

    def read_records(self, dataset: str, root: str | Path | None, split: str, limit: int | None = None) -> list[Record]:
        """The scenes that are asked about; they need no files."""
        count = self.count or (VIDEO_COUNT if self.task.is_video else COUNT)
        return self.task.list_records(self.settings, count if limit is None else min(count, limit))

    def group_records(self, records: Sequence[Record]) -> list[Unit]:
        """One scene each, or one of either kind where a task has two."""
        number = self.task.records_per_unit
        parts = [tuple(records[n : n + number]) for n in range(0, len(records), number)]
        return [Unit(part[0].id, part) for part in parts]

    def build_questions(self, unit: Unit, read: ReadRecord, num_frames: int) -> list[Question]:
        """The question of each scene."""
        questions = [self.task.ask_record(record, self.settings) for record in unit.records]
        return [question for question in questions if question is not None]

    def score(self, question: Question, prediction: Prediction) -> Measures:
        """See the task."""
        return self.task.score(question, prediction)

    def score_failure(self, question: Question | None) -> Measures:
        """See the task."""
        if question is None:
            raise ValueError("the scene of a question cannot be made again")
        return self.task.score_failure(question)

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """See the task."""
        return self.task.summarize(measures) if measures else []


class StickerExpressions(StickerTask):
    """cIoU of "the red car", and how much of the other objects is painted."""

    seed = 0

    def ask(self, scene: Scene, rng: np.random.Generator) -> Question | None:
        """The question for the mask of a named object."""
        return _ask_in_words(scene, rng, "refer")

    def score(self, question: Question, prediction: Prediction) -> Measures:
        """Overlap with the target and with the other objects, and that of all objects with the target."""
        sample, targets = question.sample, question.query.targets
        found, goal = merge_predictions(question, prediction).mask(0), merge_targets(question).mask(0)
        rest = merge_tracks([track for i, track in sample.objects.items() if i not in targets], sample).mask(0)
        own, trivial = overlap(found, goal), overlap(goal | rest, goal)
        return {
            "intersection": own.intersection,
            "union": own.union,
            "others": overlap(found, rest).iou if found.any() or rest.any() else 0.0,
            "trivial": [trivial.intersection, trivial.union],
        }

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """cIoU, gIoU, the overlap with other objects, and Prec@0.5."""
        scores = overlap_scores([Overlap(m["intersection"], m["union"]) for m in measures])
        trivial = overlap_scores([Overlap(*m["trivial"]) for m in measures])
        return [
            Figure(
                name="refer cIoU",
                value=100 * scores.cIoU,
                count=len(measures),
                baseline=100 * trivial.cIoU,
                baseline_name="all objects painted",
            ),
            Figure(name="gIoU", value=100 * scores.gIoU, count=len(measures)),
            Figure(name="IoU on the others", value=mean_percent([m["others"] for m in measures]), count=len(measures)),
            Figure(name="Prec@0.5", value=100 * scores.precision[0.5], count=len(measures)),
        ]


class StickerBoxes(StickerTask):
    """IoU of the mask of what a box encloses."""

    seed = 1

    def ask(self, scene: Scene, rng: np.random.Generator) -> Question | None:
        """A box around a random object."""
        n = int(rng.integers(len(scene.objects)))
        return _ask_about_object(scene, n, box_object(scene, n, rng))

    def score(self, question: Question, prediction: Prediction) -> Measures:
        """See `score_box`."""
        return score_box(question, prediction)

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """See `summarize_boxes`."""
        return summarize_boxes(measures)


class StickerPoints(StickerTask):
    """IoU of the mask of what a point lies on."""

    seed = 2

    def ask(self, scene: Scene, rng: np.random.Generator) -> Question | None:
        """A point on a random object."""
        n = int(rng.integers(len(scene.objects)))
        return _ask_about_object(scene, n, point_at_object(scene, n, rng))

    def score(self, question: Question, prediction: Prediction) -> Measures:
        """See `score_point`."""
        return score_point(question, prediction)

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """See `summarize_points`."""
        return summarize_points(measures)


class StickerNames(StickerTask):
    """Accuracy of naming the object under a box."""

    seed = 3

    def ask(self, scene: Scene, rng: np.random.Generator) -> Question | None:
        """What a random object is."""
        n = int(rng.integers(len(scene.objects)))
        box = box_object(scene, n, rng)
        return _ask_about_object(scene, n, box, "What is [1]?", scene.objects[n].thing.name)

    def score(self, question: Question, prediction: Prediction) -> Measures:
        """The right name beside the one that was said."""
        said = prediction.text.strip().rstrip(".").removeprefix("the ")
        return {"expected": question.query.answer, "said": said}

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """Share of right names."""
        names = [m["expected"] for m in measures]
        return [
            Figure(
                name="naming",
                value=mean_percent([m["said"] == m["expected"] for m in measures]),
                count=len(measures),
                baseline=100 * max(names.count(name) for name in names) / len(names),
                baseline_name="always the commonest name",
            )
        ]


class StickerAbsence(StickerTask):
    """Half of the questions ask for something that is not there: is it left unsegmented, and the rest segmented?"""

    seed = 4
    present_seed = 5
    records_per_unit = 2

    def list_records(self, settings: SceneSettings, count: int) -> list[Record]:
        """In turn a scene that is asked for something absent, and one that is asked for something present."""
        kinds = (islice(self.iterate_records(settings, seed), count) for seed in (self.seed, self.present_seed))
        return [record for pair in zip(*kinds, strict=True) for record in pair]

    def ask(self, scene: Scene, rng: np.random.Generator) -> Question | None:
        """The question for the mask of something absent or present."""
        return _ask_in_words(scene, rng, "absent" if scene.seed == EVAL_SEED + self.seed else "refer")

    def score(self, question: Question, prediction: Prediction) -> Measures:
        """Whether it is there, and whether anything was segmented."""
        found = bool(merge_predictions(question, prediction).visible.any())
        return {"is_present": bool(question.query.targets), "is_segmented": found}

    def score_failure(self, question: Question) -> Measures:
        """A wrong answer."""
        is_present = bool(question.query.targets)
        return {"is_present": is_present, "is_segmented": not is_present}

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """The mean of both shares, and each of them."""
        silent = [not m["is_segmented"] for m in measures if not m["is_present"]]
        found = [m["is_segmented"] for m in measures if m["is_present"]]
        absent, present = mean_percent(silent), mean_percent(found)
        return [
            Figure(
                name="not there",
                value=(absent + present) / 2,
                count=len(measures),
                baseline=50.0,
                baseline_name="always the same reply",
            ),
            Figure(name="absent", value=absent, count=len(silent)),
            Figure(name="present", value=present, count=len(found)),
        ]


class StickerVideos(StickerTask):
    """J&F of "the dog" through a clip, as volumes."""

    seed = 6
    is_video = True

    def ask(self, scene: Scene, rng: np.random.Generator) -> Question | None:
        """The question for the masks of a named object."""
        return _ask_in_words(scene, rng, "refer")

    def score(self, question: Question, prediction: Prediction) -> Measures:
        """J and F of the object, and J&F of its true mask of the first frame, never moved."""
        goal = merge_targets(question).masks
        scores = volume_scores(merge_predictions(question, prediction).masks, goal)
        still = volume_scores(np.broadcast_to(goal[:1], goal.shape).copy(), goal)
        return {"J": scores.J, "F": scores.F, "J&F": scores.JF, "trivial": still.JF}

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """J&F, J and F."""
        means = {name: mean_percent([m[name] for m in measures]) for name in ("J&F", "J", "F", "trivial")}
        first = Figure(
            name="video J&F",
            value=means["J&F"],
            count=len(measures),
            baseline=means["trivial"],
            baseline_name="the true first mask, unmoved",
        )
        return [first, *(Figure(name=name, value=means[name], count=len(measures)) for name in ("J", "F"))]


class StickerGivenMasks(StickerTask):
    """J&F, as volumes, of an object whose true mask of the first frame is given, on the frames after it."""

    seed = 8
    is_video = True

    def ask(self, scene: Scene, rng: np.random.Generator) -> Question | None:
        """The first mask of a random object."""
        seen = np.flatnonzero(scene.masks[:, 0].any((1, 2)))
        if not len(seen):
            return None
        n = int(seen[int(rng.integers(len(seen)))])
        return _ask_about_object(scene, n, Mask(scene.masks[n, 0]))

    def score(self, question: Question, prediction: Prediction) -> Measures:
        """See `score_given_mask`."""
        return score_given_mask(question, prediction, as_volume=True)

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """See `summarize_given_masks`."""
        return summarize_given_masks(measures, "video J&F, first mask given")


class StickerChoices(StickerTask):
    """Multiple choice about objects given by points and boxes, with J&F of the masks that the model makes of them."""

    seed = 7

    def ask(self, scene: Scene, rng: np.random.Generator) -> Question | None:
        """A choice, with a point or a box on each object that it names."""
        turns = generate_turns(scene, rng, 1, {"choice": 1.0})
        if not turns:
            return None
        turn, places = turns[0], {item.id: n for n, item in enumerate(scene.objects)}
        prompts: list[Prompt] = []
        for i in turn.regions:
            draw = point_at_object if rng.random() < 0.5 else box_object
            prompts.append(replace(draw(scene, places[i], rng), object_id=i))
        query = Query(
            kind="choice",
            text=turn.question,
            answer=turn.answer.strip("()"),
            about=turn.regions,
            options=tuple(letter for letter in LETTERS if f"({letter})" in turn.question),
        )
        return Question(
            sample=scene.to_sample(()),
            query=query,
            text=turn.question,
            prompts=tuple(prompts),
            max_new_tokens=ANSWER_TOKENS,
        )

    def score(self, question: Question, prediction: Prediction) -> Measures:
        """The letter, and J and Dice of every object; one that was not found has an empty mask."""
        letter = score_letter(question.query, prediction.text, rule="bracketed")
        scores = [volume_scores(found, truth) for found, truth in pair_masks(question, prediction)]
        options = len(question.query.options)
        return {**letter, "options": options, "J": [s.J for s in scores], "F": [s.F for s in scores]}

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """Accuracy over questions, and J&F over objects."""
        right = [m["letter"] is not None and m["letter"] == m["expected"].lower() for m in measures]
        quality = [(J + F) / 2 for m in measures for J, F in zip(m["J"], m["F"], strict=True)]
        return [
            Figure(
                name="PixelQA",
                value=mean_percent(right),
                count=len(measures),
                baseline=mean_percent([1 / m["options"] for m in measures]),
                baseline_name="a random option",
            ),
            Figure(name="J&F", value=mean_percent(quality), count=len(quality)),
        ]


def _ask_in_words(scene: Scene, rng: np.random.Generator, task: str) -> Question | None:
    turns = generate_turns(scene, rng, 1, {task: 1.0})
    if not turns:
        return None
    query = Query(kind="query", text=turns[0].question, answer=turns[0].answer, targets=turns[0].targets)
    return Question(sample=scene.to_sample(()), query=query, text=query.text, max_new_tokens=ANSWER_TOKENS)


def _ask_about_object(scene: Scene, n: int, prompt: Prompt, text: str = "", answer: str = "") -> Question:
    """A question about one object, which is object 1; without words for its mask."""
    sample = Sample(
        media=Media.from_array(scene.frames if scene.is_video else scene.image),
        objects={1: MaskTrack.from_masks(scene.masks[n])},
        source=f"stickers {scene.seed}/{scene.index}",
    )
    query = Query(kind="caption" if answer else "query", text=text, answer=answer, targets=(1,), about=(1,))
    prompts = (replace(prompt, object_id=1),)
    return Question(sample=sample, query=query, text=text, prompts=prompts, max_new_tokens=ANSWER_TOKENS)
