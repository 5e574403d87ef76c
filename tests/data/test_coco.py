"""People's own COCO files, ``coco:PATH``: pictures, and both ways of writing videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unipixel import data
from unipixel.errors import DatasetError
from unipixel.masks import encode_rle

Write = Callable[..., Path]
SQUARE = [[2, 2, 6, 2, 6, 6, 2, 6]]
CATEGORIES = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]


def block(x: int) -> dict[str, Any]:
    """An RLE of 12 x 16 with 3 x 3 pixels at x."""
    mask = np.zeros((12, 16), dtype=bool)
    mask[4:7, x : x + 3] = True
    return dict(encode_rle(mask))


def image(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number}.png", "height": 12, "width": 16, **more}


def annotation(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "category_id": 1, "segmentation": SQUARE, **more}


@pytest.fixture
def own(tmp_path: Path, write_json: Write, write_picture: Write) -> Callable[..., list[data.Record]]:
    """Writes a file with the tables given and three pictures, and returns its index."""

    def build(split: str = "all", **tables: Any) -> list[data.Record]:
        for number in (1, 2, 3):
            write_picture(f"images/{number}.png", value=10 * number)
        document = {"images": [image(1), image(2)], "annotations": [], "categories": CATEGORIES, **tables}
        write_json("annotations.json", document)
        return data.open_index(f"coco:{tmp_path}", None, split)

    return build


def test_pictures_give_a_query_per_category_and_expression(own: Callable[..., list[data.Record]]) -> None:
    annotations = [
        annotation(70, bbox=[2, 2, 4, 4]),
        annotation(71, segmentation=block(9), expressions=["the dog on the right"]),
        annotation(72, segmentation=block(0), iscrowd=1),
        annotation(73, image_id=2, category_id=2),
    ]
    records = own(annotations=annotations)
    assert [record.id for record in records] == ["1.png/0", "1.png/1", "2.png/0"]
    first = data.read(records[0])
    assert [(query.text, query.targets) for query in first.queries] == [("dog", (1, 2))]
    assert data.read(records[1]).queries[0].text == "the dog on the right"
    assert first.objects[1].areas.tolist() == [16] and first.objects[2].boxes[0].tolist() == [9, 4, 12, 7]
    assert first.boxes == {1: (2, 2, 6, 6)} and first.areas["ignore"].areas.tolist() == [9]
    (grouped,) = [record for record in own("train", annotations=annotations) if record.id == "1.png"]
    assert len(data.read(grouped).queries) == 2


def test_videos_of_single_frames_are_put_together_by_track(own: Callable[..., list[data.Record]]) -> None:
    records = own(
        images=[image(3, video_id=8, frame_id=2), image(1, video_id=8, frame_id=0), image(2, video_id=8, frame_id=1)],
        videos=[{"id": 8, "name": "walk"}],
        annotations=[
            annotation(1, image_id=1, track_id=4, segmentation=block(0)),
            annotation(2, image_id=3, track_id=4, segmentation=block(6), expressions=["the running dog"]),
            annotation(3, image_id=2, track_id=5, category_id=2),
            annotation(4, image_id=2, iscrowd=1, segmentation=block(1)),
        ],
    )
    assert [record.id for record in records] == ["walk/0", "walk/1", "walk/2"]
    assert records[0].frame_names == ("1.png", "2.png", "3.png") and records[0].data_type == "seg_video"
    sample = data.read(records[0])
    assert sample.objects[1].visible.tolist() == [True, False, True]
    assert sample.objects[2].visible.tolist() == [False, True, False]
    assert sample.areas["ignore"].areas.tolist() == [0, 9, 0]
    cut = data.read(records[1], [2, 0])
    assert cut.objects[1].boxes[:, 0].tolist() == [6, 0] and cut.queries[0].text == "the running dog"
    assert [int(frame.max()) for frame in cut.media] == [30, 10]


def test_whole_videos_are_read_as_in_youtube_vis(own: Callable[..., list[data.Record]]) -> None:
    video = {"id": 1, "file_names": ["1.png", "2.png", "3.png"], "height": 12, "width": 16}
    track = {"id": 5, "video_id": 1, "category_id": 2, "segmentations": [None, block(3), SQUARE]}
    (record,) = own(videos=[video], annotations=[track])
    sample = data.read(record)
    assert record.id == "1/0" and sample.queries[0].text == "cat"
    assert sample.objects[1].areas.tolist() == [0, 9, 16]
    with pytest.raises(DatasetError, match="it has 1 segmentations, but the video 3 frames"):
        own(videos=[video], annotations=[{**track, "segmentations": [None]}])


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({}, "no picture and no video in it has an annotated object"),
        ({"annotations": [annotation(1, image_id=9)]}, "annotation 0: image 9 is not among the file's 2"),
        ({"annotations": [annotation(1, category_id=[9])]}, "annotation 0: category .* is not among the file's 2"),
        ({"annotations": [annotation(1, segmentation="x")]}, "the field 'segmentation' is 'x'"),
        ({"annotations": [annotation(1, segmentation=[["x"]])]}, "a polygon is not a list of numbers"),
        ({"annotations": [annotation(1, bbox=[1])]}, r"the bbox is \[1\]; it should be x, y, width, height"),
        ({"annotations": [annotation(1, expressions=[""])]}, "the expressions are"),
        ({"annotations": {}}, "the field 'annotations' is {}; it should be list"),
        ({"images": [{"id": 1}]}, "image 0: the field 'file_name' is missing"),
        ({"images": [image(1, video_id=1)], "annotations": [annotation(1)]}, "has no 'track_id'"),
        (
            {
                "images": [image(1, video_id=1)],
                "annotations": [annotation(1, track_id=1), annotation(2, track_id=1)],
            },
            "its track already has a mask on frame 0",
        ),
    ],
)
def test_wrong_files_are_named(own: Callable[..., list[data.Record]], tables: Any, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        own(**tables)


def test_pictures_are_looked_for_beside_the_file_and_above_it(
    tmp_path: Path, write_json: Write, write_picture: Write
) -> None:
    document = {"images": [image(1)], "annotations": [annotation(1)], "categories": CATEGORIES}
    path = write_json("labels/train.json", document)
    with pytest.raises(DatasetError, match=r"the picture '1\.png' of .*train\.json is in none of"):
        data.open_index(f"coco:{path}", None, "all")
    write_picture("images/1.png")
    assert data.read(data.open_index(f"coco:{path}", None, "all")[0]).objects[1].areas[0] == 16
    write_picture("labels/1.png", (24, 32))
    with pytest.raises(DatasetError, match=r"coco/all 1\.png/0: the annotation is for 12 x 16 pixels"):
        data.read(data.open_index(f"coco:{tmp_path / 'labels'}", None, "all")[0])
    write_json("labels/more.json", document)
    with pytest.raises(DatasetError, match=r"it holds more\.json, train\.json"):
        data.open_index(f"coco:{tmp_path / 'labels'}", None, "all")
