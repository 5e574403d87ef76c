"""What comes back from a question: text, objects with masks over the clip, and the ways to take them elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from unipixel.atomic import write_text
from unipixel.draw import encode_png, shrink
from unipixel.engine.memory import KnownObject
from unipixel.errors import MediaError
from unipixel.formats import Annotations, Losses, write_annotations
from unipixel.formats.coco import build_coco
from unipixel.formats.libraries import to_fiftyone, to_supervision
from unipixel.formats.rasters import (
    SHOWN_SIDE,
    build_page,
    draw_frame,
    draw_frames,
    draw_sheet,
    write_davis_frames,
    write_overlay,
)
from unipixel.formats.sessions import describe_media
from unipixel.masks import Rle, decode_rle
from unipixel.media import Media

STAGES = ("read", "vision_tower", "prefill", "decode", "sam_encode", "track", "write")
"""Reading frames, the vision tower, reading the prompt, writing tokens, SAM's image encoder, tracking (mask decoder and
memory), and turning logits into stored masks."""


class Timings(dict[str, float]):
    """Seconds per stage of one answer.

    Attributes:
        counts: how many frames, tokens or objects a stage has handled.
    """

    def __init__(self, seconds: dict[str, float] | None = None, counts: dict[str, int] | None = None) -> None:
        super().__init__(seconds or {})
        self.counts = counts or {}

    @property
    def total(self) -> float:
        return sum(self.values())

    def seconds_per_item(self, stage: str) -> float:
        """Seconds per counted item of a stage, such as per decoded token; nan if it counted none."""
        number = self.counts.get(stage, 0)
        return self[stage] / number if number else float("nan")


@dataclass(frozen=True)
class MaskPiece:
    """Masks of one frame, as it is tracked."""

    t: int
    """Frame of the clip."""
    rles: dict[int, Rle | None] = field(repr=False)
    """By object id, at source size; None where the object is not visible."""
    scores: dict[int, float]
    """By object id: predicted IoU times presence on this frame."""

    def mask(self, object_id: int) -> np.ndarray | None:
        """bool (H, W), or None where the object is not visible."""
        rle = self.rles[object_id]
        return None if rle is None else decode_rle(rle)


@dataclass(frozen=True, eq=False)
class Clip:
    """The frames that an answer speaks of."""

    media: Media = field(repr=False)
    source: str
    frame_indices: tuple[int, ...] = field(repr=False)
    """Index in the source of every frame of the clip."""
    fps: float | None

    @classmethod
    def from_media(cls, media: Media) -> Clip:
        return cls(media, media.source, tuple(media.frame_indices), media.fps)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Answer:
    """A reply with everything it speaks of. A notebook shows its words and, if there are objects, their masks."""

    text: str
    """The reply, with ``[id]`` where the model wrote ``<|seg|>``. An ``[n]`` that the model wrote directly in front of
    it, its own number for the object, is replaced."""
    raw_text: str = field(repr=False)
    """The reply as the model wrote it, without its end marker."""
    objects: tuple[KnownObject, ...]
    """Objects that were prompted with the question, then those that the reply segments, in order."""
    clip: Clip
    question: str = ""
    tokens: tuple[int, ...] = field(default=(), repr=False)
    """Token ids of the reply."""
    is_loop: bool = False
    """Whether the model repeated itself and was stopped, see `generation.find_loop`; the text is cut off there."""
    timings: Timings = field(default_factory=Timings, repr=False)
    """Seconds per stage."""

    def __repr__(self) -> str:
        number = len(self.objects)
        words = self.text if len(self.text) <= 80 else f"{self.text[:77]}..."
        things = f"{number} object{'' if number == 1 else 's'}"
        return f"Answer({words!r}, {things}, {self.clip.media!r})"

    def _repr_html_(self) -> str:
        """For notebooks: `build_page`."""
        return build_page(self.to_annotations(), self.text)

    def _repr_png_(self) -> bytes | None:
        """For what shows pictures and no HTML: `image`; None if nothing was segmented, or the frames are gone."""
        try:
            return encode_png(shrink(draw_sheet(self.to_annotations()), SHOWN_SIDE)) if self.objects else None
        except (MediaError, OSError, ValueError):
            return None

    @classmethod
    def from_annotations(cls, annotations: Annotations) -> Answer:
        """An answer without words, whose objects are those of a file, as `formats.read_annotations` gives them.

        Raises:
            MediaError: the pictures are not known, see `Annotations.attach`, or not those that the masks are about.
        """
        objects = []
        for object_id, track in annotations.tracks.items():
            scores = annotations.scores.get(object_id, tuple(map(float, track.visible)))
            label = annotations.labels[object_id]
            objects.append(KnownObject(id=object_id, label=label, track=track, frame_scores=scores))
        media, indices = annotations.media, annotations.frame_indices
        clip = Clip(media, annotations.name, indices, annotations.fps or media.fps)
        return cls(text="", raw_text="", objects=tuple(objects), clip=clip)

    def to_annotations(self) -> Annotations:
        """The objects as every format takes them, see `unipixel.formats`."""
        media = self.clip.media
        return Annotations(
            self.clip.source,
            media.size_hw,
            {one.id: one.track for one in self.objects},
            {one.id: one.label for one in self.objects},
            {one.id: one.frame_scores for one in self.objects},
            frame_indices=self.clip.frame_indices,
            fps=self.clip.fps,
            is_video=media.is_video,
            pictures=media,
        )

    def to_json(self) -> dict[str, Any]:
        """The answer as plain JSON values."""
        return {
            "question": self.question,
            "text": self.text,
            "raw_text": self.raw_text,
            "media": describe_media(self.to_annotations()),
            "objects": [one.to_json() for one in self.objects],
            "num_tokens": len(self.tokens),
            "is_loop": self.is_loop,
            "timings_s": {stage: round(seconds, 6) for stage, seconds in self.timings.items()},
        }

    def to_coco(self, *, polygons: bool = False) -> dict[str, Any]:
        """The objects as a COCO dataset: one image per frame, one annotation per object and frame it is visible on.

        Image ids are frames of the clip, ``frame_index`` those of the source; ``track_id`` is the object's id. A still
        is called as its source, a frame of a video ``frame_`` and its index in six digits, as annotation tools do.

        Args:
            polygons: write outlines, which COCO draws as the same masks, instead of run lengths.
        """
        return build_coco([self.to_annotations()], polygons=polygons)

    def to_davis(self, folder: str | Path) -> list[Path]:
        """Write one palette PNG per frame, pixel value = object id, named by the frame's index in the source.

        Where objects overlap, the one with the higher score on that frame wins.

        Raises:
            ValueError: an object id is above 255, the most that such a PNG can hold.
        """
        return write_davis_frames(self.to_annotations(), Path(folder), Losses())

    def to_supervision(self) -> list[Any]:
        """One ``supervision.Detections`` per frame: masks, boxes, scores, and the object ids as tracker ids.

        Classes are the labels, numbered in the order of the objects, with the words in ``data["class_name"]``.

        Raises:
            ImportError: the package ``supervision`` is not installed.
        """
        return to_supervision(self.to_annotations())

    def to_fiftyone(self, filepath: str | Path | None = None) -> Any:
        """A ``fiftyone.Sample`` with the objects in its field ``objects``, of a clip in that of its frames.

        Args:
            filepath: the picture or the video file; by default the source.

        Raises:
            ImportError: the package ``fiftyone`` is not installed.
            ValueError: the source is no file.
        """
        return to_fiftyone(self.to_annotations(), filepath)

    def export(self, path: str | Path, kind: str | None = None, *, polygons: bool = False) -> list[Path]:
        """Write the objects in the format of a tool, such as ``"yolo"``; see `unipixel.formats.write_annotations`.

        Raises:
            DatasetError: the format cannot hold these objects, or not under this name.
            ValueError: the format is not known.

        Warns:
            UserWarning: of what the format has no place for.
        """
        return write_annotations([self.to_annotations()], path, kind, polygons=polygons)

    def draw(self, t: int | None = None) -> np.ndarray:
        """The clip with masks and labels drawn over it.

        Args:
            t: one frame of the clip; None for all of them.

        Returns:
            uint8 (H, W, 3) for one frame or a still image, else (T, H, W, 3).
        """
        if t is None and len(self.clip.frame_indices) > 1:
            return np.stack(list(draw_frames(self.to_annotations())))
        return draw_frame(self.to_annotations(), t or 0)

    @property
    def image(self) -> Image.Image:
        """The picture with masks at its own size; of a clip, a sheet of up to 8 frames, as ``save("a.png")`` writes.

        Raises:
            MediaError: the frames cannot be read any more.
        """
        return Image.fromarray(draw_sheet(self.to_annotations()))

    def save(self, path: str | Path) -> Path:
        """Write the answer in the form that the name asks for.

        ``.json``: `to_json`. ``.png``: the picture, or for a video a sheet of up to 8 frames, with masks. ``.gif``,
        ``.mp4``: all frames with masks. A name without suffix: a folder with ``answer.json``, an overlay, and
        ``masks/`` as from `to_davis`.

        Raises:
            ValueError: another suffix.
        """
        path = Path(path)
        kind = path.suffix.lower()
        (path if not kind else path.parent).mkdir(parents=True, exist_ok=True)
        if kind == ".json":
            write_text(path, json.dumps(self.to_json(), indent=1) + "\n", sync=False)
        elif kind in (".png", ".gif", ".mp4"):
            write_overlay([self.to_annotations()], path, Losses())
        elif not kind:
            self.save(path / "answer.json")
            self.save(path / ("overlay.mp4" if len(self.clip.frame_indices) > 1 else "overlay.png"))
            self.to_davis(path / "masks")
        else:
            raise ValueError(f"an answer cannot be saved as {path.suffix!r}; use .json, .png, .gif, .mp4 or a folder")
        return path


Piece: TypeAlias = str | MaskPiece | Answer
"""Words of an answer as they are written, masks as they are tracked, and at the end the whole answer."""


SPANS = 256
"""Stages that a clock holds, at most twice as many, before it turns them into seconds."""


class Clock:
    """Adds up the seconds spent in named stages. A stage inside another is taken out of the outer one.

    On CUDA stages are marked by events that the device passes, so that nothing waits for it before the seconds are
    asked for; on other accelerators each stage waits for its work to finish.

    Args:
        device: where the work is done; None and the CPU are the same.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.counts: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._device = device
        self._open: list[str] = []
        self._spans: list[tuple[str, str | None, Any, Any]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Book the time until the end of the block under ``name``."""
        outer = self._open[-1] if self._open else None
        started = self._mark()
        self._open.append(name)
        try:
            yield
        finally:
            self._open.pop()
            self._spans.append((name, outer, started, self._mark()))
            if len(self._spans) > 2 * SPANS:
                self._book(SPANS)  # long passed

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage since the last `take`; waits for work that is still under way."""
        self._book(len(self._spans))
        return self._seconds

    def add(self, seconds: Mapping[str, float]) -> None:
        """Book time that was measured elsewhere."""
        for name, spent in seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + spent

    def count(self, name: str, number: int = 1) -> None:
        """Add to the number of things that a stage has done, such as tokens or frames."""
        self.counts[name] = self.counts.get(name, 0) + number

    def take(self) -> Timings:
        """Everything booked since the last call, in the order of `STAGES`; the clock starts again at zero."""
        seconds = self.seconds
        timings = Timings({s: seconds.get(s, 0.0) for s in STAGES}, dict(self.counts))
        self._seconds, self.counts = {}, {}
        return timings

    def _book(self, count: int) -> None:
        """Turn the oldest spans into seconds."""
        spans, self._spans = self._spans[:count], self._spans[count:]
        for name, outer, started, ended in spans:
            spent = self._measure(started, ended)
            self.add({name: spent} if outer is None else {name: spent, outer: -spent})

    def _mark(self) -> Any:
        """This moment: of the device where it keeps its own time."""
        kind = "cpu" if self._device is None else self._device.type
        if kind == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            return event
        if kind == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    @staticmethod
    def _measure(started: Any, ended: Any) -> float:
        if isinstance(started, float):
            return float(ended - started)
        ended.synchronize()
        return float(started.elapsed_time(ended)) / 1000
