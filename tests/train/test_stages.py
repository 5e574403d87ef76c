"""The three stages on real readers, a tiny model: they start, take steps, move what they should, and save."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unipixel.model.weights import load_model
from unipixel.train.recipe import MixtureRecipe, ValidationSettings, set_start
from unipixel.train.recipes import RECIPES
from unipixel.train.run import run


def small(name: str, model: Path) -> MixtureRecipe:
    """A stage as it is, but three steps of two samples, from the tiny checkpoint, and two frames of every clip."""
    recipe = set_start(RECIPES[name](), str(model), [])
    assert isinstance(recipe, MixtureRecipe)
    # the miniature of refcocog has no training split
    sources = tuple(replace(s, split="val") if s.dataset == "refcocog" else s for s in recipe.sources)
    return replace(
        recipe,
        sources=sources,
        steps=3,
        batch_size=2,
        num_frames=2,
        learning_rate=1e-2,
        rates=dict.fromkeys(recipe.rates, 0.001),
        evaluation=ValidationSettings(),
        log_steps=1,
        bf16=False,
    )


def test_words_alone_and_pictures_as_images_take_steps_too(tiny: Path, stage_data: Path, tmp_path: Path) -> None:
    recipe = small("joint", tiny)
    sources = tuple(source for source in recipe.sources if source.as_images)
    recipe = replace(recipe, sources=sources, batch_size=1, steps=4)
    run(recipe, tmp_path, data_root=stage_data, workers=0, report=("none",))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 4 and all(0 < loss < 100 for loss in losses)
    # an epoch is one batch of either kind
    assert json.loads((tmp_path / "recipe.json").read_text())["left_out"] == {}


TAUGHT = {
    "refer": ("prompt_encoder.project.", "prompt_encoder.time_project."),
    "segment": ("seg_head.",),
    "joint": ("language.embed_tokens.", "language.layers.", "visual.", "seg_head.", "segmenter."),
}
"""What three steps of each stage must have moved, whatever records they drew."""


@pytest.mark.parametrize("name", TAUGHT)
def test_a_stage_takes_three_steps_moves_only_what_it_should_and_saves(
    name: str, tiny: Path, stage_data: Path, tmp_path: Path
) -> None:
    recipe = small(name, tiny)
    final = run(recipe, tmp_path, data_root=stage_data, workers=0, report=("none",))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    before, after = load_model(tiny), load_model(final)
    names = {n for n, _ in before.named_parameters(remove_duplicate=False)}
    moved = {n for n, v in after.state_dict().items() if not torch.equal(v, before.state_dict()[n])}
    attention = re.compile(
        r"language\.layers\.\d+\.self_attn\.[qkvo]_proj\.weight|visual\.blocks\.\d+\.attn\.(qkv|proj)\.weight"
    )
    beside = {n for n in names if recipe.lora and attention.fullmatch(n)}
    assert moved <= {n for n in names if n.startswith(recipe.trainable)} | beside
    assert [part for part in TAUGHT[name] if not any(n.startswith(part) for n in moved)] == []
