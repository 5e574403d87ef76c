"""Beginning to train from released Qwen2.5-VL and SAM 2.1 weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import disk_tensors, tiny_config, tiny_model, write_qwen, write_sam

from unipixel.errors import CheckpointError
from unipixel.model.config import PixelConfig, UniPixelConfig, read_json
from unipixel.model.starting_points import build_starting_config, load_starting_point
from unipixel.model.tensor_files import StoredTensor
from unipixel.model.tensor_names import to_official_name
from unipixel.model.weights import FRESH_PREFIXES, build_empty_model, init_fresh_modules, list_expected_shapes

MATRICES = ("ref_encoder.pe_layer.positional_encoding_gaussian_matrix", "tem_pe.positional_encoding_gaussian_matrix")


@pytest.mark.parametrize("tied", [True, False])
def test_released_parts_are_taken_and_the_joints_stay_fresh(tmp_path: Path, tied: bool) -> None:
    qwen = write_qwen(tmp_path / "qwen", tiny_model(tied=tied, seed=1))
    sam = write_sam(tmp_path / "sam2.1_hiera_tiny.pt", tiny_model(seed=2))
    model, fresh = load_starting_point(tiny_config(tied=tied), qwen=qwen, sam=sam)
    found = disk_tensors(model)
    language, segmenter = disk_tensors(tiny_model(tied=tied, seed=1)), disk_tensors(tiny_model(seed=2))
    for name, tensor in found.items():
        if name.startswith(("visual.", "model.", "lm_head.")):
            assert torch.equal(tensor, language[name]), name
        elif name.startswith("sam2."):
            assert torch.equal(tensor, segmenter[name]), name
        else:
            assert name in fresh, name
    assert all(name.startswith(FRESH_PREFIXES) for name in fresh)
    assert model.training
    assert (model.lm_head.weight is model.language.embed_tokens.weight) == tied


def test_without_files_the_whole_model_is_fresh() -> None:
    model, fresh = load_starting_point(tiny_config())
    assert set(fresh) == set(disk_tensors(model))
    assert all(p.device.type == "cpu" and p.isfinite().all() for p in model.parameters())


def test_only_a_segmenter_may_be_given(tmp_path: Path) -> None:
    sam = write_sam(tmp_path / "sam.pt", tiny_model(seed=2))
    _, fresh = load_starting_point(tiny_config(), sam=sam)
    assert any(name.startswith("visual.") for name in fresh)
    assert not any(name.startswith("sam2.") for name in fresh)


def test_earlier_stages_are_laid_over_released_parts(tmp_path: Path) -> None:
    qwen = write_qwen(tmp_path / "qwen", tiny_model(seed=1))
    stage = tmp_path / "stage2"
    stage.mkdir()
    save_file({"base_model.model.seg_head.3.bias": torch.full((64,), 7.0)}, stage / "pytorch_model.safetensors")
    model, fresh = load_starting_point(tiny_config(), qwen=qwen, partial=[stage], dtype=torch.bfloat16)
    assert "seg_head.3.bias" not in fresh and "seg_head.3.weight" in fresh
    assert torch.equal(model.seg_head[3].bias, torch.full((64,), 7.0, dtype=torch.bfloat16))
    assert any(name.startswith("sam2.") for name in fresh)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def read_all(tensors: dict[str, StoredTensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.read() for name, tensor in tensors.items()}


def test_first_values_follow_the_laws_of_the_originals(released_file: Callable[[str], Path]) -> None:
    laws = {entry["name"]: entry for entry in read_json(released_file("init.json"))["tensors"]}
    stored = load_file(released_file("init.safetensors"))
    before, after = (
        {to_official_name(k.removeprefix(side)): v for k, v in stored.items() if k.startswith(side)}
        for side in ("before/", "after/")
    )
    released = {
        name: StoredTensor.from_tensor(tensor) for name, tensor in before.items() if not name.startswith(FRESH_PREFIXES)
    }
    shapes = {name: tuple(entry["shape"]) for name, entry in laws.items()}
    made = read_all(init_fresh_modules(shapes, released, generator()))
    assert made.keys() == laws.keys()
    for name, entry in laws.items():
        ours, theirs = made[name], after[name]
        assert ours.shape == theirs.shape, name
        kind, law = entry["kind"], entry.get("law", "")
        if kind == "copy":
            origin = to_official_name(entry["copied_from"])
            assert torch.equal(ours, before[origin]) and torch.equal(ours, theirs), name
        elif law == "ones" or law == "zeros":
            assert torch.equal(ours, theirs), name
        elif law.startswith("xavier uniform"):
            assert abs(math.sqrt(6 / sum(ours.shape)) - entry["bound"]) < 1e-6
            assert 0.9 * entry["bound"] < ours.abs().max() <= entry["bound"], name
        else:
            assert law.startswith("normal"), name
            assert not any(torch.equal(ours, other) for other in before.values()), name
    assert not torch.equal(made[MATRICES[0]], before["sam2.sam_prompt_encoder." + MATRICES[0].split(".", 1)[1]])


def moments(values: torch.Tensor, deviation: float) -> None:
    """Mean and deviation within 5 standard errors."""
    count = values.numel()
    assert abs(values.mean().item()) < 5 * deviation / math.sqrt(count)
    assert abs(values.std().item() / deviation - 1) < 5 / math.sqrt(count)


def test_what_is_drawn_has_the_moments_of_its_law() -> None:
    made = read_all(
        init_fresh_modules({"seg_head.1.weight": (700, 500), "ref_proj.1.weight": (400, 900)}, {}, generator())
    )
    for weight in made.values():
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.999 * bound < weight.abs().max() <= bound
        moments(weight.double(), bound / math.sqrt(3))
        inside = (weight.abs() < bound / 2).double().mean().item()
        assert abs(inside - 0.5) < 5 * 0.5 / math.sqrt(weight.numel())
    normal = {"tem_emb.weight": (1, 200_000), MATRICES[0]: (2, 100_000), MATRICES[1]: (1, 200_000)}
    made = read_all(init_fresh_modules(normal, {}, generator(), deviation=0.03))
    moments(made["tem_emb.weight"].double(), 0.03)
    moments(
        read_all(init_fresh_modules({"tem_emb.weight": (1, 200_000)}, {}, generator()))["tem_emb.weight"].double(), 0.02
    )
    for name in MATRICES:
        moments(made[name].double(), 1.0)
        kurtosis = (made[name].double() ** 4).mean().item()
        assert abs(kurtosis - 3) < 5 * math.sqrt(96 / made[name].numel())


def test_a_start_copies_from_the_released_parts_and_draws_by_its_seed(tmp_path: Path) -> None:
    qwen = write_qwen(tmp_path / "qwen", tiny_model(seed=1))
    sam = write_sam(tmp_path / "sam.pt", tiny_model(seed=2))
    model, fresh = load_starting_point(tiny_config(), qwen=qwen, sam=sam, seed=3)
    found = disk_tensors(model)
    pairs = {"ref_encoder.": "sam2.sam_prompt_encoder.", "msk_proj.": "visual.merger.mlp."}
    copied = {name: name.replace(a, b) for name in found for a, b in pairs.items() if name.startswith(a)}
    copied.pop(MATRICES[0])
    assert len(copied) == 20
    assert all(torch.equal(found[name], found[origin]) for name, origin in copied.items())
    same = disk_tensors(load_starting_point(tiny_config(), qwen=qwen, sam=sam, seed=3)[0])
    other = disk_tensors(load_starting_point(tiny_config(), qwen=qwen, sam=sam, seed=4)[0])
    drawn = [n for n in fresh if n not in copied and not n.endswith(".bias") and n != "seg_head.0.weight"]
    assert all(torch.equal(found[name], same[name]) for name in found)
    assert drawn and not any(torch.equal(found[name], other[name]) for name in drawn)
    assert torch.equal(found["seg_head.0.weight"], torch.ones(32))
    assert not any(found[name].any() for name in fresh if name.endswith(".bias") and name not in copied)


def test_every_module_between_the_released_parts_has_a_law(released_file: Callable[[str], Path]) -> None:
    for name in ("unipixel_3b", "unipixel_7b"):
        shapes = list_expected_shapes(build_empty_model(UniPixelConfig.from_folder(released_file(name))))
        ours = {key for key in shapes if key.startswith(FRESH_PREFIXES)}
        laws = {to_official_name(entry["name"]) for entry in read_json(released_file("init.json"))["tensors"]}
        assert ours == laws


def test_the_config_of_a_new_model_follows_its_language_model(tmp_path: Path) -> None:
    qwen = write_qwen(tmp_path / "qwen", tiny_model())
    config = build_starting_config(qwen, sam_name="configs/sam2.1_hiera_t", image_size=512, first_token_id=53)
    assert (config.ref_token_id, config.seg_token_id, config.mem_token_id) == (53, 54, 55)
    assert config.tie_word_embeddings and config.language.hidden_size == 32
    assert config.sam.embed_dim == 96 and config.sam.image_size == 512
    assert config.pixel == PixelConfig()
    with pytest.raises(CheckpointError, match="vocab_size is 64, the added tokens need at least 65"):
        build_starting_config(qwen, first_token_id=62)


def test_parts_that_do_not_fit_are_refused_by_their_own_name(tmp_path: Path) -> None:
    qwen = write_qwen(tmp_path / "qwen", tiny_model())
    tensors = load_file(qwen / "model.safetensors")
    del tensors["visual.merger.ln_q.weight"]
    save_file(tensors, qwen / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"qwen: .* 1 missing \(visual\.merger\.ln_q\.weight\)"):
        load_starting_point(tiny_config(), qwen=qwen)
    older = {"no_mem_embed": torch.zeros(1, 1, 32)}
    torch.save({"model": older}, tmp_path / "sam2_hiera_tiny.pt")
    with pytest.raises(CheckpointError, match=r"sam2_hiera_tiny\.pt: .* missing \(sam2\."):
        load_starting_point(tiny_config(), sam=tmp_path / "sam2_hiera_tiny.pt")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_starting_point(tiny_config(), sam=tmp_path / "gone.pt")
