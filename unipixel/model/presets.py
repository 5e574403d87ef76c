"""Sizes of small models: `nano`, that of the `debug` recipe, and the tiny segmenter of tests and quick measurements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from unipixel.model.config import (
    RELEASED_PIXEL,
    PixelConfig,
    SamConfig,
    UniPixelConfig,
    build_language_section,
    build_vision_section,
)
from unipixel.model.unipixel import UniPixel

IMAGE_SIZE = 280
"""Side of a square picture as the language model of a new `nano` sees it, pixels: 10 x 10 visual tokens."""
SAM_SIZE = 320
"""Side of a frame as `nano`'s SAM sees it, pixels. The decoder's quarter-size grid bounds IoU on stickers: 0.89 with
160, 0.91 with 192, 0.94 with 224 (true masks there and back); larger frames help small things (docs/experiments.md)."""
NANO_SAM = SamConfig(
    image_size=SAM_SIZE,
    hidden_size=128,
    memory_size=64,
    embed_dim=32,
    num_heads=1,
    stages=(2, 3, 6, 2),
    global_blocks=(7, 9, 10),
    window_sizes=(8, 4, 10, 5),
    background_size=(7, 7),
    memory_attention_layers=2,
    memory_attention_ffn=512,
    fuser_layers=1,
    decoder_ffn=512,
    decoder_heads=4,
    iou_head_hidden=128,
    dropout=0.0,
)
TINY_SAM = SamConfig(
    image_size=64,
    hidden_size=32,
    memory_size=8,
    embed_dim=8,
    num_heads=1,
    stages=(1, 1, 2, 1),
    global_blocks=(3,),
    window_sizes=(4, 4, 4, 2),
    background_size=(4, 4),
    memory_attention_layers=2,
    memory_attention_ffn=32,
    decoder_ffn=32,
    decoder_heads=2,
    iou_head_hidden=32,
)
"""A segmenter that runs in milliseconds."""
_MARKERS = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "vision_token_id": "<|vision_pad|>",
}
"""Fields of ``config.json`` that the original code reads, and what they number."""


def build_config(
    vocab_size: int,
    token_ids: dict[str, int],
    sam: SamConfig,
    *,
    language: dict[str, Any],
    vision: dict[str, Any],
    pixel: PixelConfig | None = None,
    tied: bool = True,
    mrope_section: tuple[int, int, int] = (4, 6, 6),
) -> UniPixelConfig:
    """A model of any size around the special tokens of a tokenizer.

    Args:
        vocab_size: entries of the tokenizer.
        token_ids: ids of the special tokens by their text.
        language, vision: fields of `LANGUAGE_DEFAULTS` and `VISION_DEFAULTS`.
        tied: whether the output head is the embedding.
        mrope_section: how half of a head's width is shared among time, height and width.
    """
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(mrope_section)}
    text = build_language_section(vocab_size=vocab_size, rope_parameters=rope, **language)
    return UniPixelConfig(
        language=text,
        vision=build_vision_section(out_hidden_size=text.hidden_size, **vision),
        sam=sam,
        pixel=pixel or PixelConfig(visual_place_encoding=True, region_place_encoding=True),
        tie_word_embeddings=tied,
        image_token_id=token_ids["<|image_pad|>"],
        video_token_id=token_ids["<|video_pad|>"],
        ref_token_id=token_ids["<|ref|>"],
        seg_token_id=token_ids["<|seg|>"],
        mem_token_id=token_ids["<|mem|>"],
        eos_token_ids=(token_ids["<|im_end|>"],),
        carried={name: token_ids[token] for name, token in _MARKERS.items()},
    )


def build_nano_config(vocab_size: int, token_ids: dict[str, int]) -> UniPixelConfig:
    """Sizes of `nano`: about 13 million parameters; arguments as in `build_config`."""
    language = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 8}
    vision = {"depth": 4, "hidden_size": 192, "intermediate_size": 576, "num_heads": 6}
    return build_config(
        vocab_size,
        token_ids,
        NANO_SAM,
        language=language | {"num_key_value_heads": 4, "max_position_embeddings": 8192},
        vision=vision | {"fullatt_block_indexes": [0, 1, 2, 3]},
        pixel=PixelConfig(
            visual_place_encoding=True,
            region_place_encoding=True,
            min_track_score=0.15,
            start_frame="best",
            candidate_temperature=0.03,
            guided_radius=4,
        ),
    )


def build_debug_config(vocab_size: int, token_ids: dict[str, int]) -> UniPixelConfig:
    """The smallest model with every part: about 0.3 million parameters, for the `debug` recipe."""
    language = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
    return build_config(
        vocab_size,
        token_ids,
        replace(TINY_SAM, memory_attention_ffn=64, fuser_layers=1, decoder_ffn=64, dropout=0.0),
        language=language | {"num_key_value_heads": 1, "max_position_embeddings": 2048},
        vision=vision | {"fullatt_block_indexes": [0, 1]},
    )


@torch.no_grad()
def initialise(model: UniPixel, generator: torch.Generator) -> None:
    """Fan-in scaled weights for narrow networks, where transformers' constant 0.02 starves the signal."""

    def normal(tensor: torch.Tensor, std: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator).clamp(-2, 2) * std)

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d):
            if module is model.lm_head:
                continue  # tied to the embeddings
            weight = module.weight
            fan_in = weight.shape[0] if isinstance(module, nn.ConvTranspose2d) else weight[0].numel()
            # branches that add to the residual stream start smaller, so that its scale does not grow with depth
            inner = name.startswith(("language", "visual.blocks")) and name.endswith(
                ("o_proj", "down_proj", "attn.proj")
            )
            normal(weight, fan_in**-0.5 * (0.5 if inner else 1.0))
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            # SAM's prompt tokens are few and compared with image features of unit scale
            normal(module.weight, module.embedding_dim**-0.5 if module is model.language.embed_tokens else 1.0)
    # a word looks for visual tokens that carry it: queries and keys compare the same directions from the start
    heads, groups = model.config.language.num_attention_heads, model.config.language.num_key_value_heads
    for layer in model.language.layers:
        query, key = layer.self_attn.q_proj.weight.mul_(1.4), layer.self_attn.k_proj.weight
        key.copy_(query.unflatten(0, (groups, heads // groups, -1))[:, 0].flatten(0, 1))
    sam = model.segmenter
    # where a prompt points and where a cell lies are written in one code, and attention compares them from the start
    code = sam.shared_image_embedding.positional_embedding
    for matrix in (code, model.prompt_encoder.time_matrix):
        matrix.copy_(torch.randn(matrix.shape, generator=generator))
    model.prompt_encoder.encoder.shared_embedding.positional_embedding.copy_(code)
    transformer = sam.mask_decoder.transformer
    crossing = [
        x for layer in transformer.layers for x in (layer.cross_attn_token_to_image, layer.cross_attn_image_to_token)
    ]
    for attention in (*crossing, transformer.final_attn_token_to_image):
        attention.k_proj.weight.copy_(attention.q_proj.weight)
    # prompts differ in their place only, so nothing that all prompts share may be louder than the code of place
    decoder, prompts = sam.mask_decoder, sam.prompt_encoder
    for table in (
        decoder.iou_token,
        decoder.mask_tokens,
        decoder.obj_score_token,
        prompts.not_a_point_embed,
        prompts.no_mask_embed,
    ):
        table.weight.mul_(0.1)
    prompts.point_embed.weight.mul_(0.3)
    for lateral in sam.vision_encoder.neck.convs:
        lateral.weight.mul_(0.1)
    backbone = sam.vision_encoder.backbone
    for tensor in (backbone.pos_embed, backbone.pos_embed_window):
        normal(tensor, 0.5)
    for layer in sam.memory_encoder.memory_fuser.layers:
        layer.scale.fill_(0.1)
    for tensor in (sam.memory_temporal_positional_encoding, sam.no_memory_embedding, sam.no_object_pointer):
        normal(tensor, 0.02)
    normal(sam.occlusion_spatial_embedding_parameter, 0.02)


RELEASED: dict[str, tuple[dict[str, Any], int, bool]] = {
    "3b": (
        {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
         "num_key_value_heads": 2},
        151936,
        True,
    ),
    "7b": (
        {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
         "num_key_value_heads": 4},
        152064,
        False,
    ),
}  # fmt: skip
"""Name of a released checkpoint -> sizes of its language model, entries of its vocabulary, whether the head is tied."""
_VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "window_size": 112}


def build_released_config(name: str, token_ids: dict[str, int] | None = None) -> UniPixelConfig:
    """Sizes of a released checkpoint, for measurements and predictions without its files.

    Args:
        name: ``"3b"`` or ``"7b"``.
        token_ids: as for `build_config`; without them the numbers of the special tokens mean nothing.

    Source: Qwen2.5-VL technical report, table 1; Hiera-B+ at 768 px (UniPixel, section 4.1).
    """
    language, entries, tied = RELEASED[name]
    special = ("<|image_pad|>", "<|video_pad|>", "<|ref|>", "<|seg|>", "<|mem|>", "<|im_end|>", *_MARKERS.values())
    return build_config(
        entries,
        token_ids or {token: number for number, token in enumerate(special)},
        SamConfig(),
        language=language | {"max_position_embeddings": 128000},
        vision=_VISION | {"fullatt_block_indexes": [7, 15, 23, 31]},
        pixel=RELEASED_PIXEL,
        tied=tied,
        mrope_section=(16, 24, 24),
    )
