"""The training loop: `transformers.Trainer` with our losses, parameter groups and checkpoint layout."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import fill, read_checkpoint, save_model
from unipixel.processing.processor import Processor
from unipixel.train.binding import binding_loss, layer_input
from unipixel.train.data import Collator
from unipixel.train.losses import LossWeights, frame_loss, segment_loss, total_loss, word_loss
from unipixel.train.recipes import Recipe

BINDING_LAYER = 1
"""Decoder layer of the "binding" helper: the words are read, and two layers are left to work with what was found."""


def prompt_loss(
    model: UniPixel, batch: dict[str, Any], weights: LossWeights, corrections: float = 0.0
) -> dict[str, Tensor]:
    """Mask loss of queries made without language, on stills and clips.

    Half of the objects are asked for with SAM's own tokens of their point or box, half with the mask queries that the
    `<|ref|>` embedding gives, and these are also drawn towards those tokens: the segmenter learns to look where it is
    pointed at, and the queries learn to point. Every `<|ref|>` has its `<|seg|>` in the same order.

    Args:
        corrections: share of the batches that are decoded a second time with a click where the first mask was wrong.
    """
    embeds = model.encode_points(
        batch["point_coords"], batch["point_labels"], batch["point_frames"], batch["point_num_frames"]
    )
    queries, sam = model.seg_tokens(embeds).float(), model.segmenter
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
        steps = model.segment(list(asked.split(counts)), batch["sam_frames"])
        parts = [
            segment_loss(d, t, weights) for d, t in zip(steps, batch["target_masks"], strict=True) if d is not None
        ]
        segment = torch.stack(parts).mean()
        tracked = accuracy([d and d[-1:] for d in steps], [t[-1:] for t in batch["target_masks"]])
        return {"loss": segment + pointing, "tracking": segment, "last_iou": tracked["mask_iou"]}
    goal = torch.cat([t[0] for t in batch["target_masks"]])  # (O, S, S)
    repeats = torch.tensor(counts, device=goal.device)
    contested = torch.stack([t[0].any(0) for t in batch["target_masks"]]).repeat_interleave(repeats, 0)
    features = sam.encode(torch.cat(batch["sam_frames"]))
    own = features[torch.arange(len(counts), device=goal.device).repeat_interleave(repeats)]
    decoded = sam.decode(sam.unconditioned(own), own, asked, mark_absent=False)
    segment = frame_loss(decoded, goal, weights, contested).total(weights)
    loss = segment + pointing
    terms = {"segment": segment, "pointing": pointing, **accuracy([[decoded]], [goal[None]])}
    if corrections and torch.rand(()) < corrections:
        points = correction_clicks(decoded.low_res_masks[:, 0], goal, sam.config.image_size)
        again = sam.decode(sam.unconditioned(own), own, queries, points, mark_absent=False)
        loss = loss + frame_loss(again, goal, weights, contested).total(weights)
        terms["corrected_iou"] = accuracy([[again]], [goal[None]])["mask_iou"]
    return {"loss": loss, **terms}


@torch.no_grad()
def correction_clicks(low_res_masks: Tensor, goal: Tensor, size: int) -> tuple[Tensor, Tensor]:
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
def accuracy(decoded: list[Any], targets: list[Tensor | None], kinds: list[str] | None = None) -> dict[str, Tensor]:
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
        losses.append((query[there].float() - native.float()).pow(2).mean((1, 2)))
    return torch.cat(losses).mean() if losses else model.lm_head.weight.new_zeros(())


class UniPixelTrainer(Trainer):
    """Trains a `UniPixel`; checkpoints are complete folders in the official layout that resume exactly."""

    def __init__(self, model: UniPixel, processor: Processor, recipe: Recipe, **kwargs: Any) -> None:
        self._recipe = recipe
        self._processor = processor
        self._terms: dict[str, list[float]] = defaultdict(list)
        super().__init__(model=model, data_collator=Collator(processor, model.config), **kwargs)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """The recipe's objective; its terms are averaged into the next log line."""
        terms = self._objective(model, inputs)
        for name, value in terms.items():
            self._terms[name].append(float(value.detach()))
        return (terms["loss"], {}) if return_outputs else terms["loss"]

    def _objective(self, model: UniPixel, batch: dict[str, Any]) -> dict[str, Tensor]:
        recipe, words, kinds = self._recipe, batch.pop("cell_words", None), batch.pop("seg_tasks", None)
        inner = self.accelerator.unwrap_model(model)
        if recipe.objective == "prompt":
            return prompt_loss(inner, batch, recipe.losses, recipe.corrections)
        if recipe.objective == "words":
            vision = inner.encode_vision(batch["pixel_values"], batch["grid_thw"])
            terms = word_loss(inner, vision.merged, words)
            return terms | {"loss": terms["words"]}
        with layer_input(inner, BINDING_LAYER) as kept:
            output = model(**batch)
        terms = total_loss(output, batch, recipe.losses)
        terms |= accuracy(output.decoded, batch["target_masks"], kinds)
        if words is not None and output.vision is not None:
            terms |= word_loss(inner, output.vision.merged, words)
            terms["loss"] = terms["loss"] + recipe.dense_words * terms["words"]
        if recipe.binding:
            counts = [len(q) for q in output.seg_tokens]
            terms |= binding_loss(inner, BINDING_LAYER, kept, batch, counts)
            terms["loss"] = terms["loss"] + recipe.binding * terms["binding"]
        if recipe.pointing:
            terms["pointing"] = pointing_loss(inner, output.seg_tokens, batch["target_masks"])
            terms["loss"] = terms["loss"] + recipe.pointing * terms["pointing"]
        return terms

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the averaged loss terms since the last line."""
        for name, values in self._terms.items():
            if name != "loss":
                logs[name] = round(sum(values) / len(values), 4)
        self._terms.clear()
        super().log(logs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        model = self.accelerator.unwrap_model(self.model)
        save_model(model, folder)
        self._processor.save(folder)
        torch.save(self.args, folder / "training_args.bin")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        target = self.accelerator.unwrap_model(model or self.model)
        load_into(target, resume_from_checkpoint)


def load_into(model: UniPixel, folder: str | Path, parts: tuple[str, ...] = ("",)) -> None:
    """Copy the weights of a checkpoint folder into a model of the same sizes; only names under ``parts``."""
    config, tensors = read_checkpoint(folder)
    other = UniPixel(config)
    fill(other, tensors, folder)
    wanted = {k: v for k, v in other.state_dict().items() if k.startswith(parts)}
    missing = [k for k in model.state_dict() if k.startswith(parts) and k not in wanted]
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} tensors under {parts}, such as {missing[0]}")
    with torch.no_grad():
        own = model.state_dict()
        for name, value in wanted.items():
            own[name].copy_(value)


class JsonLines(TrainerCallback):
    """Appends every log line to ``log.jsonl`` in the run folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "log.jsonl"
        self._began = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Write one line."""
        line = {"step": state.global_step, "seconds": round(time.monotonic() - self._began, 1), **(logs or {})}
        with self._file.open("a") as out:
            out.write(json.dumps(line) + "\n")


def arguments(
    recipe: Recipe, folder: Path, *, workers: int = 1, bf16: bool = True, save_steps: int = 100
) -> TrainingArguments:
    """The recipe in transformers' terms."""
    cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(folder),
        use_cpu=not cuda,
        bf16=bf16,
        per_device_train_batch_size=recipe.batch_size,
        max_steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        adam_beta1=0.9,
        adam_beta2=recipe.adam_beta2,
        max_grad_norm=recipe.max_grad_norm,
        warmup_steps=recipe.warmup_steps,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": int(recipe.steps * recipe.decay_share)},
        logging_steps=50,
        save_steps=save_steps,
        ddp_backend="gloo" if not cuda and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None,
        save_total_limit=2,
        dataloader_num_workers=workers,
        dataloader_prefetch_factor=4 if workers else None,
        dataloader_persistent_workers=workers > 0,
        remove_unused_columns=False,
        label_names=[],
        report_to=[],
        seed=recipe.seed,
        disable_tqdm=True,
    )


def train(model: UniPixel, processor: Processor, recipe: Recipe, dataset: Any, folder: Path, **options: Any) -> Path:
    """Run a recipe, going on from the newest checkpoint in ``folder`` if there is one. Returns the final folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(recipe.trainable))
    trainer = UniPixelTrainer(
        model,
        processor,
        recipe,
        args=arguments(recipe, folder, **options),
        train_dataset=dataset,
        callbacks=[JsonLines(folder)],
    )
    resume = any(folder.glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=resume or None)
    final = folder / "final"
    trainer._save(str(final))
    return final
