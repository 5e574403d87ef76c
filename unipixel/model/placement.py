"""Where the parts of a large model lie: on its device, on others, or waiting in main memory or in their files.

Nine tenths of a released model are the vision tower and the layers of the language model. These may lie elsewhere than
the rest, which stays together on one device. accelerate's hooks bring the inputs of a layer to its device, and the
weights of a layer that waits to the device it is computed on, one linear layer at a time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from unipixel.model.unipixel import UniPixel

DeviceMap: TypeAlias = Mapping[str, str | int | torch.device]
Places: TypeAlias = dict[str, torch.device | None]
"""Name of a part -> its device; None where it is read from its file each time it is needed."""

LOG = logging.getLogger(__name__)
DISK = "disk"
CPU = torch.device("cpu")
TOWER, LAYERS = "visual", "language.layers"
USED_SHARE = 0.8
"""Part of the free memory of a device that weights may fill; the rest is for what is computed."""


def read_device(place: str | int | torch.device) -> torch.device | None:
    """A device; a number is that of a GPU, and None is the disk.

    Raises:
        ValueError: no such device.
    """
    if place == DISK:
        return None
    try:
        return torch.device(f"cuda:{place}" if isinstance(place, int) else place)
    except RuntimeError as error:
        raise ValueError(f"device_map names {place!r}, which is no device; it takes 'cuda:1', 'cpu', 'disk'") from error


def list_parts(model: UniPixel) -> dict[str, int]:
    """Names of what may lie elsewhere, and the numbers in each: layers of the language model, the vision tower."""
    parts = {f"{LAYERS}.{number}": layer for number, layer in enumerate(model.language.layers)} | {TOWER: model.visual}
    return {name: sum(one.numel() for one in part.parameters()) for name, part in parts.items()}


def plan_places(model: UniPixel, device_map: str | DeviceMap, main: torch.device, dtype: torch.dtype) -> Places:
    """The place of every part of a model.

    Args:
        model: filled or not.
        device_map: ``"auto"``: as many parts on the device as its free memory takes, then on other GPUs, then in main
            memory, then on disk; the language model's layers first, since they run for every word. Or a place for
            ``"visual"``, ``"language.layers"`` or single layers, ``"language.layers.35"``: a device, ``"disk"``, or,
            where the model computes on a GPU, ``"cpu"`` for weights that wait in main memory.
        main: device of all else, and of all parts that are not named.
        dtype: of the weights.

    Raises:
        ValueError: a name or place that is none.
    """
    parts = list_parts(model)
    if device_map == "auto":
        return _fill_devices(model, parts, main, dtype)
    if isinstance(device_map, str):
        raise ValueError(f"device_map is {device_map!r}; it must be 'auto' or name places, as {{'visual': 'cuda:1'}}")
    for key in device_map:
        if key not in (*parts, LAYERS):
            raise ValueError(
                f"device_map names {key!r}; it takes 'visual', 'language.layers' and 'language.layers.0' to "
                f"'language.layers.{len(model.language.layers) - 1}', and '' for the rest"
            )
    given = {key: read_device(place) for key, place in device_map.items()}
    return {name: given.get(name, given.get(LAYERS, main) if name != TOWER else main) for name in parts}


def _fill_devices(model: UniPixel, parts: Mapping[str, int], main: torch.device, dtype: torch.dtype) -> Places:
    from accelerate.utils import get_max_memory

    free = {read_device(key): int(value * USED_SHARE) for key, value in get_max_memory().items()}
    first = main
    if main == torch.device("cuda"):
        first = torch.device("cuda", torch.cuda.current_device())
    others = [one for one in free if one is not None and one not in (first, CPU)] if first != CPU else []
    room = {one: free.get(one, 0) for one in dict.fromkeys((first, *others, CPU))}
    room[first] -= dtype.itemsize * (sum(one.numel() for one in model.parameters()) - sum(parts.values()))
    places: Places = {}
    for name, size in parts.items():
        found = next((where for where, left in room.items() if left >= size * dtype.itemsize), None)
        if found is not None:
            room[found] -= size * dtype.itemsize
        places[name] = main if found == first else found
    return places


class WaitingWeights(Mapping[str, Tensor]):
    """Weights by name that are handed over when they are asked for."""

    def __init__(self, read: Mapping[str, Callable[[], Tensor]]) -> None:
        self._read = read

    def __getitem__(self, name: str) -> Tensor:
        return self._read[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


def find_place(name: str, places: Places, main: torch.device) -> tuple[torch.device | None, bool]:
    """The place of a weight, and whether it waits there and is brought to the main device when it is needed.

    Of a vision tower that waits it is only the blocks that do.
    """
    part = re.match(r"(visual|language\.layers\.\d+)\.", name)
    place = places.get(part[1], main) if part else main
    waits = place is None or (place.type == "cpu" and main.type != "cpu")
    if waits and name.startswith("visual.") and not name.startswith("visual.blocks."):
        return main, False
    return place, waits


def attach_parts(model: UniPixel, places: Places, main: torch.device, weights: Mapping[str, Tensor]) -> None:
    """Let every part that lies elsewhere than the model work from there.

    Args:
        model: with its weights on their devices; those that wait, anywhere.
        places: see `plan_places`.
        main: device of all else.
        weights: those that wait, by their names in the model.
    """
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, attach_align_device_hook

    waiting = []
    for name, place in places.items():
        stack = "visual.blocks" if name == TOWER else name
        if find_place(f"{stack}.", places, main)[1]:
            part = model.get_submodule(stack)
            attach_align_device_hook(part, main, offload=True, weights_map=weights, module_name=stack)
            waiting.append(name)
        elif place != main and name != TOWER:  # the tower takes its inputs to its device by itself
            add_hook_to_module(model.get_submodule(name), AlignDevicesHook(execution_device=place))
    if waiting:
        kinds = [("in their files", [name for name in waiting if places[name] is None])]
        kinds += [("in main memory", [name for name in waiting if places[name] is not None])]
        said = [f"{len(names)} {where}" for where, names in kinds if names]
        LOG.warning("%d of %d parts of the model wait outside %s: %s", len(waiting), len(places), main, ", ".join(said))
