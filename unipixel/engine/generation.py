"""Replies written token by token: prefill, a greedy or sampled decode loop, and the states that ask for masks.

The loop does no mask work. It records the residual state from which each `<|seg|>` was predicted; masks are made from
these states when the reply is complete.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from unipixel.engine.timing import Clock
from unipixel.model.unipixel import UniPixel


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """How tokens are chosen and when to stop."""

    max_new_tokens: int = 256
    """Longest reply, tokens."""
    temperature: float = 0.0
    """0 takes the most likely token; above, tokens are drawn from the distribution sharpened by 1 / temperature."""
    top_p: float = 1.0
    """When drawing: only the likeliest tokens that together have this probability."""
    seed: int = 0
    """Every row of a batch draws from a generator of its own with this seed."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be 0 (greedy) or a positive number")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")

    def choose(self, logits: Tensor, generators: Sequence[np.random.Generator]) -> list[int]:
        """One token for every row of logits (B, V)."""
        if self.temperature == 0:
            return logits.argmax(-1).tolist()
        rows = logits.float().cpu().double().numpy() / self.temperature
        return [_sample_token(row, self.top_p, generator) for row, generator in zip(rows, generators, strict=True)]


def _sample_token(logits: np.ndarray, top_p: float, generator: np.random.Generator) -> int:
    prob = np.exp(logits - logits.max())
    order = np.argsort(-prob, kind="stable")
    reached = np.cumsum(prob[order] / prob.sum())
    # the token that crosses top_p still belongs to the choice
    count = int(np.searchsorted(reached, top_p)) + 1
    place = int(np.searchsorted(reached, generator.random() * reached[min(count, len(order)) - 1], side="right"))
    return int(order[min(place, count - 1, len(order) - 1)])


class ConversationCache:
    """Keys and values of everything said so far, for B rows of a batch.

    The last token of a reply is chosen but not yet read by the model: it waits in ``unread`` and opens the next turn.
    """

    def __init__(self) -> None:
        self.cache = DynamicCache()
        self.next_position: Tensor | None = None
        """(B,) the next free mRoPE position."""
        self.padding_mask: Tensor | None = None
        """(B, length) bool, False on padding; None while nothing is padded."""
        self.unread: list[int] = []
        """Tokens that were said but not read; only of a conversation with one row."""

    @property
    def length(self) -> int:
        """Tokens that the cache holds, padding included."""
        return int(self.cache.get_seq_length())

    def fork(self) -> ConversationCache:
        """A conversation that goes on from here by itself. What was said so far is shared, not copied."""
        twin = copy.copy(self)
        twin.cache = copy.copy(self.cache)
        # a layer grows by concatenation into new tensors, so both may hold the old ones
        twin.cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        twin.unread = list(self.unread)
        return twin


@dataclass(frozen=True, eq=False)
class PrefillInput:
    """What one row reads before it replies."""

    ids: Tensor
    """(L,) token ids."""
    embeds: Tensor
    """(L, D) their embeddings, with visual, `<|ref|>` and `<|mem|>` rows in place."""
    positions: Tensor
    """(3, L) mRoPE positions."""
    next_position: int
    """The position after the last token."""


@torch.no_grad()
def prefill(
    model: UniPixel, conversation: ConversationCache, passages: Sequence[PrefillInput]
) -> tuple[Tensor, list[Tensor]]:
    """Read one passage per row into the conversation, padded on the left.

    Returns:
        (B, D) pre-norm states of the last token of each row, and per row (n, D) the states that predict a `<|seg|>`
        that is part of its passage.
    """
    device, longest = model.device, max(len(p.ids) for p in passages)
    embeds = passages[0].embeds.new_zeros(len(passages), longest, passages[0].embeds.shape[-1])
    positions = torch.ones(3, len(passages), longest, dtype=torch.long, device=device)
    mask = torch.zeros(len(passages), longest, dtype=torch.bool, device=device)
    for row, passage in enumerate(passages):
        start = longest - len(passage.ids)
        embeds[row, start:] = passage.embeds
        positions[:, row, start:] = passage.positions.to(device)
        mask[row, start:] = True
    if bool(mask.all()) and conversation.padding_mask is None:
        keep = None
    else:
        past = conversation.padding_mask
        if past is None:
            past = mask.new_ones(len(passages), conversation.length)
        keep = conversation.padding_mask = torch.cat([past, mask], 1)
    hidden = model.decode(embeds, positions, keep, conversation.cache)
    conversation.next_position = torch.tensor([p.next_position for p in passages], device=device)
    conversation.unread = []
    given = []
    for row, passage in enumerate(passages):
        own = hidden[row, longest - len(passage.ids) :]
        given.append(own[:-1][(passage.ids[1:] == model.config.seg_token_id).to(device)])
    # a copy, or the states of the whole prompt would stay alive
    return hidden[:, -1].clone(), given


@dataclass(frozen=True, eq=False)
class Step:
    """One token of every row."""

    ids: tuple[int | None, ...]
    """The chosen tokens; None in rows that had ended before."""
    hidden: Tensor
    """(B, D) the pre-norm states they were chosen from."""
    logits: Tensor
    """(B, V)."""


class Reply:
    """A reply of B rows while it is written; iterate to write it.

    Stopping early leaves the conversation as if the reply ended there.

    Source: UniPixel, section 3.2: the state that predicts `<|seg|>` prompts the mask decoder.
    Differs: the original compares the argmax of the raw logits with `<|seg|>`, also when a drawn token was used; here
    the state is recorded if `<|seg|>` is the token that was chosen. Greedy replies are the same.
    """

    def __init__(
        self,
        model: UniPixel,
        conversation: ConversationCache,
        passages: Sequence[PrefillInput],
        decoding: DecodingOptions,
        clock: Clock | None = None,
        *,
        write: bool = True,
    ) -> None:
        """Args: write: False only reads the passages, for the states in front of their own `<|seg|>` tokens."""
        self.ids: list[list[int]] = [[] for _ in passages]
        """Chosen tokens per row, with the token that ended it."""
        self.seg_states: list[list[Tensor]] = [[] for _ in passages]
        """Per row: the state (D,) that predicted each chosen `<|seg|>`."""
        self.given_states: list[Tensor] = []
        """Per row (n, D): the same for `<|seg|>` tokens of the passage."""
        self._model, self._conversation, self._passages = model, conversation, passages
        self._decoding, self._clock, self._write = decoding, clock or Clock(), write
        self._ends = set(model.config.eos_token_ids)

    @property
    def has_begun(self) -> bool:
        """Whether the passages have been read."""
        return bool(self.given_states)

    def compute_queries(self, row: int = 0, *, given: bool = False) -> Tensor:
        """(n, Q, C) mask queries of a row's reply, in the order of the text; with those of its passage if ``given``."""
        states = list(self.given_states[row]) if given else []
        states += self.seg_states[row]
        if not states:
            config = self._model.config
            return self._passages[row].embeds.new_zeros(0, config.hidden_tokens, config.sam.hidden_size)
        with torch.no_grad():
            return self._model.compute_seg_tokens(torch.stack(states))

    @torch.no_grad()
    def __iter__(self) -> Iterator[Step]:
        model, conversation = self._model, self._conversation
        seg, rows = model.config.seg_token_id, len(self._passages)
        generators = [np.random.default_rng(self._decoding.seed) for _ in range(rows)]
        with self._clock.stage("prefill"):
            hidden, self.given_states = prefill(model, conversation, self._passages)
            logits = model.compute_logits(hidden)
        going = [True] * rows
        for number in range(self._decoding.max_new_tokens if self._write else 0):
            chosen = self._decoding.choose(logits, generators)
            for row in range(rows):
                if going[row]:
                    self.ids[row].append(chosen[row])
                    if chosen[row] == seg:
                        self.seg_states[row].append(hidden[row])
            if rows == 1:
                conversation.unread = [chosen[0]]
            step = Step(tuple(c if on else None for c, on in zip(chosen, going, strict=True)), hidden, logits)
            going = [on and c not in self._ends for c, on in zip(chosen, going, strict=True)]
            yield step
            if not any(going) or number + 1 == self._decoding.max_new_tokens:
                return
            with self._clock.stage("decode"):
                hidden = self._advance(chosen)
                logits = model.compute_logits(hidden)
            self._clock.count("decode", sum(going))

    def _advance(self, chosen: list[int]) -> Tensor:
        """Read the chosen tokens (B,) and return the state (B, D) that predicts the next ones."""
        model, conversation = self._model, self._conversation
        position, mask = conversation.next_position, conversation.padding_mask
        assert position is not None  # `read` has set it
        ids = torch.tensor(chosen, device=model.device)[:, None]
        if mask is not None:
            mask = conversation.padding_mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        embeds = model.language.embed_tokens(ids)
        hidden = model.decode(embeds, position.expand(3, -1)[..., None], mask, conversation.cache)
        conversation.next_position = position + 1
        conversation.unread = []
        return hidden[:, -1]
