"""Media: one handle for an image, a video, a folder, arrays or a camera, and the way to open it."""

from __future__ import annotations

import io
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from unipixel.errors import MediaError
from unipixel.media import urls
from unipixel.media.containers import FORMATS as VIDEO_FORMATS
from unipixel.media.containers import check_complete, find_container_format
from unipixel.media.decoder import IsolatedSource
from unipixel.media.images import FORMATS as IMAGE_FORMATS
from unipixel.media.images import HEAD_BYTES, image_source, looks_like_image
from unipixel.media.limits import LOCAL, Limits
from unipixel.media.sampling import sample_indices
from unipixel.media.sources import (
    ArraySource,
    ClosableSource,
    FrameSource,
    IteratorSource,
    ListSource,
    RandomAccessSource,
    list_folder_frames,
)

MediaLike: TypeAlias = Any
"""What :func:`open_media` takes: path, URL, bytes, file object, picture, array, tensor, list or iterator of frames."""


class Media:
    """A clip: frames chosen from a source, read when asked for, all uint8 RGB of one size.

    Frames are counted within the clip, ``t`` in 0 .. num_frames - 1; ``frame_indices[t]`` is the same frame counted in
    the source. Made by :func:`open_media`; reading may raise ``MediaError`` where a file turns out to be damaged.
    """

    def __init__(self, frames: FrameSource, source: str, indices: Sequence[int] | None = None, every: int = 1) -> None:
        self._frames, self._every = frames, every
        # None: all that arrive. An iterator does not say how many that will be.
        self._indices = None if indices is None else tuple(indices)
        self.source = source
        """The path or address, or words for what has none."""

    @classmethod
    def from_array(cls, array: np.ndarray, fps: float | None = None) -> Media:
        """Media of uint8 frames (T, H, W, 3), or of one picture (H, W, 3).

        Raises:
            MediaError: Another shape or other values.
        """
        return open_media(np.asarray(array), fps=fps)

    @property
    def num_frames(self) -> int:
        """Frames T of the clip; of an iterator, this waits for its end."""
        return self._frames.num_frames if self._indices is None else len(self._indices)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of every frame in pixels."""
        return self._frames.size_hw

    @property
    def fps(self) -> float | None:
        """Frames per second of the source (not of the frames chosen from it); None where unknown."""
        return self._frames.fps

    @property
    def is_video(self) -> bool:
        """Whether the source has more than one frame, even if only one of them was chosen."""
        return self.is_live or self._frames.num_frames > 1

    @property
    def is_live(self) -> bool:
        """Whether the source is an iterator whose end has not been reached: iterating gives frames as they come."""
        return isinstance(self._frames, IteratorSource) and not self._frames.has_ended

    @property
    def frame_indices(self) -> tuple[int, ...]:
        """For each frame of the clip its index in the source."""
        return tuple(index * self._every for index in self._list_indices())

    @property
    def timestamps_s(self) -> tuple[float, ...] | None:
        """Seconds from the source's first frame to each frame of the clip; None where unknown."""
        times = self._frames.timestamps_s
        return None if times is None else tuple(float(times[index]) for index in self._list_indices())

    def frame(self, t: int) -> np.ndarray:
        """Frame ``t``, uint8 (H, W, 3), the caller's to change.

        Raises:
            IndexError: ``t`` is not in 0 .. num_frames - 1.
        """
        index = self._to_source_index(t)
        if isinstance(self._frames, RandomAccessSource):
            return self._frames.frame(index)
        return next(self._frames.read([index]))

    def frames(self, ts: Sequence[int] | None = None) -> np.ndarray:
        """Frames ``ts`` (all of them by default) in the order given, uint8 (n, H, W, 3).

        Raises:
            IndexError: One of them is not in 0 .. num_frames - 1.
        """
        wanted = np.array(
            [self._to_source_index(int(t)) for t in (range(self.num_frames) if ts is None else ts)], dtype=np.int64
        )
        out = np.empty((len(wanted), *self.size_hw, 3), dtype=np.uint8)
        unique = np.unique(wanted)
        for index, frame in zip(unique.tolist(), self._frames.read(unique.tolist()), strict=True):
            out[wanted == index] = frame
        return out

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield each frame in order, uint8 (H, W, 3), keeping none."""
        if self._indices is None and isinstance(self._frames, IteratorSource):
            yield from self._frames.stream()
            return
        kept = self._list_indices()
        if list(kept) == sorted(kept):
            yield from self._frames.read(kept)
        else:
            for t in range(len(kept)):
                yield self.frame(t)

    def __repr__(self) -> str:
        frames = (
            "live"
            if self._indices is None and self.is_live
            else "1 frame"
            if self.num_frames == 1
            else f"{self.num_frames} frames"
        )
        return f"Media({self.source!r}, {frames}, {self.size_hw[0]} x {self.size_hw[1]})"

    def select(self, ts: Sequence[int]) -> Media:
        """The clip of the frames ``ts`` of this clip, sharing its source.

        Raises:
            ValueError: No frame is named.
            IndexError: One of them is not in 0 .. num_frames - 1.
        """
        if not len(ts):
            raise ValueError("a clip needs at least one frame, got none")
        return Media(self._frames, self.source, [self._to_source_index(int(t)) for t in ts], self._every)

    def close(self) -> None:
        """Give back files that are kept open; the media may still be read, save for an iterator's."""
        if isinstance(self._frames, ClosableSource):
            self._frames.close()

    def _list_indices(self) -> Sequence[int]:
        return range(self._frames.num_frames) if self._indices is None else self._indices

    def _to_source_index(self, t: int) -> int:
        if t >= 0 and self._indices is None and isinstance(self._frames, IteratorSource):
            if self._frames.has_frame(t):
                return t
        elif 0 <= t < self.num_frames:
            return self._list_indices()[t]
        raise IndexError(f"frame {t} is outside of the clip's {self.num_frames} frames (0 to {self.num_frames - 1})")


def open_media(
    source: MediaLike,
    *,
    num_frames: int | None = None,
    every: int = 1,
    limits: Limits | None = None,
    fps: float | None = None,
) -> Media:
    """Open an image, a video or anything that gives frames; media that are open already are returned unchanged.

    Args:
        source: a path of an image, a video or a folder of frames (in natural order); a ``data:`` or http(s) URL; the
            bytes of a file, or a file object opened for bytes, which is read from where it stands; a PIL image; an
            array or tensor (H, W), (H, W, 3), (H, W, 4) or (T, H, W, 3), or with the channels in front of H, of uint8,
            uint16 or fractions in 0..1; a list of pictures, arrays or paths; an iterator of pictures or arrays.
        num_frames: choose so many frames evenly, see :func:`~unipixel.media.sample_indices`; None keeps all.
        every: keep only every so many-th frame (before ``num_frames`` are chosen).
        limits: bounds beyond which media are refused; by default `choose_limits`.
        fps: frames per second of a source that does not say it itself, such as a folder.

    Raises:
        MediaError: The source cannot be read, is not what it claims to be, or passes a limit.
        TypeError: The source is none of the above.
        ValueError: ``num_frames``, ``every`` or ``fps`` is out of range.
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every must be a whole number of at least 1, not {every!r}")
    if fps is not None and not 0 < fps < 1e6:
        raise ValueError(f"fps must be positive, not {fps!r}")
    if isinstance(source, Media):
        return source
    frames, name = _open_source(source, limits or choose_limits(source), every, fps)
    media = _select_frames(frames, name, num_frames, every)
    if isinstance(frames, ListSource):
        frames.check(media.frame_indices)
    return media


def choose_limits(source: MediaLike) -> Limits:
    """Bounds where none are named: tight for what comes from an address, wide for what is the user's own."""
    return Limits() if isinstance(source, str) and urls.is_url(source) else LOCAL


def _select_frames(frames: FrameSource, name: str, num_frames: int | None, every: int) -> Media:
    if isinstance(frames, IteratorSource):  # has left out frames itself
        indices = None if num_frames is None else sample_indices(frames.num_frames, num_frames)
        return Media(frames, name, indices, every)
    strided = range(0, frames.num_frames, every)
    chosen = sample_indices(len(strided), -1 if num_frames is None else num_frames)
    return Media(frames, name, [strided[index] for index in chosen])


def _open_source(source: MediaLike, limits: Limits, every: int, fps: float | None) -> tuple[FrameSource, str]:
    if isinstance(source, str) and not source.strip():
        raise MediaError("the name of the media is empty; give a path or an address (is a variable unset?)")
    if isinstance(source, str) and urls.is_url(source):
        return _open_url(source, limits), urls.shorten_url(source)
    if isinstance(source, str | os.PathLike):
        return _open_path(_to_path(source), limits, fps), str(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return open_file(bytes(source), "the file in memory", limits), "bytes"
    if hasattr(source, "read") and hasattr(source, "seek"):
        return open_file(_read_file(source, limits), "the file object", limits), "file object"
    if isinstance(source, Image.Image):
        return ListSource([source], "the picture", limits), "picture"
    if isinstance(source, list | tuple):
        if any(isinstance(item, str) and not item.strip() for item in source):
            raise MediaError("the list names a frame with empty text; each must be a path, a picture or an array")
        items = [_to_path(item) if isinstance(item, str | os.PathLike) else item for item in source]
        return ListSource(items, "the list", limits, fps), f"list of {len(items)} frames"
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        what = "array" if isinstance(source, np.ndarray) or not hasattr(source, "detach") else "tensor"
        return ArraySource(source, f"the {what}", limits, fps), f"{what} {tuple(np.shape(source))}"
    if hasattr(source, "__iter__") and not isinstance(source, dict | set | frozenset):
        return IteratorSource(iter(source), "the iterator", limits, every, fps), "iterator"
    raise TypeError(
        f"media must be a path, URL, bytes, picture, array, list or iterator of frames, not {type(source).__name__}"
    )


def _read_file(file: Any, limits: Limits) -> bytes:
    pieces = bytearray()
    try:
        while piece := file.read(1 << 20):
            if not isinstance(piece, bytes | bytearray | memoryview):
                raise MediaError(f"the file object gives {type(piece).__name__} and not bytes; open it with mode 'rb'")
            pieces += piece
            limits.check_bytes(len(pieces), "the file object")
    except (OSError, ValueError) as error:  # of a text file that is none, too
        raise MediaError(f"the file object cannot be read ({error}); it must be open, for reading bytes") from error
    if not pieces:
        raise MediaError("the file object gives no bytes: it is empty, or was read before (then file.seek(0) helps)")
    return bytes(pieces)


def _to_path(source: str | os.PathLike[str]) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:  # an unknown user after the tilde
        return Path(source)


def _open_path(path: Path, limits: Limits, fps: float | None = None) -> FrameSource:
    name = str(path)
    try:
        if not path.exists():
            raise MediaError(f"{name} does not exist")
        if path.is_dir():
            return ListSource(list_folder_frames(path), f"the folder {name}", limits, fps)
        if not path.is_file():
            raise MediaError(f"{name} is neither a file nor a folder")
        limits.check_bytes(path.stat().st_size, name)
        return open_file(path, name, limits)
    except (OSError, ValueError) as error:
        raise MediaError(f"{name[:120]!r} cannot be read ({getattr(error, 'strerror', None) or error})") from error


def open_file(data: Path | bytes, name: str, limits: Limits) -> FrameSource:
    """The source for a file, known by its first bytes and never by its name.

    Raises:
        MediaError: it is none of the known formats, damaged, or passes a limit.
    """
    if isinstance(data, bytes):
        limits.check_bytes(len(data), name)
    if limits.isolated:
        return IsolatedSource(data, name, limits)
    if isinstance(data, bytes):
        head = data[:HEAD_BYTES]
    else:
        with open(data, "rb") as file:
            head = file.read(HEAD_BYTES)
    if looks_like_image(head):
        return image_source(data, name, limits)
    container = find_container_format(head)
    if container is None:
        raise MediaError(
            f"{name} is neither an image ({', '.join(IMAGE_FORMATS)}) nor a video ({VIDEO_FORMATS}): "
            f"it begins with {head[:12]!r}"
        )
    with io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb") as file:
        check_complete(file, container, name)
    from unipixel.media.video import VideoSource  # PyAV is loaded for videos alone

    return VideoSource(data, name, container, limits)


def _open_url(url: str, limits: Limits) -> FrameSource:
    url = url.lstrip()
    if url[:5].lower() == "data:":
        return open_file(urls.decode_data_url(url, limits), urls.shorten_url(url), limits)
    folder = urls.download(url, limits)
    try:
        source = open_file(Path(folder.name) / "media", urls.shorten_url(url), limits)
    except MediaError:
        folder.cleanup()
        raise
    weakref.finalize(source, folder.cleanup)
    return source
