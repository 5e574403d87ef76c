"""Still pictures and animations: anything Pillow reads, or an array, becomes uint8 RGB."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from unipixel.errors import MediaError
from unipixel.media.animations import compose_frames, read_gif, read_png
from unipixel.media.containers import find_still_brand
from unipixel.media.headers import UPRIGHT, check_headers, read_orientation
from unipixel.media.limits import Limits, check_equal_size

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", *(("AVIF",) if features.check("avif") else ()))
"""Formats that are opened; Pillow's rarer ones, some of which start other programs, are not."""

KEPT_PIXELS = 1 << 25
"""Height times width of the largest picture that is kept decoded."""

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".heic", ".heif"}
)
"""What a frame in a folder may be called."""

HEAD_BYTES = 256
"""How many of a file's first bytes tell what it is."""

_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF87a",
    b"GIF89a",
    b"BM",
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),  # TIFF and BigTIFF in either order of bytes
    *(b"P5", b"P6"),
)
_HEIC = "HEIC"

_CHANNELS = (1, 3, 4)

_SUBFILE_TAG = 0x00FE

_OPEN_LOCK = threading.Lock()

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
    is_plain = head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
    return is_plain or find_still_brand(head) is not None


@contextmanager
def open_image(data: Path | bytes, name: str, limits: Limits) -> Iterator[Image.Image]:
    """The picture, its size checked against ``limits`` but its pixels not yet decoded.

    Raises:
        MediaError: It cannot be opened, is too large, or the code inside the ``with`` cannot decode it.
    """
    try:
        formats = _list_formats(data, name)
        check_headers(data, name, limits)
        with _open(io.BytesIO(data) if isinstance(data, bytes) else data, formats) as image:
            limits.check_size((image.height, image.width), name)
            yield image
    except FileNotFoundError:
        raise MediaError(f"{name} does not exist") from None
    except UnidentifiedImageError as error:
        raise MediaError(f"{name} is not a picture of a known format ({', '.join(FORMATS)})") from error
    except _DECODER_ERRORS as error:
        raise MediaError(f"{name} is damaged or not the picture it claims to be ({_describe_error(error)})") from error


def _open(file: Path | io.BytesIO, formats: tuple[str, ...]) -> Image.Image:
    """Pillow's own bound on pixels gives way to ours, which the caller checks before anything is decoded."""
    with _OPEN_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        bound, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        Image.preinit()  # the usual formats; else Pillow loads those of all its formats to try the first of ours
        try:
            return Image.open(file, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = bound


def _list_formats(data: Path | bytes, name: str) -> tuple[str, ...]:
    """The formats that a file may be of.

    Raises:
        MediaError: it is of one that cannot be read.
        OSError: the file cannot.
    """
    if isinstance(data, bytes):
        head = data[:HEAD_BYTES]
    else:
        with open(data, "rb") as file:
            head = file.read(HEAD_BYTES)
    found = find_still_brand(head)
    if found is None:
        return FORMATS
    kind, brand = found
    if kind == "avif":
        if "AVIF" in FORMATS:
            return ("AVIF",)
        raise MediaError(f"{name} is an AVIF picture, which this build of Pillow cannot read; convert it to PNG")
    if kind == "heif":
        try:
            from pi_heif import register_heif_opener
        except ImportError:
            raise MediaError(
                f"{name} is a {_HEIC} picture (brand {brand!r}), which needs one more package; "
                "pip install 'unipixel[heic]', or convert it to JPEG"
            ) from None
        register_heif_opener(thumbnails=False)
        return ("HEIF",)
    what = "a sequence of HEIC pictures" if kind == "heif sequence" else "a camera's raw picture"
    raise MediaError(f"{name} is {what} (brand {brand!r}), which is not supported; convert it to MP4 or JPEG")


def find_size_hw(image: Image.Image) -> tuple[int, int]:
    """Height and width as the picture is to be seen, its EXIF orientation applied."""
    return turn_size((image.height, image.width), _read_orientation(image))


def image_to_rgb(image: Image.Image, name: str = "the picture") -> np.ndarray:
    """The picture as it is to be seen, uint8 (H, W, 3): upright, on white where it is transparent, 16 bit scaled to 8.

    Raises:
        MediaError: Its pixels cannot be decoded, or are floating-point numbers.

    Differs: the released code puts only RGBA on white and drops other kinds of transparency.
    """
    try:
        image.load()
        if image.mode == "F":
            raise MediaError(f"{name} holds floating-point pixels, but must hold whole numbers of 8 or 16 bit")
        if image.mode.startswith("I"):
            pixels = array_to_rgb(np.asarray(image), name)
            clear = image.info.get("transparency")
            if isinstance(clear, int):
                pixels[np.asarray(image) == clear] = 255
        elif image.has_transparency_data:
            pixels = np.array(_flatten_on_white(image.convert("RGBA")))
        else:
            pixels = np.array(image.convert("RGB"))
        return turn_upright(pixels, _read_orientation(image))
    except _DECODER_ERRORS as error:
        raise MediaError(f"{name} is damaged and cannot be decoded ({_describe_error(error)})") from error


def to_array(pixels: Any, name: str) -> np.ndarray:
    """Pixels that a user gives, with the channels last: (H, W), (H, W, C) or (T, H, W, C); other shapes stay.

    Channels in front, as torch has them, are moved where the shape can mean nothing else: (1 or 3, H, W), and
    (T, C, H, W). NumPy's own order wins over it: (3, 4, 3) is a picture of 3 rows; a tensor like that is refused.

    Args:
        pixels: an array, a tensor on any device, or what NumPy makes an array of.
        name: what messages call it.

    Raises:
        MediaError: the order of the axes or the range of the values could be meant in two ways.
    """
    is_tensor = hasattr(pixels, "detach") and hasattr(pixels, "cpu")
    if is_tensor:
        pixels = pixels.detach().cpu()
        pixels = (pixels.float() if "bfloat16" in str(pixels.dtype) else pixels).numpy()
    array = np.asarray(pixels)
    if array.ndim in (3, 4) and array.shape[-3] in _CHANNELS:
        shape, is_last = array.shape, array.shape[-1] in _CHANNELS
        # four grey frames or red, green, blue and alpha; three frames or three channels in front of the frames
        is_unclear = is_tensor if is_last else shape[0] == (4 if array.ndim == 3 else 3)
        if is_unclear:
            raise MediaError(
                f"{name} has the shape {shape}, in which the channels could be at more than one place; bring it to "
                "(H, W, 3) or (T, H, W, 3) as a NumPy array"
            )
        array = array if is_last else np.moveaxis(array, -3, -1)
    if array.ndim < 2 or not array.size:
        return array
    if array.dtype.kind == "f":
        _check_fractions(array, name)
    elif array.dtype.kind == "i" or (array.dtype.kind == "u" and array.dtype.itemsize > 2):
        low, high = int(array.min()), int(array.max())
        if 0 <= low and high <= 255:
            raise MediaError(
                f"{name} is of type {array.dtype} with values {low} to {high}, which could be meant as 8 or as 16 bit; "
                "give uint8 or uint16"
            )
    return array


def _check_fractions(array: np.ndarray, name: str) -> None:
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # nan is neither
        raise MediaError(
            f"{name} holds fractions from {low:.4g} to {high:.4g}, but fractions must lie in 0 to 1; undo a "
            "normalisation, and give values up to 255 as uint8"
        )


def array_to_rgb(array: Any, name: str = "the array") -> np.ndarray:
    """One picture (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), 8 or 16 bit or fractions in 0..1, as uint8 (H, W, 3).

    Always a copy.

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
    if array.dtype.kind == "f":
        _check_fractions(array, name)
        array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise MediaError(f"{name} is of type {array.dtype}, but pixels must be uint8, uint16 or fractions in 0 to 1")
    if array.shape[2] == 4:
        return np.array(_flatten_on_white(Image.fromarray(np.ascontiguousarray(array))))
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array.copy()


class StillSource:
    """One picture in a file, or in the bytes of one.

    The picture that was decoded last in this process is kept, up to `KEPT_PIXELS`: a question reads it for the language
    model, for SAM and for the drawing, one after the other.
    """

    _latest: tuple[weakref.ref[StillSource], np.ndarray] | None = None
    fps: float | None = None
    timestamps_s: Sequence[float] | None = None
    num_frames = 1

    def __init__(self, data: Path | bytes, name: str, limits: Limits) -> None:
        self._data, self._name, self._limits = data, name, limits
        with open_image(data, name, limits) as image:
            self.size_hw = find_size_hw(image)

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        for _ in indices:
            latest = StillSource._latest
            if latest is not None and latest[0]() is self:
                yield latest[1].copy()
                continue
            with open_image(self._data, self._name, self._limits) as image:
                frame = image_to_rgb(image, self._name)
            if frame.shape[0] * frame.shape[1] <= KEPT_PIXELS:
                StillSource._latest = weakref.ref(self, _forget_still), frame.copy()
            yield frame


def _forget_still(source: weakref.ref[StillSource]) -> None:
    """Free the kept picture of a source that is gone."""
    latest = StillSource._latest
    if latest is not None and latest[0] is source:
        StillSource._latest = None


class AnimationSource:
    """The frames of a GIF or an animated PNG, as browsers show them."""

    def __init__(self, data: Path | bytes, name: str, limits: Limits) -> None:
        self._data, self._name, self._limits = data, name, limits
        with open_image(data, name, limits) as image:
            self._orientation = _read_orientation(image)
            read = read_gif if image.format == "GIF" else read_png
        with self._file() as file:
            self._animation = read(file, name, limits)
        size_hw, patches = self._animation.size_hw, self._animation.patches
        self.num_frames = len(patches)
        limits.check_size(size_hw, name)
        limits.check_work(self.num_frames, size_hw, name, animated=True)
        drawn = 0
        for patch in patches:
            limits.check_size((patch.height, patch.width), name)
            drawn += patch.height * patch.width  # those of a GIF may be larger than its canvas
            if drawn > limits.max_animation_pixels:
                raise limits.build_error(
                    f"{name} draws more than the limit of {limits.max_animation_pixels} pixels over one another",
                    "max_animation_pixels",
                )
        self.size_hw = turn_size(size_hw, self._orientation)
        durations_s = [patch.duration_s for patch in patches]
        is_still = self.num_frames == 1
        self.fps: float | None = None if is_still else self.num_frames / sum(durations_s)
        self.timestamps_s: Sequence[float] | None = None if is_still else np.cumsum([0.0, *durations_s[:-1]]).tolist()

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        try:
            with self._file() as file:
                for canvas in compose_frames(self._animation, file, indices, self._decode):
                    yield turn_upright(np.array(_flatten_on_white(Image.fromarray(canvas))), self._orientation)
        except OSError as error:
            raise MediaError(f"{self._name} cannot be read ({_describe_error(error)})") from error

    def _decode(self, data: bytes) -> np.ndarray:
        """A patch, uint8 (h, w, 4)."""
        with open_image(data, self._name, self._limits) as image:
            image.load()
            if image.mode.startswith("I"):  # 16 bit
                grey = array_to_rgb(np.asarray(image), self._name)
                return np.dstack([grey, np.full(grey.shape[:2], 255, dtype=np.uint8)])
            return np.asarray(image.convert("RGBA"))

    def _file(self) -> BinaryIO:
        return io.BytesIO(self._data) if isinstance(self._data, bytes) else open(self._data, "rb")


class PagedSource:
    """The frames of an animated WebP or AVIF, or the pages of a TIFF."""

    def __init__(self, data: Path | bytes, name: str, limits: Limits) -> None:
        self._data, self._name, self._limits = data, name, limits
        durations_s = []
        with open_image(data, name, limits) as image:
            is_timed = image.format != "TIFF"
            self._pages = list(range(int(getattr(image, "n_frames", 1)))) if is_timed else _list_pages(image, name)
            self.size_hw = find_size_hw(image)
            self.num_frames = len(self._pages)
            limits.check_frames(self.num_frames, name)
            limits.check_work(self.num_frames, self.size_hw, name, animated=True)
            for page in self._pages if is_timed else ():
                image.seek(page)
                image.load()  # they tell a frame's duration only once it is decoded
                # Viewers show a frame without a duration for a tenth of a second.
                durations_s.append((image.info.get("duration") or 100) / 1000)
        self.timestamps_s: Sequence[float] | None = np.cumsum([0.0, *durations_s[:-1]]).tolist() if is_timed else None
        self.fps: float | None = self.num_frames / sum(durations_s) if is_timed else None

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        with open_image(self._data, self._name, self._limits) as image:
            for index in indices:
                image.seek(self._pages[index])
                self._limits.check_size((image.height, image.width), self._name)
                name = f"frame {index} of {self._name}"
                yield check_equal_size(image_to_rgb(image, name), self.size_hw, name)


def image_source(data: Path | bytes, name: str, limits: Limits) -> StillSource | AnimationSource | PagedSource:
    """The source for a file that :func:`looks_like_image`: with several frames, or pages of one size, it is a video."""
    with open_image(data, name, limits) as image:
        has_several = bool(getattr(image, "is_animated", False))
        # of a GIF also the one frame may lie on a larger canvas
        is_patched = image.format == "GIF" or (has_several and image.format == "PNG")
        is_paged = has_several and (
            image.format in ("WEBP", "AVIF") or (image.format == "TIFF" and len(_list_pages(image, name)) > 1)
        )
    if is_patched:
        return AnimationSource(data, name, limits)
    return PagedSource(data, name, limits) if is_paged else StillSource(data, name, limits)


def _list_pages(image: Image.Image, name: str) -> list[int]:
    """The pages of a TIFF that are frames: all that are no thumbnails or masks of others.

    Where they have several sizes, only the first is read, with a warning.
    """
    places, sizes = [], []
    for place in range(int(getattr(image, "n_frames", 1))):
        image.seek(place)
        kind = image.tag_v2.get(_SUBFILE_TAG, 0)  # type: ignore[attr-defined]
        if place == 0 or not (isinstance(kind, int) and kind & 0b101):
            places.append(place)
            sizes.append(image.size)
    image.seek(0)
    if len(set(sizes)) > 1:
        warnings.warn(f"{name} has {len(places)} pages of different sizes; only the first is read", stacklevel=2)
        return [0]
    return places


def _read_orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return UPRIGHT  # Pillow turns these by itself
    if image.format == "PNG" and "exif" not in image.info:
        with suppress(*_DECODER_ERRORS):
            image.load()  # it may come behind the pixels
    return read_orientation(image.info)


def _flatten_on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _describe_error(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:120] or type(error).__name__


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (H, W, ...) as they are shown; contiguous, and a copy only where something moves.

    Args:
        pixels: as they lie in the file.
        orientation: EXIF's number, 1 to 8; from 5 on height and width change places.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def turn_size(size_hw: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Height and width of pixels once they are turned."""
    return (size_hw[1], size_hw[0]) if orientation >= 5 else size_hw


def read_matrix_orientation(matrix: Sequence[int]) -> int:
    """EXIF's number for a display matrix of a video: a, b, u, c, d, v, x, y, w, as ISO base media files have it.

    A pixel at (x, y) is shown at (a x + c y, b x + d y). What is no quarter turn counts as the nearest one.
    """
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return {(False, False): 1, (True, False): 2, (True, True): 3, (False, True): 4}[a < 0, d < 0]
    return {(False, False): 5, (False, True): 6, (True, True): 7, (True, False): 8}[b < 0, c < 0]
