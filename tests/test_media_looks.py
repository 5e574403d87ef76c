"""Media as viewers show them: orientation, transparency, disposal, brands, names; and how much of them is opened."""

from __future__ import annotations

import base64
import http.server
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import number_of, numbered_frame, write_clip
from PIL import Image, features

from unipixel.errors import MediaError
from unipixel.media import LOCAL, UNLIMITED, Limits, open_media
from unipixel.media.names import NameAliases, find_file, is_junk

STORED = np.kron(np.array([[10, 70], [130, 190]]), np.ones((16, 24), dtype=int)).astype(np.uint8)
UPRIGHT = {
    1: [[10, 70], [130, 190]],
    2: [[70, 10], [190, 130]],
    3: [[190, 130], [70, 10]],
    4: [[130, 190], [10, 70]],
    5: [[10, 130], [70, 190]],
    6: [[130, 10], [190, 70]],
    7: [[190, 70], [130, 10]],
    8: [[70, 190], [10, 130]],
}
"""Where the quadrants go, read off the EXIF standard."""
MATRICES = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
"""Display matrices a, b, c, d of the same; the program ffmpeg shows all eight so."""
NEEDS_AVIF = pytest.mark.skipif(not features.check("avif"), reason="this build of Pillow reads no AVIF")


def encoded(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def quadrants(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    return frame[[[4], [height - 5]], [4, width - 5], 0].astype(int)


def check_turned(media: Any, orientation: int) -> None:
    assert media.size_hw == ((32, 48) if orientation < 5 else (48, 32))
    for frame in media:
        assert frame.shape[:2] == media.size_hw
        assert np.abs(quadrants(frame) - UPRIGHT[orientation]).max() <= 14


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["TIFF", pytest.param("AVIF", marks=NEEDS_AVIF)])
def test_stills_of_other_formats_are_turned_as_they_say(format_name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    check_turned(open_media(encoded(Image.fromarray(np.dstack([STORED] * 3)), format_name, exif=exif)), orientation)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["PNG", "WEBP"])
def test_frames_of_animations_are_turned_like_the_first(format_name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stills = [Image.fromarray(np.dstack([STORED + shift] * 3)) for shift in (0, 10)]
    data = encoded(stills[0], format_name, save_all=True, append_images=stills[1:], duration=100, exif=exif.tobytes())
    media = open_media(data)
    assert media.num_frames == 2
    check_turned(media, orientation)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_videos_are_turned_and_mirrored_as_their_matrix_says(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = *STORED.shape, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.dstack([STORED] * 3), format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in MATRICES[orientation])
    place = data.index(b"tkhd") + 4 + 4 + 20 + 16
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    media = open_media(bytes(data))
    check_turned(media, orientation)
    np.testing.assert_array_equal(media.frame(2), media.frames([2])[0])


def test_transparent_videos_lie_on_white(tmp_path: Path) -> None:
    path = tmp_path / "clear.mov"
    pixels = np.zeros((32, 48, 4), dtype=np.uint8)
    pixels[:, 24:] = (200, 40, 40, 255)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("qtrle", rate=5)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "argb"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        container.mux(stream.encode())
    frame = open_media(path).frame(0)
    assert frame[5, 5].tolist() == [255] * 3 and frame[5, 40].tolist() == [200, 40, 40]


@NEEDS_AVIF
def test_transparent_avif_pictures_lie_on_white() -> None:
    rgba = np.zeros((32, 48, 4), dtype=np.uint8)
    rgba[:, 24:] = (200, 40, 40, 255)
    frame = open_media(encoded(Image.fromarray(rgba), "AVIF", quality=95)).frame(0)
    assert frame[5, 5].min() > 245 and np.abs(frame[5, 40].astype(int) - (200, 40, 40)).max() < 20


def test_the_transparent_value_of_a_deep_grey_png_lies_on_white() -> None:
    deep = Image.fromarray(np.array([[0, 30000], [500, 65535]], dtype=np.uint16))
    data = encoded(deep, "PNG")
    key = b"tRNS" + struct.pack(">H", 500)
    place = data.index(b"IDAT") - 4
    chunk = struct.pack(">I", 2) + key + struct.pack(">I", zlib.crc32(key))
    assert open_media(data[:place] + chunk + data[place:]).frame(0)[..., 0].tolist() == [[0, 117], [255, 255]]


def gif(*patches: tuple[int, int, int, int, int, int], size: tuple[int, int] = (12, 8), cut: int = 0) -> bytes:
    """A GIF of patches (x, y, width, height, colour, disposal) of black, red, green and blue, none transparent."""
    colours = bytes([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    out = b"GIF89a" + struct.pack("<HHBBB", *size, 0x81, 0, 0) + colours
    for x, y, width, height, colour, disposal in patches:
        out += b"!\xf9\x04" + struct.pack("<BHB", disposal << 2, 10, 0) + b"\0"
        one = encoded(Image.new("P", (width, height), colour), "GIF", optimize=False)
        body = one[one.rindex(b",") :] if one.count(b",") == 1 else one[one.index(b",", 800) :]
        packed = body[10:-1]
        if body[9] & 0x80:
            packed = body[10 + (3 << (body[9] & 7) + 1) : -1]
        out += b"," + struct.pack("<HHHHB", x, y, width, height, 0) + packed
    return (out + b";")[: len(out) + 1 - cut]


RED, GREEN, BLUE, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]


@pytest.mark.parametrize(("disposal", "left"), [(0, GREEN), (1, GREEN), (2, WHITE), (3, RED)])
def test_gifs_dispose_of_patches_as_browsers_do(disposal: int, left: list[int]) -> None:
    media = open_media(gif((0, 0, 12, 8, 1, 1), (2, 2, 4, 4, 2, disposal), (9, 6, 2, 2, 3, 1)))
    frames = media.frames()
    assert frames[1, 3, 3].tolist() == GREEN and frames[2, 3, 3].tolist() == left
    assert frames[2, 0, 0].tolist() == RED and frames[2, 7, 10].tolist() == BLUE
    np.testing.assert_array_equal(media.frame(2), frames[2])


def test_the_canvas_of_a_gif_is_its_own_and_transparent_where_nothing_is_drawn() -> None:
    still = open_media(gif((2, 2, 4, 4, 1, 0)))
    assert (still.is_video, still.size_hw, still.fps) == (False, (8, 12), None)
    assert still.frame(0)[0, 0].tolist() == WHITE and still.frame(0)[3, 3].tolist() == RED
    grown = open_media(gif((0, 0, 12, 8, 1, 0), (4, 4, 40, 30, 2, 0)))
    assert grown.size_hw == (8, 12) and grown.frame(1)[7, 11].tolist() == GREEN


def test_patches_beyond_the_limit_are_refused_before_they_are_decoded() -> None:
    lies = bytearray(gif((0, 0, 12, 8, 1, 0), (0, 0, 12, 8, 2, 0)))
    place = lies.rindex(b",\0\0\0\0")
    lies[place + 5 : place + 9] = struct.pack("<HH", 60_000, 60_000)
    with pytest.raises(MediaError, match="60000 x 60000 pixels, more than the limit"):
        open_media(bytes(lies))
    with pytest.raises(MediaError, match="damaged: it ends in the middle"):
        open_media(gif((0, 0, 12, 8, 1, 0), (0, 0, 12, 8, 2, 0), cut=4))


def apng(mode: str, disposal: int, blend: int, *, default: bool) -> bytes:
    first = Image.new(mode, (12, 8), "red")
    rest = [Image.new(mode, (12, 8), colour) for colour in ("lime", "blue")]
    stills = [Image.new(mode, (12, 8), "yellow"), first, *rest] if default else [first, *rest]
    options: dict[str, Any] = {"default_image": True} if default else {}
    return encoded(
        stills[0],
        "PNG",
        save_all=True,
        append_images=stills[1:],
        duration=100,
        disposal=disposal,
        blend=blend,
        **options,
    )


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_default_image_of_a_png_is_no_frame(mode: str) -> None:
    for default in (False, True):
        media = open_media(apng(mode, 0, 0, default=default))
        assert [frame[0, 0].tolist() for frame in media] == [RED, GREEN, BLUE]
        assert media.fps == pytest.approx(10)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_pngs_dispose_of_frames_to_transparent(mode: str) -> None:
    """What a small frame does not cover of one that was cleared is white, also without an alpha channel."""
    data = apng(mode, 1, 0, default=False)
    at = [place for place in range(len(data)) if data.startswith(b"fcTL", place)]
    control = bytearray(data[at[1] : at[1] + 30])
    width, height, x, y = struct.unpack(">IIII", control[8:24])
    assert (width, height, x, y) == (12, 8, 0, 0)
    # the frame's pixels stay 12 x 8; another file gives the small one
    small = encoded(Image.new(mode, (3, 3), "lime"), "PNG")
    idat = small[small.index(b"IDAT") + 4 : small.index(b"IEND") - 8]
    control[8:24] = struct.pack(">IIII", 3, 3, 2, 2)
    begin = data.index(b"fdAT", at[1]) - 4
    end = begin + 12 + int.from_bytes(data[begin : begin + 4], "big")
    body = b"fdAT" + data[begin + 8 : begin + 12] + idat
    packed = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    control_chunk = bytes(control) + struct.pack(">I", zlib.crc32(bytes(control)))
    made = data[: at[1]] + control_chunk + data[at[1] + 34 : begin] + packed + data[end:]
    frame = open_media(made).frame(1)
    lime = list(Image.new(mode, (1, 1), "lime").convert("RGB").getpixel((0, 0)))
    assert frame[7, 11].tolist() == WHITE and frame[3, 3].tolist() == lime


def test_pages_of_one_size_are_frames_and_thumbnails_are_not(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (12, 8), (level, 0, 0)) for level in (10, 20, 30)]
    media = open_media(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    assert [int(frame[0, 0, 0]) for frame in media] == [10, 20, 30] and media.fps is None
    with pytest.warns(UserWarning, match="2 pages of different sizes; only the first is read"):
        one = open_media(encoded(pages[0], "TIFF", save_all=True, append_images=[Image.new("RGB", (5, 4))]))
    assert (one.num_frames, one.size_hw) == (1, (8, 12))


def test_bigtiff_is_tiff() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(colours), "TIFF", big_tiff=True)
    assert data[2] == 43
    np.testing.assert_array_equal(open_media(data).frame(0), colours)


def iso(major: bytes, *others: bytes) -> bytes:
    brands = major + bytes(4) + b"".join(others)
    return struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(64)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (iso(b"heic", b"mif1", b"heic"), r"HEIC picture \(brand 'heic'\).*pip install 'unipixel\[heic\]'"),
        (iso(b"mif1", b"heic"), r"HEIC picture \(brand 'mif1'\)"),
        (iso(b"heix"), r"HEIC picture \(brand 'heix'\)"),
        (iso(b"hevc", b"msf1"), r"a sequence of HEIC pictures \(brand 'hevc'\)"),
        (iso(b"crx ", b"isom"), r"a camera's raw picture \(brand 'crx'\)"),
    ],
)
def test_pictures_in_the_container_of_videos_are_known_by_their_brand(
    data: bytes, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pi_heif", None)
    with pytest.raises(MediaError, match=words):
        open_media(data)
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "0.heic").write_bytes(data)
    with pytest.raises(MediaError, match=words):
        open_media(tmp_path / "frames")


@NEEDS_AVIF
def test_avif_under_a_general_brand_is_a_picture_and_mp4_stays_a_video(tmp_path: Path) -> None:
    data = encoded(Image.new("RGB", (16, 12), "red"), "AVIF")
    assert open_media(data.replace(b"ftypavif", b"ftypmif1", 1)).size_hw == (12, 16)
    clip = write_clip(tmp_path / "clip.mp4", 3).read_bytes()
    assert open_media(clip).num_frames == 3


def test_heic_pictures_are_read_whole_where_the_extra_is_installed(shared_dir: Path) -> None:
    pytest.importorskip("pi_heif")
    path = shared_dir / "cases" / "04_iphone_grid.heic"
    if not path.is_file():
        pytest.skip(f"{path.name} is absent")
    assert open_media(path).size_hw == (512, 512)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_frames_come_in_order_where_packets_do_not_tell_it(name: str, tmp_path: Path) -> None:
    """B-frames whose presentation times are those of decoding, as some cameras and cutters write them."""
    if "libx264" not in av.codecs_available:
        pytest.skip("the video library cannot write B-frames")
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "2", "g": "12", "b-adapt": "0"})
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = 48, 64, "yuv420p", 1_000_000
        packets = []
        for number in range(30):
            packets += stream.encode(av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24"))
        for place, packet in enumerate([*packets, *stream.encode()]):
            packet.pts = packet.dts = place
            packet.time_base = stream.codec_context.time_base
            container.mux(packet)
    media = open_media(tmp_path / name)
    numbers = [number_of(frame) for frame in media]
    assert (len(numbers) == media.num_frames and numbers == list(range(30 - len(numbers), 30))) or numbers == list(
        range(len(numbers))
    )
    assert number_of(media.frame(7)) == numbers[7]


def test_a_song_with_a_cover_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(cover.encode())
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with pytest.raises(MediaError, match="holds no video"):
        open_media(path)


def test_large_pictures_open_where_they_are_the_users_own(tmp_path: Path) -> None:
    large = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    (tmp_path / "large.png").write_bytes(large)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_media(tmp_path / "large.png").size_hw == (10_000, 20_000)
    with pytest.raises(
        MediaError, match=r"20000 x 10000 pixels, more than the limit of \d+ \(Limits\(max_pixels=...\)"
    ):
        open_media(large, limits=Limits())
    assert Image.MAX_IMAGE_PIXELS is not None  # what others rely on is as it was
    wider = encoded(Image.new("1", (30_000, 10_000)), "PNG")
    with pytest.raises(MediaError, match="30000 x 10000"):
        open_media(wider)
    assert open_media(wider, limits=UNLIMITED).size_hw == (10_000, 30_000)
    assert LOCAL.max_bytes > 1 << 40


@pytest.mark.parametrize("source", ["", "  ", "\n", [""]])
def test_empty_names_are_refused(source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MediaError, match=r"is empty|empty text"):
        open_media(source)


class _Paths(http.server.BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/neu er.png")
            self.end_headers()
            return
        body = encoded(Image.new("RGB", (6, 5)), "PNG")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    _Paths.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Paths) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/图 片.png", "/%E5%9B%BE%20%E7%89%87.png"),
        ("/a%20b é.png?q=ü&n=1", "/a%20b%20%C3%A9.png?q=%C3%BC&n=1"),
        ("/plain.png", "/plain.png"),
        ("/a\n b.png  ", "/a%20b.png"),
        ("/a'b(c)[1].png#teil", "/a'b(c)[1].png"),
    ],
)
def test_addresses_are_encoded_as_browsers_do(server: str, path: str, asked: str) -> None:
    assert open_media(server + path).size_hw == (5, 6)
    assert _Paths.asked == [asked]


def test_redirects_to_such_addresses_are_followed(server: str) -> None:
    assert open_media(server + "/moved").size_hw == (5, 6)
    assert _Paths.asked[-1] == "/neu%20er.png"


def test_hosts_are_written_as_idna() -> None:
    with pytest.raises(MediaError, match="xn--bcher-kva"):
        open_media("http://bücher.invalid/a.png")


@pytest.mark.parametrize(
    "head", ["data:image/png;base64", "data:image/png; base64", "data:;BASE64", "  data:image/png;base64"]
)
def test_data_urls_are_read_as_browsers_read_them(head: str) -> None:
    packed = base64.b64encode(encoded(Image.new("RGB", (6, 5)), "PNG")).decode()
    broken = "\n".join(packed[start : start + 20] for start in range(0, len(packed), 20))
    for body in (packed, broken, " " + packed, packed.rstrip("="), packed.replace("+", "%2B")):
        assert open_media(f"{head},{body}").size_hw == (5, 6)
    with pytest.raises(MediaError, match="not valid base64"):
        open_media(f"{head},{packed[:9]}*{packed[10:]}")


@pytest.mark.parametrize(
    "name", ["._a.png", ".DS_Store", "Thumbs.db", "thumbs.DB", "desktop.ini", "__MACOSX", "@eaDir"]
)
def test_leftovers_of_systems_are_no_files_of_ours(name: str, tmp_path: Path) -> None:
    assert is_junk(name) and not is_junk("a.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    if name.endswith(".png"):
        (tmp_path / name).write_bytes(b"\0\5\26\7")
        assert open_media(tmp_path).num_frames == 1


def test_files_are_found_under_other_spellings(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.JPG", "sub/b.png", "cafe\u0301.png"):
        (folder / name).write_bytes(b"x")
    found = {
        name: find_file(folder, name)
        for name in (
            "a.jpg",
            "sub\\b.png",
            "images\\sub\\b.png",
            "C:\\data\\images\\a.JPG",
            "caf\u00e9.png",
            "other/b.png",
            "",
        )
    }
    assert found["a.jpg"] == found["C:\\data\\images\\a.JPG"] == folder / "a.JPG"
    assert found["sub\\b.png"] == found["images\\sub\\b.png"] == folder / "sub" / "b.png"
    assert found["caf\u00e9.png"] == folder / "cafe\u0301.png"
    assert found["other/b.png"] is None and found[""] is None
    names = NameAliases(["a.jpg", "b.jpg", "b.png", "cafe\u0301.png"])
    assert names.find("a") == "a.jpg" and names.find("b") is None and names.find("caf\u00e9") == "cafe\u0301.png"
