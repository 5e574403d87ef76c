"""PixelQA: objects are pointed at, the model finds their masks, and answers a question with options over them.

The questions are those of VideoRefer-Bench-Q without its masks. Source: UniPixel, section 4 (the new task).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from unipixel.eval.choices import REGION_TOKENS, accuracy_figures, letters, right_letter, unreadable_note
from unipixel.eval.protocols import Measures, Protocol, mean, narrowed, only_query, spread
from unipixel.eval.questions import Figure, Question, Read, Reply, Unit
from unipixel.masks import MaskTrack, interior_point
from unipixel.metrics import volume_scores
from unipixel.processing.wording import CHOICE_PRIMERS, CHOOSE, MEMORY_REQUESTS, choice_text
from unipixel.sample import Box, Point, Sample

SEED = 0
PRIMER = CHOICE_PRIMERS["videorefer"]


@dataclass(frozen=True, kw_only=True)
class PixelQA(Protocol):
    """Accuracy of the answers, and J&F of the masks that the model makes of the prompts.

    Volumes of all frames are compared; "F" is their Dice coefficient, no boundary measure.

    By default the model writes its own pre-filling answer, an object that it does not find stays without a mask, and
    the letter is read from whatever it replies. ``original``: the pre-filling answer is built from the question's own
    ids and only its states are used; an object without a mask gets the whole frame as its memory; the reply is primed
    with "The best option is (". The original draws its mix of points and boxes without a seed; both ways draw it here
    from one seed and the record's id, so that figures can be repeated.
    """

    prompts: Literal["point", "box", "mixed"]
    forced: bool = False
    """Only the pre-filling answer as in the original, everything else as by default."""

    @property
    def differs(self) -> str:
        """What ``original`` changes."""
        return (
            "the pre-filling answer is forced, an empty mask becomes the whole frame before the question, "
            f'the reply is primed with "{PRIMER}"'
        )

    def questions(self, unit: Unit, read: Read, num_frames: int) -> list[Question]:
        """One question with a point or box for each of its objects."""
        sample = read(unit.records[0])
        frames = spread(sample.media.num_frames, num_frames, only_query(sample).frame)
        sample = counted_from_one(narrowed(sample, frames))
        query = only_query(sample)
        return [
            Question(
                sample=sample,
                query=query,
                text=choice_text(query),
                prompts=self._prompts(sample, unit.id),
                prime=PRIMER if self.original else "",
                prefill=MEMORY_REQUESTS[0].format(choice_text(query).removesuffix(f"\n{CHOOSE}")),
                forced=self.original or self.forced,
                fill_empty=self.original,
                visual_tokens=REGION_TOKENS,
                max_new_tokens=32,
                clip=(unit.clip, tuple(frames)),
            )
        ]

    def measure(self, question: Question, reply: Reply) -> Measures:
        """The letter, and J and Dice of every object; one that was not found has an empty mask."""
        found = {one.id: one.track for one in reply.objects}
        scores = []
        for i in question.query.about:
            truth = question.sample.objects[i]
            track = found.get(i, MaskTrack(truth.size_hw, (None,) * truth.num_frames))
            scores.append(volume_scores(track.masks, truth.masks))
        chosen = letters(question.query, reply.text, primed=bool(question.prime))
        return {**chosen, "J": [s.J for s in scores], "F": [s.F for s in scores]}

    def failed(self, question: Question | None) -> Measures:
        """A wrong answer, and no object found."""
        zeros = [0.0] * (len(question.query.about) if question else 1)
        return {
            "letter": None,
            **right_letter(question.query if question else None),
            "J": zeros,
            "F": zeros,
            "error": True,
        }

    def figures(self, measures: Sequence[Measures]) -> list[Figure]:
        """J, F and J&F over objects; accuracy over questions."""
        if not measures:
            return []
        J, F = ([value for m in measures for value in m[name]] for name in ("J", "F"))
        masks = {"J": mean(J), "F": mean(F), "J&F": (mean(J) + mean(F)) / 2}
        return [
            *(Figure(name=name, value=value, count=len(J)) for name, value in masks.items()),
            *accuracy_figures(measures),
        ]

    def notes(self, measures: Sequence[Measures]) -> list[str]:
        """How many replies named no option, and how many objects were not found."""
        missing = sum(value == 0 for m in measures for value in m["J"])
        note = [f"objects without a pixel in common with their mask: {missing}"] if missing else []
        return unreadable_note(measures) + note

    def _prompts(self, sample: Sample, unit_id: str) -> tuple[Point | Box, ...]:
        query = only_query(sample)
        rng = np.random.default_rng((SEED, zlib.crc32(unit_id.encode())))
        kinds = _kinds(self.prompts, len(query.about), rng)
        return tuple(
            prompt(sample.objects[i], i, kind, query.frame) for i, kind in zip(query.about, kinds, strict=True)
        )


def _kinds(prompts: str, number: int, rng: np.random.Generator) -> list[str]:
    """Half of the objects get points; where there is one too many, chance decides."""
    if prompts != "mixed":
        return [prompts] * number
    points = number // 2 + (int(rng.integers(2)) if number % 2 else 0)
    kinds = ["point"] * points + ["box"] * (number - points)
    return [kinds[i] for i in rng.permutation(number)]


def prompt(track: MaskTrack, object_id: int, kind: str, frame: int | None) -> Point | Box:
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
    x, y = interior_point(track.mask(t))
    return Point(x, y, frame=t, object_id=object_id)


def counted_from_one(sample: Sample) -> Sample:
    """The sample with ids from 1, in texts too: an engine's objects count from 1, some annotations from 0."""
    query = only_query(sample)
    if 0 not in query.about:
        return sample

    def moved(text: str) -> str:
        return re.sub(r"\[(\d+)\]", lambda m: f"[{int(m[1]) + 1}]" if int(m[1]) in query.about else m[0], text)

    query = replace(
        query,
        text=moved(query.text),
        options=tuple(moved(option) for option in query.options),
        about=tuple(i + 1 for i in query.about),
    )
    return replace(sample, objects={i + 1: track for i, track in sample.objects.items()}, queries=(query,))
