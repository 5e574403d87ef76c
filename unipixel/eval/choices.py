"""Multiple choice: accuracy over questions and by category.

Source: UniPixel's evaluation of MVBench, Video-MME and VideoRefer-Bench-Q: the answer is primed, and its first word is
the letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from unipixel.errors import DatasetError
from unipixel.eval.protocols import (
    BenchmarkProtocol,
    Figure,
    Measures,
    Prediction,
    Question,
    ReadRecord,
    Unit,
    get_query,
    select_frames,
    spread_frames,
)
from unipixel.metrics import grade_choices, parse_choice
from unipixel.processing import ImageSettings
from unipixel.processing.wording import CHOICE_PRIMERS, ChoiceStyle, format_choice
from unipixel.sample import Query, Sample

LETTER_TOKENS = 8
"""Longest reply to a primed question; its first word is all that counts."""
REGION_VIEW = ImageSettings(min_pixels=100 * 28 * 28, max_pixels=144 * 28 * 28)
"""How VideoRefer-Bench-Q is seen."""
FRAMES_PER_SECOND = 2
"""Rate at which clips are sampled before they are cut to the frames that the model sees."""
LEAST_FRAMES, MOST_FRAMES = 4, 16
"""Of a file, in the original."""
ORIGINAL_TOKENS = {"videorefer": 512, "mvbench": 256}
"""Longest replies of the original."""
STOPS = "replies that are empty or begin with a blank, at which the original's scorer stops, counted as wrong"


@dataclass(frozen=True, kw_only=True)
class Choices(BenchmarkProtocol):
    """One letter per question."""

    style: ChoiceStyle
    """How options are written, and what the answer begins with."""
    regions: Literal["none", "single", "multiple"] = "none"
    """Masks that the model is given: none, those of the query's frame, or those of all frames."""
    mean_of_categories: bool = False
    """Report the unweighted mean of the categories instead of the mean over questions (MVBench)."""

    def build_questions(self, unit: Unit, read: ReadRecord, num_frames: int) -> list[Question]:
        """One question over evenly spread frames, the query's own among them."""
        sample = read(unit.records[0])
        query, view = get_query(sample), REGION_VIEW if self.regions != "none" else None
        frames = spread_frames(sample.media.num_frames, num_frames, query.frame)
        if self.regions == "none":
            frames, view = self._choose_frames(sample, num_frames)
        sample = select_frames(sample, frames)
        if self.regions == "single":
            sample = keep_query_frame(sample)
        return [
            Question(
                sample=sample,
                query=get_query(sample),
                text=format_choice(query, self.style),
                regions=query.about if self.regions != "none" else (),
                prime=CHOICE_PRIMERS[self.style],
                view=view,
                all_frames=self.original and self.regions == "none",
                max_new_tokens=ORIGINAL_TOKENS[self.style] if self.original else LETTER_TOKENS,
                clip=(unit.clip, tuple(frames)),
            )
        ]

    def score(self, question: Question, reply: Prediction) -> Measures:
        return score_letter(question.query, reply.text, rule="original" if self.original else "first_word")

    def score_failure(self, question: Question | None) -> Measures:
        return {"letter": None, **get_expected_letter(question.query if question else None), "error": True}

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        return summarize_accuracy(measures, mean_of_categories=self.mean_of_categories and not self.original)

    def list_notes(self, measures: Sequence[Measures]) -> list[str]:
        return note_unreadable(measures)

    def _choose_frames(self, sample: Sample, most: int) -> tuple[list[int], ImageSettings | None]:
        """Frames of a whole video that are asked about, and how they are seen.

        Raises:
            DatasetError: the original cannot read a file of one frame.

        Source: UniPixel and qwen-vl-utils: 2 frames per second of a file, all frames of a folder.
        """
        fps, total = sample.media.fps, sample.media.num_frames
        if not self.original:
            number = max(LEAST_FRAMES, round(FRAMES_PER_SECOND * total / fps)) if fps else most
            return spread_frames(total, max(1, min(most, total, number))), None
        if not fps:
            return list(range(total)), ImageSettings(share_budget=False)
        wanted = min(max(total / fps * FRAMES_PER_SECOND, LEAST_FRAMES), MOST_FRAMES, total)
        number = int(wanted // 2) * 2
        if number < 2:
            raise DatasetError(f"{sample.source}: the video has {total} frame; the original takes two at least")
        frames = torch.linspace(0, total - 1, number).round().long().tolist()
        return frames, ImageSettings(share_budget=False, fps=number / total * fps, frame_resize="tensor")


def keep_query_frame(sample: Sample) -> Sample:
    """The sample with the objects' masks on the query's frame alone."""
    t = get_query(sample).frame
    tracks = {
        key: replace(track, rles=tuple(rle if n == t else None for n, rle in enumerate(track.rles)))
        for key, track in sample.objects.items()
    }
    return replace(sample, objects=tracks)


def get_expected_letter(query: Query | None) -> Measures:
    """The right letter and the category; of a question that could not be read, none."""
    return {"expected": query.answer if query else "-", "category": (query.category if query else "") or "all"}


def score_letter(query: Query, text: str, *, rule: str) -> Measures:
    """The letter that a reply names beside the right one.

    Args:
        rule: see `parse_choice`.
    """
    measures = {"letter": parse_choice(text, len(query.options), rule=rule), **get_expected_letter(query)}
    if rule == "original" and (not text or text.startswith(" ")):
        measures["stops"] = True
    return measures


def summarize_accuracy(measures: Sequence[Measures], *, mean_of_categories: bool = False) -> list[Figure]:
    """Accuracy over questions (or over categories), then of every category."""
    if not measures:
        return []
    columns = ([m[key] for m in measures] for key in ("letter", "expected", "category"))
    right = grade_choices(*columns)
    shares = {name: sum(answers) / len(answers) for name, answers in right.items()}
    if mean_of_categories:
        overall = sum(shares.values()) / len(shares)
    else:
        overall = sum(map(sum, right.values())) / len(measures)
    figures = [Figure(name="accuracy", value=100 * overall, count=len(measures))]
    if list(right) == ["all"]:
        return figures
    return figures + [Figure(name=name, value=100 * shares[name], count=len(right[name])) for name in sorted(right)]


def note_unreadable(measures: Sequence[Measures]) -> list[str]:
    """How many replies named no valid option, which counts as wrong."""
    stops = sum(bool(m.get("stops")) for m in measures)
    count = sum(m["letter"] is None and not m.get("error") for m in measures) - stops
    notes = [f"replies that name no valid option, counted as wrong: {count}"] if count else []
    return notes + ([f"{STOPS}: {stops}"] if stops else [])
