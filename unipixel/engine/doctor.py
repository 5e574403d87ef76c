"""What a checkpoint is, and what is wrong with it, from its small files and the headers of its weights.

No tensor is read: of weights on the Hub only the first bytes of each file travel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError
from huggingface_hub.utils import TensorInfo  # type: ignore[attr-defined]  # exported, but not by name

from unipixel.engine.footprint import count_cache_bytes, count_feature_bytes, count_weight_bytes, find_number_width
from unipixel.engine.machine import computes_in_bf16, find_suitable_precision, read_available_memory
from unipixel.engine.tracking import CACHED_FRAMES
from unipixel.errors import CheckpointError
from unipixel.model.config import MODEL_TYPE, RELEASED_PIXEL, WRITTEN_FOR, UniPixelConfig, read_tying
from unipixel.model.lora_weights import ADAPTER_CONFIG, ADAPTER_FILES, LORA, PARTIAL_FILES, read_base_name
from unipixel.model.tensor_files import (
    HEAD,
    INDEX_FILE,
    WEIGHTS_FILE,
    format_names,
    read_header,
    read_json,
)
from unipixel.model.tensor_names import canonicalize, to_official_name
from unipixel.model.weights import (
    FRESH_PREFIXES,
    build_empty_model,
    find_base,
    find_sam_file,
    is_hub_id,
    list_expected_shapes,
    read_checkpoint,
    resolve_checkpoint,
)
from unipixel.processing.images import FILE, NESTED_FILE, ImageSettings
from unipixel.processing.processor import find_vocabulary_errors
from unipixel.processing.tokenizer import load_tokenizer

SMALL_FILES = ["*.json", "*.txt", "*.jinja"]
SIZES = {(2048, 36): "UniPixel-3B", (3584, 28): "UniPixel-7B", (256, 4): "nano"}
"""(width, layers) of the language model of known sizes."""
VOCABULARIES = {"UniPixel-3B": 151936, "UniPixel-7B": 152064}
_BUFFERS = {"F64", "F32", "F16", "BF16"}
CLIP_TOKENS = 16 // 2 * 256 + 512
"""Positions of a clip of 16 frames with its question and reply, at the released budget."""


@dataclass
class Finding:
    """What was found out about a checkpoint. All of it can be written as JSON."""

    name: str
    form: str = "not recognised"
    """``full``, ``adapter`` (LoRA), ``stage output`` (modules trained whole), ``plain Qwen2.5-VL``."""
    size: str = ""
    """A known size, or the sizes themselves."""
    facts: dict[str, str] = field(default_factory=dict)
    """What was recognised besides."""
    files: dict[str, str] = field(default_factory=dict)
    """File with weights -> what is to be said about it."""
    missing: list[str] = field(default_factory=list)
    promised: list[str] = field(default_factory=list)
    """Tensors that are only named by the index, because their shard is missing."""
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    """In what it differs from the released form, without harm."""
    problems: list[str] = field(default_factory=list)
    """Why it does not load, or would answer wrongly."""
    parameters: int = 0
    """Of the whole model."""
    bytes_on_disk: int = 0
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    """Type -> GB of weights, of the language model's cache of one clip of 16 frames, of SAM's kept features."""
    machine: dict[str, Any] = field(default_factory=dict)
    """Memory that is free here, and the type that `load` would choose on this processor."""

    @property
    def is_usable(self) -> bool:
        """Whether nothing stands against loading it."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON knows it."""
        return {**asdict(self), "usable": self.is_usable}


def examine(name: str | Path, *, base: str | Path | None = None) -> Finding:
    """Look at a checkpoint without reading its tensors.

    Args:
        name: folder, ``"nano"``, or Hub id.
        base: base model of a folder that holds a part, if not the one its files name.

    Raises:
        CheckpointError: there is no such folder, and no such model on the Hub.
    """
    finding = Finding(str(name))
    folder, headers = _open(name, finding)
    tree = _read(folder / "config.json", finding)
    _name_form(folder, headers, tree, finding)
    if tree is None:
        return finding
    if tree.get("model_type") != MODEL_TYPE:
        finding.problems.append(f"model_type in config.json is {tree.get('model_type')!r}, expected {MODEL_TYPE!r}")
        return finding
    stored = {key: entry for entries in headers.values() for key, entry in entries.items()}
    try:
        config = UniPixelConfig.from_folder(folder, head_stored=HEAD in stored if stored else None)
        shapes = list_expected_shapes(build_empty_model(config))
    except CheckpointError as error:
        finding.problems.append(str(error))
        return finding
    _describe(config, tree, shapes, finding)
    if finding.form == "full":
        _compare(stored, shapes, config, finding)
    elif finding.form in ("adapter", "stage output"):
        _compare_part(stored, shapes, config, folder, base, finding)
    _check_files(folder, config, tree, finding)
    _ask(config, finding)
    return finding


def _open(name: str | Path, finding: Finding) -> tuple[Path, dict[str, dict[str, TensorInfo]]]:
    """The folder of the small files, and the header of each file with weights."""
    if not Path(name).expanduser().exists() and is_hub_id(str(name)):
        return _open_hub(str(name), finding)
    folder = resolve_checkpoint(name)
    headers = {}
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        try:
            with path.open("rb") as opened:
                entries = read_header(opened, path.name)
        except CheckpointError as error:
            finding.problems.append(str(error))
            finding.files[path.name] = "unreadable"
            continue
        _note_file(path.name, size, entries, finding)
        headers[path.name] = entries
    for file in (*ADAPTER_FILES, *PARTIAL_FILES):
        if file.endswith(".bin") and (folder / file).is_file():
            finding.files[file] = "a torch file, not looked into"
    return folder, headers


def _open_hub(name: str, finding: Finding) -> tuple[Path, dict[str, dict[str, TensorInfo]]]:
    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=SMALL_FILES))
        api = huggingface_hub.HfApi()
        info = api.model_info(name, files_metadata=True)
        sizes = {s.rfilename: s.size or 0 for s in info.siblings or [] if s.rfilename.endswith(".safetensors")}
        headers = {}
        for file, size in sorted(sizes.items()):
            if "/" in file:
                continue
            found = api.parse_safetensors_file_metadata(name, file)
            _note_file(file, size, found.tensors, finding)
            headers[file] = found.tensors
    except (HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{name!r} is no folder here and cannot be looked at on the Hub ({reason})") from error
    return folder, headers


def _note_file(name: str, size: int, entries: Mapping[str, TensorInfo], finding: Finding) -> None:
    finding.bytes_on_disk += size
    end = max((entry.data_offsets[1] for entry in entries.values()), default=0)
    kinds = ", ".join(sorted({entry.dtype for entry in entries.values()}))
    finding.files[name] = f"{len(entries)} tensors, {kinds}, {_format_bytes(size)}"
    if end > size:
        finding.problems.append(f"{name} is cut off: {size:,} bytes of {end:,}")
        finding.files[name] += ", CUT OFF"


def _format_bytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def _read(path: Path, finding: Finding) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except CheckpointError as error:
        finding.problems.append(str(error))
        return None


def _name_form(
    folder: Path, headers: dict[str, dict[str, TensorInfo]], tree: dict[str, Any] | None, finding: Finding
) -> None:
    """Full, part or plain, and the weights that the index promises."""
    index = folder / INDEX_FILE
    adapter = any((folder / file).exists() or file in headers for file in (ADAPTER_CONFIG, *ADAPTER_FILES))
    partial = any((folder / file).exists() or file in headers for file in PARTIAL_FILES)
    if WEIGHTS_FILE in headers or WEIGHTS_FILE in finding.files or index.exists():
        finding.form = "full"
    elif adapter or partial:
        finding.form = "adapter" if adapter else "stage output"
    if tree and tree.get("model_type") == "qwen2_5_vl":
        finding.form = "plain Qwen2.5-VL"
    read = {WEIGHTS_FILE} if WEIGHTS_FILE in finding.files else set()
    if finding.form == "full" and not read and (listing := _read(index, finding)):
        read = _check_index(listing.get("weight_map"), headers, finding)
    elif finding.form in ("adapter", "stage output"):
        read = {*ADAPTER_FILES, *PARTIAL_FILES}
    for extra in sorted(headers.keys() - read):
        headers.pop(extra)
        finding.files[extra] += "; not read"
    if finding.form == "not recognised":
        finding.problems.append(
            f"there are no weights: neither {WEIGHTS_FILE} nor {INDEX_FILE}, nor an adapter or partial file"
        )


def _check_index(places: Any, headers: Mapping[str, Mapping[str, TensorInfo]], finding: Finding) -> set[str]:
    """Compare an index with the shards that are there; returns the names of all shards."""
    if not isinstance(places, dict):
        finding.problems.append(f"{INDEX_FILE} has no weight_map from tensor names to file names")
        return set()
    shards = sorted(set(map(str, places.values())))
    for shard in shards:
        if shard not in finding.files:
            promised = [name for name, place in places.items() if place == shard]
            finding.promised += promised
            finding.files[shard] = f"MISSING, with {len(promised)} tensors"
            finding.problems.append(f"the shard {shard} is missing, with {len(promised)} tensors")
    if ghosts := [k for k, shard in places.items() if shard in headers and k not in headers[shard]]:
        finding.problems.append(f"{INDEX_FILE} names tensors that their shards lack: {format_names(ghosts)}")
    return set(shards)


def _describe(
    config: UniPixelConfig, tree: dict[str, Any], shapes: Mapping[str, tuple[int, ...]], finding: Finding
) -> None:
    language, vision, sam = config.language, config.vision, config.sam
    finding.size = SIZES.get((language.hidden_size, language.num_hidden_layers), "own size")
    vocabulary = VOCABULARIES.get(finding.size, language.vocab_size)
    if language.vocab_size != vocabulary:
        finding.differences.append(f"the vocabulary has {language.vocab_size:,} entries, the release {vocabulary:,}")
    finding.parameters = sum(math.prod(shape) for shape in shapes.values())
    stated = read_tying(tree)
    place = "the top level" if tree.get("tie_word_embeddings") is not None else "text_config"
    by = f"by {place} of config.json" if stated is not None else "by what the weights hold"
    finding.facts |= {
        "language model": f"{language.num_hidden_layers} layers of width {language.hidden_size}, "
        f"vocabulary {language.vocab_size:,}",
        "vision tower": f"{vision.depth} layers of width {vision.hidden_size}",
        "SAM 2.1": f"{config.sam_name or 'own size'}, {sam.image_size} px, width {sam.hidden_size}",
        "word embeddings": f"{'tied' if config.tie_word_embeddings else 'untied'}, {by}",
        "replies end at": ", ".join(map(str, config.eos_token_ids)),
        "written by transformers": str(tree.get("transformers_version", "not said")),
    }
    if tree.get("transformers_version") not in (None, WRITTEN_FOR):
        finding.differences.append(f"config.json is of transformers {tree['transformers_version']}, not {WRITTEN_FOR}")
    for new, old in (("rope_parameters", "rope_scaling"), ("dtype", "torch_dtype")):
        if new in tree or new in (tree.get("text_config") or {}):
            finding.differences.append(f"config.json says {new} (transformers 5), the released form {old}")
    if config.pixel != RELEASED_PIXEL:
        own = {k: v for k, v in vars(config.pixel).items() if v != getattr(RELEASED_PIXEL, k)}
        finding.differences.append(
            f"the model behaves otherwise than the released ones, so only unipixel runs it: {own}"
        )
    if stated is None:
        finding.differences.append("config.json says nothing about tied word embeddings")


def _list_official_names(names: Mapping[str, TensorInfo]) -> tuple[dict[str, TensorInfo], list[str]]:
    """Entries under disk names, and names that fit no part of a model."""
    known, unknown = {}, []
    for name, entry in names.items():
        try:
            known[to_official_name(name)] = entry
        except KeyError:
            unknown.append(name)
    return known, unknown


def _compare(
    stored: Mapping[str, TensorInfo], shapes: Mapping[str, tuple[int, ...]], config: UniPixelConfig, finding: Finding
) -> None:
    found, finding.unexpected = _list_official_names(stored)
    _match(found, shapes, finding)
    finding.missing = [name for name in shapes if name not in found]
    if config.tie_word_embeddings and HEAD in finding.unexpected:
        finding.unexpected.remove(HEAD)
        finding.differences.append(f"{HEAD} is stored although the word embeddings are tied; it must equal them")
    promised = set(map(canonicalize, finding.promised))
    if lost := [name for name in finding.missing if name not in promised]:
        finding.problems.append(f"{len(lost)} tensors are missing: {format_names(lost)}")
    finding.unexpected += [name for name in promised if name not in shapes]
    if any(name not in found for name in stored):
        finding.differences.append("tensors have other names on disk than the released ones (visual.*, model.*)")
    if kinds := {entry.dtype for entry in found.values()} - {"BF16"}:
        finding.differences.append(f"weights are stored as {', '.join(sorted(kinds))}, the released ones all as BF16")


def _match(found: dict[str, TensorInfo], shapes: Mapping[str, tuple[int, ...]], finding: Finding) -> None:
    """Shapes and types of what was found; names that the model lacks."""
    finding.unexpected += [name for name in found if name not in shapes]
    finding.misshapen = [
        f"{name} is {list(found[name].shape)}, expected {list(shape)}"
        for name, shape in shapes.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    if finding.misshapen:
        finding.problems.append(
            f"{len(finding.misshapen)} tensors have another shape: {format_names(finding.misshapen)}"
        )
    if odd := [
        f"{name} ({found[name].dtype})" for name in shapes if name in found and found[name].dtype not in _BUFFERS
    ]:
        finding.problems.append(f"{len(odd)} tensors are not floating-point: {format_names(odd)}")


def _compare_part(
    stored: Mapping[str, TensorInfo],
    shapes: Mapping[str, tuple[int, ...]],
    config: UniPixelConfig,
    folder: Path,
    base: str | Path | None,
    finding: Finding,
) -> None:
    """What a part holds, where its base is, and what neither of them has."""
    pairs = {name for name in stored if LORA.fullmatch(name)}
    found, finding.unexpected = _list_official_names(
        {name: entry for name, entry in stored.items() if name not in pairs}
    )
    _match(found, shapes, finding)
    finding.facts["holds"] = f"{len(found)} tensors whole, {len(pairs) // 2} LoRA pairs"
    named = str(base or read_base_name(folder) or "")
    if not named:
        finding.problems.append("it holds part of a model and names no base; pass --base FOLDER")
        return
    below = find_base(read_base_name(folder), folder, base)
    try:
        under = examine(below or named)
    except CheckpointError as error:
        finding.problems.append(f"its base {named!r} was not found ({error}); pass --base FOLDER")
        return
    finding.facts["base"] = f"{below or named}, {under.form}"
    lacking = [name for name in shapes if name not in found]
    if under.form == "plain Qwen2.5-VL":
        lacking = [name for name in lacking if name.startswith((*FRESH_PREFIXES, "sam2."))]
        try:
            sam = find_sam_file(config, folder, below or folder)
        except CheckpointError as error:
            finding.problems.append(str(error))
            sam = None
        finding.facts["SAM 2.1 from"] = str(sam or "nowhere")
        lacking = [name for name in lacking if sam is None or not name.startswith("sam2.")]
    elif under.problems:
        finding.problems.append(f"its base is not usable: {under.problems[0]}")
    else:
        lacking = []
    finding.missing = lacking
    if lacking:
        finding.problems.append(
            f"{len(lacking)} tensors are neither here nor in the base: {format_names(lacking)}; "
            f"give a whole UniPixel model "
            "as base, or load with fresh=True, which draws them as training does"
        )
    if not finding.problems and below is not None:
        try:  # opens the files and matches LoRA pairs with their weights, by their shapes
            read_checkpoint(folder, base=below)
        except CheckpointError as error:
            finding.problems.append(str(error))


def _check_files(folder: Path, config: UniPixelConfig, tree: dict[str, Any], finding: Finding) -> None:
    """Tokenizer, processor and generation config."""
    settings = folder / "tokenizer_config.json"
    ids: dict[str, int] = {}
    entries = 0
    try:
        tokenizer = load_tokenizer(folder)
        ids, entries = dict(tokenizer.get_added_vocab()), 1 + max(tokenizer.get_vocab().values())
    except CheckpointError as error:
        finding.problems.append(str(error))
        if settings.exists() and (stated := _read(settings, finding)):
            added = stated.get("added_tokens_decoder")
            for number, entry in added.items() if isinstance(added, dict) else ():
                if number.isdecimal() and isinstance(entry, dict):
                    ids[str(entry.get("content"))] = int(number[:9])
            entries = max(ids.values(), default=-1) + 1
    if ids:
        finding.facts["tokenizer"] = f"{entries:,} entries"
        finding.problems += find_vocabulary_errors(ids, entries, config)
    if settings.exists() and (stated := _read(settings, finding)) and "added_tokens_decoder" not in stated:
        finding.differences.append("tokenizer_config.json is of transformers 5, which 4.53.3 does not read")
    try:
        ImageSettings.from_folder(folder)
    except CheckpointError as error:
        finding.problems.append(str(error))
    if not (folder / FILE).exists() and (folder / NESTED_FILE).exists():
        finding.differences.append(f"{NESTED_FILE} (transformers 5) instead of {FILE}")
    expected = ("generation_config.json", "chat_template.jinja", "vocab.json", "merges.txt")
    if absent := [file for file in expected if not (folder / file).exists()]:
        finding.differences.append(f"not there: {', '.join(absent)}")
    if config.generation.get("repetition_penalty") not in (None, 1, 1.0):
        penalty = config.generation["repetition_penalty"]
        finding.facts["repetition penalty"] = f"{penalty}, not applied, as in the original's evaluation"
    if tree.get("sam2_enable_decoder") is False and finding.form == "full":
        finding.differences.append("sam2_enable_decoder is false; masks are made all the same")


def _ask(config: UniPixelConfig, finding: Finding) -> None:
    """Memory for each type, and what this machine would do."""
    cpu, model = torch.device("cpu"), build_empty_model(config)
    chosen, _ = find_suitable_precision(finding.parameters, cpu)
    for name in dict.fromkeys(["float32", "bfloat16", chosen]):
        width = find_number_width(name)
        parts = {
            "weights": count_weight_bytes(model, name),
            "cache": count_cache_bytes(config, CLIP_TOKENS, width),
            "features": count_feature_bytes(config, CACHED_FRAMES, width),
        }
        finding.memory[name] = {part: round(count / 1e9, 3) for part, count in parts.items()}
    free = read_available_memory()
    needed = sum(finding.memory[chosen].values())
    finding.machine = {
        "free_memory_gb": None if free is None else round(free / 1e9, 1),
        "computes_in_bfloat16": computes_in_bf16(),
        "type_on_cpu": chosen,
        "needed_gb": round(needed, 1),
        "fits": None if free is None else needed * 1e9 <= free,
    }
