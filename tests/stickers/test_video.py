"""Videos: exact masks on every frame and true words for movement; samples and files made from scenes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unipixel.masks import load_index_png
from unipixel.stickers import (
    FAMILIAR,
    HARD,
    THINGS,
    Scene,
    SceneSettings,
    generate_scene_with_turns,
    generate_turns,
    generate_video,
    write_samples,
)
from unipixel.stickers.language import MOTIONS
from unipixel.stickers.sprites import draw_sprite

CLEAN = SceneSettings(noise=0.0)
CLIPS = [generate_video(21, index, CLEAN) for index in range(30)]


def track_centre(made: Scene, n: int, t: int) -> np.ndarray:
    ys, xs = np.nonzero(made.masks[n, t])
    return np.array([xs.mean() / made.frames.shape[2], ys.mean() / made.frames.shape[1]])


def test_a_clip_has_frames_masks_and_placements_of_one_length() -> None:
    for made in CLIPS:
        num_frames, height, width = made.frames.shape[:3]
        assert 8 <= num_frames <= 16
        assert made.masks.shape == (len(made.objects), num_frames, height, width)
        assert all(len(item.placements) == num_frames for item in made.objects)
        assert made.masks.sum(0).max() <= 1
        assert len(made.objects) >= 2


def test_nothing_hurries_and_everything_that_can_happen_happens() -> None:
    seen: set[str] = set()
    for made in CLIPS:
        side = min(made.frames.shape[1:3])
        for item in made.objects:
            seen |= item.does
            steps = [(a, b) for a, b in zip(item.placements, item.placements[1:], strict=False) if a and b]
            for a, b in steps:
                assert np.hypot(b.x - a.x, b.y - a.y) <= 1.5 * 0.05 * side * 1.1
                assert abs(b.angle - a.angle) <= 12.01 and 1 / 1.1 < b.size / a.size < 1.1
    assert seen >= {"left", "right", "up", "down", "still", "leave", "enter", "grow", "shrink"}


def test_the_hard_world_is_small_crowded_and_quick() -> None:
    clips = [generate_video(21, index, replace(HARD, noise=0.0)) for index in range(10)]
    assert all(4 <= len(made.frames) <= 8 and made.frames.shape[1:3] == (168, 168) for made in clips)
    jumps = [
        np.hypot(b.x - a.x, b.y - a.y) / 168
        for made in clips
        for item in made.objects
        for a, b in zip(item.placements, item.placements[1:], strict=False)
        if a and b
    ]
    assert max(jumps) > 0.15
    assert len(clips[0].names) == len(THINGS) and len(CLIPS[0].names) == len(FAMILIAR) == 100


def test_on_every_frame_an_uncovered_sticker_shows_its_own_pixels() -> None:
    sprites = CLEAN.load_sprites()
    checked = 0
    for made in CLIPS[:12]:
        size_hw = made.frames.shape[1:3]
        patches = [[p and draw_sprite(p, sprites, size_hw) for p in item.placements] for item in made.objects]
        for t in range(len(made.frames)):
            touched = np.zeros(size_hw, int)
            for n in range(len(made.objects)):
                if (patch := patches[n][t]) is not None:
                    touched[patch.window] += patch.pixels[..., 3] > 0
            for n in range(len(made.objects)):
                if (patch := patches[n][t]) is None:
                    assert not made.masks[n, t].any()
                    continue
                alone = made.masks[n, t][patch.window] & (patch.pixels[..., 3] == 255) & (touched[patch.window] == 1)
                assert np.array_equal(made.frames[t][patch.window][alone], patch.pixels[..., :3][alone])
                checked += int(alone.sum())
    assert checked > 10_000


def test_every_object_is_seen_well_on_a_third_of_the_frames() -> None:
    for made in CLIPS:
        assert ((made.areas >= 0.004 * 168 * 168).mean(1) >= 1 / 3).all()


def test_movements_agree_with_the_masks() -> None:
    seen = set()
    for made in CLIPS:
        for n, item in enumerate(made.objects):
            shown = made.areas[n] > 0
            if shown.all() and "hide" not in item.does | item.may_do:
                step = track_centre(made, n, -1) - track_centre(made, n, 0)
                directions = {"left": -step[0], "right": step[0], "up": -step[1], "down": step[1]}
                assert all(directions[motion] > 0.08 for motion in item.does & set(directions))
                assert "still" not in item.does or np.abs(step).max() < 0.08
            if "leave" in item.does:
                assert shown[0] and not shown[-1]
            if "enter" in item.does:
                assert not shown[0] and shown[-1]
            if "return" in item.does:
                assert shown[0] and not shown.all() and shown[-1]
            if "hide" in item.does:
                whole = made.areas[n].max()
                assert shown[0] and shown[-1] and made.areas[n].min() < 0.1 * whole
            assert not item.does & item.may_do
            seen |= item.does
    assert seen == set(MOTIONS)


def test_what_is_asked_by_its_motion_is_the_only_one_moving_so() -> None:
    asked = 0
    for made in CLIPS:
        ids = [item.id for item in made.objects]
        for turn in generate_turns(made, np.random.default_rng(0), 4, {"motion": 1.0}):
            found = re.search(r"the (\w+) (?:that |moving )", turn.question)
            assert found is not None
            motion = next(key for key, text in MOTIONS.items() if text in turn.question.replace(text + " and", ""))
            among = [item for item in made.objects if found[1] in ("thing", item.thing.name)]
            assert [item.id for item in among if motion in item.does] == list(turn.targets)
            if len(among) > 1:
                assert not any(motion in item.may_do for item in among)
            assert turn.targets[0] in ids
            asked += 1
    assert asked > 10


def test_places_in_videos_are_told_for_the_start() -> None:
    for made in CLIPS:
        for turn in generate_turns(
            made, np.random.default_rng(0), 4, {"position": 1.0, "size": 1.0, "where": 1.0, "order": 1.0}
        ):
            assert "at the start" in turn.question


def test_a_sample_holds_tracks_with_none_where_an_object_is_unseen() -> None:
    for index in range(8):
        made, questions = generate_scene_with_turns(21, index, video=True, settings=CLEAN)
        record = made.to_sample(questions)
        assert record.turns == questions
        assert record.media.num_frames == len(made.frames)
        assert record.media.size_hw == (224, 224)
        for n, item in enumerate(made.objects):
            track = record.objects[item.id]
            assert [rle is None for rle in track.rles] == [not mask.any() for mask in made.masks[n]]
            assert np.array_equal(track.masks, made.masks[n])


def test_a_still_sample_is_no_video() -> None:
    scene, turns = generate_scene_with_turns(0, 3, count=5)
    record = scene.to_sample(turns)
    assert not record.media.is_video
    assert record.media.num_frames == 1
    assert len(record.turns) == 5
    assert record.source == "stickers 0/3"


@pytest.mark.parametrize("clip", [False, True], ids=["stills", "clips"])
def test_written_samples_hold_pictures_masks_and_questions(tmp_path: Path, clip: bool) -> None:
    files = write_samples(2, tmp_path, seed=5, video=clip)
    assert all(path.is_file() for path in files)
    record = json.loads((tmp_path / "0001.json").read_text())
    made, questions = generate_scene_with_turns(5, 1, video=clip, count=6)
    assert [turn["question"] for turn in record["turns"]] == [turn.question for turn in questions]
    masks = tmp_path / ("0001_masks/00000.png" if clip else "0001_masks.png")
    pixels = load_index_png(masks)
    for n, item in enumerate(made.objects):
        assert np.array_equal(pixels == item.id, made.masks[n, 0])
    with Image.open(tmp_path / ("0001.gif" if clip else "0001.png")) as picture:
        assert picture.size == (224, 224)
    assert (tmp_path / "contact_sheet.png").is_file()


def test_zero_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give 1 or more"):
        write_samples(0, tmp_path)


def test_stickers_need_no_deep_learning_framework() -> None:
    code = "import sys, unipixel.stickers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
