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
    ImagePart,
    SystemMessage,
    TextPart,
    UnipixelOptions,
    UserMessage,
    VideoPart,
)
from unipixel.serve.errors import ApiError
from unipixel.serve.schemas import QuestionOptions

OBJECT_MARK = re.compile(r"\[\d{1,6}\]")
"""How an answer mentions an object."""


@dataclass(frozen=True)
class ChatTurn:
    """One question, and the answer that it was given, if it is an earlier one."""

    text: str
    options: QuestionOptions = field(default_factory=QuestionOptions)  # type: ignore[arg-type]
    reply: str | None = None

    def to_json(self) -> list[Any]:
        """For the key of a conversation."""
        return [self.text, self.options.model_dump(include=set(QuestionOptions.model_fields)), self.reply]


@dataclass(frozen=True)
class ChatConversation:
    """A conversation about one clip."""

    urls: tuple[str, ...]
    """The picture or video; several are the frames of a clip."""
    history: tuple[ChatTurn, ...]
    current: ChatTurn
    options: UnipixelOptions

    def key(self, owner: str, reply: str | None = None) -> str:
        """What names the conversation before its last question, or, with the reply to that, after it."""
        said = [one.to_json() for one in self.history]
        if reply is not None:
            said.append(replace(self.current, reply=reply).to_json())
        options = [self.options.num_frames, self.options.track, self.options.every]
        digest = hashlib.sha256(json.dumps([owner, options, said], sort_keys=True).encode())
        for url in self.urls:
            digest.update(hashlib.sha256(url.encode("utf-8", "surrogatepass")).digest())
        return digest.hexdigest()


def read_conversation(request: ChatRequest, max_text: int) -> ChatConversation:
    """The conversation of a request.

    Raises:
        Refusal: it has no picture or video, more than one, or messages in an order that is no conversation.
    """
    system, turns = _split_turns(request)
    urls = _find_media(turns)
    options = request.unipixel or UnipixelOptions()  # type: ignore[call-arg]
    said: list[ChatTurn] = []
    for place, (asked, reply) in enumerate(turns):
        text = "\n".join(words for message in asked for words in _get_texts(message) if words)
        if place == 0 and system:
            text = f"{system}\n\n{text}"
        if len(text) > max_text:
            raise _bad_request(f"a question is {len(text)} characters long; it must be at most {max_text}", "messages")
        said.append(ChatTurn(text, _get_options(asked), reply))
    now = said[-1]
    if _is_set(options):
        if _is_set(now.options):
            raise _bad_request(
                "the last message and the request both carry prompts; give them in one place", "unipixel"
            )
        now = replace(now, options=options)
    return ChatConversation(urls, tuple(said[:-1]), now, options)


def _split_turns(request: ChatRequest) -> tuple[str, list[tuple[list[UserMessage], str | None]]]:
    """System text, and for each turn its questions and its answer."""
    system: list[str] = []
    turns: list[tuple[list[UserMessage], str | None]] = []
    for message in request.messages:
        if isinstance(message, SystemMessage):
            if turns:
                raise _bad_request("a system message comes after a question; it must come first", "messages")
            system += _get_texts(message)
        elif isinstance(message, UserMessage):
            if turns and turns[-1][1] is None:
                turns[-1][0].append(message)
            else:
                turns.append(([message], None))
        elif not turns or turns[-1][1] is not None:
            raise _bad_request("an assistant message has no question in front of it", "messages")
        else:
            turns[-1] = (turns[-1][0], "\n".join(_get_texts(message)))
    if not turns or turns[-1][1] is not None:
        raise _bad_request("the last message must be the user's", "messages")
    return "\n".join(system), turns


def _find_media(turns: list[tuple[list[UserMessage], str | None]]) -> tuple[str, ...]:
    """The addresses of the conversation's one clip. Later turns may repeat them, as some clients do."""
    given = [tuple(url for message in asked for url in _get_urls(message)) for asked, _ in turns]
    if not given[0]:
        where = "the first question carries none" if any(given) else "there is none"
        raise _bad_request(
            f"a conversation is about one picture or video, and {where}; give an image_url or video_url part"
        )
    if any(urls and urls != given[0] for urls in given[1:]):
        raise _bad_request("a later question carries other media; a conversation is about one picture or video")
    if len(given[0]) > 1 and any(isinstance(p, VideoPart) for m in turns[0][0] for p in _get_parts(m)):
        raise _bad_request(
            "a question carries a video and more besides; give one video, or pictures of one size as frames"
        )
    return given[0]


def _get_parts(message: UserMessage) -> list[TextPart | ImagePart | VideoPart]:
    return [] if isinstance(message.content, str) else message.content


def _get_urls(message: UserMessage) -> list[str]:
    found = []
    for part in _get_parts(message):
        if isinstance(part, TextPart):
            continue
        address = part.image_url if isinstance(part, ImagePart) else part.video_url
        found.append(address if isinstance(address, str) else address.url)
    return found


def _get_texts(message: SystemMessage | UserMessage | AssistantMessage) -> list[str]:
    if message.content is None:
        return [""]
    if isinstance(message.content, str):
        return [message.content]
    return [part.text for part in message.content if isinstance(part, TextPart)]


def _get_options(messages: list[UserMessage]) -> QuestionOptions:
    carried = [message.unipixel for message in messages if message.unipixel is not None]
    if len(carried) > 1:
        raise _bad_request("two user messages in a row carry prompts; give them in one", "messages")
    return carried[0] if carried else QuestionOptions()  # type: ignore[call-arg]


def _is_set(asking: QuestionOptions) -> bool:
    return bool(asking.prompts or asking.about or asking.start or asking.force or asking.each is not None)


def _bad_request(sentence: str, param: str = "messages") -> ApiError:
    return ApiError(400, sentence, code="bad_request", param=param)
