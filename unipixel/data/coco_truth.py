"""What of a COCO annotation may count as truth: which segmentations are masks, and which ids name one thing."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from unipixel.data.files import get_field
from unipixel.data.instances import pack_region
from unipixel.errors import DatasetError

CORNERS = 3
"""Fewest corners of a polygon; less is a point or a line and has no inside."""


def parse_region(segmentation: Any, place: str) -> tuple[Any, str]:
    """A segmentation as `instances.instance_mask` takes it, and, if it is no mask, the reason; of two, one is empty.

    An empty list, which tools write for rectangles, polygons of one or two corners and run lengths without a pixel are
    no masks: taught as such they would say that the object is not there.

    Raises:
        DatasetError: neither polygons nor run lengths.
    """
    if segmentation is None or segmentation == []:
        return None, "without a mask"
    if isinstance(segmentation, list):
        if all(isinstance(number, (int, float)) for number in segmentation):
            segmentation = [segmentation]  # one polygon without the list around it
        kept = [part for part in segmentation if not _is_line(part)]
        if not kept:
            return None, f"of polygons with fewer than {CORNERS} corners"
        region = pack_region(kept, place)
        if all(isinstance(part, dict) and _is_empty(part) for part in kept):
            return None, "with run lengths that hold no pixel"
        return region, ""
    region = pack_region(segmentation, place)
    return (None, "with run lengths that hold no pixel") if _is_empty(region) else (region, "")


def _is_line(part: Any) -> bool:
    """Whether a part of a segmentation is a polygon without an inside."""
    is_polygon = isinstance(part, list) and all(isinstance(number, (int, float)) for number in part)
    return is_polygon and len(part) < 2 * CORNERS


def _is_empty(rle: Mapping[str, Any]) -> bool:
    """Whether run lengths say that no pixel is set; malformed ones are told when they are read."""
    counts = rle.get("counts")
    if isinstance(counts, list):
        return all(isinstance(run, int) for run in counts) and not any(counts[1::2])
    if isinstance(counts, (str, bytes)) and counts:
        # one number: every character but its last says that it goes on
        codes = counts.encode() if isinstance(counts, str) else counts
        return all((code - 48) & 0x20 for code in codes[:-1])
    return not counts


class UniqueIds:
    """Ids of one kind, each of which may stand for one thing only.

    Args:
        what: the kind, such as "image".
        where: dataset and file.
    """

    def __init__(self, what: str, where: str) -> None:
        self._what, self._where = what, where
        self._meant: dict[Hashable, str] = {}

    def add(self, row: Mapping[str, Any], meant: str, place: str) -> Any:
        """The id of a row that stands for ``meant``.

        Raises:
            DatasetError: it has none, or it stands for something else already; names both.
        """
        value = get_field(row, "id", place, (int, str))
        before = self._meant.setdefault(value, meant)
        if before != meant:
            raise DatasetError(
                f"{self._where}: the {self._what} id {value!r} stands for {before!r} and for {meant!r}; give each its "
                "own, or masks and names land on the wrong one"
            )
        return value
