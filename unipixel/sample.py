"""The records that every part hands to the next: prompts going in, conversations, and answers coming out.

Pixel coordinates are (x, y) in the source image or frame, with (0, 0) the outer corner of the top-left pixel. Frames
are counted within the clip (``t``), starting at 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from unipixel.masks import MaskTrack
from unipixel.media import Media


@dataclass(frozen=True)
class Point:
    """A click on an object (or, with ``positive=False``, beside it)."""

    x: float
    y: float
    frame: int = 0
    positive: bool = True
    object_id: int | None = None
    """Prompts that share an id describe one object; None starts an object of its own."""


@dataclass(frozen=True)
class Box:
    """A box around an object, corners in source pixels."""

    x1: float
    y1: float
    x2: float
    y2: float
    frame: int = 0
    object_id: int | None = None


@dataclass(frozen=True, eq=False)
class Mask:
    """An object's mask on one frame."""

    mask: np.ndarray = field(repr=False)
    """bool (H, W) at source size."""
    frame: int = 0
    object_id: int | None = None


Prompt = Point | Box | Mask


QueryKind = Literal[
    "query", "sentence", "explanatory", "question", "description", "part", "caption", "qa", "choice", "conversation"
]
"""What an annotated query is.

Answered by masks: ``query`` a noun phrase, ``part`` the same as ``whole:part``, ``sentence`` one that implies the
object, ``explanatory`` the same with reasons wanted, ``question`` to be answered in words too, ``description`` a long
one. Answered by words: ``caption`` of the objects in `Query.about`, ``qa``, ``choice`` among `Query.options`,
``conversation`` a turn to be taken as it is.
"""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a dataset asks, before it is put into words for the model."""

    kind: QueryKind
    text: str
    """Expression or question as annotated; objects in ``about`` are mentioned as ``[id]``."""
    answer: str = ""
    """Annotated reply in words; of a choice, the letter of the right option."""
    targets: tuple[int | None, ...] = ()
    """Ids (keys of ``Sample.objects``) that the answer segments, each by one ``<|seg|>``; None: not there."""
    about: tuple[int, ...] = ()
    """Ids of the objects that the question is about."""
    options: tuple[str, ...] = ()
    """Texts of the options of a choice, without their letters."""
    frame: int | None = None
    """Frame t of the clip on which the objects in ``about`` are pointed at; None: any."""
    introduction: str = ""
    """A line that presents the objects in ``about`` as ``[id]``, in front of ``text`` where their masks are asked for;
    without use where those are given."""
    category: str = ""
    """Group in which a benchmark reports it, such as ``"reasoning"``."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One question with its answer, in the model's own markup.

    ``<|ref|>`` in the question stands for the next entry of ``references``, ``<|seg|>`` in the answer for the next
    entry of ``targets``. Objects in ``regions`` are written in front of the question as ``<|mem|>`` lines.
    """

    question: str
    answer: str = ""
    references: tuple[tuple[Point | Box, ...], ...] = ()
    """One entry per ``<|ref|>``: the prompts of that object (usually one point or one box)."""
    regions: tuple[int, ...] = ()
    """Ids (keys of ``Sample.objects``) whose masks are injected as object memory."""
    targets: tuple[int | None, ...] = ()
    """Ids of the objects that the answer's ``<|seg|>`` tokens segment; None for an object that is not there."""
    as_written: bool = False
    """Take prompts and regions as they are, as released evaluation does: prompts need not fit the frame, and an object
    that is seen nowhere keeps its region line, with nothing behind it."""
    task: str = ""
    """What the turn measures, such as ``"refer"`` or ``"name"``; only read by evaluation."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image or clip with a conversation about it, and the masks the conversation speaks of."""

    media: Media = None  # type: ignore[assignment]  # so that all that is about pixels need not ask
    """None for a conversation of words alone, see `is_text_only`; only training takes those."""
    objects: dict[int, MaskTrack] = field(default_factory=dict)
    """Ground-truth (or known) masks by object id, at source size over the clip's frames."""
    turns: tuple[Turn, ...] = ()
    queries: tuple[Query, ...] = ()
    """What a dataset asks about it; ``processing.wording`` makes turns of them."""
    areas: dict[str, MaskTrack] = field(default_factory=dict)
    """Masks that are no objects: ``"ignore"`` counts neither way, ``"foreground"`` covers every annotated object."""
    boxes: dict[int, tuple[float, float, float, float]] = field(default_factory=dict)
    """Annotated boxes (x1, y1, x2, y2) by object id, where a dataset has them beside the masks."""
    source: str = ""
    """Dataset and record, named when the sample turns out to be bad."""
    as_image: bool = False
    """Whether a picture is written as ``<|image_pad|>`` and not, like everything else, as a video."""
    fps: float | None = None
    """Frames per second of the clip, where it was taken evenly from a video file and the language model is told; None:
    what the processor assumes of all clips."""

    @property
    def is_text_only(self) -> bool:
        """Whether there is neither picture nor video."""
        return self.media is None
