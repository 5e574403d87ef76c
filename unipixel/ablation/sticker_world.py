"""Ablations in the built-in world, at the size of `nano`: minutes on one core for each condition.

Every condition trains fresh joints between language model and segmenter, and a fresh decoder, on the same scenes for
the same number of steps; vision tower, word table and segmenter are those of a checkpoint. Where the conditions differ
in their stages, the decoder is the checkpoint's too, since the first stages train next to nothing of it. Only
the trained model is measured: questions about objects get the masks that it predicts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from unipixel.ablation.conditions import Condition
from unipixel.masks import MaskTrack
from unipixel.model.config import UniPixelConfig
from unipixel.model.presets import initialise
from unipixel.model.unipixel import TrainingOutput, UniPixel
from unipixel.model.weights import resolve_checkpoint
from unipixel.processing import Processor
from unipixel.sample import Sample, Turn
from unipixel.stickers import EVAL_SEED, Scene, generate_scene, generate_turns, generate_video
from unipixel.stickers.choice_tasks import LETTERS
from unipixel.train.checkpoints import copy_weights
from unipixel.train.nano_recipes import FIRST_WORLD, nano_bind
from unipixel.train.recipe import StickerRecipe, override
from unipixel.train.recipes import PROMPT_PROJECTIONS
from unipixel.train.setup import TrainingSetup, apply_variants
from unipixel.train.sticker_data import apply_recall, build_segment_turn, draw_prompt
from unipixel.train.validation import compute_ious, extract_masks

WORLD = replace(FIRST_WORLD, num_frames=(4, 4), scale=(0.2, 0.45))
SEGMENT = {"refer": 3.0, "point": 1.0, "box": 1.0}
ASK = {"name": 2.0, "choice": 2.0}
KEPT = ("visual", "language.embed_tokens", "lm_head", "segmenter")
"""What every condition starts with; everything else is fresh."""
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


def build_recipes(condition: Condition, staged: bool, seed: int, settings: Sequence[str]) -> dict[str, StickerRecipe]:
    """What is trained, stage by stage; without ``staged`` the joint stage alone.

    Args:
        settings: changes of the joint stage's fields, see `override`; the other stages take half of its steps.
    """
    mix = dict(SEGMENT if condition.segments else {})
    if condition.answers:
        name = "name" if condition.recall == "pointing" else "name_mem"
        mix |= {(name if task == "name" else task): share for task, share in ASK.items()}
    joint = override(
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
    early = replace(joint, steps=max(1, joint.steps // 2), dense_words=0.0, binding=0.0, pointing=0.0)
    stages = {
        "refer": replace(early, trainable=PROMPT_PROJECTIONS, mix={"name": 1.0}, seed=joint.seed + 1000),
        "segment": replace(early, trainable=("seg_head.",), mix={"refer": 1.0}, seed=joint.seed + 2000),
        "joint": joint,
    }
    return {name: stages[name] for name in (condition.stages if staged else ("joint",))}


@torch.no_grad()
def prepare_training(recipe: StickerRecipe, checkpoint: str, seed: int, *, staged: bool) -> TrainingSetup:
    """A condition's model before its first step.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    folder = resolve_checkpoint(checkpoint)
    processor, config = Processor.from_folder(folder), UniPixelConfig.from_folder(folder)
    config.hidden_tokens = recipe.hidden_tokens or config.hidden_tokens
    model = UniPixel(config)
    initialise(model, torch.Generator().manual_seed(seed))
    copy_weights(model, folder, (*KEPT, "language") if staged else KEPT)
    # where a prompt points and where a cell lies are written in one code
    model.prompt_encoder.encoder.shared_embedding.positional_embedding.copy_(
        model.segmenter.shared_image_embedding.positional_embedding
    )
    setup = TrainingSetup(model, processor)
    apply_variants(setup, recipe)
    return setup


def measure(model: UniPixel, processor: Processor, condition: Condition, count: int) -> dict[str, float]:
    """The figures of a trained condition on ``count`` held-out stills and half as many clips."""
    measure = SceneEvaluator(model, processor, condition)
    for index in range(count):
        for make, share in ((generate_scene, 1), (generate_video, 2)):
            if index % share == 0:
                measure.add_scene(make(SEED, index, WORLD), np.random.default_rng((SEED, index, 1)))
    return measure.average_figures()


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
        """Whether every word of the last answer is the likeliest; of a choice, its letter among the letters."""
        output, wanted = self.forward(sample, together=True)
        last = sample.turns[-1]
        length = len(self.processor.chat.encode_answer(last.answer))
        logits, wanted = output.logits[-length:], wanted[-length:]
        decode = self.processor.tokenizer.decode
        if last.task != "choice":
            return bool((logits.argmax(-1) == wanted).all())
        letters = {letter: self.processor.chat.encode(letter)[-1] for letter in LETTERS}
        place = next(k for k, token in enumerate(wanted.tolist()) if decode([token]).strip("( )") in letters)
        offered = [letter for letter in LETTERS if f"({letter}) " in last.question]
        likeliest = max(offered, key=lambda letter: float(logits[place, letters[letter]]))
        return likeliest == decode([int(wanted[place])]).strip("( )")

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
