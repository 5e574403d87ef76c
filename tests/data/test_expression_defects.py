"""Videos with expressions: what is peculiar to the real files, and files that are damaged, on small trees."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unipixel.data.readers import expressions
from unipixel.errors import DatasetError
from unipixel.masks import encode_rle

SIZE = (12, 16)
WriteJson = Callable[[str, Any], Path]
WritePicture = Callable[..., Path]


def square(x: int, y: int = 2, side: int = 4) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


def rle(x: int) -> dict[str, Any]:
    return dict(encode_rle(square(x)))


@pytest.fixture
def revos(tmp_path: Path, write_json: WriteJson, write_picture: WritePicture) -> Path:
    """Two videos of four frames, TAO/a and OVIS/b; of TAO/a objects 5 and 6 are seen in the middle, 7 once."""
    frames = [f"{t:05d}" for t in range(4)]
    exps = {
        "0": {"exp": "the pair", "obj_id": [1, 2], "anno_id": [5, 6], "type_id": 0},
        "1": {"exp": "What flies by?", "obj_id": [3], "anno_id": [7], "type_id": 1},
        "2": {"exp": "the unicorn", "obj_id": [], "anno_id": [], "type_id": 2},
        "3": {"exp": "the other unicorn", "obj_id": [1], "anno_id": [5], "type_id": 2},
    }
    videos = {
        "TAO/a": {"frames": frames, "height": 12, "width": 16, "vid_id": 0, "expressions": exps},
        "OVIS/b": {"frames": frames, "height": 12, "width": 16, "vid_id": 1, "expressions": {"0": {**exps["1"]}}},
    }
    for split in ("train", "valid"):
        write_json(f"revos/meta_expressions_{split}_.json", {"videos": videos})
    empty = dict(encode_rle(square(0) & False))
    masks = {"5": [None, rle(1), None, None], "6": [empty, rle(9), rle(10), None], "7": [None, None, None, rle(3)]}
    write_json("revos/mask_dict.json", masks)
    foreground = {"masks_rle": [rle(1)] * 4, "foreground_ratio": [0.1] * 4}
    write_json("revos/mask_dict_foreground.json", {"TAO/a": foreground, "OVIS/b": foreground})
    for video in videos:
        for t, frame in enumerate(frames):
            write_picture(f"revos/{video}/{frame}.jpg", SIZE, 40 * t)
    return tmp_path


def test_several_annotations_are_one_object(revos: Path) -> None:
    record = expressions.read_records(revos, "revos", "valid")[0]
    masks = expressions.read_sample(record).objects[1].masks
    np.testing.assert_array_equal(
        masks, np.stack([square(0) & False, square(1) | square(9), square(10), square(0) & False])
    )


def test_tao_clips_are_cut_to_their_objects_in_training_only(revos: Path) -> None:
    train, valid = (expressions.read_records(revos, "revos", split) for split in ("train", "valid"))
    # The objects of TAO/a/1 are on one frame, those of the others do not exist; OVIS/b keeps its whole length.
    assert [(record.id, record.num_frames) for record in train] == [("TAO/a/0", 2), ("OVIS/b/0", 4)]
    assert [record.num_frames for record in valid] == [4] * 5
    cut, whole = expressions.read_sample(train[0]), expressions.read_sample(valid[0])
    np.testing.assert_array_equal(cut.objects[1].masks, whole.objects[1].masks[1:3])
    np.testing.assert_array_equal(cut.media.frames(), whole.media.frames([1, 2]))
    np.testing.assert_array_equal(expressions.read_sample(train[0], [1]).objects[1].masks, whole.objects[1].masks[2:3])


def test_hallucinated_objects_are_asked_for_but_not_there(revos: Path) -> None:
    for record in expressions.read_records(revos, "revos", "valid")[2:4]:
        sample = expressions.read_sample(record)
        assert sample.queries[0].targets == (None,) and sample.queries[0].category == "no object"
        assert not sample.objects and sample.areas["foreground"].visible.all()


def test_frames_may_lie_in_the_folder_that_the_archive_makes(revos: Path) -> None:
    (revos / "revos/JPEGImages").mkdir()
    for source in ("TAO", "OVIS"):
        (revos / "revos" / source).rename(revos / "revos/JPEGImages" / source)
    record = expressions.read_records(revos, "revos", "valid")[0]
    assert record.frame_names is not None and record.frame_names[0] == "revos/JPEGImages/TAO/a/00000.jpg"
    assert expressions.read_sample(record).media.num_frames == 4


@pytest.fixture
def davis(tmp_path: Path, write_json: WriteJson, write_picture: WritePicture) -> Path:
    """Videos "b" and "a" (in this order) with twelve and one expressions; mask n is a square at x = n."""
    exps = {str(n): {"exp": f"thing {n}", "obj_id": str(n // 4 + 1)} for n in range(12)}
    videos = {
        "b": {"frames": ["00000"], "expressions": exps},
        "a": {"frames": ["00000"], "expressions": {"0": exps["0"]}},
    }
    write_json("ref_davis17/meta_expressions/valid/meta_expressions.json", {"videos": videos})
    masks = {str(n): [{**rle(n), "counts": rle(n)["counts"].encode()}] for n in range(13)}
    (tmp_path / "ref_davis17/valid").mkdir()
    (tmp_path / "ref_davis17/valid/mask_dict.pkl").write_bytes(pickle.dumps(masks))
    for video in videos:
        write_picture(f"ref_davis17/DAVIS/JPEGImages/480p/{video}/00000.jpg", SIZE)
    return tmp_path


def test_numbered_masks_follow_the_file_and_the_string_sorted_number_is_known(davis: Path) -> None:
    records = expressions.read_records(davis, "ref_davis17", "valid")
    assert [record.raw.number for record in records] == list(range(13))
    # As strings "a" comes before "b", and "10" and "11" before "2".
    assert [record.raw.string_number for record in records] == [1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 3, 4, 0]
    for number, record in enumerate(records):
        np.testing.assert_array_equal(expressions.read_sample(record).objects[1].mask(0), square(number))
    released = replace(records[2], raw=replace(records[2].raw, number=records[2].raw.string_number))
    np.testing.assert_array_equal(expressions.read_sample(released).objects[1].mask(0), square(5))


def test_a_mask_file_for_another_list_of_expressions_is_refused(davis: Path) -> None:
    (davis / "ref_davis17/valid/mask_dict.pkl").write_bytes(pickle.dumps({"0": [None]}))
    record = expressions.read_records(davis, "ref_davis17", "valid")[0]
    with pytest.raises(
        DatasetError, match=r"ref_davis17/valid b/0: .*mask_dict\.pkl holds the masks of 1 expr.*has 13.*same release"
    ):
        expressions.read_sample(record)


def test_names_of_categories_are_written_with_blanks(tmp_path: Path, write_json: WriteJson) -> None:
    exps = {"0": {"exp": "polar_bear", "obj_id": [1], "anno_id": 4}}
    write_json("lvvis/meta_expressions.json", {"videos": {"00001": {"frames": ["00000"], "expressions": exps}}})
    write_json("lvvis/mask_dict.json", {"4": [None]})
    (record,) = expressions.read_records(tmp_path, "lvvis", "train")
    assert record.raw.query.text == "polar bear" and record.raw.masks == ("4",) and record.data_type == "seg_image"


def broken(revos: Path, name: str, change: Callable[[Path], object], told: str) -> None:
    """Change a file, then expect an index or sample that names dataset, file and remedy."""
    change(revos / name)
    with pytest.raises(DatasetError, match=told) as caught:
        for record in expressions.read_records(revos, "revos", "valid"):
            expressions.read_sample(record)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "revos/meta_expressions_valid_.json",
            r"revos/valid: .*valid_\.json does not exist; `unipixel data check revos`",
        ),
        ("revos/mask_dict.json", r"revos/valid: .*mask_dict\.json does not exist; `unipixel data check revos`"),
        ("revos/mask_dict_foreground.json", r"revos/valid: .*foreground\.json does not exist; `unipixel data check"),
        ("revos/TAO/a/00002.jpg", r"revos/valid TAO/a/0: .*00002\.jpg does not exist; `unipixel data check revos`"),
    ],
)
def test_missing_files_are_named_with_the_remedy(revos: Path, name: str, told: str) -> None:
    broken(revos, name, lambda path: path.unlink(), told)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("revos/meta_expressions_valid_.json", r"revos/valid: .*valid_\.json is not valid JSON .*fetch it again"),
        ("revos/mask_dict.json", r"revos/valid: .*mask_dict\.json is not a complete JSON object.*fetch it again"),
        ("revos/mask_dict_foreground.json", r"revos/valid: .*foreground\.json is not valid JSON .*fetch it again"),
        ("revos/TAO/a/00000.jpg", r"revos/valid TAO/a/0: .*00000\.jpg is .*`unipixel data check revos`"),
    ],
)
def test_truncated_files_are_named_with_the_remedy(revos: Path, name: str, told: str) -> None:
    broken(revos, name, lambda path: path.write_bytes(path.read_bytes()[:90]), told)


MASKS_MISSING = '{"6": [null, null, null, null], "7": [null, null, null, null]}'
MASKS_SHORT = '{"5": [null, null, null], "6": [null, null, null, null], "7": [null, null, null, null]}'
MASKS_SMALL = '{"5": [{"size": [2, 2], "counts": [4]}, null, null, null], "6": [null, null, null, null]}'
MASKS_BROKEN = '{"5": [{"size": [12, 16], "counts": "0" , null, null], "6": [null, null, null, null]}'
MASKS_WRONG = '{"5": [{"size": [12, 16], "counts": [7]}, null, null, null], "6": [null, null, null, null]}'
VIDEOS = '{{"videos": {{"TAO/a": {}}}}}'


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "mask_dict.json",
            MASKS_MISSING,
            r"TAO/a/0: .*mask_dict\.json has no masks '5' among its 2 keys.*same release",
        ),
        ("mask_dict.json", MASKS_SHORT, r"masks '5' in .*mask_dict\.json are for 3 frames, .*4 frames.*same release"),
        ("mask_dict.json", MASKS_SMALL, r"TAO/a/0, frame 0: the mask is 2 x 2 .*12 x 16.*same release"),
        ("mask_dict.json", MASKS_BROKEN, r"TAO/a/0: the masks '5' in .*mask_dict\.json are not valid JSON.*fetch"),
        ("mask_dict.json", MASKS_WRONG, r"TAO/a/0, frame 0: .*add up to 192, not 7"),
        ("mask_dict.json", "[]", r"mask_dict\.json is not a complete JSON object"),
        ("mask_dict.json", "", r"mask_dict\.json cannot be read .*fetch it again"),
        ("mask_dict_foreground.json", "{}", r"foreground\.json: the field 'TAO/a' is missing"),
        ("meta_expressions_valid_.json", "[]", r"holds a list; it should hold an object"),
        ("meta_expressions_valid_.json", "{}", r"valid_\.json: the field 'videos' is missing"),
        ("meta_expressions_valid_.json", VIDEOS.format("3"), r"video 'TAO/a': a int stands where"),
        (
            "meta_expressions_valid_.json",
            VIDEOS.format('{"expressions": {}}'),
            r"'TAO/a': the field 'frames' is missing",
        ),
        ("meta_expressions_valid_.json", VIDEOS.format('{"expressions": {}, "frames": [3]}'), r"frames are \[3\]"),
        (
            "meta_expressions_valid_.json",
            VIDEOS.format('{"expressions": {"0": {"exp": "x"}}, "frames": ["0"]}'),
            r"'TAO/a', expression '0': the field 'anno_id' is missing",
        ),
        (
            "meta_expressions_valid_.json",
            VIDEOS.format('{"expressions": {"0": {"exp": "x", "type_id": 9}}, "frames": ["0"]}'),
            r"expression '0': type_id is 9; it should be 0, 1 or 2",
        ),
    ],
)
def test_wrong_files_are_named_with_what_would_be_right(revos: Path, name: str, text: str, told: str) -> None:
    broken(revos, f"revos/{name}", lambda path: path.write_text(text, encoding="utf-8"), told)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (pickle.dumps({"0": [None]})[:-3], "is not a readable pickle"),
        (pickle.dumps({"0": Path("x")}), "only plain data is accepted"),
        (pickle.dumps([None] * 13), "holds a list; it should hold a dictionary"),
        (pickle.dumps({str(n): 3 for n in range(13)}), "are for one int, but the video has 1 frames"),
    ],
)
def test_damaged_wrong_and_dangerous_pickles_are_refused(davis: Path, content: bytes, told: str) -> None:
    (davis / "ref_davis17/valid/mask_dict.pkl").write_bytes(content)
    record = expressions.read_records(davis, "ref_davis17", "valid")[0]
    with pytest.raises(DatasetError, match=rf"ref_davis17/valid.*mask_dict\.pkl.*{told}"):
        expressions.read_sample(record)


def test_no_frame_folder_at_all_is_said_when_indexing(tmp_path: Path, write_json: WriteJson) -> None:
    exps = {"videos": {"a": {"frames": ["0"], "expressions": {"0": {"exp": "x"}}}}}
    write_json("ref_youtube_vos/meta_expressions/valid/meta_expressions.json", exps)
    with pytest.raises(DatasetError, match="ref_youtube_vos/valid: none of the 1 videos has a frame folder in"):
        expressions.read_records(tmp_path, "ref_youtube_vos", "valid")
