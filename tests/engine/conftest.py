"""A tiny model with random weights, and clips for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from unipixel.engine.engine import Engine
from unipixel.media import Media
from unipixel.model.config import PixelConfig, UniPixelConfig
from unipixel.model.presets import TINY_SAM, build_config
from unipixel.model.unipixel import UniPixel
from unipixel.processing import ImageSettings, Processor, build_tokenizer

TEXTS = (
    "Please segment the dog in this image. What is this? What colour is [1]? About [1]: where is it?",
    "The target is red. Sure, it is the ball. Here is an image with the following highlighted regions:",
)
SIDE = 64


def tiny_config(tokenizer: object, vocab_size: int) -> UniPixelConfig:
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.get_added_vocab()}  # type: ignore[attr-defined]
    language = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2}
    return build_config(
        vocab_size,
        ids,
        replace(TINY_SAM, image_size=SIDE, fuser_layers=1, iou_head_hidden=16, dropout=0.0),
        language=language | {"num_key_value_heads": 1, "max_position_embeddings": 2048},
        vision=vision | {"window_size": 112, "fullatt_block_indexes": [1]},
        pixel=PixelConfig(),
        tied=False,
        mrope_section=(2, 3, 3),
    )


@torch.no_grad()
def randomise(model: UniPixel, seed: int = 0) -> None:
    """Weights with which every part says something; `<|seg|>` is likely, so that replies have objects."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: torch.Tensor, std: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)

    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            fan_in = parameter[0].numel() if parameter.ndim > 2 or "embed" not in name else 1
            normal(parameter, max(fan_in, 1) ** -0.5)
        elif name.endswith("bias"):
            normal(parameter, 0.1)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            normal(module.weight, 1.0)
    normal(model.segmenter.shared_image_embedding.positional_embedding, 1.0)
    normal(model.prompt_encoder.time_matrix, 1.0)
    model.lm_head.weight[model.config.seg_token_id] *= 3
    model.seg_head[3].weight *= 20  # objects that differ
    # and that come and go: scores on both sides of 0
    segmenter, queries = model.segmenter, torch.randn(8, 2, 32, generator=generator) * 5
    head = segmenter.mask_decoder.pred_obj_score_head.proj_out
    frame = segmenter.encode(torch.randn(1, 3, SIDE, SIDE, generator=generator))
    for _ in range(2):
        scores = segmenter.decode(segmenter.add_no_memory(frame), frame, queries).object_score_logits
        head.weight *= 2 / scores.std()
        head.bias *= 2 / scores.std()
        scores = segmenter.decode(segmenter.add_no_memory(frame), frame, queries).object_score_logits
        head.bias -= scores.mean()


@pytest.fixture(scope="session")
def tiny_engine() -> Engine:
    """All parts at toy size, fp32. Tests must not change it."""
    tokenizer = build_tokenizer(TEXTS)
    torch.manual_seed(0)
    model = UniPixel(tiny_config(tokenizer, len(tokenizer)))
    randomise(model)
    settings = ImageSettings(
        min_pixels=28 * 28 * 4,
        max_pixels=28 * 28 * 30,
        share_budget=False,
        max_frames=6,
        sam_size=SIDE,
        target_rule="nearest",
    )
    return Engine(model, Processor(tokenizer, settings))


@pytest.fixture(scope="session")
def clip() -> Callable[..., np.ndarray]:
    """Makes frames, uint8 (T, H, W, 3): coloured blocks that move over noise; another seed, another clip."""

    def make(num_frames: int = 5, height: int = 90, width: int = 120, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        frames = rng.integers(0, 80, (num_frames, height, width, 3), dtype=np.uint8)
        for colour in rng.integers(120, 255, (3, 3)):
            x, y = rng.integers(0, width - 30), rng.integers(0, height - 30)
            dx, dy = rng.integers(-4, 5, 2)
            for t in range(num_frames):
                left, top = np.clip([x + dx * t, y + dy * t], 0, [width - 30, height - 30])
                frames[t, top : top + 30, left : left + 30] = colour
        return frames

    return make


@pytest.fixture(scope="session")
def picture(clip: Callable[..., np.ndarray]) -> Media:
    """A still image."""
    return Media.from_array(clip(1)[0])
