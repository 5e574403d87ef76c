"""Broken, lying and hostile media, thousands of them, given to a server that must bear each of them.

    python tools/fuzz_media.py --count 30000 --seed 0
    python tools/fuzz_media.py --only gif,tiff --count 500 --keep failed/

A server with `nano` is started, and every file is uploaded, looked at and closed again. A file may open or be refused
with a 4xx in one sentence; everything else is a failure, as are an answer that takes longer than `MAX_S`, and memory
(of the server and of each process that decodes for it) beyond its bound. Ends with 1 if there was one.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import av
import httpx2
import numpy as np
from PIL import Image

from unipixel.media import Limits

MAX_S = 120.0
"""Seconds that one file may take in all, on a machine that does other things."""
MAX_SERVER_BYTES = 400 << 20
"""Memory that the server itself may grow by."""
Random = np.random.Generator


def noise(rng: Random, height: int, width: int, channels: int = 3) -> np.ndarray:
    """A picture that no format can make small."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def encode_animation(rng: Random, kind: str, **options: object) -> bytes:
    """Three to eight frames."""
    frames = [Image.fromarray(noise(rng, 40, 48)) for _ in range(int(rng.integers(3, 9)))]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=80, **options)


def encode_video(rng: Random, container: str, codec: str, pixels: str = "yuv420p") -> bytes:
    """Six to twelve frames."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for _ in range(int(rng.integers(6, 13))):
            frame = av.VideoFrame.from_ndarray(noise(rng, 48, 64), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def _still(kind: str, mode: str = "RGB", **options: object) -> Callable[[Random], bytes]:
    def make(rng: Random) -> bytes:
        height, width = rng.integers(8, 90, 2)
        return encode(Image.fromarray(noise(rng, height, width)).convert(mode), kind, **options)

    return make


def _exif_jpeg(rng: Random) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(1, 9))
    return encode(Image.fromarray(noise(rng, 40, 50)), "JPEG", exif=exif)


def _tall_png(rng: Random) -> bytes:
    """Sixteen bits, in either of two modes."""
    return encode(Image.fromarray(rng.integers(0, 65536, (30, 40), dtype=np.uint16)), "PNG")


def _pages(rng: Random) -> bytes:
    pages = [Image.fromarray(noise(rng, 30, 40)) for _ in range(4)]
    return encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])


FORMATS: dict[str, Callable[[Random], bytes]] = {
    "png": _still("PNG"),
    "png grey": _still("PNG", "L"),
    "png palette": _still("PNG", "P"),
    "png alpha": _still("PNG", "RGBA"),
    "png 16 bit": _tall_png,
    "apng": lambda rng: encode_animation(rng, "PNG"),
    "jpeg": _still("JPEG"),
    "jpeg progressive": _still("JPEG", progressive=True),
    "jpeg cmyk": _still("JPEG", "CMYK"),
    "jpeg exif": _exif_jpeg,
    "gif": _still("GIF", "P"),
    "gif animated": lambda rng: encode_animation(rng, "GIF"),
    "webp": _still("WEBP"),
    "webp lossless": _still("WEBP", "RGBA", lossless=True),
    "webp animated": lambda rng: encode_animation(rng, "WEBP"),
    "bmp": _still("BMP"),
    "tiff": _still("TIFF"),
    "tiff deflate": _still("TIFF", compression="tiff_adobe_deflate"),
    "tiff lzw": _still("TIFF", "L", compression="tiff_lzw"),
    "tiff jpeg": _still("TIFF", compression="jpeg"),
    "tiff big": _still("TIFF", big_tiff=True),
    "tiff pages": _pages,
    "ppm": _still("PPM"),
    "pgm": _still("PPM", "L"),
    "avif": _still("AVIF", quality=50, speed=10),
    "avif animated": lambda rng: encode_animation(rng, "AVIF", speed=10),
    "mp4 h264": lambda rng: encode_video(rng, "mp4", "libx264"),
    "mov mpeg4": lambda rng: encode_video(rng, "mov", "mpeg4"),
    "mkv mjpeg": lambda rng: encode_video(rng, "matroska", "mjpeg", "yuvj420p"),
    "webm vp9": lambda rng: encode_video(rng, "webm", "libvpx-vp9"),
    "webm vp8": lambda rng: encode_video(rng, "webm", "libvpx"),
    "avi mpeg4": lambda rng: encode_video(rng, "avi", "mpeg4"),
}


# what is done to a file


def flip(rng: Random, data: bytearray) -> None:
    """Change some bytes, mostly near the beginning."""
    for _ in range(int(rng.integers(1, 24))):
        place = int(rng.integers(len(data)) if rng.random() < 0.5 else rng.integers(min(len(data), 256)))
        data[place] = int(rng.integers(256))


def cut(rng: Random, data: bytearray) -> None:
    """Cut the end off."""
    del data[int(rng.integers(1, len(data))) :]


def lie(rng: Random, data: bytearray) -> None:
    """Write huge or odd numbers over some, of every width."""
    for _ in range(int(rng.integers(1, 6))):
        form = str(rng.choice([">H", "<H", ">I", "<I", "<Q"]))
        size = struct.calcsize(form)
        value = int(rng.choice([0, 1, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF])) & ((1 << 8 * size) - 1)
        place = int(rng.integers(max(1, min(len(data), 600) - size)))
        data[place : place + size] = struct.pack(form, value)[: len(data[place : place + size])]


def repeat(rng: Random, data: bytearray) -> None:
    """Put a part in many times: scans, chunks, pages, blocks."""
    start, end = sorted(int(n) for n in rng.integers(0, len(data) + 1, 2))
    place = int(rng.integers(start, end + 1))
    data[place:place] = data[start:end] * int(rng.integers(1, 400) if end - start < 4000 else 2)


def move(rng: Random, data: bytearray) -> None:
    """Take a part out and put it elsewhere."""
    start, end = sorted(int(n) for n in rng.integers(0, len(data) + 1, 2))
    part = data[start:end]
    del data[start:end]
    place = int(rng.integers(len(data) + 1))
    data[place:place] = part


def box(rng: Random, data: bytearray) -> None:
    """Change the size in front of a name of four letters: boxes and chunks of most containers."""
    names = [found.start() for found in re.finditer(rb"[A-Za-z]{4}", bytes(data[: 1 << 16])) if found.start() >= 4]
    for place in rng.choice(names, min(len(names), 3), replace=False) if names else ():
        form, at = (">I", int(place) - 4) if rng.random() < 0.7 else ("<I", int(place) + 4)
        value = int(rng.choice([0, 1, 7, 8, 16, 0x7FFFFFFF, 0xFFFFFFFF, int(rng.integers(1 << 20))]))
        data[at : at + 4] = struct.pack(form, value)


DAMAGES = (flip, cut, lie, repeat, move, box)


# files that are made to be expensive


def growing_gif(rng: Random) -> bytes:
    """A GIF of a few bytes whose frames reach far out of its screen."""
    content = bytearray(encode(Image.new("P", (1, 1)), "GIF"))
    place = content.index(b",\0\0\0\0")
    frame = bytearray(content[place:-1])
    side = int(rng.integers(1000, 65536))
    frame[5:9] = struct.pack("<HH", side, int(rng.integers(1, 65536)))
    return bytes(content[:-1] + bytes(frame) * int(rng.integers(1, 400)) + b";")


def many_strips(rng: Random) -> bytes:
    """A TIFF of one picture in up to eight million strips."""
    count = int(rng.choice([1 << 10, 1 << 16, 1 << 20, 1 << 23]))
    entries = [(256, 3, 1, 8), (257, 4, 1, count), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    table = 8 + 2 + 12 * 8 + 4
    entries += [(273, 4, count, table), (278, 4, 1, 1), (279, 4, count, table)]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(struct.pack("<HHII", *one) for one in entries) + bytes(4) + bytes(4 * min(count, 1 << 21))


def many_pages(rng: Random) -> bytes:
    """A TIFF whose pages all are the same, or lead back to the first."""
    count = int(rng.choice([10, 1000, 50_000]))
    page = 2 + 12 * 6 + 4
    out = bytearray(b"II*\0" + struct.pack("<I", 8))
    for number in range(count):
        out += struct.pack("<H", 6)
        for one in ((256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 16)):
            out += struct.pack("<HHII", *one)
        following = 8 + page * (number + 1) if number + 1 < count else int(rng.choice([0, 8]))
        out += struct.pack("<I", following)
    return bytes(out)


def many_scans(rng: Random) -> bytes:
    """A progressive JPEG of up to twelve megapixels with its last scan a thousand times."""
    side = int(rng.integers(200, 3500))
    content = encode(
        Image.new("RGB", (side, side), tuple(int(c) for c in rng.integers(0, 256, 3))), "JPEG", progressive=True
    )
    place = content.rindex(b"\xff\xda")
    return content[:place] + content[place:-2] * int(rng.integers(2, 1000)) + content[-2:]


def much_metadata(rng: Random) -> bytes:
    """A JPEG with many blocks of EXIF, or EXIF whose entries all point to the same block."""
    content = encode(Image.new("RGB", (16, 16)), "JPEG")
    entries = 4000
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, entries)
    exif += b"".join(struct.pack("<HHII", 40000 + n, 7, 60_000, 8) for n in range(entries))
    block = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    return content[:2] + block * int(rng.choice([1, 10, 1500])) + content[2:]


def png_bomb(rng: Random) -> bytes:
    """A PNG of up to 33 megapixels of zeros, or with text that unpacks."""
    height, width = int(rng.integers(10, 6000)), int(rng.integers(10, 6000))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    text = chunk(b"zTXt", b"C\0\0" + zlib.compress(bytes(30_000_000))) if rng.random() < 0.3 else b""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, int(rng.integers(2))))
    pixels = chunk(b"IDAT", zlib.compress(bytes((width + 1) * height), 9))
    return b"\x89PNG\r\n\x1a\n" + head + text + pixels + chunk(b"IEND", b"")


def large_video(rng: Random) -> bytes:
    """A video of a few kilobytes and up to 33 megapixels a frame."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=10, options={"preset": "ultrafast", "tune": "stillimage"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = (
            int(rng.integers(100, 3840)) * 2,
            int(rng.integers(100, 2160)) * 2,
            "yuv420p",
        )
        frame = av.VideoFrame(stream.width, stream.height, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for _ in range(int(rng.integers(1, 12))):
            frame.pts = None
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


BOMBS = {one.__name__.replace("_", " "): one for one in (
    growing_gif, many_strips, many_pages, many_scans, much_metadata, png_bomb, large_video,
)}  # fmt: skip
BOMB_SHARE = 0.03
WHOLE = 24
"""Undamaged files of each format."""


@cache
def _make_whole(name: str, seed: int, number: int) -> bytes:
    """An undamaged file; a few of each kind serve for all, because some take long to make."""
    return FORMATS[name](np.random.default_rng((seed, number, 1)))


def make_file(seed: int, number: int, kinds: list[str]) -> tuple[str, bytes]:
    """File ``number``: what it is, and its bytes."""
    rng = np.random.default_rng((seed, number))
    bombs = [name for name in kinds if name in BOMBS]
    formats = [name for name in kinds if name in FORMATS]
    if bombs and (not formats or rng.random() < BOMB_SHARE):
        name = str(rng.choice(bombs))
        return name, BOMBS[name](rng)
    name = str(rng.choice(formats))
    data = bytearray(_make_whole(name, seed, int(rng.integers(WHOLE))))
    damages = rng.choice(len(DAMAGES), int(rng.integers(0, 4)))
    for one in damages:
        if len(data) > 1:
            DAMAGES[one](rng, data)
    return f"{name}: {', '.join(DAMAGES[one].__name__ for one in damages) or 'whole'}", bytes(data)


class Watch:
    """Memory of a server and of its decoders, ever so often."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.peak = self.child_peak = self.total_peak = 0
        self.start = self.resident(pid)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @staticmethod
    def resident(pid: int) -> int:
        """Bytes of memory that a process has; 0 if it is gone."""
        try:
            return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            return 0

    def children(self) -> list[int]:
        """Process numbers of the decoders."""
        found = []
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                found += [int(n) for n in (task / "children").read_text(encoding="ascii").split()]
            except OSError:
                continue
        return found

    def _run(self) -> None:
        while not self._end.wait(0.2):
            own, others = self.resident(self.pid), [self.resident(one) for one in self.children()]
            self.peak, self.child_peak = max(self.peak, own), max([self.child_peak, *others])
            self.total_peak = max(self.total_peak, own + sum(others))

    def stop(self) -> None:
        """Measure no more."""
        self._end.set()
        self._thread.join()


def start_server() -> tuple[subprocess.Popen[str], str]:
    """A server with `nano`, and its address."""
    command = [sys.executable, "-m", "unipixel", "serve", "--port", "0", "--no-state"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"http://[\d.]+:\d+", line)
        if found:
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return process, found[0]
    raise SystemExit("the server did not start")


def try_file(http: httpx2.Client, data: bytes) -> tuple[str, str]:
    """What became of a file, and what is wrong with that, if anything."""
    began = time.monotonic()
    answer = http.post("/v1/sessions/upload", files={"file": ("file", data)}, data={"num_frames": "8"})
    outcome, wrong = str(answer.status_code), ""
    if answer.status_code == 201:
        opened = answer.json()
        address = f"/v1/sessions/{opened['id']}"
        last = opened["media"]["num_frames"] - 1
        for t in sorted({0, last // 2, last}):
            frame = http.get(f"{address}/frames/{t}")
            if frame.status_code not in (200, 400):
                wrong = f"frame {t}: {frame.status_code} {frame.text[:200]}"
            elif frame.status_code == 400:
                outcome = "201, then 400"
        if http.delete(address).status_code != 204:
            wrong = "it cannot be closed"
    elif answer.status_code not in (400, 413):
        wrong = f"{answer.status_code} {answer.text[:200]}"
    else:
        message = str(answer.json()["error"]["message"])
        for sign, name in (
            ("memory to decode", "memory bound"),
            (" s to decode", "time bound"),
            ("the decoder ", "decoder died"),
        ):
            if sign in message:
                outcome = f"{outcome}, {name}"
        if "\n" in message or "Traceback" in message or len(message) > 400:
            wrong = f"no sentence: {message[:200]!r}"
    seconds = time.monotonic() - began
    return outcome, wrong or (f"it took {seconds:.0f} s" if seconds > MAX_S else "")


def main() -> None:
    """Make files, upload them, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="beginnings of kinds, with commas between them")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for files that failed")
    options = parser.parse_args()
    starts = tuple(options.only.split(","))
    kinds = [name for name in [*FORMATS, *BOMBS] if name.startswith(starts)]
    if not kinds:
        parser.error(f"no kind begins with {options.only!r}; there are {', '.join([*FORMATS, *BOMBS])}")
    process, address = start_server()
    failures: list[str] = []
    outcomes: Counter[str] = Counter()
    slowest = (0.0, "")
    lock = threading.Lock()
    with httpx2.Client(base_url=address, timeout=600) as http:
        try_file(http, make_file(options.seed, 0, ["png"])[1])
        watch = Watch(process.pid)

        def work(number: int) -> None:
            nonlocal slowest
            name, data = make_file(options.seed, number, kinds)
            began = time.monotonic()
            try:
                outcome, wrong = try_file(http, data)
            except (httpx2.HTTPError, ValueError, KeyError) as error:
                outcome, wrong = "no answer", f"{type(error).__name__}: {error}"
            with lock:
                outcomes[outcome] += 1
                slowest = max(slowest, (time.monotonic() - began, f"{number} {name}"))
                if wrong:
                    failures.append(f"{number} {name} ({len(data)} bytes): {wrong}")
                    print("FAILED", failures[-1], flush=True)
                    if options.keep:
                        options.keep.mkdir(parents=True, exist_ok=True)
                        (options.keep / f"{options.seed}-{number}").write_bytes(data)
                done = sum(outcomes.values())
                if done % 1000 == 0:
                    print(f"{done} files, {dict(outcomes)}, memory {watch.peak >> 20} MB", flush=True)

        with ThreadPoolExecutor(options.clients) as pool:
            list(pool.map(work, range(options.count)))
        time.sleep(15)  # decoders that are idle give their memory back
        watch.stop()
        rest, others = watch.resident(process.pid), [watch.resident(one) for one in watch.children()]
        health = http.get("/health").json()
    process.terminate()
    process.wait(60)
    for outcome, count in outcomes.most_common():
        print(f"{count:7d}  {outcome}")
    print(f"server: {watch.start >> 20} MB at first, at most {watch.peak >> 20}, at rest {rest >> 20}")
    print(f"decoders: one at most {watch.child_peak >> 20} MB, at rest {[n >> 20 for n in others]}")
    print(f"all together at most {watch.total_peak >> 20} MB")
    print(f"slowest: {slowest[0]:.1f} s, {slowest[1]}; sessions left open: {health['sessions']}")
    if watch.peak > watch.start + MAX_SERVER_BYTES:
        failures.append(f"the server grew to {watch.peak >> 20} MB")
    if watch.child_peak > Limits().max_decoder_bytes + (256 << 20):
        failures.append(f"a decoder grew to {watch.child_peak >> 20} MB")
    print(f"{sum(outcomes.values())} files, {len(failures)} failures")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
