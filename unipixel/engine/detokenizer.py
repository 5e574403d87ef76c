"""Tokens of a reply to what the user reads, piece by piece, with ``[id]`` where an object is segmented."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from unipixel.engine.request_parser import REQUEST
from unipixel.processing.chat import SEG
from unipixel.processing.prompts import ANSWERS, format_noun_phrase

MAX_LABEL = 80
"""Characters of a label."""
_STOCK = sorted((answer.split(SEG)[0].strip() for answer in ANSWERS), key=len, reverse=True)
# what could still turn out to be the model's own number in front of `<|seg|>`, with the space around it
_PENDING = re.compile(r"\s*(?:\[\d{0,6}(?:\]\s*)?)?$")
_NUMBER = re.compile(r"\[(\d{1,6})\]\s*$")
_LONGEST_CHARACTER = 4


class ReplyDetokenizer:
    """Text of a reply while it is written.

    Args:
        tokenizer: decodes token ids.
        seg_token_id: of `<|seg|>`.
        silent_ids: tokens that end a reply and are not part of its text.
        name: gives the id of the object that a `<|seg|>` stands for; called with the text since the object before it
            and the number that the model itself wrote for it, if any. None: it is not mentioned.
    """

    def __init__(
        self,
        tokenizer: Any,
        seg_token_id: int,
        silent_ids: Iterable[int],
        name: Callable[[str, int | None], int | None],
    ) -> None:
        self.text = ""
        """Everything given out so far."""
        self._tokenizer, self._seg, self._silent, self._name = tokenizer, seg_token_id, set(silent_ids), name
        self._bytes: list[int] = []
        self._pending = ""
        self._since = ""

    def push(self, token: int) -> str:
        """Take one token and return what can be shown now, which may be nothing."""
        if token in self._silent:
            return ""
        if token == self._seg:
            return self._write_object()
        self._bytes.append(token)
        decoded = self._decode(self._bytes)
        # a character may be spelled by several tokens
        if decoded.endswith("\ufffd") and len(self._bytes) < _LONGEST_CHARACTER:
            return ""
        self._bytes = []
        self._pending += decoded
        match = _PENDING.search(self._pending)
        place = match.start() if match else len(self._pending)
        shown, self._pending = self._pending[:place], self._pending[place:]
        return self._emit(shown)

    def finish(self) -> str:
        """What was held back, without the white space at the end."""
        rest = self._pending + (self._decode(self._bytes) if self._bytes else "")
        self._pending, self._bytes = "", []
        return self._emit(rest.rstrip())

    def _write_object(self) -> str:
        if self._bytes:
            self._pending += self._decode(self._bytes)
            self._bytes = []
        own = _NUMBER.search(self._pending)
        if own:
            self._pending = self._pending[: own.start()]
        before = self._since + self._pending
        object_id = self._name(before, int(own[1]) if own else None)
        # a model may write its token right behind the word; the reader gets a space
        gap = " " if (self.text + self._pending)[-1:].isalnum() else ""
        shown, self._pending = self._pending if object_id is None else f"{self._pending}{gap}[{object_id}]", ""
        shown = self._emit(shown)
        self._since = ""
        return shown

    def _emit(self, text: str) -> str:
        if not self.text:
            text = text.lstrip()
        self.text += text
        self._since += text
        return text

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


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
