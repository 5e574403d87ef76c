"""The catalogue, and datasets opened by name."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from unipixel import data
from unipixel.data.catalogue import DATASETS, TRAINS
from unipixel.errors import DatasetError
from unipixel.stickers import EVAL_SEED


@pytest.mark.parametrize("name", DATASETS)
def test_every_row_says_all_that_users_need_to_know(name: str) -> None:
    row = DATASETS[name]
    assert all((row.title, row.paper, row.licence, row.home, row.splits))
    assert set(row.files) in (set(), set(row.splits))
    assert all(not Path(file).is_absolute() for files in row.files.values() for file in files)


def test_every_row_says_what_it_trains() -> None:
    assert list(TRAINS) == list(DATASETS)


@pytest.mark.parametrize(
    ("text", "name", "split"),
    [
        ("refcoco", "refcoco", None),
        ("refcoco/testA", "refcoco", "testA"),
        ("folder:some/where", "folder:some/where", None),
        ("folder:some/where/val", "folder:some/where", "val"),
        ("coco:/val.json", "coco:/val.json", None),
        ("stickers/val_video", "stickers", "val_video"),
    ],
)
def test_names_may_end_in_a_split(text: str, name: str, split: str | None) -> None:
    assert data.parse_name(text) == (name, split)


def test_a_folder_that_is_named_like_a_split_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    assert data.parse_name(f"folder:{tmp_path}/val") == (f"folder:{tmp_path}/val", None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("refcocos", "there is no dataset 'refcocos'; did you mean 'refcoco'"),
        ("xyz", "`unipixel data list` names them all"),
        ("refcoco/test", "refcoco has no split 'test'; there are train, val, testA, testB"),
        ("folder", "write folder:PATH"),
        ("refcoco:x", "there is no dataset 'refcoco:x'"),
    ],
)
def test_names_that_do_not_exist_are_refused(text: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        data.parse_name(text)


def test_roots_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"the data root .* is not a folder"):
        data.open_index("refcoco", tmp_path / "nowhere", "val")
    with pytest.raises(DatasetError, match="refcoco: no data root was given"):
        data.open_index("refcoco", None, "val")
    with pytest.raises(DatasetError, match="there is nothing at"):
        data.open_index(f"folder:{tmp_path}/nowhere", None, "val")


def test_records_travel_to_other_processes(miniatures: Path) -> None:
    for name in ("refcoco", "paco_lvis", "reason_seg", "cocostuff"):
        record = data.open_index(name, miniatures.parent, "train")[0]
        copy = pickle.loads(pickle.dumps(record))
        assert copy == record and data.read(copy).queries == data.read(record).queries


def test_stickers_are_a_dataset_of_worded_samples() -> None:
    records = data.open_index("stickers", None, "val")
    assert len(records) == 500 and records[7].raw == (EVAL_SEED, 7)
    first, again = data.read(records[7]), data.read(records[7])
    assert first.turns == again.turns and first.source == f"stickers/val {EVAL_SEED}/7"
    assert first.turns and not first.queries and first.objects and not first.media.is_video
    assert data.open_index("stickers", None, "train")[0].raw == (0, 0)


def test_sticker_clips_can_be_cut() -> None:
    for record in data.open_index("stickers", None, "val_video")[:12]:
        whole = data.read(record)
        last = whole.media.num_frames - 1
        cut = data.read(record, [0, last])
        assert cut.media.num_frames == 2 and list(cut.objects) == list(whole.objects)
        assert all((track.mask(1) == whole.objects[number].mask(last)).all() for number, track in cut.objects.items())
        kept = [turn.question for turn in whole.turns if {p.frame for ps in turn.references for p in ps} <= {0, last}]
        assert [turn.question for turn in cut.turns] == kept
        assert {p.frame for turn in cut.turns for ps in turn.references for p in ps} <= {0, 1}
