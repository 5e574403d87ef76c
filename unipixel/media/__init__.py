"""Images, videos, frame folders, arrays, cameras and URLs as frames: opened with :func:`open_media`, read lazily."""

from unipixel.media.clip import Media, MediaLike, choose_limits, open_media
from unipixel.media.limits import LOCAL, UNLIMITED, Limits
from unipixel.media.sampling import sample_at_rate, sample_indices, sample_random_indices

__all__ = [
    "LOCAL",
    "UNLIMITED",
    "Limits",
    "Media",
    "MediaLike",
    "open_media",
    "sample_at_rate",
    "sample_indices",
    "sample_random_indices",
    "choose_limits",
]
