"""The application: routes, guards and errors put together around one engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from unipixel import __version__
from unipixel.engine.engine import Engine
from unipixel.errors import UnipixelError
from unipixel.serve import chat_routes, object_routes, service, session_routes
from unipixel.serve.errors import ApiError, describe_error
from unipixel.serve.guard import Guard, MetricsMiddleware, is_guarded
from unipixel.serve.label_studio import routes as label_studio_routes
from unipixel.serve.page_files import EXAMPLES, PAGE, PageFiles
from unipixel.serve.responses import JsonResponse
from unipixel.serve.runtime import Runtime
from unipixel.serve.schemas import ErrorOut
from unipixel.serve.settings import ServeSettings

DESCRIPTION = """Point, segment, remember and answer: ask about the pixels of an image or a video.

`/v1/chat/completions` is OpenAI's chat, with objects and their masks under `unipixel`. `/v1/sessions` is for tools in
which people click: a session keeps a clip, its objects and the conversation about it. Masks are COCO RLE at the size of
the source, coordinates are its pixels (x, y), frames count from 0 within the clip."""
REFUSALS = {
    "400": "The request is not usable: one sentence says what was wrong, its value, and what would be right.",
    "401": "The API key is missing or wrong.",
    "403": "The request comes from another origin, or under another host name.",
    "404": "There is no such thing.",
    "409": "The state of the session does not allow it, or the work was stopped.",
    "413": "The request is too large.",
    "429": "The queue is full, or too many sessions are open; `Retry-After` says when to try again.",
    "500": "The server failed; the reason is in its log.",
    "503": "The server is shutting down, or out of memory.",
    "507": "The server's disk is full.",
}


def create_app(engine: Engine, settings: ServeSettings | None = None) -> FastAPI:
    """An application that serves one engine. Its runtime is ``app.state.runtime``."""
    settings = settings or ServeSettings()
    runtime = Runtime(engine, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        runtime.start()
        try:
            yield
        finally:
            await runtime.stop()

    # the usual /docs loads scripts from elsewhere; a server must do without
    app = FastAPI(
        title="unipixel",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.runtime = runtime
    for routes in (chat_routes, session_routes, object_routes, label_studio_routes, service):
        app.include_router(routes.router)
    for kind in (RequestValidationError, HTTPException, ApiError, UnipixelError, OSError, MemoryError):
        app.add_exception_handler(kind, _handle_error)
    app.openapi = lambda: _build_openapi(app)  # type: ignore[method-assign]
    # the last one added is the first one passed
    app.add_middleware(Guard, settings=settings, budget=runtime.body_budget)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
        )
    app.add_middleware(MetricsMiddleware, counters=runtime.counters)
    app.mount("/examples", PageFiles(directory=EXAMPLES), name="examples")
    app.mount("/", PageFiles(directory=PAGE, html=True), name="page")
    return app


async def _handle_error(_: Request, error: Exception) -> Response:
    told = describe_error(error)
    return JsonResponse(told.body(), told.status, told.headers)


def _build_openapi(app: FastAPI) -> dict[str, Any]:
    """The API's description, with our errors instead of the framework's."""
    if app.openapi_schema:
        return app.openapi_schema
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = schema["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    error = ErrorOut.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(error.pop("$defs"))
    schemas["ErrorOut"] = error
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorOut"}}}
    schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            for status, description in REFUSALS.items():
                operation["responses"].setdefault(status, {"description": description, "content": content})
            if is_guarded(path):
                operation["security"] = [{"key": []}, {}]
    app.openapi_schema = schema
    return schema
