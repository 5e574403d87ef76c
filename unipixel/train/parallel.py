"""How several processes share one run: settings for `transformers.TrainingArguments`, chosen by name.

Every one is started with ``torchrun --nproc-per-node N -m -- unipixel train RECIPE --parallel NAME -o RUN``.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from torch import nn

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
            # the vision tower's blocks are not called as modules, so they stay in the outermost unit
            "transformer_layer_cls_to_wrap": ["Qwen2_5_VLDecoderLayer"],
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
