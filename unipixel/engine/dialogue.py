"""The language model's side of a session: the visual is read once, every later turn goes on in the same KV cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from unipixel.engine.generation import ConversationCache, DecodingOptions, PrefillInput, Reply, prefill
from unipixel.engine.timing import Clock
from unipixel.errors import PromptError
from unipixel.masks import MaskTrack
from unipixel.model.language import VisionFeatures
from unipixel.model.unipixel import UniPixel
from unipixel.processing import Processor, TurnInputs, VisualInput
from unipixel.sample import Turn


@dataclass(frozen=True, eq=False)
class Ask:
    """One question for the language model."""

    turn: Turn
    decoding: DecodingOptions
    objects: Mapping[int, MaskTrack] = field(default_factory=dict)
    """Known objects by id, for the turn's regions."""
    aside: bool = False
    """Asked beside the conversation: right after the visual, and forgotten afterwards."""
    answer: str = ""
    """If given, the reply is not written but read: this text."""
    prime: str = ""
    """Words that the reply begins with; what is written goes on from them."""
    hidden: Tensor | None = None
    """Of a question aside: bool (tokens of the visual,), True for those that it must not see."""
    one_of_many: bool = False
    """One of several questions about one visual, for which it is read once even in a batch."""


@dataclass
class Transcript:
    """What the conversation's cache was made from after the visual; enough to make it again."""

    ids: list[int] = field(default_factory=list)
    """Tokens; one that stands for an input (`<|ref|>`, `<|mem|>`, visual) but was written by the model is -1 - id."""
    coords: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    regions: list[Tensor] = field(default_factory=list)

    def add(self, ids: Sequence[int], inputs: TurnInputs) -> None:
        """Go on with a turn."""
        self.ids += ids
        self.coords += inputs.point_coords
        self.labels += inputs.point_labels
        self.frames += inputs.point_frames.tolist()
        self.regions += [] if inputs.region_masks is None else [inputs.region_masks]

    def inputs(self) -> TurnInputs:
        """All turns as one."""
        regions = torch.cat(self.regions, 1) if self.regions else None
        return TurnInputs(
            torch.tensor(self.ids), self.coords, self.labels, torch.tensor(self.frames, dtype=torch.long), regions
        )


class Dialogue:
    """A conversation about one visual.

    Args:
        visual: what the language model sees; encoded when the first question is asked.
    """

    def __init__(self, model: UniPixel, processor: Processor, visual: VisualInput, clock: Clock | None = None) -> None:
        self.visual = visual
        self._model, self._processor = model, processor
        self._clock = clock or Clock()
        self._opening_ids = processor.chat.encode_opening(visual.num_tokens)
        self._vision: VisionFeatures | None = None
        self._seen: ConversationCache | None = None
        self._main: ConversationCache | None = None
        self._transcript = Transcript()
        self._unread: list[int] = []
        self._last: tuple[Reply, list[int], TurnInputs] | None = None

    @property
    def vision(self) -> VisionFeatures:
        """Features of the visual, encoded once."""
        if self._vision is None:
            frames = len(self.visual.llm_frame_indices)
            with self._clock.stage("read"):
                # of a copy, so that the patches are not kept
                pixels = replace(self.visual).pixel_values
            with self._clock.stage("vision_tower"), torch.no_grad():
                self._vision = self._model.encode_vision(pixels.to(self._model.device), self.visual.grid_thw)
            self._clock.count("read", frames)
            self._clock.count("vision_tower", frames)
        return self._vision

    def reply(self, ask: Ask) -> Reply:
        """Ask and get the reply to be written; unless aside, it becomes part of the conversation.

        Raises:
            PromptError: the question is not usable, or the conversation has outgrown what the model can read.
        """
        self._record_reply()
        seen = self._opening()
        later = bool(self._transcript.ids) and not ask.aside
        if later:
            conversation = self._main or self._rebuild_cache(seen)
            inputs = self._processor.build_next_turn(ask.turn, self.visual, ask.objects)
            ids = [*self._mark_written(self._close_reply(conversation.unread)), *inputs.input_ids.tolist()]
        else:
            conversation = seen.fork()
            if ask.hidden is not None:
                conversation.padding_mask = self._build_visual_mask(ask.hidden)
            inputs = self._processor.build_first_turn(ask.turn, self.visual, ask.objects)
            ids = inputs.input_ids.tolist()[len(self._opening_ids) :]
        ids += self._mark_written(self._encode_prefix(ask))
        decoding = self._limit_length(conversation.length + len(ids), ask.decoding)
        passage = self._continue_text(conversation, ids, inputs)
        reply = Reply(self._model, conversation, [passage], decoding, self._clock, write=not ask.answer)
        if not ask.aside:
            self._main, self._last = conversation, (reply, ids, inputs)
        return reply

    def build_prefill(self, ask: Ask) -> PrefillInput:
        """A first question together with the visual, for a batch of different visuals.

        Raises:
            PromptError: as `reply`.
        """
        inputs = self._processor.build_first_turn(ask.turn, self.visual, ask.objects)
        ids = torch.cat([inputs.input_ids, torch.tensor(self._encode_prefix(ask), dtype=torch.long)])
        self._limit_length(len(ids), ask.decoding)
        return self._prefill_visual(ids, inputs)

    def transcript(self) -> tuple[Transcript, list[int]]:
        """What was read after the visual, and the tokens that were said but not read yet."""
        self._record_reply()
        return self._transcript, list(self._unread)

    def restore(self, transcript: Transcript, unread: Sequence[int]) -> None:
        """Take up a conversation that was saved; its cache is made again when the next question is asked."""
        self._main, self._last = None, None
        self._transcript, self._unread = transcript, list(unread)

    def close(self) -> None:
        """Free the features and caches."""
        self._vision = self._seen = self._main = self._last = None

    def _opening(self) -> ConversationCache:
        """The conversation up to the visual, read once."""
        if self._seen is None:
            empty = TurnInputs(torch.tensor(self._opening_ids), [], [], torch.zeros(0, dtype=torch.long), None)
            passage, seen = self._prefill_visual(empty.input_ids, empty), ConversationCache()
            with self._clock.stage("prefill"):
                prefill(self._model, seen, [passage])
            self._seen = seen
        return self._seen

    def _rebuild_cache(self, seen: ConversationCache) -> ConversationCache:
        """The conversation's cache from its transcript."""
        conversation, inputs = seen.fork(), self._transcript.inputs()
        passage = self._continue_text(conversation, self._transcript.ids, inputs)
        with self._clock.stage("prefill"):
            prefill(self._model, conversation, [passage])
        conversation.unread = list(self._unread)
        return conversation

    def _record_reply(self) -> None:
        """Write the last reply into the transcript, as far as it got."""
        if self._last is None or self._main is None:
            return
        reply, ids, inputs = self._last
        self._last = None
        if reply.has_begun:
            said, self._unread = reply.ids[0], list(self._main.unread)
            self._transcript.add([*ids, *self._mark_written(said[: len(said) - len(self._unread)])], inputs)
        if self._main.length != len(self._opening_ids) + len(self._transcript.ids):
            # an error struck while the cache was being extended
            self._main = None

    def _mark_written(self, said: Sequence[int]) -> list[int]:
        """Tokens that the model has written, as `Transcript.ids` holds them."""
        config = self._model.config
        inputs = {config.ref_token_id, config.mem_token_id, config.video_token_id, config.image_token_id}
        return [-1 - i if i in inputs else i for i in said]

    def _close_reply(self, unread: Sequence[int]) -> list[int]:
        """The tokens that close a reply, whatever it ended with."""
        end = self._processor.turn_end_id
        kept = [i for i in unread if i == end or i not in self._model.config.eos_token_ids]
        return kept if kept and kept[-1] == end else [*kept, end]

    def _encode_prefix(self, ask: Ask) -> list[int]:
        return self._processor.chat.encode(ask.answer or ask.prime) if ask.answer or ask.prime else []

    def _build_visual_mask(self, hidden: Tensor) -> Tensor:
        """(1, opening) bool: everything up to the visual but the hidden part of it."""
        mask = torch.ones(1, len(self._opening_ids), dtype=torch.bool)
        start = self._opening_ids.index(self._model.config.video_token_id)
        mask[0, start : start + len(hidden)] = ~hidden
        return mask.to(self._model.device)

    def _limit_length(self, length: int, decoding: DecodingOptions) -> DecodingOptions:
        longest = self._model.config.language.max_position_embeddings
        if length >= longest:
            raise PromptError(f"the conversation is {length} tokens long; the model reads at most {longest}")
        return replace(decoding, max_new_tokens=min(decoding.max_new_tokens, longest - length))

    def _continue_text(self, conversation: ConversationCache, ids: Sequence[int], inputs: TurnInputs) -> PrefillInput:
        """Text that goes on where the conversation stands."""
        assert conversation.next_position is not None  # the visual has been read
        start, tensor = int(conversation.next_position), torch.tensor(ids)
        positions = torch.arange(start, start + len(ids)).expand(3, -1)
        own = tensor < 0
        embeds = self._embed(tensor.masked_fill(own, self._processor.turn_end_id), inputs, None)
        tensor = torch.where(own, -1 - tensor, tensor)
        if own.any():  # what the model wrote was read as it is, with nothing put in its place
            place = own.to(embeds.device)
            with torch.no_grad():
                embeds[place] = self._model.language.embed_tokens(tensor.to(embeds.device)[place])
        return PrefillInput(tensor, embeds, positions, start + len(ids))

    def _prefill_visual(self, ids: Tensor, inputs: TurnInputs) -> PrefillInput:
        """Text with the visual, from the beginning of a conversation."""
        visual = self.visual
        positions, following = self._model.compute_rope_index(ids[None], None, visual.grid_thw, visual.second_per_grid)
        return PrefillInput(ids, self._embed(ids, inputs, self.vision.merged), positions[:, 0], int(following))

    @torch.no_grad()
    def _embed(self, ids: Tensor, inputs: TurnInputs, merged: Tensor | None) -> Tensor:
        """(L, D) embeddings with everything that the special tokens stand for."""
        model, ref, mem = self._model, None, None
        with self._clock.stage("prefill"):
            if inputs.point_coords:
                coords, labels, frames = inputs.point_coords, inputs.point_labels, inputs.point_frames
                ref = model.encode_points(coords, labels, frames, self.visual.num_frames)
            if inputs.region_masks is not None:
                mem = model.pool_regions(self.vision, [inputs.region_masks.to(model.device)])
            return model.embed(ids[None].to(model.device), merged, ref, mem)[0]
