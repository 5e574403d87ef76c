"""What training minimises: next-token loss plus, per object and frame, mask, IoU and presence losses.

Source: UniPixel, section 3.4; SAM 2, appendix D.2 for the mask losses and their weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unipixel.model.segmenter import MaskPrediction
from unipixel.model.unipixel import TrainingOutput, UniPixel
from unipixel.train.loss_weights import LossWeights


@dataclass(frozen=True)
class FrameLoss:
    """Unweighted loss terms of one sample on one frame, summed over its O objects and divided by O."""

    focal: Tensor
    dice: Tensor
    iou: Tensor
    presence: Tensor
    focal_per_mask: Tensor
    """(O, 3) before choosing the best candidate, divided by O."""
    dice_per_mask: Tensor
    entropy: Tensor
    every_candidate: Tensor
    """Weighted mask loss averaged over the candidates."""
    selection: Tensor

    def sum_weighted(self, weights: LossWeights) -> Tensor:
        """The weighted sum."""
        return (
            weights.focal * self.focal
            + weights.dice * self.dice
            + weights.entropy * self.entropy
            + weights.every_candidate * self.every_candidate
            + weights.selection * self.selection
            + weights.iou * self.iou
            + weights.presence * self.presence
        )


def language_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the K learnt tokens in fp32: logits (K, V), labels (B, L) with -100 elsewhere."""
    following = labels[:, 1:]
    return F.cross_entropy(logits.float(), following[following != -100])


def frame_loss(
    decoded: MaskPrediction, target: Tensor, weights: LossWeights, contested: Tensor | None = None
) -> FrameLoss:
    """Losses of O objects on one frame.

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
    return FrameLoss(
        focal=(focal.gather(1, best)[:, 0] * there).sum(),
        dice=(dice.gather(1, best)[:, 0] * there).sum(),
        iou=(iou * there).sum(),
        presence=F.binary_cross_entropy_with_logits(score, there, reduction="sum") / count,
        focal_per_mask=focal,
        dice_per_mask=dice,
        entropy=(entropy.gather(1, best)[:, 0] * there).sum(),
        every_candidate=(candidates.mean(-1) * there).sum(),
        selection=selection,
    )


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


def segment_loss(
    decoded: Sequence[MaskPrediction], targets: Tensor, weights: LossWeights, *, propagate: bool = True
) -> Tensor:
    """Loss of one sample, averaged over its frames.

    Args:
        decoded: one entry per frame.
        targets: (T, O, S, S).
        propagate: False for frames that were prompted one by one: they then count as objects of one frame, so that
            the loss is their sum over T divided by T * O.
    """
    frames = [frame_loss(d, t, weights).sum_weighted(weights) for d, t in zip(decoded, targets, strict=True)]
    # one by one: O becomes T * O in every frame's mean and nothing is divided by T; both ways give the mean over T
    return torch.stack(frames).sum() / len(frames)


def word_loss(model: UniPixel, visual: Tensor, cell_words: Tensor) -> dict[str, Tensor]:
    """Each visual token, read by the language head, says the name of what it shows.

    Args:
        visual: (R, D) visual tokens.
        cell_words: (R,) token ids, -100 where nothing is learnt.
    """
    logits = model.lm_head(F.rms_norm(visual.float(), visual.shape[-1:])).float()
    known = cell_words != -100
    if not known.any():  # a batch of photos, whose cells are not named
        return {"words": visual.sum() * 0.0}
    nothing = known & (cell_words == cell_words[known].mode().values)  # the commonest word is that for background
    named = known & ~nothing
    entropy = F.cross_entropy(logits, cell_words, ignore_index=-100, reduction="none")
    loss = 0.3 * entropy[nothing].mean()
    if not named.any():  # every cell has the same word
        return {"words": loss}
    right = (logits[named].argmax(-1) == cell_words[named]).float().mean()
    return {"words": loss + entropy[named].mean(), "word_accuracy": right}


def total_loss(output: TrainingOutput, batch: dict[str, Any], weights: LossWeights) -> dict[str, Tensor]:
    """Next-token loss plus the mean over samples of their segmentation losses; all terms for the log."""
    terms = {"language": language_loss(output.logits, batch["labels"])}
    masks = batch.get("target_masks") or []
    parts = [
        segment_loss(decoded, target, weights)
        for decoded, target in zip(output.decoded, masks, strict=False)
        if decoded is not None
    ]
    terms["segment"] = torch.stack(parts).mean() if parts else output.logits.new_zeros(())
    terms["loss"] = terms["language"] + terms["segment"]
    return terms
