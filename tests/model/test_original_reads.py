"""What we save is read by transformers 4.53.3, on which the original code runs, and gives the same logits.

The original's own classes are not at hand: plain Qwen2.5-VL of that release reads config, tokenizer, processors and the
language and vision tensors of our folders, peft 0.17 our adapters. The tensors of SAM and of the modules between, which
it has no place for, are compared by name and shape with the released layout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import unipixel
from unipixel.bench.scene import build_random_engine
from unipixel.engine.engine import Engine
from unipixel.model.config import RELEASED_PIXEL
from unipixel.model.presets import TINY_SAM
from unipixel.model.tensor_names import to_official_name
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import FRESH_PREFIXES, load_model, save_model
from unipixel.processing.images import patchify, resize_frame
from unipixel.train.checkpoints import add_lora, save_adapter
from unipixel.train.recipe import Lora, Start
from unipixel.train.recipes import RECIPES
from unipixel.train.setup import prepare_training

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parent / "read_by_transformers4.py"
PACKAGES = ("torchvision", "transformers==4.53.3", "peft==0.17.0", "accelerate", "pillow")
TEXTS = ["Please segment the dog.", "What is [1] <|ref|>?<|im_end|>\n", "日本語 é <|mem|><|seg|>", "x  12 'll \n\n"]
TOLERANCE = 1e-4
SAM_SIDE = (*FRESH_PREFIXES, "sam2.")


@pytest.fixture(scope="module")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with transformers 4.53.3: ``UNIPIXEL_TRANSFORMERS4_PYTHON``, else a new virtual environment."""
    if named := os.environ.get("UNIPIXEL_TRANSFORMERS4_PYTHON"):
        return Path(named)
    folder = tmp_path_factory.mktemp("transformers4")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    torch_pin = f"torch=={version('torch').split('+')[0]}"
    done = subprocess.run([python, "-m", "pip", "install", "-q", torch_pin, *PACKAGES], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"transformers 4.53.3 cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return python


Reading = tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]


def read(old_python: Path, engine: Engine, folder: Path, work: Path, *base: Path) -> Reading:
    """What transformers 4.53.3 makes of a folder: its report, its tensors, and the inputs that both were given."""
    settings, config = engine.processor.settings, engine.model.config
    frames = np.random.default_rng(0).integers(0, 256, (4, 56, 84, 3), dtype=np.uint8)
    patches, grid = patchify(np.stack([resize_frame(frame, (56, 84)) for frame in frames]), settings)
    tokens = grid[0] * grid[1] * grid[2] // settings.merge_size**2
    chat = engine.processor.chat
    inputs = {
        "input_ids": torch.tensor([[*chat.encode_opening(tokens), *chat.encode_question(TEXTS[0])]]),
        "frames": torch.from_numpy(frames),
        "pixel_values_videos": patches,
        "video_grid_thw": torch.tensor([grid]),
        "second_per_grid_ts": torch.tensor([1.0]),
    }
    assert config.pixel == RELEASED_PIXEL
    save_file(inputs, work / "inputs.safetensors", {"texts": json.dumps(TEXTS)})
    command = [old_python, SCRIPT, folder, work / "inputs.safetensors", work / "result.safetensors", *base]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr[-3000:]
    with safe_open(work / "result.safetensors", framework="pt") as file:
        report = json.loads(file.metadata()["report"])
    assert report["transformers"] == "4.53.3"
    return report, load_file(work / "result.safetensors"), inputs


@torch.inference_mode()
def assert_same_logits(model: UniPixel, inputs: dict[str, torch.Tensor], theirs: torch.Tensor, what: object) -> None:
    ids = inputs["input_ids"]
    output = model.float()(
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        pixel_values=inputs["pixel_values_videos"],
        grid_thw=inputs["video_grid_thw"],
        second_per_grid=inputs["second_per_grid_ts"],
    )
    worst = (output.logits - theirs).abs().max().item()
    print(f"{what}: largest difference of logits {worst:.1e}")
    assert worst <= TOLERANCE, what


def assert_files_agree(engine: Engine, report: dict[str, Any], made: dict[str, torch.Tensor], inputs: Any) -> None:
    config, tokenizer = engine.model.config, engine.processor.tokenizer
    told = report["config"] | {"eos": report["generation"]["eos_token_id"]}
    eos = told["eos"] if isinstance(told["eos"], list) else [told["eos"]]
    assert tuple(eos) == config.eos_token_ids
    names = ["image_token_id", "video_token_id", "ref_token_id", "seg_token_id", "mem_token_id"]
    assert [told[name] for name in names] == [getattr(config, name) for name in names]
    assert (told["sam2_image_size"], told["sam2_enable_decoder"]) == (config.sam.image_size, True)
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps"):
        assert report["text_config"][name] == getattr(config.language, name), name
    assert report["text_config"]["rope_scaling"]["mrope_section"] == config.language.rope_parameters["mrope_section"]
    assert report["text_config"]["rope_theta"] == config.language.rope_parameters["rope_theta"]
    assert report["tied"] == config.tie_word_embeddings
    for text in TEXTS:
        assert report["ids"][text] == tokenizer.encode(text), text
    assert report["decoded"] == [tokenizer.decode(tokenizer.encode(text)) for text in TEXTS]
    ours = sorted(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    assert report["special_added"] == ours
    if "processor/input_ids" in made:
        assert torch.equal(made["processor/input_ids"], inputs["input_ids"])
        assert torch.equal(made["processor/video_grid_thw"], inputs["video_grid_thw"])
        torch.testing.assert_close(made["processor/pixel_values_videos"], inputs["pixel_values_videos"])


def check_whole(old_python: Path, engine: Engine, folder: Path, work: Path) -> dict[str, Any]:
    report, made, inputs = read(old_python, engine, folder, work)
    assert report["missing"] == [] and report["misshapen"] == []
    assert report["unexpected"] and all(name.startswith(SAM_SIDE) for name in report["unexpected"])
    assert_files_agree(engine, report, made, inputs)
    assert_same_logits(engine.model, inputs, made["logits"], folder.name)
    return report


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_of_our_own_is_read(old_python: Path, tmp_path: Path, tied: bool, dtype: torch.dtype) -> None:
    engine = build_random_engine(TINY_SAM)
    config = replace(engine.model.config, pixel=RELEASED_PIXEL, tie_word_embeddings=tied)
    torch.manual_seed(0)
    model = UniPixel(config).eval()
    folder = tmp_path / f"own {'tied' if tied else 'untied'} {dtype}"
    save_model(model, folder, dtype=dtype, max_shard_size="4MB")
    engine.processor.save(folder)
    check_whole(old_python, unipixel.load(folder, device="cpu", dtype="float32"), folder, tmp_path)


@pytest.mark.parametrize("name", ["tiny_tied", "tiny_untied"])
def test_a_released_model_that_went_through_us_is_read(
    old_python: Path, released_file: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    original = released_file(name)
    engine = unipixel.load(original, device="cpu", dtype="bfloat16")
    folder = tmp_path / name
    save_model(engine.model, folder)
    engine.processor.save(folder)
    check_whole(old_python, unipixel.load(folder, device="cpu", dtype="float32"), folder, tmp_path)
    layouts = []
    for place in (original, folder):
        layout = {}
        for file in place.glob("model*.safetensors"):
            layout |= {k: tuple(v.shape) for k, v in load_file(file).items()}
        layouts.append(layout)
    assert layouts[0] == layouts[1]


def test_an_adapter_that_we_save_is_laid_over_qwen_by_peft(
    old_python: Path, released_file: Callable[[str], Path], tmp_path: Path
) -> None:
    base = released_file("stages/base/model_zoo")
    qwen = next((path.parent for path in sorted(base.glob("*/config.json"))), None)
    sam = next(iter(sorted(base.glob("sam2.1/*"))), None)
    stages = tuple(str(released_file(f"stages/{name}")) for name in ("stage1", "stage2"))
    if qwen is None or sam is None:
        pytest.skip("stages/base holds no Qwen2.5-VL or no SAM 2.1")
    recipe = replace(RECIPES["joint"](), start=Start(qwen=str(qwen), sam=str(sam), stages=stages))
    begun = prepare_training(recipe)
    begun.model.config = replace(begun.model.config, pixel=RELEASED_PIXEL)
    settings = add_lora(begun.model, Lora(rank=4, alpha=8.0))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in begun.model.named_parameters():
            if "lora_" in name or name == "language.embed_tokens.weight":
                parameter.add_(torch.randn_like(parameter) * 0.05)
    folder = tmp_path / "adapter"
    save_adapter(
        begun.model.config,
        begun.model.state_dict(),
        folder,
        changed=begun.changed | {"language.embed_tokens.weight"},
        base=begun.base,
        settings=settings,
    )
    begun.processor.save(folder)
    engine = unipixel.load(folder, device="cpu", dtype="float32")
    report, made, inputs = read(old_python, engine, folder, tmp_path, qwen)
    assert report["missing"] == []
    assert report["unexpected"] and all(to_official_name(n).startswith(SAM_SIDE) for n in report["unexpected"])
    assert [to_official_name(name) for name in report["laid"]] == ["model.embed_tokens.weight"]
    assert_same_logits(engine.model, inputs, made["logits"], "adapter")
    plain = load_model(folder, base=qwen, sam=sam)
    assert torch.equal(plain.language.embed_tokens.weight, engine.model.language.embed_tokens.weight)
