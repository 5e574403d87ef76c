"""Video files: which frames there are, reading them in any order, odd and damaged files."""

from __future__ import annotations

import io
import pickle
import struct
import threading
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
from clips import number_of, write_clip
from PIL import Image

from unipixel.errors import MediaError
from unipixel.media import Limits, open_media

KINDS = {
    "mp4": ("clip.mp4", "libx264", {"g": "7", "bf": "2"}),
    "mov": ("clip.mov", "mpeg4", {"g": "6"}),
    "mkv": ("clip.mkv", "libx264", {"g": "9"}),
    "webm vp8 with hidden frames": ("clip.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    "webm vp9": ("clip9.webm", "libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "25", "cpu-used": "8"}),
    "avi": ("clip.avi", "mpeg4", {"bf": "2"}),
    "avi h264 without times": ("clip264.avi", "libx264", {}),
    "avi mjpeg": ("clipmj.avi", "mjpeg", {}),
}


@pytest.fixture(scope="module", params=list(KINDS))
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name, codec, options = KINDS[request.param]
    if codec not in av.codecs_available:
        pytest.skip(f"the video library cannot write {codec}")
    options = {**options, "strict": "unofficial"} if codec == "mjpeg" else options
    return write_clip(tmp_path_factory.mktemp("clips") / name, 40, codec, options=options)


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", 30, options={"g": "7"})


def test_every_container_says_its_frames_size_rate_and_times(clip: Path) -> None:
    media = open_media(clip)
    assert (media.num_frames, media.size_hw, media.is_video) == (40, (48, 64), True)
    assert media.fps == pytest.approx(10)
    assert media.timestamps_s == pytest.approx([t / 10 for t in range(40)])
    assert media.frame_indices == tuple(range(40))


def test_every_container_gives_all_frames_in_order(clip: Path) -> None:
    assert [number_of(frame) for frame in open_media(clip)] == list(range(40))


def test_every_container_gives_any_frame_in_any_order(clip: Path) -> None:
    media, in_order = open_media(clip), list(open_media(clip))
    for t in np.random.default_rng(3).permutation(40).tolist():
        np.testing.assert_array_equal(media.frame(t), in_order[t])


def test_several_frames_come_in_the_order_asked_for(clip: Path) -> None:
    frames = open_media(clip).frames([33, 2, 2, 17, 0])
    assert (frames.dtype, frames.shape) == (np.uint8, (5, 48, 64, 3))
    assert [number_of(frame) for frame in frames] == [33, 2, 2, 17, 0]


def test_sampled_clips_count_frames_in_the_clip_and_in_the_source(clip: Path) -> None:
    media = open_media(clip, num_frames=4)
    assert media.frame_indices == (0, 13, 26, 39)
    assert [number_of(frame) for frame in media] == [0, 13, 26, 39]
    assert number_of(media.frame(2)) == 26
    assert media.timestamps_s == pytest.approx((0, 1.3, 2.6, 3.9))
    assert media.fps == pytest.approx(10)


def test_every_keeps_each_so_many_th_frame_before_sampling(mp4: Path) -> None:
    assert open_media(mp4, every=7).frame_indices == (0, 7, 14, 21, 28)
    assert open_media(mp4, every=7, num_frames=3).frame_indices == (0, 14, 28)
    assert open_media(mp4, every=100).frame_indices == (0,)


def test_one_frame_of_a_video_is_still_of_a_video(mp4: Path) -> None:
    media = open_media(mp4, num_frames=1)
    assert media.is_video and media.frame_indices == (0,)


def test_select_takes_frames_of_the_clip(mp4: Path) -> None:
    media = open_media(mp4, every=2).select([5, 1])
    assert media.frame_indices == (10, 2)
    assert [number_of(frame) for frame in media] == [10, 2]
    assert number_of(media.frame(1)) == 2


def test_open_media_are_returned_unchanged(mp4: Path) -> None:
    media = open_media(mp4)
    assert open_media(media) is media


@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv"])
def test_variable_frame_rates_keep_their_times(name: str, tmp_path: Path) -> None:
    times_ms = [0, 40, 50, 300, 310, 320, 1000, 1010, 2000, 2500]
    media = open_media(write_clip(tmp_path / name, 10, times_ms=times_ms))
    assert media.timestamps_s == pytest.approx([time / 1000 for time in times_ms])
    assert media.fps == pytest.approx(9 / 2.5)
    assert [number_of(media.frame(t)) for t in (9, 3, 6, 0)] == [9, 3, 6, 0]


@pytest.mark.parametrize(("degrees", "matrix"), [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))])
def test_rotation_in_the_metadata_is_applied(mp4: Path, degrees: int, matrix: tuple[int, ...]) -> None:
    data = mp4.read_bytes()
    plain, turned = open_media(data), open_media(_with_display_matrix(data, matrix))
    expected = np.rot90(plain.frame(9), -degrees // 90)  # the matrix turns clockwise
    assert turned.size_hw == expected.shape[:2]
    np.testing.assert_array_equal(turned.frame(9), expected)
    np.testing.assert_array_equal(turned.frames([9])[0], expected)


def test_a_header_with_a_wrong_number_of_frames_is_not_believed(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "clip.avi", 20, "mpeg4").read_bytes())
    for chunk, offset in ((b"avih", 16), (b"strh", 32)):
        place = data.index(chunk) + 8 + offset
        data[place : place + 4] = struct.pack("<I", 9999)
    assert open_media(bytes(data)).num_frames == 20


def test_a_video_of_one_frame_is_a_still_picture(tmp_path: Path) -> None:
    media = open_media(write_clip(tmp_path / "one.mp4", 1))
    assert (media.num_frames, media.is_video) == (1, False)
    assert number_of(media.frame(0)) == 0


@pytest.mark.parametrize("size_hw", [(2, 2), (2, 64), (50, 38)])
def test_small_and_unaligned_videos_are_read(tmp_path: Path, size_hw: tuple[int, int]) -> None:
    media = open_media(write_clip(tmp_path / "small.mp4", 3, size_hw=size_hw))
    assert media.size_hw == size_hw and media.frames().shape == (3, *size_hw, 3)


def test_files_are_known_by_their_content_and_not_by_their_name(tmp_path: Path, mp4: Path) -> None:
    Image.new("RGB", (5, 4)).save(tmp_path / "picture.mp4", format="PNG")
    assert not open_media(tmp_path / "picture.mp4").is_video
    (tmp_path / "video.png").write_bytes(mp4.read_bytes())
    assert open_media(tmp_path / "video.png").num_frames == 30


def test_text_in_the_clothes_of_a_picture_is_refused_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("Dear diary, today I became a PNG.")
    with pytest.raises(MediaError, match=r"notes\.png is neither an image .* nor a video .* begins with b'Dear diary"):
        open_media(path)


def test_playlists_never_reach_the_video_library() -> None:
    # FFmpeg would follow the addresses inside.
    for text in (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/x.ts\n", b"ffconcat version 1.0\nfile 'secret.mp4'\n"):
        with pytest.raises(MediaError, match="neither an image"):
            open_media(text)


def test_paths_are_never_taken_for_ffmpeg_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mp4: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("subfile,,start,0,end,0,,:x.mp4").write_bytes(mp4.read_bytes())
    assert open_media("subfile,,start,0,end,0,,:x.mp4").num_frames == 30


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.995])
def test_cut_off_videos_are_refused(clip: Path, share: float) -> None:
    data = clip.read_bytes()
    with pytest.raises(MediaError, match="cut off"):
        open_media(data[: int(len(data) * share)])


def test_cut_off_videos_with_their_index_in_front_are_refused(tmp_path: Path) -> None:
    for flags in ("+faststart", "frag_keyframe+empty_moov"):
        path = write_clip(tmp_path / "clip.mp4", container_options={"movflags": flags}, options={"g": "5"})
        data = path.read_bytes()
        assert open_media(data).num_frames == 30
        with pytest.raises(MediaError, match="cut off"):
            open_media(data[: len(data) * 2 // 3])


def test_sound_without_pictures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(MediaError, match=r"sound\.mp4 holds no video stream, only audio"):
        open_media(path)


def test_limits_on_bytes_pixels_and_frames_hold_for_videos(mp4: Path) -> None:
    with pytest.raises(MediaError, match=r"more than the limit of 100 .*max_bytes"):
        open_media(mp4, limits=Limits(max_bytes=100))
    with pytest.raises(MediaError, match="64 x 48 pixels, more than the limit of 3000"):
        open_media(mp4, limits=Limits(max_pixels=3000))
    with pytest.raises(MediaError, match="more frames than the limit of 29"):
        open_media(mp4, limits=Limits(max_frames=29))


def test_damaged_bytes_give_frames_or_a_media_error_and_nothing_else(clip: Path) -> None:
    data, rng = clip.read_bytes(), np.random.default_rng(11)
    for _ in range(12):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 6):
            damaged[place] = rng.integers(0, 256)
        try:
            media = open_media(bytes(damaged), limits=Limits(max_pixels=10**6, max_frames=500))
            assert sum(1 for _ in media) == media.num_frames
        except MediaError as error:
            assert len(str(error)) < 300


def test_frames_outside_of_the_clip_are_refused(mp4: Path) -> None:
    media = open_media(mp4, num_frames=4)
    for t in (4, -1):
        with pytest.raises(IndexError, match=f"frame {t} is outside of the clip's 4 frames"):
            media.frame(t)
        with pytest.raises(IndexError):
            media.frames([0, t])


def test_videos_go_through_pickle_into_worker_processes(mp4: Path) -> None:
    media = open_media(mp4, num_frames=3)
    media.frame(1)
    again = pickle.loads(pickle.dumps(media))
    np.testing.assert_array_equal(again.frames(), media.frames())


def test_several_threads_may_read_one_video(mp4: Path) -> None:
    media, wrong = open_media(mp4), []

    def read(seed: int) -> None:
        for t in np.random.default_rng(seed).permutation(30).tolist():
            if number_of(media.frame(t)) != t:
                wrong.append(t)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_closed_media_open_again_when_read(mp4: Path) -> None:
    media = open_media(mp4)
    media.frame(3)
    media.close()
    assert number_of(media.frame(5)) == 5


def test_two_walks_through_one_video_do_not_disturb_each_other(mp4: Path) -> None:
    media = open_media(mp4)
    assert [(number_of(a), number_of(b)) for a, b in zip(media, media, strict=True)] == [(t, t) for t in range(30)]


def test_a_thousand_frames_are_never_held_together(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "long.mp4", 1000, size_hw=(96, 128), options={"preset": "ultrafast"})
    frame_bytes = 96 * 128 * 3
    tracemalloc.start()
    try:
        media = open_media(path)
        assert [number_of(frame) for frame in media] == list(range(1000))
        assert [number_of(media.frame(t)) for t in (999, 0, 500)] == [999, 0, 500]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * frame_bytes


def test_videos_are_read_from_bytes_and_files_alike(mp4: Path) -> None:
    np.testing.assert_array_equal(open_media(mp4.read_bytes()).frames(), open_media(str(mp4)).frames())


def test_real_videos_are_read_whole(shared_dir: Path) -> None:
    paths = sorted((shared_dir / "media").rglob("*.mp4"))
    if not paths:
        pytest.skip("the folder of UNIPIXEL_MEDIA_DIR holds no video")
    for path in paths[:2]:
        media = open_media(path)
        assert media.fps and 5 < media.fps < 121 and media.num_frames > 10
        middle = media.num_frames // 2
        np.testing.assert_array_equal(media.frame(middle), media.frames([middle])[0])


def _with_display_matrix(data: bytes, matrix: tuple[int, ...]) -> bytes:
    """The MP4 with another display matrix in its track header (version 0): a, b, c, d in 16.16 fixed point."""
    a, b, c, d = (value << 16 for value in matrix)
    file = io.BytesIO(data)
    file.seek(data.index(b"tkhd") + 4 + 4 + 20 + 16)
    file.write(struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30))
    return file.getvalue()
