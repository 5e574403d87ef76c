"""From a job to a response: JSON when it is done, or server-sent events while it runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from unipixel.serve.errors import describe_error
from unipixel.serve.schemas import ErrorOut
from unipixel.serve.worker import JOB_STARTED, Job

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
EVENT_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": _EVENT}}}}
"""In the API's description: what a route returns besides JSON."""


def dump_json(value: Any) -> str:
    """Compact JSON, of schemas too, that every reader accepts: without NaN, in ASCII."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=BaseModel.model_dump)


class JsonResponse(JSONResponse):
    """A JSON response of schemas, too; from this base class the API's description knows that it is JSON."""

    def render(self, content: Any) -> bytes:
        return dump_json(content).encode()


def build_error_response(error: BaseException) -> JsonResponse:
    """What a client gets for an error."""
    found = describe_error(error)
    return JsonResponse(found.body(), found.status, found.headers)


async def wait_for_result(request: Request, job: Job) -> Any:
    """The last piece of a job, which is cancelled if the client leaves.

    Raises:
        Exception: what the job raised.
    """
    result = asyncio.create_task(job.result())
    disconnect = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait({result, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            job.cancel()
        return await result
    finally:
        job.cancel()  # no effect if it is done
        result.cancel()
        disconnect.cancel()


async def stream_events(
    job: Job,
    build_events: Callable[[Any], Iterable[str]],
    build_error_event: Callable[[ErrorOut], str],
    on_end: Callable[[], None],
) -> Response:
    """Server-sent events of a job, which is cancelled if the client leaves.

    Args:
        build_events: the events for a piece.
        build_error_event: the event for an error that comes after the first piece.
        on_end: called when all is over.

    Raises:
        Exception: what the job raised before its first piece.
    """
    events = job.events()
    first = asyncio.ensure_future(_wait_for_first(events))
    try:
        await asyncio.wait({first}, timeout=FIRST_PIECE_TIMEOUT_S)
        if first.done():
            first.result()  # raises an error that is to have a status of its own
    except BaseException:
        first.cancel()
        job.cancel()
        on_end()
        raise

    async def write_body() -> AsyncIterator[str]:
        next_piece: asyncio.Future[Any] = first
        try:
            while True:
                await asyncio.wait({next_piece}, timeout=HEARTBEAT_S)
                if not next_piece.done():
                    yield ": waiting\n\n"
                    continue
                for text in build_events(next_piece.result()):
                    yield text
                next_piece = asyncio.ensure_future(anext(events))
        except StopAsyncIteration:
            pass
        except Exception as error:
            yield build_error_event(describe_error(error).body())
        finally:
            job.cancel()
            next_piece.cancel()
            on_end()
        yield "data: [DONE]\n\n"

    headers = {**NO_CACHE, "X-Accel-Buffering": "no"}
    return _EventStream(write_body(), media_type="text/event-stream", headers=headers, on_end=on_end, job=job)


class _EventStream(StreamingResponse):
    """A stream that ends its job even if the client leaves before the first byte."""

    def __init__(self, content: Any, *, on_end: Callable[[], None], job: Job, **options: Any) -> None:
        super().__init__(content, **options)
        self._on_end, self._job = on_end, job

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
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
    """The first piece; the news that the job was started is skipped."""
    while True:
        piece = await anext(events)
        if piece is not JOB_STARTED:
            return piece


async def _wait_for_disconnect(request: Request) -> None:
    """Wait until the client has left; the body has been read before."""
    with suppress(RuntimeError):
        while (await request.receive())["type"] != "http.disconnect":
            pass
