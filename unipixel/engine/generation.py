"""Replies written token by token: prefill, a greedy or sampled decode loop, and the states that ask for masks.

The loop does no mask work. It records the residual state from which each `<|seg|>` was predicted; masks are made from
these states when the reply is complete.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from threading import RLock
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from unipixel.engine.answer import Clock
from unipixel.engine.static_decoding import AHEAD, StaticDecoder, is_suited, return_decoder, take_decoder
from unipixel.masks import MaskTrack
from unipixel.model import language
from unipixel.model.unipixel import UniPixel
from unipixel.sample import Turn

LOOP_TIMES, LOOP_TOKENS, LOOP_PASSAGE = 4, 32, 64
"""A loop is a passage that is written so many times in a row, of so many tokens in all and at most so many each."""


def find_loop(ids: Sequence[int], seg: int) -> int:
    """Tokens of the passage that a reply repeats at its end: the same one `LOOP_TIMES` times over and for at least
    `LOOP_TOKENS` tokens; 0 if there is none.

    A passage with a `<|seg|>` is none, because each of them may be another object.
    """
    for period in range(1, min(LOOP_PASSAGE, len(ids) // LOOP_TIMES) + 1):
        length = max(LOOP_TIMES * period, LOOP_TOKENS)
        if ids[-1] != ids[-1 - period] or len(ids) < length or seg in ids[-period:]:
            continue
        if all(ids[place] == ids[place - period] for place in range(-1, period - length - 1, -1)):
            return period
    return 0


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
    stops_loops: bool = True
    """End a reply that repeats itself, see `find_loop`."""

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
    Positions and padding are kept on the host, so that nobody has to wait for a device to know them.
    """

    def __init__(self) -> None:
        self._cache = language.KeyValueCache()
        self._decoder: StaticDecoder | None = None
        self._behind = 0
        self._place: _BatchPlace | None = None
        self.next_position: Tensor | None = None
        """(B,) the next free mRoPE position."""
        self.padding_mask: Tensor | None = None
        """(B, length) bool, False on padding; None while nothing is padded."""
        self.unread: list[int] = []
        """Tokens that were said but not read; only of a conversation with one row."""

    @property
    def cache(self) -> language.KeyValueCache:
        """Keys and values by layer."""
        self._settle()
        self._fetch()
        return self._cache

    @property
    def length(self) -> int:
        """Tokens that the cache holds, padding included."""
        self._settle()
        return self._cache.length + self._behind

    def fork(self) -> ConversationCache:
        """A conversation that goes on from here by itself. What was said so far is shared, not copied."""
        self._settle()
        twin = copy.copy(self)
        twin._cache = self.cache.fork()
        twin._decoder, twin._behind = None, 0
        twin.unread = list(self.unread)
        return twin

    def lend(self, decoder: StaticDecoder | None) -> None:
        """From here on a decoder holds what is read, and `cache` fetches it; None: the cache itself again."""
        self._fetch()
        self._decoder = decoder

    def take_back(self, decoder: StaticDecoder) -> None:
        """Nothing is read by this decoder any more."""
        if self._decoder is decoder:
            self.lend(None)

    def _fetch(self) -> None:
        """Bring here what was read by a decoder."""
        if self._decoder is not None and self._behind:
            self._decoder.unload(self._cache, self._behind)
            self._behind = 0

    def _settle(self) -> None:
        """Take it out of a `ContinuousBatch`, where others may be reading its next token ahead."""
        if self._place is not None:
            self._place.batch.leave(self._place)

    def shorten(self, length: int) -> None:
        """Drop the keys and values beyond the first ``length`` tokens."""
        self._cache.shorten(length)

    def retract(self, token: int) -> None:
        """Forget the token that was read last, which waits again to be read; of a conversation with one row."""
        self.shorten(self._cache.length - 1)
        if self.next_position is not None:
            self.next_position = self.next_position - 1
        if self.padding_mask is not None:
            self.padding_mask = self.padding_mask[:, :-1]
        self.unread = [token]

    def extend(self, decoder: StaticDecoder | None = None) -> None:
        """Note that one more token per row is read, into the cache or by a decoder.

        Raises:
            RuntimeError: another reply has gone on with this conversation.
        """
        if decoder is not self._decoder or self.next_position is None:
            raise RuntimeError("a reply cannot go on in a conversation that has gone on without it")
        self._behind += decoder is not None
        self.next_position = self.next_position + 1
        mask = self.padding_mask
        if mask is not None:
            self.padding_mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        self.unread = []


class _BatchPlace:
    """The place of a reply in a `ContinuousBatch`: the token that it has chosen and that is to be read next."""

    def __init__(self, batch: ContinuousBatch, conversation: ConversationCache, token: int) -> None:
        self.batch, self.conversation, self.token = batch, conversation, token
        self.length = conversation.length
        self.following: tuple[Tensor, Tensor] | None = None
        """Once the token has been read: the state (1, D) that predicts the next one, and its logits (1, V)."""
        self.seconds = 0.0
        """Its share of the time that this took."""


class ContinuousBatch:
    """Replies of one model that are under way at the same time, each in a conversation of its own.

    Whoever needs its next state first reads the waiting tokens of all, and the others find theirs ready. So several
    replies that are written in turns, or in several threads, read the weights once for a token of each, whichever
    begins and ends when; and nobody waits for a batch to fill up. With one reply under way nothing changes.

    Differs: the original writes one reply at a time. Sums over several rows are rounded otherwise than over one.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._waiting: list[_BatchPlace] = []
        self.num_under_way = 0
        """Replies that have begun and not ended, with any that is written by itself."""
        self.sizes: dict[int, int] = {}
        """How often how many tokens were read together."""

    def enter(self) -> None:
        """A reply begins."""
        with self._lock:
            self.num_under_way += 1

    def exit(self, place: _BatchPlace | None) -> None:
        """A reply ends, at the latest when it is forgotten; with the token that it has announced, if any."""
        with self._lock:
            self.num_under_way -= 1
            if place is not None:
                self.leave(place)

    def join(self, conversation: ConversationCache, token: int) -> _BatchPlace:
        """Announce the next token of a conversation of one row."""
        with self._lock:
            place = conversation._place = _BatchPlace(self, conversation, token)
            self._waiting.append(place)
        return place

    def read(self, model: UniPixel, place: _BatchPlace) -> tuple[Tensor, Tensor]:
        """The state (1, D) that predicts what follows an announced token, and its logits (1, V).

        Raises:
            RuntimeError: the conversation has gone on without it.
        """
        conversation = place.conversation
        with self._lock:
            if place.following is None:
                if place not in self._waiting and (
                    conversation.length != place.length or conversation.unread != [place.token]
                ):
                    raise RuntimeError("a reply cannot go on in a conversation that has gone on without it")
                others = [one for one in self._waiting if one is not place and one.following is None]
                try:
                    self._read_together(model, [place, *others])
                except RuntimeError:  # as torch's are, that of memory which is not there included
                    if not others:
                        raise
                    self._read_together(model, [place])  # what is wrong with another shows when that one is read
            self._forget(place)
            assert place.following is not None
            return place.following

    def leave(self, place: _BatchPlace) -> None:
        """The announced token is not needed; the conversation is as if nobody had read it."""
        with self._lock:
            is_here = place in self._waiting
            self._forget(place)
            if is_here and place.following is not None:
                place.following = None
                place.conversation.retract(place.token)

    def _forget(self, place: _BatchPlace) -> None:
        if place in self._waiting:
            self._waiting.remove(place)
        if place.conversation._place is place:
            place.conversation._place = None

    def _read_together(self, model: UniPixel, places: Sequence[_BatchPlace]) -> None:
        since, conversations = time.perf_counter(), [one.conversation for one in places]
        known = [one.next_position for one in conversations if one.next_position is not None]
        masks: list[Tensor | None] = []
        for one, place in zip(conversations, places, strict=True):
            seen = one.padding_mask
            seen = None if seen is None else torch.cat([seen, seen.new_ones(1, 1)], 1)
            seen = seen if seen is None else seen.to(model.device)
            masks.append(language.build_attention_bias(seen, 1, 1, place.length, model.device))
        is_read = False
        try:
            embeds = model.language.embed_tokens(torch.tensor([one.token for one in places], device=model.device))
            positions = torch.cat(known).to(model.device).expand(3, -1)[..., None]
            attend = language.attend_over([one._cache for one in conversations], masks)
            hidden = language.decode_token(model.language, embeds, positions, attend)
            logits = model.compute_logits(hidden)
            is_read = True
        finally:
            if not is_read:
                for place in places:
                    place.conversation.shorten(place.length)
        self.sizes[len(places)] = self.sizes.get(len(places), 0) + 1
        for row, place in enumerate(places):
            if row and place not in self._waiting:  # it has left meanwhile
                place.conversation.shorten(place.length)
                continue
            place.conversation.extend()
            place.following = hidden[row : row + 1], logits[row : row + 1]
            place.seconds = (time.perf_counter() - since) / len(places)


_BATCHES: WeakKeyDictionary[UniPixel, ContinuousBatch] = WeakKeyDictionary()
_BATCHES_LOCK = RLock()


def find_batch(model: UniPixel) -> ContinuousBatch:
    """The batch of all replies of a model."""
    with _BATCHES_LOCK:
        return _BATCHES.setdefault(model, ContinuousBatch())


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
    model: UniPixel, conversation: ConversationCache, inputs: Sequence[PrefillInput]
) -> tuple[Tensor, list[Tensor]]:
    """Read one input per row into the conversation, padded on the left.

    Returns:
        (B, D) pre-norm states of the last token of each row, and per row (n, D) the states that predict a `<|seg|>`
        that is part of its input.
    """
    conversation._settle()  # before its padding is looked at
    device, longest = model.device, max(len(p.ids) for p in inputs)
    embeds = inputs[0].embeds.new_zeros(len(inputs), longest, inputs[0].embeds.shape[-1])
    positions = torch.ones(3, len(inputs), longest, dtype=torch.long)
    mask = torch.zeros(len(inputs), longest, dtype=torch.bool)
    for row, one in enumerate(inputs):
        start = longest - len(one.ids)
        embeds[row, start:] = one.embeds
        positions[:, row, start:] = one.positions.cpu()
        mask[row, start:] = True
    if bool(mask.all()) and conversation.padding_mask is None:
        keep = None
    else:
        past = conversation.padding_mask
        if past is None:
            past = mask.new_ones(len(inputs), conversation.length)
        keep = conversation.padding_mask = torch.cat([past, mask], 1)
        keep = keep.to(device)
    hidden = model.decode(embeds, positions.to(device), keep, conversation.cache)
    conversation.next_position = torch.tensor([p.next_position for p in inputs])
    conversation.unread = []
    given = []
    for row, one in enumerate(inputs):
        own = hidden[row, longest - len(one.ids) :]
        asked = (one.ids[1:].cpu() == model.config.seg_token_id).nonzero()[:, 0]
        given.append(own[:-1][asked.to(device)])
    # a copy, or the states of the whole prompt would stay alive
    return hidden[:, -1].clone(), given


@dataclass(eq=False)
class Reply:
    """One reply of the language model: the turn it answers, and what has been written of it so far.

    Iterate to read it token by token while `Dialogue.start` writes it, or once `generate` has written it.
    """

    turn: Turn = field(default_factory=lambda: Turn(question=""))
    objects: Mapping[int, MaskTrack] = field(default_factory=dict)
    """Known objects by id, for the turn's regions."""
    options: DecodingOptions = field(default_factory=DecodingOptions)
    answer: str = ""
    """If given, the reply is not written but read: this text."""
    prefix: str = ""
    """Words that the reply begins with; what is written goes on from them."""
    is_separate: bool = False
    """Asked right after the visual and forgotten afterwards, rather than as a part of the conversation."""
    choices: tuple[tuple[int, ...], ...] = ()
    """If given, the reply is one of these token sequences, each with the token that ends it: the likeliest token by
    token."""
    hidden: Tensor | None = None
    """Of a separate turn: bool (tokens of the visual,), True for those that it must not see."""
    shares_visual: bool = False
    """One of several turns about one visual, for which it is read once even in a batch."""

    ids: list[int] = field(default_factory=list, init=False)
    """Chosen tokens, with the token that ended the reply."""
    is_loop: bool = field(default=False, init=False)
    """Whether it was ended because it repeated itself."""
    seg_states: list[Tensor] = field(default_factory=list, init=False)
    """The state (D,) that predicted each chosen `<|seg|>`."""
    given_states: Tensor | None = field(default=None, init=False)
    """(n, D) the same for `<|seg|>` tokens of the input; None until that has been read."""
    steps: Generator[object, None, None] | None = field(default=None, init=False, repr=False)
    """What writes it, one token at a time; None for one that is written already."""

    def __iter__(self) -> Iterator[int]:
        if self.steps is None:
            yield from self.ids
            return
        steps, self.steps = self.steps, None
        with closing(steps):  # also for who leaves early: nobody else is to read on for this reply
            for _ in steps:
                yield self.ids[-1]

    def finish(self) -> None:
        for _ in self:
            pass

    def restrict(self, logits: Tensor) -> Tensor:
        """Logits (V,) of the next token with everything out of reach but what goes on with a choice."""
        written = len(self.ids)
        allowed = {one[written] for one in self.choices if len(one) > written and list(one[:written]) == self.ids}
        kept = torch.full_like(logits, -torch.inf)
        places = torch.tensor(sorted(allowed), device=logits.device)
        kept[places] = logits[places]
        return kept

    @torch.no_grad()
    def compute_queries(self, model: UniPixel, *, given: bool = False) -> Tensor:
        """(n, Q, C) mask queries of the reply, in the order of the text; with those of its input if ``given``.

        Source: UniPixel, section 3.2: the state that predicts `<|seg|>` prompts the mask decoder.
        """
        states = [*self.given_states, *self.seg_states] if given and self.given_states is not None else self.seg_states
        if not states:
            config = model.config
            return torch.zeros(0, config.hidden_tokens, config.sam.hidden_size, dtype=model.dtype, device=model.device)
        return model.compute_seg_tokens(torch.stack(states))


@torch.no_grad()
def generate(
    model: UniPixel,
    conversation: ConversationCache,
    inputs: Sequence[PrefillInput],
    replies: Sequence[Reply],
    options: DecodingOptions,
    clock: Clock | None = None,
    *,
    write: bool = True,
    static: bool | None = None,
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Write B replies side by side: each step appends one token to every reply that has not ended.

    Stopping early leaves the conversation as if the replies ended there.

    Args:
        write: False only reads the inputs, for the states in front of their own `<|seg|>` tokens.
        static: read tokens in memory of fixed shape, see `static_decoding`; None does so where that `is_suited` and
            no other reply is under way, with which this one is written together instead, see `ContinuousBatch`.
            Greedily, the next step is then under way before the token of the last one is known here.

    Yields:
        After each token: (B, D) the pre-norm states it was chosen from, and (B, V) their logits.

    Differs: the original compares the argmax of the raw logits with `<|seg|>`, also when a drawn token was used; here
    the state is recorded if `<|seg|>` is the token that was chosen. Greedy replies are the same.
    """
    clock = clock or Clock()
    ends, seg = set(model.config.eos_token_ids), model.config.seg_token_id
    generators = [np.random.default_rng(options.seed) for _ in replies]
    batch = find_batch(model) if len(replies) == 1 and (model.device.type == "cpu" or is_suited(model)) else None
    if static is None:
        static = is_suited(model) and (batch is None or not batch.num_under_way)
    static = static and not any(reply.choices for reply in replies)  # for which the host has to see the logits
    with clock.stage("prefill"):
        hidden, given = prefill(model, conversation, inputs)
        for reply, states in zip(replies, given, strict=True):
            reply.given_states = states
        logits = model.compute_logits(hidden)
    running = [True] * len(replies)
    decoder: StaticDecoder | None = None
    place: _BatchPlace | None = None
    if batch is not None:
        batch.enter()
    try:
        for left in reversed(range(options.max_new_tokens if write else 0)):
            following: tuple[Tensor, Tensor] | None = None
            if static and left:
                with clock.stage("decode"):
                    decoder = _provide_decoder(model, conversation, decoder, logits, left)
                    if options.temperature == 0:
                        following = decoder.advance(model)
            for row, reply in enumerate(replies):
                if reply.choices and running[row]:
                    logits[row] = reply.restrict(logits[row])
            chosen = decoder.receive() if decoder and following else options.choose(logits, generators)
            for row, reply in enumerate(replies):
                if running[row]:
                    reply.ids.append(chosen[row])
                    reply.is_loop = options.stops_loops and find_loop(reply.ids, seg) > 0
                    if chosen[row] == seg:
                        reply.seg_states.append(hidden[row])
            if len(replies) == 1:
                conversation.unread = [chosen[0]]
            running = [
                on and token not in ends and not reply.is_loop
                for token, on, reply in zip(chosen, running, replies, strict=True)
            ]
            if batch is not None and not static and any(running) and left:
                place = batch.join(conversation, chosen[0])
            yield hidden, logits
            if not any(running) or not left:
                return
            if batch is not None and place is not None:
                hidden, logits = batch.read(model, place)
                clock.add({"decode": place.seconds})
                clock.count("decode")
                place = None
                continue
            with clock.stage("decode"):
                conversation.extend(decoder)
                if decoder is None:
                    following = _advance(model, conversation, chosen)
                elif following is None:
                    following = decoder.advance(model, chosen)
                hidden, logits = following
            clock.count("decode", sum(running))
    finally:
        if batch is not None:
            batch.exit(place)
        if decoder is not None:
            conversation.take_back(decoder)
            return_decoder(model, decoder)


def _provide_decoder(
    model: UniPixel, conversation: ConversationCache, decoder: StaticDecoder | None, logits: Tensor, left: int
) -> StaticDecoder:
    """A decoder that has room for another token of the conversation; the one that it is with, unless that is full.

    Args:
        logits: (B, V) of the token that is to be read next.
        left: tokens that may still be read.
    """
    if decoder is not None and decoder.length < decoder.capacity:
        return decoder
    assert conversation.next_position is not None  # `prefill` has set it
    larger = take_decoder(model, len(logits), conversation.length + min(left, AHEAD))
    larger.load(conversation.cache, conversation.next_position, conversation.padding_mask, logits)
    conversation.lend(larger)
    if decoder is not None:
        return_decoder(model, decoder)
    return larger


def _advance(model: UniPixel, conversation: ConversationCache, chosen: list[int]) -> tuple[Tensor, Tensor]:
    """Read the chosen tokens (B,) into the cache; returns the states (B, D) that predict the next ones, and logits."""
    position, mask = conversation.next_position, conversation.padding_mask
    assert position is not None  # `prefill` has set it
    embeds = model.language.embed_tokens(torch.tensor(chosen, device=model.device)[:, None])
    positions = (position - 1).to(model.device).expand(3, -1)[..., None]
    hidden = model.decode(embeds, positions, mask if mask is None else mask.to(model.device), conversation.cache)[:, -1]
    return hidden, model.compute_logits(hidden)
