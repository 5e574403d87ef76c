"""Adapter folders: LoRA matrices and partly trained modules, laid over a base model as its tensors are read.

Layout of a folder that training wrote: ``adapter_config.json`` with ``adapter_model.safetensors`` (or ``.bin``), as
peft writes them, ``pytorch_model.safetensors`` (or ``.bin``) with the modules that were trained whole, and the model's
``config.json``, whose ``base_model_path`` names the base. Either weight file may be absent.

Source: LoRA (arXiv 2106.09685), section 4.1; rank-stabilised scale: arXiv 2312.03732.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unipixel.errors import CheckpointError
from unipixel.model.tensor_files import (
    INDEX_FILE,
    WEIGHTS_FILE,
    StoredTensor,
    format_names,
    read_json,
    read_tensors,
    warn_unexpected,
)
from unipixel.model.tensor_names import PEFT_PREFIX, to_official_name

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
PARTIAL_FILES = ("pytorch_model.safetensors", "pytorch_model.bin")
LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.\w+)?\.weight")


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds changes to a base model, not a whole model."""
    if any((folder / name).exists() for name in (WEIGHTS_FILE, INDEX_FILE)):
        return False
    return any((folder / name).exists() for name in (ADAPTER_CONFIG, *ADAPTER_FILES, *PARTIAL_FILES))


def read_base_name(folder: Path) -> str | None:
    """The base model that the folder's own files name."""
    for file, field in (("config.json", "base_model_path"), (ADAPTER_CONFIG, "base_model_name_or_path")):
        if (folder / file).exists() and (name := read_json(folder / file).get(field)):
            return str(name)
    return None


def overlay(base: Mapping[str, StoredTensor], folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a base model with an adapter folder's changes; merging happens when a tensor is read.

    Args:
        base: tensors of the base under disk names, without the head of a tied model.
        folder: the adapter folder.

    Raises:
        CheckpointError: an adapter of another kind, no known name, unpaired or misshapen matrices, or pairs for modules
            that the base lacks.
    """
    tensors = dict(base)
    partial = _find_first(folder, PARTIAL_FILES)
    if partial:
        tensors.update(_rename_tensors(read_tensors(partial), partial))
    adapter = _find_first(folder, ADAPTER_FILES)
    if adapter is None:
        if (folder / ADAPTER_CONFIG).exists():
            raise CheckpointError(f"{folder} has {ADAPTER_CONFIG} but neither {' nor '.join(ADAPTER_FILES)}")
        return tensors
    stored = read_tensors(adapter)
    pairs: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in stored.items():
        if match := LORA.fullmatch(name):
            pairs.setdefault(match["module"], {})[match["side"]] = tensor
    tensors.update(_rename_tensors(_drop_pairs(stored), adapter))
    return _merge(tensors, pairs, _read_settings(folder), adapter)


def _find_first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG
    settings = read_json(path)
    if settings.get("peft_type") != "LORA":
        raise CheckpointError(f"{path}: peft_type is {settings.get('peft_type')!r}, only 'LORA' can be merged")
    for flag in ("use_dora", "fan_in_fan_out"):
        if settings.get(flag):
            raise CheckpointError(f"{path}: {flag} is set; only plain LoRA can be merged")
    for field in ("r", "lora_alpha"):
        if not isinstance(settings.get(field), int | float) or settings[field] <= 0:
            raise CheckpointError(f"{path}: {field} is {settings.get(field)!r}, expected a positive number")
    for field in ("rank_pattern", "alpha_pattern"):
        patterns = settings.get(field) or {}
        try:
            if not all(re.compile(pattern) and value > 0 for pattern, value in patterns.items()):
                raise ValueError("a value is not positive")
        except (re.error, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: {field} is {patterns!r}, expected a mapping of patterns to positive numbers ({error})"
            ) from error
    return settings


def list_partial_names(folder: Path) -> set[str]:
    """Disk names of the tensors that a folder holds whole, LoRA pairs left out."""
    files = [path for names in (PARTIAL_FILES, ADAPTER_FILES) if (path := _find_first(folder, names))]
    return {name for path in files for name in _rename_tensors(_drop_pairs(read_tensors(path)), path)}


def _drop_pairs(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    return {name: tensor for name, tensor in tensors.items() if not LORA.fullmatch(name)}


def _rename_tensors(tensors: Mapping[str, StoredTensor], path: Path) -> dict[str, StoredTensor]:
    """The tensors under disk names; one warning names those that fit no part of a model.

    Raises:
        CheckpointError: none fits.
    """
    named, unknown = {}, []
    for name, tensor in tensors.items():
        try:
            named[to_official_name(name)] = tensor
        except KeyError:
            unknown.append(name)
    if unknown and not named:
        raise CheckpointError(f"{path} has {len(unknown)} tensors that fit no part of a model: {format_names(unknown)}")
    warn_unexpected(unknown, path)
    return named


def _merge(
    tensors: dict[str, StoredTensor], pairs: Mapping[str, dict[str, StoredTensor]], settings: dict[str, Any], path: Path
) -> dict[str, StoredTensor]:
    problems = []
    for module, pair in pairs.items():
        try:
            name = to_official_name(f"{module}.weight")
            weight = tensors[name]
        except KeyError:
            problems.append(f"{module} (not in the base model)")
            continue
        if set(pair) != {"A", "B"}:
            problems.append(f"{module} (only lora_{''.join(pair)})")
            continue
        down, up = pair["A"], pair["B"]
        rank = int(_match_pattern(settings.get("rank_pattern"), module, settings["r"]))
        ones = (1,) * (len(weight.shape) - 2)  # a convolution's B is 1 wide
        if down.shape != (rank, *weight.shape[1:]) or up.shape != (weight.shape[0], rank, *ones):
            shapes = f"A {list(down.shape)}, B {list(up.shape)}, weight {list(weight.shape)}, rank {rank}"
            problems.append(f"{module} ({shapes})")
            continue
        alpha = float(_match_pattern(settings.get("alpha_pattern"), module, settings["lora_alpha"]))
        scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
        tensors[name] = StoredTensor(weight.shape, _MergedWeight(weight, down, up, scale), weight.dtype)
    if problems:
        raise CheckpointError(
            f"{path}: {len(problems)} LoRA modules do not fit the base model: {format_names(problems)}"
        )
    return tensors


def _match_pattern(patterns: dict[str, Any] | None, module: str, default: float) -> float:
    """peft's per-module override: the first pattern that ends the module's path."""
    path = module.removeprefix(PEFT_PREFIX)
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", path):
            return value
    return default


class _MergedWeight:
    """Reads ``W + scale * B A``, computed in fp32."""

    def __init__(self, weight: StoredTensor, down: StoredTensor, up: StoredTensor, scale: float) -> None:
        self.parts, self.scale = (weight, down, up), scale

    def __call__(self) -> Tensor:
        weight, down, up = (part.read().float() for part in self.parts)
        return weight.flatten(1).addmm(up.flatten(1), down.flatten(1), alpha=self.scale).view_as(weight)
