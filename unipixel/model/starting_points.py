"""A model to begin training from: released Qwen2.5-VL and SAM 2.1 weights, and fresh modules between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from unipixel.errors import CheckpointError
from unipixel.model.config import PixelConfig, UniPixelConfig, read_json, read_tying
from unipixel.model.lora_weights import overlay
from unipixel.model.tensor_files import (
    StoredTensor,
    check_tensors,
    has_head,
    read_folder,
    read_sam,
    select_prefixes,
    settle_head,
)
from unipixel.model.tensor_names import build_disk_layout
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import (
    FRESH_PREFIXES,
    build_empty_model,
    fill_model,
    init_fresh_modules,
    list_expected_shapes,
    resolve_checkpoint,
)

QWEN_PREFIXES = ("visual.", "model.", "lm_head.")
SAM_PREFIXES = ("sam2.",)
QWEN_TOKENS = 151665
"""Entries of the Qwen2.5-VL tokenizer; the three added tokens get the next ids."""


def build_starting_config(
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
    generation = folder / "generation_config.json"
    return UniPixelConfig.from_dict(
        {**tree, **added, "sam2_config": sam_name, "sam2_image_size": image_size, "pixel": behaviour},
        generation=read_json(generation) if generation.exists() else None,
        head_stored=None if read_tying(tree) is not None else has_head(folder),
    )


def load_starting_point(
    config: UniPixelConfig,
    *,
    qwen: str | Path | None = None,
    sam: str | Path | None = None,
    partial: Sequence[str | Path] = (),
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[UniPixel, tuple[str, ...]]:
    """Fill a new model with released parts; what they do not cover is freshly initialised and reported by name.

    Fresh modules between the released parts are what the original's training begins with; see
    `weights.init_fresh_modules`. Where a released part itself is not given, it has the first values of its layers.

    Args:
        config: of the new model; `build_starting_config` makes one.
        qwen: Qwen2.5-VL folder or Hub id; fills vision tower, language model and head.
        sam: Meta's ``sam2.1_hiera_*.pt``; fills the segmenter.
        partial: folders of earlier training stages, laid over the rest in order.
        seed: of what is drawn between the released parts.

    Returns:
        The model in training mode, and the disk names of the tensors that no file filled.

    Raises:
        CheckpointError: a part is damaged, or lacks tensors that the config asks for.
    """
    model = build_empty_model(config)
    expected = list_expected_shapes(model)
    tensors: dict[str, StoredTensor] = {}
    if qwen is not None:
        folder = resolve_checkpoint(qwen)
        language = settle_head(read_folder(folder), config.tie_word_embeddings, folder)
        check_tensors(select_prefixes(expected, QWEN_PREFIXES), language, folder)
        tensors.update(language)
    if sam is not None:
        segmenter = read_sam(sam)
        check_tensors(select_prefixes(expected, SAM_PREFIXES), segmenter, sam)
        tensors.update(segmenter)
    laid = tensors
    for stage in partial:
        laid = overlay(laid, resolve_checkpoint(stage))
    fresh = tuple(name for name in expected if name not in laid)
    parts = [name for name in fresh if not name.startswith(FRESH_PREFIXES)]
    if parts:
        donor = UniPixel(config if qwen is None else _drop_language(config))
        layout = build_disk_layout(donor.state_dict())
        tensors |= {name: StoredTensor.from_tensor(layout[name][0][1]) for name in parts}
    shapes = {name: expected[name] for name in fresh if name.startswith(FRESH_PREFIXES)}
    generator = torch.Generator().manual_seed(seed)
    drawn = init_fresh_modules(shapes, tensors, generator, deviation=config.language.initializer_range)
    source = " + ".join(str(x) for x in (qwen, sam, *partial) if x is not None) or "fresh model"
    filled = fill_model(model, {**tensors, **laid, **drawn}, source, device=device, dtype=dtype)
    return filled.train(), fresh


def _drop_language(config: UniPixelConfig) -> UniPixelConfig:
    """The same model around a language model and vision tower of one layer: initialising billions takes minutes."""
    tree = config.to_dict()
    tree["text_config"] |= {"num_hidden_layers": 1, "vocab_size": 8}
    tree["vision_config"] |= {"depth": 1, "fullatt_block_indexes": [0]}
    return UniPixelConfig.from_dict(tree, config.sam.to_hydra())
