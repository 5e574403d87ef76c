"""Masks in the two grids that the model reads: visual tokens (object memory) and SAM squares (training targets)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unipixel.errors import PromptError
from unipixel.masks import MaskTrack
from unipixel.processing.chat import MEM
from unipixel.processing.images import RegionRule, VisualInput


@lru_cache(maxsize=256)
def _compute_reach(length: int, cells: int, cell: int, rule: RegionRule) -> Tensor:
    """What source rows weigh in token rows, float (cells, length): 1 for any weight at all, or their share of the row.

    The axis is resized from ``length`` to ``cells`` runs of ``cell`` pixels by the antialiased bilinear filter.
    """
    out = cells * cell
    weights = F.interpolate(torch.eye(length)[None, None], size=(out, length), mode="bilinear", antialias=True)[0, 0]
    runs = weights.view(cells, cell, length)
    return runs.mean(1) if rule == "covered" else (runs > 0).any(1).float()


def pool_to_grid(
    masks: np.ndarray,
    grid: tuple[int, int, int],
    *,
    step: int = 2,
    merge: int = 2,
    patch: int = 14,
    rule: RegionRule = "touched",
) -> Tensor:
    """Pixel masks on the token grid: whether the resized mask touches a cell in any of its frames, or its share of it.

    Args:
        masks: bool (T, N, H, W); a last temporal step that lacks frames repeats the last one.
        grid: (t, h, w) in patches.
        step: frames per temporal step.
        merge: patches per side of a token.
        patch: pixels per side of a patch.
        rule: see `ImageSettings.region_rule`.

    Returns:
        (t, N, h/2, w/2): bool where the rule is "touched", float, from 0 to 1, where it is "covered".

    Source: UniPixel, section 3.3 ("touched"). The original resizes with an antialiased bilinear filter, then max-pools
    and compares with 0. All weights are non-negative, so which pixels reach which cell is known beforehand and two
    small products of 0/1 matrices give the same cells.
    """
    t, h, w = grid
    lacking = t * step - len(masks)
    if lacking:
        masks = np.concatenate([masks, np.repeat(masks[-1:], lacking, axis=0)])
    pooled = np.ascontiguousarray(masks).reshape(t, step, *masks.shape[1:]).any(1)  # (t, N, H, W)
    rows = _compute_reach(masks.shape[2], h // merge, merge * patch, rule)
    columns = _compute_reach(masks.shape[3], w // merge, merge * patch, rule)
    cells = rows @ torch.from_numpy(pooled).float() @ columns.T
    return cells.clamp(max=1.0) if rule == "covered" else cells > 0


def build_region_masks(tracks: dict[int, MaskTrack], visual: VisualInput, *, unseen: bool = False) -> Tensor:
    """Grid masks of known objects on the frames that the language model sees, (t, N, h/2, w/2) as of `pool_to_grid`.

    Args:
        unseen: also take an object that is visible on none of these frames.

    Raises:
        PromptError: an object's masks have another size or number of frames than the clip, or it is visible on
            none of the frames that the language model sees.
    """
    clip = visual.media
    seen = visual.shown_frames
    masks = np.zeros((len(seen), len(tracks), *clip.size_hw), dtype=bool)
    for n, (number, track) in enumerate(tracks.items()):
        check_track(number, track, clip.size_hw, clip.num_frames)
        for i, t in enumerate(seen):
            if track.rles[t] is not None:
                masks[i, n] = track.mask(t)
        if not unseen and not masks[:, n].any():
            frames = ", ".join(map(str, visual.llm_frame_indices))
            raise PromptError(f"object {number} is visible on none of the frames that the model reads ({frames})")
    settings = visual.settings
    return pool_to_grid(
        masks,
        visual.grid,
        step=settings.temporal_patch_size,
        merge=settings.merge_size,
        patch=settings.patch_size,
        rule=settings.region_rule,
    )


def check_track(number: int, track: MaskTrack, size_hw: tuple[int, int], num_frames: int) -> None:
    """Refuse an object whose masks do not belong to the clip.

    Raises:
        PromptError: size or number of frames differ.
    """
    if tuple(track.size_hw) != tuple(size_hw) or track.num_frames != num_frames:
        raise PromptError(
            f"object {number} has {track.num_frames} masks of {track.size_hw[1]} x {track.size_hw[0]} pixels, "
            f"but the clip has {num_frames} frames of {size_hw[1]} x {size_hw[0]}"
        )


def format_region_lines(ids: Sequence[int], grid: Tensor, num_frames: int, *, step: int = 2) -> str:
    """The lines that introduce known objects in front of a question, with one ``<|mem|>`` per step they are seen in.

    Args:
        ids: object ids, N of them.
        grid: (t, N, h/2, w/2) of the same objects, of `build_region_masks`.
        num_frames: frames that the language model is shown, without padding; 1 is worded as an image.

    Source: UniPixel, appendix on prompts; frames count from 1.
    """
    if num_frames == 1:
        head = "Here is an image with the following highlighted regions:\n"
        return head + "".join(f"[{number}]: {MEM}\n" for number in ids)
    head = f"Here is a video with {num_frames} frames denoted as <1> to <{num_frames}>. "
    lines = [head + "The highlighted regions are as follows:\n"]
    visible = grid.flatten(2).any(-1).T.tolist()  # (N, t)
    for number, steps in zip(ids, visible, strict=True):
        spans = (f"<{k * step + 1}>-<{k * step + step}> {MEM}" for k, on in enumerate(steps) if on)
        lines.append(f"[{number}]: {' '.join(spans)}\n")
    return "".join(lines)


def build_target_masks(
    tracks: Sequence[MaskTrack | None], num_frames: int, side: int, rule: Literal["touched", "nearest"]
) -> Tensor:
    """Ground truth of the asked objects as SAM squares, bool (T, O, S, S).

    Args:
        tracks: one per ``<|seg|>``; None for an object that is not there (all False).
        rule: see `ImageSettings.target_rule`.
    """
    out = torch.zeros(num_frames, len(tracks), side, side, dtype=torch.bool)
    done: dict[int, int] = {}
    for o, track in enumerate(tracks):
        if track is None:
            continue
        if id(track) in done:  # several turns often ask for one object
            out[:, o] = out[:, done[id(track)]]
            continue
        done[id(track)] = o
        shown = [t for t, rle in enumerate(track.rles) if rle is not None]
        if shown:
            masks = torch.from_numpy(np.stack([track.mask(t) for t in shown]))
            out[shown, o] = _to_square(masks, side, rule)
    return out


def _to_square(masks: Tensor, side: int, rule: str) -> Tensor:
    """bool (n, H, W) masks as bool (n, S, S)."""
    height, width = masks.shape[1:]
    if (height, width) == (side, side):
        return masks
    if rule == "nearest":
        # centres of the target pixels in the source
        rows, columns = (((torch.arange(side) * 2 + 1) * n) // (2 * side) for n in (height, width))
        return masks[:, rows][:, :, columns]
    x = F.interpolate(masks[:, None].float(), size=(side, side), mode="bilinear", antialias=True)
    return x[:, 0] > 0
