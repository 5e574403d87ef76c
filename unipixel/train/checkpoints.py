"""Models on disk while they are trained and after: whole in the official layout, or as an adapter of what changed.

An adapter folder holds ``adapter_config.json`` with ``adapter_model.safetensors`` (LoRA, as peft writes it),
``pytorch_model.safetensors`` (everything else that differs from the base) and ``config.json``, which names the base.
Tensors have the names that the original's adapter folders have, those in its memory; `unipixel.model.lora_weights`
reads them back, and so does `unipixel.load`.
"""

from __future__ import annotations

import copy
import json
import pickle
import platform
import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.trainer_callback import TrainerControl, TrainerState

from unipixel import __version__
from unipixel.atomic import write_text
from unipixel.checks import (
    check_flag,
    check_integer,
    check_like,
    check_list,
    check_mapping,
    check_number,
    join_lines,
    parse_json,
    shorten,
)
from unipixel.errors import CheckpointError, CheckpointWarning
from unipixel.model.config import PixelConfig, UniPixelConfig
from unipixel.model.tensor_files import TORCH_FILE_ERRORS, StoredTensor
from unipixel.model.tensor_names import PEFT_PREFIX, build_disk_layout, to_disk_name, to_memory_name, to_official_name
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import (
    build_empty_model,
    check_finite,
    fill_model,
    read_checkpoint,
    resolve_checkpoint,
    save_model,
)
from unipixel.processing.tokenizer import load_tokenizer
from unipixel.train.recipe import Lora, Recipe

FILE = "recipe.json"
_PACKAGES = ("torch", "transformers", "accelerate", "peft", "safetensors", "tokenizers", "numpy", "pillow", "deepspeed")


WORD_TABLES = ("language.embed_tokens.weight", "lm_head.weight")
"""Tensors with one row per token."""
_SIDE = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.default\.weight")
_SIDE_ON_DISK = re.compile(r"\.lora_[AB]\.weight$")


def write_run_record(folder: Path, recipe: Recipe, **more: Any) -> None:
    """Write ``recipe.json``; what an earlier start of the same run was given is kept under ``earlier``.

    Raises:
        CheckpointError: the file that is there is no such record.
    """
    path = folder / FILE
    earlier = []
    if path.exists():
        try:
            before = check_mapping(parse_json(path.read_text(encoding="utf-8"), allow_nan=True), "it")
            earlier = [*check_list(before.pop("earlier", []), "'earlier'"), before]
        except ValueError as error:
            raise CheckpointError(
                f"{path} is not the record of a run ({join_lines(error)}); delete it, or choose another folder"
            ) from error
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
    stored = {}
    try:
        for name, tensor in load_file(folder / "pytorch_model.safetensors").items():
            stored[to_official_name(name)] = tensor
        if (folder / "adapter_model.safetensors").is_file():
            stored |= load_file(folder / "adapter_model.safetensors")
    except (SafetensorError, KeyError, OSError) as error:
        raise CheckpointError(f"{folder} does not hold the weights of an adapter ({join_lines(error)})") from error
    own = model.state_dict()
    plain = {name.replace(".base_layer.", "."): tensor for name, tensor in own.items() if ".lora_" not in name}
    places = build_disk_layout(plain) | {other: [(name, own[name])] for name, other in _name_pairs(own).items()}
    unknown = [name for name in stored if name not in places or stored[name].shape != places[name][0][1].shape]
    if unknown:
        raise CheckpointError(f"{folder} does not fit this run: {unknown[0]} is not in the model, or of another shape")
    learning = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    if model.config.tie_word_embeddings:
        learning.discard("lm_head.weight")
    lacking = [name for name, rows in places.items() if name not in stored and any(row in learning for row, _ in rows)]
    if lacking:
        raise CheckpointError(f"{folder} does not fit this run: it lacks {lacking[0]}, which is trained")
    for name, value in stored.items():
        check_finite(value, name, StoredTensor.from_tensor(value), folder)
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

    Warns:
        CheckpointWarning: weights of the language side learnt with other codes of place and time than the model's.
    """
    config, tensors = read_checkpoint(folder)
    other = fill_model(build_empty_model(config), tensors, folder)
    wanted = {k: v for k, v in other.state_dict().items() if k.startswith(parts)}
    own = {k: v for k, v in model.state_dict().items() if k.startswith(parts)}
    missing = [k for k in own if k not in wanted]
    if missing or not own:
        which = f"{len(missing)} tensors under {parts}, such as {missing[0]}" if own else f"any part {parts}"
        raise CheckpointError(f"{folder} lacks {which}")
    if not all(name.startswith("segmenter") for name in own):
        _warn_of_other_codes(model.config.pixel, config.pixel, folder)
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


def _warn_of_other_codes(own: PixelConfig, other: PixelConfig, folder: str | Path) -> None:
    pairs = [(name, getattr(other, name), getattr(own, name)) for name in _CODES]
    if differing := [f"{name} {theirs!r}, not {ours!r}" for name, theirs, ours in pairs if theirs != ours]:
        text = f"{folder} was trained with {', '.join(differing)} as in this model, which has to learn the difference"
        warnings.warn(text, CheckpointWarning, stacklevel=3)


_CODES = (
    "region_pool_order",
    "integer_seconds_per_grid",
    "rope_restart",
    "visual_place_encoding",
    "region_place_encoding",
)
"""Fields of `PixelConfig` that decide what weights outside the segmenter are given."""


def copy_rows_by_token(own: Tensor, tokenizer: Any, given: Tensor, source: Any) -> Tensor:
    """The rows (V, D) of a word table, those of known tokens taken from another vocabulary's table."""
    rows, numbers = own.clone(), source.get_vocab()
    for token, number in tokenizer.get_vocab().items():
        if token in numbers:
            rows[number] = given[numbers[token]]
    return rows


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = [(int(match[1]), p) for p in run.glob("checkpoint-*") if (match := _CHECKPOINT.fullmatch(p.name))]
    return [path for _, path in sorted(found) if path.is_dir()]


_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,15})")


def resume_weights(model: UniPixel, checkpoint: Path, recipe: Recipe) -> None:
    """Read the weights of a checkpoint of this run into its model."""
    if recipe.lora is not None or recipe.save == "adapter":
        restore(model, checkpoint)
    else:
        copy_weights(model, checkpoint)


STATE, OPTIMIZER, SCHEDULER = "trainer_state.json", "optimizer.pt", "scheduler.pt"
"""Files in which `transformers.Trainer` keeps where a run stands."""
_MOMENTS = ({"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"})
"""What AdamW and Muon remember of a parameter."""


def check_state(checkpoint: Path) -> None:
    """Refuse a checkpoint whose ``trainer_state.json`` the loop could not go on from.

    Raises:
        CheckpointError: names the file and what is wrong with it.
    """
    path = checkpoint / STATE
    try:
        state = check_mapping(parse_json(path.read_text(encoding="utf-8"), allow_nan=True), "it", ("global_step",))
        number = int(checkpoint.name.rpartition("-")[2])
        if check_integer(state["global_step"], "global_step") != number:
            raise ValueError(f"global_step is {state['global_step']}; in this folder it must be {number}")
        model = asdict(TrainerState())
        for name in state:
            if name not in model:
                raise ValueError(f"it has the field {shorten(name)}, which does not belong there")
            if isinstance(model[name], bool):
                check_flag(state[name], name)
            elif isinstance(model[name], int | float):
                check_number(state[name], name, 0.0)
        for one in check_list(state.get("log_history", []), "log_history"):
            check_mapping(one, "an entry of log_history")
        for name in ("best_model_checkpoint", "best_metric", "best_global_step", "trial_name", "trial_params"):
            if state.get(name) is not None:
                raise ValueError(f"{name} is {shorten(state[name])}; a run of ours has none")
        if state.get("train_batch_size") is not None:
            check_integer(state["train_batch_size"], "train_batch_size", 1)
        check_mapping(state.get("stateful_callbacks"), "stateful_callbacks", (TrainerControl.__name__,))
        check_mapping(state["stateful_callbacks"][TrainerControl.__name__], TrainerControl.__name__)
    except (OSError, ValueError) as error:
        raise refuse_state(path, error) from error


def read_state(path: Path) -> dict[str, Any]:
    """A torch file of a checkpoint that holds a mapping; nothing in it is run.

    Raises:
        CheckpointError: it is missing, damaged or something else.
    """
    try:
        return check_mapping(torch.load(path, map_location="cpu", weights_only=True), "it")
    except TORCH_FILE_ERRORS as error:
        raise refuse_state(path, error) from error


def check_scheduler(state: Mapping[str, Any], own: Mapping[str, Any], path: Path) -> None:
    """Refuse the state of a scheduler that another run, or a hand, has written.

    Args:
        own: the state of this run's scheduler before it takes that up.

    Raises:
        CheckpointError: names the field.
    """
    try:
        check_mapping(state, "it", ("base_lrs", "last_epoch"))
        check_like({name: value for name, value in state.items() if name in own or name != "verbose"}, own, "it")
    except ValueError as error:
        raise refuse_state(path, error) from error


def check_optimizer(optimizer: torch.optim.Optimizer, own: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Refuse what an optimiser has taken up if it does not fit its parameters, or is not finite.

    Args:
        own: its groups before.

    Raises:
        CheckpointError: says what is wrong.
    """
    try:
        for group, before in zip(optimizer.param_groups, own, strict=True):
            for name, model in before.items():
                if name != "params" and isinstance(model, int | float | tuple | list) and not isinstance(model, bool):
                    check_like(group.get(name), model, f"the setting {name}")
            for name in ("lr", "weight_decay", "eps"):
                check_number(group.get(name, 0.0), f"the setting {name}", 0.0)
            for beta in group.get("betas", ()):
                check_number(beta, "a beta", 0.0, 1.0)
        for parameter, moments in optimizer.state.items():
            if set(check_mapping(moments, "an entry")) not in _MOMENTS:
                raise ValueError(f"an entry has the fields {', '.join(map(str, moments)) or 'none'}")
            for name, value in moments.items():
                shape = () if name == "step" else parameter.shape
                if not isinstance(value, Tensor) or value.shape != shape or not value.is_floating_point():
                    raise ValueError(f"{name} of a parameter is no tensor of its shape {list(shape)}")
                if not value.isfinite().all() or (name != "exp_avg" and name in _MOMENTS[0] and (value < 0).any()):
                    raise ValueError(f"{name} of a parameter of the shape {list(parameter.shape)} cannot be")
    except ValueError as error:
        raise refuse_state(path, error) from error


def refuse_state(path: Path, error: Exception) -> CheckpointError:
    """What a file of a checkpoint that cannot be gone on from is refused with."""
    reason = f"{error.strerror}" if isinstance(error, OSError) and error.strerror else join_lines(error)
    if isinstance(error, pickle.UnpicklingError):  # torch's own words tell how to run what is in it
        reason = "it is no torch file, or holds more than tensors and plain values"
    return CheckpointError(
        f"{path} is missing, damaged or of another run ({reason}); delete the folder {path.parent.name} to go on from "
        "the checkpoint before it"
    )
