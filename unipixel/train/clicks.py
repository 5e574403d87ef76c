"""Points and boxes on any annotated object, answered by its mask: what every dataset with masks can teach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unipixel.errors import DatasetError
from unipixel.processing.chat import SEG
from unipixel.processing.wording import worded
from unipixel.sample import Query, Sample


def prompted(sample: Sample, rng: np.random.Generator | None, most: int) -> Sample:
    """The sample with a turn for each of at most ``most`` objects, pointed at or boxed, under ids from 1 on.

    Args:
        rng: chooses objects, prompts and frames; None: the first objects, prompted as in evaluation.

    Raises:
        DatasetError: the sample shows no object.
    """
    shown = [number for number, track in sample.objects.items() if track.visible.any()]
    if not shown:
        raise DatasetError(f"{sample.source or 'sample'}: no object is seen on it, and points need one")
    order = shown if rng is None else [shown[int(k)] for k in rng.permutation(len(shown))]
    number = {old: new for new, old in enumerate(order[:most], 1)}
    queries = tuple(Query(kind="query", text=f"[{n}]", about=(n,), targets=(n,)) for n in number.values())
    objects = {new: sample.objects[old] for old, new in number.items()}
    made = worded(replace(sample, objects=objects, queries=queries, turns=()), rng, form="mixed")
    turns = tuple(replace(turn, answer=f"[{turn.targets[0]}] {SEG}", task="prompt") for turn in made.turns)
    return replace(made, turns=turns)
