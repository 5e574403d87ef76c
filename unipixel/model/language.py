"""Qwen2.5-VL's language model: mRoPE positions, and the decoder layers around our cache of keys and values.

The decoder returns the residual stream before the final norm, from which `<|seg|>` states are read. One new token per
row goes through the layers in fewer operations, see `decode_token`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipixel.model.config import SectionConfig, UniPixelConfig
from unipixel.model.vision import GatedMLP, Grid, RMSNorm, VisionTower, draw_weights

SPARE_TOKENS = 64
"""Least number of tokens that a cache has memory for beyond those it holds."""


class LayerCache:
    """Keys and values of one layer, written into memory that is larger than they are.

    The layers of forked caches share that memory up to where they part: whoever writes next behind what is filled goes
    on in it, every other moves to memory of its own.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys[:, :, :0], values[:, :, :0]
        self._buffers: list[Tensor] = []
        """Memory for keys and values, (B, heads, capacity, dim) each."""
        self._filled = np.zeros(1, dtype=np.int64)
        """(1,) how many of its places are taken; one array for all who share the memory."""

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Keep (B, heads, L, dim) more of both."""
        past, new = self.keys.shape[2], (keys, values)
        whole = past + keys.shape[2]
        if not self._buffers or self._filled[0] != past or whole > self._buffers[0].shape[2]:
            capacity = whole + max(whole // 8, SPARE_TOKENS)
            buffers = [x.new_empty(*x.shape[:2], capacity, x.shape[3]) for x in new]
            for memory, old in zip(buffers, (self.keys, self.values), strict=True):
                if past:
                    memory[:, :, :past] = old
            self._buffers, self._filled = buffers, np.array([past])
        self._filled[0] = whole
        for memory, x in zip(self._buffers, new, strict=True):
            memory[:, :, past:whole] = x
        self.keys, self.values = (memory[:, :, :whole] for memory in self._buffers)


class KeyValueCache:
    """Keys and values of the tokens that a decoder has read, by layer."""

    def __init__(self) -> None:
        self.layers: list[LayerCache] = []

    @property
    def length(self) -> int:
        """Tokens that it holds."""
        return self.layers[0].keys.shape[2] if self.layers else 0

    def update(self, keys: Tensor, values: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Append (B, heads, L, dim) to a layer, the next one or one that is there, and return all that it holds."""
        if number == len(self.layers):
            self.layers.append(LayerCache(keys, values))
        layer = self.layers[number]
        layer.append(keys, values)
        return layer.keys, layer.values

    def fork(self) -> KeyValueCache:
        """A cache that goes on from here by itself. What it holds so far is shared, not copied."""
        twin = KeyValueCache()
        twin.layers = [copy.copy(layer) for layer in self.layers]
        return twin

    def shorten(self, length: int) -> None:
        """Drop everything beyond the first ``length`` tokens."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]


class RotaryEmbedding(nn.Module):
    """Cosines and sines of mRoPE: every frequency of a head reads one of the three axes.

    Source: Qwen2.5-VL technical report, section 2.1.2; RoFormer, arXiv 2104.09864.
    """

    def __init__(self, config: SectionConfig) -> None:
        super().__init__()
        rope, head = config.rope_parameters, config.hidden_size // config.num_attention_heads
        cpu = torch.device("cpu")
        frequency = 1.0 / rope["rope_theta"] ** (torch.arange(0, head, 2, dtype=torch.float32, device=cpu) / head)
        axes = [axis for axis, count in enumerate(rope["mrope_section"]) for _ in range(count)]
        # no buffers: these would be rounded with the weights when a model is brought to half precision
        self._tables = {cpu: (frequency, torch.tensor(axes, device=cpu))}
        """By device: frequencies and their axes (dim / 2,)."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B, L, dim), in the type of ``x``, for positions (3, B, L)."""
        device = position_ids.device
        if device not in self._tables:
            frequency, axis = self._tables[torch.device("cpu")]
            self._tables[device] = frequency.to(device), axis.to(device)
        frequency, axis = self._tables[device]
        angle = position_ids.float()[axis].movedim(0, -1) * frequency
        angle = torch.cat([angle, angle], -1)
        return angle.cos().to(x.dtype), angle.sin().to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys (B, heads, L, dim) turned by `RotaryEmbedding`'s cosines and sines (B, L, dim)."""
    a, b = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-b, a], -1) * sin[:, None]


class CausalAttention(nn.Module):
    """Attention of the decoder, in which several heads of queries share one of keys and values.

    Source: GQA, arXiv 2305.13245.
    """

    def __init__(self, config: SectionConfig) -> None:
        super().__init__()
        width, heads, groups = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.groups, self.dropout = width // heads, groups, config.attention_dropout
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, groups * self.head_dim)
        self.v_proj = nn.Linear(width, groups * self.head_dim)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None, cache: KeyValueCache | None, number: int
    ) -> Tensor:
        """(B, L, D) in and out; arguments as in `DecoderLayer`."""
        q, k, v = (
            linear(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        if cache is not None:
            k, v = cache.update(k, v, number)
        length, shared = q.shape[2], q.shape[1] // self.groups
        if mask is not None and shared > 1:  # with a mask only the slowest of the kernels shares keys by itself
            if length == 1:
                q = q.reshape(len(q), self.groups, shared, -1)  # as queries of one head, which read the cache once
            else:
                k, v = (one.repeat_interleave(shared, 1) for one in (k, v))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            q, k, v, mask, dropout, is_causal=length > 1 and mask is None, scale=self.scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip
        return self.o_proj(mixed.reshape(len(x), -1, length, self.head_dim).transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """One layer of the language model."""

    def __init__(self, config: SectionConfig, number: int) -> None:
        super().__init__()
        self.number = number
        self.self_attn = CausalAttention(config)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, bias=False)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """The residual stream (B, L, D) after this layer.

        Args:
            rotary: of `RotaryEmbedding`.
            mask: (B or 1, 1, L, past + L) bool; None where a token sees all before it.
            cache: extended by the keys and values of these tokens.
        """
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotary, mask, cache, self.number)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class LanguageModel(nn.Module):
    """The weights of the decoder without its head; `decode` and `decode_token` run it.

    Args:
        config: sizes, `UniPixelConfig.language`.
    """

    layers: Any  # of `DecoderLayer`, which torch's list does not tell

    def __init__(self, config: SectionConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, number) for number in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config)
        draw_weights(self, config.initializer_range)


def compute_rope_index(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    video_grid_thw: list[Grid],
    second_per_grid: list[float],
    config: UniPixelConfig,
    image_grid_thw: list[Grid] | None = None,
) -> tuple[Tensor, Tensor]:
    """mRoPE positions of a batch of prompts.

    Args:
        input_ids: (B, L) with every visual already expanded to its tokens.
        attention_mask: (B, L), 0 where padded; None when nothing is.
        video_grid_thw: (t, h, w) of each video in the order of the whole batch.
        second_per_grid: seconds between temporal grid steps of each video.
        image_grid_thw: the same for visuals given as still images.

    Returns:
        (3, B, L) positions on the temporal, row and column axes, and (B,) the next free position.

    Source: Qwen2.5-VL technical report, section 2.1.2.
    """
    merge, rate = config.vision.spatial_merge_size, config.vision.tokens_per_second
    positions = torch.ones(3, *input_ids.shape, dtype=torch.long)
    following = torch.zeros(len(input_ids), dtype=torch.long)
    videos, images = iter(zip(video_grid_thw, second_per_grid, strict=True)), iter(image_grid_thw or [])
    for row, ids in enumerate(input_ids.cpu()):
        keep = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask[row].bool().cpu()
        tokens = ids[keep].numpy()
        visual = (tokens == config.video_token_id) | (tokens == config.image_token_id)
        parts, start, i = [], 0, 0
        while i < len(tokens):
            if not visual[i]:
                ahead = visual[i:].argmax() if visual[i:].any() else len(tokens) - i
                parts.append(np.broadcast_to(np.arange(start, start + ahead), (3, ahead)))
                start, i = start + int(ahead), i + int(ahead)
                continue
            if tokens[i] == config.video_token_id:
                (t, h, w), seconds = next(videos)
                seconds = int(seconds) if config.pixel.integer_seconds_per_grid else seconds
            else:
                (t, h, w), seconds = next(images), 0
            time = (np.arange(t) * seconds * rate).astype(np.int64)
            block = np.stack(np.meshgrid(time, np.arange(h // merge), np.arange(w // merge), indexing="ij"))
            block = block.reshape(3, -1) + start
            parts.append(block)
            start = int((block if config.pixel.rope_restart == "all_axes" else block[1:]).max()) + 1
            i += block.shape[1]
        positions[:, row, keep] = torch.from_numpy(np.concatenate(parts, 1))
        following[row] = start
    return positions.to(input_ids.device), following.to(input_ids.device)


def build_attention_bias(
    attention_mask: Tensor | None, batch: int, length: int, past: int, device: torch.device
) -> Tensor | None:
    """(B, 1, L, past + L) bool mask: causal, and blind to padding. None where attention needs to be told nothing."""
    if attention_mask is not None and attention_mask.ndim == 4:
        return attention_mask.bool()
    if attention_mask is None and (length == 1 or not past):
        return None  # a single token sees everything, and attention without a mask is causal
    keys = torch.arange(past + length, device=device)
    queries = torch.arange(past, past + length, device=device)
    causal = keys[None] <= queries[:, None]
    if attention_mask is None:
        return causal.expand(batch, 1, -1, -1)
    # a padded query sees itself, so that its (unused) softmax stays finite
    itself = keys[None] == queries[:, None]
    return (causal & attention_mask.bool()[:, None, None]) | itself


FEW_ROWS = 8
"""Rows of input up to which a product on a CPU is bound by reading the weight."""


def project(linear: nn.Module, x: Tensor) -> Tensor:
    """What a linear layer computes, on CPUs near the rate at which its weight can be read when the rows are few.

    torch turns a linear layer on few rows in half precision into a matrix product made for many, which reads the
    weight at half the rate of a product of matrix and vector (one row) or of the product turned round (a few).
    """
    if torch.is_grad_enabled() or type(linear) is not nn.Linear or linear.weight.device.type != "cpu":
        return linear(x)
    weight, rows = linear.weight, x.numel() // linear.in_features
    if weight.dtype == torch.float32 or rows > FEW_ROWS:
        return linear(x)
    flat = x.reshape(rows, -1)
    y = torch.mv(weight, flat[0])[None] if rows == 1 else (weight @ flat.t()).t()
    y = y if linear.bias is None else y + linear.bias
    return y.reshape(*x.shape[:-1], -1)


def _project_together(linears: Sequence[nn.Module], x: Tensor) -> Tensor:
    """What several linear layers make of one input, side by side; one product where `fuse_projections` was here."""
    if all(type(one) is nn.Linear and one.weight.device == x.device for one in linears):
        weight, bias = (_join_neighbours([getattr(one, name) for one in linears]) for name in ("weight", "bias"))
        if weight is not None and (bias is not None or all(one.bias is None for one in linears)):
            return F.linear(x, weight, bias)
    return torch.cat([project(one, x) for one in linears], -1)


def _join_neighbours(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Tensors of the same further axes that lie one behind the other in memory, as one tensor without a copy."""
    first = parts[0]
    if first is None:
        return None
    storage, end = first.untyped_storage()._cdata, first.storage_offset()
    for part in parts:
        if part is None or part.untyped_storage()._cdata != storage or part.storage_offset() != end:
            return None
        end += part.numel()
    rows = sum(len(part) for part in parts if part is not None)
    return first.as_strided((rows, *first.shape[1:]), first.stride())


@torch.no_grad()
def fuse_projections(language: LanguageModel) -> None:
    """Lay the weights of layers that read the same input one behind the other, so that one product serves them.

    Queries, keys and values lie together afterwards, and gate and up. The layers keep their parameters, as views of
    what lies together; one group at a time is copied, so that the weights never lie in memory twice.
    """
    for layer in language.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for group in ((attention.q_proj, attention.k_proj, attention.v_proj), (mlp.gate_proj, mlp.up_proj)):
            if any(type(one) is not nn.Linear for one in group):
                continue  # rounded or adapted: these go one by one
            for name in ("weight", "bias"):
                parts = [getattr(one, name) for one in group]
                if any(part is None for part in parts) or _join_neighbours(parts) is not None:
                    continue
                together = torch.cat([part.data for part in parts])
                for part, piece in zip(parts, together.split([len(part) for part in parts]), strict=True):
                    part.data = piece


def _normalise(norm: RMSNorm, x: Tensor) -> Tensor:
    """What an RMS norm computes, in one operation instead of six or eight, which rounds once less."""
    if norm.weight.device != x.device:
        brought: Tensor = norm(x)  # its weight waits elsewhere, and a hook brings it, see `placement`
        return brought
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.eps)


def _add_product(hidden: Tensor, linear: nn.Module, x: Tensor) -> Tensor:
    """``hidden`` plus what a linear layer makes of ``x``; on accelerators in place, as a part of the product."""
    has_bias = getattr(linear, "bias", None) is not None
    if hidden.device.type == "cpu" or type(linear) is not nn.Linear or has_bias:
        return hidden + project(linear, x)
    return hidden.addmm_(x, linear.weight.t())


Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
"""Takes the number of a layer, grouped queries (B, heads of keys, heads that share them, dim), the new keys and values
(B, heads of keys, 1, dim) and the scale, keeps keys and values, and returns what the queries see, of their shape."""


def attend_over(caches: Sequence[Any], masks: Sequence[Tensor | None]) -> Attend:
    """Attention of new tokens over what came before them.

    Args:
        caches: one for all rows, or for each row one of its own, then of any lengths; ``update(keys, values, number of
            the layer)`` with (B, heads, 1, dim) returns (B, heads, K, dim).
        masks: one for each cache, (B, 1, 1, K) of what is seen of its K keys, bool or added; None for all.
    """

    def attend(number: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        mixed = []
        parts = zip(*(x.chunk(len(caches)) for x in (queries, keys, values)), caches, masks, strict=True)
        for q, k, v, cache, mask in parts:
            k, v = cache.update(k, v, number)
            mixed.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale))
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    return attend


def _read_token(layer: Any, number: int, hidden: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
    """One decoder layer for one new token per row, (B, D) in and out; for inference.

    The heads that share keys and values are laid side by side as queries of one head, so that attention reads
    the cache once instead of once per head.
    """
    attention, mlp, (cos, sin) = layer.self_attn, layer.mlp, rotary
    shared = attention.groups
    x = _normalise(layer.input_layernorm, hidden)
    x = _project_together((attention.q_proj, attention.k_proj, attention.v_proj), x)
    x = x.unflatten(-1, (-1, attention.head_dim))  # (B, heads of queries, of keys and of values, dim)
    turned, v = x[:, :-shared], x[:, -shared:, None]
    a, b = turned.chunk(2, -1)
    turned = turned * cos + torch.cat([b, a], -1) * sin
    grouped = turned[:, :-shared].unflatten(1, (shared, -1))  # (B, heads of keys, heads that share them, dim)
    mixed = attend(number, grouped, turned[:, -shared:, None], v, attention.scaling)
    hidden = _add_product(hidden, attention.o_proj, mixed.flatten(1))
    x = _project_together((mlp.gate_proj, mlp.up_proj), _normalise(layer.post_attention_layernorm, hidden))
    gate, up = x.chunk(2, -1)
    return _add_product(hidden, mlp.down_proj, F.silu(gate) * up)


def decode_token(language: LanguageModel, embeds: Tensor, position_ids: Tensor, attend: Attend) -> Tensor:
    """The decoder layers for one new token per row, as few operations as there are; no one of them waits for the host.

    Args:
        embeds: (B, D) embeddings, on accelerators overwritten.
        position_ids: (3, B, 1).
        attend: see `attend_over`.

    Returns:
        (B, D), the residual stream before the final norm.
    """
    cos, sin = language.rotary_emb(embeds[:, None], position_ids)  # (B, 1, dim)
    half = sin.shape[-1] // 2
    rotary = cos, torch.cat([-sin[..., :half], sin[..., half:]], -1)
    for number, layer in enumerate(language.layers):
        embeds = _read_token(layer, number, embeds, rotary, attend)
    return embeds


def decode(
    language: LanguageModel,
    embeds: Tensor,
    position_ids: Tensor,
    attention_mask: Tensor | None = None,
    cache: KeyValueCache | None = None,
) -> Tensor:
    """Run the decoder layers and return the residual stream before the final norm.

    Args:
        embeds: (B, L, D) embeddings of the new tokens.
        position_ids: (3, B, L).
        attention_mask: (B, past + L) bool, False on padding; or a complete (B, 1, L, past + L) mask; None if nothing
            is padded.
        cache: keys and values of earlier tokens, extended in place.

    Returns:
        (B, L, D).
    """
    past = cache.length if cache is not None else 0
    mask = build_attention_bias(attention_mask, embeds.shape[0], embeds.shape[1], past, embeds.device)
    if cache is not None and embeds.shape[1] == 1 and embeds.device.type == "cpu" and not torch.is_grad_enabled():
        return decode_token(language, embeds[:, 0], position_ids, attend_over([cache], [mask]))[:, None]
    rotary, hidden = language.rotary_emb(embeds, position_ids), embeds
    for layer in language.layers:
        hidden = layer(hidden, rotary, mask, cache)
    return hidden.to(embeds.device)  # the last layer may lie on another device


def build_language_model(config: UniPixelConfig) -> tuple[VisionTower, LanguageModel, nn.Linear]:
    """The vision tower, the decoder and its head, freshly initialised."""
    visual = VisionTower(config.vision)
    language = LanguageModel(config.language)
    head = nn.Linear(config.language.hidden_size, config.language.vocab_size, bias=False)
    if config.tie_word_embeddings:
        head.weight = language.embed_tokens.weight
    return visual, language, head
