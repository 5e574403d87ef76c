"""SAM 2.1 as stateless steps: encode frames, decode masks, remember them, attend to memories.

Every step takes all objects at once; what the objects share (frame features, their projections, the first
self-attention) is computed once. State lives in `unipixel.model.tracker`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipixel.model.config import SamConfig
from unipixel.model.hiera import FeedForward, ImageEncoder
from unipixel.model.mask_decoder import FourierCode, MaskDecoder, SamPromptEncoder
from unipixel.model.memory_attention import (
    MemoryAttention,
    MemoryEncoder,
    build_axial_rotation,
    build_sine_encoding,
    build_time_encoding,
    pool_cells,
)

ABSENT_LOGIT = -1024.0
"""Mask logit of an object that SAM says is not there."""
DOUBTED_LOGIT = -10.0
"""Largest presence logit of an object whose score is too low."""
COLOUR_NOISE = 2e-3
"""Variance of normalised colours that is no edge; 1e-4 of colours from 0 to 1."""
MEMORY_SCALE, MEMORY_BIAS = 20.0, -10.0
"""Range of mask probabilities on their way into the memory encoder."""


@dataclass(frozen=True)
class FrameFeatures:
    """Encoded frames; T of them, indexable by slices and index tensors."""

    embed: Tensor
    """(T, C, s, s) stride 16."""
    high_res_0: Tensor
    """(T, C/8, 4s, 4s) stride 4."""
    high_res_1: Tensor
    """(T, C/4, 2s, 2s) stride 8."""
    frames: Tensor | None = None
    """(T, 3, S, S) the frames themselves, where masks follow their colours."""

    def __getitem__(self, index: slice | Tensor) -> FrameFeatures:
        frames = None if self.frames is None else self.frames[index]
        return FrameFeatures(self.embed[index], self.high_res_0[index], self.high_res_1[index], frames)

    def clone(self) -> FrameFeatures:
        """The same in memory of its own."""
        frames = None if self.frames is None else self.frames.clone()
        return FrameFeatures(self.embed.clone(), self.high_res_0.clone(), self.high_res_1.clone(), frames)

    def __len__(self) -> int:
        return len(self.embed)

    @staticmethod
    def cat(parts: Sequence[FrameFeatures]) -> FrameFeatures:
        """Join along T."""
        frames = [p.frames for p in parts if p.frames is not None]
        return FrameFeatures(
            torch.cat([p.embed for p in parts]),
            torch.cat([p.high_res_0 for p in parts]),
            torch.cat([p.high_res_1 for p in parts]),
            torch.cat(frames) if frames else None,
        )


def _compute_scores(ious: Tensor, presence_logits: Tensor) -> Tensor:
    """(N,) predicted IoU times presence, float32."""
    return (ious.float() * presence_logits.float().sigmoid()).nan_to_num(0.0)


@dataclass(frozen=True)
class MaskPrediction:
    """Masks of N objects on one frame."""

    multimask_logits: Tensor
    """(N, 3, 4s, 4s) the three candidates, untouched but where training has them follow colours."""
    multimask_ious: Tensor
    """(N, 3) predicted IoU of each."""
    low_res_masks: Tensor
    """(N, 1, 4s, 4s) logits of the best candidate, or of all as `PixelConfig.candidate_temperature` weights them;
    (N, 1, S, S) where they follow the colours of the frame; `ABSENT_LOGIT` where the object is absent (inference
    only)."""
    object_score_logits: Tensor
    """(N,) above 0: the object is there."""
    object_pointer: Tensor
    """(N, C)."""

    @property
    def iou_scores(self) -> Tensor:
        """(N,) predicted IoU of the chosen mask."""
        return self.multimask_ious.amax(-1)

    @property
    def scores(self) -> Tensor:
        """(N,) predicted IoU times presence, float32 in 0..1."""
        return _compute_scores(self.iou_scores, self.object_score_logits)


def follow_colours(logits: Tensor, frames: Tensor, radius: int, *, least: float = 1e-3) -> Tensor:
    """Mask logits (N, 1, S, S) that end where the colours of their frame do, of logits (N, 1, h, w).

    Around each cell of the mask, ``radius`` cells each way, the mask is written as a linear function of the colours,
    which is then read at the pixels of the frame.

    Args:
        frames: (1 or N, 3, S, S), normalised.
        least: smallest probability that is told apart from 0; gradients pass what lies beyond it.

    Source: guided filter with functions found on a coarse grid (He and Sun, arXiv 1505.00996).
    """

    def average(x: Tensor) -> Tensor:
        for kernel, padding in (((1, 2 * radius + 1), (0, radius)), ((2 * radius + 1, 1), (radius, 0))):
            x = F.avg_pool2d(x, kernel, 1, padding, count_include_pad=False)
        return x

    pixels, mask = frames.float(), logits.float().sigmoid()
    colours = F.interpolate(pixels, size=mask.shape[-2:], mode="area")
    red, green, blue = colours.split(1, 1)
    second = [red * red, red * green, red * blue, green * green, green * blue, blue * blue]
    mean = average(colours)
    r, g, b = mean.split(1, 1)
    rr, rg, rb, gg, gb, bb = (
        moment - product
        for moment, product in zip(
            average(torch.cat(second, 1)).split(1, 1), (r * r, r * g, r * b, g * g, g * b, b * b), strict=True
        )
    )
    rr, gg, bb = rr + COLOUR_NOISE, gg + COLOUR_NOISE, bb + COLOUR_NOISE
    # the inverse of the symmetric 3 x 3 matrix, row by row
    first = torch.cat([gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb], 1)
    middle = torch.cat([gb * rb - rg * bb, rr * bb - rb * rb, rb * rg - rr * gb], 1)
    last = torch.cat([rg * gb - gg * rb, rb * rg - rr * gb, rr * gg - rg * rg], 1)
    determinant = (first * torch.cat([rr, rg, rb], 1)).sum(1, keepdim=True)
    level = average(mask)
    shared = average(colours * mask) - mean * level  # (N, 3, h, w)
    slope = torch.cat([(row * shared).sum(1, keepdim=True) for row in (first, middle, last)], 1) / determinant
    line = average(torch.cat([slope, level - (slope * mean).sum(1, keepdim=True)], 1))
    line = F.interpolate(line, size=pixels.shape[-2:], mode="bilinear")
    found = (line[:, :3] * pixels).sum(1, keepdim=True) + line[:, 3:]
    kept = found.clamp(least, 1 - least)
    if found.requires_grad:
        kept = found + (kept - found).detach()
    return torch.logit(kept).to(logits.dtype)


def _project(cells: Tensor, first: nn.Conv2d, second: nn.Conv2d | None = None) -> Tensor:
    """Convolutions of single cells, (T, H, W, C) to (T, C', H, W); two with nothing between them are one product."""
    weight, bias = first.weight.flatten(1), first.bias
    assert bias is not None
    if second is not None:
        after = second.weight.flatten(1)
        weight, bias = after @ weight, F.linear(bias, after, second.bias)
    return F.linear(cells, weight, bias).permute(0, 3, 1, 2)


class Segmenter(nn.Module):
    """The SAM 2.1 model without its loops.

    Source: SAM 2 (arXiv 2408.00714), appendix C; UniPixel, section 3.2 (mask decoder prompted by `<|seg|>` states).
    """

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.config = config
        c, m = config.hidden_size, config.memory_size
        self.vision_encoder = ImageEncoder(config)
        self.shared_image_embedding = FourierCode(c)
        self.prompt_encoder = SamPromptEncoder(c, config.image_size)
        # one Fourier matrix, used for points and for the image-wide code
        self.prompt_encoder.shared_embedding = self.shared_image_embedding
        self.mask_decoder = MaskDecoder(config)
        self.memory_attention = MemoryAttention(config)
        self.memory_encoder = MemoryEncoder(config)
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.object_pointer_proj = FeedForward(c, c, c, 3)
        self.temporal_positional_encoding_projection_layer = nn.Linear(c, m)
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, c))
        self.no_memory_positional_encoding = nn.Parameter(torch.zeros(1, 1, c))
        self.memory_temporal_positional_encoding = nn.Parameter(torch.zeros(config.num_memories, 1, 1, m))
        self.no_object_pointer = nn.Parameter(torch.zeros(1, c))
        self.occlusion_spatial_embedding_parameter = nn.Parameter(torch.zeros(1, m))
        self.pools_memories = False
        """Whether, in inference, memories but the first are pooled 2 x 2 before they are attended to: see `attend`."""
        self.min_track_score = 0.0
        """See `PixelConfig.min_track_score`; of inference as well."""
        self.candidate_temperature = 0.0
        """See `PixelConfig.candidate_temperature`."""
        self.guided_radius = 0
        """See `PixelConfig.guided_radius`; of inference as well."""
        self.guided_share = 0.0
        """While training, the share of decodings whose masks follow the colours too; see `Recipe.guided_share`."""
        self._image_encoding: tuple[tuple[Any, ...], Tensor, Tensor] | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.no_memory_embedding.dtype

    @property
    def mask_side(self) -> int:
        """Side of the masks that inference gives: 4s, or S where they follow the colours of their frame."""
        return self.config.image_size if self.guided_radius else 4 * self.config.grid

    def encode(self, frames: Tensor) -> FrameFeatures:
        """Encode normalised frames (T, 3, S, S)."""
        finest, fine, medium, coarse = self.vision_encoder.backbone(frames.to(self.dtype))
        neck, decoder = self.vision_encoder.neck.convs, self.mask_decoder  # the neck's are coarsest first
        wide = F.interpolate(_project(coarse, neck[0]).float(), scale_factor=2.0, mode="nearest").to(medium.dtype)
        return FrameFeatures(
            _project(medium, neck[1]) + wide,
            _project(finest, neck[3], decoder.conv_s0),
            _project(fine, neck[2], decoder.conv_s1),
            frames if self.guided_radius and (self.guided_share or not self.training) else None,
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
            tokens = self.prompt_encoder(coords.float(), labels)
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
        least_scores: Tensor | None = None,
    ) -> MaskPrediction:
        """Predict masks of N objects on one frame (or, while training, each on its own frame).

        Args:
            embed: (1 or N, C, s, s) frame features, conditioned on memory or from `add_no_memory`.
            features: high-resolution features with the same leading size.
            hidden: (N, Q, C) queries from `<|seg|>` states, or None on frames that are only tracked.
            points: coords (N, P, 2) in SAM pixels and labels (N, P), clicks that correct the mask.
            dense: (N, C, s, s) embedded mask prompt; by default none.
            mark_absent: overwrite mask logits of absent objects with `ABSENT_LOGIT` (inference).
            least_scores: (N,) in 0..1, objects with a lower score are absent; by default none.
        """
        count = next((len(x) for x in (hidden, points and points[0], dense) if x is not None), len(embed))
        if dense is None:
            dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        masks, ious, tokens, score = self.mask_decoder(
            embed + dense,
            self._build_image_encoding().to(embed.dtype),
            self._embed_prompts(count, hidden, points),
            features.high_res_0,
            features.high_res_1,
        )
        if least_scores is not None:
            is_doubtful = _compute_scores(ious.amax(-1), score) < least_scores
            score = torch.where(is_doubtful, score.clamp(max=DOUBTED_LOGIT), score)
        there = score > 0
        best = ious.argmax(-1)
        rows = torch.arange(count, device=best.device)
        if self.training and features.frames is not None and torch.rand(()) < self.guided_share:
            frames = F.interpolate(features.frames.float(), size=masks.shape[-2:], mode="area")
            candidates = masks.split(1, 1)
            masks = torch.cat([follow_colours(one, frames, self.guided_radius, least=0.02) for one in candidates], 1)
        low_res = self._merge_candidates(masks, ious)
        if not self.training and features.frames is not None:
            low_res = follow_colours(low_res, features.frames, self.guided_radius)
        if mark_absent:
            low_res = torch.where(there[:, None, None, None], low_res, ABSENT_LOGIT)
        pointer = self.object_pointer_proj(tokens[rows, best])
        pointer = torch.where(there[:, None], pointer, self.no_object_pointer.to(pointer.dtype))
        return MaskPrediction(masks, ious, low_res, score, pointer)

    def _merge_candidates(self, masks: Tensor, ious: Tensor) -> Tensor:
        """(N, 1, h, w) logits of the chosen mask, of all candidates (N, K, h, w) and their predicted IoUs (N, K)."""
        if not self.candidate_temperature:
            return masks.gather(1, ious.argmax(1)[:, None, None, None].expand(-1, 1, *masks.shape[2:]))
        weights = (ious.float() / self.candidate_temperature).softmax(1).to(masks.dtype)
        return (masks * weights[:, :, None, None]).sum(1, keepdim=True)

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
        x = self.memory_encoder(embed, full.sigmoid() * MEMORY_SCALE + MEMORY_BIAS)
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
        x = self.memory_attention(x, keys, values, turns, bias).expand(count, -1, -1)
        return x.transpose(1, 2).unflatten(2, (self.config.grid, self.config.grid))
