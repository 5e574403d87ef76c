"""Sizes and behaviour of a model, read from and written to a checkpoint folder: those of the language model, the vision
tower and SAM 2.1, and the few switches in which released weights differ from what a new model should do.

Files are written in the form of the released checkpoints (transformers 4.53.3), which the original code reads: every
language field at the top and again in ``text_config``, ``torch_dtype``, ``rope_scaling``.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

from unipixel.atomic import write_text
from unipixel.checks import (
    check_flag,
    check_integer,
    check_list,
    check_mapping,
    check_number,
    check_text,
    join_lines,
    shorten,
)
from unipixel.errors import CheckpointError
from unipixel.model.tensor_files import has_head
from unipixel.model.tensor_files import read_json as read_json

MODEL_TYPE = "pixel_qwen2_5_vl"
Recall = Literal["memory", "frame", "turn", "pointing"]
"""How an object that was pointed at comes into a question. memory: by a ``<|mem|>`` of its mask for every step of time;
frame: by one of the mask on the frame of its prompt; turn: only by the turn in which it was segmented; pointing: by its
``<|ref|>``. All but the first are for ablations."""
POINTERS_IN_MEMORY = 16
"""Object pointers that memory attention sees at most (SAM 2.1)."""


@dataclass(frozen=True, kw_only=True)
class SamConfig:
    """Sizes of the SAM 2.1 part; defaults are Hiera-B+."""

    image_size: int = 768
    """Side of the square frames SAM sees, pixels; a multiple of 32."""
    hidden_size: int = 256
    """C: channels of features, tokens and pointers."""
    memory_size: int = 64
    """Channels of memory features; divides ``hidden_size``."""
    embed_dim: int = 112
    """Hiera width of the first stage; it doubles with each stage."""
    num_heads: int = 2
    stages: tuple[int, ...] = (2, 3, 16, 3)
    global_blocks: tuple[int, ...] = (12, 16, 20)
    window_sizes: tuple[int, ...] = (8, 4, 14, 7)
    background_size: tuple[int, int] = (14, 14)
    memory_attention_layers: int = 4
    memory_attention_ffn: int = 2048
    fuser_layers: int = 2
    num_memories: int = 7
    decoder_ffn: int = 2048
    decoder_heads: int = 8
    iou_head_hidden: int = 256
    dropout: float = 0.1
    """Dropout of memory attention while training."""

    def __post_init__(self) -> None:
        for name, most in _SAM_BOUNDS.items():
            check_integer(getattr(self, name), f"SAM's {name}", 1, most)
        if self.image_size % 32:
            raise CheckpointError(f"SAM image size is {self.image_size}; it must be a positive multiple of 32")
        check_number(self.dropout, "SAM's dropout", 0.0, 1.0)
        for name, length in (("stages", 4), ("window_sizes", 4), ("background_size", 2), ("global_blocks", None)):
            values = check_list(list(getattr(self, name)), f"SAM's {name}", length)
            least, most = (0, sum(self.stages) - 1) if name == "global_blocks" else (1, 256)
            for value in values:
                check_integer(value, f"a number of SAM's {name}", least, most)

    @property
    def grid(self) -> int:
        """s: side of the stride-16 feature grid."""
        return self.image_size // 16

    @classmethod
    def from_name(cls, name: str, image_size: int) -> SamConfig:
        """The official size called ``name``, such as ``configs/sam2.1_hiera_b+``."""
        key = name.rsplit("/", 1)[-1].removesuffix(".yaml").removeprefix("sam2.1_hiera_")
        if key not in SAM_SIZES:
            raise CheckpointError(f"SAM config {name!r} is unknown; known are {', '.join(SAM_SIZES)} (sam2.1_hiera_*)")
        return cls(image_size=image_size, **{"background_size": (7, 7), **SAM_SIZES[key]})

    @classmethod
    def from_hydra(cls, tree: dict[str, Any], image_size: int) -> SamConfig:
        """Sizes from a resolved official ``sam2_config.json``; our own folders add ``mask_decoder``."""
        sizes: dict[str, Any] = {"image_size": image_size}
        for name, path in _HYDRA_PATHS.items():
            node: Any = tree
            try:
                for key in path:
                    node = check_mapping(node, "a section of sam2_config.json")[key]
            except KeyError:
                if name not in _OWN_SIZES:
                    raise
                continue
            sizes[name] = tuple(node) if isinstance(node, list) else node
        return cls(**sizes)

    def to_hydra(self) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for name, (*above, last) in _HYDRA_PATHS.items():
            node, value = tree, getattr(self, name)
            for key in above:
                node = node.setdefault(key, {})
            node[last] = list(value) if isinstance(value, tuple) else value
        return tree | {"image_size": self.image_size}


_SAM_BOUNDS = {
    "image_size": 4096,
    "hidden_size": 1 << 14,
    "memory_size": 1 << 14,
    "embed_dim": 1 << 14,
    "num_heads": 256,
    "memory_attention_layers": 256,
    "memory_attention_ffn": 1 << 20,
    "fuser_layers": 256,
    "num_memories": 256,
    "decoder_ffn": 1 << 20,
    "decoder_heads": 256,
    "iou_head_hidden": 1 << 16,
}
"""Largest sizes; what a file says is worked with before any tensor can contradict it."""

_HYDRA_PATHS = {
    "embed_dim": ("image_encoder", "trunk", "embed_dim"),
    "num_heads": ("image_encoder", "trunk", "num_heads"),
    "stages": ("image_encoder", "trunk", "stages"),
    "global_blocks": ("image_encoder", "trunk", "global_att_blocks"),
    "window_sizes": ("image_encoder", "trunk", "window_spec"),
    "background_size": ("image_encoder", "trunk", "window_pos_embed_bkg_spatial_size"),
    "hidden_size": ("image_encoder", "neck", "d_model"),
    "memory_attention_layers": ("memory_attention", "num_layers"),
    "memory_attention_ffn": ("memory_attention", "layer", "dim_feedforward"),
    "dropout": ("memory_attention", "layer", "dropout"),
    "memory_size": ("memory_encoder", "out_dim"),
    "fuser_layers": ("memory_encoder", "fuser", "num_layers"),
    "decoder_ffn": ("mask_decoder", "mlp_dim"),
    "decoder_heads": ("mask_decoder", "num_heads"),
    "iou_head_hidden": ("mask_decoder", "iou_head_hidden_dim"),
    "num_memories": ("num_maskmem",),
}
"""Where ``sam2_config.json`` has each size."""
_OWN_SIZES = {"dropout", "decoder_ffn", "decoder_heads", "iou_head_hidden"}
"""Those that the original's file may lack; they then have their defaults."""

SAM_SIZES: dict[str, dict[str, Any]] = {
    "t": {"embed_dim": 96, "num_heads": 1, "stages": (1, 2, 7, 2), "global_blocks": (5, 7, 9)},
    "s": {"embed_dim": 96, "num_heads": 1, "stages": (1, 2, 11, 2), "global_blocks": (7, 10, 13)},
    "b+": {"background_size": (14, 14)},
    "l": {"embed_dim": 144, "stages": (2, 6, 36, 4), "global_blocks": (23, 33, 43), "window_sizes": (8, 4, 16, 8)},
}
"""Official SAM 2.1 sizes as differences from Hiera-B+; the others have a background of 7 x 7."""


@dataclass(frozen=True, kw_only=True)
class PixelConfig:
    """Behaviour in which released weights differ from new models. Defaults are those of new models."""

    region_pool_order: Literal["raster", "window"] = "raster"
    """Order of the visual features that `<|mem|>` masks index. Released: "window" (masks are in raster order, so
    cells are swapped inside an image larger than one attention window)."""
    integer_seconds_per_grid: bool = False
    """Truncate seconds per temporal grid step before mRoPE. Released: True."""
    rope_restart: Literal["spatial", "all_axes"] = "spatial"
    """Where text positions go on after a visual: maximum over the spatial axes, or over all three. Released:
    "all_axes"."""
    visual_place_encoding: bool = False
    """Normalise visual tokens and add a fixed sine/cosine code of their place. Released: False; nano: True."""
    region_place_encoding: bool = False
    """Normalise `<|mem|>` embeddings too and add the mean of that code under their mask, which says where an object is
    and how large; asks for `visual_place_encoding`. Released: False; nano: True."""
    propagate: bool = True
    """Masks are made on the first frame and tracked; False: made on every frame by itself. Released: True."""
    recall: Recall = "memory"
    """How the model knows of an object that it was pointed at. Released: "memory"."""
    min_track_score: float = 0.0
    """An object that is tracked counts as absent, and is remembered as such, on frames where its score (predicted IoU
    times presence) is less than so many times that on its first frame. Released: 0; nano: 0.15."""
    start_frame: Literal["first", "best"] = "first"
    """Frame on which objects that the model segments in a clip start, where the caller names none: the first, or, of
    those that the language model sees, the one on which each scores highest. Released: "first"; nano: "best"."""
    candidate_temperature: float = 0.0
    """A mask is the mean of its three candidates, each weighted by the softmax of its predicted IoU over this; 0: the
    best candidate alone. Released: 0; nano: 0.03."""
    guided_radius: int = 0
    """Masks end where the colours of their frame do: a guided filter looks so many cells of the mask grid around, see
    `segmenter.follow_colours`; 0: masks are as decoded. Released: 0; nano: 4."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("region_pool_order", ("raster", "window")),
            ("rope_restart", ("spatial", "all_axes")),
            ("recall", get_args(Recall)),
            ("start_frame", ("first", "best")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        for name in ("integer_seconds_per_grid", "visual_place_encoding", "region_place_encoding", "propagate"):
            check_flag(getattr(self, name), name)
        if self.region_place_encoding and not self.visual_place_encoding:
            raise ValueError("region_place_encoding asks for visual_place_encoding, whose code of place it averages")
        check_number(self.min_track_score, "min_track_score", 0.0, 1.0)
        check_number(self.candidate_temperature, "candidate_temperature", 0.0, 1e3)
        check_integer(self.guided_radius, "guided_radius", 0, 64)


RELEASED_PIXEL = PixelConfig(region_pool_order="window", integer_seconds_per_grid=True, rope_restart="all_axes")


class SectionConfig(SimpleNamespace):
    """Sizes of the language model or of the vision tower, as attributes; `build_language_section` and
    `build_vision_section` make one, and `LANGUAGE_DEFAULTS` and `VISION_DEFAULTS` list what they have."""


@dataclass(kw_only=True)
class UniPixelConfig:
    """Everything that decides the shape and arithmetic of a model.

    Not frozen, because `transformers.Trainer` writes ``use_cache`` to the config of any model it is given.
    """

    language: SectionConfig
    """The fields of `LANGUAGE_DEFAULTS`, and ``rope_parameters``, a mapping with ``rope_theta``, ``rope_type`` and
    ``mrope_section``."""
    vision: SectionConfig
    """The fields of `VISION_DEFAULTS`."""
    sam: SamConfig
    pixel: PixelConfig = field(default_factory=PixelConfig)
    tie_word_embeddings: bool = True
    hidden_tokens: int = 2
    """Q: mask queries per `<|seg|>`."""
    image_token_id: int
    video_token_id: int
    ref_token_id: int
    seg_token_id: int
    mem_token_id: int
    eos_token_ids: tuple[int, ...]
    """Tokens that end a reply: those of ``generation_config.json``, else of ``config.json``."""
    sam_name: str = ""
    """Name of the SAM size, as the original's ``sam2_config``; empty for sizes of our own."""
    carried: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """``config.json`` as it was read. Fields that decide nothing here (``conv_type``, ``sample_objects``, ids of the
    vision markers ...) are written back from it."""
    sam_carried: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """``sam2_config.json`` as it was read."""
    generation: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """``generation_config.json`` as it was read. Only its end tokens are followed: the original, too, evaluates without
    its repetition penalty, and greedily."""

    @classmethod
    def from_folder(cls, folder: str | Path, *, head_stored: bool | None = None) -> UniPixelConfig:
        """Read ``config.json`` and, where present, ``generation_config.json`` and ``sam2_config.json``.

        Args:
            folder: an official or own checkpoint folder.
            head_stored: whether ``lm_head.weight`` is among the tensors, which decides about tying where the config is
                silent; by default looked up in the folder's weights.

        Raises:
            CheckpointError: the files are missing, unreadable, or of another model type.
        """
        folder = Path(folder)
        path = folder / "config.json"
        tree = read_json(path)
        if tree.get("model_type") != MODEL_TYPE:
            raise CheckpointError(f"{path}: model_type is {tree.get('model_type')!r}, expected {MODEL_TYPE!r}")
        others = [folder / name for name in ("sam2_config.json", "generation_config.json")]
        sam, generation = (read_json(other) if other.exists() else None for other in others)
        if head_stored is None and read_tying(tree) is None:
            head_stored = has_head(folder)
        try:
            return cls.from_dict(tree, sam, generation, head_stored=head_stored)
        except KeyError as error:
            raise CheckpointError(f"{path}: field {error} is missing") from error
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise CheckpointError(f"{path}: a field is malformed: {join_lines(error)}") from error

    @classmethod
    def from_dict(
        cls,
        tree: dict[str, Any],
        sam_tree: dict[str, Any] | None = None,
        generation: dict[str, Any] | None = None,
        *,
        head_stored: bool | None = None,
    ) -> UniPixelConfig:
        """Build from the parsed ``config.json`` and, optionally, ``sam2_config.json`` and ``generation_config.json``.

        Args:
            head_stored: decides about tying where the config is silent; unknown counts as tied.
        """
        text = {**tree, **check_mapping(tree.get("text_config") or {}, "text_config")}
        size = tree.get("sam2_image_size", 1024)
        name = check_text(tree.get("sam2_config") or "", "sam2_config")
        sam = SamConfig.from_hydra(sam_tree, size) if sam_tree else SamConfig.from_name(name, size)
        eos = (generation or {}).get("eos_token_id")
        if eos is None:
            eos = tree["eos_token_id"] if tree.get("eos_token_id") is not None else text["eos_token_id"]
        tied = read_tying(tree)
        return cls(
            language=_read_language_config(text),
            vision=_read_vision_config(check_mapping(tree["vision_config"], "vision_config")),
            sam=sam,
            pixel=PixelConfig(**check_mapping(tree["pixel"], "pixel")) if "pixel" in tree else RELEASED_PIXEL,
            tie_word_embeddings=head_stored is not True if tied is None else tied,
            hidden_tokens=check_integer(tree.get("sam2_hidden_tokens", 2), "sam2_hidden_tokens", 1, 1024),
            image_token_id=check_integer(tree["image_token_id"], "image_token_id"),
            video_token_id=check_integer(tree["video_token_id"], "video_token_id"),
            ref_token_id=check_integer(tree["ref_token_id"], "ref_token_id"),
            seg_token_id=check_integer(tree["seg_token_id"], "seg_token_id"),
            mem_token_id=check_integer(tree["mem_token_id"], "mem_token_id"),
            eos_token_ids=tuple(check_integer(x, "eos_token_id") for x in (eos if isinstance(eos, list) else [eos])),
            sam_name=name,
            carried=tree,
            sam_carried=dict(sam_tree or {}),
            generation=dict(generation or {}),
        )

    def to_dict(self, dtype: str = "bfloat16") -> dict[str, Any]:
        """``config.json`` in the released form; our own ``pixel`` section is added where the behaviour differs.

        Args:
            dtype: of the weights on disk.
        """
        language, rope = self.language, dict(self.language.rope_parameters)
        text = {name: getattr(language, name) for name in LANGUAGE_DEFAULTS}
        text["rope_theta"] = rope.pop("rope_theta")
        text["rope_scaling"] = {**rope, "rope_type": "default", "type": "default"}
        before = {**self.carried, **(self.carried.get("text_config") or {})}
        text["max_window_layers"] = before.get("max_window_layers", language.num_hidden_layers)
        text |= {"use_cache": True, "use_sliding_window": False}
        text |= {"bos_token_id": before.get("bos_token_id"), "eos_token_id": self.eos_token_ids[0]}
        markers = {name: before.get(name) for name in _MARKERS if before.get(name) is not None}
        nested = {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl_text",
            **text,
            "image_token_id": None,
            "video_token_id": None,
            "layer_types": ["full_attention"] * language.num_hidden_layers,
            "sliding_window": None,
            "torch_dtype": "float32",
            **markers,
        }
        vision = {name: getattr(self.vision, name) for name in VISION_DEFAULTS}
        vision |= {"in_chans": vision["in_channels"], "spatial_patch_size": vision["patch_size"]}
        own: dict[str, Any] = {"pixel": asdict(self.pixel)} if self.pixel != RELEASED_PIXEL else {}
        return {
            **{name: self.carried.get(name, value) for name, value in _KEPT_FIELDS.items()},
            **{name: self.carried[name] for name in ("sam2_checkpoint", "sliding_window") if name in self.carried},
            "architectures": ["PixelQwen2_5_VLForConditionalGeneration"],
            "model_type": MODEL_TYPE,
            **text,
            "text_config": {**nested, "tie_word_embeddings": self.tie_word_embeddings},
            "vision_config": {"model_type": "qwen2_5_vl", "torch_dtype": "float32", **vision},
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": dtype,
            "transformers_version": WRITTEN_FOR,
            **markers,
            "sam2_config": self.sam_name or None,
            "sam2_image_size": self.sam.image_size,
            "sam2_hidden_tokens": self.hidden_tokens,
            "sam2_batch_mode": False,
            "sam2_enable_decoder": True,
            "sam2_inference_mode": False,
            "image_token_id": self.image_token_id,
            "video_token_id": self.video_token_id,
            "ref_token_id": self.ref_token_id,
            "seg_token_id": self.seg_token_id,
            "mem_token_id": self.mem_token_id,
            **own,
        }

    def save(self, folder: str | Path, dtype: str = "bfloat16") -> None:
        """Write ``config.json``, ``generation_config.json`` and, for SAM in a size of its own, ``sam2_config.json``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        eos = list(self.eos_token_ids)
        generation = {"do_sample": False, **self.generation, "eos_token_id": eos if len(eos) > 1 else eos[0]}
        trees = {
            "config.json": self.to_dict(dtype),
            "generation_config.json": generation | {"transformers_version": WRITTEN_FOR},
        }
        if not self.has_named_sam:
            read = self.sam_carried
            same = bool(read) and SamConfig.from_hydra(read, self.sam.image_size) == self.sam
            trees["sam2_config.json"] = read if same else self.sam.to_hydra()
        for name, tree in trees.items():
            text = json.dumps(tree, indent=2, sort_keys=name != "sam2_config.json")
            write_text(folder / name, text + "\n")

    @property
    def has_named_sam(self) -> bool:
        """Whether the segmenter has the official size that it is named after; else a file has to hold its sizes."""
        try:
            return self.sam == SamConfig.from_name(self.sam_name, self.sam.image_size)
        except CheckpointError:
            return False

    def copy_without_dropout(self) -> UniPixelConfig:
        """The same model with every drop rate at 0 (used to compare training losses)."""
        return replace(self, sam=replace(self.sam, dropout=0.0))


def read_tying(tree: dict[str, Any]) -> bool | None:
    """What a ``config.json`` says about tied word embeddings: at the top, else in ``text_config``, else nothing.

    A released config names only what differs from its class's default, which is true at the top and false inside: 3B
    says it (true) in ``text_config`` alone, 7B (false) at the top alone.
    """
    for part in (tree, tree.get("text_config") or {}):
        stated = part.get("tie_word_embeddings")
        if stated is not None and not isinstance(stated, bool):
            raise CheckpointError(f"tie_word_embeddings in config.json is {stated!r}; it must be true or false")
        if stated is not None:
            return stated
    return None


WRITTEN_FOR = "4.53.3"
"""The transformers of the original code, whose form our files have."""
_MARKERS = ("vision_start_token_id", "vision_end_token_id", "vision_token_id")
_KEPT_FIELDS: dict[str, Any] = {
    "base_model": "qwen2_5_vl",
    "base_model_path": None,
    "conv_type": "chatml",
    "model_name_or_path": None,
    "partial_checkpoint": None,
    "sam2_apply_postprocessing": False,
    "sample_objects": 5,
}
"""Fields that only the original code uses, with what stage 3 of its training writes."""
LANGUAGE_DEFAULTS: dict[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-5,
    "attention_dropout": 0.0,
}
"""Fields of the language model, and what a file means that does not name them: those of Qwen2.5-VL-72B."""
VISION_DEFAULTS: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 3584,
    "hidden_act": "silu",
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "tokens_per_second": 4,
    "window_size": 112,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "initializer_range": 0.02,
}
"""The same for the vision tower."""


_LANGUAGE_BOUNDS = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 16,
    "intermediate_size": 1 << 20,
    "num_hidden_layers": 1024,
    "num_attention_heads": 1024,
    "num_key_value_heads": 1024,
    "max_position_embeddings": 1 << 24,
}
_VISION_BOUNDS = {
    "depth": 1024,
    "hidden_size": 1 << 16,
    "intermediate_size": 1 << 20,
    "num_heads": 1024,
    "patch_size": 256,
    "temporal_patch_size": 16,
    "tokens_per_second": 1 << 16,
    "window_size": 1 << 14,
    "out_hidden_size": 1 << 16,
}
MERGE_SIZE, CHANNELS, ACTIVATION = 2, 3, "silu"
"""Patches per side of a visual token, colours of a pixel, and what is between the products of an MLP of the language
model and the vision tower: what this code is written for."""


def _build_section(defaults: dict[str, Any], fields: dict[str, Any]) -> SectionConfig:
    unknown = sorted(fields.keys() - defaults.keys())
    if unknown:
        raise ValueError(f"there is no {', '.join(unknown)} among the sizes of a model")
    section = SectionConfig(**copy.deepcopy(defaults | fields))
    if section.hidden_act != ACTIVATION:
        raise ValueError(f"hidden_act is {shorten(section.hidden_act)}; it must be {ACTIVATION}")
    return section


def build_language_section(*, rope_parameters: dict[str, Any], **fields: Any) -> SectionConfig:
    """Sizes of a language model.

    Args:
        rope_parameters: ``rope_theta``, ``rope_type`` and ``mrope_section``.
        fields: those that differ from `LANGUAGE_DEFAULTS`.

    Raises:
        ValueError: a field is unknown, or asks for what this code cannot do.
    """
    section = _build_section(LANGUAGE_DEFAULTS, fields)
    section.rope_parameters = dict(rope_parameters)
    if section.num_key_value_heads is None:
        section.num_key_value_heads = section.num_attention_heads
    return section


def build_vision_section(**fields: Any) -> SectionConfig:
    """Sizes of a vision tower: the fields that differ from `VISION_DEFAULTS`.

    Raises:
        ValueError: a field is unknown, or asks for what this code cannot do.
    """
    return _build_section(VISION_DEFAULTS, fields)


def _check_sizes(config: SectionConfig, bounds: dict[str, int], heads: str) -> None:
    """Refuse sizes that are no whole numbers in their bounds, or heads that do not divide the width."""
    for name, most in bounds.items():
        check_integer(getattr(config, name), name, 1, most)
    check_number(config.initializer_range, "initializer_range", 0.0, 100.0)
    if config.hidden_size % (2 * getattr(config, heads)):
        raise ValueError(f"hidden_size is {config.hidden_size}, which {getattr(config, heads)} heads cannot share")


def _read_language_config(tree: dict[str, Any]) -> SectionConfig:
    stated = check_mapping(tree.get("rope_parameters") or tree.get("rope_scaling") or {}, "rope_scaling")
    theta = tree.get("rope_theta", stated.get("rope_theta", 1_000_000.0))
    if check_number(theta, "rope_theta", 0.0) == 0:
        raise ValueError("rope_theta is 0; it must be more")
    sections = check_list(stated.get("mrope_section") or [16, 24, 24], "mrope_section", 3)
    heads, width = tree["num_attention_heads"], tree["hidden_size"]
    if 2 * sum(check_integer(n, "a number of mrope_section", 1, 1 << 16) for n in sections) * heads != width:
        raise CheckpointError(
            f"mrope_section is {sections}, which must add up to half the width of a head ({width} / {heads} / 2)"
        )
    # "mrope" is an alias in older files; the sections make the difference, the frequencies are the default ones
    rope = {"mrope_section": sections, "rope_theta": theta, "rope_type": "default"}
    config = build_language_section(
        rope_parameters=rope, **{name: tree[name] for name in LANGUAGE_DEFAULTS if name in tree}
    )
    _check_sizes(config, _LANGUAGE_BOUNDS, "num_attention_heads")
    check_number(config.rms_norm_eps, "rms_norm_eps", 0.0, 1.0)
    check_number(config.attention_dropout, "attention_dropout", 0.0, 1.0)
    if config.num_attention_heads % config.num_key_value_heads:
        raise ValueError(
            f"num_key_value_heads is {config.num_key_value_heads}; it must divide {config.num_attention_heads} heads"
        )
    return config


def _read_vision_config(tree: dict[str, Any]) -> SectionConfig:
    config = build_vision_section(**{name: tree[name] for name in VISION_DEFAULTS if name in tree})
    _check_sizes(config, _VISION_BOUNDS, "num_heads")
    if (config.spatial_merge_size, config.in_channels) != (MERGE_SIZE, CHANNELS):
        raise ValueError(
            f"spatial_merge_size is {config.spatial_merge_size!r} and in_channels {config.in_channels!r}; they must be "
            f"{MERGE_SIZE} and {CHANNELS}"
        )
    for block in check_list(config.fullatt_block_indexes, "fullatt_block_indexes"):
        check_integer(block, "a number of fullatt_block_indexes", 0, config.depth - 1)
    return config
