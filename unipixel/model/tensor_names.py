"""How released files and our modules call the same tensor: one table, read in both directions.

A row pairs a name on disk with the name in `UniPixel`. In both, ``{i}`` and ``{j}`` stand for a number, ``{part}`` for
one word and ``{rest}`` for anything; ``weight[2]`` is row 2 of a tensor that the disk keeps as four one-row tensors.
Rows are tried from the top, so an exception stands above the rule it breaks. No tensor is permuted.

Source: state-dict names of UniPixel, Qwen2.5-VL and SAM 2.1 releases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

from torch import Tensor

NameRow = tuple[str, str]


def _prefix_rows(disk: str, module: str, rows: Iterable[NameRow]) -> tuple[NameRow, ...]:
    return tuple((disk + a, module + b) for a, b in rows)


_THREE_LAYERS: tuple[NameRow, ...] = (
    ("layers.0.{rest}", "proj_in.{rest}"),
    ("layers.1.{rest}", "layers.0.{rest}"),
    ("layers.2.{rest}", "proj_out.{rest}"),
)
_TWO_LAYERS: tuple[NameRow, ...] = (("layers.0.{rest}", "proj_in.{rest}"), ("layers.1.{rest}", "proj_out.{rest}"))
_SAME: tuple[NameRow, ...] = (("{rest}", "{rest}"),)

_PROMPT_ENCODER: tuple[NameRow, ...] = (
    ("pe_layer.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    ("point_embeddings.{i}.weight", "point_embed.weight[{i}]"),
    *(
        (f"mask_downscaling.{place}.{{rest}}", f"mask_embed.{name}.{{rest}}")
        for place, name in {0: "conv1", 1: "layer_norm1", 3: "conv2", 4: "layer_norm2", 6: "conv3"}.items()
    ),
    *_SAME,
)

_IMAGE_ENCODER: tuple[NameRow, ...] = (
    ("trunk.patch_embed.proj.{rest}", "backbone.patch_embed.projection.{rest}"),
    ("trunk.blocks.{i}.norm{j}.{rest}", "backbone.blocks.{i}.layer_norm{j}.{rest}"),
    *_prefix_rows("trunk.blocks.{i}.mlp.", "backbone.blocks.{i}.mlp.", _TWO_LAYERS),
    ("trunk.{rest}", "backbone.{rest}"),
    ("neck.convs.{i}.conv.{rest}", "neck.convs.{i}.{rest}"),
)

_MASK_DECODER: tuple[NameRow, ...] = (
    ("transformer.norm_final_attn.{rest}", "transformer.layer_norm_final_attn.{rest}"),
    ("transformer.final_attn_token_to_image.out_proj.{rest}", "transformer.final_attn_token_to_image.o_proj.{rest}"),
    ("transformer.layers.{i}.norm{j}.{rest}", "transformer.layers.{i}.layer_norm{j}.{rest}"),
    ("transformer.layers.{i}.{part}.out_proj.{rest}", "transformer.layers.{i}.{part}.o_proj.{rest}"),
    *_prefix_rows("transformer.layers.{i}.mlp.", "transformer.layers.{i}.mlp.", _TWO_LAYERS),
    ("output_upscaling.0.{rest}", "upscale_conv1.{rest}"),
    ("output_upscaling.1.{rest}", "upscale_layer_norm.{rest}"),
    ("output_upscaling.3.{rest}", "upscale_conv2.{rest}"),
    *_prefix_rows("output_hypernetworks_mlps.{i}.", "output_hypernetworks_mlps.{i}.", _THREE_LAYERS),
    *_prefix_rows("iou_prediction_head.", "iou_prediction_head.", _THREE_LAYERS),
    *_prefix_rows("pred_obj_score_head.", "pred_obj_score_head.", _THREE_LAYERS),
    *_SAME,
)

_MEMORY_ENCODER: tuple[NameRow, ...] = (
    ("pix_feat_proj.{rest}", "feature_projection.{rest}"),
    ("out_proj.{rest}", "projection.{rest}"),
    *(
        (f"mask_downsampler.encoder.{3 * i + k}.{{rest}}", f"mask_downsampler.layers.{i}.{name}.{{rest}}")
        for i in range(4)
        for k, name in enumerate(("conv", "layer_norm"))
    ),
    ("mask_downsampler.encoder.12.{rest}", "mask_downsampler.final_conv.{rest}"),
    ("fuser.layers.{i}.weight", "memory_fuser.layers.{i}.scale"),
    ("fuser.layers.{i}.dwconv.{rest}", "memory_fuser.layers.{i}.depthwise_conv.{rest}"),
    ("fuser.layers.{i}.pwconv{j}.{rest}", "memory_fuser.layers.{i}.pointwise_conv{j}.{rest}"),
    ("fuser.layers.{i}.norm.{rest}", "memory_fuser.layers.{i}.layer_norm.{rest}"),
)

_MEMORY_ATTENTION: tuple[NameRow, ...] = (
    ("norm.{rest}", "layer_norm.{rest}"),
    ("layers.{i}.norm{j}.{rest}", "layers.{i}.layer_norm{j}.{rest}"),
    ("layers.{i}.{part}.out_proj.{rest}", "layers.{i}.{part}.o_proj.{rest}"),
    *_SAME,
)

_SAM: tuple[NameRow, ...] = (
    *_prefix_rows("image_encoder.", "vision_encoder.", _IMAGE_ENCODER),
    *_prefix_rows("sam_prompt_encoder.", "prompt_encoder.", _PROMPT_ENCODER),
    # SAM keeps one Fourier matrix, our layers read it in two places
    ("sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
    *_prefix_rows("sam_mask_decoder.", "mask_decoder.", _MASK_DECODER),
    *_prefix_rows("memory_encoder.", "memory_encoder.", _MEMORY_ENCODER),
    *_prefix_rows("memory_attention.", "memory_attention.", _MEMORY_ATTENTION),
    *_prefix_rows("obj_ptr_proj.", "object_pointer_proj.", _THREE_LAYERS),
    ("obj_ptr_tpos_proj.{rest}", "temporal_positional_encoding_projection_layer.{rest}"),
    ("mask_downsample.{rest}", "mask_downsample.{rest}"),
    ("maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    ("no_mem_embed", "no_memory_embedding"),
    ("no_mem_pos_enc", "no_memory_positional_encoding"),
    ("no_obj_ptr", "no_object_pointer"),
    ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
)

TABLE: tuple[NameRow, ...] = (
    ("visual.{rest}", "visual.{rest}"),
    ("model.{rest}", "language.{rest}"),
    ("lm_head.weight", "lm_head.weight"),
    ("seg_head.{rest}", "seg_head.{rest}"),
    *_prefix_rows("ref_encoder.", "prompt_encoder.encoder.", _PROMPT_ENCODER),
    ("ref_proj_single.{rest}", "prompt_encoder.single_project.{rest}"),
    ("ref_proj_double.{rest}", "prompt_encoder.double_project.{rest}"),
    ("ref_proj.{rest}", "prompt_encoder.project.{rest}"),
    ("tem_pe.positional_encoding_gaussian_matrix", "prompt_encoder.time_matrix"),
    ("tem_emb.weight", "prompt_encoder.time_embedding.weight"),
    ("tem_proj.{rest}", "prompt_encoder.time_project.{rest}"),
    ("msk_proj.{rest}", "region_pool.project.{rest}"),
    *_prefix_rows("sam2.", "segmenter.", _SAM),
)
"""(disk name, module name) templates of the whole model."""

_ALIASES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^model\.visual\."), "visual."),
    (re.compile(r"^model\.language_model\."), "model."),
    (re.compile(r"^(sam2\.memory_encoder\.fuser\.layers\.\d+)\.gamma$"), r"\1.weight"),
)
"""Other spellings seen in files: names in the memory of recent transformers, and Meta's own name of the layer scale."""

_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)")
"""What peft puts between the words of a name."""
PEFT_PREFIX = "base_model.model."

_WILDCARDS = {"i": r"\d+", "j": r"\d+", "part": r"[^.]+", "rest": r"[^\[]+"}


@cache
def _compile_table(source: int) -> tuple[tuple[re.Pattern[str], str], ...]:
    """The table as (pattern, replacement format), read from column ``source`` to the other one."""
    rows = []
    for row in TABLE:
        pattern = re.sub(r"\\\{(\w+)\\\}", lambda m: f"(?P<{m[1]}>{_WILDCARDS[m[1]]})", re.escape(row[source]))
        rows.append((re.compile(pattern), row[1 - source]))
    return tuple(rows)


def _translate(name: str, source: int) -> str:
    for pattern, template in _compile_table(source):
        if match := pattern.fullmatch(name):
            return template.format(**match.groupdict())
    raise KeyError(f"no row of the rename table fits {name!r}")


def canonicalize(name: str) -> str:
    """The official disk spelling of a name that a file may write differently."""
    for pattern, replacement in _ALIASES:
        name = pattern.sub(replacement, name)
    return name


def to_module_name(disk_name: str) -> str:
    """Name in `UniPixel` of a tensor on disk, such as ``language.norm.weight`` for ``model.norm.weight``.

    Raises:
        KeyError: the model has no such part.
    """
    return _translate(canonicalize(disk_name), 0)


def to_disk_name(module_name: str) -> str:
    """Official disk name of a tensor of `UniPixel`; the inverse of `to_module_name`.

    Raises:
        KeyError: the released layout has no such part.
    """
    return _translate(module_name, 1)


def to_official_name(name: str) -> str:
    """Disk name for any spelling: peft's wrappers, names in memory of the original, or of our modules.

    Raises:
        KeyError: no part of the model is called so.
    """
    name = canonicalize(_WRAPPERS.sub("", name.removeprefix(PEFT_PREFIX)))
    try:
        to_module_name(name)
    except KeyError:
        return to_disk_name(name)
    return name


def to_memory_name(disk_name: str) -> str:
    """What the original calls a tensor in memory; its adapter and partial files have these names."""
    for start, other in (("visual.", "model.visual."), ("model.", "model.language_model.")):
        if disk_name.startswith(start):
            return other + disk_name.removeprefix(start)
    return disk_name


def build_disk_layout(state: Mapping[str, Tensor]) -> dict[str, list[tuple[str, Tensor]]]:
    """Every disk name of a model, with the (module name, view) pairs that it fills.

    Args:
        state: ``model.state_dict()``, also on the meta device.
    """
    layout: dict[str, list[tuple[str, Tensor]]] = {}
    for name, tensor in state.items():
        if name.endswith(".point_embed.weight"):
            for i in range(len(tensor)):
                layout.setdefault(to_disk_name(f"{name}[{i}]"), []).append((name, tensor[i : i + 1]))
        else:
            layout.setdefault(to_disk_name(name), []).append((name, tensor))
    return layout
