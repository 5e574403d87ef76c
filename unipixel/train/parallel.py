"""How several processes share one run: settings for `transformers.TrainingArguments`, chosen by name.

Every one is started with ``torchrun --nproc-per-node N -m -- unipixel train RECIPE --parallel NAME -o RUN``.
"""

from __future__ import annotations

from typing import Any

_ZERO: dict[str, Any] = {
    "bf16": {"enabled": "auto"},
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "zero_allow_untested_optimizer": True,
}

PARALLEL: dict[str, dict[str, Any]] = {
    # every parameter gets a gradient, see `TrainingStep.touches_all`
    "ddp": {"ddp_find_unused_parameters": False, "ddp_broadcast_buffers": False},
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
                "stage3_prefetch_bucket_size": 50_000_000,
                "stage3_param_persistence_threshold": 100_000,
                "stage3_gather_16bit_weights_on_model_save": True,
            },
        }
    },
}
"""ddp: a whole copy in each process. fsdp: decoder layers, gradients and optimiser in shards. zero2: gradients and
optimiser in shards. zero3: parameters too (both need the deepspeed package)."""
