"""A loaded model that opens media and answers questions, one at a time or many together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias, overload

import torch

from unipixel.engine.answer import Answer, Clip, Clock
from unipixel.engine.generation import ConversationCache, DecodingOptions, PrefillInput, Reply, generate
from unipixel.engine.machine import choose_places, choose_precision
from unipixel.engine.objects import Workspace
from unipixel.engine.pretrained import push_folder, save_model_folder, save_processor_folder
from unipixel.engine.requests import Force, Pair, Prompts, Request, Start, list_prompts
from unipixel.engine.session import Session, TrackedFrames, choose_clip
from unipixel.engine.storage import load_workspace
from unipixel.engine.tracking import CACHED_FRAMES
from unipixel.engine.turn import answer_request
from unipixel.errors import CheckpointError, UnipixelError
from unipixel.media import Limits, MediaLike, open_media
from unipixel.model.placement import DeviceMap
from unipixel.model.quantization import BITS, find_packed_block
from unipixel.model.tensor_files import count_parameters
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import build_empty_model, fill_model, read_checkpoint, resolve_checkpoint
from unipixel.processing import Processor
from unipixel.sample import Prompt

OnError: TypeAlias = Literal["raise", "return"]
LOG = logging.getLogger(__name__)


def load(
    name_or_path: str | Path = "nano",
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    *,
    base: str | Path | None = None,
    sam: str | Path | None = None,
    fresh: bool = False,
    device_map: str | DeviceMap | None = None,
    pool_memories: bool = False,
) -> Engine:
    """Load a model.

    Args:
        name_or_path: ``"nano"``, a checkpoint folder, or a Hugging Face Hub id such as ``"PolyU-ChenLab/UniPixel-3B"``.
        device: ``"auto"`` picks CUDA, MPS or the CPU.
        dtype: see `choose_precision`. On CPUs also ``"bf16-weights"``, which holds the weights that
            `list_quantized_weights` names in bfloat16 and computes in float32, and ``"int8"`` and ``"int4"``, which
            round them while they are read.
        base, sam, fresh: for a folder with a part of a model (LoRA, or what a training stage taught): what it is laid
            over, and whether modules that are in no file may be drawn; see `weights.read_checkpoint`.
        device_map: for a model that does not fit on the device: ``"auto"``, or places of its parts, such as
            ``{"visual": "cuda:1", "language.layers": "cpu"}``; see `placement.plan_places`.
        pool_memories: track faster and approximately, with memories at half their resolution but for that of the
            prompted frame; see `Segmenter.attend`. Masks of clips change.

    Raises:
        CheckpointError: the checkpoint is missing, incomplete or malformed.
        ValueError: there is no such device or type, or the type is not made for the device.
    """
    where, device_map = choose_places(device, device_map)
    if dtype in BITS and where.type != "cpu":
        raise ValueError(f"dtype {dtype!r} is made for CPUs and the device is {where.type!r}; load it there as 'bf16'")
    if dtype in BITS and device_map is not None:
        raise ValueError(f"dtype {dtype!r} and device_map do not go together; load the model as 'bf16'")
    if dtype == "int4" and find_packed_block() is None:
        raise ValueError("this processor has no int4 layout that is known here; load the model as 'int8'")
    folder = resolve_checkpoint(name_or_path)
    try:
        processor = Processor.from_folder(folder)
        config, tensors = read_checkpoint(folder, base=base, sam=sam, fresh=fresh)
        processor.check_ids(config)
        size = count_parameters(tensors)
        suits, bits = choose_precision(dtype, name_or_path, where, size, one_type=device_map is not None)
        model = fill_model(
            build_empty_model(config), tensors, folder, device=where, dtype=suits, bits=bits, device_map=device_map
        )
    except CheckpointError as error:
        over = f" --base {base}" if base is not None else ""
        raise CheckpointError(
            f"{error} (`unipixel doctor {name_or_path}{over}` tells what else there is about it)"
        ) from error
    model.segmenter.pools_memories = pool_memories
    return Engine(model, processor)


class Engine:
    """A model with its processor. Keeps nothing between sessions but the weights."""

    def __init__(self, model: UniPixel, processor: Processor) -> None:
        self.model = model.eval()
        self.processor = processor

    def __repr__(self) -> str:
        number = sum(one.numel() for one in self.model.parameters()) / 1e6
        return f"Engine({number:.1f} M parameters, {str(self.model.dtype).removeprefix('torch.')} on {self.device})"

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> Engine:
        """`load`, under the name that it has in transformers."""
        return load(name_or_path, **options)

    def save_pretrained(self, folder: str | Path, *, max_shard_size: int | str = "5GB") -> None:
        """Write a checkpoint folder that `load` and transformers' Auto classes read, see `unipixel.engine.pretrained`.

        Args:
            folder: made if it does not exist; weights in it are replaced.
            max_shard_size: as for `unipixel.model.weights.save_model`.

        Raises:
            CheckpointError: the folder is a file.
        """
        save_model_folder(self.model, folder, max_shard_size=max_shard_size)
        save_processor_folder(self.processor, folder)

    def push_to_hub(self, repo_id: str, *, max_shard_size: int | str = "5GB", **options: Any) -> str:
        """Upload what `save_pretrained` writes, and return the address of the commit.

        Args:
            repo_id: ``owner/model``; made if it does not exist.
            options: of `unipixel.engine.pretrained.push_folder`.
        """
        return push_folder(partial(self.save_pretrained, max_shard_size=max_shard_size), repo_id, **options)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device

    def open(
        self,
        media: MediaLike,
        *,
        num_frames: int | None = None,
        track: TrackedFrames = "sampled",
        every: int = 1,
        fps: float | None = None,
        limits: Limits | None = None,
        feature_frames: int = CACHED_FRAMES,
    ) -> Session:
        """Open an image or a clip.

        Args:
            media: path, folder, URL, bytes, file object, PIL image, array, tensor, list or iterator of frames; see
                `open_media`.
            num_frames: evenly spread frames that the language model sees; by default the checkpoint's own number (16
                for the released ones). A source with fewer is seen whole.
            track: ``"sampled"``: the clip is those frames. ``"all"``: the clip is all frames of the source; objects
                are tracked through each of them, and prompts and ``start`` count them all.
            every: keep only every so many-th frame of the source to begin with.
            fps: frames per second of a source that does not say it.
            limits: bounds beyond which media are refused.
            feature_frames: frames whose SAM features are kept in memory.

        Raises:
            MediaError: the media cannot be read.
        """
        count = self.processor.settings.max_frames if num_frames is None else num_frames
        clip = choose_clip(open_media(media, every=every, fps=fps, limits=limits), count, track)
        return Session(Workspace(self.model, self.processor, Clip.from_media(clip), count, feature_frames))

    def open_session(self, path: str | Path, media: MediaLike | None = None) -> Session:
        """Open a session that was saved.

        Args:
            media: where the source is now, if the file names one that has moved.

        Raises:
            MediaError: the file is no session, or its media are gone or changed.
            CheckpointError: it was saved with another model.
        """
        return Session(load_workspace(path, self.model, self.processor, media))

    def ask(
        self,
        media: MediaLike,
        text: str | None = None,
        *,
        prompts: Prompts = (),
        num_frames: int | None = None,
        track: TrackedFrames = "sampled",
        start: Start | None = None,
        force: Force = False,
        each: bool | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        limits: Limits | None = None,
    ) -> Answer:
        """Answer one question about one image or clip; `ask_batch` answers many at once.

        Args:
            media, num_frames, track, limits: as in `open`.
            text, prompts, start, force, each, max_new_tokens, temperature, top_p, seed: as in `Session.prepare`.

        Raises:
            UnipixelError: the source or the question is not usable.
        """
        (answer,) = self.ask_batch(
            [media],
            text,
            prompts=[list_prompts(prompts)],
            num_frames=num_frames,
            track=track,
            start=start,
            force=force,
            each=each,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            limits=limits,
        )
        return answer

    async def ask_async(self, media: MediaLike, text: str | None = None, **options: Any) -> Answer:
        """`ask` in a thread of its own, for event loops; a task that is cancelled stops waiting, the thread goes on."""
        return await asyncio.to_thread(self.ask, media, text, **options)

    @overload
    def ask_batch(
        self,
        media: Sequence[MediaLike],
        text: str | Sequence[str | None] | None = None,
        *,
        prompts: Sequence[Sequence[Prompt | Pair]] = (),
        num_frames: int | None = None,
        track: TrackedFrames = "sampled",
        start: Start | None = None,
        force: Force = False,
        each: bool | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int = 8,
        on_error: Literal["raise"] = "raise",
        limits: Limits | None = None,
    ) -> list[Answer]: ...

    @overload
    def ask_batch(
        self,
        media: Sequence[MediaLike],
        text: str | Sequence[str | None] | None = None,
        *,
        prompts: Sequence[Sequence[Prompt | Pair]] = (),
        num_frames: int | None = None,
        track: TrackedFrames = "sampled",
        start: Start | None = None,
        force: Force = False,
        each: bool | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int = 8,
        on_error: Literal["return"],
        limits: Limits | None = None,
    ) -> list[Answer | UnipixelError]: ...

    def ask_batch(
        self,
        media: Sequence[MediaLike],
        text: str | Sequence[str | None] | None = None,
        *,
        prompts: Sequence[Sequence[Prompt | Pair]] = (),
        num_frames: int | None = None,
        track: TrackedFrames = "sampled",
        start: Start | None = None,
        force: Force = False,
        each: bool | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int = 8,
        on_error: OnError = "raise",
        limits: Limits | None = None,
    ) -> list[Answer] | list[Answer | UnipixelError]:
        """Answer questions about many images or clips at once.

        Args:
            media: a list of sources; a clip as a list of frames is one of them.
            text: one question for all of them, or one for each.
            prompts: nothing, or a list of prompts for each.
            num_frames, track, limits: as in `open`.
            start, force, each, max_new_tokens, temperature, top_p, seed: as in `Session.prepare`.
            batch_size: questions that the language model reads and answers together. Answers do not depend on it.
            on_error: ``"raise"`` the first error, or ``"return"`` each error in the place of its answer.

        Raises:
            UnipixelError: a source or question is not usable, with ``on_error="raise"``.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}; it must be a whole number of at least 1")
        if not isinstance(media, list | tuple):
            raise ValueError(f"ask_batch takes a list of sources, not a {type(media).__name__}; ask takes a single one")
        texts = [text] * len(media) if text is None or isinstance(text, str) else list(text)
        if len(texts) != len(media):
            raise ValueError(f"{len(texts)} questions were given for {len(media)} sources; give one, or one for each")
        if not isinstance(prompts, list | tuple) or any(not isinstance(one, list | tuple) for one in prompts):
            raise ValueError(f"prompts of a batch must be a list of {len(media)} lists, one for each source")
        if prompts and len(prompts) != len(media):
            raise ValueError(f"prompts of a batch must be a list of {len(media)} lists, one for each source")

        def prepare(place: int) -> Request:
            session = self.open(media[place], num_frames=num_frames, track=track, limits=limits)
            return session.prepare(
                texts[place],
                prompts=prompts[place] if prompts else (),
                start=start,
                force=force,
                each=each,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
            )

        answers: list[Answer | UnipixelError] = []
        for first in range(0, len(media), batch_size):
            places = range(first, min(first + batch_size, len(media)))
            answers += self.answer_batch([partial(prepare, place) for place in places], on_error=on_error)
        return answers

    def answer_batch(
        self, questions: Iterable[Callable[[], Request]], *, on_error: OnError = "raise"
    ) -> list[Answer | UnipixelError]:
        """Answer questions of several sessions together; one that fails leaves the others as they are.

        The sessions are closed afterwards, their media stay open.

        Args:
            questions: each called once, to make the request (`Session.prepare`).
            on_error: as in `ask_batch`, also for what the calls raise.

        Raises:
            UnipixelError: the first error in the order of the questions, with ``on_error="raise"``.
        """
        if on_error not in ("raise", "return"):
            raise ValueError(f"on_error is {on_error!r}; it must be 'raise' or 'return'")
        members: list[_Member | UnipixelError] = []
        try:
            for prepare in questions:
                try:
                    members.append(_Member(prepare()))
                except UnipixelError as error:
                    if on_error == "raise":
                        raise
                    members.append(error)
            running = [one for one in members if isinstance(one, _Member)]
            for member in running:
                member.advance()
            while waiting := [one for one in running if one.waiting is not None]:
                _write_replies(self.model, waiting)
        finally:
            for one in members:
                if isinstance(one, _Member):
                    one.session.close(media=False)
        results = [one.result if isinstance(one, _Member) else one for one in members]
        failed = next((one for one in results if isinstance(one, UnipixelError)), None)
        if on_error == "raise" and failed is not None:
            raise failed
        return [one for one in results if one is not None]

    def close(self) -> None:
        """Free the accelerator's memory that torch keeps for reuse, as the end of a ``with`` block does.

        Open sessions and the engine itself stay usable.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class _Member:
    """One question of a batch: its steps, and the reply that they wait for."""

    def __init__(self, request: Request) -> None:
        self.session, self.space = request.session, request.session._space
        self.waiting: Reply | None = None
        self.result: Answer | UnipixelError | None = None
        self._steps = answer_request(self.space, request)

    def advance(self) -> None:
        """Go on to the next reply that has to be written, or to the answer."""
        self.waiting = None
        try:
            for item in self._steps:
                if isinstance(item, Reply):
                    self.waiting = item
                    return
                if isinstance(item, Answer):
                    self.result = item
        except UnipixelError as error:
            self.result = error
        self.session.close(media=False)  # features of a whole batch would add up

    def prepare(self, reply: Reply) -> PrefillInput | None:
        """What the language model has to read for a reply; None if that fails, or if it is written by itself."""
        try:
            if not reply.shares_visual:
                return self.space.dialogue.build_prefill(reply)
            self.space.dialogue.start(reply)
        except UnipixelError as error:
            self.waiting, self.result = None, error
            self.session.close(media=False)
        else:
            self.advance()
        return None


def _write_replies(model: UniPixel, waiting: Sequence[_Member]) -> None:
    """Write all replies that are waited for; those that are to be written alike form a batch."""
    groups: dict[tuple[DecodingOptions, bool], list[tuple[_Member, Reply, PrefillInput]]] = {}
    for member in waiting:
        reply = member.waiting
        assert reply is not None
        read = member.prepare(reply)
        if read is not None:
            groups.setdefault((reply.options, not reply.answer), []).append((member, reply, read))
    for (options, write), group in groups.items():
        clock = Clock(model.device)
        replies, inputs = [reply for _, reply, _ in group], [read for _, _, read in group]
        for _ in generate(model, ConversationCache(), inputs, replies, options, clock, write=write):
            pass
        for member, reply, _ in group:
            # each answer bears its share of the time
            member.space.clock.add({stage: seconds / len(group) for stage, seconds in clock.seconds.items()})
            member.space.clock.count("decode", max(len(reply.ids) - 1, 0))
            member.advance()
