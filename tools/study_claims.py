"""The paper's claims at the size of `nano`, as a table and a plot.

Every condition trains a fresh decoder and fresh joints between the vision tower and the segmenter of a checkpoint (the
shipped one by default), on the same scenes for the same number of steps, and is measured on held-out scenes with masks
of its own making:

    python tools/study_claims.py -o study --steps 400 --seeds 0,1
    python tools/study_claims.py -o study --report                # only the table and study.svg, from what is there

A condition that is done is not run again, and one that was cut off goes on from its newest checkpoint.

refer only      names objects and chooses among options; objects stand in the question as `<|ref|>`
segment only    masks for expressions, points and boxes
both            the two mixed
both + memory   the same, but questions about objects get them as `<|mem|>`, made of the mask that the model itself
                gives to the prompt; the other conditions differ from this one in one thing each
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unipixel.masks import MaskTrack
from unipixel.model.config import UniPixelConfig
from unipixel.model.unipixel import TrainingOutput, UniPixel
from unipixel.model.weights import load_model, resolve_checkpoint
from unipixel.processing import Processor
from unipixel.sample import Sample, Turn
from unipixel.stickers import EVAL_SEED, Scene, scene, turns, video
from unipixel.stickers.choice_tasks import LETTERS
from unipixel.stickers.prompts import box_on, point_on
from unipixel.train.data import StickerTraining
from unipixel.train.look import mask_ious, predicted_masks
from unipixel.train.nano import initialise
from unipixel.train.nano_recipes import FIRST_WORLD, nano_bind
from unipixel.train.recipe import StickerRecipe
from unipixel.train.run import train
from unipixel.train.starting import Begun, load_into

WORLD = replace(FIRST_WORLD, num_frames=(4, 4), scale=(0.2, 0.45))
SEGMENT = {"refer": 3.0, "point": 1.0, "box": 1.0}
ASK = {"name": 2.0, "choice": 2.0}
KEPT = ("visual", "language.embed_tokens", "lm_head", "segmenter")
"""What every condition begins with; all else is fresh."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What is trained, and how it differs from the others."""

    mix: dict[str, float]
    memory: bool = True
    """Objects of questions are given as `<|mem|>`, else as `<|ref|>`."""
    hidden_tokens: int = 2
    time: bool = True
    """Prompts carry the code of their frame."""
    propagate: bool = True
    """Masks are tracked from the first frame, else made on every frame by itself."""


CONDITIONS = {
    "refer only": Condition(mix=ASK, memory=False),
    "segment only": Condition(mix=SEGMENT),
    "both": Condition(mix=SEGMENT | ASK, memory=False),
    "both + memory": Condition(mix=SEGMENT | ASK),
    "1 hidden token": Condition(mix=SEGMENT | ASK, hidden_tokens=1),
    "4 hidden tokens": Condition(mix=SEGMENT | ASK, hidden_tokens=4),
    "no code of time": Condition(mix=SEGMENT | ASK, time=False),
    "frame by frame": Condition(mix=SEGMENT | ASK, propagate=False),
}
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


def prompt_on(world: Scene, n: int, rng: np.random.Generator) -> Any:
    """A point or a box on an object."""
    return (point_on if rng.random() < 0.5 else box_on)(world, n, rng)


def by_reference(turn: Turn, prompts: dict[int, Any]) -> Turn:
    """The same question with a `<|ref|>` behind the first mention of each object instead of its memory."""
    text = turn.question
    for number in turn.regions:
        text = text.replace(f"[{number}]", f"[{number}] <|ref|>", 1)
    order = sorted(turn.regions, key=lambda number: text.index(f"[{number}] <|ref|>"))
    return replace(turn, question=text, references=tuple((prompts[number],) for number in order), regions=())


class StudyTraining(StickerTraining):
    """Sticker scenes with questions in the form of a condition."""

    def __init__(self, processor: Processor, recipe: StickerRecipe, memory: bool) -> None:
        super().__init__(processor, recipe)
        self._memory = memory

    def questions(self, world: Scene, rng: np.random.Generator) -> tuple[Turn, ...]:
        """Turns of the mix, with objects as memories or as references."""
        made = super().questions(world, rng)
        if self._memory:
            return made
        prompts = {item.id: prompt_on(world, n, rng) for n, item in enumerate(world.objects)}
        return tuple(by_reference(turn, prompts) if turn.regions else turn for turn in made)


def recipe_of(condition: Condition, steps: int, seed: int) -> StickerRecipe:
    """`nano_bind` with the condition's questions."""
    mix = {("name_mem" if k == "name" and condition.memory else k): v for k, v in condition.mix.items()}
    return replace(
        nano_bind(),
        name="study",
        seed=100 + seed,
        steps=steps,
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
    )


def begin(condition: Condition, checkpoint: str, seed: int) -> Begun:
    """The condition's model before its first step."""
    folder = resolve_checkpoint(checkpoint)
    processor = Processor.from_folder(folder)
    config = replace(UniPixelConfig.from_folder(folder), hidden_tokens=condition.hidden_tokens)
    model = UniPixel(config)
    initialise(model, torch.Generator().manual_seed(seed))
    load_into(model, folder, KEPT)
    model.prompt_encoder.encoder.shared_embedding.positional_embedding.copy_(
        model.segmenter.shared_image_embedding.positional_embedding
    )
    return Begun(model, processor)


def restrict(model: UniPixel, condition: Condition) -> None:
    """Take from the model what the condition does without."""
    if not condition.time:
        model.prompt_encoder.time_matrix.zero_()
    if not condition.propagate:
        model.segment = partial(model.segment, propagate=False)  # type: ignore[method-assign]


class Measure:
    """A trained condition on held-out scenes."""

    def __init__(self, model: UniPixel, processor: Processor, condition: Condition) -> None:
        self.model, self.processor, self.condition = model.eval(), processor, condition
        self.values: dict[str, list[Any]] = defaultdict(list)

    @torch.no_grad()
    def forward(self, sample: Sample) -> tuple[TrainingOutput, torch.Tensor]:
        """What the model makes of a sample, and the tokens that would have been right."""
        batch = self.processor.collate([self.processor.training(sample, independent_turns=True)], self.model.config)
        following = batch["labels"][:, 1:]
        return self.model(**batch), following[following != -100]

    def masks(self, world: Scene, made: list[Turn]) -> np.ndarray:
        """bool (O, T, H, W): what is segmented in answer to turns with one target each."""
        sample = world.sample(tuple(made))
        found = predicted_masks(self.forward(sample)[0], sample)
        assert found is not None
        return found

    def right(self, sample: Sample) -> bool:
        """Whether every word of the one answer is the likeliest; of a choice, its letter among the letters."""
        output, wanted = self.forward(sample)
        decode = self.processor.tokenizer.decode
        if sample.turns[0].task != "choice":
            return bool((output.logits.argmax(-1) == wanted).all())
        letters = {letter: self.processor.chat.encode(letter)[-1] for letter in LETTERS}
        place = next(k for k, token in enumerate(wanted.tolist()) if decode([token]).strip("( )") in letters)
        shown = [letter for letter in LETTERS if f"({letter}) " in sample.turns[0].question]
        likeliest = max(shown, key=lambda letter: float(output.logits[place, letters[letter]]))
        return likeliest == decode([int(wanted[place])]).strip("( )")

    def scene(self, world: Scene, rng: np.random.Generator) -> None:
        """One question of each kind about a scene."""
        before = "video_" if world.is_video else ""
        can_segment, can_answer = "refer" in self.condition.mix, "choice" in self.condition.mix
        asked = turns(world, rng, 1, {"refer": 1.0})
        n = int(rng.integers(len(world.objects)))
        prompted = [self._prompt_turn(world, k, rng) for k in range(len(world.objects))]
        own: dict[int, MaskTrack] = {}
        if can_segment:
            if asked:
                found, truth = self.masks(world, [asked[0]]), self._truth(world, asked[0])
                if world.is_video:
                    self.values["video_refer"] += mask_ious(found, truth)
                else:
                    self.values["refer"].append(((found & truth).sum(), (found | truth).sum()))
            found = self.masks(world, prompted)
            self.values[f"{before}prompt"].append(mask_ious(found[n : n + 1], self._truth(world, prompted[n]))[0])
            own = {item.id: MaskTrack.from_masks(found[k]) for k, item in enumerate(world.objects)}
        name = Turn(
            question=f"What is [{world.objects[n].id}]?",
            answer=f"the {world.objects[n].thing.name}",
            regions=(world.objects[n].id,),
            task="name_mem",
        )
        choices = turns(world, rng, 1, {"choice": 1.0})
        for kind, turn in (("name", name), *((("choice", choices[0]),) if choices else ())):
            if can_answer:
                self.values[before + kind].append(self._answered(world, turn, prompted, own))

    def _answered(self, world: Scene, turn: Turn, prompted: list[Turn], own: dict[int, MaskTrack]) -> bool:
        if self.condition.memory:
            if not all(own[number].visible.any() for number in turn.regions):
                return False  # an object that the model did not find cannot be remembered
            return self.right(replace(world.sample((turn,)), objects=own))
        prompts = {item.id: prompted[k].references[0][0] for k, item in enumerate(world.objects)}
        return self.right(world.sample((by_reference(turn, prompts),)))

    @staticmethod
    def _prompt_turn(world: Scene, n: int, rng: np.random.Generator) -> Turn:
        number = world.objects[n].id
        return Turn(
            question=f"Please segment [{number}] <|ref|>.",
            answer=f"[{number}]<|seg|>",
            references=((prompt_on(world, n, rng),),),
            targets=(number,),
        )

    @staticmethod
    def _truth(world: Scene, turn: Turn) -> np.ndarray:
        place = {item.id: k for k, item in enumerate(world.objects)}
        return np.asarray(world.masks[[place[number] for number in turn.targets if number is not None]])

    def figures(self) -> dict[str, float]:
        """Means; of stills the cumulative IoU of expressions."""
        out = {}
        for name, values in self.values.items():
            pairs = np.array(values, float)
            out[name] = float(pairs[:, 0].sum() / pairs[:, 1].sum()) if name == "refer" else float(pairs.mean())
        return out


def perform(name: str, seed: int, out: Path, given: argparse.Namespace) -> dict[str, float]:
    """Train and measure one condition."""
    condition, folder = CONDITIONS[name], out / f"{name.replace(' ', '_')}-{seed}"
    begun, recipe = begin(condition, given.checkpoint, seed), recipe_of(condition, given.steps, seed)
    restrict(begun.model, condition)
    data = StudyTraining(begun.processor, recipe, condition.memory)
    final = train(begun, recipe, data, folder, workers=1, report=("none",))
    model = load_model(final)
    restrict(model, condition)
    measure = Measure(model, begun.processor, condition)
    for index in range(given.count):
        for make, share in ((scene, 1), (video, 2)):
            if index % share == 0:
                measure.scene(make(EVAL_SEED + 30, index, WORLD), np.random.default_rng((EVAL_SEED + 30, index, 1)))
    return measure.figures()


def report(results: dict[str, dict[str, dict[str, float]]], out: Path) -> str:
    """A Markdown table of means over seeds with their range, and ``study.svg``."""
    lines = ["| condition | " + " | ".join(FIGURES.values()) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    for name, seeds in results.items():
        cells = []
        for figure in FIGURES:
            values = [one[figure] for one in seeds.values() if figure in one]
            spread = f" ±{(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread}" if values else "")
        lines.append(f"| {name} ({len(seeds)}) | " + " | ".join(cells) + " |")
    (out / "study.svg").write_text(plot(results))
    return "\n".join(lines)


def plot(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """One row of bars for each figure, one bar for each condition, a dot for each seed."""
    left, width, bar, gap = 190, 440, 14, 30
    parts, y = [], 10
    for figure, title in FIGURES.items():
        parts.append(f'<text x="10" y="{y + 12}" font-weight="bold">{title}</text>')
        y += 20
        for name, seeds in results.items():
            values = [one[figure] for one in seeds.values() if figure in one]
            parts.append(f'<text x="{left - 8}" y="{y + 11}" text-anchor="end">{name}</text>')
            if values:
                mean = float(np.mean(values))
                parts.append(
                    f'<rect x="{left}" y="{y + 1}" width="{mean * width:.1f}" height="{bar - 3}" fill="#7aa6d8"/>'
                )
                parts += [
                    f'<circle cx="{left + v * width:.1f}" cy="{y + bar / 2}" r="2.5" fill="#20406a"/>' for v in values
                ]
                parts.append(f'<text x="{left + max(values) * width + 8:.1f}" y="{y + 11}">{mean:.2f}</text>')
            y += bar
        y += gap - bar
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 60}" height="{y}" font-family="sans-serif" '
        'font-size="11"><rect width="100%" height="100%" fill="white"/>'
    )
    return head + "\n".join(parts) + "</svg>\n"


def main() -> None:
    """Run what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description="Train and compare small models under different conditions.")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--checkpoint", default="nano")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--count", type=int, default=200, help="held-out stills; half as many clips")
    parser.add_argument("--only", nargs="*", choices=list(CONDITIONS), default=list(CONDITIONS))
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "results.json"
    results: dict[str, dict[str, dict[str, float]]] = json.loads(path.read_text()) if path.exists() else {}
    for seed in () if given.report else given.seeds.split(","):
        for name in given.only:
            if seed not in results.get(name, {}):
                results.setdefault(name, {})[seed] = perform(name, int(seed), given.out, given)
                path.write_text(json.dumps(results, indent=1) + "\n")
    print(report({name: results[name] for name in CONDITIONS if name in results}, given.out))


if __name__ == "__main__":
    main()
