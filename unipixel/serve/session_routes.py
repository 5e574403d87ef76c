"""Sessions: open, look, ask, stop, export, save, close."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from starlette.responses import Response, StreamingResponse

from unipixel.engine.answer import Answer
from unipixel.engine.session import Session
from unipixel.errors import MediaError, PromptError
from unipixel.serve import session_work
from unipixel.serve.errors import ApiError, JobCancelled
from unipixel.serve.exports import ExportFormat, write_export
from unipixel.serve.media import clean_name, fetch_media, store_upload
from unipixel.serve.pictures import encode_frame
from unipixel.serve.responses import STREAMED, JsonResponse
from unipixel.serve.runtime import Runtime
from unipixel.serve.schemas import DEFAULT_TOKENS, MAX_FRAME
from unipixel.serve.serializers import build_media, build_object, count_usage, get_finish_reason, to_prompts
from unipixel.serve.session_delivery import respond
from unipixel.serve.session_wire import (
    AnswerOut,
    AskRequest,
    OpenRequest,
    SessionOut,
    SessionsOut,
    StoppedOut,
)
from unipixel.serve.store import MEDIA_FILE, SessionEntry

T = TypeVar("T")
router = APIRouter(tags=["sessions"])
MAX_TURNS = 1000
EVENTS = "With `stream: true`, server-sent events, then [DONE]."


async def get_entry(request: Request, session_id: str) -> SessionEntry:
    """The session that a request is about.

    Raises:
        Refusal: there is none, or it is another key's.
    """
    runtime: Runtime = request.app.state.runtime
    return await runtime.get_entry(session_id, request.state.owner)


async def run_in_thread(runtime: Runtime, entry: SessionEntry, call: Callable[[], T]) -> T:
    """Call something about a session in a thread, while the model may work on it, and others may close it.

    Raises:
        Refusal: it was closed meanwhile.
    """
    try:
        return await runtime.threads.run(call)
    except (OSError, ValueError, MediaError) as error:
        if entry.is_closed:  # its files and frames are gone
            raise ApiError(404, "the session was closed", code="no_session") from error
        raise


@router.post("/v1/sessions", response_model=SessionOut, status_code=201, summary="Open a session from a URL")
async def open_session(request: Request, body: OpenRequest) -> Response:
    """The URL is fetched once, into the session's own folder."""
    runtime: Runtime = request.app.state.runtime
    options = body.model_dump(include={"num_frames", "track", "every", "fps"})

    def store_media(path: Path) -> str:
        name = fetch_media(body.url, path, runtime.settings.limits)
        return clean_name(body.name) if body.name else name

    return await _open_entry(request, store_media, options)


@router.post(
    "/v1/sessions/upload", response_model=SessionOut, status_code=201, summary="Open a session with an uploaded file"
)
async def upload_session(
    request: Request,
    file: Annotated[UploadFile, File(description="A picture or a video.")],
    num_frames: Annotated[int | None, Form(ge=1, le=MAX_FRAME)] = None,
    track: Annotated[Literal["sampled", "all"], Form()] = "sampled",
    every: Annotated[int, Form(ge=1, le=MAX_FRAME)] = 1,
    fps: Annotated[float | None, Form(gt=0, lt=1_000_000, allow_inf_nan=False)] = None,
) -> Response:
    """A multipart form; the fields besides `file` are those of opening from a URL."""
    options = {"num_frames": num_frames, "track": track, "every": every, "fps": fps}

    def store_media(path: Path) -> str:
        store_upload(file.file, path)
        return clean_name(file.filename)

    return await _open_entry(request, store_media, options)


async def _open_entry(request: Request, store_media: Callable[[Path], str], options: dict[str, Any]) -> Response:
    runtime: Runtime = request.app.state.runtime
    session_id, folder = runtime.sessions.reserve()

    def open_media_file() -> tuple[str, Session]:
        name = store_media(folder / MEDIA_FILE)
        return name, runtime.open_file(folder / MEDIA_FILE, options)

    try:
        name, session = await runtime.threads.run(open_media_file)
    except BaseException:
        runtime.sessions.release(folder)
        raise
    entry = SessionEntry(session_id, request.state.owner, name, folder, session, int(time.time()))
    runtime.sessions.add(entry)
    return JsonResponse(_build_session(entry), 201, {"Location": f"/v1/sessions/{session_id}"})


@router.get("/v1/sessions", response_model=SessionsOut, summary="List sessions")
async def list_sessions(request: Request) -> Response:
    """Open and saved sessions of the key that asks."""
    runtime: Runtime = request.app.state.runtime
    return JsonResponse({"sessions": runtime.sessions.list_sessions(request.state.owner)})


@router.get("/v1/sessions/{session_id}", response_model=SessionOut, summary="Look at a session")
async def get_session(request: Request, session_id: str) -> Response:
    """Its media, objects with masks, and what was said; a saved one that sleeps is woken."""
    runtime: Runtime = request.app.state.runtime
    entry = await get_entry(request, session_id)
    # many masks take a while to write, for which others should not have to wait
    return await run_in_thread(runtime, entry, lambda: JsonResponse(_build_session(entry)))


@router.delete("/v1/sessions/{session_id}", status_code=204, summary="Close a session")
async def close_session(request: Request, session_id: str) -> Response:
    """Its work is stopped, and everything about it is removed, what was saved included."""
    runtime: Runtime = request.app.state.runtime
    found = runtime.sessions.find(session_id, request.state.owner)
    if found is None:
        runtime.sessions.delete(session_id)
    else:
        await runtime.close_session(found)
    return Response(status_code=204)


@router.post(
    "/v1/sessions/{session_id}/ask",
    response_model=AnswerOut,
    summary="Ask a question",
    response_description=f"The answer. {EVENTS}",
    responses=STREAMED,
)
async def ask(request: Request, session_id: str, body: AskRequest) -> Response:
    """The answer comes with masks for the objects it speaks of; what was found before stays known."""
    runtime: Runtime = request.app.state.runtime
    entry = await get_entry(request, session_id)
    settings = runtime.settings
    longest = body.max_tokens or min(DEFAULT_TOKENS, settings.max_tokens)
    if longest > settings.max_tokens:
        raise PromptError(f"max_tokens is {longest}; it must be at most {settings.max_tokens}")
    if body.text is not None and len(body.text) > settings.max_text:
        raise PromptError(f"the question is {len(body.text)} characters long; at most {settings.max_text} are allowed")
    options = body.model_dump(include={"about", "start", "force", "each", "temperature", "top_p", "seed"})
    options["max_new_tokens"] = longest
    text = body.text if body.text and body.text.strip() else None

    def work() -> Any:
        prompts = to_prompts(body.prompts, entry.session.media.size_hw)
        return session_work.ask(entry, text, prompts, options)

    def build_answer(answer: Answer) -> dict[str, Any]:
        entry.turns.append(
            {"question": answer.question, "text": answer.text, "objects": [one.id for one in answer.objects]}
        )
        del entry.turns[:-MAX_TURNS]
        runtime.counters.count_answer(len(answer.tokens), len(answer.objects))
        return _build_answer(runtime, entry, answer)

    return await respond(request, entry, "ask", work, build_answer, stream=body.stream)


@router.post("/v1/sessions/{session_id}/stop", response_model=StoppedOut, summary="Stop what a session does")
async def stop(request: Request, session_id: str) -> Response:
    """Masks that were tracked so far are kept."""
    entry = await get_entry(request, session_id)
    jobs = list(entry.jobs)
    for job in jobs:
        job.cancel(JobCancelled(409, "the work was stopped; what was tracked so far is kept", code="stopped"))
    return JsonResponse({"stopped": len(jobs)})


@router.post("/v1/sessions/{session_id}/save", response_model=SessionOut, summary="Save a session")
async def save(request: Request, session_id: str) -> Response:
    """It outlives the server, and is saved again when it is put to sleep or the server ends."""
    runtime: Runtime = request.app.state.runtime
    entry = await get_entry(request, session_id)
    if not runtime.sessions.can_save:
        sentence = "this server keeps nothing; start it with --state DIR to save sessions"
        raise ApiError(409, sentence, code="no_state")

    def work() -> Any:
        runtime.sessions.save(entry)
        yield None

    return await respond(
        request, entry, "save", work, lambda _: {**_build_session(entry), "is_busy": len(entry.jobs) > 1}
    )


@router.get(
    "/v1/sessions/{session_id}/frames/{t}",
    summary="A frame of the clip",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}, "image/png": {}}, "description": "The frame."}},
)
async def get_frame(
    request: Request,
    session_id: str,
    t: int,
    image_format: Annotated[Literal["jpeg", "png"], Query(alias="format")] = "jpeg",
    width: Annotated[int | None, Query(ge=16, le=8192, description="Scale it down to this width.")] = None,
) -> Response:
    """As JPEG, or PNG with every pixel as it is."""
    runtime: Runtime = request.app.state.runtime
    entry = await get_entry(request, session_id)

    def encode() -> bytes:
        media = entry.session.media
        if not 0 <= t < media.num_frames:
            sentence = f"there is no frame {t}; the clip has 0 to {media.num_frames - 1}"
            raise ApiError(404, sentence, code="no_frame")
        return encode_frame(media, t, image_format, width)

    content = await run_in_thread(runtime, entry, encode)
    # a session's frames never change
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    return Response(content, media_type=f"image/{image_format}", headers=headers)


@router.get(
    "/v1/sessions/{session_id}/export",
    summary="Take objects elsewhere",
    response_class=Response,
    responses={
        200: {
            "description": "The file.",
            "content": {"application/json": {}, "application/zip": {}, "video/mp4": {}, "image/png": {}},
        }
    },
)
async def export_objects(
    request: Request,
    session_id: str,
    kind: Annotated[ExportFormat, Query(alias="format", description="`overlay` is MP4, or PNG of a still image.")],
    objects: Annotated[list[int] | None, Query(description="Ids; by default all.")] = None,
) -> Response:
    """COCO JSON, a zip of DAVIS palette PNGs, the clip with masks drawn over it, or a zip of YOLO polygons."""
    runtime: Runtime = request.app.state.runtime
    entry = await get_entry(request, session_id)
    known = dict(entry.objects)
    missing = [i for i in objects or () if i not in known]
    if missing:
        raise PromptError(f"object {missing[0]} is not known in this session; known are {sorted(known) or 'none'}")
    wanted = [known[i] for i in dict.fromkeys(objects)] if objects is not None else list(known.values())

    def write() -> tuple[str, IO[bytes]]:
        folder = Path(tempfile.mkdtemp(prefix="export-", dir=entry.folder))
        try:
            path = write_export(entry.session, wanted, entry.name, kind, folder)
            return path.name, open(path, "rb")
        finally:  # an open file is read to its end, whatever becomes of its name and of the session
            shutil.rmtree(folder, ignore_errors=True)
            if entry.is_closed:  # whoever closed it could not remove its folder while ours was in it
                with suppress(OSError):
                    entry.folder.rmdir()  # only if nothing is left in it

    name, file = await run_in_thread(runtime, entry, write)
    types = {"json": "application/json", "zip": "application/zip", "mp4": "video/mp4", "png": "image/png"}
    headers = {
        "Content-Length": str(os.fstat(file.fileno()).st_size),
        "Content-Disposition": f'attachment; filename="{name}"',
    }
    return StreamingResponse(_read_chunks(file), media_type=types[name.rpartition(".")[2]], headers=headers)


def _read_chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(1 << 18):
            yield piece


def _build_session(entry: SessionEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "name": entry.name,
        "created": entry.created,
        "is_saved": entry.is_saved,
        "is_busy": bool(entry.jobs),
        "media": build_media(entry.session, entry.name),
        "objects": [build_object(one) for one in entry.objects.values()],
        "turns": entry.turns,
    }


def _build_answer(runtime: Runtime, entry: SessionEntry, answer: Answer) -> dict[str, Any]:
    processor, config = runtime.engine.processor, runtime.engine.model.config
    before = [(turn["question"], turn["text"]) for turn in entry.turns[:-1] if turn["question"]]
    num_visual = entry.session.workspace.visual.num_tokens
    return {
        "question": answer.question,
        "text": answer.text,
        "raw_text": answer.raw_text,
        "finish_reason": get_finish_reason(processor, answer, config.eos_token_ids),
        "objects": [build_object(one, answer.text) for one in answer.objects],
        "usage": count_usage(processor, num_visual, before, answer),
        "timings_s": {stage: round(seconds, 4) for stage, seconds in answer.timings.items()},
    }
