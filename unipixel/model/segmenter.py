"""SAM 2.1 as stateless steps: encode frames, decode masks, remember them, attend to memories.

Built from transformers' Sam2Video leaf modules. Every step takes all objects at once; what the objects share (frame
features, their projections, the first self-attention) is computed once. State lives in `unipixel.model.tracker`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VisionConfig
from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel, Sam2VisionModel, do_pool
from transformers.models.sam2_video.configuration_sam2_video import (
    Sam2VideoMaskDecoderConfig,
    Sam2VideoPromptEncoderConfig,
)
from transformers.models.sam2_video.modeling_sam2_video import (
    Sam2VideoFeedForward,
    Sam2VideoMaskDecoder,
    Sam2VideoMemoryAttention,
    Sam2VideoMemoryEncoder,
    Sam2VideoPositionalEmbedding,
    Sam2VideoPromptEncoder,
    Sam2VideoRoPEAttention,
)

from unipixel.model.config import SamConfig

ABSENT_LOGIT = -1024.0
"""Mask logit of an object that SAM says is not there."""
MEMORY_SCALE, MEMORY_BIAS = 20.0, -10.0
"""Range of mask probabilities on their way into the memory encoder."""
QUERIES_AT_ONCE = 512
"""Queries whose scores are computed at a time, so that they stay in the cache."""


@dataclass(frozen=True)
class FrameFeatures:
    """Encoded frames; T of them, indexable by slices and index tensors."""

    embed: Tensor
    """(T, C, s, s) stride 16."""
    high_res_0: Tensor
    """(T, C/8, 4s, 4s) stride 4."""
    high_res_1: Tensor
    """(T, C/4, 2s, 2s) stride 8."""

    def __getitem__(self, index: slice | Tensor) -> FrameFeatures:
        return FrameFeatures(self.embed[index], self.high_res_0[index], self.high_res_1[index])

    def __len__(self) -> int:
        return len(self.embed)

    @staticmethod
    def cat(parts: Sequence[FrameFeatures]) -> FrameFeatures:
        """Join along T."""
        return FrameFeatures(
            torch.cat([p.embed for p in parts]),
            torch.cat([p.high_res_0 for p in parts]),
            torch.cat([p.high_res_1 for p in parts]),
        )


@dataclass(frozen=True)
class MaskPrediction:
    """Masks of N objects on one frame."""

    multimask_logits: Tensor
    """(N, 3, 4s, 4s) the three candidates, untouched."""
    multimask_ious: Tensor
    """(N, 3) predicted IoU of each."""
    low_res_masks: Tensor
    """(N, 1, 4s, 4s) logits of the best candidate, `ABSENT_LOGIT` where the object is absent (inference only)."""
    object_score_logits: Tensor
    """(N,) above 0: the object is there."""
    object_pointer: Tensor
    """(N, C)."""

    @property
    def iou_scores(self) -> Tensor:
        """(N,) predicted IoU of the chosen mask."""
        return self.multimask_ious.amax(-1)


@lru_cache(maxsize=32)
def build_sine_encoding(
    size: int, width: int, device: torch.device, dtype: torch.dtype = torch.float32, scale: float = 1.0
) -> Tensor:
    """(size*size, width) normalised sine code of a square grid, y half before x half; kept, since it never changes."""
    # cached tensors may be asked for first under inference mode and later by training
    with torch.inference_mode(False):
        half = width // 2
        step = torch.arange(1, size + 1, dtype=torch.float32, device=device) / (size + 1e-6) * 2 * math.pi
        power = torch.arange(half, dtype=torch.float32, device=device)
        angle = step[:, None] / 10000 ** (2 * (power // 2) / half)  # (size, half)
        code = torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], -1).flatten(1)
        y, x = code[:, None].expand(size, size, half), code[None].expand(size, size, half)
        return scale * torch.cat([y, x], -1).flatten(0, 1).to(dtype)


def build_time_encoding(distance: Tensor, width: int) -> Tensor:
    """(P, width) sine code of scaled temporal distances (P,)."""
    angle = distance[:, None] / _build_time_scale(width // 2, distance.device)
    return torch.cat([angle.sin(), angle.cos()], -1)


@lru_cache(maxsize=32)
def _build_time_scale(half: int, device: torch.device) -> Tensor:
    """(half,) by what a distance is divided in each channel; kept."""
    with torch.inference_mode(False):
        power = torch.arange(half, dtype=torch.float32, device=device)
        return 10000 ** (2 * (power // 2) / half)


@lru_cache(maxsize=32)
def build_axial_rotation(size: int, width: int, device: torch.device, step: int = 1) -> Tensor:
    """Complex turns (cells, width/2) of 2-D rotary positions: x in the first half, y in the second; kept.

    Args:
        size: side of the grid.
        step: side of the squares of cells for whose centres the turns are; 1: of the cells themselves.
    """
    with torch.inference_mode(False):
        frequency = 1.0 / 10000.0 ** (torch.arange(0, width, 4, device=device)[: width // 4].float() / width)
        place, columns, centre = torch.arange((size // step) ** 2, device=device), size // step, (step - 1) / 2
        x, y = (place % columns).float() * step + centre, (place // columns).float() * step + centre
        angle = torch.cat([torch.outer(x, frequency), torch.outer(y, frequency)], -1)
        return torch.polar(torch.ones_like(angle), angle)


def rotate_pairs(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary encoding on neighbouring channel pairs, differentiable, computed in fp32."""
    # one complex product is many times faster on the CPU than shuffled real ones
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def _turn_keys(key: Tensor, turns: Sequence[tuple[Tensor, int]]) -> Tensor:
    """Keys (N, K, C) turned by their places; those after the grids of ``turns`` are pointers, which have none."""
    placed, start = [], 0
    for turn, grids in turns:
        spatial = key[:, start : start + grids * len(turn)].unflatten(1, (-1, len(turn)))
        placed.append(rotate_pairs(spatial, turn).flatten(1, 2))
        start += grids * len(turn)
    return torch.cat([*placed, key[:, start:]], 1)


def pool_cells(x: Tensor) -> Tensor:
    """Means (..., s*s/4, C) over squares of 2 x 2 cells of a grid (..., s*s, C)."""
    side = math.isqrt(x.shape[-2])
    return x.unflatten(-2, (side // 2, 2, side // 2, 2)).mean((-4, -2)).flatten(-3, -2)


def encode_stages(backbone: Sam2HieraDetModel, frames: Tensor) -> tuple[Tensor, ...]:
    """The output (T, H, W, C) of each of the four stages of Hiera, finest first.

    The forward of transformers' block computes an attention that nothing reads and projects the padding of its windows.
    Here projections see real tokens alone (a padded token is zero in front of a projection, so that the bias stands
    behind it), and in half precision on CPUs attention is two products, than which torch's fused kernel is slower. In
    fp32 the results are the same bit by bit. Training goes through transformers' own forward.

    Args:
        frames: (T, 3, S, S), normalised.

    Source: Hiera (arXiv 2306.00989); SAM 2, appendix C.
    """
    if torch.is_grad_enabled():
        return tuple(backbone(frames).intermediate_hidden_states)
    x = backbone.patch_embed(frames)
    x = x + backbone._get_pos_embed(x.shape[1:3])
    stages = []
    for number, block in enumerate(backbone.blocks):
        x = _run_block(block, x)
        if number in backbone.stage_ends:
            stages.append(x)
    return tuple(stages)


def _run_block(block: Any, x: Tensor) -> Tensor:
    """One block, (T, H, W, C) in; out with half the sides and twice the channels where a stage begins."""
    y = block.layer_norm1(x)
    if block.dim != block.dim_out:
        x = do_pool(block.proj(y), block.query_stride)
    x = x + _attend_in_windows(block, y, x.shape[1], x.shape[2])
    return x + block.mlp(block.layer_norm2(x))


def _attend_in_windows(block: Any, y: Tensor, rows: int, columns: int) -> Tensor:
    """Attention of a block, (T, H, W, C) in and (T, rows, columns, C') out."""
    attention, (count, height, width, _) = block.attn, y.shape
    qkv = attention.qkv(y)
    side_y, side_x = (block.window_size,) * 2 if block.window_size else (height, width)
    down, across = -(-height // side_y), -(-width // side_x)
    if (down * side_y, across * side_x) != (height, width):
        padded = attention.qkv.bias.repeat(count, down * side_y, across * side_x, 1)
        padded[:, :height, :width] = qkv
        qkv = padded
    # (3, T, windows down, windows across, rows, columns, C'); the order in memory is that of transformers, because the
    # last bits of a product depend on it
    parts = qkv.view(count, down, side_y, across, side_x, 3, -1).permute(5, 0, 1, 3, 2, 4, 6)
    q, k, v = parts.reshape(3, -1, side_y, side_x, parts.shape[-1])
    del qkv, parts  # as large as all that follows
    if block.query_stride:
        q = do_pool(q, block.query_stride)
        side_y, side_x = q.shape[1:3]
    mixed = _attend_heads(q, k, v, attention.num_attention_heads, attention.scale)
    mixed = mixed.view(count, down, across, side_y, side_x, -1).transpose(2, 3)
    mixed = mixed.reshape(count, down * side_y, across * side_x, -1)[:, :rows, :columns]
    return attention.proj(mixed)


def _attend_heads(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """Windows (N, rows, columns, C), of fewer rows and columns for the queries; (N, queries, C) out."""
    q, k, v = (x.flatten(1, 2).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (N, heads, L, dim)
    if q.device.type != "cpu" or q.dtype == torch.float32:
        mixed = F.scaled_dot_product_attention(q, k, v, scale=scale)
    else:
        keys, values = k.reshape(-1, *k.shape[2:]).transpose(1, 2), v.reshape(-1, *v.shape[2:])
        pieces = (q * scale).reshape(-1, *q.shape[2:]).split(QUERIES_AT_ONCE, 1)
        mixed = torch.cat([torch.softmax(piece @ keys, -1) @ values for piece in pieces], 1).view(q.shape)
    return mixed.transpose(1, 2).flatten(2)


def _to_transformers(self: SamConfig) -> Sam2VideoConfig:
    """The transformers configs from which the leaf modules are built."""
    widths = [self.embed_dim * 2**i for i in range(4)]
    s, c = self.grid, self.hidden_size
    backbone = Sam2HieraDetConfig(
        hidden_size=self.embed_dim,
        num_attention_heads=self.num_heads,
        image_size=[self.image_size, self.image_size],
        blocks_per_stage=list(self.stages),
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[self.num_heads * 2**i for i in range(4)],
        window_size_per_stage=list(self.window_sizes),
        global_attention_blocks=list(self.global_blocks),
        window_positional_embedding_background_size=list(self.background_size),
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=widths[::-1],
        backbone_feature_sizes=[[4 * s, 4 * s], [2 * s, 2 * s], [s, s]],
        fpn_hidden_size=c,
    )
    return Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=c, image_size=self.image_size),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(
            hidden_size=c,
            mlp_dim=self.decoder_ffn,
            num_attention_heads=self.decoder_heads,
            iou_head_hidden_dim=self.iou_head_hidden,
            dynamic_multimask_via_stability=False,
        ),
        image_size=self.image_size,
        num_maskmem=self.num_memories,
        memory_attention_hidden_size=c,
        memory_attention_num_layers=self.memory_attention_layers,
        memory_attention_feed_forward_hidden_size=self.memory_attention_ffn,
        memory_attention_dropout=self.dropout,
        memory_attention_rope_dropout=self.dropout,
        memory_attention_rope_feat_sizes=[s, s],
        memory_encoder_hidden_size=c,
        memory_encoder_output_channels=self.memory_size,
        mask_downsampler_embed_dim=c,
        memory_fuser_embed_dim=c,
        memory_fuser_intermediate_dim=4 * c,
        memory_fuser_num_layers=self.fuser_layers,
    )


class Segmenter(nn.Module):
    """The SAM 2.1 model without its loops.

    Source: SAM 2 (arXiv 2408.00714), appendix C; UniPixel, section 3.2 (mask decoder prompted by `<|seg|>` states).
    """

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.config = config
        parts = _to_transformers(config)
        parts._attn_implementation = "sdpa"
        parts.mask_decoder_config._attn_implementation = "sdpa"
        parts.vision_config._attn_implementation = "sdpa"
        parts.vision_config.backbone_config._attn_implementation = "sdpa"
        c, m = config.hidden_size, config.memory_size
        self.vision_encoder = Sam2VisionModel(parts.vision_config)
        self.shared_image_embedding = Sam2VideoPositionalEmbedding(parts.prompt_encoder_config)
        self.prompt_encoder = Sam2VideoPromptEncoder(parts.prompt_encoder_config)
        # one Fourier matrix, used for points and for the image-wide code
        self.prompt_encoder.shared_embedding = self.shared_image_embedding
        self.mask_decoder = Sam2VideoMaskDecoder(parts.mask_decoder_config)
        self.memory_attention = Sam2VideoMemoryAttention(parts)
        for layer in self.memory_attention.layers:
            layer.cross_attn_image = Sam2VideoRoPEAttention(parts, kv_in_dim=m, rope_k_repeat=True)
        self.memory_encoder = Sam2VideoMemoryEncoder(parts)
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.object_pointer_proj = Sam2VideoFeedForward(c, c, c, 3)
        self.temporal_positional_encoding_projection_layer = nn.Linear(c, m)
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, c))
        self.no_memory_positional_encoding = nn.Parameter(torch.zeros(1, 1, c))
        self.memory_temporal_positional_encoding = nn.Parameter(torch.zeros(config.num_memories, 1, 1, m))
        self.no_object_pointer = nn.Parameter(torch.zeros(1, c))
        self.occlusion_spatial_embedding_parameter = nn.Parameter(torch.zeros(1, m))
        self.pools_memories = False
        """Whether, in inference, memories but the first are pooled 2 x 2 before they are attended to: see `attend`."""
        self._image_encoding: tuple[tuple[Any, ...], Tensor, Tensor] | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.no_memory_embedding.dtype

    def encode(self, frames: Tensor) -> FrameFeatures:
        """Encode normalised frames (T, 3, S, S)."""
        stages = encode_stages(self.vision_encoder.backbone, frames.to(self.dtype))
        x = [stage.permute(0, 3, 1, 2) for stage in stages]
        lateral = self.vision_encoder.neck.convs  # coarsest first
        coarse = F.interpolate(lateral[0](x[3]).float(), scale_factor=2.0, mode="nearest").to(x[2].dtype)
        decoder = self.mask_decoder
        return FrameFeatures(
            lateral[1](x[2]) + coarse, decoder.conv_s0(lateral[3](x[0])), decoder.conv_s1(lateral[2](x[1]))
        )

    def add_no_memory(self, features: FrameFeatures) -> Tensor:
        """(T, C, s, s) features for frames that no memory speaks about."""
        return features.embed + self.no_memory_embedding.reshape(1, -1, 1, 1)

    def _build_image_encoding(self) -> Tensor:
        """(1, C, s, s) code of places; kept as long as the matrix that it is made with stays as it is."""
        matrix = self.shared_image_embedding.positional_embedding
        version = 0 if matrix.is_inference() else matrix._version
        known = (matrix.untyped_storage()._cdata, version, matrix.dtype, self.dtype)
        if self._image_encoding is None or self._image_encoding[0] != known:
            with torch.inference_mode(False), torch.no_grad():
                code = self._compute_image_encoding(matrix.clone())
            # with the matrix itself, so that its storage is not given to another one
            self._image_encoding = known, code, matrix.detach()
        return self._image_encoding[1]

    def _compute_image_encoding(self, matrix: Tensor) -> Tensor:
        s = self.config.grid
        centre = (torch.arange(s, device=self.no_memory_embedding.device, dtype=torch.float32) + 0.5) / s
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        angle = (2 * torch.stack([x, y], -1) - 1) @ matrix.float() * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], -1).permute(2, 0, 1)[None].to(self.dtype)  # (1, C, s, s)

    def _embed_prompts(self, count: int, hidden: Tensor | None, points: tuple[Tensor, Tensor] | None) -> Tensor:
        """(N, tokens, C) prompt tokens: padding or point prompts, then the language model's hidden queries."""
        if points is None:
            # official UniPixel gives one padding point, and SAM pads a second
            tokens = self.prompt_encoder.not_a_point_embed.weight.expand(count, 2, -1)
        else:
            coords, labels = points
            tokens = self.prompt_encoder(coords[:, None].float(), labels[:, None], None, None)[0][:, 0]
        if hidden is not None:
            tokens = torch.cat([tokens.to(hidden.dtype), hidden], 1)
        return tokens.to(self.dtype)

    def decode(
        self,
        embed: Tensor,
        features: FrameFeatures,
        hidden: Tensor | None = None,
        points: tuple[Tensor, Tensor] | None = None,
        *,
        dense: Tensor | None = None,
        mark_absent: bool = True,
    ) -> MaskPrediction:
        """Predict masks of N objects on one frame (or, while training, each on its own frame).

        Args:
            embed: (1 or N, C, s, s) frame features, conditioned on memory or from `add_no_memory`.
            features: high-resolution features with the same leading size.
            hidden: (N, Q, C) queries from `<|seg|>` states, or None on frames that are only tracked.
            points: coords (N, P, 2) in SAM pixels and labels (N, P), clicks that correct the mask.
            dense: (N, C, s, s) embedded mask prompt; by default none.
            mark_absent: overwrite mask logits of absent objects with `ABSENT_LOGIT` (inference).
        """
        count = next((len(x) for x in (hidden, points and points[0], dense) if x is not None), len(embed))
        if dense is None:
            dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        shared = len(embed) == 1 and len(dense) == 1
        if not shared:
            embed = embed.expand(count, -1, -1, -1)
        sparse = self._embed_prompts(count, hidden, points)
        masks, ious, tokens, score = self.mask_decoder(
            image_embeddings=embed,
            image_positional_embeddings=self._build_image_encoding().to(embed.dtype).expand(len(embed), -1, -1, -1),
            sparse_prompt_embeddings=sparse[None] if shared else sparse[:, None],
            dense_prompt_embeddings=dense,
            multimask_output=True,
            high_resolution_features=[
                x.expand(len(embed), -1, -1, -1) for x in (features.high_res_0, features.high_res_1)
            ],
        )
        masks, ious, tokens, score = (x.flatten(0, 1) for x in (masks, ious, tokens, score))
        score = score[:, 0]
        there = score > 0
        best = ious.argmax(-1)
        rows = torch.arange(count, device=best.device)
        low_res = masks[rows, best][:, None]
        if mark_absent:
            low_res = torch.where(there[:, None, None, None], low_res, ABSENT_LOGIT)
        pointer = self.object_pointer_proj(tokens[rows, best])
        pointer = torch.where(there[:, None], pointer, self.no_object_pointer.to(pointer.dtype))
        return MaskPrediction(masks, ious, low_res, score, pointer)

    def use_masks_as_output(self, features: FrameFeatures, masks: Tensor) -> MaskPrediction:
        """Take given masks (N, S, S) bool of one frame as they are; SAM only adds the pointers.

        Source: SAM 2, section 4 (a mask prompt is used as the output of its frame).
        """
        full = masks[:, None].to(self.dtype)
        dense = self.prompt_encoder.mask_embed(self.mask_downsample(full))
        seen = masks.flatten(1).any(-1)
        decoded = self.decode(self.add_no_memory(features), features, dense=dense, mark_absent=False)
        level = masks[:, None].float() * MEMORY_SCALE + MEMORY_BIAS  # there is no antialiasing in bf16
        logits = F.interpolate(level, scale_factor=0.25, mode="bilinear", antialias=True).to(self.dtype)
        score = torch.where(seen, 10.0, -10.0).to(self.dtype)
        pointer = torch.where(seen[:, None], decoded.object_pointer, self.no_object_pointer)
        ious = torch.ones_like(decoded.multimask_ious)
        return MaskPrediction(logits.expand(-1, 3, -1, -1), ious, logits, score, pointer)

    def encode_memory(self, embed: Tensor, low_res_masks: Tensor, object_score_logits: Tensor) -> Tensor:
        """Encode masks with their frame into memories (N, s*s, memory width).

        Args:
            embed: (1 or N, C, s, s) raw frame features, not conditioned.
            low_res_masks: (N, 1, 4s, 4s).
            object_score_logits: (N,).
        """
        size = self.config.image_size
        full = F.interpolate(low_res_masks.float(), size=(size, size), mode="bilinear").to(self.dtype)
        encoder = self.memory_encoder
        x = encoder.mask_downsampler(full.sigmoid() * MEMORY_SCALE + MEMORY_BIAS)
        x = encoder.feature_projection(embed) + x
        x = encoder.projection(encoder.memory_fuser(x))
        absent = (object_score_logits <= 0).to(x.dtype)[:, None, None, None]
        x = x + absent * self.occlusion_spatial_embedding_parameter[..., None, None]
        return x.flatten(2).transpose(1, 2)

    def attend(
        self,
        embed: Tensor,
        memories: Tensor,
        memory_slots: Sequence[int],
        pointers: Tensor,
        pointer_distance: Sequence[float] | Tensor,
    ) -> Tensor:
        """Condition frame features on memories of N objects. (N, C, s, s).

        With `pools_memories` four cells of all memories but the first become one, with the mean of their keys, place
        codes and values and the place in their middle, and count fourfold. Pointers and the first memory, that of the
        prompted frame, stay as they are.

        Args:
            embed: (1 or N, C, s, s) raw frame features.
            memories: (N, M, s*s, memory width), that of the prompted frame first.
            memory_slots: M rows of the temporal encoding.
            pointers: (N, P, C).
            pointer_distance: P temporal distances, already divided by the longest one.

        Source: SAM 2, section 4; pooled memories: EfficientTAM (arXiv 2411.18933), which pools all of them.
        """
        count, slots, _, width = memories.shape
        device, dtype = embed.device, self.dtype
        place = build_sine_encoding(self.config.grid, width, device, dtype)
        # slices, since places in a list would be brought to the device, and the host would wait for that
        when = torch.cat([self.memory_temporal_positional_encoding[slot] for slot in memory_slots])  # (M, 1, width)
        code = place + when  # (M, cells, width)
        distance = torch.as_tensor(pointer_distance, dtype=torch.float32, device=device)
        moment = self.temporal_positional_encoding_projection_layer(
            build_time_encoding(distance, self.config.hidden_size).to(dtype)
        )
        split = self.config.hidden_size // width
        whole = 1 if self.pools_memories and not self.training else slots
        parts, codes = [memories[:, :whole].flatten(1, 2)], [code[:whole].flatten(0, 1)]
        turns = [(build_axial_rotation(self.config.grid, self.config.hidden_size, device), whole)]
        if whole < slots:
            parts.append(pool_cells(memories[:, whole:]).flatten(1, 2))
            codes.append(pool_cells(code[whole:]).flatten(0, 1))
            turns.append((build_axial_rotation(self.config.grid, self.config.hidden_size, device, 2), slots - whole))
        values = torch.cat([*parts, pointers.reshape(count, -1, width)], 1)
        keys = values + torch.cat([*codes, moment.repeat_interleave(split, 0)])
        bias = None
        if whole < slots:
            bias = keys.new_zeros(keys.shape[1])
            bias[len(codes[0]) : len(codes[0]) + len(codes[1])] = math.log(4)
        current = build_sine_encoding(self.config.grid, self.config.hidden_size, device, dtype, 0.1)
        x = embed.flatten(2).transpose(1, 2) + current  # (1 or N, s*s, C)
        for layer in self.memory_attention.layers:
            x = self._apply_memory_layer(layer, x, keys, values, turns, bias)
        x = self.memory_attention.layer_norm(x).expand(count, -1, -1)
        return x.transpose(1, 2).unflatten(2, (self.config.grid, self.config.grid))

    def _apply_memory_layer(
        self,
        layer: Any,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        turns: Sequence[tuple[Tensor, int]],
        bias: Tensor | None,
    ) -> Tensor:
        """One layer.

        Args:
            turns: rotations of one grid of keys, and how many such grids follow each other; first those of frames as
                they are.
            bias: (K,) added to the scores of the keys.
        """
        own, turn = layer.self_attn, turns[0][0]
        y = layer.layer_norm1(x)
        y = self._attend(rotate_pairs(own.q_proj(y), turn), rotate_pairs(own.k_proj(y), turn), own.v_proj(y))
        x = x + layer.dropout1(own.o_proj(y))
        cross = layer.cross_attn_image
        query = rotate_pairs(cross.q_proj(layer.layer_norm2(x)), turn)
        key = _turn_keys(cross.k_proj(keys), turns)
        if self.training:
            y = self._attend(query, key, cross.v_proj(values))
        else:
            # softmax rows sum to 1, so the value projection may follow the average over narrow memories
            y = cross.v_proj(self._attend(query, key, values, bias))
        x = x + layer.dropout2(cross.o_proj(y))
        y = layer.linear2(layer.dropout(F.relu(layer.linear1(layer.layer_norm3(x)))))
        return x + layer.dropout3(y)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Single-head attention, queries (1 or N, L, C) against (N, K, C) and (N, K, V), with (K,) added to scores."""
        query = query.expand(len(key), -1, -1)
        if self.training or query.device.type != "cpu":
            drop = self.config.dropout if self.training else 0.0
            added = None if bias is None else bias.expand(query.shape[1], -1)
            return F.scaled_dot_product_attention(
                query[:, None], key[:, None], value[:, None], attn_mask=added, dropout_p=drop
            )[:, 0]

        def compare(part: Tensor, keys: Tensor) -> Tensor:
            return part @ keys.t() if bias is None else torch.addmm(bias, part, keys.t())

        # CPU flash attention has no narrow values and no fast bf16; plain two-dimensional products over chunks of
        # queries are faster, and batched ones would copy every transposed key
        scale = query.shape[-1] ** -0.5
        return torch.stack(
            [
                torch.cat([torch.softmax(compare(part, k), -1) @ v for part in (q * scale).split(QUERIES_AT_ONCE)])
                for q, k, v in zip(query, key, value, strict=True)
            ]
        )
