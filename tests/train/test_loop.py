"""The loop: it learns, resumes as if nothing had happened, and what it writes is what it has trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset

from unipixel.errors import DatasetError
from unipixel.model.weights import load_model
from unipixel.train.checkpoints import list_checkpoints
from unipixel.train.recipe import Lora, Start, StickerRecipe, ValidationSettings
from unipixel.train.recipes import RECIPES
from unipixel.train.run import check_recipe, run, train
from unipixel.train.setup import prepare_training
from unipixel.train.sticker_data import StickerDataset
from unipixel.train.trainer import WRITING, MuonAdamW, is_hidden_matrix

QUIET: dict[str, Any] = {"workers": 0, "report": ("none",)}


def debug(**changes: Any) -> StickerRecipe:
    recipe = RECIPES["debug"]()
    assert isinstance(recipe, StickerRecipe)
    return replace(recipe, **{"evaluation": ValidationSettings(), "log_steps": 1, **changes})


def lora_recipe(tiny: Path) -> StickerRecipe:
    """Dropout, accumulation and two rates, so that a resumed run has something to get wrong."""
    return debug(
        start=Start(model=str(tiny)),
        steps=6,
        save_steps=3,
        micro_batch=1,
        turns=2,
        trainable=("seg_head.", "segmenter.mask_decoder."),
        rates={"segmenter": 1e-3},
        lora=Lora(rank=4, alpha=8.0, dropout=0.3),
        save="adapter",
    )


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


class Stopping(Dataset[Any]):
    """Samples until one of them, where the run is killed."""

    def __init__(self, dataset: StickerDataset, last: int, error: BaseException) -> None:
        self._dataset, self._last, self._error = dataset, last, error

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        if index == self._last:
            raise self._error
        return self._dataset[index]


def test_muon_and_adamw_both_learn_at_the_rate_of_a_part() -> None:
    recipe = debug(learning_rate=1e-3, rates={"segmenter": 1e-4, "segmenter.mask_decoder": 0.0}, muon=2.0)
    model = prepare_training(recipe).model
    named = dict(model.named_parameters())
    optimizer = MuonAdamW(named.items(), recipe)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(named)
    for name, parameter in named.items():
        rate = 0.0 if name.startswith("segmenter.mask_decoder") else 1e-4 if name.startswith("segmenter") else 1e-3
        assert rates[id(parameter)] == rate * (2.0 if is_hidden_matrix(name, parameter) else 1.0), name


class BFloat16Results(TorchDispatchMode):
    """Counts operations that return bfloat16."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count += any(isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16 for x in tree_leaves(result))
        return result


@pytest.mark.parametrize("capability", ["avx2", "avx512_bf16"])
def test_bfloat16_is_computed_in_where_the_processor_does(
    capability: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Forward, backward and optimiser: emulated products took up to fifty times as long as those in float32."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    recipe = debug(steps=1, save_steps=1, bf16=True, muon=2.0)
    setup = prepare_training(recipe)
    with BFloat16Results() as seen:
        train(setup, recipe, StickerDataset(setup.processor, recipe), tmp_path, **QUIET)
    is_emulated = capability == "avx2" and not torch.cuda.is_available()
    assert (seen.count == 0) == is_emulated
    assert ("training in float32, because this processor" in caplog.text) == is_emulated


def test_debug_learns_one_batch_from_scratch_and_draws_what_it_sees(tmp_path: Path) -> None:
    run(debug(steps=40, evaluation=ValidationSettings(samples=1), save_steps=40), tmp_path, **QUIET)
    found = losses(tmp_path)
    assert found[1] > 8 and found[40] < 2
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-3])
    assert last["language"] < 0.1 and last["mask_iou"] > 0.4
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {"step-000000.png", "step-000040.png"}
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert record["recipe"]["name"] == "debug" and record["seed"] == 0
    assert {"torch", "transformers", "unipixel", "python"} <= set(record["versions"]) and record["command"]


def test_every_evaluation_logs_figures_and_draws_truth_beside_prediction(tmp_path: Path) -> None:
    run(debug(steps=4, evaluation=ValidationSettings(every=2, samples=2), save_steps=4), tmp_path, **QUIET)
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {f"step-00000{n}.png" for n in (0, 2, 4)}
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    looked = [line for line in lines if "eval_loss" in line]
    assert [line["step"] for line in looked] == [0, 2, 4]
    assert all(0 <= line["eval_iou"] <= 1 for line in looked)
    with Image.open(tmp_path / "samples" / "step-000002.png") as sheet:
        assert np.asarray(sheet).std() > 10  # pictures, not a blank sheet


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run with LoRA that was never interrupted, and its model."""
    folder, recipe = tmp_path_factory.mktemp("whole"), lora_recipe(tiny)
    setup = prepare_training(recipe)
    train(setup, recipe, StickerDataset(setup.processor, recipe), folder, **QUIET)
    return folder, setup


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    tiny: Path, trained: tuple[Path, Any], tmp_path: Path
) -> None:
    recipe = lora_recipe(tiny)
    setup = prepare_training(recipe)
    dataset = StickerDataset(setup.processor, recipe)
    with pytest.raises(KeyboardInterrupt):
        train(setup, recipe, Stopping(dataset, 8, KeyboardInterrupt()), tmp_path, **QUIET)
    (tmp_path / WRITING / "checkpoint-4").mkdir(parents=True)  # a checkpoint that was being written
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-3"]
    train(prepare_training(recipe), recipe, dataset, tmp_path, **QUIET)
    whole, _ = trained
    assert losses(tmp_path) == losses(whole) and set(losses(whole)) == set(range(1, 7))
    one, other = (load_model(folder / "final").state_dict() for folder in (whole, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_merged_model_says_what_the_unmerged_one_says(trained: tuple[Path, Any]) -> None:
    folder, setup = trained
    dataset = StickerDataset(setup.processor, debug())
    batch = setup.processor.collate([dataset[0], dataset[1]], setup.model.config)
    with torch.no_grad():
        unmerged, merged = setup.model.eval()(**batch), load_model(folder / "final")(**batch)
    torch.testing.assert_close(merged.logits, unmerged.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(merged.hidden, unmerged.hidden, rtol=1e-4, atol=1e-4)


def test_frozen_parts_have_not_moved_and_the_others_have(tiny: Path, trained: tuple[Path, Any]) -> None:
    before, after = load_model(tiny).state_dict(), load_model(trained[0] / "final").state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    learning = {name for name in moved if name.startswith(("seg_head.", "segmenter.mask_decoder."))}
    beside = {name for name in moved if "self_attn" in name or ".attn." in name} - learning
    assert moved == learning | beside and learning
    assert any(name.startswith("language.layers.1.self_attn.q_proj") for name in beside)
    assert all(name.startswith(("language.layers.", "visual.blocks.")) for name in beside)
    checkpoint = {path.name for path in (trained[0] / "checkpoint-6").iterdir()}
    assert {"adapter_model.safetensors", "pytorch_model.safetensors", "optimizer.pt"} <= checkpoint
    assert not (trained[0] / WRITING).exists()


def test_a_bad_sample_stops_the_run_and_is_named(tiny: Path, tmp_path: Path) -> None:
    recipe = debug(start=Start(model=str(tiny)), steps=2)
    setup = prepare_training(recipe)
    dataset = Stopping(StickerDataset(setup.processor, recipe), 1, DatasetError("mevis/train 7/2: the mask is damaged"))
    with pytest.raises(DatasetError, match=r"^mevis/train 7/2: the mask is damaged$"):
        train(setup, recipe, dataset, tmp_path, workers=1, report=("none",))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 0}, "steps is 0 and epochs 0.0"),
        ({"save": "adapter"}, "the start is fresh"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_recipe(debug(**changes))
