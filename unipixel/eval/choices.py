"""Multiple choice: accuracy over questions and by category.

Source: UniPixel's evaluation of MVBench, Video-MME and VideoRefer-Bench-Q: the answer is primed, and its first word is
the letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from unipixel.eval.protocols import Measures, Protocol, narrowed, only_query, spread
from unipixel.eval.questions import Figure, Question, Read, Reply, Unit
from unipixel.metrics import choice_accuracy, parse_choice
from unipixel.processing.wording import CHOICE_PRIMERS, ChoiceStyle, choice_text
from unipixel.sample import Query, Sample

LETTER_TOKENS = 8
"""Longest reply to a primed question."""
REGION_TOKENS = (100, 144)
"""Least and most visual tokens per frame in UniPixel's evaluation of VideoRefer-Bench-Q."""
FRAMES_PER_SECOND = 2
"""Rate at which clips are sampled before they are cut to the frames that the model sees."""


@dataclass(frozen=True, kw_only=True)
class Choices(Protocol):
    """One letter per question."""

    style: ChoiceStyle
    """How options are written, and what the answer begins with."""
    regions: Literal["none", "single", "multiple"] = "none"
    """Masks that the model is given: none, those of the query's frame, or those of all frames."""
    mean_of_categories: bool = False
    """Report the unweighted mean of the categories instead of the mean over questions (MVBench)."""

    def questions(self, unit: Unit, read: Read, num_frames: int) -> list[Question]:
        """One question over evenly spread frames, the query's own among them."""
        sample = read(unit.records[0])
        query = only_query(sample)
        frames = spread(sample.media.num_frames, self._number(sample, num_frames), query.frame)
        sample = narrowed(sample, frames)
        if self.regions == "single":
            sample = only_frame(sample)
        return [
            Question(
                sample=sample,
                query=only_query(sample),
                text=choice_text(query, self.style),
                regions=query.about if self.regions != "none" else (),
                prime=CHOICE_PRIMERS[self.style],
                visual_tokens=REGION_TOKENS if self.regions != "none" else None,
                max_new_tokens=LETTER_TOKENS,
                clip=(unit.clip, tuple(frames)),
            )
        ]

    def measure(self, question: Question, reply: Reply) -> Measures:
        """The letter chosen beside the right one."""
        return letters(question.query, reply.text, primed=True)

    def failed(self, question: Question | None) -> Measures:
        """A wrong answer."""
        return {"letter": None, **right_letter(question.query if question else None), "error": True}

    def figures(self, measures: Sequence[Measures]) -> list[Figure]:
        """Accuracy, then by category."""
        return accuracy_figures(measures, mean_of_categories=self.mean_of_categories)

    def notes(self, measures: Sequence[Measures]) -> list[str]:
        """How many replies named no option."""
        return unreadable_note(measures)

    def _number(self, sample: Sample, most: int) -> int:
        """Frames of the clip that are asked about.

        Source: UniPixel: 2 frames per second, at most as many as the model sees.
        """
        fps, total = sample.media.fps, sample.media.num_frames
        if self.regions != "none" or not fps:
            return most
        return max(1, min(most, total, max(4, round(FRAMES_PER_SECOND * total / fps))))


def only_frame(sample: Sample) -> Sample:
    """The sample with the objects' masks on the query's frame alone."""
    t = only_query(sample).frame
    tracks = {
        key: replace(track, rles=tuple(rle if n == t else None for n, rle in enumerate(track.rles)))
        for key, track in sample.objects.items()
    }
    return replace(sample, objects=tracks)


def right_letter(query: Query | None) -> Measures:
    """The right letter and the category; of a question that could not be read, none."""
    return {"expected": query.answer if query else "-", "category": (query.category if query else "") or "all"}


def letters(query: Query, text: str, *, primed: bool) -> Measures:
    """The letter that a reply names beside the right one."""
    rule = "first_word" if primed else "bracketed"
    return {"letter": parse_choice(text, len(query.options), rule=rule), **right_letter(query)}


def accuracy_figures(measures: Sequence[Measures], *, mean_of_categories: bool = False) -> list[Figure]:
    """Accuracy over questions (or over categories), then of every category."""
    if not measures:
        return []
    columns = ([m[key] for m in measures] for key in ("letter", "expected", "category"))
    scores = choice_accuracy(*columns)
    overall = scores.mean_of_categories if mean_of_categories else scores.accuracy
    figures = [Figure(name="accuracy", value=100 * overall, count=len(measures))]
    if list(scores.per_category) == ["all"]:
        return figures
    return figures + [
        Figure(name=name, value=100 * scores.per_category[name], count=scores.counts[name])
        for name in sorted(scores.per_category)
    ]


def unreadable_note(measures: Sequence[Measures]) -> list[str]:
    """How many replies named no valid option, which counts as wrong."""
    count = sum(m["letter"] is None and not m.get("error") for m in measures)
    return [f"replies that name no valid option, counted as wrong: {count}"] if count else []
