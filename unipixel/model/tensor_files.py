"""Tensors in files, looked at by name, shape and dtype before any of them is read."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unipixel.errors import CheckpointError
from unipixel.model.config import read_json
from unipixel.model.tensor_names import canonical

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHOWN = 10
"""Names that an error lists before it only counts."""

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is read when asked for."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> StoredTensor:
        """One that is in memory already."""
        return cls(tuple(tensor.shape), lambda: tensor)


def read_tensors(path: str | Path) -> dict[str, StoredTensor]:
    """Open a ``.safetensors`` file, or a torch file that holds tensors only, under canonical disk names.

    Raises:
        CheckpointError: the file is missing, damaged, holds anything but floating-point tensors, or a name twice.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; it should hold model weights")
    raw = _open_safetensors(path) if path.suffix == ".safetensors" else _open_torch(path)
    return _canonical(raw, path)


def _open_safetensors(path: Path) -> dict[str, StoredTensor]:
    try:
        file = safe_open(path, framework="pt")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (not iterable itself)
    except (SafetensorError, OSError) as error:
        with path.open("rb") as head:
            pointer = head.read(40).startswith(b"version https://git-lfs")
        reason = "it is a Git LFS pointer, run `git lfs pull`" if pointer else f"{error}"
        raise CheckpointError(f"{path} is not a complete safetensors file: {reason}") from error
    odd = [f"{name} ({s.get_dtype()})" for name, s in slices.items() if s.get_dtype() not in _DTYPES]
    if odd:
        raise CheckpointError(f"{path} has tensors that are not {', '.join(_DTYPES)}: {listed(odd)}")

    def reader(name: str) -> Callable[[], Tensor]:
        return lambda: file.get_tensor(name)

    return {name: StoredTensor(tuple(s.get_shape()), reader(name)) for name, s in slices.items()}


def _open_torch(path: Path) -> dict[str, StoredTensor]:
    try:
        # only the zip layout can be mapped; weights_only keeps pickled code from running
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, OSError) as error:
        reason = str(error).strip().splitlines() or ["it is empty"]
        raise CheckpointError(f"{path} cannot be read as a file of tensors only: {reason[0]}") from error
    if isinstance(tree, dict) and isinstance(tree.get("model"), dict):  # Meta's files
        tree = tree["model"]
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} holds a {type(tree).__name__}, expected a dictionary of tensors")
    odd = [str(name) for name, x in tree.items() if not (isinstance(x, Tensor) and x.is_floating_point())]
    if odd:
        raise CheckpointError(f"{path} has entries that are not floating-point tensors: {listed(odd)}")
    return {str(name): StoredTensor.of(tensor) for name, tensor in tree.items()}


def _canonical(raw: Mapping[str, StoredTensor], path: Path) -> dict[str, StoredTensor]:
    tensors = {canonical(name): tensor for name, tensor in raw.items()}
    if len(tensors) < len(raw):
        seen: set[str] = set()
        twice = [name for name in map(canonical, raw) if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        raise CheckpointError(f"{path} spells the same tensor in two ways: {listed(twice)}")
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
            raise CheckpointError(f"{folder / shard} repeats tensors of an earlier shard: {listed(twice)}")
        tensors.update(more)
    lost = [name for name in places if canonical(name) not in tensors]
    if lost:
        raise CheckpointError(f"{folder / INDEX_FILE} names tensors that no shard has: {listed(lost)}")
    return tensors


def listed(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(list(names)[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def check(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, StoredTensor], source: object) -> None:
    """Compare the names and shapes a model needs with those that were found.

    Raises:
        CheckpointError: lists what is missing, unexpected and misshapen.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshapen = [
        f"{name} is {list(found[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != tuple(shape)
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    parts = [f"{len(names)} {kind} ({listed(names)})" for kind, names in faults.items() if names]
    if parts:
        raise CheckpointError(f"{source}: the tensors do not fit the model: {'; '.join(parts)}")


def settle_head(tensors: dict[str, StoredTensor], tied: bool, source: object) -> dict[str, StoredTensor]:
    """Drop a redundant output head of a tied model.

    Raises:
        CheckpointError: the model is tied, and the head differs from the embedding.
    """
    if not tied or "lm_head.weight" not in tensors:
        return tensors
    embedding = tensors.get("model.embed_tokens.weight")
    if embedding is not None and not torch.equal(tensors["lm_head.weight"].read(), embedding.read()):
        raise CheckpointError(
            f"{source}: lm_head.weight differs from model.embed_tokens.weight, but the config has "
            "tie_word_embeddings true; it should be false, or the head left out"
        )
    return {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}


def read_qwen(folder: Path, *, tied: bool) -> dict[str, StoredTensor]:
    """Open a plain Qwen2.5-VL folder: vision tower, language model and head."""
    return settle_head(read_folder(folder), tied, folder)


def read_sam(path: str | Path) -> dict[str, StoredTensor]:
    """Open a SAM 2.1 checkpoint of Meta under the names it has inside UniPixel."""
    raw = read_tensors(path)
    return _canonical({f"sam2.{name}": tensor for name, tensor in raw.items()}, Path(path))


def subset(tensors: Mapping[str, tuple[int, ...]], prefixes: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The entries whose names start with one of the prefixes."""
    starts = tuple(prefixes)
    return {name: shape for name, shape in tensors.items() if name.startswith(starts)}
