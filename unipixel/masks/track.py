"""An object's masks over the frames of a clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pycocotools import mask as coco

from unipixel.checks import shorten
from unipixel.masks.geometry import mask_to_polygons
from unipixel.masks.rle import (
    Rle,
    area_rle,
    check_size_hw,
    decode_rle,
    encode_rle,
    format_size,
    iou_rles,
    parse_rle,
    union_rles,
)


@dataclass(frozen=True, repr=False)
class MaskTrack:
    """One object's masks over the frames of a clip, held as run lengths.

    Raises:
        ValueError: No frame at all, or a mask of another size than the track's.
    """

    size_hw: tuple[int, int]
    """Height and width in source pixels."""
    rles: tuple[Rle | None, ...]
    """One mask per frame of the clip; None where the object is not visible."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "size_hw", check_size_hw(tuple(self.size_hw)))
        object.__setattr__(self, "rles", tuple(self.rles))
        if not self.rles:
            raise ValueError("a mask track needs at least one frame, got none")
        for t, rle in enumerate(self.rles):
            if rle is not None and tuple(rle["size"]) != self.size_hw:
                raise ValueError(
                    f"the mask of frame {t} is {format_size(rle['size'])}, but its track is {format_size(self.size_hw)}"
                )

    def __repr__(self) -> str:
        seen = sum(rle is not None for rle in self.rles)
        return f"MaskTrack({format_size(self.size_hw)}, on {seen} of {self.num_frames} frames)"

    @classmethod
    def from_masks(cls, masks: np.ndarray) -> MaskTrack:
        """The track of bool (T, H, W) masks; an empty mask becomes "not visible"."""
        masks = np.asarray(masks)
        if masks.ndim != 3 or not len(masks):
            raise ValueError(f"masks must have the shape (T, H, W) with T of at least 1, not {masks.shape}")
        height, width = masks.shape[1:]
        return cls((int(height), int(width)), tuple(encode_rle(mask) if mask.any() else None for mask in masks))

    @property
    def num_frames(self) -> int:
        """Number of frames T."""
        return len(self.rles)

    @property
    def masks(self) -> np.ndarray:
        """All masks, bool (T, H, W)."""
        return np.stack([self.mask(t) for t in range(self.num_frames)])

    def mask(self, t: int) -> np.ndarray:
        """The mask of frame ``t``, bool (H, W)."""
        rle = self.rles[t]
        return np.zeros(self.size_hw, dtype=bool) if rle is None else decode_rle(rle)

    @cached_property
    def areas(self) -> np.ndarray:
        """Pixels per frame, int (T,)."""
        return np.array([0 if rle is None else area_rle(rle) for rle in self.rles], dtype=np.int64)

    @property
    def visible(self) -> np.ndarray:
        """Whether the object is seen, bool (T,)."""
        return self.areas > 0

    @cached_property
    def boxes(self) -> np.ndarray:
        """Tight boxes x1, y1, x2, y2 in pixels, right and bottom exclusive, float (T, 4); nan where absent."""
        boxes = np.full((self.num_frames, 4), np.nan)
        for t in np.flatnonzero(self.visible):
            x, y, width, height = coco.toBbox(self.rles[t])
            boxes[t] = x, y, x + width, y + height
        return boxes

    def union(self, other: MaskTrack) -> MaskTrack:
        """The pixels of either track, frame by frame."""
        self._check_like(other)
        pairs = zip(self.rles, other.rles, strict=True)
        unions = (a if b is None else b if a is None else union_rles([a, b]) for a, b in pairs)
        return MaskTrack(self.size_hw, tuple(unions))

    def iou(self, other: MaskTrack) -> np.ndarray:
        """Intersection over union per frame, float (T,); 1 where neither is visible."""
        self._check_like(other)
        scores = (self.visible == other.visible).astype(np.float64)
        for t in np.flatnonzero(self.visible & other.visible):
            first, second = self.rles[t], other.rles[t]
            if first is not None and second is not None:
                scores[t] = iou_rles(first, second)
        return scores

    def polygons(self, t: int) -> list[list[float]]:
        return mask_to_polygons(self.mask(t))

    def to_json(self) -> dict[str, Any]:
        return {"size": list(self.size_hw), "rles": [None if rle is None else dict(rle) for rle in self.rles]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MaskTrack:
        """The track that :meth:`to_json` wrote, with every run length checked.

        Raises:
            ValueError: A key is missing or a mask malformed.
        """
        if not isinstance(value, Mapping) or not isinstance(value.get("rles"), (list, tuple)):
            raise ValueError(f"a mask track must be a mapping with 'size' and a list 'rles', not {shorten(value)}")
        rles = tuple(None if rle is None else parse_rle(rle) for rle in value["rles"])
        return cls(check_size_hw(value.get("size")), rles)

    def _check_like(self, other: MaskTrack) -> None:
        if self.size_hw != other.size_hw or self.num_frames != other.num_frames:
            raise ValueError(
                "two mask tracks must have one length and size, not "
                f"{self.num_frames} frames of {format_size(self.size_hw)} and "
                f"{other.num_frames} frames of {format_size(other.size_hw)}"
            )
