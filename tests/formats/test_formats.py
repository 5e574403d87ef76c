"""Every format written and read again, mask by mask; what does not fit is said; bad files get one sentence."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from unipixel.errors import DatasetError, MediaError
from unipixel.formats import (
    WRITERS,
    Annotations,
    assign_subsets,
    find_format,
    read_annotations,
    write_annotations,
)
from unipixel.formats.annotations import choose_file_names, make_file_name
from unipixel.formats.libraries import _build_detection
from unipixel.masks import MaskTrack, decode_rle, fit_outline, polygons_to_mask, rasterize_polygon
from unipixel.media import Media

SIZE = (48, 64)
EXACT = ["answer", "jsonl", "coco", "youtube-vis", "labelme", "cvat", "label-studio", "datumaro", "numpy"]
PLACES = {
    "answer": "a.json",
    "jsonl": "a.jsonl",
    "coco": "a.json",
    "youtube-vis": "a.json",
    "cvat": "a.xml",
    "label-studio": "a.json",
    "numpy": "a.npz",
}


def draw_masks() -> dict[str, np.ndarray]:
    """A disk, a ring, two parts, one pixel and a corner, bool (H, W) each."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    disk = (y - 20) ** 2 + (x - 30) ** 2 < 150
    parts = ((y - 10) ** 2 + (x - 10) ** 2 < 30) | ((y - 35) ** 2 + (x - 50) ** 2 < 60)
    pixel, corner = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    pixel[7, 9], corner[40:, 60:] = True, True
    ring = ((y - 24) ** 2 + (x - 40) ** 2 < 300) & ((y - 24) ** 2 + (x - 40) ** 2 > 80)
    return {"disk": disk, "ring": ring, "parts": parts, "pixel": pixel, "corner": corner}


@pytest.fixture
def still(tmp_path: Path) -> Annotations:
    """A picture on disk with objects that overlap; the last has no name."""
    path = tmp_path / "source" / "street 1.jpg"
    path.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(path)
    masks = draw_masks()
    tracks = {i: MaskTrack.from_masks(mask[None]) for i, mask in zip((1, 2, 5, 7, 9), masks.values(), strict=True)}
    labels = {1: "dog", 2: "狗 & <cat>", 5: "dog", 7: 'a "b"'}
    scores = {i: [round(0.3 + i / 20, 6)] for i in tracks}
    return Annotations(path.name, SIZE, tracks, labels, scores, pictures=[path])


@pytest.fixture
def clip() -> Annotations:
    """Frames 0, 3 and 6 of a clip; the first object leaves."""
    masks = list(draw_masks().values())
    moving = np.stack([np.roll(masks[0], 5 * t, axis=1) for t in range(3)])
    moving[2] = False
    ring = np.stack([masks[1], np.zeros(SIZE, bool), np.roll(masks[1], 3, axis=0)])
    tracks = {3: MaskTrack.from_masks(moving), 4: MaskTrack.from_masks(ring)}
    frames = np.random.default_rng(1).integers(0, 255, (7, *SIZE, 3), dtype=np.uint8)
    scores = {3: [0.9, 0.8, 0.0], 4: [0.5, 0.0, 0.25]}
    media = Media.from_array(frames, fps=12.0).select([0, 3, 6])
    return Annotations("walk.mp4", SIZE, tracks, {3: "dog"}, scores, frame_indices=[0, 3, 6], fps=12.0, pictures=media)


def list_masks(sets: list[Annotations]) -> Iterator[tuple[int, int, int, str, bytes]]:
    for number, one in enumerate(sets):
        for t in range(one.num_frames):
            for object_id, label, rle, _ in one.list_shapes(t):
                yield number, t, object_id, label, decode_rle(rle).tobytes()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", EXACT)
def test_masks_ids_and_labels_come_back_exactly(
    still: Annotations, clip: Annotations, tmp_path: Path, kind: str
) -> None:
    for number, sets in enumerate(([still], [clip], [still, clip])):
        if kind == "answer" and len(sets) > 1:
            continue
        place = PLACES.get(kind, "a") if not (kind == "numpy" and len(sets) > 1) else "a"
        path = tmp_path / str(number) / place
        write_annotations(sets, path, kind)
        found_kind = find_format(path)
        assert found_kind == kind
        again = sorted(read_annotations(path), key=lambda one: one.name, reverse=sets[0] is clip)
        again = sorted(again, key=lambda one: one.num_frames)
        assert sorted(list_masks(again)) == sorted(list_masks(sets))
        assert all(one.size_hw == SIZE for one in again)
        for one, before in zip(again, sets, strict=True):
            assert one.frame_indices == before.frame_indices
            if kind != "youtube-vis":
                assert one.is_video == before.is_video


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["answer", "jsonl", "coco", "youtube-vis", "label-studio", "datumaro", "numpy"])
def test_scores_come_back_where_there_is_a_place_for_them(
    still: Annotations, clip: Annotations, tmp_path: Path, kind: str
) -> None:
    for one in (still, clip):
        path = tmp_path / one.name / PLACES.get(kind, "a")
        write_annotations([one], path, kind)
        (again,) = read_annotations(path)
        for object_id, track in one.tracks.items():
            for t in np.flatnonzero(track.visible):
                assert again.get_score(object_id, t) == pytest.approx(one.get_score(object_id, t), abs=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["answer", "jsonl", "coco", "youtube-vis", "numpy"])
def test_frame_rates_come_back_where_there_is_a_place_for_them(clip: Annotations, tmp_path: Path, kind: str) -> None:
    write_annotations([clip], tmp_path / "x" / PLACES[kind], kind)
    assert read_annotations(tmp_path / "x" / PLACES[kind])[0].fps == 12.0


def test_davis_holds_what_does_not_overlap_and_says_what_did(
    still: Annotations, clip: Annotations, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=r"\d+ pixels on which objects overlap"):
        write_annotations([still, clip], tmp_path / "davis", "davis")
    assert find_format(tmp_path / "davis") == "davis"
    again = {one.name: one for one in read_annotations(tmp_path / "davis")}
    walk, street = again["walk"], again["street 1"]
    assert walk.frame_indices == (0, 3, 6) and walk.labels == {3: "dog", 4: "object"}
    surest = {i: still.tracks[i].mask(0) for i in sorted(still.tracks, key=lambda i: still.scores[i])}
    expected = np.zeros(SIZE, np.uint8)
    for object_id, mask in surest.items():
        expected[mask] = object_id
    for object_id, track in street.tracks.items():
        assert np.array_equal(track.mask(0), expected == object_id)


def test_davis_refuses_ids_that_do_not_fit(still: Annotations, tmp_path: Path) -> None:
    one = Annotations("a.png", SIZE, {300: still.tracks[1]})
    with pytest.raises(ValueError, match="object id 300 does not fit"):
        write_annotations([one], tmp_path / "davis", "davis")


def test_yolo_has_pictures_beside_labels_and_outlines_close_to_the_masks(
    still: Annotations, clip: Annotations, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning) as caught:
        write_annotations([still, clip], tmp_path / "yolo", "yolo")
    words = " ".join(str(one.message) for one in caught)
    assert "scores have no place" in words and "clips become single pictures, whose objects have no ids" in words
    names = sorted(p.relative_to(tmp_path / "yolo").as_posix() for p in (tmp_path / "yolo").rglob("*") if p.is_file())
    stems = ["street 1", "walk/frame_000000", "walk/frame_000003", "walk/frame_000006"]
    assert names == [
        "data.yaml",
        "images/street 1.jpg",
        *(f"images/{stem}.jpg" for stem in stems[1:]),
        *(f"labels/{stem}.txt" for stem in stems),
    ]
    copied = (tmp_path / "yolo" / "images" / "street 1.jpg").read_bytes()
    assert copied == (tmp_path / "source" / "street 1.jpg").read_bytes()
    street, *frames = read_annotations(tmp_path / "yolo")
    assert [street.get_class(i) for i in street.tracks] == ["dog", "狗 & <cat>", "dog", 'a "b"', "object"]
    for read, track in zip(street.tracks.values(), still.tracks.values(), strict=True):
        bound = 0.9 if track is still.tracks[5] else 0.98  # two parts of a small mask, and the way between them
        assert read.iou(track)[0] >= bound
    assert [list(one.tracks) for one in frames] == [[1, 2], [1], [1]]


@pytest.mark.parametrize("seed", range(12))
def test_outlines_have_about_a_hundred_corners_and_an_iou_that_is_true(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:150, :200]
    mask = np.zeros((150, 200), bool)
    for _ in range(4):
        cy, cx = rng.uniform(50, 100), rng.uniform(60, 140)
        mask |= ((y - cy) / rng.uniform(10, 40)) ** 2 + ((x - cx) / rng.uniform(10, 50)) ** 2 < 1
    corners, iou = fit_outline(mask)
    parts = len(MaskTrack.from_masks(mask[None]).polygons(0))
    assert len(corners) <= 100 * parts + 2 * (parts - 1)
    for whole in (corners.astype(int), np.round(corners).astype(int)):  # as Ultralytics and as supervision do
        drawn = rasterize_polygon(whole, (150, 200))
        assert (drawn & mask).sum() / (drawn | mask).sum() == pytest.approx(iou) and iou >= 0.98
    corners, iou = fit_outline(mask, "coco")
    drawn = polygons_to_mask([corners], (150, 200))
    assert (drawn & mask).sum() / (drawn | mask).sum() == pytest.approx(iou) and iou >= 0.98


def test_outlines_with_few_corners_are_the_mask() -> None:
    for name, mask in draw_masks().items():
        if name not in ("parts", "ring"):  # two parts need a way between them; the ring has 104 corners
            corners, iou = fit_outline(mask)
            assert iou == 1 and np.array_equal(rasterize_polygon(corners.astype(int), SIZE), mask), name


def test_outlines_that_are_too_ragged_are_counted(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((1, *SIZE)) > 0.5
    one = Annotations("noise.png", SIZE, {1: MaskTrack.from_masks(noise)})
    with pytest.warns(UserWarning, match=r"1 outlines cover their mask with an IoU below 0\.98"):
        write_annotations([one], tmp_path / "yolo", "yolo")


@pytest.mark.parametrize("kind", ["coco", "youtube-vis", "datumaro"])
def test_polygons_that_coco_draws_are_exact(still: Annotations, tmp_path: Path, kind: str) -> None:
    path = tmp_path / PLACES.get(kind, "a")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_annotations([still], path, kind, polygons=True)
    assert sorted(list_masks(read_annotations(path))) == sorted(list_masks([still]))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["labelme", "cvat", "label-studio"])
def test_polygons_for_tools_are_close_to_the_masks(still: Annotations, tmp_path: Path, kind: str) -> None:
    path = tmp_path / PLACES.get(kind, "a")
    write_annotations([still], path, kind, polygons=True)
    (again,) = read_annotations(path)
    assert again.labels == still.labels
    for object_id, track in still.tracks.items():
        assert again.tracks[object_id].iou(track)[0] >= 0.98


def test_a_picture_without_objects_stays(still: Annotations, tmp_path: Path) -> None:
    empty = Annotations("street 1.jpg", SIZE, {}, pictures=[tmp_path / "source" / "street 1.jpg"])
    for kind in ("coco", "yolo", "labelme", "cvat", "datumaro", "numpy", "label-studio", "answer", "jsonl"):
        path = tmp_path / kind / PLACES.get(kind, "a")
        write_annotations([empty], path, kind)
        (again,) = read_annotations(path)
        assert (again.size_hw, again.tracks) == (SIZE, {}), kind


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("end", [".png", ".gif", ".mp4"])
def test_masks_are_drawn(clip: Annotations, tmp_path: Path, end: str) -> None:
    (path,) = write_annotations([clip], tmp_path / f"a{end}")
    assert path.stat().st_size > 500
    with pytest.raises(MediaError, match="say where they are with --media"):
        write_annotations([clip.drop_pictures()], tmp_path / f"b{end}")


def test_pictures_are_found_again_beside_the_file(still: Annotations, tmp_path: Path) -> None:
    write_annotations([still], tmp_path / "source" / "a.json", "coco")
    (again,) = read_annotations(tmp_path / "source" / "a.json")
    assert np.array_equal(again.media.frame(0), still.media.frame(0))
    write_annotations([still], tmp_path / "far" / "a.json", "coco")
    (far,) = read_annotations(tmp_path / "far" / "a.json")
    assert not far.has_pictures
    (found,) = read_annotations(tmp_path / "far" / "a.json", media=tmp_path / "source")
    assert found.find_file() == tmp_path / "source" / "street 1.jpg"
    Image.new("RGB", (5, 5)).save(tmp_path / "small.png")
    with pytest.raises(MediaError, match=r"has 1 frames of \(5, 5\)"):
        read_annotations(tmp_path / "far" / "a.json", media=tmp_path / "small.png")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("../../etc/b.jpg", "etc/b.jpg"),
        ("/etc/b.jpg", "b.jpg"),
        ("C:\\x\\b.jpg", "b.jpg"),
        ("sub\\b.jpg", "sub/b.jpg"),
        ("https://host/x/y.png?z=1", "y.png"),
        ("..", "picture"),
        ("a:b?.png", "ab.png"),
    ],
)
def test_names_lead_nowhere_else(name: str, safe: str) -> None:
    assert make_file_name(name) == safe


def test_two_pictures_of_one_name_are_refused() -> None:
    sets = [Annotations(name, SIZE, {}) for name in ("a/x.jpg", "a/x.png")]
    with pytest.raises(DatasetError, match="would both be called 'a/x'"):
        choose_file_names(sets)


def test_old_files_do_not_count_as_written(still: Annotations, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").write_text("x")
    with pytest.raises(DatasetError, match="is not empty"):
        write_annotations([still], tmp_path / "out", "yolo")


BAD: dict[str, tuple[str, str | bytes, str]] = {
    "no file of any": ("a.txt", "hello", "is in none of the formats"),
    "JSON cut off": ("a.json", '{"images": [', "cannot be read"),
    "JSON of something else": ("a.json", "[1, 2]", "is in none of the formats"),
    "XML with entities": ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "declares a document type"),
    "XML of something else": ("a.xml", "<html/>", "the outermost tag is <html>"),
    "XML that is none": ("a.xml", "<annotations", "it is no XML"),
    "XML with a mask outside": (
        "a.xml",
        '<annotations><image name="a" width="9" height="9"><mask label="x" left="5" top="0" width="5" height="5" '
        'rle="25"/></image></annotations>',
        "is not inside of its picture",
    ),
    "XML with runs that do not add up": (
        "a.xml",
        '<annotations><image name="a" width="9" height="9"><mask label="x" left="0" top="0" width="5" height="5" '
        'rle="3, 99999999999999999999"/></image></annotations>',
        "the rle of a mask",
    ),
    "XML of a huge picture": (
        "a.xml",
        '<annotations><image name="a" width="999999" height="999999"/></annotations>',
        "larger than the",
    ),
    "LabelMe with a mask that is none": (
        "a.json",
        json.dumps(
            {
                "shapes": [{"label": "x", "points": [[0, 0], [1, 1]], "shape_type": "mask", "mask": "AAAA"}],
                "imagePath": "a.png",
                "imageHeight": 5,
                "imageWidth": 5,
            }
        ),
        "the mask is no PNG",
    ),
    "LabelMe with a point that is none": (
        "a.json",
        json.dumps(
            {
                "shapes": [{"label": "x", "points": [[0, 0], [1, "a"], [2, 2]]}],
                "imagePath": "a.png",
                "imageHeight": 5,
                "imageWidth": 5,
            }
        ),
        "must be a finite number",
    ),
    "Label Studio with a stream that is none": (
        "a.json",
        json.dumps(
            [
                {
                    "data": {"image": "a.png"},
                    "annotations": [
                        {
                            "result": [
                                {
                                    "type": "brushlabels",
                                    "original_width": 5,
                                    "original_height": 5,
                                    "value": {"rle": [1], "brushlabels": ["x"]},
                                }
                            ]
                        }
                    ],
                }
            ]
        ),
        "a brush mask holds 0 values",
    ),
    "Datumaro with a label that is none": (
        "a.json",
        json.dumps(
            {
                "categories": {"label": {"labels": []}},
                "items": [
                    {
                        "id": "a",
                        "annotations": [{"type": "mask", "label_id": 3, "rle": {"size": [2, 2], "counts": "4"}}],
                    }
                ],
            }
        ),
        "label_id is 3",
    ),
    "an answer with runs that do not add up": (
        "a.json",
        json.dumps(
            {
                "media": {"source": "a", "height": 5, "width": 5, "frame_indices": [0]},
                "objects": [{"id": 1, "label": "", "size": [5, 5], "rles": [{"size": [5, 5], "counts": [3]}]}],
            }
        ),
        "must add up to 25",
    ),
    "COCO of another shape": (
        "a.json",
        json.dumps({"images": [], "annotations": [{}], "categories": []}),
        "the field 'image_id' is missing",
    ),
    "an array of something else": ("a.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': 'junk'", "a.npy"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    name, content, words = BAD[case]
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DatasetError, match=words.replace("(", r"\(")) as caught:
        read_annotations(path)
    assert "\n" not in str(caught.value)


def test_arrays_with_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DatasetError, match="would have to be unpickled"):
        read_annotations(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", masks=np.ones((1, 1, 2, 2), bool), labels=np.array([None], dtype=object))
    with pytest.raises(DatasetError, match="would have to be unpickled"):
        read_annotations(tmp_path / "a.npz")


def test_ids_in_an_array_are_objects(tmp_path: Path) -> None:
    ids = np.zeros((2, 4, 5), np.uint16)
    ids[0, 1:3, 1:3], ids[1, 0, 0] = 300, 7
    np.save(tmp_path / "a.npy", ids)
    (one,) = read_annotations(tmp_path / "a.npy")
    assert {i: track.areas.tolist() for i, track in one.tracks.items()} == {7: [0, 1], 300: [4, 0]}


def test_what_has_no_mask_is_counted(tmp_path: Path) -> None:
    xml = (
        '<annotations><image name="a.png" width="9" height="9"><box label="x" xtl="1" ytl="1" xbr="2" ybr="2"/>'
        '<polygon label="x" points="1,1;5,1;5,5"/></image></annotations>'
    )
    (tmp_path / "a.xml").write_text(xml)
    with pytest.warns(UserWarning, match="1 shapes of the type box have no mask and are left out"):
        (one,) = read_annotations(tmp_path / "a.xml")
    assert len(one.tracks) == 1


def test_tracks_of_a_video_task_are_read_frame_by_frame(tmp_path: Path) -> None:
    xml = (
        "<annotations><meta><task><size>3</size><original_size><width>9</width><height>8</height></original_size>"
        '</task></meta><track id="4" label="dog"><polygon frame="0" outside="0" points="1,1;5,1;5,5;1,5"/>'
        '<polygon frame="1" outside="1" points="1,1;5,1;5,5;1,5"/></track></annotations>'
    )
    (tmp_path / "a.xml").write_text(xml)
    (one,) = read_annotations(tmp_path / "a.xml")
    assert one.tracks[1].areas.tolist() == [16, 0, 0] and one.labels == {1: "dog"} and one.size_hw == (8, 9)


def test_every_format_is_written_under_some_name() -> None:
    assert set(EXACT) | {"davis", "yolo", "overlay"} == set(WRITERS)


def build_stills(folder: Path, count: int) -> list[Annotations]:
    """Pictures on disk with a disk each, called cat and dog in turn."""
    folder.mkdir()
    disk = MaskTrack.from_masks(draw_masks()["disk"][None])
    sets = []
    for number in range(count):
        path = folder / f"p{number}.png"
        Image.fromarray(np.full((*SIZE, 3), number, np.uint8)).save(path)
        sets.append(Annotations(path.name, SIZE, {1: disk}, {1: ("cat", "dog")[number % 2]}, pictures=[path]))
    return sets


def test_shares_are_kept_and_the_same_each_time(tmp_path: Path) -> None:
    sets = build_stills(tmp_path / "pictures", 10)
    shares = {"train": 70.0, "val": 20.0, "test": 10.0}
    assign_subsets(sets, shares)
    first = {one.name: one.subset for one in sets}
    assert [list(first.values()).count(part) for part in shares] == [7, 2, 1]
    assert list(first.values()) != ["train"] * 7 + ["val"] * 2 + ["test"]  # neighbours do not go the same way
    assign_subsets(sets[::-1], shares)
    assert {one.name: one.subset for one in sets} == first
    for few, counts in ((0, [0, 0, 0]), (1, [1, 0, 0]), (3, [1, 1, 1]), (4, [2, 1, 1])):
        assign_subsets(sets[:few], {"train": 98, "val": 1, "test": 1})
        assert [sum(one.subset == part for one in sets[:few]) for part in shares] == counts
    for wrong in ({"train": 0}, {"train": 2, "val": -1}):
        with pytest.raises(ValueError, match="the shares of a dataset's parts are"):
            assign_subsets(sets, wrong)


def test_parts_of_a_dataset_have_files_of_their_own_and_the_same_classes(tmp_path: Path) -> None:
    sets = build_stills(tmp_path / "pictures", 6)
    assign_subsets(sets, {"train": 4, "val": 1, "test": 1})
    classes = ["bird", "dog", "cat"]
    names = {part: {one.name for one in sets if one.subset == part} for part in ("train", "val", "test")}
    paths = write_annotations(sets, tmp_path / "coco" / "instances.json", "coco", classes=classes)
    assert {path.name for path in paths} == {f"instances_{part}.json" for part in names}
    for part, some in names.items():
        coco = COCO(tmp_path / "coco" / f"instances_{part}.json")
        assert [(one["id"], one["name"]) for one in coco.dataset["categories"]] == [*enumerate(classes, 1)]
        assert {one["file_name"] for one in coco.dataset["images"]} == some and len(coco.anns) == len(some)
    write_annotations(sets, tmp_path / "yolo", "yolo", classes=classes)
    config = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())
    assert config == {**{part: f"images/{part}" for part in names}, "names": dict(enumerate(classes))}
    for part, some in names.items():
        assert {path.name for path in (tmp_path / "yolo" / "images" / part).iterdir()} == some
        assert {f"{path.stem}.png" for path in (tmp_path / "yolo" / "labels" / part).iterdir()} == some
    again = {one.name: one.labels for one in read_annotations(tmp_path / "yolo")}
    assert again == {f"{one.subset}/{one.name}": one.labels for one in sets}
    for place in ("a.jsonl", "arrays"):
        write_annotations(sets, tmp_path / place, None if place == "a.jsonl" else "numpy")
        again = read_annotations(tmp_path / place)
        assert sorted((one.name, one.subset) for one in again) == sorted((one.name, one.subset) for one in sets)
    write_annotations(sets, tmp_path / "a.xml", "cvat", classes=classes)
    assert 'subset="val"' in (tmp_path / "a.xml").read_text()
    for kind, place in (("davis", "davis"), ("overlay", "drawn"), ("labelme", "labelme"), ("label-studio", "b.json")):
        with pytest.warns(UserWarning, match="6 pictures and clips are in one whole"):
            write_annotations(sets, tmp_path / place, kind)
    for place in ("one.png", "one.gif", "answer.json"):
        kind = "answer" if place == "answer.json" else "overlay"
        with pytest.warns(UserWarning, match="1 pictures and clips are in one whole"):
            write_annotations(sets[:1], tmp_path / place, kind)
    write_annotations(sets, tmp_path / "datumaro", "datumaro", classes=classes)
    assert {path.stem for path in (tmp_path / "datumaro" / "annotations").iterdir()} == set(names)


def test_damaged_lines_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"media": 1, "objects": []}\n')
    with pytest.raises(DatasetError, match=r"a\.jsonl, line 2: media"):
        read_annotations(tmp_path / "a.jsonl")


def test_corners_of_fiftyone_boxes_round_down_to_their_pixels() -> None:
    """FiftyOne multiplies by the size of the picture and cuts; a corner just below its number would move the mask."""
    fiftyone = SimpleNamespace(Detection=SimpleNamespace)
    for width in (96, 101, 252, 640, 1001):
        for x in range(width - 3):
            mask = np.zeros((5, width), bool)
            mask[1:4, x : x + 3] = True
            one = Annotations("a", (5, width), {1: MaskTrack.from_masks(mask[None])}, {1: "thing"}, {})
            [shape] = one.list_shapes(0)
            left, top, wide, high = _build_detection(fiftyone, one, 0, *shape).bounding_box
            assert (int(left * width), int((left + wide) * width)) == (x, x + 3)
            assert (int(top * 5), int((top + high) * 5)) == (1, 4)
