"""Pictures to look at: masks drawn over frames, contact sheets, and PNG, GIF and MP4 files of them."""

from unipixel.draw.pictures import (
    contact_sheet,
    mark_prompts,
    outline,
    overlay,
    palette,
    write_gif,
    write_mp4,
    write_png,
)

__all__ = [
    "contact_sheet",
    "mark_prompts",
    "outline",
    "overlay",
    "palette",
    "write_gif",
    "write_mp4",
    "write_png",
]
