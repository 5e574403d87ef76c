"""Multiple-choice answers, and captions against references: CIDEr-D, and the overlap of words instead of a judge.

Captions are compared as words: small letters, punctuation dropped, as COCO's caption evaluation does. METEOR is not
here: its release 1.5 is a Java program with tables of paraphrases; without them its name stands for other figures.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

MAX_WORDS = 4
"""Longest runs of words that CIDEr-D counts."""
SIGMA = 6.0
"""Width of CIDEr-D's penalty for another length, in words."""
RULES = ("first_word", "bracketed", "original")

# Numbers, and words with their inner hyphens; "'s" and "n't" are words of their own, as in the Penn Treebank.
_WORD = re.compile(r"[^\W_]+?(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b|[^\W_]+(?:[-.][^\W_]+)*")

_Grams = list[dict[tuple[str, ...], float]]
"""Per length of run, its weights."""


def caption_words(text: str) -> list[str]:
    """The words of a caption in small letters, without punctuation."""
    return _WORD.findall(text.lower().replace("’", "'"))


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """How much captions share with their references, rare runs of words counting most.

    How rare a run of words is, is taken from the references themselves: captions of one picture alone score 0, and
    figures of different sets or subsets cannot be compared.

    Args:
        candidates: one caption per picture.
        references: per picture at least one.

    Returns:
        float (captions,), each 0 to 10; published tables give their mean times 10.

    Raises:
        ValueError: no caption, different numbers of captions and references, or a picture without a reference.

    Source: CIDEr (arXiv 1411.5726), the variant D of COCO's caption evaluation: counts are clipped to the reference's,
    and another length costs.
    """
    if not candidates or len(candidates) != len(references) or not all(references):
        raise ValueError(
            f"there are {len(candidates)} captions and references of {len(references)} pictures; "
            "there must be at least one, equally many, and at least one reference each"
        )
    counts = [[_count_ngrams(text) for text in texts] for texts in references]
    seen_in: Counter[tuple[str, ...]] = Counter()
    for texts in counts:
        seen_in.update({run for grams in texts for of_length in grams for run in of_length})
    pictures = math.log(len(candidates))
    scores = []
    for candidate, texts in zip(candidates, counts, strict=True):
        found = _count_ngrams(candidate)
        scores.append(float(np.mean([_compute_similarity(found, one, seen_in, pictures) for one in texts])))
    return np.array(scores)


def token_f1(candidate: str, references: Sequence[str]) -> float:
    """Overlap of words with the best fitting reference, 0 to 1; the order of the words does not count.

    What VideoRefer-Bench-D reports comes from a language model as judge. This is the figure to look at without one; it
    is never called by that benchmark's names.

    Raises:
        ValueError: no reference.
    """
    if not references:
        raise ValueError("there is no reference; an overlap of words needs at least one")
    words = Counter(caption_words(candidate))
    return max(_compute_word_overlap(words, Counter(caption_words(reference))) for reference in references)


def _compute_word_overlap(first: Counter[str], second: Counter[str]) -> float:
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 1.0


def _count_ngrams(text: str) -> list[Counter[tuple[str, ...]]]:
    """Per length of 1 to `MAX_WORDS`, how often each run of words occurs."""
    words = caption_words(text)
    return [
        Counter(tuple(words[k : k + length]) for k in range(len(words) - length + 1))
        for length in range(1, MAX_WORDS + 1)
    ]


def _compute_similarity(
    candidate: list[Counter[tuple[str, ...]]],
    reference: list[Counter[tuple[str, ...]]],
    seen_in: Counter[tuple[str, ...]],
    pictures: float,
) -> float:
    """CIDEr-D of a caption and one reference.

    Args:
        seen_in: in how many pictures' references each run of words occurs.
        pictures: logarithm of the number of pictures.
    """

    def weigh_ngrams(grams: list[Counter[tuple[str, ...]]]) -> _Grams:
        return [{run: n * (pictures - math.log(max(1, seen_in[run]))) for run, n in one.items()} for one in grams]

    # The reference implementation measures length in pairs of words.
    longer = candidate[1].total() - reference[1].total()
    penalty = math.exp(-(longer**2) / (2 * SIGMA**2))
    total = 0.0
    for mine, theirs in zip(weigh_ngrams(candidate), weigh_ngrams(reference), strict=True):
        norms = math.hypot(*mine.values()) * math.hypot(*theirs.values())
        if norms:
            total += (
                sum(min(weight, theirs.get(run, 0.0)) * theirs.get(run, 0.0) for run, weight in mine.items()) / norms
            )
    return 10 * penalty * total / MAX_WORDS


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
