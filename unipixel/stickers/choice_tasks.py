"""PixelQA: multiple-choice questions over given objects, plain and in the form that first localises the objects."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from unipixel.sample import Turn
from unipixel.stickers.colours import COLOURS
from unipixel.stickers.facts import CLEARLY, Facts
from unipixel.stickers.language import CHOOSE, LOCALIZE, MOTIONS, PLACES, RELATIONS, add_article
from unipixel.stickers.scene import sample_prompt
from unipixel.stickers.segment_tasks import choose_absent_name
from unipixel.stickers.things import USES, Thing

LETTERS = "ABCD"
_REGIONS_HEAD = "Here is an image with the following highlighted regions:\n"
_OPTION = re.compile(rf"^\(([{LETTERS}])\) (.+)$", re.MULTILINE)


_Choice = tuple[str, str, str]
"""A question that speaks of objects as [id], its options line by line, and the answer."""

_Maker = Callable[[Facts, np.random.Generator], _Choice | None]

WRITTEN_WHICH = 0.6
"""Share of the choices in words that ask which of several objects is meant: learnt last, and not told by a name."""


def ask_choice(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """A question about known objects with lettered options; the answer is such as "the best option is dog (B)".

    The answer says what is true before it says which letter that has: two easy steps instead of a hard one.
    """
    found = _ask_any(facts, rng)
    return None if found is None else _build_turn(*found)


def ask_name_choice(facts: Facts, n: int, number: int, rng: np.random.Generator) -> tuple[str, str]:
    """What object ``n``, called [``number``], is, with options: the question and its answer.

    Raises:
        ValueError: there is no other name to choose from.
    """
    found = _ask_name_of(facts, n, f"What is [{number}]?", rng)
    if found is None:
        raise ValueError(f"the scene has no other name than {facts.names[n]!r} to choose from")
    text, options, answer = found
    return f"{text}{options}\n{CHOOSE}", answer


def ask_written_choice(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """A choice in words alone: where a question about a picture would show objects, what is true of them is written.

    Choosing is a skill of language, learnt for little without pictures: find the option that fits what is known of the
    object, and say its letter. An object's line has its name, one to three times, as its visual tokens say it, its
    colour and place where they are plain, and tenths of the sides: x and y of its centre, and the square root of its
    area.
    """
    found = _ask_any(facts, rng, _OF_SEVERAL if rng.random() < WRITTEN_WHICH else ())
    if found is None:
        return None
    turn = _build_turn(*found)
    places = {item.id: n for n, item in enumerate(facts.scene.objects)}
    lines = "".join(f"[{number}]: {_describe(facts, places[number], rng)}\n" for number in turn.regions)
    return replace(turn, question=_REGIONS_HEAD + lines + turn.question, regions=())


def _describe(facts: Facts, n: int, rng: np.random.Generator) -> str:
    tenths = [*facts.centres[n], float(np.sqrt(facts.shares[n]))]
    words = [facts.names[n]] * int(rng.integers(1, 4)) + [facts.scene.get_colour(n), facts.get_place(n)]
    return " ".join([*filter(None, words), *(str(int(10 * min(share, 0.99))) for share in tenths)])


def write_answer(letter: str, option: str) -> str:
    """How an option is chosen."""
    return f"the best option is {option} ({letter})"


def list_answers(question: str) -> list[str]:
    """The answers that a question with options allows, in their order."""
    return [write_answer(letter, option) for letter, option in _OPTION.findall(question)]


def ask_choice_from_prompts(facts: Facts, rng: np.random.Generator) -> tuple[Turn, Turn] | None:
    """The memory form: first the objects are localised from points and boxes, then the question is answered."""
    found = _ask_any(facts, rng)
    if found is None:
        return None
    marked, options, _ = found
    ids = _find_ids(marked)
    by_id = {item.id: n for n, item in enumerate(facts.scene.objects)}
    for number in ids:
        marked = marked.replace(f"[{number}]", f"[{number}] <|ref|>", 1)
    first = Turn(
        question=f"{marked}{options} {LOCALIZE}",
        answer=" ".join(f"[{number}]<|seg|>" for number in ids),
        references=tuple(sample_prompt(facts.scene, by_id[number], rng) for number in ids),
        targets=ids,
        task="choice_mem",
    )
    return first, _build_turn(*found)


def _build_turn(text: str, options: str, answer: str) -> Turn:
    return Turn(question=f"{text}{options}\n{CHOOSE}", answer=answer, regions=_find_ids(text), task="choice")


def _find_ids(text: str) -> tuple[int, ...]:
    """Ids in the order in which they are first mentioned."""
    return tuple(dict.fromkeys(int(number) for number in re.findall(r"\[(\d+)\]", text)))


def _ask_any(facts: Facts, rng: np.random.Generator, makers: tuple[_Maker, ...] = ()) -> _Choice | None:
    """A question by one of ``makers``; without any, by one of those that suit what the scene is."""
    makers = makers or (_OF_CLIPS if facts.scene.is_video else _OF_STILLS)
    for k in rng.permutation(len(makers)):
        question = makers[int(k)](facts, rng)
        if question is not None:
            return question
    return None


def _shuffle_options(
    rng: np.random.Generator, text: str, answer: str, others: list[str], count: int = 4
) -> _Choice | None:
    """A question with the answer among ``others``, in random order; None without any wrong option."""
    wrong = [option for option in dict.fromkeys(others) if option != answer]
    if not wrong:
        return None
    kept = [wrong[int(k)] for k in rng.permutation(len(wrong))[: count - 1]] + [answer]
    shuffled = [kept[int(k)] for k in rng.permutation(len(kept))]
    options = "".join(f"\n({letter}) {option}" for letter, option in zip(LETTERS, shuffled, strict=False))
    return text, f"\nOptions:{options}", write_answer(LETTERS[shuffled.index(answer)], answer)


def _get_tag(facts: Facts, n: int) -> str:
    return f"[{facts.scene.objects[n].id}]"


def _choose_objects(facts: Facts, rng: np.random.Generator, most: int = 3) -> list[int]:
    return [int(n) for n in rng.permutation(facts.count)[: int(rng.integers(2, most + 1))]]


def _join_with_or(tags: list[str]) -> str:
    return ", ".join(tags[:-1]) + " or " + tags[-1]


def _ask_name(facts: Facts, rng: np.random.Generator) -> _Choice | None:
    n = int(rng.integers(facts.count))
    return _ask_name_of(facts, n, f"What is {_get_tag(facts, n)}?", rng)


def _ask_name_of(facts: Facts, n: int, text: str, rng: np.random.Generator) -> _Choice | None:
    """The name of an object among those of others and of things that are not there."""
    others = list(dict.fromkeys(facts.names))
    others = [others[int(k)] for k in rng.permutation(len(others))[:2]]
    others += [name for _ in range(3) if (name := choose_absent_name(facts, rng)) is not None]
    return _shuffle_options(rng, text, facts.names[n], others)


def _ask_which_name(facts: Facts, rng: np.random.Generator) -> _Choice | None:
    chosen = _choose_objects(facts, rng)
    names = [facts.names[n] for n in chosen]
    single = [n for n in chosen if names.count(facts.names[n]) == 1]
    if len(chosen) < 2 or not single:
        return None
    n = single[int(rng.integers(len(single)))]
    tags = [_get_tag(facts, k) for k in chosen]
    return _shuffle_options(rng, f"Which one is the {facts.names[n]}, {_join_with_or(tags)}?", _get_tag(facts, n), tags)


def _ask_which_use(facts: Facts, rng: np.random.Generator) -> _Choice | None:
    chosen = _choose_objects(facts, rng)
    tags = [_get_tag(facts, k) for k in chosen]
    options = []
    for use, words in USES.items():
        found = facts.find_single(facts.has_use, use, among=chosen)
        if found is not None:
            options.append((found, f"Which one is the thing {words}, {_join_with_or(tags)}?"))
    for kind in facts.kinds:
        found = facts.find_single(facts.is_kind, kind, among=chosen)
        if found is not None and kind != "furniture":
            options.append((found, f"Which one is {add_article(kind, Thing(name=kind))}, {_join_with_or(tags)}?"))
    if len(chosen) < 2 or not options:
        return None
    n, text = options[int(rng.integers(len(options)))]
    return _shuffle_options(rng, text, _get_tag(facts, n), tags)


def _ask_colour(facts: Facts, rng: np.random.Generator) -> _Choice | None:
    options = [n for n in range(facts.count) if facts.scene.get_colour(n) is not None]
    if not options:
        return None
    n = options[int(rng.integers(len(options)))]
    wrong = [colour for colour in COLOURS if facts.has_colour(n, colour) is False]
    return _shuffle_options(rng, f"What colour is {_get_tag(facts, n)}?", facts.scene.get_colour(n) or "", wrong)


def _ask_place(facts: Facts, rng: np.random.Generator) -> _Choice | None:
    options = [n for n in range(facts.count) if facts.get_place(n) is not None]
    if not options:
        return None
    n = options[int(rng.integers(len(options)))]
    return _shuffle_options(rng, f"Where is {_get_tag(facts, n)}?", facts.get_place(n) or "", list(PLACES.values()))


def _ask_larger(facts: Facts, rng: np.random.Generator) -> _Choice | None:
    chosen = _choose_objects(facts, rng, 2)
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
    tags = [_get_tag(facts, a), _get_tag(facts, b)]
    return _shuffle_options(rng, f"Which one is larger, {_join_with_or(tags)}?", _get_tag(facts, winner), tags)


def _ask_relation(facts: Facts, rng: np.random.Generator) -> _Choice | None:
    chosen = _choose_objects(facts, rng, 2)
    if len(chosen) < 2:
        return None
    a, b = chosen
    true = [relation for relation in RELATIONS if facts.is_related(a, b, relation) is True]
    if len(true) != 1:
        return None
    wrong = [relation for relation in RELATIONS if facts.is_related(a, b, relation) is False]
    options = [f"{relation} {_get_tag(facts, b)}" for relation in wrong]
    return _shuffle_options(
        rng,
        f"Where is {_get_tag(facts, a)} seen from {_get_tag(facts, b)}?",
        f"{true[0]} {_get_tag(facts, b)}",
        options,
    )


def _ask_motion(facts: Facts, rng: np.random.Generator) -> _Choice | None:
    options = [n for n in range(facts.count) if facts.scene.objects[n].does]
    if not options:
        return None
    n = options[int(rng.integers(len(options)))]
    true = sorted(facts.scene.objects[n].does)
    motion = true[int(rng.integers(len(true)))]
    wrong = [f"a thing {text}" for key, text in MOTIONS.items() if facts.has_motion(n, key) is False]
    return _shuffle_options(rng, f"What is {_get_tag(facts, n)}?", f"a thing {MOTIONS[motion]}", wrong)


# held-out questions are drawn by place in these lists
_OF_STILLS: tuple[_Maker, ...] = (
    _ask_name,
    _ask_name,
    _ask_which_name,
    _ask_colour,
    _ask_place,
    _ask_larger,
    _ask_which_use,
    _ask_relation,
)
_OF_CLIPS: tuple[_Maker, ...] = (_ask_name, _ask_which_name, _ask_colour, _ask_motion, _ask_motion)
_OF_SEVERAL: tuple[_Maker, ...] = (_ask_which_name, _ask_larger, _ask_which_use, _ask_relation)
