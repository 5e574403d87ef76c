"""Points and boxes on any annotated object, answered by its mask: what every dataset with masks can teach.

Question and answer are those of the engine's pre-filling, word for word.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unipixel.engine.turn import write_prompt_answer, write_prompt_question
from unipixel.errors import DatasetError
from unipixel.processing.wording import write_turns
from unipixel.sample import Query, Sample


def add_prompt_turns(sample: Sample, rng: np.random.Generator | None, most: int, *, named: bool = False) -> Sample:
    """The sample with a turn for each of at most ``most`` objects, pointed at or boxed, under ids from 1 on.

    Args:
        rng: chooses objects, prompts and frames; None: the first objects, prompted as in evaluation.
        named: the form of the question, see `wording.prefilling`; to be taken from the checkpoint.

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
    made = write_turns(replace(sample, objects=objects, queries=queries, turns=()), rng, form="mixed")
    turns = [
        replace(
            turn,
            question=write_prompt_question(query.about, named=named),
            answer=write_prompt_answer(query.about),
            task="prompt",
        )
        for turn, query in zip(made.turns, made.queries, strict=True)
    ]
    return replace(made, turns=tuple(turns))
