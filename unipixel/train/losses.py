"""What training minimises: the recipe's objective as a module, and the terms that it is made of.

Next-token loss plus, per object and frame, mask, IoU and presence losses; and helpers for models that start from
nothing. Source: UniPixel, section 3.4; SAM 2, appendix D.2 for the mask losses and their weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipixel.model import language
from unipixel.model.prompt_encoder import RegionPool
from unipixel.model.segmenter import MaskPrediction, Segmenter
from unipixel.model.unipixel import TrainingOutput, UniPixel
from unipixel.model.vision import Grid
from unipixel.processing.collation import IGNORE_INDEX, TrainingBatch
from unipixel.train.recipe import LossWeights, Recipe, StickerRecipe

BINDING_LAYER = 1
"""Decoder layer of the "binding" helper: the words are read, and two layers are left to work with what was found."""


def language_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the K learnt tokens in fp32: logits (K, V), labels (B, L) with -100 elsewhere."""
    following = labels[:, 1:]
    return F.cross_entropy(logits.float(), following[following != -100])


def frame_loss(
    decoded: MaskPrediction, target: Tensor, weights: LossWeights, contested: Tensor | None = None
) -> dict[str, Tensor]:
    """Losses of O objects on one frame: their weighted sum as ``loss``, and its unweighted terms.

    Terms are named as in `LossWeights`, summed over the objects and divided by O. ``focal_per_mask`` and
    ``dice_per_mask``, (O, 3), are those before the best candidate is chosen, divided by O.

    Args:
        decoded: candidates of the O objects.
        target: (O, S, S) bool ground truth; an empty mask means that the object is not there.
        contested: (1 or O, S, S) bool, pixels of the `LossWeights.selection` term; by default those of all targets.
    """
    count = len(target)
    goal = target.float()[:, None]
    if weights.full_resolution:
        logits = F.interpolate(decoded.multimask_logits.float(), size=goal.shape[-2:], mode="bilinear")
    else:
        logits = decoded.multimask_logits.float()
        goal = F.interpolate(goal, size=logits.shape[-2:], mode="area")
    goal = goal.expand_as(logits)  # (O, 3, h, w)
    focal, dice = focal_loss(logits, goal) / count, dice_loss(logits, goal) / count
    entropy = F.binary_cross_entropy_with_logits(logits, goal, reduction="none").mean((-1, -2)) / count
    candidates = weights.focal * focal + weights.dice * dice + weights.entropy * entropy
    with torch.no_grad():
        covered, wanted = logits > 0, goal > 0.5
        joint = (covered & wanted).sum((-1, -2)) / (covered | wanted).sum((-1, -2)).clamp(min=1)
        best = candidates.argmin(-1, keepdim=True)
    there = target.flatten(1).any(-1).float()
    selection = logits.new_zeros(())
    if weights.selection:
        region = (target.any(0, keepdim=True) if contested is None else contested).float()[:, None]
        region = (F.interpolate(region, size=logits.shape[-2:], mode="area") > 0.5).float()
        doubt = F.binary_cross_entropy_with_logits(logits, goal, reduction="none") * region
        selection = (doubt.sum((-1, -2)) / region.sum((-1, -2)).clamp(min=1)).mean(-1).sum() / count
    iou = (decoded.multimask_ious.float() - joint).abs().mean(-1) / count
    score = decoded.object_score_logits.float()
    terms = {
        "focal": (focal.gather(1, best)[:, 0] * there).sum(),
        "dice": (dice.gather(1, best)[:, 0] * there).sum(),
        "entropy": (entropy.gather(1, best)[:, 0] * there).sum(),
        "every_candidate": (candidates.mean(-1) * there).sum(),
        "selection": selection,
        "iou": (iou * there).sum(),
        "presence": F.binary_cross_entropy_with_logits(score, there, reduction="sum") / count,
    }
    loss = sum((getattr(weights, name) * term for name, term in terms.items()), start=logits.new_zeros(()))
    return {"loss": loss, **terms, "focal_per_mask": focal, "dice_per_mask": dice}


def focal_loss(logits: Tensor, goal: Tensor, alpha: float = 0.25) -> Tensor:
    """Sigmoid focal loss with gamma 2, averaged over pixels: (O, 3, h, w) -> (O, 3)."""
    prob = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    hit = prob * goal + (1 - prob) * (1 - goal)
    balance = alpha * goal + (1 - alpha) * (1 - goal)
    return (balance * (1 - hit) ** 2 * entropy).mean((-1, -2))


def dice_loss(logits: Tensor, goal: Tensor) -> Tensor:
    """1 - smoothed dice coefficient: (O, 3, h, w) -> (O, 3)."""
    prob = logits.sigmoid()
    joint = (prob * goal).sum((-1, -2))
    return 1 - (2 * joint + 1) / (prob.sum((-1, -2)) + goal.sum((-1, -2)) + 1)


def segment_loss(decoded: Sequence[MaskPrediction], targets: Tensor, weights: LossWeights) -> Tensor:
    """Loss of one sample, averaged over its frames: one entry of ``decoded`` for each, targets (T, O, S, S).

    Frames that were prompted one by one count as objects of one frame, which comes to the same mean.
    """
    frames = [frame_loss(d, t, weights)["loss"] for d, t in zip(decoded, targets, strict=True)]
    return torch.stack(frames).sum() / len(frames)


def _find_named(cell_words: Tensor) -> Tensor:
    """(R,) bool: the visual tokens with the name of a thing; the commonest word of all is that for background.

    Args:
        cell_words: (R,) token ids, -100 where nothing is learnt.
    """
    known = cell_words != IGNORE_INDEX
    return known & (cell_words != cell_words[known].mode().values) if known.any() else known


def word_loss(model: UniPixel, visual: Tensor, cell_words: Tensor) -> dict[str, Tensor]:
    """Each visual token, read by the language head, says the name of what it shows.

    Args:
        visual: (R, D) visual tokens.
        cell_words: (R,) token ids, as in `_find_named`.
    """
    logits = model.lm_head(F.rms_norm(visual.float(), visual.shape[-1:])).float()
    named = _find_named(cell_words)
    nothing = (cell_words != IGNORE_INDEX) & ~named
    if not nothing.any():  # a batch of photos, whose cells are not named
        return {"words": visual.sum() * 0.0}
    entropy = F.cross_entropy(logits, cell_words, ignore_index=IGNORE_INDEX, reduction="none")
    loss = 0.3 * entropy[nothing].mean()
    if not named.any():  # every cell has the same word
        return {"words": loss}
    right = (logits[named].argmax(-1) == cell_words[named]).float().mean()
    return {"words": loss + entropy[named].mean(), "word_accuracy": right}


def region_word_loss(
    model: UniPixel, mem: Tensor, grid_thw: Sequence[Grid], masks: Sequence[Tensor | None], cell_words: Tensor
) -> dict[str, Tensor]:
    """Each `<|mem|>` row, read by the language head, says the name of its object; nothing where no row has one.

    What is learnt of names in words then holds for objects that are shown.

    Args:
        mem: (rows, D) from `UniPixel.pool_regions`.
        grid_thw, masks: those of its visuals, as in `RegionPool.pool`.
        cell_words: (R,) token ids, as in `_find_named`; a row's name is the commonest under its mask.
    """
    named = _find_named(cell_words)
    words, which = cell_words[named].unique(return_inverse=True)
    if not len(words) or not len(mem):
        return {}
    votes = mem.new_zeros(len(cell_words), len(words))
    votes[named] = F.one_hot(which, len(words)).to(votes)
    shares = RegionPool.pool(votes, grid_thw, masks)
    labels = torch.where(shares.amax(1) > 0, words[shares.argmax(1)], IGNORE_INDEX)
    if not (labels != IGNORE_INDEX).any():
        return {}
    logits = model.lm_head(F.rms_norm(mem.float(), mem.shape[-1:])).float()
    right = (logits.argmax(-1) == labels)[labels != IGNORE_INDEX].float().mean()
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX)
    return {"region_words": loss, "region_word_accuracy": right}


def total_loss(output: TrainingOutput, batch: TrainingBatch, weights: LossWeights) -> dict[str, Tensor]:
    """Next-token loss plus the mean over samples of their segmentation losses; all terms for the log."""
    terms = {"language": language_loss(output.logits, batch["labels"])}
    parts = [
        segment_loss(decoded, target, weights)
        for decoded, target in zip(output.decoded, batch["target_masks"], strict=True)
        if decoded is not None and target is not None
    ]
    terms["segment"] = torch.stack(parts).mean() if parts else output.logits.new_zeros(())
    terms["loss"] = terms["language"] + terms["segment"]
    return terms


@contextmanager
def record_layer_input(model: UniPixel, layer: int) -> Iterator[dict[str, Any]]:
    """Keep what a decoder layer is given during a forward pass: ``hidden`` (B, L, D) and ``rotary``."""
    kept: dict[str, Any] = {}

    def keep(_: Any, args: tuple[Any, ...]) -> None:
        kept.update(hidden=args[0], rotary=args[1])

    handle = model.language.layers[layer].register_forward_pre_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


def binding_loss(
    model: UniPixel, layer: int, kept: dict[str, Any], batch: TrainingBatch, counts: list[int]
) -> dict[str, Tensor]:
    """Negative log share of attention on the object's cells, and that share itself.

    Args:
        layer: number of the decoder layer whose input was kept.
        kept: from `record_layer_input`.
        batch: of the training forward, one visual per sample.
        counts: number of `<|seg|>` in each sample.
    """
    config, attention = model.config, model.language.layers[layer].self_attn
    ids = batch["input_ids"]
    x = model.language.layers[layer].input_layernorm(kept["hidden"])
    head = attention.head_dim
    query = attention.q_proj(x).unflatten(-1, (-1, head)).transpose(1, 2)
    key = attention.k_proj(x).unflatten(-1, (-1, head)).transpose(1, 2)
    query, key = (language.rotate(one, *kept["rotary"]) for one in (query, key))
    query = query[:, ::2]  # the heads whose keys began as copies of them; one per group
    visible = language.build_attention_bias(batch["attention_mask"], len(ids), ids.shape[1], 0, ids.device)
    assert visible is not None  # only a single token has no mask
    merge = config.vision.spatial_merge_size
    losses, shares = [], []
    assert batch["grid_thw"] is not None
    for b, (t, h, w) in enumerate(batch["grid_thw"].tolist()):
        target = batch["target_masks"][b]
        if not counts[b] or target is None:
            continue
        asking = torch.nonzero(ids[b, 1:] == config.seg_token_id)[:, 0]
        seen = torch.nonzero(ids[b] == config.video_token_id)[:, 0]
        steps = target[torch.linspace(0, len(target) - 1, t).round().long()].float()  # (t, O, S, S)
        cover = F.adaptive_avg_pool2d(steps, (h // merge, w // merge)).transpose(0, 1).flatten(1)  # (O, t * cells)
        there = cover.amax(1) > 0.1
        if not there.any():
            continue
        wanted = (cover / cover.amax(1, keepdim=True).clamp(min=1e-6))[there]
        logits = query[b][:, asking[there]].float() @ key[b].float().transpose(1, 2) / head**0.5
        logits = logits.masked_fill(~visible[b, 0, asking[there]], float("-inf"))
        share = (logits.softmax(-1)[..., seen] * wanted).sum(-1).clamp(min=1e-6)  # (heads, O)
        losses.append(-share.log().mean(0))
        shares.append(share.mean(0))
    if not losses:
        zero = kept["hidden"].new_zeros(())
        return {"binding": zero, "binding_share": zero}
    return {"binding": torch.cat(losses).mean(), "binding_share": torch.cat(shares).mean().detach()}


def prompt_loss(model: UniPixel, batch: TrainingBatch, recipe: StickerRecipe) -> dict[str, Tensor]:
    """Mask loss of queries made without language, on stills and clips.

    Some of the objects are asked for with SAM's own tokens of their point or box, the others with the mask queries that
    the `<|ref|>` embedding gives, and these are also drawn towards those tokens: the segmenter learns to look where it
    is pointed at, and the queries learn to point. Every `<|ref|>` has its `<|seg|>` in the same order.

    Args:
        recipe: its settings for the "prompt" objective say how many objects, batches and clips are treated how.
    """
    weights, sam = recipe.losses, model.segmenter
    native = encode_prompts(sam, batch["point_coords"], batch["point_labels"])
    chance = torch.rand(3, len(native), 1, 1, device=native.device)
    noise = recipe.prompt_noise * chance[0] * (chance[1] < 0.5)
    asked = native + noise * torch.randn_like(native) if recipe.prompt_noise else native
    pointing = native.new_zeros(())
    if recipe.query_share:
        embeds = model.encode_points(
            batch["point_coords"], batch["point_labels"], batch["point_frames"], batch["point_num_frames"]
        )
        queries = model.compute_seg_tokens(embeds).float()
        asked = torch.where(chance[2] < recipe.query_share, queries, asked)
        pointing = (queries - native.detach()).pow(2).mean()
    # every sample of this objective segments something
    targets = [t for t in batch["target_masks"] if t is not None]
    frames = [f for f in batch["sam_frames"] if f is not None]
    counts = [t.shape[1] for t in targets]
    if any(len(clip) > 1 for clip in frames):
        given = [t[0] for t in targets] if torch.rand(()) < recipe.given_masks else None
        steps = model.segment(list(asked.split(counts)), batch["sam_frames"], given=given)
        parts = [segment_loss(d, t, weights) for d, t in zip(steps, targets, strict=True) if d is not None]
        segment = torch.stack(parts).mean()
        tracked = measure_ious([d and d[-1:] for d in steps], [t[-1:] for t in targets])
        how = "given" if given is not None else "own"
        return {"loss": segment + pointing, f"tracking_{how}": segment, f"last_iou_{how}": tracked["mask_iou"]}
    goal = torch.cat([t[0] for t in targets])  # (O, S, S)
    repeats = torch.tensor(counts, device=goal.device)
    contested = torch.stack([t[0].any(0) for t in targets]).repeat_interleave(repeats, 0)
    features = sam.encode(torch.cat(frames))
    own = features[torch.arange(len(counts), device=goal.device).repeat_interleave(repeats)]
    decoded = sam.decode(sam.add_no_memory(own), own, asked, mark_absent=False)
    segment = frame_loss(decoded, goal, weights, contested)["loss"]
    loss = segment + pointing
    terms = {"segment": segment, "pointing": pointing, **measure_ious([[decoded]], [goal[None]])}
    if recipe.corrections and torch.rand(()) < recipe.corrections:
        points = draw_correction_clicks(decoded.low_res_masks[:, 0], goal, sam.config.image_size)
        again = sam.decode(sam.add_no_memory(own), own, asked, points, mark_absent=False)
        loss = loss + frame_loss(again, goal, weights, contested)["loss"]
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
def measure_ious(
    decoded: Sequence[Any], targets: Sequence[Tensor | None], kinds: list[str] | None = None
) -> dict[str, Tensor]:
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


def encode_prompts(sam: Segmenter, coords: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """SAM's own tokens (N, 2, C) of N points or boxes; a point is padded to two."""
    return torch.stack([sam.prompt_encoder(xy[None], k[None])[0, :2] for xy, k in zip(coords, labels, strict=True)])


def pointing_loss(
    model: UniPixel,
    queries: list[Tensor],
    targets: list[Tensor | None],
    prompts: Sequence[tuple[Tensor, Tensor] | None] = (),
) -> Tensor:
    """Squared distance of mask queries to SAM's own tokens of what they point at.

    That is the point or box that the question gave, or else the box around the object on the first frame.

    Args:
        queries: per sample (O, Q, C).
        targets: per sample (T, O, S, S) bool, or None without masks.
        prompts: over the objects of all samples, coordinates and labels as SAM takes them; empty: none was given.
    """
    losses = []
    given = iter(prompts)
    for query, target in zip(queries, targets, strict=True):
        own = [next(given, None) for _ in range(len(query))]
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
        corner_labels = torch.tensor([2, 3], device=corners.device)
        shown = [
            own[n] or (box, corner_labels) for n, box in zip(torch.nonzero(there)[:, 0].tolist(), corners, strict=True)
        ]
        with torch.no_grad():
            native = encode_prompts(model.segmenter, [xy for xy, _ in shown], [labels for _, labels in shown])
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

    def forward(self, totals: Tensor | None = None, with_output: bool = False, **batch: Unpack[TrainingBatch]) -> Any:
        """Loss terms of a batch, ``loss`` among them.

        Args:
            totals: (4,) learnt tokens and segmented samples of the whole optimiser step over all processes, batches
                that each process accumulates, and processes. With it the losses of all of them add up (and average
                over processes) to that of one large batch.
            with_output: also give what the losses were computed from.
            batch: from `Processor.collate`.
        """
        kinds, words = batch.pop("seg_tasks", None), batch.pop("cell_words", None)
        prompts = batch.pop("seg_prompts", [])
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
            added = self._add_helper_losses(recipe, batch, output, kept, words, prompts, terms)
            terms["loss"] = terms["loss"] + added / (1.0 if totals is None else totals[2])
        return (terms, output) if with_output else terms

    def _run_without_decoder(
        self, recipe: StickerRecipe, batch: TrainingBatch, words: Tensor | None
    ) -> dict[str, Tensor]:
        """Objectives that leave the decoder out."""
        if recipe.objective == "prompt":
            return prompt_loss(self.model, batch, recipe)
        # `StickerDataset` gives them where the recipe has `dense_words`, and all its samples are videos or stills
        assert words is not None and batch["pixel_values"] is not None and batch["grid_thw"] is not None
        vision = self.model.encode_vision(batch["pixel_values"], batch["grid_thw"])
        terms = word_loss(self.model, vision.merged, words)
        if any(mask is not None for mask in batch["region_masks"]):
            mem = self.model.pool_regions(vision, batch["region_masks"])
            terms |= region_word_loss(self.model, mem, vision.grid_thw, batch["region_masks"], words)
        return terms | {"loss": terms["words"] + terms.get("region_words", 0.0)}

    def _add_helper_losses(
        self,
        recipe: StickerRecipe,
        batch: TrainingBatch,
        output: TrainingOutput,
        kept: dict[str, Any],
        words: Tensor | None,
        prompts: Sequence[tuple[Tensor, Tensor] | None],
        terms: dict[str, Tensor],
    ) -> Tensor:
        """Sum of the weighted helper losses; each is also put into ``terms``."""
        added = output.logits.new_zeros(())
        if words is not None and output.vision is not None:
            terms |= word_loss(self.model, output.vision.merged, words)
            if output.mem is not None:
                grids, masks = output.vision.grid_thw, batch["region_masks"]
                terms |= region_word_loss(self.model, output.mem, grids, masks, words)
            added = added + recipe.dense_words * (terms["words"] + terms.get("region_words", 0.0))
        if recipe.binding and batch["grid_thw"] is not None:
            counts = [len(q) for q in output.seg_tokens]
            terms |= binding_loss(self.model, BINDING_LAYER, kept, batch, counts)
            added = added + recipe.binding * terms["binding"]
        if recipe.pointing:
            terms["pointing"] = pointing_loss(self.model, output.seg_tokens, batch["target_masks"], prompts)
            added = added + recipe.pointing * terms["pointing"]
        return added
