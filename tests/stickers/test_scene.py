"""Still scenes: determinism, exact masks, and settings."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unipixel.errors import DatasetError
from unipixel.stickers import HELD_OUT_FAMILY, Scene, SceneSettings, generate_scene, generate_turns, generate_video
from unipixel.stickers.colours import COLOURS, PAINTS, choose_colour_name, measure_colour_shares, repaint
from unipixel.stickers.language import PHOTOGRAPHED
from unipixel.stickers.sprites import Placement, draw_sprite, load_built_in

CLEAN = SceneSettings(noise=0.0)

FINGERPRINT = """
import hashlib, numpy
from unipixel import stickers
digest = hashlib.sha256()
for video in (False, True):
    for index in range(4):
        made, turns = stickers.generate_scene_with_turns(7, index, video=video, count=8)
        digest.update(made.frames.tobytes() + made.masks.tobytes() + repr(turns).encode())
print(digest.hexdigest())
"""


def assert_same(first: Scene, second: Scene) -> None:
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.masks, second.masks)
    assert [(item.id, item.thing) for item in first.objects] == [(item.id, item.thing) for item in second.objects]


def test_the_same_number_gives_the_same_scene_in_any_order_of_calls() -> None:
    first = [generate_scene(3, index) for index in range(6)]
    for index in (4, 0, 5, 2):
        assert_same(first[index], generate_scene(3, index))
    assert not np.array_equal(first[0].frames, generate_scene(4, 0).frames)


def test_another_process_makes_the_same_samples() -> None:
    made = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run([sys.executable, "-c", FINGERPRINT], env=environment, capture_output=True, check=True)
        made.append(done.stdout)
    assert made[0] == made[1]
    assert len(made[0].strip()) == 2 * hashlib.sha256().digest_size


@pytest.mark.parametrize("size_hw", [(168, 168), (120, 200), (224, 140)])
def test_each_mask_shows_exactly_the_pixels_of_its_own_sticker(size_hw: tuple[int, int]) -> None:
    settings = SceneSettings(size_hw=size_hw, noise=0.0)
    sprites = settings.load_sprites()
    for index in range(15):
        made = generate_scene(1, index, settings)
        assert made.frames.shape == (1, *size_hw, 3)
        covered = np.zeros(size_hw, bool)
        for n in reversed(made.drawing_order):  # from the top down
            placement = made.objects[n].placements[0]
            assert placement is not None
            patch = draw_sprite(placement, sprites, size_hw)
            assert patch is not None
            whole = np.zeros(size_hw, bool)
            whole[patch.window] = patch.mask
            assert np.array_equal(made.masks[n, 0], whole & ~covered)
            solid = np.zeros(size_hw, bool)
            solid[patch.window] = patch.pixels[..., 3] == 255
            colours = np.zeros((*size_hw, 3), np.uint8)
            colours[patch.window] = patch.pixels[..., :3]
            # Where the sticker is solid and nothing above has even a soft edge, its own colours are seen.
            clear = solid & made.masks[n, 0] & ~softly_covered(made, n, sprites)
            assert np.array_equal(made.image[clear], colours[clear])
            covered |= whole


def softly_covered(made: Scene, n: int, sprites: object) -> np.ndarray:
    """Pixels over which a sticker above object ``n`` lies, soft edges included."""
    size_hw = made.frames.shape[1:3]
    covered = np.zeros(size_hw, bool)
    order = made.drawing_order
    for above in order[order.index(n) + 1 :]:
        placement = made.objects[above].placements[0]
        patch = draw_sprite(placement, sprites, size_hw)
        covered[patch.window] |= patch.pixels[..., 3] > 0
    return covered


def test_masks_never_overlap_and_no_object_is_all_but_hidden() -> None:
    for index in range(60):
        made = generate_scene(2, index)
        assert 2 <= len(made.objects) <= 6
        assert made.masks.sum(0).max() <= 1
        assert made.areas.min() >= 0.004 * 168 * 168
        assert len({item.id for item in made.objects}) == len(made.objects)
        assert all(1 <= item.id <= 9 for item in made.objects)


def test_a_sticker_drawn_upright_at_full_size_is_the_sprite_itself() -> None:
    sprites = load_built_in()
    patch = draw_sprite(Placement(sprite=5, x=60.0, y=60.0, size=96.0), sprites, (120, 120))
    assert patch is not None
    canvas = np.zeros((120, 120, 4), np.uint8)
    canvas[patch.window] = patch.pixels
    expected = np.asarray(sprites.sprites[5].picture.convert("RGBa"))
    assert np.array_equal(canvas[12:108, 12:108], expected)


def test_a_flipped_sticker_is_the_mirror_image_of_the_plain_one() -> None:
    plain = draw_sprite(Placement(sprite=9, x=50.0, y=50.0, size=60.0), load_built_in(), (100, 100))
    flipped = draw_sprite(Placement(sprite=9, x=50.0, y=50.0, size=60.0, flip=True), load_built_in(), (100, 100))
    assert plain is not None and flipped is not None
    assert np.abs(plain.pixels[:, ::-1].astype(int) - flipped.pixels.astype(int)).max() <= 2


def test_settings_choose_names_style_and_number_of_objects() -> None:
    names = ("dog", "cat", "bus", "apple")
    settings = SceneSettings(names=names, families=(HELD_OUT_FAMILY,), num_objects=(3, 3), repaint=0.0)
    for index in range(10):
        made = generate_scene(0, index, settings)
        assert len(made.objects) == 3
        assert {item.thing.name for item in made.objects} <= set(names)
    with pytest.raises(ValueError, match="griffin"):
        generate_scene(0, 0, SceneSettings(names=("griffin", "dog")))


def test_settings_that_leave_no_room_are_refused() -> None:
    with pytest.raises(ValueError, match="no scene fits"):
        generate_scene(0, 0, SceneSettings(min_area=0.9))
    with pytest.raises(ValueError, match="no video fits"):
        generate_video(0, 0, SceneSettings(min_area=0.9))


def test_photos_serve_as_backgrounds(tmp_path: Path) -> None:
    Image.new("RGB", (400, 300), (10, 200, 30)).save(tmp_path / "green.jpg")
    made = generate_scene(0, 0, SceneSettings(photos=tmp_path, photo_share=1.0, noise=0.0))
    behind = made.image[~made.masks.any((0, 1))]
    assert np.abs(np.median(behind, 0) - [10, 200, 30]).max() <= 3
    assert made.on_photo


@pytest.mark.parametrize("generate", [generate_scene, generate_video])
def test_only_a_scene_whose_own_background_is_a_photo_lies_on_one(generate: Any, tmp_path: Path) -> None:
    """Things that photos often show are asked for in vain wherever no photo can show them."""
    Image.new("RGB", (400, 300), (10, 200, 30)).save(tmp_path / "green.jpg")
    settings = SceneSettings(photos=tmp_path, photo_share=0.5, noise=0.0)
    asked: dict[bool, set[str]] = {True: set(), False: set()}
    for index in range(24):
        made = generate(0, index, settings)
        borders = np.concatenate([made.image[0], made.image[-1]])
        assert made.on_photo == bool(np.abs(np.median(borders, 0) - [10, 200, 30]).max() <= 8)
        for seed in range(4):
            for turn in generate_turns(made, np.random.default_rng(seed), 1, {"absent": 1.0}):
                asked[made.on_photo].add(turn.answer.removeprefix("the ").split(" is not")[0])
    assert asked[True] and not asked[True] & PHOTOGRAPHED and asked[False] & PHOTOGRAPHED


def test_missing_or_broken_photos_are_dataset_errors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        generate_scene(0, 0, SceneSettings(photos=tmp_path / "none", photo_share=1.0))
    with pytest.raises(DatasetError, match="holds no"):
        generate_scene(0, 0, SceneSettings(photos=tmp_path, photo_share=1.0))
    other = tmp_path / "other"
    other.mkdir()
    (other / "broken.jpg").write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match="cannot be read"):
        generate_scene(0, 0, SceneSettings(photos=other, photo_share=1.0))


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((220, 20, 30), "red"),
        ((255, 140, 0), "orange"),
        ((250, 220, 40), "yellow"),
        ((30, 160, 40), "green"),
        ((30, 90, 220), "blue"),
        ((140, 50, 190), "purple"),
        ((240, 120, 190), "pink"),
        ((120, 70, 30), "brown"),
        ((10, 10, 10), "black"),
        ((250, 250, 250), "white"),
        ((128, 128, 128), "grey"),
        ((30, 180, 170), None),
    ],
)
def test_plain_colours_get_the_name_people_give_them(rgb: tuple[int, int, int], name: str | None) -> None:
    assert choose_colour_name(measure_colour_shares(np.full((50, 3), rgb, np.uint8))) == name


def test_a_thing_of_two_colours_has_no_colour_name() -> None:
    pixels = np.array([[220, 20, 30]] * 50 + [[30, 90, 220]] * 50, np.uint8)
    assert choose_colour_name(measure_colour_shares(pixels)) is None


@pytest.mark.parametrize("colour", list(PAINTS))
def test_repainted_things_mostly_show_their_new_colour(colour: str) -> None:
    sprites = load_built_in()
    shares = []
    for name in ("car", "dog", "shirt", "balloon", "elephant", "pear"):
        for index in sprites.by_name[name]:
            pixels = np.asarray(sprites.get_level(index, 64)).astype(np.float32)
            painted = repaint(pixels, colour)
            assert np.array_equal(painted[..., 3], pixels[..., 3])
            solid = painted[pixels[..., 3] == 255][:, :3]
            shares.append(measure_colour_shares(np.clip(solid, 0, 255).astype(np.uint8))[COLOURS.index(colour)])
    assert np.mean(shares) > 0.45
