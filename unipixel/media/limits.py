"""How much a piece of media may cost before it is refused."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from unipixel.errors import MediaError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds that hostile, broken or mistaken media are checked against.

    Raises:
        ValueError: A bound is not positive.
    """

    max_bytes: int = 1 << 30
    """Size of one file, download or ``data:`` URL."""
    max_pixels: int = 1 << 26
    """Height times width of one frame, read from its header before it is decoded."""
    max_frames: int = 200_000
    """Frames of one video, folder, list or stream."""
    max_video_pixels: int = 1 << 40
    """Frames times height times width of one video: a few bytes can claim hours of work."""
    max_animation_pixels: int = 1 << 33
    """The same of an animated picture, of which a frame is reached only by way of all that are before it."""
    max_metadata_bytes: int = 64 << 20
    """What one picture holds besides its pixels: EXIF, profiles, texts, layers of other programs."""
    max_parts: int = 1 << 17
    """Strips, tiles or chunks that one picture is cut into."""
    max_decoder_bytes: int = 2 << 30
    """Memory of a process that decodes, above what it has at its start; see ``isolated``."""
    max_decoder_s: float = 30.0
    """Seconds of computing that such a process may spend on opening a file, or on one frame of it."""
    isolated: bool = False
    """Whether files are decoded in a process of their own, which is ended where it passes one of the two bounds above:
    for what comes from strangers. Frames come a little later that way."""
    max_spool_bytes: int = 8 << 30
    """Disk space for the frames of an iterator, which are kept in a temporary file to be read again."""
    url_timeout_s: float = 30.0
    """Seconds that one download may take in all."""
    private_addresses: bool = True
    """Whether http(s) URLs may lead to this machine and to private networks; a server for others says no."""
    trusted_origin: str = ""
    """Scheme, host and port of a server to which they may lead even so, as in ``http://10.0.0.5:8080``."""
    authorization: str = field(default="", repr=False)
    """The ``Authorization`` header that this server, and no other, is shown; empty: none."""
    remedy: str = "Limits({field}=...) allows more"
    """What messages say about a bound; ``{field}`` becomes its name."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
                raise ValueError(f"the limit {one.name} must be positive, not {value!r}")

    def check_bytes(self, size: int, name: str) -> None:
        """Raises MediaError when a file of ``size`` bytes is empty or too large."""
        if size == 0:
            raise MediaError(f"{name} is empty: it holds 0 bytes")
        if size > self.max_bytes:
            raise MediaError(
                f"{name} is {size} bytes, more than the limit of {self.max_bytes}{self._describe_remedy('max_bytes')}"
            )

    def check_size(self, size_hw: tuple[int, int], name: str) -> None:
        """Raises MediaError when a frame has a side of 0 or too many pixels."""
        height, width = size_hw
        if height < 1 or width < 1:
            raise MediaError(f"{name} is {width} x {height} pixels, but each side must be at least 1")
        if height * width > self.max_pixels:
            raise MediaError(
                f"{name} is {width} x {height} pixels, more than the limit of {self.max_pixels}"
                f"{self._describe_remedy('max_pixels')}"
            )

    def check_frames(self, num_frames: int, name: str) -> None:
        """Raises MediaError when there is no frame, or too many."""
        if num_frames < 1:
            raise MediaError(f"{name} holds no frame, but needs at least one")
        if num_frames > self.max_frames:
            raise MediaError(
                f"{name} holds more frames than the limit of {self.max_frames}{self._describe_remedy('max_frames')}"
            )

    def check_work(
        self, count: int, size_hw: tuple[int, int], name: str, *, what: str = "frames", animated: bool = False
    ) -> None:
        """Raises MediaError when all frames, or what else costs as much, together have too many pixels."""
        field = "max_animation_pixels" if animated else "max_video_pixels"
        if count * size_hw[0] * size_hw[1] > getattr(self, field):
            raise MediaError(
                f"{name} holds {count} {what} of {size_hw[1]} x {size_hw[0]} pixels, together more than the limit "
                f"of {getattr(self, field)}{self._describe_remedy(field)}"
            )

    def check_metadata(self, size: int, name: str) -> None:
        """Raises MediaError when a picture holds too much that is no pixels."""
        if size > self.max_metadata_bytes:
            raise MediaError(
                f"{name} holds more than {self.max_metadata_bytes} bytes of metadata"
                f"{self._describe_remedy('max_metadata_bytes')}"
            )

    def check_parts(self, count: int, what: str, name: str) -> None:
        """Raises MediaError when a picture is cut into too many parts."""
        if count > self.max_parts:
            raise MediaError(
                f"{name} is cut into {count} {what}, more than the limit of {self.max_parts}"
                f"{self._describe_remedy('max_parts')}"
            )

    def build_error(self, sentence: str, field: str) -> MediaError:
        """The error of a bound that is checked elsewhere."""
        return MediaError(f"{sentence}{self._describe_remedy(field)}")

    def _describe_remedy(self, field: str) -> str:
        return f" ({self.remedy.format(field=field)})" if self.remedy else ""


LOCAL = Limits(
    max_bytes=1 << 50,
    max_pixels=1 << 28,
    max_frames=1 << 24,
    max_video_pixels=1 << 46,
    max_animation_pixels=1 << 36,
    max_metadata_bytes=1 << 30,
    max_parts=1 << 23,
    max_spool_bytes=1 << 38,
)
"""What the user's own files, arrays and cameras may cost: what a machine can work on, and a mask can hold."""

_ANY = 1 << 62
UNLIMITED = Limits(
    max_bytes=_ANY,
    max_pixels=_ANY,
    max_frames=_ANY,
    max_video_pixels=_ANY,
    max_animation_pixels=_ANY,
    max_metadata_bytes=_ANY,
    max_parts=_ANY,
    max_spool_bytes=_ANY,
    url_timeout_s=float(1 << 20),
)
"""Everything is opened, and fetched for as long as it takes."""


def check_equal_size(frame: np.ndarray, size_hw: tuple[int, int], name: str) -> np.ndarray:
    """The frame (H, W, 3), or a MediaError naming it when its size is not that of the first one."""
    height, width = frame.shape[:2]
    if (height, width) != size_hw:
        raise MediaError(
            f"{name} is {width} x {height} pixels, but the first frame is {size_hw[1]} x {size_hw[0]}; "
            "all frames must have one size"
        )
    return frame
