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

from unipixel.data.readers import expressions
from unipixel.data.readers.expressions import LAYOUTS
from unipixel.data.records import Record
from unipixel.errors import DatasetError

SPLITS = [(dataset, split) for dataset, splits in LAYOUTS.items() for split in splits]
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


def decoded(rles: list[dict[str, Any] | None], size_hw: tuple[int, int]) -> np.ndarray:
    """Masks by pycocotools, bool (T, H, W); None is an empty one."""
    return np.stack([np.zeros(size_hw, bool) if one is None else coco.decode(one) > 0 for one in rles])


def some(record: Record) -> list[int]:
    """A few frames of a clip; reading each of every clip takes long and shows no more."""
    assert record.num_frames is not None
    return [0, record.num_frames // 2, record.num_frames - 1]


@pytest.mark.parametrize(("dataset", "split"), SPLITS)
def test_every_expression_is_a_record_with_its_text_id_and_frames(miniatures: Path, dataset: str, split: str) -> None:
    records = expressions.read_records(miniatures, dataset, split)
    videos = annotated(miniatures, dataset, split)
    told = [
        (f"{video}/{key}", value["exp"])
        for video, entry in videos.items()
        for key, value in entry["expressions"].items()
    ]
    assert records
    assert [(record.id, record.raw.query.text) for record in records] == told
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
        np.testing.assert_array_equal(
            sample.objects[1].masks, decoded([masks[str(key)][t] for t in ts], sample.media.size_hw)
        )
        assert sample.media.size_hw == sample.objects[1].size_hw and sample.queries[0].targets == (1,)


@pytest.mark.parametrize(("dataset", "split"), BY_NUMBER)
def test_numbered_masks_are_counted_in_file_order(miniatures: Path, dataset: str, split: str) -> None:
    masks = pickle.loads((miniatures / LAYOUTS[dataset][split].masks).read_bytes())
    for number, record in enumerate(expressions.read_records(miniatures, dataset, split)):
        ts = some(record)
        track = expressions.read_sample(record, ts).objects[1]
        np.testing.assert_array_equal(track.masks, decoded([masks[str(number)][t] for t in ts], track.size_hw))
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
    assert sample.media.num_frames == sample.objects[1].num_frames == record.num_frames == len(record.frame_names) > 1


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
    types, seen = ("referring", "reasoning", "hallucination"), set()
    videos = annotated(miniatures, "revos", "valid")
    for record in expressions.read_records(miniatures, "revos", "valid"):
        (query,) = expressions.read_sample(record, [0]).queries
        written = videos[record.raw.video]["expressions"][record.raw.expression]
        assert query.kind == ("sentence" if written["exp"].endswith("?") else "query")
        assert query.category == types[written["type_id"]]
        seen.add((query.kind, query.category))
    assert {("query", "referring"), ("sentence", "reasoning")} <= seen


def test_revos_foreground_covers_every_object_of_the_video(miniatures: Path) -> None:
    given = json.loads((miniatures / "revos/mask_dict_foreground.json").read_bytes())
    for record in expressions.read_records(miniatures, "revos", "valid"):
        ts = some(record)
        sample = expressions.read_sample(record, ts)
        foreground = sample.areas["foreground"].masks
        np.testing.assert_array_equal(
            foreground, decoded([given[record.raw.video]["masks_rle"][t] for t in ts], foreground.shape[1:])
        )
        assert not (sample.objects[1].masks & ~foreground).any() and foreground.any()
    assert not expressions.read_sample(expressions.read_records(miniatures, "revos", "train")[0], [0]).areas


def test_kinds_are_those_of_the_dataset(miniatures: Path) -> None:
    def kind(dataset: str, split: str) -> str:
        return expressions.read_sample(expressions.read_records(miniatures, dataset, split)[0], [0]).queries[0].kind

    assert kind("ref_sav", "valid") == "description"
    assert {kind("mevis", "train"), kind("lvvis", "train"), kind("ref_davis17", "valid")} == {"query"}


def test_a_youtube_list_with_test_videos_leaves_those_that_have_frames(tmp_path: Path) -> None:
    # as in the official list: 507 videos, of which 202 are given out, with two to six expressions each
    videos = {
        f"{number:010x}": {
            "expressions": {str(k): {"exp": f"thing {k} of {number}"} for k in range(2 + number % 5)},
            "frames": [f"{t:05}" for t in range(0, 20, 5)],
        }
        for number in range(507)
    }
    folder = tmp_path / "ref_youtube_vos"
    (folder / "meta_expressions/valid").mkdir(parents=True)
    written = json.dumps({"videos": videos})
    (folder / "meta_expressions/valid/meta_expressions.json").write_text(written, encoding="utf-8")
    kept = sorted(videos)[::5] + sorted(videos)[1::5][:100]
    kept = sorted(kept)
    for video in kept:
        (folder / "valid/JPEGImages" / video).mkdir(parents=True)
    by_folder = expressions.read_records(tmp_path, "ref_youtube_vos", "valid")
    others = {"videos": {video: {} for video in videos if video not in kept}}
    (folder / "meta_expressions/test").mkdir()
    (folder / "meta_expressions/test/meta_expressions.json").write_text(json.dumps(others), encoding="utf-8")
    (folder / "valid/JPEGImages" / kept[0]).rmdir()  # a missing folder no longer drops the video: it shows as an error
    by_list = expressions.read_records(tmp_path, "ref_youtube_vos", "valid")
    assert {record.raw.video for record in by_folder} == {record.raw.video for record in by_list} == set(kept)
    assert [record.id for record in by_folder] == [record.id for record in by_list]
    assert len(by_list) == sum(len(videos[video]["expressions"]) for video in kept)


def test_an_unknown_split_is_refused_by_the_names_there_are(miniatures: Path) -> None:
    with pytest.raises(DatasetError, match="mevis has no split 'test'; it has train, valid_u, valid"):
        expressions.read_records(miniatures, "mevis", "test")


def test_frames_outside_of_the_clip_are_refused(miniatures: Path) -> None:
    record = expressions.read_records(miniatures, "mevis", "valid_u")[0]
    last = record.num_frames - 1
    for frames, told in [([last + 1], f"frame {last + 1}"), ([-1], "frame -1"), ([], "no frame")]:
        with pytest.raises(ValueError, match=f"{told} was asked for; the clip has frames 0 to {last}"):
            expressions.read_sample(record, frames)
