"""Frames for the language model and for SAM: sizes, budgets, which frames are seen, settings on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unipixel.errors import CheckpointError, MediaError
from unipixel.media import Media, open_media
from unipixel.processing import ImageSettings, VisualInput
from unipixel.processing.images import patchify, prepare_sam_frames, resize_frame, smart_resize


def blank(num_frames: int, height: int = 8, width: int = 8) -> Media:
    return Media.from_array(np.zeros((num_frames, height, width, 3), np.uint8))


def test_every_square_picture_becomes_the_square_that_the_limits_enclose() -> None:
    least, most = 168 * 168 - 1000, 168 * 168 + 1000
    sizes = {smart_resize(side, side, factor=28, min_pixels=least, max_pixels=most) for side in range(1, 3000)}
    assert sizes == {(168, 168)}


def test_no_side_shrinks_to_nothing() -> None:
    assert smart_resize(10, 2000, factor=28, min_pixels=168 * 168, max_pixels=168 * 168)[0] == 28


def test_a_picture_200_times_as_long_as_high_is_the_limit() -> None:
    assert min(smart_resize(1, 200, factor=28, min_pixels=100352, max_pixels=200704)) >= 28
    with pytest.raises(MediaError, match="201 x 1 pixels"):
        smart_resize(1, 201, factor=28, min_pixels=100352, max_pixels=200704)


def test_short_clips_share_the_budget_and_long_ones_keep_one_share() -> None:
    settings = ImageSettings()
    assert [settings.compute_max_area(n) // (256 * 784) for n in (1, 2, 3, 8, 9, 16, 17, 400)] == [
        16,
        8,
        5,
        2,
        1,
        1,
        1,
        1,
    ]
    assert replace(settings, share_budget=False).compute_max_area(1) == 256 * 784


def test_a_frame_that_has_the_right_size_is_passed_on_untouched() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (56, 84, 3), dtype=np.uint8)
    assert resize_frame(frame, (56, 84)) is frame


def test_patches_hold_the_normalised_pixels_of_their_place() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 56, 84, 3), dtype=np.uint8)
    settings = ImageSettings()
    patches, grid = patchify(frames, settings)
    assert grid == (2, 4, 6)
    # temporal step 1, token row 1, token column 2, lower left patch of the token
    row = 1 * 24 + (1 * 3 + 2) * 4 + 2
    pixels = frames[2:4, 42:56, 56:70].astype(np.float64).transpose(3, 0, 1, 2)  # (3, 2, 14, 14)
    mean, std = (np.array(x).reshape(3, 1, 1, 1) for x in (settings.image_mean, settings.image_std))
    np.testing.assert_allclose(patches[row].view(3, 2, 14, 14), (pixels / 255 - mean) / std, atol=1e-6)


def test_an_odd_frame_count_repeats_the_last_frame() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    padded = np.concatenate([frames, frames[-1:]])
    assert torch.equal(patchify(frames, ImageSettings())[0], patchify(padded, ImageSettings())[0])


def test_sam_frames_of_a_clip_are_those_of_its_frames() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    settings = ImageSettings(sam_size=64)
    whole = prepare_sam_frames(frames, settings)
    assert whole.shape == (3, 3, 64, 64)
    assert torch.equal(whole, torch.cat([prepare_sam_frames(frame[None], settings) for frame in frames]))


def test_sam_frames_of_sam_size_are_only_normalised() -> None:
    frames = np.full((1, 64, 64, 3), 255, np.uint8)
    expected = torch.tensor([(1 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)])
    torch.testing.assert_close(prepare_sam_frames(frames, ImageSettings(sam_size=64))[0, :, 0, 0], expected)


def test_a_visual_knows_its_grid_before_any_frame_is_read(tmp_path: Path) -> None:
    for t in range(5):
        Image.new("RGB", (64, 48)).save(tmp_path / f"{t}.png")
    visual = VisualInput(open_media(tmp_path), ImageSettings())
    for path in tmp_path.iterdir():
        path.unlink()
    t, h, w = visual.grid
    assert (t, visual.num_frames, visual.num_tokens) == (3, 6, 3 * h * w // 4)
    with pytest.raises(MediaError):
        _ = visual.pixel_values


def test_a_long_clip_is_sampled_evenly_and_includes_the_frames_that_must_be_seen() -> None:
    settings = ImageSettings(max_frames=4)
    assert VisualInput(blank(3), settings).llm_frame_indices == (0, 1, 2)
    assert VisualInput(blank(10), settings).llm_frame_indices == (0, 3, 6, 9)
    assert VisualInput(blank(10), settings, include=[4]).llm_frame_indices == (0, 4, 6, 9)
    assert VisualInput(blank(10), settings, include=[1, 2, 3]).llm_frame_indices[:3] == (1, 2, 3)
    assert VisualInput(blank(10), settings, include=[9, 0]).llm_frame_indices == (0, 3, 6, 9)
    assert VisualInput(blank(10), replace(settings, max_frames=1)).llm_frame_indices == (0,)
    with pytest.raises(ValueError, match="5 frames must be seen"):
        VisualInput(blank(10), settings, include=range(5))


def test_a_frame_that_is_not_seen_stands_for_its_nearest_neighbour() -> None:
    visual = VisualInput(blank(10), ImageSettings(max_frames=4))  # sees 0, 3, 6, 9
    assert [visual.find_position(t) for t in range(10)] == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]


def test_still_frames_are_seen_as_pictures_are() -> None:
    settings = ImageSettings(max_frames=4, still_frames=True, min_pixels=4500, max_pixels=5000, share_budget=False)
    clip = Media.from_array(np.random.default_rng(0).integers(0, 256, (10, 40, 60, 3), dtype=np.uint8))
    visual = VisualInput(clip, settings)
    assert visual.llm_frame_indices == (0, 3, 6, 9)
    assert visual.shown_frames == (0, 0, 3, 3, 6, 6, 9, 9)
    assert (visual.num_frames, visual.grid[0]) == (8, 4)
    assert [visual.find_position(t) for t in (0, 2, 3, 9)] == [0, 2, 2, 6]
    seen = [len(VisualInput(blank(99), replace(settings, max_frames=most)).llm_frame_indices) for most in (2, 12, 32)]
    assert seen == [2, 8, 16]
    alone = [VisualInput(clip.select([t]), settings) for t in visual.llm_frame_indices]
    assert [one.shown_frames for one in alone] == [(0,)] * 4
    torch.testing.assert_close(visual.pixel_values, torch.cat([one.pixel_values for one in alone]), atol=0, rtol=0)
    assert VisualInput(clip.select([0, 1, 2]), settings).grid[0] == 3
    assert VisualInput(clip, replace(settings, max_frames=1)).llm_frame_indices == (0,)


def test_settings_come_back_from_disk(tmp_path: Path) -> None:
    settings = ImageSettings(
        min_pixels=56 * 56,
        max_pixels=168 * 168,
        share_budget=False,
        max_frames=8,
        still_frames=True,
        sam_size=192,
        image_mean=(0.5, 0.5, 0.5),
        target_rule="nearest",
        region_rule="covered",
    )
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings.to_dict()))
    assert ImageSettings.from_folder(tmp_path) == settings
    assert ImageSettings.from_folder(tmp_path, sam_size=256).sam_size == 256


def test_a_released_folder_has_the_pixel_limits_of_the_release_and_not_those_it_states(tmp_path: Path) -> None:
    stated = {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "image_mean": [0.1, 0.2, 0.3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    assert ImageSettings.from_folder(tmp_path) == ImageSettings(image_mean=(0.1, 0.2, 0.3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ('{"unipixel": {"max_frame": 3}}', "unknown fields max_frame"),
        ('{"unipixel": {"max_frames": 0}}', "max_frames is 0"),
        ('{"unipixel": {"max_frames": "many"}}', "malformed"),
        ('{"unipixel": {"min_pixels": 100, "max_pixels": 50}}', "max_pixels is 50"),
        ('{"unipixel": {"target_rule": "soft"}}', "target_rule is 'soft'"),
        ('{"unipixel": {"region_rule": "nearest"}}', "region_rule is 'nearest'"),
        ('{"unipixel": {"frame_resize": "opencv"}}', "frame_resize is 'opencv'"),
        ('{"unipixel": 3}', "malformed"),
        ('{"image_mean": [0.5]}', "image_mean is"),
        ('{"image_mean": 0.5}', "malformed"),
        ('{"image_std": [0, 1, 1]}', "image_std"),
        ('{"patch_size": true}', "patch_size is True"),
        ('{"unipixel": {"max_pixels": 1000000000000}}', "max_pixels is"),
        ('{"unipixel": {"fps": "2"}}', "fps is '2'"),
        ('{"unipixel": {"fps": NaN}}', "not valid JSON"),
        ('{"unipixel": {"share_budget": 1}}', "share_budget is 1"),
    ],
)
def test_malformed_settings_are_refused_with_the_reason(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        ImageSettings.from_folder(tmp_path)


def test_frames_resized_as_tensors_are_nearly_those_of_pillow() -> None:
    rows, columns = np.mgrid[:60, :90]
    frame = np.stack([128 + 90 * np.sin(rows / 7), 128 + 90 * np.cos(columns / 9), rows + columns], axis=-1)
    frame = frame.astype(np.uint8)
    ours, pillow = (resize_frame(frame, (112, 56), rule) for rule in ("tensor", "pillow"))
    assert ours.shape == (112, 56, 3) and ours.dtype == np.uint8
    assert 0 < np.abs(ours.astype(int) - pillow).max() <= 1
    assert resize_frame(frame, (60, 90), "tensor") is frame
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    assert np.abs(resize_frame(noise, (112, 56), "tensor").astype(int) - resize_frame(noise, (112, 56))).max() > 1
