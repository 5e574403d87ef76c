"""The training loop: `transformers.Trainer` with our objective, optimiser, attention, log and checkpoint layout."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_callback import PrinterCallback

from unipixel.atomic import LineWriter, publish, remove_folder, replace_folder
from unipixel.engine.machine import computes_in_bf16
from unipixel.errors import CheckpointError
from unipixel.model.tensor_files import TORCH_FILE_ERRORS
from unipixel.processing.collation import TrainingInputs
from unipixel.train.arguments import forget_call_order, gather_outside_layers, touch_all_parameters
from unipixel.train.checkpoints import (
    OPTIMIZER,
    SCHEDULER,
    check_optimizer,
    check_scheduler,
    list_checkpoints,
    read_state,
    refuse_state,
    save_adapter,
    save_whole,
)
from unipixel.train.losses import TrainingStep
from unipixel.train.recipe import Recipe
from unipixel.train.setup import TrainingSetup
from unipixel.train.validation import Validation

if TYPE_CHECKING:
    from peft import LoraConfig

LOG = logging.getLogger(__name__)
WRITING = ".writing"
"""Folder inside a run in which a checkpoint lies until it is complete."""
MAX_SIDE = 600
"""Matrices with both sides above this stay with AdamW: orthogonalising them costs more than it gains on a CPU."""


class PlainAttention(TorchFunctionMode):
    """Within this context, ``scaled_dot_product_attention`` on a CPU is two products with a softmax between.

    The fused CPU kernel is made for long sequences. At the lengths of `nano` it takes 2.5 to 15 times as long as this
    in bfloat16, forward and backward (8 pictures of 144 patches, 6 heads: 51 ms against 3.4).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the one function; all others are called as they are."""
        if func is F.scaled_dot_product_attention and args[0].device.type == "cpu":
            return _attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _FullPrecision(TorchFunctionMode):
    """Within this context, what asks for bfloat16 gets float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the one method; all others are called as they are."""
        if func is Tensor.bfloat16:
            return args[0].to(torch.float32, copy=True)
        return func(*args, **(kwargs or {}))


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The same result, in the dtype that autocast would give."""
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    with torch.autocast("cpu", enabled=False):
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = (x.repeat_interleave(groups, -3) for x in (key, value))
        scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-1, -2)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                scores = scores.masked_fill(~attn_mask, float("-inf"))
            else:
                scores = scores + attn_mask.to(scores.dtype)
        share = scores.softmax(-1)
        if dropout_p:
            share = F.dropout(share, dropout_p)
        return share @ value


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon is meant for a parameter: a weight between two hidden layers, no table and no head."""
    outside = name.endswith("embed_tokens.weight") or name.startswith("lm_head") or "embed" in name.split(".")[-2]
    return parameter.ndim == 2 and min(parameter.shape) <= MAX_SIDE and min(parameter.shape) > 16 and not outside


class MuonAdamW(torch.optim.Optimizer):
    """Two optimisers that are stepped, scheduled and saved together.

    Muon orthogonalises updates in bfloat16; on a processor that would have to emulate it, in float32.

    Source: Jordan et al., Muon (2024); rates comparable to AdamW's by Liu et al., arXiv 2502.16982.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], recipe: Recipe) -> None:
        """Take over the parameters.

        Args:
            named: parameters that learn, by name.
            recipe: its ``learning_rate`` and ``rates`` are AdamW's, Muon's are ``muon`` times those; weights of both
                decay by ``weight_decay``, but AdamW's vectors.
        """
        every = list(named)
        hidden: dict[float, list[Tensor]] = {}
        rest: dict[tuple[float, bool], list[Tensor]] = {}
        for name, parameter in every:
            rate = find_learning_rate(name, recipe)
            if is_hidden_matrix(name, parameter):
                hidden.setdefault(rate, []).append(parameter)
            else:
                rest.setdefault((rate, parameter.ndim > 1), []).append(parameter)
        self._muon = torch.optim.Muon(
            [{"params": parameters, "lr": rate * recipe.muon} for rate, parameters in hidden.items()],
            weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        self._adamw = torch.optim.AdamW(
            [
                {"params": parameters, "lr": rate, "weight_decay": recipe.weight_decay if decays else 0.0}
                for (rate, decays), parameters in rest.items()
            ],
            betas=(0.9, recipe.adam_beta2),
        )
        super().__init__([{"params": [p for _, p in every]}], {})
        # the same dictionaries, so that a scheduler reaches both
        self.param_groups = self._muon.param_groups + self._adamw.param_groups

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both."""
        loss = None if closure is None else closure()
        slow = not torch.cuda.is_available() and not computes_in_bf16()
        with _FullPrecision() if slow else nullcontext():
            self._muon.step()
        self._adamw.step()
        return loss

    @property
    def parts(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        """Muon and AdamW."""
        return self._muon, self._adamw

    def state_dict(self) -> dict[str, Any]:
        """Both states."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._muon.load_state_dict(state_dict["muon"])
        self._adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = self._muon.param_groups + self._adamw.param_groups


class RunLogCallback(TrainerCallback):
    """Appends every log line to ``log.jsonl`` in the run folder, and prints it in short on stderr."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "log.jsonl"
        self._log: LineWriter | None = None
        self._created = self._began = time.monotonic()
        self._first = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock of what is left."""
        self._began, self._first = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Write one line, and print it."""
        if not state.is_world_process_zero:
            return
        line = {"step": state.global_step, "seconds": round(time.monotonic() - self._created, 1), **(logs or {})}
        if self._log is None:
            self._log = LineWriter(self._file)
        self._log.append(json.dumps(line).encode() + b"\n", sync=False)
        if not logs or "train_runtime" in logs:
            return
        done = state.global_step - self._first
        left = (time.monotonic() - self._began) / done * (state.max_steps - state.global_step) if done else 0.0
        figures = "  ".join(f"{name} {_format_value(value)}" for name, value in logs.items() if name != "epoch")
        clock = f"{int(left // 3600)}:{int(left // 60 % 60):02d}:{int(left % 60):02d}"
        print(f"step {state.global_step}/{state.max_steps}  {figures}  ({clock} left)", file=sys.stderr)


def _format_value(value: Any) -> str:
    return f"{float(value):.3g}" if isinstance(value, int | float | str) else str(value)


class FirstValidationCallback(TrainerCallback):
    """Validates before the first step, once the model is where it is trained."""

    def __init__(self, trainer: UniPixelTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validate, unless the run is resumed."""
        if not state.global_step:
            self._trainer.validate()


class UniPixelTrainer(Trainer):
    """Trains a `UniPixel`; checkpoints are complete folders that can be used as models and resume exactly."""

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        setup: TrainingSetup,
        recipe: Recipe,
        lora: LoraConfig | None,
        validation: Validation | None,
        **kwargs: Any,
    ) -> None:
        self._setup, self._recipe, self._lora, self._validation = setup, recipe, lora, validation
        self.optimizer: Any = None
        self._terms: dict[str, list[float]] = defaultdict(list)
        self._staged = False
        collator = partial(setup.processor.collate, config=setup.model.config)
        step = TrainingStep(setup.model, recipe)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if recipe.bf16 and device == "cpu" and not computes_in_bf16():
            LOG.warning("training in float32, because this processor computes in bfloat16 slowly")
        elif recipe.bf16:
            # inside of whatever wraps the step, so that every way to share a run computes alike on fp32 weights
            step.forward = torch.autocast(device, torch.bfloat16)(step.forward)  # type: ignore[method-assign]
        super().__init__(model=step, data_collator=collator, **kwargs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            touch_all_parameters(step)
        self._zero3 = self.is_deepspeed_enabled and self.args.hf_deepspeed_config.is_zero3()
        if self._zero3:
            gather_outside_layers(step)
        # else transformers would share out every model that is made from now on, such as the shell of one that is saved
        unset_hf_deepspeed_config()
        self.remove_callback(PrinterCallback)
        self.add_callback(RunLogCallback(Path(self.args.output_dir)))
        self.add_callback(FirstValidationCallback(self))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with the recipe's groups, or Muon beside it where the recipe says so."""
        if self.optimizer is None:
            recipe, whole = self._recipe, self.model if model is None else model
            learning = [(n, p) for n, p in whole.named_parameters() if p.requires_grad]
            if recipe.muon:
                self.optimizer = MuonAdamW([(n.removeprefix("model."), p) for n, p in learning], recipe)
            else:
                decaying = set(self.get_decay_parameter_names(whole))
                kind, options = self.get_optimizer_cls_and_kwargs(self.args, whole)
                self.optimizer = kind(group_parameters(learning, decaying, recipe), **options)
        return self.optimizer

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of one optimiser step, and what they hold together over all processes; see `TrainingStep`."""
        batches = list(islice(epoch_iterator, num_batches))
        tokens = sum((b["labels"][:, 1:] != -100).sum() for b in batches)
        samples = sum(sum(t is not None for t in b["target_masks"]) for b in batches)
        totals = torch.tensor([float(tokens), float(samples), float(len(batches)), 1.0], device=device)
        if self.accelerator.num_processes > 1:
            totals = self.accelerator.reduce(totals, "sum")
            totals[2] /= self.accelerator.num_processes
        return batches, totals

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The recipe's objective; its terms are averaged into the next log line."""
        if self._zero3:
            forget_call_order(model)
        # what is computed again in the backward pass is computed outside of this context, and must come out the same
        with nullcontext() if self._recipe.checkpointing else PlainAttention():
            terms = model(totals=num_items_in_batch, **inputs)
        for name, value in terms.items():
            self._terms[name].append(float(value.detach()))
        return (terms["loss"], {}) if return_outputs else terms["loss"]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the averaged loss terms since the last line."""
        if "loss" in logs:
            for name, values in self._terms.items():
                if name != "loss":
                    logs[name] = round(sum(values) / len(values), 4)
            self._terms.clear()
        super().log(logs, *args, **kwargs)

    def validate(self) -> None:
        """Log loss and mask IoU on the samples set aside, and draw them."""
        if self._validation is None:
            return
        self.model.eval()
        with torch.no_grad():
            figures = self._validation(self._predict, self.state.global_step, draw=self.args.should_save)
        self.model.train()
        if figures:
            self.log(dict(figures))

    def _predict(self, inputs: TrainingInputs) -> Any:
        batch = self._prepare_inputs(self._setup.processor.collate([inputs]))
        return self.model(with_output=True, **batch)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        super()._maybe_log_save_evaluate(*args, **kwargs)
        every = self._recipe.evaluation.every
        if every and self.state.global_step % every == 0 and self.state.global_step < self.state.max_steps:
            self.validate()

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        """In order: what comes when is decided by the dataset, batch by batch."""
        return SequentialSampler(self.train_dataset)

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, WRITING) if self._staged else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint beside the others and move it there when it is whole, so that none is ever cut off."""
        run, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        self._staged = True
        try:
            with translate_write_errors(run / name):
                super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                publish(run / WRITING / name, run / name)
        finally:
            self._staged = False
            if self.args.should_save:
                shutil.rmtree(run / WRITING, ignore_errors=True)
        if self.args.should_save:
            for old in list_checkpoints(run)[: -self._recipe.keep]:
                remove_folder(old)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the model: as an adapter while LoRA is trained, else as the recipe says."""
        self.write(Path(output_dir or self.args.output_dir), state_dict, whole=False)

    def write(self, folder: Path, state_dict: Any = None, *, whole: bool) -> None:
        """Write model and processor.

        Args:
            state_dict: of the `TrainingStep`, where its parameters do not lie whole in this process.
            whole: merge LoRA, if there is any.
        """
        if not self.args.should_save:
            return
        step = self.accelerator.unwrap_model(self.model)
        state = {k.removeprefix("model."): v for k, v in (state_dict or step.state_dict()).items()}
        config, recipe = step.model.config, self._recipe
        if whole or (recipe.save == "whole" and recipe.lora is None):
            save_whole(config, state, folder, recipe.lora)
        else:
            # each tied parameter under all its names
            named = self._setup.model.named_parameters(remove_duplicate=False)
            changed = self._setup.changed | {n for n, p in named if p.requires_grad and ".lora_" not in n}
            save_adapter(config, state, folder, changed=changed, base=self._setup.base, settings=self._lora)
        self._setup.processor.save(folder)
        torch.save(self.args, folder / "training_args.bin")

    def finish(self, folder: Path) -> None:
        """Write the trained model as the recipe wants it, moved into place when it is whole."""
        wrapped = self.is_fsdp_enabled or self.is_deepspeed_enabled
        state = self.accelerator.get_state_dict(self.model_wrapped) if wrapped else None
        if self.args.should_save:
            with replace_folder(folder) as draft, translate_write_errors(folder):
                self.write(draft, state, whole=self._recipe.save == "whole")
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing: `resume_weights` has read the weights before the model was wrapped."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Take up optimiser and schedule, which are left out in silence by the loop itself where a file is missing."""
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        parts = optimizer.parts if isinstance(optimizer, MuonAdamW) else (optimizer,)
        own = [[dict(group) for group in part.param_groups] for part in parts]
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if not is_sharded:
            read_state(folder / OPTIMIZER)
        check_scheduler(read_state(folder / SCHEDULER), self.lr_scheduler.state_dict(), folder / SCHEDULER)
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except TORCH_FILE_ERRORS as error:
            raise refuse_state(folder / OPTIMIZER, error) from error
        if not is_sharded:
            for part, groups in zip(parts, own, strict=True):
                check_optimizer(part, groups, folder / OPTIMIZER)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Take up the states of the random generators."""
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        if not any(path.is_file() for path in folder.glob("rng_state*.pth")):
            raise refuse_state(folder / "rng_state.pth", ValueError("there is no such file"))
        try:
            super()._load_rng_state(checkpoint)
        except TORCH_FILE_ERRORS as error:
            raise refuse_state(folder / "rng_state.pth", error) from error


@contextmanager
def translate_write_errors(folder: Path) -> Iterator[None]:
    """Have torch's and safetensors' own errors about a file that cannot be written say where, as one sentence.

    Raises:
        CheckpointError: in their place.
    """
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if isinstance(error, SafetensorError) or "inline_container" in str(error):
            why = str(error).splitlines()[0]
            raise CheckpointError(f"{folder} cannot be written, perhaps because the disk is full ({why})") from error
        raise


def find_learning_rate(name: str, recipe: Recipe) -> float:
    """The rate of a parameter, by its name in the model: that of the longest of the recipe's prefixes that fits."""
    fits = [prefix for prefix in recipe.rates if name.startswith(prefix)]
    return recipe.rates[max(fits, key=len)] if fits else recipe.learning_rate


def group_parameters(
    learning: list[tuple[str, nn.Parameter]], decaying: set[str], recipe: Recipe
) -> list[dict[str, Any]]:
    """Groups of the optimiser: by learning rate, and by whether weights decay.

    Args:
        learning: parameters that learn, by their names in the `TrainingStep`.
        decaying: names of those whose weights decay.
    """
    groups: dict[tuple[float, bool], list[Tensor]] = {
        (recipe.learning_rate, True): [],
        (recipe.learning_rate, False): [],
    }
    for name, parameter in learning:
        rate = find_learning_rate(name.removeprefix("model."), recipe)
        groups.setdefault((rate, name in decaying), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": recipe.weight_decay if decays else 0.0}
        for (rate, decays), parameters in groups.items()
    ]
