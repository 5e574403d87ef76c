"""Masks that end where the colours of their frame do."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unipixel.engine.engine import load
from unipixel.model.config import PixelConfig, UniPixelConfig
from unipixel.model.presets import TINY_SAM
from unipixel.model.segmenter import COLOUR_NOISE, FrameFeatures, MaskPrediction, Segmenter, follow_colours
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import load_model, save_model

SIDE, GRID = 64, 16


def draw_frame(edge: int, *, noise: float = 0.0) -> torch.Tensor:
    """A frame (1, 3, 64, 64), red on the left of a column and green from there on."""
    frame = torch.zeros(1, 3, SIDE, SIDE)
    frame[:, 0, :, :edge], frame[:, 1, :, edge:] = 2.0, 2.0
    return frame + noise * torch.randn(frame.shape, generator=torch.Generator().manual_seed(0))


def draw_logits(edge: float) -> torch.Tensor:
    """Logits (1, 1, 16, 16) of a mask on the left of a column of the frame."""
    columns = (torch.arange(GRID) + 0.5) * SIDE / GRID
    return (edge - columns).clamp(-6, 6).expand(1, 1, GRID, GRID).clone()


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_an_edge_beside_one_of_colours_is_moved_there_to_the_pixel(noise: float) -> None:
    frame, logits = draw_frame(30, noise=noise), draw_logits(34.0)
    plain = F.interpolate(logits, size=(SIDE, SIDE), mode="bilinear")[0, 0] > 0
    found = follow_colours(logits, frame, 2)[0, 0] > 0
    wanted = torch.arange(SIDE).expand(SIDE, SIDE) < 30
    assert (plain != wanted).float().mean() > 0.05
    assert torch.equal(found, wanted)


def test_without_colours_an_edge_stays() -> None:
    logits = draw_logits(34.0)
    plain = F.interpolate(logits, size=(SIDE, SIDE), mode="bilinear") > 0
    assert torch.equal(follow_colours(logits, torch.full((1, 3, SIDE, SIDE), 0.5), 2) > 0, plain)


def test_it_is_the_guided_filter_of_the_paper() -> None:
    """Every window solved by itself, as the paper has it."""
    generator, radius = torch.Generator().manual_seed(1), 2
    frame = torch.randn(1, 3, 24, 24, generator=generator)
    logits = torch.randn(1, 1, 12, 12, generator=generator)
    colours = F.avg_pool2d(frame, 2)[0].permute(1, 2, 0).double().numpy()
    mask = logits[0, 0].double().sigmoid().numpy()
    lines = np.zeros((12, 12, 4))
    for y in range(12):
        for x in range(12):
            rows, columns = slice(max(y - radius, 0), y + radius + 1), slice(max(x - radius, 0), x + radius + 1)
            inside, level = colours[rows, columns].reshape(-1, 3), mask[rows, columns].ravel()
            covariance = np.cov(inside.T, bias=True) + COLOUR_NOISE * np.eye(3)
            slope = np.linalg.solve(covariance, ((inside - inside.mean(0)) * (level - level.mean())[:, None]).mean(0))
            lines[y, x] = *slope, level.mean() - slope @ inside.mean(0)
    smooth = np.zeros_like(lines)
    for y in range(12):
        for x in range(12):
            rows, columns = slice(max(y - radius, 0), y + radius + 1), slice(max(x - radius, 0), x + radius + 1)
            smooth[y, x] = lines[rows, columns].reshape(-1, 4).mean(0)
    wide = F.interpolate(torch.from_numpy(smooth).permute(2, 0, 1)[None], size=(24, 24), mode="bilinear")[0]
    wanted = ((wide[:3] * frame[0].double()).sum(0) + wide[3]).clamp(1e-3, 1 - 1e-3)
    found = follow_colours(logits, frame, radius)[0, 0].sigmoid()
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-4)


def test_objects_of_one_frame_share_it_and_each_is_what_it_is_alone() -> None:
    frame, logits = draw_frame(30), torch.cat([draw_logits(34.0), draw_logits(20.0), -draw_logits(34.0)])
    together = follow_colours(logits, frame, 3)
    assert together.shape == (3, 1, SIDE, SIDE)
    for n in range(3):
        torch.testing.assert_close(together[n : n + 1], follow_colours(logits[n : n + 1], frame, 3))
    torch.testing.assert_close(together, follow_colours(logits, frame.expand(3, -1, -1, -1), 3))


def test_nano_follows_colours_where_it_answers_and_released_weights_nowhere() -> None:
    assert load("nano").model.segmenter.guided_radius == 4
    segmenter = Segmenter(replace(TINY_SAM, dropout=0.0)).eval()
    frames, hidden = torch.randn(2, 3, 64, 64), torch.randn(1, 2, 32)
    with torch.inference_mode():
        plain = segmenter.encode(frames)
        assert plain.frames is None
        coarse = segmenter.decode(segmenter.add_no_memory(plain[:1]), plain[:1], hidden, mark_absent=False)
        segmenter.guided_radius = 3
        features = segmenter.encode(frames)
        assert features[1:].frames is not None and torch.equal(features[1:].frames, frames[1:])
        joined = FrameFeatures.cat([features[1:], features[:1].clone()])
        assert joined.frames is not None and torch.equal(joined.frames, frames.flip(0))
        fine = segmenter.decode(segmenter.add_no_memory(features[:1]), features[:1], hidden, mark_absent=False)
        assert coarse.low_res_masks.shape[-1] == 16 and fine.low_res_masks.shape[-1] == 64
        assert torch.equal(fine.low_res_masks, follow_colours(coarse.low_res_masks, frames[:1], 3))
        assert torch.equal(fine.multimask_logits, coarse.multimask_logits)
        gone = segmenter.decode(segmenter.add_no_memory(features[:1]), features[:1], hidden, least_scores=torch.ones(1))
        assert (gone.low_res_masks < -1000).all()
    assert segmenter.train().encode(frames).frames is None  # what learns sees its own masks


@pytest.mark.parametrize("training", [False, True])
def test_a_mask_is_the_mean_of_its_candidates_where_the_checkpoint_says_so(training: bool) -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(replace(TINY_SAM, dropout=0.0)).train(training)
    features, hidden = segmenter.encode(torch.randn(1, 3, 64, 64)), torch.randn(5, 2, 32)

    def decode(temperature: float) -> MaskPrediction:
        segmenter.candidate_temperature = temperature
        with torch.no_grad():
            return segmenter.decode(segmenter.add_no_memory(features), features, hidden, mark_absent=False)

    best, mixed = decode(0), decode(0.2)
    assert torch.equal(best.low_res_masks[:, 0], best.multimask_logits[range(5), best.multimask_ious.argmax(1)])
    for n in range(5):
        shares = [math.exp(float(iou) / 0.2) for iou in best.multimask_ious[n]]
        mean = sum(share * one for share, one in zip(shares, best.multimask_logits[n], strict=True)) / sum(shares)
        torch.testing.assert_close(mixed.low_res_masks[n, 0], mean)
    for name in ("multimask_logits", "multimask_ious", "object_score_logits", "object_pointer"):
        assert torch.equal(getattr(mixed, name), getattr(best, name))
    torch.testing.assert_close(decode(1e-6).low_res_masks, best.low_res_masks)
    torch.testing.assert_close(
        decode(1e3).low_res_masks, best.multimask_logits.mean(1, keepdim=True), atol=1e-2, rtol=0
    )


def test_a_mean_of_candidates_follows_colours_and_absent_objects_stay_absent() -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(replace(TINY_SAM, dropout=0.0)).eval()
    frames, hidden = torch.randn(1, 3, 64, 64), torch.randn(2, 2, 32)
    segmenter.candidate_temperature, segmenter.guided_radius = 0.1, 3
    with torch.inference_mode():
        features = segmenter.encode(frames)
        embed = segmenter.add_no_memory(features)
        found = segmenter.decode(embed, features, hidden, mark_absent=False)
        gone = segmenter.decode(embed, features, hidden, least_scores=torch.ones(2))
        segmenter.guided_radius = 0
        coarse = segmenter.decode(embed, replace(features, frames=None), hidden, mark_absent=False)
    assert torch.equal(found.low_res_masks, follow_colours(coarse.low_res_masks, frames, 3))
    assert (gone.low_res_masks < -1000).all()


@pytest.mark.parametrize("temperature", [-0.1, float("nan"), "warm", True])
def test_temperatures_that_are_none_are_refused(temperature: object) -> None:
    with pytest.raises((ValueError, TypeError), match="candidate_temperature"):
        PixelConfig(candidate_temperature=temperature)


def test_candidates_follow_colours_while_training_where_a_recipe_says_so() -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(replace(TINY_SAM, dropout=0.0)).train()
    segmenter.guided_radius, frames, hidden = 3, torch.randn(1, 3, 64, 64), torch.randn(2, 2, 32)
    plain = segmenter.encode(frames)
    coarse = segmenter.decode(segmenter.add_no_memory(plain), plain, hidden, mark_absent=False)
    segmenter.guided_share = 1.0
    features = segmenter.encode(frames)
    fine = segmenter.decode(segmenter.add_no_memory(features), features, hidden, mark_absent=False)
    small = F.interpolate(frames, size=(16, 16), mode="area")
    for k in range(3):
        wanted = follow_colours(coarse.multimask_logits[:, k : k + 1], small, 3, least=0.02)
        torch.testing.assert_close(fine.multimask_logits[:, k : k + 1], wanted)
    best = torch.arange(2), fine.multimask_ious.argmax(-1)
    torch.testing.assert_close(fine.low_res_masks[:, 0], fine.multimask_logits[best])
    fine.multimask_logits.sum().backward()
    learnt = segmenter.mask_decoder.output_hypernetworks_mlps[1:].parameters()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learnt)


def test_what_the_filter_takes_out_of_range_still_learns() -> None:
    logits = draw_logits(32).requires_grad_()
    found = follow_colours(logits, draw_frame(32, noise=0.1), 2, least=0.02)
    outside = found.detach().abs() > 3.89  # log(0.98 / 0.02)
    assert outside.any() and found.detach().abs().max() < 3.9
    found[outside].sum().backward()
    assert logits.grad is not None and logits.grad.abs().max() > 0


@pytest.mark.parametrize("radius", [-1, 65, 1.5, True, "4"])
def test_a_radius_that_is_none_is_refused(radius: object) -> None:
    with pytest.raises(ValueError, match="guided_radius"):
        PixelConfig(guided_radius=radius)


def test_the_radius_is_kept_with_the_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("kept")
    config: UniPixelConfig = load("nano").model.config
    model = UniPixel(replace(config, pixel=replace(config.pixel, guided_radius=2)))
    save_model(model, folder)
    assert load_model(folder).segmenter.guided_radius == 2
