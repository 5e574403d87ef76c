"""The segmenter's layers against transformers' classes of SAM 2 with the same weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VisionConfig
from transformers.models.sam2.modeling_sam2 import Sam2VisionModel
from transformers.models.sam2_video.configuration_sam2_video import (
    Sam2VideoMaskDecoderConfig,
    Sam2VideoPromptEncoderConfig,
)
from transformers.models.sam2_video.modeling_sam2_video import (
    Sam2VideoMaskDecoder,
    Sam2VideoMemoryAttention,
    Sam2VideoMemoryEncoder,
    Sam2VideoPromptEncoder,
    Sam2VideoRoPEAttention,
)

from unipixel.model import hiera
from unipixel.model.config import SamConfig
from unipixel.model.memory_attention import build_sine_encoding, build_time_encoding
from unipixel.model.presets import NANO_SAM, TINY_SAM
from unipixel.model.segmenter import MEMORY_BIAS, MEMORY_SCALE, FrameFeatures, Segmenter

PADDED = replace(TINY_SAM, image_size=96, window_sizes=(4, 4, 10, 3), decoder_heads=4, fuser_layers=1, dropout=0.0)
"""With windows that do not fill the grid."""
SMALL = replace(NANO_SAM, image_size=160)
SIZES = pytest.mark.parametrize("size", [replace(TINY_SAM, dropout=0.0), SMALL, PADDED], ids=["tiny", "nano", "padded"])


class Sam2Parts(nn.Module):
    """The parts of transformers under the names that they have in ours."""

    def __init__(self, size: SamConfig) -> None:
        super().__init__()
        s, c, widths = size.grid, size.hidden_size, [size.embed_dim * 2**i for i in range(4)]
        backbone = Sam2HieraDetConfig(
            hidden_size=size.embed_dim,
            num_attention_heads=size.num_heads,
            image_size=[size.image_size, size.image_size],
            blocks_per_stage=list(size.stages),
            embed_dim_per_stage=widths,
            num_attention_heads_per_stage=[size.num_heads * 2**i for i in range(4)],
            window_size_per_stage=list(size.window_sizes),
            global_attention_blocks=list(size.global_blocks),
            window_positional_embedding_background_size=list(size.background_size),
        )
        vision = Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=widths[::-1],
            backbone_feature_sizes=[[4 * s, 4 * s], [2 * s, 2 * s], [s, s]],
            fpn_hidden_size=c,
        )
        decoder = Sam2VideoMaskDecoderConfig(
            hidden_size=c,
            mlp_dim=size.decoder_ffn,
            num_attention_heads=size.decoder_heads,
            iou_head_hidden_dim=size.iou_head_hidden,
            dynamic_multimask_via_stability=False,
        )
        prompts = Sam2VideoPromptEncoderConfig(hidden_size=c, image_size=size.image_size)
        whole = Sam2VideoConfig(
            vision_config=vision,
            prompt_encoder_config=prompts,
            mask_decoder_config=decoder,
            image_size=size.image_size,
            memory_attention_hidden_size=c,
            memory_attention_num_layers=size.memory_attention_layers,
            memory_attention_feed_forward_hidden_size=size.memory_attention_ffn,
            memory_attention_dropout=size.dropout,
            memory_attention_rope_dropout=size.dropout,
            memory_attention_rope_feat_sizes=[s, s],
            memory_encoder_hidden_size=c,
            memory_encoder_output_channels=size.memory_size,
            mask_downsampler_embed_dim=c,
            memory_fuser_embed_dim=c,
            memory_fuser_intermediate_dim=4 * c,
            memory_fuser_num_layers=size.fuser_layers,
        )
        for config in (whole, vision, backbone, decoder):
            config._attn_implementation = "sdpa"
        self.vision_encoder: Any = Sam2VisionModel(vision)
        self.prompt_encoder = Sam2VideoPromptEncoder(prompts)
        self.mask_decoder = Sam2VideoMaskDecoder(decoder)
        self.memory_attention: Any = Sam2VideoMemoryAttention(whole)
        for layer in self.memory_attention.layers:
            layer.cross_attn_image = Sam2VideoRoPEAttention(whole, kv_in_dim=size.memory_size, rope_k_repeat=True)
        self.memory_encoder = Sam2VideoMemoryEncoder(whole)


def build_pair(size: SamConfig) -> tuple[Segmenter, Sam2Parts]:
    """Both with the same weights, biases and norms among them: a bias of zero would hide what stands behind padding."""
    ours, theirs, generator = Segmenter(size), Sam2Parts(size), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, one in sorted(ours.named_parameters()):
            one.copy_(torch.randn(one.shape, generator=generator) * 0.1 + ("norm" in name and name.endswith("weight")))
    state = {
        name: one for name, one in ours.state_dict().items() if name.split(".")[0] in dict(theirs.named_children())
    }
    theirs.load_state_dict(state)
    return ours.eval(), theirs.eval()


def encode(theirs: Sam2Parts, frames: Tensor) -> FrameFeatures:
    fine, middle, coarse = theirs.vision_encoder(frames).fpn_hidden_states
    return FrameFeatures(coarse, theirs.mask_decoder.conv_s0(fine), theirs.mask_decoder.conv_s1(middle))


def decode(ours: Segmenter, theirs: Sam2Parts, embed: Tensor, features: FrameFeatures, tokens: Tensor) -> Any:
    """Masks, IoUs, tokens and scores of objects on one frame, or on a frame each."""
    shared = len(embed) == 1
    dense = theirs.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    found = theirs.mask_decoder(
        image_embeddings=embed,
        image_positional_embeddings=ours._build_image_encoding().expand(len(embed), -1, -1, -1),
        sparse_prompt_embeddings=tokens[None] if shared else tokens[:, None],
        dense_prompt_embeddings=dense,
        multimask_output=True,
        high_resolution_features=[features.high_res_0, features.high_res_1],
    )
    return [one.flatten(0, 1) for one in found]


def assert_equal(ours: Any, theirs: Any) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        # torch picks its kernels by the numbers of rows, and sums in another order with each
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


def list_maps(features: FrameFeatures) -> dict[str, Tensor]:
    """The maps by name; the frames themselves are only there where masks follow their colours."""
    assert features.frames is None
    return {name: one for name, one in vars(features).items() if name != "frames"}


@SIZES
@torch.no_grad()
def test_frames_are_encoded_as_by_transformers(size: SamConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As whole pictures and in bands of them."""
    ours, theirs = build_pair(size)
    side = size.image_size
    for frames in (torch.randn(1, 3, side, side), torch.randn(3, 3, side + 32, side + 32)):
        other = list_maps(encode(theirs, frames))
        assert_equal(list_maps(ours.encode(frames)).values(), other.values())
        with monkeypatch.context() as smaller:
            smaller.setattr(hiera, "BAND", 1)
            assert_equal(list_maps(ours.encode(frames)).values(), other.values())
    rough = list_maps(ours.to(torch.bfloat16).encode(frames))
    assert all((rough[name] - one).norm() < 0.05 * one.norm() for name, one in other.items())


@SIZES
@torch.no_grad()
def test_masks_are_decoded_as_by_transformers(size: SamConfig) -> None:
    """One and several objects on one frame, and each on its own; queries, clicks and boxes."""
    ours, theirs = build_pair(size)
    features = ours.encode(torch.randn(3, 3, size.image_size, size.image_size))
    hidden = torch.randn(3, 2, size.hidden_size)
    coords, labels = torch.rand(3, 2, 2) * size.image_size, torch.tensor([[1, 0], [2, 3], [1, -1]])
    points = theirs.prompt_encoder(coords[:, None], labels[:, None], None, None)[0][:, 0]
    assert torch.equal(ours.prompt_encoder(coords, labels), points)
    nothing = theirs.prompt_encoder.not_a_point_embed.weight.expand(3, 2, -1)
    rough = Segmenter(size).eval()
    rough.load_state_dict(ours.state_dict())
    rough.to(torch.bfloat16)
    for frames, count in ((features[:1], 1), (features[:1], 3), (features, 3)):
        embed = ours.add_no_memory(frames)
        for tokens, given in (
            (torch.cat([nothing, hidden], 1), (hidden[:count], None)),
            (points, (None, (coords[:count], labels[:count]))),
            (torch.cat([points, hidden], 1), (hidden[:count], (coords[:count], labels[:count]))),
        ):
            found = ours.decode(embed, frames, *given, mark_absent=False)
            masks, ious, _, score = decode(ours, theirs, embed, frames, tokens[:count])
            assert_equal(
                (found.multimask_logits, found.multimask_ious, found.object_score_logits), (masks, ious, score[:, 0])
            )
        half = FrameFeatures(*(one.bfloat16() for one in list_maps(frames).values()))
        found = rough.decode(embed.bfloat16(), half, hidden[:count].bfloat16(), mark_absent=False)
        masks = decode(ours, theirs, embed, frames, torch.cat([nothing, hidden], 1)[:count])[0]
        assert (found.multimask_logits - masks).norm() < 0.05 * masks.norm()


@SIZES
@torch.no_grad()
def test_mask_prompts_and_memories_are_encoded_as_by_transformers(size: SamConfig) -> None:
    ours, theirs = build_pair(size)
    low_res, embed = torch.randn(3, 1, 4 * size.grid, 4 * size.grid), torch.randn(1, size.hidden_size, *[size.grid] * 2)
    assert torch.equal(ours.prompt_encoder.mask_embed(low_res), theirs.prompt_encoder.mask_embed(low_res))
    full = torch.rand(3, 1, size.image_size, size.image_size) * MEMORY_SCALE + MEMORY_BIAS
    assert_equal([ours.memory_encoder(embed, full)], [theirs.memory_encoder(embed, full)[0]])


def attend(ours: Segmenter, theirs: Sam2Parts, embed: Tensor, memories: Tensor, pointers: Tensor) -> Tensor:
    """Memory attention of transformers, object by object, with our codes of place and time, in slots 6, 1, 0."""
    size = ours.config
    channels, width, grid = size.hidden_size, size.memory_size, size.grid
    code = build_sine_encoding(grid, width, embed.device) + ours.memory_temporal_positional_encoding[[6, 1, 0], 0]
    moment = ours.temporal_positional_encoding_projection_layer(build_time_encoding(torch.tensor([0.4, 0.2]), channels))
    code = torch.cat([code.flatten(0, 1), moment.repeat_interleave(channels // width, 0)])
    rows = []
    for memory, pointer in zip(memories, pointers, strict=True):
        values = torch.cat([memory.flatten(0, 1), pointer.reshape(-1, width)])
        found = theirs.memory_attention(
            current_vision_features=embed.flatten(2).permute(2, 0, 1),
            current_vision_position_embeddings=build_sine_encoding(grid, channels, embed.device)[:, None],
            memory=values[:, None],
            memory_posision_embeddings=code[:, None],
            num_object_pointer_tokens=pointer.numel() // width,
        )
        rows.append(found.reshape(grid * grid, channels).t().unflatten(1, (grid, grid)))
    return torch.stack(rows)


@SIZES
@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_memories_are_attended_to_as_by_transformers(size: SamConfig, count: int, is_training: bool) -> None:
    ours, theirs = build_pair(size)
    ours.train(is_training)
    embed = torch.randn(1, size.hidden_size, size.grid, size.grid)
    memories, pointers = torch.randn(count, 3, size.grid**2, size.memory_size), torch.randn(count, 2, size.hidden_size)
    found = ours.attend(embed, memories, [6, 1, 0], pointers, [0.4, 0.2])
    torch.testing.assert_close(found, attend(ours, theirs, embed, memories, pointers), atol=1e-4, rtol=1e-4)


@SIZES
def test_gradients_are_those_of_transformers(size: SamConfig) -> None:
    """Through the encoder and the mask decoder, of objects that have a frame each; in fp64, since rounding adds up."""
    ours, theirs = build_pair(size)
    ours.double().train(), theirs.double().train()
    frames, hidden = torch.randn(2, 3, size.image_size, size.image_size), torch.randn(2, 2, size.hidden_size)
    frames, hidden = frames.double(), hidden.double()
    features = ours.encode(frames)
    found = ours.decode(ours.add_no_memory(features), features, hidden, mark_absent=False)
    (found.multimask_logits.square().mean() + found.multimask_ious.mean() + found.object_score_logits.mean()).backward()
    features = encode(theirs, frames)
    tokens = torch.cat([theirs.prompt_encoder.not_a_point_embed.weight.expand(2, 2, -1), hidden], 1)
    masks, ious, _, score = decode(ours, theirs, ours.add_no_memory(features), features, tokens)
    (masks.square().mean() + ious.mean() + score.mean()).backward()
    own = dict(ours.named_parameters())
    known = {name: one for name, one in theirs.named_parameters() if one.grad is not None}
    assert any("vision_encoder.backbone.pos_embed" in name for name in known)
    for name, one in known.items():
        torch.testing.assert_close(own[name].grad, one.grad, atol=1e-6, rtol=1e-3, msg=name)


def test_names_and_first_values_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    ours = Segmenter(NANO_SAM)
    torch.manual_seed(0)
    theirs = Sam2Parts(NANO_SAM)
    children = dict(theirs.named_children())
    own = {name: one for name, one in ours.state_dict().items() if name.split(".")[0] in children}
    assert list(own) == list(theirs.state_dict())
    for name, one in theirs.state_dict().items():
        assert own[name].shape == one.shape
        if name.startswith("vision_encoder."):
            assert torch.equal(own[name], one), name
