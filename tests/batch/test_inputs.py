"""Items out of folders, patterns, lists and tables, and prompts as they are written there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from unipixel.batch.inputs import build_item, decode_items, encode_item, parse_prompts, read_items
from unipixel.batch.storage import Store, fetch_media, repeat
from unipixel.errors import DatasetError, MediaError
from unipixel.masks import encode_rle
from unipixel.media import LOCAL
from unipixel.sample import Box, Mask, Point


def list_media(source: Any, **options: Any) -> list[str]:
    return [Path(item["media"]).name for item in read_items(source, "what?", **options)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/10.png", "b/2.PNG", "a.mp4", "b/._2.png", ".DS_Store", "notes.md"):
        path = tmp_path / "lake" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "lake"


def test_a_folder_gives_its_media_in_natural_order(folder: Path) -> None:
    assert list_media(folder) == ["a.mp4", "2.PNG", "10.png"]
    assert list_media(f"file://{folder}") == ["a.mp4", "2.PNG", "10.png"]
    assert list_media(folder / "b/*.png") == ["10.png"]
    assert list_media(folder / "**/*") == ["a.mp4", "2.PNG", "10.png", "notes.md"]
    assert list_media(folder / "a.mp4") == ["a.mp4"]
    items = list(read_items(folder, "what?"))
    assert all(Path(item["media"]).is_absolute() for item in items)
    with pytest.raises(DatasetError, match="holds no pictures, videos or rows"):
        list(read_items(folder / "*.tif", "what?"))


def test_lists_are_relative_to_themselves(folder: Path) -> None:
    (folder / "list.txt").write_text("b/10.png\n\n  a.mp4 \nhttps://example.org/x.jpg\n")
    medias = [item["media"] for item in read_items(folder / "list.txt", "what?")]
    assert medias == [str(folder / "b/10.png"), str(folder / "a.mp4"), "https://example.org/x.jpg"]


def test_tables_carry_questions_prompts_options_and_ids(folder: Path) -> None:
    rows = [
        {"media": "a.mp4", "question": "who?", "options": {"num_frames": 4}, "id": "first"},
        {"media": "b/10.png", "prompts": [{"type": "point", "x": 1, "y": 2}], "question": ""},
        {"media": "b/2.PNG", "question": None, "prompts": None},
    ]
    (folder / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    flat = [{key: json.dumps(one) if isinstance(one, list | dict) else one for key, one in row.items()} for row in rows]
    columns = {key: [row.get(key) for row in flat] for key in ("media", "question", "prompts", "options", "id")}
    parquet.write_table(pa.table(columns), folder / "t.parquet")
    for name in ("t.jsonl", "t.parquet", "t.j*l"):
        items = list(read_items(folder / name, "what?"))
        assert [item["question"] for item in items] == ["who?", None, "what?"]
        assert items[0]["options"] == {"num_frames": 4} and items[0]["id"] == "first"
        assert items[1]["prompts"] == [{"type": "point", "x": 1, "y": 2}] and items[1]["id"] == "b/10.png"
        assert items[2]["media"] == str(folder / "b/2.PNG")


class StandInDataset:
    """What is read of a Ray Dataset."""

    def iter_rows(self) -> Any:
        yield {"media": "x.png", "prompts": np.array([], dtype=object), "question": "who?"}
        yield {"media": 5}


def test_a_dataset_of_ray_is_read_row_by_row() -> None:
    items = read_items(StandInDataset())
    assert next(items)["question"] == "who?"
    with pytest.raises(DatasetError, match=r"row 1 of the Dataset: media is 5; it must be text"):
        next(items)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "x"}, "it lacks the field 'media'"),
        ({"media": " ", "question": "x"}, "media is empty"),
        ({"media": "a.png"}, "neither a question nor a prompt"),
        ({"media": "a.png", "question": "x", "promts": []}, "it has the field 'promts'"),
        ({"media": "a.png", "question": "x", "options": {"colour": 1}}, "options has the field 'colour'"),
        ({"media": "a.png", "question": "x", "options": {"num_frames": 0}}, "num_frames is 0"),
        ({"media": "a.png", "question": "x", "options": {"track": "some"}}, "track is 'some'"),
        ({"media": "a.png", "question": "x", "options": {"start": "worst"}}, "start is 'worst'"),
        ({"media": "a.png", "question": "x", "options": {"force": 1}}, "force is 1"),
        ({"media": "a.png", "prompts": "[1"}, "Expecting"),
        ({"media": "a.png", "prompts": [{"type": "line"}]}, r"prompts\[0\].type is 'line'"),
        ({"media": "a.png", "prompts": [{"type": "point", "x": 1}]}, "lacks the field 'y'"),
        ({"media": "a.png", "prompts": [{"type": "box", "box": [1, 2, 3]}]}, "must have 4 entries"),
        (
            {"media": "a.png", "prompts": [{"type": "box", "box": [1, 2, 3, 4], "positive": True}]},
            "'positive', which a box",
        ),
        ({"media": "a.png", "prompts": [{"type": "mask", "rle": {"size": [2, 2], "counts": "~"}}]}, "."),
    ],
)
def test_rows_that_are_not_as_they_should_be_are_refused_by_place(row: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"media": "ok.png", "question": "x"}\n' + json.dumps(row) + "\n")
    with pytest.raises(DatasetError, match=r"t\.jsonl, line 2.*" + words):
        list(read_items(tmp_path / "t.jsonl"))


def test_files_that_are_no_tables_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("{not json}\n")
    with pytest.raises(DatasetError, match=r"t\.jsonl, line 1 is no JSON"):
        list(read_items(tmp_path / "t.jsonl", "x"))
    (tmp_path / "t.parquet").write_bytes(b"none")
    with pytest.raises(DatasetError, match=r"t\.parquet is no Parquet file"):
        list(read_items(tmp_path / "t.parquet", "x"))
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DatasetError, match=r"t\.txt cannot be read"):
        list(read_items(tmp_path / "t.txt", "x"))


def test_prompts_are_the_engines() -> None:
    mask = np.eye(3, dtype=bool)
    point, box, drawn = parse_prompts(
        [
            {"type": "point", "x": 1, "y": 2.5, "positive": False, "frame": 3, "object_id": 2},
            {"type": "box", "box": [0, 1, 2, 3]},
            {"type": "mask", "rle": encode_rle(mask), "object_id": None},
        ]
    )
    assert point == Point(1, 2.5, 3, False, 2) and box == Box(0, 1, 2, 3)
    assert isinstance(drawn, Mask) and (drawn.mask == mask).all()


def test_items_of_a_plan_come_back_as_they_were() -> None:
    item = build_item({"media": "a.png", "question": "was für ein Tier?", "options": {"seed": 3}})
    assert decode_items(encode_item(item) * 2, "plan") == [item, item]
    with pytest.raises(DatasetError, match="plan is damaged"):
        decode_items(b'{"media"', "plan")


def test_a_store_in_memory_keeps_files_and_says_what_is_there() -> None:
    store = Store("memory://lake/out", retries=0)
    assert store.read("a/x") is None and store.list_names("a") == set()
    store.write("a/x", b"1")
    store.write("a/y", b"2")
    store.write("a/x", b"3")
    assert store.read("a/x") == b"3" and store.list_names("a") == {"x", "y"}
    store.remove("a/x")
    store.remove("a/x")
    assert store.list_names("a") == {"y"}
    assert [item["media"] for item in read_items("memory://lake/out/a/*", "q")] == ["memory:///lake/out/a/y"]
    with fetch_media("memory://lake/out/a/y", LOCAL, 0) as path:
        assert Path(path).read_bytes() == b"2"
    assert not Path(path).exists()
    with pytest.raises(MediaError, match="does not exist"), fetch_media("memory://lake/none.png", LOCAL, 0):
        pass


def test_what_fails_for_a_while_is_done_again_and_what_lasts_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unipixel.batch.storage.FIRST_PAUSE_S", 0.0)
    calls: list[int] = []

    def act(error: Exception, ends: int) -> int:
        calls.append(1)
        if len(calls) < ends:
            raise error
        return len(calls)

    assert repeat(lambda: act(ConnectionError("gone"), 3), 2) == 3
    calls.clear()
    with pytest.raises(ConnectionError):
        repeat(lambda: act(ConnectionError("gone"), 9), 2)
    assert len(calls) == 3
    calls.clear()
    with pytest.raises(FileNotFoundError):
        repeat(lambda: act(FileNotFoundError("gone"), 9), 2)
    assert len(calls) == 1


def test_an_address_without_its_package_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="gs://bucket/x needs a package that is not installed"):
        Store("gs://bucket/x")
