"""The conversation as tokens: ChatML markup, the three pixel tokens, and the line between our markup and other
people's text.

Layout of a conversation (every visual is written as a video, a still image too, except for pictures that come with
conversations about the whole of them, which have ``<|image_pad|>``; words alone have no visual)::

    <|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n
    <|im_start|>user\\n<|vision_start|><|video_pad|>...<|vision_end|>QUESTION<|im_end|>\\n
    <|im_start|>assistant\\nANSWER<|im_end|>
    \\n<|im_start|>user\\nQUESTION<|im_end|>\\n<|im_start|>assistant\\nANSWER<|im_end|>

Source: UniPixel (arXiv 2509.18094) on the Qwen2.5-VL template.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from unipixel.errors import CheckpointError, PromptError

SYSTEM = "You are a helpful assistant."
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, VISION_PAD = "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
REF, SEG, MEM = "<|ref|>", "<|seg|>", "<|mem|>"
SPECIAL_TOKENS = (
    END_OF_TEXT,
    TURN_START,
    TURN_END,
    VISION_START,
    VISION_END,
    VISION_PAD,
    IMAGE_PAD,
    VIDEO_PAD,
    REF,
    SEG,
    MEM,
)
"""Every token with a meaning of its own, in the order in which a new tokenizer numbers them."""
NAMED_SEG = "named_seg"
"""Entry of ``tokenizer_config.json``: true for a checkpoint whose answers name what they segment, with the token right
behind the name, ``the dog<|seg|>`` and ``[1]<|seg|>``, where the released ones say ``The target is <|seg|>.`` and
``[1] <|seg|>``."""


class ChatTemplate:
    """Turns questions and answers into token ids, and token ids back into text.

    Attributes:
        named: what `NAMED_SEG` says. If true, a space in front of ``<|seg|>`` is dropped, so that whoever writes an
            answer need not know.

    Args:
        tokenizer: a `QwenTokenizer`, or a fast one of transformers, that knows `SPECIAL_TOKENS`.

    Raises:
        CheckpointError: one of the special tokens is missing from the tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        vocabulary = tokenizer.get_added_vocab()
        missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
        if missing:
            raise CheckpointError(
                f"the tokenizer has no {', '.join(missing)}; a UniPixel tokenizer has {', '.join(SPECIAL_TOKENS)}"
            )
        self.tokenizer = tokenizer
        self.ids: dict[str, int] = {token: vocabulary[token] for token in SPECIAL_TOKENS}
        markup = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        # longest first: one token may be the beginning of another
        reserved = sorted(markup | set(SPECIAL_TOKENS), key=len, reverse=True)
        self._reserved = re.compile("|".join(re.escape(token) for token in reserved))
        self.named = bool(tokenizer.init_kwargs.get(NAMED_SEG, False))
        self._encode = lru_cache(maxsize=8192)(self._encode_uncached)

    def __getstate__(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["tokenizer"])  # type: ignore[misc]  # the cache and the pattern are rebuilt

    def _encode_uncached(self, text: str) -> tuple[int, ...]:
        if self.named:
            text = text.replace(f" {SEG}", SEG)
        return tuple(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def encode(self, text: str) -> list[int]:
        """Token ids of text that may contain special tokens; nothing is added."""
        return list(self._encode(text))

    def encode_opening(self, num_visual_tokens: int, pad: str = VIDEO_PAD) -> list[int]:
        """Everything before the first question: system prompt, start of the user's turn, and the visual."""
        head = self._encode(f"{TURN_START}system\n{SYSTEM}{TURN_END}\n{TURN_START}user\n{VISION_START}")
        return [*head, *[self.ids[pad]] * num_visual_tokens, self.ids[VISION_END]]

    def encode_opening_question(self, text: str) -> list[int]:
        """The beginning of a conversation without a visual, up to where the first answer begins."""
        head = self._encode(f"{TURN_START}system\n{SYSTEM}{TURN_END}\n{TURN_START}")
        return [*head, *self.encode_question(f"user\n{text}")]

    def encode_question(self, text: str) -> list[int]:
        """A question that follows the visual, up to where the answer begins."""
        return [*self._encode(text), *self._encode(f"{TURN_END}\n{TURN_START}assistant\n")]

    def encode_next_question(self, text: str) -> list[int]:
        """A question that follows the ``<|im_end|>`` of an earlier answer, up to where the answer begins."""
        # "user" and the question are encoded together because a question may itself begin with a line break
        return [*self._encode(f"\n{TURN_START}"), *self.encode_question(f"user\n{text}")]

    def encode_answer(self, text: str) -> list[int]:
        """An answer with its closing ``<|im_end|>``: the part of a conversation that is learnt."""
        return [*self._encode(text), self.ids[TURN_END]]

    def decode_answer(self, ids: Sequence[int]) -> str:
        """Raw text of generated ids without the markers that end them; ``<|seg|>`` stays as it is written."""
        ends = (self.ids[TURN_END], self.ids[END_OF_TEXT])
        kept = list(ids)
        while kept and kept[-1] in ends:
            kept.pop()
        return str(self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def check_text(self, text: str, what: str, allowed: str = "", count: int = 0) -> None:
        """Refuse text that would be read as markup.

        Args:
            text: text from outside.
            what: how to call it in the message.
            allowed: the one special token that may occur.
            count: how often it must occur.

        Raises:
            PromptError: the text is not a string of characters, contains another special token, or ``allowed`` does
                not occur ``count`` times.
        """
        if not isinstance(text, str):
            raise PromptError(f"the {what} is a {type(text).__name__}, expected a string")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError(
                f"the {what} has a lone surrogate {text[error.start]!r} at character {error.start}; "
                "it must be valid Unicode text"
            ) from None
        found = self._reserved.findall(text)
        for token in found:
            if token != allowed:
                raise PromptError(f"the {what} contains the reserved token {token}; write it without the markup")
        if len(found) != count:
            raise PromptError(f"the {what} has {len(found)} {allowed or 'reserved tokens'}, expected {count}")
