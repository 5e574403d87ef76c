"""Every ablation of the paper on a tiny model: its conditions differ as they say, and one table comes out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from unipixel.ablation import real, small
from unipixel.ablation import run as ablation_run
from unipixel.ablation.conditions import ABLATIONS, PIXELQA_CHOICES, PIXELQA_MASKS, Condition
from unipixel.ablation.run import Plan, perform
from unipixel.cli import app
from unipixel.engine.dialogue import Ask
from unipixel.engine.engine import Engine, load
from unipixel.engine.rounds import Row, rounds
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import load_model
from unipixel.processing import Processor
from unipixel.sample import Point
from unipixel.stickers import scene, turns, video
from unipixel.train.data import StickerTraining
from unipixel.train.recall import recalled
from unipixel.train.recipe import MixtureRecipe, Recipe, Start
from unipixel.train.recipes import RECIPES
from unipixel.train.run import check
from unipixel.train.starting import begin

FEW = ("steps=2", "batch_size=2", "turns=2", "video_turns=2", "log_steps=1", "muon=0", "bf16=false")


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["train", "ablation", *map(str, arguments)])


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_of_the_built_in_world_makes_one_table(name: str, tiny: Path, tmp_path: Path) -> None:
    settings = [word for one in FEW for word in ("--set", one)]
    done = invoke(name, "-o", tmp_path, "--model", tiny, "-n", 2, "--workers", 0, *settings)
    assert done.exit_code == 0, done.output
    conditions = ABLATIONS[name].conditions
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(conditions)
    assert (tmp_path / f"{name}.md").read_text().strip() == done.stdout.strip()
    held = json.loads((tmp_path / f"{name}.json").read_text())
    assert list(held["results"]) == list(conditions)
    for one, condition in conditions.items():
        figures = held["results"][one]["0"]["figures"]
        assert figures and all(0 <= value <= 1 for value in figures.values())
        assert any(figure.endswith("prompt") for figure in figures) is condition.segments
        assert any(figure.endswith("name") for figure in figures) is condition.answers


def test_what_is_done_is_not_done_again_and_what_two_conditions_share_is_trained_once(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Path] = []
    real_train = ablation_run.train
    monkeypatch.setattr(ablation_run, "train", lambda *a, **k: (trained.append(a[3]), real_train(*a, **k))[1])
    plan = Plan(name="stages", out=tmp_path, model=str(tiny), settings=FEW, count=2, workers=0)
    first = perform(plan)
    # three first legs, and every joint stage after other legs
    assert len(trained) == len(set(trained)) == 7
    assert perform(plan) == first and len(trained) == 7
    results = json.loads((tmp_path / "stages.json").read_text())
    del results["results"]["stage 3"]  # as if it had been cut off before it was measured
    (tmp_path / "stages.json").write_text(json.dumps(results))
    assert perform(plan) == first and len(trained) == 7
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    shutil.copytree(tmp_path, moved)
    (moved / "stages.json").unlink()
    assert perform(replace(plan, out=moved)) == first and len(trained) == 7
    two = perform(replace(plan, seeds=(0, 1)))
    assert len(trained) == 14 and two.count("±") > 4 and "(2)" in two
    perform(replace(plan, settings=(*FEW, "steps=3")))
    perform(replace(plan, settings=(*FEW, "learning_rate=1e-4")))
    assert len(trained) == 21
