"""Inst-IT, Osprey, the general instructions, MVBench and Video-MME on small trees in their documented layouts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unipixel.data.readers import inst_it, llava, multiple_choice, osprey
from unipixel.errors import DatasetError
from unipixel.masks import decode_rle, encode_rle
from unipixel.sample import Query

SIZE = (12, 16)
Json = Callable[[str, Any], Path]
Picture = Callable[..., Path]
INST_IT = "inst_it/Inst-IT-Dataset"
IMAGES, VIDEOS = f"{INST_IT}/inst_it_dataset_image_51k_w_mask.json", f"{INST_IT}/inst_it_dataset_video_21k_w_mask.json"
OSPREY = "osprey/Osprey-724K"


def rle(k: int) -> dict[str, Any]:
    """A mask of two rows at the height k."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[k : k + 2] = True
    return dict(encode_rle(mask))


def dialogue(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(texts)]


# Inst-IT


def test_every_captioned_object_of_an_image_is_a_record(
    tmp_path: Path, write_json: Json, write_picture: Picture
) -> None:
    write_picture(f"{INST_IT}/images_raw/a/b.png", SIZE)
    captions = {"1": {"short": "A dog.", "long": "A long dog."}, "3": {"short": " ", "long": "A cat."}}
    masks = {"1": {"mask": rle(0)}, "3": {"mask": rle(6)}}
    image = {
        "image_id": "9",
        "image_path": "images/a/b.png",
        "instance_level_caption": captions,
        "segmentations": masks,
    }
    write_json(IMAGES, [image])
    (short,) = inst_it.read_records(tmp_path, "inst_it_image_short_caption_raw", "train")
    assert (short.id, short.data_type) == ("9/1", "region_image")
    sample = inst_it.read_sample(short)
    assert sample.queries == (Query(kind="caption", text="", answer="A dog.", about=(1,), category="short"),)
    assert np.array_equal(sample.objects[1].mask(0), decode_rle(rle(0)))
    assert not sample.media.is_video
    long = inst_it.read_records(tmp_path, "inst_it_image_long_caption_raw", "train")
    assert [inst_it.read_sample(record).queries[0].answer for record in long] == ["A long dog.", "A cat."]


def clip(pairs: list[tuple[str, str]], **more: Any) -> dict[str, Any]:
    return {
        "video_id": "7",
        "video_path": "videos/c",
        "question_answer_pairs": [{"question": question, "answer": answer} for question, answer in pairs],
        "segmentations": {"f2.jpg": {"1": {"mask": rle(0)}}, "f10.jpg": {"1": {"mask": rle(2)}, "2": {"mask": rle(6)}}},
        **more,
    }


def test_questions_of_a_clip_are_cleaned_up_and_frames_without_objects_count(
    tmp_path: Path, write_json: Json, write_picture: Picture
) -> None:
    for name in ("f2", "f9", "f10"):
        write_picture(f"{INST_IT}/videos_raw/c/{name}.jpg", SIZE)
    pairs = [
        ("What is [01] at <0>?", "[1] meets [02] at <3>."),
        ("What happens?", "Nothing."),
        ("And [5]?", "It has no mask."),
        ("[1] [2] [3] [4] [5] [6]?", "Too many."),
    ]
    write_json(VIDEOS, [clip(pairs)])
    (record,) = inst_it.read_records(tmp_path, "inst_it_video_qa_raw", "train")
    assert (record.id, record.num_frames) == ("7/0", 3)
    sample = inst_it.read_sample(record)
    expected = Query(kind="qa", text="What is [1] at <1>?", answer="[1] meets [2] at <3>.", about=(1, 2))
    assert sample.queries == (expected,)
    assert sample.objects[1].visible.tolist() == [True, False, True]
    assert sample.objects[2].visible.tolist() == [False, False, True]
    assert inst_it.read_sample(record, [2]).objects[1].rles == (rle(2),)


def test_objects_of_a_question_stand_behind_those_of_the_clip_s_earlier_ones(
    tmp_path: Path, write_json: Json, write_picture: Picture
) -> None:
    write_picture(f"{INST_IT}/videos_raw/c/f2.jpg", SIZE)
    masks = {"f2.jpg": {str(number): {"mask": rle(number)} for number in (1, 2, 3, 4)}}
    pairs = [("Is [4] near [2]?", "No."), ("[1] or [3]?", "[2]."), ("[7]?", "It is [8].")]
    write_json(VIDEOS, [clip(pairs, segmentations=masks)])
    records = inst_it.read_records(tmp_path, "inst_it_video_qa_raw", "train")
    assert [inst_it.read_sample(record).queries[0].about for record in records] == [(2, 4), (2, 1, 3)]
    assert {record.clip_objects for record in records} == {6} and [record.words for record in records] == [5, 4]


def test_a_clip_of_more_than_ten_frames_is_left_out_and_one_without_any_is_refused(
    tmp_path: Path, write_json: Json, write_picture: Picture
) -> None:
    write_json(VIDEOS, [clip([("[1]?", "x")])])
    with pytest.raises(
        DatasetError, match=r"folder of frames .*videos_raw.c does not exist; `unipixel data check inst"
    ):
        inst_it.read_records(tmp_path, "inst_it_video_qa_raw", "train")
    for k in range(11):
        write_picture(f"{INST_IT}/videos_raw/c/f{k}.jpg", SIZE)
    assert inst_it.read_records(tmp_path, "inst_it_video_qa_raw", "train") == []


def test_damaged_inst_it_files_are_refused(tmp_path: Path, write_json: Json, write_picture: Picture) -> None:
    write_picture(f"{INST_IT}/videos_raw/c/f2.jpg", (20, 16))
    write_json(VIDEOS, [clip([("[1]?", "x")])])
    (record,) = inst_it.read_records(tmp_path, "inst_it_video_qa_raw", "train")
    with pytest.raises(DatasetError, match=r"inst_it_video_qa_raw/train 7/0, object 1"):
        inst_it.read_sample(record)
    write_json(VIDEOS, [clip([("[1]?", "x")], video_path="c")])
    with pytest.raises(DatasetError, match=r"row 0 .*the path is 'c'"):
        inst_it.read_records(tmp_path, "inst_it_video_qa_raw", "train")
    write_json(IMAGES, [{"image_id": 1, "image_path": "a/b.png", "segmentations": {}}])
    with pytest.raises(DatasetError, match=r"'instance_level_caption' is missing"):
        inst_it.read_records(tmp_path, "inst_it_image_short_caption_raw", "train")


# Osprey


def region_row(**more: Any) -> dict[str, Any]:
    left, right = [[0, 0, 8, 0, 8, 12, 0, 12]], [[8, 0, 16, 0, 16, 12, 8, 12]]
    return {
        "id": 1,
        "file_name": "x.png",
        "height": 12,
        "width": 16,
        "annotation": [{"segmentation": left}, {"segmentation": right}],
        **more,
    }


def test_a_conversation_about_regions_keeps_its_order_and_has_its_tags_repaired(
    tmp_path: Path, write_json: Json, write_picture: Picture
) -> None:
    write_picture("osprey/coco/train2014/x.png", SIZE)
    texts = (
        "Is <region1] left of <region 2>?",
        "Yes, <region of1> is.",
        "And <Region2> in [1999]?",
        "No <regin2>.",
        "Unanswered?",
    )
    broken = [
        dialogue("What is <region>?", "x"),
        dialogue("What is <region3>?", "x"),
        dialogue("What is <region0>?", "x"),
        dialogue("Hello", "Hi"),
        [{"from": "gpt", "value": "<region1>"}, {"from": "human", "value": "x"}],
    ]
    rows = [region_row(conversations=turns) for turns in [dialogue(*texts), *broken]]
    write_json(f"{OSPREY}/osprey_conversation.json", rows)
    (record,) = osprey.read_records(tmp_path, "osprey_conversation", "train")
    sample = osprey.read_sample(record)
    first, second = sample.queries
    assert (first.kind, first.text, first.answer) == ("conversation", "Is [1] left of [2]?", "Yes, [1] is.")
    assert (second.text, second.answer) == ("And [2] in [1999]?", "No [2].")
    assert first.about == (1, 2) and second.about == (2,)
    assert sample.objects[1].mask(0)[:, :8].all() and not sample.objects[1].mask(0)[:, 8:].any()
    assert sample.objects[2].areas.tolist() == [96]


def test_descriptions_are_one_query_per_region(tmp_path: Path, write_json: Json, write_picture: Picture) -> None:
    write_picture("osprey/coco/train2014/x.png", SIZE)
    texts = [["<region1>: A wall.", "<Region2>: A door: it is open."], ["no tag"], ["<region1>: A <region2>: B"]]
    rows = [region_row(description=description) for description in texts]
    write_json(f"{OSPREY}/osprey_detail_description.json", rows)
    (record,) = osprey.read_records(tmp_path, "osprey_detail_description", "train")
    answers = [(query.about, query.answer, query.category) for query in osprey.read_sample(record).queries]
    assert answers == [((1,), "A wall.", "detailed"), ((2,), "A door: it is open.", "detailed")]
    assert record.words == 2 + 5 - 200


def test_positive_and_negative_questions_have_their_own_pictures(
    tmp_path: Path, write_json: Json, write_picture: Picture
) -> None:
    write_picture("osprey/coco/imgs/x.png", SIZE)
    row = region_row(conversations=dialogue("Is <region2> a door?", "Yes."))
    write_json(f"{OSPREY}/osprey_lvis_positive_negative.json", [row])
    (record,) = osprey.read_records(tmp_path, "osprey_pos_neg", "train")
    assert list(osprey.read_sample(record).objects) == [2]


def test_osprey_pictures_and_polygons_that_do_not_fit_are_refused(
    tmp_path: Path, write_json: Json, write_picture: Picture
) -> None:
    conversation = dialogue("<region1>?", "x")
    rows = [region_row(conversations=conversation), region_row(conversations=conversation, annotation=[{}])]
    write_json(f"{OSPREY}/osprey_conversation.json", rows)
    good, bad = osprey.read_records(tmp_path, "osprey_conversation", "train")
    with pytest.raises(DatasetError, match=r"osprey_conversation/train 0: .*x\.png"):
        osprey.read_sample(good)
    write_picture("osprey/coco/train2014/x.png", SIZE)
    with pytest.raises(DatasetError, match=r"1, region 1: the field 'segmentation' is missing"):
        osprey.read_sample(bad)
    write_picture("osprey/coco/train2014/x.png", (20, 16))
    with pytest.raises(DatasetError, match=r"12 x 16 .*20 x 16"):
        osprey.read_sample(good)


# general


def test_instructions_about_pictures_videos_and_neither(
    tmp_path: Path, write_json: Json, write_picture: Picture
) -> None:
    write_picture("llava_instruct/coco/x.jpg", SIZE)
    for k in range(3):
        write_picture(f"videogpt_plus/v/{k}.jpg", SIZE)
    rows = [
        {
            "id": "a",
            "image": "coco/x.jpg",
            "conversations": dialogue("<image>\nWhat is it?", "A dog.", "Sure?", "Yes."),
        },
        {"id": "a", "video": "v", "conversations": dialogue("What happens?\n<video>", "Much.")},
        {"id": "b", "conversations": [{"from": "gpt", "value": "Hi"}, *dialogue("Write.", "Done.", "", "x")]},
        {"id": "c", "conversations": [*dialogue("x"), *dialogue("x")]},
    ]
    write_json(llava.FILE, rows)
    records = llava.read_records(tmp_path, "llava_instruct_665k_videogpt_plus_576k", "train")
    assert [(record.id, record.data_type) for record in records] == [("0", "image"), ("1", "video"), ("2", "text")]
    image, video = (llava.read_sample(record) for record in records[:2])
    assert [(query.text, query.answer) for query in image.queries] == [("What is it?", "A dog."), ("Sure?", "Yes.")]
    assert video.queries == (Query(kind="conversation", text="What happens?", answer="Much."),)
    assert llava.read_sample(records[1], [0, 2]).media.frame_indices == (0, 2)
    alone = llava.read_sample(records[2])
    assert alone.is_text_only and not image.is_text_only
    assert [(query.text, query.answer) for query in alone.queries] == [("Write.", "Done.")]


def test_words_are_those_of_the_first_answer_between_single_blanks(tmp_path: Path, write_json: Json) -> None:
    talk = [dialogue("a b c", "one two", "d", "e f g"), dialogue("a", "one  two\nthree four ")]
    write_json(llava.FILE, [{"id": k, "conversations": one} for k, one in enumerate(talk)])
    records = llava.read_records(tmp_path, "llava_instruct_665k_videogpt_plus_576k", "train")
    assert [record.words for record in records] == [2, 5]


def test_damaged_instructions_are_refused(tmp_path: Path, write_json: Json) -> None:
    write_json(llava.FILE, [{"image": "x", "video": "y", "conversations": dialogue("a", "b")}])
    with pytest.raises(DatasetError, match=r"row 0 .*both an image and a video"):
        llava.read_records(tmp_path, "llava_instruct_665k_videogpt_plus_576k", "train")
    write_json(llava.FILE, [{"image": "x.jpg", "conversations": dialogue("a", "b")}])
    (record,) = llava.read_records(tmp_path, "llava_instruct_665k_videogpt_plus_576k", "train")
    with pytest.raises(DatasetError, match=r"x\.jpg"):
        llava.read_sample(record)


# MVBench


@pytest.fixture
def mvbench(tmp_path: Path, write_json: Json) -> Path:
    """One question for each of the twenty tasks."""
    for name, _ in multiple_choice.TASKS.values():
        asked = {"video": "v", "question": "What  is\n it? ", "candidates": ["a dog", "a cat"], "answer": "a cat"}
        write_json(f"mvbench/json/{name}.json", [asked])
    return tmp_path


def test_mvbench_has_twenty_tasks_with_their_folders(mvbench: Path, write_picture: Picture) -> None:
    records = multiple_choice.read_records(mvbench, "mvbench", "test")
    assert len(records) == 20
    for record, (task, (name, folder)) in zip(records, multiple_choice.TASKS.items(), strict=True):
        path, query = record.raw
        assert (record.id, path) == (f"{name}/0", f"mvbench/video/{folder}/v")
        expected = Query(kind="choice", text="What is it?", answer="B", options=("a dog", "a cat"), category=task)
        assert query == expected


def test_a_folder_of_frames_is_thinned_out_to_32(mvbench: Path, write_picture: Picture) -> None:
    record = multiple_choice.read_records(mvbench, "mvbench", "test")[0]
    for k in range(1, 66):
        write_picture(f"mvbench/video/tvqa/frames_fps3_hq/v/{k:05}.jpg", (4, 4))
    assert multiple_choice.read_sample(record).media.frame_indices == tuple(range(0, 64, 2))  # 65 // 31 = 2
    for k in range(31, 66):
        (mvbench / f"mvbench/video/tvqa/frames_fps3_hq/v/{k:05}.jpg").unlink()
    assert multiple_choice.read_sample(record).media.frame_indices == tuple(range(30))
    assert multiple_choice.read_sample(record, [0, 29]).media.num_frames == 2


def test_damaged_mvbench_files_are_refused(mvbench: Path, write_json: Json) -> None:
    with pytest.raises(DatasetError, match=r"mvbench/test episodic_reasoning/0: .* does not exist"):
        multiple_choice.read_sample(multiple_choice.read_records(mvbench, "mvbench", "test")[0])
    row = {"video": "v", "question": "?", "candidates": ["a"], "answer": "b"}
    write_json("mvbench/json/state_change.json", [row])
    with pytest.raises(DatasetError, match=r"row 0 of state_change\.json: the answer 'b' is not one of"):
        multiple_choice.read_records(mvbench, "mvbench", "test")
    (mvbench / "mvbench/json/state_change.json").unlink()
    with pytest.raises(DatasetError, match=r"state_change\.json does not exist"):
        multiple_choice.read_records(mvbench, "mvbench", "test")


# Video-MME


def videomme(root: Path, **changes: Any) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    row = {
        "question_id": "001-1",
        "videoID": "abc",
        "duration": "short",
        "domain": "Knowledge",
        "question": "What is\nit?",
        "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."],
        "answer": "C",
        **changes,
    }
    (root / "videomme").mkdir(exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist([row]), root / multiple_choice.VIDEOMME_FILE)


def test_videomme_questions_are_grouped_by_duration(tmp_path: Path) -> None:
    videomme(tmp_path)
    (record,) = multiple_choice.read_records(tmp_path, "videomme", "test")
    path, query = record.raw
    assert (record.id, path) == ("001-1", "videomme/videos_3fps_480_noaudio/abc.mp4")
    assert query == Query(
        kind="choice", text="What is it?", answer="C", options=("One.", "Two.", "Three.", "Four."), category="short"
    )


def test_damaged_videomme_files_are_refused(tmp_path: Path) -> None:
    videomme(tmp_path, options=["A. One.", "C. Two."])
    with pytest.raises(DatasetError, match=r"row 0 .*'A\. \.\.\.' to 'D\. \.\.\.'"):
        multiple_choice.read_records(tmp_path, "videomme", "test")
    (tmp_path / multiple_choice.VIDEOMME_FILE).write_bytes(b"PAR1 cut off")
    with pytest.raises(DatasetError, match=r"not a readable parquet file"):
        multiple_choice.read_records(tmp_path, "videomme", "test")


def test_videomme_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "videomme").mkdir()
    (tmp_path / multiple_choice.VIDEOMME_FILE).write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DatasetError, match=r"needs the package pyarrow; run `pip install 'unipixel\[parquet\]'`"):
        multiple_choice.read_records(tmp_path, "videomme", "test")
