"""Beginning to train from released Qwen2.5-VL and SAM 2.1 weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import disk_tensors, tiny_config, tiny_model, write_qwen, write_sam

from unipixel.errors import CheckpointError
from unipixel.model.config import PixelConfig
from unipixel.model.starting_points import load_starting_point, starting_config

JOINTS = ("seg_head.", "ref_encoder.", "ref_proj", "tem_", "msk_proj.")


@pytest.mark.parametrize("tied", [True, False])
def test_released_parts_are_taken_and_the_joints_stay_fresh(tmp_path: Path, tied: bool) -> None:
    qwen = write_qwen(tmp_path / "qwen", tiny_model(tied=tied, seed=1))
    sam = write_sam(tmp_path / "sam2.1_hiera_tiny.pt", tiny_model(seed=2))
    start = load_starting_point(tiny_config(tied=tied), qwen=qwen, sam=sam)
    found = disk_tensors(start.model)
    language, segmenter = disk_tensors(tiny_model(tied=tied, seed=1)), disk_tensors(tiny_model(seed=2))
    for name, tensor in found.items():
        if name.startswith(("visual.", "model.", "lm_head.")):
            assert torch.equal(tensor, language[name]), name
        elif name.startswith("sam2."):
            assert torch.equal(tensor, segmenter[name]), name
        else:
            assert name in start.fresh, name
    assert all(name.startswith(JOINTS) for name in start.fresh)
    assert start.model.training
    assert (start.model.lm_head.weight is start.model.language.embed_tokens.weight) == tied


def test_without_files_the_whole_model_is_fresh() -> None:
    start = load_starting_point(tiny_config())
    assert set(start.fresh) == set(disk_tensors(start.model))
    assert all(p.device.type == "cpu" and p.isfinite().all() for p in start.model.parameters())


def test_only_a_segmenter_may_be_given(tmp_path: Path) -> None:
    sam = write_sam(tmp_path / "sam.pt", tiny_model(seed=2))
    start = load_starting_point(tiny_config(), sam=sam)
    assert any(name.startswith("visual.") for name in start.fresh)
    assert not any(name.startswith("sam2.") for name in start.fresh)


def test_earlier_stages_are_laid_over_released_parts(tmp_path: Path) -> None:
    qwen = write_qwen(tmp_path / "qwen", tiny_model(seed=1))
    stage = tmp_path / "stage2"
    stage.mkdir()
    save_file({"base_model.model.seg_head.3.bias": torch.full((64,), 7.0)}, stage / "pytorch_model.safetensors")
    start = load_starting_point(tiny_config(), qwen=qwen, partial=[stage], dtype=torch.bfloat16)
    assert "seg_head.3.bias" not in start.fresh and "seg_head.3.weight" in start.fresh
    assert torch.equal(start.model.seg_head[3].bias, torch.full((64,), 7.0, dtype=torch.bfloat16))
    assert any(name.startswith("sam2.") for name in start.fresh)


def test_the_config_of_a_new_model_follows_its_language_model(tmp_path: Path) -> None:
    qwen = write_qwen(tmp_path / "qwen", tiny_model())
    config = starting_config(qwen, sam_name="configs/sam2.1_hiera_t", image_size=512, first_token_id=53)
    assert (config.ref_token_id, config.seg_token_id, config.mem_token_id) == (53, 54, 55)
    assert config.tie_word_embeddings and config.language.hidden_size == 32
    assert config.sam.embed_dim == 96 and config.sam.image_size == 512
    assert config.pixel == PixelConfig()
    with pytest.raises(CheckpointError, match="vocab_size is 64, the added tokens need at least 65"):
        starting_config(qwen, first_token_id=62)


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
