"""The model that a run begins with, its processor, and what an adapter of it must say about its base."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from tokenizers import AddedToken

from unipixel.errors import CheckpointError, CheckpointWarning
from unipixel.model.config import UniPixelConfig
from unipixel.model.lora_weights import list_partial_names
from unipixel.model.presets import IMAGE_SIZE, SAM_SIZE, build_debug_config, build_nano_config, initialise
from unipixel.model.starting_points import build_starting_config, load_starting_point
from unipixel.model.tensor_names import to_module_name
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import load_model, resolve_checkpoint
from unipixel.processing import ImageSettings, Processor, build_tokenizer
from unipixel.processing.chat import MEM, REF, SEG, SYSTEM
from unipixel.processing.tokenizer import load_tokenizer
from unipixel.stickers import list_vocabulary_texts
from unipixel.train.checkpoints import copy_weights
from unipixel.train.recipe import Recipe, Start

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


@dataclass(eq=False)
class TrainingSetup:
    """A model to be trained."""

    model: UniPixel
    processor: Processor
    base: dict[str, str] = field(default_factory=dict)
    """Entries of an adapter's ``config.json`` that name what it is laid over; empty for a fresh model."""
    changed: set[str] = field(default_factory=set)
    """Names of tensors that differ from that base before the first step."""


def prepare_training(recipe: Recipe) -> TrainingSetup:
    """The model that a recipe starts from.

    Raises:
        CheckpointError: a folder or file is missing, or does not fit.
        ValueError: the recipe names no start, or more than one.
    """
    start = recipe.start
    if sum(map(bool, (start.model, start.fresh, start.qwen or start.sam))) != 1:
        raise ValueError(
            f"the recipe {recipe.name} starts from model={start.model!r}, fresh={start.fresh!r}, qwen={start.qwen!r}; "
            "give exactly one: a checkpoint (--model), fresh weights, or Qwen2.5-VL with SAM 2.1"
        )
    if start.model:
        folder = resolve_checkpoint(start.model)
        named = str(Path(start.model).resolve()) if Path(start.model).is_dir() else start.model
        setup = TrainingSetup(load_model(start.model), Processor.from_folder(folder), {"base_model_path": named})
    elif start.fresh:
        setup = _start_fresh(start, recipe.seed)
    else:
        setup = _start_from_released(start, recipe.seed)
    apply_variants(setup, recipe)
    for text in start.parts:
        place, _, parts = text.partition("=")
        if not parts:
            raise ValueError(f"the start {text!r} names no part; write FOLDER=PART,PART, such as run/final=segmenter")
        setup.changed |= copy_weights(setup.model, place, tuple(parts.split(",")), setup.processor.tokenizer)
    return setup


@torch.no_grad()
def apply_variants(setup: TrainingSetup, recipe: Recipe) -> None:
    """Make the model what a recipe of an ablation says that it is.

    Raises:
        ValueError: ``hidden_tokens`` is negative.
    """
    model, config = setup.model, setup.model.config
    if recipe.hidden_tokens < 0:
        raise ValueError(f"hidden_tokens is {recipe.hidden_tokens}; it must be at least 1, or 0 to keep what there is")
    if recipe.hidden_tokens not in (0, config.hidden_tokens):
        config.hidden_tokens = recipe.hidden_tokens
        last = torch.nn.Linear(config.language.hidden_size, config.hidden_tokens * config.sam.hidden_size)
        torch.nn.init.xavier_uniform_(last.weight)
        last.bias.zero_()
        model.seg_head[-1] = last.to(model.device, model.dtype)
        setup.changed |= {"seg_head.3.weight", "seg_head.3.bias"}
    if not recipe.time_code:
        model.prompt_encoder.time_matrix.zero_()
        setup.changed.add("prompt_encoder.time_matrix")
    model.segmenter.guided_share = recipe.guided_share
    config.pixel = replace(
        config.pixel,
        propagate=config.pixel.propagate and recipe.propagate,
        recall=config.pixel.recall if recipe.recall == "memory" else recipe.recall,
    )


def _start_fresh(start: Start, seed: int) -> TrainingSetup:
    """Random weights; the same seed gives the same ones."""
    texts = [SYSTEM, "system user assistant", *list_vocabulary_texts(), PHOTO_WORDS]
    tokenizer = build_tokenizer(texts, named_seg=True)
    debug = start.fresh == "debug"
    area = (84 if debug else IMAGE_SIZE) ** 2
    settings = ImageSettings(
        # the margin keeps every square at exactly this size after rounding
        min_pixels=area - 1000,
        max_pixels=area + 1000,
        share_budget=False,
        still_frames=not debug,
        sam_size=64 if debug else SAM_SIZE,
        target_rule="nearest",
        region_rule="touched" if debug else "covered",
    )
    processor = Processor(tokenizer, settings)
    model = UniPixel((build_debug_config if debug else build_nano_config)(len(tokenizer), processor.chat.ids))
    initialise(model, torch.Generator().manual_seed(seed))
    return TrainingSetup(model, processor)


def _start_from_released(start: Start, seed: int) -> TrainingSetup:
    """Qwen2.5-VL and SAM 2.1, with fresh modules between them or those of earlier stages."""
    if not start.qwen or not start.sam:
        raise ValueError(
            f"the start has qwen={start.qwen!r} and sam={start.sam!r}; both are needed: a Qwen2.5-VL folder and "
            "Meta's sam2.1_hiera_*.pt"
        )
    if not Path(start.sam).is_file():
        raise CheckpointError(
            f"there is no file {start.sam!r}; give the path of Meta's sam2.1_hiera_base_plus.pt as --set start.sam=PATH"
        )
    folder = resolve_checkpoint(start.qwen)
    tokenizer = load_tokenizer(folder)
    first = len(tokenizer)
    if start.stages:
        config = UniPixelConfig.from_folder(resolve_checkpoint(start.stages[0]))
        first = config.ref_token_id
    else:
        config = build_starting_config(
            start.qwen, sam_name=start.sam_name, image_size=start.image_size, first_token_id=first
        )
    added = [AddedToken(token, normalized=False, special=True) for token in (REF, SEG, MEM)]
    tokenizer.backend_tokenizer.add_special_tokens(added)
    if tokenizer.convert_tokens_to_ids(REF) != first:
        raise CheckpointError(f"{folder}: {REF} gets the id {tokenizer.convert_tokens_to_ids(REF)}, expected {first}")
    model, fresh = load_starting_point(config, qwen=start.qwen, sam=start.sam, partial=start.stages, seed=seed)
    if drawn := [name for name in fresh if start.stages and name.endswith("gaussian_matrix")]:
        warnings.warn(
            f"the earlier stages {', '.join(start.stages)} do not hold {', '.join(drawn)}, so they are drawn anew, as "
            "the original does; what these stages learnt about points belongs to others",
            CheckpointWarning,
            stacklevel=2,
        )
    processor = Processor(tokenizer, ImageSettings(sam_size=config.sam.image_size))
    named = str(folder.resolve()) if Path(start.qwen).is_dir() else start.qwen
    base = {"base_model_path": named, "sam2_checkpoint": str(Path(start.sam).resolve())}
    # what an earlier stage taught is as little in the base as what is fresh
    outside = {name for stage in start.stages for name in _list_taught(stage)}
    changed = {to_module_name(name).split("[")[0] for name in {*fresh, *outside}}
    return TrainingSetup(model, processor, base, changed)


def _list_taught(stage: str) -> set[str]:
    """Disk names of the tensors that a stage's folder holds."""
    names = list_partial_names(resolve_checkpoint(stage))
    if not names:
        raise CheckpointError(f"{stage} is no result of an earlier stage; it should hold pytorch_model.safetensors")
    return names


def build_training_processor(processor: Processor, num_frames: int) -> Processor:
    """The processor with the pixel budget of training: clips are short, and a still takes the share of a whole clip."""
    return Processor(processor.tokenizer, replace(processor.settings, budget_frames=num_frames))
