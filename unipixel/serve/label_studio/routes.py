"""The routes that Label Studio calls, at the server's root, as it expects them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from unipixel import __version__
from unipixel.serve.delivery import JSON, NO_CACHE, whole
from unipixel.serve.faults import GONE, Refusal, fault
from unipixel.serve.label_studio.config import LabelConfig, is_blank, read_config
from unipixel.serve.label_studio.regions import regions
from unipixel.serve.label_studio.wire import (
    PredictIn,
    PredictOut,
    RegionIn,
    SetupIn,
    SetupOut,
    StatusOut,
    Task,
    ValidateIn,
    VersionsOut,
    WebhookIn,
)
from unipixel.serve.label_studio.work import Found, Opened, asked, find, opened
from unipixel.serve.runtime import Runtime
from unipixel.serve.worker import Job

router = APIRouter(tags=["label studio"])
TRAINING = ("START_TRAINING",)


@router.post("/predict", response_model=PredictOut, summary="Regions for Label Studio's tasks")
async def predict(request: Request, given: PredictIn) -> Response:
    """What an annotator draws with smart tools (`params.context`) becomes objects; without that, labels are looked for.

    A task that fails alone is refused with its reason. Among several, it gets an empty list, which Label Studio stores
    nothing for, and its reason is among `errors`.
    """
    runtime: Runtime = request.app.state.runtime
    config = read_config(given.label_config)
    drawn = given.params.context.result if given.params is not None and given.params.context is not None else []
    if drawn and len(given.tasks) > 1:
        raise Refusal(400, f"{len(given.tasks)} tasks came with one drawing; send one task with it", code="bad_request")
    results: list[Any] = []
    errors: list[Exception] = []
    told: list[dict[str, Any]] = []
    for task in given.tasks:
        try:
            results.append(await _predicted(request, runtime, config, task, drawn))
        except Exception as error:
            why = fault(error)
            if why.status == GONE:
                raise
            errors.append(error)
            told.append({"task": task.id, "message": why.message, "code": why.code})
            results.append([])
    if len(errors) == len(given.tasks):
        raise errors[0]
    return JSON({"results": results, "model_version": version(runtime), "errors": told}, headers=NO_CACHE)


@router.post("/setup", response_model=SetupOut, summary="Label Studio connects a project")
async def setup(request: Request, given: SetupIn) -> Response:
    """Says which model answers, and refuses a labelling configuration that it can do nothing with."""
    if not is_blank(given.label_config):
        read_config(given.label_config)
    return JSON({"model_version": version(request.app.state.runtime)}, headers=NO_CACHE)


@router.post("/validate", response_model=StatusOut, summary="Is a labelling configuration usable")
async def validate(given: ValidateIn) -> Response:
    """Status 200 if it is, 400 with the reason if it is not."""
    read_config(given.config)
    return JSON({"status": "ok"}, headers=NO_CACHE)


@router.get("/versions", response_model=VersionsOut, summary="Versions of the model")
async def versions(request: Request) -> Response:
    """There is one."""
    return JSON({"versions": [version(request.app.state.runtime)]}, headers=NO_CACHE)


@router.post("/webhook", response_model=StatusOut, summary="Something happened in Label Studio")
async def webhook(given: WebhookIn) -> Response:
    """Annotations are let pass. Training is not done here."""
    if given.action in TRAINING:
        sentence = "this server does not train; export the annotations and run unipixel train finetune"
        raise Refusal(400, sentence, code="no_training", param="action")
    return JSON({"status": "ignored"}, headers=NO_CACHE)


def version(runtime: Runtime) -> str:
    """The name under which Label Studio keeps the model's predictions."""
    return f"{runtime.settings.model_name}-{__version__}"


async def _predicted(
    request: Request, runtime: Runtime, config: LabelConfig, task: Task, drawn: Sequence[RegionIn]
) -> dict[str, Any]:
    key = _key(request.state.owner, config, task) if drawn and config.medium == "image" else ""
    here = await _opened(runtime, config, task, key)
    is_usable = False
    try:
        wishes = await runtime.threads.run(asked, drawn, config, task.data, here)
        job = runtime.worker.submit(Job(f"label-studio-{id(here)}", lambda: find(here, wishes), kind="label_studio"))
        found: Found = await whole(request, job)
        is_usable = True
    finally:
        if is_usable and key and runtime.settings.kept_conversations:
            runtime.close_aside(runtime.kept.put(key, here.session))  # the next click comes soon
        else:
            runtime.close_aside([here.session])
    objects = [one for _, one in found if one.is_there]
    runtime.counters.answered(0, len(objects))
    result = await runtime.threads.run(regions, found, config)
    scores = [float(one.score) for one in objects]
    score = round(sum(scores) / len(scores), 6) if scores else 0.0
    return {"result": result, "score": score, "model_version": version(runtime)}


def _key(owner: str, config: LabelConfig, task: Task) -> str:
    """What names the picture that somebody is clicking on."""
    value = repr((owner, task.data.get(config.data_key)))
    return "label-studio-" + hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


async def _opened(runtime: Runtime, config: LabelConfig, task: Task, key: str) -> Opened:
    """A session about a task, with its features if somebody has just clicked on the same."""
    kept = runtime.kept.take(key) if key else None
    if kept is None:
        return await runtime.threads.run(opened, runtime.engine, runtime.settings, config, task.data)
    return Opened(kept, None)
