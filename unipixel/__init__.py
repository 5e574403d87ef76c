"""Point, segment, remember and answer: one model for pixel-level reasoning on images and video.

    import unipixel

    engine = unipixel.load()
    session = engine.open("clip.mp4", num_frames=16)
    answer = session.ask("Please segment the dog.")
    answer.text, answer.objects[0].masks

The public names below are resolved on first use, so that ``import unipixel`` is instant and loads no deep learning
framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unipixel.engine.engine import Engine, load
    from unipixel.engine.session import Answer, Session
    from unipixel.errors import CheckpointError, DatasetError, MediaError, PromptError, UnipixelError
    from unipixel.masks import MaskTrack
    from unipixel.media import Media, open_media
    from unipixel.sample import Box, Mask, Point

__version__ = "0.1.0"

__all__ = [
    "load",
    "Engine",
    "Session",
    "Answer",
    "Point",
    "Box",
    "Mask",
    "MaskTrack",
    "Media",
    "open_media",
    "UnipixelError",
    "MediaError",
    "PromptError",
    "CheckpointError",
    "DatasetError",
    "__version__",
]

_HOMES = {
    "load": "unipixel.engine.engine",
    "Engine": "unipixel.engine.engine",
    "Session": "unipixel.engine.session",
    "Answer": "unipixel.engine.session",
    "Point": "unipixel.sample",
    "Box": "unipixel.sample",
    "Mask": "unipixel.sample",
    "MaskTrack": "unipixel.masks",
    "Media": "unipixel.media",
    "open_media": "unipixel.media",
    "UnipixelError": "unipixel.errors",
    "MediaError": "unipixel.errors",
    "PromptError": "unipixel.errors",
    "CheckpointError": "unipixel.errors",
    "DatasetError": "unipixel.errors",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its home module on first use (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'unipixel' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
