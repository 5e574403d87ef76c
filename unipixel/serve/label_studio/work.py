"""One task on the model's thread: everything that is wanted of one picture or video, piece by piece."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unipixel.engine.answer import Answer, AnswerObject
from unipixel.engine.engine import Engine
from unipixel.engine.session import Session
from unipixel.media import Media
from unipixel.processing.prompts import request_text
from unipixel.serve.faults import Refusal
from unipixel.serve.label_studio.config import LabelConfig
from unipixel.serve.label_studio.files import open_task_media
from unipixel.serve.label_studio.prompts import Wanted, named, wanted
from unipixel.serve.label_studio.timeline import Timeline, followed, timeline
from unipixel.serve.label_studio.wire import RegionIn
from unipixel.serve.settings import ServeSettings

MAX_TOKENS = 128
"""Longest reply to the request for one label."""
Found = list[tuple[Wanted, AnswerObject]]


@dataclass(frozen=True)
class Opened:
    """A task's clip in a session, and how Label Studio counts its frames if it is a video."""

    session: Session
    timeline: Timeline | None


def opened(engine: Engine, settings: ServeSettings, config: LabelConfig, data: Mapping[str, Any]) -> Opened:
    """A session about what a task shows; in a thread.

    Raises:
        Refusal: the task has no such thing.
        MediaError: it cannot be had.
    """
    if config.data_key not in data:
        raise Refusal(
            400,
            f"the task's data have no {config.data_key!r}, which the labelling configuration shows",
            code="bad_task",
        )
    media: Media = open_task_media(data[config.data_key], settings, config.medium)
    if config.medium == "image":
        return Opened(engine.open(media), None)
    clip = followed(media, settings.max_frames)
    return Opened(engine.open(clip, track="all"), timeline(media, clip, config.frames_per_s(data)))


def asked(drawn: Sequence[RegionIn], config: LabelConfig, data: Mapping[str, Any], task: Opened) -> list[Wanted]:
    """What a task asks for: what was drawn, else the words in its text, else all labels.

    Raises:
        Refusal: something drawn cannot be used.
    """
    if drawn:
        return wanted(drawn, config, task.session.media.size_hw, task.timeline)
    said = [data[key] for key in config.text_keys if isinstance(data.get(key), str) and data[key].strip()]
    if said:
        return [Wanted(named(text, config), text=text.strip(), timeline=task.timeline) for text in said]
    return [Wanted(label, text=words, timeline=task.timeline) for label, words in config.words.items()]


def find(task: Opened, wishes: Sequence[Wanted]) -> Iterator[Any]:
    """Everything wished for; the last piece is `Found`. What is shown by prompts is found together.

    Raises:
        PromptError: a prompt or text is not usable; raised at once if it is the first.
    """
    session = task.session
    found: Found = []
    session.forget()
    shown = {place: wish for place, wish in enumerate(wishes, start=1) if wish.prompts}
    if shown:
        prompts = [prompt for wish in shown.values() for prompt in wish.prompts]
        answer = yield from _answer(session.stream(None, prompts=prompts, force=True))
        found += [(shown[one.id], one) for one in answer.objects if one.id in shown]
    for wish in wishes:
        if wish.prompts:
            continue
        session.forget()  # each thing is asked for as if nothing had been said before
        question = request_text(
            "sentence" if wish.text.endswith("?") else "query", wish.text.strip(), is_video=task.timeline is not None
        )
        answer = yield from _answer(session.stream(question, max_new_tokens=MAX_TOKENS))
        found += [(wish, one) for one in answer.objects]
    yield found


def _answer(pieces: Iterator[Any]) -> Generator[None, None, Answer]:
    """Pass the time between pieces on, and return the answer."""
    answer = None
    for piece in pieces:
        answer = piece
        yield None
    assert isinstance(answer, Answer)  # always the last piece
    return answer
