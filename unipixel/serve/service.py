"""What is served, how it is doing, and what it has done: models, health, metrics."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from unipixel import __version__
from unipixel.serve.errors import ApiError
from unipixel.serve.responses import NO_CACHE, JsonResponse
from unipixel.serve.runtime import Runtime

router = APIRouter(tags=["service"])


class ModelInfo(BaseModel):
    """What the model is."""

    device: str
    dtype: str
    parameters: int
    default_num_frames: int


class ModelOut(BaseModel):
    """A model, as OpenAI lists it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    unipixel: ModelInfo


class ModelsOut(BaseModel):
    """All models: there is one."""

    object: Literal["list"]
    data: list[ModelOut]


class LimitsOut(BaseModel):
    """What clients may ask for."""

    max_upload_bytes: int
    max_body_bytes: int
    max_pixels: int
    max_frames: int
    max_seen_frames: int
    max_tokens: int
    max_objects: int


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
    limits: LimitsOut


@router.get("/v1/models", response_model=ModelsOut, summary="List the models")
async def list_models(request: Request) -> Response:
    """The one model that this server has."""
    return JsonResponse({"object": "list", "data": [_build_model(request.app.state.runtime)]})


@router.get("/v1/models/{model:path}", response_model=ModelOut, summary="Look at a model")
async def get_model(request: Request, model: str) -> Response:
    """A model by its name."""
    runtime: Runtime = request.app.state.runtime
    if model != runtime.settings.model_name:
        raise ApiError(404, f"there is no model {model[:80]!r} here", code="model_not_found", param="model")
    return JsonResponse(_build_model(runtime))


@router.get("/health", response_model=HealthOut, summary="How the server is doing")
async def health(request: Request) -> Response:
    """Status 200 while it takes requests, 503 while it shuts down."""
    runtime: Runtime = request.app.state.runtime
    settings, worker = runtime.settings, runtime.worker
    told = {
        "status": "UP" if worker.is_ready else "DOWN",
        "version": __version__,
        "model": settings.model_name,
        "device": str(runtime.engine.device),
        "waiting": worker.num_waiting,
        "running": worker.num_running,
        "sessions": len(runtime.sessions),
        "can_save": runtime.sessions.can_save,
        "limits": {name: getattr(settings, name) for name in LimitsOut.model_fields},
    }
    return JsonResponse(told, 200 if worker.is_ready else 503, NO_CACHE)


@router.get("/metrics", summary="Counters for Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    """Requests, jobs, waiting times, tokens, in Prometheus' text form."""
    runtime: Runtime = request.app.state.runtime
    worker, sessions = runtime.worker, len(runtime.sessions)
    text = runtime.counters.render(waiting=worker.num_waiting, running=worker.num_running, sessions=sessions)
    return Response(text, media_type="text/plain; version=0.0.4")


def _build_model(runtime: Runtime) -> dict[str, Any]:
    model = runtime.engine.model
    return {
        "id": runtime.settings.model_name,
        "object": "model",
        "created": runtime.created,
        "owned_by": "unipixel",
        "unipixel": {
            "device": str(model.device),
            "dtype": str(model.dtype).removeprefix("torch."),
            "parameters": sum(p.numel() for p in model.parameters()),
            "default_num_frames": runtime.engine.processor.settings.max_frames,
        },
    }
