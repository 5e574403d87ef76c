"""The model that a run begins with, its processor, and what an adapter of it must say about its base."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor

from unipixel.errors import CheckpointError, CheckpointWarning
from unipixel.model.config import UniPixelConfig
from unipixel.model.lora_weights import list_partial_names
from unipixel.model.starting_points import build_starting_config, load_starting_point
from unipixel.model.tensor_names import to_module_name
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import fill_model, load_model, read_checkpoint, resolve_checkpoint
from unipixel.processing import ImageSettings, Processor, build_tokenizer
from unipixel.processing.chat import MEM, REF, SEG, SYSTEM
from unipixel.processing.tokenizer import load_tokenizer
from unipixel.stickers import list_vocabulary_texts
from unipixel.train.nano import IMAGE_SIZE, SAM_SIZE, debug_config, initialise, nano_config
from unipixel.train.photos import PHOTO_WORDS
from unipixel.train.recipe import Recipe, Start

WORD_TABLES = ("language.embed_tokens.weight", "lm_head.weight")
"""Tensors with one row per token."""


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
        begun = TrainingSetup(load_model(start.model), Processor.from_folder(folder), {"base_model_path": named})
    elif start.fresh:
        begun = _start_fresh(start, recipe.seed)
    else:
        begun = _start_from_released(start, recipe.seed)
    apply_variants(begun, recipe)
    for text in start.parts:
        place, _, parts = text.partition("=")
        if not parts:
            raise ValueError(f"the start {text!r} names no part; write FOLDER=PART,PART, such as run/final=segmenter")
        begun.changed |= copy_weights(begun.model, place, tuple(parts.split(",")), begun.processor.tokenizer)
    return begun


@torch.no_grad()
def apply_variants(begun: TrainingSetup, recipe: Recipe) -> None:
    """Make the model what a recipe of an ablation says that it is.

    Raises:
        ValueError: ``hidden_tokens`` is negative.
    """
    model, config = begun.model, begun.model.config
    if recipe.hidden_tokens < 0:
        raise ValueError(f"hidden_tokens is {recipe.hidden_tokens}; it must be at least 1, or 0 to keep what there is")
    if recipe.hidden_tokens not in (0, config.hidden_tokens):
        config.hidden_tokens = recipe.hidden_tokens
        last = torch.nn.Linear(config.language.hidden_size, config.hidden_tokens * config.sam.hidden_size)
        torch.nn.init.xavier_uniform_(last.weight)
        last.bias.zero_()
        model.seg_head[-1] = last.to(model.device, model.dtype)
        begun.changed |= {"seg_head.3.weight", "seg_head.3.bias"}
    if not recipe.time_code:
        model.prompt_encoder.time_matrix.zero_()
        begun.changed.add("prompt_encoder.time_matrix")
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
        sam_size=64 if debug else SAM_SIZE,
        target_rule="nearest",
    )
    processor = Processor(tokenizer, settings)
    model = UniPixel((debug_config if debug else nano_config)(len(tokenizer), processor.chat.ids))
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
    tokenizer.add_tokens(added, special_tokens=True)
    if tokenizer.convert_tokens_to_ids(REF) != first:
        raise CheckpointError(f"{folder}: {REF} gets the id {tokenizer.convert_tokens_to_ids(REF)}, expected {first}")
    point = load_starting_point(config, qwen=start.qwen, sam=start.sam, partial=start.stages, seed=seed)
    if drawn := [name for name in point.fresh if start.stages and name.endswith("gaussian_matrix")]:
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
    changed = {to_module_name(name).split("[")[0] for name in {*point.fresh, *outside}}
    return TrainingSetup(point.model, processor, base, changed)


def _list_taught(stage: str) -> set[str]:
    """Disk names of the tensors that a stage's folder holds."""
    names = list_partial_names(resolve_checkpoint(stage))
    if not names:
        raise CheckpointError(f"{stage} is no result of an earlier stage; it should hold pytorch_model.safetensors")
    return names


def copy_weights(
    model: UniPixel, folder: str | Path, parts: tuple[str, ...] = ("",), tokenizer: Any = None
) -> set[str]:
    """Copy the weights of a checkpoint folder into a model of the same sizes; only names under ``parts``.

    Args:
        model: what they are copied into.
        folder: a checkpoint.
        parts: prefixes of parameter names.
        tokenizer: of the model. With it, the folder may have another vocabulary: rows of the word tables are then
            copied by token, and tokens that the folder does not know keep what they have.

    Returns:
        The names copied.

    Raises:
        CheckpointError: the folder lacks one of them, or has it in another shape.
    """
    config, tensors = read_checkpoint(folder)
    other = UniPixel(config)
    fill_model(other, tensors, folder)
    wanted = {k: v for k, v in other.state_dict().items() if k.startswith(parts)}
    own = {k: v for k, v in model.state_dict().items() if k.startswith(parts)}
    missing = [k for k in own if k not in wanted]
    if missing or not own:
        which = f"{len(missing)} tensors under {parts}, such as {missing[0]}" if own else f"any part {parts}"
        raise CheckpointError(f"{folder} lacks {which}")
    with torch.no_grad():
        for name, value in own.items():
            given = wanted[name]
            if name in WORD_TABLES and tokenizer is not None and len(given) != len(value):
                given = copy_rows_by_token(value, tokenizer, given, load_tokenizer(resolve_checkpoint(folder)))
            if value.shape != given.shape:
                sizes = f"{list(given.shape)}, the model needs {list(value.shape)}"
                raise CheckpointError(f"{folder} has {name} with the shape {sizes}")
            value.copy_(given)
    return set(own)


def copy_rows_by_token(own: Tensor, tokenizer: Any, given: Tensor, source: Any) -> Tensor:
    """The rows (V, D) of a word table, those of known tokens taken from another vocabulary's table."""
    rows, numbers = own.clone(), source.get_vocab()
    for token, number in tokenizer.get_vocab().items():
        if token in numbers:
            rows[number] = given[numbers[token]]
    return rows


def build_training_processor(processor: Processor, num_frames: int) -> Processor:
    """The processor with the pixel budget of training: clips are short, and a still takes the share of a whole clip."""
    return Processor(processor.tokenizer, replace(processor.settings, budget_frames=num_frames))
