"""What is served and how it is doing (models, health, metrics), the folder that clients may open, and the web page."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
from fastapi import APIRouter, Body, Depends, Query
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.routing import Match, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from unipixel import __version__
from unipixel.errors import MediaError
from unipixel.media import open_media
from unipixel.model.quantization import count_weights, name_precision
from unipixel.serve.errors import ApiError
from unipixel.serve.folder import Item, Progress
from unipixel.serve.media import clean_name, encode_frame
from unipixel.serve.metrics import METHODS
from unipixel.serve.runtime import OwnerDep, Runtime, RuntimeDep, forbid_caching
from unipixel.serve.sessions.routes import StoreDep

PAGE = Path(__file__).parent / "page"
EXAMPLES = Path(__file__).parent.parent / "examples"
"""An image and a video to try it with."""
_OFFLINE = find_spec("fastapi_offline")
API_PAGE_ASSETS = Path(_OFFLINE.origin).parent / "static" if _OFFLINE is not None and _OFFLINE.origin else None
"""Swagger UI's script and style, as a package brings them; None where it is not installed."""
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self'; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    # browsers ask each time whether a file has changed: after an update, old and new ones must not mix
    "Cache-Control": "no-cache",
}
LimitName = Literal[
    "max_upload_bytes", "max_body_bytes", "max_pixels", "max_frames", "max_seen_frames", "max_tokens", "max_objects"
]
THUMBNAIL_WIDTH = 144
NANO_NOTE = (
    "This is nano, a small model to try things out: it knows about a hundred everyday things in drawn pictures; "
    "on photos its masks are rough, and the 3B is the one to take."
)
SMALL_NOTE = "This is a small model like nano: it knows the things that it was taught, and nothing of whole scenes."

router = APIRouter(tags=["service"], dependencies=[Depends(forbid_caching)])


class ModelOut(BaseModel):
    """A model, as OpenAI lists it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "unipixel"
    unipixel: dict[Literal["device", "dtype", "parameters", "default_num_frames"], str | int] = Field(min_length=4)


class ModelsOut(BaseModel):
    """All models; there is one."""

    object: Literal["list"] = "list"
    data: list[ModelOut]


class HealthOut(BaseModel):
    """How the server is doing."""

    status: Literal["UP", "DOWN"]
    version: str
    model: str
    device: str
    waiting: int
    running: int
    sessions: int
    can_save: bool
    has_folder: bool = Field(description="Whether there is a folder of the server's whose pictures can be opened.")
    idle_s: float = Field(description="Seconds after which a session that nobody uses or keeps alive is closed.")
    parameters: int
    memory_bytes: int = Field(description="What the process holds, and on a GPU what the model does; 0: not known.")
    note: str = Field(description="What the model is good for, in a sentence; empty if nothing is known about it.")
    limits: dict[LimitName, int] = Field(min_length=len(get_args(LimitName)), description="What clients may ask for.")


def build_model(runtime: Runtime) -> ModelOut:
    """The one model that is served."""
    model = runtime.engine.model
    return ModelOut(
        id=runtime.settings.model_name,
        created=runtime.created,
        unipixel={
            "device": str(model.device),
            "dtype": name_precision(model),
            "parameters": count_weights(model),
            "default_num_frames": runtime.engine.processor.settings.max_frames,
        },
    )


@router.get("/v1/models", response_model=ModelsOut, summary="List models")
async def list_models(runtime: RuntimeDep) -> ModelsOut:
    """The one model that this server has."""
    return ModelsOut(data=[build_model(runtime)])


@router.get("/v1/models/{model:path}", response_model=ModelOut, summary="Return one model")
async def get_model(runtime: RuntimeDep, model: str) -> ModelOut:
    """A model by its name."""
    if model != runtime.settings.model_name:
        raise ApiError(404, f"there is no model {model[:80]!r} here", code="model_not_found", param="model")
    return build_model(runtime)


def measure_memory(device: torch.device) -> int:
    """Bytes that this process holds, on a GPU those of its tensors; 0 where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


@router.get("/health", response_model=HealthOut, summary="Return the state of the server")
async def health(response: Response, runtime: RuntimeDep, store: StoreDep) -> HealthOut:
    """Status 200 while the server takes requests, 503 while it shuts down."""
    settings, worker, named = runtime.settings, runtime.worker, runtime.engine.processor.chat.named
    response.status_code = 200 if worker.is_ready else 503
    return HealthOut(
        status="UP" if worker.is_ready else "DOWN",
        version=__version__,
        model=settings.model_name,
        device=str(runtime.engine.device),
        waiting=worker.num_waiting,
        running=worker.num_running,
        sessions=len(store),
        can_save=store.can_save,
        has_folder=runtime.folder is not None,
        idle_s=settings.idle_s,
        parameters=count_weights(runtime.engine.model),
        memory_bytes=measure_memory(runtime.engine.device),
        note="" if not named else NANO_NOTE if settings.model_name == "nano" else SMALL_NOTE,
        limits={name: getattr(settings, name) for name in get_args(LimitName)},
    )


@router.get("/metrics", summary="Return counters for Prometheus", response_class=Response)
async def metrics(runtime: RuntimeDep, store: StoreDep) -> Response:
    """Requests, jobs, waiting times and tokens, in Prometheus' text form."""
    worker = runtime.worker
    text = runtime.counters.render(waiting=worker.num_waiting, running=worker.num_running, sessions=len(store))
    return Response(text, media_type="text/plain; version=0.0.4")


@router.get("/docs", include_in_schema=False, response_class=Response)
async def show_api() -> Response:
    """The description of the API as a page, which like the rest loads nothing from elsewhere.

    Raises:
        ApiError: the package with Swagger UI is missing.
    """
    if API_PAGE_ASSETS is None:
        message = "this page needs fastapi-offline (pip install 'unipixel[serve]'); /openapi.json says the same"
        raise ApiError(404, message, code="not_installed")
    return FileResponse(PAGE / "docs.html", headers=PAGE_HEADERS)


@router.get("/v1/folder", summary="List the pictures of the server's folder")
async def list_folder(
    runtime: RuntimeDep, owner: OwnerDep
) -> dict[Literal["id", "name", "files", "left_out", "progress"], str | int | list[str] | Progress]:
    """Pictures and videos, also in folders inside; `left_out` are more than are listed.

    A session about one is opened with `folder:` and its name as `url`. `progress` is what `PATCH` tells.
    """
    folder = runtime.get_folder()
    names, left_out = await runtime.run_in_thread(folder.list_names)
    told = runtime.progress.tell(owner)
    return {"id": folder.id, "name": folder.root.name, "files": names, "left_out": left_out, "progress": told}


@router.patch("/v1/folder", summary="Share how far the pictures of the server's folder are")
async def change_folder(
    runtime: RuntimeDep,
    store: StoreDep,
    owner: OwnerDep,
    items: Annotated[
        dict[str, Annotated[Item, Field(min_length=2)]],
        Body(description="By the names of pictures: the session, empty for none, and new, work, done or broken."),
    ],
    classes: Annotated[list[str] | None, Body(description="All classes in their order.")] = None,
    shares: Annotated[
        list[int] | None, Body(description="Of training, validation and test, together 100; none: not divided.")
    ] = None,
    since: Annotated[int, Body(ge=0, description="`revision` of the newest answer known; 0: all is told.")] = 0,
) -> Progress:
    """Takes over what a client has done, and tells what others have done since.

    A picture in work stays with its session as long as that is there; a client that has another is told of the first.
    """
    folder, progress = runtime.get_folder(), runtime.progress
    await runtime.run_in_thread(folder.check_listed, items.keys() - progress.list_names(owner))
    try:
        progress.change(owner, items, classes, shares, lambda session: store.has(session, owner))
    except ValueError as error:
        raise ApiError(400, str(error), code="bad_request") from error
    await progress.save(runtime.run_in_thread)
    return progress.tell(owner, since)


@router.get(
    "/v1/folder/thumbnail",
    summary="Return a small picture of a file of the server's folder",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}, "description": "The picture, or the first frame of the video."}},
)
async def get_thumbnail(
    runtime: RuntimeDep, name: str, width: Annotated[int, Query(ge=16, le=1024)] = THUMBNAIL_WIDTH
) -> Response:
    """As JPEG."""
    folder = runtime.get_folder()

    def encode() -> bytes:
        file = folder.find(name)
        try:
            media = open_media(file, limits=runtime.settings.limits)
            try:
                return encode_frame(media, 0, "jpeg", width)
            finally:
                media.close()
        except MediaError as error:
            # where the folder lies is nobody's business
            raise MediaError(str(error).replace(str(file), clean_name(name))) from error

    content = await runtime.run_in_thread(encode)
    return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


class PageFiles(StaticFiles):
    """Files of the web page, with headers that let it load and reach nothing but this server.

    A script that someone smuggles in does not run, and what it reads cannot be sent elsewhere. They stand behind all
    other routes, so a request that comes here is for none of them, or uses a method that its route does not take.
    """

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file, or an error: there is none, or the route there takes another method."""
        routes = [route for route in scope["app"].routes if not isinstance(route, Mount)]
        scopes = {method: {**scope, "method": method} for method in METHODS}
        allowed = [m for m, one in scopes.items() if any(route.matches(one)[0] == Match.FULL for route in routes)]
        if allowed:
            raise HTTPException(405, headers={"Allow": ", ".join(allowed)})
        if scope["method"] not in ("GET", "HEAD") and self.lookup_path(path)[1] is None:
            raise HTTPException(404)
        return await super().get_response(path, scope)

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """The file, or that it has not changed."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(PAGE_HEADERS)
        return response
