"""Training samples of `nano`: sticker scenes, and photos and real clips among them.

Which sample comes when depends on (seed, index) alone. Photos and clips are cropped, turned around, recoloured, and
asked about like scenes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch.utils.data import Dataset

from unipixel import data
from unipixel.data.cutouts import find_clean_crops, find_cutouts, list_whole_photos
from unipixel.data.readers import photos
from unipixel.data.records import Record
from unipixel.errors import DatasetError
from unipixel.masks import MaskTrack, jitter_box, mask_to_box, sample_point
from unipixel.media import Media
from unipixel.model.config import Recall
from unipixel.processing.chat import END_OF_TEXT, REF, SEG
from unipixel.processing.collation import IGNORE_INDEX, TrainingInputs
from unipixel.processing.processor import Processor
from unipixel.processing.wording import join_words
from unipixel.sample import Box, Point, Query, Sample, Turn
from unipixel.stickers import HARD, THINGS, Scene, SceneSettings, generate_scene, generate_turns, generate_video
from unipixel.stickers.choice_tasks import ask_written_choice
from unipixel.stickers.facts import Facts
from unipixel.stickers.language import POINT_AT, SEGMENT, adapt_to_video, choose_wording, write_absence
from unipixel.stickers.scene import box_object, point_at_object
from unipixel.stickers.things import PLURAL_NAMES
from unipixel.train.recipe import Mix, StickerRecipe

ON_PHOTOS = 0.9
"""Share of the scenes of cut-outs that lie on a piece of a photo; the others lie on a pattern."""
MAX_STRIDE = 3
"""Frames of a clip are at most so many apart."""
MAX_OBJECTS = 9
"""Objects of one picture have ids from 1 to 9, as on stickers."""
_PLACE = re.compile(r"\b(left|right|top|bottom|upper|lower|middle|highest|lowest|largest|smallest|biggest)", re.I)
"""Words that a crop or a flip can make untrue."""
PHOTO_TASKS = ("refer", "point", "box", "name", "name_mem", "absent")
"""What is asked of photos and clips, of everything that a mix may hold."""
MAX_TRIES = 1000
"""Scenes, photos or clips that are drawn until one can be asked about."""
CLEARLY_SHOWN = 0.3
"""Share of a visual token that an object must cover for the token to be called after it."""


def draw_prompt(world: Scene, n: int, rng: np.random.Generator) -> Point | Box:
    """A point or a box on an object of a scene."""
    return (point_at_object if rng.random() < 0.5 else box_object)(world, n, rng)


def apply_recall(sample: Sample, prompts: Mapping[int, Point | Box], recall: Recall) -> Sample:
    """The sample with its questions about objects in another form than by their memory.

    Args:
        sample: a conversation whose questions have objects as regions.
        prompts: a point or box on each of those objects.
        recall: see `Recall`. "turn" segments an object in a turn before the first question about it.
    """
    if recall == "memory":
        return sample
    asked = {number for turn in sample.turns for number in turn.regions}
    if recall == "frame":
        frames = {number: prompts[number].frame for number in asked}
        return replace(sample, objects={i: _keep_frame(t, frames.get(i)) for i, t in sample.objects.items()})
    turns: list[Turn] = []
    known: set[int] = set()
    for turn in sample.turns:
        if recall == "pointing":
            turns.append(point_at_objects(turn, prompts))
            continue
        new = [number for number in turn.regions if number not in known]
        known.update(new)
        turns += [build_segment_turn(new, prompts), replace(turn, regions=())] if new else [replace(turn, regions=())]
    return replace(sample, turns=tuple(turns))


def point_at_objects(turn: Turn, prompts: Mapping[int, Point | Box]) -> Turn:
    """The same question with a ``<|ref|>`` behind the first mention of each object instead of its memory."""
    text = turn.question
    for number in turn.regions:
        text = text.replace(f"[{number}]", f"[{number}] {REF}", 1)
    order = sorted(turn.regions, key=lambda number: text.index(f"[{number}] {REF}"))
    references = (*turn.references, *((prompts[number],) for number in order))
    return replace(turn, question=text, references=references, regions=()) if turn.regions else turn


def build_segment_turn(numbers: list[int], prompts: Mapping[int, Point | Box]) -> Turn:
    """The turn in which objects are segmented."""
    return Turn(
        question=f"Please segment {join_words([f'[{number}] {REF}' for number in numbers])}.",
        answer=" ".join(f"[{number}] {SEG}" for number in numbers),
        references=tuple((prompts[number],) for number in numbers),
        targets=tuple(numbers),
        task="point",
    )


def _keep_frame(track: MaskTrack, frame: int | None) -> MaskTrack:
    if frame is None or track.rles[frame] is None:
        return track
    return MaskTrack(track.size_hw, tuple(rle if t == frame else None for t, rle in enumerate(track.rles)))


class PhotoSampler:
    """Training photos, or real clips, with questions; which ones depends on the generator handed in."""

    def __init__(self, dataset: Literal["photos", "davis_clips"], folder: str) -> None:
        self._records = data.open_index(dataset, folder, "train")
        self._names = photos.list_coco_things(self._records) if dataset == "photos" else []
        if not self._records:
            raise DatasetError(f"{folder} has nothing that is for training; all of it is held out, by its names")

    def draw(self, rng: np.random.Generator, num_frames: int, count: int, mix: Mix) -> Sample:
        """A random photo, or ``num_frames`` frames of a random clip, with ``count`` questions.

        The frames are every first to third, forwards or backwards, and begin with an object in sight.

        Args:
            mix: of its tasks, those of `PHOTO_TASKS` are asked.

        Raises:
            DatasetError: a clip is shorter, or nothing that was drawn can be asked about.
        """
        for _ in range(MAX_TRIES):
            record = self._records[int(rng.integers(len(self._records)))]
            made = _augment(data.read(record, _draw_frames(record, num_frames, rng)), rng)
            absent = photos.list_absent_names(record, self._names) if self._names else ()
            turns = _draw_turns(made, rng, count, mix, absent)
            if turns:
                return replace(made, turns=turns)
        raise DatasetError(
            f"none of {MAX_TRIES} draws of {record.dataset} can be asked about by {', '.join(mix)}; photos are asked "
            f"about by {', '.join(PHOTO_TASKS)}"
        )


def _draw_frames(record: Record, num_frames: int, rng: np.random.Generator) -> list[int] | None:
    """Frames of a clip; None for a picture."""
    total = record.num_frames or 0
    if record.data_type == "seg_image":
        return None
    if total < num_frames:
        raise DatasetError(f"{record.source} has {total} frames, and clips of {num_frames} are wanted of it")
    stride = int(rng.integers(1, min(MAX_STRIDE, (total - 1) // max(num_frames - 1, 1)) + 1)) if total > 1 else 1
    first = int(rng.integers(total - stride * (num_frames - 1)))
    frames = [first + stride * t for t in range(num_frames)]
    return frames[::-1] if rng.random() < 0.5 else frames


def build_cutout_world(world: SceneSettings, folder: Path) -> SceneSettings:
    """The same world with things cut out of photos, mostly on pieces of photos that show nothing labelled."""
    sprites = find_cutouts(folder)
    low, high = world.num_objects
    return replace(
        world,
        sprites=sprites,
        names=(),
        num_objects=(min(low, len(sprites.names)), min(high, len(sprites.names))),
        photos=find_clean_crops(folder),
        photo_share=ON_PHOTOS,
        repaint=0.0,
        turn_degrees=min(world.turn_degrees, 20.0),
    )


def _augment(sample: Sample, rng: np.random.Generator) -> Sample:
    """A crop of the photo or of all frames, perhaps mirrored and recoloured, with the objects in it as 1 to 9.

    Objects count that the first frame of the crop shows.
    """
    frames = sample.media.frames(range(sample.media.num_frames))
    height, width = frames.shape[1:3]
    share = rng.uniform(0.6, 1.0, 2) if rng.random() < 0.7 else np.ones(2)
    rows, columns = max(16, int(height * share[0])), max(16, int(width * share[1]))
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    mirrored = bool(rng.random() < 0.5)
    area = rows * columns

    def cut(array: np.ndarray) -> np.ndarray:
        part = array[:, top : top + rows, left : left + columns]
        return np.ascontiguousarray(part[:, :, ::-1] if mirrored else part)

    masks = {i: cut(track.masks) for i, track in sample.objects.items()}
    kept = [i for i, mask in masks.items() if mask[0].sum() >= photos.MIN_SHARE * area]
    kept = [kept[int(k)] for k in rng.permutation(len(kept))[:MAX_OBJECTS]]
    number = {old: new for new, old in enumerate(kept, 1)}
    moved = area < height * width or mirrored
    queries = []
    for query in sample.queries:
        olds = query.targets + query.about
        if all(old in number for old in olds) and not (moved and _PLACE.search(query.text)):
            queries.append(
                Query(
                    kind=query.kind,
                    text=query.text,
                    answer=query.answer,
                    targets=tuple(number[t] for t in query.targets if t is not None),
                    about=tuple(number[a] for a in query.about),
                )
            )
    lit = (cut(frames).astype(np.float32) - 128) * rng.uniform(0.8, 1.2) + 128 + rng.uniform(-20, 20, 3)
    pixels = lit.clip(0, 255).astype(np.uint8)
    return Sample(
        media=Media.from_array(pixels if len(pixels) > 1 else pixels[0]),
        objects={number[old]: MaskTrack.from_masks(masks[old]) for old in kept},
        queries=tuple(queries),
        source=sample.source,
    )


def _draw_prompt(mask: np.ndarray, rng: np.random.Generator, kind: str) -> Point | Box:
    if kind == "point":
        return Point(*sample_point(mask, rng))
    box = mask_to_box(mask)
    assert box is not None
    return Box(*jitter_box(box, mask.shape, rng))


def _draw_turns(
    sample: Sample, rng: np.random.Generator, count: int, mix: Mix, absent: Sequence[str] = ()
) -> tuple[Turn, ...]:
    """``count`` random questions of `PHOTO_TASKS`; none where the sample allows none of those in the mix.

    Args:
        absent: names of things that are not there for sure.
    """
    expressions = [q for q in sample.queries if q.kind == "query"]
    names = {q.about[0]: q.answer for q in sample.queries if q.kind == "caption"}
    numbers = list(sample.objects)
    is_video = sample.media.num_frames > 1
    if not numbers:
        return ()
    needed = {"refer": expressions, "absent": absent}
    known = [task for task in PHOTO_TASKS if needed.get(task, True) and mix.get(task)]
    if not known:
        return ()
    share = np.array([mix[k] for k in known])
    made = []
    for kind in rng.choice(known, count, p=share / share.sum()):
        n = numbers[int(rng.integers(len(numbers)))]
        if kind == "refer":
            query = expressions[int(rng.integers(len(expressions)))]
            noun = query.text.removeprefix("the ")
            made.append(
                Turn(
                    question=adapt_to_video(choose_wording(rng, SEGMENT, False).format(noun), is_video),
                    answer=f"the {noun}<|seg|>",
                    targets=query.targets,
                    task="refer",
                )
            )
        elif kind in ("point", "box"):
            prompt = _draw_prompt(sample.objects[n].mask(0), rng, kind)
            made.append(
                Turn(
                    question=adapt_to_video(choose_wording(rng, POINT_AT, False).format(f"[{n}] <|ref|>"), is_video),
                    answer=f"[{n}]<|seg|>",
                    references=((prompt,),),
                    targets=(n,),
                    task=str(kind),
                )
            )
        elif kind == "absent":
            noun = absent[int(rng.integers(len(absent)))]
            question = adapt_to_video(choose_wording(rng, SEGMENT, False).format(noun), is_video)
            answer = write_absence(noun, is_plural=noun in PLURAL_NAMES)
            made.append(Turn(question=question, answer=answer, task="absent"))
        elif kind == "name_mem":
            made.append(Turn(question=f"What is [{n}]?", answer=names[n], regions=(n,), task="name_mem"))
        else:
            prompt = _draw_prompt(sample.objects[n].mask(0), rng, "point" if rng.random() < 0.5 else "box")
            made.append(Turn(question=f"What is [{n}] <|ref|>?", answer=names[n], references=((prompt,),), task="name"))
    return tuple(made)


RESTYLES = 0.4
"""How likely each change of look is, by itself."""


def restyle(frames: np.ndarray, masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same scene as another hand might have drawn it: every change may happen or not, alike on all frames.

    Args:
        frames: uint8 (T, H, W, 3).
        masks: bool (N, T, H, W), the visible part of each object.
    """
    flat, outlined, soft, grainy, lit = rng.random(5) < RESTYLES
    bits, kernel, radius = int(rng.integers(2, 5)), int(rng.choice([3, 5])), rng.uniform(0.5, 1.4)
    line, width = rng.uniform(0, 70, 3) if rng.random() < 0.7 else np.full(3, 255.0), int(rng.integers(1, 3))
    gamma, contrast, saturation = np.exp(rng.uniform(-0.4, 0.4)), rng.uniform(0.7, 1.2), rng.uniform(0.5, 1.3)
    noise = rng.normal(0, rng.uniform(4, 14), frames.shape[1:]) if grainy else 0.0
    out = np.empty_like(frames)
    for t, pixels in enumerate(frames):
        picture = Image.fromarray(pixels)
        if flat:
            picture = ImageOps.posterize(picture.filter(ImageFilter.MedianFilter(kernel)), bits)
        if soft:
            picture = picture.filter(ImageFilter.GaussianBlur(radius))
        made = np.asarray(picture, np.float32)
        if outlined:
            made = made.copy()
            for mask in masks[:, t]:
                inner = Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MinFilter(2 * width + 1))
                made[mask & (np.asarray(inner) == 0)] = line
        if lit:
            grey = made.mean(-1, keepdims=True)
            made = (grey + (made - grey) * saturation - 128) * contrast + 128
            made = 255 * (made.clip(0, 255) / 255) ** gamma
        out[t] = (made + noise).clip(0, 255)
    return out


class StickerDataset(Dataset[TrainingInputs]):
    """Endless sticker scenes, and photos among them, with questions, cut to the length of a run."""

    def __init__(self, processor: Processor, recipe: StickerRecipe) -> None:
        if (recipe.photo_share or recipe.cutout_share) and not recipe.photos:
            raise ValueError(f"the recipe {recipe.name} draws photos; say where they are: --set photos=DIR")
        if recipe.clip_share and not recipe.clips:
            raise ValueError(f"the recipe {recipe.name} draws real clips; say where they are: --set clips=DIR")
        self._processor, self._recipe = processor, recipe
        pieces = list_whole_photos(Path(recipe.photos)) if recipe.photos else None
        self._settings = replace(recipe.world, photos=pieces, photo_share=recipe.photo_share)
        self._hard = replace(
            HARD,
            families=recipe.world.families,
            num_frames=recipe.world.num_frames,
            photos=pieces,
            photo_share=recipe.photo_share,
        )
        self._photos = PhotoSampler("photos", recipe.photos) if recipe.photos else None
        self._clips = PhotoSampler("davis_clips", recipe.clips) if recipe.clips else None
        self._cut_out = build_cutout_world(recipe.world, Path(recipe.photos)) if recipe.cutout_share else None
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
        return self._kept[index]

    def _build_sample(self, index: int) -> TrainingInputs:
        recipe = self._recipe
        # whole batches are clips or stills: the draw depends on the batch's number
        batch = np.random.default_rng((recipe.seed, 0, index // recipe.batch_size))
        is_video = bool(batch.random() < recipe.video_share)
        together = bool(batch.random() < recipe.conversation_share) or recipe.recall == "turn"
        rng = np.random.default_rng((recipe.seed, 1, index))
        if recipe.written_choices and batch.random() < recipe.written_choices:
            return self._build_inputs(Sample(turns=(self._write_choice(index, rng),)), together=True)
        if self._photos is not None and not is_video and rng.random() < recipe.photo_share:
            return self._build_photo(self._photos.draw(rng, 1, recipe.turns, recipe.mix), together)
        if self._clips is not None and is_video and rng.random() < recipe.clip_share:
            length = int(rng.integers(recipe.world.num_frames[0], recipe.world.num_frames[1] + 1))
            count = 1 if recipe.objective == "prompt" else recipe.video_turns  # clips have one object
            return self._build_photo(self._clips.draw(rng, length, count, recipe.mix), together)
        settings = self._hard if rng.random() < recipe.hard_share else self._settings
        if self._cut_out is not None and rng.random() < recipe.cutout_share:
            settings = self._cut_out
        generate = generate_video if is_video else generate_scene
        world = generate(recipe.seed, index, settings)
        if recipe.restyle_share and rng.random() < recipe.restyle_share:
            world = replace(world, frames=restyle(world.frames, world.masks, rng))
        if recipe.objective == "prompt":
            if not world.masks[:, 0].any():  # a clip that opens empty gives nothing to point at
                world = generate_scene(recipe.seed, index, settings)
            questions = draw_prompt_turns(world, rng, recipe)
        else:
            questions = self.draw_turns(world, rng)
            for attempt in range(1, MAX_TRIES):  # until there is something to ask; others of the run are not used up
                if questions:
                    break
                world = generate(recipe.seed, index + attempt * len(self), settings)
                questions = self.draw_turns(world, rng)
        sample = world.to_sample(questions)
        if recipe.recall != "memory" and recipe.objective == "conversation":
            prompts = {item.id: draw_prompt(world, n, rng) for n, item in enumerate(world.objects)}
            sample = apply_recall(sample, prompts, recipe.recall)
        out = self._build_inputs(sample, together)
        if recipe.dense_words:
            masks = self._show(sample, world.masks)
            words = label_cells(
                world, masks, self._words, *self._count_cells(out), self._processor.chat.ids[END_OF_TEXT]
            )
            out["cell_words"] = words
        return out

    def draw_turns(self, world: Scene, rng: np.random.Generator) -> tuple[Turn, ...]:
        """What is asked about a scene."""
        recipe = self._recipe
        return generate_turns(world, rng, recipe.video_turns if world.is_video else recipe.turns, recipe.mix)

    def _write_choice(self, index: int, rng: np.random.Generator) -> Turn:
        """A choice in words alone about a still scene."""
        settings = replace(self._hard if rng.random() < 0.5 else self._settings, photos=None)
        for attempt in range(MAX_TRIES):
            facts = Facts(generate_scene(self._recipe.seed, index + attempt * len(self), settings))
            turn = ask_written_choice(facts, rng)
            if turn is not None:
                return turn
        raise ValueError(f"none of {MAX_TRIES} scenes allows a choice")

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
            cover = measure_cover(self._show(sample, masks), *self._count_cells(out))
            labels = torch.full((cover.shape[1],), IGNORE_INDEX)
            for token, share in zip(tokens, cover, strict=True):
                labels[share > CLEARLY_SHOWN] = token
            out["cell_words"] = labels
        return out

    def _show(self, sample: Sample, masks: np.ndarray) -> np.ndarray:
        """Masks (N, T, H, W) on the frames that the language model is shown, in its order."""
        return masks[:, list(self._processor.build_visual(sample.media).shown_frames)]

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
        out["seg_tasks"] = [turn.task for turn in sample.turns for _ in turn.targets]
        out["seg_prompts"] = _list_prompts(sample, out)
        return out


def _list_prompts(sample: Sample, out: TrainingInputs) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
    """For each ``<|seg|>`` the point or box on the first frame that its question gave."""
    listed: list[tuple[torch.Tensor, torch.Tensor] | None] = []
    given = iter(zip(out["point_coords"], out["point_labels"], out["point_frames"].tolist(), strict=True))
    for turn in sample.turns:
        prompts = [next(given) for _ in turn.references]
        if turn.task in ("point", "box"):
            listed += [None if frame else (coords, labels) for coords, labels, frame in prompts]
        else:
            listed += [None] * len(turn.targets)
    return listed


def label_cells(
    world: Scene, masks: np.ndarray, words: dict[str, int], rows: int, columns: int, nothing: int
) -> torch.Tensor:
    """(t * rows * columns,) token of the name of what each visual token shows.

    ``nothing`` where it shows background, -100 where that is not clear.

    Args:
        masks: those of the scene's objects, bool (N, T, H, W), on the frames that are shown.
    """
    cover = measure_cover(masks, rows, columns)
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
