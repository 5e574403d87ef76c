"""Muon for the matrices inside the network, AdamW for everything else, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

MAX_SIDE = 600
"""Matrices with both sides above this stay with AdamW: orthogonalising them costs more than it gains on a CPU."""


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon is meant for a parameter: a weight between two hidden layers, no table and no head."""
    outside = name.endswith("embed_tokens.weight") or name.startswith("lm_head") or "embed" in name.split(".")[-2]
    return parameter.ndim == 2 and min(parameter.shape) <= MAX_SIDE and min(parameter.shape) > 16 and not outside


class MuonAdamW(torch.optim.Optimizer):
    """Two optimisers that are stepped, scheduled and saved together.

    Source: Jordan et al., Muon (2024); rates comparable to AdamW's by Liu et al., arXiv 2502.16982.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        *,
        learning_rate: float,
        muon_factor: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        """Take over the parameters.

        Args:
            named: parameters that learn, by name.
            learning_rate: of AdamW.
            muon_factor: Muon's rate is so many times AdamW's.
            betas: of AdamW.
            weight_decay: of both; AdamW spares vectors.
        """
        every = list(named)
        hidden = [p for n, p in every if is_hidden_matrix(n, p)]
        rest = [p for n, p in every if not is_hidden_matrix(n, p)]
        self._muon = torch.optim.Muon(
            hidden, lr=learning_rate * muon_factor, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        groups: list[dict[str, Any]] = [
            {"params": [p for p in rest if p.ndim > 1]},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(
            groups,
            lr=learning_rate,
            betas=betas,
            weight_decay=weight_decay,
        )
        super().__init__([{"params": [p for _, p in every]}], {})
        # the same dictionaries, so that a scheduler reaches both
        self.param_groups = self._muon.param_groups + self._adamw.param_groups

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both."""
        loss = None if closure is None else closure()
        self._muon.step()
        self._adamw.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Both states."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._muon.load_state_dict(state_dict["muon"])
        self._adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = self._muon.param_groups + self._adamw.param_groups
