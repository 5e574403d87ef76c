"""The engine's own sentences: the pre-filling question, the mention of an object, and labels read from replies.

Objects are written by their ids in the session, ``[1]``, ``[2]`` and so on, in the model's text as in the user's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from unipixel.engine.request_parser import REQUEST
from unipixel.processing.chat import REF, SEG
from unipixel.processing.prompts import ANSWERS, format_noun_phrase
from unipixel.processing.wording import CHOOSE, MEMORY_REQUESTS, join_words

MAX_LABEL = 80
"""Characters of a label."""
_MENTION = re.compile(r"\[(\d{1,6})\]")
_STOCK = sorted((answer.split(SEG)[0].strip() for answer in ANSWERS), key=len, reverse=True)
_DEMONSTRATIVE = re.compile(
    r"\bth(?:is|ese)(?: (?:objects?|things?|regions?|ones?))?(?=\s*(?:[.,?!]|$))", re.IGNORECASE
)


def write_prompt_question(object_ids: Sequence[int], question: str = "", *, named: bool = False) -> str:
    """The question of the first round: which pixels are these prompts about?

    Args:
        object_ids: the prompted objects.
        question: what the user asks about them; empty if nothing.
        named: whether the checkpoint learnt the short form, see `unipixel.processing.chat.NAMED_SEG`. The released
            ones learnt to localise the objects of a question: "What colour is [1] <|ref|>? Please localize the relevant
            objects with IDs."

    Source: UniPixel, section 3.3 (memory pre-filling); the answer is ``[id] <|seg|>`` per object, in order.
    """
    if named:
        return f"Please segment {join_words([f'[{i}] {REF}' for i in object_ids])}."
    question = question.removesuffix(CHOOSE).strip()
    others = [int(number) for number in _MENTION.findall(question) if int(number) not in object_ids]
    if not question or others:
        # what is known already has no <|ref|>, and a question that speaks of it was not learnt in this place
        mentions = join_words([f"[{i}]" for i in object_ids])
        question = f"What {'is' if len(object_ids) == 1 else 'are'} {mentions}?"
    if question[-1] not in ".?!":
        question += "."
    return MEMORY_REQUESTS[0].format(add_mentions(question, [], object_ids))


def write_prompt_answer(object_ids: Sequence[int]) -> str:
    """The answer that the first round should have."""
    return " ".join(f"[{i}] {SEG}" for i in object_ids)


def has_mention(text: str, object_id: int) -> bool:
    """Whether a text speaks of an object by its id."""
    return f"[{object_id}]" in text


def add_mentions(text: str, injected: Sequence[int], pointed: Sequence[int] = ()) -> str:
    """The user's question, speaking of every object by id.

    Args:
        injected: objects that are written as regions in front of the question.
        pointed: objects that could not be turned into regions; a ``<|ref|>`` is put behind their mention.

    "What is this?" becomes "What is [1]?"; a question without a word to replace gets "About [1]: " in front.
    """
    missing = [i for i in (*injected, *pointed) if not has_mention(text, i)]
    if missing:
        words = join_words([f"[{i}]" for i in missing])
        replaced, count = _DEMONSTRATIVE.subn(words, text, count=1)
        text = replaced if count else f"About {words}: {text}"
    for i in pointed:
        text = text.replace(f"[{i}]", f"[{i}] {REF}", 1)
    return text


def sort_by_reference(text: str, object_ids: Sequence[int]) -> list[int]:
    """Objects in the order in which their ``<|ref|>`` stands in the text."""
    return sorted(object_ids, key=lambda i: text.index(f"[{i}] {REF}"))


def find_label(before: str, question: str) -> str:
    """What a segmented object is called: the words in front of its token, else what was asked for.

    Args:
        before: the reply's text since the object before it.
        question: as asked.
    """
    clause = re.split(r"[.;:!?\n]", before)[-1].strip(" ,")
    for stock in _STOCK:
        if stock and clause.lower().startswith(stock.lower()):
            clause = clause[len(stock) :].strip(" ,")
    clause = re.sub(r"^(?:and|or)\b", "", clause).strip(" ,")
    if not clause:
        asked = REQUEST.match(question.strip())
        clause = asked["what"] if asked else ""
    return format_noun_phrase(clause)[:MAX_LABEL] if clause else ""
