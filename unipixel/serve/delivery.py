"""From a job to a response: as JSON when it is done, or as server-sent events while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from unipixel.serve.faults import Stopped, fault
from unipixel.serve.runtime import to_json
from unipixel.serve.worker import Begun, Job

PATIENCE_S = 5.0
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


class JSON(Response):
    """A JSON response that refuses values that are no JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes that are sent."""
        return to_json(content).encode()


async def whole(request: Request, job: Job) -> Any:
    """The last piece of a job, which is cancelled if the client leaves.

    Raises:
        Exception: what the job raised.
    """
    result = asyncio.create_task(job.result())
    left = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({result, left}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            job.cancel()
        return await result
    finally:
        job.cancel()  # nothing, if it is done
        result.cancel()
        left.cancel()


async def stream(
    job: Job, told: Callable[[Any], Iterable[str]], failed: Callable[[dict[str, Any]], str], ended: Callable[[], None]
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
    first = asyncio.ensure_future(_first(events))
    try:
        await asyncio.wait({first}, timeout=PATIENCE_S)
        if first.done():
            first.result()  # raises what is to be a status of its own
    except BaseException:
        first.cancel()
        job.cancel()
        ended()
        raise

    async def body() -> AsyncIterator[str]:
        coming: asyncio.Future[Any] = first
        try:
            while True:
                await asyncio.wait({coming}, timeout=HEARTBEAT_S)
                if not coming.done():
                    yield ": waiting\n\n"
                    continue
                for text in told(coming.result()):
                    yield text
                coming = asyncio.ensure_future(anext(events))
        except StopAsyncIteration:
            pass
        except Stopped as stopped:
            yield failed(fault(stopped).body())
        except Exception as error:
            yield failed(fault(error).body())
        finally:
            job.cancel()
            coming.cancel()
            ended()
        yield "data: [DONE]\n\n"

    headers = {**NO_CACHE, "X-Accel-Buffering": "no"}
    return _Stream(body(), media_type="text/event-stream", headers=headers, ended=ended, job=job)


class _Stream(StreamingResponse):
    """A stream that ends its job even if the client leaves before the first byte."""

    def __init__(self, content: Any, *, ended: Callable[[], None], job: Job, **options: Any) -> None:
        super().__init__(content, **options)
        self._ended, self._job = ended, job

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.cancel()
            self._ended()


def event(name: str, value: Any) -> str:
    """One server-sent event with a name."""
    return f"event: {name}\ndata: {to_json(value)}\n\n"


def data(value: Any) -> str:
    """One server-sent event as OpenAI writes it."""
    return f"data: {to_json(value)}\n\n"


async def _first(events: AsyncIterator[Any]) -> Any:
    """The first piece, behind the news that the job was taken up."""
    while True:
        piece = await anext(events)
        if not isinstance(piece, Begun):
            return piece


async def _gone(request: Request) -> None:
    """Wait until the client has left; the body has been read before."""
    with suppress(RuntimeError):
        while (await request.receive())["type"] != "http.disconnect":
            pass
