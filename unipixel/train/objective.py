"""What a training step minimises: the recipe's objective, as a module, so that whatever wraps a model wraps it all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unipixel.model.unipixel import TrainingOutput, UniPixel
from unipixel.train.binding import binding_loss, record_layer_input
from unipixel.train.loss_weights import LossWeights
from unipixel.train.losses import frame_loss, segment_loss, total_loss, word_loss
from unipixel.train.recipe import Recipe, StickerRecipe

BINDING_LAYER = 1
"""Decoder layer of the "binding" helper: the words are read, and two layers are left to work with what was found."""


def prompt_loss(
    model: UniPixel, batch: dict[str, Any], weights: LossWeights, corrections: float = 0.0, given_masks: float = 0.0
) -> dict[str, Tensor]:
    """Mask loss of queries made without language, on stills and clips.

    Half of the objects are asked for with SAM's own tokens of their point or box, half with the mask queries that the
    `<|ref|>` embedding gives, and these are also drawn towards those tokens: the segmenter learns to look where it is
    pointed at, and the queries learn to point. Every `<|ref|>` has its `<|seg|>` in the same order.

    Args:
        corrections: share of the batches that are decoded a second time with a click where the first mask was wrong.
        given_masks: share of the clip batches that are followed from the true masks of the first frame.
    """
    embeds = model.encode_points(
        batch["point_coords"], batch["point_labels"], batch["point_frames"], batch["point_num_frames"]
    )
    queries, sam = model.compute_seg_tokens(embeds).float(), model.segmenter
    native = torch.stack(
        [
            sam.prompt_encoder(xy[None, None], kind[None, None], None, None)[0][0, 0, :2]  # a point is padded to two
            for xy, kind in zip(batch["point_coords"], batch["point_labels"], strict=True)
        ]
    )
    asked = torch.where(torch.rand(len(queries), 1, 1, device=queries.device) < 0.5, native, queries)
    pointing = (queries - native.detach()).pow(2).mean()
    counts = [t.shape[1] for t in batch["target_masks"]]
    if any(len(frames) > 1 for frames in batch["sam_frames"]):
        given = [t[0] for t in batch["target_masks"]] if torch.rand(()) < given_masks else None
        steps = model.segment(list(asked.split(counts)), batch["sam_frames"], given=given)
        parts = [
            segment_loss(d, t, weights) for d, t in zip(steps, batch["target_masks"], strict=True) if d is not None
        ]
        segment = torch.stack(parts).mean()
        tracked = measure_ious([d and d[-1:] for d in steps], [t[-1:] for t in batch["target_masks"]])
        how = "given" if given is not None else "own"
        return {"loss": segment + pointing, f"tracking_{how}": segment, f"last_iou_{how}": tracked["mask_iou"]}
    goal = torch.cat([t[0] for t in batch["target_masks"]])  # (O, S, S)
    repeats = torch.tensor(counts, device=goal.device)
    contested = torch.stack([t[0].any(0) for t in batch["target_masks"]]).repeat_interleave(repeats, 0)
    features = sam.encode(torch.cat(batch["sam_frames"]))
    own = features[torch.arange(len(counts), device=goal.device).repeat_interleave(repeats)]
    decoded = sam.decode(sam.add_no_memory(own), own, asked, mark_absent=False)
    segment = frame_loss(decoded, goal, weights, contested).sum_weighted(weights)
    loss = segment + pointing
    terms = {"segment": segment, "pointing": pointing, **measure_ious([[decoded]], [goal[None]])}
    if corrections and torch.rand(()) < corrections:
        points = draw_correction_clicks(decoded.low_res_masks[:, 0], goal, sam.config.image_size)
        again = sam.decode(sam.add_no_memory(own), own, queries, points, mark_absent=False)
        loss = loss + frame_loss(again, goal, weights, contested).sum_weighted(weights)
        terms["corrected_iou"] = measure_ious([[again]], [goal[None]])["mask_iou"]
    return {"loss": loss, **terms}


@torch.no_grad()
def draw_correction_clicks(low_res_masks: Tensor, goal: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """One click per object inside the region where its mask is wrong: (O, 1, 2) SAM pixels and (O, 1) labels.

    Args:
        low_res_masks: (O, h, w) logits.
        goal: (O, S, S) bool.
    """
    wanted = torch.nn.functional.interpolate(goal[:, None].float(), size=low_res_masks.shape[-2:], mode="area")[:, 0]
    missed, extra = (wanted > 0.5) & (low_res_masks <= 0), (wanted < 0.5) & (low_res_masks > 0)
    wrong = (missed | extra).flatten(1).float()
    # a perfect mask gets a click on itself
    chance = torch.where(wrong.any(-1, keepdim=True), wrong, (wanted > 0.5).flatten(1).float()) + 1e-9
    cell = torch.multinomial(chance, 1)[:, 0]
    width = low_res_masks.shape[-1]
    scale = size / width
    coords = (torch.stack([cell % width, cell // width], -1) + 0.5) * scale
    labels = (wanted.flatten(1).gather(1, cell[:, None]) > 0.5).long()
    return coords[:, None], labels


@torch.no_grad()
def measure_ious(decoded: list[Any], targets: list[Tensor | None], kinds: list[str] | None = None) -> dict[str, Tensor]:
    """Mean IoU of the chosen masks with their targets on the first frame, for the log; also by kind of question."""
    ious = []
    for steps, target in zip(decoded, targets, strict=False):
        if steps is None or target is None:
            continue
        logits = steps[0].low_res_masks[:, 0].float()
        goal = torch.nn.functional.interpolate(target[:1].float(), size=logits.shape[-2:], mode="area")[0] > 0.5
        mask = logits > 0
        ious.append((mask & goal).sum((-1, -2)) / (mask | goal).sum((-1, -2)).clamp(min=1))
    if not ious:
        return {}
    every = torch.cat(ious)
    by_kind = {}
    for kind in sorted(set(kinds or [])):
        by_kind[f"iou_{kind}"] = every[torch.tensor([k == kind for k in kinds or []], device=every.device)].mean()
    return {"mask_iou": every.mean(), **by_kind}


def pointing_loss(model: UniPixel, queries: list[Tensor], targets: list[Tensor | None]) -> Tensor:
    """Squared distance of mask queries to SAM's own tokens of the box around the object on the first frame."""
    sam, losses = model.segmenter, []
    for query, target in zip(queries, targets, strict=True):
        if target is None or not len(query):
            continue
        first = target[0]
        there = first.flatten(1).any(-1)
        if not there.any():
            continue
        rows, columns = first[there].any(2).float(), first[there].any(1).float()
        size = first.shape[-1]
        low = torch.stack([columns.argmax(-1), rows.argmax(-1)], -1)
        high = size - torch.stack([columns.flip(-1).argmax(-1), rows.flip(-1).argmax(-1)], -1)
        corners = torch.stack([low, high], 1).float()
        labels = torch.tensor([2, 3], device=corners.device).expand(len(corners), 2)
        with torch.no_grad():
            native = sam.prompt_encoder(corners[:, None], labels[:, None], None, None)[0][:, 0, :2]
        count = min(query.shape[1], native.shape[1])  # models with another number of queries match what they have
        losses.append((query[there, :count].float() - native[:, :count].float()).pow(2).mean((1, 2)))
    return torch.cat(losses).mean() if losses else model.lm_head.weight.new_zeros(())


class TrainingStep(nn.Module):
    """A model with its objective: batches in, loss terms out."""

    accepts_loss_kwargs = True

    def __init__(self, model: UniPixel, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe

    def forward(self, totals: Tensor | None = None, with_output: bool = False, **batch: Any) -> Any:
        """Loss terms of a batch, ``loss`` among them.

        Args:
            totals: (4,) learnt tokens and segmented samples of the whole optimiser step over all processes, batches
                that each process accumulates, and processes. With it the losses of all of them add up (and average
                over processes) to that of one large batch.
            with_output: also give what the losses were computed from.
            batch: of the model's training forward, with ``seg_tasks`` and perhaps ``cell_words``.
        """
        kinds, words = batch.pop("seg_tasks", None), batch.pop("cell_words", None)
        recipe = self.recipe
        if isinstance(recipe, StickerRecipe) and recipe.objective != "conversation":
            terms = self._run_without_decoder(recipe, batch, words)
            terms["loss"] = terms["loss"] / (1.0 if totals is None else totals[2])
            return terms
        kept: dict[str, Any] = {}
        if isinstance(recipe, StickerRecipe) and recipe.binding:
            with record_layer_input(self.model, BINDING_LAYER) as kept:
                output = self.model(**batch)
        else:
            output = self.model(**batch)
        terms = total_loss(output, batch, recipe.losses)
        if totals is not None:
            tokens, samples, _, processes = totals
            own_tokens = (batch["labels"][:, 1:] != -100).sum()
            own_samples = sum(t is not None for t in batch["target_masks"])
            language = terms["language"] * (own_tokens * processes / tokens)
            terms["loss"] = language + terms["segment"] * (own_samples * processes / samples.clamp(min=1))
        terms |= measure_ious(output.decoded, batch["target_masks"], kinds)
        if isinstance(recipe, StickerRecipe):
            added = self._add_helper_losses(recipe, batch, output, kept, words, terms)
            terms["loss"] = terms["loss"] + added / (1.0 if totals is None else totals[2])
        return (terms, output) if with_output else terms

    def _run_without_decoder(
        self, recipe: StickerRecipe, batch: dict[str, Any], words: Tensor | None
    ) -> dict[str, Tensor]:
        """Objectives that leave the decoder out."""
        if recipe.objective == "prompt":
            return prompt_loss(self.model, batch, recipe.losses, recipe.corrections, recipe.given_masks)
        assert words is not None  # `StickerTraining` gives them where the recipe has `dense_words`
        vision = self.model.encode_vision(batch["pixel_values"], batch["grid_thw"])
        terms = word_loss(self.model, vision.merged, words)
        return terms | {"loss": terms["words"]}

    def _add_helper_losses(
        self,
        recipe: StickerRecipe,
        batch: dict[str, Any],
        output: TrainingOutput,
        kept: dict[str, Any],
        words: Tensor | None,
        terms: dict[str, Tensor],
    ) -> Tensor:
        """Sum of the weighted helper losses; each is also put into ``terms``."""
        added = output.logits.new_zeros(())
        if words is not None and output.vision is not None:
            terms |= word_loss(self.model, output.vision.merged, words)
            added = added + recipe.dense_words * terms["words"]
        if recipe.binding:
            counts = [len(q) for q in output.seg_tokens]
            terms |= binding_loss(self.model, BINDING_LAYER, kept, batch, counts)
            added = added + recipe.binding * terms["binding"]
        if recipe.pointing:
            terms["pointing"] = pointing_loss(self.model, output.seg_tokens, batch["target_masks"])
            added = added + recipe.pointing * terms["pointing"]
        return added
