"""Work of a session as a response: JSON at the end, or events on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from unipixel.engine.answer import Answer, MaskPiece, TextPiece
from unipixel.serve import responses
from unipixel.serve.responses import NO_CACHE, JsonResponse, format_event, wait_for_result
from unipixel.serve.runtime import Runtime
from unipixel.serve.serializers import build_masks, build_object
from unipixel.serve.session_work import ObjectsPiece
from unipixel.serve.store import SessionEntry


async def respond(
    request: Request,
    entry: SessionEntry,
    kind: str,
    work: Callable[[], Iterator[Any]],
    build_result: Callable[[Any], dict[str, Any]],
    *,
    stream: bool = False,
) -> Response:
    """Put work into the queue and give out what comes of it.

    Args:
        kind: for the counters.
        work: on the model's thread: pieces.
        told: the last piece as JSON.
        stream: as server-sent events ``text``, ``masks``, at the end ``answer`` or ``objects``, or ``error``.

    Raises:
        Exception: what the work raised.
    """
    runtime: Runtime = request.app.state.runtime
    job = runtime.submit(entry, kind, work)
    if stream:
        return await _stream_work(runtime, entry, job, build_result)
    try:
        return JsonResponse(build_result(await wait_for_result(request, job)), headers=NO_CACHE)
    finally:
        runtime.finish_job(entry, job)


async def _stream_work(
    runtime: Runtime, entry: SessionEntry, job: Any, build_result: Callable[[Any], dict[str, Any]]
) -> Response:
    def build_events(piece: Any) -> Iterator[str]:
        if isinstance(piece, TextPiece):
            yield format_event("text", {"text": piece.text})
        elif isinstance(piece, MaskPiece):
            yield format_event("masks", build_masks(piece))
        elif isinstance(piece, Answer):
            yield format_event("answer", build_result(piece))
        elif isinstance(piece, ObjectsPiece):
            yield format_event("objects", build_result(piece))

    def build_error_event(body: dict[str, Any]) -> str:
        return format_event("stopped" if body["error"]["code"] == "stopped" else "error", body)

    return await responses.stream_events(job, build_events, build_error_event, lambda: runtime.finish_job(entry, job))


def build_objects(changed: ObjectsPiece) -> dict[str, Any]:
    """Objects that were worked on."""
    return {"objects": [build_object(one) for one in changed.objects]}
