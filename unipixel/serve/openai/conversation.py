"""A chat request as a conversation about one clip, and how it is answered on the model's thread."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from unipixel.engine.answer import Answer
from unipixel.engine.engine import Engine
from unipixel.engine.session import Session
from unipixel.serve.errors import ApiError
from unipixel.serve.openai.answer_format import AnswerFormat, read_reply
from unipixel.serve.openai.schemas import ChatMessage, ChatRequest, ContentPart, UnipixelOptions
from unipixel.serve.schemas import ClipOptions, QuestionOptions

OBJECT_MARK = re.compile(r"\[\d{1,6}\]")
"""How an answer mentions an object."""


class ChatConversation:
    """A conversation about one clip.

    Args:
        max_text: characters of a question.

    Raises:
        ApiError: it has no image or video, more than one, or messages in an order that is no conversation; or its
            answer is wanted in a form that cannot be promised.
    """

    def __init__(self, request: ChatRequest, max_text: int) -> None:
        self.format = AnswerFormat(request.response_format)
        system, turns = _split_turns(request)
        self.urls = _find_media(turns)
        """The image or video; several are the frames of a clip."""
        self.history: list[tuple[str, QuestionOptions, str]] = []
        """Earlier questions with their options and replies."""
        for place, (messages, reply) in enumerate(turns):
            text = "\n".join(words for message in messages for words in _get_texts(message) if words)
            if place == 0 and system:
                text = f"{system}\n\n{text}"
            if len(text) > max_text:
                raise _bad_request(f"a question is {len(text)} characters long; it must be at most {max_text}")
            self.history.append((text, _get_options(messages), reply or ""))
        self.question, self.question_options, _ = self.history.pop()
        options = request.unipixel or UnipixelOptions()  # type: ignore[call-arg]
        if _is_set(options):
            if _is_set(self.question_options):
                message = "the last message and the request both carry prompts; give them in one place"
                raise _bad_request(message, "unipixel")
            self.question_options = options
        self.clip_options: ClipOptions = options

    def key(self, owner: str, reply: str | None = None) -> str:
        """What identifies the conversation before its last question, or, with the reply to that, after it."""
        turns = self.history if reply is None else [*self.history, (self.question, self.question_options, reply)]
        fields = set(QuestionOptions.model_fields)
        clip = [self.clip_options.num_frames, self.clip_options.track, self.clip_options.every]
        content = [[text, options.model_dump(include=fields), answer] for text, options, answer in turns]
        digest = hashlib.sha256(json.dumps([owner, clip, content], sort_keys=True).encode())
        for url in self.urls:
            digest.update(hashlib.sha256(url.encode("utf-8", "surrogatepass")).digest())
        return digest.hexdigest()


# reading messages


def _split_turns(request: ChatRequest) -> tuple[str, list[tuple[list[ChatMessage], str | None]]]:
    """System text, and for each turn its questions and its reply."""
    system: list[str] = []
    turns: list[tuple[list[ChatMessage], str | None]] = []
    for message in request.messages:
        if message.role in ("system", "developer"):
            if turns:
                raise _bad_request("a system message comes after a question; it must come first")
            system += _get_texts(message)
        elif message.role == "user":
            if turns and turns[-1][1] is None:
                turns[-1][0].append(message)
            else:
                turns.append(([message], None))
        elif not turns or turns[-1][1] is not None:
            raise _bad_request("an assistant message has no question in front of it")
        else:
            turns[-1] = (turns[-1][0], "\n".join(_get_texts(message)))
    if not turns or turns[-1][1] is not None:
        raise _bad_request("the last message must be the user's")
    return "\n".join(system), turns


def _find_media(turns: list[tuple[list[ChatMessage], str | None]]) -> tuple[str, ...]:
    """The addresses of the conversation's one clip. Later turns may repeat them, as some clients do."""
    given = [tuple(url for message in messages for url in _get_urls(message)) for messages, _ in turns]
    if not given[0]:
        where = "the first question carries none" if any(given) else "there is none"
        raise _bad_request(
            f"a conversation is about one picture or video, and {where}; give an image_url or video_url part"
        )
    if any(urls and urls != given[0] for urls in given[1:]):
        raise _bad_request("a later question carries other media; a conversation is about one picture or video")
    if len(given[0]) > 1 and any(part.type == "video_url" for m in turns[0][0] for part in _get_parts(m)):
        message = "a question carries a video and more besides; give one video, or pictures of one size as frames"
        raise _bad_request(message)
    return given[0]


def _get_parts(message: ChatMessage) -> list[ContentPart]:
    return message.content if isinstance(message.content, list) else []


def _get_urls(message: ChatMessage) -> list[str]:
    addresses = (
        part.image_url if part.type == "image_url" else part.video_url
        for part in _get_parts(message)
        if part.type != "text"
    )
    return [one if isinstance(one, str) else one.url for one in addresses if one is not None]


def _get_texts(message: ChatMessage) -> list[str]:
    if not isinstance(message.content, list):
        return [message.content or ""]
    return [part.text for part in message.content if part.type == "text" and part.text is not None]


def _get_options(messages: list[ChatMessage]) -> QuestionOptions:
    carried = [message.unipixel for message in messages if message.unipixel is not None]
    if len(carried) > 1:
        raise _bad_request("two user messages in a row carry prompts; give them in one")
    return carried[0] if carried else QuestionOptions()  # type: ignore[call-arg]


def _is_set(options: QuestionOptions) -> bool:
    return bool(options.prompts or options.about or options.force or (options.start, options.each) != (None, None))


def _bad_request(message: str, param: str = "messages") -> ApiError:
    return ApiError(400, message, code="bad_request", param=param)


# from a conversation to an answer


class ChatTask:
    """A conversation with the session in which its question will be asked.

    Args:
        sampling: how tokens are chosen: arguments of `Session.stream`.
        is_fresh: whether nothing was asked in the session yet.
    """

    def __init__(
        self, engine: Engine, conversation: ChatConversation, sampling: dict[str, Any], session: Session, is_fresh: bool
    ) -> None:
        self.engine, self.conversation, self.sampling = engine, conversation, sampling
        self.session, self.is_fresh = session, is_fresh

    def stream(self) -> Iterator[Any]:
        """The answer, piece by piece; the history is read first, unless the session remembers it.

        Raises:
            UnipixelError: the question is not usable; raised at once if there is no history to be read.
        """
        if not self.is_fresh or not self.conversation.history:
            return self._stream_question()
        return self._stream_after_history()

    def _stream_question(self) -> Iterator[Any]:
        chat = self.conversation
        arguments = self._build_arguments(chat.question, chat.question_options)
        return self.session.stream(**arguments, choices=chat.format.choices)

    def _stream_after_history(self) -> Iterator[Any]:
        for number, (text, options, reply) in enumerate(self.conversation.history, start=1):
            yield from self._replay_turn(number, text, options, reply)
        yield from self._stream_question()

    def _replay_turn(self, number: int, text: str, options: QuestionOptions, reply: str) -> Iterator[None]:
        """Ask an earlier question again. Words are read as they were; objects are segmented anew, and must be the same.

        Raises:
            ApiError: the model does not say again what the client says that it did.
        """
        session, arguments, reply = self.session, self._build_arguments(text, options), read_reply(reply)
        if reply and text.strip() and not OBJECT_MARK.search(reply):
            known = set(session.objects)
            # the reply is read, not written: one token, which ends the turn where the reply was complete
            arguments |= {"answer_prefix": reply, "max_new_tokens": 1, "each": False}
            for _ in session.stream(**arguments):
                yield None
            prompted = {prompt.object_id for prompt in options.prompts}
            for object_id in set(session.objects) - known - prompted:
                if not session.objects[object_id].prompts:
                    session.remove(object_id)
            return
        said = ""
        for piece in session.stream(**arguments):
            said = piece.text if isinstance(piece, Answer) else said
            yield None
        if said.strip() != reply.strip():
            raise ApiError(
                400,
                f"answer {number} of the conversation is {reply[:80]!r}, but this model says {said[:80]!r} there; send "
                "answers that mention objects unchanged, with the same seed and temperature, or use a session",
                code="history_changed",
                param="messages",
            )

    def _build_arguments(self, text: str, options: QuestionOptions) -> dict[str, Any]:
        """Arguments of `Session.stream` for one question."""
        return {
            "text": text if text.strip() else None,  # there are only prompts
            "prompts": [prompt.to_prompt(self.session.media.size_hw) for prompt in options.prompts],
            "about": options.about,
            "start": options.start,
            "force": options.force,
            "each": options.each,
            "every_token": True,
            **self.sampling,
        }
