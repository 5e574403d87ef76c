"""Video files through PyAV: which frames there are, and reading them in order or out of order."""

from __future__ import annotations

import bisect
import io
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from unipixel.errors import MediaError
from unipixel.media.headers import UPRIGHT
from unipixel.media.images import array_to_rgb, read_matrix_orientation, turn_upright
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
    """What one pass through a video tells of its frames, in the order they are shown, and of how to show them."""

    times: list[int]
    """Presentation time of each, in the stream's time base; empty when the file does not tell them."""
    keys: list[int]
    """Frames that decoding can begin at, ascending; only 0 when seeking is not to be trusted."""
    num_frames: int
    coded_hw: tuple[int, int]
    """Size before turning; a stream may change it half-way, and is then scaled to that of its first frame."""
    orientation: int
    """EXIF's number, see `unipixel.media.images`."""
    time_base: Fraction | None
    rate: Fraction | None

    def to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """The frame, uint8 (H, W, 3), on white where it is transparent."""
        height, width = self.coded_hw
        if any(component.is_alpha for component in frame.format.components):
            pixels = array_to_rgb(frame.to_ndarray(format="rgba", height=height, width=width))
        else:
            pixels = frame.to_ndarray(format="rgb24", height=height, width=width)
        return turn_upright(pixels, self.orientation)


def _open_video(
    data: Path | bytes, name: str, format_name: str, max_pixels: int
) -> tuple[av.container.InputContainer, av.VideoStream]:
    """The open file and its video stream, at the beginning."""
    file = io.BytesIO(data) if isinstance(data, bytes) else f"file:{data}"
    try:
        # Tags in a broken encoding are none of our business.
        container = av.open(file, mode="r", format=format_name, metadata_errors="ignore")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"{name} is damaged or cut off and cannot be opened ({_describe_error(error)})") from error
    stream = container.streams.best("video")
    # the cover of a song is no video
    if not isinstance(stream, av.VideoStream) or stream.disposition & av.stream.Disposition.attached_pic:
        kinds = " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        container.close()
        is_cover = isinstance(stream, av.VideoStream)
        raise MediaError(
            f"{name} holds no video, only sound with a cover picture"
            if is_cover
            else f"{name} holds no video stream, only {kinds}"
        )
    if getattr(stream, "codec_context", None) is None:
        container.close()
        raise MediaError(f"{name} holds video in a coding that the video library does not know")
    # Handing small frames between threads costs more than decoding them.
    if stream.codec_context.width * stream.codec_context.height < _THREADED_PIXELS:
        stream.codec_context.thread_count = 1
    else:
        stream.thread_type = "AUTO"
    # A stream may change its size half-way.
    stream.codec_context.options = {"max_pixels": str(max_pixels)}
    return container, stream


class VideoSource:
    """The first video stream of a file, or of the bytes of one.

    Opening reads the packets once to learn how many frames there really are and when each is shown; files whose
    packets do not tell are decoded once instead, frame by frame. Headers are never believed.
    """

    def __init__(self, data: Path | bytes, name: str, format_name: str, limits: Limits) -> None:
        self._name, self._limits = name, limits
        self._open = partial(_open_video, data, name, format_name, limits.max_pixels)
        self._lock = threading.Lock()
        self._decoder: _Decoder | None = None
        found = self._scan(trust_packets=format_name in _TRUSTED_CONTAINERS) or self._scan(trust_packets=False)
        if found is None:
            raise MediaError(f"{name} holds no frame that can be decoded")
        self._index, first = found
        self.num_frames = self._index.num_frames
        self.size_hw: tuple[int, int] = self._index.to_rgb(first).shape[:2]
        self.fps, self.timestamps_s = _compute_timing(self._index)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_lock", "_decoder")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock, self._decoder = threading.Lock(), None

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the frames of ascending ``indices``, decoding each stretch once."""
        decoder = _Decoder(self._open, self._name, self._index)
        try:
            for index in indices:
                try:
                    frame = decoder.frame(index)
                except MediaError:
                    decoder.close()
                    if not self._reindex():
                        raise
                    decoder = _Decoder(self._open, self._name, self._index)
                    frame = decoder.frame(index)
                yield frame
        finally:
            decoder.close()

    def frame(self, index: int) -> np.ndarray:
        """One frame; the decoder stays open, so that asking for the next ones in turn is as fast as ``read``."""
        with self._lock:
            if self._decoder is None:
                self._decoder = _Decoder(self._open, self._name, self._index)
            try:
                return self._decoder.frame(index)
            except MediaError:
                self._decoder.close()
                self._decoder = None
                if not self._reindex():
                    raise
                self._decoder = _Decoder(self._open, self._name, self._index)
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
            found = self._scan(trust_packets=False)
        except MediaError:
            return False
        if found is None or found[0].num_frames != self.num_frames or found[0] == self._index:
            return False
        self._index = found[0]
        return True

    def _scan(self, trust_packets: bool) -> tuple[_Index, av.VideoFrame] | None:
        """Go through the file once; None when no frame comes out, or the packets turn out not to tell.

        Returns the index and the first frame.

        With ``trust_packets`` only the first frame is decoded and the packets are counted; without, all frames are.
        """
        packets: list[tuple[int, bool]] = []
        is_reordered = False
        times: list[int | None] = []
        first: av.VideoFrame | None = None
        name = self._name
        container, stream = self._open()
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
            listed = _list_packets(packets, times) if trust_packets else _list_decoded(times)
            if first is None or listed is None:
                return None
            size_hw = (first.height, first.width)
            self._limits.check_size(size_hw, name)
            matrix: Any = first.side_data.get("DISPLAYMATRIX")
            turned = UPRIGHT if matrix is None else read_matrix_orientation(struct.unpack("=9i", bytes(matrix)[:36]))
            rate = stream.average_rate or stream.guessed_rate
            return _Index(
                *listed, len(packets if trust_packets else times), size_hw, turned, stream.time_base, rate
            ), first


class _Decoder:
    """One open file and the place reached in it."""

    def __init__(
        self, open_video: Callable[[], tuple[av.container.InputContainer, av.VideoStream]], name: str, index: _Index
    ) -> None:
        self._open, self._name, self._index = open_video, name, index
        self._container: av.container.InputContainer | None = None
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._next = 0  # index of the frame that comes next

    def close(self) -> None:
        if self._container is not None:
            self._frames = iter(())
            self._container.close()
            self._container = None

    def frame(self, index: int) -> np.ndarray:
        name, keys = self._name, self._index.keys
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
            return self._index.to_rgb(found)
        except av.error.FFmpegError as error:
            raise MediaError(f"frame {index} of {name} cannot be decoded ({_describe_error(error)})") from error

    def _start(self, key: int) -> None:
        """Begin at frame ``key``, one of the index's keys."""
        if key == 0 or self._container is None:
            self.close()
            self._container, self._stream = self._open()
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


def _list_packets(packets: list[tuple[int, bool]], times: list[int | None]) -> tuple[list[int], list[int]] | None:
    """Times and keys by the packets, see `_Index`; None when they contradict the first decoded frame or one another."""
    packets = sorted(packets)
    shown = [time for time, _ in packets]
    if not shown or not times or times[0] != shown[0] or len(set(shown)) < len(shown):
        return None
    return shown, [0] + [i for i, (_, is_key) in enumerate(packets) if is_key and i > 0]


def _list_decoded(times: list[int | None]) -> tuple[list[int], list[int]] | None:
    """Times and keys of the frames that came out of the decoder, in that order."""
    known = [time for time in times if time is not None]
    ascending = len(known) == len(times) and all(a < b for a, b in pairwise(known))
    return (known if ascending else [], [0]) if times else None


def _compute_timing(index: _Index) -> tuple[float | None, list[float] | None]:
    """Frames per second, and the seconds from the first frame to each; None where the file does not tell."""
    times, rate = index.times, float(index.rate or 0)
    if times and index.time_base:
        seconds = [float((time - times[0]) * index.time_base) for time in times]
        if seconds[-1] > 0:
            measured = (len(seconds) - 1) / seconds[-1]
            # A header may announce any rate; it is only believed where it is the rounder form of the measured one.
            return (rate if abs(rate - measured) <= 0.02 * measured else measured), seconds
        return rate or None, seconds
    if rate:
        return rate, [number / rate for number in range(index.num_frames)]
    return None, None


def _describe_error(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)[:120]
