"""People's own pictures and masks, ``folder:PATH``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unipixel import data
from unipixel.errors import DatasetError
from unipixel.masks import save_davis_png

Write = Callable[..., Path]


@pytest.fixture
def write_mask(tmp_path: Path) -> Write:
    """Writes a mask of 12 x 16 with a block of 3 x 4 pixels per object, side by side."""

    def write(name: str, *objects: int) -> Path:
        values = np.zeros((12, 16), dtype=np.uint8)
        for place, number in enumerate(objects):
            values[2:5, 4 * place : 4 * place + 4] = number
        path = tmp_path / "masks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_davis_png(values, path)
        return path

    return write


@pytest.fixture
def own(tmp_path: Path, write_picture: Write, write_mask: Write, write_json: Write) -> str:
    """A picture with two objects, a video of which three frames of four have masks, and labels for both."""
    write_picture("images/cat.jpg")
    write_mask("cat.png", 1, 2)
    for t in (0, 1, 2, 10):
        write_picture(f"images/street/{t}.png", value=10 * t)
    for t, objects in ((0, [1, 2]), (2, [2]), (10, [2, 1])):
        write_mask(f"street/{t}.png", *objects)
    write_json(
        "labels.json",
        {
            "cat": {"1": "cat", "2": {"name": "cup", "expressions": ["what is about to fall?"]}},
            "street": {"1": "car", "2": {"name": "car", "expressions": ["the red car"]}},
        },
    )
    return f"folder:{tmp_path}"


def test_everything_is_read_with_one_query_per_record(own: str) -> None:
    records = data.open_index(own, None, "all")
    assert [record.id for record in records] == ["cat/0", "cat/1", "cat/2", "street/0", "street/1"]
    samples = [data.read(record) for record in records]
    asked = [(query.kind, query.text, query.targets) for sample in samples for query in sample.queries]
    assert asked == [
        ("query", "cat", (1,)),
        ("query", "cup", (2,)),
        ("sentence", "what is about to fall?", (2,)),
        ("query", "car", (1, 2)),
        ("query", "the red car", (2,)),
    ]
    assert samples[0].objects[2].boxes[0].tolist() == [4, 2, 8, 5] and not samples[0].media.is_video


def test_frames_of_a_video_are_those_with_masks_in_natural_order(own: str) -> None:
    record = data.open_index(own, None, "all")[-1]
    assert record.data_type == "seg_video"
    assert record.frame_names == tuple(f"images/street/{t}.png" for t in (0, 2, 10))
    sample = data.read(record)
    assert [int(frame.max()) for frame in sample.media] == [0, 20, 100]
    assert sample.objects[1].visible.tolist() == [True, False, True]
    cut = data.read(record, [1])
    assert cut.media.num_frames == 1 and cut.objects[1].visible.tolist() == [False]
    assert cut.objects[2].visible.tolist() == [True]


def test_training_groups_the_queries_of_a_picture_and_splits_json_decides(own: str, write_json: Write) -> None:
    write_json("splits.json", {"train": ["cat"], "val": ["street"]})
    (record,) = data.open_index(own, None, "train")
    assert (record.id, len(data.read(record).queries)) == ("cat", 3)
    assert [record.id for record in data.open_index(own, None, "val")] == ["street/0", "street/1"]


def test_without_splits_json_names_fall_into_the_same_split_for_ever(
    tmp_path: Path, write_picture: Write, write_mask: Write
) -> None:
    for number in range(40):
        write_picture(f"images/{number}.png")
        write_mask(f"{number}.png", 1)
    name = f"folder:{tmp_path}"
    train, val = ({record.id.split("/")[0] for record in data.open_index(name, None, s)} for s in ("train", "val"))
    assert not train & val and len(train | val) == 40 and 1 <= len(val) <= 10
    write_picture("images/more.png")
    write_mask("more.png", 1)
    assert val <= {record.id.split("/")[0] for record in data.open_index(name, None, "val")}


def test_pictures_without_labels_ask_for_every_object(tmp_path: Path, write_picture: Write, write_mask: Write) -> None:
    for name, objects in (("two", [1, 7]), ("none", []), ("yes_no", [255])):
        write_picture(f"images/{name}.png")
        write_mask(f"{name}.png", *objects)
    samples = {record.id: data.read(record) for record in data.open_index(f"folder:{tmp_path}", None, "all")}
    asked = {name: (sample.queries[0].text, sample.queries[0].targets) for name, sample in samples.items()}
    assert asked == {"two/0": ("object", (1, 7)), "none/0": ("object", (None,)), "yes_no/0": ("object", (1,))}
    assert samples["yes_no/0"].objects[1].areas[0] == 12 and samples["none/0"].objects == {}


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"dog": {"1": "dog"}}, "'dog': there is no such picture or video; there is for example 'cat'"),
        ({"cat.png": {"1": "dog"}}, r"'cat\.png': there is no such picture or video"),
        ({"cat.jpg": {"1": "dog"}, "cat": {"1": "dog"}}, "'cat': 'cat.jpg' means the same picture"),
        ({"cat": ["dog"]}, "the labels are"),
        ({"cat": {"dog": 1}}, "the object is 'dog'; it should be its pixel value"),
        ({"cat": {"0": "dog"}}, "the object is '0'"),
        ({"cat": {"1": {}}}, "object 1: the label has neither a name nor an expression"),
        ({"cat": {"1": 5}}, "object 1: the label is 5"),
        ({"cat": {"1": {"expressions": "x"}}}, "the expressions are 'x'; they should be a list of texts"),
    ],
)
def test_wrong_labels_are_named(own: str, write_json: Callable[[str, Any], Path], labels: Any, words: str) -> None:
    write_json("labels.json", labels)
    with pytest.raises(DatasetError, match=words):
        data.open_index(own, None, "all")


def test_labels_of_objects_that_are_nowhere_are_refused(own: str, write_json: Write) -> None:
    write_json("labels.json", {"cat": {"5": "dog"}})
    record = data.open_index(own, None, "all")[0]
    with pytest.raises(DatasetError, match=r"labels\.json names object 5, but the masks hold the objects 1, 2"):
        data.read(record)


def test_missing_files_are_named(own: str, tmp_path: Path, write_picture: Write, write_mask: Write) -> None:
    record = data.open_index(own, None, "all")[0]
    write_picture("images/cat.jpg", (24, 32))
    with pytest.raises(DatasetError, match=r"folder/all cat/0: masks/cat\.png is for 12 x 16 pixels"):
        data.read(record)
    (tmp_path / "masks" / "cat.png").unlink()
    records = data.open_index(own, None, "all")
    with pytest.raises(DatasetError, match=r"folder/all cat/0: the mask .*cat\.png does not exist; add it, all black"):
        data.read(records[0])
    assert data.read(records[-1]).objects  # and nothing else is the worse for it
    write_mask("cat.png", 1)
    for path in (tmp_path / "masks" / "street").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"folder/all street/1: the mask .*street/0\.png does not exist"):
        data.read(data.open_index(own, None, "all")[-1])
    write_picture("images/cat.png")
    with pytest.raises(DatasetError, match=r"two pictures in .* are named 'cat'"):
        data.open_index(own, None, "all")


def test_wrong_splits_are_named(own: str, tmp_path: Path, write_json: Write) -> None:
    write_json("splits.json", {"train": ["dog"]})
    with pytest.raises(DatasetError, match=r"splits\.json names 'dog' in 'train'"):
        data.open_index(own, None, "train")
    with pytest.raises(DatasetError, match="has 'val' as None; it should be a list of names"):
        data.open_index(own, None, "val")
    write_json("splits.json", {"train": []})
    with pytest.raises(DatasetError, match=r"none of the 2 pictures and videos .* falls into 'train'"):
        data.open_index(own, None, "train")
    with pytest.raises(DatasetError, match="has no split 'test'; there are train, val, all"):
        data.open_index(own, None, "test")
