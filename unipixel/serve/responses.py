"""From a job to a response: as JSON when it is done, or as server-sent events while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from unipixel.serve.errors import JobCancelled, describe_error
from unipixel.serve.runtime import dump_json
from unipixel.serve.worker import Job, JobStarted

FIRST_PIECE_TIMEOUT_S = 5.0
"""Seconds for which a stream waits for its first piece, so that a refusal still gets its own HTTP status."""
HEARTBEAT_S = 10.0
"""Seconds of silence after which a comment is sent, so that nothing between us and the client gives up."""
NO_CACHE = {"Cache-Control": "no-store"}
_EVENT = {
    "type": "object",
    "description": "One event; the data are JSON, or `[DONE]` at the end.",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": _EVENT}}}}
"""In the API's description: what a route answers besides JSON."""


class JsonResponse(Response):
    """A JSON response that refuses values that are no JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes that are sent."""
        return dump_json(content).encode()


async def wait_for_result(request: Request, job: Job) -> Any:
    """The last piece of a job, which is cancelled if the client leaves.

    Raises:
        Exception: what the job raised.
    """
    result = asyncio.create_task(job.result())
    left = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait({result, left}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            job.cancel()
        return await result
    finally:
        job.cancel()  # nothing, if it is done
        result.cancel()
        left.cancel()


async def stream_events(
    job: Job,
    build_events: Callable[[Any], Iterable[str]],
    build_error_event: Callable[[dict[str, Any]], str],
    on_end: Callable[[], None],
) -> Response:
    """Server-sent events of a job, which is cancelled if the client leaves.

    Args:
        told: events for a piece.
        failed: the event for an error that comes after the first piece.
        ended: called when all is over.

    Raises:
        Exception: what the job raised before its first piece.
    """
    events = job.events()
    first = asyncio.ensure_future(_wait_for_first(events))
    try:
        await asyncio.wait({first}, timeout=FIRST_PIECE_TIMEOUT_S)
        if first.done():
            first.result()  # raises what is to be a status of its own
    except BaseException:
        first.cancel()
        job.cancel()
        on_end()
        raise

    async def body() -> AsyncIterator[str]:
        coming: asyncio.Future[Any] = first
        try:
            while True:
                await asyncio.wait({coming}, timeout=HEARTBEAT_S)
                if not coming.done():
                    yield ": waiting\n\n"
                    continue
                for text in build_events(coming.result()):
                    yield text
                coming = asyncio.ensure_future(anext(events))
        except StopAsyncIteration:
            pass
        except JobCancelled as stopped:
            yield build_error_event(describe_error(stopped).body())
        except Exception as error:
            yield build_error_event(describe_error(error).body())
        finally:
            job.cancel()
            coming.cancel()
            on_end()
        yield "data: [DONE]\n\n"

    headers = {**NO_CACHE, "X-Accel-Buffering": "no"}
    return _EventStream(body(), media_type="text/event-stream", headers=headers, on_end=on_end, job=job)


class _EventStream(StreamingResponse):
    """A stream that ends its job even if the client leaves before the first byte."""

    def __init__(self, content: Any, *, on_end: Callable[[], None], job: Job, **options: Any) -> None:
        super().__init__(content, **options)
        self._on_end, self._job = on_end, job

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.cancel()
            self._on_end()


def format_event(name: str, value: Any) -> str:
    """One server-sent event with a name."""
    return f"event: {name}\ndata: {dump_json(value)}\n\n"


def format_data(value: Any) -> str:
    """One server-sent event as OpenAI writes it."""
    return f"data: {dump_json(value)}\n\n"


async def _wait_for_first(events: AsyncIterator[Any]) -> Any:
    """The first piece, behind the news that the job was taken up."""
    while True:
        piece = await anext(events)
        if not isinstance(piece, JobStarted):
            return piece


async def _wait_for_disconnect(request: Request) -> None:
    """Wait until the client has left; the body has been read before."""
    with suppress(RuntimeError):
        while (await request.receive())["type"] != "http.disconnect":
            pass
