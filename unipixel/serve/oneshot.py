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
from unipixel.engine.generate import Decoding
from unipixel.engine.session import Session
from unipixel.media import Media
from unipixel.serve.conversation import MARK, Conversation, Said
from unipixel.serve.faults import LOG, Refusal
from unipixel.serve.results import prompts_of


@dataclass(frozen=True, eq=False)
class OneShot:
    """A checked chat request."""

    engine: Engine
    conversation: Conversation
    decoding: Decoding
    session: Session
    """About its clip; in it the question will be asked."""
    is_new: bool
    """Whether nothing was said in it yet."""
    media: Media = field(init=False)
    """Its clip, to open it anew."""

    @property
    def may_share(self) -> bool:
        """Whether a batch is any good: no history, and no video, whose masks take longer than its words."""
        return not self.conversation.history and self.session.num_frames == 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "media", self.session.media)

    def again(self) -> OneShot:
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


def asked(session: Session, said: Said, decoding: Decoding, **more: Any) -> dict[str, Any]:
    """Arguments of `Session.stream` for one question."""
    carried = said.asking
    return {
        "prompts": prompts_of(carried.prompts, session.media.size_hw),
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


def words(said: Said) -> str | None:
    """The question's text, as the engine takes it: None where only prompts speak."""
    return said.text if said.text.strip() else None


def converse(shot: OneShot) -> Iterator[Any]:
    """The answer, piece by piece; what was said before is read first, unless the session remembers it.

    Raises:
        UnipixelError: the question is not usable; raised at once if there is no history to be read.
    """
    session, now = shot.session, shot.conversation.now

    def stream() -> Iterator[Any]:
        return session.stream(words(now), **asked(session, now, shot.decoding))

    if not shot.is_new or not shot.conversation.history:
        return stream()

    def after_history() -> Iterator[Any]:
        for number, said in enumerate(shot.conversation.history, start=1):
            yield from _again(session, said, shot.decoding, number)
        yield from stream()

    return after_history()


def _again(session: Session, said: Said, decoding: Decoding, number: int) -> Iterator[None]:
    """Take an earlier turn up again. Words are read as they are; objects are segmented anew, and must be the same.

    Raises:
        Refusal: the model does not say again what the client says that it did.
    """
    reply = said.reply or ""
    if reply and words(said) is not None and not MARK.search(reply):
        before = set(session.objects)
        # read, and left at once: one token, which is the end of the turn for a reply that was complete
        options = asked(session, said, decoding, prime=reply, max_new_tokens=1, each=False)
        for _ in session.stream(words(said), **options):
            yield None
        given = {prompt.object_id for prompt in said.asking.prompts}
        for one in set(session.objects) - before - given:
            if not session.objects[one].prompts:
                session.remove(one)
        return
    told = ""
    for piece in session.stream(words(said), **asked(session, said, decoding)):
        told = piece.text if isinstance(piece, Answer) else told
        yield None
    if told.strip() != reply.strip():
        raise Refusal(
            400,
            f"answer {number} of the conversation is {reply[:80]!r}, but this model says {told[:80]!r} there; send "
            "answers that mention objects unchanged, with the same seed and temperature, or use a session",
            code="history_changed",
            param="messages",
        )


def answer_all(shots: list[OneShot]) -> list[Any]:
    """Answers of one-shot requests in one batch, or an error in the place of an answer."""
    try:
        return _together(shots)
    except Exception as error:
        LOG.warning("a batch of %d failed with %s and is answered one by one", len(shots), type(error).__name__)
    results: list[Any] = []
    for shot in shots:
        try:
            results += _together([shot.again()])
        except Exception as error:  # the guilty one
            results.append(error)
    return results


def _together(shots: list[OneShot]) -> list[Any]:
    def prepared(place: int) -> tuple[Session, Any]:
        shot = shots[place]
        session, now = shot.session, shot.conversation.now
        options = asked(session, now, shot.decoding)
        given = {name: options[name] for name in ("prompts", "about", "start", "force", "each")}
        return session, session.request(words(now), decoding=shot.decoding, **given)

    return list(answer_together(shots[0].engine.model, prepared, range(len(shots)), raising=False))


class Kept:
    """Sessions of chat conversations that are ready for their next turn; the oldest make room.

    Each is handed out once: two requests that go on from the same turn must not meet in one session.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._sessions: OrderedDict[str, tuple[Session, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def take(self, key: str) -> Session | None:
        """The session that stands where a conversation goes on."""
        found = self._sessions.pop(key, None)
        return None if found is None else found[0]

    def put(self, key: str, session: Session) -> list[Session]:
        """Keep a session; returns those that have to be closed for it."""
        replaced = self._sessions.pop(key, None)
        self._sessions[key] = (session, time.monotonic())
        out = [] if replaced is None else [replaced[0]]
        while len(self._sessions) > self._number:
            out.append(self._sessions.popitem(last=False)[1][0])
        return out

    def expired(self, idle_s: float) -> list[Session]:
        """Take out what nobody has come back to."""
        old = [key for key, (_, since) in self._sessions.items() if time.monotonic() - since > idle_s]
        return [self._sessions.pop(key)[0] for key in old]
