"""Reads the parity folder: a model with the original's weights, and inputs with the original's outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

Case = dict[str, Tensor]


def cases(path: Path) -> Iterator[tuple[str, Case, Case]]:
    """(name, inputs, outputs) of each case of a file; half-precision inputs are exact in fp32."""
    found: dict[str, dict[str, Case]] = {}
    for key, value in load_file(path).items():
        name, side, field = key.split("/", 2)
        found.setdefault(name, {"in": {}, "out": {}})[side][field] = (
            value.float() if value.dtype == torch.float16 else value
        )
    for name, sides in found.items():
        yield name, sides["in"], sides["out"]


def numbered(case: Case, prefix: str) -> list[Tensor]:
    """Entries ``prefix.0``, ``prefix.1``, ... in order."""
    out = []
    while (key := f"{prefix}.{len(out)}") in case:
        out.append(case[key])
    return out


def batch_of(given: Case) -> dict[str, object]:
    """Inputs of a case as a batch of our training forward."""
    size = len(given["input_ids"])
    batch: dict[str, object] = {
        "input_ids": given["input_ids"],
        "attention_mask": given["attention_mask"].bool(),
        "pixel_values": given.get("pixel_values_videos"),
        "grid_thw": given.get("video_grid_thw"),
        "second_per_grid": given.get("second_per_grid_ts"),
        "sam_frames": [given.get(f"frames.{i}") for i in range(size)],
        "target_masks": [given[k].bool() if (k := f"label_mask.{i}") in given else None for i in range(size)],
    }
    if "labels" in given:
        batch["labels"] = given["labels"]
    if "refer_mask.0" in given:
        batch["region_masks"] = [given["refer_mask.0"].bool()]
    if "point_frames.0" in given:
        batch["point_coords"] = [c[0] for c in numbered(given, "point_coords.0")]
        batch["point_labels"] = [c[0] for c in numbered(given, "point_labels.0")]
        batch["point_frames"] = given["point_frames.0"]
        batch["point_num_frames"] = 2 * int(given["video_grid_thw"][0, 0])
    return batch


def closeness(label: str) -> Callable[[str, Tensor, Tensor, float], None]:
    """A check of one tensor that names the case and the largest difference when it fails."""

    def check(name: str, ours: Tensor, theirs: Tensor, atol: float) -> None:
        assert ours.shape == theirs.shape, f"{label} {name}: shape {tuple(ours.shape)} against {tuple(theirs.shape)}"
        worst = (ours.float() - theirs.float()).abs().max().item() if ours.numel() else 0.0
        assert worst <= atol, f"{label} {name}: differs by {worst:.2e}, allowed {atol:.0e}"

    return check
