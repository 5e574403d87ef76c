"""Run lengths, polygons, interior points, tracks and palette PNGs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from unipixel.errors import MediaError
from unipixel.masks import (
    MaskTrack,
    area_rle,
    build_davis_palette,
    decode_rle,
    encode_rle,
    find_interior_point,
    iou_rles,
    jitter_box,
    load_index_png,
    mask_to_box,
    mask_to_polygons,
    parse_rle,
    polygons_to_mask,
    rasterize_polygon,
    sample_point,
    save_davis_png,
    union_rles,
)


def random_masks(count: int, seed: int = 0, largest: int = 14) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random(tuple(rng.integers(1, largest, 2))) < rng.random() for _ in range(count)]


def drawn(*rows: str) -> np.ndarray:
    return np.array([[character == "#" for character in row] for row in rows])


def test_run_lengths_of_a_small_mask_are_those_counted_by_hand() -> None:
    mask = drawn(".#.", "##.")
    # Down the columns: 1 off, 3 on, 2 off.
    assert parse_rle({"size": [2, 3], "counts": [1, 3, 2]}) == encode_rle(mask) == {"size": [2, 3], "counts": "132"}
    assert decode_rle({"size": [2, 3], "counts": "132"}).tolist() == mask.tolist()
    assert area_rle(encode_rle(mask)) == 3


def test_any_mask_comes_back_from_its_run_lengths() -> None:
    for mask in random_masks(200):
        rle = encode_rle(mask)
        assert json.loads(json.dumps(rle)) == rle == parse_rle(rle)
        np.testing.assert_array_equal(decode_rle(rle), mask)


def test_uncompressed_and_byte_counts_give_the_same_rle() -> None:
    for mask in random_masks(100, seed=1):
        rle, runs, flat = encode_rle(mask), [], mask.T.ravel()
        edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
        runs = np.diff([0, *edges, flat.size]).tolist()
        runs = [0, *runs] if flat[0] else runs
        assert parse_rle({"size": list(mask.shape), "counts": runs}) == rle
        assert parse_rle({"size": mask.shape, "counts": rle["counts"].encode()}) == rle


def test_run_lengths_of_large_masks_are_read() -> None:
    mask = np.zeros((1080, 1920), dtype=bool)
    mask[200:900, 300:1500] = True
    rle = encode_rle(mask)
    assert parse_rle(rle) == rle and area_rle(rle) == 700 * 1200


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "must be a mapping with 'size' and 'counts'"),
        ({"size": [3, 3]}, "must be a mapping with 'size' and 'counts'"),
        ({"size": [3], "counts": "9"}, r"must be \[height, width\]"),
        ({"size": [0, 3], "counts": "0"}, "at least 1"),
        ({"size": [3.0, 3], "counts": "9"}, "whole numbers"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "larger than"),
        ({"size": [3, 3], "counts": ""}, "not COCO's text form"),
        ({"size": [3, 3], "counts": "é"}, "not COCO's text form"),
        ({"size": [3, 3], "counts": "zz"}, "not COCO's text form"),
        ({"size": [3, 3], "counts": "o" * 40 + "0"}, "too long for a mask"),
        ({"size": [3, 3], "counts": "8"}, "must add up to 9, not 8"),
        ({"size": [3, 3], "counts": [10**30]}, "must add up to 9"),
        ({"size": [3, 3], "counts": [1, -2, 10]}, "must not be negative"),
        ({"size": [3, 3], "counts": [1.5, 7.5]}, "text or a list of whole numbers"),
        ({"size": [3, 3], "counts": None}, "text or a list of whole numbers"),
    ],
)
def test_malformed_run_lengths_are_refused_before_c_code_sees_them(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_rle(value)


def test_random_text_as_counts_is_refused_or_a_mask() -> None:
    rng = np.random.default_rng(2)
    for _ in range(500):
        counts = "".join(chr(code) for code in rng.integers(40, 120, rng.integers(1, 8)))
        try:
            assert decode_rle({"size": [4, 5], "counts": counts}).shape == (4, 5)
        except ValueError as error:
            assert "RLE" in str(error)


def test_unions_and_ious_are_those_of_the_masks() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        first, second = rng.random((2, 6, 7)) < 0.4
        rles = [encode_rle(first), encode_rle(second)]
        np.testing.assert_array_equal(decode_rle(union_rles(rles)), first | second)
        assert iou_rles(*rles) == pytest.approx((first & second).sum() / (first | second).sum())
    empty = encode_rle(np.zeros((6, 7), dtype=bool))
    assert iou_rles(empty, empty) == 1 and iou_rles(empty, rles[0]) == 0


def test_masks_of_different_sizes_are_not_compared() -> None:
    small, large = encode_rle(np.ones((2, 3), dtype=bool)), encode_rle(np.ones((3, 2), dtype=bool))
    for call in (lambda: union_rles([small, large]), lambda: iou_rles(small, large)):
        with pytest.raises(ValueError, match="one size, not 2 x 3 and 3 x 2"):
            call()
    with pytest.raises(ValueError, match="at least one mask"):
        union_rles([])


@pytest.mark.parametrize("mask", [np.zeros((0, 3), bool), np.zeros(4, bool), np.full((2, 2), 255, np.uint8)])
def test_arrays_that_are_no_masks_are_refused(mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a mask must"):
        encode_rle(mask)


def test_boxes_end_one_past_the_last_pixel() -> None:
    mask = np.zeros((5, 8), dtype=bool)
    assert mask_to_box(mask) is None
    mask[1, 2] = mask[3, 6] = True
    assert mask_to_box(mask) == (2, 1, 7, 4)
    assert mask_to_box(np.ones((5, 8), dtype=bool)) == (0, 0, 8, 5)


def test_polygons_are_filled_as_counted_by_hand() -> None:
    square = polygons_to_mask([[1, 1, 4, 1, 4, 3, 1, 3]], (4, 6))
    assert square.tolist() == drawn("......", ".###..", ".###..", "......").tolist()
    two = polygons_to_mask([np.array([[0, 0], [1, 0], [1, 1], [0, 1]]), [5, 3, 6, 3, 6, 4, 5, 4]], (4, 6))
    assert np.argwhere(two).tolist() == [[0, 0], [3, 5]]
    assert not polygons_to_mask([], (4, 6)).any()


def test_polygons_of_a_ring_hold_its_hole() -> None:
    ring = drawn("#####", "#...#", "#.#.#", "#...#", "#####")
    polygons = mask_to_polygons(ring)
    assert len(polygons) == 2  # the ring with its hole, and the dot inside
    np.testing.assert_array_equal(polygons_to_mask(polygons, ring.shape), ring)


def test_the_outline_of_a_rectangle_is_its_four_corners() -> None:
    mask = np.zeros((5, 8), dtype=bool)
    mask[1:4, 2:7] = True
    assert mask_to_polygons(mask) == [[2, 1, 7, 1, 7, 4, 2, 4]]
    assert mask_to_polygons(np.zeros((5, 8), dtype=bool)) == []


def test_any_mask_comes_back_from_its_polygons_pixel_by_pixel() -> None:
    for mask in random_masks(250, seed=4):
        np.testing.assert_array_equal(polygons_to_mask(mask_to_polygons(mask), mask.shape), mask)


def test_polygon_areas_are_signed_like_outlines_minus_holes() -> None:
    for mask in random_masks(50, seed=5):
        area = 0.0
        for polygon in mask_to_polygons(mask):
            x, y = np.array(polygon).reshape(-1, 2).T
            area += float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
        assert area == mask.sum()


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([1, 1, 3, 3], "at least three x, y pairs"),
        ([1, 1, 3, 3, 5], "at least three x, y pairs"),
        ([1, 1, 3, float("nan"), 5, 5], "not finite or far outside"),
        ([1, 1, 1e9, 1, 5, 5], "not finite or far outside"),
        (["a", "b"], "a list of numbers"),
        ([[1, 2], [3]], "a list of numbers"),
    ],
)
def test_polygons_that_are_none_are_refused(polygon: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        polygons_to_mask([polygon], (10, 10))


def test_the_interior_point_is_the_deepest_pixel_of_any_small_mask() -> None:
    for mask in random_masks(60, seed=6):
        if not mask.any():
            continue
        outside = np.argwhere(~np.pad(mask, 1)) - 1
        depth = np.array([[((outside - place) ** 2).sum(axis=1).min() for place in row] for row in _places(mask.shape)])
        x, y = find_interior_point(mask)
        assert depth[int(y), int(x)] == (depth * mask).max()
        assert (x % 1, y % 1) == (0.5, 0.5)


def test_the_interior_point_of_a_bar_is_its_middle() -> None:
    mask = np.zeros((9, 60), dtype=bool)
    mask[2:7, 5:56] = True
    assert find_interior_point(mask) == (30.5, 4.5)


def test_the_interior_point_of_a_large_mask_is_deep_inside() -> None:
    rows, columns = np.mgrid[:900, :1600]
    mask = (rows - 420) ** 2 + (columns - 1000) ** 2 < 380**2
    mask[400:440, 640:1000] = False  # a slot up to the centre
    x, y = find_interior_point(mask)
    outside = np.argwhere(~mask)
    best = 190.0 - 20 / 2  # the largest circle that fits beside the slot is at least about this wide
    assert np.sqrt(((outside - (y - 0.5, x - 0.5)) ** 2).sum(axis=1).min()) > best - 12
    assert mask[int(y), int(x)]


def test_thin_masks_of_any_length_have_an_interior_point_inside() -> None:
    mask = np.zeros((1000, 1000), dtype=bool)
    mask[np.arange(1000), np.arange(1000)] = True
    x, y = find_interior_point(mask)
    assert mask[int(y), int(x)]
    with pytest.raises(ValueError, match="empty mask"):
        find_interior_point(np.zeros((3, 3), dtype=bool))


@pytest.fixture
def masks() -> np.ndarray:
    masks = np.random.default_rng(7).random((5, 6, 9)) < 0.3
    masks[2] = False
    return masks


def test_a_track_gives_masks_areas_visibility_and_boxes_back(masks: np.ndarray) -> None:
    track = MaskTrack.from_masks(masks)
    assert (track.num_frames, track.size_hw) == (5, (6, 9))
    assert track.rles[2] is None
    np.testing.assert_array_equal(track.masks, masks)
    np.testing.assert_array_equal(track.mask(3), masks[3])
    assert track.areas.tolist() == masks.sum(axis=(1, 2)).tolist()
    assert track.visible.tolist() == [True, True, False, True, True] and track.visible.dtype == bool
    assert np.isnan(track.boxes[2]).all() and track.boxes.shape == (5, 4)
    for t in (0, 1, 3, 4):
        assert tuple(track.boxes[t]) == mask_to_box(masks[t])


def test_tracks_unite_and_compare_frame_by_frame(masks: np.ndarray) -> None:
    other = np.roll(masks, 1, axis=0)
    first, second = MaskTrack.from_masks(masks), MaskTrack.from_masks(other)
    np.testing.assert_array_equal(first.union(second).masks, masks | other)
    expected = [(a & b).sum() / (a | b).sum() for a, b in zip(masks, other, strict=True)]
    np.testing.assert_allclose(first.iou(second), expected)
    np.testing.assert_allclose(first.iou(first), 1)  # also where nothing is visible


def test_tracks_go_through_json(masks: np.ndarray) -> None:
    track = MaskTrack.from_masks(masks)
    assert MaskTrack.from_json(json.loads(json.dumps(track.to_json()))) == track
    assert polygons_to_mask(track.polygons(1), (6, 9)).tolist() == masks[1].tolist()


def test_tracks_that_do_not_fit_are_refused(masks: np.ndarray) -> None:
    track = MaskTrack.from_masks(masks)
    with pytest.raises(ValueError, match="the mask of frame 1 is 2 x 2, but its track is 6 x 9"):
        MaskTrack((6, 9), (None, encode_rle(np.ones((2, 2), dtype=bool))))
    with pytest.raises(ValueError, match="at least one frame"):
        MaskTrack((6, 9), ())
    with pytest.raises(ValueError, match="not 5 frames of 6 x 9 and 4 frames of 6 x 9"):
        track.iou(MaskTrack.from_masks(masks[:4]))
    with pytest.raises(ValueError, match=r"the shape \(T, H, W\)"):
        MaskTrack.from_masks(masks[0])
    for broken in (None, {}, {"size": [6, 9]}, {"size": [6, 9], "rles": [{"size": [6, 9], "counts": "1"}]}):
        with pytest.raises(ValueError):
            MaskTrack.from_json(broken)


def test_davis_pngs_keep_ids_and_show_the_known_colours(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2], [3, 20, 255]], dtype=np.uint8)
    save_davis_png(ids, tmp_path / "ids.png")
    np.testing.assert_array_equal(load_index_png(tmp_path / "ids.png"), ids)
    with Image.open(tmp_path / "ids.png") as image:
        assert image.mode == "P"
        colours = np.array(image.convert("RGB"))
    known = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 64, 128), (224, 224, 192)]  # the VOC colour map
    assert [tuple(colour) for colour in colours.reshape(-1, 3).tolist()] == known
    assert build_davis_palette().shape == (256, 3)


def test_index_pngs_are_read_in_each_depth(tmp_path: Path) -> None:
    deep = np.array([[0, 300], [65535, 7]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(load_index_png(tmp_path / "deep.png"), deep)
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert load_index_png(tmp_path / "bits.png").tolist() == [[1, 0]]
    assert load_index_png(tmp_path / "bits.png").dtype == np.uint8


def test_index_pngs_that_hold_no_ids_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "colours.png")
    with pytest.raises(MediaError, match="need a palette or grey PNG, but this one is RGB"):
        load_index_png(tmp_path / "colours.png")
    (tmp_path / "text.png").write_text("no ids")
    for name in ("text.png", "missing.png"):
        with pytest.raises(MediaError, match=name):
            load_index_png(tmp_path / name)
    with pytest.raises(ValueError, match="ids 0 to 255, not 0 to 300"):
        save_davis_png(np.array([[0, 300]]), tmp_path / "out.png")
    with pytest.raises(ValueError, match="whole numbers"):
        save_davis_png(np.zeros((2, 2)), tmp_path / "out.png")


def test_boxes_areas_and_unions_agree_with_pycocotools(masks: np.ndarray) -> None:
    packed = coco.encode(np.asfortranarray(masks[0].astype(np.uint8)))
    assert encode_rle(masks[0])["counts"] == packed["counts"].decode()
    assert area_rle(encode_rle(masks[0])) == int(coco.area(packed))


def test_real_index_masks_are_read_and_come_back_from_polygons(shared_dir: Path) -> None:
    paths = sorted((shared_dir / "media").rglob("blackswan_masks/*.png"))
    if not paths:
        pytest.skip("the folder of UNIPIXEL_MEDIA_DIR holds no media/**/blackswan_masks")
    mask = load_index_png(paths[0]) > 0
    assert mask.any()
    np.testing.assert_array_equal(polygons_to_mask(mask_to_polygons(mask), mask.shape), mask)


def _places(shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.mgrid[: shape[0], : shape[1]], axis=-1)


DRAWN = {  # by OpenCV's polylines (one pixel) and fillPoly
    ((2, 1), (9, 3), (6, 8)): """
............
..##........
...#####....
...#######..
....#####...
....#####...
.....###....
.....###....
......#.....
............""",
    ((1, 1), (10, 1), (1, 8), (10, 8)): """
............
.##########.
..########..
...######...
.....##.....
.....##.....
...######...
..########..
.##########.
............""",
    ((3, 4),): """
........
........
........
........
...#....
........""",
    ((1, 5), (6, 2)): """
........
........
......#.
....##..
..##....
.#......
........""",
}


@pytest.mark.parametrize(("corners", "picture"), DRAWN.items())
def test_polygons_are_drawn_with_their_outlines_as_opencv_does(corners: tuple, picture: str) -> None:
    expected = np.array([[sign == "#" for sign in line] for line in picture.strip().splitlines()])
    assert np.array_equal(rasterize_polygon(np.array(corners), expected.shape), expected)


def test_a_polygon_that_leaves_the_picture_is_cut_at_its_edges() -> None:
    outside = np.array([(-5, -5), (30, -5), (30, 20), (-5, 20)])
    assert rasterize_polygon(outside, (8, 12)).all()
    assert not rasterize_polygon(outside + 100, (8, 12)).any()


def test_an_exact_interior_point_is_the_first_of_the_deepest_pixels() -> None:
    mask = np.zeros((400, 900), dtype=bool)
    mask[10:31, 20:820] = True  # wider than what is searched in blocks
    assert find_interior_point(mask, exact=True) == (30.5, 20.5)
    assert find_interior_point(mask) != (30.5, 20.5)


def test_a_random_point_is_the_centre_of_a_pixel_of_the_mask_and_any_pixel_can_be_it() -> None:
    mask = np.zeros((9, 7), dtype=bool)
    mask[2, 3:6] = mask[7, 1] = True
    points = {sample_point(mask, np.random.default_rng(seed)) for seed in range(60)}
    assert points == {(x + 0.5, y + 0.5) for y, x in zip(*np.nonzero(mask), strict=True)}


def test_a_jittered_box_is_off_by_a_share_of_its_side_and_stays_inside() -> None:
    boxes = np.array([jitter_box((10, 20, 50, 40), (60, 80), np.random.default_rng(seed)) for seed in range(200)])
    off = np.abs(boxes - [10, 20, 50, 40])
    assert (off <= [4, 2, 4, 2]).all() and (off.max(0) > [3.5, 1.5, 3.5, 1.5]).all()
    assert jitter_box((10, 20, 50, 40), (60, 80), np.random.default_rng(7), noise=0.1) == tuple(boxes[7])
    edge = np.array([jitter_box((0, 0, 80, 60), (60, 80), np.random.default_rng(seed)) for seed in range(50)])
    assert (edge >= 0).all() and (edge <= [80, 60, 80, 60]).all()
    few = np.array([jitter_box((10, 20, 50, 40), (60, 80), np.random.default_rng(n), most=0.01) for n in range(50)])
    assert (np.abs(few - [10, 20, 50, 40]) <= [0.8, 0.6, 0.8, 0.6]).all()
