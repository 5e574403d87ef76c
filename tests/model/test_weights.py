"""Checkpoints: names and shapes of released models, round trips, and everything that can be wrong with a folder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import assert_same_tensors, disk_tensors, tiny_config, tiny_model, write_checkpoint
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from unipixel.errors import CheckpointError
from unipixel.model.config import UniPixelConfig
from unipixel.model.tensor_names import build_disk_layout, canonicalize, to_disk_name, to_module_name
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import build_empty_model, load_model, resolve_checkpoint, save_model

VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
SIZES: dict[str, dict[str, Any]] = {
    "3b": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
}
QWEN_PARTS = ("visual.", "model.", "lm_head.")


def released_tree(size: str) -> dict[str, Any]:
    return dict(
        **SIZES[size],
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]},
        vision_config={**VISION, "out_hidden_size": SIZES[size]["hidden_size"]},
        image_token_id=151655,
        video_token_id=151656,
        ref_token_id=151665,
        seg_token_id=151666,
        mem_token_id=151667,
        eos_token_id=151645,
        sam2_config="configs/sam2.1_hiera_b+",
        sam2_image_size=768,
    )


def numbers(ranges: str) -> Iterator[int]:
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def released_3b() -> dict[str, tuple[int, ...]]:
    """Disk names and shapes of UniPixel-3B with Hiera-B+, from the table beside this file."""
    table = {}
    for line in (Path(__file__).parent / "keys_3b.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, shape = line.split()
            size = tuple(int(side) for side in shape.split("x"))
            match = re.search(r"\{(.+)\}", name)
            for number in numbers(match[1]) if match else [0]:
                table[re.sub(r"\{.+\}", str(number), name)] = size
    return table


def released_7b() -> dict[str, tuple[int, ...]]:
    """The same for 7B: transformers' own Qwen2.5-VL, SAM as in 3B, and the joints at the wider language model."""
    tree, wide = released_tree("7b"), SIZES["7b"]["hidden_size"]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    text = {**SIZES["7b"], "rope_parameters": rope}
    with torch.device("meta"):
        qwen = Qwen2_5_VLForConditionalGeneration._from_config(
            Qwen2_5_VLConfig(text_config=text, vision_config=tree["vision_config"], tie_word_embeddings=False)
        )
    table = {canonicalize(name): tuple(tensor.shape) for name, tensor in qwen.state_dict().items()}
    for name, shape in released_3b().items():
        if name.startswith("sam2."):
            table[name] = shape
        elif not name.startswith(QWEN_PARTS):
            table[name] = tuple(wide if side == 2048 else side for side in shape)
    return table


def shapes_of(model: UniPixel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(places[0][1].shape) for name, places in build_disk_layout(model.state_dict()).items()}


def test_all_names_and_shapes_of_the_3b_release_map_onto_our_model() -> None:
    model = build_empty_model(UniPixelConfig.from_dict(released_tree("3b")))
    assert all(p.device.type == "meta" for p in model.visual.parameters() if p.dim() > 1)
    found, released = shapes_of(model), released_3b()
    assert found == released
    assert len(found) == 1476
    assert sum(p.numel() for p in model.parameters()) == 3_881_764_174


def test_all_names_and_shapes_of_the_7b_release_map_onto_our_model() -> None:
    found = shapes_of(build_empty_model(UniPixelConfig.from_dict(released_tree("7b"))))
    assert found == released_7b()
    language = sum(torch.Size(shape).numel() for name, shape in found.items() if name.startswith(QWEN_PARTS))
    assert language == 8_292_166_656  # what the index of Qwen2.5-VL-7B-Instruct counts, 2 bytes each


def test_the_rename_table_reads_the_same_in_both_directions() -> None:
    for name in released_3b():
        assert to_disk_name(to_module_name(name)) == name
    for name in tiny_model().state_dict():
        if not name.endswith((".point_embed.weight", "shared_image_embedding.positional_embedding")):
            assert to_module_name(to_disk_name(name)) == name


def test_a_name_of_no_part_of_the_model_is_a_key_error() -> None:
    for name in ("sam2.obj_ptr_proj.layers.7.weight", "audio.weight", "lm_head.bias"):
        with pytest.raises(KeyError, match="rename table"):
            to_module_name(name)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard", ["5GB", 60_000])
def test_a_saved_model_loads_back_exactly(tmp_path: Path, tied: bool, shard: int | str) -> None:
    model = tiny_model(tied=tied)
    save_model(model, tmp_path, max_shard_size=shard)
    loaded = load_model(tmp_path)
    assert_same_tensors(model, loaded)
    assert (loaded.lm_head.weight is loaded.language.embed_tokens.weight) == tied
    assert not loaded.training
    assert loaded.config.to_dict() == model.config.to_dict()


def test_shards_stay_below_the_limit_and_replace_what_was_there(tmp_path: Path) -> None:
    model = tiny_model()
    (tmp_path / "tokenizer.json").write_text("{}")
    save_model(model, tmp_path, max_shard_size="600KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert all(sum(x.nbytes for x in load_file(shard).values()) <= 600_000 for shard in shards)
    save_model(model, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    configs = {"config.json", "generation_config.json", "sam2_config.json"}
    assert names == {*configs, "model.safetensors", "tokenizer.json"}


def test_a_model_can_be_saved_over_the_folder_it_was_loaded_from(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path)
    loaded = load_model(tmp_path)
    with torch.no_grad():
        loaded.seg_head[1].bias.add_(1)
    save_model(loaded, tmp_path)
    assert_same_tensors(loaded, load_model(tmp_path))


def test_half_precision_keeps_positions_in_full_precision(tmp_path: Path) -> None:
    model = tiny_model()
    save_model(model, tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    stored = load_file(tmp_path / "model.safetensors")
    matrices = {name for name in stored if "gaussian" in name}
    assert {name for name, x in stored.items() if x.dtype == torch.float32} == matrices
    assert len(matrices) == 3
    loaded = load_model(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    for (name, ours), (_, fresh) in zip(loaded.named_buffers(), model.named_buffers(), strict=True):
        assert ours.dtype == fresh.dtype and torch.equal(ours, fresh), name
    assert torch.equal(loaded.lm_head.weight.float(), model.lm_head.weight.bfloat16().float())


def test_one_fourier_matrix_serves_points_and_pictures(saved: Path) -> None:
    segmenter = load_model(saved).segmenter
    matrix = segmenter.shared_image_embedding.positional_embedding
    assert matrix is segmenter.prompt_encoder.shared_embedding.positional_embedding


def test_names_as_in_the_memory_of_the_original_are_understood(tmp_path: Path) -> None:
    model = tiny_model(tied=False)
    renamed = {}
    for name, tensor in disk_tensors(model).items():
        name = re.sub(r"^model\.", "model.language_model.", name)
        renamed[re.sub(r"^visual\.", "model.visual.", name)] = tensor
    assert_same_tensors(model, load_model(write_checkpoint(tmp_path, model.config, renamed)))


def test_the_head_of_a_tied_model_may_be_stored_if_it_equals_the_embedding(tmp_path: Path) -> None:
    model = tiny_model()
    tensors = disk_tensors(model)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    assert_same_tensors(model, load_model(write_checkpoint(tmp_path, model.config, tensors)))
    tensors["lm_head.weight"][3, 4] += 1
    with pytest.raises(CheckpointError, match="tie_word_embeddings"):
        load_model(write_checkpoint(tmp_path, model.config, tensors))


def test_missing_unexpected_and_misshapen_tensors_are_listed(tmp_path: Path) -> None:
    model = tiny_model(tied=False)
    tensors = disk_tensors(model)
    for name in [name for name in tensors if name.startswith("visual.blocks.0")] + ["lm_head.weight"]:
        del tensors[name]
    tensors["audio.weight"] = torch.zeros(2)
    tensors["model.norm.weight"] = torch.zeros(5)
    with pytest.raises(CheckpointError) as error:
        load_model(write_checkpoint(tmp_path, model.config, tensors))
    message = str(error.value)
    assert "13 missing (visual.blocks.0." in message and "and 3 more" in message
    assert "1 unexpected (audio.weight)" in message
    assert "1 of another shape (model.norm.weight is [5], expected [32])" in message


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_model(tiny_model(), folder)
    return folder


def test_a_dtype_that_is_no_float_is_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"torch\.int8"):
        load_model(saved, dtype=torch.int8)


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def leave_a_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def store_integers(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "model.norm.weight": torch.ones(32, dtype=torch.int8)}, folder / "model.safetensors")


def store_twice(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    twin: dict[str, Tensor] = {"model.language_model.norm.weight": tensors["model.norm.weight"].clone()}
    save_file({**tensors, **twin}, folder / "model.safetensors")


def lose_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def lose_shard(folder: Path) -> None:
    save_model(load_model(folder), folder, max_shard_size="600KB")
    sorted(folder.glob("model-*.safetensors"))[0].unlink()


def point_outside(folder: Path) -> None:
    lose_weights(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))


def index_nonsense(folder: Path) -> None:
    lose_weights(folder)
    (folder / "model.safetensors.index.json").write_text("[]")


def index_a_ghost(folder: Path) -> None:
    save_model(load_model(folder), folder, max_shard_size="600KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["ghost.weight"] = next(iter(index["weight_map"].values()))
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def shrink_nonsense(folder: Path) -> None:
    tree = json.loads((folder / "config.json").read_text())
    tree["hidden_size"] = tree["text_config"]["hidden_size"] = "wide"
    (folder / "config.json").write_text(json.dumps(tree))


def nest_deep(folder: Path) -> None:
    (folder / "config.json").write_text('{"a": ' + "[" * 50_000 + "]" * 50_000 + "}")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (nest_deep, "nested too deep"),
        (break_config, "model_type is 'llama', expected 'pixel_qwen2_5_vl'"),
        (shrink_nonsense, "wide"),
        (cut_weights, "not a complete safetensors file"),
        (leave_a_pointer, "git lfs pull"),
        (store_integers, r"model.norm.weight \(I8\)"),
        (store_twice, "two ways: model.norm.weight"),
        (lose_weights, "neither model.safetensors nor"),
        (lose_shard, "does not exist"),
        (point_outside, "expected a file name inside the folder"),
        (index_nonsense, "expected a JSON object"),
        (index_a_ghost, "names tensors that no shard has: ghost.weight"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_sentence(saved: Path, tmp_path: Path, damage: Any, words: str) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    damage(folder)
    with pytest.raises(CheckpointError, match=words) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["seg_head.1.bias", "sam2.memory_encoder.out_proj.weight", "model.norm.weight"])
def test_the_first_tensor_that_is_not_finite_is_refused_by_name(
    saved: Path, tmp_path: Path, name: str, value: float
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[-1] = value
    save_file(tensors, folder / "model.safetensors")
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(CheckpointError, match=rf"{re.escape(name)} holds NaN or infinity"):
            load_model(folder, dtype=dtype)


def test_numbers_that_a_type_cannot_hold_are_told_from_damage(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = 1e6
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds numbers too large for float16"):
        load_model(folder, dtype=torch.float16)
    assert load_model(folder).language.norm.weight[0] == 1e6


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("vocab_size", -1),
        ("hidden_size", 10**9),
        ("num_hidden_layers", True),
        ("num_hidden_layers", 10**6),
        ("num_attention_heads", 3),
        ("num_key_value_heads", 0),
        ("rms_norm_eps", "small"),
        ("hidden_act", "gelu"),
        ("rope_theta", 0),
        ("rope_scaling", []),
        ("rope_scaling/mrope_section", [1]),
        ("rope_scaling/mrope_section", [1.5, 1.5, 1]),
        ("vision_config", 3),
        ("vision_config/depth", 0),
        ("vision_config/hidden_act", "gelu_new"),
        ("vision_config/num_heads", 7),
        ("vision_config/in_channels", 4),
        ("vision_config/spatial_merge_size", 3),
        ("vision_config/fullatt_block_indexes", [99]),
        ("vision_config/fullatt_block_indexes", "all"),
        ("text_config", [1]),
        ("pixel", {"recall": "nothing"}),
        ("pixel", {"propagate": 1}),
        ("pixel", []),
        ("sam2_config", ["b"]),
        ("sam2_image_size", 10**6 * 32),
        ("sam2_image_size", "64"),
        ("sam2_hidden_tokens", 2.5),
        ("seg_token_id", -1),
        ("seg_token_id", "5"),
        ("eos_token_id", [None]),
        ("eos_token_id", 10**400),
    ],
)
def test_fields_of_a_config_are_checked_when_it_is_read(saved: Path, tmp_path: Path, path: str, value: Any) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    (folder / "generation_config.json").unlink()
    tree = json.loads((folder / "config.json").read_text())
    *above, last = path.split("/")
    for part in (tree, *([tree["text_config"]] if path.partition("/")[0] in tree["text_config"] else [])):
        for key in above:
            part = part[key]
        part[last] = value
    (folder / "config.json").write_text(json.dumps(tree))
    with pytest.raises(CheckpointError) as error:
        load_model(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("image_encoder", []),
        ("image_encoder/trunk/stages", [1, 2]),
        ("image_encoder/trunk/stages", [1, 2, 10**9, 1]),
        ("image_encoder/trunk/global_att_blocks", [10**9]),
        ("image_encoder/trunk/window_spec", "8"),
        ("image_encoder/trunk/num_heads", 0),
        ("memory_attention/num_layers", 10**7),
        ("memory_attention/layer/dropout", 2),
        ("mask_decoder/mlp_dim", [64]),
        ("num_maskmem", -7),
    ],
)
def test_fields_of_a_sam_config_are_checked_when_it_is_read(saved: Path, tmp_path: Path, path: str, value: Any) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    tree = json.loads((folder / "sam2_config.json").read_text())
    *above, last = path.split("/")
    part = tree
    for key in above:
        part = part.setdefault(key, {})
    part[last] = value
    (folder / "sam2_config.json").write_text(json.dumps(tree))
    with pytest.raises(CheckpointError) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_sizes_that_make_no_model_are_refused() -> None:
    config = tiny_config()
    config.language.num_attention_heads = 0
    with pytest.raises(CheckpointError, match="do not make a model"):
        build_empty_model(config)


def test_names_that_are_no_checkpoint_are_refused_with_the_alternative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match="pass the path of its folder"):
        resolve_checkpoint("PolyU-ChenLab/UniPixel-3B")
    with pytest.raises(CheckpointError, match="a checkpoint folder, or a Hub id"):
        resolve_checkpoint("./no/such/folder")
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(CheckpointError, match="is a file; pass the checkpoint folder"):
        resolve_checkpoint(file)
    with pytest.raises(CheckpointError, match="is a file"):
        save_model(tiny_model(), file)
    assert resolve_checkpoint(tmp_path) == tmp_path


def test_the_official_layout_loads_and_is_written_back_tensor_by_tensor(
    parity_file: Callable[[str], Path], tmp_path: Path
) -> None:
    official = load_file(parity_file("model.safetensors"))
    model = load_model(parity_file("config.json").parent)
    save_model(model, tmp_path)
    ours = load_file(tmp_path / "model.safetensors")
    assert official.keys() == ours.keys()
    assert all(torch.equal(official[name].float(), ours[name]) for name in official)
    assert_same_tensors(model, load_model(tmp_path))


def test_the_official_tied_layout_loads(parity_file: Callable[[str], Path], tmp_path: Path) -> None:
    tensors = load_file(parity_file("model.safetensors"))
    shutil.copy(parity_file("config_tied.json"), tmp_path / "config.json")
    shutil.copy(parity_file("sam2_config.json"), tmp_path)
    tensors.pop("lm_head.weight", None)
    save_file(tensors, tmp_path / "model.safetensors")
    model = load_model(tmp_path)
    assert model.lm_head.weight is model.language.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, tensors["model.embed_tokens.weight"].float())
