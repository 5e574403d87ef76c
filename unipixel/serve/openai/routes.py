"""``POST /v1/chat/completions``: OpenAI's chat, with images and videos in, and masks out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter, Depends, Request

from unipixel.engine.answer import Answer, MaskPiece
from unipixel.serve.errors import ApiError
from unipixel.serve.media import open_urls
from unipixel.serve.openai.conversation import ChatConversation, ChatTask
from unipixel.serve.openai.schemas import (
    ChatAnswerMessage,
    ChatChoice,
    ChatObjects,
    ChatRequest,
    ChatResponse,
)
from unipixel.serve.responses import EVENT_STREAM, format_data, stream_events, wait_for_result
from unipixel.serve.runtime import OwnerDep, Runtime, RuntimeDep, forbid_caching
from unipixel.serve.schemas import DEFAULT_TOKENS, Usage
from unipixel.serve.serializers import (
    build_masks,
    build_media,
    build_object,
    build_timings,
    count_usage,
    get_finish_reason,
)
from unipixel.serve.settings import ServeSettings
from unipixel.serve.worker import Job

router = APIRouter(tags=["chat"], dependencies=[Depends(forbid_caching)])


@router.post(
    "/v1/chat/completions",
    response_model=ChatResponse,
    summary="Ask about an image or a video",
    response_description="The answer; with `stream: true`, server-sent events of `chat.completion.chunk`, then [DONE].",
    responses=EVENT_STREAM,
)
async def chat_completions(request: Request, runtime: RuntimeDep, owner: OwnerDep, body: ChatRequest) -> Any:
    """Answer one question, with the conversation before it. Prompts go in, and objects come out, under `unipixel`.

    The conversation is about one image or video, which its first question carries; several images of one size are the
    frames of a clip. A later question sends the earlier answers along, as they were given.
    """
    sampling = build_sampling(body, runtime.settings)
    conversation = ChatConversation(body, runtime.settings.max_text)
    task = await prepare_task(runtime, conversation, sampling, owner)
    job = Job(f"chat-{id(task)}", task.stream, kind="chat")
    writer = CompletionWriter(runtime, task, body)
    has_ended = False

    def end() -> None:
        """Keep the session for the next turn, or close it; once, whichever way the request ends."""
        nonlocal has_ended
        if has_ended:
            return
        has_ended = True
        if writer.answer is not None:
            runtime.keep_session(conversation.key(owner, conversation.format.write(writer.answer)), task.session)
        else:
            runtime.close_in_background([task.session])

    try:
        runtime.worker.submit(job)
        if body.stream:
            return await stream_events(job, writer.build_events, format_data, end)
        response = writer.build_response(await wait_for_result(request, job))
    except BaseException:
        end()
        raise
    end()
    return response


def build_sampling(request: ChatRequest, settings: ServeSettings) -> dict[str, Any]:
    """How tokens are chosen: arguments of `Session.stream`.

    Raises:
        ApiError: another model is asked for, or more tokens than allowed.
    """
    if request.model != settings.model_name:
        message = f"there is no model {request.model[:80]!r} here; this server has {settings.model_name!r}"
        raise ApiError(404, message, code="model_not_found", param="model")
    tokens = request.max_completion_tokens or request.max_tokens or min(DEFAULT_TOKENS, settings.max_tokens)
    if tokens > settings.max_tokens:
        message = f"max_tokens is {tokens}; it must be at most {settings.max_tokens}"
        raise ApiError(400, message, code="too_long", param="max_tokens")
    return {
        "max_new_tokens": tokens,
        "temperature": float(request.temperature or 0.0),
        "top_p": 1.0 if request.top_p is None else float(request.top_p),
        "seed": request.seed or 0,
    }


async def prepare_task(
    runtime: Runtime, conversation: ChatConversation, sampling: dict[str, Any], owner: str
) -> ChatTask:
    """A request with its session: the one in which the conversation goes on, or a new one about its media.

    Raises:
        MediaError: the media cannot be fetched, or are too long.
    """
    session = runtime.session_cache.pop(conversation.key(owner)) if conversation.history else None
    if session is not None:
        return ChatTask(runtime.engine, conversation, sampling, session, is_fresh=False)
    options = conversation.clip_options

    def open_media() -> ChatTask:
        media = open_urls(conversation.urls, runtime.settings.limits, options.every)
        session = runtime.engine.open(media, num_frames=options.num_frames, track=options.track)
        runtime.check_clip(session)
        return ChatTask(runtime.engine, conversation, sampling, session, is_fresh=True)

    return await runtime.run_in_thread(open_media)


class CompletionWriter:
    """Writes the answer to one request, whole, or in chunks of words, masks if asked for, and objects at the end."""

    def __init__(self, runtime: Runtime, task: ChatTask, request: ChatRequest) -> None:
        self._runtime, self._conversation = runtime, task.conversation
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": runtime.settings.model_name,
        }
        url = self._conversation.urls[0]
        self._media = build_media(task.session, "data" if url[:5].lower() == "data:" else url[:200])
        self._num_visual = task.session.num_visual_tokens
        self._with_masks = request.unipixel is not None and request.unipixel.stream_masks
        self._with_usage = bool((request.stream_options or {}).get("include_usage"))
        self._has_begun = False
        self.answer: Answer | None = None
        """The answer, once there is one."""

    def build_response(self, answer: Answer) -> ChatResponse:
        """A complete answer."""
        content = self._conversation.format.write(answer)
        message = ChatAnswerMessage(role="assistant", content=content, unipixel=self._build_objects(answer))
        choice = ChatChoice(index=0, message=message, finish_reason=self._get_finish_reason(answer))
        return ChatResponse(**self._head, choices=[choice], usage=self._count_usage(answer))

    def build_events(self, piece: Any) -> Iterator[str]:
        """Server-sent events for a piece of the answer."""
        if not self._has_begun:
            self._has_begun = True
            yield self._format_delta(role="assistant", content="")
        if isinstance(piece, str) and not self._conversation.format.is_json:
            yield self._format_delta(content=piece)
        elif isinstance(piece, MaskPiece) and self._with_masks:
            yield self._format_delta(unipixel={"masks": build_masks(piece)})
        elif isinstance(piece, Answer):
            if self._conversation.format.is_json:  # which is known as a whole only
                yield self._format_delta(content=self._conversation.format.write(piece))
            objects = self._build_objects(piece)
            yield self._format_delta(self._get_finish_reason(piece), unipixel=objects)
            if self._with_usage:
                yield self._format_chunk([], self._count_usage(piece))

    def _format_delta(self, reason: str | None = None, **delta: object) -> str:
        """An event with what is added to the answer."""
        return self._format_chunk([{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}])

    def _format_chunk(self, choices: Sequence[Mapping[str, object]], usage: Usage | None = None) -> str:
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        # OpenAI's clients expect a usage of null in every chunk, but only if they have asked for usage
        return format_data({**chunk, "usage": usage} if self._with_usage else chunk)

    def _build_objects(self, answer: Answer) -> ChatObjects:
        """What OpenAI's format has no place for; also notes the answer."""
        self.answer = answer
        self._runtime.counters.count_answer(len(answer.tokens), len(answer.objects))
        return ChatObjects(
            objects=[build_object(found, answer.text) for found in answer.objects],
            media=self._media,
            raw_text=answer.raw_text,
            is_loop=answer.is_loop,
            timings_s=build_timings(answer),
        )

    def _get_finish_reason(self, answer: Answer) -> Literal["stop", "length"]:
        # OpenAI's clients know of no other word for what was cut off
        return "stop" if get_finish_reason(self._runtime.engine, answer) == "stop" else "length"

    def _count_usage(self, answer: Answer) -> Usage:
        turns = [(text, reply) for text, _, reply in self._conversation.history]
        return count_usage(self._runtime.engine, self._num_visual, turns, answer)


@router.post("/v1/responses", include_in_schema=False)
async def refuse_responses() -> None:
    """The newer of OpenAI's two ways to ask is not spoken here.

    Raises:
        ApiError: always; says what is.
    """
    message = "the Responses API is not spoken here; POST /v1/chat/completions takes the same questions"
    raise ApiError(404, message, code="not_supported")
