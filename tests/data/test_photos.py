"""The photo collection: names and expressions that its defects leave in no doubt, cut-outs, and clean pieces."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unipixel.data.cutouts import LEVELS, VARIANTS, find_clean_crops, find_cutouts, list_whole_photos
from unipixel.data.readers import photos
from unipixel.data.records import Instance
from unipixel.errors import DatasetError
from unipixel.masks import encode_rle
from unipixel.stickers import SceneSettings, generate_scene, generate_turns, generate_video
from unipixel.train.sticker_data import PhotoSampler

SIZE_HW = (200, 260)
BEHIND, OBJECT = (10, 200, 30), (220, 20, 160)


def stem(held_out: bool, start: int) -> str:
    """A file stem that is in ``val`` or not."""
    return next(f"p{n}" for n in range(start, start + 1000) if (zlib.crc32(f"p{n}".encode()) % 10 == 0) == held_out)


def disc(cx: float, cy: float, radius: float) -> np.ndarray:
    y, x = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    return (x - cx) ** 2 + (y - cy) ** 2 < radius**2


def instance(mask: np.ndarray, category: str, *exprs: tuple[str, str], **more: Any) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
    made = {"category": category, "iscrowd": 0, "bbox": box, "area": int(mask.sum()), "rle": encode_rle(mask)}
    return made | {"exprs": [{"type": kind, "text": text} for kind, text in exprs]} | more


def add(root: Path, name_of_set: str, name: str, instances: list[dict[str, Any]], **more: Any) -> None:
    """A photo of one colour whose objects are of another."""
    folder = root / name_of_set
    (folder / "images").mkdir(parents=True, exist_ok=True)
    picture = np.empty((*SIZE_HW, 3), np.uint8)
    picture[:] = BEHIND
    for one in instances:
        x, y, w, h = one["bbox"]
        picture[y : y + h, x : x + w] = np.where(
            photos.rle_to_mask(one["rle"], SIZE_HW, "test")[y : y + h, x : x + w, None],
            OBJECT,
            picture[y : y + h, x : x + w],
        )
    Image.fromarray(picture).save(folder / "images" / f"{name}.jpg", quality=95, subsampling=0)
    line = {"image": f"images/{name}.jpg", "height": SIZE_HW[0], "width": SIZE_HW[1], "instances": instances} | more
    with open(folder / "labels.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def only(root: Path, name_of_set: str) -> list[Instance]:
    return [
        region
        for record in photos.read_records(root, "photos", "train")
        if record.id.startswith(f"{name_of_set}/")
        for region in photos.read_regions(record)
    ]


def test_names_are_those_of_stickers_and_colours_too(tmp_path: Path) -> None:
    mask = disc(120, 100, 50)
    teddy = instance(mask, "teddy bear", ("category", "the teddy bear"), ("color", "the gray teddy bear"))
    add(tmp_path, "coco_subset", stem(False, 0), [teddy | {"color_frac": 0.9}])
    (region,) = only(tmp_path, "coco_subset")
    assert region.name == "teddy" and region.expressions == ("the teddy", "the grey teddy")


@pytest.mark.parametrize(
    ("color_frac", "text", "kept"),
    [(0.9, "the red cup", True), (0.4, "the red cup", False), (0.9, "the beige cup", False)],
)
def test_only_plain_colours_are_asked_for(tmp_path: Path, color_frac: float, text: str, kept: bool) -> None:
    cup = instance(disc(120, 100, 50), "cup", ("color", text), color_frac=color_frac)
    add(tmp_path, "coco_subset", stem(False, 0), [cup])
    assert only(tmp_path, "coco_subset")[0].expressions == ((text,) if kept else ())


@pytest.mark.parametrize(
    ("name_of_set", "expressions", "kept"),
    [
        ("penn_fudan", (("category", "the person"), ("size", "the largest person")), ("the largest person",)),
        ("weizmann_horses", (("category", "the horse"),), ()),
        ("flowers17", (("category", "the tulip"),), ()),
        ("duts_objects", (("category", "the car"),), ("the car",)),
    ],
)
def test_what_a_set_leaves_unlabelled_makes_its_expressions_doubtful(
    tmp_path: Path, name_of_set: str, expressions: tuple[tuple[str, str], ...], kept: tuple[str, ...]
) -> None:
    noun = expressions[0][1].split()[-1]
    add(tmp_path, name_of_set, stem(False, 0), [instance(disc(120, 100, 50), noun, *expressions)])
    assert only(tmp_path, name_of_set)[0].expressions == kept


def test_parts_of_cars_have_no_side(tmp_path: Path) -> None:
    door = instance(disc(120, 100, 50), "front left door", ("category", "the front left door"))
    add(tmp_path, "car_parts", stem(False, 0), [door])
    (region,) = only(tmp_path, "car_parts")
    assert region.name == "front door" and region.expressions == ()


def test_names_that_became_one_fit_two_objects(tmp_path: Path) -> None:
    hen = instance(disc(60, 100, 40), "hen", ("category", "the hen"))
    rooster = instance(disc(200, 100, 40), "rooster", ("category", "the rooster"))
    add(tmp_path, "duts_objects", stem(False, 0), [hen, rooster])
    assert [(r.name, r.expressions) for r in only(tmp_path, "duts_objects")] == [("chicken", ()), ("chicken", ())]


def test_categories_that_lvis_has_not_labelled_throughout_are_not_asked_for(tmp_path: Path) -> None:
    bun = instance(disc(60, 100, 40), "bun", ("category", "the bun"))
    plate = instance(disc(200, 100, 40), "plate", ("category", "the plate"))
    add(tmp_path, "lvis_val100_subset", stem(False, 0), [bun, plate], not_exhaustive=["bun"])
    assert [r.expressions for r in only(tmp_path, "lvis_val100_subset")] == [(), ("the plate",)]


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Whole objects of two names, three each, and others that must not be cut out."""
    for n in range(3):
        add(tmp_path, "duts_objects", stem(False, 100 * n), [instance(disc(70, 70, 45 + n), "car")])
        add(tmp_path, "ecssd_objects", stem(False, 1000 + 100 * n), [instance(disc(70, 80, 45 + n), "owl")])
    add(tmp_path, "duts_objects", stem(True, 2000), [instance(disc(130, 100, 60), "car")])  # held out
    add(tmp_path, "duts_objects", stem(False, 3000), [instance(disc(20, 100, 60), "car")])  # cut off by the border
    add(tmp_path, "duts_objects", stem(False, 4000), [instance(disc(130, 100, 20), "car")])  # small
    pair = [instance(disc(70, 100, 45), "car"), instance(disc(159, 100, 45), "owl")]
    add(tmp_path, "voc2007_instances", stem(False, 5000), pair)  # one against the other
    add(tmp_path, "coco_subset", stem(False, 6000), [instance(disc(130, 100, 60), "car")])  # rough outlines
    add(tmp_path, "duts_objects", stem(False, 7000), [instance(disc(130, 100, 60), "iris")])  # the only one
    return tmp_path


def test_whole_large_objects_of_training_photos_are_cut_out(collection: Path) -> None:
    made = find_cutouts(collection)
    assert {name: len(where) for name, where in made.by_name.items()} == {"car": 3 * VARIANTS, "owl": 3 * VARIANTS}
    held_out = {record.id for record in photos.read_records(collection, "photos", "val")}
    assert held_out and not held_out & {one.record.id for one in made.sprites}
    assert made.weights is not None and abs(made.weights.sum() - 1) < 1e-9


def test_a_cut_out_shows_no_rim_of_its_old_background(collection: Path) -> None:
    made = find_cutouts(collection)
    for side in LEVELS:
        patch = np.asarray(made.get_level(0, side)).astype(float)
        assert patch.shape == (side, side, 4)
        seen = patch[..., 3] > 100
        colour = patch[..., :3][seen] / patch[..., 3:][seen] * 255
        assert np.abs(colour - OBJECT).max() < 30  # the background's green is 180 away
        area = (patch[..., 3] >= 128).mean()
        assert 0.68 < area < 0.79  # of a disc in its square pi / 4, less the outermost pixel


def test_lightings_differ_and_keep_the_outline(collection: Path) -> None:
    made = find_cutouts(collection)
    first, second = (np.asarray(made.get_level(n, 92)) for n in (0, 1))
    assert (first[..., 3] == second[..., 3]).all() and (first[..., :3] != second[..., :3]).any()
    assert (second[..., :3] <= second[..., 3:]).all()


def test_clean_pieces_show_nothing_labelled_and_whole_photos_nothing_held_out(collection: Path) -> None:
    held_out = {f"{record.id.split('/')[1]}.jpg" for record in photos.read_records(collection, "photos", "val")}
    add(collection, "car_parts", stem(False, 8000), [instance(disc(40, 40, 30), "wheel")])  # most of the car is unnamed
    pieces, wholes = find_clean_crops(collection), list_whole_photos(collection)
    assert any("car_parts" in path.parts for path, _ in wholes)
    assert not any("car_parts" in path.parts for path, _ in pieces)
    assert pieces and not held_out & {path.name for path, _ in (*pieces, *wholes)}
    for path, (x1, y1, x2, y2) in pieces:
        crop = np.asarray(Image.open(path).convert("RGB"))[y1:y2, x1:x2].astype(int)
        assert (np.abs(crop - OBJECT).sum(-1) < 100).mean() < 0.011


def test_scenes_and_clips_of_cut_outs_have_exact_masks_and_true_names(collection: Path) -> None:
    settings = SceneSettings(
        size_hw=(120, 120),
        num_objects=(2, 3),
        scale=(0.25, 0.5),
        sprites=find_cutouts(collection),
        photos=find_clean_crops(collection),
        photo_share=1.0,
        repaint=0.0,
        noise=0.0,
    )
    for made in (generate_scene(3, 0, settings), generate_video(3, 0, settings)):
        assert {item.thing.name for item in made.objects} <= {"car", "owl"}
        frames, seen = made.frames.astype(int), made.masks.any(0)
        pinkish = frames[..., 0] - frames[..., 1] > 60
        if not made.is_video:
            assert (pinkish == seen).mean() > 0.98
        assert all(turn.targets for turn in generate_turns(made, np.random.default_rng(0), 2, {"box": 1.0}))
    again = generate_scene(3, 0, settings)
    assert (again.frames == generate_scene(3, 0, settings).frames).all()


def test_a_folder_without_enough_whole_objects_is_refused(tmp_path: Path) -> None:
    add(tmp_path, "duts_objects", stem(False, 0), [instance(disc(20, 100, 60), "car")])
    with pytest.raises(DatasetError, match="too few for scenes"):
        find_cutouts(tmp_path)


def test_a_crop_larger_than_its_photo_is_refused(collection: Path) -> None:
    path = find_clean_crops(collection)[0][0]
    settings = SceneSettings(photos=((path, (0, 0, 500, 500)),), photo_share=1.0)
    with pytest.raises(DatasetError, match="fetch photo and labels again"):
        generate_scene(0, 0, settings)


def test_only_what_a_photo_is_known_not_to_show_is_asked_for_in_vain(tmp_path: Path) -> None:
    dog, crowd = instance(disc(60, 100, 40), "dog"), instance(disc(200, 100, 40), "mouse", iscrowd=1)
    add(tmp_path, "coco_subset", stem(False, 0), [dog, crowd])
    add(tmp_path, "coco_subset", stem(False, 100), [instance(disc(60, 100, 40), "tv")])
    add(tmp_path, "coco_subset", stem(False, 200), [instance(disc(60, 100, 40), "sky", isthing=False)])
    add(tmp_path, "lvis_val100_subset", stem(False, 300), [dog], neg_categories=["shower_head"])
    add(tmp_path, "duts_objects", stem(False, 400), [dog])
    records = photos.read_records(tmp_path, "photos", "train")
    names = photos.list_coco_things(records)
    assert names == ["computer mouse", "dog", "television"]
    absent = {record.id: photos.list_absent_names(record, names) for record in records}
    assert absent == {
        f"coco_subset/{stem(False, 0)}": ["television"],
        f"coco_subset/{stem(False, 100)}": ["computer mouse", "dog"],
        f"coco_subset/{stem(False, 200)}": names,
        f"lvis_val100_subset/{stem(False, 300)}": ["shower head"],
        f"duts_objects/{stem(False, 400)}": [],
    }
    training = PhotoSampler("photos", str(tmp_path))
    asked = set()
    for seed in range(60):
        sample = training.draw(np.random.default_rng(seed), 1, 2, {"absent": 1.0, "box": 1.0})
        for turn in sample.turns:
            if turn.task == "absent":
                assert turn.targets == () and turn.answer.endswith(" is not there.")
                asked.add((sample.source.split()[-1], turn.answer.removeprefix("the ").removesuffix(" is not there.")))
    assert asked and all(name in absent[source] for source, name in asked)
