"""What a protocol asks, what comes back, and what a benchmark's figure is: the records between the parts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from unipixel.data.records import Record
from unipixel.masks import MaskTrack
from unipixel.sample import Box, Point, Query, Sample

if TYPE_CHECKING:
    from unipixel.engine.answer import Answer
    from unipixel.errors import UnipixelError
    from unipixel.eval import stickers

Read = Callable[[Record], Sample]
"""Reads the sample of a record, with all frames of its clip."""


@dataclass(frozen=True, eq=False)
class Unit:
    """The records that are asked and scored together: for most protocols a single one."""

    id: str
    records: tuple[Record, ...]
    truths: tuple[Record, ...] = ()
    """Records whose masks are the truth, where a protocol takes those of another record than it asks."""

    @property
    def clip(self) -> Hashable:
        """Units with equal clips show the same frames; those whose frames only a video file knows stay apart."""
        names = self.records[0].frame_names
        return self.id if names is None else (self.records[0].root, names)


@dataclass(frozen=True, kw_only=True)
class ClipView:
    """How the language model sees a clip, where a protocol sets that for the released checkpoints."""

    tokens: tuple[int, int] = (128, 256)
    """Least and most visual tokens per frame."""
    share_budget: bool = True
    """Whether short clips use the tokens of the frames that they lack, see `ImageSettings.share_budget`."""
    fps: float | None = None
    """Frames per second of the clip that positions are computed from; None: those that the model assumes."""
    frame_resize: Literal["pillow", "tensor"] = "pillow"
    """See `ImageSettings.frame_resize`."""
    all_frames: bool = False
    """Whether the model sees every frame of the clip, whatever it usually sees at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """One question about one sample, in the words that a predictor gets."""

    sample: Sample
    """Its media are the clip as asked; the masks of ``sample.objects`` are the truth."""
    query: Query
    text: str
    prompts: tuple[Point | Box, ...] = ()
    """Points and boxes, each with the ``object_id`` of the object in ``sample.objects`` that it shows."""
    regions: tuple[int, ...] = ()
    """Ids of objects in ``sample.objects`` whose masks the predictor is given, in the order of their lines."""
    prime: str = ""
    """Words that the answer begins with."""
    prefill: str = ""
    """Words of the question that turns the prompts into masks."""
    forced: bool = False
    """Take the prompts' masks without letting the model write that answer by itself."""
    as_written: bool = False
    """Ask about the prompts exactly as the original does: the pre-filling question holds their ``<|ref|>`` already, its
    answer is dictated, and an object that gets no mask is given the whole frame before the question is asked."""
    view: ClipView | None = None
    """None: as the checkpoint sees clips by itself."""
    max_new_tokens: int = 256
    frame_names: tuple[str, ...] = ()
    """Names of the clip's frames without their endings, where a server wants them."""
    clip: Hashable = None
    """Equal for questions about the same frames; None: unknown."""


@dataclass(frozen=True)
class PredictedObject:
    """An object in a reply."""

    id: int
    track: MaskTrack
    scores: tuple[float, ...] = ()
    """Per frame, 0..1."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"id": self.id, **self.track.to_json(), "scores": [round(score, 4) for score in self.scores]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PredictedObject:
        """What `to_json` wrote."""
        return cls(int(value["id"]), MaskTrack.from_json(value), tuple(value["scores"]))


@dataclass(frozen=True)
class Prediction:
    """What a predictor answers."""

    text: str = ""
    """As the model wrote it, without the words it was primed with."""
    objects: tuple[PredictedObject, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"text": self.text, "objects": [one.to_json() for one in self.objects]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Prediction:
        """What `to_json` wrote."""
        return cls(value["text"], tuple(PredictedObject.from_json(one) for one in value["objects"]))


class Predictor(Protocol):
    """Whatever answers questions: a model, or one of the two extremes that tests compare with."""

    num_frames: int
    """Frames of a clip that it sees at most."""

    def answer(self, question: Question) -> Prediction:
        """The reply to one question, independent of all others."""

    def answer_stickers(self, questions: Sequence[stickers.StickerQuestion]) -> list[Answer | UnipixelError]:
        """Replies to questions about the built-in world, asked together; errors stand in the place of answers."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a benchmark."""

    name: str
    value: float
    count: int
    """Questions (or objects) it is averaged from."""
    best: float = 100.0
    """What a perfect predictor gets."""
    decimals: int = 1
    """With which it is published."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"name": self.name, "value": round(self.value, 4), "count": self.count, "best": self.best}
