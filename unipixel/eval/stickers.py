"""How well a model does in the built-in world: eight figures on held-out scenes, each beside a trivial baseline.

Scenes come from seeds at and above `EVAL_SEED`, which training never draws from. Every task has scenes of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unipixel.engine.answer import Answer
from unipixel.engine.engine import Engine
from unipixel.errors import UnipixelError
from unipixel.metrics import overlap, overlap_scores, parse_choice, volume_scores
from unipixel.sample import Box, Mask, Point, Prompt, Turn
from unipixel.stickers import EVAL_SEED, Scene, SceneSettings, generate_scene, generate_turns, generate_video
from unipixel.stickers.facts import tight_box
from unipixel.stickers.prompts import box_object, point_at_object

Progress = Callable[[str, int, int], None]
BATCH_SIZE = 16


@dataclass(frozen=True)
class StickerQuestion:
    """One thing to ask about one scene."""

    world: Scene
    text: str | None
    prompts: tuple[Prompt, ...] = ()
    targets: tuple[int, ...] = ()
    """Indices of the objects whose masks are wanted."""
    answer: str = ""


@dataclass
class StickerFigure:
    """A measured figure of one task."""

    name: str
    value: float
    baseline: float
    baseline_means: str
    count: int
    failed: int = 0
    """Questions that raised an error; they count as wrong."""
    more: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "baseline": round(self.baseline, 4),
            "baseline_means": self.baseline_means,
            "count": self.count,
            "failed": self.failed,
            **{k: round(v, 4) for k, v in self.more.items()},
        }


Asking = Callable[[Sequence[StickerQuestion]], list[Answer | UnipixelError]]
"""Answers to questions, in order; errors stand in the place of answers."""


def ask_engine(engine: Engine, questions: Sequence[StickerQuestion]) -> list[Answer | UnipixelError]:
    """Answers of a model to questions that are asked together."""
    answers: list[Answer | UnipixelError] = engine.ask_batch(
        [list(q.world.frames) if q.world.is_video else q.world.image for q in questions],
        [q.text for q in questions],
        prompts=[list(q.prompts) for q in questions],
        batch_size=BATCH_SIZE,
        max_new_tokens=24,
        on_error="return",
    )
    return answers


@dataclass(frozen=True)
class StickerEvaluation:
    """Asks the questions of each task and scores the answers."""

    ask: Asking
    """Answers questions; see `ask_engine`."""
    settings: SceneSettings = field(default_factory=SceneSettings)
    """What the scenes look like; those of `stickers.WORLDS` or others."""
    count: int = 200
    """Questions per task on stills."""
    video_count: int = 40
    """Questions per task on videos."""
    progress: Progress | None = None

    def run(self, only: tuple[str, ...] = ()) -> list[StickerFigure]:
        """All figures, or those named.

        Raises:
            ValueError: a name is unknown.
        """
        unknown = [name for name in only if name not in FIGURES]
        if unknown:
            raise ValueError(f"there is no figure {unknown[0]!r}; there are {', '.join(FIGURES)}")
        return [FIGURES[name](self) for name in FIGURES if not only or name in only]

    def worlds(self, place: int, *, moving: bool = False) -> Iterator[tuple[Scene, np.random.Generator]]:
        """Held-out scenes of the task at this place, endlessly."""
        make, seed, index = generate_video if moving else generate_scene, EVAL_SEED + place, 0
        while True:
            yield make(seed, index, self.settings), np.random.default_rng((seed, index, 1))
            index += 1

    def asked(self, place: int, task: str, *, moving: bool = False) -> list[StickerQuestion]:
        """Questions of one sticker task, one per scene; scenes that allow none are passed over."""
        questions: list[StickerQuestion] = []
        wanted = self.video_count if moving else self.count
        for world, rng in self.worlds(place, moving=moving):
            if len(questions) == wanted:
                break
            made = generate_turns(world, rng, 1, {task: 1.0})
            if made:
                questions.append(_question(world, made[0]))
        return questions

    def answers(self, name: str, questions: list[StickerQuestion]) -> list[Answer | UnipixelError]:
        """Ask everything, in batches; errors come back in place."""
        results: list[Answer | UnipixelError] = []
        for begin in range(0, len(questions), BATCH_SIZE):
            results += self.ask(questions[begin : begin + BATCH_SIZE])
            if self.progress is not None:
                self.progress(name, len(results), len(questions))
        return results


def _question(world: Scene, turn: Turn) -> StickerQuestion:
    by_id = {item.id: n for n, item in enumerate(world.objects)}
    targets = tuple(by_id[i] for i in turn.targets if i is not None)
    return StickerQuestion(world, turn.question, targets=targets, answer=turn.answer)


def _mask(answer: Answer | UnipixelError, world: Scene) -> np.ndarray:
    """bool (T, H, W): everything that the answer segments, empty after an error."""
    masks = np.zeros(world.masks.shape[1:], dtype=bool)
    if isinstance(answer, Answer):
        for one in answer.objects:
            masks |= one.masks
    return masks


def _failed(answers: list[Answer | UnipixelError]) -> int:
    return sum(isinstance(a, UnipixelError) for a in answers)


def refer(run: StickerEvaluation) -> StickerFigure:
    """cIoU of "the red car", and how much of the other objects was painted."""
    questions = run.asked(0, "refer")
    answers = run.answers("refer", questions)
    own, others, union = [], [], []
    for q, a in zip(questions, answers, strict=True):
        prediction, masks = _mask(a, q.world)[0], q.world.masks[:, 0]
        goal = np.asarray(masks[q.targets[0]])
        own.append(overlap(prediction, goal))
        rest = np.asarray(np.delete(masks, q.targets[0], 0).any(0))
        others.append(overlap(prediction, rest).iou if prediction.any() or rest.any() else 0.0)
        union.append(overlap(np.asarray(masks.any(0)), goal))
    scores = overlap_scores(own)
    baseline = overlap_scores(union).cIoU
    more = {"gIoU": scores.gIoU, "IoU on the others": float(np.mean(others)), "Prec@0.5": scores.precision[0.5]}
    return StickerFigure("refer cIoU", scores.cIoU, baseline, "all objects painted", len(own), _failed(answers), more)


def _prompted(
    run: StickerEvaluation, place: int, kind: str
) -> tuple[list[StickerQuestion], list[Answer | UnipixelError]]:
    questions: list[StickerQuestion] = []
    for world, rng in run.worlds(place):
        if len(questions) == run.count:
            break
        n = int(rng.integers(len(world.objects)))
        prompt = point_at_object(world, n, rng) if kind == "point" else box_object(world, n, rng)
        questions.append(StickerQuestion(world, None, (prompt,), (n,)))
    return questions, run.answers(kind, questions)


def box(run: StickerEvaluation) -> StickerFigure:
    """Mean IoU of the mask inside a box; baseline: the box filled."""
    questions, answers = _prompted(run, 1, "box")
    values, filled = [], []
    for q, a in zip(questions, answers, strict=True):
        goal = q.world.masks[q.targets[0], 0]
        values.append(overlap(_mask(a, q.world)[0], goal).iou)
        x1, y1, x2, y2 = (int(v) for v in tight_box(goal))  # type: ignore[union-attr]
        trivial = np.zeros_like(goal)
        trivial[y1:y2, x1:x2] = True
        filled.append(overlap(trivial, goal).iou)
    return StickerFigure(
        "box IoU", float(np.mean(values)), float(np.mean(filled)), "the box filled", len(values), _failed(answers)
    )


def point(run: StickerEvaluation) -> StickerFigure:
    """Mean IoU of the mask under a point; baseline: a disc of the average object's area around it."""
    questions, answers = _prompted(run, 2, "point")
    area = float(np.mean([q.world.masks[q.targets[0], 0].sum() for q in questions]))
    values, discs = [], []
    for q, a in zip(questions, answers, strict=True):
        goal = q.world.masks[q.targets[0], 0]
        values.append(overlap(_mask(a, q.world)[0], goal).iou)
        y, x = np.mgrid[: goal.shape[0], : goal.shape[1]]
        prompt = q.prompts[0]
        assert isinstance(prompt, Point)
        disc = (x + 0.5 - prompt.x) ** 2 + (y + 0.5 - prompt.y) ** 2 <= area / np.pi
        discs.append(overlap(disc, goal).iou)
    label = "a disc of average area"
    return StickerFigure(
        "point IoU", float(np.mean(values)), float(np.mean(discs)), label, len(values), _failed(answers)
    )


def name(run: StickerEvaluation) -> StickerFigure:
    """Accuracy of naming the object under a box; baseline: one name for all."""
    questions: list[StickerQuestion] = []
    for world, rng in run.worlds(3):
        if len(questions) == run.count:
            break
        n = int(rng.integers(len(world.objects)))
        prompt = box_object(world, n, rng)
        given = Box(prompt.x1, prompt.y1, prompt.x2, prompt.y2, object_id=1)
        questions.append(StickerQuestion(world, "What is [1]?", (given,), (n,), world.objects[n].thing.name))
    answers = run.answers("name", questions)
    right = [
        isinstance(a, Answer) and a.raw_text.strip().rstrip(".").removeprefix("the ") == q.answer
        for q, a in zip(questions, answers, strict=True)
    ]
    names = [q.answer for q in questions]
    chance = max(names.count(n) for n in names) / len(names)
    return StickerFigure(
        "naming", float(np.mean(right)), chance, "always the commonest name", len(right), _failed(answers)
    )


def absent(run: StickerEvaluation) -> StickerFigure:
    """Half of the questions ask for something that is not there: is it left unsegmented, and the rest segmented?"""
    gone, there = run.asked(4, "absent"), run.asked(5, "refer")
    silent = [not _mask(a, q.world).any() for q, a in zip(gone, run.answers("absent", gone), strict=True)]
    answers = run.answers("absent", there)
    found = [bool(_mask(a, q.world).any()) for q, a in zip(there, answers, strict=True)]
    more = {"absent": float(np.mean(silent)), "present": float(np.mean(found))}
    value = (more["absent"] + more["present"]) / 2
    return StickerFigure(
        "not there", value, 0.5, "always the same reply", len(silent) + len(found), _failed(answers), more
    )


def video_refer(run: StickerEvaluation) -> StickerFigure:
    """J&F of "the dog" through a clip; baseline: its true mask of the first frame, never moved."""
    questions = run.asked(6, "refer", moving=True)
    answers = run.answers("video", questions)
    ours, still, js, fs = [], [], [], []
    for q, a in zip(questions, answers, strict=True):
        goal = q.world.masks[q.targets[0]]
        scores = volume_scores(_mask(a, q.world), goal)
        ours.append(scores.JF)
        js.append(scores.J)
        fs.append(scores.F)
        still.append(volume_scores(np.broadcast_to(goal[:1], goal.shape).copy(), goal).JF)
    more = {"J": float(np.mean(js)), "F": float(np.mean(fs))}
    label = "the true first mask, unmoved"
    return StickerFigure(
        "video J&F", float(np.mean(ours)), float(np.mean(still)), label, len(ours), _failed(answers), more
    )


def video_given(run: StickerEvaluation) -> StickerFigure:
    """J&F of an object whose true mask of the first frame is given, on the frames after it; baseline: unmoved."""
    questions: list[StickerQuestion] = []
    for world, rng in run.worlds(8, moving=True):
        if len(questions) == run.video_count:
            break
        seen = np.flatnonzero(world.masks[:, 0].any((1, 2)))
        if len(seen):
            n = int(seen[int(rng.integers(len(seen)))])
            questions.append(StickerQuestion(world, None, (Mask(world.masks[n, 0]),), (n,)))
    answers = run.answers("video, first mask given", questions)
    ours, still = [], []
    for q, a in zip(questions, answers, strict=True):
        goal = q.world.masks[q.targets[0]]
        ours.append(volume_scores(_mask(a, q.world)[1:], goal[1:]).JF)
        still.append(volume_scores(np.broadcast_to(goal[:1], goal.shape)[1:].copy(), goal[1:]).JF)
    label = "the first mask, unmoved"
    name = "video J&F, first mask given"
    return StickerFigure(name, float(np.mean(ours)), float(np.mean(still)), label, len(ours), _failed(answers))


def pixelqa(run: StickerEvaluation) -> StickerFigure:
    """Multiple choice about objects given by points and boxes, free-running; with J&F of the masks made on the way."""
    questions: list[StickerQuestion] = []
    options = []
    for world, rng in run.worlds(7):
        if len(questions) == run.count:
            break
        made = generate_turns(world, rng, 1, {"choice": 1.0})
        if not made:
            continue
        by_id = {item.id: n for n, item in enumerate(world.objects)}
        given = []
        for i in made[0].regions:
            p = point_at_object(world, by_id[i], rng) if rng.random() < 0.5 else box_object(world, by_id[i], rng)
            kept = (
                Point(p.x, p.y, p.frame, object_id=i)
                if isinstance(p, Point)
                else Box(p.x1, p.y1, p.x2, p.y2, p.frame, object_id=i)
            )
            given.append(kept)
        targets = tuple(by_id[i] for i in made[0].regions)
        questions.append(StickerQuestion(world, made[0].question, tuple(given), targets, made[0].answer))
        options.append(sum(made[0].question.count(f"({letter})") for letter in "ABCD"))
    answers = run.answers("PixelQA", questions)
    right, quality = [], []
    for q, a, n in zip(questions, answers, options, strict=True):
        chosen = parse_choice(a.raw_text, n, rule="bracketed") if isinstance(a, Answer) else None
        right.append(chosen is not None and f"({chosen})" == q.answer.lower())
        for k, prompt in zip(q.targets, q.prompts, strict=True):
            found = [o for o in a.objects if o.id == prompt.object_id] if isinstance(a, Answer) else []
            prediction = found[0].masks if found else np.zeros_like(q.world.masks[k])
            quality.append(volume_scores(prediction, q.world.masks[k]).JF)
    chance = float(np.mean([1 / n for n in options]))
    more = {"J&F": float(np.mean(quality))}
    return StickerFigure(
        "PixelQA", float(np.mean(right)), chance, "a random option", len(right), _failed(answers), more
    )


FIGURES: dict[str, Callable[[StickerEvaluation], StickerFigure]] = {
    "refer": refer,
    "box": box,
    "point": point,
    "name": name,
    "absent": absent,
    "video": video_refer,
    "video_given": video_given,
    "pixelqa": pixelqa,
}
"""Name of a task -> how it is measured."""
