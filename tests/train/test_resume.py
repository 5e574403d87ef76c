"""Checkpoints of a run that were edited: gone on with, or refused in one sentence before anything is trained."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from unipixel.errors import CheckpointError
from unipixel.train.checkpoints import (
    check_optimizer,
    check_scheduler,
    check_state,
    list_checkpoints,
    write_run_record,
)
from unipixel.train.recipe import Lora, Start, StickerRecipe, ValidationSettings
from unipixel.train.recipes import RECIPES
from unipixel.train.run import run

QUIET: dict[str, Any] = {"workers": 0, "report": ("none",)}


def build_recipe(kind: str, tiny: Path, steps: int) -> StickerRecipe:
    recipe = RECIPES["debug"]()
    assert isinstance(recipe, StickerRecipe)
    recipe = replace(recipe, steps=steps, save_steps=1, keep=1, turns=1, evaluation=ValidationSettings())
    if kind == "adapter":
        lora = Lora(rank=2, alpha=4.0)
        return replace(recipe, start=Start(model=str(tiny)), save="adapter", lora=lora, trainable=("seg_head.",))
    return replace(recipe, muon=2.0 if kind == "muon" else 0.0)


@pytest.fixture(scope="module")
def runs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of one step, in each way in which weights and optimiser are kept."""
    made = {}
    for kind in ("whole", "muon", "adapter"):
        made[kind] = tmp_path_factory.mktemp(kind)
        run(build_recipe(kind, tiny, 1), made[kind], **QUIET)
    return made


@pytest.fixture
def resume(runs: dict[str, Path], tiny: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies a run, edits its checkpoint, and goes on with it for one step."""

    def go_on(kind: str, edit: Callable[[Path], Any] = lambda folder: None) -> Path:
        folder = Path(shutil.copytree(runs[kind], tmp_path / "run"))
        edit(folder / "checkpoint-1")
        return run(build_recipe(kind, tiny, 2), folder, **QUIET)

    return go_on


def refused(resume: Callable[..., Path], kind: str, edit: Callable[[Path], Any]) -> str:
    with pytest.raises(CheckpointError) as error:
        resume(kind, edit)
    assert "\n" not in str(error.value)
    return str(error.value)


def edit_torch(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tree = torch.load(folder / name, weights_only=True) if name != "rng_state.pth" else {}
        torch.save(change(tree) or tree, folder / name)

    return edit


def edit_moment(name: str, change: Callable[[torch.Tensor], Any]) -> Callable[[Path], None]:
    def change_tree(tree: Any) -> None:
        states = (tree if "state" in tree else tree["muon" if name == "momentum_buffer" else "adamw"])["state"]
        first = next(iter(states.values()))
        first[name] = change(first[name])

    return edit_torch("optimizer.pt", change_tree)


class Code:
    """A pickle that would make a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["whole", "muon", "adapter"])
def test_an_unedited_run_is_gone_on_with(resume: Callable[..., Path], kind: str) -> None:
    assert (resume(kind) / "config.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"global_step": 7},
        {"global_step": True},
        {"global_step": "1"},
        {"total_flos": None},
        {"epoch": [1]},
        {"epoch": -1},
        {"log_history": {}},
        {"log_history": [3]},
        {"stateful_callbacks": None},
        {"stateful_callbacks": {}},
        {"stateful_callbacks": {"TrainerControl": 3}},
        {"best_model_checkpoint": 1},
        {"is_world_process_zero": 1},
        {"train_batch_size": "2"},
        {"unknown": 1},
    ],
)
def test_every_field_of_a_trainer_state_is_checked(
    runs: dict[str, Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(runs["whole"] / "checkpoint-1", tmp_path / "checkpoint-1"))
    check_state(folder)
    path = folder / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=r"trainer_state\.json is missing, damaged or of another run"):
        check_state(folder)


@pytest.mark.parametrize("text", [None, "", "[]", "{}", "null", "[" * 50_000])
def test_a_trainer_state_that_is_none_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "trainer_state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"trainer_state\.json is missing, damaged or of another run"):
        check_state(tmp_path)


def edit_group(**fields: Any) -> Callable[[Any], None]:
    return lambda tree: tree["param_groups"][0].update(fields)


def edit_entry(name: str, change: Callable[[torch.Tensor], Any]) -> Callable[[Any], None]:
    def edit(tree: Any) -> None:
        tree["state"][0][name] = change(tree["state"][0][name])

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        edit_entry("exp_avg", lambda t: t * float("nan")),
        edit_entry("exp_avg", lambda t: t[:1]),
        edit_entry("exp_avg", lambda t: None),
        edit_entry("exp_avg_sq", lambda t: -t - 1),
        edit_entry("step", lambda t: torch.tensor(-3.0)),
        edit_group(betas=(0.5, -3)),
        edit_group(betas=[0.5]),
        edit_group(lr=float("inf")),
        edit_group(lr=-1.0),
        edit_group(eps="x"),
        edit_group(weight_decay=None),
        lambda tree: tree["state"][0].pop("exp_avg_sq"),
        lambda tree: tree["state"][0].update(more=1),
    ],
)
def test_what_an_optimiser_takes_up_must_fit_its_parameters(tmp_path: Path, edit: Callable[[Any], Any]) -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    own = [dict(group) for group in optimizer.param_groups]
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    check_optimizer(optimizer, own, tmp_path / "optimizer.pt")
    tree = copy.deepcopy(optimizer.state_dict())
    edit(tree)
    optimizer.load_state_dict(tree)
    with pytest.raises(CheckpointError, match=r"optimizer\.pt is missing, damaged or of another run"):
        check_optimizer(optimizer, own, tmp_path / "optimizer.pt")


@pytest.mark.parametrize(
    "change",
    [
        {"step": 3},
        {"base_lrs": [1.0]},
        {"base_lrs": ["x", 1.0]},
        {"base_lrs": [float("nan"), 1.0]},
        {"last_epoch": "1"},
        {"last_epoch": None},
        {"lr_lambdas": [{"func": 3}, {}]},
    ],
)
def test_what_a_schedule_takes_up_must_be_its_own(tmp_path: Path, change: dict[str, Any]) -> None:
    own = {"base_lrs": [1.0, 2.0], "last_epoch": 1, "lr_lambdas": [{}, {}], "_last_lr": [1.0, 2.0]}
    check_scheduler(own, own, tmp_path / "scheduler.pt")
    check_scheduler({**own, "verbose": False}, own, tmp_path / "scheduler.pt")  # as an older torch writes it
    with pytest.raises(CheckpointError, match=r"scheduler\.pt is missing, damaged or of another run"):
        check_scheduler(own | change, own, tmp_path / "scheduler.pt")


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("whole", edit_moment("exp_avg", lambda t: t * float("nan"))),
        ("whole", edit_torch("optimizer.pt", lambda tree: [tree])),
        ("whole", edit_torch("optimizer.pt", lambda tree: tree["param_groups"].pop() and None)),
        ("whole", lambda folder: (folder / "optimizer.pt").unlink()),
        ("muon", edit_moment("momentum_buffer", lambda t: t / 0)),
        ("muon", edit_torch("optimizer.pt", lambda tree: tree.pop("muon") and None)),
        ("whole", edit_torch("scheduler.pt", lambda tree: tree.pop("last_epoch") and None)),
        ("whole", edit_torch("rng_state.pth", lambda tree: {"python": 3})),
        ("whole", lambda folder: (folder / "rng_state.pth").unlink()),
    ],
)
def test_states_of_another_run_or_of_a_hand_are_refused(
    resume: Callable[..., Path], kind: str, edit: Callable[[Path], Any]
) -> None:
    assert "is missing, damaged or of another run" in refused(resume, kind, edit)


def edit_weights(name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name)

    return edit


@pytest.mark.parametrize(
    ("kind", "edit", "words"),
    [
        ("whole", edit_weights("model.safetensors", lambda t: t["seg_head.1.bias"].fill_(torch.nan)), "NaN"),
        (
            "adapter",
            edit_weights("adapter_model.safetensors", lambda t: next(iter(t.values())).fill_(torch.inf)),
            "NaN",
        ),
        ("adapter", edit_weights("pytorch_model.safetensors", lambda t: t.popitem()), "lacks"),
        ("adapter", lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), "weights of an adapter"),
        ("adapter", lambda folder: (folder / "pytorch_model.safetensors").unlink(), "weights of an adapter"),
    ],
)
def test_edited_weights_of_a_run_are_refused(
    resume: Callable[..., Path], kind: str, edit: Callable[[Path], Any], words: str
) -> None:
    assert words in refused(resume, kind, edit)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_no_pickle_in_a_checkpoint_is_run(resume: Callable[..., Path], tmp_path: Path, name: str) -> None:
    harm = tmp_path / "harm"
    content = {"state": Code(harm), "param_groups": Code(harm), "python": Code(harm), "base_lrs": Code(harm)}
    said = refused(resume, "whole", lambda folder: torch.save(content, folder / name))
    assert name in said and "weights_only" not in said  # nobody is told how to run it
    assert not harm.exists()


def test_arguments_in_a_checkpoint_are_not_read(resume: Callable[..., Path], tmp_path: Path) -> None:
    resume("whole", lambda folder: torch.save(Code(tmp_path / "harm"), folder / "training_args.bin"))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("text", ["", "[]", "3", '{"earlier": 3}', "\x00", "[" * 50_000])
def test_a_record_of_a_run_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(CheckpointError, match="is not the record of a run"):
        write_run_record(tmp_path, RECIPES["debug"]())


def test_only_folders_with_a_plain_number_are_checkpoints(tmp_path: Path) -> None:
    for name in ("checkpoint-2", "checkpoint-10", "checkpoint-\u00b2", "checkpoint-x", "checkpoint--1"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-11").write_text("a file")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-10"]
