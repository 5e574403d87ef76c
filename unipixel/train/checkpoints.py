"""Models on disk while they are trained and after: whole in the official layout, or as an adapter of what changed.

An adapter folder holds ``adapter_config.json`` with ``adapter_model.safetensors`` (LoRA, as peft writes it),
``pytorch_model.safetensors`` (everything else that differs from the base) and ``config.json``, which names the base.
Tensors have the names that the original's adapter folders have, those in its memory; `unipixel.model.lora_weights`
reads them back, and so does `unipixel.load`.
"""

from __future__ import annotations

import copy
import json
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unipixel import __version__
from unipixel.atomic import write_text
from unipixel.errors import CheckpointError
from unipixel.model.config import UniPixelConfig
from unipixel.model.tensor_names import PEFT_PREFIX, build_disk_layout, to_disk_name, to_memory_name, to_official_name
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import build_empty_model, fill_model, read_checkpoint, resolve_checkpoint, save_model
from unipixel.processing.tokenizer import load_tokenizer
from unipixel.train.recipe import Lora, Recipe

FILE = "recipe.json"
_PACKAGES = ("torch", "transformers", "accelerate", "peft", "safetensors", "tokenizers", "numpy", "pillow", "deepspeed")


WORD_TABLES = ("language.embed_tokens.weight", "lm_head.weight")
"""Tensors with one row per token."""
_SIDE = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.default\.weight")
_SIDE_ON_DISK = re.compile(r"\.lora_[AB]\.weight$")


def write_run_record(folder: Path, recipe: Recipe, **more: Any) -> None:
    """Write ``recipe.json``; what an earlier start of the same run was given is kept under ``earlier``."""
    path = folder / FILE
    earlier = []
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        earlier = [*before.pop("earlier", []), before]
    record = {
        "recipe": asdict(recipe),
        "seed": recipe.seed,
        "command": sys.argv,
        "versions": _collect_versions(),
        **more,
        "earlier": earlier,
    }
    write_text(path, json.dumps(record, indent=1, default=str) + "\n")


def _collect_versions() -> dict[str, str]:
    found = {"unipixel": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if TYPE_CHECKING:
    from peft import LoraConfig


def add_lora(model: UniPixel, lora: Lora) -> LoraConfig:
    """Put low-rank matrices beside the targets, in place; the product of each pair starts at zero.

    Raises:
        ValueError: no module fits the pattern.
    """
    from peft import LoraConfig, inject_adapter_in_model  # imports half of transformers; most runs do without

    settings = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.targets, bias="none"
    )
    if not any(re.fullmatch(lora.targets, name) for name, _ in model.named_modules()):
        raise ValueError(f"lora.targets is {lora.targets!r}, which fits no module of the model")
    inject_adapter_in_model(settings, model)
    return settings


def merge_lora(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The state of the plain model: LoRA pairs added to their weights, in fp32.

    Args:
        state: of a model after `add_lora`, or of one without.
        scale: alpha / rank.
    """
    out = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        module, found, rest = name.partition(".base_layer.")
        if found and rest == "weight":
            down, up = (state[f"{module}.lora_{side}.default.weight"].float() for side in "AB")
            tensor = tensor.float().addmm(up, down, alpha=scale).to(tensor.dtype)
        out[f"{module}.{rest}" if found else name] = tensor
    return out


def save_whole(config: UniPixelConfig, state: Mapping[str, Tensor], folder: Path, lora: Lora | None) -> None:
    """Write a whole model in the official layout."""
    shell = build_empty_model(config)
    shell.load_state_dict(merge_lora(state, lora.alpha / lora.rank if lora else 1.0), assign=True)
    if config.tie_word_embeddings:
        shell.lm_head.weight = shell.language.embed_tokens.weight
    save_model(shell, folder)


def save_adapter(
    config: UniPixelConfig,
    state: Mapping[str, Tensor],
    folder: Path,
    *,
    changed: Iterable[str],
    base: Mapping[str, str],
    settings: LoraConfig | None,
) -> None:
    """Write what differs from the base.

    Args:
        changed: names of the tensors that were trained whole or were not in the base.
        base: what ``config.json`` says of it.
        settings: of LoRA, if there is any.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prefix = ""
    if settings is not None:
        prefix = PEFT_PREFIX
        pairs = {other: _copy_to_cpu(state[name]) for name, other in _name_pairs(state).items()}
        settings = copy.copy(settings)  # the model keeps its own
        settings.base_model_name_or_path = base.get("base_model_path", "")
        settings.task_type = "CAUSAL_LM"
        settings.target_modules = {_SIDE_ON_DISK.sub("", other).removeprefix(prefix) for other in pairs}
        settings.save_pretrained(folder)
        save_file(pairs, folder / "adapter_model.safetensors", {"format": "pt"})
    names = set(changed)
    whole = {name: tensor for name, tensor in merge_lora(state, 0.0).items() if name in names}
    layout = {name: _copy_to_cpu(places[0][1]) for name, places in build_disk_layout(whole).items()}
    if config.tie_word_embeddings:
        layout.pop("lm_head.weight", None)
    partial = {prefix + to_memory_name(name): tensor for name, tensor in layout.items()}
    save_file(partial, folder / "pytorch_model.safetensors", {"format": "pt"})
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in layout.values()}
    replace(config, carried={**config.carried, **base}).save(folder, dtypes.pop() if len(dtypes) == 1 else "float32")


def _name_pairs(state: Mapping[str, Tensor]) -> dict[str, str]:
    """LoRA matrices in a state, with the names that peft gives them in a file of the original."""
    names = {}
    for name in state:
        if match := _SIDE.fullmatch(name):
            module = to_memory_name(to_disk_name(f"{match['module']}.weight")).removesuffix(".weight")
            names[name] = f"{PEFT_PREFIX}{module}.lora_{match['side']}.weight"
    return names


def _copy_to_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def restore(model: UniPixel, folder: Path) -> None:
    """Take up an adapter folder written by `save_adapter` in a model with the same LoRA and the same base.

    Raises:
        CheckpointError: the folder does not fit the model.
    """
    stored = {
        to_official_name(name): tensor for name, tensor in load_file(folder / "pytorch_model.safetensors").items()
    }
    if (folder / "adapter_model.safetensors").is_file():
        stored |= load_file(folder / "adapter_model.safetensors")
    own = model.state_dict()
    plain = {name.replace(".base_layer.", "."): tensor for name, tensor in own.items() if ".lora_" not in name}
    places = build_disk_layout(plain) | {other: [(name, own[name])] for name, other in _name_pairs(own).items()}
    unknown = [name for name in stored if name not in places or stored[name].shape != places[name][0][1].shape]
    if unknown:
        raise CheckpointError(f"{folder} does not fit this run: {unknown[0]} is not in the model, or of another shape")
    with torch.no_grad():
        for name, value in stored.items():
            for _, target in places[name]:
                target.copy_(value)


def copy_weights(
    model: UniPixel, folder: str | Path, parts: tuple[str, ...] = ("",), tokenizer: Any = None
) -> set[str]:
    """Copy the weights of a checkpoint folder into a model of the same sizes; only names under ``parts``.

    Args:
        model: what they are copied into.
        folder: a checkpoint.
        parts: prefixes of parameter names.
        tokenizer: of the model. With it, the folder may have another vocabulary: rows of the word tables are then
            copied by token, and tokens that the folder does not know keep what they have.

    Returns:
        The names copied.

    Raises:
        CheckpointError: the folder lacks one of them, or has it in another shape.
    """
    config, tensors = read_checkpoint(folder)
    other = UniPixel(config)
    fill_model(other, tensors, folder)
    wanted = {k: v for k, v in other.state_dict().items() if k.startswith(parts)}
    own = {k: v for k, v in model.state_dict().items() if k.startswith(parts)}
    missing = [k for k in own if k not in wanted]
    if missing or not own:
        which = f"{len(missing)} tensors under {parts}, such as {missing[0]}" if own else f"any part {parts}"
        raise CheckpointError(f"{folder} lacks {which}")
    with torch.no_grad():
        for name, value in own.items():
            given = wanted[name]
            if name in WORD_TABLES and tokenizer is not None and len(given) != len(value):
                given = copy_rows_by_token(value, tokenizer, given, load_tokenizer(resolve_checkpoint(folder)))
            if value.shape != given.shape:
                sizes = f"{list(given.shape)}, the model needs {list(value.shape)}"
                raise CheckpointError(f"{folder} has {name} with the shape {sizes}")
            value.copy_(given)
    return set(own)


def copy_rows_by_token(own: Tensor, tokenizer: Any, given: Tensor, source: Any) -> Tensor:
    """The rows (V, D) of a word table, those of known tokens taken from another vocabulary's table."""
    rows, numbers = own.clone(), source.get_vocab()
    for token, number in tokenizer.get_vocab().items():
        if token in numbers:
            rows[number] = given[numbers[token]]
    return rows


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = [p for p in run.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")))


def resume_weights(model: UniPixel, checkpoint: Path, recipe: Recipe) -> None:
    """Read the weights of a checkpoint of this run into its model."""
    if recipe.lora is not None or recipe.save == "adapter":
        restore(model, checkpoint)
    else:
        copy_weights(model, checkpoint)
