"""Videos with expressions, on the miniatures: every mask against pycocotools on the annotation file itself."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from unipixel.data import expressions
from unipixel.data.expression_layouts import LAYOUTS
from unipixel.data.records import Record
from unipixel.errors import DatasetError

COUNTS = {
    ("revos", "train"): 8,
    ("revos", "valid"): 8,
    ("mevis", "train"): 6,
    ("mevis", "valid_u"): 4,
    ("mevis", "valid"): 2,
    ("lvvis", "train"): 3,
    ("ref_youtube_vos", "train"): 6,
    ("ref_youtube_vos", "valid"): 4,
    ("ref_davis17", "train"): 28,
    ("ref_davis17", "valid"): 12,
    ("ref_sav", "valid"): 3,
}
BY_KEY = [
    ("revos", "train"),
    ("revos", "valid"),
    ("mevis", "train"),
    ("mevis", "valid_u"),
    ("lvvis", "train"),
    ("ref_sav", "valid"),
]
BY_NUMBER = [("ref_youtube_vos", "train"), ("ref_davis17", "train"), ("ref_davis17", "valid")]
WITHOUT_MASKS = [("mevis", "valid"), ("ref_youtube_vos", "valid")]


def annotated(miniatures: Path, dataset: str, split: str) -> dict[str, Any]:
    """The expression file, read here without any code of ours."""
    return json.loads((miniatures / LAYOUTS[dataset][split].expressions).read_bytes())["videos"]


def decoded(rles: list[dict[str, Any]]) -> np.ndarray:
    """Masks by pycocotools, bool (T, H, W)."""
    return np.moveaxis(coco.decode(rles), 2, 0) > 0


def some(record: Record) -> list[int]:
    """A few frames of a clip; reading each of every clip takes long and shows no more."""
    assert record.num_frames is not None
    return [0, record.num_frames // 2, record.num_frames - 1]


@pytest.mark.parametrize(("dataset", "split"), list(COUNTS))
def test_every_expression_is_a_record_with_its_text_id_and_frames(miniatures: Path, dataset: str, split: str) -> None:
    records = expressions.read_records(miniatures, dataset, split)
    videos = annotated(miniatures, dataset, split)
    told = [
        (f"{video}/{key}", value["exp"])
        for video, entry in videos.items()
        for key, value in entry["expressions"].items()
    ]
    assert len(records) == COUNTS[dataset, split]
    assert [(record.id, record.raw.text) for record in records] == told
    for record in records:
        names = [Path(name).stem for name in record.frame_names]
        assert names == videos[record.raw.video]["frames"]
        assert all((miniatures / name).is_file() for name in record.frame_names)
        assert record.data_type == "seg_video" and record.source == f"{dataset}/{split} {record.id}"


@pytest.mark.parametrize(("dataset", "split"), BY_KEY)
def test_masks_named_by_annotation_are_those_of_the_mask_file(miniatures: Path, dataset: str, split: str) -> None:
    masks = json.loads((miniatures / LAYOUTS[dataset][split].masks).read_bytes())
    videos = annotated(miniatures, dataset, split)
    for record in expressions.read_records(miniatures, dataset, split):
        ts = some(record)
        sample = expressions.read_sample(record, ts)
        (key,) = videos[record.raw.video]["expressions"][record.raw.expression]["anno_id"]
        np.testing.assert_array_equal(sample.objects[1].masks, decoded([masks[str(key)][t] for t in ts]))
        assert sample.media.size_hw == sample.objects[1].size_hw and sample.queries[0].targets == (1,)


@pytest.mark.parametrize(("dataset", "split"), BY_NUMBER)
def test_numbered_masks_are_counted_in_file_order(miniatures: Path, dataset: str, split: str) -> None:
    masks = pickle.loads((miniatures / LAYOUTS[dataset][split].masks).read_bytes())
    for number, record in enumerate(expressions.read_records(miniatures, dataset, split)):
        ts = some(record)
        track = expressions.read_sample(record, ts).objects[1]
        np.testing.assert_array_equal(track.masks, decoded([masks[str(number)][t] for t in ts]))
        assert record.raw.number == number and record.raw.total == len(masks)


@pytest.mark.parametrize(("dataset", "split"), WITHOUT_MASKS)
def test_splits_scored_by_servers_have_queries_and_no_masks(miniatures: Path, dataset: str, split: str) -> None:
    for record in expressions.read_records(miniatures, dataset, split):
        sample = expressions.read_sample(record)
        assert not sample.objects and sample.queries[0].targets == () and sample.queries[0].text
        assert sample.media.num_frames == record.num_frames


def test_by_default_all_frames_of_the_clip_are_read(miniatures: Path) -> None:
    record = expressions.read_records(miniatures, "ref_sav", "valid")[0]
    sample = expressions.read_sample(record)
    assert sample.media.num_frames == sample.objects[1].num_frames == record.num_frames == 13


def test_chosen_frames_have_the_pictures_and_masks_of_those_frames(miniatures: Path) -> None:
    for dataset, split in [("revos", "valid"), ("ref_davis17", "valid"), ("mevis", "valid")]:
        record = expressions.read_records(miniatures, dataset, split)[0]
        whole, part = expressions.read_sample(record), expressions.read_sample(record, [7, 0, 3])
        pictures = [np.asarray(Image.open(miniatures / record.frame_names[t]).convert("RGB")) for t in (7, 0, 3)]
        np.testing.assert_array_equal(part.media.frames(), np.stack(pictures))
        for object_id, track in part.objects.items():
            np.testing.assert_array_equal(track.masks, whole.objects[object_id].masks[[7, 0, 3]])
        for name, track in part.areas.items():
            np.testing.assert_array_equal(track.masks, whole.areas[name].masks[[7, 0, 3]])


def test_revos_questions_are_sentences_and_types_are_categories(miniatures: Path) -> None:
    samples = [
        expressions.read_sample(record, [0]) for record in expressions.read_records(miniatures, "revos", "valid")
    ]
    told = [(sample.queries[0].kind, sample.queries[0].category) for sample in samples]
    assert told == [("query", "referring"), ("sentence", "reasoning")] * 4


def test_revos_foreground_covers_every_object_of_the_video(miniatures: Path) -> None:
    given = json.loads((miniatures / "revos/mask_dict_foreground.json").read_bytes())
    for record in expressions.read_records(miniatures, "revos", "valid"):
        ts = some(record)
        sample = expressions.read_sample(record, ts)
        foreground = sample.areas["foreground"].masks
        np.testing.assert_array_equal(foreground, decoded([given[record.raw.video]["masks_rle"][t] for t in ts]))
        assert not (sample.objects[1].masks & ~foreground).any()
    assert not expressions.read_sample(expressions.read_records(miniatures, "revos", "train")[0], [0]).areas


def test_kinds_are_those_of_the_dataset(miniatures: Path) -> None:
    def kind(dataset: str, split: str) -> str:
        return expressions.read_sample(expressions.read_records(miniatures, dataset, split)[0], [0]).queries[0].kind

    assert kind("ref_sav", "valid") == "description"
    assert {kind("mevis", "train"), kind("lvvis", "train"), kind("ref_davis17", "valid")} == {"query"}


def test_the_real_youtube_list_leaves_the_202_videos_that_have_frames(miniatures: Path, tmp_path: Path) -> None:
    real = miniatures / "ref_youtube_vos/real_meta_expressions_valid_ref_youtube_vos.json"
    videos = json.loads(real.read_bytes())["videos"]
    folder = tmp_path / "ref_youtube_vos"
    (folder / "meta_expressions/valid").mkdir(parents=True)
    (folder / "meta_expressions/valid/meta_expressions.json").write_bytes(real.read_bytes())
    kept = sorted(videos)[:202]
    for video in kept:
        (folder / "valid/JPEGImages" / video).mkdir(parents=True)
    by_folder = expressions.read_records(tmp_path, "ref_youtube_vos", "valid")
    others = {"videos": {video: {} for video in videos if video not in kept}}
    (folder / "meta_expressions/test").mkdir()
    (folder / "meta_expressions/test/meta_expressions.json").write_text(json.dumps(others), encoding="utf-8")
    (folder / "valid/JPEGImages" / kept[0]).rmdir()  # a missing folder no longer drops the video: it shows as an error
    by_list = expressions.read_records(tmp_path, "ref_youtube_vos", "valid")
    assert len(videos) == 507
    assert {record.raw.video for record in by_folder} == {record.raw.video for record in by_list} == set(kept)
    assert [record.id for record in by_folder] == [record.id for record in by_list]
    assert len(by_list) == sum(len(videos[video]["expressions"]) for video in kept)


def test_an_unknown_split_is_refused_by_the_names_there_are(miniatures: Path) -> None:
    with pytest.raises(DatasetError, match="mevis has no split 'test'; it has train, valid_u, valid"):
        expressions.read_records(miniatures, "mevis", "test")


def test_frames_outside_of_the_clip_are_refused(miniatures: Path) -> None:
    record = expressions.read_records(miniatures, "mevis", "valid_u")[0]
    for frames, told in [([50], "frame 50"), ([-1], "frame -1"), ([], "no frame")]:
        with pytest.raises(ValueError, match=f"{told} was asked for; the clip has frames 0 to 49"):
            expressions.read_sample(record, frames)
