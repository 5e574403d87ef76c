"""Pictures to look at: masks drawn over frames, contact sheets, and PNG, GIF and MP4 files of them."""

from unipixel.draw.pictures import (
    get_colour,
    make_contact_sheet,
    mark_prompts,
    outline,
    overlay,
    write_gif,
    write_mp4,
    write_png,
)

__all__ = [
    "make_contact_sheet",
    "mark_prompts",
    "outline",
    "overlay",
    "get_colour",
    "write_gif",
    "write_mp4",
    "write_png",
]
