"""``POST /v1/chat/completions``: OpenAI's chat, with pictures and videos in, and masks out."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from unipixel.engine.answer import Answer
from unipixel.engine.generate import Decoding
from unipixel.serve.chat_answers import Chunks, Writer
from unipixel.serve.chat_wire import ChatRequest, ChatResponse
from unipixel.serve.conversation import Conversation, read_conversation
from unipixel.serve.delivery import JSON, NO_CACHE, STREAMED, data, stream, whole
from unipixel.serve.faults import Refusal
from unipixel.serve.fetching import open_urls
from unipixel.serve.oneshot import OneShot, converse, is_open
from unipixel.serve.runtime import Runtime
from unipixel.serve.settings import ServeSettings
from unipixel.serve.wire import DEFAULT_TOKENS
from unipixel.serve.worker import Job

router = APIRouter(tags=["chat"])


@router.post(
    "/v1/chat/completions",
    response_model=ChatResponse,
    summary="Ask about a picture or a video",
    response_description="The answer; with `stream: true`, server-sent events of `chat.completion.chunk`, then [DONE].",
    responses=STREAMED,
)
async def chat_completions(request: Request, asked: ChatRequest) -> Response:
    """One question, with the conversation before it. Prompts go in, and objects come out, under `unipixel`.

    The conversation is about one picture or video, which its first question carries; several pictures of one size are
    the frames of a clip. A later question sends the earlier answers along, as they were given.
    """
    runtime: Runtime = request.app.state.runtime
    owner = request.state.owner
    decoding = decoding_of(asked, runtime.settings)
    conversation = read_conversation(asked, runtime.settings.max_text)
    shot = await prepared(runtime, conversation, decoding, owner)
    part = shot if shot.may_share and not asked.stream else None
    job = Job(f"chat-{id(shot)}", lambda: converse(shot), kind="chat", part=part)
    writer = Writer(runtime, shot)
    settled: list[bool] = []

    def settle() -> None:
        if not settled:
            settled.append(True)
            keep(runtime, shot, owner, writer.answer)

    try:
        runtime.worker.submit(job)
        if asked.stream:
            chunks = Chunks(writer, asked)
            return await stream(job, chunks.told, data, settle)
    except BaseException:
        settle()
        raise
    try:
        return JSON(writer.whole(await whole(request, job)), headers=NO_CACHE)
    finally:
        settle()


def decoding_of(asked: ChatRequest, settings: ServeSettings) -> Decoding:
    """How tokens are chosen.

    Raises:
        Refusal: another model is asked for, or more tokens than allowed.
    """
    if asked.model != settings.model_name:
        sentence = f"there is no model {asked.model[:80]!r} here; this server has {settings.model_name!r}"
        raise Refusal(404, sentence, code="model_not_found", param="model")
    tokens = asked.max_completion_tokens or asked.max_tokens or min(DEFAULT_TOKENS, settings.max_tokens)
    if tokens > settings.max_tokens:
        sentence = f"max_tokens is {tokens}; it must be at most {settings.max_tokens}"
        raise Refusal(400, sentence, code="too_long", param="max_tokens")
    return Decoding(
        max_new_tokens=tokens,
        temperature=float(asked.temperature or 0.0),
        top_p=1.0 if asked.top_p is None else float(asked.top_p),
        seed=asked.seed or 0,
    )


async def prepared(runtime: Runtime, conversation: Conversation, decoding: Decoding, owner: str) -> OneShot:
    """The request with its session: the one in which the conversation goes on, or a new one about its media.

    Raises:
        MediaError: the media cannot be had, or are too long.
    """
    kept = runtime.kept.take(conversation.key(owner)) if conversation.history else None
    if kept is not None:
        return OneShot(runtime.engine, conversation, decoding, kept, is_new=False)
    options = conversation.options

    def opened() -> OneShot:
        media = open_urls(conversation.urls, runtime.settings.limits, options.every)
        session = runtime.engine.open(media, num_frames=options.num_frames, track=options.track)
        runtime.check_clip(session)
        return OneShot(runtime.engine, conversation, decoding, session, is_new=True)

    return await runtime.threads.run(opened)


def keep(runtime: Runtime, shot: OneShot, owner: str, answer: Answer | None) -> None:
    """Keep the session of an answer for the next turn, or close it."""
    if not is_open(shot.session):
        return
    if answer is None or not runtime.settings.kept_conversations:
        runtime.close_aside([shot.session])
        return
    key = shot.conversation.key(owner, answer.text)
    runtime.close_aside(runtime.kept.put(key, shot.session))
