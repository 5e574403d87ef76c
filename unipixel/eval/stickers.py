"""The benchmark of the built-in world: eight figures on held-out scenes, each beside that of a trivial guess.

Scenes come from seeds at and above `EVAL_SEED`, which training never draws from; every split has a seed of its own. A
record is the number of a scene, from which picture, masks and question follow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from unipixel.data.records import Record
from unipixel.eval.choices import score_letter
from unipixel.eval.pixelqa import pair_masks
from unipixel.eval.prompted_masks import (
    compare_with_trivial,
    score_box,
    score_given_mask,
    score_point,
    summarize_boxes,
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
from unipixel.metrics import iou, overlap, overlap_scores, volume_scores
from unipixel.sample import Mask, Prompt, Query, Sample
from unipixel.stickers import EVAL_SEED, Scene, SceneSettings, generate_scene, generate_turns, generate_video
from unipixel.stickers.choice_tasks import LETTERS
from unipixel.stickers.scene import box_object, point_at_object

COUNT, VIDEO_COUNT = 200, 40
"""Scenes that are asked about for a figure."""
ANSWER_TOKENS = 24
"""Longest reply."""


@dataclass(frozen=True, kw_only=True)
class StickerProtocol(BenchmarkProtocol):
    """Questions of one kind about the first held-out scenes that allow one; others are passed over."""

    seeds: tuple[int, ...]
    """Of the scenes, counted from `EVAL_SEED`; of several, one scene each is a unit."""
    ask: Callable[[Scene, np.random.Generator], Question | None]
    """The question about a scene, if it allows one."""
    measure: Callable[[Question, Prediction], Measures]
    """What a prediction is worth."""
    average: Callable[[Sequence[Measures]], list[Figure]]
    """The figure beside that of a trivial guess, and what belongs to it; of one measure at least."""
    is_video: bool = False
    settings: SceneSettings = field(default_factory=SceneSettings)
    """What the scenes look like."""
    count: int | None = None
    """Scenes of each seed; None: 200, or 40 videos."""

    batch_size: ClassVar[int] = 16

    def read_records(self, dataset: str, root: str | Path | None, split: str, limit: int | None = None) -> list[Record]:
        """The scenes that are asked about, in turn of each seed; they need no files."""
        count = self.count or (VIDEO_COUNT if self.is_video else COUNT)
        number = count if limit is None else min(count, limit)
        kinds = (itertools.islice(self._iterate_records(dataset, split, seed), number) for seed in self.seeds)
        return [record for records in zip(*kinds, strict=True) for record in records]

    def group_records(self, records: Sequence[Record]) -> list[Unit]:
        number = len(self.seeds)
        parts = (tuple(records[n : n + number]) for n in range(0, len(records), number))
        return [Unit(part[0].id, part) for part in parts]

    def build_questions(self, unit: Unit, read: ReadRecord, num_frames: int) -> list[Question]:
        questions = (self._ask(record) for record in unit.records)
        return [question for question in questions if question is not None]

    def score(self, question: Question, prediction: Prediction) -> Measures:
        return self.measure(question, prediction)

    def score_failure(self, question: Question | None) -> Measures:
        """The same as nothing said and nothing segmented; where that would be right, it is wrong."""
        if question is None:
            raise ValueError("a scene cannot be made again")
        return {**self.score(question, Prediction()), "is_failed": True}

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        return self.average(measures) if measures else []

    def _iterate_records(self, dataset: str, split: str, seed: int) -> Iterator[Record]:
        for index in itertools.count():
            record = Record(
                dataset=dataset,
                split=split,
                id=f"{EVAL_SEED + seed}/{index}",
                data_type="seg_video" if self.is_video else "seg_image",
                root=Path(),
                raw=(EVAL_SEED + seed, index),
            )
            if self._ask(record) is not None:
                yield record

    def _ask(self, record: Record) -> Question | None:
        seed, index = record.raw
        generate = generate_video if self.is_video else generate_scene
        return self.ask(generate(seed, index, self.settings), np.random.default_rng((seed, index, 1)))


def ask_expression(scene: Scene, rng: np.random.Generator) -> Question | None:
    """The question for the mask of something named: "the dog", "the red car"."""
    return _ask_in_words(scene, rng, "refer")


def score_expression(question: Question, prediction: Prediction) -> Measures:
    """Overlap with the target and with the other objects, and that of all objects with the target."""
    sample, targets = question.sample, question.query.targets
    found, goal = merge_predictions(question, prediction).mask(0), merge_targets(question).mask(0)
    rest = merge_tracks([track for i, track in sample.objects.items() if i not in targets], sample).mask(0)
    intersection, union = overlap(found, goal)
    return {
        "intersection": intersection,
        "union": union,
        "others": iou(found, rest) if found.any() or rest.any() else 0.0,
        "trivial": list(overlap(goal | rest, goal)),
    }


def summarize_expressions(measures: Sequence[Measures]) -> list[Figure]:
    """cIoU, gIoU, the overlap with other objects, and Prec@0.5."""
    scores = overlap_scores([(m["intersection"], m["union"]) for m in measures])
    trivial = 100 * overlap_scores([m["trivial"] for m in measures])["cIoU"]
    figure = Figure(name="refer cIoU", value=100 * scores["cIoU"], count=len(measures))
    others = {
        "gIoU": 100 * scores["gIoU"],
        "IoU on the others": mean_percent([m["others"] for m in measures]),
        "Prec@0.5": 100 * scores["Prec@0.5"],
    }
    return [
        replace(figure, baseline=trivial, baseline_name="all objects painted"),
        *(Figure(name=name, value=value, count=len(measures)) for name, value in others.items()),
    ]


def ask_box(scene: Scene, rng: np.random.Generator) -> Question | None:
    """A box around a random object."""
    n = int(rng.integers(len(scene.objects)))
    return _ask_about_object(scene, n, box_object(scene, n, rng))


def ask_point(scene: Scene, rng: np.random.Generator) -> Question | None:
    """A point on a random object."""
    n = int(rng.integers(len(scene.objects)))
    return _ask_about_object(scene, n, point_at_object(scene, n, rng))


def ask_name(scene: Scene, rng: np.random.Generator) -> Question | None:
    """What a random object is, with a box around it."""
    n = int(rng.integers(len(scene.objects)))
    return _ask_about_object(scene, n, box_object(scene, n, rng), "What is [1]?", scene.objects[n].thing.name)


def score_name(question: Question, prediction: Prediction) -> Measures:
    """The right name beside the one that was said."""
    said = prediction.text.strip().rstrip(".").removeprefix("the ")
    return {"expected": question.query.answer, "said": said}


def summarize_names(measures: Sequence[Measures]) -> list[Figure]:
    """Share of right names."""
    names = [m["expected"] for m in measures]
    return compare_with_trivial(
        "naming",
        [m["said"] == m["expected"] for m in measures],
        [max(names.count(name) for name in names) / len(names)],
        "always the commonest name",
    )


def ask_absent(scene: Scene, rng: np.random.Generator) -> Question | None:
    """The question for the mask of something that is not there, or for comparison of something that is."""
    return _ask_in_words(scene, rng, "absent" if scene.seed == EVAL_SEED + ABSENT_SEED else "refer")


def score_absent(question: Question, prediction: Prediction) -> Measures:
    """Whether it is there, and whether anything was segmented."""
    found = bool(merge_predictions(question, prediction).visible.any())
    return {"is_present": bool(question.query.targets), "is_segmented": found}


def summarize_absent(measures: Sequence[Measures]) -> list[Figure]:
    """Shares of what is absent and left unsegmented, and of what is present and segmented; and their mean."""
    right: dict[bool, list[bool]] = {False: [], True: []}
    for m in measures:
        right[m["is_present"]].append(m["is_segmented"] == m["is_present"] and not m.get("is_failed"))
    absent, present = mean_percent(right[False]), mean_percent(right[True])
    figure = Figure(name="not there", value=(absent + present) / 2, count=len(measures))
    return [
        replace(figure, baseline=50.0, baseline_name="always the same reply"),
        Figure(name="absent", value=absent, count=len(right[False])),
        Figure(name="present", value=present, count=len(right[True])),
    ]


def score_video(question: Question, prediction: Prediction) -> Measures:
    """J and F of the object as a volume, and J&F of its true mask of the first frame, never moved."""
    goal = merge_targets(question).masks
    still = volume_scores(np.broadcast_to(goal[:1], goal.shape).copy(), goal)
    return {**volume_scores(merge_predictions(question, prediction).masks, goal), "trivial": still["J&F"]}


def summarize_videos(measures: Sequence[Measures]) -> list[Figure]:
    """J&F, J and F."""
    values, trivial = [m["J&F"] for m in measures], [m["trivial"] for m in measures]
    parts = {name: mean_percent([m[name] for m in measures]) for name in ("J", "F")}
    return [
        *compare_with_trivial("video J&F", values, trivial, "the true first mask, unmoved"),
        *(Figure(name=name, value=value, count=len(measures)) for name, value in parts.items()),
    ]


def ask_given_mask(scene: Scene, rng: np.random.Generator) -> Question | None:
    """The true mask, on the first frame, of a random object."""
    seen = np.flatnonzero(scene.masks[:, 0].any((1, 2)))
    if not len(seen):
        return None
    n = int(seen[int(rng.integers(len(seen)))])
    return _ask_about_object(scene, n, Mask(scene.masks[n, 0]))


def summarize_given_masks(measures: Sequence[Measures]) -> list[Figure]:
    """J&F on the frames after the first."""
    values, trivial = [m["J&F"] for m in measures], [m["trivial"] for m in measures]
    return compare_with_trivial("video J&F, first mask given", values, trivial, "the first mask, unmoved")


def ask_choice(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Multiple choice, with a point or a box on each object that it names."""
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
        answer=turn.answer[-2],
        about=turn.regions,
        options=tuple(letter for letter in LETTERS if f"({letter})" in turn.question),
    )
    question = Question(sample=scene.to_sample(()), query=query, text=turn.question, prompts=tuple(prompts))
    return replace(question, max_new_tokens=ANSWER_TOKENS)


def score_choice(question: Question, prediction: Prediction) -> Measures:
    """The letter, and J and Dice of every object; one that was not found has an empty mask."""
    letter = score_letter(question.query, prediction.text, rule="bracketed")
    scores = [volume_scores(found, truth) for found, truth in pair_masks(question, prediction)]
    options = len(question.query.options)
    return {**letter, "options": options, "J": [s["J"] for s in scores], "F": [s["F"] for s in scores]}


def summarize_choices(measures: Sequence[Measures]) -> list[Figure]:
    """Accuracy over questions, and J&F over objects."""
    right = [m["letter"] is not None and m["letter"] == m["expected"].lower() for m in measures]
    quality = [(J + F) / 2 for m in measures for J, F in zip(m["J"], m["F"], strict=True)]
    return [
        *compare_with_trivial("PixelQA", right, [1 / m["options"] for m in measures], "a random option"),
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


def score_given_video(question: Question, prediction: Prediction) -> Measures:
    """See `score_given_mask`."""
    return score_given_mask(question, prediction, as_volume=True)


ABSENT_SEED = 4
STICKER_TASKS = {
    "refer": StickerProtocol(seeds=(0,), ask=ask_expression, measure=score_expression, average=summarize_expressions),
    "box": StickerProtocol(seeds=(1,), ask=ask_box, measure=score_box, average=summarize_boxes),
    "point": StickerProtocol(seeds=(2,), ask=ask_point, measure=score_point, average=summarize_points),
    "name": StickerProtocol(seeds=(3,), ask=ask_name, measure=score_name, average=summarize_names),
    "absent": StickerProtocol(seeds=(ABSENT_SEED, 5), ask=ask_absent, measure=score_absent, average=summarize_absent),
    "video": StickerProtocol(
        seeds=(6,), ask=ask_expression, measure=score_video, average=summarize_videos, is_video=True
    ),
    "video_given": StickerProtocol(
        seeds=(8,), ask=ask_given_mask, measure=score_given_video, average=summarize_given_masks, is_video=True
    ),
    "pixelqa": StickerProtocol(seeds=(7,), ask=ask_choice, measure=score_choice, average=summarize_choices),
}
"""Name of a split -> its protocol."""
