"""The routes that Label Studio calls, at the server's root, as it expects them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from unipixel import __version__
from unipixel.serve.errors import CLIENT_CLOSED, ApiError, describe_error
from unipixel.serve.label_studio.config import LabelConfig, is_blank, read_config
from unipixel.serve.label_studio.regions import build_regions
from unipixel.serve.label_studio.schemas import (
    LabelStudioTask,
    PredictIn,
    PredictOut,
    RegionIn,
    SetupIn,
    SetupOut,
    StatusOut,
    ValidateIn,
    VersionsOut,
    WebhookIn,
)
from unipixel.serve.label_studio.work import FoundObjects, TaskSession, find_objects, list_requests, open_task
from unipixel.serve.responses import NO_CACHE, JsonResponse, wait_for_result
from unipixel.serve.runtime import Runtime
from unipixel.serve.worker import Job

router = APIRouter(tags=["label studio"])
TRAINING = ("START_TRAINING",)


@router.post("/predict", response_model=PredictOut, summary="Regions for Label Studio's tasks")
async def predict(request: Request, body: PredictIn) -> Response:
    """What an annotator draws with smart tools (`params.context`) becomes objects; without that, labels are looked for.

    A task that fails alone is refused with its reason. Among several, it gets an empty list, which Label Studio stores
    nothing for, and its reason is among `errors`.
    """
    runtime: Runtime = request.app.state.runtime
    config = read_config(body.label_config)
    drawn = body.params.context.result if body.params is not None and body.params.context is not None else []
    if drawn and len(body.tasks) > 1:
        raise ApiError(400, f"{len(body.tasks)} tasks came with one drawing; send one task with it", code="bad_request")
    results: list[Any] = []
    errors: list[Exception] = []
    told: list[dict[str, Any]] = []
    for task in body.tasks:
        try:
            results.append(await _predict_task(request, runtime, config, task, drawn))
        except Exception as error:
            why = describe_error(error)
            if why.status == CLIENT_CLOSED:
                raise
            errors.append(error)
            told.append({"task": task.id, "message": why.message, "code": why.code})
            results.append([])
    if len(errors) == len(body.tasks):
        raise errors[0]
    return JsonResponse({"results": results, "model_version": get_version(runtime), "errors": told}, headers=NO_CACHE)


@router.post("/setup", response_model=SetupOut, summary="Label Studio connects a project")
async def setup(request: Request, body: SetupIn) -> Response:
    """Says which model answers, and refuses a labelling configuration that it can do nothing with."""
    if not is_blank(body.label_config):
        read_config(body.label_config)
    return JsonResponse({"model_version": get_version(request.app.state.runtime)}, headers=NO_CACHE)


@router.post("/validate", response_model=StatusOut, summary="Is a labelling configuration usable")
async def validate(body: ValidateIn) -> Response:
    """Status 200 if it is, 400 with the reason if it is not."""
    read_config(body.config)
    return JsonResponse({"status": "ok"}, headers=NO_CACHE)


@router.get("/versions", response_model=VersionsOut, summary="Versions of the model")
async def versions(request: Request) -> Response:
    """There is one."""
    return JsonResponse({"versions": [get_version(request.app.state.runtime)]}, headers=NO_CACHE)


@router.post("/webhook", response_model=StatusOut, summary="Something happened in Label Studio")
async def webhook(body: WebhookIn) -> Response:
    """Annotations are let pass. Training is not done here."""
    if body.action in TRAINING:
        sentence = "this server does not train; export the annotations and run unipixel train finetune"
        raise ApiError(400, sentence, code="no_training", param="action")
    return JsonResponse({"status": "ignored"}, headers=NO_CACHE)


def get_version(runtime: Runtime) -> str:
    """The name under which Label Studio keeps the model's predictions."""
    return f"{runtime.settings.model_name}-{__version__}"


async def _predict_task(
    request: Request, runtime: Runtime, config: LabelConfig, task: LabelStudioTask, drawn: Sequence[RegionIn]
) -> dict[str, Any]:
    key = _get_cache_key(request.state.owner, config, task) if drawn and config.medium == "image" else ""
    here = await _open_task(runtime, config, task, key)
    is_usable = False
    try:
        wishes = await runtime.threads.run(list_requests, drawn, config, task.data, here)
        job = runtime.worker.submit(
            Job(f"label-studio-{id(here)}", lambda: find_objects(here, wishes), kind="label_studio")
        )
        found: FoundObjects = await wait_for_result(request, job)
        is_usable = True
    finally:
        if is_usable and key and runtime.settings.kept_conversations:
            runtime.close_in_background(runtime.session_cache.add(key, here.session))  # the next click comes soon
        else:
            runtime.close_in_background([here.session])
    objects = [one for _, one in found if one.is_there]
    runtime.counters.count_answer(0, len(objects))
    result = await runtime.threads.run(build_regions, found, config)
    scores = [float(one.score) for one in objects]
    score = round(sum(scores) / len(scores), 6) if scores else 0.0
    return {"result": result, "score": score, "model_version": get_version(runtime)}


def _get_cache_key(owner: str, config: LabelConfig, task: LabelStudioTask) -> str:
    """What names the picture that somebody is clicking on."""
    value = repr((owner, task.data.get(config.data_key)))
    return "label-studio-" + hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


async def _open_task(runtime: Runtime, config: LabelConfig, task: LabelStudioTask, key: str) -> TaskSession:
    """A session about a task, with its features if somebody has just clicked on the same."""
    kept = runtime.session_cache.pop(key) if key else None
    if kept is None:
        return await runtime.threads.run(open_task, runtime.engine, runtime.settings, config, task.data)
    return TaskSession(kept, None)
