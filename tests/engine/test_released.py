"""Released checkpoints in every form in which the original leaves them: they load, and answer as they did there."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

import unipixel
from unipixel.engine.engine import Engine
from unipixel.engine.generation import ConversationCache, DecodingOptions, PrefillInput, Reply, generate
from unipixel.errors import CheckpointError, CheckpointWarning
from unipixel.media import Media
from unipixel.model.config import UniPixelConfig, read_json
from unipixel.model.lora_weights import list_partial_names
from unipixel.model.tensor_names import to_module_name, to_official_name
from unipixel.model.tracker import Tracker
from unipixel.model.weights import build_empty_model, list_expected_shapes, load_model, save_model
from unipixel.processing import VisualInput
from unipixel.processing.images import prepare_sam_frames
from unipixel.sample import Turn
from unipixel.train.recipe import Start
from unipixel.train.recipes import RECIPES
from unipixel.train.setup import prepare_training

LM = 1e-4  # absolute tolerance of the fixtures' README
Find = Callable[[str], Path]
WHOLE = ("tiny_tied", "tiny_untied")
PARTS = ("stages/stage1", "stages/stage2", "stages/stage3_adapter")
DRAWN = ("tem_pe.positional_encoding_gaussian_matrix", "ref_encoder.pe_layer.positional_encoding_gaussian_matrix")


@pytest.fixture(scope="module")
def base(released_file: Find) -> dict[str, Path]:
    """The Qwen2.5-VL and the SAM file over which parts are laid, as arguments of `load`."""
    zoo = released_file("stages/base/model_zoo")
    qwen = [path.parent for path in sorted(zoo.glob("*/config.json"))]
    sam = sorted(zoo.glob("sam2.1/*"))
    if not qwen or not sam:
        pytest.skip("stages/base holds no Qwen2.5-VL or no SAM 2.1")
    return {"base": qwen[0], "sam": sam[0]}


@pytest.fixture(scope="module")
def whole(released_dir: Path) -> Path:
    """The first whole folder that is there."""
    there = [released_dir / name for name in WHOLE if (released_dir / name).exists()]
    if not there:
        pytest.skip(f"{' and '.join(WHOLE)} are absent from the released checkpoints")
    return there[0]


@pytest.fixture(scope="module")
def engine(released_file: Find, request: pytest.FixtureRequest) -> Callable[[str], Engine]:
    """Engines by the name of their folder; what a part lacks is drawn."""

    def get(name: str) -> Engine:
        folder = released_file(name)
        if name in WHOLE:
            return unipixel.load(folder, device="cpu", dtype="float32")
        over = request.getfixturevalue("base")
        with pytest.warns(CheckpointWarning, match="not trained"):
            return unipixel.load(folder, device="cpu", dtype="float32", fresh=True, **over)

    return get


@pytest.fixture(scope="module")
def expected(released_file: Find) -> Callable[[str], dict[str, torch.Tensor]]:
    """Tensors beside a folder; parts see the pixels of a whole one."""

    def get(name: str) -> dict[str, torch.Tensor]:
        tensors = load_file(released_file(f"{name}/expected.safetensors"))
        if "pixel_values_videos" not in tensors:
            more = load_file(released_file("tiny_tied/expected.safetensors"))
            tensors |= {key: more[key] for key in ("pixel_values_videos", "frames")}
        return {key: tensor.clone() for key, tensor in tensors.items()}

    return get


def batch(given: dict[str, torch.Tensor], prefix: str = "") -> dict[str, Any]:
    ids = given[f"{prefix}input_ids"]
    inputs: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids, dtype=torch.bool),
        "pixel_values": given["pixel_values_videos"],
        "grid_thw": given["video_grid_thw"],
        "second_per_grid": given["second_per_grid_ts"],
    }
    if f"{prefix}point_coords" in given:
        inputs |= {
            "point_coords": list(given[f"{prefix}point_coords"]),
            "point_labels": list(given[f"{prefix}point_labels"]),
            "point_frames": given[f"{prefix}point_frames"],
            "point_num_frames": 2 * int(given["video_grid_thw"][0, 0]),
            "region_masks": [given[f"{prefix}refer_mask"].bool()],
        }
    return inputs


def assert_close(name: str, ours: torch.Tensor, given: dict[str, torch.Tensor], prefix: str = "") -> None:
    """Logits equal those of the original at the positions that the fixture keeps."""
    theirs = given[f"{prefix}logits"]
    ours = ours[:, given.get(f"{prefix}logits_positions", torch.arange(ours.shape[1]))]
    assert ours.shape == theirs.shape
    worst = (ours - theirs).abs().max().item()
    print(f"{name}: largest difference of logits {worst:.1e}")
    assert worst <= LM, f"{name}: {worst:.1e}"


@torch.inference_mode()
@pytest.mark.parametrize("name", WHOLE + PARTS)
def test_logits_and_reply_are_those_of_the_original(name: str, engine: Any, expected: Any, released_file: Find) -> None:
    loaded, given = engine(name), expected(name)
    model, told = loaded.model, read_json(released_file(f"{name}/expected.json"))
    assert model.config.tie_word_embeddings == told["tie_word_embeddings_seen_by_the_model"]
    tied = model.lm_head.weight.data_ptr() == model.language.embed_tokens.weight.data_ptr()
    assert tied == told["lm_head_is_embedding"]
    assert_close(name, model(**batch(given)).logits, given)
    merged = model.encode_vision(given["pixel_values_videos"], given["video_grid_thw"]).merged
    ids = given["input_ids"]
    where, following = model.compute_rope_index(ids, None, given["video_grid_thw"], given["second_per_grid_ts"])
    passage = PrefillInput(ids[0], model.embed(ids, merged)[0], where[:, 0], int(following))
    reply, options = Reply(), DecodingOptions(max_new_tokens=len(given["generated"]))
    for _ in generate(model, ConversationCache(), [passage], [reply], options):
        pass
    assert reply.ids == given["generated"].tolist()
    assert loaded.processor.tokenizer.decode(reply.ids, skip_special_tokens=False).startswith(told["response"])


@pytest.mark.parametrize("name", WHOLE + PARTS)
def test_prompt_and_patches_are_those_of_the_original(
    name: str, engine: Any, expected: Any, released_file: Find
) -> None:
    loaded, given = engine(name), expected(name)
    told = read_json(released_file(f"{name}/expected.json"))
    limits = {"min_pixels": told["min_pixels"], "max_pixels": told["max_pixels"], "share_budget": False}
    processor = loaded.processor
    processor.settings = replace(processor.settings, **limits)
    visual = VisualInput(Media.from_array(given["frames"].numpy()), processor.settings)
    turn = processor.build_first_turn(Turn(question=told["question"]), visual)
    assert turn.input_ids.tolist() == given["input_ids"][0].tolist()
    assert visual.grid == tuple(given["video_grid_thw"][0].tolist())
    torch.testing.assert_close(visual.pixel_values, given["pixel_values_videos"], atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("name", (*WHOLE, "stages/stage3_adapter"))
def test_masks_are_those_of_the_original(name: str, engine: Any, expected: Any) -> None:
    loaded, given = engine(name), expected(name)
    if "seg/masks" not in given:
        pytest.skip(f"the packed {name} has no masks; set UNIPIXEL_RELEASED_DIR to a folder of full checkpoints")
    model, ids = loaded.model, given["seg/input_ids"][0]
    hidden = model(**batch(given, "seg/")).hidden[0]
    queries = model.compute_seg_tokens(hidden[:-1][ids[1:] == model.config.seg_token_id])
    settings = replace(loaded.processor.settings, sam_size=model.config.sam.image_size)
    features = model.segmenter.encode(prepare_sam_frames(given["frames"].numpy(), settings))
    tracker = Tracker(model.segmenter, len(features))
    steps = [tracker.add_prompts(features[:1], list(range(len(queries))), queries)]
    steps += [tracker.step(features[t : t + 1]) for t in range(1, len(features))]
    theirs = given["seg/masks"].bool().flatten(0, 1)  # (objects, T, H, W)
    low = torch.stack([step.low_res_masks[:, 0] for step in steps], 1)
    logits = F.interpolate(low, size=theirs.shape[-2:], mode="bilinear")
    assert logits.shape == theirs.shape
    sure = logits.abs() > 1e-3
    assert sure.any() and ((logits > 0) == theirs)[sure].all()
    assert ((logits > 0) == theirs).float().mean() > 0.999


@torch.inference_mode()
@pytest.mark.parametrize("name", WHOLE)
def test_points_and_object_memory_are_those_of_the_original(name: str, engine: Any, expected: Any) -> None:
    given = expected(name)
    if "ref_mem/logits" not in given:
        pytest.skip(f"{name}/expected.safetensors has no ref_mem")
    assert_close(f"{name} ref_mem", engine(name).model(**batch(given, "ref_mem/")).logits, given, "ref_mem/")


@pytest.mark.parametrize("name", WHOLE + PARTS)
def test_replies_end_at_every_token_of_the_generation_config(name: str, engine: Any, released_file: Find) -> None:
    stated = read_json(released_file(f"{name}/generation_config.json"))["eos_token_id"]
    wanted = tuple(stated) if isinstance(stated, list) else (stated,)
    assert engine(name).model.config.eos_token_ids == wanted


@pytest.mark.parametrize("name", ["unipixel_3b", "unipixel_7b"])
def test_names_shapes_and_files_of_the_released_sizes_are_what_we_expect(name: str, released_file: Find) -> None:
    folder = released_file(name)
    listing = read_json(released_file(f"{name}/tensors.json"))
    stored = next(value for value in listing.values() if isinstance(value, dict) and _lists_tensors(value))
    theirs = {row[0]: tuple(row[2]) for rows in stored.values() for row in rows}
    config = UniPixelConfig.from_folder(folder)
    assert list_expected_shapes(build_empty_model(config)) == theirs
    assert config.tie_word_embeddings != listing["lm_head_weight_on_disk"]
    index = read_json(folder / "model.safetensors.index.json")
    assert index["weight_map"] == {row[0]: file for file, rows in stored.items() for row in rows}
    parameters = sum(p.numel() for p in build_empty_model(config).parameters())
    assert index["metadata"]["total_parameters"] == parameters
    assert index["metadata"]["total_size"] == 2 * sum(math.prod(shape) for shape in theirs.values())
    added = read_json(folder / "tokenizer_config.json")["added_tokens_decoder"]
    ids = {entry["content"]: int(number) for number, entry in added.items()}
    assert [ids["<|ref|>"], ids["<|seg|>"], ids["<|mem|>"]] == [
        config.ref_token_id,
        config.seg_token_id,
        config.mem_token_id,
    ]
    assert ids["<|im_end|>"] in config.eos_token_ids


def _lists_tensors(value: dict[str, Any]) -> bool:
    return all(isinstance(rows, list) and rows and isinstance(rows[0], list) for rows in value.values())


def test_layouts_of_the_untied_twins_are_understood(released_file: Find) -> None:
    config = UniPixelConfig.from_folder(released_file("tiny_untied"))
    shapes = list_expected_shapes(build_empty_model(config))
    for name, files in read_json(released_file("stages/names.json")).items():
        if name == "untied_stage3_full":
            stored = {key: tuple(entry[1]) for file in files.values() for key, entry in file.items()}
            assert stored == shapes
        elif name == "untied_stage3_adapter":
            for key, entry in files["pytorch_model.safetensors"].items():
                assert shapes[to_official_name(key)] == tuple(entry[1]), key


@pytest.mark.parametrize("name", WHOLE)
def test_without_a_word_about_tying_the_shards_decide(name: str, released_file: Find, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(released_file(name), tmp_path / "copy"))
    wanted = UniPixelConfig.from_folder(folder).tie_word_embeddings
    tree = read_json(folder / "config.json")
    tree.pop("tie_word_embeddings", None)
    tree["text_config"].pop("tie_word_embeddings", None)
    (folder / "config.json").write_text(json.dumps(tree))
    loaded = load_model(folder)
    assert loaded.config.tie_word_embeddings == wanted
    flat = {**tree, "tie_word_embeddings": wanted}
    (folder / "config.json").write_text(json.dumps(flat))
    assert load_model(folder).config.tie_word_embeddings == wanted


@pytest.mark.parametrize("name", PARTS)
def test_what_no_file_holds_is_asked_for_and_never_drawn_in_silence(
    name: str, released_file: Find, base: dict[str, Path]
) -> None:
    folder = released_file(name)
    with pytest.raises(CheckpointError) as error:
        unipixel.load(folder, device="cpu", **base)
    message = str(error.value)
    assert "missing" in message and "pass base=FOLDER" in message and f"unipixel doctor {folder}" in message
    with pytest.warns(CheckpointWarning) as warnings:
        first = load_model(folder, fresh=True, **base)
    text = next(str(w.message) for w in warnings)
    held = list_partial_names(folder)
    made = [
        n for n in list_expected_shapes(first) if n not in held and not n.startswith(("visual.", "model.", "sam2."))
    ]
    assert all(drawn in made for drawn in DRAWN) and all(one in text for one in made)
    with pytest.warns(CheckpointWarning):
        again = load_model(folder, fresh=True, **base)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", PARTS)
def test_a_whole_model_as_base_gives_the_buffers(name: str, released_file: Find) -> None:
    whole = load_model(released_file("tiny_tied"))
    laid = load_model(released_file(name), base=released_file("tiny_tied"))
    ours, theirs = laid.state_dict(), whole.state_dict()
    for key in ("prompt_encoder.time_matrix", "prompt_encoder.encoder.shared_embedding.positional_embedding"):
        assert torch.equal(ours[key], theirs[key])
    held = list_partial_names(released_file(name))
    changed = {key for key in ours if not torch.equal(ours[key], theirs[key])}
    assert changed and held


def test_parts_find_their_base_where_the_original_would(
    released_file: Find, base: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = released_file("stages/stage1")
    named = read_json(source / "config.json")
    zoo = tmp_path / "project"
    shutil.copytree(base["base"], zoo / named["base_model_path"])
    (zoo / named["sam2_checkpoint"]).parent.mkdir(parents=True)
    weights = {key: tensor.float() for key, tensor in load_file(base["sam"]).items()}
    torch.save({"model": weights}, zoo / named["sam2_checkpoint"])
    inside = Path(shutil.copytree(source, zoo / "work_dirs" / "stage1"))
    outside = Path(shutil.copytree(source, tmp_path / "elsewhere"))
    with pytest.warns(CheckpointWarning):
        found = load_model(inside, fresh=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="pass its folder as base=FOLDER"):
        load_model(outside, fresh=True)
    monkeypatch.chdir(zoo)
    with pytest.warns(CheckpointWarning):
        also = load_model(outside, fresh=True)
    with pytest.warns(CheckpointWarning):
        given = load_model(outside, fresh=True, **base)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(CheckpointWarning):
        below = load_model(outside, fresh=True, base=zoo)  # the folder from which the original ran
    for one in (also, given, below):
        assert all(torch.equal(a, b) for a, b in zip(found.parameters(), one.parameters(), strict=True))
    (zoo / named["sam2_checkpoint"]).unlink()
    with pytest.raises(CheckpointError, match="pass their path as sam=FILE"):
        load_model(inside, fresh=True)


def test_training_goes_on_from_the_originals_stages(released_file: Find, base: dict[str, Path]) -> None:
    stages = tuple(str(released_file(name)) for name in PARTS[:2])
    recipe = replace(RECIPES["joint"](), start=Start(qwen=str(base["base"]), sam=str(base["sam"]), stages=stages))
    with pytest.warns(CheckpointWarning, match="drawn anew"):
        begun = prepare_training(recipe)
    state = begun.model.state_dict()
    for stage in stages:
        for name, tensor in load_file(Path(stage) / "pytorch_model.safetensors").items():
            key = to_module_name(to_official_name(name))
            assert torch.equal(state[key], tensor.float()), name
            assert key in begun.changed
    merger, pool = begun.model.visual.merger.mlp, begun.model.region_pool.project
    assert all(torch.equal(a, b) for a, b in zip(merger.parameters(), pool.parameters(), strict=True))
    assert {to_module_name(name) for name in DRAWN} <= begun.changed


class PixelConfig(Qwen2_5_VLConfig):
    """The original's config class, as whoever moves it to today's transformers would have it."""

    model_type = "pixel_qwen2_5_vl"


def save_again(source: Path, folder: Path) -> Path:
    """The folder as the installed transformers writes it: config, language and vision tensors, tokenizer, processor."""
    # names of tensors are only understood under the model type that transformers knows
    plain = Path(shutil.copytree(source, folder.with_name("plain")))
    tree = read_json(plain / "config.json")
    (plain / "config.json").write_text(json.dumps(tree | {"model_type": "qwen2_5_vl"}))
    Qwen2_5_VLForConditionalGeneration.from_pretrained(plain, dtype=torch.bfloat16).save_pretrained(folder)
    PixelConfig.from_pretrained(folder).save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    for file in source.glob("model*.safetensors"):
        rest = {k: v for k, v in load_file(file).items() if not k.startswith(("visual.", "model.", "lm_head."))}
        stored |= rest
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    Qwen2Tokenizer.from_pretrained(source).save_pretrained(folder)
    GenerationConfig.from_pretrained(source).save_pretrained(folder)
    try:
        from transformers import Qwen2_5_VLProcessor

        Qwen2_5_VLProcessor.from_pretrained(source).save_pretrained(folder)
    except ImportError:  # it needs torchvision; this is what it writes
        tree = {"image_processor": read_json(source / "preprocessor_config.json"), "processor_class": "any"}
        (folder / "processor_config.json").write_text(json.dumps(tree))
    shutil.copy(source / "sam2_config.json", folder)
    return folder


@torch.inference_mode()
@pytest.mark.parametrize("name", WHOLE)
def test_a_folder_saved_again_by_the_installed_transformers_loads(
    name: str, released_file: Find, expected: Any, tmp_path: Path
) -> None:
    folder = save_again(released_file(name), tmp_path / "again")
    tree = read_json(folder / "config.json")
    assert "rope_parameters" in tree["text_config"] and "dtype" in tree and "torch_dtype" not in tree
    assert not (folder / "vocab.json").exists() and not (folder / "preprocessor_config.json").exists()
    loaded, given = unipixel.load(folder, device="cpu", dtype="float32"), expected(name)
    assert_close(f"{name} saved again", loaded.model(**batch(given)).logits, given)
    original = unipixel.load(released_file(name), device="cpu", dtype="float32")
    assert loaded.model.config.eos_token_ids == original.model.config.eos_token_ids
    text = "Please segment [1] <|ref|> 12 <|mem|><|seg|>.<|im_end|>"
    assert loaded.processor.tokenizer.encode(text) == original.processor.tokenizer.encode(text)
    assert replace(loaded.processor.settings) == original.processor.settings


@pytest.mark.parametrize("name", WHOLE)
def test_what_we_write_has_the_fields_of_the_released_form(name: str, released_file: Find, tmp_path: Path) -> None:
    source = released_file(name)
    loaded = unipixel.load(source, device="cpu", dtype="bfloat16")
    save_model(loaded.model, tmp_path)
    loaded.processor.save(tmp_path)
    for path in sorted(source.iterdir()):
        if path.suffix == ".json" and path.name not in ("expected.json", "model.safetensors.index.json"):
            extra = _compare(read_json(path), read_json(tmp_path / path.name), path.name)
            allowed = {"tie_word_embeddings", "text_config.tie_word_embeddings", "unipixel"}
            assert extra <= allowed, f"{path.name} has more than the released form: {extra - allowed}"
    for file in ("merges.txt", "chat_template.jinja"):
        if (source / file).exists():
            assert (tmp_path / file).read_text() == (source / file).read_text(), file
    ours, theirs = load_file(tmp_path / "model.safetensors"), {}
    for path in source.glob("model*.safetensors"):
        theirs |= load_file(path)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key].float(), theirs[key].float()) for key in theirs)
    again = unipixel.load(tmp_path, device="cpu", dtype="bfloat16")
    assert again.model.config == loaded.model.config and again.processor.settings == loaded.processor.settings
    assert again.model.config.to_dict() == loaded.model.config.to_dict()


@pytest.mark.parametrize("name", ["unipixel_3b", "unipixel_7b", *WHOLE, *PARTS])
def test_config_and_generation_config_are_written_back_field_by_field(
    name: str, released_file: Find, tmp_path: Path
) -> None:
    source = released_file(name)
    UniPixelConfig.from_folder(source).save(tmp_path, read_json(source / "config.json")["torch_dtype"])
    extra = _compare(read_json(source / "config.json"), read_json(tmp_path / "config.json"), name, parts=name in PARTS)
    assert extra <= {"tie_word_embeddings", "text_config.tie_word_embeddings"}
    assert not _compare(
        read_json(source / "generation_config.json"), read_json(tmp_path / "generation_config.json"), ""
    )


def _compare(theirs: Any, ours: Any, where: str, path: str = "", *, parts: bool = False) -> set[str]:
    """Every field of theirs is in ours with its value; returns the fields that only ours has."""
    ignored = {"architectures", "sam2_enable_decoder"} if parts else set()  # stage outputs keep those of their base
    if not isinstance(theirs, dict):
        assert theirs == ours, f"{where}: {path}"
        return set()
    assert isinstance(ours, dict), f"{where}: {path}"
    missing = theirs.keys() - ours.keys()
    assert not missing, f"{where}: {path} lacks {missing}"
    extra = {f"{path}{key}" for key in ours.keys() - theirs.keys()}
    for key in theirs.keys() - ignored:
        extra |= _compare(theirs[key], ours[key], where, f"{path}{key}.", parts=parts)
    return extra


def test_an_unexpected_tensor_is_named_in_one_warning(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    files = {path: load_file(path) for path in folder.glob("model*.safetensors")}
    path, tensors = next((path, tensors) for path, tensors in files.items() if "seg_head.1.bias" in tensors)
    path.unlink()
    save_file({**tensors, "audio.weight": torch.ones(2), "steps": torch.ones(1).long()}, path)
    with pytest.warns(CheckpointWarning) as caught:
        loaded = unipixel.load(folder, device="cpu")
    assert len(caught) == 1 and "audio.weight" in str(caught[0].message) and "steps" in str(caught[0].message)
    state = load_model(whole).state_dict()
    assert all(torch.equal(state[key], value.float()) for key, value in loaded.model.state_dict().items())
    name = "seg_head.1.bias"
    path.unlink()
    save_file({**tensors, name: tensors[name][:-1].clone()}, path)
    with pytest.raises(CheckpointError, match=r"1 of another shape \(seg_head\.1\.bias.*unipixel doctor"):
        unipixel.load(folder, device="cpu")


def test_a_tokenizer_of_another_model_is_refused(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    tree = read_json(folder / "config.json")
    tree["seg_token_id"], tree["mem_token_id"] = tree["mem_token_id"], tree["seg_token_id"]
    (folder / "config.json").chmod(0o644)
    (folder / "config.json").write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match=r"tokenizer does not fit config.json: <\|seg\|> is number"):
        unipixel.load(folder, device="cpu")
