"""Training samples as tensors; which sample comes when depends on (seed, index) alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from unipixel.data.cutouts import list_whole_photos
from unipixel.processing.chat import END_OF_TEXT
from unipixel.processing.collation import IGNORE_INDEX, TrainingInputs
from unipixel.processing.processor import Processor
from unipixel.sample import Sample, Turn
from unipixel.stickers import HARD, THINGS, Scene, generate_scene, generate_turns, generate_video
from unipixel.stickers.scene import box_object, point_at_object
from unipixel.train.photos import ClipSampler, PhotoSampler, build_cutout_world
from unipixel.train.recall import apply_recall, draw_prompt
from unipixel.train.recipe import StickerRecipe

CLEARLY_SHOWN = 0.3
"""Share of a visual token that an object must cover for the token to be called after it."""


class StickerDataset(Dataset[TrainingInputs]):
    """Endless sticker scenes, and photos among them, with questions, cut to the length of a run."""

    def __init__(self, processor: Processor, recipe: StickerRecipe, photos: Path | None = None) -> None:
        """Take a recipe; ``photos`` is a folder as `unipixel.data.photos` reads it, also used for backgrounds."""
        if (recipe.photo_share or recipe.cutout_share) and photos is None:
            raise ValueError(f"the recipe {recipe.name} draws photos; say where they are: --set photos=DIR")
        self._processor = processor
        self._recipe = recipe
        pieces = None if photos is None else list_whole_photos(photos)
        behind: dict[str, Any] = {"photos": pieces, "photo_share": recipe.photo_share}
        self._settings = replace(recipe.world, **behind)
        self._hard = replace(HARD, num_frames=recipe.world.num_frames, **behind)
        self._photos = None if photos is None else PhotoSampler(photos)
        if recipe.clip_share and not recipe.clips:
            raise ValueError(f"the recipe {recipe.name} draws real clips; say where they are: --set clips=DIR")
        self._clips = ClipSampler(Path(recipe.clips)) if recipe.clips else None
        self._cut_out = None if photos is None or not recipe.cutout_share else build_cutout_world(recipe.world, photos)
        self._kept: dict[int, TrainingInputs] = {}
        names = THINGS if self._cut_out is None else [*THINGS, *self._cut_out.load_sprites().names]
        self._words = {name: self._find_word(name) for name in names}

    def __len__(self) -> int:
        return self._recipe.steps * self._recipe.batch_size

    def __getitem__(self, index: int) -> TrainingInputs:
        if not self._recipe.distinct:
            return self._build_sample(index)
        index %= self._recipe.distinct
        if index not in self._kept:
            self._kept[index] = self._build_sample(index)
        return self._kept[index].copy()

    def _build_sample(self, index: int) -> TrainingInputs:
        recipe = self._recipe
        # whole batches are clips or stills: the draw depends on the batch's number
        batch = np.random.default_rng((recipe.seed, 0, index // recipe.batch_size))
        is_video = bool(batch.random() < recipe.video_share)
        together = bool(batch.random() < recipe.conversation_share) or recipe.recall == "turn"
        rng = np.random.default_rng((recipe.seed, 1, index))
        if self._photos is not None and not is_video and rng.random() < recipe.photo_share:
            return self._build_photo(self._photos.draw(rng, recipe.turns, recipe.mix), together)
        if self._clips is not None and is_video and rng.random() < recipe.clip_share:
            length = int(rng.integers(recipe.world.num_frames[0], recipe.world.num_frames[1] + 1))
            count = 1 if recipe.objective == "prompt" else recipe.video_turns  # clips have one object
            return self._build_photo(self._clips.draw(rng, length, count, recipe.mix), together)
        settings = self._hard if rng.random() < recipe.hard_share else self._settings
        if self._cut_out is not None and rng.random() < recipe.cutout_share:
            settings = self._cut_out
        world = (generate_video if is_video else generate_scene)(recipe.seed, index, settings)
        if recipe.objective == "prompt":
            if not world.masks[:, 0].any():  # a clip that opens empty gives nothing to point at
                world = generate_scene(recipe.seed, index, settings)
            questions = draw_prompt_turns(world, rng, recipe)
        else:
            questions = self.draw_turns(world, rng)
        sample = world.to_sample(questions)
        if recipe.recall != "memory" and recipe.objective == "conversation":
            prompts = {item.id: draw_prompt(world, n, rng) for n, item in enumerate(world.objects)}
            sample = apply_recall(sample, prompts, recipe.recall)
        out = self._build_inputs(sample, together)
        if recipe.dense_words:
            words = label_cells(world, self._words, *self._count_cells(out), self._processor.chat.ids[END_OF_TEXT])
            out["cell_words"] = words  # type: ignore[typeddict-unknown-key]
        return out

    def draw_turns(self, world: Scene, rng: np.random.Generator) -> tuple[Turn, ...]:
        """What is asked about a scene."""
        recipe = self._recipe
        return generate_turns(world, rng, recipe.video_turns if world.is_video else recipe.turns, recipe.mix)

    def _find_word(self, name: str) -> int:
        """The token that visual tokens are called by; -100 for a name whose last word is not one token."""
        tokens = self._processor.chat.encode(f" {name.split()[-1]}")
        return tokens[0] if len(tokens) == 1 else IGNORE_INDEX

    def _build_photo(self, sample: Sample, together: bool) -> TrainingInputs:
        """A photo or real clip teaches the dense words of its regions; the rest of what it shows is unlabelled."""
        out = self._build_inputs(sample, together)
        if self._recipe.dense_words:
            # parts lie on wholes: the smaller region is what a cell is called after
            regions = sorted(sample.objects, key=lambda number: -int(sample.objects[number].areas[0]))
            names = {q.about[0]: q.answer for q in sample.queries if q.kind == "caption"}
            tokens = [self._find_word(names[number]) for number in regions]
            masks = np.stack([sample.objects[number].masks for number in regions])
            cover = measure_cover(masks, *self._count_cells(out))
            labels = torch.full((cover.shape[1],), IGNORE_INDEX)
            for token, share in zip(tokens, cover, strict=True):
                labels[share > CLEARLY_SHOWN] = token
            out["cell_words"] = labels  # type: ignore[typeddict-unknown-key]
        return out

    def _count_cells(self, out: TrainingInputs) -> tuple[int, int]:
        """Rows and columns of visual tokens."""
        _, rows, columns = (int(n) for n in out["grid_thw"][0])
        merge = self._processor.settings.merge_size
        return rows // merge, columns // merge

    def _build_inputs(self, sample: Sample, together: bool) -> TrainingInputs:
        out = self._processor.build_training_inputs(
            sample,
            sam_masks=self._recipe.objective != "words",
            independent_turns=not together,
        )
        if not self._recipe.masks:
            out["sam_frames"] = None
        out["seg_tasks"] = [turn.task for turn in sample.turns for _ in turn.targets]  # type: ignore[typeddict-unknown-key]
        return out


def label_cells(world: Scene, words: dict[str, int], rows: int, columns: int, nothing: int) -> torch.Tensor:
    """(t * rows * columns,) token of the name of what each visual token shows.

    ``nothing`` where it shows background, -100 where that is not clear.
    """
    cover = measure_cover(world.masks, rows, columns)
    tokens = torch.tensor([words[item.thing.name] for item in world.objects])
    most, which = cover.max(0)
    labels = torch.where(most > CLEARLY_SHOWN, tokens[which], IGNORE_INDEX)
    return torch.where(cover.sum(0) < 0.05, nothing, labels)


def measure_cover(masks: np.ndarray, rows: int, columns: int) -> torch.Tensor:
    """(N, t * rows * columns) share of each visual token that each of N objects covers: masks bool (N, T, H, W)."""
    if masks.shape[1] % 2:
        masks = np.concatenate([masks, masks[:, -1:]], 1)
    count, frames, height, width = masks.shape
    pairs = torch.from_numpy(masks).reshape(count, frames // 2, 2, height, width).any(2).float()
    return torch.nn.functional.adaptive_avg_pool2d(pairs, (rows, columns)).flatten(1)


def draw_prompt_turns(world: Scene, rng: np.random.Generator, recipe: StickerRecipe) -> tuple[Turn, ...]:
    """Points and boxes on random objects, each answered by its mask; in clips on different ones."""
    kinds = list(recipe.mix)
    share = np.array([recipe.mix[k] for k in kinds])
    made = []
    # mask queries speak to the first frame of a clip, and so do these prompts
    opening = replace(world, frames=world.frames[:1], masks=world.masks[:, :1])
    candidates = np.flatnonzero(opening.areas[:, 0])
    count = min(recipe.video_turns, len(candidates)) if world.is_video else recipe.turns
    objects = rng.choice(candidates, count, replace=not world.is_video)
    for kind, n in zip(rng.choice(kinds, count, p=share / share.sum()), objects, strict=True):
        n = int(n)
        prompt = point_at_object(opening, n, rng) if kind == "point" else box_object(opening, n, rng)
        made.append(
            Turn(
                question="Please segment [1] <|ref|>.",
                answer="[1]<|seg|>",
                references=((prompt,),),
                targets=(world.objects[n].id,),
                task=str(kind),
            )
        )
    return tuple(made)


class Collator:
    """Joins samples into a batch of the training forward; picklable, so that loader workers can use it."""

    def __init__(self, processor: Processor, config: Any) -> None:
        self._processor = processor
        self._config = config

    def __call__(self, samples: list[TrainingInputs]) -> dict[str, Any]:
        tasks = [task for s in samples for task in s.pop("seg_tasks")]  # type: ignore[typeddict-item]
        words = [s.pop("cell_words") for s in samples if "cell_words" in s]  # type: ignore[typeddict-item]
        chosen = [s.pop("chosen_objects", None) for s in samples]  # type: ignore[typeddict-item]
        batch = self._processor.collate(samples, self._config)
        batch["seg_tasks"] = tasks
        if any(one is not None for one in chosen):
            batch["chosen_objects"] = chosen
        if words:
            batch["cell_words"] = torch.cat(words)
        return batch
