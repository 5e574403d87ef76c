"""Ablations on the paper's data: the stages' recipes with what a condition leaves out, and the benchmarks' figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from unipixel.ablation.conditions import PIXELQA_CHOICES, PIXELQA_MASKS, REFERRING, REVOS, Condition
from unipixel.engine.engine import load
from unipixel.eval.predictors import EnginePredictor
from unipixel.eval.runner import BenchmarkRun, open_run, predict
from unipixel.train.recipe import MixtureRecipe, Source, Start, override
from unipixel.train.recipes import joint, refer, segment

ABOUT_OBJECTS = ("videorefer", "inst_it", "osprey")
"""Beginnings of the names of datasets that ask about given objects."""
TALK = ("llava",)
"""Conversations about whole pictures and clips, which every condition learns."""
TAUGHT = {"refer": "prompt_encoder", "segment": "seg_head"}
"""What an early stage leaves to the joint one."""
BENCHMARKS = {
    PIXELQA_MASKS: ("pixelqa", "mixed", "J&F"),
    PIXELQA_CHOICES: ("pixelqa", "mixed", "accuracy"),
    REVOS: ("revos", "valid", "J&F"),
    REFERRING: ("videorefer_bench_q", "multi", "accuracy"),
}
"""Name of a figure -> benchmark, split, and its name there."""


def build_recipes(condition: Condition, model: str, seed: int, settings: Sequence[str]) -> dict[str, MixtureRecipe]:
    """What is trained, stage by stage.

    Args:
        model: a checkpoint to start from instead of Qwen2.5-VL and SAM 2.1; empty for those.
        settings: changes of every stage's fields, see `override`.
    """
    recipes: dict[str, MixtureRecipe] = {}
    for name, make in (("refer", refer), ("segment", segment), ("joint", joint)):
        if name not in condition.stages:
            continue
        recipe = make()
        recipe = replace(recipe, seed=seed, sources=select_sources(recipe.sources, condition), **condition.fields)  # type: ignore[arg-type]
        if model:
            recipe = replace(recipe, start=Start(model=model))
        if recipe.sources:  # a stage that has nothing to teach is left out
            recipes[name] = override(recipe, settings)
    return recipes


def select_sources(mixture: Sequence[Source], condition: Condition) -> tuple[Source, ...]:
    """The sources of a mixture that a condition learns from, in the form in which it knows of objects.

    Questions about objects are asked over their masks with object memory, over the masks of one frame where that is
    all that is remembered, and over points and boxes otherwise. To ask for the masks of points and boxes (the memory
    form) is segmentation.
    """
    kept = []
    for source in mixture:
        if source.dataset.startswith(TALK):
            kept.append(source)
        elif source.dataset.startswith(ABOUT_OBJECTS) and source.form != "memory":
            if not condition.answers:
                continue
            if source.form == "regions" and condition.recall == "frame":
                source = replace(source, one_frame_share=1.0)
            elif source.form == "regions" and condition.recall != "memory":
                source = replace(source, form="mixed")
            kept.append(source)
        elif condition.segments:
            kept.append(source)
    return tuple(kept)


def start_from_stages(recipe: MixtureRecipe, finals: Mapping[str, Path]) -> MixtureRecipe:
    """A stage's recipe, beginning with what the stages before it have taught."""
    if recipe.start.model:
        parts = tuple(f"{folder}={TAUGHT[name]}" for name, folder in finals.items())
        return replace(recipe, start=replace(recipe.start, parts=parts))
    return replace(recipe, start=replace(recipe.start, stages=tuple(map(str, finals.values()))))


def select_figures(condition: Condition, figures: Sequence[str]) -> list[str]:
    """The figures that a condition can have."""
    needs = {PIXELQA_MASKS: condition.segments, REVOS: condition.segments}
    needs |= {PIXELQA_CHOICES: condition.answers, REFERRING: condition.answers}
    return [name for name in figures if needs[name]]


def open_benchmarks(figures: Sequence[str], root: Path, model: str, limit: int | None) -> dict[str, BenchmarkRun]:
    """The runs of the benchmarks behind figures, opened.

    Raises:
        DatasetError: the data of one are not there.
    """
    names = dict.fromkeys(BENCHMARKS[figure][:2] for figure in figures)
    return {name: open_run(name, split, root, model=model, limit=limit) for name, split in names}


def measure(final: Path, runs: Mapping[str, BenchmarkRun], figures: Sequence[str], out: Path) -> dict[str, float]:
    """The figures of a trained condition; predictions are kept in ``out``, and a stopped run is continued."""
    predictor = EnginePredictor(load(final))
    try:
        found: dict[str, dict[str, float]] = {}
        for name, run in runs.items():
            lines = predict(run, predictor, out)
            shown = run.protocol.summarize([one for line in lines.values() for one in line.measures])
            found[name] = {one.name: one.value for one in shown}
    finally:
        predictor.close()
    return {figure: found[BENCHMARKS[figure][0]][BENCHMARKS[figure][2]] for figure in figures}
