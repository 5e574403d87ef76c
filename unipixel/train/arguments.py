"""A recipe in the terms of `transformers.TrainingArguments`, and how a batch is shared among processes."""

from __future__ import annotations

import math
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType  # type: ignore[import-untyped]
from transformers import TrainingArguments

from unipixel.train.parallel import PARALLEL
from unipixel.train.recipe import Recipe

TRACKERS = ("tensorboard", "wandb", "trackio")


def count_processes() -> int:
    """How many processes share the run, as ``torchrun`` says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def choose_trackers(names: tuple[str, ...]) -> list[str]:
    """Where figures go besides console and ``log.jsonl``: TensorBoard where it is installed, others when named.

    Args:
        names: of `TRACKERS`; "none" for none at all.

    Raises:
        ValueError: one is unknown or not installed.
    """
    if names == ("none",):
        return []
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"the tracker {name!r} is unknown; there are {', '.join(TRACKERS)} and none")
        if find_spec(name) is None:
            raise ValueError(f"the tracker {name!r} is not installed; install the package {name}, or leave it out")
    return list(dict.fromkeys([*(["tensorboard"] if find_spec("tensorboard") else []), *names]))


def divide_batch(recipe: Recipe) -> tuple[int, int]:
    """(samples that a process takes at once, batches it accumulates) that make up the recipe's batch.

    Raises:
        ValueError: the batch cannot be divided so.
    """
    world = count_processes()
    micro = recipe.micro_batch or recipe.batch_size // world
    if micro < 1 or recipe.batch_size % (micro * world):
        raise ValueError(
            f"batch_size is {recipe.batch_size}, which {world} processes with micro_batch {recipe.micro_batch} cannot "
            f"share evenly; take a multiple of {max(1, micro) * world}"
        )
    return micro, recipe.batch_size // (micro * world)


def count_warmup_steps(recipe: Recipe) -> int:
    """Steps over which the rate rises."""
    return recipe.warmup_steps or math.ceil(recipe.steps * recipe.warmup_share)


def build_arguments(
    recipe: Recipe, folder: Path, *, workers: int = 1, parallel: str = "ddp", report: tuple[str, ...] = ()
) -> TrainingArguments:
    """Everything that transformers wants to know.

    Args:
        recipe: with ``steps``.
        folder: of the run.
        workers: processes that load data.
        parallel: key of `PARALLEL`; read where several processes share the run.
        report: trackers besides TensorBoard.

    Raises:
        ValueError: the batch cannot be shared, or a tracker or way of sharing is unknown or does not fit the recipe.
    """
    if parallel not in PARALLEL:
        raise ValueError(f"the way to share a run is {parallel!r}; there are {', '.join(PARALLEL)}")
    if recipe.muon and parallel != "ddp":
        raise ValueError(f"{parallel} cuts matrices up, which Muon needs whole; use ddp, or --set muon=0")
    if parallel.startswith("zero") and find_spec("deepspeed") is None:
        raise ValueError(f"{parallel} needs the package deepspeed, which is not installed; fsdp needs nothing more")
    cuda = torch.cuda.is_available()
    micro, accumulated = divide_batch(recipe)
    shared: dict[str, Any] = PARALLEL[parallel] if count_processes() > 1 else {}
    stable = recipe.schedule == "stable"
    made = TrainingArguments(
        output_dir=str(folder),
        use_cpu=not cuda,
        tf32=True if cuda else None,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulated,
        max_steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        adam_beta1=0.9,
        adam_beta2=recipe.adam_beta2,
        max_grad_norm=recipe.max_grad_norm,
        warmup_steps=count_warmup_steps(recipe),
        lr_scheduler_type="warmup_stable_decay" if stable else "cosine",
        lr_scheduler_kwargs={"num_decay_steps": int(recipe.steps * recipe.decay_share)} if stable else {},
        logging_steps=recipe.log_steps,
        save_steps=recipe.save_steps,
        ddp_backend="gloo" if not cuda and count_processes() > 1 else None,
        dataloader_num_workers=workers,
        dataloader_prefetch_factor=4 if workers else None,
        dataloader_persistent_workers=workers > 0,
        remove_unused_columns=False,
        label_names=[],
        report_to=choose_trackers(report),
        seed=recipe.seed,
        disable_tqdm=True,
        **shared,
    )
    if "fsdp" in shared and not cuda:
        # accelerate takes FSDP for a matter of GPUs, and would make whole copies without a word
        made.distributed_state.distributed_type = DistributedType.MULTI_GPU
    return made
