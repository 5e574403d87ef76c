"""Many questions about many media at once: their prompts are read, and their replies written, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from unipixel.engine.answer import Answer
from unipixel.engine.dialogue import Ask
from unipixel.engine.generation import ConversationCache, DecodingOptions, PrefillInput, Reply
from unipixel.engine.objects import Workspace
from unipixel.engine.timing import Clock
from unipixel.engine.turn import Rounds, Row, answer_request
from unipixel.errors import UnipixelError
from unipixel.model.unipixel import UniPixel

if TYPE_CHECKING:
    from unipixel.engine.session import Session


class _Member:
    """One question of a batch: its rounds, and what they wait for."""

    def __init__(self, session: Session, space: Workspace, going: Rounds) -> None:
        self.session, self.space, self._going = session, space, going
        self.waiting: Ask | None = None
        self.result: Answer | UnipixelError | None = None

    def proceed(self, reply: Row | None = None) -> None:
        """Go on to the next question for the language model, or to the answer."""
        self.waiting = None
        try:
            while self.waiting is None and not isinstance(self.result, Answer):
                item = self._going.send(reply)
                reply = None
                if isinstance(item, Ask):
                    self.waiting = item
                elif isinstance(item, Answer):
                    self.result = item
        except UnipixelError as error:
            self.result = error
        if self.result is not None:
            self.session.close(media=False)  # features of a whole batch would add up

    def ask_alone(self, ask: Ask) -> None:
        """Go on with a reply of its own, on the member's visual, which is read only once."""
        try:
            reply = self.space.dialogue.reply(ask)
        except UnipixelError as error:
            self.waiting, self.result = None, error
            self.session.close(media=False)
            return
        self.proceed(Row(reply))

    def passage(self) -> PrefillInput | None:
        """What the language model has to read for the question that is waiting; None if that fails."""
        assert self.waiting is not None
        try:
            return self.space.dialogue.build_prefill(self.waiting)
        except UnipixelError as error:
            self.waiting, self.result = None, error
            self.session.close(media=False)
            return None


def answer_together(
    model: UniPixel, prepared: Callable[[int], tuple[Session, Any]], places: Iterable[int], *, raising: bool
) -> list[Answer | UnipixelError]:
    """Answer a batch of questions; one that fails leaves the others as they are.

    Args:
        prepared: opens the session and checks the question at a place.
        places: of the batch.
        raising: raise the first error (in the order of the places) instead of returning errors in place.
    """
    members: list[_Member | UnipixelError] = []
    try:
        for place in places:
            try:
                session, request = prepared(place)
            except UnipixelError as error:
                if raising:
                    raise
                members.append(error)
                continue
            members.append(_Member(session, session.workspace, answer_request(session.workspace, request)))
        running = [one for one in members if isinstance(one, _Member)]
        for member in running:
            member.proceed()
        while any(one.waiting for one in running):
            _one_round(model, [one for one in running if one.waiting is not None])
        results = [one if isinstance(one, UnipixelError) else one.result for one in members]
    finally:
        for one in members:
            if isinstance(one, _Member):
                one.session.close(media=False)
    done = [one for one in results if one is not None]
    failed = next((one for one in done if isinstance(one, UnipixelError)), None)
    if raising and failed is not None:
        raise failed
    return done


def _one_round(model: UniPixel, waiting: list[_Member]) -> None:
    """Reply to all questions that wait; those that are to be answered alike form a batch."""
    groups: dict[tuple[DecodingOptions, bool], list[_Member]] = {}
    for member in waiting:
        ask = member.waiting
        if ask is not None and ask.one_of_many:
            member.ask_alone(ask)
        elif ask is not None:
            groups.setdefault((ask.decoding, not ask.answer), []).append(member)
    for (decoding, write), group in groups.items():
        read = [(member, passage) for member in group if (passage := member.passage()) is not None]
        if not read:
            continue
        clock = Clock(model.device)
        reply = Reply(model, ConversationCache(), [passage for _, passage in read], decoding, clock, write=write)
        for _ in reply:
            pass
        for row, (member, _) in enumerate(read):
            # each answer bears its share of the time
            member.space.clock.add({stage: seconds / len(read) for stage, seconds in clock.seconds.items()})
            member.space.clock.count("decode", max(len(reply.ids[row]) - 1, 0))
            member.proceed(Row(reply, row))
