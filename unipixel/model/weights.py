"""Load and save checkpoint folders in the official layout.

A folder holds ``config.json`` (``model_type`` ``pixel_qwen2_5_vl``), ``model.safetensors`` or its shards with
``model.safetensors.index.json``, and tokenizer and processor files, which `unipixel.processing` reads. Names and shapes
are checked before anything is read: what is missing or misshapen is an error, what is left over a warning. Parameters
take the dtype asked for; buffers (Fourier matrices, rotary frequencies) stay in fp32, because positions lose their
meaning in half precision.
"""

from __future__ import annotations

import math
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unipixel.atomic import get_draft, publish, sync_tree
from unipixel.checks import join_lines
from unipixel.errors import CheckpointError, CheckpointWarning
from unipixel.model.config import UniPixelConfig, read_json
from unipixel.model.lora_weights import is_adapter, list_partial_names, overlay, read_base_name
from unipixel.model.placement import DeviceMap, WaitingWeights, attach_parts, find_place, plan_places
from unipixel.model.quantization import QuantizedLinear, list_quantized_weights, name_precision, put_quantized
from unipixel.model.tensor_files import (
    HEAD,
    INDEX_FILE,
    WEIGHTS_FILE,
    StoredTensor,
    check_tensors,
    format_names,
    read_folder,
    read_sam,
    settle_head,
)
from unipixel.model.tensor_names import build_disk_layout, to_disk_name, to_module_name
from unipixel.model.unipixel import UniPixel

__all__ = [
    "to_disk_name",
    "build_empty_model",
    "list_expected_shapes",
    "fill_model",
    "load_model",
    "to_module_name",
    "read_checkpoint",
    "resolve_checkpoint",
    "save_model",
]

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
RELEASED_IDS = {"3b": "PolyU-ChenLab/UniPixel-3B", "7b": "PolyU-ChenLab/UniPixel-7B"}
"""Short names of the released checkpoints, and their ids on the Hub."""
_FETCH_ERRORS: tuple[type[Exception], ...] = (
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    OSError,
    *(one for one in HfHubHTTPError.__mro__ if one.__name__ == "HTTPError" and issubclass(one, Exception)),
)
"""What the Hub's client raises; of a broken connection the errors of its HTTP library, which differs by version."""
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub id, ``owner/model``."""
    return bool(_HUB_ID.fullmatch(name))


def resolve_checkpoint(name: str | Path, **hub: Any) -> Path:
    """The folder of a checkpoint: ``"nano"``, ``"3b"``, ``"7b"``, a folder, or the id of a model on the Hub.

    Args:
        hub: options of ``huggingface_hub.snapshot_download``, such as ``revision``.

    Raises:
        CheckpointError: there is no such folder, and no such model can be fetched.
    """
    if str(name) == "nano":
        folder = Path(str(files("unipixel"))) / "checkpoints" / "nano"
        if not folder.is_dir():
            raise CheckpointError(f"this installation has no nano checkpoint at {folder}; pass another folder")
        return folder
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file; pass the checkpoint folder it lies in")
    hub_id = RELEASED_IDS.get(str(name).lower(), str(name))
    if not is_hub_id(hub_id):
        raise CheckpointError(f"{name} is not a folder; pass 'nano', a checkpoint folder, or a Hub id 'owner/model'")
    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=_HUB_FILES, **hub))
    except _FETCH_ERRORS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{hub_id!r} is not a folder here and cannot be fetched from the Hugging Face Hub ({reason}); "
            "download the model where there is a network and pass the path of its folder"
        ) from error


class _EmptyOnMeta(TorchFunctionMode):
    """Parameters take no memory and are not drawn, everything else is real.

    torch layers make their parameters with ``torch.empty``, and buffers that no file holds (rotary frequencies) with
    other functions, so those come out computed as on any device.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        if getattr(func, "__module__", "") == "torch.nn.init":
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor  # drawing into nothing takes longer than into memory, and imports torch's compiler
        return func(*args, **kwargs)


def build_empty_model(config: UniPixelConfig) -> UniPixel:
    """A model whose parameters are on the meta device, to be filled by `fill`.

    Raises:
        CheckpointError: the sizes in the config do not make a model.
    """
    try:
        with _EmptyOnMeta():
            return UniPixel(config)
    except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError) as error:
        raise CheckpointError(f"the sizes in config.json do not make a model: {join_lines(error)}") from error


def list_expected_shapes(model: UniPixel) -> dict[str, tuple[int, ...]]:
    """Disk names and shapes of everything a checkpoint of this model holds, without the head of a tied model."""
    shapes = {name: tuple(places[0][1].shape) for name, places in build_disk_layout(model.state_dict()).items()}
    if model.config.tie_word_embeddings:
        del shapes[HEAD]
    return shapes


def fill_model(
    model: UniPixel,
    tensors: Mapping[str, StoredTensor],
    source: object,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    bits: int | None = None,
    device_map: str | DeviceMap | None = None,
) -> UniPixel:
    """Give a model all its values; each tensor is read, moved and converted on its own, so memory holds one copy.

    Args:
        model: as made by `build_empty_model`, or any other; it is changed and returned.
        tensors: everything in `list_expected_shapes`; what is there besides is left out with a warning.
        source: what the tensors were read from, for error messages.
        bits: of `quantization.BITS`, in which a CPU holds the weights that `list_quantized_weights` names.
        device_map: where parts lie that do not lie on ``device``, see `placement.plan_places`.

    Raises:
        CheckpointError: lists names that are missing or misshapen.
        ValueError: ``dtype`` is not a floating-point type, or ``device_map`` is none.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype}, expected a floating-point type such as torch.float32 or torch.bfloat16")
    check_tensors(list_expected_shapes(model), tensors, source)
    main = torch.device(device)
    places = {} if device_map is None else plan_places(model, device_map, main, dtype)
    waiting: dict[str, Callable[[], Tensor]] = {}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    rounded = list_quantized_weights(model, bits) if bits is not None else {}
    state: dict[str, list[Tensor]] = {}
    for name, names in build_disk_layout(model.state_dict()).items():
        if name not in tensors:  # the head of a tied model
            continue
        first = names[0][0]
        target = dtype if first in parameters else torch.float32
        home, waits = find_place(first, places, main)
        # a copy, because what is read may be a window on the file
        value = tensors[name].read().to(device=home or "cpu", dtype=target, copy=True)
        check_finite(value, name, tensors[name], source)
        if waits:
            read = partial(_read_again, tensors[name], target) if home is None else partial(value.to, home)
            waiting |= {place: read for place, _ in names}
            state |= {place: [torch.empty_like(value, device="meta")] for place, _ in names}
            continue
        for place, _ in names:
            if place in rounded:
                put_quantized(model, place, value, rounded[place])
                continue
            state.setdefault(place, []).append(value)
    model.load_state_dict(
        {name: rows[0] if len(rows) == 1 else torch.cat(rows) for name, rows in state.items()},
        strict=False,
        assign=True,
    )
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.language.embed_tokens.weight
    if not places:
        return model.to(device)
    for module in model.modules():
        module._buffers.update({name: None if one is None else one.to(device) for name, one in module._buffers.items()})
    attach_parts(model, places, main, WaitingWeights(waiting))
    return model


def _read_again(stored: StoredTensor, dtype: torch.dtype) -> Tensor:
    return stored.read().to(dtype)


def check_finite(value: Tensor, name: str, stored: StoredTensor, source: object) -> None:
    """Refuse a tensor with a number that is none, or that its type cannot hold: every answer would be wrong in silence.

    The extremes are found by one fast pass over what has just been copied, and hand on a NaN.
    """
    if not value.numel() or all(math.isfinite(float(extreme)) for extreme in torch.aminmax(value)):
        return
    if stored.read().isfinite().all():
        kind = str(value.dtype).removeprefix("torch.")
        raise CheckpointError(f"{source}: {name} holds numbers too large for {kind}; load it as float32 or bfloat16")
    raise CheckpointError(f"{source}: {name} holds NaN or infinity; the file is damaged, or its training went wrong")


def read_checkpoint(
    name: str | Path,
    *,
    base: str | Path | None = None,
    sam: str | Path | None = None,
    fresh: bool = False,
    _seen: tuple[Path, ...] = (),
) -> tuple[UniPixelConfig, dict[str, StoredTensor]]:
    """Config and tensors of a folder or Hub id; a folder with a part of a model is laid over its base.

    Args:
        name: as for `resolve_checkpoint`.
        base: base model of a folder that holds a part (LoRA, or the modules that a training stage taught): a UniPixel
            model or plain Qwen2.5-VL, or the folder from which its files name one. By default the one they name, looked
            for beside the folder, in the folders above it, in the working directory, and on the Hub.
        sam: SAM 2.1 file that joins a plain Qwen2.5-VL. By default the one the folder's config names as
            ``sam2_checkpoint``, looked for in the same places and near the base.
        fresh: draw the modules between Qwen2.5-VL and SAM that neither the folder nor its base holds, as training
            does at its beginning, with a warning that names them. Otherwise they are an error.

    Raises:
        CheckpointError: a folder or file is missing or damaged, or tensors of a part or its base are missing.
    """
    folder = resolve_checkpoint(name)
    if not is_adapter(folder):
        if base is not None:
            raise CheckpointError(f"{folder} is a whole model, yet a base model {str(base)!r} was given for it")
        config = UniPixelConfig.from_folder(folder)
        return config, settle_head(read_folder(folder), config.tie_word_embeddings, folder)
    below = _find_base_folder(folder, base)
    if below.resolve() in _seen or below.resolve() == folder.resolve():
        raise CheckpointError(f"{folder} names itself as its base model; pass the base model's folder")
    own = folder / "config.json"
    if read_json(below / "config.json").get("model_type") == "qwen2_5_vl":
        tensors = read_folder(below)
        config = UniPixelConfig.from_folder(folder, head_stored=HEAD in tensors or HEAD in list_partial_names(folder))
        if file := sam or find_sam_file(config, folder, below):
            tensors.update(read_sam(file))
    else:
        config, tensors = read_checkpoint(below, sam=sam, fresh=fresh, _seen=(*_seen, folder.resolve()))
        if own.exists():
            config = UniPixelConfig.from_folder(
                folder, head_stored=HEAD in tensors or HEAD in list_partial_names(folder)
            )
    released = settle_head(tensors, config.tie_word_embeddings, below)
    tensors = settle_head(overlay(released, folder), config.tie_word_embeddings, folder)
    return config, _add_fresh_modules(config, tensors, released, folder, below, fresh=fresh)


def _add_fresh_modules(
    config: UniPixelConfig,
    tensors: dict[str, StoredTensor],
    released: Mapping[str, StoredTensor],
    folder: Path,
    below: Path,
    *,
    fresh: bool,
) -> dict[str, StoredTensor]:
    """The tensors, with the modules between the released parts drawn where both folders lack them."""
    shapes = list_expected_shapes(build_empty_model(config))
    lacking = {name: shape for name, shape in shapes.items() if name not in tensors}
    if not lacking or not all(name.startswith(FRESH_PREFIXES) for name in lacking):
        return tensors  # what else is missing is told when the model is filled
    if not fresh:
        raise CheckpointError(
            f"{folder}: the tensors do not fit the model: {len(lacking)} missing "
            f"({format_names(lacking)}), neither in this "
            f"folder nor in its base {below}; pass base=FOLDER with a whole UniPixel model that has them, or "
            "fresh=True to draw them anew as training does"
        )
    drawn = init_fresh_modules(
        lacking, released, torch.Generator().manual_seed(0), deviation=config.language.initializer_range
    )
    warnings.warn(
        f"{folder}: {len(lacking)} tensors are in no file and were made as at the beginning of training, so what they "
        f"do is not trained: {', '.join(lacking)}",
        CheckpointWarning,
        stacklevel=3,
    )
    return tensors | drawn


def _find_base_folder(folder: Path, base: str | Path | None) -> Path:
    named = read_base_name(folder)
    if base is None and named is None:
        raise CheckpointError(f"{folder} holds part of a model and names no base model; pass base=FOLDER with it")
    if found := find_base(named, folder, base):
        return found
    try:
        return resolve_checkpoint(base or str(named))
    except CheckpointError as error:
        raise CheckpointError(
            f"the base model of the adapter {folder} was not found: {error}; pass its folder as base=FOLDER"
        ) from error


def find_base(named: str | None, folder: Path, base: str | Path | None) -> Path | None:
    """The base model's folder on this machine, if it is found.

    Args:
        named: what the folder's own files call it.
        folder: the folder with a part of a model.
        base: the base model, or the folder that a relative ``named`` starts from; None to look near ``folder``.
    """
    if base is None:
        return find_nearby(str(named), [folder], Path.is_dir)
    given = Path(base).expanduser()
    if given.is_dir() and not (given / "config.json").exists() and named and (given / named).is_dir():
        return given / named
    return given if given.is_dir() else None


def find_sam_file(config: UniPixelConfig, folder: Path, below: Path) -> Path | None:
    """The SAM 2.1 file that a folder's config names, if it names one."""
    named = config.carried.get("sam2_checkpoint")
    if not named:
        return None
    for name in (str(named), str(Path(named).with_suffix(".safetensors"))):
        if found := find_nearby(name, [folder, below], Path.is_file):
            return found
    raise CheckpointError(
        f"the SAM 2.1 weights {named!r} that {folder / 'config.json'} names were not found, neither near it nor near "
        f"{below}; pass their path as sam=FILE"
    )


def find_nearby(name: str, places: Sequence[Path], suits: Callable[[Path], bool]) -> Path | None:
    """A relative path as seen from one of the places, from a folder above it, or from the working directory."""
    above = [up for place in places for up in (place, *place.resolve().parents)]
    return next((path for up in [*above, Path()] if suits(path := up / Path(name).expanduser())), None)


def load_model(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    base: str | Path | None = None,
    sam: str | Path | None = None,
    fresh: bool = False,
) -> UniPixel:
    """Load a model, in eval mode, from a folder, a folder with a part of one, ``"nano"`` or a Hub id.

    Args:
        base, sam, fresh: see `read_checkpoint`.

    Raises:
        CheckpointError: files are missing or damaged, or tensors are missing or misshapen.
    """
    config, tensors = read_checkpoint(name, base=base, sam=sam, fresh=fresh)
    return fill_model(build_empty_model(config), tensors, name, device=device, dtype=dtype).eval()


def save_model(
    model: UniPixel, folder: str | Path, *, max_shard_size: int | str = "5GB", dtype: torch.dtype | None = None
) -> None:
    """Write a model in the official layout: config and weights, under disk names. Other files are left alone.

    Args:
        model: the model; its own dtype does not change.
        folder: made if it does not exist; weights in it are replaced.
        max_shard_size: bytes, or text such as ``"15MB"``; above it the weights are split into shards with an index.
        dtype: of parameters on disk; by default as they are. Buffers keep theirs.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; a checkpoint is saved as a folder")
    if any(isinstance(module, QuantizedLinear) for module in model.modules()):
        precision = name_precision(model)
        raise CheckpointError(f"the weights of this model are rounded to {precision}; load it as 'bf16' to save it")
    if any(one.is_meta for one in model.parameters()):
        raise CheckpointError("parts of this model wait outside its device; load it without device_map to save it")
    written = str(dtype or model.dtype).removeprefix("torch.")
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    expected = list_expected_shapes(model)
    state = {}
    for name, places in build_disk_layout(model.state_dict()).items():
        if name in expected:
            place, tensor = places[0]
            # rows of one tensor must not share memory, or the writer takes them for one tensor under two names
            state[name] = tensor.detach().to("cpu", dtype if place in parameters else None).clone()
    draft = get_draft(folder / WEIGHTS_FILE)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        huggingface_hub.save_torch_state_dict(state, draft, filename_pattern=_PATTERN, max_shard_size=max_shard_size)
        sync_tree(draft)
        fresh = {path.name for path in draft.iterdir()}
        model.config.save(folder, written)
        # the index first, and back again last: shards of two models side by side would be taken for one
        (folder / INDEX_FILE).unlink(missing_ok=True)
        for name in sorted(fresh - {INDEX_FILE}) + sorted(fresh & {INDEX_FILE}):
            publish(draft / name, folder / name)
        for path in folder.glob("model*.safetensors"):
            if _WEIGHTS.fullmatch(path.name) and path.name not in fresh:
                path.unlink()
    finally:
        shutil.rmtree(draft, ignore_errors=True)


_PATTERN = "model{suffix}.safetensors"
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")


FRESH_PREFIXES = ("seg_head.", "ref_encoder.", "ref_proj", "tem_", "msk_proj.")
"""Beginnings of the disk names of modules that neither Qwen2.5-VL nor SAM 2.1 has."""
_COPIES = {"ref_encoder.": "sam2.sam_prompt_encoder.", "msk_proj.": "visual.merger.mlp."}
"""Beginning of a disk name, and of the one that it starts as a copy of."""
_MATRIX = "positional_encoding_gaussian_matrix"


def init_fresh_modules(
    shapes: Mapping[str, tuple[int, ...]],
    released: Mapping[str, StoredTensor],
    generator: torch.Generator,
    *,
    deviation: float = 0.02,
) -> dict[str, StoredTensor]:
    """Initial values of modules between the released parts.

    The encoder of `<|ref|>` prompts is SAM's prompt encoder and the projection of `<|mem|>` is the MLP of the vision
    tower's merger, bit by bit; seg head and projections of prompts are Xavier-uniform with zero bias, the embedding of
    time normal. The two Fourier matrices (of `<|ref|>` and of time) are drawn and not copied: they are buffers, which
    the original's copy leaves out.

    Args:
        shapes: what to make, by disk name; all under `FRESH_PREFIXES`.
        released: tensors of Qwen2.5-VL and SAM 2.1, to be copied from.
        generator: what is drawn is drawn from it, in the order of ``shapes``.
        deviation: standard deviation of the embedding of time, Qwen's ``initializer_range``.
    """
    made = {}
    for name, shape in shapes.items():
        origin = next((name.replace(a, b, 1) for a, b in _COPIES.items() if name.startswith(a)), None)
        if origin is not None and not name.endswith(_MATRIX):
            made[name] = released[origin]
        else:
            made[name] = StoredTensor.from_tensor(_init_tensor(name, shape, generator, deviation))
    return made


def _init_tensor(name: str, shape: tuple[int, ...], generator: torch.Generator, deviation: float) -> Tensor:
    if name.endswith(_MATRIX):
        return torch.randn(shape, generator=generator)
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if name == "tem_emb.weight":
        return torch.empty(shape).normal_(0.0, deviation, generator=generator)
    if len(shape) == 1:  # the norm at the entry of the seg head
        return torch.ones(shape)
    return nn.init.xavier_uniform_(torch.empty(shape), generator=generator)
