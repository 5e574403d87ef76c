"""A model to begin training from: released Qwen2.5-VL and SAM 2.1 weights, and fresh modules between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from unipixel.errors import CheckpointError
from unipixel.model.config import PixelConfig, UniPixelConfig, read_json
from unipixel.model.lora_weights import overlay
from unipixel.model.tensor_files import StoredTensor, check, read_qwen, read_sam, subset
from unipixel.model.tensor_names import disk_layout
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import empty_model, expected_shapes, fill, resolve_checkpoint

QWEN_PREFIXES = ("visual.", "model.", "lm_head.")
SAM_PREFIXES = ("sam2.",)
QWEN_TOKENS = 151665
"""Entries of the Qwen2.5-VL tokenizer; the three added tokens get the next ids."""


@dataclass(frozen=True)
class StartingPoint:
    """A model in training mode, and what in it no file filled."""

    model: UniPixel
    fresh: tuple[str, ...]
    """Disk names of the tensors that kept their random initialisation."""


def starting_config(
    qwen: str | Path,
    *,
    sam_name: str = "configs/sam2.1_hiera_b+",
    image_size: int = 768,
    first_token_id: int = QWEN_TOKENS,
    pixel: PixelConfig | None = None,
) -> UniPixelConfig:
    """The config of a new model on top of a Qwen2.5-VL folder.

    Args:
        qwen: folder or Hub id.
        sam_name: official name of the SAM size.
        image_size: side of SAM's frames, pixels.
        first_token_id: id of `<|ref|>`; `<|seg|>` and `<|mem|>` follow.
        pixel: behaviour; by default that of new models.

    Raises:
        CheckpointError: not a Qwen2.5-VL folder, or its vocabulary has no room for three more tokens.
    """
    folder = resolve_checkpoint(qwen)
    tree = read_json(folder / "config.json")
    if tree.get("model_type") != "qwen2_5_vl":
        raise CheckpointError(f"{folder}: model_type is {tree.get('model_type')!r}, expected 'qwen2_5_vl'")
    text = {**tree, **(tree.get("text_config") or {})}
    if first_token_id + 3 > text.get("vocab_size", 0):
        raise CheckpointError(
            f"{folder}: vocab_size is {text.get('vocab_size')}, the added tokens need at least {first_token_id + 3}"
        )
    added = {"ref_token_id": first_token_id, "seg_token_id": first_token_id + 1, "mem_token_id": first_token_id + 2}
    behaviour = vars(pixel or PixelConfig())
    return UniPixelConfig.from_dict(
        {**tree, **added, "sam2_config": sam_name, "sam2_image_size": image_size, "pixel": behaviour}
    )


def load_starting_point(
    config: UniPixelConfig,
    *,
    qwen: str | Path | None = None,
    sam: str | Path | None = None,
    partial: Sequence[str | Path] = (),
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> StartingPoint:
    """Fill a new model with released parts; what they do not cover is freshly initialised and reported by name.

    The encoder of `<|ref|>` prompts is one of the fresh parts, as in the original, although SAM has one of the same
    shape.

    Args:
        config: of the new model; `starting_config` makes one.
        qwen: Qwen2.5-VL folder or Hub id; fills vision tower, language model and head.
        sam: Meta's ``sam2.1_hiera_*.pt``; fills the segmenter.
        partial: folders of earlier training stages, laid over the rest in order.

    Raises:
        CheckpointError: a part is damaged, or does not have exactly the tensors that the config asks for.
    """
    model = empty_model(config)
    expected = expected_shapes(model)
    tensors: dict[str, StoredTensor] = {}
    if qwen is not None:
        folder = resolve_checkpoint(qwen)
        language = read_qwen(folder, tied=config.tie_word_embeddings)
        check(subset(expected, QWEN_PREFIXES), language, folder)
        tensors.update(language)
    if sam is not None:
        segmenter = read_sam(sam)
        check(subset(expected, SAM_PREFIXES), segmenter, sam)
        tensors.update(segmenter)
    for stage in partial:
        tensors = overlay(tensors, resolve_checkpoint(stage))
    fresh = tuple(name for name in expected if name not in tensors)
    if fresh:
        donor = UniPixel(config if qwen is None else _without_language(config))
        layout = disk_layout(donor.state_dict())
        tensors.update({name: StoredTensor.of(layout[name][0][1]) for name in fresh})
    source = " + ".join(str(x) for x in (qwen, sam, *partial) if x is not None) or "fresh model"
    return StartingPoint(fill(model, tensors, source, device=device, dtype=dtype).train(), fresh)


def _without_language(config: UniPixelConfig) -> UniPixelConfig:
    """The same model around a language model and vision tower of one layer: initialising billions takes minutes."""
    tree = config.to_dict()
    tree["text_config"] |= {"num_hidden_layers": 1, "vocab_size": 8}
    tree["vision_config"] |= {"depth": 1, "fullatt_block_indexes": [0]}
    return UniPixelConfig.from_dict(tree, config.sam.to_hydra())
