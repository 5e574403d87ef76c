"""What an index is made of, and what is known of a dataset before any of its files is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unipixel.sample import Sample

DataType = Literal["seg_image", "seg_video", "region_image", "region_video", "image", "video", "text"]
"""What a record asks of a model, and of what; training batches hold one type each.

seg: masks are the answer. region: objects are given, words are the answer. The rest are questions without objects.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One entry of an index: what is needed to read its sample, and nothing that costs memory or time."""

    dataset: str
    split: str
    id: str
    """Unique in the split and the same on every machine, such as ``video/expression``."""
    data_type: DataType
    root: Path
    """The ``data`` folder that all paths of the dataset are relative to."""
    frame_names: tuple[str, ...] | None = None
    """Paths of the clip's frames relative to ``root``, in order; None where the media are a video file."""
    raw: Any = None
    """The annotation as its reader wants it."""
    words: int = 0
    """Words that a limit of training counts, where questions and answers come with the data; 0: it counts none."""
    is_tracked: bool = True
    """Whether the objects' masks go through the clip; False where one frame of it is annotated."""
    clip_objects: int = 0
    """Objects in all questions about the clip together; 0 where that is not known."""

    @property
    def num_frames(self) -> int | None:
        """Frames of the clip; None where only opening the video file tells."""
        return None if self.frame_names is None else len(self.frame_names)

    @property
    def source(self) -> str:
        """Dataset and record, as errors name them."""
        return f"{self.dataset}/{self.split} {self.id}"


class Records(list[Record]):
    """The records of a split, and what of its annotations became none."""

    def __init__(self, records: Iterable[Record] = (), left_out: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(records)
        self.left_out = tuple(left_out)
        """Reason and place of each annotation that cannot be taught, such as ("without a mask", "annotation 4")."""


def count_words(*texts: str) -> int:
    """Words as the released training counts them: the pieces between single blanks."""
    return sum(len(text.split(" ")) for text in texts)


ReadRecords = Callable[[Path, str, str], list[Record]]
"""``index(root, dataset, split)``: every record of a split; reads annotation files, never media or masks."""
ReadSample = Callable[[Record, Sequence[int] | None], Sample]
"""``sample(record, frames)``: one sample; of the frames given (by default all of the clip), masks for these alone."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset that can be read."""

    title: str
    paper: str
    """arXiv id or another citation."""
    licence: str
    home: str
    """Where its files come from: a project name or address a user can look up."""
    splits: tuple[str, ...]
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Split -> files and folders that must exist, relative to the ``data`` folder."""
    index: ReadRecords
    sample: ReadSample
    original: ReadRecords | None = None
    """The index as the released training code has it, mistakes included, where that is another one."""
