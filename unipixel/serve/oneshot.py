"""Chat requests on the model's thread: alone, together in a batch, or as the next turn of what was said before."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from unipixel.engine.answer import Answer
from unipixel.engine.batch import answer_together
from unipixel.engine.engine import Engine
from unipixel.engine.generation import DecodingOptions
from unipixel.engine.session import Session
from unipixel.media import Media
from unipixel.serve.conversation import OBJECT_MARK, ChatConversation, ChatTurn
from unipixel.serve.errors import LOG, ApiError
from unipixel.serve.serializers import to_prompts


@dataclass(frozen=True, eq=False)
class ChatTask:
    """A checked chat request."""

    engine: Engine
    conversation: ChatConversation
    decoding: DecodingOptions
    session: Session
    """About its clip; in it the question will be asked."""
    is_fresh: bool
    """Whether nothing was said in it yet."""
    media: Media = field(init=False)
    """Its clip, to open it anew."""

    @property
    def is_batchable(self) -> bool:
        """Whether a batch is any good: no history, and no video, whose masks take longer than its words."""
        return not self.conversation.history and self.session.num_frames == 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "media", self.session.media)

    def reopen(self) -> ChatTask:
        """The same in a session of its own, after a batch has closed the first."""
        if is_open(self.session):
            return self
        options = self.conversation.options
        session = self.engine.open(self.media, num_frames=options.num_frames, track=options.track)
        return replace(self, session=session)


def is_open(session: Session) -> bool:
    """Whether a session was not closed yet."""
    try:
        return bool(session.workspace)
    except ValueError:
        return False


def build_options(session: Session, turn: ChatTurn, decoding: DecodingOptions, **more: Any) -> dict[str, Any]:
    """Arguments of `Session.stream` for one question."""
    carried = turn.options
    return {
        "prompts": to_prompts(carried.prompts, session.media.size_hw),
        "about": tuple(carried.about),
        "start": carried.start,
        "force": carried.force,
        "each": carried.each,
        "max_new_tokens": decoding.max_new_tokens,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "seed": decoding.seed,
        **more,
    }


def get_text(turn: ChatTurn) -> str | None:
    """The question's text, as the engine takes it: None where only prompts speak."""
    return turn.text if turn.text.strip() else None


def stream_answer(shot: ChatTask) -> Iterator[Any]:
    """The answer, piece by piece; what was said before is read first, unless the session remembers it.

    Raises:
        UnipixelError: the question is not usable; raised at once if there is no history to be read.
    """
    session, now = shot.session, shot.conversation.current

    def stream() -> Iterator[Any]:
        return session.stream(get_text(now), **build_options(session, now, shot.decoding))

    if not shot.is_fresh or not shot.conversation.history:
        return stream()

    def stream_after_history() -> Iterator[Any]:
        for number, said in enumerate(shot.conversation.history, start=1):
            yield from _replay_turn(session, said, shot.decoding, number)
        yield from stream()

    return stream_after_history()


def _replay_turn(session: Session, turn: ChatTurn, decoding: DecodingOptions, number: int) -> Iterator[None]:
    """Take an earlier turn up again. Words are read as they are; objects are segmented anew, and must be the same.

    Raises:
        Refusal: the model does not say again what the client says that it did.
    """
    reply = turn.reply or ""
    if reply and get_text(turn) is not None and not OBJECT_MARK.search(reply):
        before = set(session.objects)
        # read, and left at once: one token, which is the end of the turn for a reply that was complete
        options = build_options(session, turn, decoding, prime=reply, max_new_tokens=1, each=False)
        for _ in session.stream(get_text(turn), **options):
            yield None
        given = {prompt.object_id for prompt in turn.options.prompts}
        for one in set(session.objects) - before - given:
            if not session.objects[one].prompts:
                session.remove(one)
        return
    told = ""
    for piece in session.stream(get_text(turn), **build_options(session, turn, decoding)):
        told = piece.text if isinstance(piece, Answer) else told
        yield None
    if told.strip() != reply.strip():
        raise ApiError(
            400,
            f"answer {number} of the conversation is {reply[:80]!r}, but this model says {told[:80]!r} there; send "
            "answers that mention objects unchanged, with the same seed and temperature, or use a session",
            code="history_changed",
            param="messages",
        )


def answer_batch(tasks: list[ChatTask]) -> list[Any]:
    """Answers of one-shot requests in one batch, or an error in the place of an answer."""
    try:
        return _answer_together(tasks)
    except Exception as error:
        LOG.warning("a batch of %d failed with %s and is answered one by one", len(tasks), type(error).__name__)
    results: list[Any] = []
    for shot in tasks:
        try:
            results += _answer_together([shot.reopen()])
        except Exception as error:  # the guilty one
            results.append(error)
    return results


def _answer_together(tasks: list[ChatTask]) -> list[Any]:
    def prepare(place: int) -> tuple[Session, Any]:
        shot = tasks[place]
        session, now = shot.session, shot.conversation.current
        options = build_options(session, now, shot.decoding)
        given = {name: options[name] for name in ("prompts", "about", "start", "force", "each")}
        return session, session.prepare(get_text(now), decoding=shot.decoding, **given)

    return list(answer_together(tasks[0].engine.model, prepare, range(len(tasks)), raising=False))


class SessionCache:
    """Sessions of chat conversations that are ready for their next turn; the oldest make room.

    Each is handed out once: two requests that go on from the same turn must not meet in one session.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._sessions: OrderedDict[str, tuple[Session, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def pop(self, key: str) -> Session | None:
        """The session that stands where a conversation goes on."""
        found = self._sessions.pop(key, None)
        return None if found is None else found[0]

    def add(self, key: str, session: Session) -> list[Session]:
        """Keep a session; returns those that have to be closed for it."""
        replaced = self._sessions.pop(key, None)
        self._sessions[key] = (session, time.monotonic())
        out = [] if replaced is None else [replaced[0]]
        while len(self._sessions) > self._number:
            out.append(self._sessions.popitem(last=False)[1][0])
        return out

    def pop_expired(self, idle_s: float) -> list[Session]:
        """Take out what nobody has come back to."""
        old = [key for key, (_, since) in self._sessions.items() if time.monotonic() - since > idle_s]
        return [self._sessions.pop(key)[0] for key in old]
