"""Folders, lists, arrays and iterators of frames, and what open_media refuses."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unipixel.errors import MediaError
from unipixel.media import Limits, Media, open_media
from unipixel.media.sources import build_sort_key


def still(level: int, size_hw: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.full((*size_hw, 3), level, dtype=np.uint8)


def levels(media: Media) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in media]


def test_folders_are_read_in_natural_order_whatever_the_format(tmp_path: Path) -> None:
    for level, name in enumerate(["2.png", "10.bmp", "1.webp", "img10.png", "img9.png", "IMG2.PNG"]):
        data = Image.fromarray(still(level))
        data.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".hidden.png").write_bytes(b"not a frame")
    (tmp_path / "folder.png").mkdir()
    media = open_media(tmp_path)
    assert levels(media) == [2, 0, 1, 5, 4, 3]
    assert (media.num_frames, media.size_hw, media.is_video) == (6, (6, 8), True)
    assert (media.fps, media.timestamps_s, media.source) == (None, None, str(tmp_path))
    assert media.frames([5, 0])[:, 0, 0, 0].tolist() == [3, 2]


def test_natural_order_compares_digits_as_numbers() -> None:
    names = ["a10b2", "a2b10", "a2b9", "a", "2", "10", "010", "b1"]
    assert sorted(names, key=build_sort_key) == ["2", "010", "10", "a", "a2b9", "a2b10", "a10b2", "b1"]


def test_a_frame_rate_may_be_given_for_a_folder(tmp_path: Path) -> None:
    for t in range(4):
        Image.fromarray(still(t)).save(tmp_path / f"{t}.png")
    media = open_media(tmp_path, fps=2, every=2)
    assert (media.fps, media.timestamps_s) == (2, (0.0, 1.0))


def test_the_first_frame_of_another_size_is_named(tmp_path: Path) -> None:
    for t in range(12):
        Image.fromarray(still(t, (6, 8) if t < 10 else (5, 8))).save(tmp_path / f"{t}.png")
    with pytest.raises(MediaError, match=r"10\.png is 8 x 5 pixels, but the first frame is 8 x 6"):
        open_media(tmp_path)


def test_frames_that_are_not_chosen_are_not_looked_at(tmp_path: Path) -> None:
    for t in range(4):
        Image.fromarray(still(t)).save(tmp_path / f"{t}.png")
    (tmp_path / "1.png").write_bytes(b"broken")
    assert levels(open_media(tmp_path, every=2)) == [0, 2]
    with pytest.raises(MediaError, match=r"1\.png"):
        open_media(tmp_path)


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing to see")
    with pytest.raises(MediaError, match="holds no frames; it must hold pictures"):
        open_media(tmp_path)


def test_an_empty_frame_in_a_folder_is_named(tmp_path: Path) -> None:
    Image.fromarray(still(0)).save(tmp_path / "0.png")
    (tmp_path / "1.png").touch()
    with pytest.raises(MediaError, match=r"1\.png"):
        open_media(tmp_path)


def test_lists_may_mix_paths_pictures_and_arrays(tmp_path: Path) -> None:
    Image.fromarray(still(1)).save(tmp_path / "1.png")
    items = [str(tmp_path / "1.png"), tmp_path / "1.png", Image.fromarray(still(2)), still(3), still(4)[:, :, 0]]
    media = open_media(items)
    assert levels(media) == [1, 1, 2, 3, 4] and media.is_video
    assert not open_media([still(0)]).is_video


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "holds no frame"),
        ([np.zeros((3, 4, 3), np.uint8), np.zeros((4, 3, 3), np.uint8)], "frame 1 of the list is 3 x 4 pixels"),
        ([np.zeros((3, 4, 3), np.uint8), "missing.png"], r"missing\.png does not exist"),
        ([np.zeros((3, 4, 3), np.uint8), 7], r"frame 1 of the list has the shape \(\)"),
        ([np.zeros((2, 3, 4, 3), np.uint8)], "frame 0 of the list has the shape"),
    ],
)
def test_lists_that_are_no_clip_are_refused(items: list[Any], message: str) -> None:
    with pytest.raises(MediaError, match=message):
        open_media(items)


def test_arrays_are_pictures_or_clips_by_their_shape() -> None:
    clip = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    assert (open_media(clip).num_frames, open_media(clip).size_hw, open_media(clip).is_video) == (2, (3, 4), True)
    np.testing.assert_array_equal(open_media(clip).frames(), clip)
    assert (open_media(clip[0]).num_frames, open_media(clip[0]).is_video) == (1, False)
    np.testing.assert_array_equal(open_media(clip[0, :, :, 0]).frame(0), np.dstack([clip[0, :, :, 0]] * 3))
    timed = Media.from_array(clip, fps=4)
    assert (timed.fps, timed.timestamps_s) == (4, (0.0, 0.25))


def test_frames_are_the_callers_to_change() -> None:
    clip = np.zeros((2, 3, 4, 3), dtype=np.uint8)
    media = open_media(clip)
    media.frame(0)[:] = 255
    for frame in media:
        frame[:] = 255
    assert clip.max() == 0 and media.frame(0).max() == 0


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 3, 4, 3), 1.5), "holds fractions from 1.5 to 1.5, but fractions must lie in 0 to 1"),
        (np.full((3, 4), -0.5, np.float32), "holds fractions from -0.5"),
        (np.full((3, 4), np.nan), "holds fractions from nan"),
        (np.full((3, 4), 200), "is of type int64 with values 200 to 200, which could be meant as 8 or as 16 bit"),
        (np.zeros((4, 9, 9), np.uint8), "the channels could be at more than one place"),
        (np.zeros((3, 3, 9, 9), np.uint8), "the channels could be at more than one place"),
        (np.zeros((3, 16, 9, 9), np.uint8), "has the shape"),
        (torch.zeros(3, 9, 3), r"the tensor has the shape .* the channels could be at more than one place"),
        (torch.full((3, 9, 9), -1.0), "the tensor holds fractions from -1 to -1"),
        (np.zeros((3, 4, 3), bool), "is of type bool"),
        (np.full((3, 4), -1), "values -1 to -1"),
        (np.zeros((2, 4, 5), np.uint8), r"has the shape \(2, 4, 5\)"),
        (np.zeros((1, 2, 3, 4, 3), np.uint8), "has the shape"),
        (np.zeros((0, 3, 4, 3), np.uint8), "holds no frame"),
        (np.zeros((3, 0, 3), np.uint8), "each side must be at least 1"),
        (np.zeros(3, np.uint8), "has the shape"),
    ],
)
def test_arrays_that_are_no_pixels_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        open_media(array)


def test_channels_may_come_first_where_that_is_clear() -> None:
    clip = np.random.default_rng(0).integers(0, 255, (5, 6, 7, 3), dtype=np.uint8)
    first = np.ascontiguousarray(clip.transpose(0, 3, 1, 2))
    for frames in (first, torch.from_numpy(first), torch.from_numpy(clip), list(first), list(torch.from_numpy(first))):
        np.testing.assert_array_equal(open_media(frames).frames(), clip)
    np.testing.assert_array_equal(np.stack(list(open_media(iter(torch.from_numpy(first))))), clip)
    np.testing.assert_array_equal(open_media(first[0]).frame(0), clip[0])
    np.testing.assert_array_equal(open_media(first[:1]).frame(0), clip[0])
    np.testing.assert_array_equal(open_media(first[0, :1]).frame(0), np.repeat(clip[0, :, :, :1], 3, 2))
    assert open_media(np.zeros((3, 9, 3), np.uint8)).size_hw == (3, 9)  # NumPy's own order


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_fractions_are_pixels_from_black_to_white(kind: torch.dtype) -> None:
    tensor = torch.tensor([0, 0.5, 1], dtype=kind).expand(4, 5, 3).permute(2, 0, 1).requires_grad_()
    assert set(open_media(tensor).frame(0)[:, :, 1].ravel().tolist()) == {128}
    assert open_media([tensor, tensor]).frame(1)[0, 0].tolist() == [0, 128, 255]


def test_a_dark_frame_does_not_hide_that_fractions_are_none() -> None:
    with pytest.raises(MediaError, match="fractions from 0 to 200"):
        open_media(np.stack([np.zeros((3, 4, 3)), np.full((3, 4, 3), 200.0)]))
    with pytest.raises(MediaError, match="frame 1 of the list holds fractions from 200"):
        open_media([np.zeros((3, 4, 3)), np.full((3, 4, 3), 200.0)])


def test_file_objects_are_read_from_where_they_stand(tmp_path: Path) -> None:
    Image.fromarray(still(3)).save(tmp_path / "a.png")
    with open(tmp_path / "a.png", "rb") as file:
        assert levels(open_media(file)) == [3]
        with pytest.raises(MediaError, match="gives no bytes: it is empty, or was read before"):
            open_media(file)
    with pytest.raises(MediaError, match=r"cannot be read .*closed file"):
        open_media(file)
    assert levels(open_media(memoryview((tmp_path / "a.png").read_bytes()))) == [3]
    with pytest.raises(MediaError, match="gives str and not bytes; open it with mode 'rb'"):
        open_media(io.StringIO("words"))
    with pytest.raises(MediaError, match="more than the limit of 20"):
        open_media(io.BytesIO((tmp_path / "a.png").read_bytes()), limits=Limits(max_bytes=20))


def camera(count: int, seen: list[int] | None = None) -> Iterator[np.ndarray]:
    for t in range(count):
        if seen is not None:
            seen.append(t)
        yield still(t % 256)


def test_iterators_give_each_frame_as_it_comes() -> None:
    seen: list[int] = []
    media = open_media(camera(5, seen))
    assert media.is_live and media.is_video and media.size_hw == (6, 8)
    walk = iter(media)
    assert int(next(walk)[0, 0, 0]) == 0 and seen == [0]
    assert int(next(walk)[0, 0, 0]) == 1 and seen == [0, 1]
    assert int(media.frame(3)[0, 0, 0]) == 3 and seen == [0, 1, 2, 3]
    assert [int(frame[0, 0, 0]) for frame in walk] == [2, 3, 4]
    assert media.num_frames == 5 and not media.is_live


def test_iterators_can_be_read_again_and_out_of_order() -> None:
    media = open_media(camera(6))
    assert media.num_frames == 6 and media.frame_indices == (0, 1, 2, 3, 4, 5)
    assert levels(media) == levels(media) == [0, 1, 2, 3, 4, 5]
    assert media.frames([4, 0, 4])[:, 0, 0, 0].tolist() == [4, 0, 4]
    with pytest.raises(IndexError, match="frame 6 is outside of the clip's 6 frames"):
        media.frame(6)


def test_iterators_can_be_thinned_and_sampled() -> None:
    thinned = open_media(camera(10), every=3)
    assert levels(thinned) == [0, 3, 6, 9] and thinned.frame_indices == (0, 3, 6, 9)
    sampled = open_media(camera(10), every=3, num_frames=2, fps=10)
    assert (sampled.frame_indices, levels(sampled)) == ((0, 9), [0, 9])
    assert sampled.timestamps_s == pytest.approx((0.0, 0.9))


def test_iterators_of_pictures_are_read_and_one_picture_is_no_video() -> None:
    media = open_media(Image.fromarray(still(t)) for t in (7,))
    assert levels(media) == [7] and not media.is_video


def test_a_long_iterator_does_not_stay_in_memory() -> None:
    size_hw = (90, 120)
    tracemalloc.start()
    try:
        media = open_media(still(t % 256, size_hw) for t in range(500))
        assert sum(1 for _ in media) == 500
        assert int(media.frame(400)[0, 0, 0]) == 400 - 256
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * 90 * 120 * 3


def test_iterators_that_yield_nothing_or_odd_frames_are_refused() -> None:
    with pytest.raises(MediaError, match="the iterator yielded no frame"):
        open_media(iter([]))
    media = open_media(iter([still(0), still(1, (9, 9))]))
    with pytest.raises(MediaError, match="frame 1 of the iterator is 9 x 9 pixels, but the first frame is 8 x 6"):
        list(media)


def test_iterators_stop_at_the_limits() -> None:
    with pytest.raises(MediaError, match="more frames than the limit of 3"):
        list(open_media(camera(10), limits=Limits(max_frames=3)))
    with pytest.raises(MediaError, match="passed the limit of 500 bytes after 3 frames"):
        list(open_media(camera(10), limits=Limits(max_spool_bytes=500)))


@pytest.mark.parametrize("source", [3.5, None, {"a": 1}, {1, 2}, object()])
def test_what_is_no_media_at_all_is_a_type_error(source: Any) -> None:
    with pytest.raises(TypeError, match=r"media must be a path, URL, bytes, picture, array, list or iterator"):
        open_media(source)


def test_missing_empty_and_special_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"nothing\.mp4 does not exist"):
        open_media(tmp_path / "nothing.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(MediaError, match=r"empty\.mp4 is empty"):
        open_media(tmp_path / "empty.mp4")
    with pytest.raises(MediaError, match="is empty"):
        open_media(b"")
    with pytest.raises(MediaError):
        open_media("a\0b.png")
    with pytest.raises(MediaError, match="cannot be read"):
        open_media("a" * 10_000)


@pytest.mark.parametrize("arguments", [{"every": 0}, {"every": 1.5}, {"num_frames": 0}, {"fps": 0}, {"fps": -2.0}])
def test_senseless_arguments_are_value_errors(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        open_media(np.zeros((4, 3, 3, 3), np.uint8), **arguments)


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_frames must be positive, not 0"):
        Limits(max_frames=0)


def test_select_needs_a_frame() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        open_media(np.zeros((4, 3, 3, 3), np.uint8)).select([])


def test_media_say_what_they_are() -> None:
    assert repr(open_media(np.zeros((4, 3, 5, 3), np.uint8))) == "Media('array (4, 3, 5, 3)', 4 frames, 3 x 5)"
    assert "live" in repr(open_media(camera(2)))


def test_folders_of_real_frames_are_read(shared_dir: Path) -> None:
    folder = shared_dir / "media" / "cutie_examples" / "images" / "judo"
    if not folder.is_dir():
        pytest.skip("the folder of UNIPIXEL_MEDIA_DIR holds no media/cutie_examples")
    media = open_media(folder, num_frames=3)
    assert media.frames().shape == (3, *media.size_hw, 3) and media.frame_indices[0] == 0
