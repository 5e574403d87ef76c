"""Frames that come from arrays, lists, folders and iterators."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from unipixel.errors import MediaError
from unipixel.media.images import (
    SUFFIXES,
    array_to_rgb,
    find_size_hw,
    image_to_rgb,
    open_image,
    to_array,
)
from unipixel.media.limits import Limits, check_equal_size
from unipixel.media.names import is_junk


class FrameSource(Protocol):
    """Where frames come from; a :class:`~unipixel.media.Media` chooses among them."""

    @property
    def num_frames(self) -> int:
        """Frames there are."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of every frame."""

    @property
    def fps(self) -> float | None:
        """Frames per second, None where unknown."""

    @property
    def timestamps_s(self) -> Sequence[float] | None:
        """Seconds from the first frame to each, None where unknown."""

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield uint8 (H, W, 3) for ascending indices, holding no more than a few frames."""


@runtime_checkable
class RandomAccessSource(Protocol):
    """A source that keeps its file open, and goes on from where it is."""

    def frame(self, index: int) -> np.ndarray:
        """One frame, uint8 (H, W, 3), the caller's to change."""


@runtime_checkable
class ClosableSource(Protocol):
    """A source that holds something open."""

    def close(self) -> None:
        """Give it back."""


class ArraySource:
    """Frames of an array or tensor (T, H, W, 3) or (T, H, W, 4), or one picture; see `images.to_array`."""

    def __init__(self, array: Any, name: str, limits: Limits, fps: float | None = None) -> None:
        array = to_array(array, name)
        if array.ndim in (2, 3):
            array = array[None]
        elif array.ndim != 4:
            raise MediaError(f"{name} has the shape {array.shape}, but frames are (T, H, W, 3) and a picture (H, W, 3)")
        self._array, self._name, self.fps = array, name, fps
        limits.check_frames(len(array), name)
        limits.check_size((array.shape[1], array.shape[2]), name)
        self.num_frames = len(array)
        self.size_hw: tuple[int, int] = array_to_rgb(array[0], name).shape[:2]
        self.timestamps_s = _build_timestamps(self.num_frames, fps)

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        for index in indices:
            yield array_to_rgb(self._array[index], f"frame {index} of {self._name}")


class ListSource:
    """Frames given one by one, as paths, pictures or arrays; files are read when their frame is asked for."""

    def __init__(self, items: Sequence[Any], name: str, limits: Limits, fps: float | None = None) -> None:
        limits.check_frames(len(items), name)
        self._items, self._name, self._limits, self.fps = tuple(items), name, limits, fps
        self.num_frames = len(self._items)
        self.timestamps_s = _build_timestamps(self.num_frames, fps)
        self.size_hw = self._find_size(0)

    def check(self, indices: Sequence[int]) -> None:
        """Raises MediaError naming the first of ``indices`` whose frame cannot be opened or has another size."""
        for index in indices:
            size_hw = self._find_size(index)
            if size_hw != self.size_hw:
                raise MediaError(
                    f"{self._name_item(index)} is {size_hw[1]} x {size_hw[0]} pixels, but the first frame is "
                    f"{self.size_hw[1]} x {self.size_hw[0]}; all frames must have one size"
                )

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        for index in indices:
            item, name = self._items[index], self._name_item(index)
            if isinstance(item, Path):
                with open_image(item, name, self._limits) as image:
                    frame = image_to_rgb(image, name)
            else:
                frame = _item_to_rgb(item, name)
            yield check_equal_size(frame, self.size_hw, name)

    def _find_size(self, index: int) -> tuple[int, int]:
        item, name = self._items[index], self._name_item(index)
        if isinstance(item, Path):
            with open_image(item, name, self._limits) as image:
                self._limits.check_bytes(item.stat().st_size, name)
                return find_size_hw(image)
        if isinstance(item, Image.Image):
            self._limits.check_size((item.height, item.width), name)
            return find_size_hw(item)
        shape = to_array(item, name).shape
        if len(shape) not in (2, 3):
            raise MediaError(f"{name} has the shape {shape}, but a picture is (H, W), (H, W, 3) or (H, W, 4)")
        self._limits.check_size((shape[0], shape[1]), name)
        return shape[0], shape[1]

    def _name_item(self, index: int) -> str:
        item = self._items[index]
        return str(item) if isinstance(item, Path) else f"frame {index} of {self._name}"


class IteratorSource:
    """Frames that arrive one after another, such as a camera's.

    What has arrived is kept in a temporary file, so that it can be read again without staying in memory.

    Args:
        frames: yields arrays or pictures of one size.
        name: what messages call it.
        limits: bounds on frames and disk space.
        every: keep only every so many-th frame.
    """

    def __init__(
        self, frames: Iterator[Any], name: str, limits: Limits, every: int = 1, fps: float | None = None
    ) -> None:
        self._frames, self._name, self._limits, self._every, self.fps = frames, name, limits, every, fps
        self._lock = threading.RLock()
        self._spool = tempfile.TemporaryFile(prefix="unipixel-frames-")  # noqa: SIM115 - lives as long as the source
        self._arrived, self._kept, self._ended = 0, 0, False
        self.size_hw = (0, 0)
        if not self._receive():
            raise MediaError(f"{name} yielded no frame, but must yield at least one")

    @property
    def has_ended(self) -> bool:
        return self._ended

    @property
    def num_frames(self) -> int:
        """Frames kept; waits for the last one to arrive."""
        while self._receive():
            pass
        return self._kept

    @property
    def timestamps_s(self) -> Sequence[float] | None:
        """Seconds from the first frame to each kept one; waits for the last one to arrive."""
        return None if self.fps is None else _build_timestamps(self.num_frames, self.fps / self._every)

    def has_frame(self, index: int) -> bool:
        """Whether there is a kept frame ``index``; waits for it to arrive."""
        while index >= self._kept and self._receive():
            pass
        return index < self._kept

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the kept frames of ``indices``, waiting for those that have not arrived yet."""
        height, width = self.size_hw
        for index in indices:
            if not self.has_frame(index):
                raise MediaError(f"{self._name} ended after {self._kept} frames, but frame {index} was asked for")
            with self._lock:
                self._spool.seek(index * height * width * 3)
                data = self._spool.read(height * width * 3)
            yield np.frombuffer(bytearray(data), dtype=np.uint8).reshape(height, width, 3)

    def stream(self) -> Iterator[np.ndarray]:
        """Yield all frames from the first one, each as soon as it has arrived."""
        index = 0
        while index < self._kept or self._receive():
            yield from self.read([index])
            index += 1

    def close(self) -> None:
        self._spool.close()

    def _receive(self) -> bool:
        """Wait for the next frame to keep; False once there is none."""
        with self._lock:
            while not self._ended:
                try:
                    item = next(self._frames)
                except StopIteration:
                    self._ended = True
                    return False
                self._arrived += 1
                if (self._arrived - 1) % self._every == 0:
                    self._keep(_item_to_rgb(item, f"frame {self._arrived - 1} of {self._name}"))
                    return True
            return False

    def _keep(self, frame: np.ndarray) -> None:
        if self._kept == 0:
            self.size_hw = (frame.shape[0], frame.shape[1])
            self._limits.check_size(self.size_hw, self._name)
        check_equal_size(frame, self.size_hw, f"frame {self._arrived - 1} of {self._name}")
        self._limits.check_frames(self._kept + 1, self._name)
        if (self._kept + 1) * frame.nbytes > self._limits.max_spool_bytes:
            raise self._limits.build_error(
                f"{self._name} passed the limit of {self._limits.max_spool_bytes} bytes after {self._kept} frames; "
                "take fewer with every=",
                "max_spool_bytes",
            )
        self._spool.seek(self._kept * frame.nbytes)
        self._spool.write(frame.tobytes())
        self._kept += 1


def list_folder_frames(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order (2.png before 10.png).

    Raises:
        MediaError: The folder cannot be read or holds no picture.
    """
    try:
        paths = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not is_junk(path.name)]
        paths = [path for path in paths if path.is_file()]
    except OSError as error:
        raise MediaError(f"the folder {folder} cannot be read ({error.strerror})") from error
    if not paths:
        raise MediaError(f"the folder {folder} holds no frames; it must hold pictures such as 00000.png or 00000.jpg")
    return sorted(paths, key=lambda path: build_sort_key(path.name))


def build_sort_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key that compares digits inside names as numbers."""
    pieces = re.findall(r"[0-9]+|[^0-9]+", Path(name).stem.lower())
    return [(0, int(piece), "") if piece[0] in "0123456789" else (1, 0, piece) for piece in pieces], name


def _build_timestamps(num_frames: int, fps: float | None) -> list[float] | None:
    return None if fps is None else [index / fps for index in range(num_frames)]


def _item_to_rgb(item: Any, name: str) -> np.ndarray:
    return image_to_rgb(item, name) if isinstance(item, Image.Image) else array_to_rgb(to_array(item, name), name)
