"""A recipe in the terms of `transformers.TrainingArguments`, and how several processes share a run.

Several are started with ``torchrun --nproc-per-node N -m -- unipixel train RECIPE --parallel NAME -o RUN``.
"""

from __future__ import annotations

import math
import os
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import nn
from transformers import TrainingArguments

from unipixel.model.language import DecoderLayer
from unipixel.train.recipe import Recipe

TRACKERS = ("tensorboard", "wandb", "trackio")


DECODER_LAYERS = ".language.layers."
"""What the names of parameters have in them that are kept in shards while they are not at work."""
_ZERO: dict[str, Any] = {
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "zero_allow_untested_optimizer": True,
}
PARALLEL: dict[str, dict[str, Any]] = {
    # a batch may have no box, no mask or no region
    "ddp": {"ddp_find_unused_parameters": True, "ddp_broadcast_buffers": False},
    "fsdp": {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            # the vision tower's blocks are narrow, so they stay in the outermost unit
            "transformer_layer_cls_to_wrap": [DecoderLayer.__name__],
            "reshard_after_forward": True,
            "state_dict_type": "FULL_STATE_DICT",
        },
    },
    "zero2": {
        "deepspeed": {
            **_ZERO,
            "zero_optimization": {
                "stage": 2,
                "overlap_comm": True,
                "contiguous_gradients": True,
                "reduce_bucket_size": 500_000_000,
            },
        }
    },
    "zero3": {
        "deepspeed": {
            **_ZERO,
            "zero_optimization": {
                "stage": 3,
                "overlap_comm": True,
                "contiguous_gradients": True,
                "reduce_bucket_size": 500_000_000,
                "stage3_param_persistence_threshold": 100_000,
                "stage3_gather_16bit_weights_on_model_save": True,
            },
        }
    },
}
"""ddp: a whole copy in each process. fsdp: decoder layers, gradients and optimiser in shards. zero2: gradients and
optimiser in shards. zero3: parameters too (both need the deepspeed package)."""


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


def touch_all_parameters(step: nn.Module) -> None:
    """Give every parameter a gradient in every process, if only zero, and in the same order.

    FSDP and ZeRO add up gradients in the order in which they arrive, and a batch may have no box, no mask or no region:
    processes would wait for each other, or add up what does not belong together. The decoder layers always run; all
    other gradients arrive after theirs, because autograd works backwards and these sums are the first thing it saw.
    """
    forward = step.forward

    @wraps(forward)
    def forward_and_touch(*args: Any, **named: Any) -> Any:
        others = [p for n, p in step.named_parameters() if p.requires_grad and DECODER_LAYERS not in n]
        nothing = torch.stack([p.sum() for p in others]).sum() * 0.0 if others else 0.0
        result = forward(*args, **named)
        terms = result[0] if isinstance(result, tuple) else result
        terms["loss"] = terms["loss"] + nothing
        return result

    step.forward = forward_and_touch


def gather_outside_layers(step: nn.Module) -> None:
    """Have ZeRO-3 gather everything outside the decoder layers for the whole of a step.

    Left alone it gathers a parameter while the module that holds it is called. Much of a `UniPixel` works through
    methods, or reads the table of a module that is never called, and would find it empty.
    """
    import deepspeed  # type: ignore[import-not-found, unused-ignore]

    for name, parameter in step.named_parameters():
        if DECODER_LAYERS not in name:
            deepspeed.zero.register_external_parameter(step, parameter)


def forget_call_order(engine: Any) -> None:
    """Have ZeRO-3 forget which modules were called in what order; to be called before each forward.

    It insists that all processes call the same ones, and fetches ahead by that. What a batch calls depends on what is
    in it, and on the lengths of its clips.
    """
    coordinator = engine.optimizer.parameter_offload.get_param_coordinator()
    if not coordinator.is_invalid_trace():
        coordinator._invalidate_trace()
