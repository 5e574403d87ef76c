"""People's own data as tools and systems leave them: annotations without masks, ids, layouts, names, bad records."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unipixel import data
from unipixel.data.catalogue import check_records
from unipixel.data.records import BadRecords, Records, classify_reason
from unipixel.errors import DatasetError
from unipixel.masks import encode_rle, save_davis_png

Write = Callable[..., Path]
SQUARE = [[2, 2, 6, 2, 6, 6, 2, 6]]
CATEGORIES = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
EMPTY = dict(encode_rle(np.zeros((12, 16), dtype=bool)))


def image(number: int, name: str = "", **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name or f"{number}.png", "height": 12, "width": 16, **more}


def annotation(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "category_id": 1, "segmentation": SQUARE, "bbox": [2, 2, 4, 4], **more}


@pytest.fixture
def own(tmp_path: Path, write_json: Write, write_picture: Write) -> Callable[..., Records]:
    def build(split: str = "all", **tables: Any) -> Any:
        for number in (1, 2, 3):
            write_picture(f"images/{number}.png", value=10 * number)
        document = {"images": [image(1), image(2)], "annotations": [], "categories": CATEGORIES, **tables}
        write_json("annotations.json", document)
        write_json("splits.json", {"train": ["1", "2"], "val": ["1.png"]})
        return data.open_index(f"coco:{tmp_path}", None, split)

    return build


NO_MASKS = {
    "an empty list": [],
    "nothing": None,
    "a point": [[3, 4]],
    "a line": [[10, 10, 40, 30]],
    "points": [[1, 1], [2, 2, 3, 3]],
    "empty run lengths": EMPTY,
    "empty counts": {"size": [12, 16], "counts": [192]},
    "a list of empty run lengths": [EMPTY],
}


@pytest.mark.parametrize("segmentation", NO_MASKS.values(), ids=list(NO_MASKS))
def test_annotations_without_a_mask_are_left_out_and_counted(own: Any, segmentation: Any) -> None:
    annotations = [
        annotation(1),
        annotation(2, segmentation=segmentation, bbox=[8, 2, 6, 6]),
        annotation(3, image_id=2, category_id=2, segmentation=segmentation),
        annotation(4, image_id=1, category_id=2),
    ]
    records = own(annotations=annotations)
    assert len(records.left_out) == 2 and all(
        place.endswith(("annotation 1", "annotation 2")) for _, place in records.left_out
    )
    assert [record.id for record in records] == ["1.png/0", "1.png/1"]
    for record in records:
        sample = data.read(record)
        assert all(track.areas.all() for track in sample.objects.values())
        assert all(target in sample.objects for query in sample.queries for target in query.targets)
        assert sample.areas["ignore"].boxes[0].tolist() == [8, 2, 14, 8]  # where the other dog is, nothing is counted
    (train,) = own("train", annotations=annotations)
    assert [query.text for query in data.read(train).queries] == ["cat"]  # half the dogs would be half the truth


def test_without_a_box_nobody_is_asked_for_what_has_no_mask(own: Any) -> None:
    records = own(annotations=[annotation(1), annotation(2, segmentation=[], bbox=None), annotation(3, category_id=2)])
    assert [data.read(record).queries[0].text for record in records] == ["cat"]


def test_a_track_without_a_mask_on_one_of_its_frames_is_left_out(own: Any) -> None:
    images = [image(1, video_id=8, frame_id=0), image(2, video_id=8, frame_id=1)]
    annotations = [
        annotation(1, track_id=4),
        annotation(2, track_id=4, image_id=2, segmentation=[]),
        annotation(3, track_id=5, category_id=2),
    ]
    (record,) = own(images=images, annotations=annotations, videos=[{"id": 8, "name": "1.png"}])
    sample = data.read(record)
    assert sample.queries[0].text == "cat" and [track.areas.tolist() for track in sample.objects.values()] == [[16, 0]]
    assert sample.areas["ignore"].areas.tolist() == [16, 16]


def test_regions_of_less_than_a_pixel_are_not_there(own: Any) -> None:
    tiny = [[3.1, 3.1, 3.2, 3.1, 3.2, 3.2]]
    (lone,) = own(annotations=[annotation(1, segmentation=tiny)])
    sample = data.read(lone)
    assert sample.objects == {} and sample.queries[0].targets == (None,)
    (both,) = own(annotations=[annotation(1, segmentation=tiny), annotation(2)])
    sample = data.read(both)
    assert list(sample.objects) == [2] and sample.queries[0].targets == (2,)


def test_polygons_in_other_nestings_are_read(own: Any) -> None:
    for segmentation in (SQUARE[0], [*SQUARE, [1, 1]], SQUARE):
        (record,) = own(annotations=[annotation(1, segmentation=segmentation)])
        assert data.read(record).objects[1].areas.tolist() == [16]


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"images": [image(1), image(1, "2.png")]}, r"the image id 1 stands for '1\.png' and for '2\.png'"),
        (
            {"images": [image(1, video_id=1), image(1, "2.png", video_id=1)]},
            r"the image id 1 stands for '1\.png' and for '2\.png'",
        ),
        (
            {"categories": [{"id": 1, "name": "dog"}, {"id": 1, "name": "cat"}]},
            "the category id 1 stands for 'dog' and for 'cat'",
        ),
        (
            {"videos": [{"id": 1, "file_names": [name], "height": 12, "width": 16} for name in ("1.png", "2.png")]},
            r"the video id 1 stands for '1\.png' and for '2\.png'",
        ),
        (
            {"images": [image(1, video_id=1, frame_id=3), image(2, video_id=1, frame_id=3)]},
            r"'1\.png' and '2\.png' are the same frame of video 1",
        ),
        ({"images": [image(1), image(2, "1.png", width=99)]}, r"'1\.png' is listed twice, in two sizes"),
    ],
)
def test_ids_that_stand_for_two_things_are_refused_naming_both(own: Any, tables: Any, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        own(**{"annotations": [annotation(1)], **tables})


def test_a_row_that_is_listed_twice_is_one(own: Any) -> None:
    (record,) = own(images=[image(1), image(1)], categories=[*CATEGORIES, *CATEGORIES], annotations=[annotation(1)])
    assert data.read(record).objects[1].areas[0] == 16


LAYOUTS = {
    "beside train2017": ("annotations/instances_train2017.json", "train2017/a.png", "a.png"),
    "CVAT": ("annotations/instances_default.json", "images/default/a.png", "a.png"),
    "CVAT with a folder": ("annotations/instances_Train.json", "images/Train/a.png", "Train/a.png"),
    "Roboflow": ("train/_annotations.coco.json", "train/a.png", "a.png"),
    "Windows": ("annotations.json", "images/sub/a.png", "images\\sub\\a.png"),
    "Windows, elsewhere": ("result.json", "images/a.png", "C:\\Users\\me\\images\\a.png"),
    "another machine": ("annotations.json", "images/a.png", "/some/where/images/a.png"),
    "capitals": ("annotations.json", "images/a.PNG", "a.png"),
    "accents": ("annotations.json", "images/cafe\u0301.png", "caf\u00e9.png"),
}


@pytest.mark.parametrize(("file", "picture", "name"), LAYOUTS.values(), ids=list(LAYOUTS))
def test_exports_are_read_where_their_tools_put_them(
    tmp_path: Path, write_json: Write, write_picture: Write, file: str, picture: str, name: str
) -> None:
    write_picture(picture)
    write_json(file, {"images": [image(1, name)], "annotations": [annotation(1)], "categories": CATEGORIES})
    (tmp_path / Path(file).parent / "._junk.json").write_bytes(b"\0")
    (record,) = data.open_index(f"coco:{tmp_path}", None, "all")
    assert (tmp_path / picture).samefile(record.root / record.frame_names[0]) and "\\" not in record.id
    assert data.read(record).objects[1].areas[0] == 16


def test_files_of_two_splits_are_those_splits(tmp_path: Path, write_json: Write, write_picture: Write) -> None:
    for split in ("train", "val"):
        write_picture(f"{split}2017/{split}.png")
        rows = {"images": [image(1, f"{split}.png")], "annotations": [annotation(1)], "categories": CATEGORIES}
        write_json(f"annotations/instances_{split}2017.json", rows)
        write_json(f"annotations/captions_{split}2017.json", {"images": []})
    found = {s: [r.id for r in data.open_index(f"coco:{tmp_path}", None, s)] for s in ("train", "val", "all")}
    assert found == {"train": ["train.png"], "val": ["val.png/0"], "all": ["train.png/0", "val.png/0"]}


def test_two_names_for_one_picture_are_refused(tmp_path: Path, write_json: Write, write_picture: Write) -> None:
    write_picture("images/1.png")
    rows = {"images": [image(1, "a/1.png"), image(2, "b/1.png")], "categories": CATEGORIES}
    write_json("annotations.json", {**rows, "annotations": [annotation(1), annotation(2, image_id=2)]})
    with pytest.raises(DatasetError, match=r"'a/1\.png' and 'b/1\.png' both lead to"):
        data.open_index(f"coco:{tmp_path}", None, "all")


def test_one_missing_picture_does_not_hide_the_others(own: Any, tmp_path: Path) -> None:
    tables = {"annotations": [annotation(1), annotation(2, image_id=2)], "images": [image(1, "0.png"), image(2)]}
    first, second = own(**tables)
    with pytest.raises(DatasetError, match=r"0\.png"):
        data.read(first)
    assert data.read(second).objects


def masks_of(folder: Path, name: str, values: np.ndarray) -> None:
    path = folder / "masks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png" and values.max() < 255:
        save_davis_png(values, path)
    else:
        Image.fromarray(values).save(path)


@pytest.fixture
def folder(tmp_path: Path, write_picture: Write) -> Path:
    """A picture and a video of three frames."""
    square = np.zeros((12, 16), dtype=np.uint8)
    square[3:8, 4:10] = 1
    write_picture("images/cat.jpg")
    masks_of(tmp_path, "cat.png", square)
    for t in range(3):
        write_picture(f"images/walk/{t}.png")
        masks_of(tmp_path, f"walk/{t}.png", square)
    return tmp_path


def test_leftovers_of_systems_are_ignored_everywhere(folder: Path) -> None:
    for place in ("images", "masks", "images/walk", "masks/walk"):
        for name in ("._cat.jpg", "._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", "._walk"):
            (folder / place / name).write_bytes(b"\0\5\26\7")
    (folder / "images" / "__MACOSX").mkdir()
    records = data.open_index(f"folder:{folder}", None, "all")
    assert [record.id for record in records] == ["cat/0", "walk/0"]
    assert [len(list(data.read(record).media)) for record in records] == [1, 3]


@pytest.mark.parametrize("key", ["cat", "cat.jpg", "walk"])
def test_labels_and_splits_name_pictures_with_or_without_their_endings(folder: Path, key: str) -> None:
    (folder / "labels.json").write_text(json.dumps({key: {"1": "pet"}}))
    (folder / "splits.json").write_text(json.dumps({"train": [key]}))
    (record,) = data.open_index(f"folder:{folder}", None, "train")
    assert record.id == key.partition(".")[0] and data.read(record).queries[0].text == "pet"


def test_accents_are_compared_in_one_form(folder: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "a h\u00e9llo \u72d7") for form in ("NFC", "NFD"))
    (folder / "images" / "cat.jpg").rename(folder / "images" / f"{apart}.jpg")
    (folder / "masks" / "cat.png").rename(folder / "masks" / f"{composed}.png")
    (folder / "labels.json").write_text(json.dumps({f"{composed}.jpg": {"1": "dog"}}))
    record = data.open_index(f"folder:{folder}", None, "all")[0]
    assert record.id == f"{composed}/0" and data.read(record).queries[0].text == "dog"


@pytest.mark.parametrize("kind", ["soft", "jpeg"])
def test_masks_with_grey_edges_are_one_object(folder: Path, kind: str) -> None:
    values = np.zeros((12, 16), dtype=np.uint8)
    values[3:8, 4:10] = 255
    values[2, 4:10] = values[8, 4:10] = 100
    values[1:10, 3] = 30 if kind == "soft" else 0
    (folder / "masks" / "cat.png").unlink()
    masks_of(folder, "cat.png" if kind == "soft" else "cat.jpg", values)
    sample = data.read(data.open_index(f"folder:{folder}", None, "all")[0])
    assert list(sample.objects) == [1] and abs(int(sample.objects[1].areas[0]) - 30) <= 6
    for t in range(3):
        masks_of(folder, f"walk/{t}.png", values if t else np.minimum(values, 1) * 2)
    with pytest.raises(DatasetError, match=r"walk/0: some of its masks are one object in shades of grey"):
        data.read(data.open_index(f"folder:{folder}", None, "all")[-1])


def test_every_record_is_read_and_faults_are_told_by_kind(folder: Path) -> None:
    (folder / "images" / "walk" / "2.png").write_bytes((folder / "images" / "walk" / "2.png").read_bytes()[:45])
    (folder / "masks" / "cat.png").unlink()
    bad = check_records(data.open_index(f"folder:{folder}", None, "all"))
    assert list(bad) == ["folder/all cat/0", "folder/all walk/0"]
    assert [classify_reason(reason) for reason in bad.values()] == [
        "a file that is missing",
        "a damaged picture or video",
    ]


def test_several_processes_find_the_same_as_one(folder: Path, write_picture: Write) -> None:
    for number in range(300):
        write_picture(f"images/many{number}.png")
        if number % 100:
            masks_of(folder, f"many{number}.png", np.zeros((12, 16), dtype=np.uint8))
    records = data.open_index(f"folder:{folder}", None, "all")
    counted: list[int] = []
    bad = check_records(records, processes=2, progress=counted.append)
    assert sum(counted) == len(records) and bad == check_records(records, processes=1)
    assert sorted(bad) == [f"folder/all many{number}/0" for number in (0, 100, 200)]


def test_bad_records_are_counted_once_by_all_and_end_a_run_above_their_share(tmp_path: Path) -> None:
    one, other = (BadRecords(40, 0.05, tmp_path / "bad.jsonl") for _ in range(2))
    assert one.add("a", "gone") and not one.add("a", "gone") and not other.add("a", "gone")
    assert other.add("b", "cut") and one.collect_reasons() == {"a": "gone", "b": "cut"}
    with pytest.raises(
        DatasetError, match=r"3 of 40 records cannot be read, more than the share of 0\.05 .*a: gone; b: cut; c: x"
    ):
        one.add("c", "x")
    assert BadRecords(1, 0).add("a", "gone")  # one never ends a run
    many = BadRecords(20, 1)
    for number in range(14):
        many.add(f"r{number}", "gone")
    assert "14 of 20" in many.describe() and "r9: gone; and 4 more" in many.describe()
    with pytest.raises(ValueError, match="must be from 0"):
        BadRecords(3, 1.5)
