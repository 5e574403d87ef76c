"""Media from clients, by URL or upload, those of the server's own folder, and frames; for threads, as it all blocks."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from PIL import Image

from unipixel.errors import MediaError
from unipixel.media import Limits, Media, open_media
from unipixel.media import urls as addresses
from unipixel.media.images import SUFFIXES
from unipixel.media.names import VIDEO_SUFFIXES, is_junk
from unipixel.media.sources import build_sort_key
from unipixel.serve.errors import LOG

_URL = re.compile(r"(?:data:|https?://)", re.IGNORECASE)
FOLDER_SCHEME = "folder:"
"""What a URL begins with that names a file of the server's folder."""
MAX_LISTED = 50_000
MAX_NAME = 80
MAX_LARGE_IMAGES = 2
"""Pictures of the largest size allowed that one question may carry; as many more as they are smaller."""


class MediaFolder:
    """A folder of this machine of which clients may open pictures and videos: by names that it lists, never by paths.

    Args:
        root: with folders inside; leftovers of operating systems and what is linked to from elsewhere are passed over.

    Raises:
        ValueError: it is not there, no folder, cannot be read, or holds neither pictures nor videos.
    """

    def __init__(self, root: Path) -> None:
        try:
            os.listdir(root)
        except FileNotFoundError as error:
            raise ValueError(f"the folder {root} does not exist") from error
        except NotADirectoryError as error:
            raise ValueError(f"{root} is a file; name a folder of pictures and videos") from error
        except OSError as error:
            raise ValueError(f"the folder {root} cannot be read ({error.strerror or error})") from error
        self.root = root.resolve()
        self.id = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        """Tells folders apart without saying where they are."""
        self._names: set[str] = set()
        if not self.list_names()[0]:
            raise ValueError(f"the folder {root} holds neither pictures nor videos")

    def list_names(self) -> tuple[list[str], int]:
        """Names of its files in the order of their numbers, folders separated by ``/``; and how many are too many."""
        names = sorted(self._iterate_names(), key=lambda name: [build_sort_key(part) for part in name.split("/")])
        self._names = set(names[:MAX_LISTED])
        return names[:MAX_LISTED], max(0, len(names) - MAX_LISTED)

    def _iterate_names(self) -> Iterator[str]:
        for place, folders, names in os.walk(self.root, onerror=_warn_of_folder):
            folders[:] = [name for name in folders if not is_junk(name)]
            inner = Path(place).relative_to(self.root).as_posix()
            for name in names:
                suffix = os.path.splitext(name)[1].lower()
                if is_junk(name) or (suffix not in SUFFIXES and suffix not in VIDEO_SUFFIXES):
                    continue
                path = os.path.join(place, name)
                is_inside = self._is_inside(Path(path)) if os.path.islink(path) else os.path.isfile(path)
                whole = name if inner == "." else f"{inner}/{name}"
                if is_inside and whole.encode("utf-8", "ignore").decode() == whole:  # else it could not be sent
                    yield whole

    def _is_inside(self, file: Path) -> bool:
        """Whether it is a file of the folder, wherever links lead."""
        try:
            return file.is_file() and file.resolve().is_relative_to(self.root)
        except OSError:
            return False

    def find(self, name: str) -> Path:
        """The file of a name.

        Raises:
            MediaError: none is called so.
        """
        if name not in self._names:
            self.list_names()  # it may have come since
        file = self.root / name
        if name not in self._names or not self._is_inside(file):
            raise MediaError(f"there is no picture and no video {name[:80]!r} in the server's folder")
        return file

    def copy(self, name: str, path: Path, limits: Limits) -> str:
        """Put a file of the folder to a path, and return what to call it.

        Raises:
            MediaError: none is called so, it is too large, or it cannot be read.
        """
        file = self.find(name)
        try:
            with open(file, "rb") as source:
                limits.check_bytes(os.fstat(source.fileno()).st_size, clean_name(name))
                store_upload(source, path)
        except PermissionError as error:
            raise MediaError(f"{clean_name(name)} cannot be read by the server ({error.strerror})") from error
        return clean_name(name)


def _warn_of_folder(error: OSError) -> None:
    LOG.warning("the folder %s cannot be read (%s), and its pictures are left out", error.filename, error.strerror)


def check_url(url: str) -> str:
    """Refuse what is no address: a path would name a file of the server.

    Raises:
        MediaError: neither ``data:`` nor http(s).
    """
    url = addresses.strip_url(url)
    if not _URL.match(url):
        raise MediaError(f"{url[:60]!r} is no address; give a data: URL, or one that begins with http:// or https://")
    return url


def open_urls(urls: Sequence[str], limits: Limits, every: int = 1) -> Media:
    """Media of one URL, or of several pictures as the frames of a clip.

    Raises:
        MediaError: one of them cannot be had, or is not what it should be.
    """
    if len(urls) == 1:
        return open_media(check_url(urls[0]), limits=limits, every=every)
    frames, pixels = [], 0
    for place, url in enumerate(urls):
        media = open_media(check_url(url), limits=limits)
        if media.is_video:
            raise MediaError(f"picture {place + 1} of {len(urls)} is a video; give one video, or pictures")
        pixels += media.size_hw[0] * media.size_hw[1]
        if pixels > MAX_LARGE_IMAGES * limits.max_pixels:  # they are all in memory, unlike a video's frames
            raise MediaError(
                f"the first {place + 1} of {len(urls)} pictures have {pixels} pixels together; at most "
                f"{MAX_LARGE_IMAGES * limits.max_pixels} are allowed, or send a video"
            )
        frames.append(media.frame(0))
        media.close()
    return open_media(frames, limits=limits, every=every)


def fetch_media(url: str, path: Path, limits: Limits) -> str:
    """Put what is behind a URL into a file and return a name for it.

    Raises:
        MediaError: it cannot be had.
    """
    url = check_url(url)
    if url[:5].lower() == "data:":
        path.write_bytes(addresses.decode_data_url(url, limits))
        return "data"
    with addresses.download(url, limits) as folder:
        shutil.move(Path(folder) / "media", path)
    return clean_name(addresses.shorten_url(url).rsplit("/", 1)[-1])


def store_upload(upload: IO[bytes], path: Path) -> None:
    """Put an upload into a file."""
    with open(path, "wb") as file:
        shutil.copyfileobj(upload, file, 1 << 20)


def clean_name(name: str | None) -> str:
    """A client's name for a file, only ever to be shown: without folders and signs that do not print."""
    last = re.split(r"[/\\]", name or "")[-1]
    kept = "".join(c for c in last if c.isprintable() and c not in "<>\"'`").strip()
    return kept[:MAX_NAME] or "media"


def encode_frame(media: Media, t: int, image_format: str, width: int | None) -> bytes:
    """Frame ``t`` as JPEG or PNG, scaled down to a width if that is less than its own."""
    image = Image.fromarray(media.frame(t))
    if width is not None and width < image.width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    if image_format == "png":
        image.save(buffer, "PNG", compress_level=3)
    else:
        image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
