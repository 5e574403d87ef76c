"""Questions whose answer is text: names, colours, places, kinds, counts, presence and captions."""

from __future__ import annotations

import numpy as np

from unipixel.sample import Box, Point, Turn
from unipixel.stickers.facts import Facts
from unipixel.stickers.language import NUMBERS, PHOTOGRAPHED, RELATIONS, adapt_to_video, add_article, join_list
from unipixel.stickers.scene import sample_prompt
from unipixel.stickers.segment_tasks import choose_absent_name
from unipixel.stickers.things import KINDS, THINGS, Thing

References = tuple[tuple[Point | Box, ...], ...]


def _mention_object(facts: Facts, rng: np.random.Generator, n: int) -> tuple[str, References, tuple[int, ...]]:
    """A way to speak of object ``n``: "[1] <|ref|>", "[1]" with its memory, or "the dog"; with prompts and regions."""
    number = facts.scene.objects[n].id
    choice = rng.random()
    if choice < 0.3 and facts.is_single(n):
        return f"the {facts.names[n]}", (), ()
    if choice < 0.65:
        return f"[{number}] <|ref|>", (sample_prompt(facts.scene, n, rng),), ()
    return f"[{number}]", (), (number,)


def _build_turn(facts: Facts, rng: np.random.Generator, n: int, question: str, answer: str, task: str) -> Turn:
    mention, references, regions = _mention_object(facts, rng, n)
    if mention.startswith("the ") and facts.things[n].is_plural:
        question = question.replace(" is {}", " are {}").replace("Is {}", "Are {}")
    return Turn(question=question.format(mention), answer=answer, references=references, regions=regions, task=task)


def ask_name(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """What a point or box shows."""
    n = int(rng.integers(facts.count))
    return Turn(
        question=f"What is [{facts.scene.objects[n].id}] <|ref|>?",
        answer=f"the {facts.names[n]}",
        references=(sample_prompt(facts.scene, n, rng),),
        task="name",
    )


def ask_name_from_memory(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """What a known object is."""
    n = int(rng.integers(facts.count))
    number = facts.scene.objects[n].id
    return Turn(question=f"What is [{number}]?", answer=f"the {facts.names[n]}", regions=(number,), task="name_mem")


def ask_colour(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """The colour of an object that plainly has one."""
    options = [(n, colour) for n in range(facts.count) if (colour := facts.scene.get_colour(n)) is not None]
    if not options:
        return None
    n, colour = options[int(rng.integers(len(options)))]
    return _build_turn(facts, rng, n, "What colour is {}?", colour, "colour_of")


def ask_place(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """The place of an object in the picture."""
    options = [(n, place) for n in range(facts.count) if (place := facts.get_place(n)) is not None]
    if not options:
        return None
    n, place = options[int(rng.integers(len(options)))]
    return _build_turn(facts, rng, n, f"Where is {{}}{_get_start_phrase(facts)}?", place, "where")


def ask_kind(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """What kind of thing an object is."""
    options = [n for n in range(facts.count) if facts.things[n].category]
    if not options:
        return None
    n = options[int(rng.integers(len(options)))]
    return _build_turn(facts, rng, n, "What kind of thing is {}?", facts.things[n].category, "kind_of")


def ask_neighbour(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """What lies left of (right of, above, below) an object, where only one thing does."""
    options = []
    for anchor in range(facts.count):
        others = [k for k in range(facts.count) if k != anchor]
        for relation in RELATIONS:
            found = facts.find_single(facts.is_related, anchor, relation, among=others)
            if found is not None:
                options.append((anchor, relation, found))
    if not options:
        return None
    anchor, relation, found = options[int(rng.integers(len(options)))]
    return _build_turn(
        facts,
        rng,
        anchor,
        f"What is {relation} {{}}{_get_start_phrase(facts)}?",
        f"the {facts.names[found]}",
        "neighbour",
    )


def ask_yes_or_no(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """Whether an object is of a name, colour or kind; as often true as not."""
    n = int(rng.integers(facts.count))
    true = rng.random() < 0.5
    what = int(rng.integers(3))
    if what == 0:
        other = facts.names[n] if true else choose_absent_name(facts, rng)
        if other is None:
            return None
        return _build_turn(
            facts, rng, n, f"Is {{}} {add_article(other, _get_thing(other))}?", _format_yes_no(true), "yes_no"
        )
    if what == 1:
        colours = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "grey", "white", "black")
        fitting = [c for c in colours if facts.has_colour(n, c) is true]
        if not fitting or facts.scene.get_colour(n) is None:
            return None
        return _build_turn(
            facts, rng, n, f"Is {{}} {fitting[int(rng.integers(len(fitting)))]}?", _format_yes_no(true), "yes_no"
        )
    kinds = [kind for kind in KINDS if facts.is_kind(n, kind) is true]
    if not kinds or not facts.things[n].kinds or facts.things[n].is_plural or "furniture" in kinds:
        return None
    kind = kinds[int(rng.integers(len(kinds)))]
    return _build_turn(facts, rng, n, f"Is {{}} {add_article(kind, Thing(name=kind))}?", _format_yes_no(true), "yes_no")


def ask_presence(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """Whether something is in the picture; as often true as not."""
    true = rng.random() < 0.5
    noun = facts.names[int(rng.integers(facts.count))] if true else choose_absent_name(facts, rng)
    if noun is None:
        return None
    thing = _get_thing(noun)
    question = (
        f"Are there any {noun} in this image?"
        if thing.is_plural
        else f"Is there {add_article(noun, thing)} in this image?"
    )
    return Turn(question=adapt_to_video(question, facts.scene.is_video), answer=_format_yes_no(true), task="presence")


def ask_count(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """How many there are of a name, of a kind, or in all."""
    choice = rng.random()
    if choice < 0.2:
        return None if facts.scene.on_photo else _build_count_turn("things", facts.count)
    if choice < 0.4:
        kinds = [
            k for k in facts.kinds if k in KINDS and all(facts.is_kind(n, k) is not None for n in range(facts.count))
        ]
        kinds = [] if facts.scene.on_photo else kinds
        if kinds:
            kind = kinds[int(rng.integers(len(kinds)))]
            return _build_count_turn(KINDS[kind], sum(facts.is_kind(n, kind) is True for n in range(facts.count)))
    several = [n for n in facts.names if facts.names.count(n) > 1]
    pool = several if several and rng.random() < 0.6 else facts.names
    noun = pool[int(rng.integers(len(pool)))] if rng.random() < 0.85 else choose_absent_name(facts, rng)
    if noun is None or _get_thing(noun).is_plural or (facts.scene.on_photo and noun in PHOTOGRAPHED):
        return None
    thing = next((t for t in facts.things if t.name == noun), _get_thing(noun))
    return _build_count_turn(thing.plural or noun + "s", facts.names.count(noun))


def ask_caption(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """What is in the picture: "two dogs, a red car and an apple", from left to right."""
    if np.isnan(facts.centres).any():
        return None
    parts: list[str] = []
    seen: set[str] = set()
    for n in (int(k) for k in facts.centres[:, 0].argsort()):
        noun, thing = facts.names[n], facts.things[n]
        if noun in seen:
            continue
        seen.add(noun)
        several = facts.names.count(noun)
        if several > 1 and not thing.is_plural:
            parts.append(f"{NUMBERS[several]} {thing.plural}")
            continue
        colour = facts.scene.get_colour(n) if several == 1 else None
        parts.append(add_article(f"{colour} {noun}" if colour else noun, thing))
    return Turn(
        question=adapt_to_video("Describe this image.", facts.scene.is_video), answer=join_list(parts), task="caption"
    )


def _build_count_turn(noun: str, number: int) -> Turn:
    return Turn(question=f"How many {noun} are there?", answer=NUMBERS[number], task="count")


def _get_start_phrase(facts: Facts) -> str:
    """Places change in a video, so that questions about them name the first frame."""
    return " at the start" if facts.scene.is_video else ""


def _get_thing(noun: str) -> Thing:
    return THINGS.get(noun, Thing(name=noun, plural=noun + "s"))


def _format_yes_no(true: bool) -> str:
    return "yes" if true else "no"
