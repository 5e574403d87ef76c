"""A chat request as a conversation about one clip: what is asked now, and what was said before."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

from unipixel.serve.chat_wire import (
    AssistantMessage,
    ChatRequest,
    Extension,
    ImagePart,
    SystemMessage,
    TextPart,
    UserMessage,
    VideoPart,
)
from unipixel.serve.faults import Refusal
from unipixel.serve.wire import Asking

MARK = re.compile(r"\[\d{1,6}\]")
"""How an answer mentions an object."""


@dataclass(frozen=True)
class Said:
    """One question, and the answer that it was given, if it is an earlier one."""

    text: str
    asking: Asking = field(default_factory=Asking)  # type: ignore[arg-type]
    reply: str | None = None

    def to_json(self) -> list[Any]:
        """For the key of a conversation."""
        return [self.text, self.asking.model_dump(include=set(Asking.model_fields)), self.reply]


@dataclass(frozen=True)
class Conversation:
    """A conversation about one clip."""

    urls: tuple[str, ...]
    """The picture or video; several are the frames of a clip."""
    history: tuple[Said, ...]
    now: Said
    options: Extension

    def key(self, owner: str, reply: str | None = None) -> str:
        """What names the conversation before its last question, or, with the reply to that, after it."""
        said = [one.to_json() for one in self.history]
        if reply is not None:
            said.append(replace(self.now, reply=reply).to_json())
        options = [self.options.num_frames, self.options.track, self.options.every]
        digest = hashlib.sha256(json.dumps([owner, options, said], sort_keys=True).encode())
        for url in self.urls:
            digest.update(hashlib.sha256(url.encode("utf-8", "surrogatepass")).digest())
        return digest.hexdigest()


def read_conversation(request: ChatRequest, max_text: int) -> Conversation:
    """The conversation of a request.

    Raises:
        Refusal: it has no picture or video, more than one, or messages in an order that is no conversation.
    """
    system, turns = _turns(request)
    urls = _media(turns)
    options = request.unipixel or Extension()  # type: ignore[call-arg]
    said: list[Said] = []
    for place, (asked, reply) in enumerate(turns):
        text = "\n".join(words for message in asked for words in _texts(message) if words)
        if place == 0 and system:
            text = f"{system}\n\n{text}"
        if len(text) > max_text:
            raise _bad(f"a question is {len(text)} characters long; it must be at most {max_text}", "messages")
        said.append(Said(text, _asking(asked), reply))
    now = said[-1]
    if _carries(options):
        if _carries(now.asking):
            raise _bad("the last message and the request both carry prompts; give them in one place", "unipixel")
        now = replace(now, asking=options)
    return Conversation(urls, tuple(said[:-1]), now, options)


def _turns(request: ChatRequest) -> tuple[str, list[tuple[list[UserMessage], str | None]]]:
    """System text, and for each turn its questions and its answer."""
    system: list[str] = []
    turns: list[tuple[list[UserMessage], str | None]] = []
    for message in request.messages:
        if isinstance(message, SystemMessage):
            if turns:
                raise _bad("a system message comes after a question; it must come first", "messages")
            system += _texts(message)
        elif isinstance(message, UserMessage):
            if turns and turns[-1][1] is None:
                turns[-1][0].append(message)
            else:
                turns.append(([message], None))
        elif not turns or turns[-1][1] is not None:
            raise _bad("an assistant message has no question in front of it", "messages")
        else:
            turns[-1] = (turns[-1][0], "\n".join(_texts(message)))
    if not turns or turns[-1][1] is not None:
        raise _bad("the last message must be the user's", "messages")
    return "\n".join(system), turns


def _media(turns: list[tuple[list[UserMessage], str | None]]) -> tuple[str, ...]:
    """The addresses of the conversation's one clip. Later turns may repeat them, as some clients do."""
    given = [tuple(url for message in asked for url in _urls(message)) for asked, _ in turns]
    if not given[0]:
        where = "the first question carries none" if any(given) else "there is none"
        raise _bad(f"a conversation is about one picture or video, and {where}; give an image_url or video_url part")
    if any(urls and urls != given[0] for urls in given[1:]):
        raise _bad("a later question carries other media; a conversation is about one picture or video")
    if len(given[0]) > 1 and any(isinstance(p, VideoPart) for m in turns[0][0] for p in _parts(m)):
        raise _bad("a question carries a video and more besides; give one video, or pictures of one size as frames")
    return given[0]


def _parts(message: UserMessage) -> list[TextPart | ImagePart | VideoPart]:
    return [] if isinstance(message.content, str) else message.content


def _urls(message: UserMessage) -> list[str]:
    found = []
    for part in _parts(message):
        if isinstance(part, TextPart):
            continue
        address = part.image_url if isinstance(part, ImagePart) else part.video_url
        found.append(address if isinstance(address, str) else address.url)
    return found


def _texts(message: SystemMessage | UserMessage | AssistantMessage) -> list[str]:
    if message.content is None:
        return [""]
    if isinstance(message.content, str):
        return [message.content]
    return [part.text for part in message.content if isinstance(part, TextPart)]


def _asking(messages: list[UserMessage]) -> Asking:
    carried = [message.unipixel for message in messages if message.unipixel is not None]
    if len(carried) > 1:
        raise _bad("two user messages in a row carry prompts; give them in one", "messages")
    return carried[0] if carried else Asking()  # type: ignore[call-arg]


def _carries(asking: Asking) -> bool:
    return bool(asking.prompts or asking.about or asking.start or asking.force or asking.each is not None)


def _bad(sentence: str, param: str = "messages") -> Refusal:
    return Refusal(400, sentence, code="bad_request", param=param)
