"""What decides a training run, as frozen records: where it begins, what learns, from which data, at which rates.

`override`, `set_start` and `set_data` are what the command line may change of a recipe.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from unipixel.data import DATASETS, find_dataset, parse_name
from unipixel.data.files import find_data_folder
from unipixel.data.records import MAX_BAD
from unipixel.model.config import Recall
from unipixel.stickers import SceneSettings

Mix = dict[str, float]
"""Task of a turn -> how often it is drawn."""
Parts = tuple[str, ...]
"""Prefixes of parameter names; ``""`` is a prefix of all."""
Protocol = Literal["correct", "original"]
"""correct: as this project thinks best. original: as the released training does, mistakes included; the differences are
in `train/protocol.py`."""
SourceForm = Literal["regions", "points", "boxes", "mixed", "bare", "memory", "prompts"]
"""How objects are given: as in `processing.wording`; prompts: a point or box on any object, answered by its mask."""
R = TypeVar("R")
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the terms; defaults are the paper's."""

    focal: float = 100.0
    dice: float = 5.0
    iou: float = 5.0
    presence: float = 5.0
    entropy: float = 0.0
    """Plain pixel-wise cross-entropy; easier than the focal loss for a segmenter that starts from nothing."""
    selection: float = 0.0
    """Cross-entropy on the pixels of all asked objects alone, where telling one from another is all that counts."""
    every_candidate: float = 0.0
    """Share of the mask loss that all three candidates get, not only the best, so that none dies early."""
    full_resolution: bool = True
    """Compare masks at SAM size (the paper's way) or, faster, on the decoder's quarter-size grid."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """The weights that a run begins with: a checkpoint, fresh ones, or released parts with fresh modules between."""

    model: str = ""
    """Checkpoint folder, "nano" or a Hub id."""
    fresh: Literal["", "nano", "debug"] = ""
    """Random weights of this architecture, with the built-in vocabulary."""
    qwen: str = ""
    """Qwen2.5-VL folder or Hub id; its tokenizer is taken over."""
    sam: str = ""
    """Meta's ``sam2.1_hiera_*.pt``."""
    sam_name: str = "configs/sam2.1_hiera_b+"
    """Official name of the size in ``sam``."""
    image_size: int = 768
    """Side of SAM's frames, pixels, of a model made of ``qwen`` and ``sam``."""
    stages: tuple[str, ...] = ()
    """Folders of earlier stages, laid over ``qwen`` and ``sam`` in order."""
    parts: tuple[str, ...] = ()
    """Weights taken over by part at last, each as FOLDER=PART,PART."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank matrices beside the attention projections of language model and vision tower.

    Source: LoRA (arXiv 2106.09685).
    """

    rank: int = 128
    alpha: float = 256.0
    dropout: float = 0.1
    targets: str = r"language\.layers\.\d+\.self_attn\.[qkvo]_proj|visual\.blocks\.\d+\.attn\.(qkv|proj)"
    """Pattern of the modules' names."""


@dataclass(frozen=True, kw_only=True)
class ValidationSettings:
    """Validation while training: loss, mask IoU, and pictures of what is predicted."""

    every: int = 0
    """Steps between two validations; 0: only before the first step and after the last."""
    samples: int = 0
    """How many, evenly spread over the sources' ``val`` splits; 0: none."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every run has."""

    name: str
    start: Start = field(default_factory=Start)
    trainable: Parts = ("",)
    """Prefixes of the parameters that learn; all others are frozen."""
    lora: Lora | None = None
    steps: int = 1000
    """Optimiser steps; 0: as many as the epochs take."""
    epochs: float = 0.0
    """Times that all data are seen, where ``steps`` is 0."""
    batch_size: int = 16
    """Samples per optimiser step, over all processes."""
    micro_batch: int = 0
    """Samples that a process takes at once; 0: its whole share of the batch. Smaller ones are accumulated."""
    learning_rate: float = 1e-3
    rates: dict[str, float] = field(default_factory=dict)
    """Prefix of parameter names -> their own learning rate."""
    schedule: Literal["stable", "cosine"] = "stable"
    """stable: constant, then falling to zero over `decay_share`. cosine: half a wave down to zero."""
    warmup_steps: int = 100
    warmup_share: float = 0.0
    """Share of the steps over which the rate rises, where ``warmup_steps`` is 0."""
    decay_share: float = 0.4
    """Last part of the steps over which a stable rate falls to zero."""
    muon: float = 0.0
    """Matrices inside the network learn by Muon at so many times the learning rate; 0: everything by AdamW."""
    weight_decay: float = 0.01
    adam_beta2: float = 0.98
    max_grad_norm: float = 2.0
    losses: LossWeights = field(default_factory=LossWeights)
    hidden_tokens: int = 0
    """Mask queries per `<|seg|>`; 0: as many as the start has."""
    time_code: bool = True
    """False: the code of a prompt's frame is the same for all frames."""
    propagate: bool = True
    """False: masks are made on every frame by itself, in training and after."""
    guided_share: float = 0.0
    """Share of the decodings, while training, whose masks follow the colours of their frame as those of inference do,
    for a checkpoint with a `PixelConfig.guided_radius`; the others learn as they are decoded."""
    recall: Recall = "memory"
    """How questions know of objects that were pointed at, in training on stickers and after; see `Recall`."""
    bf16: bool = True
    """Run in bfloat16 where that loses nothing and the processor computes in it; weights stay in fp32."""
    checkpointing: bool = False
    """Compute activations of decoder and vision tower again in the backward pass instead of keeping them."""
    evaluation: ValidationSettings = field(default_factory=ValidationSettings)
    log_steps: int = 50
    save_steps: int = 100
    keep: int = 2
    """Newest checkpoints that are kept."""
    save: Literal["whole", "adapter"] = "whole"
    """The result as a whole model (LoRA merged), or only what differs from the start, to be laid over it."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class StickerRecipe(Recipe):
    """A run on endless sticker scenes, and photos among them."""

    start: Start = field(default_factory=lambda: Start(fresh="nano"))
    objective: Literal["conversation", "prompt", "words"] = "conversation"
    """conversation: the training forward. prompt: mask queries come straight from `<|ref|>` embeddings and from SAM's
    own prompt tokens, so that segmenting under a point or box is learnt before language joins. words: the vision tower
    and the word embeddings learn alone, as by `dense_words`, and objects in memory where questions give regions."""
    turns: int = 6
    """Questions per picture."""
    conversation_share: float = 0.0
    """Share of the batches in which the questions about a picture are one conversation; in the others each is asked as
    if it were the first."""
    mix: Mix = field(default_factory=dict)
    video_share: float = 0.0
    """Share of the batches that are clips."""
    video_turns: int = 4
    photos: str = ""
    """Folder of photos as `data.readers.photos` reads it."""
    photo_share: float = 0.0
    """Share of the stills that are photos, and of the sticker scenes that lie on one."""
    world: SceneSettings = field(default_factory=SceneSettings)
    """What the sticker scenes look like."""
    hard_share: float = 0.0
    """Share of the sticker scenes that are of the `HARD` world instead, with as many frames as the others."""
    restyle_share: float = 0.0
    """Share of the sticker scenes whose look is changed: flatter, outlined, softer, grainy, or in another light."""
    cutout_share: float = 0.0
    """Share of the scenes, still or moving, whose things are cut out of ``photos`` and lie on pieces of others."""
    clips: str = ""
    """Folder of real clips as `data.readers.davis_clips` reads it."""
    clip_share: float = 0.0
    """Share of the moving samples that are real clips, with as many frames as sticker clips."""
    written_choices: float = 0.0
    """Share of the batches that are choices in words alone, about objects that are named and not shown."""
    distinct: int = 0
    """Only so many different scenes, again and again; 0: every scene is new."""
    dense_words: float = 0.0
    """Weight of the helper losses in which each visual token, and each object in memory, predicts the name of what it
    shows."""
    binding: float = 0.0
    """Weight of the helper loss by which states that predict `<|seg|>` attend to their object."""
    pointing: float = 0.0
    """Weight of the helper loss that draws mask queries towards SAM's own tokens of the object's box."""
    query_share: float = 0.5
    """Share of the "prompt" objects that are asked for by the mask queries of their `<|ref|>`; the others by SAM's own
    tokens. The queries of a model that has learnt language mean nothing before its decoder has read them."""
    prompt_noise: float = 0.0
    """Largest standard deviation of noise on SAM's own tokens, which half of the "prompt" objects get, so that masks
    bear with mask queries that are not exact."""
    corrections: float = 0.0
    """Share of the "prompt" batches that are decoded again with a correcting click."""
    given_masks: float = 0.0
    """Share of the "prompt" clips that are followed from the true masks of their first frame, not from the model's."""
    masks: bool = True
    """Run the segmenter in conversations. Without it mask queries learn by ``pointing`` alone, at little more than half
    the cost: they come to say where the object's box is, in the words of SAM's own prompts."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset in a mixture."""

    dataset: str
    """As `unipixel.data.open_index` takes it."""
    split: str = "train"
    repeat: float = 1.0
    """Times that every record is seen in an epoch."""
    form: SourceForm = "regions"
    frames: int = -1
    """Frames drawn of a clip; -1: as the recipe says; 0: all."""
    max_frames: int = 0
    """Longer clips are left out; 0: as the recipe's limit says."""
    one_frame_share: float = 0.0
    """Share of the clips whose objects are given on one frame only."""
    turns: int = -1
    """Questions of a record that become one conversation, at most; -1: as the recipe says; 0: all. What is a
    conversation already is always taken whole."""
    random_ids: bool = True
    """Whether a lone object that is asked about gets a random id from 0 to 15."""
    rate: float = 0.0
    """Frames per second that are taken evenly of a video file, up to the recipe's ``num_frames``, and the language
    model is given the time between them; 0: frames are drawn at random and counted as 2 per second."""
    as_images: bool = False
    """Whether pictures are written as images; else they are, like everything, videos of one frame."""


@dataclass(frozen=True, kw_only=True)
class RecordLimits:
    """What a record may have; those above are left out of the run and counted, or, for tokens, replaced by another."""

    frames: int = 500
    words: int = 500
    """Words of questions and answers that come with the data, where objects are given as regions or not at all (of a
    conversation about a whole picture or video, of its first answer)."""
    tokens: int = 40960


@dataclass(frozen=True, kw_only=True)
class MixtureRecipe(Recipe):
    """A run on datasets."""

    sources: tuple[Source, ...] = ()
    protocol: Protocol = "correct"
    num_frames: int = 8
    """Frames drawn at random from a clip, one of each of as many equal segments."""
    turns: int = 3
    """Questions of a record that become one conversation, at most."""
    objects: int = 5
    """Objects of a sample whose masks are computed, at most; a random choice of them; 0: all."""
    limits: RecordLimits = field(default_factory=RecordLimits)
    max_bad: float = MAX_BAD
    """Share of the records that may turn out not to be readable; they are left out. More end the run."""


def override(record: R, settings: Sequence[str]) -> R:
    """The record with fields replaced.

    Args:
        settings: texts such as ``"steps=300"``, ``"losses.dice=2"``, ``"rates.segmenter=1e-5"`` (an entry of a
            mapping), ``"trainable=seg_head,segmenter"`` (entries of a tuple) or ``"lora=none"``.

    Raises:
        ValueError: there is no such field, or the value does not fit it; the message says what would.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise ValueError(f"the setting {setting!r} has no value; write it as field=value, such as steps=300")
        record = _replace_field(record, path.split("."), text, path)
    return record


def _replace_field(record: Any, names: Sequence[str], text: str, path: str) -> Any:
    name, rest = names[0], names[1:]
    known = {field.name for field in fields(record)}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
        raise ValueError(f"{path} is no setting of {type(record).__name__}; {hint}")
    kind, value = get_type_hints(type(record))[name], getattr(record, name)
    if not rest:
        return replace(record, **{name: _parse_value(kind, text, path)})
    if get_origin(kind) is dict:
        key_kind, value_kind = get_args(kind)
        key = _parse_value(key_kind, ".".join(rest), path)
        return replace(record, **{name: {**value, key: _parse_value(value_kind, text, path)}})
    if value is None and (inner := _find_record_type(kind)):
        value = inner()
    if not is_dataclass(value):
        raise ValueError(f"{path}: {name} has no settings of its own; give it a value as {name}=...")
    return replace(record, **{name: _replace_field(value, rest, text, path)})


def _find_record_type(kind: Any) -> Any:
    return next((one for one in get_args(kind) if is_dataclass(one)), None)


def _parse_value(kind: Any, text: str, path: str) -> Any:
    """A value of a type, from text."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if type(None) in inner and text.lower() == "none":
            return None
        kind = next(one for one in inner if one is not type(None))
        return _parse_value(kind, text, path)
    if origin is Literal:
        if text not in inner:
            raise ValueError(f"{path} is {text!r}; it should be one of {', '.join(map(repr, inner))}")
        return text
    if origin is tuple:
        return _parse_tuple(inner, text, path)
    if kind is bool:
        if text.lower() not in (*_YES, *_NO):
            raise ValueError(f"{path} is {text!r}; it should be true or false")
        return text.lower() in _YES
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise ValueError(f"{path} is {text!r}; it should be {what}") from None
    if kind is str:
        return text
    what = "one of its own settings, as" if is_dataclass(kind) or origin is dict else "not set by text; see"
    raise ValueError(f"{path} cannot be {text!r}; give {what} {path}.NAME=VALUE")


def _parse_tuple(kinds: tuple[Any, ...], text: str, path: str) -> tuple[Any, ...]:
    parts = text.split(",") if text else []
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_parse_value(kinds[0], part, path) for part in parts)
    if len(parts) != len(kinds):
        raise ValueError(f"{path} is {text!r}; it should be {len(kinds)} values with commas between")
    return tuple(_parse_value(kind, part, path) for kind, part in zip(kinds, parts, strict=True))


def set_start(recipe: Recipe, model: str, parts: Sequence[str]) -> Recipe:
    """The recipe from another checkpoint, or with parts of others.

    Args:
        model: "nano", a checkpoint folder or a Hub id; empty to keep the recipe's own start.
        parts: each FOLDER=PART,PART.
    """
    start = Start(model=model) if model else recipe.start
    return replace(recipe, start=replace(start, parts=(*start.parts, *parts)))


def set_data(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """The recipe on these data alone.

    Args:
        names: a dataset of the recipe's own mixture, which keeps its repeats and form; any other of the catalogue, or
            ``folder:PATH`` or ``coco:PATH``. Each may be followed by ``/SPLIT``.

    Raises:
        DatasetError: there is no such dataset or split.
        ValueError: the recipe draws its own scenes.
    """
    if not names:
        return recipe
    if not isinstance(recipe, MixtureRecipe):
        raise ValueError(f"the recipe {recipe.name} draws stickers and takes no --data; 'finetune' does")
    sources: list[Source] = []
    for text in names:
        name, split = parse_name(text)
        own = [source for source in recipe.sources if source.dataset == name]
        sources += [replace(source, split=split or source.split) for source in own or _build_sources(name)]
    return replace(recipe, sources=tuple(sources))


def _build_sources(name: str) -> list[Source]:
    """Sources for a dataset that the recipe does not have: its questions, and clicks on its objects."""
    dataset = find_dataset(name)
    split = "train" if "train" in dataset.splits else dataset.splits[0]
    asks = Source(dataset=name, split=split)
    return [asks, replace(asks, form="prompts")] if dataset.location == "path" else [asks]


def keep_present_sources(recipe: Recipe, root: Path | None) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe without the sources whose files are not there, and the names of those.

    Raises:
        ValueError: the recipe has no mixture, or none of it is there.
    """
    if not isinstance(recipe, MixtureRecipe):
        raise ValueError(f"the recipe {recipe.name} draws stickers, so nothing of it can be absent")
    folder = None if root is None else find_data_folder(root)
    there: list[Source] = []
    absent: list[Source] = []
    for source in recipe.sources:
        key, _, path = source.dataset.partition(":")
        files = DATASETS[key].files.get(source.split, ()) if key in DATASETS else ("?",)
        found = bool(path) or (folder is not None and all((folder / file).exists() for file in files))
        (there if found else absent).append(source)
    if not there:
        raise ValueError(
            f"no dataset of {recipe.name} is under {root}; `unipixel data check NAME` says what belongs there"
        )
    return replace(recipe, sources=tuple(there)), tuple(dict.fromkeys(source.dataset for source in absent))
