"""Video files through PyAV: which frames there are, and reading them in order or out of order."""

from __future__ import annotations

import bisect
import io
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from unipixel.errors import MediaError
from unipixel.media.images import UPRIGHT, array_to_rgb, read_matrix_orientation, turn_upright
from unipixel.media.limits import Limits

# In these, one packet is one frame and carries its presentation time, so that counting needs no decoding.
_TRUSTED_CONTAINERS = ("mov", "matroska")
_TRUSTED_CODECS = frozenset({"h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg", "prores"})

_THREADED_PIXELS = 400_000
"""Frames of at least this size are decoded by several threads."""

_SEEK_GAIN = 8
"""Frames a seek has to save; below that, decoding on is as fast."""


@dataclass(frozen=True)
class _Index:
    """The frames of a video in the order they are shown."""

    times: list[int]
    """Presentation time of each, in the stream's time base; empty when the file does not tell them."""
    keys: list[int]
    """Frames that decoding can begin at, ascending; only 0 when seeking is not to be trusted."""
    num_frames: int


@dataclass(frozen=True)
class _Scan:
    """What one pass through a file tells."""

    index: _Index
    first: av.VideoFrame
    time_base: Fraction | None
    rate: Fraction | None


@dataclass(frozen=True)
class _FrameLayout:
    """How players show the frames, which the first one decides."""

    coded_hw: tuple[int, int]
    """Size before turning; a stream may change it half-way, and is then scaled to that of its first frame."""
    orientation: int
    """EXIF's number, see `unipixel.media.images`."""

    @classmethod
    def from_frame(cls, frame: av.VideoFrame) -> _FrameLayout:
        """What a stream's first frame says."""
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
        orientation = UPRIGHT if matrix is None else read_matrix_orientation(struct.unpack("=9i", bytes(matrix)[:36]))
        return cls((frame.height, frame.width), orientation)

    def to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """The frame, uint8 (H, W, 3), on white where it is transparent."""
        height, width = self.coded_hw
        if any(component.is_alpha for component in frame.format.components):
            pixels = array_to_rgb(frame.to_ndarray(format="rgba", height=height, width=width))
        else:
            pixels = frame.to_ndarray(format="rgb24", height=height, width=width)
        return turn_upright(pixels, self.orientation)


@dataclass(frozen=True)
class _File:
    """A video file, or the bytes of one."""

    data: Path | bytes
    name: str
    format: str
    max_pixels: int

    def open(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        """The open file and its video stream, at the beginning."""
        file = io.BytesIO(self.data) if isinstance(self.data, bytes) else f"file:{self.data}"
        try:
            # Tags in a broken encoding are none of our business.
            container = av.open(file, mode="r", format=self.format, metadata_errors="ignore")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise MediaError(
                f"{self.name} is damaged or cut off and cannot be opened ({_describe_error(error)})"
            ) from error
        stream = container.streams.best("video")
        # the cover of a song is no video
        if not isinstance(stream, av.VideoStream) or stream.disposition & av.stream.Disposition.attached_pic:
            kinds = " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            container.close()
            is_cover = isinstance(stream, av.VideoStream)
            raise MediaError(
                f"{self.name} holds no video, only sound with a cover picture"
                if is_cover
                else f"{self.name} holds no video stream, only {kinds}"
            )
        if getattr(stream, "codec_context", None) is None:
            container.close()
            raise MediaError(f"{self.name} holds video in a coding that the video library does not know")
        # Handing small frames between threads costs more than decoding them.
        if stream.codec_context.width * stream.codec_context.height < _THREADED_PIXELS:
            stream.codec_context.thread_count = 1
        else:
            stream.thread_type = "AUTO"
        # A stream may change its size half-way.
        stream.codec_context.options = {"max_pixels": str(self.max_pixels)}
        return container, stream


class VideoSource:
    """The first video stream of a file, or of the bytes of one.

    Opening reads the packets once to learn how many frames there really are and when each is shown; files whose
    packets do not tell are decoded once instead, frame by frame. Headers are never believed.
    """

    def __init__(self, data: Path | bytes, name: str, format_name: str, limits: Limits) -> None:
        self._file, self._limits = _File(data, name, format_name, limits.max_pixels), limits
        self._lock = threading.Lock()
        self._decoder: _Decoder | None = None
        scan = self._scan(trust_packets=format_name in _TRUSTED_CONTAINERS) or self._scan(trust_packets=False)
        if scan is None:
            raise MediaError(f"{name} holds no frame that can be decoded")
        self._index = scan.index
        self._look = _FrameLayout.from_frame(scan.first)
        self.num_frames = scan.index.num_frames
        self.size_hw: tuple[int, int] = self._look.to_rgb(scan.first).shape[:2]
        self.fps, self.timestamps_s = _compute_timing(scan)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_lock", "_decoder")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock, self._decoder = threading.Lock(), None

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the frames of ascending ``indices``, decoding each stretch once."""
        decoder = _Decoder(self._file, self._index, self._look)
        try:
            for index in indices:
                try:
                    frame = decoder.frame(index)
                except MediaError:
                    decoder.close()
                    if not self._reindex():
                        raise
                    decoder = _Decoder(self._file, self._index, self._look)
                    frame = decoder.frame(index)
                yield frame
        finally:
            decoder.close()

    def frame(self, index: int) -> np.ndarray:
        """One frame; the decoder stays open, so that asking for the next ones in turn is as fast as ``read``."""
        with self._lock:
            if self._decoder is None:
                self._decoder = _Decoder(self._file, self._index, self._look)
            try:
                return self._decoder.frame(index)
            except MediaError:
                self._decoder.close()
                self._decoder = None
                if not self._reindex():
                    raise
                self._decoder = _Decoder(self._file, self._index, self._look)
                return self._decoder.frame(index)

    def close(self) -> None:
        """Close the decoder that :meth:`frame` keeps open."""
        with self._lock:
            if self._decoder is not None:
                self._decoder.close()
                self._decoder = None

    def _reindex(self) -> bool:
        """Count frames by decoding all, once, where packets told other times than the frames that came of them.

        Whether there is a new index: not if the decoder gives another number of frames.
        """
        if not self._index.times:
            return False
        try:
            scan = self._scan(trust_packets=False)
        except MediaError:
            return False
        if scan is None or scan.index.num_frames != self.num_frames or scan.index == self._index:
            return False
        self._index = scan.index
        return True

    def _scan(self, trust_packets: bool) -> _Scan | None:
        """Go through the file once; None when no frame comes out, or the packets turn out not to tell.

        With ``trust_packets`` only the first frame is decoded and the packets are counted; without, all frames are.
        """
        packets: list[tuple[int, bool]] = []
        is_reordered = False
        times: list[int | None] = []
        first: av.VideoFrame | None = None
        name = self._file.name
        container, stream = self._file.open()
        with container:
            self._limits.check_size((stream.codec_context.height, stream.codec_context.width), name)
            if trust_packets and stream.codec_context.name not in _TRUSTED_CODECS:
                return None
            try:
                for packet in container.demux(stream):
                    if trust_packets and packet.size and not packet.is_discard:
                        if packet.pts is None:
                            return None
                        packets.append((packet.pts, packet.is_keyframe))
                        is_reordered |= packet.pts != packet.dts
                    if first is None or not trust_packets:
                        for frame in packet.decode():
                            first = first or frame
                            times.append(frame.pts)
                    count = max(len(packets), len(times), 1)
                    self._limits.check_frames(count, name)
                    if first is not None:
                        self._limits.check_work(count, (first.height, first.width), name)
            except av.error.FFmpegError as error:
                read = len(packets) or len(times)
                raise MediaError(
                    f"{name} is damaged after {read} readable frames ({_describe_error(error)})"
                ) from error
            if trust_packets and stream.codec_context.has_b_frames and not is_reordered:
                return None  # frames are shown in another order than they are coded in, and the packets do not say it
            index = _index_packets(packets, times) if trust_packets else _index_decoded(times)
            if first is None or index is None:
                return None
            self._limits.check_size((first.height, first.width), name)
            return _Scan(index, first, stream.time_base, stream.average_rate or stream.guessed_rate)


class _Decoder:
    """One open file and the place reached in it."""

    def __init__(self, file: _File, index: _Index, look: _FrameLayout) -> None:
        self._file, self._index, self._look = file, index, look
        self._container: av.container.InputContainer | None = None
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._next = 0  # index of the frame that comes next

    def close(self) -> None:
        if self._container is not None:
            self._frames = iter(())
            self._container.close()
            self._container = None

    def frame(self, index: int) -> np.ndarray:
        name, keys = self._file.name, self._index.keys
        key = keys[bisect.bisect_right(keys, index) - 1]
        if self._container is None or index < self._next or key > self._next + _SEEK_GAIN:
            self._start(key)
        try:
            found = self._advance(index)
            if found is None and key > 0:
                # The seek landed behind the frame, or decoding cannot begin there after all: go through from the start.
                self._start(0)
                found = self._advance(index)
            if found is None:
                raise MediaError(f"frame {index} of {name} is missing: the file is damaged or cut off")
            return self._look.to_rgb(found)
        except av.error.FFmpegError as error:
            raise MediaError(f"frame {index} of {name} cannot be decoded ({_describe_error(error)})") from error

    def _start(self, key: int) -> None:
        """Begin at frame ``key``, one of the index's keys."""
        if key == 0 or self._container is None:
            self.close()
            self._container, self._stream = self._file.open()
        if key > 0:
            self._container.seek(self._index.times[key], stream=self._stream, backward=True)
        self._frames = self._container.decode(self._stream)
        self._next = key

    def _advance(self, index: int) -> av.VideoFrame | None:
        """The frame ``index`` by decoding on; None when it is not to be found this way."""
        times = self._index.times
        for frame in self._frames:
            place = bisect.bisect_left(times, frame.pts) if times and frame.pts is not None else self._next
            if times and place < len(times) and frame.pts not in (None, times[place]):
                continue  # a frame the index does not know
            self._next = place + 1
            if place == index:
                return frame
            if place > index:
                return None
        return None


def _index_packets(packets: list[tuple[int, bool]], times: list[int | None]) -> _Index | None:
    """The frames according to the packets; None when they contradict the first decoded frame or one another."""
    packets = sorted(packets)
    shown = [time for time, _ in packets]
    if not shown or not times or times[0] != shown[0] or len(set(shown)) < len(shown):
        return None
    return _Index(shown, [0] + [i for i, (_, is_key) in enumerate(packets) if is_key and i > 0], len(shown))


def _index_decoded(times: list[int | None]) -> _Index | None:
    """The frames that came out of the decoder, in that order."""
    known = [time for time in times if time is not None]
    ascending = len(known) == len(times) and all(a < b for a, b in pairwise(known))
    return _Index(known if ascending else [], [0], len(times)) if times else None


def _compute_timing(scan: _Scan) -> tuple[float | None, list[float] | None]:
    """Frames per second, and the seconds from the first frame to each; None where the file does not tell."""
    times, rate = scan.index.times, float(scan.rate or 0)
    if times and scan.time_base:
        seconds = [float((time - times[0]) * scan.time_base) for time in times]
        if seconds[-1] > 0:
            measured = (len(seconds) - 1) / seconds[-1]
            # A header may announce any rate; it is only believed where it is the rounder form of the measured one.
            return (rate if abs(rate - measured) <= 0.02 * measured else measured), seconds
        return rate or None, seconds
    if rate:
        return rate, [index / rate for index in range(scan.index.num_frames)]
    return None, None


def _describe_error(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)[:120]
