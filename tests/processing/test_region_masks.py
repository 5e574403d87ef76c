"""Masks on the token grid and on SAM's square, and the lines that introduce known objects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unipixel.errors import PromptError
from unipixel.masks import MaskTrack
from unipixel.media import Media
from unipixel.processing import Processor
from unipixel.processing.images import RegionRule
from unipixel.processing.regions import build_region_masks, build_target_masks, format_region_lines, pool_to_grid


def resized_and_pooled(masks: np.ndarray, grid: tuple[int, int, int]) -> torch.Tensor:
    """The definition, step by step: repeat the last frame, max over pairs, resize, max over cells."""
    t, h, w = grid
    x = torch.from_numpy(masks).float()
    x = torch.cat([x, x[-1:]])[: 2 * t].unflatten(0, (t, 2)).amax(1)
    x = F.interpolate(x, size=(14 * h, 14 * w), mode="bilinear", antialias=True)
    return F.max_pool2d(x, 28) > 0


@pytest.mark.parametrize("seed", range(8))
def test_grid_masks_follow_their_definition_at_any_size(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 300, 2))
    frames, grid = int(rng.integers(1, 6)), (0, 2 * int(rng.integers(1, 7)), 2 * int(rng.integers(1, 7)))
    grid = (-(-frames // 2), *grid[1:])
    masks = rng.random((frames, 3, height, width)) < [[[[0.5]], [[0.02]], [[1 / height / width]]]]
    assert torch.equal(pool_to_grid(masks, grid), resized_and_pooled(masks, grid))


@pytest.mark.parametrize("seed", range(4))
def test_a_covered_cell_weighs_what_the_resized_mask_covers_of_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.random((3, 2, int(rng.integers(1, 300)), int(rng.integers(1, 300)))) < 0.3
    x = torch.from_numpy(masks[[0, 1, 2, 2]]).float().unflatten(0, (2, 2)).amax(1)
    whole = F.avg_pool2d(F.interpolate(x, size=(56, 140), mode="bilinear", antialias=True), 28)
    found = pool_to_grid(masks, (2, 4, 10), rule="covered")
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)
    assert found.max() <= 1
    assert torch.equal(found > 0, pool_to_grid(masks, (2, 4, 10)))


def test_a_cell_that_a_mask_covers_by_a_quarter_weighs_a_quarter() -> None:
    masks = np.zeros((1, 1, 56, 56), dtype=bool)
    masks[..., :28, :14] = True
    masks[..., 28:42, 28:42] = True
    found = pool_to_grid(masks, (1, 4, 4), rule="covered")
    torch.testing.assert_close(found, torch.tensor([[[[0.5, 0.0], [0.0, 0.25]]]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("rule", ["touched", "covered"])
def test_every_pixel_touches_a_cell(rule: RegionRule) -> None:
    pixels = np.eye(13 * 17, dtype=bool).reshape(1, -1, 13, 17)
    assert pool_to_grid(pixels, (1, 4, 8), rule=rule).flatten(2).any(-1).all()


def test_settings_say_what_the_cells_of_an_object_weigh(processor: Processor) -> None:
    masks = np.zeros((1, 60, 90), dtype=bool)
    masks[:, 7:20, 30:50] = True
    media, tracks = Media.from_array(np.zeros((1, 60, 90, 3), np.uint8)), {3: MaskTrack.from_masks(masks)}
    covering = Processor(processor.tokenizer, replace(processor.settings, region_rule="covered"))
    touched, covered = (build_region_masks(tracks, one.build_visual(media)) for one in (processor, covering))
    assert touched.dtype == torch.bool
    assert torch.equal(covered > 0, touched)
    assert float(covered.mean()) == pytest.approx(13 * 20 / 60 / 90, abs=0.003)  # of the picture as much as the mask
    assert format_region_lines([3], covered, 1) == format_region_lines([3], touched, 1)


def test_an_object_off_the_frames_that_are_read_is_refused(processor: Processor) -> None:
    media = Media.from_array(np.zeros((10, 20, 20, 3), np.uint8))  # frames 0, 3, 6, 9 are read
    masks = np.zeros((10, 20, 20), dtype=bool)
    masks[4] = True
    with pytest.raises(PromptError, match="object 7 is visible on none of the frames that the model reads"):
        build_region_masks({7: MaskTrack.from_masks(masks)}, processor.build_visual(media))
    assert build_region_masks({7: MaskTrack.from_masks(masks)}, processor.build_visual(media, include=[4])).any()


def test_masks_of_another_clip_are_refused(processor: Processor, clip: Media) -> None:
    track = MaskTrack.from_masks(np.ones((3, 60, 40), dtype=bool))
    with pytest.raises(PromptError, match="3 masks of 40 x 60 pixels, but the clip has 3 frames of 60 x 40"):
        build_region_masks({1: track}, processor.build_visual(clip))


def test_region_lines_name_the_frame_pairs_in_which_an_object_is_seen() -> None:
    grid = torch.zeros(2, 2, 2, 2, dtype=torch.bool)
    grid[:, 0, 0, 0] = True
    grid[1, 1, 1, 1] = True
    assert format_region_lines([4, 9], grid, 3) == (
        "Here is a video with 3 frames denoted as <1> to <3>. The highlighted regions are as follows:\n"
        "[4]: <1>-<2> <|mem|> <3>-<4> <|mem|>\n"
        "[9]: <3>-<4> <|mem|>\n"
    )
    assert format_region_lines([4], grid[:1, :1], 1) == (
        "Here is an image with the following highlighted regions:\n[4]: <|mem|>\n"
    )


@pytest.mark.parametrize("rule", ["touched", "nearest"])
def test_target_masks_of_sam_size_are_the_masks_themselves(rule: str) -> None:
    masks = np.random.default_rng(0).random((2, 32, 32)) < 0.3
    found = build_target_masks([MaskTrack.from_masks(masks)], 2, 32, rule)
    assert np.array_equal(found[:, 0].numpy(), masks)


def test_touched_targets_cover_every_pixel_that_the_resized_mask_reaches() -> None:
    masks = np.random.default_rng(0).random((2, 31, 47)) < 0.05
    found = build_target_masks([None, MaskTrack.from_masks(masks)], 2, 16, "touched")
    soft = F.interpolate(torch.from_numpy(masks)[:, None].float(), size=(16, 16), mode="bilinear", antialias=True)
    assert torch.equal(found[:, 1], soft[:, 0] > 0)
    assert not found[:, 0].any()


@pytest.mark.parametrize("side", [20, 64, 130])
def test_nearest_targets_keep_an_objects_area_and_place(side: int) -> None:
    masks = np.zeros((1, 60, 90), dtype=bool)
    masks[0, 12:42, 27:72] = True
    found = build_target_masks([MaskTrack.from_masks(masks)], 1, side, "nearest")[0, 0]
    rows, columns = (found.any(dim).nonzero().flatten() for dim in (1, 0))
    edges = [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1]
    expected = [0.2 * side, 0.7 * side, 0.3 * side, 0.8 * side]
    assert all(abs(int(edge) - want) <= 0.5 for edge, want in zip(edges, expected, strict=True))


def test_an_object_asked_for_twice_has_the_same_target_twice(objects: dict[int, MaskTrack]) -> None:
    found = build_target_masks([objects[1], objects[2], objects[1]], 3, 24, "nearest")
    assert torch.equal(found[:, 0], found[:, 2])
    assert found[:, 1].flatten(1).any(1).tolist() == [False, False, True]
