"""One task on the model's thread: everything that is wanted of one picture or video, piece by piece."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unipixel.engine.answer import Answer, AnswerObject
from unipixel.engine.engine import Engine
from unipixel.engine.session import Session
from unipixel.media import Media
from unipixel.processing.prompts import format_request
from unipixel.serve.errors import ApiError
from unipixel.serve.label_studio.config import LabelConfig
from unipixel.serve.label_studio.media import open_task_media
from unipixel.serve.label_studio.prompts import RegionRequest, match_label, read_requests
from unipixel.serve.label_studio.schemas import RegionIn
from unipixel.serve.label_studio.timeline import Timeline, build_timeline, select_clip
from unipixel.serve.settings import ServeSettings

MAX_TOKENS = 128
"""Longest reply to the request for one label."""
FoundObjects = list[tuple[RegionRequest, AnswerObject]]


@dataclass(frozen=True)
class TaskSession:
    """A task's clip in a session, and how Label Studio counts its frames if it is a video."""

    session: Session
    timeline: Timeline | None


def open_task(engine: Engine, settings: ServeSettings, config: LabelConfig, data: Mapping[str, Any]) -> TaskSession:
    """A session about what a task shows; in a thread.

    Raises:
        Refusal: the task has no such thing.
        MediaError: it cannot be had.
    """
    if config.data_key not in data:
        raise ApiError(
            400,
            f"the task's data have no {config.data_key!r}, which the labelling configuration shows",
            code="bad_task",
        )
    media: Media = open_task_media(data[config.data_key], settings, config.medium)
    if config.medium == "image":
        return TaskSession(engine.open(media), None)
    clip = select_clip(media, settings.max_frames)
    return TaskSession(engine.open(clip, track="all"), build_timeline(media, clip, config.get_frame_rate(data)))


def list_requests(
    drawn: Sequence[RegionIn], config: LabelConfig, data: Mapping[str, Any], task: TaskSession
) -> list[RegionRequest]:
    """What a task asks for: what was drawn, else the words in its text, else all labels.

    Raises:
        Refusal: something drawn cannot be used.
    """
    if drawn:
        return read_requests(drawn, config, task.session.media.size_hw, task.timeline)
    said = [data[key] for key in config.text_keys if isinstance(data.get(key), str) and data[key].strip()]
    if said:
        return [RegionRequest(match_label(text, config), text=text.strip(), timeline=task.timeline) for text in said]
    return [RegionRequest(label, text=words, timeline=task.timeline) for label, words in config.queries.items()]


def find_objects(task: TaskSession, requests: Sequence[RegionRequest]) -> Iterator[Any]:
    """Everything wished for; the last piece is `Found`. What is shown by prompts is found together.

    Raises:
        PromptError: a prompt or text is not usable; raised at once if it is the first.
    """
    session = task.session
    found: FoundObjects = []
    session.reset()
    shown = {place: wish for place, wish in enumerate(requests, start=1) if wish.prompts}
    if shown:
        prompts = [prompt for wish in shown.values() for prompt in wish.prompts]
        answer = yield from _wait_for_answer(session.stream(None, prompts=prompts, force=True))
        found += [(shown[one.id], one) for one in answer.objects if one.id in shown]
    for wish in requests:
        if wish.prompts:
            continue
        session.reset()  # each thing is asked for as if nothing had been said before
        question = format_request(
            "sentence" if wish.text.endswith("?") else "query", wish.text.strip(), is_video=task.timeline is not None
        )
        answer = yield from _wait_for_answer(session.stream(question, max_new_tokens=MAX_TOKENS))
        found += [(wish, one) for one in answer.objects]
    yield found


def _wait_for_answer(pieces: Iterator[Any]) -> Generator[None, None, Answer]:
    """Pass the time between pieces on, and return the answer."""
    answer = None
    for piece in pieces:
        answer = piece
        yield None
    assert isinstance(answer, Answer)  # always the last piece
    return answer
