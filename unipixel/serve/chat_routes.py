"""``POST /v1/chat/completions``: OpenAI's chat, with pictures and videos in, and masks out."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from unipixel.engine.answer import Answer
from unipixel.engine.generation import DecodingOptions
from unipixel.serve.chat_answers import ChunkWriter, CompletionWriter
from unipixel.serve.chat_wire import ChatRequest, ChatResponse
from unipixel.serve.conversation import ChatConversation, read_conversation
from unipixel.serve.errors import ApiError
from unipixel.serve.media import open_urls
from unipixel.serve.oneshot import ChatTask, is_open, stream_answer
from unipixel.serve.responses import NO_CACHE, STREAMED, JsonResponse, format_data, stream_events, wait_for_result
from unipixel.serve.runtime import Runtime
from unipixel.serve.schemas import DEFAULT_TOKENS
from unipixel.serve.settings import ServeSettings
from unipixel.serve.worker import Job

router = APIRouter(tags=["chat"])


@router.post(
    "/v1/chat/completions",
    response_model=ChatResponse,
    summary="Ask about a picture or a video",
    response_description="The answer; with `stream: true`, server-sent events of `chat.completion.chunk`, then [DONE].",
    responses=STREAMED,
)
async def chat_completions(request: Request, body: ChatRequest) -> Response:
    """One question, with the conversation before it. Prompts go in, and objects come out, under `unipixel`.

    The conversation is about one picture or video, which its first question carries; several pictures of one size are
    the frames of a clip. A later question sends the earlier answers along, as they were given.
    """
    runtime: Runtime = request.app.state.runtime
    owner = request.state.owner
    decoding = build_decoding(body, runtime.settings)
    conversation = read_conversation(body, runtime.settings.max_text)
    shot = await prepare_chat(runtime, conversation, decoding, owner)
    part = shot if shot.is_batchable and not body.stream else None
    job = Job(f"chat-{id(shot)}", lambda: stream_answer(shot), kind="chat", batch_item=part)
    writer = CompletionWriter(runtime, shot)
    settled: list[bool] = []

    def settle() -> None:
        if not settled:
            settled.append(True)
            keep_session(runtime, shot, owner, writer.answer)

    try:
        runtime.worker.submit(job)
        if body.stream:
            chunks = ChunkWriter(writer, body)
            return await stream_events(job, chunks.build_events, format_data, settle)
    except BaseException:
        settle()
        raise
    try:
        return JsonResponse(writer.build_response(await wait_for_result(request, job)), headers=NO_CACHE)
    finally:
        settle()


def build_decoding(body: ChatRequest, settings: ServeSettings) -> DecodingOptions:
    """How tokens are chosen.

    Raises:
        Refusal: another model is asked for, or more tokens than allowed.
    """
    if body.model != settings.model_name:
        sentence = f"there is no model {body.model[:80]!r} here; this server has {settings.model_name!r}"
        raise ApiError(404, sentence, code="model_not_found", param="model")
    tokens = body.max_completion_tokens or body.max_tokens or min(DEFAULT_TOKENS, settings.max_tokens)
    if tokens > settings.max_tokens:
        sentence = f"max_tokens is {tokens}; it must be at most {settings.max_tokens}"
        raise ApiError(400, sentence, code="too_long", param="max_tokens")
    return DecodingOptions(
        max_new_tokens=tokens,
        temperature=float(body.temperature or 0.0),
        top_p=1.0 if body.top_p is None else float(body.top_p),
        seed=body.seed or 0,
    )


async def prepare_chat(
    runtime: Runtime, conversation: ChatConversation, decoding: DecodingOptions, owner: str
) -> ChatTask:
    """The request with its session: the one in which the conversation goes on, or a new one about its media.

    Raises:
        MediaError: the media cannot be had, or are too long.
    """
    kept = runtime.session_cache.pop(conversation.key(owner)) if conversation.history else None
    if kept is not None:
        return ChatTask(runtime.engine, conversation, decoding, kept, is_fresh=False)
    options = conversation.options

    def open_chat() -> ChatTask:
        media = open_urls(conversation.urls, runtime.settings.limits, options.every)
        session = runtime.engine.open(media, num_frames=options.num_frames, track=options.track)
        runtime.check_clip(session)
        return ChatTask(runtime.engine, conversation, decoding, session, is_fresh=True)

    return await runtime.threads.run(open_chat)


def keep_session(runtime: Runtime, shot: ChatTask, owner: str, answer: Answer | None) -> None:
    """Keep the session of an answer for the next turn, or close it."""
    if not is_open(shot.session):
        return
    if answer is None or not runtime.settings.kept_conversations:
        runtime.close_in_background([shot.session])
        return
    key = shot.conversation.key(owner, answer.text)
    runtime.close_in_background(runtime.session_cache.add(key, shot.session))
