"""Still pictures and animations: anything Pillow reads, or an array, becomes uint8 RGB."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from unipixel.errors import MediaError
from unipixel.media.limits import Limits

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that are opened; Pillow's rarer ones, some of which start other programs, are not."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
"""What a frame in a folder may be called."""

_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6")

_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow's decoders are known to raise on damaged files.
_DECODER_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # raised where warnings are errors
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def looks_like_image(head: bytes) -> bool:
    """Whether a file that begins with these (at least 16) bytes is one of :data:`FORMATS`."""
    return head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


@contextmanager
def opened(data: Path | bytes, name: str, limits: Limits) -> Iterator[Image.Image]:
    """The picture, its size checked against ``limits`` but its pixels not yet decoded.

    Raises:
        MediaError: It cannot be opened, is too large, or the code inside the ``with`` cannot decode it.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS) as image:
            limits.check_size((image.height, image.width), name)
            yield image
    except FileNotFoundError:
        raise MediaError(f"{name} does not exist") from None
    except UnidentifiedImageError as error:
        raise MediaError(f"{name} is not a picture of a known format ({', '.join(FORMATS)})") from error
    except _DECODER_ERRORS as error:
        raise MediaError(f"{name} is damaged or not the picture it claims to be ({_reason(error)})") from error


def image_size_hw(image: Image.Image) -> tuple[int, int]:
    """Height and width as the picture is to be seen, its EXIF orientation applied."""
    height, width = image.height, image.width
    return (width, height) if _orientation(image) >= 5 else (height, width)


def image_to_rgb(image: Image.Image, name: str = "the picture") -> np.ndarray:
    """The picture as it is to be seen, uint8 (H, W, 3): upright, on white where it is transparent, 16 bit scaled to 8.

    Raises:
        MediaError: Its pixels cannot be decoded, or are floating-point numbers.

    Differs: the released code puts only RGBA on white and drops other kinds of transparency.
    """
    try:
        image.load()
        turn = _ORIENTATIONS.get(_orientation(image))
        upright = image if turn is None else image.transpose(turn)
        if upright.mode == "F":
            raise MediaError(f"{name} holds floating-point pixels, but must hold whole numbers of 8 or 16 bit")
        if upright.mode.startswith("I"):
            return array_to_rgb(np.asarray(upright), name)
        if upright.has_transparency_data:
            upright = _on_white(upright.convert("RGBA"))
        return np.array(upright.convert("RGB"))
    except _DECODER_ERRORS as error:
        raise MediaError(f"{name} is damaged and cannot be decoded ({_reason(error)})") from error


def array_to_rgb(array: Any, name: str = "the array") -> np.ndarray:
    """One picture (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), 8 or 16 bit, as uint8 (H, W, 3); always a copy.

    Raises:
        MediaError: Another shape or other values.
    """
    array = np.asarray(array)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise MediaError(f"{name} has the shape {array.shape}, but a picture is (H, W), (H, W, 3) or (H, W, 4)")
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 65535:
            raise MediaError(f"{name} holds values {low} to {high}, but 16-bit pixels are 0 to 65535")
        array = ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if array.dtype != np.uint8:
        raise MediaError(f"{name} is of type {array.dtype}, but pixels must be uint8 (0 to 255) or uint16")
    if array.shape[2] == 4:
        return np.array(_on_white(Image.fromarray(np.ascontiguousarray(array))))
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array.copy()


class StillSource:
    """One picture in a file, or in the bytes of one."""

    fps: float | None = None
    timestamps_s: Sequence[float] | None = None
    num_frames = 1

    def __init__(self, data: Path | bytes, name: str, limits: Limits) -> None:
        self._data, self._name, self._limits = data, name, limits
        with opened(data, name, limits) as image:
            self.size_hw = image_size_hw(image)

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the picture once per index."""
        for _ in indices:
            with opened(self._data, self._name, self._limits) as image:
                yield image_to_rgb(image, self._name)


class AnimationSource:
    """The frames of an animated GIF, WebP or PNG, each as a viewer shows it."""

    def __init__(self, data: Path | bytes, name: str, limits: Limits) -> None:
        self._data, self._name, self._limits = data, name, limits
        durations_s = []
        with opened(data, name, limits) as image:
            self.size_hw = (image.height, image.width)
            self.num_frames = int(getattr(image, "n_frames", 1))
            limits.check_frames(self.num_frames, name)
            limits.check_work(self.num_frames, self.size_hw, name, animated=True)
            for index in range(self.num_frames):
                image.seek(index)
                if image.format != "GIF":
                    image.load()  # the other formats tell a frame's duration only once it is decoded
                # Viewers show a frame without a duration for a tenth of a second.
                durations_s.append((image.info.get("duration") or 100) / 1000)
        self.timestamps_s: Sequence[float] | None = np.cumsum([0.0, *durations_s[:-1]]).tolist()
        self.fps: float | None = self.num_frames / sum(durations_s)

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the frames of ascending ``indices``, in one pass."""
        with opened(self._data, self._name, self._limits) as image:
            for index in indices:
                image.seek(index)
                yield image_to_rgb(image, f"frame {index} of {self._name}")


def image_source(data: Path | bytes, name: str, limits: Limits) -> StillSource | AnimationSource:
    """The source for a file that :func:`looks_like_image`: animated formats with several frames are videos."""
    with opened(data, name, limits) as image:
        animated = image.format in ("GIF", "WEBP", "PNG") and bool(getattr(image, "is_animated", False))
    return AnimationSource(data, name, limits) if animated else StillSource(data, name, limits)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DECODER_ERRORS:
        return 1  # Broken EXIF is common and says nothing about the pixels.
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:120] or type(error).__name__
