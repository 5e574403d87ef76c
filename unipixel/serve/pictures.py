"""Frames as files that browsers show."""

from __future__ import annotations

import io

from PIL import Image

from unipixel.media import Media


def encode_frame(media: Media, t: int, image_format: str, width: int | None) -> bytes:
    """Frame ``t`` as JPEG or PNG.

    Args:
        width: scaled down to it; None, or more than there is: as it is.
    """
    image = Image.fromarray(media.frame(t))
    if width is not None and width < image.width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.BILINEAR)
    packed = io.BytesIO()
    if image_format == "png":
        image.save(packed, "PNG", compress_level=3)
    else:
        image.save(packed, "JPEG", quality=90)
    return packed.getvalue()
