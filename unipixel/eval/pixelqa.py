"""PixelQA: objects are pointed at, the model finds their masks, and answers a question with options over them.

The questions are those of VideoRefer-Bench-Q without its masks. Source: UniPixel, section 4 (the new task).
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from unipixel.eval.choices import (
    ORIGINAL_TOKENS,
    get_expected_letter,
    note_unreadable,
    score_letter,
    summarize_accuracy,
)
from unipixel.eval.protocols import (
    BenchmarkProtocol,
    Figure,
    Measures,
    Prediction,
    Question,
    ReadRecord,
    Unit,
    get_query,
    mean_percent,
    select_frames,
    spread_frames,
)
from unipixel.masks import MaskTrack, find_interior_point, mask_to_box
from unipixel.metrics import frame_scores, mean_scores, volume_scores
from unipixel.processing import ImageSettings
from unipixel.processing.chat import REF
from unipixel.processing.regions import build_target_masks
from unipixel.processing.wording import CHOICE_PRIMERS, CHOOSE, MEMORY_REQUESTS, format_choice
from unipixel.sample import Box, Point, Sample

SEED = 0
ANSWER_TOKENS = 32
"""Longest reply by default, which is not primed with a letter."""
FRAME_FIGURES = {"J of frames": "J", "boundary F": "F", "J&F of frames": "J&F"}
"""Means over the frames of an object, by what they are called here and by `mean_scores`."""
RELEASED = ImageSettings()
PRIMER = CHOICE_PRIMERS["videorefer"]


@dataclass(frozen=True, kw_only=True)
class PixelQA(BenchmarkProtocol):
    """Accuracy of the answers, and J&F of the masks that the model makes of the prompts.

    Volumes of all frames are compared; "F" is their Dice coefficient, no boundary measure. J and boundary F of single
    frames are reported as well, though not by ``original``.

    By default the model writes its own pre-filling answer, an object that it does not find stays without a mask, and
    the letter is read from whatever it replies. What ``original`` does instead is in `data.differences.EVALUATION`. The
    original draws its mix of points and boxes without a seed; both ways draw it here from one seed and the record's id,
    so that figures can be repeated.
    """

    prompts: Literal["point", "box", "mixed"]
    forced: bool = False
    """Only the pre-filling answer as in the original, everything else as by default."""

    def build_questions(self, unit: Unit, read: ReadRecord, num_frames: int) -> list[Question]:
        """One question with a point or box for each of its objects."""
        sample = read(unit.records[0])
        frames = spread_frames(sample.media.num_frames, num_frames, get_query(sample).frame)
        sample = select_frames(sample, frames)
        if not self.original:
            sample = renumber_from_one(sample)
        query = get_query(sample)
        asked = format_choice(query).removesuffix(f"\n{CHOOSE}")
        return [
            Question(
                sample=sample,
                query=query,
                text=format_choice(query),
                prompts=self._build_prompts(sample, unit.id),
                prime=PRIMER if self.original else "",
                prefill=MEMORY_REQUESTS[0].format(
                    f"{insert_ref_tokens(asked, query.about)}." if self.original else asked
                ),
                forced=self.forced,
                as_written=self.original,
                max_new_tokens=ORIGINAL_TOKENS["videorefer"] if self.original else ANSWER_TOKENS,
                clip=(unit.clip, tuple(frames)),
            )
        ]

    def score(self, question: Question, reply: Prediction) -> Measures:
        """The letter, and J and Dice of every object; one that was not found has an empty mask."""
        scores, frames = [], []
        for found, truth in pair_masks(question, reply):
            scores.append(volume_scores(found, truth, original=self.original))
            if not self.original:
                frames.append(mean_scores(frame_scores(found, truth)))
        chosen = score_letter(question.query, reply.text, rule="original" if self.original else "bracketed")
        measures: Measures = {**chosen, "J": [s["J"] for s in scores], "F": [s["F"] for s in scores]}
        return measures | {name: [one[key] for one in frames] for name, key in FRAME_FIGURES.items() if frames}

    def score_failure(self, question: Question | None) -> Measures:
        zeros = [0.0] * (len(question.query.about) if question else 1)
        return {
            "letter": None,
            **get_expected_letter(question.query if question else None),
            **dict.fromkeys(("J", "F") if self.original else ("J", "F", *FRAME_FIGURES), zeros),
            "error": True,
        }

    def summarize(self, measures: Sequence[Measures]) -> list[Figure]:
        """J, F and J&F over objects; accuracy over questions."""
        if not measures:
            return []
        names = [name for name in ("J", "F", *FRAME_FIGURES) if all(name in m for m in measures)]
        masks = {name: mean_percent([value for m in measures for value in m[name]]) for name in names}
        masks["J&F"] = (masks["J"] + masks["F"]) / 2
        objects = sum(len(m["J"]) for m in measures)
        order = ("J", "F", "J&F", *names[2:])
        return [
            *(Figure(name=name, value=masks[name], count=objects) for name in order),
            *summarize_accuracy(measures),
        ]

    def list_notes(self, measures: Sequence[Measures]) -> list[str]:
        missing = sum(value == 0 for m in measures for value in m["J"])
        note = [f"objects without a pixel in common with their mask: {missing}"] if missing else []
        return note_unreadable(measures) + note

    def _build_prompts(self, sample: Sample, unit_id: str) -> tuple[Point | Box, ...]:
        query, about = get_query(sample), get_query(sample).about
        if self.original:
            kinds = choose_original_kinds(self.prompts, len(about), create_original_rng(unit_id))
            pairs = zip(about, kinds, strict=True)
            return tuple(build_original_prompt(sample.objects[i], i, kind, query.frame or 0) for i, kind in pairs)
        kinds = _choose_kinds(self.prompts, len(about), np.random.default_rng((SEED, zlib.crc32(unit_id.encode()))))
        return tuple(
            build_prompt(sample.objects[i], i, kind, query.frame) for i, kind in zip(about, kinds, strict=True)
        )


def pair_masks(question: Question, prediction: Prediction) -> list[tuple[np.ndarray, np.ndarray]]:
    """Predicted and true masks, bool (T, H, W), of every object; one that was not found has an empty mask."""
    found = {one.id: one.track.masks for one in prediction.objects}
    truths = {i: question.sample.objects[i].masks for i in question.query.about}
    return [(found.get(i, np.zeros_like(truth)), truth) for i, truth in truths.items()]


def insert_ref_tokens(text: str, ids: Sequence[int]) -> str:
    """The text with a ``<|ref|>`` behind the first mention of each object."""
    for i in ids:
        text = text.replace(f"[{i}]", f"[{i}] {REF}", 1)
    return text


def _choose_kinds(prompts: str, number: int, rng: np.random.Generator) -> list[str]:
    """Half of the objects get points; where there is one too many, chance decides."""
    if prompts != "mixed":
        return [prompts] * number
    points = number // 2 + (int(rng.integers(2)) if number % 2 else 0)
    kinds = ["point"] * points + ["box"] * (number - points)
    return [kinds[i] for i in rng.permutation(number)]


def create_original_rng(unit_id: str) -> random.Random:
    """What the original way draws a record's mix from."""
    return random.Random(f"{SEED} {unit_id}")


def choose_original_kinds(prompts: str, number: int, rng: random.Random) -> list[str]:
    """Kinds of prompts as the original draws them: some objects get points, a lone one gets either."""
    if prompts != "mixed":
        return [prompts] * number
    if number == 1:
        return [rng.choice(["point", "box"])]
    points = rng.sample(range(number), round(number / 2))
    return ["point" if i in points else "box" for i in range(number)]


def build_original_prompt(track: MaskTrack, object_id: int, kind: str, frame: int) -> Point | Box:
    """A point or box as the original takes it, in source pixels; of an object that is not on the frame, nonsense.

    The mask is stretched to the square that SAM sees, as masks are for training, and pixel indices count there.
    """
    side, (height, width) = RELEASED.sam_size, track.size_hw
    across, down = width / side, height / side
    mask = build_target_masks([MaskTrack(track.size_hw, (track.rles[frame],))], 1, side, "touched")[0, 0].numpy()
    box = mask_to_box(mask)
    if kind == "box":
        x1, y1, x2, y2 = (side, side, 0, 0) if box is None else box
        return Box(x1 * across, y1 * down, (x2 - 1) * across, (y2 - 1) * down, frame=frame, object_id=object_id)
    x, y = (0.5, 0.5) if box is None else find_interior_point(mask, exact=True)
    return Point((x - 0.5) * across, (y - 0.5) * down, frame=frame, object_id=object_id)


def build_prompt(track: MaskTrack, object_id: int, kind: str, frame: int | None) -> Point | Box:
    """The most interior point of a mask, or the box around it, on the frame or the nearest one with the object.

    Raises:
        ValueError: the object is on no frame.
    """
    seen = np.flatnonzero(track.visible)
    if not len(seen):
        raise ValueError(f"object {object_id} has no mask on any frame of the clip, so nothing can point at it")
    t = int(min(seen, key=lambda other: (abs(other - (frame or 0)), other)))
    if kind == "box":
        x1, y1, x2, y2 = (float(v) for v in track.boxes[t])
        return Box(x1, y1, x2, y2, frame=t, object_id=object_id)
    x, y = find_interior_point(track.mask(t))
    return Point(x, y, frame=t, object_id=object_id)


def renumber_from_one(sample: Sample) -> Sample:
    """The sample with ids from 1, in texts too: an engine's objects count from 1, some annotations from 0."""
    query = get_query(sample)
    if 0 not in query.about:
        return sample

    def renumber(text: str) -> str:
        return re.sub(r"\[(\d+)\]", lambda m: f"[{int(m[1]) + 1}]" if int(m[1]) in query.about else m[0], text)

    query = replace(
        query,
        text=renumber(query.text),
        options=tuple(renumber(option) for option in query.options),
        about=tuple(i + 1 for i in query.about),
    )
    return replace(sample, objects={i + 1: track for i, track in sample.objects.items()}, queries=(query,))
