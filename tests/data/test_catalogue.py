"""The catalogue, and datasets opened by name."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from unipixel import data
from unipixel.cli import app
from unipixel.data import readers
from unipixel.data.catalogue import DATASETS, collect_datasets
from unipixel.errors import DatasetError
from unipixel.masks import encode_rle
from unipixel.stickers import EVAL_SEED
from unipixel.train.mixture import collect_entries
from unipixel.train.recipe import MixtureRecipe, set_data
from unipixel.train.recipes import RECIPES


@pytest.mark.parametrize("name", DATASETS)
def test_every_row_says_all_that_users_need_to_know(name: str) -> None:
    row = DATASETS[name]
    assert all((row.title, row.paper, row.licence, row.home, row.teaches, row.splits))
    assert set(row.files) in (set(), set(row.splits))
    assert all(not Path(file).is_absolute() for files in row.files.values() for file in files)


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


READER = '''
"""Squares: grey pictures with one square each, described in a list; made up for a test."""

import numpy as np

from unipixel.data.files import get_field, read_json
from unipixel.data.frames import open_picture, repeat_mask
from unipixel.data.records import Dataset, Record
from unipixel.sample import Query, Sample


def read_records(root, dataset, split):
    rows = read_json(root / f"squares/{split}.json", dataset, list)
    return [
        Record(dataset=dataset, split=split, id=str(number), data_type="seg_image", root=root,
               frame_names=(f"squares/{get_field(row, 'picture', dataset, str)}",), raw=row)
        for number, row in enumerate(rows)
    ]


def read_sample(record, frames=None):
    media = open_picture(record, frames)
    x, y, side = get_field(record.raw, "square", record.source, list)
    mask = np.zeros(media.size_hw, dtype=bool)
    mask[y : y + side, x : x + side] = True
    query = Query(kind="query", text=get_field(record.raw, "text", record.source, str), targets=(1,))
    return Sample(media=media, objects={1: repeat_mask(mask, media.num_frames)}, queries=(query,), source=record.source)


DATASETS = {
    "squares": Dataset(
        title="Squares", paper="none", licence="CC0", home="nowhere", teaches="names -> masks", splits=("train", "val"),
        files={split: (f"squares/{split}.json",) for split in ("train", "val")}, index=read_records, sample=read_sample,
    )
}
'''


@pytest.fixture
def squares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with a dataset of its own, whose reader is one file in the folder of readers."""
    (tmp_path / "readers").mkdir()
    (tmp_path / "readers/made_up_squares.py").write_text(READER, encoding="utf-8")
    monkeypatch.setattr(readers, "__path__", [*readers.__path__, str(tmp_path / "readers")])
    rows = collect_datasets()
    monkeypatch.delitem(sys.modules, f"{readers.__name__}.made_up_squares")
    assert rows.keys() - DATASETS.keys() == {"squares"} and list(rows) == sorted(rows)
    monkeypatch.setitem(DATASETS, "squares", rows["squares"])
    (tmp_path / "data/squares").mkdir(parents=True)
    Image.fromarray(np.full((40, 60, 3), 90, dtype=np.uint8)).save(tmp_path / "data/squares/a.png")
    row = {"picture": "a.png", "square": [5, 10, 20], "text": "the square"}
    for split in ("train", "val"):
        (tmp_path / f"data/squares/{split}.json").write_text(json.dumps([row, row]), encoding="utf-8")
    return tmp_path


def test_a_dataset_is_added_by_one_file(squares: Path) -> None:
    records = data.open_index("squares", squares, "train")
    sample = data.read(records[1])
    assert len(records) == 2 and sample.objects[1].areas == (400,) and sample.queries[0].text == "the square"
    assert " squares " in CliRunner().invoke(app, ["data", "list"]).stdout
    checked = CliRunner().invoke(app, ["data", "check", "squares", "--data-root", str(squares)])
    assert checked.exit_code == 0 and "60 x 40, 1 object(s), 1 text(s): 'the square'" in checked.stdout
    recipe = set_data(RECIPES["finetune"](), ["squares"])
    assert isinstance(recipe, MixtureRecipe)
    entries, left_out, _ = collect_entries(recipe, squares)
    assert [record.id for _, record in entries] == ["0", "1"] and not left_out
    (squares / "data/squares/a.png").unlink()
    checked = CliRunner().invoke(app, ["data", "check", "squares/val", "--data-root", str(squares)])
    assert checked.exit_code == 1 and "squares/val 0" in checked.stdout


def test_two_readers_of_one_name_are_refused(squares: Path) -> None:
    (squares / "readers/other_squares.py").write_text(READER, encoding="utf-8")
    with pytest.raises(ValueError, match=r"other_squares declares the dataset 'squares'"):
        collect_datasets()


def test_photos_and_clips_lie_in_their_folder_or_in_the_one_above_it(tmp_path: Path) -> None:
    for name, files in (("photos", "labels.jsonl"), ("davis_clips", "sequences.jsonl")):
        with pytest.raises(DatasetError, match=files):
            data.open_index(name, tmp_path, "val")
    one = {"category": "cup", "area": 900, "bbox": [5, 5, 30, 30], "rle": encode_rle(np.ones((40, 60), dtype=bool))}
    line = {"image": "images/a.jpg", "width": 60, "height": 40, "instances": [one]}
    folder = tmp_path / "photos/coco_subset"
    (folder / "images").mkdir(parents=True)
    Image.fromarray(np.zeros((40, 60, 3), dtype=np.uint8)).save(folder / "images/a.jpg")
    (folder / "labels.jsonl").write_text(json.dumps(line), encoding="utf-8")
    above, inside = ([*data.open_index("photos", root, "train")] for root in (tmp_path, tmp_path / "photos"))
    assert above == inside and len(above) + len(data.open_index("photos", tmp_path, "val")) == 1
    for record in (*above, *data.open_index("photos", tmp_path, "val")):
        assert data.read(record).queries[-1].answer == "the cup"
