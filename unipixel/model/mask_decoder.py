"""SAM's prompt encoder and mask decoder: points, boxes and masks as tokens, and tokens as masks.

Source: Segment Anything (arXiv 2304.02643), appendix A; SAM 2 (arXiv 2408.00714), appendix C.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipixel.model.config import SamConfig
from unipixel.model.hiera import NORM_EPS, FeedForward, attend_heads

MASK_CHANNELS = 16
"""Channels of a mask prompt before it has those of the features."""
POINT_KINDS = 4
"""Background, foreground, top left and bottom right corner of a box."""
MASK_TOKENS = 4
"""Tokens that become masks: one for a single answer, which is not used here, and three for candidates."""


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (N, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FourierCode(nn.Module):
    """Sines and cosines of random projections of a place."""

    positional_embedding: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("positional_embedding", torch.randn(2, width // 2))

    def forward(self, places: Tensor) -> Tensor:
        """(..., C) for places (..., 2), x and y from 0 to 1, in the type of the matrix."""
        angle = 2 * math.pi * ((2 * places - 1).to(self.positional_embedding.dtype) @ self.positional_embedding)
        return torch.cat([angle.sin(), angle.cos()], -1)


class MaskEmbedding(nn.Module):
    """A mask prompt (N, 1, 4s, 4s) as features (N, C, s, s)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.activation = nn.GELU()
        self.conv1 = nn.Conv2d(1, MASK_CHANNELS // 4, kernel_size=2, stride=2)
        self.conv2 = nn.Conv2d(MASK_CHANNELS // 4, MASK_CHANNELS, kernel_size=2, stride=2)
        self.conv3 = nn.Conv2d(MASK_CHANNELS, width, kernel_size=1)
        self.layer_norm1 = ChannelNorm(MASK_CHANNELS // 4)
        self.layer_norm2 = ChannelNorm(MASK_CHANNELS)

    def forward(self, masks: Tensor) -> Tensor:
        """Embed masks."""
        x = self.activation(self.layer_norm1(self.conv1(masks)))
        return self.conv3(self.activation(self.layer_norm2(self.conv2(x))))


class SamPromptEncoder(nn.Module):
    """Points and corners of boxes as tokens; mask prompts go through ``mask_embed``."""

    def __init__(self, width: int, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.shared_embedding = FourierCode(width)
        self.mask_embed = MaskEmbedding(width)
        self.no_mask_embed = nn.Embedding(1, width)
        self.point_embed = nn.Embedding(POINT_KINDS, width)
        self.not_a_point_embed = nn.Embedding(1, width)

    def forward(self, coords: Tensor, labels: Tensor) -> Tensor:
        """(N, P + 1, C) tokens of points, with the padding point that SAM appends.

        Args:
            coords: (N, P, 2) in SAM pixels.
            labels: (N, P): 0 background, 1 foreground, 2 and 3 corners of a box, -1 padding.
        """
        centre = F.pad(coords + 0.5, (0, 0, 0, 1))
        labels = F.pad(labels, (0, 1), value=-1)[..., None]
        code = self.shared_embedding(centre / self.image_size)
        code = torch.where(labels == -1, self.not_a_point_embed.weight, code)
        return code + self.point_embed(labels[..., 0].clamp(min=0)) * (labels >= 0)


class MultiHeadAttention(nn.Module):
    """Attention whose queries, keys and values have ``inner`` channels."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.o_proj = nn.Linear(inner, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(N, L, C); queries (1 or N, L, C), keys and values (1 or N, K, C). What all N share is projected once."""
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        count = max(len(q), len(k))
        q, k, v = (x.expand(count, -1, -1) for x in (q, k, v))
        return self.o_proj(attend_heads(q, k, v, self.heads))


class TwoWayBlock(nn.Module):
    """Tokens look at each other and at the image, and the image at the tokens."""

    def __init__(self, config: SamConfig, *, is_first: bool) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.decoder_heads
        self.is_first = is_first
        self.self_attn = MultiHeadAttention(width, width, heads)
        self.layer_norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = MultiHeadAttention(width, width // 2, heads)
        self.layer_norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, config.decoder_ffn, width, 2)
        self.layer_norm3 = nn.LayerNorm(width)
        self.layer_norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = MultiHeadAttention(width, width // 2, heads)

    def forward(self, tokens: Tensor, image: Tensor, token_code: Tensor, image_code: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, T, C) and image (N, s*s, C) after this block.

        Args:
            image: (1 or N, s*s, C).
            token_code: (N, T, C) the tokens as they were before the first block, by which they are found again.
            image_code: (1, s*s, C) code of places.
        """
        if self.is_first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            query = tokens + token_code
            tokens = tokens + self.self_attn(query, query, tokens)
        tokens = self.layer_norm1(tokens)
        key = image + image_code
        tokens = self.layer_norm2(tokens + self.cross_attn_token_to_image(tokens + token_code, key, image))
        tokens = self.layer_norm3(tokens + self.mlp(tokens))
        image = self.layer_norm4(image + self.cross_attn_image_to_token(key, tokens + token_code, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Two blocks, and a last look of the tokens at the image."""

    layers: Any  # of `TwoWayBlock`, which torch's list does not tell

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.layers = nn.ModuleList(TwoWayBlock(config, is_first=number == 0) for number in range(2))
        self.final_attn_token_to_image = MultiHeadAttention(width, width // 2, config.decoder_heads)
        self.layer_norm_final_attn = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, image: Tensor, image_code: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, T, C) and image (N, s*s, C); arguments as in `TwoWayBlock`."""
        x = tokens
        for layer in self.layers:
            x, image = layer(x, image, tokens, image_code)
        looked = self.final_attn_token_to_image(x + tokens, image + image_code, image)
        return self.layer_norm_final_attn(x + looked), image


class MaskDecoder(nn.Module):
    """Prompt tokens and frame features to three candidate masks for each object."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        c = config.hidden_size
        self.iou_token = nn.Embedding(1, c)
        self.mask_tokens = nn.Embedding(MASK_TOKENS, c)
        self.transformer = TwoWayTransformer(config)
        self.upscale_conv1 = nn.ConvTranspose2d(c, c // 4, kernel_size=2, stride=2)
        self.upscale_conv2 = nn.ConvTranspose2d(c // 4, c // 8, kernel_size=2, stride=2)
        self.upscale_layer_norm = ChannelNorm(c // 4)
        self.activation = nn.GELU()
        self.output_hypernetworks_mlps = nn.ModuleList(FeedForward(c, c, c // 8, 3) for _ in range(MASK_TOKENS))
        self.iou_prediction_head = FeedForward(c, config.iou_head_hidden, MASK_TOKENS, 3)
        self.conv_s0 = nn.Conv2d(c, c // 8, kernel_size=1)
        self.conv_s1 = nn.Conv2d(c, c // 4, kernel_size=1)
        self.obj_score_token = nn.Embedding(1, c)
        self.pred_obj_score_head = FeedForward(c, c, 1, 3)

    def forward(
        self, image: Tensor, image_code: Tensor, prompts: Tensor, high_res_0: Tensor, high_res_1: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode N objects.

        Args:
            image: (1 or N, C, s, s) features of the frame, with the mask prompt added.
            image_code: (1, C, s, s) code of places.
            prompts: (N, P, C).
            high_res_0, high_res_1: (1 or N, ...) as in `FrameFeatures`.

        Returns:
            (N, 3, 4s, 4s) mask logits, (N, 3) predicted IoU, (N, 3, C) tokens of the masks, and (N,) logits of whether
            the object is there.
        """
        own = torch.cat([self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(prompts), -1, -1), prompts], 1).to(own.dtype)
        side = image.shape[-2:]
        tokens, cells = self.transformer(tokens, *(x.flatten(2).transpose(1, 2) for x in (image, image_code)))
        wide = cells.transpose(1, 2).unflatten(2, side)
        wide = self.activation(self.upscale_layer_norm(self.upscale_conv1(wide) + high_res_1))
        wide = self.activation(self.upscale_conv2(wide) + high_res_0)
        mask_tokens = tokens[:, 2 : 2 + MASK_TOKENS]
        kernels = [mlp(mask_tokens[:, number]) for number, mlp in enumerate(self.output_hypernetworks_mlps)]
        masks = (torch.stack(kernels, 1) @ wide.flatten(2)).unflatten(2, wide.shape[-2:])
        ious = self.iou_prediction_head(tokens[:, 1]).sigmoid()
        score = self.pred_obj_score_head(tokens[:, 0])[:, 0]
        return masks[:, 1:], ious[:, 1:], mask_tokens[:, 1:], score
