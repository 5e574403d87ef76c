"""A small tokenizer, a processor around it, and a model small enough for a test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from unipixel.masks import MaskTrack
from unipixel.media import Media
from unipixel.model.config import SamConfig, UniPixelConfig, build_language_section, build_vision_section
from unipixel.model.unipixel import UniPixel
from unipixel.processing import ImageSettings, Processor, build_tokenizer

TEXTS = (
    "Please segment the dog in this image.",
    "What is [1]? Where is the red apple?",
    "the dog [1] <|seg|> and the cat",
    "It doesn't fit (at all), it's a café.",
)


@pytest.fixture(scope="session")
def texts() -> tuple[str, ...]:
    """What the small tokenizer was built from."""
    return TEXTS


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return build_tokenizer(TEXTS)


@pytest.fixture(scope="session")
def processor(tokenizer: Any) -> Processor:
    """About 56 x 84 pixels for the language model (6 tokens a frame), 64 x 64 for SAM."""
    return Processor(
        tokenizer,
        ImageSettings(min_pixels=4500, max_pixels=5000, share_budget=False, sam_size=64, max_frames=4),
    )


@pytest.fixture
def clip() -> Media:
    """Three frames of 40 x 60 pixels."""
    return Media.from_array(np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8))


@pytest.fixture
def objects() -> dict[int, MaskTrack]:
    """Object 1 on all frames of the clip, object 2 on the last only."""
    masks = np.zeros((2, 3, 40, 60), dtype=bool)
    masks[0, :, 5:20, 5:20] = True
    masks[1, 2, 25:35, 40:55] = True
    return {1: MaskTrack.from_masks(masks[0]), 2: MaskTrack.from_masks(masks[1])}


@pytest.fixture(scope="session")
def model(processor: Processor) -> UniPixel:
    """Random weights, two layers."""
    torch.manual_seed(0)
    ids = processor.chat.ids
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    language = build_language_section(
        vocab_size=len(processor.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        rope_parameters=rope,
    )
    vision = build_vision_section(
        depth=2, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=32, fullatt_block_indexes=[1]
    )
    sam = SamConfig(
        image_size=64,
        hidden_size=32,
        memory_size=8,
        embed_dim=16,
        num_heads=1,
        stages=(1, 1, 1, 1),
        global_blocks=(),
        window_sizes=(4, 4, 4, 2),
        background_size=(4, 4),
        memory_attention_layers=1,
        memory_attention_ffn=32,
        fuser_layers=1,
        decoder_ffn=32,
        decoder_heads=2,
        iou_head_hidden=32,
        dropout=0.0,
    )
    config = UniPixelConfig(
        language=language,
        vision=vision,
        sam=sam,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        ref_token_id=ids["<|ref|>"],
        seg_token_id=ids["<|seg|>"],
        mem_token_id=ids["<|mem|>"],
        eos_token_ids=(ids["<|im_end|>"],),
    )
    return UniPixel(config).eval()
