"""The training loop: `transformers.Trainer` with our objective, parameter groups and checkpoint layout."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_callback import PrinterCallback

from unipixel.model.unipixel import UniPixel
from unipixel.train.attention import PlainAttention
from unipixel.train.checkpoints import restore, save_adapter, save_whole
from unipixel.train.data import Collator
from unipixel.train.objective import TrainingStep
from unipixel.train.optimizer import MuonAdamW
from unipixel.train.parallel import forget_call_order, gather_outside_layers, touch_all_parameters
from unipixel.train.recipe import Recipe
from unipixel.train.setup import TrainingSetup, copy_weights
from unipixel.train.validation import Validation, build_predictor

if TYPE_CHECKING:
    from peft import LoraConfig

WRITING = ".writing"
"""Folder inside a run in which a checkpoint lies until it is complete."""


class UniPixelTrainer(Trainer):
    """Trains a `UniPixel`; checkpoints are complete folders that can be used as models and resume exactly."""

    loss_is_scaled_for_ga = True

    def __init__(
        self, begun: TrainingSetup, recipe: Recipe, settings: LoraConfig | None, look: Validation | None, **kwargs: Any
    ) -> None:
        self._begun, self._recipe, self._settings, self._look = begun, recipe, settings, look
        self.optimizer: Any = None
        self._terms: dict[str, list[float]] = defaultdict(list)
        self._staged = False
        collator = Collator(begun.processor, begun.model.config)
        step = TrainingStep(begun.model, recipe)
        if recipe.bf16:
            # inside of whatever wraps the step, so that every way to share a run computes alike on fp32 weights
            device = "cuda" if torch.cuda.is_available() else "cpu"
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

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with the recipe's groups, or Muon beside it where the recipe says so."""
        if self.optimizer is None:
            recipe, whole = self._recipe, self.model if model is None else model
            learning = [(n, p) for n, p in whole.named_parameters() if p.requires_grad]
            if recipe.muon:
                self.optimizer = MuonAdamW(
                    [(n.removeprefix("model."), p) for n, p in learning],
                    learning_rate=recipe.learning_rate,
                    muon_factor=recipe.muon,
                    betas=(0.9, recipe.adam_beta2),
                    weight_decay=recipe.weight_decay,
                )
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

    def validate(self) -> dict[str, float]:
        """Loss and mask IoU on the samples set aside, and a picture of them."""
        if self._look is None:
            return {}
        self.model.eval()
        predict = build_predictor(self.model, self._begun.processor.collate, self._prepare_inputs)
        figures = self._look(predict, self.state.global_step, draw=self.args.should_save)
        self.model.train()
        self.log(dict(figures))
        return figures

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
        self._staged = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staged = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            run = Path(self.args.output_dir)
            name = f"checkpoint-{self.state.global_step}"
            shutil.rmtree(run / name, ignore_errors=True)
            (run / WRITING / name).rename(run / name)
            shutil.rmtree(run / WRITING)
            for old in list_checkpoints(run)[: -self._recipe.keep]:
                shutil.rmtree(old)
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
            changed = self._begun.changed | {
                n for n, p in list_parameters(self._begun.model) if p.requires_grad and ".lora_" not in n
            }
            save_adapter(config, state, folder, changed=changed, base=self._begun.base, settings=self._settings)
        self._begun.processor.save(folder)
        torch.save(self.args, folder / "training_args.bin")

    def finish(self, folder: Path) -> None:
        """Write the trained model as the recipe wants it, moved into place when it is whole."""
        wrapped = self.is_fsdp_enabled or self.is_deepspeed_enabled
        state = self.accelerator.get_state_dict(self.model_wrapped) if wrapped else None
        if self.args.should_save:
            writing = folder.with_name(f"{WRITING}-{folder.name}")
            shutil.rmtree(writing, ignore_errors=True)
            self.write(writing, state, whole=self._recipe.save == "whole")
            shutil.rmtree(folder, ignore_errors=True)
            writing.rename(folder)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing: `resume_weights` has read the weights before the model was wrapped."""


def list_parameters(model: UniPixel) -> list[tuple[str, nn.Parameter]]:
    """Parameters by name, each tied one under all its names."""
    return list(model.named_parameters(remove_duplicate=False))


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
        own = name.removeprefix("model.")
        fits = [prefix for prefix in recipe.rates if own.startswith(prefix)]
        rate = recipe.rates[max(fits, key=len)] if fits else recipe.learning_rate
        groups.setdefault((rate, name in decaying), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": recipe.weight_decay if decays else 0.0}
        for (rate, decays), parameters in groups.items()
    ]


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = [p for p in run.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")))


def resume_weights(model: UniPixel, checkpoint: Path, recipe: Recipe) -> None:
    """Read the weights of a checkpoint of this run into its model."""
    if recipe.lora is not None or recipe.save == "adapter":
        restore(model, checkpoint)
    else:
        copy_weights(model, checkpoint)
