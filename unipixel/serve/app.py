"""The application: routes, middleware and errors put together around one engine."""

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
from unipixel.serve import service
from unipixel.serve.errors import ApiError
from unipixel.serve.guard import Guard, is_guarded
from unipixel.serve.label_studio.routes import router as label_studio_router
from unipixel.serve.metrics import METHODS, MetricsMiddleware
from unipixel.serve.openai.routes import router as openai_router
from unipixel.serve.responses import JsonResponse, build_error_response
from unipixel.serve.runtime import Runtime
from unipixel.serve.schemas import ErrorOut
from unipixel.serve.sessions.exports import export_router
from unipixel.serve.sessions.routes import object_router, session_router
from unipixel.serve.sessions.store import SessionStore
from unipixel.serve.settings import ServeSettings

DESCRIPTION = """Point, segment, remember and answer: ask about the pixels of an image or a video.

`/v1/chat/completions` is OpenAI's chat, with objects and their masks under `unipixel`. `/v1/sessions` is for tools in
which people click: a session keeps a clip, its objects and the conversation about it. Masks are COCO RLE at the size of
the source, coordinates are its pixels (x, y), frames count from 0 within the clip."""
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is not usable: the message says what was wrong, and what would be right."},
    401: {"description": "The API key is missing or wrong."},
    403: {"description": "The request comes from another origin, or under another host name."},
    404: {"description": "There is no such thing."},
    409: {"description": "The state of the session does not allow it, or the work was stopped."},
    413: {"description": "The request is too large."},
    429: {"description": "The queue is full, or too many sessions are open; `Retry-After` says when to try again."},
    500: {"description": "The server failed; the reason is in its log."},
    503: {"description": "The server is shutting down, or out of memory."},
    507: {"description": "The server's disk is full."},
}


def create_app(engine: Engine, settings: ServeSettings | None = None) -> FastAPI:
    """An application that serves one engine; its parts are ``app.state.runtime`` and ``app.state.sessions``."""
    settings = settings or ServeSettings()
    runtime = Runtime(engine, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        runtime.start()
        try:
            yield
        finally:
            await runtime.stop()

    # the framework's own /docs and /redoc load scripts from elsewhere; a server must do without
    app = FastAPI(
        title="unipixel",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        default_response_class=JsonResponse,
        generate_unique_id_function=lambda route: route.name,  # what generated clients call their methods
        responses={status: {"model": ErrorOut, **error} for status, error in ERRORS.items()},
    )
    app.state.runtime, app.state.sessions = runtime, SessionStore(runtime)
    for router in (openai_router, session_router, export_router, object_router, label_studio_router, service.router):
        app.include_router(router)
    for kind in (RequestValidationError, HTTPException, ApiError, UnipixelError, OSError, MemoryError):
        app.add_exception_handler(kind, _handle_error)
    app.openapi = lambda: _build_openapi(app)  # type: ignore[method-assign]
    # the last one added is the first one passed
    app.add_middleware(Guard, settings=settings, budget=runtime.body_budget)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=METHODS,
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
        )
    app.add_middleware(MetricsMiddleware, counters=runtime.counters)
    if service.API_PAGE_ASSETS is not None:
        app.mount("/docs", service.PageFiles(directory=service.API_PAGE_ASSETS), name="docs")
    app.mount("/examples", service.PageFiles(directory=service.EXAMPLES), name="examples")
    app.mount("/", service.PageFiles(directory=service.PAGE, html=True), name="page")
    return app


async def _handle_error(_: Request, error: Exception) -> Response:
    return build_error_response(error)


def _build_openapi(app: FastAPI) -> dict[str, Any]:
    """The API's description, without the framework's own validation errors, which nobody gets."""
    if app.openapi_schema:
        return app.openapi_schema
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            if operation["responses"].get("422", {}).get("description") == "Validation Error":
                del operation["responses"]["422"]
            if is_guarded(path):
                operation["security"] = [{"key": []}, {}]
    app.openapi_schema = schema
    return schema
