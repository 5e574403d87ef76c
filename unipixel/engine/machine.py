"""What of a machine a model uses: its device, the type of its numbers, and the memory that is free."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from unipixel.model.placement import DISK, DeviceMap, read_device
from unipixel.model.quantization import BITS, HALF_BITS

LOG = logging.getLogger(__name__)
SHORT_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
LARGE_MODEL = 1_000_000_000
"""Parameters from which the memory a model takes decides about its type."""


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """A device by name; ``"auto"`` is CUDA where there is one, else Apple's MPS, else the CPU.

    Raises:
        ValueError: no such device.
    """
    if str(name) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {str(name)!r} cannot be used here; try 'auto' or 'cpu'") from error
    return device


def choose_places(
    device: str | torch.device, device_map: str | int | torch.device | DeviceMap | None
) -> tuple[torch.device, str | DeviceMap | None]:
    """The main device of a model, and where parts of it lie instead, if any do.

    Args:
        device: see `choose_device`; a device in ``device_map`` for all (a name, or under ``""``) goes before it.
        device_map: ``"auto"``, places of parts, or one device for all.

    Raises:
        ValueError: no such device.
    """
    if device_map is None or device_map == "auto":
        return choose_device(device), device_map
    places = dict(device_map) if isinstance(device_map, Mapping) else {"": device_map}
    main = read_device(places.pop("", choose_device(device)))
    if main is None:
        raise ValueError("a whole model cannot lie on disk; 'visual' and 'language.layers' can")
    found = {key: read_device(place) for key, place in places.items()}
    return choose_device(main), {key: DISK if one is None else choose_device(one) for key, one in found.items()} or None


def read_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A floating-point type by its name.

    Raises:
        ValueError: no such type.
    """
    found = getattr(torch, SHORT_NAMES.get(dtype, dtype), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        besides = ", ".join(map(repr, BITS))
        raise ValueError(f"dtype is {dtype!r}; it must be 'fp32', 'bf16', 'fp16', or, on a CPU, {besides}")
    return found


def find_suitable_precision(parameters: int, device: torch.device, *, one_type: bool = False) -> tuple[str, str]:
    """The precision that suits a model off CUDA, and the reason, which is empty where nothing had to be weighed.

    That is float32 below a billion parameters. Larger models get bfloat16 where the device computes in it (on CPUs
    AVX512-BF16 or AMX). A CPU that would emulate it computes in float32, and "bf16-weights" holds the linear layers in
    bfloat16 where float32 would take more than half of the free memory, of which activations and what is read of the
    file need a part: slower by up to a third, in little more than half the memory.

    Args:
        parameters: numbers in the model; 0 where unknown, which counts as small.
        one_type: whether all weights must have the type that is computed in; a model that would not fit in float32
            then gets bfloat16 even where that is slow.
    """
    if parameters < LARGE_MODEL:
        return "float32", ""
    full = f"float32 takes {4 * parameters / 1e9:.1f} GB"
    if device.type != "cpu" or computes_in_bf16():
        return "bfloat16", f"which this machine computes in; {full}"
    memory = read_available_memory()
    if memory is not None and not one_type and 2 * 4 * parameters > memory:
        why = "because this processor computes in bfloat16 slowly"
        return "bf16-weights", f"held in bfloat16 and multiplied in float32, {why}; {full}"
    if memory is not None and 4 * parameters > memory:
        return "bfloat16", f"slowly on this processor, because {full} and {memory / 1e9:.1f} GB are free"
    return "float32", f"because this processor computes in bfloat16 slowly; {full}"


def choose_precision(
    dtype: str | torch.dtype | None,
    name: str | Path,
    device: torch.device,
    parameters: int = 0,
    *,
    one_type: bool = False,
) -> tuple[torch.dtype, int | None]:
    """The type that a model computes in, and the bits in which it holds its linear layers, if it is not that type.

    By default that is bfloat16 on CUDA for every checkpoint but nano, and elsewhere `find_suitable_precision`; a log
    line says so where something had to be weighed.

    Args:
        name: of the checkpoint, for the log.
        parameters, one_type: see `find_suitable_precision`.

    Raises:
        ValueError: no such type.
    """
    is_emulated = device.type == "cpu" and parameters >= LARGE_MODEL and not computes_in_bf16()
    if dtype is None and device.type == "cuda":
        return torch.float32 if str(name) == "nano" else torch.bfloat16, None
    if dtype is None:
        dtype, why = find_suitable_precision(parameters, device, one_type=one_type)
        if why:
            words = (name, parameters / 1e9, dtype, why)
            LOG.warning("%s: %.1f billion parameters are loaded as %s, %s. Pass dtype to choose another.", *words)
    elif is_emulated and dtype not in BITS and (slow := read_dtype(dtype)) != torch.float32:
        fast = "float32" if one_type else "bf16-weights"
        kind = str(slow).removeprefix("torch.")
        LOG.warning("%s: this processor computes in %s very slowly; %r is many times as fast", name, kind, fast)
    bits = None if one_type or not isinstance(dtype, str) else BITS.get(dtype)
    if bits is None:
        return read_dtype(dtype), None
    in_half = bits != HALF_BITS and parameters >= LARGE_MODEL and not is_emulated
    return torch.bfloat16 if in_half else torch.float32, bits


def computes_in_bf16() -> bool:
    """Whether this processor multiplies matrices in bfloat16 rather than emulating it."""
    can = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(can.get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))


def read_available_memory() -> int | None:
    """Bytes of main memory that a new program may use; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
