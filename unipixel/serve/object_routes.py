"""Objects of a session: segment, correct, take prompts back, track, rename, remove."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from unipixel.errors import PromptError
from unipixel.serve import session_work
from unipixel.serve.errors import ApiError
from unipixel.serve.responses import STREAMED, JsonResponse
from unipixel.serve.runtime import Runtime
from unipixel.serve.schemas import ObjectOut
from unipixel.serve.serializers import build_object, to_prompts
from unipixel.serve.session_delivery import build_objects, respond
from unipixel.serve.session_routes import EVENTS, get_entry
from unipixel.serve.session_wire import CorrectRequest, ObjectsOut, RenameRequest, SegmentRequest, TrackRequest
from unipixel.serve.store import SessionEntry

router = APIRouter(tags=["objects"])
OBJECTS_PATH = "/v1/sessions/{session_id}/objects"
OBJECTS_RESPONSE = f"The objects. {EVENTS}"


def _find_object(entry: SessionEntry, object_id: int) -> Any:
    if object_id not in entry.objects:
        have = ", ".join(map(str, entry.objects)) or "none"
        raise ApiError(404, f"object {object_id} is not known in this session; known are {have}", code="no_object")
    return entry.objects[object_id]


@router.get(OBJECTS_PATH, response_model=ObjectsOut, summary="List objects")
async def list_objects(request: Request, session_id: str) -> Response:
    """Everything that the session knows, with masks; also while it works."""
    runtime: Runtime = request.app.state.runtime
    entry = await get_entry(request, session_id)
    known = list(entry.objects.values())
    return await runtime.threads.run(lambda: JsonResponse({"objects": [build_object(one) for one in known]}))


@router.post(
    OBJECTS_PATH,
    response_model=ObjectsOut,
    summary="Segment what prompts show",
    response_description=OBJECTS_RESPONSE,
    responses=STREAMED,
)
async def segment(request: Request, session_id: str, body: SegmentRequest) -> Response:
    """Points, boxes and masks become objects, without a question; those with a known object's id correct it."""
    entry = await get_entry(request, session_id)

    def work() -> Any:
        prompts = to_prompts(body.prompts, entry.session.media.size_hw)
        return session_work.segment(entry, prompts, {"start": body.start, "force": body.force}, body.label)

    return await respond(request, entry, "segment", work, build_objects, stream=body.stream)


@router.get(OBJECTS_PATH + "/{object_id}", response_model=ObjectOut, summary="Look at an object")
async def get_object(request: Request, session_id: str, object_id: int) -> Response:
    """With its masks."""
    return JsonResponse(build_object(_find_object(await get_entry(request, session_id), object_id)))


@router.patch(OBJECTS_PATH + "/{object_id}", response_model=ObjectOut, summary="Rename an object")
async def rename(request: Request, session_id: str, object_id: int, body: RenameRequest) -> Response:
    """Possible while the session works."""
    runtime: Runtime = request.app.state.runtime
    entry = await get_entry(request, session_id)
    _find_object(entry, object_id)

    def change() -> Any:
        known = _check_open(entry).session.rename(object_id, body.label)
        entry.refresh_objects()
        return known

    return JsonResponse(build_object(await runtime.worker.call(change)))


@router.delete(OBJECTS_PATH + "/{object_id}", status_code=204, summary="Remove an object")
async def remove(request: Request, session_id: str, object_id: int) -> Response:
    """Its id is not used again. One that is being tracked is no longer followed."""
    runtime: Runtime = request.app.state.runtime
    entry = await get_entry(request, session_id)
    _find_object(entry, object_id)

    def change() -> None:
        _check_open(entry).session.remove(object_id)
        entry.revisions.pop(object_id, None)
        entry.refresh_objects()

    await runtime.worker.call(change)
    return Response(status_code=204)


@router.post(
    OBJECTS_PATH + "/{object_id}/prompts",
    response_model=ObjectsOut,
    summary="Correct an object",
    response_description=OBJECTS_RESPONSE,
    responses=STREAMED,
)
async def correct(request: Request, session_id: str, object_id: int, body: CorrectRequest) -> Response:
    """Clicks, a box or a mask on any frame; a correction holds up to the next frame that has some of its own."""
    entry = await get_entry(request, session_id)
    _find_object(entry, object_id)
    others = {one.object_id for one in body.prompts} - {None, object_id}
    if others:
        raise PromptError(f"a prompt is about object {others.pop()}; here it must be about {object_id}, or say nothing")
    given = [one.model_copy(update={"object_id": object_id}) for one in body.prompts]

    def work() -> Any:
        entry.session.workspace.memory.find(object_id)  # it may have been removed while this waited
        return session_work.segment(entry, to_prompts(given, entry.session.media.size_hw), {})

    return await respond(request, entry, "correct", work, build_objects, stream=body.stream)


@router.delete(
    OBJECTS_PATH + "/{object_id}/prompts/{number}", response_model=ObjectsOut, summary="Take a prompt of an object back"
)
async def retract(request: Request, session_id: str, object_id: int, number: int) -> Response:
    """The object becomes what it would be without it. Prompts count from 0; -1 is the last one.

    An object that only that prompt has made is removed, and the list of objects in the answer is empty.
    """
    entry = await get_entry(request, session_id)
    _find_object(entry, object_id)
    return await respond(
        request, entry, "retract", lambda: session_work.retract(entry, object_id, number), build_objects
    )


@router.post(
    "/v1/sessions/{session_id}/track",
    response_model=ObjectsOut,
    summary="Track objects over the clip",
    response_description=OBJECTS_RESPONSE,
    responses=STREAMED,
)
async def track(request: Request, session_id: str, body: TrackRequest) -> Response:
    """Again from everything that is known about them, or from one frame that is to count."""
    entry = await get_entry(request, session_id)
    return await respond(
        request,
        entry,
        "track",
        lambda: session_work.track(entry, body.objects, body.start),
        build_objects,
        stream=body.stream,
    )


def _check_open(entry: SessionEntry) -> SessionEntry:
    if entry.is_closed:
        raise ApiError(404, "the session was closed", code="no_session")
    return entry
