"""What an index is made of, what is known of a dataset before its files are read, and records that cannot be read."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unipixel.errors import DatasetError
from unipixel.sample import Query, Sample

DataType = Literal["seg_image", "seg_video", "region_image", "region_video", "image", "video", "text"]
"""What a record asks of a model, and of what; training batches hold one type each.

seg: masks are the answer. region: objects are given, words are the answer. The rest are questions without objects.
"""


MAX_BAD = 0.05
"""Share of the records that may be bad, by default; a single one never ends a run."""
MAX_NAMED = 10
"""How many are named."""
_KINDS = (
    ("another size", r"is for \d+ x \d+ pixels|the mask is \d+ x \d+|must all have the size|must have one size"),
    ("a mask that is neither ids nor black and white", r"grey values|object ids need|shades of grey|a mask needs"),
    ("a malformed mask", r"polygon|\bRLE\b|run length|corner|mask image"),
    ("labels that do not fit", r"labels\.json|label"),
    ("a file that is missing", r"does not exist|no such file|is in none of|missing"),
    (
        "a damaged picture or video",
        r"damaged|cut off|not a picture|cannot be decoded|neither an image|is empty|cannot be",
    ),
    ("nothing to ask or to point at", r"no query|no object is seen|is seen on none"),
)


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
        """Frames of the clip; None where that is known only once the video file is opened."""
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


Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels, right and bottom exclusive."""


@dataclass(slots=True)
class Instance:
    """An annotated object of a picture or clip, or a part of one, as far as readers know of it."""

    name: str = ""
    expressions: tuple[str, ...] = ()
    """Texts that mean it."""
    regions: dict[int, Any] = field(default_factory=dict)
    """Its mask by frame t, in the form of its file; none where masks are files of their own."""
    box_xyxy: Box | None = None
    """The annotated box; None where there is none."""
    id: Any = None
    """Of its annotation in the file; of what `coco_files.read_all_clips` reads, of its track, if it has one."""
    scores: dict[int, float] = field(default_factory=dict)
    """By frame t, where a file of predictions has them."""
    is_thing: bool = True
    """False for grass, sky and the like."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expression:
    """A question, expression or description about a clip: what `Record.raw` holds in readers of clips."""

    video: str
    """Id of the video, or the path of its file."""
    query: Query
    expression: str = ""
    """Its id in the video."""
    ids: tuple[int, ...] = ()
    """What the masks' file calls the objects that are meant."""
    masks: tuple[str, ...] = ()
    """Where the masks are: keys of a mask file, or paths, of which an empty one stands for no mask."""
    frames: Sequence[int] = ()
    """Numbers of the clip's frames in the video."""
    num_masks: int = 0
    """Frames of the whole video, for each of which a mask file has an entry; 0 where that does not matter."""
    number: int | None = None
    """Place among the split's expressions in file order, where masks are numbered; from 0."""
    string_number: int | None = None
    """The same with videos and expression ids sorted as strings."""
    total: int = 0
    """Expressions of the split, where masks are numbered."""


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
    teaches: str
    """What is learnt from it, in a few words."""
    splits: tuple[str, ...]
    location: Literal["root", "path", "none"] = "root"
    """Where its files lie: under the data root, at the path in ``NAME:PATH``, or nowhere, since it is made up."""
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Split -> files and folders that must exist, relative to the ``data`` folder."""
    index: ReadRecords
    sample: ReadSample
    original: ReadRecords | None = None
    """The index as the released training code has it, mistakes included, where that is another one."""


def classify_reason(reason: str) -> str:
    """What sort of defect a sentence about a bad record describes."""
    return next((kind for kind, pattern in _KINDS if re.search(pattern, reason)), "something else")


class BadRecords:
    """Bad records of one run, which several processes find.

    Args:
        total: records there are.
        most: share of them that may be bad; a single one always may.
        path: file in which all processes write them down; None: there is only this one.
    """

    def __init__(self, total: int, most: float = MAX_BAD, path: Path | None = None) -> None:
        if not 0 <= most <= 1:
            raise ValueError(f"the share of bad records is {most}; it must be from 0 (none but one) to 1 (any)")
        self.total, self._most, self._path = total, most, path
        self._known: dict[str, str] = {}

    def __contains__(self, source: str) -> bool:
        return source in self._known

    def add(self, source: str, reason: str) -> bool:
        """Count a record, once; whether it is a new one.

        Raises:
            DatasetError: there are too many now.
        """
        if source in self._known:
            return False
        before = self.collect_reasons()
        self._known[source] = reason
        if source not in before and self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:  # short lines are appended whole
                file.write(json.dumps({"record": source, "reason": reason}) + "\n")
        bad = {**before, source: reason}
        if len(bad) > max(1.0, self._most * self.total):
            raise DatasetError(
                f"{len(bad)} of {self.total} records cannot be read, more than the share of {self._most:g} that is "
                f"allowed: {format_reasons(bad)}; `unipixel data check` lists them all, --max-bad allows more"
            )
        return source not in before

    def collect_reasons(self) -> dict[str, str]:
        """Reasons by record, of all processes."""
        if self._path is None or not self._path.is_file():
            return dict(self._known)
        lines = self._path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        return {row["record"]: row["reason"] for row in rows} | self._known

    def describe(self) -> str:
        """A sentence about them; empty if there is none."""
        bad = self.collect_reasons()
        return (
            f"left out: {len(bad)} of {self.total} records, which cannot be read: {format_reasons(bad)}" if bad else ""
        )


def format_reasons(bad: dict[str, str]) -> str:
    """The first of some bad records with their reasons."""
    some = [reason if source in reason else f"{source}: {reason}" for source, reason in list(bad.items())[:MAX_NAMED]]
    return "; ".join(some) + (f"; and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else "")


def describe_left_out(left_out: Iterable[tuple[str, str]]) -> list[str]:
    """Sentences about annotations that became no record, one per reason; see `Records.left_out`."""
    reasons: dict[str, list[str]] = {}
    for reason, place in left_out:
        reasons.setdefault(reason, []).append(place)
    counts = Counter({reason: len(places) for reason, places in reasons.items()})
    sentences = []
    for reason, count in counts.most_common():
        places = reasons[reason]
        some = ", ".join([places[0], *(place.rpartition(", ")[2] for place in places[1:MAX_NAMED])])
        more = f", and {count - MAX_NAMED} more" if count > MAX_NAMED else ""
        sentences.append(f"left out: {count} annotation{'s' if count > 1 else ''} {reason}: {some}{more}")
    return sentences
