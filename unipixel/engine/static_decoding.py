"""Decoding for accelerators: one token a step in memory that neither moves nor grows, so that a step can be replayed.

Eager decoding asks the host for every operation and waits for it after every token. Here tokens, positions, mask and
cache lie in tensors of fixed shape and place; a step reads them, writes them and needs to be told nothing. On CUDA it
is captured in a graph, one for each bucket of rows and of capacity, and the host starts the next step before it
learns the token of the last. The same code runs on CPUs, where the tests compare it with the growing cache.

No GPU was at hand when this was written: that it captures, and how fast it is, has not been seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from unipixel.model import language
from unipixel.model.unipixel import UniPixel

CAPACITY = 1024
"""Tokens by which the capacities of decoders differ."""
AHEAD = 512
"""Most new tokens for which a decoder has room from the start; a longer reply moves to a larger one."""
MAX_IDLE = 4
"""Decoders that are kept for the next replies of a model."""
_IDLE: WeakKeyDictionary[UniPixel, list[StaticDecoder]] = WeakKeyDictionary()
_LOCK = Lock()


class StaticDecoder:
    """Writes replies of up to ``rows`` rows that together with what they follow have at most ``capacity`` tokens.

    A row that no conversation uses is decoded along and means nothing.
    """

    def __init__(self, model: UniPixel, rows: int, capacity: int) -> None:
        config, device, dtype = model.config.language, model.device, model.dtype
        shape = rows, config.num_key_value_heads, capacity, config.hidden_size // config.num_attention_heads
        self.rows, self.capacity = rows, capacity
        self.weights: tuple[int, ...] = ()
        """Addresses of the weights that a graph reads, wherever these have gone meanwhile."""
        self.length = 0
        """Tokens that are read or being read."""
        self._layers = [[torch.zeros(shape, dtype=dtype, device=device) for _ in "kv"] for _ in model.language.layers]
        self._tokens = torch.zeros(rows, dtype=torch.long, device=device)
        self._positions = torch.zeros(rows, dtype=torch.long, device=device)
        self._place = torch.zeros(1, dtype=torch.long, device=device)
        self._mask = torch.full((rows, 1, 1, capacity), -torch.inf, dtype=dtype, device=device)
        self._arrivals: list[tuple[Tensor, np.ndarray]] = []
        self._sent: deque[tuple[np.ndarray, Any]] = deque()
        self._used = 0
        self._hidden, self._logits = torch.empty(0), torch.empty(0)
        self._graph: Any = None

    def load(
        self, cache: language.KeyValueCache, positions: Tensor, padding_mask: Tensor | None, logits: Tensor
    ) -> None:
        """Take over a conversation of B rows; the likeliest tokens are the first to be read.

        Args:
            positions: (B,) the next free mRoPE positions, on the host.
            padding_mask: (B, length) bool, on the host.
            logits: (B, V) after the last token.
        """
        used, past = len(positions), cache.length
        for own, layer in zip(self._layers, cache.layers, strict=True):
            for memory, old in zip(own, (layer.keys, layer.values), strict=True):
                # what is hidden has no weight, but it must be a number: a broken reply must not spoil the next one
                memory.zero_()
                memory[:used, :, :past] = old
        seen = torch.zeros(self.rows, self.capacity, dtype=torch.bool)
        seen[:used, :past] = True if padding_mask is None else padding_mask
        self._mask.copy_(torch.where(seen, 0.0, -torch.inf)[:, None, None])
        self._positions[:used] = positions.to(self._positions.device)
        self._place.fill_(past)
        self._tokens[:used] = logits.argmax(-1)
        if not self._arrivals:
            # two, because a token is read while the next one is on its way
            pinned = [torch.zeros(self.rows, dtype=torch.long, pin_memory=logits.is_cuda) for _ in range(2)]
            self._arrivals = [(one, one.numpy()) for one in pinned]
        self._used, self.length = used, past
        self._sent.clear()
        self._send()

    def advance(self, model: UniPixel, chosen: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Read one token per row: the likeliest after the last step, or those ``chosen``.

        Returns:
            (B, D) the pre-norm states that predict the next tokens, and (B, V) their logits. They are on their way:
            nothing waits for them here.
        """
        if chosen is not None:
            self._tokens[: self._used] = torch.tensor(chosen)
            self._sent.clear()
        self.length += 1
        if self._graph is None:
            self.step(model)
        else:
            self._graph.replay()
        self._send()
        return self._hidden[: self._used].clone(), self._logits[: self._used].clone()

    def receive(self) -> list[int]:
        """The likeliest tokens (B,) of the earliest step that has not been asked for; waits for that step alone."""
        tokens, event = self._sent.popleft()
        if event is not None:
            event.synchronize()
        return [int(one) for one in tokens[: self._used]]

    def unload(self, cache: language.KeyValueCache, count: int) -> None:
        """Append the next ``count`` tokens that were read here to a conversation's cache."""
        past = cache.length
        for number, own in enumerate(self._layers):
            keys, values = (memory[: self._used, :, past : past + count] for memory in own)
            cache.update(keys, values, number)

    def update(self, keys: Tensor, values: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Write (B, heads, 1, dim) of a layer at the place of this step, and return all (B, heads, capacity, dim)."""
        own = self._layers[number]
        for memory, new in zip(own, (keys, values), strict=True):
            memory.index_copy_(2, self._place, new)
        return own[0], own[1]

    def step(self, model: UniPixel) -> None:
        """Read the tokens that are here and put the likeliest next ones in their place; what a graph replays."""
        self._mask.index_fill_(3, self._place, 0.0)
        embeds = model.language.embed_tokens(self._tokens)
        positions = self._positions.expand(3, -1)[..., None]
        attend = language.attend_over([self], [self._mask])
        self._hidden = language.decode_token(model.language, embeds, positions, attend)
        self._logits = model.compute_logits(self._hidden)
        torch.argmax(self._logits, -1, out=self._tokens)
        self._positions += 1
        self._place += 1

    def _send(self) -> None:
        """Start to bring the tokens to the host."""
        arrival, numbers = self._arrivals[self.length % 2]
        arrival.copy_(self._tokens, non_blocking=True)
        event = torch.cuda.Event() if self._tokens.is_cuda else None
        if event is not None:
            event.record()
        self._sent.append((numbers, event))

    def capture(self, model: UniPixel) -> None:
        """Record a step as a CUDA graph; before `load`, since it writes to all that a step writes to."""
        self.weights = _list_weights(model)
        with torch.cuda.device(model.device):
            here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                for _ in range(2):  # libraries set themselves up in the first calls, which cannot be captured
                    self.step(model)
            here.wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            # other threads may go on with work of their own meanwhile
            with torch.cuda.graph(self._graph, stream=aside, capture_error_mode="thread_local"):
                self.step(model)


def is_suited(model: UniPixel) -> bool:
    """Whether replies are written here by default: on CUDA, where no layer of the language model lies elsewhere."""
    device = model.device
    return device.type == "cuda" and all(one.device == device for one in model.language.parameters())


def _list_weights(model: UniPixel) -> tuple[int, ...]:
    return tuple(one.data_ptr() for module in (model.language, model.lm_head) for one in module.parameters())


@torch.no_grad()
def take_decoder(model: UniPixel, rows: int, length: int) -> StaticDecoder:
    """A decoder for ``rows`` rows and at least ``length`` tokens that nobody uses, made if there is none."""
    language.fuse_projections(model.language)
    bucket = 1 << (rows - 1).bit_length()
    capacity = -(-length // CAPACITY) * CAPACITY
    weights = _list_weights(model) if model.device.type == "cuda" else ()
    with _LOCK:
        idle = _IDLE.get(model, [])
        idle[:] = [one for one in idle if one.weights == weights]
        for one in idle:
            if (one.rows, one.capacity) == (bucket, capacity):
                idle.remove(one)
                return one
    decoder = StaticDecoder(model, bucket, capacity)
    if model.device.type == "cuda":
        decoder.capture(model)
    return decoder


def return_decoder(model: UniPixel, decoder: StaticDecoder) -> None:
    """Keep a decoder for the next reply of its size; the one that was used longest ago makes room."""
    with _LOCK:
        _IDLE.setdefault(model, []).append(decoder)
        del _IDLE[model][:-MAX_IDLE]
