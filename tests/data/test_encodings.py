"""Mask encodings against masks drawn by hand, and against pycocotools where that reads the same encoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from unipixel.data.encodings import (
    build_track,
    draw_lisa_masks,
    read_id_mask,
    read_vicas_track,
    regions_to_mask,
    rle_to_mask,
    rles_to_track,
    sav_to_track,
)
from unipixel.errors import DatasetError
from unipixel.masks import encode_rle


def drawn(*rows: str) -> np.ndarray:
    """A mask from rows of ``.`` and ``#``."""
    return np.array([[pixel == "#" for pixel in row] for row in rows])


BAR = drawn("....", ".##.", ".##.")
DOT = drawn("#...", "....", "....")
# Counted down columns of 3: column 0 and one more pixel out, two in, one out, two in, column 3 out.
BAR_RUNS = [4, 2, 1, 2, 3]


def test_the_three_forms_of_rle_counts_are_the_same_mask() -> None:
    packed = coco.frPyObjects({"size": [3, 4], "counts": BAR_RUNS}, 3, 4)
    assert isinstance(packed["counts"], bytes)
    for counts in (BAR_RUNS, packed["counts"], packed["counts"].decode()):
        np.testing.assert_array_equal(rle_to_mask({"size": [3, 4], "counts": counts}, (3, 4), "x"), BAR)


def test_no_rle_is_an_empty_mask() -> None:
    mask = rle_to_mask(None, (3, 4), "x")
    assert mask.shape == (3, 4) and mask.dtype == bool and not mask.any()


def test_an_rle_of_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(DatasetError, match=r"revos/valid cat/1: the mask is 3 x 4 .*picture 6 x 8"):
        rle_to_mask({"size": [3, 4], "counts": BAR_RUNS}, (6, 8), "revos/valid cat/1")


@pytest.mark.parametrize("value", [{"size": [3, 4]}, {"size": [3, 4], "counts": [1, 2]}, "abc", [1], {"counts": "04"}])
def test_a_malformed_rle_is_a_dataset_error(value: Any) -> None:
    with pytest.raises(DatasetError, match="mevis/train"):
        rle_to_mask(value, (3, 4), "mevis/train")


def test_regions_are_united_whatever_list_they_stand_in() -> None:
    square = [1, 1, 3, 1, 3, 3, 1, 3]
    rle = encode_rle(DOT)
    for regions in ([square, rle], [[square], rle, None], [[square], [rle]]):
        np.testing.assert_array_equal(regions_to_mask(regions, (3, 4), "x"), BAR | DOT)
    np.testing.assert_array_equal(regions_to_mask(square, (3, 4), "x"), BAR)
    np.testing.assert_array_equal(regions_to_mask(dict(rle), (3, 4), "x"), DOT)
    assert not regions_to_mask([], (3, 4), "x").any() and not regions_to_mask(None, (3, 4), "x").any()


def test_polygons_are_drawn_as_pycocotools_draws_them() -> None:
    polygons = [[3.2, 2.1, 17.9, 4.4, 9.5, 18.3], [20, 20, 28, 20, 28, 29, 20, 29]]
    expected = coco.decode(coco.merge(coco.frPyObjects(polygons, 32, 40))).astype(bool)
    np.testing.assert_array_equal(regions_to_mask(polygons, (32, 40), "x"), expected)


@pytest.mark.parametrize("regions", ["polygon", [[1, 2, 3]], [[0, 0, 1, float("nan"), 2, 2]], [{"counts": "x"}], 3.5])
def test_malformed_regions_are_a_dataset_error(regions: Any) -> None:
    with pytest.raises(DatasetError, match="paco"):
        regions_to_mask(regions, (3, 4), "paco")


def test_id_pngs_give_the_pixels_of_the_ids_asked_for(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 1, 2], [0, 3, 3, 2], [0, 0, 0, 2]], dtype=np.uint8)
    Image.fromarray(ids).save(tmp_path / "grey.png")
    palette = Image.fromarray(ids, mode="P")
    palette.putpalette(list(range(256)) * 3)
    palette.save(tmp_path / "palette.png")
    wide = np.where(ids == 3, 700, ids.astype(np.uint16))
    Image.fromarray(wide).save(tmp_path / "wide.png")
    for name in ("grey.png", "palette.png"):
        np.testing.assert_array_equal(read_id_mask(tmp_path / name, {1, 3}, "x"), drawn(".##.", ".##.", "...."))
    np.testing.assert_array_equal(read_id_mask(tmp_path / "wide.png", [700], "x"), drawn("....", ".##.", "...."))
    assert not read_id_mask(tmp_path / "grey.png", [], "x").any()


def test_missing_damaged_and_coloured_pngs_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"groundmore/test.*gone\.png does not exist"):
        read_id_mask(tmp_path / "gone.png", [1], "groundmore/test")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n1234")
    with pytest.raises(DatasetError, match=r"cut\.png.*fetch it again"):
        read_id_mask(tmp_path / "cut.png", [1], "x")
    Image.fromarray(np.zeros((2, 2, 3), dtype=np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(DatasetError, match=r"rgb\.png.*RGB"):
        read_id_mask(tmp_path / "rgb.png", [1], "x")


def shape(label: str, x1: float, y1: float, x2: float, y2: float) -> dict[str, Any]:
    return {"label": label, "shape_type": "polygon", "points": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]}


def test_lisa_outlines_include_their_edge_and_cut_corners_to_whole_pixels() -> None:
    target, ignore = draw_lisa_masks([shape("target", 1.9, 1.2, 3.7, 2.0)], (4, 6), "x")
    np.testing.assert_array_equal(target, drawn("......", ".###..", ".###..", "......"))
    assert not ignore.any()


def test_lisa_shapes_are_drawn_largest_first_whatever_their_order() -> None:
    inner, outer = shape("ignore", 2, 1, 3, 2), shape("target", 1, 0, 4, 3)
    for shapes in ([inner, outer], [outer, inner]):
        target, ignore = draw_lisa_masks([*shapes, shape("flag", 0, 0, 5, 3)], (4, 6), "x")
        np.testing.assert_array_equal(ignore, drawn("......", "..##..", "..##..", "......"))
        np.testing.assert_array_equal(target, drawn(".####.", ".#..#.", ".#..#.", ".####."))


def test_lisa_target_inside_an_ignored_region_stays_target() -> None:
    target, ignore = draw_lisa_masks([shape("target", 2, 1, 3, 2), shape("ignore", 1, 0, 4, 3)], (4, 6), "x")
    assert int(target.sum()) == 4 and int(ignore.sum()) == 12 and not (target & ignore).any()


def test_lisa_outlines_may_leave_the_picture_and_have_one_point() -> None:
    target, _ = draw_lisa_masks([shape("target", -3, -3, 1, 1), {"label": "target", "points": [[4, 2]]}], (4, 6), "x")
    np.testing.assert_array_equal(target, drawn("##....", "##....", "....#.", "......"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"label": "thing", "points": [[0, 0]]}, "label is 'thing'.*target, ignore, flag"),
        ({"points": [[0, 0]]}, "'label' is missing"),
        ({"label": "target", "points": [[0, 0, 0]]}, "list of"),
        ({"label": "target", "points": [["a", 0]]}, "list of"),
        ({"label": "target", "points": []}, "list of"),
        ({"label": "target", "points": [[float("nan"), 0]]}, "not finite or far outside"),
        ({"label": "target", "points": [[1e9, 0]]}, "not finite or far outside"),
        ("target", "str stands"),
    ],
)
def test_malformed_lisa_shapes_are_named(given: Any, told: str) -> None:
    with pytest.raises(DatasetError, match=rf"reason_seg/val a, shape 0.*{told}"):
        draw_lisa_masks([given], (4, 6), "reason_seg/val a")


def test_a_track_holds_one_mask_per_frame_and_none_where_empty() -> None:
    made = build_track([BAR, None, np.zeros((3, 4), dtype=bool), DOT])
    assert made.visible.tolist() == [True, False, False, True] and made.rles[2] is None
    np.testing.assert_array_equal(made.masks, np.stack([BAR, BAR & False, BAR & False, DOT]))
    assert build_track([None, None], size_hw=(3, 4)).masks.shape == (2, 3, 4)


def test_tracks_without_a_size_or_with_two_are_refused() -> None:
    with pytest.raises(DatasetError, match="no size"):
        build_track([None, None])
    with pytest.raises(DatasetError, match="3 x 4 and 4 x 3"):
        build_track([BAR, BAR.T])
    with pytest.raises(DatasetError, match="3 x 4 and 6 x 8"):
        build_track([BAR], size_hw=(6, 8))
    with pytest.raises(DatasetError, match="0 frames"):
        build_track([])


def test_an_rle_track_unites_what_each_frame_lists() -> None:
    empty = encode_rle(BAR & False)
    made = rles_to_track([[encode_rle(BAR), None, encode_rle(DOT)], [None], [], [empty]], (3, 4), "x")
    np.testing.assert_array_equal(made.mask(0), BAR | DOT)
    assert made.rles[1:] == (None, None, None)
    with pytest.raises(DatasetError, match=r"frame 1: the mask is 4 x 3"):
        rles_to_track([[encode_rle(BAR)], [encode_rle(BAR.T)]], (3, 4), "x")
    with pytest.raises(DatasetError, match="frame 0: masks must have one size"):
        rles_to_track([[encode_rle(BAR), encode_rle(BAR.T)]], None, "x")


def sav_document() -> dict[str, Any]:
    bar, dot = encode_rle(BAR), encode_rle(DOT)
    return {"video_height": 3.0, "video_width": 4.0, "masklet": [[bar, dot], [dot, bar], [bar, bar]]}


def test_sav_masklets_are_read_by_frame_then_object() -> None:
    made = sav_to_track(sav_document(), 1, [1, 0], "x")
    np.testing.assert_array_equal(made.masks, np.stack([BAR, DOT]))


def test_sav_objects_and_frames_that_are_not_there_are_named() -> None:
    with pytest.raises(DatasetError, match=r"object 2; the annotation has 2"):
        sav_to_track(sav_document(), 2, [0], "x")
    with pytest.raises(DatasetError, match=r"mask frame 3; the annotation has 3"):
        sav_to_track(sav_document(), 0, [3], "x")
    with pytest.raises(DatasetError, match="'masklet' is missing"):
        sav_to_track({"video_height": 3}, 0, [0], "x")


def test_vicas_files_unite_the_tracks_of_each_frame(tmp_path: Path) -> None:
    path = tmp_path / "0.json"
    path.write_text(json.dumps([[encode_rle(BAR), encode_rle(DOT)], None, [None, encode_rle(DOT)]]), encoding="utf-8")
    made = read_vicas_track(path, [0, 1, 2], "x", total=3)
    np.testing.assert_array_equal(made.masks, np.stack([BAR | DOT, BAR & False, DOT]))
    with pytest.raises(DatasetError, match=r"holds the masks of 3 frames; the video has 5"):
        read_vicas_track(path, [0], "x", total=5)
    path.write_text("[[3]]", encoding="utf-8")
    with pytest.raises(DatasetError, match="should be"):
        read_vicas_track(path, [0], "x", size_hw=(3, 4))
