"""The paper's ablations, each from its name to its table: trains and measures what is missing.

On the paper's data a condition takes the stages' recipes with what it leaves out, and the benchmarks' figures.
Published figures are those of the 3B model (UniPixel, arXiv 2509.18094), read from notes on its tables.

In the built-in world, at the size of `nano`, a condition takes minutes on one core. Every condition trains a fresh head
of mask queries on the same scenes for the same number of steps; the rest begins as a checkpoint has it, the decoder
included: one that starts from nothing still guessed among options after 300 steps. The prompt encoder is fresh only
where stages are compared, of which the first teaches it. Only the trained model is measured: questions about objects
get the masks that it predicts.

In the folder OUT, which several ablations may share, ``runs/STAGE-KEY`` is a training run, where the key stands for
everything that decides it, so that a run which two conditions have in common is made once; ``NAME.json`` has the
figures by condition and seed, ``NAME.md`` the table.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unipixel.atomic import write_text
from unipixel.checks import check_flag, check_mapping, check_number, check_text, join_lines, parse_json
from unipixel.engine.engine import load
from unipixel.errors import DatasetError
from unipixel.eval.predictors import EnginePredictor
from unipixel.eval.runner import BenchmarkRun, open_run, predict
from unipixel.masks import MaskTrack
from unipixel.model.config import Recall, UniPixelConfig
from unipixel.model.presets import initialise
from unipixel.model.unipixel import TrainingOutput, UniPixel
from unipixel.model.weights import load_model, resolve_checkpoint
from unipixel.processing import Processor
from unipixel.sample import Sample, Turn
from unipixel.stickers import EVAL_SEED, Scene, generate_scene, generate_turns, generate_video
from unipixel.stickers.choice_tasks import list_answers
from unipixel.train.checkpoints import copy_weights
from unipixel.train.nano_recipes import FIRST_WORLD, nano_bind
from unipixel.train.recipe import MixtureRecipe, Source, Start, StickerRecipe, keep_present_sources, override
from unipixel.train.recipes import PROMPT_PROJECTIONS, joint, refer, segment
from unipixel.train.run import build_dataset, run, train
from unipixel.train.setup import TrainingSetup, apply_variants, prepare_training
from unipixel.train.sticker_data import apply_recall, build_segment_turn, draw_prompt
from unipixel.train.validation import compute_ious, extract_masks

LOG = logging.getLogger(__name__)
DONE = "done"
"""File that marks a run as complete."""
FORMAT = 1
Figures = dict[str, float]
Results = dict[str, dict[str, dict[str, Any]]]
"""Condition -> seed -> "key" of what was done, "figures"."""
PIXELQA_MASKS, PIXELQA_CHOICES = "PixelQA J&F", "PixelQA accuracy"
REVOS, REFERRING = "ReVOS J&F", "VideoRefer-Q accuracy"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One row: what is trained, and how it differs from the whole method."""

    published: Mapping[str, float] = field(default_factory=dict)
    """The paper's figures by name."""
    answers: bool = True
    """Learns to answer questions about objects."""
    segments: bool = True
    """Learns to segment."""
    recall: Recall = "memory"
    hidden_tokens: int = 2
    time_code: bool = True
    propagate: bool = True
    stages: tuple[str, ...] = ("refer", "segment", "joint")
    """Stages that are trained, in order; the last one is always the joint one."""

    @property
    def fields(self) -> dict[str, object]:
        """The fields of a recipe that make its model the condition's."""
        return {
            "hidden_tokens": self.hidden_tokens,
            "time_code": self.time_code,
            "propagate": self.propagate,
            "recall": self.recall,
        }


def _list_pixelqa_figures(masks: float | None, choices: float | None) -> dict[str, float]:
    given = ((PIXELQA_MASKS, masks), (PIXELQA_CHOICES, choices))
    return {name: value for name, value in given if value is not None}


def _build_staged_condition(name: str, revos: float, referring: float, *stages: str) -> dict[str, Condition]:
    return {name: Condition(published={REVOS: revos, REFERRING: referring}, stages=stages)}


WHOLE = Condition(published=_list_pixelqa_figures(49.0, 68.5))

ABLATIONS: dict[str, dict[str, Condition]] = {
    "stages": {
        **_build_staged_condition("stage 3", 61.0, 71.5, "joint"),
        **_build_staged_condition("stages 1, 3", 61.2, 72.3, "refer", "joint"),
        **_build_staged_condition("stages 2, 3", 61.6, 71.6, "segment", "joint"),
        **_build_staged_condition("stages 1, 2, 3", 62.1, 72.8, "refer", "segment", "joint"),
    },
    "unify": {
        "refer only": Condition(published=_list_pixelqa_figures(None, 64.6), segments=False, recall="pointing"),
        "segment only": Condition(published=_list_pixelqa_figures(47.5, None), answers=False),
        "both": Condition(published=_list_pixelqa_figures(48.2, 67.4), recall="pointing"),
        "both + object memory": WHOLE,
    },
    "memory": {
        "<ref>": Condition(published=_list_pixelqa_figures(46.8, 64.5), recall="pointing"),
        "<ref>, then <seg>": Condition(published=_list_pixelqa_figures(47.8, 64.9), recall="turn"),
        "pooled mask feature": Condition(published=_list_pixelqa_figures(47.5, 66.3), recall="frame"),
        "object memory": WHOLE,
    },
    "tokens": {
        f"{count}": Condition(published={REVOS: revos}, hidden_tokens=count)
        for count, revos in ((1, 61.6), (2, 62.1), (4, 61.9), (8, 61.8))
    },
    "time": {"without": Condition(published=_list_pixelqa_figures(44.3, None), time_code=False), "with": WHOLE},
    "propagation": {
        "frame by frame": Condition(published=_list_pixelqa_figures(46.1, 66.2), propagate=False),
        "propagated": WHOLE,
    },
}
"""Name of an ablation -> its conditions."""
TITLES = {
    "stages": "Stages of training",
    "unify": "Referring and segmenting in one model",
    "memory": "How a question knows of an object",
    "tokens": "Hidden tokens per <seg>",
    "time": "Code of time of prompts",
    "propagation": "Masks of a clip",
}
"""Name of an ablation -> its heading."""


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


def build_mixture_recipes(
    condition: Condition, model: str, seed: int, settings: Sequence[str]
) -> dict[str, MixtureRecipe]:
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


def measure_benchmarks(
    final: Path, runs: Mapping[str, BenchmarkRun], figures: Sequence[str], out: Path
) -> dict[str, float]:
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


WORLD = replace(FIRST_WORLD, num_frames=(4, 4), scale=(0.2, 0.45))
SEGMENT = {"refer": 3.0, "point": 1.0, "box": 1.0}
ASK = {"name": 2.0, "choice": 2.0}
KEPT = ("visual", "language", "lm_head", "segmenter", "region_pool")
"""What every condition starts with."""
SEED = EVAL_SEED + 30
FIGURES = {
    "refer": "referring cIoU, stills",
    "prompt": "IoU under prompts, stills",
    "name": "naming, stills",
    "choice": "choice, stills",
    "video_refer": "referring J, clips",
    "video_prompt": "J under prompts, clips",
    "video_name": "naming, clips",
    "video_choice": "choice, clips",
}


def build_sticker_recipes(
    condition: Condition, staged: bool, seed: int, settings: Sequence[str]
) -> dict[str, StickerRecipe]:
    """What is trained, stage by stage; without ``staged`` the joint stage alone.

    Args:
        settings: changes of the joint stage's fields, see `override`; the other stages take half of its steps.
    """
    mix = dict(SEGMENT if condition.segments else {})
    if condition.answers:
        name = "name" if condition.recall == "pointing" else "name_mem"
        mix |= {(name if task == "name" else task): share for task, share in ASK.items()}
    last = override(
        replace(
            nano_bind(),
            name="ablation",
            seed=100 + seed,
            steps=300,
            muon=2.0,
            batch_size=8,
            turns=5,
            mix=mix,
            video_share=0.3,
            video_turns=4,
            world=WORLD,
            dense_words=0.2,
            pointing=0.5,
            decay_share=0.4,
            log_steps=25,
            save_steps=100,
            keep=1,
            **condition.fields,  # type: ignore[arg-type]
        ),
        settings,
    )
    early = replace(last, steps=max(1, last.steps // 2), dense_words=0.0, binding=0.0, pointing=0.0)
    stages = {
        "refer": replace(early, trainable=PROMPT_PROJECTIONS, mix={"name": 1.0}, seed=last.seed + 1000),
        "segment": replace(early, trainable=("seg_head.",), mix={"refer": 1.0}, seed=last.seed + 2000),
        "joint": last,
    }
    return {name: stages[name] for name in (condition.stages if staged else ("joint",))}


@torch.no_grad()
def prepare_condition(recipe: StickerRecipe, checkpoint: str, seed: int, staged: bool) -> TrainingSetup:
    """A condition's model before its first step.

    Args:
        staged: the prompt encoder has its own stage, and is fresh.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    folder = resolve_checkpoint(checkpoint)
    processor, config = Processor.from_folder(folder), UniPixelConfig.from_folder(folder)
    config.hidden_tokens = recipe.hidden_tokens or config.hidden_tokens
    model = UniPixel(config)
    initialise(model, torch.Generator().manual_seed(seed))
    copy_weights(model, folder, KEPT if staged else (*KEPT, "prompt_encoder"))
    # where a prompt points and where a cell lies are written in one code
    model.prompt_encoder.encoder.shared_embedding.positional_embedding.copy_(
        model.segmenter.shared_image_embedding.positional_embedding
    )
    setup = TrainingSetup(model, processor)
    apply_variants(setup, recipe)
    return setup


def measure_scenes(model: UniPixel, processor: Processor, condition: Condition, count: int) -> dict[str, float]:
    """The figures of a trained condition on ``count`` held-out stills and half as many clips."""
    evaluator = SceneEvaluator(model, processor, condition)
    for index in range(count):
        for make, share in ((generate_scene, 1), (generate_video, 2)):
            if index % share == 0:
                evaluator.add_scene(make(SEED, index, WORLD), np.random.default_rng((SEED, index, 1)))
    return evaluator.average_figures()


class SceneEvaluator:
    """A trained condition on held-out scenes."""

    def __init__(self, model: UniPixel, processor: Processor, condition: Condition) -> None:
        self.model, self.processor, self.condition = model.eval(), processor, condition
        self.values: dict[str, list[Any]] = defaultdict(list)

    @torch.no_grad()
    def forward(self, sample: Sample, *, together: bool = False) -> tuple[TrainingOutput, torch.Tensor]:
        """What the model makes of a sample, and the tokens that would have been right.

        ``together``: its turns are one conversation, else each is asked as if it were the first.
        """
        inputs = self.processor.build_training_inputs(sample, independent_turns=not together)
        batch = self.processor.collate([inputs], self.model.config)
        following = batch["labels"][:, 1:]
        return self.model(**batch), following[following != -100]

    def predict_masks(self, world: Scene, made: list[Turn]) -> np.ndarray:
        """bool (O, T, H, W): what is segmented in answer to turns with one target each."""
        sample = world.to_sample(tuple(made))
        found = extract_masks(self.forward(sample)[0], sample)
        assert found is not None
        return found

    def is_right(self, sample: Sample) -> bool:
        """Whether every word of the last answer is the likeliest; of a choice, whether the whole answer is, of all."""
        *earlier, last = sample.turns
        if last.task != "choice":
            logits, wanted = self._read_answer(sample)
            return bool((logits.argmax(-1) == wanted).all())
        likelihoods = {}
        for answer in list_answers(last.question):
            logits, wanted = self._read_answer(replace(sample, turns=(*earlier, replace(last, answer=answer))))
            likelihoods[answer] = float(logits.log_softmax(-1).gather(-1, wanted[:, None]).sum())
        return max(likelihoods, key=likelihoods.__getitem__) == last.answer

    def _read_answer(self, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (K, V) in front of the K tokens of the last answer, and those tokens."""
        output, wanted = self.forward(sample, together=True)
        length = len(self.processor.chat.encode_answer(sample.turns[-1].answer))
        return output.logits[-length:].float(), wanted[-length:]

    def add_scene(self, world: Scene, rng: np.random.Generator) -> None:
        """One question of each kind about a scene."""
        before = "video_" if world.is_video else ""
        can_segment, can_answer = self.condition.segments, self.condition.answers
        asked = generate_turns(world, rng, 1, {"refer": 1.0})
        n = int(rng.integers(len(world.objects)))
        prompts = {item.id: draw_prompt(world, k, rng) for k, item in enumerate(world.objects)}
        prompted = [build_segment_turn([number], prompts) for number in prompts]
        own: dict[int, MaskTrack] = {}
        if can_segment:
            if asked:
                found, truth = self.predict_masks(world, [asked[0]]), self._stack_targets(world, asked[0])
                if world.is_video:
                    self.values["video_refer"] += compute_ious(found, truth)
                else:
                    self.values["refer"].append(((found & truth).sum(), (found | truth).sum()))
            found = self.predict_masks(world, prompted)
            self.values[f"{before}prompt"].append(
                compute_ious(found[n : n + 1], self._stack_targets(world, prompted[n]))[0]
            )
            own = {item.id: MaskTrack.from_masks(found[k]) for k, item in enumerate(world.objects)}
        name = Turn(
            question=f"What is [{world.objects[n].id}]?",
            answer=f"the {world.objects[n].thing.name}",
            regions=(world.objects[n].id,),
            task="name_mem",
        )
        choices = generate_turns(world, rng, 1, {"choice": 1.0})
        for kind, turn in (("name", name), *((("choice", choices[0]),) if choices else ())):
            if can_answer:
                self.values[before + kind].append(self._is_answered(world, turn, prompts, own))

    def _is_answered(self, world: Scene, turn: Turn, prompts: Mapping[int, Any], own: Mapping[int, MaskTrack]) -> bool:
        recall = self.condition.recall
        if recall in ("pointing", "turn"):
            return self.is_right(apply_recall(world.to_sample((turn,)), prompts, recall))
        if not all(own[number].visible.any() for number in turn.regions):
            return False  # an object that the model did not find cannot be remembered
        return self.is_right(apply_recall(replace(world.to_sample((turn,)), objects=dict(own)), prompts, recall))

    @staticmethod
    def _stack_targets(world: Scene, turn: Turn) -> np.ndarray:
        place = {item.id: k for k, item in enumerate(world.objects)}
        return np.asarray(world.masks[[place[number] for number in turn.targets if number is not None]])

    def average_figures(self) -> dict[str, float]:
        """Means; of expressions on stills the cumulative IoU."""
        out = {}
        for name in FIGURES:
            pairs = np.array(self.values[name], float)
            if len(pairs):
                out[name] = float(pairs[:, 0].sum() / pairs[:, 1].sum()) if name == "refer" else float(pairs.mean())
        return out


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
    def conditions(self) -> dict[str, Condition]:
        return ABLATIONS[self.name]

    @property
    def is_staged(self) -> bool:
        """Whether the conditions differ in their stages, so that the small world has to train them too."""
        return len({one.stages for one in self.conditions.values()}) > 1

    @property
    def figures(self) -> list[str]:
        """What it is measured by on real data: what the paper has of any condition."""
        return [name for name in BENCHMARKS if any(name in one.published for one in self.conditions.values())]

    @property
    def columns(self) -> dict[str, str]:
        """Key of a figure -> its title."""
        return FIGURES if self.data_root is None else {name: name for name in self.figures}


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
        runs = open_benchmarks(plan.figures, plan.data_root, "ablation", plan.count)
    for seed in plan.seeds:
        for name, condition in plan.conditions.items():
            key = _digest([_build_recipes(plan, condition, seed), plan.model, plan.skip_absent, plan.count])
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
    lines = [f"| {TITLES[plan.name]} | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name, condition in plan.conditions.items():
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
    final, start = Path(), plan.model or "nano"
    so_far: list[Any] = []
    for stage, recipe in _build_recipes(plan, condition, seed).items():
        is_first = not so_far
        so_far.append(recipe)
        folder = plan.out / "runs" / f"{stage}-{_digest([start, plan.is_staged, *so_far])}"
        if not (folder / DONE).exists():
            if is_first:
                setup = prepare_condition(recipe, start, seed, plan.is_staged)
            else:
                setup = prepare_training(replace(recipe, start=Start(model=str(final))))
            data, recipe = build_dataset(setup.processor, recipe, None)
            train(setup, recipe, data, folder, workers=plan.workers, report=("none",))
            (folder / DONE).touch()
        final = folder / "final"
    return measure_scenes(load_model(final), Processor.from_folder(final), condition, plan.count or 200)


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
            recipe = start_from_stages(recipe, finals) if stage == "joint" else recipe
            run(recipe, folder, data_root=plan.data_root, workers=plan.workers, report=("none",))
            (folder / DONE).touch()
        finals[stage] = folder / "final"
    if "joint" not in finals:
        raise DatasetError("the joint stage has no data; an ablation needs it")
    figures = select_figures(condition, plan.figures)
    needed = {name: run for name, run in runs.items() if name in {BENCHMARKS[figure][0] for figure in figures}}
    return measure_benchmarks(finals["joint"], needed, figures, finals["joint"].parent / "eval")


def _build_recipes(plan: AblationPlan, condition: Condition, seed: int) -> dict[str, Any]:
    if plan.data_root is None:
        return dict(build_sticker_recipes(condition, plan.is_staged, seed, plan.settings))
    return dict(build_mixture_recipes(condition, plan.model, seed, plan.settings))


def _digest(values: Sequence[Any]) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:10]


def _read_results(place: Path, plan: AblationPlan) -> Results:
    if not place.exists():
        return {}
    try:
        stored = check_mapping(parse_json(place.read_text(encoding="utf-8")), "it", ("ablation", "is_real", "results"))
        kind = (check_text(stored["ablation"], "ablation"), check_flag(stored["is_real"], "is_real"))
        results: Results = check_mapping(stored["results"], "results")
        for condition in results.values():
            for one in check_mapping(condition, "a condition").values():
                check_mapping(one, "a seed", ("key", "figures"))
                check_text(one["key"], "key")
                for value in check_mapping(one["figures"], "figures").values():
                    check_number(value, "a figure")
    except ValueError as error:
        raise ValueError(
            f"{place} is no file of an ablation's figures ({join_lines(error)}); name another folder with -o"
        ) from error
    if kind != (plan.name, plan.data_root is not None):
        where = "real data" if kind[1] else "the built-in world"
        raise ValueError(f"{place} holds figures on {where}; name another folder with -o")
    return results


def _write_results(place: Path, plan: AblationPlan, results: Results, text: str) -> None:
    stored = {
        "format": FORMAT,
        "ablation": plan.name,
        "title": TITLES[plan.name],
        "is_real": plan.data_root is not None,
        "settings": list(plan.settings),
        "figures": plan.columns,
        "published": {name: dict(one.published) for name, one in plan.conditions.items()},
        "results": results,
    }
    for path, content in ((place, json.dumps(stored, indent=1) + "\n"), (place.with_suffix(".md"), text + "\n")):
        write_text(path, content)
