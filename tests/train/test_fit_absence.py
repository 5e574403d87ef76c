"""What `tools/fit_absence.py` fits is what an answer is decided by."""

from __future__ import annotations

import torch

from tools.fit_absence import collect_decisions, fit_margin
from unipixel.engine.engine import load
from unipixel.stickers import generate_scene


def test_the_row_of_seg_moves_the_decision_as_fitted() -> None:
    engine = load("nano")
    model, scenes = engine.model, [generate_scene(11, n) for n in range(4)]
    states, margins, is_there = collect_decisions(model, engine.processor, scenes, 11)
    assert is_there.any() and not is_there.all()
    change = fit_margin(states, margins, is_there, 0.01)
    assert 0 < float((states @ change).abs().max()) < 50
    with torch.no_grad():
        model.lm_head.weight[model.config.seg_token_id] += change
    again, moved, _ = collect_decisions(model, engine.processor, scenes, 11)
    torch.testing.assert_close(again, states)
    torch.testing.assert_close(moved, margins + states @ change, atol=1e-3, rtol=1e-3)


def test_a_margin_that_leans_to_one_side_is_set_upright() -> None:
    torch.manual_seed(0)
    is_there = torch.arange(400) % 4 > 0  # three in four are there, which must not count
    signal = torch.where(is_there, 1.0, -1.0)
    states = torch.stack([torch.ones(400), signal + torch.randn(400)], 1)
    margins = torch.full((400,), 3.0)
    found = margins + states @ fit_margin(states, margins, is_there, 1e-4) > 0
    absent, present = (found == is_there)[~is_there].float().mean(), (found == is_there)[is_there].float().mean()
    assert absent > 0.75 and present > 0.75 and abs(float(absent - present)) < 0.1
