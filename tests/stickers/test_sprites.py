"""The sprite sheets, the table of things, and folders of sprites given by the user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unipixel.errors import DatasetError
from unipixel.stickers import (
    FURTHER_FAMILIES,
    HELD_OUT_FAMILY,
    THINGS,
    TRAINING_FAMILIES,
    SceneSettings,
    generate_scene,
    generate_turns,
)
from unipixel.stickers.colours import COLOURS
from unipixel.stickers.sprites import SHEETS, load_built_in, load_folder
from unipixel.stickers.things import KINDS, USES


def test_every_thing_is_drawn_by_at_least_three_training_families() -> None:
    drawn = {name: set[str]() for name in THINGS}
    for sprite in load_built_in().sprites:
        drawn[sprite.thing.name].add(sprite.family)
    assert len(THINGS) >= 160
    assert [name for name, families in drawn.items() if len(families) < 3] == []


def test_the_held_out_family_is_never_part_of_training() -> None:
    assert HELD_OUT_FAMILY not in (*TRAINING_FAMILIES, *FURTHER_FAMILIES)
    assert {sprite.family for sprite in load_built_in().sprites} == set(TRAINING_FAMILIES)
    held_out = load_built_in((HELD_OUT_FAMILY,))
    assert set(held_out.names) <= set(THINGS)
    assert len(held_out.names) >= 150


def test_sheets_stay_small_enough_for_the_repository() -> None:
    sizes = [path.stat().st_size for path in SHEETS.iterdir()]
    assert max(sizes) < 4_000_000
    assert sum(sizes) < 6_000_000


def test_no_two_things_share_a_picture() -> None:
    seen: dict[bytes, str] = {}
    for sprite in load_built_in((*TRAINING_FAMILIES, *FURTHER_FAMILIES, HELD_OUT_FAMILY)).sprites:
        name = seen.setdefault(sprite.picture.tobytes(), sprite.thing.name)
        assert name == sprite.thing.name


def test_every_sprite_is_visible_and_inside_its_square() -> None:
    for sprite in load_built_in((*TRAINING_FAMILIES, *FURTHER_FAMILIES, HELD_OUT_FAMILY)).sprites:
        alpha = np.asarray(sprite.picture)[..., 3]
        assert (alpha >= 128).mean() > 0.02, (sprite.family, sprite.thing.name)
        assert max(sprite.extent) <= 1.0


def test_the_table_speaks_only_of_known_kinds_uses_and_colours() -> None:
    for thing in THINGS.values():
        assert thing.kinds | thing.maybe_kinds <= set(KINDS), thing.name
        assert thing.uses | thing.maybe_uses <= set(USES), thing.name
        assert not thing.kinds & thing.maybe_kinds
        assert not thing.uses & thing.maybe_uses
        assert thing.colour == "" or thing.colour in COLOURS
        assert thing.plural


def test_an_unknown_family_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="openmoji"):
        load_built_in(("openmoji",))


def write_folder(folder: Path, labels: Any, files: tuple[str, ...] = ("a.png", "b.png")) -> Path:
    for number, file in enumerate(files):
        pixels = np.zeros((40, 60, 4), np.uint8)
        pixels[5:35, 10:50] = (250 - 200 * number, 30, 40 + 200 * number, 255)
        Image.fromarray(pixels).save(folder / file)
    (folder / "labels.json").write_text(labels if isinstance(labels, str) else json.dumps(labels))
    return folder


def test_a_folder_of_sprites_replaces_the_built_in_ones(tmp_path: Path) -> None:
    labels = {
        "a.png": {"name": "brick", "category": "building", "colour": "red"},
        "b.png": {"name": "gizmo", "category": "gadget", "uses": ["fly"]},
    }
    settings = SceneSettings(sprites=write_folder(tmp_path, labels), num_objects=(2, 3), noise=0.0)
    made = generate_scene(0, 0, settings)
    assert {item.thing.name for item in made.objects} <= {"brick", "gizmo"}
    questions = generate_turns(made, np.random.default_rng(0), 12)
    assert len(questions) == 12
    assert load_folder(tmp_path).things["gizmo"].uses == {"fly"}


def test_a_known_name_brings_its_category_along(tmp_path: Path) -> None:
    sprites = load_folder(write_folder(tmp_path, {"a.png": {"name": "dog"}, "b.png": {"name": "blob"}}))
    assert sprites.things["dog"].category == "animal"
    assert sprites.things["blob"].plural == "blobs"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "must be an object"),
        ({}, "must be an object"),
        ({"a.png": "dog"}, "a.png"),
        ({"a.png": {"category": "animal"}}, "name"),
        ({"a.png": {"name": "Dog"}}, "lower-case"),
        ({"a.png": {"name": 3}}, "lower-case"),
        ({"a.png": {"name": "dog", "size": 3}}, "unknown field 'size'"),
        ({"a.png": {"name": "dog", "category": 7}}, "category"),
        ({"a.png": {"name": "dog", "uses": "fly"}}, "uses"),
        ({"a.png": {"name": "dog", "uses": [["fly"]]}}, "uses"),
        ({"a.png": {"name": "dog", "colour": "mauve"}}, "colour"),
        ({"a.png": {"name": "dog", "plural": 2}}, "plural"),
        ({"missing.png": {"name": "dog"}}, "missing.png"),
        ({"labels.json": {"name": "dog"}}, "cannot be read"),
        ({"a.png": {"name": "dog"}, "b.png": {"name": "dog"}}, "at least 2"),
    ],
)
def test_a_malformed_sprite_folder_is_refused_in_one_sentence(tmp_path: Path, labels: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        load_folder(write_folder(tmp_path, labels))
    assert "\n" not in str(caught.value)


def test_a_folder_without_labels_or_with_a_blank_sprite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"labels\.json"):
        load_folder(tmp_path / "nowhere")
    write_folder(tmp_path, {"a.png": {"name": "dog"}, "b.png": {"name": "cat"}})
    Image.new("RGBA", (20, 20)).save(tmp_path / "b.png")
    with pytest.raises(DatasetError, match="blank"):
        load_folder(tmp_path)
