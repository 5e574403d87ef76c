"""The language model's side of a session: the visual is read once, every later turn goes on in the same KV cache."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from unipixel.engine.answer import Clock
from unipixel.engine.generation import ConversationCache, DecodingOptions, PrefillInput, Reply, generate, prefill
from unipixel.errors import PromptError
from unipixel.model.unipixel import UniPixel
from unipixel.model.vision import VisionFeatures
from unipixel.processing import Processor, TurnInputs, VisualInput


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
        self._opening: ConversationCache | None = None
        self._main: ConversationCache | None = None
        self._transcript, self._unread = TurnInputs.from_ids(), list[int]()
        self._last: tuple[Reply, list[int], TurnInputs] | None = None

    @property
    def vision(self) -> VisionFeatures:
        """Features of the visual, encoded once."""
        if self._vision is None:
            frames = len(self.visual.llm_frame_indices)
            with self._clock.stage("read"):
                # of a copy, so that the patches are not kept
                pixels = copy.copy(self.visual).pixel_values
            with self._clock.stage("vision_tower"), torch.no_grad():
                self._vision = self._model.encode_vision(pixels.to(self._model.device), self.visual.grid_thw)
            self._clock.count("read", frames)
            self._clock.count("vision_tower", frames)
        return self._vision

    def start(self, reply: Reply) -> None:
        """Make a reply ready to be written, by whoever iterates over it; unless separate, it joins the conversation.

        Raises:
            PromptError: the turn is not usable, or the conversation has outgrown what the model can read.
        """
        self._record_reply()
        self._limit_length(len(self._opening_ids), reply.options)  # before all of it is encoded
        opening = self._read_opening()
        later = len(self._transcript.input_ids) > 0 and not reply.is_separate
        if later:
            conversation = self._main or self._rebuild_cache(opening)
            inputs = self._processor.build_next_turn(reply.turn, self.visual, reply.objects)
            ids = [*self._mark_written(self._close_reply(conversation.unread)), *inputs.input_ids.tolist()]
        else:
            conversation = opening.fork()
            if reply.hidden is not None:
                conversation.padding_mask = self._build_visual_mask(reply.hidden)
            inputs = self._processor.build_first_turn(reply.turn, self.visual, reply.objects)
            ids = inputs.input_ids.tolist()[len(self._opening_ids) :]
        ids += self._mark_written(self._encode_prefix(reply))
        options = self._limit_length(conversation.length + len(ids), reply.options)
        text = self._continue_text(conversation, ids, inputs)
        reply.steps = generate(self._model, conversation, [text], [reply], options, self._clock, write=not reply.answer)
        if not reply.is_separate:
            self._main, self._last = conversation, (reply, ids, inputs)

    def build_prefill(self, reply: Reply) -> PrefillInput:
        """A first turn together with the visual, for a batch of different visuals.

        Raises:
            PromptError: as `start`.
        """
        inputs = self._processor.build_first_turn(reply.turn, self.visual, reply.objects)
        ids = torch.cat([inputs.input_ids, torch.tensor(self._encode_prefix(reply), dtype=torch.long)])
        self._limit_length(len(ids), reply.options)
        return self._prefill_visual(ids, inputs)

    @property
    def transcript(self) -> tuple[TurnInputs, list[int]]:
        """What was said after the visual, as far as it has been written; enough to make the cache again.

        A token that stands for an input (`<|ref|>`, `<|mem|>`, visual) but was written by the model is -1 - id in it.
        The second part are tokens that the model has written last and not read yet.
        """
        self._record_reply()
        return self._transcript, self._unread

    def restore(self, transcript: TurnInputs, unread: Sequence[int] = ()) -> None:
        """Go on with a saved conversation; its cache is built again when the next question is asked."""
        self._main, self._last = None, None
        self._transcript, self._unread = transcript, list(unread)

    def release(self) -> None:
        """Free features and caches; they are built again when the next question is asked."""
        self._record_reply()
        self._vision = self._opening = self._main = self._last = None

    def _read_opening(self) -> ConversationCache:
        """The conversation up to the visual, read once."""
        if self._opening is None:
            empty = TurnInputs.from_ids(self._opening_ids)
            text, opening = self._prefill_visual(empty.input_ids, empty), ConversationCache()
            with self._clock.stage("prefill"):
                prefill(self._model, opening, [text])
            self._opening = opening
        return self._opening

    def _rebuild_cache(self, opening: ConversationCache) -> ConversationCache:
        """The conversation's cache from its transcript."""
        conversation, inputs = opening.fork(), self._transcript
        text = self._continue_text(conversation, inputs.input_ids.tolist(), inputs)
        with self._clock.stage("prefill"):
            prefill(self._model, conversation, [text])
        conversation.unread = list(self._unread)
        return conversation

    def _record_reply(self) -> None:
        """Write the last reply into the transcript, as far as it got."""
        if self._last is None or self._main is None:
            return
        reply, ids, inputs = self._last
        self._last = None
        length = self._main.length  # asked for first: what others have read ahead is then unread again
        if reply.given_states is not None:  # it has begun
            unread = list(self._main.unread)
            written = reply.ids[: len(reply.ids) - len(unread)]
            self._transcript = self._transcript.join([*ids, *self._mark_written(written)], inputs)
            self._unread = unread
        if length != len(self._opening_ids) + len(self._transcript.input_ids):
            # an error struck while the cache was being extended
            self._main = None

    def _mark_written(self, written: Sequence[int]) -> list[int]:
        """Tokens that the model has written, as `transcript` holds them."""
        config = self._model.config
        inputs = {config.ref_token_id, config.mem_token_id, config.video_token_id, config.image_token_id}
        return [-1 - i if i in inputs else i for i in written]

    def _close_reply(self, unread: Sequence[int]) -> list[int]:
        """The tokens that close a reply, whatever it ended with."""
        end = self._processor.turn_end_id
        kept = [i for i in unread if i == end or i not in self._model.config.eos_token_ids]
        return kept if kept and kept[-1] == end else [*kept, end]

    def _encode_prefix(self, reply: Reply) -> list[int]:
        return self._processor.chat.encode(reply.answer or reply.prefix) if reply.answer or reply.prefix else []

    def _build_visual_mask(self, hidden: Tensor) -> Tensor:
        """(1, opening) bool: everything up to the visual but the hidden part of it."""
        mask = torch.ones(1, len(self._opening_ids), dtype=torch.bool)
        start = self._opening_ids.index(self._model.config.video_token_id)
        mask[0, start : start + len(hidden)] = ~hidden
        return mask

    def _limit_length(self, length: int, options: DecodingOptions) -> DecodingOptions:
        longest = self._model.config.language.max_position_embeddings
        if length >= longest:
            raise PromptError(f"the conversation is {length} tokens long; the model reads at most {longest}")
        return replace(options, max_new_tokens=min(options.max_new_tokens, longest - length))

    def _continue_text(self, conversation: ConversationCache, ids: Sequence[int], inputs: TurnInputs) -> PrefillInput:
        """Text that goes on where the conversation stands."""
        assert conversation.next_position is not None  # the visual has been read
        start, tensor = int(conversation.next_position), torch.tensor(ids)
        positions = torch.arange(start, start + len(ids)).expand(3, -1)
        written = tensor < 0
        embeds = self._embed(tensor.masked_fill(written, self._processor.turn_end_id), inputs, None)
        tensor = torch.where(written, -1 - tensor, tensor)
        if written.any():  # what the model wrote was read as it is, with nothing put in its place
            place = written.to(embeds.device)
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
