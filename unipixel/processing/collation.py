"""Training samples side by side: right-padded text, visuals end to end, and turns that do not see each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unipixel.model.config import UniPixelConfig
from unipixel.model.language import compute_rope_index

IGNORE_INDEX = -100
"""Label of a token that is not learnt."""
PADDED = -1
"""Turn of the padding behind a conversation."""


class TrainingInputs(TypedDict):
    """One conversation as tensors; L tokens, O ``<|seg|>``, R ``<|ref|>``, N objects behind ``<|mem|>``."""

    input_ids: Tensor
    """int64 (L,)."""
    labels: Tensor
    """int64 (L,): answers with their ``<|im_end|>``, -100 elsewhere (not shifted)."""
    pixel_values: Tensor
    """float32 (t*h*w, 1176); of words alone, no row."""
    grid_thw: Tensor
    """int64 (1, 3); of words alone, no row."""
    second_per_grid: Tensor
    """float32 (1,); of words alone, none."""
    point_coords: list[Tensor]
    """R times float32 (P, 2) in SAM pixels."""
    point_labels: list[Tensor]
    """R times int64 (P,)."""
    point_frames: Tensor
    """int64 (R,): frame of each prompt among the frames that the language model sees."""
    point_num_frames: Tensor
    """int64 (R,): number of those frames, padded to even."""
    region_masks: Tensor | None
    """(t, N, h/2, w/2) as of `regions.pool_to_grid`."""
    sam_frames: Tensor | None
    """float32 (T, 3, S, S); None for a sample that segments nothing."""
    target_masks: Tensor | None
    """bool (T, O, S, S) in the order of ``<|seg|>``."""
    turn_ids: NotRequired[Tensor]
    """int64 (L,): 0 for what independent turns share, then 1, 2, ..."""
    as_image: NotRequired[bool]
    """The visual is a picture written as ``<|image_pad|>``."""
    seg_tasks: NotRequired[list[str]]
    """Task of each ``<|seg|>`` whose mask is learnt, for the log."""
    seg_prompts: NotRequired[list[tuple[Tensor, Tensor] | None]]
    """Coordinates and labels of the point or box on the first frame that asks for each of them; None: words do."""
    chosen_objects: NotRequired[Tensor]
    """int64 (K,): numbers of the ``<|seg|>`` whose masks are learnt; all of them without it."""
    cell_words: NotRequired[Tensor]
    """int64 (R,): token of the name of what each visual token shows, -100 where that is not clear."""


class TrainingBatch(TypedDict):
    """`TrainingInputs` side by side, as the training forward takes them."""

    input_ids: Tensor
    """int64 (B, L)."""
    labels: Tensor
    """int64 (B, L)."""
    attention_mask: Tensor
    """bool (B, L), or (B, 1, L, L) for independent turns."""
    position_ids: NotRequired[Tensor]
    """int64 (3, B, L), for independent turns."""
    pixel_values: Tensor | None
    """Patches of all videos, stills among them; with their ``grid_thw`` and ``second_per_grid``."""
    grid_thw: Tensor | None
    second_per_grid: Tensor | None
    image_pixel_values: Tensor | None
    """Patches of all pictures that are written as images; with their ``image_grid_thw``."""
    image_grid_thw: Tensor | None
    point_coords: list[Tensor]
    """Over all ``<|ref|>``, with ``point_labels``."""
    point_labels: list[Tensor]
    point_frames: Tensor
    """int64 (R,), with ``point_num_frames``."""
    point_num_frames: Tensor
    region_masks: list[Tensor | None]
    """Over videos."""
    sam_frames: list[Tensor | None]
    """Over samples, as ``target_masks`` and ``chosen_objects``."""
    target_masks: list[Tensor | None]
    chosen_objects: NotRequired[list[Tensor | None]]
    seg_tasks: NotRequired[list[str]]
    """Over all ``<|seg|>`` whose masks are learnt, as ``seg_prompts``."""
    seg_prompts: NotRequired[list[tuple[Tensor, Tensor] | None]]
    cell_words: NotRequired[Tensor]
    """int64 (R,) over all visual tokens."""


def build_text_inputs(input_ids: Tensor, labels: Tensor) -> TrainingInputs:
    """A conversation without a visual: both int64 (L,)."""
    nothing = torch.zeros(0, dtype=torch.long)
    return TrainingInputs(
        input_ids=input_ids,
        labels=labels,
        pixel_values=torch.zeros(0, 0),
        grid_thw=torch.zeros(0, 3, dtype=torch.long),
        second_per_grid=torch.zeros(0),
        point_coords=[],
        point_labels=[],
        point_frames=nothing,
        point_num_frames=nothing,
        region_masks=None,
        sam_frames=None,
        target_masks=None,
    )


def collate(
    samples: Sequence[TrainingInputs], *, pad_token_id: int, config: UniPixelConfig | None = None
) -> TrainingBatch:
    """A batch of the model's training forward.

    Args:
        pad_token_id: fills `input_ids` on the right; masked out everywhere.
        config: of the model; needed only for samples with `turn_ids`, whose positions depend on it.

    Raises:
        ValueError: no sample, independent turns without a config, or mixed with samples that are not.
    """
    if not samples:
        raise ValueError("a batch needs at least one sample")
    ids = pad_sequence([s["input_ids"] for s in samples], batch_first=True, padding_value=pad_token_id)
    lengths = torch.tensor([len(s["input_ids"]) for s in samples])
    seen = [s for s in samples if len(s["grid_thw"])]
    pictures = [s for s in seen if s.get("as_image", False)]
    videos = [s for s in seen if not s.get("as_image", False)]
    out: TrainingBatch = {
        "input_ids": ids,
        "labels": pad_sequence([s["labels"] for s in samples], batch_first=True, padding_value=IGNORE_INDEX),
        "attention_mask": torch.arange(ids.shape[1]) < lengths[:, None],
        "pixel_values": _concatenate([s["pixel_values"] for s in videos]),
        "grid_thw": _concatenate([s["grid_thw"] for s in videos]),
        "second_per_grid": _concatenate([s["second_per_grid"] for s in videos]),
        "image_pixel_values": _concatenate([s["pixel_values"] for s in pictures]),
        "image_grid_thw": _concatenate([s["grid_thw"] for s in pictures]),
        "point_coords": [coords for s in samples for coords in s["point_coords"]],
        "point_labels": [labels for s in samples for labels in s["point_labels"]],
        "point_frames": torch.cat([s["point_frames"] for s in samples]),
        "point_num_frames": torch.cat([s["point_num_frames"] for s in samples]),
        "region_masks": [s["region_masks"] for s in videos],
        "sam_frames": [s["sam_frames"] for s in samples],
        "target_masks": [s["target_masks"] for s in samples],
    }
    if any("seg_tasks" in s for s in samples):
        out["seg_tasks"] = [task for s in samples for task in s.get("seg_tasks", ())]
    if any("seg_prompts" in s for s in samples):
        out["seg_prompts"] = [prompt for s in samples for prompt in s.get("seg_prompts", ())]
    if any("chosen_objects" in s for s in samples):
        out["chosen_objects"] = [s.get("chosen_objects") for s in samples]
    if any("cell_words" in s for s in samples):
        out["cell_words"] = torch.cat([s["cell_words"] for s in samples if "cell_words" in s])
    independent = ["turn_ids" in s for s in samples]
    if any(independent):
        if config is None or not all(independent) or len(videos) < len(samples):
            raise ValueError(
                "independent turns need the model's config and a visual written as a video, and all samples of a batch "
                "must have them"
            )
        turn_ids = pad_sequence([s["turn_ids"] for s in samples], batch_first=True, padding_value=PADDED)
        out["attention_mask"] = build_turn_mask(turn_ids)
        grids = [grid for s in samples for grid in s["grid_thw"].tolist()]
        seconds = [second for s in samples for second in s["second_per_grid"].tolist()]
        out["position_ids"] = build_turn_positions(ids, turn_ids, grids, seconds, config)
    return out


def _concatenate(tensors: list[Tensor]) -> Tensor | None:
    return torch.cat(tensors) if tensors else None


def build_turn_mask(turn_ids: Tensor) -> Tensor:
    """Who may look at whom, bool (B, 1, L, L): causal, within a turn and back to the shared beginning.

    Args:
        turn_ids: int64 (B, L): 0 shared, 1, 2, ... turns, `PADDED` on the right. A padded token sees itself only.
    """
    length = turn_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    query, key = turn_ids[:, :, None], turn_ids[:, None, :]
    related = ((key == query) | (key == 0)) & (query != PADDED)
    return ((related & causal) | torch.eye(length, dtype=torch.bool))[:, None]


def build_turn_positions(
    input_ids: Tensor,
    turn_ids: Tensor,
    grids: Sequence[Sequence[int]],
    second_per_grid: Sequence[float],
    config: UniPixelConfig,
) -> Tensor:
    """mRoPE positions (3, B, L) of independent turns: each goes on from the shared beginning as if it were the first.

    Args:
        input_ids: int64 (B, L).
        turn_ids: int64 (B, L), see `build_turn_mask`; the tokens of a turn are consecutive.
    """
    shared = turn_ids == 0
    visuals = [(int(t), int(h), int(w)) for t, h, w in grids]
    positions, following = compute_rope_index(input_ids, shared, visuals, list(second_per_grid), config)
    place = torch.arange(turn_ids.shape[1]).expand_as(turn_ids)
    # where the token's own turn begins: the last place up to here at which the turn changes
    change = torch.ones_like(shared)
    change[:, 1:] = turn_ids[:, 1:] != turn_ids[:, :-1]
    begin = torch.where(change, place, 0).cummax(1).values
    return torch.where(shared, positions, following[:, None] + place - begin)
