"""Questions whose answer is a mask: by name, colour, place, order, size, relation, kind, use, motion, point or box."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from unipixel.sample import Box, Point, Turn
from unipixel.stickers.colours import PAINTS
from unipixel.stickers.facts import Facts
from unipixel.stickers.language import (
    PHOTOGRAPHED,
    POINT_AT,
    SEGMENT,
    SEGMENT_SEVERAL,
    adapt_to_video,
    choose_wording,
    join_list,
    write_absence,
)
from unipixel.stickers.scene import box_object, point_at_object
from unipixel.stickers.things import KINDS, PLURAL_NAMES, THINGS, Thing

MEASURED_AT_START = frozenset({"position", "order", "size", "relation"})
"""Tasks whose phrases are about the first frame of a video, and say so."""

ListPhrases = Callable[[Facts], Iterable[tuple[int, str]]]


def ask_for_mask(facts: Facts, rng: np.random.Generator, noun: str) -> str:
    """A question for the mask of "the {noun}", which may be a list."""
    several = " and " in noun or any(word in PLURAL_NAMES for word in noun.split())
    wording = choose_wording(rng, SEGMENT_SEVERAL if several else SEGMENT, facts.scene.is_held_out)
    return adapt_to_video(wording.format(noun), facts.scene.is_video)


def _build_turn(facts: Facts, rng: np.random.Generator, noun: str, n: int, task: str, answer: str = "") -> Turn:
    return Turn(
        question=ask_for_mask(facts, rng, noun),
        answer=f"the {answer or facts.names[n]}<|seg|>",
        targets=(facts.scene.objects[n].id,),
        task=task,
    )


def ask_refer(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """The mask of "the dog" or "the red dog"."""
    options = [(n, phrase) for n in range(facts.count) if (phrase := facts.find_phrase(n, rng)) is not None]
    if not options:
        return None
    n, phrase = options[int(rng.integers(len(options)))]
    return _build_turn(facts, rng, phrase, n, "refer", phrase)


def ask_refer_many(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """The masks of two or three things named in one question."""
    options = [(n, phrase) for n in range(facts.count) if (phrase := facts.find_phrase(n, rng)) is not None]
    if len(options) < 2:
        return None
    count = min(len(options), int(rng.integers(2, 4)))
    chosen = [options[int(k)] for k in rng.choice(len(options), count, replace=False)]
    return Turn(
        question=ask_for_mask(facts, rng, join_list([chosen[0][1]] + [f"the {phrase}" for _, phrase in chosen[1:]])),
        answer=join_list([f"the {phrase}<|seg|>" for _, phrase in chosen]),
        targets=tuple(facts.scene.objects[n].id for n, _ in chosen),
        task="refer_many",
    )


def build_phrase_task(phrases: ListPhrases, task: str) -> Callable[[Facts, np.random.Generator], Turn | None]:
    """A task that asks for the one object that a describing phrase fits."""

    def ask(facts: Facts, rng: np.random.Generator) -> Turn | None:
        options = list(phrases(facts))
        if not options:
            return None
        n, phrase = options[int(rng.integers(len(options)))]
        if facts.scene.is_video and task in MEASURED_AT_START:
            phrase += " at the start"
        keep = task == "colour" and phrase.endswith(facts.names[n])
        return _build_turn(facts, rng, phrase, n, task, phrase if keep else "")

    return ask


def _ask_from_prompts(
    facts: Facts, rng: np.random.Generator, task: str, prompt: Callable[..., Point | Box]
) -> Turn | None:
    count = 1 if facts.scene.is_held_out or rng.random() < 0.75 else int(rng.integers(2, 4))
    chosen = [int(n) for n in rng.permutation(facts.count)[:count]]
    ids = [facts.scene.objects[n].id for n in chosen]
    question = choose_wording(rng, POINT_AT, facts.scene.is_held_out).format(join_list([f"[{i}] <|ref|>" for i in ids]))
    return Turn(
        question=adapt_to_video(question, facts.scene.is_video),
        answer=" ".join(f"[{i}]<|seg|>" for i in ids),
        references=tuple((prompt(facts.scene, n, rng),) for n in chosen),
        targets=tuple(ids),
        task=task,
    )


def ask_point(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """The masks of what points lie on."""
    return _ask_from_prompts(facts, rng, "point", point_at_object)


def ask_box(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """The masks of what boxes enclose."""
    return _ask_from_prompts(facts, rng, "box", box_object)


def choose_absent_name(facts: Facts, rng: np.random.Generator) -> str | None:
    """A name that no object of the scene has, and that no photo behind it is likely to show."""
    pool = facts.scene.names
    for _ in range(20):
        name = pool[int(rng.integers(len(pool)))]
        if name not in facts.names and not (facts.scene.on_photo and name in PHOTOGRAPHED):
            return name
    return None


def ask_absent(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """Something that is not there, by name, by colour and name, or by kind."""
    choice = 0.0 if facts.scene.is_held_out else rng.random()
    noun: str | None = None
    if choice > 0.85 and not facts.scene.on_photo:
        kinds = [kind for kind in KINDS if all(facts.is_kind(n, kind) is False for n in range(facts.count))]
        noun = kinds[int(rng.integers(len(kinds)))] if kinds else None
    elif choice > 0.65:
        noun = _choose_absent_colour(facts, rng)
    noun = noun or choose_absent_name(facts, rng)
    if noun is None:
        return None
    is_plural = THINGS.get(noun.split()[-1], Thing(name=noun)).is_plural
    answer = write_absence(noun, is_plural=is_plural)
    return Turn(question=ask_for_mask(facts, rng, noun), answer=answer, task="absent")


def _choose_absent_colour(facts: Facts, rng: np.random.Generator) -> str | None:
    """Such as "red dog", where there are dogs but none that is at all red."""
    name = facts.names[int(rng.integers(facts.count))]
    if facts.scene.on_photo and name in PHOTOGRAPHED:
        return None
    colours = [c for c in PAINTS if all(facts.has_colour(n, c) is False for n in facts.find_named(name))]
    return f"{colours[int(rng.integers(len(colours)))]} {name}" if colours else None


def ask_caption_with_masks(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """Every thing of the picture, named and segmented, from left to right."""
    phrases = [facts.find_phrase(n, rng) for n in range(facts.count)]
    if facts.count > 4 or np.isnan(facts.centres).any() or any(phrase is None for phrase in phrases):
        return None
    order = [int(n) for n in facts.centres[:, 0].argsort()]
    return Turn(
        question=adapt_to_video("Describe this image and segment each thing.", facts.scene.is_video),
        answer=join_list([f"the {phrases[n]}<|seg|>" for n in order]),
        targets=tuple(facts.scene.objects[n].id for n in order),
        task="caption_seg",
    )
