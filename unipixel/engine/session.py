"""A conversation about one image or clip, with the objects it knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

from unipixel.engine.answer import Answer, AnswerObject, Clip, MaskPiece, TextPiece
from unipixel.engine.dialogue import Ask, Dialogue, Transcript
from unipixel.engine.features import CACHED_FRAMES, FrameFeatureCache
from unipixel.engine.generation import DecodingOptions
from unipixel.engine.memory import KnownObject, ObjectMemory
from unipixel.engine.objects import Workspace, choose_start_frames, correct_object, restart_object, track_objects
from unipixel.engine.request_parser import split_request
from unipixel.engine.requests import Force, Request, Start, check_about, check_named, check_start, group_prompts
from unipixel.engine.timing import Clock, Timings
from unipixel.engine.tracking import legs
from unipixel.engine.turn import Piece, Rounds, Row, answer_request, answer_turn
from unipixel.errors import PromptError
from unipixel.masks import MaskTrack
from unipixel.media import Media, sample_indices
from unipixel.model.unipixel import UniPixel
from unipixel.processing import Processor, VisualInput
from unipixel.processing.chat import SEG
from unipixel.sample import Box, Mask, Point, Prompt, Turn

__all__ = ["Answer", "MaskPiece", "Session", "TextPiece", "TrackedFrames", "choose_clip"]

TrackedFrames: TypeAlias = Literal["sampled", "all"]
"""Which frames are tracked: those that the language model sees, or all of the source."""
Prompts: TypeAlias = Prompt | Sequence[Prompt]
About: TypeAlias = int | AnswerObject | Sequence[int | AnswerObject]


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
    KV cache. A session is for one thread at a time.

    Args:
        clip: the frames that are tracked (see `choose_clip`).
        num_frames: frames of them that the language model sees at most, evenly spread.
        feature_frames: frames whose SAM features are kept; the bound of a long clip's memory.
    """

    def __init__(
        self,
        model: UniPixel,
        processor: Processor,
        clip: Media | Clip,
        *,
        num_frames: int | None = None,
        feature_frames: int = CACHED_FRAMES,
        memory: ObjectMemory | None = None,
    ) -> None:
        clip = clip if isinstance(clip, Clip) else Clip.from_media(clip)
        settings = processor.settings
        visual = VisualInput.from_media(clip.media, replace(settings, max_frames=num_frames or settings.max_frames))
        clock = Clock(model.device)
        self._space: Workspace | None = Workspace(
            model,
            processor,
            clip,
            visual,
            Dialogue(model, processor, visual, clock),
            FrameFeatureCache(model.segmenter, clip.media, settings, capacity=feature_frames, clock=clock),
            memory if memory is not None else ObjectMemory(),
            clock,
        )
        self._going: Rounds | None = None

    # what there is

    @property
    def media(self) -> Media:
        """The clip's frames."""
        return self.workspace.clip.media

    @property
    def num_frames(self) -> int:
        """T: frames of the clip."""
        return self.workspace.num_frames

    @property
    def frame_indices(self) -> tuple[int, ...]:
        """Index in the source of every frame of the clip."""
        return self.workspace.clip.frame_indices

    @property
    def seen_frames(self) -> tuple[int, ...]:
        """The frames of the clip that the language model sees."""
        return self.workspace.visual.llm_frame_indices

    @property
    def objects(self) -> dict[int, KnownObject]:
        """Everything in the object memory, by id."""
        return dict(self.workspace.memory)

    @property
    def workspace(self) -> Workspace:
        """The parts a session is made of.

        Raises:
            ValueError: the session is closed.
        """
        if self._space is None:
            raise ValueError("the session is closed; open the media again")
        return self._space

    # questions

    def ask(self, text: str | None = None, **options: Any) -> Answer:
        """The answer to a question; arguments as in `stream`."""
        answer = None
        for piece in self.stream(text, **options):
            answer = piece
        assert isinstance(answer, Answer)  # always the last piece
        return answer

    def stream(
        self,
        text: str | None = None,
        *,
        prompts: Prompts = (),
        about: About = (),
        start: Start = 0,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        force: Force = False,
        prime: str = "",
        prefill: str = "",
        each: bool | None = None,
    ) -> Iterator[Piece]:
        """The answer to a question, piece by piece: words, masks of each frame as it is tracked, the `Answer` last.

        Args:
            text: the question. None: segment what the prompts show and nothing else.
            prompts: points, boxes and masks; those with one ``object_id`` describe one object, those with a known
                object's id correct it. A mask enters the memory as it is. A new object's box or first positive point is
                shown to the model, which segments it in a first round beside the conversation; its further clicks go to
                SAM. In the question, objects are named by their ids; those not named are added to its wording.
            about: known objects that the question is about. Those it names as ``[id]`` are included by themselves.
            start: frame on which objects that the model segments start; they are tracked from there both ways.
                ``"best"``: the frame on which each scores highest by itself.
            max_new_tokens: longest reply.
            temperature, top_p, seed: see `DecodingOptions`; 0 is greedy.
            force: where the model does not segment a point or box, take the masks that it would give if it did.
                Otherwise such an object is "not there". ``"always"``: take these masks without asking the model.
            prefill: words of the first round's question, which may name the prompted objects by their ids; by default
                the engine's own.
            prime: words put into the model's mouth, from which its reply goes on; not part of the answer's text.
            each: ask for each thing of a request by itself ("the dog and the two cats"), for "all" and plurals until
                nothing new comes; see `several.taken_apart`. All are tracked together, and are one answer. None: where
                the checkpoint needs it, because it writes one ``<|seg|>`` a reply, as the released ones do.

        A question ends what is left of an earlier stream of the session.

        Raises:
            PromptError: the text, a prompt or an object is not usable; raised at once.
        """
        decoding = DecodingOptions(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
        request = self.prepare(
            text,
            prompts=prompts,
            about=about,
            start=start,
            decoding=decoding,
            force=force,
            prime=prime,
            prefill=prefill,
            each=each,
        )
        return self._run(answer_request(self.workspace, request))

    def prepare(
        self,
        text: str | None,
        *,
        prompts: Prompts = (),
        about: About = (),
        start: Start = 0,
        decoding: DecodingOptions | None = None,
        force: Force = False,
        prime: str = "",
        prefill: str = "",
        each: bool | None = None,
    ) -> Request:
        """A question checked against the session, before anything is computed.

        Raises:
            PromptError: something in it is not usable.
        """
        space = self.workspace
        if text is not None:
            space.processor.chat.check_text(text, "question")
        space.processor.chat.check_text(prime, "beginning of the answer")
        space.processor.chat.check_text(prefill, "pre-filling question")
        given = group_prompts(prompts, space.memory, space.visual)
        known = check_about(about, space.memory, space.visual, given)
        words = (text or "").strip()
        check_named(words, space.memory, given)
        if not words and not given:
            raise PromptError("the question is empty and has no prompts; ask something, or give a point, box or mask")
        if not words and known:
            raise PromptError("about names objects but the question is empty; ask something about them")
        plain = not (given or known or prime or prefill)
        if each and not plain:
            raise PromptError("each is for things that a question names; ask without prompts, about, prime or prefill")
        asks_each = plain and (not space.processor.chat.named if each is None else each)
        return Request(
            text=words,
            prompted=given,
            about=known,
            start=check_start(start, space.num_frames),
            decoding=decoding or DecodingOptions(),
            force=force,
            prime=prime,
            prefill=prefill,
            wanted=split_request(words) if asks_each else (),
        )

    def ask_turn(
        self, turn: Turn, objects: Mapping[int, MaskTrack] | None = None, *, prime: str = "", max_new_tokens: int = 256
    ) -> Answer:
        """Put a turn to the model exactly as it is written, as the first of a conversation and forgotten afterwards.

        No mention is added, and regions stand in the order of the turn: what evaluation needs that must not depend on
        the conveniences of `ask`.

        Args:
            turn: with an answer, that is read and not written; its ``<|seg|>`` become the objects in ``turn.targets``.
            objects: masks of the objects in ``turn.regions``, which need not be in the memory.
            prime: words that the reply goes on from.
            max_new_tokens: longest reply.

        Raises:
            PromptError: the turn is not usable.
        """
        chat = self.workspace.processor.chat
        chat.check_text(prime, "beginning of the answer")
        chat.check_text(turn.answer, "answer", SEG, len(turn.targets))
        decoding, answer = DecodingOptions(max_new_tokens=max_new_tokens), None
        for piece in self._run(answer_turn(self.workspace, turn, objects or {}, decoding, prime)):
            answer = piece
        assert isinstance(answer, Answer)  # always the last piece
        return answer

    # objects

    def segment(self, prompts: Prompts, **options: Any) -> list[KnownObject]:
        """Turn points, boxes and masks into objects, without a question; options as in `stream`."""
        memory, answer = self.workspace.memory, self.ask(None, prompts=prompts, **options)
        return [memory[one.id] for one in answer.objects]

    def correct(self, object_id: int | AnswerObject, prompts: Prompts) -> KnownObject:
        """Refine an object with clicks, a box or a mask on any frames; clicks add to earlier ones on their frame.

        A correction holds from its frame up to the next frame that has clicks or a mask of its own (and back to the
        first frame, if there is none before it). `track` with ``start`` carries it over the whole clip.

        Raises:
            PromptError: the object is not known, or a prompt does not fit the clip.
        """
        space = self.workspace
        known = space.memory.find(object_id)
        listed = [prompts] if isinstance(prompts, Point | Box | Mask) else list(prompts)
        if not listed:
            raise PromptError(f"object {known.id} was to be corrected by nothing; give a point, a box or a mask")
        (one,) = group_prompts([replace(p, object_id=known.id) for p in listed], space.memory, space.visual)
        known, changed = correct_object(space, known, one.prompts)
        return self._track([known], changed)[0]

    def track(self, objects: About | None = None, *, start: Start | None = None) -> list[KnownObject]:
        """Track objects again, both ways.

        Args:
            objects: by default all that are known.
            start: the frame that counts, whose clicks, mask or words then are all that says where an object is;
                ``"best"`` as in `stream`. None: from everything that is known about each.

        Raises:
            PromptError: an object is not known, or nothing says where it is on that frame.
        """
        space = self.workspace
        listed = list(space.memory) if objects is None else objects
        if isinstance(listed, int | AnswerObject):
            listed = [listed]
        wanted = [space.memory.find(one) for one in listed]
        if start is not None:
            frame = check_start(start, space.num_frames)
            begin = [self._find_best_frame(one) if frame == "best" else frame for one in wanted]
            wanted = [restart_object(space, one, where) for one, where in zip(wanted, begin, strict=True)]
        return self._track(wanted, [leg for one in wanted for leg in legs(one.id, one.anchors, space.num_frames)])

    def rename(self, object_id: int | AnswerObject, label: str) -> KnownObject:
        """Give an object another label."""
        memory = self.workspace.memory
        return memory.rename(memory.find(object_id).id, label)

    def add_object(self, object_id: int, track: MaskTrack, label: str = "") -> KnownObject:
        """Put an object whose masks are known on every frame into the memory, where nothing changes them.

        Raises:
            PromptError: the masks are not those of the clip's frames.
        """
        space = self.workspace
        if track.num_frames != space.num_frames or track.size_hw != space.clip.media.size_hw:
            raise PromptError(
                f"the masks of object {object_id} are {track.num_frames} frames of {track.size_hw}; the clip has "
                f"{space.num_frames} of {space.clip.media.size_hw} (height, width)"
            )
        scores = tuple(1.0 if rle is not None else 0.0 for rle in track.rles)
        known = KnownObject(id=object_id, label=label, track=track, frame_scores=scores)
        space.memory.add(known)
        return known

    def remove(self, object_id: int | AnswerObject) -> None:
        """Forget an object; its id is not used again. One that is being tracked is no longer followed."""
        memory = self.workspace.memory
        memory.remove(memory.find(object_id).id)

    # end

    def reset(self) -> None:
        """Begin anew about the same clip: what was said and every object are gone, what was encoded stays.

        The next answer is the one that a session opened anew would give.
        """
        space = self.workspace
        if self._going is not None:
            self._going.close()
        space.dialogue.restore(Transcript(), [])
        self._space = replace(space, memory=ObjectMemory())

    def save(self, path: str | Path, *, frames: bool | None = None) -> None:
        """Write the session to a file, from which `Engine.open_session` takes it up again.

        Args:
            frames: put the clip's frames into the file; else it names the source. None: frames of short clips, and of
                sources that are no file.
        """
        from unipixel.engine.storage import save

        save(self.workspace, path, frames=frames)

    def close(self, *, media: bool = True) -> None:
        """Free the session's memory and, if ``media``, its files.

        Answers stay usable, but can no longer be drawn if their frames came from an iterator that was closed.
        """
        if self._space is not None:
            self._space.dialogue.close()
            self._space.features.clear()
            if media:
                self._space.clip.media.close()
            self._space = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def timings(self) -> Timings:
        """Seconds per stage since the last answer, such as those of `correct` and `track`."""
        return self.workspace.clock.take()

    def _run(self, going: Rounds) -> Iterator[Piece]:
        """Answer what the rounds ask of the language model, and give out everything else."""
        reply: Row | None = None
        if self._going is not None:
            self._going.close()  # its words would otherwise get between ours
        self._going = going
        try:
            while True:
                try:
                    item = going.send(reply)
                except StopIteration:
                    return
                reply = None
                if isinstance(item, Ask):
                    reply = Row(self.workspace.dialogue.reply(item))
                else:
                    yield item
        finally:
            going.close()

    def _track(self, objects: list[KnownObject], routes: list[Any]) -> list[KnownObject]:
        for _ in track_objects(self.workspace, objects, routes):
            pass
        return [self.workspace.memory[one.id] for one in objects]

    def _find_best_frame(self, known: KnownObject) -> int | None:
        if known.queries is None:
            return None  # its own masks and clicks are better than any guess
        return choose_start_frames(self.workspace, known.queries[None], "best")[0]
