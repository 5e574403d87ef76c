"""An ablation from its name to its table: trains and measures what is missing.

In the folder OUT, which several ablations may share, ``runs/STAGE-KEY`` is a training run, where the key stands for
everything that decides it, so that a run which two conditions have in common is made once; ``NAME.json`` has the
figures by condition and seed, ``NAME.md`` the table.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unipixel.ablation import real_data, sticker_world
from unipixel.ablation.conditions import ABLATIONS, Ablation, Condition
from unipixel.errors import DatasetError
from unipixel.model.weights import load_model
from unipixel.processing import Processor
from unipixel.train.recipe import Start, keep_present_sources
from unipixel.train.run import build_dataset, run, train
from unipixel.train.setup import prepare_training

LOG = logging.getLogger(__name__)
DONE = "done"
"""File that marks a run as complete."""
FORMAT = 1
Figures = dict[str, float]
Results = dict[str, dict[str, dict[str, Any]]]
"""Condition -> seed -> "key" of what was done, "figures"."""


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """An ablation with everything that decides its figures."""

    name: str
    out: Path
    model: str = ""
    """What to begin with; empty: nano in the built-in world, Qwen2.5-VL and SAM 2.1 on real data."""
    data_root: Path | None = None
    """The folder with the datasets; None for the built-in world."""
    settings: tuple[str, ...] = ()
    """Changes of the recipes, as ``--set`` takes them."""
    seeds: tuple[int, ...] = (0,)
    count: int | None = None
    """Held-out stills, or questions of each benchmark; None: 200, or all."""
    skip_absent: bool = False
    workers: int = 1

    def __post_init__(self) -> None:
        if self.name not in ABLATIONS:
            raise ValueError(f"there is no ablation {self.name!r}; there are {', '.join(ABLATIONS)}")
        if not self.seeds:
            raise ValueError("an ablation needs at least one seed")
        if self.count is not None and self.count < 1:
            raise ValueError(f"the count is {self.count}; it must be at least 1")

    @property
    def ablation(self) -> Ablation:
        return ABLATIONS[self.name]

    @property
    def columns(self) -> dict[str, str]:
        """Key of a figure -> its title."""
        return sticker_world.FIGURES if self.data_root is None else {name: name for name in self.ablation.figures}


def run_ablation(plan: AblationPlan, progress: Callable[[str], None] = lambda _: None) -> str:
    """Train and measure what is missing, and return the table as Markdown; it is written after every condition.

    Args:
        progress: called with what begins.

    Raises:
        DatasetError: data are missing or damaged.
        CheckpointError: the start does not fit.
        ValueError: a setting is wrong, or the folder holds figures of another kind.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    place = plan.out / f"{plan.name}.json"
    results = _read_results(place, plan)
    text = format_table(plan, results)
    runs = None
    if plan.data_root is not None:  # missing data are reported before anything is trained
        runs = real_data.open_benchmarks(plan.ablation.figures, plan.data_root, "ablation", plan.count)
    for seed in plan.seeds:
        for name, condition in plan.ablation.conditions.items():
            key = _digest(
                [_build_recipes(plan, condition, seed), plan.model, plan.ablation.staged, plan.skip_absent, plan.count]
            )
            if results.get(name, {}).get(str(seed), {}).get("key") == key:
                continue
            progress(f"{plan.name}: {name}, seed {seed}")
            figures = (
                _run_real_data(plan, condition, seed, runs)
                if runs is not None
                else _run_sticker_world(plan, condition, seed)
            )
            results.setdefault(name, {})[str(seed)] = {"key": key, "figures": figures}
            text = format_table(plan, results)
            _write_results(place, plan, results, text)
    return text


def format_table(plan: AblationPlan, results: Results) -> str:
    """The conditions as rows: means over seeds, ± half of their range; on real data beside the paper's figures."""
    is_real = plan.data_root is not None
    titles = [part for title in plan.columns.values() for part in ((title, "paper, 3B") if is_real else (title,))]
    lines = [f"| {plan.ablation.title} | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name, condition in plan.ablation.conditions.items():
        seeds = results.get(name, {})
        cells = []
        for figure in plan.columns:
            values = [one["figures"][figure] for one in seeds.values() if figure in one["figures"]]
            spread = f" ±{(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread}" if values else "")
            if is_real:
                published = condition.published.get(figure)
                cells.append("" if published is None else f"{published:.1f}")
        shown = name.replace("<", "\\<")
        lines.append(f"| {shown} ({len(seeds)}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _run_sticker_world(plan: AblationPlan, condition: Condition, seed: int) -> Figures:
    final, start, staged = Path(), plan.model or "nano", plan.ablation.staged
    so_far: list[Any] = [start, staged]
    for stage, recipe in _build_recipes(plan, condition, seed).items():
        is_first = len(so_far) == 2
        so_far.append(recipe)
        folder = plan.out / "runs" / f"{stage}-{_digest(so_far)}"
        if not (folder / DONE).exists():
            if is_first:
                setup = sticker_world.prepare_training(recipe, start, seed, staged=staged)
            else:
                setup = prepare_training(replace(recipe, start=Start(model=str(final))))
            data, recipe = build_dataset(setup.processor, recipe, None)
            train(setup, recipe, data, folder, workers=plan.workers, report=("none",))
            (folder / DONE).touch()
        final = folder / "final"
    return sticker_world.measure(load_model(final), Processor.from_folder(final), condition, plan.count or 200)


def _run_real_data(plan: AblationPlan, condition: Condition, seed: int, runs: Mapping[str, Any]) -> Figures:
    finals: dict[str, Path] = {}
    before: list[Any] = []
    for stage, recipe in _build_recipes(plan, condition, seed).items():
        if plan.skip_absent:
            recipe, absent = keep_present_sources(recipe, plan.data_root)
            if absent:
                LOG.warning("stage %s is trained without %s, which are not there", stage, ", ".join(absent))
        key = _digest([*before, recipe] if stage == "joint" else [recipe])
        before.append(recipe)
        folder = plan.out / "runs" / f"{stage}-{key}"
        if not (folder / DONE).exists():
            recipe = real_data.start_from_stages(recipe, finals) if stage == "joint" else recipe
            run(recipe, folder, data_root=plan.data_root, workers=plan.workers, report=("none",))
            (folder / DONE).touch()
        finals[stage] = folder / "final"
    if "joint" not in finals:
        raise DatasetError("the joint stage has no data; an ablation needs it")
    figures = real_data.select_figures(condition, plan.ablation.figures)
    needed = {
        name: run for name, run in runs.items() if name in {real_data.BENCHMARKS[figure][0] for figure in figures}
    }
    return real_data.measure(finals["joint"], needed, figures, finals["joint"].parent / "eval")


def _build_recipes(plan: AblationPlan, condition: Condition, seed: int) -> dict[str, Any]:
    if plan.data_root is None:
        return dict(sticker_world.build_recipes(condition, plan.ablation.staged, seed, plan.settings))
    return dict(real_data.build_recipes(condition, plan.model, seed, plan.settings))


def _digest(values: Sequence[Any]) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:10]


def _read_results(place: Path, plan: AblationPlan) -> Results:
    if not place.exists():
        return {}
    try:
        stored = json.loads(place.read_text(encoding="utf-8"))
        kind = (stored["ablation"], stored["is_real"])
        results: Results = stored["results"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{place} is no file of an ablation's figures; name another folder with -o") from error
    if kind != (plan.name, plan.data_root is not None):
        where = "real data" if kind[1] else "the built-in world"
        raise ValueError(f"{place} holds figures on {where}; name another folder with -o")
    return results


def _write_results(place: Path, plan: AblationPlan, results: Results, text: str) -> None:
    stored = {
        "format": FORMAT,
        "ablation": plan.name,
        "title": plan.ablation.title,
        "is_real": plan.data_root is not None,
        "settings": list(plan.settings),
        "figures": plan.columns,
        "published": {name: dict(one.published) for name, one in plan.ablation.conditions.items()},
        "results": results,
    }
    for path, content in ((place, json.dumps(stored, indent=1) + "\n"), (place.with_suffix(".md"), text + "\n")):
        draft = path.with_name(f"{path.name}.part")
        draft.write_text(content, encoding="utf-8")
        draft.replace(path)
