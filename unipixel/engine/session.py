"""A conversation about one image or clip, with the objects it knows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias, TypeVar

from unipixel.engine.answer import Answer, Clip, MaskPiece, Piece, Timings
from unipixel.engine.generation import DecodingOptions, Reply
from unipixel.engine.memory import KnownObject
from unipixel.engine.objects import Workspace, choose_start_frames, correct_object, restart_object, track_objects
from unipixel.engine.request_parser import split_request
from unipixel.engine.requests import (
    About,
    Force,
    ObjectRef,
    Prompts,
    Request,
    Start,
    check_about,
    check_choices,
    check_named,
    check_start,
    group_prompts,
    list_prompts,
    take_turns,
)
from unipixel.engine.storage import save_workspace
from unipixel.engine.turn import answer_request, answer_turn
from unipixel.errors import PromptError, StalePromptError
from unipixel.masks import MaskTrack
from unipixel.media import Media, sample_indices
from unipixel.processing import TurnInputs
from unipixel.processing.chat import SEG
from unipixel.sample import Prompt, Turn

__all__ = ["Answer", "MaskPiece", "Request", "Session", "TrackedFrames", "choose_clip"]

TrackedFrames: TypeAlias = Literal["sampled", "all"]
"""Which frames are tracked: those that the language model sees, or all of the source."""
P = TypeVar("P")


def choose_clip(media: Media, num_frames: int, track: TrackedFrames) -> Media:
    """The clip that a session is about.

    Args:
        media: opened.
        num_frames: evenly spread frames that are kept with ``track="sampled"``.
        track: ``"sampled"`` or ``"all"``.

    Raises:
        ValueError: another ``track``, or ``num_frames`` below 1.
    """
    if isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 1:
        raise ValueError(f"num_frames is {num_frames!r}; it must be a whole number of at least 1")
    if track not in ("sampled", "all"):
        raise ValueError(f"track is {track!r}; it must be 'sampled' or 'all'")
    if track == "all" or media.num_frames <= num_frames:
        return media
    return media.select(sample_indices(media.num_frames, num_frames))


class Session:
    """What was asked, seen and remembered about one image or clip. Made by `Engine.open`.

    Frames are counted within the clip, 0 .. `num_frames` - 1; `frame_indices` says which frames of the source
    they are. Every frame is encoded once for the language model and once for SAM, when first needed. Objects have ids
    from 1 that stay their own; questions and answers write them as ``[1]``. Later questions go on in the same
    KV cache. Threads may share a session: one waits while another asks, corrects or tracks, or takes the next piece of
    a stream; `objects` may be read at any time.

    A question, correction or tracking ends what is left of an earlier stream of the session. Every call, and every
    stream, is one change for `undo`; what is renamed or removed while a stream is under way belongs to its change.

    Args:
        space: a model and a clip, and what is known about it.
    """

    def __init__(self, space: Workspace) -> None:
        self._open_space: Workspace | None = space
        self._running: Generator[object, None, None] | None = None
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        if self._open_space is None:
            return "Session(closed)"
        space = self._open_space
        number = len(space.memory)
        return f"Session({space.clip.media!r}, {number} object{'' if number == 1 else 's'})"

    # what there is

    @property
    def is_closed(self) -> bool:
        return self._open_space is None

    @property
    def clip(self) -> Clip:
        """The frames it is about, and where they come from."""
        return self._space.clip

    @property
    def media(self) -> Media:
        """The clip's frames."""
        return self._space.clip.media

    @property
    def num_frames(self) -> int:
        """T: frames of the clip."""
        return self._space.num_frames

    @property
    def frame_indices(self) -> tuple[int, ...]:
        """Index in the source of every frame of the clip."""
        return self._space.clip.frame_indices

    @property
    def seen_frames(self) -> tuple[int, ...]:
        """The frames of the clip that the language model sees."""
        return self._space.visual.llm_frame_indices

    @property
    def num_visual_tokens(self) -> int:
        """Tokens that stand for the clip at the beginning of the conversation."""
        return self._space.visual.num_tokens

    @property
    def objects(self) -> dict[int, KnownObject]:
        """Everything in the object memory, by id."""
        return dict(self._space.memory)

    @property
    def revision(self) -> int:
        """Grows with every change of an object: where it is the same, so are the objects."""
        return self._space.memory.revision

    def get_object(self, reference: ObjectRef) -> KnownObject:
        """The object that an id, or an object of an answer, stands for.

        Raises:
            PromptError: no such object.
        """
        return self._space.memory.find(reference)

    @property
    def _space(self) -> Workspace:
        if self._open_space is None:
            raise ValueError("the session is closed; open the media again")
        return self._open_space

    # questions

    @take_turns
    def ask(
        self,
        text: str | None = None,
        *,
        prompts: Prompts = (),
        about: About = (),
        start: Start | None = None,
        label: str | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        force: Force = False,
        answer_prefix: str = "",
        choices: Sequence[str] = (),
        prompt_question: str = "",
        each: bool | None = None,
    ) -> Answer:
        """The answer to a question; arguments as in `prepare`."""
        request = self.prepare(
            text,
            prompts=prompts,
            about=about,
            start=start,
            label=label,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            force=force,
            answer_prefix=answer_prefix,
            choices=choices,
            prompt_question=prompt_question,
            each=each,
        )
        return _take_answer(self._stream(self._drive(answer_request(self._space, request))))

    def stream(
        self,
        text: str | None = None,
        *,
        prompts: Prompts = (),
        about: About = (),
        start: Start | None = None,
        label: str | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        force: Force = False,
        answer_prefix: str = "",
        choices: Sequence[str] = (),
        prompt_question: str = "",
        each: bool | None = None,
        every_token: bool = False,
    ) -> Generator[Piece, None, None]:
        """The answer to a question, piece by piece: words, masks of each frame as it is tracked, the `Answer` last.

        Arguments as in `prepare`, whose errors are raised at once. Closing the stream early keeps what was tracked.
        With ``every_token``, a token of the model that adds no words gives an empty piece: who takes pieces of several
        sessions in turn has their replies written together, token by token.
        """
        request = self.prepare(
            text,
            prompts=prompts,
            about=about,
            start=start,
            label=label,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            force=force,
            answer_prefix=answer_prefix,
            choices=choices,
            prompt_question=prompt_question,
            each=each,
        )
        return self._stream(self._drive(answer_request(self._space, request), every_token))

    def prepare(
        self,
        text: str | None = None,
        *,
        prompts: Prompts = (),
        about: About = (),
        start: Start | None = None,
        label: str | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        force: Force = False,
        answer_prefix: str = "",
        choices: Sequence[str] = (),
        prompt_question: str = "",
        each: bool | None = None,
    ) -> Request:
        """A question checked against the session, before anything is computed; for `Engine.answer_batch`.

        Args:
            text: the question. None: segment what the prompts show and nothing else.
            prompts: points (also as (x, y), on the first frame), boxes and masks; those with one ``object_id`` describe
                one object, those with a known object's id correct it. A mask enters the memory as it is. A new object's
                box or first positive point is shown to the model, which segments it in a first round outside the
                conversation; further clicks go to SAM. In the question, objects are named by their ids; those not named
                are added to its wording.
            about: known objects that the question is about. Those it names as ``[id]`` are included by themselves.
            start: frame on which objects that the model segments start; they are tracked from there both ways.
                ``"best"``: where each was pointed at, else where it scores highest by itself, of the frames that the
                language model sees. None: as `PixelConfig.start_frame` says.
            label: what the prompted objects are called; None leaves the labels of known objects as they are.
            max_new_tokens: longest reply.
            temperature, top_p, seed: see `DecodingOptions`; 0 is greedy.
            force: where the model does not segment a point or box, take the masks that it would give if it did.
                Otherwise such an object is "not there". ``"always"``: take these masks without asking the model.
            answer_prefix: words with which the reply begins; not part of the answer's text.
            choices: texts of which the answer is one, the likeliest token by token; the question should name them.
            prompt_question: words of the first round's question, which may name the prompted objects by their ids; by
                default the engine's own.
            each: ask for each thing of a request by itself ("the dog and the two cats"), for "all" and plurals until
                nothing new comes; see `request_parser.split_request`. All are tracked together, and are one answer.
                None: where the checkpoint needs it, because it writes one ``<|seg|>`` a reply, as the released ones do.

        Raises:
            PromptError: the text, a prompt or an object is not usable.
            ValueError: a setting of the decoding is out of range.
        """
        space = self._space
        decoding = DecodingOptions(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
        if text is not None:
            space.processor.chat.check_text(text, "question")
        space.processor.chat.check_text(answer_prefix, "beginning of the answer")
        space.processor.chat.check_text(prompt_question, "question about the prompts")
        given = group_prompts(prompts, space.memory, space.visual)
        known = check_about(about, space.memory, space.visual, given)
        words = (text or "").strip()
        check_named(words, space.memory, given)
        if not words and not given:
            raise PromptError("the question is empty and has no prompts; ask something, or give a point, box or mask")
        if not words and known:
            raise PromptError("about names objects but the question is empty; ask something about them")
        options = check_choices(choices, words, space.processor.chat)
        plain = not (given or known or answer_prefix or options or prompt_question)
        if each and not plain:
            own = "prompts, about, answer_prefix, choices or prompt_question"
            raise PromptError(f"each is for things that a question names; ask without {own}")
        asks_each = plain and (not space.processor.chat.named if each is None else each)
        return Request(
            session=self,
            text=words,
            prompts=given,
            about=known,
            start=check_start(space.default_start if start is None else start, space.num_frames),
            label=label,
            decoding=decoding,
            force=force,
            answer_prefix=answer_prefix,
            choices=options,
            prompt_question=prompt_question,
            parts=split_request(words) if asks_each else (),
        )

    async def ask_async(self, text: str | None = None, **options: Any) -> Answer:
        """`ask` in a thread of its own, for event loops; a task that is cancelled stops waiting, the thread goes on."""
        return await asyncio.to_thread(self.ask, text, **options)

    async def stream_async(self, text: str | None = None, **options: Any) -> AsyncIterator[Piece]:
        """`stream` for event loops: each piece is computed in a thread. Leaving the loop, or cancelling, ends it.

        Wrap it in ``contextlib.aclosing`` where the end must not wait for the garbage collector.
        """
        pieces = await asyncio.to_thread(self.stream, text, **options)
        step = asyncio.ensure_future(asyncio.to_thread(next, pieces, None))
        try:
            while (piece := await asyncio.shield(step)) is not None:
                yield piece
                step = asyncio.ensure_future(asyncio.to_thread(next, pieces, None))
        finally:
            await asyncio.wait([step])  # a generator cannot be closed while it runs
            await asyncio.to_thread(pieces.close)

    @take_turns
    def ask_turn(
        self,
        turn: Turn,
        objects: Mapping[int, MaskTrack] | None = None,
        *,
        answer_prefix: str = "",
        max_new_tokens: int = 256,
    ) -> Answer:
        """Ask a turn exactly as it is written, right after the visual and outside the conversation.

        Nothing is added to it, and regions stand in the order of the turn: what evaluation needs must not depend on the
        conveniences of `ask`.

        Args:
            turn: with an answer, that is read and not written; its ``<|seg|>`` become the objects in ``turn.targets``.
            objects: masks of the objects in ``turn.regions``, which need not be in the memory.
            answer_prefix: words with which the reply begins.
            max_new_tokens: longest reply.

        Raises:
            PromptError: the turn is not usable.
        """
        chat = self._space.processor.chat
        chat.check_text(answer_prefix, "beginning of the answer")
        chat.check_text(turn.answer, "answer", SEG, len(turn.targets))
        decoding = DecodingOptions(max_new_tokens=max_new_tokens, stops_loops=False)  # as the original's
        steps = answer_turn(self._space, turn, objects or {}, decoding, answer_prefix)
        return _take_answer(self._stream(self._drive(steps)))

    # objects

    def segment(
        self,
        prompts: Prompts,
        *,
        start: Start | None = None,
        label: str | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        force: Force = False,
        prompt_question: str = "",
    ) -> list[KnownObject]:
        """Turn points, boxes and masks into objects, without a question; arguments as in `prepare`."""
        answer = self.ask(
            None,
            prompts=prompts,
            start=start,
            label=label,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            force=force,
            prompt_question=prompt_question,
        )
        return [self.get_object(one.id) for one in answer.objects]

    @take_turns
    def correct(self, object_id: ObjectRef, prompts: Prompts) -> KnownObject:
        """Refine an object with clicks, a box or a mask on any frames; clicks add to earlier ones on their frame.

        A correction holds from its frame up to the next frame that has clicks or a mask of its own (and back to the
        first frame, if there is none before it). `track` with ``start`` carries it over the whole clip.

        Raises:
            PromptError: the object is not known, or a prompt does not fit the clip.
        """
        self._end_stream()
        space, known = self._space, self.get_object(object_id)
        listed = list_prompts(prompts)
        if not listed:
            raise PromptError(f"object {known.id} was to be corrected by nothing; give a point, a box or a mask")
        groups = group_prompts([replace(p, object_id=known.id) for p in listed], space.memory, space.visual)
        known, changed = correct_object(space, known, groups[known.id])
        _exhaust(self._stream(self._drive(track_objects(space, [known], {known.id: changed}))))
        return self.get_object(known.id)

    @take_turns
    def track(self, objects: About | None = None, *, start: Start | None = None) -> list[KnownObject]:
        """Track objects again, both ways; arguments as in `propagate`."""
        known = self._list_objects(objects)
        _exhaust(self.propagate(objects, start=start))
        return [self.get_object(one.id) for one in known]

    def propagate(self, objects: About | None = None, *, start: Start | None = None) -> Iterator[MaskPiece]:
        """Track objects again, both ways, and yield the masks of each frame as it is tracked.

        An object that is removed meanwhile is dropped. Closing the stream early keeps what was tracked.

        Args:
            objects: by default all that are known.
            start: the frame that counts, whose clicks, mask or words then are all that says where an object is;
                ``"best"`` as in `prepare`. None: from everything that is known about each.

        Raises:
            PromptError: an object is not known, nothing says where it is on that frame, or there is no object at all.
        """
        self._end_stream()
        space, known = self._space, self._list_objects(objects)
        if not known:
            raise PromptError("the session knows no object; segment one first")
        if start is not None:
            frame = check_start(start, space.num_frames)
            known = [self._restart(one, frame) for one in known]
        return self._stream(self._drive(track_objects(space, known)))

    @take_turns
    def remove_prompt(self, object_id: ObjectRef, number: int) -> KnownObject | None:
        """Undo one prompt of an object; see `stream_remove_prompt`. Returns the object, None if it is gone."""
        known = self.get_object(object_id)
        _exhaust(self.stream_remove_prompt(known, number))
        return self._space.memory.get(known.id)

    def stream_remove_prompt(self, object_id: ObjectRef, number: int) -> Iterator[MaskPiece]:
        """Undo one prompt of an object, and yield the masks of each frame as it is tracked.

        The object becomes what it would be without it: what came before that prompt is restored, and prompts that came
        later are applied again. An object that only this prompt made is removed. A stream that is closed early, or
        fails, leaves the object as it was.

        Args:
            number: of the prompt among `KnownObject.prompts`; negative ones count from the end.

        Raises:
            PromptError: no such object, or it has no such prompt.
            StalePromptError: what it was before is not known any more, and it was made by words.
        """
        self._end_stream()
        known = self.get_object(object_id)
        if not -len(known.prompts) <= number < len(known.prompts):
            raise PromptError(f"object {known.id} has {len(known.prompts)} prompts; there is none with number {number}")
        number %= len(known.prompts)
        group = known.find_prompts_of(number)
        base, first, end, later = None, 0, len(known.prompts), list[tuple[Prompt, ...]]()  # made anew from what is left
        if group is not None:
            place, first, end = group
            base = known.earlier[place]
            if base is not None:
                base = replace(base, label=known.label, earlier=known.earlier[:place])
            bounds = [len(one.prompts) for one in (*known.earlier[place + 1 :], known) if one is not None]
            later = [known.prompts[a:b] for a, b in pairwise(bounds)]
        elif known.label and known.queries is not None:
            raise StalePromptError(
                f"prompt {number} of object {known.id} is too old to be taken back; correct the object, or remove it"
            )
        kept = known.prompts[first:number] + known.prompts[number + 1 : end]
        return self._stream(self._drive(self._rebuild(known, base, [group for group in (kept, *later) if group])))

    def _rebuild(
        self, known: KnownObject, base: KnownObject | None, groups: Sequence[tuple[Prompt, ...]]
    ) -> Generator[MaskPiece | Reply, None, None]:
        memory, others, is_done = self._space.memory, set(self._space.memory), False
        try:
            if base is None:
                memory.remove(known.id)
            else:
                memory.add(base)
            for group in groups:
                prompts = [replace(p, object_id=known.id) for p in group]
                request = self.prepare(None, prompts=prompts, force=True, label=known.label)
                for piece in answer_request(self._space, request):
                    if isinstance(piece, MaskPiece | Reply):
                        yield piece
            is_done = True
        finally:
            for i in set(memory) - others:
                memory.remove(i)  # what the model found besides
            if not is_done:
                memory.add(known)

    def rename(self, object_id: ObjectRef, label: str) -> KnownObject:
        """Give an object another label."""
        known = replace(self.get_object(object_id), label=label)
        self._space.memory.add(known)
        return known

    def add_object(
        self, object_id: int, track: MaskTrack, label: str = "", scores: Sequence[float] | None = None
    ) -> KnownObject:
        """Add an object whose masks are known on every frame; tracking does not change them.

        Args:
            scores: one per frame, in 0..1; by default 1 where it is visible.

        Raises:
            PromptError: the masks are not those of the clip's frames.
        """
        space = self._space
        if track.num_frames != space.num_frames or track.size_hw != space.clip.media.size_hw:
            raise PromptError(
                f"the masks of object {object_id} are {track.num_frames} frames of {track.size_hw}; the clip has "
                f"{space.num_frames} of {space.clip.media.size_hw} (height, width)"
            )
        if scores is None:
            scores = [1.0 if rle is not None else 0.0 for rle in track.rles]
        known = KnownObject(id=object_id, label=label, track=track, frame_scores=tuple(scores))
        space.memory.add(known)
        return known

    def remove(self, object_id: ObjectRef) -> None:
        """Forget an object; its id is not used again. One that is being tracked is dropped."""
        self._space.memory.remove(self.get_object(object_id).id)

    # undo

    @property
    def can_undo(self) -> bool:
        """Whether there is a change of the objects to be undone."""
        return self._space.memory.can_undo

    @property
    def can_redo(self) -> bool:
        """Whether a change was undone, and nothing has changed since."""
        return self._space.memory.can_redo

    @take_turns
    def undo(self) -> tuple[int, ...]:
        """Undo the last change of the objects; returns the ids of those that it was about.

        A change is whatever one call or stream did: objects that a question or prompts made, a correction, a prompt
        undone, tracking, a rename, a removal. The conversation does not change, and ids are never reused. The last 64
        changes are kept; a saved session does not have them.

        Raises:
            PromptError: there is nothing to be undone.
        """
        self._end_stream()
        return self._space.memory.undo()

    @take_turns
    def redo(self) -> tuple[int, ...]:
        """Redo the change that was undone last; returns the ids of the objects that it is about.

        Raises:
            PromptError: nothing was undone, or the objects have changed since.
        """
        self._end_stream()
        return self._space.memory.redo()

    # end

    @take_turns
    def reset(self) -> None:
        """Start over with the same clip: the conversation and all objects are dropped, encoded features are kept.

        The next answer is that of a newly opened session.
        """
        self._end_stream()
        self._space.dialogue.restore(TurnInputs.from_ids())
        self._space.memory.clear()

    @take_turns
    def release_caches(self) -> None:
        """Free features and caches, which are computed again when they are needed; objects and conversation stay."""
        self._space.dialogue.release()
        self._space.features.clear()

    @take_turns
    def save(self, path: str | Path, *, frames: bool | None = None) -> None:
        """Write the session to a file that `Engine.open_session` reads.

        Args:
            frames: put the clip's frames into the file; else it names the source. None: frames of short clips, and of
                sources that are no file.

        Raises:
            MediaError: the frames shall not go into the file, and their source is no file that it could name.
        """
        save_workspace(self._space, path, frames=frames)

    @take_turns
    def close(self, *, media: bool = True) -> None:
        """Free the session's memory and, if ``media``, its files.

        Answers stay usable, but can no longer be drawn if their frames came from an iterator that was closed.
        """
        if self._open_space is not None:
            self._end_stream()
            self.release_caches()
            if media:
                self._open_space.clip.media.close()
            self._open_space = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def timings(self) -> Timings:
        """Seconds per stage since the last answer, such as those of `correct` and `track`."""
        return self._space.clock.take()

    def _list_objects(self, objects: About | None) -> list[KnownObject]:
        if objects is None:
            return list(self._space.memory.values())
        listed = [objects] if isinstance(objects, int | KnownObject) else objects
        return list({known.id: known for known in map(self.get_object, listed)}.values())

    def _restart(self, known: KnownObject, frame: Start) -> KnownObject:
        if frame == "best":
            if known.queries is None:
                return known  # its own masks and clicks are better than any guess
            (frame,) = choose_start_frames(self._space, known.queries[None], "best")
        return restart_object(self._space, known, frame)

    def _end_stream(self) -> None:
        with self._lock:
            if self._running is not None:
                self._running.close()
                self._running = None

    def _stream(self, pieces: Generator[P, None, None]) -> Generator[P, None, None]:
        """Pieces of work, once what is left of an earlier stream has been ended: its words would get between ours."""
        with self._lock:
            self._end_stream()
            self._running = pieces
        try:
            while True:
                with self._lock:
                    piece = next(pieces, None)
                if piece is None:
                    return
                yield piece
        finally:
            with self._lock:
                pieces.close()

    def _drive(self, steps: Generator[P | Reply, None, None], every_token: bool = False) -> Generator[P, None, None]:
        """Let the language model write the replies that are asked for on the way, and give out everything else."""
        space = self._space
        with space.memory.change():
            try:
                for item in steps:
                    if isinstance(item, Reply):
                        space.dialogue.start(item)
                    elif every_token or not isinstance(item, str) or item:
                        yield item
            finally:
                steps.close()


def _take_answer(pieces: Iterator[Piece]) -> Answer:
    answer = None
    for piece in pieces:
        answer = piece
    assert isinstance(answer, Answer)  # always the last piece
    return answer


def _exhaust(pieces: Iterator[object]) -> None:
    for _ in pieces:
        pass
