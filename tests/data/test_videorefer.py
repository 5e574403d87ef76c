"""VideoRefer's benchmarks on their miniatures, its training set on small trees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unipixel.data.readers import videorefer, videorefer_bench
from unipixel.errors import DatasetError
from unipixel.masks import decode_rle, encode_rle
from unipixel.sample import Query

SIZE = (12, 16)
Json = Callable[[str, Any], Path]
Picture = Callable[..., Path]
TRAIN = "videorefer/VideoRefer-700K"
QA = f"{TRAIN}/videorefer-qa-75k-wo-masks.json"
BENCH = "videorefer/VideoRefer-Bench"


def rle(k: int) -> dict[str, Any]:
    """A mask of two rows at the height k."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[k : k + 2] = True
    return dict(encode_rle(mask))


def row(question: str, answer: str, annotation: list[Any], **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "x", "video": "a/b", "ratio": 0.5, "annotation": annotation, "conversations": turns, **more}


@pytest.fixture
def video(write_picture: Picture) -> None:
    for k in range(9):
        write_picture(f"{TRAIN}/videos/a/b/frame_{k}.png", SIZE, value=10 * k)


def test_every_question_of_bench_q_has_its_text_options_object_and_frames(miniatures: Path) -> None:
    raw = json.loads((miniatures / BENCH / "VideoRefer-Bench-Q.json").read_text())
    records = videorefer_bench.read_records(miniatures, "videorefer_bench_q", "test")
    assert [record.id for record in records] == [str(row["id"]) for row in raw]
    assert {record.raw[-1]["category"] for record in records} == {
        "Basic Questions",
        "Relationship Questions",
        "Reasoning Questions",
        "Future Predictions",
        "Sequential Questions",
    }
    for record, annotated in zip(records, raw, strict=True):
        sample = videorefer_bench.read_sample(record)
        (query,) = sample.queries
        assert query.text == annotated["Question"].replace("<object0><region>", "[0]")
        assert annotated["Answer"] == f"({query.answer}) {query.options['ABCD'.index(query.answer)]}"
        names = [int(name) for name in annotated["annotation"][0]]
        assert (query.kind, query.about) == ("choice", (0,))
        assert query.frame == names.index(int(annotated["frame_idx"]))
        assert list(sample.media.frame_indices) == names
        for name, mask in zip(annotated["annotation"][0].values(), sample.objects[0].masks, strict=True):
            assert np.array_equal(mask, decode_rle(name["segmentation"]))


def test_every_description_of_bench_d_is_of_object_0_in_a_video_file(miniatures: Path) -> None:
    raw = {row["id"]: row for row in json.loads((miniatures / BENCH / "VideoRefer-Bench-D.json").read_text())}
    for record in videorefer_bench.read_records(miniatures, "videorefer_bench_d", "test"):
        sample = videorefer_bench.read_sample(record)
        (query,) = sample.queries
        assert (query.kind, query.about, query.text, query.category) == ("caption", (0,), "", "detailed")
        assert len(query.answer) > 50
        annotated = raw[int(record.id)]["annotation"][0]
        shown = [one["segmentation"] is not None for one in annotated.values()]
        assert list(sample.media.frame_indices) == [int(name) for name in annotated] and any(shown)
        assert sample.objects[0].visible.tolist() == shown


def test_the_frame_that_is_pointed_at_takes_the_place_of_the_nearest_chosen_one(miniatures: Path) -> None:
    record = videorefer_bench.read_records(miniatures, "videorefer_bench_q", "test")[0]
    whole = videorefer_bench.read_sample(record)
    pointed = whole.queries[0].frame
    assert pointed == 0  # so the first of the chosen frames gives way
    some = videorefer_bench.read_sample(record, [4, 9, 12])
    assert some.queries[0].frame == 0
    assert some.media.frame_indices == tuple(whole.media.frame_indices[t] for t in (0, 9, 12))
    assert some.objects[0].rles == tuple(whole.objects[0].rles[t] for t in (0, 9, 12))


def bench_row(**changes: Any) -> dict[str, Any]:
    masks = [{"0": {"segmentation": rle(0)}, "3": {"segmentation": None}}, {"3": {"segmentation": rle(6)}}]
    asked = "Does <object1><region> touch <object4><region> or is <object1> alone?"
    return {
        "id": 5,
        "video": "clip",
        "Question": asked,
        "type": "Basic Questions",
        "options": ["(A) It touches <object4>", "(B) It is alone"],
        "Answer": "(B) It is alone",
        "frame_idx": "3",
        "annotation": masks,
        **changes,
    }


def test_objects_keep_their_numbers_in_questions_and_options(
    tmp_path: Path, write_json: Json, write_picture: Picture
) -> None:
    for k in range(4):
        write_picture(f"{BENCH}/videos/clip/{k:05}.jpg", SIZE)
    write_json(f"{BENCH}/VideoRefer-Bench-Q.json", [bench_row()])
    (record,) = videorefer_bench.read_records(tmp_path, "videorefer_bench_q", "test")
    sample = videorefer_bench.read_sample(record)
    (query,) = sample.queries
    assert query.text == "Does [1] touch [4] or is [1] alone?"
    assert query.options == ("It touches [4]", "It is alone")
    assert query.about == (1, 4) and query.frame == 1
    assert sample.media.frame_indices == (0, 3)
    assert sample.objects[1].visible.tolist() == [True, False]
    assert sample.objects[4].visible.tolist() == [False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Question": "What is <object1><region>?"}, r"introduces the objects \[1\].*masks of 2"),
        ({"Answer": "None of them"}, "the answer is 'None of them'"),
        ({"options": ["(A) x", "(C) y"]}, r"lettered \['A', 'C'\]"),
        ({"frame_idx": "1"}, "frame_idx is '1'; it should be one of the annotated frames"),
        ({"annotation": [{}, {}]}, "no object has an annotated frame"),
        ({"annotation": [{"first": None}, {}]}, "numbers a frame 'first'"),
        ({"video": None}, "the field 'video' is None"),
    ],
)
def test_a_damaged_question_is_refused_by_row(
    tmp_path: Path, write_json: Json, changes: dict[str, Any], message: str
) -> None:
    write_json(f"{BENCH}/VideoRefer-Bench-Q.json", [bench_row(), bench_row(**changes)])
    with pytest.raises(DatasetError, match=r"videorefer_bench_q/test row 1 of .*" + message):
        videorefer_bench.read_records(tmp_path, "videorefer_bench_q", "test")


def test_missing_and_cut_off_files_are_named_with_a_remedy(tmp_path: Path, write_json: Json) -> None:
    with pytest.raises(DatasetError, match=r"VideoRefer-Bench-D\.json does not exist; `unipixel data check video"):
        videorefer_bench.read_records(tmp_path, "videorefer_bench_d", "test")
    path = write_json(f"{BENCH}/VideoRefer-Bench-Q.json", [bench_row()])
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DatasetError, match=r"not valid JSON.*cut off"):
        videorefer_bench.read_records(tmp_path, "videorefer_bench_q", "test")


def test_a_missing_short_or_other_video_is_refused_by_record(
    tmp_path: Path, write_json: Json, write_picture: Picture
) -> None:
    write_json(f"{BENCH}/VideoRefer-Bench-Q.json", [bench_row()])
    (record,) = videorefer_bench.read_records(tmp_path, "videorefer_bench_q", "test")
    with pytest.raises(DatasetError, match=r"videorefer_bench_q/test 0: .*clip does not exist"):
        videorefer_bench.read_sample(record)
    for k in range(3):
        write_picture(f"{BENCH}/videos/clip/{k}.jpg", SIZE)
    with pytest.raises(DatasetError, match=r"frame 3 is annotated, but .* has 3 frames"):
        videorefer_bench.read_sample(record)
    for k in range(4):
        write_picture(f"{BENCH}/videos/clip/{k}.jpg", (20, 16))
    with pytest.raises(DatasetError, match=r"object 1.* 12 x 16 .* 20 x 16"):
        videorefer_bench.read_sample(record)


@pytest.mark.usefixtures("video")
def test_a_row_of_the_training_set_is_a_clip_of_its_annotated_frames(tmp_path: Path, write_json: Json) -> None:
    introduction = "<video>\nThere are 2 objects: <object0><region> and <object2><region>."
    annotated = row(f"{introduction}\nIs <object2> near <object0>?", "<object2> is.", [{"1": {}, "8": {}}, {"4": {}}])
    write_json(QA, [row("<region>", "left out", []), annotated])
    write_json(f"{TRAIN}/masks_qa/1.json", [[[rle(0)], [None], [rle(2)]], [[None], [rle(6)], [None]]])
    (record,) = videorefer.read_records(tmp_path, "videorefer_qa", "train")
    assert (record.id, record.data_type, record.is_tracked) == ("1", "region_video", True)
    # the introduction and its line break are counted as the released training does
    assert record.words == 10 + 2
    sample = videorefer.read_sample(record)
    (query,) = sample.queries
    assert (query.kind, query.text, query.answer, query.about) == ("qa", "Is [2] near [0]?", "[2] is.", (0, 2))
    assert query.introduction == "There are 2 objects: [0] and [2]."
    assert sample.media.frame_indices == (1, 4, 8)
    assert sample.objects[0].visible.tolist() == [True, False, True]
    assert np.array_equal(sample.objects[2].mask(1), decode_rle(rle(6)))
    assert videorefer.read_sample(record, [0, 2]).objects[0].rles == (rle(0), rle(2))


@pytest.mark.usefixtures("video")
def test_a_row_annotated_on_one_frame_is_about_the_whole_video(tmp_path: Path, write_json: Json) -> None:
    short = row("Briefly describe <region>.\n<video>", "A dog.", [{"6": None}])
    write_json(f"{TRAIN}/videorefer-short-caption-500k-wo-masks.json", [short])
    write_json(f"{TRAIN}/masks_short_caption/0.json", [[[rle(3)]]])
    (record,) = videorefer.read_records(tmp_path, "videorefer_short_caption", "train")
    assert not record.is_tracked
    sample = videorefer.read_sample(record)
    expected = Query(
        kind="caption", text="Briefly describe [0].", answer="A dog.", about=(0,), frame=6, category="short"
    )
    assert sample.queries == (expected,)
    assert sample.media.num_frames == 9 and np.flatnonzero(sample.objects[0].visible).tolist() == [6]
    some = videorefer.read_sample(record, [0, 2, 5])
    assert some.media.frame_indices == (0, 2, 6) and some.queries[0].frame == 2
    assert some.objects[0].visible.tolist() == [False, False, True]


def test_rows_with_too_many_objects_or_too_few_masks_are_left_out(tmp_path: Path, write_json: Json) -> None:
    kept = row("<video>\nDescribe <region>.", "x", [{"0": None}])
    six = row("<video>\n" + "<region>" * 6, "x", [{"0": None}] * 6)
    write_json(QA, [six, kept, row("<video>\nDescribe <region>.", "x", [{"0": None}], ratio=0.29)])
    assert [record.id for record in videorefer.read_records(tmp_path, "videorefer_qa", "train")] == ["1"]


def test_short_captions_need_no_share_of_masks(tmp_path: Path, write_json: Json) -> None:
    rows = [row("<video>\nDescribe <region>.", "x", [{"0": None}], ratio=ratio) for ratio in (0.9, 0.01)]
    write_json(f"{TRAIN}/videorefer-short-caption-500k-wo-masks.json", [*rows, row("<region>", "x", [])])
    assert [record.id for record in videorefer.read_records(tmp_path, "videorefer_short_caption", "train")] == [
        "0",
        "1",
    ]


@pytest.mark.usefixtures("video")
def test_damaged_rows_and_mask_files_are_refused(tmp_path: Path, write_json: Json) -> None:
    write_json(QA, [row("<video>\nWhat is this?", "x", [{"0": None}])])
    with pytest.raises(DatasetError, match=r"row 0 .*introduces the objects none"):
        videorefer.read_records(tmp_path, "videorefer_qa", "train")
    write_json(QA, [row("<video>\n<region>?", "x", [{"0": None}], conversations=[])])
    with pytest.raises(DatasetError, match=r"row 0 .*has 0 entries"):
        videorefer.read_records(tmp_path, "videorefer_qa", "train")
    write_json(QA, [row("<video>\n<region>?", "x", [{"0": None, "2": None}])])
    (record,) = videorefer.read_records(tmp_path, "videorefer_qa", "train")
    with pytest.raises(DatasetError, match=r"masks_qa/0\.json does not exist"):
        videorefer.read_sample(record)
    write_json(f"{TRAIN}/masks_qa/0.json", [[[rle(0)]]])
    with pytest.raises(DatasetError, match=r"1 objects on \[1\] frames; the row has 1 on 2"):
        videorefer.read_sample(record)
    write_json(f"{TRAIN}/masks_qa/0.json", [[[{"size": [12, 16], "counts": "zz"}], [None]]])
    with pytest.raises(DatasetError, match=r"videorefer_qa/train 0, object 0, frame 0"):
        videorefer.read_sample(record)
