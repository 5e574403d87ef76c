"""Questions and answers about a scene, drawn by task from a weighted mix."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from unipixel.sample import Turn
from unipixel.stickers import choice_tasks, segment_tasks, text_tasks
from unipixel.stickers.facts import Facts
from unipixel.stickers.scene import Scene

Task = Callable[[Facts, np.random.Generator], "Turn | tuple[Turn, ...] | None"]

TASKS: dict[str, Task] = {
    "refer": segment_tasks.ask_refer,
    "refer_many": segment_tasks.ask_refer_many,
    "point": segment_tasks.ask_point,
    "box": segment_tasks.ask_box,
    "absent": segment_tasks.ask_absent,
    "position": segment_tasks.build_phrase_task(Facts.list_place_phrases, "position"),
    "colour": segment_tasks.build_phrase_task(Facts.list_colour_phrases, "colour"),
    "relation": segment_tasks.build_phrase_task(Facts.list_relation_phrases, "relation"),
    "order": segment_tasks.build_phrase_task(Facts.list_order_phrases, "order"),
    "size": segment_tasks.build_phrase_task(Facts.list_size_phrases, "size"),
    "category": segment_tasks.build_phrase_task(Facts.list_kind_phrases, "category"),
    "use": segment_tasks.build_phrase_task(Facts.list_use_phrases, "use"),
    "motion": segment_tasks.build_phrase_task(Facts.list_motion_phrases, "motion"),
    "caption_seg": segment_tasks.ask_caption_with_masks,
    "name": text_tasks.ask_name,
    "name_mem": text_tasks.ask_name_from_memory,
    "colour_of": text_tasks.ask_colour,
    "where": text_tasks.ask_place,
    "kind_of": text_tasks.ask_kind,
    "neighbour": text_tasks.ask_neighbour,
    "yes_no": text_tasks.ask_yes_or_no,
    "presence": text_tasks.ask_presence,
    "count": text_tasks.ask_count,
    "caption": text_tasks.ask_caption,
    "choice": choice_tasks.ask_choice,
    "choice_mem": choice_tasks.ask_choice_from_prompts,
}
"""Task name -> how a question of it is made. "choice_mem" makes two turns: localise, then answer."""

FULL_MIX: dict[str, float] = {
    "refer": 5,
    "refer_many": 1.5,
    "point": 2,
    "box": 2,
    "absent": 1.5,
    "position": 1,
    "colour": 1,
    "relation": 0.7,
    "order": 0.7,
    "size": 0.7,
    "category": 0.7,
    "use": 0.7,
    "motion": 1,
    "caption_seg": 0.5,
    "name": 2,
    "name_mem": 2,
    "colour_of": 1,
    "where": 0.7,
    "kind_of": 0.5,
    "neighbour": 0.5,
    "yes_no": 0.7,
    "presence": 0.7,
    "count": 0.7,
    "caption": 0.5,
    "choice": 2,
    "choice_mem": 0.7,
}
"""Everything that the world can ask."""


def generate_turns(
    scene: Scene,
    rng: np.random.Generator,
    count: int = 3,
    mix: Mapping[str, float] = FULL_MIX,
    facts: Facts | None = None,
) -> tuple[Turn, ...]:
    """Different questions about one scene with their true answers.

    Args:
        scene: what they are about.
        rng: source of randomness.
        count: how many; fewer come back when the scene allows no more without ambiguity.
        mix: weight by task, keys of `TASKS`. A task that fits the scene nowhere is passed over.
        facts: measurements of the scene when at hand.

    Raises:
        ValueError: the mix names an unknown task or has no positive weight.
    """
    unknown = [task for task in mix if task not in TASKS]
    weights = np.array(list(mix.values()), float)
    if unknown or not weights.sum() > 0 or (weights < 0).any():
        wrong = f"the unknown task {unknown[0]!r}" if unknown else f"weights {dict(mix)!r}"
        raise ValueError(f"the mix has {wrong}; give positive weights for some of {', '.join(TASKS)}")
    facts = facts or Facts(scene)
    tasks = list(mix)
    edges = np.cumsum(weights / weights.sum())
    made: list[Turn] = []
    known: set[tuple[str, str]] = set()
    for _ in range(6 * count + 6):
        if len(made) >= count:
            break
        task = tasks[min(int(np.searchsorted(edges, rng.random(), side="right")), len(tasks) - 1)]
        found = TASKS[task](facts, rng)
        batch = found if isinstance(found, tuple) else (found,) if found is not None else ()
        # The same task with the same answer teaches nothing new, whatever the wording.
        if not batch or (batch[0].task, _get_subject(batch[0])) in known or (made and len(made) + len(batch) > count):
            continue
        known.add((batch[0].task, _get_subject(batch[0])))
        made.extend(batch)
    return tuple(made)


def _get_subject(turn: Turn) -> str:
    """What a turn is about: its masks, or question and answer when it has none."""
    return turn.answer if turn.targets else f"{turn.question} {turn.answer}"
