"""How much memory a model takes for a question, predicted from its sizes before anything is loaded.

What is counted: the weights; what lives as long as the session (the cache of the language model, the features that SAM
keeps, the memories of tracked objects); and the largest of what lives for a moment, one stage after the other. Each
stage is counted at its fullest line of code. On CPUs the others are added: the C library keeps what they have freed,
and hardly any of it has the size that the next one asks for. What the libraries take is a measured constant.
`tools/check_memory.py` compares predictions with measured runs.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from unipixel.engine.machine import SHORT_NAMES, computes_in_bf16
from unipixel.engine.tracking import CACHED_FRAMES, PIXELS_AT_ONCE, choose_encode_batch
from unipixel.errors import CheckpointError
from unipixel.model.config import UniPixelConfig
from unipixel.model.hiera import BAND, QUERIES_AT_ONCE
from unipixel.model.presets import RELEASED, build_released_config
from unipixel.model.quantization import BITS, list_quantized_weights
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import build_empty_model, read_checkpoint, resolve_checkpoint
from unipixel.processing import ImageSettings, Processor

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "bf16-weights": 2.0, "int8": 1.0, "int4": 0.625}
"""Of one weight of a linear layer. int4 has a scale and a zero of 2 bytes each for 32 weights."""
LIBRARIES = 315e6
"""Bytes of a process that has loaded torch and answered nothing yet; on Linux, CPU build."""
CUDA_CONTEXT = 500e6
"""Bytes that a GPU gives to each process before any tensor; of the main memory's libraries nothing lies there."""
QUESTION_TOKENS = 64


def predict_memory(
    config: UniPixelConfig,
    settings: ImageSettings,
    *,
    frames: int,
    objects: int,
    size_hw: tuple[int, int] = (720, 1280),
    dtype: str = "bfloat16",
    max_new_tokens: int = 256,
    device: str = "cpu",
) -> dict[str, int]:
    """Bytes of each part of the peak, of which ``"peak"`` is the sum.

    Args:
        config, settings: of the checkpoint.
        frames: T, frames of the clip; the language model sees at most `ImageSettings.max_seen_frames` of them.
        objects: N, objects that are tracked together.
        size_hw: of the source, pixels.
        dtype: ``float32``, ``bfloat16``, ``float16``, ``bf16-weights``, ``int8`` or ``int4``.
        max_new_tokens: longest reply.
        device: ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: a number below 1, or another type.
    """
    dtype = SHORT_NAMES.get(dtype, dtype)
    if dtype not in BYTES:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join([*SHORT_NAMES, *BITS])}")
    for name, value in (("frames", frames), ("objects", objects), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    width = find_number_width(dtype)
    seen = min(frames, settings.max_seen_frames) * settings.frame_repeats
    height, breadth = settings.compute_resized_hw(size_hw, seen)
    steps = math.ceil(seen / settings.temporal_patch_size)
    patches = steps * (height // settings.patch_size) * (breadth // settings.patch_size)
    tokens = patches // settings.merge_size**2 + QUESTION_TOKENS
    weights = count_weight_bytes(build_empty_model(config), dtype)
    at_once = min(choose_encode_batch(torch.device(device)), frames)
    stages = {
        "vision tower": _count_vision(config, patches, width),
        "prefill": _count_prefill(config, tokens, width),
        "SAM encoder": _count_encoder(config, at_once, width, in_bands=device == "cpu"),
        "tracking": _count_tracking(config, frames, objects, size_hw, width),
    }
    busiest = max(stages, key=lambda name: stages[name])
    parts = {
        "libraries": CUDA_CONTEXT if device == "cuda" else LIBRARIES,
        "weights": weights,
        "cache": count_cache_bytes(config, tokens + max_new_tokens, width),
        "visual tokens": tokens * width * (config.language.hidden_size + 4 * config.vision.hidden_size),
        "SAM features": count_feature_bytes(config, frames, width),
        "object memories": _count_memories(config, frames, objects, width),
        f"activations ({busiest})": stages[busiest],
        "freed, but kept": 0.0 if device == "cuda" else sum(stages.values()) - stages[busiest],
    }
    whole = {name: round(value) for name, value in parts.items()}
    return whole | {"peak": sum(whole.values())}


def find_number_width(dtype: str) -> float:
    """Bytes of a number in the type that a model computes in, which is that of all weights but its linear layers'."""
    if dtype in ("int8", "int4"):
        return BYTES["bfloat16" if computes_in_bf16() else "float32"]
    return BYTES["float32" if dtype == "bf16-weights" else dtype]


def count_weight_bytes(model: UniPixel, dtype: str) -> float:
    """Bytes of a model's parameters and buffers when it is loaded in a type; tied weights count once."""
    bits = BITS.get(dtype)
    kept = find_number_width(dtype)
    rounded = {} if bits is None else list_quantized_weights(model, bits)
    each = {number: BYTES[name] for name, number in BITS.items()}
    total = float(sum(buffer.numel() * buffer.element_size() for buffer in model.buffers()))
    for name, parameter in model.named_parameters():
        total += parameter.numel() * (each[rounded[name]] if name in rounded else kept)
    return total


def count_cache_bytes(config: UniPixelConfig, tokens: int, width: float) -> float:
    """Keys and values of all layers, of numbers of ``width`` bytes."""
    language = config.language
    head = language.hidden_size // language.num_attention_heads
    return 2 * language.num_hidden_layers * language.num_key_value_heads * head * tokens * width


def count_feature_bytes(config: UniPixelConfig, frames: int, width: float) -> float:
    """What SAM keeps of the frames of a clip, of numbers of ``width`` bytes."""
    sam = config.sam
    own = 3 * sam.image_size**2 * 4 if config.pixel.guided_radius else 0  # the frames themselves, in fp32
    return min(frames, CACHED_FRAMES) * (4 * sam.hidden_size * sam.grid**2 * width + own)


def _count_vision(config: UniPixelConfig, patches: int, width: float) -> float:
    """The tower at its MLP, or at its attention, with the patches themselves, which are in fp32."""
    vision = config.vision
    pixels = patches * 4 * 3 * vision.temporal_patch_size * vision.patch_size**2
    attention = patches * vision.hidden_size * (7 * width + 4 * 4)  # q, k, v twice and the residual; rotated in fp32
    mlp = patches * width * (2 * vision.hidden_size + 3 * vision.intermediate_size)
    return pixels + max(attention, mlp)


def _count_prefill(config: UniPixelConfig, tokens: int, width: float) -> float:
    """A decoder layer at its MLP, with the causal mask, which attention holds as bool and as numbers."""
    language = config.language
    mlp = tokens * width * (3 * language.hidden_size + 3 * language.intermediate_size)
    return mlp + tokens**2 * (1 + width) + 4 * language.vocab_size


def _count_encoder(config: UniPixelConfig, frames: int, width: float, *, in_bands: bool) -> float:
    """Attention of the block that begins Hiera's second stage: the widest picture of all, with twice the channels.

    There are the picture before its norm, after it and in windows, and queries, keys and values, in half precision once
    more as its attention takes them. In bands all but the first are those of one band, and the block's output is there
    twice while the bands are joined.
    """
    sam = config.sam
    side, window = sam.image_size // 4, sam.window_sizes[0]
    band = window * max(1, BAND // (window * frames * side * 8 * sam.embed_dim))
    rows = min(band, side) if in_bands else side
    held, inside = 1 if rows == side else 3, 10 if width == 4 else 14
    return frames * (4 * 3 * sam.image_size**2 + side * (held * side + inside * rows) * sam.embed_dim * width)


def _count_tracking(config: UniPixelConfig, frames: int, objects: int, size_hw: tuple[int, int], width: float) -> float:
    """Memory attention where its keys are turned, at its scores or its MLP; the mask decoder; masks at source size."""
    sam = config.sam
    cells = sam.grid**2
    seen = objects * min(frames - 1, sam.num_memories) * cells
    own, keys = objects * cells * sam.hidden_size * width, seen * sam.hidden_size * width
    turned = seen * sam.hidden_size * 12 + 4 * own  # in fp32, beside the keys before and after it
    scores = seen / objects * min(QUERIES_AT_ONCE, cells) * 2 * width + keys + 8 * own  # and their softmax
    mlp = objects * cells * 2 * sam.memory_attention_ffn * width + keys + 6 * own
    attention = max(turned, scores, mlp) if frames > 1 else 0.0
    upscaled = objects * width * (4 * sam.grid) ** 2 * (3 * sam.hidden_size // 8 + 4)
    at_once = min(objects, max(1, PIXELS_AT_ONCE // math.prod(size_hw)))
    return max(attention, upscaled, at_once * math.prod(size_hw) * 5.0)


def _count_memories(config: UniPixelConfig, frames: int, objects: int, width: float) -> float:
    """What memory attention looks back at, for each object: as it is kept, stacked, as values, and as keys."""
    sam = config.sam
    kept = min(frames - 1, sam.num_memories)
    return objects * kept * sam.grid**2 * sam.memory_size * 4 * width


def describe_size(name: str | Path) -> tuple[UniPixelConfig, ImageSettings]:
    """Config and image settings of ``3b``, ``7b``, or of a checkpoint, whose weights are not read.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    key = str(name).lower()
    if key in RELEASED:
        return build_released_config(key), ImageSettings(sam_size=768)
    try:
        folder = resolve_checkpoint(name)
        return read_checkpoint(folder)[0], Processor.from_folder(folder).settings
    except CheckpointError as error:
        raise CheckpointError(f"{error}; '3b' and '7b' name the sizes of the released checkpoints") from error
