"""Every way in which the datasets write masks down, read into ``bool`` arrays and mask tracks.

| encoding | as found in | read by |
|---|---|---|
| COCO run lengths: text, bytes or a list of counts, or nothing | ReVOS, MeViS, ... | `rle_to_mask`, `rles_to_track` |
| COCO polygons, or lists of polygons and run lengths | RefCOCO, PACO, Osprey, ... | `regions_to_mask` |
| PNG whose pixels are object or class ids | GroundMoRe, ADE20K, COCO-Stuff, Mapillary | `read_id_mask` |
| labelled outlines with regions to ignore | ReasonSeg | `draw_lisa_masks` |
| SA-V masklets: frame by frame, every 4th frame of the video | Ref-SAV | `sav_to_track` |
| ViCaS lists: frame by frame, the regions of several tracks | ViCaS | `read_vicas_track` |

Argument ``where`` names dataset and record (or file) in messages. Masks must have the size of their frames: a mask of
another size is refused and not stretched over a picture that it was not drawn on.

Differs: the released reader stretches every mask to its frame.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from unipixel.data.files import get_field, read_json
from unipixel.errors import DatasetError, MediaError
from unipixel.masks import (
    MaskTrack,
    Rle,
    area_rle,
    decode_rle,
    encode_rle,
    load_index_png,
    parse_rle,
    polygons_to_mask,
    rasterize_polygon,
    union_rles,
)

_LISA_LABELS = ("target", "ignore", "flag")


def rle_to_mask(value: Mapping[str, Any] | None, size_hw: tuple[int, int], where: str) -> np.ndarray:
    """The mask of one RLE, bool (H, W); of nothing, an empty mask.

    Args:
        value: ``size`` and ``counts``, the counts as text, bytes or COCO's uncompressed list; or None.
        size_hw: size of the picture.
        where: what messages call it.

    Raises:
        DatasetError: it is malformed or of another size.
    """
    if value is None:
        return np.zeros(size_hw, dtype=bool)
    return decode_rle(_check_rle(value, size_hw, where))


def regions_to_mask(
    regions: Sequence[Any] | Mapping[str, Any] | None,
    size_hw: tuple[int, int],
    where: str,
) -> np.ndarray:
    """The union of COCO regions, bool (H, W).

    Args:
        regions: an RLE; one polygon as a flat list x1, y1, x2, y2, ...; a list of polygons, RLEs, lists of polygons
            and None; or None.
        size_hw: size of the picture.
        where: what messages call it.

    Raises:
        DatasetError: a region is malformed, or an RLE of another size.
    """
    polygons: list[Any] = []
    mask = np.zeros(size_hw, dtype=bool)
    for region in _flatten_regions(regions, where):
        if isinstance(region, Mapping):
            mask |= rle_to_mask(region, size_hw, where)
        else:
            polygons.append(region)
    if polygons:
        try:
            mask |= polygons_to_mask(polygons, size_hw)
        except ValueError as error:
            raise DatasetError(f"{where}: {error}") from error
    return mask


def read_id_mask(path: Path, ids: Collection[int], where: str) -> np.ndarray:
    """The pixels of an id PNG whose value is one of ``ids``, bool (H, W).

    Raises:
        DatasetError: the file is missing, damaged, or a picture in colours.
    """
    return np.isin(read_index_png(path, where), list(ids))


def read_index_png(path: Path, where: str) -> np.ndarray:
    """A PNG of object or class numbers, uint8 or uint16 (H, W).

    Raises:
        DatasetError: the file is missing, damaged, or a picture in colours.
    """
    if not path.is_file():
        raise DatasetError(f"{where}: the mask file {path} does not exist; fetch the dataset's masks again")
    try:
        return load_index_png(path)
    except MediaError as error:
        raise DatasetError(f"{where}: {error}; fetch it again") from error


def draw_lisa_masks(shapes: Sequence[Any], size_hw: tuple[int, int], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Target and region to ignore of a ReasonSeg annotation, two bool (H, W) that do not overlap.

    Outlines are drawn and filled as OpenCV does, corners cut down to whole pixels, the largest first, so that a small
    shape lies above the large one it is part of, whichever of the two is to be ignored; of equals, the last first.
    Shapes labelled ``flag`` are skipped.

    Args:
        shapes: each ``{"label": "target" or "ignore" or "flag", "points": [[x, y], ...]}``.
        size_hw: size of the picture.
        where: what messages call it.

    Raises:
        DatasetError: a label is unknown or an outline malformed.

    Differs: the released reader draws the value -1 into unsigned bytes, which turns ignored regions into background.
    """
    drawn = []
    for number, shape in enumerate(shapes):
        place = f"{where}, shape {number}"
        label = get_field(shape, "label", place, str)
        if label not in _LISA_LABELS:
            raise DatasetError(f"{place}: the label is {label!r}; it should be one of {', '.join(_LISA_LABELS)}")
        if label != "flag":
            drawn.append((label, _fill_outline(get_field(shape, "points", place, list), size_hw, place)))
    target, ignore = np.zeros(size_hw, dtype=bool), np.zeros(size_hw, dtype=bool)
    for label, mask in sorted(drawn, key=lambda item: int(item[1].sum()))[::-1]:
        target[mask], ignore[mask] = label == "target", label == "ignore"
    return target, ignore


def build_track(
    masks: Iterable[np.ndarray | None], *, size_hw: tuple[int, int] | None = None, where: str = "masks"
) -> MaskTrack:
    """The track of one mask per frame, bool (H, W) or None where the object is not there.

    Args:
        masks: one per frame; an empty one counts as not there.
        size_hw: size of the frames; only needed where every mask is None.
        where: what messages call it.

    Raises:
        DatasetError: two sizes, no frame at all, or nothing but None and no ``size_hw``.
    """
    return _join_rles([None if mask is None else encode_rle(mask) for mask in masks], size_hw, where)


def rles_to_track(
    frames: Iterable[Sequence[Mapping[str, Any] | None]], size_hw: tuple[int, int] | None, where: str
) -> MaskTrack:
    """The track of an object given by run lengths, without unpacking them into pixels.

    Args:
        frames: per frame the RLEs whose union the object is, None and empty ones among them.
        size_hw: size of the frames; None: the size of the first RLE.
        where: what messages call it.

    Raises:
        DatasetError: an RLE is malformed or of another size than the others or the frames, or nothing is visible and
            no ``size_hw`` given.
    """
    unions: list[Rle | None] = []
    for t, rles in enumerate(frames):
        found = [_check_rle(rle, size_hw, f"{where}, frame {t}") for rle in rles if rle is not None]
        try:
            unions.append(union_rles(found) if len(found) > 1 else found[0] if found else None)
        except ValueError as error:
            raise DatasetError(f"{where}, frame {t}: {error}") from error
    return _join_rles(unions, size_hw, where)


def sav_to_track(document: Mapping[str, Any], obj: int, frames: Sequence[int], where: str) -> MaskTrack:
    """One object of an SA-V annotation.

    Args:
        document: the JSON of a video.
        obj: place of the object in the lists of masks.
        frames: which masks; mask k belongs to frame 4k of the video.
        where: what messages call it.

    Raises:
        DatasetError: a field is missing, or there is no such mask.
    """
    masklet = get_field(document, "masklet", where, list)
    size_hw = (
        int(get_field(document, "video_height", where, (int, float))),
        int(get_field(document, "video_width", where, (int, float))),
    )
    rles = []
    for t in frames:
        objects = _get_item(masklet, t, "mask frame", where)
        if not isinstance(objects, list):
            raise DatasetError(
                f"{where}: mask frame {t} is {objects!r:.60}; it should be a list with one RLE per object"
            )
        rles.append([_get_item(objects, obj, f"mask of frame {t}, object", where)])
    return rles_to_track(rles, size_hw, where)


def read_vicas_track(
    path: Path, frames: Sequence[int], where: str, *, size_hw: tuple[int, int] | None = None, total: int | None = None
) -> MaskTrack:
    """The union of the tracks that a ViCaS mask file lists frame by frame.

    Args:
        path: JSON: per annotated frame a list of RLE or null.
        frames: which of the annotated frames.
        where: what messages call it.
        size_hw: size of the frames; None: that of the first RLE.
        total: how many frames the file must hold; None: any number.

    Raises:
        DatasetError: the file is missing or damaged, or holds another number of frames.
    """
    listed = read_json(path, where, list)
    if total is not None and len(listed) != total:
        raise DatasetError(f"{where}: {path} holds the masks of {len(listed)} frames; the video has {total}")
    rles = []
    for t in frames:
        regions = _get_item(listed, t, "mask frame", f"{where}: {path}")
        rles.append(list(_flatten_regions(regions, where)))
        if any(not isinstance(region, Mapping) for region in rles[-1]):
            raise DatasetError(f"{where}: {path}: frame {t} holds {regions!r:.60}; it should be a list of RLEs or null")
    return rles_to_track(rles, size_hw, where)


def _check_rle(value: Any, size_hw: tuple[int, int] | None, where: str) -> Rle:
    try:
        rle = parse_rle(value)
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from error
    if size_hw is not None and tuple(rle["size"]) != tuple(size_hw):
        raise DatasetError(f"{where}: {_describe_sizes(rle['size'], size_hw)}")
    return rle


def _describe_sizes(mask_hw: Sequence[int], size_hw: Sequence[int]) -> str:
    return (
        f"the mask is {mask_hw[0]} x {mask_hw[1]} (height x width), but its picture {size_hw[0]} x {size_hw[1]}; "
        "masks and pictures must come from the same release of the dataset"
    )


def _flatten_regions(regions: Any, where: str) -> Iterable[Any]:
    """RLEs and flat polygons out of whatever nesting of lists holds them."""
    if regions is None:
        return []
    if isinstance(regions, Mapping):
        return [regions]
    if not isinstance(regions, (list, tuple)):
        raise DatasetError(f"{where}: a region is {regions!r:.60}; it should be a polygon, an RLE, or a list of them")
    if regions and all(isinstance(number, (int, float)) for number in regions):
        return [regions]
    return chain.from_iterable(_flatten_regions(region, where) for region in regions)


def _fill_outline(points: list[Any], size_hw: tuple[int, int], where: str) -> np.ndarray:
    """A filled outline with its edge pixels, bool (H, W); corners are cut down to whole pixels as in LISA."""
    try:
        corners = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.ndim != 2 or corners.shape[1] != 2 or not len(corners):
        raise DatasetError(f"{where}: the points are {points!r:.60}; they should be a list of [x, y]")
    if not (np.abs(corners) <= 1000 + 10 * max(size_hw)).all():  # also refuses what is no number
        raise DatasetError(f"{where}: a point is not finite or far outside of the {size_hw[1]} x {size_hw[0]} picture")
    return rasterize_polygon(corners.astype(np.int64), size_hw)


def _get_item(values: Sequence[Any], index: int, what: str, where: str) -> Any:
    if not 0 <= index < len(values):
        raise DatasetError(f"{where}: there is no {what} {index}; the annotation has {len(values)}")
    return values[index]


def _join_rles(rles: list[Rle | None], size_hw: tuple[int, int] | None, where: str) -> MaskTrack:
    sizes = {tuple(rle["size"]) for rle in rles if rle is not None} | ({tuple(size_hw)} if size_hw else set())
    if not rles or not sizes:
        raise DatasetError(f"{where}: {len(rles)} frames without a single mask have no size; state the frames' size")
    if len(sizes) > 1:
        found = " and ".join(f"{height} x {width}" for height, width in sorted(sizes))
        raise DatasetError(f"{where}: masks must all have the size of their frames, but there are {found}")
    ((height, width),) = sizes
    return MaskTrack((height, width), tuple(rle if rle is not None and area_rle(rle) else None for rle in rles))
