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
from unipixel.serve.delivery import JSON, STREAMED
from unipixel.serve.exports import Format, export
from unipixel.serve.faults import Refusal, Stopped
from unipixel.serve.fetching import display_name, fetch, store
from unipixel.serve.pictures import encoded_frame
from unipixel.serve.results import finish_reason, media_json, object_json, prompts_of, usage_json
from unipixel.serve.runtime import Runtime
from unipixel.serve.session_delivery import deliver
from unipixel.serve.session_wire import (
    AnswerOut,
    AskRequest,
    OpenRequest,
    SessionOut,
    SessionsOut,
    StoppedOut,
)
from unipixel.serve.sessions import MEDIA, Entry
from unipixel.serve.wire import DEFAULT_TOKENS, HIGHEST_FRAME

T = TypeVar("T")
router = APIRouter(tags=["sessions"])
MOST_TURNS = 1000
EVENTS = "With `stream: true`, server-sent events, then [DONE]."


async def entry_of(request: Request, session_id: str) -> Entry:
    """The session that a request is about.

    Raises:
        Refusal: there is none, or it is another key's.
    """
    runtime: Runtime = request.app.state.runtime
    return await runtime.entry(session_id, request.state.owner)


async def beside(runtime: Runtime, entry: Entry, call: Callable[[], T]) -> T:
    """Call something about a session in a thread, while the model may work on it, and others may close it.

    Raises:
        Refusal: it was closed meanwhile.
    """
    try:
        return await runtime.threads.run(call)
    except (OSError, ValueError, MediaError) as error:
        if entry.is_closed:  # its files and frames are gone
            raise Refusal(404, "the session was closed", code="no_session") from error
        raise


@router.post("/v1/sessions", response_model=SessionOut, status_code=201, summary="Open a session from a URL")
async def open_session(request: Request, asked: OpenRequest) -> Response:
    """The URL is fetched once, into the session's own folder."""
    runtime: Runtime = request.app.state.runtime
    options = asked.model_dump(include={"num_frames", "track", "every", "fps"})

    def put(path: Path) -> str:
        name = fetch(asked.url, path, runtime.settings.limits)
        return display_name(asked.name) if asked.name else name

    return await _opened(request, put, options)


@router.post(
    "/v1/sessions/upload", response_model=SessionOut, status_code=201, summary="Open a session with an uploaded file"
)
async def upload_session(
    request: Request,
    file: Annotated[UploadFile, File(description="A picture or a video.")],
    num_frames: Annotated[int | None, Form(ge=1, le=HIGHEST_FRAME)] = None,
    track: Annotated[Literal["sampled", "all"], Form()] = "sampled",
    every: Annotated[int, Form(ge=1, le=HIGHEST_FRAME)] = 1,
    fps: Annotated[float | None, Form(gt=0, lt=1_000_000, allow_inf_nan=False)] = None,
) -> Response:
    """A multipart form; the fields besides `file` are those of opening from a URL."""
    options = {"num_frames": num_frames, "track": track, "every": every, "fps": fps}

    def put(path: Path) -> str:
        store(file.file, path)
        return display_name(file.filename)

    return await _opened(request, put, options)


async def _opened(request: Request, put: Callable[[Path], str], options: dict[str, Any]) -> Response:
    runtime: Runtime = request.app.state.runtime
    session_id, folder = runtime.sessions.reserve()

    def opened() -> tuple[str, Session]:
        name = put(folder / MEDIA)
        return name, runtime.open_file(folder / MEDIA, options)

    try:
        name, session = await runtime.threads.run(opened)
    except BaseException:
        runtime.sessions.release(folder)
        raise
    entry = Entry(session_id, request.state.owner, name, folder, session, int(time.time()))
    runtime.sessions.add(entry)
    return JSON(_session(entry), 201, {"Location": f"/v1/sessions/{session_id}"})


@router.get("/v1/sessions", response_model=SessionsOut, summary="List sessions")
async def list_sessions(request: Request) -> Response:
    """Open and saved sessions of the key that asks."""
    runtime: Runtime = request.app.state.runtime
    return JSON({"sessions": runtime.sessions.listed(request.state.owner)})


@router.get("/v1/sessions/{session_id}", response_model=SessionOut, summary="Look at a session")
async def get_session(request: Request, session_id: str) -> Response:
    """Its media, objects with masks, and what was said; a saved one that sleeps is woken."""
    runtime: Runtime = request.app.state.runtime
    entry = await entry_of(request, session_id)
    # many masks take a while to write, for which others should not have to wait
    return await beside(runtime, entry, lambda: JSON(_session(entry)))


@router.delete("/v1/sessions/{session_id}", status_code=204, summary="Close a session")
async def close_session(request: Request, session_id: str) -> Response:
    """Its work is stopped, and everything about it is removed, what was saved included."""
    runtime: Runtime = request.app.state.runtime
    found = runtime.sessions.find(session_id, request.state.owner)
    if found is None:
        runtime.sessions.forget(session_id)
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
async def ask(request: Request, session_id: str, asked: AskRequest) -> Response:
    """The answer comes with masks for the objects it speaks of; what was found before stays known."""
    runtime: Runtime = request.app.state.runtime
    entry = await entry_of(request, session_id)
    settings = runtime.settings
    longest = asked.max_tokens or min(DEFAULT_TOKENS, settings.max_tokens)
    if longest > settings.max_tokens:
        raise PromptError(f"max_tokens is {longest}; it must be at most {settings.max_tokens}")
    if asked.text is not None and len(asked.text) > settings.max_text:
        raise PromptError(f"the question is {len(asked.text)} characters long; at most {settings.max_text} are allowed")
    options = asked.model_dump(include={"about", "start", "force", "each", "temperature", "top_p", "seed"})
    options["max_new_tokens"] = longest
    text = asked.text if asked.text and asked.text.strip() else None

    def work() -> Any:
        prompts = prompts_of(asked.prompts, entry.session.media.size_hw)
        return session_work.ask(entry, text, prompts, options)

    def told(answer: Answer) -> dict[str, Any]:
        entry.turns.append(
            {"question": answer.question, "text": answer.text, "objects": [one.id for one in answer.objects]}
        )
        del entry.turns[:-MOST_TURNS]
        runtime.counters.answered(len(answer.tokens), len(answer.objects))
        return _answer(runtime, entry, answer)

    return await deliver(request, entry, "ask", work, told, stream=asked.stream)


@router.post("/v1/sessions/{session_id}/stop", response_model=StoppedOut, summary="Stop what a session does")
async def stop(request: Request, session_id: str) -> Response:
    """Masks that were tracked so far are kept."""
    entry = await entry_of(request, session_id)
    jobs = list(entry.jobs)
    for job in jobs:
        job.cancel(Stopped(409, "the work was stopped; what was tracked so far is kept", code="stopped"))
    return JSON({"stopped": len(jobs)})


@router.post("/v1/sessions/{session_id}/save", response_model=SessionOut, summary="Save a session")
async def save(request: Request, session_id: str) -> Response:
    """It outlives the server, and is saved again when it is put to sleep or the server ends."""
    runtime: Runtime = request.app.state.runtime
    entry = await entry_of(request, session_id)
    if not runtime.sessions.can_save:
        sentence = "this server keeps nothing; start it with --state DIR to save sessions"
        raise Refusal(409, sentence, code="no_state")

    def work() -> Any:
        runtime.sessions.save(entry)
        yield None

    return await deliver(request, entry, "save", work, lambda _: {**_session(entry), "is_busy": len(entry.jobs) > 1})


@router.get(
    "/v1/sessions/{session_id}/frames/{t}",
    summary="A frame of the clip",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}, "image/png": {}}, "description": "The frame."}},
)
async def frame(
    request: Request,
    session_id: str,
    t: int,
    image_format: Annotated[Literal["jpeg", "png"], Query(alias="format")] = "jpeg",
    width: Annotated[int | None, Query(ge=16, le=8192, description="Scale it down to this width.")] = None,
) -> Response:
    """As JPEG, or PNG with every pixel as it is."""
    runtime: Runtime = request.app.state.runtime
    entry = await entry_of(request, session_id)

    def encoded() -> bytes:
        media = entry.session.media
        if not 0 <= t < media.num_frames:
            sentence = f"there is no frame {t}; the clip has 0 to {media.num_frames - 1}"
            raise Refusal(404, sentence, code="no_frame")
        return encoded_frame(media, t, image_format, width)

    content = await beside(runtime, entry, encoded)
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
    kind: Annotated[Format, Query(alias="format", description="`overlay` is MP4, or PNG of a still image.")],
    objects: Annotated[list[int] | None, Query(description="Ids; by default all.")] = None,
) -> Response:
    """COCO JSON, a zip of DAVIS palette PNGs, the clip with masks drawn over it, or a zip of YOLO polygons."""
    runtime: Runtime = request.app.state.runtime
    entry = await entry_of(request, session_id)
    known = dict(entry.objects)
    missing = [i for i in objects or () if i not in known]
    if missing:
        raise PromptError(f"object {missing[0]} is not known in this session; known are {sorted(known) or 'none'}")
    wanted = [known[i] for i in dict.fromkeys(objects)] if objects is not None else list(known.values())

    def written() -> tuple[str, IO[bytes]]:
        folder = Path(tempfile.mkdtemp(prefix="export-", dir=entry.folder))
        try:
            path = export(entry.session, wanted, entry.name, kind, folder)
            return path.name, open(path, "rb")
        finally:  # an open file is read to its end, whatever becomes of its name and of the session
            shutil.rmtree(folder, ignore_errors=True)
            if entry.is_closed:  # whoever closed it could not remove its folder while ours was in it
                with suppress(OSError):
                    entry.folder.rmdir()  # only if nothing is left in it

    name, file = await beside(runtime, entry, written)
    types = {"json": "application/json", "zip": "application/zip", "mp4": "video/mp4", "png": "image/png"}
    headers = {
        "Content-Length": str(os.fstat(file.fileno()).st_size),
        "Content-Disposition": f'attachment; filename="{name}"',
    }
    return StreamingResponse(_pieces(file), media_type=types[name.rpartition(".")[2]], headers=headers)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(1 << 18):
            yield piece


def _session(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "name": entry.name,
        "created": entry.created,
        "is_saved": entry.is_saved,
        "is_busy": bool(entry.jobs),
        "media": media_json(entry.session, entry.name),
        "objects": [object_json(one) for one in entry.objects.values()],
        "turns": entry.turns,
    }


def _answer(runtime: Runtime, entry: Entry, answer: Answer) -> dict[str, Any]:
    processor, config = runtime.engine.processor, runtime.engine.model.config
    before = [(turn["question"], turn["text"]) for turn in entry.turns[:-1] if turn["question"]]
    num_visual = entry.session.workspace.visual.num_tokens
    return {
        "question": answer.question,
        "text": answer.text,
        "raw_text": answer.raw_text,
        "finish_reason": finish_reason(processor, answer, config.eos_token_ids),
        "objects": [object_json(one, answer.text) for one in answer.objects],
        "usage": usage_json(processor, num_visual, before, answer),
        "timings_s": {stage: round(seconds, 4) for stage, seconds in answer.timings.items()},
    }
