"""Photos and real clips as training samples of `nano`: cropped, turned around, recoloured, and asked about like sticker
scenes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from unipixel.data import davis_clips, photos
from unipixel.data.cutouts import find_clean_crops, find_cutouts
from unipixel.data.records import Record
from unipixel.errors import DatasetError
from unipixel.masks import MaskTrack, jitter_box, mask_to_box, sample_point
from unipixel.media import Media
from unipixel.sample import Box, Point, Query, Sample, Turn
from unipixel.stickers import SceneSettings
from unipixel.stickers.language import POINT_AT, SEGMENT, adapt_to_video, choose_wording
from unipixel.stickers.things import PLURAL_NAMES
from unipixel.train.recipe import Mix

ON_PHOTOS = 0.9
"""Share of the scenes of cut-outs that lie on a piece of a photo; the others lie on a pattern."""
MAX_STRIDE = 3
"""Frames of a clip are at most so many apart."""
MAX_OBJECTS = 9
"""Objects of one picture have ids from 1 to 9, as on stickers."""
_PLACE = re.compile(r"\b(left|right|top|bottom|upper|lower|middle|highest|lowest|largest|smallest|biggest)", re.I)
"""Words that a crop or a flip can make untrue."""

PHOTO_WORDS = """
person people man woman child boy girl baby face hand arm leg head hair skin eye player rider animal bird wild shoes
boots bag pants purse coat blouse skirt sweater blazer suit stockings jacket belt sandals vest accessories shorts
leggings sweatshirt romper cape tie loafers jumper cardigan wallet gloves bodysuit tights flats pumps glove jean
trousers jersey hoodie necklace spectacles sunglasses bracelet wedges necktie helmet apron parka uniform swimsuit
clothes clothing table bowl cup dining bottle sink potted plant glass oven tv refrigerator spoon fork microwave
toaster bench vase plate floor rug cabinet window curtain lampshade lamp blanket towel pillow napkin shelf stool sofa
monitor computer remote board counter drawer mat tray furniture food meal salad sandwich lettuce bun vegetable fruit
wall sky grass road pavement street sidewalk ground sand sea river water snow dirt mountain hill rock stone wood tile
ceiling fence pole bridge building roof stairs tower field net railing paper cardboard boat vehicle van minivan cab
suitcase traffic light stop sign parking meter hydrant fireplug tennis skis ski snowboard surfboard frisbee sports
tripod trailer wheel tire seat gray beige tan dark bright striped plain leftmost rightmost topmost lowest upper lower
front behind next near beside background foreground standing sitting holding wearing riding walking running looking
bumper trunk tailgate rear date fig hazelnut deer statue lizard motorcyclist cyclist unicyclist golf cart mug pepper
canoe cucumber pan frying limousine perfume pitcher plastic pretzel race daffodil lily fritillary daisy snowdrop
coltsfoot dandelion buttercup windflower pansy crocus iris bluebell artichoke cabbage fan harmonica hippo rhino pencil
sharpener pomegranate soap dispenser waffle iron punching cradle crib filing polar ruler snowplow stove strainer washing
radio bagel burrito dumbbell hamster case stingray goose swan dryer puck spatula starfish tape salt shaker hut otter
pigeon lemur leopard lobster jar pot dragonfly antelope soldier flamingo dancer hiker hockey skater surfer kite
paraglider windsurfer stroller parachute
"""
"""Everyday words of photos that stickers have no name for; each is a token of `nano`'s vocabulary."""


class PhotoSampler:
    """Training photos with questions; which ones depends on the generator handed in."""

    def __init__(self, folder: Path) -> None:
        self._records: list[Record] = photos.read_records(folder, "photos", "train")
        self._names = photos.list_coco_things(self._records)

    def draw(self, rng: np.random.Generator, count: int, mix: Mix) -> Sample:
        """A random photo with ``count`` questions of the tasks in ``mix``; some tasks are not asked of photos."""
        while True:
            record = self._records[int(rng.integers(len(self._records)))]
            made = _augment(photos.read_sample(record), rng)
            turns = _draw_turns(made, rng, count, mix, photos.list_absent_names(record, self._names))
            if turns:
                return replace(made, turns=turns)


class ClipSampler:
    """Training clips with questions; which ones depends on the generator handed in."""

    def __init__(self, folder: Path) -> None:
        """Args: folder: as `unipixel.data.davis_clips` reads it."""
        self._records = davis_clips.read_records(folder, "clips", "train")
        if not self._records:
            raise DatasetError(f"{folder} has no sequence that is for training; every one of its names is held out")

    def draw(self, rng: np.random.Generator, num_frames: int, count: int, mix: Mix) -> Sample:
        """``num_frames`` frames of a random clip, every first to third, forwards or backwards, that begin with an
        object in sight, with ``count`` questions of the tasks in ``mix`` that `PhotoSampler` knows."""
        while True:
            record = self._records[int(rng.integers(len(self._records)))]
            total = record.num_frames or 0
            if total < num_frames:
                raise DatasetError(f"{record.source} has {total} frames, and clips of {num_frames} are wanted of it")
            stride = (
                int(rng.integers(1, min(MAX_STRIDE, (total - 1) // max(num_frames - 1, 1)) + 1)) if total > 1 else 1
            )
            first = int(rng.integers(total - stride * (num_frames - 1)))
            frames = [first + stride * t for t in range(num_frames)]
            if rng.random() < 0.5:
                frames.reverse()
            made = _augment(davis_clips.read_sample(record, frames), rng)
            turns = _draw_turns(made, rng, count, mix)
            if turns:
                return replace(made, turns=turns)


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
    """Questions of the tasks refer, point, box, name, name_mem and absent; the rest of the mix is not asked of photos.

    Args:
        absent: names of things that are not there for sure.
    """
    expressions = [q for q in sample.queries if q.kind == "query"]
    names = {q.about[0]: q.answer for q in sample.queries if q.kind == "caption"}
    numbers = list(sample.objects)
    is_video = sample.media.num_frames > 1
    if not numbers:
        return ()
    possible = {"refer": expressions, "point": True, "box": True, "name": True, "name_mem": True, "absent": absent}
    known = [kind for kind, there in possible.items() if there and mix.get(kind)]
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
            verb = "are" if noun in PLURAL_NAMES else "is"
            made.append(Turn(question=question, answer=f"There {verb} no {noun}.", task="absent"))
        elif kind == "name_mem":
            made.append(Turn(question=f"What is [{n}]?", answer=names[n], regions=(n,), task="name_mem"))
        else:
            prompt = _draw_prompt(sample.objects[n].mask(0), rng, "point" if rng.random() < 0.5 else "box")
            made.append(Turn(question=f"What is [{n}] <|ref|>?", answer=names[n], references=((prompt,),), task="name"))
    return tuple(made)
