"""PixelQA: multiple-choice questions over given objects, plain and in the form that first localises the objects."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from unipixel.sample import Turn
from unipixel.stickers.colours import COLOURS
from unipixel.stickers.facts import CLEARLY, Facts
from unipixel.stickers.language import CHOOSE, LOCALIZE, MOTIONS, PLACES, RELATIONS, with_article
from unipixel.stickers.prompts import reference
from unipixel.stickers.segment_tasks import absent_name
from unipixel.stickers.things import USES, Thing

LETTERS = "ABCD"


@dataclass(frozen=True)
class _Question:
    text: str
    """Speaks of objects as [id]."""
    options: tuple[str, ...]
    answer: str


def choice(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """A question about known objects with lettered options; the answer is a letter such as "(B)"."""
    question = _question(facts, rng)
    if question is None:
        return None
    return _over_regions(question, _with_options(question))


def choose_name(facts: Facts, n: int, number: int, rng: np.random.Generator) -> tuple[str, str]:
    """What object ``n``, called [``number``], is, with options: the question and its answer such as "(B)".

    Raises:
        ValueError: there is no other name to choose from.
    """
    question = _named(facts, n, f"What is [{number}]?", rng)
    if question is None:
        raise ValueError(f"the scene has no other name than {facts.names[n]!r} to choose from")
    letter = LETTERS[question.options.index(question.answer)]
    return f"{question.text}{_with_options(question)}\n{CHOOSE}", f"({letter})"


def choice_from_prompts(facts: Facts, rng: np.random.Generator) -> tuple[Turn, Turn] | None:
    """The memory form: first the objects are localised from points and boxes, then the question is answered."""
    question = _question(facts, rng)
    if question is None:
        return None
    ids = _ids(question.text)
    by_id = {item.id: n for n, item in enumerate(facts.scene.objects)}
    options = _with_options(question)
    marked = question.text
    for number in ids:
        marked = marked.replace(f"[{number}]", f"[{number}] <|ref|>", 1)
    first = Turn(
        question=f"{marked}{options} {LOCALIZE}",
        answer=" ".join(f"[{number}]<|seg|>" for number in ids),
        references=tuple(reference(facts.scene, by_id[number], rng) for number in ids),
        targets=ids,
        task="choice_mem",
    )
    return first, _over_regions(question, options)


def _over_regions(question: _Question, options: str) -> Turn:
    letter = LETTERS[question.options.index(question.answer)]
    return Turn(
        question=f"{question.text}{options}\n{CHOOSE}", answer=f"({letter})", regions=_ids(question.text), task="choice"
    )


def _with_options(question: _Question) -> str:
    return "\nOptions:" + "".join(
        f"\n({letter}) {text}" for letter, text in zip(LETTERS, question.options, strict=False)
    )


def _ids(text: str) -> tuple[int, ...]:
    """Ids in the order in which they are first mentioned."""
    return tuple(dict.fromkeys(int(number) for number in re.findall(r"\[(\d+)\]", text)))


def _question(facts: Facts, rng: np.random.Generator) -> _Question | None:
    makers = [_what, _what, _which_name, _colour, _where, _larger, _which_use, _seen_from]
    if facts.scene.is_video:
        makers = [_what, _which_name, _colour, _doing, _doing]
    for k in rng.permutation(len(makers)):
        question = makers[int(k)](facts, rng)
        if question is not None:
            return question
    return None


def _shuffled(rng: np.random.Generator, text: str, answer: str, others: list[str], count: int = 4) -> _Question | None:
    """A question with the answer among ``others``, in random order; None without any wrong option."""
    wrong = [option for option in dict.fromkeys(others) if option != answer]
    if not wrong:
        return None
    kept = [wrong[int(k)] for k in rng.permutation(len(wrong))[: count - 1]] + [answer]
    return _Question(text, tuple(kept[int(k)] for k in rng.permutation(len(kept))), answer)


def _tag(facts: Facts, n: int) -> str:
    return f"[{facts.scene.objects[n].id}]"


def _several(facts: Facts, rng: np.random.Generator, most: int = 3) -> list[int]:
    return [int(n) for n in rng.permutation(facts.count)[: int(rng.integers(2, most + 1))]]


def _either(tags: list[str]) -> str:
    return ", ".join(tags[:-1]) + " or " + tags[-1]


def _what(facts: Facts, rng: np.random.Generator) -> _Question | None:
    n = int(rng.integers(facts.count))
    return _named(facts, n, f"What is {_tag(facts, n)}?", rng)


def _named(facts: Facts, n: int, text: str, rng: np.random.Generator) -> _Question | None:
    """The name of an object among those of others and of things that are not there."""
    others = list(dict.fromkeys(facts.names))
    others = [others[int(k)] for k in rng.permutation(len(others))[:2]]
    others += [name for _ in range(3) if (name := absent_name(facts, rng)) is not None]
    return _shuffled(rng, text, facts.names[n], others)


def _which_name(facts: Facts, rng: np.random.Generator) -> _Question | None:
    chosen = _several(facts, rng)
    names = [facts.names[n] for n in chosen]
    single = [n for n in chosen if names.count(facts.names[n]) == 1]
    if len(chosen) < 2 or not single:
        return None
    n = single[int(rng.integers(len(single)))]
    tags = [_tag(facts, k) for k in chosen]
    return _shuffled(rng, f"Which one is the {facts.names[n]}, {_either(tags)}?", _tag(facts, n), tags)


def _which_use(facts: Facts, rng: np.random.Generator) -> _Question | None:
    chosen = _several(facts, rng)
    tags = [_tag(facts, k) for k in chosen]
    options = []
    for use, words in USES.items():
        found = facts.only(facts.has_use, use, among=chosen)
        if found is not None:
            options.append((found, f"Which one is the thing {words}, {_either(tags)}?"))
    for kind in facts.kinds:
        found = facts.only(facts.is_kind, kind, among=chosen)
        if found is not None and kind != "furniture":
            options.append((found, f"Which one is {with_article(kind, Thing(name=kind))}, {_either(tags)}?"))
    if len(chosen) < 2 or not options:
        return None
    n, text = options[int(rng.integers(len(options)))]
    return _shuffled(rng, text, _tag(facts, n), tags)


def _colour(facts: Facts, rng: np.random.Generator) -> _Question | None:
    options = [n for n in range(facts.count) if facts.scene.colour(n) is not None]
    if not options:
        return None
    n = options[int(rng.integers(len(options)))]
    wrong = [colour for colour in COLOURS if facts.has_colour(n, colour) is False]
    return _shuffled(rng, f"What colour is {_tag(facts, n)}?", facts.scene.colour(n) or "", wrong)


def _where(facts: Facts, rng: np.random.Generator) -> _Question | None:
    options = [n for n in range(facts.count) if facts.place(n) is not None]
    if not options:
        return None
    n = options[int(rng.integers(len(options)))]
    return _shuffled(rng, f"Where is {_tag(facts, n)}?", facts.place(n) or "", list(PLACES.values()))


def _larger(facts: Facts, rng: np.random.Generator) -> _Question | None:
    chosen = _several(facts, rng, 2)
    if len(chosen) < 2:
        return None
    a, b = chosen
    spans = [float(facts.boxes[n, 2:].sum() - facts.boxes[n, :2].sum()) for n in chosen]
    if facts.shares[a] > CLEARLY * facts.shares[b] and spans[0] > 1.05 * spans[1]:
        winner = a
    elif facts.shares[b] > CLEARLY * facts.shares[a] and spans[1] > 1.05 * spans[0]:
        winner = b
    else:
        return None
    tags = [_tag(facts, a), _tag(facts, b)]
    return _shuffled(rng, f"Which one is larger, {_either(tags)}?", _tag(facts, winner), tags)


def _seen_from(facts: Facts, rng: np.random.Generator) -> _Question | None:
    chosen = _several(facts, rng, 2)
    if len(chosen) < 2:
        return None
    a, b = chosen
    true = [relation for relation in RELATIONS if facts.related(a, b, relation) is True]
    if len(true) != 1:
        return None
    wrong = [relation for relation in RELATIONS if facts.related(a, b, relation) is False]
    options = [f"{relation} {_tag(facts, b)}" for relation in wrong]
    return _shuffled(
        rng, f"Where is {_tag(facts, a)} seen from {_tag(facts, b)}?", f"{true[0]} {_tag(facts, b)}", options
    )


def _doing(facts: Facts, rng: np.random.Generator) -> _Question | None:
    options = [n for n in range(facts.count) if facts.scene.objects[n].does]
    if not options:
        return None
    n = options[int(rng.integers(len(options)))]
    true = sorted(facts.scene.objects[n].does)
    motion = true[int(rng.integers(len(true)))]
    wrong = [f"a thing {text}" for key, text in MOTIONS.items() if facts.has_motion(n, key) is False]
    return _shuffled(rng, f"What is {_tag(facts, n)}?", f"a thing {MOTIONS[motion]}", wrong)
