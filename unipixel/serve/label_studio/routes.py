"""The routes that Label Studio calls, at the server's root, where it expects them."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Request

from unipixel import __version__
from unipixel.engine.answer import Answer
from unipixel.engine.memory import KnownObject
from unipixel.engine.session import Session
from unipixel.processing.prompts import format_request
from unipixel.serve.errors import CLIENT_CLOSED, ApiError, describe_error
from unipixel.serve.label_studio.config import LabelConfig, is_blank
from unipixel.serve.label_studio.media import open_task_media
from unipixel.serve.label_studio.prompts import (
    RegionRequest,
    Timeline,
    build_regions,
    build_timeline,
    match_label,
    read_requests,
    select_clip,
)
from unipixel.serve.label_studio.schemas import (
    ConfigXml,
    LabelStudioTask,
    PredictionOut,
    PredictOut,
    PredictParams,
    Region,
    Tasks,
)
from unipixel.serve.responses import wait_for_result
from unipixel.serve.runtime import OwnerDep, Runtime, RuntimeDep, forbid_caching
from unipixel.serve.worker import Job

MAX_TOKENS = 128
"""Longest reply to the request for one label."""
TRAINING = ("START_TRAINING",)
FoundObjects = list[tuple[RegionRequest, KnownObject]]

router = APIRouter(tags=["label studio"], dependencies=[Depends(forbid_caching)])


@router.post("/predict", response_model=PredictOut, summary="Predict regions for tasks")
async def predict(
    request: Request,
    runtime: RuntimeDep,
    owner: OwnerDep,
    tasks: Tasks,
    label_config: Annotated[ConfigXml, Body()],
    params: PredictParams | None = None,
) -> PredictOut:
    """What an annotator draws with smart tools (`params.context`) becomes objects; without that, labels are looked for.

    A task that fails alone is refused with its reason. Among several, it gets an empty list, for which Label Studio
    stores nothing, and its reason is among `errors`.
    """
    config = LabelConfig(label_config)
    drawn = params.context.result if params is not None and params.context is not None else []
    if drawn and len(tasks) > 1:
        raise ApiError(400, f"{len(tasks)} tasks came with one drawing; send one task with it", code="bad_request")
    predicted = PredictOut(results=[], model_version=get_version(runtime))
    failures: list[Exception] = []
    for task in tasks:
        try:
            predicted.results.append(await _predict_task(request, runtime, owner, config, task, drawn))
        except Exception as error:
            why = describe_error(error)
            if why.status == CLIENT_CLOSED:
                raise
            failures.append(error)
            predicted.errors.append({"task": task.id, "message": why.message, "code": why.code})
            predicted.results.append([])
    if len(failures) == len(tasks):
        raise failures[0]
    return predicted


@router.post("/setup", summary="Connect a project")
async def setup(
    runtime: RuntimeDep,
    label_config: Annotated[ConfigXml, Body(embed=True, alias="schema")] = "",
) -> dict[Literal["model_version"], str]:
    """Say which model answers, and refuse a labelling configuration that it cannot use.

    A host name and an access token that come along are not used: the server has its own.
    """
    if not is_blank(label_config):
        LabelConfig(label_config)
    return {"model_version": get_version(runtime)}


@router.post("/validate", summary="Check a labelling configuration")
async def validate(
    config: Annotated[ConfigXml, Body(embed=True)],
) -> dict[Literal["status"], Literal["ok"]]:
    """Status 200 if the model can use it, 400 with the reason if it cannot."""
    LabelConfig(config)
    return {"status": "ok"}


@router.get("/versions", summary="List versions of the model")
async def versions(runtime: RuntimeDep) -> dict[Literal["versions"], list[str]]:
    """There is one."""
    return {"versions": [get_version(runtime)]}


@router.post("/webhook", summary="Receive an event of Label Studio")
async def webhook(
    action: Annotated[str, Body(embed=True, max_length=200)],
) -> dict[Literal["status"], Literal["ignored"]]:
    """Events about annotations are ignored. Training is refused: it is done elsewhere."""
    if action in TRAINING:
        message = "this server does not train; export the annotations and run unipixel train finetune"
        raise ApiError(400, message, code="no_training", param="action")
    return {"status": "ignored"}


def get_version(runtime: Runtime) -> str:
    """The name under which Label Studio keeps the model's predictions."""
    return f"{runtime.settings.model_name}-{__version__}"


async def _predict_task(
    request: Request,
    runtime: Runtime,
    owner: str,
    config: LabelConfig,
    task: LabelStudioTask,
    drawn: Sequence[Region],
) -> PredictionOut:
    key = _get_cache_key(owner, config, task) if drawn and config.medium == "image" else ""
    # somebody who draws has often just drawn on the same picture, whose features are kept
    kept = runtime.session_cache.pop(key) if key else None
    session, timeline = (kept, None) if kept else await runtime.run_in_thread(open_task, runtime, config, task.data)
    is_usable = False
    try:
        requests = await runtime.run_in_thread(list_requests, drawn, config, task.data, session, timeline)
        job = Job(f"label-studio-{id(session)}", lambda: find_objects(session, requests), kind="label_studio")
        found: FoundObjects = await wait_for_result(request, runtime.worker.submit(job))
        is_usable = True
    finally:
        if is_usable and key:
            runtime.keep_session(key, session)
        else:
            runtime.close_in_background([session])
    scores = [float(one.score) for _, one in found if one.is_there]
    runtime.counters.count_answer(0, len(scores))
    return PredictionOut(
        result=await runtime.run_in_thread(build_regions, found, config),
        score=round(sum(scores) / len(scores), 6) if scores else 0.0,
        model_version=get_version(runtime),
    )


def _get_cache_key(owner: str, config: LabelConfig, task: LabelStudioTask) -> str:
    """What identifies the picture that somebody is drawing on."""
    value = repr((owner, task.data.get(config.data_key)))
    return "label-studio-" + hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def open_task(runtime: Runtime, config: LabelConfig, data: Mapping[str, Any]) -> tuple[Session, Timeline | None]:
    """A session about what a task shows, and how Label Studio counts its frames if it is a video; in a thread.

    Raises:
        ApiError: the task's data lack it.
        MediaError: it cannot be fetched.
    """
    if config.data_key not in data:
        message = f"the task's data have no {config.data_key!r}, which the labelling configuration shows"
        raise ApiError(400, message, code="bad_task")
    media = open_task_media(data[config.data_key], runtime.settings, config.medium)
    if config.medium == "image":
        return runtime.engine.open(media), None
    clip = select_clip(media, runtime.settings.max_frames)
    return runtime.engine.open(clip, track="all"), build_timeline(media, clip, config.get_frame_rate(data))


def list_requests(
    drawn: Sequence[Region],
    config: LabelConfig,
    data: Mapping[str, Any],
    session: Session,
    timeline: Timeline | None,
) -> list[RegionRequest]:
    """What a task asks for: what was drawn, else the words in its text, else all labels.

    Raises:
        ApiError: something drawn cannot be used.
    """
    if drawn:
        return read_requests(drawn, config, session.media.size_hw, timeline)
    texts = [data[key] for key in config.text_keys if isinstance(data.get(key), str) and data[key].strip()]
    if texts:
        return [RegionRequest(match_label(text, config), text=text.strip(), timeline=timeline) for text in texts]
    return [RegionRequest(label, text=words, timeline=timeline) for label, words in config.queries.items()]


def find_objects(session: Session, requests: Sequence[RegionRequest]) -> Iterator[Any]:
    """Everything that was asked for; the last piece is `FoundObjects`. What is shown by prompts is found together.

    Raises:
        PromptError: a prompt or text is not usable.
    """
    found: FoundObjects = []
    session.reset()
    prompted = {number: request for number, request in enumerate(requests, start=1) if request.prompts}
    if prompted:
        prompts = [prompt for request in prompted.values() for prompt in request.prompts]
        answer = yield from _wait_for_answer(session.stream(None, prompts=prompts, force=True, every_token=True))
        found += [(prompted[one.id], one) for one in answer.objects if one.id in prompted]
    for request in requests:
        if request.prompts:
            continue
        session.reset()  # each thing is asked for as if nothing had been said before
        question = format_request(
            "sentence" if request.text.endswith("?") else "query",
            request.text.strip(),
            is_video=request.timeline is not None,
        )
        answer = yield from _wait_for_answer(session.stream(question, max_new_tokens=MAX_TOKENS, every_token=True))
        found += [(request, one) for one in answer.objects]
    yield found


def _wait_for_answer(pieces: Iterator[Any]) -> Generator[None, None, Answer]:
    """Pause after each piece, so that others get their turn, and return the answer."""
    answer = None
    for piece in pieces:
        answer = piece
        yield None
    assert isinstance(answer, Answer)  # always the last piece
    return answer
