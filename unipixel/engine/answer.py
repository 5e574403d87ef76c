"""What comes back from a question: text, objects with masks over the clip, and the ways to take them elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from unipixel import draw
from unipixel.atomic import write_text
from unipixel.engine.memory import KnownObject
from unipixel.masks import Rle, decode_rle, save_davis_png
from unipixel.media import Media

SHEET_FRAMES = 8
"""Frames of a video that a single picture of it shows."""
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """A reply with everything it speaks of."""

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
    timings: Timings = field(default_factory=Timings, repr=False)
    """Seconds per stage."""

    def to_json(self) -> dict[str, Any]:
        """The answer as plain JSON values."""
        height, width = self.clip.media.size_hw
        return {
            "question": self.question,
            "text": self.text,
            "raw_text": self.raw_text,
            "media": {
                "source": self.clip.source,
                "height": height,
                "width": width,
                "fps": self.clip.fps,
                "frame_indices": list(self.clip.frame_indices),
            },
            "objects": [one.to_json() for one in self.objects],
            "num_tokens": len(self.tokens),
            "timings_s": {stage: round(seconds, 6) for stage, seconds in self.timings.items()},
        }

    def to_coco(self) -> dict[str, Any]:
        """The objects as a COCO dataset: one image per frame, one annotation per object and frame it is visible on.

        Image ids are frames of the clip, ``frame_index`` those of the source; ``track_id`` is the object's id. A still
        is called as its source, a frame of a video ``frame_`` and its index in six digits, as annotation tools do.
        """
        height, width = self.clip.media.size_hw
        labels = list(dict.fromkeys(one.label or "object" for one in self.objects))
        is_video = self.clip.media.is_video
        images = [
            {
                "id": t,
                "width": width,
                "height": height,
                "file_name": f"frame_{index:06d}.png" if is_video else self.clip.source,
                "source": self.clip.source,
                "frame_index": index,
            }
            for t, index in enumerate(self.clip.frame_indices)
        ]
        annotations: list[dict[str, Any]] = []
        for one in self.objects:
            for t in np.flatnonzero(one.visible).tolist():
                x1, y1, x2, y2 = (float(v) for v in one.boxes[t])
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": t,
                        "category_id": labels.index(one.label or "object") + 1,
                        "track_id": one.id,
                        "segmentation": one.track.rles[t],
                        "area": int(one.track.areas[t]),
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "iscrowd": 0,
                        "score": one.frame_scores[t],
                    }
                )
        categories = [{"id": number, "name": label} for number, label in enumerate(labels, start=1)]
        return {"images": images, "annotations": annotations, "categories": categories}

    def to_davis(self, folder: str | Path) -> list[Path]:
        """Write one palette PNG per frame, pixel value = object id, named by the frame's index in the source.

        Where objects overlap, the one with the higher score on that frame wins.

        Raises:
            ValueError: an object id is above 255, the most that such a PNG can hold.
        """
        largest = max((one.id for one in self.objects), default=0)
        if largest > 255:
            raise ValueError(f"object id {largest} does not fit a palette PNG; ids must be at most 255")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for t, index in enumerate(self.clip.frame_indices):
            pixels = np.zeros(self.clip.media.size_hw, dtype=np.uint8)
            for one in sorted(self.objects, key=lambda o: o.frame_scores[t]):
                if one.track.rles[t] is not None:
                    pixels[one.track.mask(t)] = one.id
            paths.append(folder / f"{index:05d}.png")
            save_davis_png(pixels, paths[-1])
        return paths

    def to_supervision(self) -> list[Any]:
        """One ``supervision.Detections`` per frame: masks, boxes, scores, and the object ids as tracker ids.

        Classes are the labels, numbered in the order of the objects, with the words in ``data["class_name"]``.

        Raises:
            ImportError: the package ``supervision`` is not installed.
        """
        try:
            supervision = import_module("supervision")
        except ImportError as error:
            raise ImportError(
                "to_supervision needs the package 'supervision', which is not installed; pip install supervision"
            ) from error
        frames = []
        labels = list(dict.fromkeys(one.label or "object" for one in self.objects))
        for t in range(len(self.clip.frame_indices)):
            seen = [one for one in self.objects if one.track.rles[t] is not None]
            if not seen:
                frames.append(supervision.Detections.empty())
                continue
            frames.append(
                supervision.Detections(
                    xyxy=np.stack([one.boxes[t] for one in seen]),
                    mask=np.stack([one.track.mask(t) for one in seen]),
                    confidence=np.array([one.frame_scores[t] for one in seen]),
                    class_id=np.array([labels.index(one.label or "object") for one in seen]),
                    tracker_id=np.array([one.id for one in seen]),
                    data={"class_name": np.array([one.label or "object" for one in seen])},
                )
            )
        return frames

    def draw(self, t: int | None = None) -> np.ndarray:
        """The clip with masks and labels drawn over it.

        Args:
            t: one frame of the clip; None for all of them.

        Returns:
            uint8 (H, W, 3) for one frame or a still image, else (T, H, W, 3).
        """
        if t is None and len(self.clip.frame_indices) > 1:
            return np.stack(list(self._draw_frames()))
        return self._draw_overlay(self.clip.media.frame(t or 0), t or 0)

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
        elif kind == ".png":
            draw.write_png(self._draw_sheet(), path)
        elif kind == ".gif":
            draw.write_gif(self._draw_frames(), path, **self._compute_fps())
        elif kind == ".mp4":
            draw.write_mp4(self._draw_frames(), path, **self._compute_fps())
        elif not kind:
            self.save(path / "answer.json")
            self.save(path / ("overlay.mp4" if len(self.clip.frame_indices) > 1 else "overlay.png"))
            self.to_davis(path / "masks")
        else:
            raise ValueError(f"an answer cannot be saved as {path.suffix!r}; use .json, .png, .gif, .mp4 or a folder")
        return path

    def _compute_fps(self) -> dict[str, float]:
        """Frames per second at which the clip plays as long as its source does."""
        indices = self.clip.frame_indices
        if not self.clip.fps or len(indices) < 2:
            return {}
        return {"fps": self.clip.fps * (len(indices) - 1) / max(indices[-1] - indices[0], 1)}

    def _draw_frames(self) -> Iterator[np.ndarray]:
        for t, frame in enumerate(self.clip.media):
            yield self._draw_overlay(frame, t)

    def _draw_overlay(self, frame: np.ndarray, t: int) -> np.ndarray:
        seen = [one for one in self.objects if one.track.rles[t] is not None]
        return draw.overlay(
            frame,
            (one.track.mask(t) for one in seen),
            labels=[f"{one.id} {one.label}".strip() for one in seen],
            ids=[one.id for one in seen],
        )

    def _draw_sheet(self) -> np.ndarray:
        total = len(self.clip.frame_indices)
        if total == 1:
            return self.draw(0)
        shown: Sequence[int] = sorted({round(i) for i in np.linspace(0, total - 1, min(SHEET_FRAMES, total))})
        captions = [f"frame {self.clip.frame_indices[t]}" for t in shown]
        return draw.make_contact_sheet([self.draw(t) for t in shown], captions)


Piece: TypeAlias = str | MaskPiece | Answer
"""Words of an answer as they are written, masks as they are tracked, and at the end the whole answer."""


class Clock:
    """Adds up the seconds spent in named stages. A stage inside another is taken out of the outer one.

    Args:
        device: on an accelerator each stage waits for its work to finish, so that the time is booked where it belongs.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self._device = device
        self._inner: list[float] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Book the time until the end of the block under ``name``."""
        self._wait()
        started = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            self._wait()
            spent = time.perf_counter() - started
            self.add({name: spent - self._inner.pop()})
            if self._inner:
                self._inner[-1] += spent

    def add(self, seconds: Mapping[str, float]) -> None:
        """Book time that was measured elsewhere."""
        for name, spent in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def count(self, name: str, number: int = 1) -> None:
        """Add to the number of things that a stage has done, such as tokens or frames."""
        self.counts[name] = self.counts.get(name, 0) + number

    def take(self) -> Timings:
        """Everything booked since the last call, in the order of `STAGES`; the clock starts again at zero."""
        timings = Timings({s: self.seconds.get(s, 0.0) for s in STAGES}, dict(self.counts))
        self.seconds, self.counts = {}, {}
        return timings

    def _wait(self) -> None:
        if self._device is None or self._device.type == "cpu":
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
