"""Multiple-choice answers: the letter a reply names, and which are right, by category."""

from __future__ import annotations

import re
from collections.abc import Sequence

RULES = ("first_word", "bracketed", "original")


def parse_choice(text: str, num_options: int, *, rule: str = "first_word") -> str | None:
    """The option letter that a reply chooses.

    ``first_word`` (UniPixel; for replies that continue "The best option is ("): the first word without brackets, dots
    and commas; of a longer word its first character. ``bracketed`` (VideoRefer-Bench-Q's own): the first ``(X)``, else
    the first ``X)``, else the first character after dots are removed. ``original``: as the published evaluation of
    UniPixel has it, ``first_word`` to the letter: words end at blanks only, commas stay, and a reply that is empty or
    begins with a blank (at which it stops) names no option.

    Args:
        text: the reply.
        num_options: letters from ``a`` on that are valid.
        rule: one of `RULES`.

    Returns:
        A lower-case letter, or None when the reply names no valid option; that counts as a wrong answer.

    Raises:
        ValueError: an unknown rule, or a number of options outside 1..26.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}, it must be one of {', '.join(RULES)}")
    if not 1 <= num_options <= 26:
        raise ValueError(f"num_options is {num_options}, it must be 1 to 26")
    if rule == "first_word":
        words = text.lower().split()
        letter = re.sub(r"[().,]", "", words[0])[:1] if words else ""
    elif rule == "original":
        letter = re.sub(r"[().]", "", text.split(" ")[0].lower())[:1]
    else:
        found = re.search(r"\(([a-z])\)", text, re.IGNORECASE) or re.search(r"([a-z])\)", text, re.IGNORECASE)
        letter = (found.group(1) if found else text.replace(".", "").strip()[:1]).lower()
    return letter if letter and letter in "abcdefghijklmnopqrstuvwxyz"[:num_options] else None


def grade_choices(
    predicted: Sequence[str | None], expected: Sequence[str], categories: Sequence[str]
) -> dict[str, list[bool]]:
    """Whether each chosen letter is the right one, by category in order of first appearance; case does not matter.

    Args:
        predicted: a letter per question, or None for an unreadable or failed reply (wrong).
        expected: the right letter per question.
        categories: a name per question.

    Raises:
        ValueError: the lengths differ, or there is no question.
    """
    if not expected or not len(predicted) == len(expected) == len(categories):
        lengths = f"{len(predicted)} predicted, {len(expected)} expected, {len(categories)} categories"
        raise ValueError(f"there are {lengths}; the numbers must be equal and at least 1")
    right: dict[str, list[bool]] = {}
    for letter, truth, name in zip(predicted, expected, categories, strict=True):
        right.setdefault(name, []).append(letter is not None and letter.lower() == truth.lower())
    return right
