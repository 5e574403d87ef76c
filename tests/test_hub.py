"""The Auto classes of transformers load an exported folder, and answer as the engine does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    dynamic_module_utils,
    pipeline,
)
from typer.testing import CliRunner

import unipixel
from unipixel.cli import app
from unipixel.engine.pretrained import CARD, MODULE, export_checkpoint
from unipixel.errors import CheckpointError, PromptError
from unipixel.hub import UniPixelForConditionalGeneration, UniPixelPipeline, UniPixelProcessor
from unipixel.model.config import UniPixelConfig

PICTURE = str(files("unipixel") / "examples" / "picture.png")
CLIP = str(files("unipixel") / "examples" / "clip.mp4")
REQUEST = "Please segment the dog."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano, exported by the command."""
    out = tmp_path_factory.mktemp("exported") / "nano-hf"
    done = CliRunner().invoke(app, ["export", "hf", "nano", str(out)])
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module", autouse=True)
def modules_apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Modules of folders are copied into a cache of this test's own."""
    own = pytest.MonkeyPatch()
    own.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
    yield
    own.undo()


@pytest.fixture(scope="module")
def model(folder: Path) -> UniPixelForConditionalGeneration:
    return AutoModel.from_pretrained(folder, trust_remote_code=True)


@pytest.fixture(scope="module")
def processor(folder: Path) -> UniPixelProcessor:
    return AutoProcessor.from_pretrained(folder, trust_remote_code=True)


@pytest.fixture(scope="module")
def engine() -> unipixel.Engine:
    return unipixel.load("nano", device="cpu")


def test_config_of_the_auto_class_describes_the_same_model(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    own, read = UniPixelConfig.from_folder(folder), config.build_model_config()
    assert read == own == UniPixelConfig.from_folder(unipixel.load("nano").processor.tokenizer.name_or_path)
    assert config.get_text_config().hidden_size == own.language.hidden_size
    fresh = AutoModel.from_config(config, trust_remote_code=True)
    assert not torch.equal(fresh.unipixel.lm_head.weight, unipixel.load("nano").model.lm_head.weight)


def test_weights_are_those_of_the_checkpoint(
    model: UniPixelForConditionalGeneration, engine: unipixel.Engine, folder: Path
) -> None:
    exported = unipixel.load(folder, device="cpu")
    for name, value in engine.model.state_dict().items():
        assert torch.equal(model.unipixel.state_dict()[name], value), name
        assert torch.equal(exported.model.state_dict()[name], value), name
    assert isinstance(
        AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True), UniPixelForConditionalGeneration
    )


@pytest.mark.parametrize(
    ("source", "kind", "text"),
    [(PICTURE, "images", REQUEST), (CLIP, "videos", REQUEST), (PICTURE, "images", "What is in this image?")],
)
def test_answers_are_those_of_the_engine(
    model: UniPixelForConditionalGeneration,
    processor: UniPixelProcessor,
    engine: unipixel.Engine,
    source: str,
    kind: str,
    text: str,
) -> None:
    expected = engine.ask(source, text, num_frames=6)
    inputs = processor(text=text, num_frames=6, **{kind: source})
    output = model.generate(**inputs, return_dict_in_generate=True)
    new = output["sequences"][:, inputs["input_ids"].shape[1] :]
    assert tuple(new[0].tolist()) == expected.tokens
    assert processor.processor.decode_answer(new[0].tolist()) == expected.raw_text
    (masks,) = processor.post_process_masks(output["mask_logits"], inputs["original_sizes"])
    assert masks is not None and len(masks) == len(expected.objects)
    for mask, one in zip(masks, expected.objects, strict=True):
        assert (mask.numpy() == one.masks).all() and one.masks.any()
    assert model.build_engine(processor).ask(source, text, num_frames=6).text == expected.text


def test_questions_in_a_batch_and_in_messages(
    model: UniPixelForConditionalGeneration, processor: UniPixelProcessor, engine: unipixel.Engine
) -> None:
    texts = ["What is this?", REQUEST]
    inputs = processor(images=PICTURE, text=texts)
    new = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    written = [text.replace("<|im_end|>", "") for text in processor.batch_decode(new)]
    assert written == [engine.ask(PICTURE, text).raw_text for text in texts]

    session = engine.open(PICTURE)
    first, second = session.ask(REQUEST), session.ask("What is in this image?")
    messages = [
        {"role": "user", "content": [{"type": "image", "path": PICTURE}, {"type": "text", "text": REQUEST}]},
        {"role": "assistant", "content": first.raw_text},
        {"role": "user", "content": "What is in this image?"},
    ]
    inputs = processor.apply_chat_template(messages)
    new = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    assert tuple(new[0].tolist()) == second.tokens


def test_pipeline_of_the_nearest_task_gives_masks(folder: Path, engine: unipixel.Engine) -> None:
    ask = pipeline("image-text-to-text", model=str(folder), trust_remote_code=True, device=-1)
    assert isinstance(ask, UniPixelPipeline)
    expected = engine.ask(PICTURE, REQUEST)
    one = ask(PICTURE, text=REQUEST)
    assert one["generated_text"] == expected.text and one["labels"] == [expected.objects[0].label]
    assert (one["masks"][0] == expected.objects[0].masks).all() and one["scores"] == [expected.objects[0].score]
    messages = [{"role": "user", "content": [{"type": "image", "url": PICTURE}, {"type": "text", "text": REQUEST}]}]
    several = ask([messages, messages], max_new_tokens=8)
    assert [answer["generated_text"] for answer in several] == [expected.text] * 2
    pointed = ask(PICTURE, text="What is this?", prompts=[unipixel.Point(80, 110)])
    assert pointed["generated_text"] == engine.ask(PICTURE, "What is this?", prompts=[unipixel.Point(80, 110)]).text


def test_what_means_nothing_here_is_refused(
    folder: Path, model: UniPixelForConditionalGeneration, processor: UniPixelProcessor, tmp_path: Path
) -> None:
    inputs = processor(images=PICTURE, text="What is this?")
    with pytest.raises(ValueError, match="num_beams"):
        model.generate(**inputs, num_beams=4)
    with pytest.raises(ValueError, match="quantization_config"):
        AutoModel.from_pretrained(folder, trust_remote_code=True, quantization_config={"load_in_4bit": True})
    with pytest.raises(ValueError, match="sdpa"):
        UniPixelForConditionalGeneration.from_pretrained(folder, attn_implementation="flash_attention_2")
    with pytest.raises(PromptError, match="2 images were given for one question"):
        processor(images=[PICTURE, PICTURE], text="What is this?")
    with pytest.raises(PromptError, match="must be of 'user'"):
        processor.apply_chat_template([{"role": "system", "content": "You are a pirate."}])
    with pytest.raises(PromptError, match="end with a question"):
        processor.apply_chat_template([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    with pytest.raises(CheckpointError, match="not an empty folder"):
        export_checkpoint("nano", folder)
    done = CliRunner().invoke(app, ["export", "hf", str(tmp_path / "nothing"), str(tmp_path / "out")])
    assert done.exit_code == 2 and "is not a folder" in done.stderr and not (tmp_path / "out").exists()


def test_engine_model_and_processor_save_and_upload(
    engine: unipixel.Engine,
    model: UniPixelForConditionalGeneration,
    processor: UniPixelProcessor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine.save_pretrained(tmp_path / "a")
    model.save_pretrained(tmp_path / "b")
    processor.save_pretrained(tmp_path / "b")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {path.name for path in (tmp_path / "b").iterdir()} >= {CARD, f"{MODULE}.py", "model.safetensors"}
    for name in names - {CARD}:
        one, other = ((tmp_path / place / name).read_bytes() for place in "ab")
        assert one == other or json.loads(one) == json.loads(other), name  # the order of sizes may differ
    again = unipixel.Engine.from_pretrained(tmp_path / "b", device="cpu")
    assert again.ask(PICTURE, REQUEST).tokens == engine.ask(PICTURE, REQUEST).tokens

    uploads: list[tuple[str, bool, set[str]]] = []

    def create_repo(api: Any, repo_id: str, private: bool, exist_ok: bool) -> SimpleNamespace:
        return SimpleNamespace(repo_id=f"someone/{repo_id}")

    def upload_folder(api: Any, repo_id: str, folder_path: Path, **options: Any) -> SimpleNamespace:
        uploads.append((repo_id, options["create_pr"], {path.name for path in folder_path.iterdir()}))
        return SimpleNamespace(commit_url="address")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    assert engine.push_to_hub("mine", private=True) == "address"
    model.push_to_hub("mine", create_pr=True)
    processor.push_to_hub("mine")
    assert uploads[0] == ("someone/mine", False, names)
    assert uploads[1][1] and uploads[1][2] | uploads[2][2] == names and "tokenizer.json" not in uploads[1][2]


def test_card_says_what_is_known_and_its_example_is_code(folder: Path, engine: unipixel.Engine) -> None:
    card = huggingface_hub.ModelCard.load(folder / CARD)
    assert card.data.pipeline_tag == "image-text-to-text" and card.data.license is None
    count = sum(p.numel() for p in engine.model.parameters())
    assert f"{count / 1e6:.1f} million parameters" in card.text and str(folder.name) in card.text
    for block in card.text.split("```python")[1:]:
        compile(block.split("```")[0], CARD, "exec")
    tree = json.loads((folder / "config.json").read_text())
    assert tree["model_type"] == "pixel_qwen2_5_vl" and tree["auto_map"]["AutoModel"].startswith(MODULE)


def test_no_code_of_a_folder_runs_without_being_trusted(folder: Path, tmp_path: Path) -> None:
    code = (
        "from transformers import AutoModel\n"
        f"try: AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=False)\n"
        "except ValueError as error: print('trust_remote_code' in str(error))"
    )
    own = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


def load_plugin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plugin over the little of lmms-eval which it uses; tools/check_doors.py runs it by the real one."""
    api, registry = ModuleType("lmms_eval.api.model"), ModuleType("lmms_eval.models.registry_v2")
    api.lmms = type("lmms", (), {"__init__": lambda self: None})
    registry.ModelManifest = SimpleNamespace
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, api.__name__, api)
    monkeypatch.setitem(sys.modules, registry.__name__, registry)
    monkeypatch.delitem(sys.modules, "unipixel.hub.lmms_eval", raising=False)
    return import_module("unipixel.hub.lmms_eval")


def test_plugin_answers_what_tasks_ask(engine: unipixel.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = load_plugin(monkeypatch)
    manifest = plugin.build_manifest()
    assert manifest.model_id == "unipixel" and manifest.simple_class_path.endswith("hub.lmms_eval.LmmsModel")
    model = plugin.LmmsModel(pretrained="nano", device="cpu", num_frames="4", batch_size="2")
    seen: list[Any] = []
    model.cache_hook = SimpleNamespace(add_partial=lambda *given: seen.append(given))
    model.task_dict = {"task": {"test": {0: [PICTURE], 1: [[CLIP]], 2: [PICTURE, PICTURE], 3: [PICTURE]}}}

    def ask(doc_id: int, text: str, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(args=(text, options, lambda doc: doc, doc_id, "task", "test"))

    asked = [ask(0, f"<image>{REQUEST}", until=[" [1]"]), ask(1, REQUEST, max_new_tokens=8), ask(3, REQUEST)]
    words = engine.ask(PICTURE, REQUEST).text
    assert model.generate_until(asked) == [
        words.split(" [1]")[0],
        engine.ask(CLIP, REQUEST, num_frames=4, max_new_tokens=8).text,
        words,
    ]
    assert len(seen) == 3
    with pytest.raises(PromptError, match="about 2 pictures"):
        model.generate_until([ask(2, REQUEST)])
    with pytest.raises(ValueError, match="beams"):
        model.generate_until([ask(0, REQUEST, num_beams=5)])
    with pytest.raises(ValueError, match="takes no attn_implementation"):
        plugin.LmmsModel(attn_implementation="flash")
