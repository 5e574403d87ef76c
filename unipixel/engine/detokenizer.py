"""Tokens of a reply to the text that the user reads, piece by piece, with ``[id]`` where an object is segmented."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

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
        self._held = ""
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
        self._held += decoded
        match = _PENDING.search(self._held)
        place = match.start() if match else len(self._held)
        shown, self._held = self._held[:place], self._held[place:]
        return self._emit(shown)

    def finish(self) -> str:
        """What was held back, without the white space at the end."""
        rest = self._held + (self._decode(self._bytes) if self._bytes else "")
        self._held, self._bytes = "", []
        return self._emit(rest.rstrip())

    def _write_object(self) -> str:
        if self._bytes:
            self._held += self._decode(self._bytes)
            self._bytes = []
        own = _NUMBER.search(self._held)
        if own:
            self._held = self._held[: own.start()]
        before = self._since + self._held
        object_id = self._name(before, int(own[1]) if own else None)
        # a model may write its token right behind the word; the reader gets a space
        gap = " " if (self.text + self._held)[-1:].isalnum() else ""
        shown, self._held = self._held if object_id is None else f"{self._held}{gap}[{object_id}]", ""
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
