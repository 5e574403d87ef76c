"""The training forward: losses equal the original's, gradients equal what autograd gives for them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from parity import batch_of, cases, closeness, numbered

from unipixel.model.config import UniPixelConfig
from unipixel.model.tensor_names import build_disk_layout
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import fill_model, read_checkpoint
from unipixel.train.losses import LossWeights, frame_loss, total_loss

Find = Callable[[str], Path]


@pytest.fixture
def model(parity_file: Find) -> UniPixel:
    folder = parity_file("model.safetensors").parent
    _, tensors = read_checkpoint(folder)
    out = UniPixel(UniPixelConfig.from_folder(folder).copy_without_dropout())
    fill_model(out, tensors, folder)
    return out.train()


def official_name(disk: str) -> str:
    """The original's name of a parameter while training."""
    if disk.startswith("visual."):
        return f"model.{disk}"
    return f"model.language_model.{disk.removeprefix('model.')}" if disk.startswith("model.") else disk


def named_gradients(model: UniPixel) -> dict[str, torch.Tensor]:
    """Gradients under the original's names, zero where there is none."""
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }
    return {official_name(disk): places[0][1] for disk, places in build_disk_layout(gradients).items()}


def test_losses_equal_the_original(model: UniPixel, parity_file: Find) -> None:
    for name, given, wanted in cases(parity_file("train_loss.safetensors")):
        check, batch = closeness(f"train_loss/{name}"), batch_of(given)
        one_by_one = name.startswith("batch_mode")
        output = model(**batch | {"sam_frames": None}) if one_by_one else model(**batch)
        if one_by_one:
            decoded = model.segment(output.seg_tokens, batch["sam_frames"], propagate=False)
            output = dataclasses.replace(output, decoded=decoded)
        terms = total_loss(output, batch, LossWeights())
        check("loss_lm", terms["language"], wanted["loss_lm"], 1e-3)
        if "loss_seg_mean" in wanted:
            check("loss_seg_mean", terms["segment"], wanted["loss_seg_mean"], 1e-3)
        check("loss_total", terms["loss"], wanted["loss_total"], 1e-3)
        if one_by_one:
            continue
        for i, (decoded, target) in enumerate(zip(output.decoded, batch["target_masks"], strict=True)):
            if decoded is None:
                continue
            parts = [frame_loss(d, t, LossWeights()) for d, t in zip(decoded, target, strict=True)]
            for ours, theirs in (("focal", "mask"), ("dice", "dice"), ("iou", "iou"), ("presence", "class")):
                summed = torch.stack([p[ours] for p in parts]).sum()
                check(f"loss_{theirs}.{i}", summed, wanted[f"loss_{theirs}_sum_over_frames.{i}"], 1e-3)
            for field in ("focal_per_mask", "dice_per_mask"):
                check(field, torch.stack([p[field] for p in parts]), wanted[f"{field}.{i}"], 1e-4)
        assert len(numbered(given, "label_mask")) == sum(d is not None for d in output.decoded)


def test_gradients_equal_autograd_with_the_rotary_bug_removed(model: UniPixel, parity_file: Find) -> None:
    order = json.loads(parity_file("meta.json").read_text())["train_param_names"]
    compared = 0
    for name, given, wanted in cases(parity_file("train_loss.safetensors")):
        batch = batch_of(given)
        model.zero_grad()
        if name.startswith("batch_mode"):
            output = model(**batch | {"sam_frames": None})
            decoded = model.segment(output.seg_tokens, batch["sam_frames"], propagate=False)
            output = dataclasses.replace(output, decoded=decoded)
        else:
            output = model(**batch)
        total_loss(output, batch, LossWeights())["loss"].backward()
        gradients = named_gradients(model)
        fixed = "grad_norms_rope_fixed" in wanted
        prefix = "grad_rope_fixed." if any(k.startswith("grad_rope_fixed.") for k in wanted) else "grad."
        for key, expected in wanted.items():
            if not key.startswith(prefix):
                continue
            ours = gradients[key.removeprefix(prefix)]
            worst = (ours - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
            assert worst <= 1e-3, f"{name}: {key} differs by {worst:.1e} of its largest entry"
            compared += 1
        norms = wanted["grad_norms_rope_fixed" if fixed else "grad_norms"]
        largest = norms[~norms.isnan()].max()
        for parameter, norm in zip(order, norms, strict=True):
            size = gradients[parameter].double().norm()
            if norm.isnan():
                assert size == 0, f"{name}: {parameter} has a gradient, the original has none"
            else:
                allowed = 1e-3 * norm + 1e-6 * largest
                assert (size - norm).abs() <= allowed, f"{name}: |grad {parameter}| is {size:.6g}, not {norm:.6g}"
                compared += 1
    assert compared > 0
