"""Work of a session as a response: JSON at the end, or events on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from unipixel.engine.answer import Answer, MaskPiece, TextPiece
from unipixel.serve import delivery
from unipixel.serve.delivery import JSON, NO_CACHE, event, whole
from unipixel.serve.results import masks_json, object_json
from unipixel.serve.runtime import Runtime
from unipixel.serve.session_work import Changed
from unipixel.serve.sessions import Entry


async def deliver(
    request: Request,
    entry: Entry,
    kind: str,
    work: Callable[[], Iterator[Any]],
    told: Callable[[Any], dict[str, Any]],
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
        return await _streamed(runtime, entry, job, told)
    try:
        return JSON(told(await whole(request, job)), headers=NO_CACHE)
    finally:
        runtime.ended(entry, job)


async def _streamed(runtime: Runtime, entry: Entry, job: Any, told: Callable[[Any], dict[str, Any]]) -> Response:
    def events(piece: Any) -> Iterator[str]:
        if isinstance(piece, TextPiece):
            yield event("text", {"text": piece.text})
        elif isinstance(piece, MaskPiece):
            yield event("masks", masks_json(piece))
        elif isinstance(piece, Answer):
            yield event("answer", told(piece))
        elif isinstance(piece, Changed):
            yield event("objects", told(piece))

    def failed(body: dict[str, Any]) -> str:
        return event("stopped" if body["error"]["code"] == "stopped" else "error", body)

    return await delivery.stream(job, events, failed, lambda: runtime.ended(entry, job))


def changed_json(changed: Changed) -> dict[str, Any]:
    """Objects that were worked on."""
    return {"objects": [object_json(one) for one in changed.objects]}
