"""Media from clients, by URL or upload, and frames; for threads, as it all blocks."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from PIL import Image

from unipixel.errors import MediaError
from unipixel.media import Limits, Media, open_media
from unipixel.media import urls as addresses

_URL = re.compile(r"(?:data:|https?://)", re.IGNORECASE)
MAX_NAME = 80
MAX_LARGE_IMAGES = 2
"""Pictures of the largest size allowed that one question may carry; as many more as they are smaller."""


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
