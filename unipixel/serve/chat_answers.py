"""Answers as OpenAI's clients read them: whole, or in chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any

from unipixel.engine.answer import Answer, MaskPiece, TextPiece
from unipixel.serve.chat_wire import ChatRequest
from unipixel.serve.delivery import data
from unipixel.serve.oneshot import OneShot
from unipixel.serve.results import (
    finish_reason,
    masks_json,
    media_json,
    object_json,
    usage_json,
)
from unipixel.serve.runtime import Runtime


class Writer:
    """Puts the answer to one request into JSON. Made before it is asked: a session may be closed afterwards."""

    def __init__(self, runtime: Runtime, shot: OneShot) -> None:
        self._runtime, self._conversation = runtime, shot.conversation
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": runtime.settings.model_name,
        }
        url = self._conversation.urls[0]
        self._media = media_json(shot.session, "data" if url[:5].lower() == "data:" else url[:200])
        self._num_visual = shot.session.workspace.visual.num_tokens
        self.answer: Answer | None = None
        """The answer, when there is one."""

    def head(self, kind: str) -> dict[str, Any]:
        """What every piece begins with."""
        return {**self._head, "object": kind}

    def whole(self, answer: Answer) -> dict[str, Any]:
        """A complete answer."""
        message = {
            "role": "assistant",
            "content": answer.text,
            "refusal": None,
            "unipixel": self.extension(answer),
        }
        choice = {"index": 0, "message": message, "finish_reason": self.reason(answer), "logprobs": None}
        return {**self.head("chat.completion"), "choices": [choice], "usage": self.usage(answer)}

    def extension(self, answer: Answer) -> dict[str, Any]:
        """What OpenAI's format has no place for; also notes the answer."""
        self.answer = answer
        self._runtime.counters.answered(len(answer.tokens), len(answer.objects))
        return {
            "objects": [object_json(one, answer.text) for one in answer.objects],
            "media": self._media,
            "raw_text": answer.raw_text,
            "timings_s": {stage: round(seconds, 4) for stage, seconds in answer.timings.items()},
        }

    def reason(self, answer: Answer) -> str:
        """Why it ended."""
        engine = self._runtime.engine
        return finish_reason(engine.processor, answer, engine.model.config.eos_token_ids)

    def usage(self, answer: Answer) -> dict[str, int]:
        """Its tokens."""
        turns = [(said.text, said.reply or "") for said in self._conversation.history]
        return usage_json(self._runtime.engine.processor, self._num_visual, turns, answer)


class Chunks:
    """The same as server-sent events: words as they are written, masks if asked for, objects at the end."""

    def __init__(self, writer: Writer, asked: ChatRequest) -> None:
        self._writer = writer
        self._with_masks = asked.unipixel is not None and asked.unipixel.stream_masks
        self._with_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
        self._has_begun = False

    def told(self, piece: Any) -> Iterator[str]:
        """Events for a piece."""
        if not self._has_begun:
            self._has_begun = True
            yield data(self._chunk({"role": "assistant", "content": ""}))
        if isinstance(piece, TextPiece):
            yield data(self._chunk({"content": piece.text}))
        elif isinstance(piece, MaskPiece) and self._with_masks:
            yield data(self._chunk({"unipixel": {"masks": masks_json(piece)}}))
        elif isinstance(piece, Answer):
            extension = {"unipixel": self._writer.extension(piece)}
            yield data(self._chunk(extension, self._writer.reason(piece)))
            if self._with_usage:
                last = {**self._writer.head("chat.completion.chunk"), "choices": []}
                yield data({**last, "usage": self._writer.usage(piece)})

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        head = self._writer.head("chat.completion.chunk")
        return {**head, "choices": [choice], **({"usage": None} if self._with_usage else {})}
