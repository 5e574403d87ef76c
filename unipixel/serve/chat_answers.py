"""Answers as OpenAI's clients read them: whole, or in chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any

from unipixel.engine.answer import Answer, MaskPiece, TextPiece
from unipixel.serve.chat_wire import ChatRequest
from unipixel.serve.oneshot import ChatTask
from unipixel.serve.responses import format_data
from unipixel.serve.runtime import Runtime
from unipixel.serve.serializers import (
    build_masks,
    build_media,
    build_object,
    count_usage,
    get_finish_reason,
)


class CompletionWriter:
    """Puts the answer to one request into JSON. Made before it is asked: a session may be closed afterwards."""

    def __init__(self, runtime: Runtime, shot: ChatTask) -> None:
        self._runtime, self._conversation = runtime, shot.conversation
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": runtime.settings.model_name,
        }
        url = self._conversation.urls[0]
        self._media = build_media(shot.session, "data" if url[:5].lower() == "data:" else url[:200])
        self._num_visual = shot.session.workspace.visual.num_tokens
        self.answer: Answer | None = None
        """The answer, when there is one."""

    def build_head(self, kind: str) -> dict[str, Any]:
        """What every piece begins with."""
        return {**self._head, "object": kind}

    def build_response(self, answer: Answer) -> dict[str, Any]:
        """A complete answer."""
        message = {
            "role": "assistant",
            "content": answer.text,
            "refusal": None,
            "unipixel": self.build_extension(answer),
        }
        choice = {"index": 0, "message": message, "finish_reason": self.get_finish_reason(answer), "logprobs": None}
        return {**self.build_head("chat.completion"), "choices": [choice], "usage": self.count_usage(answer)}

    def build_extension(self, answer: Answer) -> dict[str, Any]:
        """What OpenAI's format has no place for; also notes the answer."""
        self.answer = answer
        self._runtime.counters.count_answer(len(answer.tokens), len(answer.objects))
        return {
            "objects": [build_object(one, answer.text) for one in answer.objects],
            "media": self._media,
            "raw_text": answer.raw_text,
            "timings_s": {stage: round(seconds, 4) for stage, seconds in answer.timings.items()},
        }

    def get_finish_reason(self, answer: Answer) -> str:
        """Why it ended."""
        engine = self._runtime.engine
        return get_finish_reason(engine.processor, answer, engine.model.config.eos_token_ids)

    def count_usage(self, answer: Answer) -> dict[str, int]:
        """Its tokens."""
        turns = [(said.text, said.reply or "") for said in self._conversation.history]
        return count_usage(self._runtime.engine.processor, self._num_visual, turns, answer)


class ChunkWriter:
    """The same as server-sent events: words as they are written, masks if asked for, objects at the end."""

    def __init__(self, writer: CompletionWriter, request: ChatRequest) -> None:
        self._writer = writer
        self._with_masks = request.unipixel is not None and request.unipixel.stream_masks
        self._with_usage = request.stream_options is not None and bool(request.stream_options.include_usage)
        self._has_begun = False

    def build_events(self, piece: Any) -> Iterator[str]:
        """Events for a piece."""
        if not self._has_begun:
            self._has_begun = True
            yield format_data(self._build_chunk({"role": "assistant", "content": ""}))
        if isinstance(piece, TextPiece):
            yield format_data(self._build_chunk({"content": piece.text}))
        elif isinstance(piece, MaskPiece) and self._with_masks:
            yield format_data(self._build_chunk({"unipixel": {"masks": build_masks(piece)}}))
        elif isinstance(piece, Answer):
            extension = {"unipixel": self._writer.build_extension(piece)}
            yield format_data(self._build_chunk(extension, self._writer.get_finish_reason(piece)))
            if self._with_usage:
                last = {**self._writer.build_head("chat.completion.chunk"), "choices": []}
                yield format_data({**last, "usage": self._writer.count_usage(piece)})

    def _build_chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        head = self._writer.build_head("chat.completion.chunk")
        return {**head, "choices": [choice], **({"usage": None} if self._with_usage else {})}
