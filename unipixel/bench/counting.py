"""Counting what the host does: operations it starts, and places where it waits for the device.

A GPU that is fed by a slow host stands idle, and a host that waits for each result feeds slowly. Both can be counted
without a GPU: every operation of torch passes through here on its way, on tensors of any device, also of torch's "fake"
ones, which have a device and a shape but no numbers.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_WAITING = {
    "_local_scalar_dense",
    "_unique2",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
"""Operations whose result the host has to know before it can go on."""
_ALLOCATING = {"_unsafe_view", "detach", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty", "set_"}
"""Operations that return memory as it is, besides views."""
_FUSED = {"rms_norm", "scaled_dot_product_attention"}
"""Functions that are one kernel on CUDA and several operations elsewhere."""
_READING = {"__array__", "cpu", "numpy", "tolist"}
"""Methods by which a program reads a tensor, and which on a CPU are no operation."""
_MAKING = {"as_tensor", "from_numpy", "tensor"}
"""Functions that make a tensor of numbers of the host; on a device they wait for the copy."""


class OperationCounter:
    """Counts in a ``with`` block.

    Attributes:
        kernels: operations that start work on the device, by name; views and allocations are none. What CUDA has one
            kernel for, normalisation and attention, counts as one on every device.
        waits: by name, what makes the host wait for the device, or would if the tensors were not on the CPU: reading
            numbers, selecting by a mask, copies from device to device that are not asynchronous, and tensors made of
            numbers of the host (``tensor``) where the device is not the CPU.
    """

    def __init__(self) -> None:
        self.kernels: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.is_paused = False
        self._modes = ExitStack()

    def __enter__(self) -> OperationCounter:
        self._modes.enter_context(_Functions(self))
        self._modes.enter_context(_Operations(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._modes.close()

    def __str__(self) -> str:
        waits = ", ".join(f"{name} {count}" for name, count in self.waits.most_common()) or "none"
        return f"{self.kernels.total()} kernels; waits: {waits}"


class _Functions(TorchFunctionMode):
    """Sees what is called by name, before it becomes operations."""

    def __init__(self, counter: OperationCounter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        self._counter.is_paused = name in _FUSED
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self._counter.is_paused = False
        if name in _FUSED:
            self._counter.kernels[name] += 1
        makes = name in _MAKING and not isinstance(args[0] if args else None, Tensor)
        if name in _READING or (makes and isinstance(result, Tensor) and result.device.type != "cpu"):
            self._counter.waits[name] += 1
        return result


class _Operations(TorchDispatchMode):
    """Sees the operations that reach a device."""

    def __init__(self, counter: OperationCounter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counter = counter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._counter.is_paused:
            return result
        name = func.overloadpacket.__name__
        if name in _WAITING or _crosses_devices(name, args, kwargs, result) or _selects_by_mask(name, args):
            self._counter.waits[name] += 1
        elif name not in _ALLOCATING and not func.is_view:
            self._counter.kernels[name] += 1
        return result


def _crosses_devices(name: str, args: Any, kwargs: Any, result: Any) -> bool:
    """Whether an operation copies between devices and waits for it."""
    if name == "copy_":
        to, source = args[0], args[1]
        asynchronous = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
    elif name == "_to_copy":
        to, source, asynchronous = result, args[0], kwargs.get("non_blocking", False)
    else:
        return False
    return not asynchronous and to.device != source.device


def _selects_by_mask(name: str, args: Any) -> bool:
    """Whether an operation has to count the true values of a mask, or brings places from the host."""
    if name not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return False
    places = [one for one in args[1] if one is not None]
    return any(one.dtype in (torch.bool, torch.uint8) or one.device != args[0].device for one in places)
