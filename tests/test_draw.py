"""Overlays, contact sheets and the files they are written to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from unipixel.draw import (
    get_colour,
    make_contact_sheet,
    mark_prompts,
    outline,
    overlay,
    write_gif,
    write_mp4,
    write_png,
)
from unipixel.media import open_media

GREY = np.full((60, 80, 3), 100, dtype=np.uint8)


def square(top: int, left: int, side: int, size_hw: tuple[int, int] = (60, 80)) -> np.ndarray:
    mask = np.zeros(size_hw, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_colours_are_stable_and_apart_from_each_other() -> None:
    colours = np.array([get_colour(object_id) for object_id in range(24)], dtype=int)
    assert get_colour(3) == get_colour(3)
    distance = np.abs(colours[:, None] - colours[None]).sum(axis=-1)
    np.fill_diagonal(distance, 999)
    assert distance.min() >= 30
    neighbours = np.abs(np.diff(colours, axis=0)).sum(axis=1)
    assert neighbours.min() >= 150


def test_inside_is_translucent_the_outline_solid_and_outside_untouched() -> None:
    mask = square(10, 20, 30)
    drawn = overlay(GREY, mask[None], labels=[""], ids=[4], opacity=0.5)
    np.testing.assert_array_equal(drawn[~mask], GREY[~mask])
    assert drawn[10, 20].tolist() == drawn[39, 49].tolist() == list(get_colour(4))
    expected = 100 + 0.5 * (np.array(get_colour(4)) - 100)
    assert np.abs(drawn[25, 35] - expected).max() <= 0.5
    assert GREY.min() == GREY.max() == 100  # the frame given stays as it was


def test_labels_lie_inside_their_object_and_can_be_left_out() -> None:
    mask = square(20, 30, 25)
    plain = overlay(GREY, mask[None], labels=[""], ids=[2])
    labelled = overlay(GREY, mask[None], ids=[2])
    changed = np.argwhere((plain != labelled).any(axis=-1))
    assert len(changed) and mask[changed[:, 0], changed[:, 1]].all()


def test_an_object_keeps_its_colour_whatever_is_drawn_beside_it() -> None:
    first, second = square(2, 2, 15), square(40, 60, 15)
    alone = overlay(GREY, second[None], labels=[""], ids=[7])
    both = overlay(GREY, np.stack([first, second]), labels=["", ""], ids=[1, 7])
    np.testing.assert_array_equal(alone[second], both[second])


def test_nothing_and_empty_masks_draw_nothing() -> None:
    np.testing.assert_array_equal(overlay(GREY, np.zeros((0, 60, 80), bool)), GREY)
    np.testing.assert_array_equal(overlay(GREY, np.zeros((2, 60, 80), bool)), GREY)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 50), (50, 1), (3, 4), (2000, 3)])
def test_frames_of_any_size_can_be_drawn_on(size_hw: tuple[int, int]) -> None:
    frame = np.zeros((*size_hw, 3), dtype=np.uint8)
    drawn = overlay(frame, np.ones((1, *size_hw), dtype=bool), labels=["a rather long label"])
    assert drawn.shape == frame.shape
    assert mark_prompts(frame, [(0, 0, True)], [(0, 0, 1, 1)]).shape == frame.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"masks": np.zeros((2, 5, 5), bool)}, r"the shape \(N, 60, 80\), not \(2, 5, 5\)"),
        ({"masks": np.zeros((60, 80), bool)}, r"the shape \(N, 60, 80\)"),
        ({"masks": np.zeros((1, 60, 80), bool), "ids": [1, 2]}, "1 masks need as many ids and labels, not 2"),
        ({"masks": np.zeros((1, 60, 80), bool), "labels": []}, "as many ids and labels"),
        ({"frame": GREY / 255, "masks": np.zeros((1, 60, 80), bool)}, "must be uint8"),
    ],
)
def test_masks_that_do_not_fit_the_frame_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overlay(**{"frame": GREY, **arguments})


def test_outlines_are_as_thick_as_asked_and_stop_at_the_border() -> None:
    mask = square(0, 0, 10, (20, 20))
    thin, thick = outline(mask), outline(mask, 3)
    assert np.argwhere(thin).tolist() == [[r, 9] for r in range(9)] + [[9, c] for c in range(10)]
    assert thick.sum() == 100 - 49 and not (thick & ~mask).any()


def test_prompts_are_marked_where_they_are() -> None:
    marked = mark_prompts(GREY, [(20, 30, True), (60, 30, False)], [(5, 6, 75, 55)])
    positive, negative = marked[30, 20].tolist(), marked[30, 60].tolist()
    assert positive[1] > positive[0] and negative[0] > negative[1]
    yellow = (marked == (255, 220, 0)).all(axis=-1)
    rows, columns = np.nonzero(yellow)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (5, 6, 74, 54)


def test_contact_sheets_hold_every_picture_in_reading_order() -> None:
    levels = [40, 90, 140, 190, 240]
    sheet = make_contact_sheet(
        [np.full((30 + 10 * n, 40, 3), (level, 0, 0), np.uint8) for n, level in enumerate(levels)],
        ["one", "two words", "", "four", "a caption that is far too long for one line of a narrow cell " * 2],
        columns=2,
        cell_width=100,
    )
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 2 * 100 + 3 * 8
    places = [np.argwhere((sheet == (level, 0, 0)).all(axis=-1)).min(axis=0).tolist() for level in levels]
    assert [place[1] for place in places] == [8, 116, 8, 116, 8]
    assert places[0][0] == places[1][0] == 8 < places[2][0] == places[3][0] < places[4][0]


def test_contact_sheets_take_extreme_pictures_and_words() -> None:
    tall, wide = np.zeros((900, 2, 3), np.uint8), np.zeros((1, 900, 3), np.uint8)
    sheet = make_contact_sheet([tall, wide], ["x" * 300, "two\nlines"], cell_width=60)
    assert sheet.shape[0] < 1200 and sheet.shape[1] == 2 * 60 + 3 * 8
    with pytest.raises(ValueError, match="at least one picture"):
        make_contact_sheet([])
    with pytest.raises(ValueError, match="2 pictures need as many captions, not 1"):
        make_contact_sheet([tall, wide], ["one"])


def test_pngs_come_back_as_written(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    path = write_png(noise, tmp_path / "new folder" / "noise.png")
    np.testing.assert_array_equal(open_media(path).frame(0), noise)


def clip(num_frames: int, size_hw: tuple[int, int]) -> list[np.ndarray]:
    frames = [np.full((*size_hw, 3), (30 * t, 255 - 30 * t, 100), dtype=np.uint8) for t in range(num_frames)]
    for t, frame in enumerate(frames):
        frame[: size_hw[0] // 2, : size_hw[1] // 2] = 20 * t
    return frames


def test_gifs_come_back_with_their_frames_and_rate(tmp_path: Path) -> None:
    frames = clip(5, (20, 30))
    media = open_media(write_gif(iter(frames), tmp_path / "clip.gif", fps=5))
    assert (media.num_frames, media.size_hw, media.fps) == (5, (20, 30), pytest.approx(5))
    assert np.abs(media.frames().astype(int) - np.stack(frames)).max() <= 8


@pytest.mark.parametrize("size_hw", [(48, 64), (47, 63), (1, 1), (3, 64)])
@pytest.mark.parametrize("has_h264", [True, False])
def test_mp4s_come_back_whatever_their_size_and_coding(
    tmp_path: Path, size_hw: tuple[int, int], has_h264: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_h264:
        monkeypatch.setattr("av.codec.codecs_available", av.codecs_available - {"libx264"})
    frames = clip(6, size_hw)
    media = open_media(write_mp4((frame for frame in frames), tmp_path / "clip.mp4", fps=7.5))
    assert media.num_frames == 6 and media.fps == pytest.approx(7.5)
    assert media.size_hw == tuple(side + side % 2 for side in size_hw)
    back = media.frames()[:, : size_hw[0], : size_hw[1]]
    assert np.abs(back.astype(int) - np.stack(frames)).mean() < 12


def test_long_mp4s_are_written_from_a_generator_frame_by_frame(tmp_path: Path) -> None:
    alive: list[int] = []

    def frames() -> Any:
        for t in range(120):
            alive.append(t)
            yield np.full((32, 32, 3), t, dtype=np.uint8)

    media = open_media(write_mp4(frames(), tmp_path / "long.mp4", fps=30))
    assert media.num_frames == len(alive) == 120


@pytest.mark.parametrize("write", [write_gif, write_mp4])
def test_clips_that_are_none_are_refused(write: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        write([], tmp_path / "clip")
    with pytest.raises(ValueError, match="one size"):
        write([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)], tmp_path / "clip")
    with pytest.raises(ValueError, match="frame rate"):
        write(clip(1, (4, 4)), tmp_path / "clip", fps=0)
    with pytest.raises(ValueError, match="must be uint8"):
        write([np.zeros((4, 4, 3))], tmp_path / "clip")


def test_written_pictures_are_plain_rgb(tmp_path: Path) -> None:
    with Image.open(write_png(GREY, tmp_path / "grey.png")) as image:
        assert (image.mode, image.size, image.format) == ("RGB", (80, 60), "PNG")


def test_masks_that_overlap_blend_in_order_whatever_their_place_and_form() -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (600, 300, 3), dtype=np.uint8)
    masks = np.zeros((3, 600, 300), dtype=bool)
    masks[0, :400, 50:300] = masks[1, 250:600, :120] = True
    masks[2] = rng.random((600, 300)) < 0.3
    wanted = frame.astype(np.float32)
    for number, mask in enumerate(masks, start=1):
        colour = np.array(get_colour(number), dtype=np.float32)
        wanted[mask] += 0.45 * (colour - wanted[mask])
        wanted[outline(mask, 1)] = colour
    drawn = overlay(frame, masks, labels=["", "", ""])
    # Pillow blends in whole numbers, after each mask
    np.testing.assert_allclose(drawn.astype(np.float32), wanted.round(), atol=1)
    np.testing.assert_array_equal(overlay(frame, iter(masks), labels=["", "", ""]), drawn)
    with pytest.raises(ValueError, match="must have the shape"):
        overlay(frame, iter(masks[:, 1:]))
