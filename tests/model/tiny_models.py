"""A model of a few hundred thousand parameters with every part of the real one, and its parts as released files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unipixel.model.config import UniPixelConfig
from unipixel.model.presets import TINY_SAM
from unipixel.model.tensor_names import build_disk_layout
from unipixel.model.unipixel import UniPixel

QWEN: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "vision_config": {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_heads": 2,
        "out_hidden_size": 32,
        "window_size": 56,
        "fullatt_block_indexes": [1],
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
    },
    "image_token_id": 50,
    "video_token_id": 51,
    "eos_token_id": 52,
}


def tiny_config(*, tied: bool = True, **changes: Any) -> UniPixelConfig:
    tree = {**QWEN, "ref_token_id": 53, "seg_token_id": 54, "mem_token_id": 55, "tie_word_embeddings": tied, **changes}
    return UniPixelConfig.from_dict({**tree, "sam2_image_size": TINY_SAM.image_size, "pixel": {}}, TINY_SAM.to_hydra())


def tiny_model(*, tied: bool = True, seed: int = 0) -> UniPixel:
    """A model with every tensor random, so that no two can be mistaken for each other."""
    torch.manual_seed(seed)
    model = UniPixel(tiny_config(tied=tied)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model


def disk_tensors(model: UniPixel) -> dict[str, Tensor]:
    """The model's tensors under disk names, the head of a tied model left out."""
    tensors = {name: places[0][1].clone() for name, places in build_disk_layout(model.state_dict()).items()}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    return tensors


def write_checkpoint(folder: Path, config: UniPixelConfig, tensors: dict[str, Tensor]) -> Path:
    config.save(folder)
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_qwen(folder: Path, model: UniPixel) -> Path:
    """The language part alone, as a Qwen2.5-VL release."""
    folder.mkdir(parents=True)
    tied = model.config.tie_word_embeddings
    (folder / "config.json").write_text(json.dumps({**QWEN, "model_type": "qwen2_5_vl", "tie_word_embeddings": tied}))
    tensors = {k: v for k, v in disk_tensors(model).items() if k.startswith(("visual.", "model.", "lm_head."))}
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_sam(path: Path, model: UniPixel) -> Path:
    """The segmenter alone, as Meta releases it."""
    tensors = {k.removeprefix("sam2."): v for k, v in disk_tensors(model).items() if k.startswith("sam2.")}
    for i in range(model.config.sam.fuser_layers):
        tensors[f"memory_encoder.fuser.layers.{i}.gamma"] = tensors.pop(f"memory_encoder.fuser.layers.{i}.weight")
    torch.save({"model": tensors}, path)
    return path


def assert_same_tensors(one: UniPixel, other: UniPixel) -> None:
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different
