"""Routes of sessions and of the objects in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, File, Form, Query, Request, Response, UploadFile

from unipixel.engine.answer import Answer, MaskPiece, Piece
from unipixel.engine.memory import KnownObject
from unipixel.engine.session import Session
from unipixel.errors import MediaError, PromptError
from unipixel.masks import MaskTrack, parse_rle
from unipixel.serve.errors import ApiError, JobCancelled
from unipixel.serve.folder import FOLDER_SCHEME
from unipixel.serve.media import clean_name, encode_frame, fetch_media, store_upload
from unipixel.serve.responses import EVENT_STREAM, JsonResponse, format_event, stream_events, wait_for_result
from unipixel.serve.runtime import OwnerDep, Runtime, RuntimeDep, forbid_caching
from unipixel.serve.schemas import DEFAULT_TOKENS, MAX_FRAME, MAX_OBJECT_ID, ErrorOut, ObjectOut
from unipixel.serve.serializers import (
    build_masks,
    build_media,
    build_object,
    build_timings,
    count_usage,
    get_finish_reason,
)
from unipixel.serve.sessions.schemas import (
    AnswerOut,
    AskRequest,
    CorrectRequest,
    ObjectRequest,
    ObjectsOut,
    OpenRequest,
    SegmentRequest,
    SessionOut,
    SessionSummary,
    TrackRequest,
    TurnOut,
)
from unipixel.serve.sessions.store import SessionEntry, SessionStore

T = TypeVar("T")
MAX_TURNS = 1000
SESSION_PATH = "/v1/sessions/{session_id}"
OBJECTS_PATH = SESSION_PATH + "/objects"
OBJECT_PATH = OBJECTS_PATH + "/{object_id}"
OBJECTS_STREAM: dict[str, Any] = {
    "response_model": ObjectsOut,
    "response_description": "The objects; with `stream: true`, server-sent events that end with them, then [DONE].",
    "responses": EVENT_STREAM,
}

session_router = APIRouter(tags=["sessions"], dependencies=[Depends(forbid_caching)])
object_router = APIRouter(tags=["objects"], dependencies=[Depends(forbid_caching)])


def get_store(request: Request) -> SessionStore:
    """The server's sessions."""
    store: SessionStore = request.app.state.sessions
    return store


StoreDep = Annotated[SessionStore, Depends(get_store)]


async def get_entry(session_id: str, store: StoreDep, owner: OwnerDep) -> SessionEntry:
    """The session that a path names, if it is the caller's.

    Raises:
        ApiError: there is none.
    """
    return await store.get(session_id, owner)


EntryDep = Annotated[SessionEntry, Depends(get_entry)]


async def get_known_object(object_id: int, entry: EntryDep) -> KnownObject:
    """The object that a path names.

    Raises:
        ApiError: the session does not know it.
    """
    if object_id not in entry.objects:
        known = ", ".join(map(str, entry.objects)) or "none"
        raise ApiError(404, f"object {object_id} is not known in this session; known are {known}", code="no_object")
    return entry.objects[object_id]


KnownObjectDep = Annotated[KnownObject, Depends(get_known_object)]


class SessionJobs:
    """Puts work of a session into the queue and responds with what comes of it."""

    def __init__(self, request: Request, store: SessionStore, entry: SessionEntry) -> None:
        self._request, self._store, self._entry = request, store, entry

    async def run(
        self,
        kind: str,
        work: Callable[[], Iterator[Any]],
        build_result: Callable[[Any], object],
        *,
        stream: bool = False,
    ) -> Any:
        """Run work to its end, or stream it.

        Args:
            kind: for the counters.
            work: on the model's thread: pieces.
            build_result: from the last piece, an `Answer` or a list of objects.
            stream: as server-sent events ``text``, ``masks``, at the end ``answer`` or ``objects``, or ``error``.

        Returns:
            What `build_result` returns, or a response that streams.

        Raises:
            Exception: what the work raised.
        """
        entry = self._entry
        job = self._store.submit(entry, kind, work)
        if not stream:
            try:
                return build_result(await wait_for_result(self._request, job))
            finally:
                self._store.finish_job(entry, job)

        def build_events(piece: Any) -> Iterator[str]:
            if isinstance(piece, str):
                yield format_event("text", {"text": piece})
            elif isinstance(piece, MaskPiece):
                yield format_event("masks", build_masks(piece))
            else:
                yield format_event("answer" if isinstance(piece, Answer) else "objects", build_result(piece))

        def build_error_event(body: ErrorOut) -> str:
            return format_event("stopped" if body.error["code"] == "stopped" else "error", body)

        return await stream_events(job, build_events, build_error_event, lambda: self._store.finish_job(entry, job))


async def get_jobs(request: Request, store: StoreDep, entry: EntryDep) -> SessionJobs:
    """Work of the session that a path names."""
    return SessionJobs(request, store, entry)


JobsDep = Annotated[SessionJobs, Depends(get_jobs)]


async def run_in_thread(runtime: Runtime, entry: SessionEntry, function: Callable[[], T]) -> T:
    """Call something about a session in a thread, while the model may work on it, and others may close it.

    Raises:
        ApiError: it was closed meanwhile.
    """
    try:
        return await runtime.run_in_thread(function)
    except (OSError, ValueError, MediaError):
        entry.check_open()  # a closed session's files and frames are gone, whatever the error says of them
        raise


@session_router.post("/v1/sessions", response_model=SessionOut, status_code=201, summary="Open a session from a URL")
async def open_session(
    response: Response, runtime: RuntimeDep, store: StoreDep, owner: OwnerDep, body: OpenRequest
) -> SessionOut:
    """The URL is fetched once, into the session's own folder."""

    def store_media(path: Path) -> str:
        limits = runtime.settings.limits
        if body.url.startswith(FOLDER_SCHEME):
            name = runtime.get_folder().copy(body.url.removeprefix(FOLDER_SCHEME), path, limits)
        else:
            name = fetch_media(body.url, path, limits)
        return clean_name(body.name) if body.name else name

    options = body.model_dump(include={"num_frames", "track", "every", "fps"})
    return _announce(await store.open(owner, store_media, options), response)


@session_router.post(
    "/v1/sessions/upload", response_model=SessionOut, status_code=201, summary="Open a session with an uploaded file"
)
async def upload_session(
    response: Response,
    store: StoreDep,
    owner: OwnerDep,
    file: Annotated[UploadFile, File(description="An image or a video.")],
    num_frames: Annotated[int | None, Form(ge=1, le=MAX_FRAME)] = None,
    track: Annotated[Literal["sampled", "all"], Form()] = "sampled",
    every: Annotated[int, Form(ge=1, le=MAX_FRAME)] = 1,
    fps: Annotated[float | None, Form(gt=0, lt=1_000_000, allow_inf_nan=False)] = None,
) -> SessionOut:
    """A multipart form; the fields besides `file` are the same as when opening from a URL."""

    def store_media(path: Path) -> str:
        store_upload(file.file, path)
        return clean_name(file.filename)

    options = {"num_frames": num_frames, "track": track, "every": every, "fps": fps}
    return _announce(await store.open(owner, store_media, options), response)


def _announce(entry: SessionEntry, response: Response) -> SessionOut:
    response.headers["Location"] = f"/v1/sessions/{entry.id}"
    return build_session(entry)


@session_router.get("/v1/sessions", summary="List sessions")
async def list_sessions(store: StoreDep, owner: OwnerDep) -> dict[Literal["sessions"], list[SessionSummary]]:
    """Open and saved sessions that belong to the API key of the request."""
    return {"sessions": store.list_sessions(owner)}


@session_router.get(SESSION_PATH, response_model=SessionOut, summary="Return one session")
async def get_session(runtime: RuntimeDep, entry: EntryDep) -> Response:
    """Return its media, objects with masks, and conversation; a saved session that is not open is restored."""
    # many masks take a while to serialise, and other requests should not have to wait for it
    return await run_in_thread(runtime, entry, lambda: JsonResponse(build_session(entry)))


@session_router.delete(SESSION_PATH, status_code=204, summary="Close a session")
async def close_session(session_id: str, store: StoreDep, owner: OwnerDep) -> None:
    """Stop its work and remove everything about it, including what was saved."""
    await store.delete(session_id, owner)


@session_router.post(
    SESSION_PATH + "/ask",
    response_model=AnswerOut,
    summary="Ask a question",
    response_description="The answer; with `stream: true`, server-sent events that end with it, then [DONE].",
    responses=EVENT_STREAM,
)
async def ask(runtime: RuntimeDep, entry: EntryDep, jobs: JobsDep, body: AskRequest) -> Any:
    """The answer comes with masks for the objects it mentions; the session remembers what was found before."""
    settings, session = runtime.settings, entry.session
    max_tokens = body.max_tokens or min(DEFAULT_TOKENS, settings.max_tokens)
    if max_tokens > settings.max_tokens:
        raise PromptError(f"max_tokens is {max_tokens}; it must be at most {settings.max_tokens}")
    if body.text is not None and len(body.text) > settings.max_text:
        raise PromptError(f"the question is {len(body.text)} characters long; at most {settings.max_text} are allowed")

    before: list[tuple[str, str]] = []

    def work() -> Iterator[Piece]:
        pieces = session.stream(
            body.text if body.text and body.text.strip() else None,
            prompts=[prompt.to_prompt(session.media.size_hw) for prompt in body.prompts],
            about=body.about,
            start=body.start,
            force=body.force,
            each=body.each,
            max_new_tokens=max_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            seed=body.seed,
            every_token=True,
        )
        return record_turn(pieces)

    def record_turn(pieces: Any) -> Iterator[Piece]:
        """Pieces, the answer once the session's turns hold it: on the model's thread, so that no save misses it."""
        with closing(pieces):
            for piece in pieces:
                if isinstance(piece, Answer):
                    before.extend((turn.question, turn.text) for turn in entry.turns if turn.question)
                    ids = [found.id for found in piece.objects]
                    entry.turns.append(TurnOut(question=piece.question, text=piece.text, objects=ids))
                    del entry.turns[:-MAX_TURNS]
                yield piece

    def build_answer(answer: Answer) -> AnswerOut:
        runtime.counters.count_answer(len(answer.tokens), len(answer.objects))
        return AnswerOut(
            question=answer.question,
            text=answer.text,
            raw_text=answer.raw_text,
            finish_reason=get_finish_reason(runtime.engine, answer),
            objects=[build_object(found, answer.text) for found in answer.objects],
            usage=count_usage(runtime.engine, session.num_visual_tokens, before, answer),
            timings_s=build_timings(answer),
        )

    return await jobs.run("ask", work, build_answer, stream=body.stream)


@session_router.post(SESSION_PATH + "/stop", summary="Stop the work of a session")
async def stop(entry: EntryDep) -> dict[Literal["stopped"], int]:
    """Return how many pieces of work were stopped. Masks that have been tracked so far are kept."""
    jobs = list(entry.jobs)
    for job in jobs:
        job.cancel(JobCancelled(409, "the work was stopped; what was tracked so far is kept", code="stopped"))
    return {"stopped": len(jobs)}


@session_router.post(SESSION_PATH + "/undo", response_model=SessionOut, summary="Undo a change of the objects")
async def undo(entry: EntryDep, jobs: JobsDep) -> Any:
    """The last prompt, answer, name, removal or tracking is undone; what was said stays. The last 64 changes are kept.

    A session that was restored, after a restart or when it was idle, has none.
    """
    return await jobs.run("undo", lambda: _change_and_tell(entry, entry.session.undo), _settle(entry))


@session_router.post(SESSION_PATH + "/redo", response_model=SessionOut, summary="Redo what was undone")
async def redo(entry: EntryDep, jobs: JobsDep) -> Any:
    """Possible until the objects change otherwise."""
    return await jobs.run("redo", lambda: _change_and_tell(entry, entry.session.redo), _settle(entry))


def _change_and_tell(entry: SessionEntry, change: Callable[[], object]) -> Iterator[SessionOut]:
    change()
    entry.refresh_objects()
    yield build_session(entry)  # as it is now, whatever others change before it is sent


def _settle(entry: SessionEntry) -> Callable[[SessionOut], SessionOut]:
    """What a job tells of its session: that job itself does not count as its work."""
    return lambda told: told.model_copy(update={"is_busy": len(entry.jobs) > 1, "is_saved": entry.is_saved})


@session_router.post(SESSION_PATH + "/keepalive", summary="Keep a session that somebody works at")
async def keep_alive(
    runtime: RuntimeDep, store: StoreDep, entry: EntryDep
) -> dict[Literal["is_saved", "problem"], bool | str]:
    """It is not closed for being idle, and from now on it is saved after every change if the server has a state folder.

    Return whether all of it is saved, and, if that went wrong, why.
    """
    entry.is_kept = True
    if store.can_save and not entry.jobs and entry.has_changed:
        await runtime.worker.call(lambda: store.save_changes(entry))
    return {"is_saved": entry.is_saved and not entry.has_changed, "problem": entry.problem}


@session_router.post(SESSION_PATH + "/save", response_model=SessionOut, summary="Save a session")
async def save(store: StoreDep, entry: EntryDep, jobs: JobsDep) -> Any:
    """A saved session survives a restart; it is saved again when it is closed for being idle or the server stops."""
    if not store.can_save:
        raise ApiError(409, "this server keeps nothing; start it with --state DIR to save sessions", code="no_state")

    return await jobs.run("save", lambda: _change_and_tell(entry, lambda: store.save(entry)), _settle(entry))


@session_router.get(
    SESSION_PATH + "/frames/{t}",
    summary="Return one frame of the clip",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}, "image/png": {}}, "description": "The frame."}},
)
async def get_frame(
    runtime: RuntimeDep,
    entry: EntryDep,
    t: int,
    image_format: Annotated[Literal["jpeg", "png"], Query(alias="format")] = "jpeg",
    width: Annotated[int | None, Query(ge=16, le=8192, description="Scale it down to this width.")] = None,
) -> Response:
    """As JPEG, or as PNG with the exact pixels."""

    def encode() -> bytes:
        media = entry.session.media
        if not 0 <= t < media.num_frames:
            message = f"there is no frame {t}; the clip has 0 to {media.num_frames - 1}"
            raise ApiError(404, message, code="no_frame")
        return encode_frame(media, t, image_format, width)

    content = await run_in_thread(runtime, entry, encode)
    # a session's frames never change
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    return Response(content, media_type=f"image/{image_format}", headers=headers)


def build_session(entry: SessionEntry) -> SessionOut:
    """A session with everything that it knows."""
    return SessionOut(
        id=entry.id,
        name=entry.name,
        created=entry.created,
        is_saved=entry.is_saved,
        is_busy=bool(entry.jobs),
        can_undo=entry.session.can_undo,
        can_redo=entry.session.can_redo,
        media=build_media(entry.session, entry.name),
        objects=[build_object(known) for known in entry.objects.values()],
        turns=list(entry.turns),
    )


@object_router.get(OBJECTS_PATH, response_model=ObjectsOut, summary="List objects")
async def list_objects(runtime: RuntimeDep, entry: EntryDep) -> Response:
    """Everything that the session knows, with masks; possible while the session is busy."""
    known = list(entry.objects.values())
    return await runtime.run_in_thread(lambda: JsonResponse(build_objects(known)))


@object_router.post(
    OBJECTS_PATH,
    summary="Segment objects from prompts",
    **OBJECTS_STREAM,
)
async def segment(entry: EntryDep, jobs: JobsDep, body: SegmentRequest) -> Any:
    """Points, boxes and masks become objects, without a question; prompts with a known object's id correct it."""
    session = entry.session

    def work() -> Iterator[Any]:
        prompts = [prompt.to_prompt(session.media.size_hw) for prompt in body.prompts]
        return _end_with_objects(
            session.stream(
                None, prompts=prompts, start=body.start, force=body.force, label=body.label, every_token=True
            )
        )

    return await jobs.run("segment", work, build_objects, stream=body.stream)


@object_router.get(OBJECT_PATH, response_model=ObjectOut, summary="Return one object with its masks")
async def get_object(known: KnownObjectDep) -> ObjectOut:
    """Possible while the session is busy."""
    return build_object(known)


@object_router.patch(OBJECT_PATH, response_model=ObjectOut, summary="Rename an object")
async def rename(
    runtime: RuntimeDep, store: StoreDep, entry: EntryDep, known: KnownObjectDep, body: ObjectRequest
) -> ObjectOut:
    """Possible while the session is busy."""
    if body.rles is not None or body.frame_scores is not None:
        raise PromptError("an object's name alone can be changed so; to put one back with its masks, use PUT")
    return build_object(
        await runtime.worker.call(lambda: _change(store, entry, lambda s: s.rename(known.id, body.label)))
    )


@object_router.put(OBJECT_PATH, response_model=ObjectOut, summary="Put an object back with its masks")
async def put_object(
    runtime: RuntimeDep, store: StoreDep, entry: EntryDep, object_id: int, body: ObjectRequest
) -> ObjectOut:
    """For masks that are known already, from another session or program. One with the same id is replaced."""
    if not 1 <= object_id <= MAX_OBJECT_ID:
        raise PromptError(f"the object's id is {object_id}; it must be from 1 to {MAX_OBJECT_ID}")
    if body.rles is None:
        raise PromptError("rles is missing; give one COCO RLE, or null, per frame of the clip")
    if object_id not in entry.objects and len(entry.objects) >= runtime.settings.max_objects:
        message = f"the session knows {len(entry.objects)} objects, as many as are allowed; remove some"
        raise ApiError(409, message, code="full")
    if body.frame_scores is not None and len(body.frame_scores) != len(body.rles):
        raise PromptError(f"frame_scores has {len(body.frame_scores)} numbers for {len(body.rles)} frames")
    rles, size_hw = body.rles, entry.session.media.size_hw

    def check() -> MaskTrack:
        wrong = next((rle.size for rle in rles if rle is not None and rle.size != list(size_hw)), None)
        if wrong is not None:  # before it is unpacked
            raise PromptError(f"the mask's size is {wrong}; it must be the media's, {list(size_hw)}")
        try:
            return MaskTrack(size_hw, tuple(None if rle is None else parse_rle(rle.model_dump()) for rle in rles))
        except ValueError as error:
            raise PromptError(str(error)) from error

    track = await run_in_thread(runtime, entry, check)
    return build_object(
        await runtime.worker.call(
            lambda: _change(store, entry, lambda s: s.add_object(object_id, track, body.label, body.frame_scores))
        )
    )


def _change(store: SessionStore, entry: SessionEntry, change: Callable[[Session], T]) -> T:
    """Change something about a session between two pieces of work; on the model's thread."""
    entry.check_open()
    result = change(entry.session)
    entry.refresh_objects()
    store.save_changes(entry)
    return result


@object_router.delete(OBJECT_PATH, status_code=204, summary="Remove an object")
async def remove(runtime: RuntimeDep, store: StoreDep, entry: EntryDep, known: KnownObjectDep) -> None:
    """Its id is not used again, and `undo` brings it back. If it is being tracked, tracking goes on without it."""
    await runtime.worker.call(lambda: _change(store, entry, lambda s: s.remove(known.id)))


@object_router.post(
    OBJECT_PATH + "/prompts",
    summary="Correct an object",
    **OBJECTS_STREAM,
)
async def correct(entry: EntryDep, known: KnownObjectDep, jobs: JobsDep, body: CorrectRequest) -> Any:
    """Clicks, a box or a mask on any frame; a correction holds up to the next frame that has prompts of its own."""
    others = {prompt.object_id for prompt in body.prompts} - {None, known.id}
    if others:
        raise PromptError(f"a prompt is about object {others.pop()}; here it must be about {known.id}, or say nothing")
    session = entry.session

    def work() -> Iterator[Any]:
        session.get_object(known.id)  # it may have been removed while this waited, and would be made anew
        prompts = [
            prompt.model_copy(update={"object_id": known.id}).to_prompt(session.media.size_hw)
            for prompt in body.prompts
        ]
        return _end_with_objects(session.stream(None, prompts=prompts, every_token=True))

    return await jobs.run("correct", work, build_objects, stream=body.stream)


@object_router.delete(
    OBJECT_PATH + "/prompts/{number}", response_model=ObjectsOut, summary="Remove a prompt of an object"
)
async def remove_prompt(entry: EntryDep, known: KnownObjectDep, jobs: JobsDep, number: int) -> Any:
    """The object becomes what it would be without that prompt. Prompts count from 0; -1 is the last one.

    An object made only by that prompt is removed, and the list of objects in the response is empty.
    """
    session = entry.session

    def work() -> Iterator[Any]:
        return _end_with_objects(session.stream_remove_prompt(known.id, number), entry, [known.id])

    return await jobs.run("retract", work, build_objects)


@object_router.post(
    SESSION_PATH + "/track",
    summary="Track objects over the clip",
    **OBJECTS_STREAM,
)
async def track(entry: EntryDep, jobs: JobsDep, body: TrackRequest) -> Any:
    """Track them again from all that is known about them, or from one frame that counts instead."""
    session = entry.session

    def work() -> Iterator[Any]:
        ids = list(session.objects) if body.objects is None else list(dict.fromkeys(body.objects))
        return _end_with_objects(session.propagate(ids, start=body.start), entry, ids)

    return await jobs.run("track", work, build_objects, stream=body.stream)


def _end_with_objects(pieces: Any, entry: SessionEntry | None = None, ids: Sequence[int] = ()) -> Iterator[Any]:
    """Pieces of work, and a list of objects as the last: those of the answer, or those with ids if still known."""
    with closing(pieces):
        for piece in pieces:
            yield list(piece.objects) if isinstance(piece, Answer) else piece
    if entry is not None:
        objects = entry.session.objects
        yield [objects[i] for i in ids if i in objects]


def build_objects(objects: list[KnownObject]) -> ObjectsOut:
    """Objects with their masks."""
    return {"objects": [build_object(known) for known in objects]}
