"""Tensors in files, looked at by name, shape and dtype before any of them is read."""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from huggingface_hub.utils import TensorInfo  # type: ignore[attr-defined]  # exported, but not by name
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unipixel.checks import join_lines, parse_json
from unipixel.errors import CheckpointError, CheckpointWarning
from unipixel.model.tensor_names import canonicalize

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHOWN = 10
"""Names that an error lists before it only counts."""

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
TORCH_FILE_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    OSError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
)
"""What reading a damaged torch file, and taking up what was in it, ends with."""
_LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is read when asked for."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    dtype: str = "F32"
    """Type in the file, in the words of safetensors."""

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> StoredTensor:
        """One that is in memory already."""
        return cls(tuple(tensor.shape), lambda: tensor, _DTYPES.get(tensor.dtype, str(tensor.dtype)))

    @property
    def is_float(self) -> bool:
        """Whether it has a type that a model can be made of; quantised files have others."""
        return self.dtype in _DTYPES.values()


def read_json(path: Path) -> dict[str, Any]:
    """Parse a JSON object; CheckpointError names the file when it is missing or malformed."""
    try:
        tree = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); a checkpoint folder must have it") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {join_lines(error)}") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} holds a {type(tree).__name__}, expected a JSON object")
    return tree


def read_header(file: BinaryIO, name: object) -> dict[str, TensorInfo]:
    """Names, types, shapes and places (counted from the file's beginning) in a safetensors file, from its first bytes.

    Args:
        file: open at its beginning; its tensors need not be there.
        name: what to call it in messages.

    Raises:
        CheckpointError: it does not begin like a safetensors file.

    Source: the safetensors format: a length of 8 bytes, that much JSON, then the tensors.
    """
    start = file.read(8)
    if start.startswith(b"version "):
        raise CheckpointError(f"{name} is not a complete safetensors file: it is a Git LFS pointer, run `git lfs pull`")
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 0 < length <= _LONGEST_HEADER:
        raise CheckpointError(f"{name} is not a complete safetensors file: it has no header")
    text, base = file.read(length), 8 + length
    try:
        tree = parse_json(text)
        return {
            tensor: TensorInfo(
                cast(Any, str(entry["dtype"])), [int(n) for n in entry["shape"]], (base + int(begin), base + int(end))
            )
            for tensor, entry in tree.items()
            if tensor != "__metadata__"
            for begin, end in [entry["data_offsets"]]
        }
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise CheckpointError(f"{name} is not a complete safetensors file: its header is damaged") from error


def has_head(folder: Path) -> bool | None:
    """Whether an output head is stored in a folder of weights; None where no file says so."""
    if (folder / WEIGHTS_FILE).is_file():
        with (folder / WEIGHTS_FILE).open("rb") as file:
            return HEAD in read_header(file, folder / WEIGHTS_FILE)
    if (folder / INDEX_FILE).is_file():
        return HEAD in (read_json(folder / INDEX_FILE).get("weight_map") or {})
    return None


def read_tensors(path: str | Path) -> dict[str, StoredTensor]:
    """Open a ``.safetensors`` file, or a torch file that holds tensors only, under canonical disk names.

    Raises:
        CheckpointError: the file is missing, damaged, or spells a name twice.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; it should hold model weights")
    raw = _open_safetensors(path) if path.suffix == ".safetensors" else _open_torch(path)
    return _canonicalize_names(raw, path)


def _open_safetensors(path: Path) -> dict[str, StoredTensor]:
    try:
        file = safe_open(path, framework="pt")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (not iterable itself)
    except (SafetensorError, OSError) as error:
        with path.open("rb") as head:
            pointer = head.read(40).startswith(b"version https://git-lfs")
        reason = "it is a Git LFS pointer, run `git lfs pull`" if pointer else join_lines(error)
        raise CheckpointError(f"{path} is not a complete safetensors file: {reason}") from error

    def make_reader(name: str) -> Callable[[], Tensor]:
        return lambda: file.get_tensor(name)

    return {name: StoredTensor(tuple(s.get_shape()), make_reader(name), s.get_dtype()) for name, s in slices.items()}


def _open_torch(path: Path) -> dict[str, StoredTensor]:
    try:
        # only the zip layout can be mapped; weights_only keeps pickled code from running
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except TORCH_FILE_ERRORS as error:
        reason = str(error).strip().splitlines() or ["it is empty"]
        if isinstance(error, pickle.UnpicklingError):  # torch's own words tell how to run what is in it
            reason = ["it is damaged, or holds more than tensors and plain values"]
        raise CheckpointError(f"{path} cannot be read as a file of tensors only: {reason[0]}") from error
    if isinstance(tree, dict) and isinstance(tree.get("model"), dict):  # Meta's files
        tree = tree["model"]
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} holds a {type(tree).__name__}, expected a dictionary of tensors")
    odd = [str(name) for name, x in tree.items() if not isinstance(x, Tensor)]
    if odd:
        raise CheckpointError(f"{path} has entries that are not tensors: {format_names(odd)}")
    return {str(name): StoredTensor.from_tensor(tensor) for name, tensor in tree.items()}


def _canonicalize_names(raw: Mapping[str, StoredTensor], path: Path) -> dict[str, StoredTensor]:
    tensors = {canonicalize(name): tensor for name, tensor in raw.items()}
    if len(tensors) < len(raw):
        seen: set[str] = set()
        twice = [name for name in map(canonicalize, raw) if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        raise CheckpointError(f"{path} spells the same tensor in two ways: {format_names(twice)}")
    return tensors


def read_folder(folder: Path) -> dict[str, StoredTensor]:
    """Open the one ``model.safetensors``, or all shards that its index names.

    Raises:
        CheckpointError: neither is there, a shard is missing, or an index names what its shards lack.
    """
    if (folder / WEIGHTS_FILE).exists():
        return read_tensors(folder / WEIGHTS_FILE)
    if not (folder / INDEX_FILE).exists():
        raise CheckpointError(f"{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}")
    places = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise CheckpointError(f"{folder / INDEX_FILE} has no weight_map from tensor names to file names")
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard:
            raise CheckpointError(f"{folder / INDEX_FILE} points to {shard!r}, expected a file name inside the folder")
        more = read_tensors(folder / shard)
        twice = sorted(tensors.keys() & more.keys())
        if twice:
            raise CheckpointError(f"{folder / shard} repeats tensors of an earlier shard: {format_names(twice)}")
        tensors.update(more)
    lost = [name for name in places if canonicalize(name) not in tensors]
    if lost:
        raise CheckpointError(f"{folder / INDEX_FILE} names tensors that no shard has: {format_names(lost)}")
    return tensors


def count_parameters(tensors: Mapping[str, StoredTensor]) -> int:
    """Numbers that the tensors hold together."""
    return sum(math.prod(tensor.shape) for tensor in tensors.values())


def format_names(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(list(names)[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def check_tensors(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, StoredTensor], source: object) -> None:
    """Compare the names and shapes a model needs with those that were found; one warning names what it has no use for.

    Raises:
        CheckpointError: lists what is missing, misshapen or no floating-point tensor.
    """
    needed = {name: found[name] for name in expected if name in found}
    problems = {
        "missing": [name for name in expected if name not in found],
        "of another shape": [
            f"{name} is {list(tensor.shape)}, expected {list(expected[name])}"
            for name, tensor in needed.items()
            if tensor.shape != tuple(expected[name])
        ],
        "not floating-point": [f"{name} ({tensor.dtype})" for name, tensor in needed.items() if not tensor.is_float],
    }
    unexpected = [name for name in found if name not in expected]
    if any(problems.values()):
        problems["unexpected"] = unexpected  # perhaps the missing ones, misspelt
        parts = [f"{len(names)} {kind} ({format_names(names)})" for kind, names in problems.items() if names]
        raise CheckpointError(f"{source}: the tensors do not fit the model: {'; '.join(parts)}")
    warn_unexpected(unexpected, source)


def warn_unexpected(names: Collection[str], source: object) -> None:
    """One warning for tensors that are left out because the model has no place for them."""
    if names:
        warnings.warn(
            f"{source}: {len(names)} unexpected tensors are left out, the model has no place for them: "
            f"{format_names(names)}",
            CheckpointWarning,
            stacklevel=2,
        )


def settle_head(tensors: dict[str, StoredTensor], tied: bool, source: object) -> dict[str, StoredTensor]:
    """Drop a redundant output head of a tied model.

    Raises:
        CheckpointError: the model is tied, and the head differs from the embedding.
    """
    if not tied or HEAD not in tensors:
        return tensors
    embedding = tensors.get(EMBEDDING)
    if embedding is not None and not torch.equal(tensors[HEAD].read(), embedding.read()):
        raise CheckpointError(
            f"{source}: lm_head.weight differs from model.embed_tokens.weight, but the config has "
            "tie_word_embeddings true; it should be false, or the head left out"
        )
    return {name: tensor for name, tensor in tensors.items() if name != HEAD}


def read_sam(path: str | Path) -> dict[str, StoredTensor]:
    """Open a SAM 2.1 checkpoint of Meta under the names it has inside UniPixel."""
    raw = read_tensors(path)
    return _canonicalize_names({f"sam2.{name}": tensor for name, tensor in raw.items()}, Path(path))


def select_prefixes(tensors: Mapping[str, tuple[int, ...]], prefixes: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The entries whose names start with one of the prefixes."""
    starts = tuple(prefixes)
    return {name: shape for name, shape in tensors.items() if name.startswith(starts)}
