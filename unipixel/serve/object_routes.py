"""Objects of a session: segment, correct, take prompts back, track, rename, remove."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from unipixel.errors import PromptError
from unipixel.serve import session_work
from unipixel.serve.delivery import JSON, STREAMED
from unipixel.serve.faults import Refusal
from unipixel.serve.results import object_json, prompts_of
from unipixel.serve.runtime import Runtime
from unipixel.serve.session_delivery import changed_json, deliver
from unipixel.serve.session_routes import EVENTS, entry_of
from unipixel.serve.session_wire import CorrectRequest, ObjectsOut, RenameRequest, SegmentRequest, TrackRequest
from unipixel.serve.sessions import Entry
from unipixel.serve.wire import ObjectOut

router = APIRouter(tags=["objects"])
OBJECTS = "/v1/sessions/{session_id}/objects"
GIVEN = f"The objects. {EVENTS}"


def _known(entry: Entry, object_id: int) -> Any:
    if object_id not in entry.objects:
        have = ", ".join(map(str, entry.objects)) or "none"
        raise Refusal(404, f"object {object_id} is not known in this session; known are {have}", code="no_object")
    return entry.objects[object_id]


@router.get(OBJECTS, response_model=ObjectsOut, summary="List objects")
async def list_objects(request: Request, session_id: str) -> Response:
    """Everything that the session knows, with masks; also while it works."""
    runtime: Runtime = request.app.state.runtime
    entry = await entry_of(request, session_id)
    known = list(entry.objects.values())
    return await runtime.threads.run(lambda: JSON({"objects": [object_json(one) for one in known]}))


@router.post(
    OBJECTS,
    response_model=ObjectsOut,
    summary="Segment what prompts show",
    response_description=GIVEN,
    responses=STREAMED,
)
async def segment(request: Request, session_id: str, asked: SegmentRequest) -> Response:
    """Points, boxes and masks become objects, without a question; those with a known object's id correct it."""
    entry = await entry_of(request, session_id)

    def work() -> Any:
        prompts = prompts_of(asked.prompts, entry.session.media.size_hw)
        return session_work.segment(entry, prompts, {"start": asked.start, "force": asked.force}, asked.label)

    return await deliver(request, entry, "segment", work, changed_json, stream=asked.stream)


@router.get(OBJECTS + "/{object_id}", response_model=ObjectOut, summary="Look at an object")
async def get_object(request: Request, session_id: str, object_id: int) -> Response:
    """With its masks."""
    return JSON(object_json(_known(await entry_of(request, session_id), object_id)))


@router.patch(OBJECTS + "/{object_id}", response_model=ObjectOut, summary="Rename an object")
async def rename(request: Request, session_id: str, object_id: int, asked: RenameRequest) -> Response:
    """Possible while the session works."""
    runtime: Runtime = request.app.state.runtime
    entry = await entry_of(request, session_id)
    _known(entry, object_id)

    def change() -> Any:
        known = _open(entry).session.rename(object_id, asked.label)
        entry.look()
        return known

    return JSON(object_json(await runtime.worker.between(change)))


@router.delete(OBJECTS + "/{object_id}", status_code=204, summary="Remove an object")
async def remove(request: Request, session_id: str, object_id: int) -> Response:
    """Its id is not used again. One that is being tracked is no longer followed."""
    runtime: Runtime = request.app.state.runtime
    entry = await entry_of(request, session_id)
    _known(entry, object_id)

    def change() -> None:
        _open(entry).session.remove(object_id)
        entry.revisions.pop(object_id, None)
        entry.look()

    await runtime.worker.between(change)
    return Response(status_code=204)


@router.post(
    OBJECTS + "/{object_id}/prompts",
    response_model=ObjectsOut,
    summary="Correct an object",
    response_description=GIVEN,
    responses=STREAMED,
)
async def correct(request: Request, session_id: str, object_id: int, asked: CorrectRequest) -> Response:
    """Clicks, a box or a mask on any frame; a correction holds up to the next frame that has some of its own."""
    entry = await entry_of(request, session_id)
    _known(entry, object_id)
    others = {one.object_id for one in asked.prompts} - {None, object_id}
    if others:
        raise PromptError(f"a prompt is about object {others.pop()}; here it must be about {object_id}, or say nothing")
    given = [one.model_copy(update={"object_id": object_id}) for one in asked.prompts]

    def work() -> Any:
        entry.session.workspace.memory.known(object_id)  # it may have been removed while this waited
        return session_work.segment(entry, prompts_of(given, entry.session.media.size_hw), {})

    return await deliver(request, entry, "correct", work, changed_json, stream=asked.stream)


@router.delete(
    OBJECTS + "/{object_id}/prompts/{number}", response_model=ObjectsOut, summary="Take a prompt of an object back"
)
async def retract(request: Request, session_id: str, object_id: int, number: int) -> Response:
    """The object becomes what it would be without it. Prompts count from 0; -1 is the last one.

    An object that only that prompt has made is removed, and the list of objects in the answer is empty.
    """
    entry = await entry_of(request, session_id)
    _known(entry, object_id)
    return await deliver(
        request, entry, "retract", lambda: session_work.retract(entry, object_id, number), changed_json
    )


@router.post(
    "/v1/sessions/{session_id}/track",
    response_model=ObjectsOut,
    summary="Track objects over the clip",
    response_description=GIVEN,
    responses=STREAMED,
)
async def track(request: Request, session_id: str, asked: TrackRequest) -> Response:
    """Again from everything that is known about them, or from one frame that is to count."""
    entry = await entry_of(request, session_id)
    return await deliver(
        request,
        entry,
        "track",
        lambda: session_work.track(entry, asked.objects, asked.start),
        changed_json,
        stream=asked.stream,
    )


def _open(entry: Entry) -> Entry:
    if entry.is_closed:
        raise Refusal(404, "the session was closed", code="no_session")
    return entry
