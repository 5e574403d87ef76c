"""Adapter folders: what peft itself merges is the measure; then everything that can be wrong with them."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import assert_same_tensors, disk_tensors, tiny_model, write_qwen, write_sam
from torch import Tensor

from unipixel.errors import CheckpointError
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import load_model, save_model

TARGETS = r"(language|visual)\..*\.(q_proj|k_proj|v_proj|o_proj|qkv|proj)"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    save_model(tiny_model(tied=False), folder)
    return folder


@pytest.fixture(scope="module")
def plain_adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, UniPixel]:
    folder = tmp_path_factory.mktemp("adapters") / "plain"
    return folder, adapt(base, folder)


@pytest.fixture
def adapter(plain_adapter: tuple[Path, UniPixel], tmp_path: Path) -> Path:
    """A copy of the plain adapter that a test may damage."""
    return Path(shutil.copytree(plain_adapter[0], tmp_path / "adapter"))


@pytest.fixture
def merged(plain_adapter: tuple[Path, UniPixel]) -> UniPixel:
    """What peft makes of the plain adapter."""
    return plain_adapter[1]


def adapt(base: Path, folder: Path, **settings: Any) -> UniPixel:
    """Write an adapter with peft into ``folder``; return the model that peft merges."""
    torch.manual_seed(1)
    wrapped = get_peft_model(load_model(base), LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, **settings))
    wrapped.peft_config["default"].base_model_name_or_path = str(base)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    wrapped.save_pretrained(folder)
    return wrapped.merge_and_unload()


def rename(path: Path, pattern: str, replacement: str) -> None:
    save_file({re.sub(pattern, replacement, k): v for k, v in load_file(path).items()}, path)


def assert_close(one: UniPixel, other: UniPixel) -> None:
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_rslora": True}, {"rank_pattern": {r"0\.self_attn\.q_proj": 2}, "alpha_pattern": {"qkv": 32}}],
    ids=["plain", "rank-stabilised", "patterns"],
)
def test_an_adapter_is_merged_as_peft_merges_it(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    merged = adapt(base, tmp_path / "adapter", **settings)
    loaded = load_model(tmp_path / "adapter", base=base)
    assert_close(loaded, merged)
    changed = "visual.blocks.1.attn.qkv.weight"
    assert not torch.equal(loaded.state_dict()[changed], load_model(base).state_dict()[changed])
    assert_same_tensors(loaded, load_model(tmp_path / "adapter"))  # the base is named in the files


@pytest.mark.parametrize(
    ("language", "visual"),
    [("model.language_model.", "model.visual."), ("model.", "visual.")],
    ids=["names in memory", "names on disk"],
)
def test_names_of_the_original_are_understood(adapter: Path, merged: UniPixel, language: str, visual: str) -> None:
    path = adapter / "adapter_model.safetensors"
    rename(path, r"^base_model\.model\.language\.", f"base_model.model.{language}")
    rename(path, r"^base_model\.model\.visual\.", f"base_model.model.{visual}")
    rename(path, r"\.lora_(A|B)\.weight", r".lora_\1.default.weight")
    assert_close(load_model(adapter), merged)


def test_modules_trained_whole_replace_those_of_the_base(adapter: Path, merged: UniPixel) -> None:
    other = disk_tensors(tiny_model(tied=False, seed=5))
    names = [name for name in other if name.startswith(("seg_head.", "model.embed", "ref_", "sam2.memory_attention."))]
    partial = {name.replace("model.embed", "model.language_model.embed"): other[name] for name in names}
    partial = {f"base_model.model.{name}": tensor for name, tensor in partial.items()}
    torch.save(partial, adapter / "pytorch_model.bin")
    loaded = disk_tensors(load_model(adapter))
    expected = {**disk_tensors(merged), **{name: other[name] for name in names}}
    assert len(names) > 50
    for name, tensor in expected.items():
        torch.testing.assert_close(loaded[name], tensor, rtol=1e-6, atol=1e-6, msg=name)


def test_partial_weights_alone_need_a_base(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stage2"
    folder.mkdir()
    save_file({"seg_head.1.bias": torch.full((32,), 3.0)}, folder / "pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match="names no base model"):
        load_model(folder)
    assert torch.equal(load_model(folder, base=base).seg_head[1].bias, torch.full((32,), 3.0))
    (folder / "config.json").write_text(json.dumps({"base_model_path": "nowhere/at-all/x"}))
    with pytest.raises(CheckpointError, match=r"base model of the adapter .* was not found"):
        load_model(folder)
    with pytest.raises(CheckpointError, match="names itself as its base"):
        load_model(folder, base=folder)
    with pytest.raises(CheckpointError, match="is a whole model"):
        load_model(base, base=base)


def test_an_adapter_on_plain_qwen_and_sam_must_bring_every_other_module(tmp_path: Path) -> None:
    model = tiny_model()
    qwen, sam = write_qwen(tmp_path / "qwen", model), write_sam(tmp_path / "sam.pt", model)
    folder = tmp_path / "stage3"
    model.config.save(folder)
    tree = json.loads((folder / "config.json").read_text())
    paths = {"base_model_path": str(qwen), "sam2_checkpoint": str(sam)}
    (folder / "config.json").write_text(json.dumps(tree | paths))
    joints = {k: v for k, v in disk_tensors(model).items() if not k.startswith(("visual.", "model.", "sam2."))}
    save_file(joints, folder / "pytorch_model.safetensors")
    assert_same_tensors(model, load_model(folder))
    save_file({k: v for k, v in joints.items() if "gaussian" not in k}, folder / "pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match=r"2 missing \(.*tem_pe\.positional_encoding_gaussian_matrix"):
        load_model(folder)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, change: dict[str, Tensor | None]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = {**load_file(path), **change}
    save_file({k: v for k, v in tensors.items() if v is not None}, path)


FIRST = "base_model.model.language.layers.0.self_attn.q_proj.lora_"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: edit(f, peft_type="IA3"), "peft_type is 'IA3'"),
        (lambda f: edit(f, use_dora=True), "use_dora is set"),
        (lambda f: edit(f, r=0), "r is 0, expected a positive number"),
        (lambda f: edit(f, r=5), "rank 5"),
        (lambda f: edit(f, rank_pattern={"(": 4}), "expected a mapping of patterns to positive numbers"),
        (lambda f: edit(f, alpha_pattern=[4]), r"alpha_pattern is \[4\]"),
        (lambda f: edit(f, base_model_name_or_path="./gone"), r"base model of the adapter .* was not found"),
        (lambda f: edit_tensors(f, {"base_model.model.ear.lora_A.weight": torch.ones(4, 2)}), "not in the base model"),
        (lambda f: edit_tensors(f, {"base_model.model.ear.weight": torch.ones(4, 2)}), "fit no part of a model"),
        (lambda f: edit_tensors(f, {FIRST + "B.weight": None}), r"q_proj \(only lora_A\)"),
        (lambda f: edit_tensors(f, {FIRST + "B.weight": torch.ones(3, 4)}), r"B \[3, 4\], weight \[32, 32\]"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "neither adapter_model.safetensors nor"),
        (lambda f: (f / "adapter_config.json").unlink(), "names no base model"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_in_one_sentence(adapter: Path, damage: Any, words: str) -> None:
    damage(adapter)
    with pytest.raises(CheckpointError, match=words) as error:
        load_model(adapter)
    assert "\n" not in str(error.value)


class Code:
    """A pickle that would make a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_carries_code_is_refused_and_not_run(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stage2"
    folder.mkdir()
    torch.save({"seg_head.1.bias": Code(tmp_path / "harm")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="file of tensors only"):
        load_model(folder, base=base)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="file of tensors only"):
        load_model(folder, base=base)
    torch.save({"seg_head.1.bias": "text"}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"entries that are not tensors: seg_head\.1\.bias"):
        load_model(folder, base=base)
    assert not (tmp_path / "harm").exists()
