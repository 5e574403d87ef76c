"""COCO files: instances, put together picture by picture and video by video, and which of them have a usable mask.

Masks stay as the file has them, but small: a polygon as an array of numbers instead of a list of Python floats, which
takes a quarter of the memory and matters with a million annotations in one file.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from unipixel.data.encodings import regions_to_mask
from unipixel.data.files import get_field, read_json
from unipixel.data.labels import parse_expressions
from unipixel.data.records import Box, Instance
from unipixel.errors import DatasetError
from unipixel.media.sources import build_sort_key


def read_instances(path: Path, dataset: str) -> tuple[dict[Any, CocoClip], list[dict[str, Any]], dict[Any, str]]:
    """The tables of a COCO instance file: pictures by id, without their objects; annotations; categories by id.

    Annotations are checked one by one in `parse_instance`.

    Raises:
        DatasetError: missing, damaged, or not in COCO's layout.
    """
    document = read_json(path, dataset)
    where = f"{dataset}: {path}"
    pictures = {}
    for number, image in enumerate(get_field(document, "images", where, list)):
        place = f"{where}, image {number}"
        size_hw = _read_size(image, place)
        pictures[get_field(image, "id", place)] = CocoClip(
            (get_field(image, "file_name", place, str),), size_hw, is_video=False
        )
    categories = {}
    for number, category in enumerate(get_field(document, "categories", where, list)):
        place = f"{where}, category {number}"
        categories[get_field(category, "id", place)] = get_field(category, "name", place, str)
    return pictures, get_field(document, "annotations", where, list), categories


def parse_instance(annotation: Mapping[str, Any], categories: Mapping[Any, str], where: str) -> Instance:
    """One annotation of a picture, its mask that of frame 0.

    Raises:
        DatasetError: a field is missing or malformed, or its category is not in the file.
    """
    category = get_field(annotation, "category_id", where)
    if category not in categories:
        raise DatasetError(f"{where}: category {category!r} is not among the file's {len(categories)} categories")
    return Instance(
        id=get_field(annotation, "id", where),
        name=categories[category],
        regions={0: pack_region(get_field(annotation, "segmentation", where), where)},
        box_xyxy=parse_box(annotation.get("bbox"), where),
    )


def pack_region(segmentation: Any, where: str) -> Any:
    """COCO's ``segmentation`` in little memory.

    Raises:
        DatasetError: neither polygons nor RLEs.
    """
    if segmentation is None or isinstance(segmentation, dict):
        return segmentation
    if not isinstance(segmentation, list):
        raise DatasetError(f"{where}: the segmentation is {segmentation!r:.60}; it should be polygons or an RLE")
    try:
        return tuple(part if part is None or isinstance(part, dict) else array("d", part) for part in segmentation)
    except TypeError as error:
        raise DatasetError(f"{where}: a polygon is not a list of numbers ({error})") from error


def unpack_region(region: Any, size_hw: tuple[int, int], where: str) -> np.ndarray:
    """The pixels of a packed region, bool (H, W).

    Raises:
        DatasetError: it is malformed.
    """
    if isinstance(region, tuple):
        region = [part.tolist() if isinstance(part, array) else part for part in region]
    return regions_to_mask(region, size_hw, where)


def parse_box(bbox: Any, where: str) -> Box | None:
    """COCO's ``bbox`` x, y, width, height as corners.

    Raises:
        DatasetError: not four numbers.
    """
    if bbox is None:
        return None
    try:
        x, y, width, height = (float(value) for value in bbox)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{where}: the bbox is {bbox!r:.60}; it should be x, y, width, height") from error
    return x, y, x + width, y + height


CORNERS = 3
"""Fewest corners of a polygon; less is a point or a line and has no inside."""


def parse_region(segmentation: Any, place: str) -> tuple[Any, str]:
    """A segmentation as `unpack_region` takes it, and, if it is no mask, the reason; of two, one is empty.

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
    """Whether run lengths say that no pixel is set; malformed ones are refused when they are read."""
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


_FRAME_KEYS = ("frame_id", "frame_index")
_TRACK_KEYS = ("track_id", "instance_id")


@dataclass(slots=True)
class CocoClip:
    """A picture or video with its annotated objects."""

    frames: tuple[str, ...]
    size_hw: tuple[int, int]
    is_video: bool
    objects: dict[int, Instance] = field(default_factory=dict)
    """By number, from 1."""
    crowds: list[dict[int, Any]] = field(default_factory=list)
    """Packed masks by frame of crowds, and boxes of what has no outline."""
    incomplete_texts: set[str] = field(default_factory=set)
    """Names and expressions that objects without a mask have, too: their answer is not the whole truth."""
    unlocated_texts: set[str] = field(default_factory=set)
    """Those of them of which not even a box says where the rest of the truth lies."""
    frame_indices: list[int] = field(default_factory=list)
    """Number of each frame in its source, where the file says it."""
    fps: float | None = None


def read_clips(path: Path, dataset: str) -> tuple[dict[str, CocoClip], list[str], list[tuple[str, str]]]:
    """Pictures and videos by name that have an annotated object; the names of all; and what was left out.

    The last are reason and place of the annotations without a mask.

    Raises:
        DatasetError: the file is missing, damaged or in another layout, or nothing in it is annotated.
    """
    clips, left_out = read_all_clips(path, dataset)
    annotated = {name: clip for name, clip in clips.items() if clip.objects}
    if not annotated:
        why = f" with a mask; {len(left_out)} have none" if left_out else ""
        raise DatasetError(f"{dataset}: {path}: no picture and no video in it has an annotated object{why}")
    return annotated, list(clips), left_out


def read_all_clips(path: Path, dataset: str) -> tuple[dict[str, CocoClip], list[tuple[str, str]]]:
    """The same with those on which nothing is annotated.

    Raises:
        DatasetError: the file is missing, damaged or in another layout.
    """
    document, where = read_json(path, dataset), f"{dataset}: {path}"
    videos = document.get("videos")
    if isinstance(videos, list) and any(isinstance(video, dict) and "file_names" in video for video in videos):
        return _read_whole_videos(document, where)
    if any(isinstance(image, dict) and "video_id" in image for image in get_field(document, "images", where, list)):
        return _read_frame_by_frame(document, where)
    return _read_pictures(document, where)


_Read = tuple[dict[str, CocoClip], list[tuple[str, str]]]


def _read_pictures(document: Mapping[str, Any], where: str) -> _Read:
    clips: dict[str, CocoClip] = {}
    names, ids = {}, UniqueIds("image", where)
    for number, image in enumerate(get_field(document, "images", where, list)):
        place = f"{where}, image {number}"
        file_name = get_field(image, "file_name", place, str)
        name = file_name.replace("\\", "/")
        names[ids.add(image, name, place)] = name
        clip = CocoClip((file_name,), _read_size(image, place), is_video=False)
        if clips.setdefault(name, clip).size_hw != clip.size_hw:
            raise DatasetError(f"{place}: {file_name!r} is listed twice, in two sizes")

    def locate(annotation: dict[str, Any], place: str) -> _Located:
        clip = clips[_look_up(names, get_field(annotation, "image_id", place), "image", place)]
        region, defect = parse_region(get_field(annotation, "segmentation", place, (list, dict, type(None))), place)
        return clip, {0: region}, None, defect

    return clips, _add_objects(document, where, locate)


def _read_frame_by_frame(document: Mapping[str, Any], where: str) -> _Read:
    image_ids = UniqueIds("image", where)
    grouped: dict[Any, list[tuple[Any, dict[str, Any]]]] = {}
    for number, image in enumerate(document["images"]):
        place = f"{where}, image {number}"
        order = next((image[key] for key in _FRAME_KEYS if key in image), None)
        image_ids.add(image, get_field(image, "file_name", place, str), place)
        # Frames without a number keep the natural order of their names.
        key = (0, order, "") if isinstance(order, (int, float)) else (1, 0, build_sort_key(image["file_name"]))
        if "video_id" in image:
            grouped.setdefault(image["video_id"], []).append((key, image))
    titles, rates = _read_video_names(document, where), _read_rates(document)
    clips, frame_of = _read_single_pictures(document, where)
    for video_id, images in grouped.items():
        images.sort(key=lambda pair: pair[0])
        twice = next((pair for pair in pairwise(images) if pair[0][0] == pair[1][0]), None)
        if twice is not None:
            both = " and ".join(repr(image["file_name"]) for _, image in twice)
            raise DatasetError(
                f"{where}: {both} are the same frame of video {video_id!r}; which comes first is unknown"
            )
        name = titles.get(video_id, str(video_id))
        if name in clips:
            raise DatasetError(f"{where}: two videos are named {name!r}; give each a name of its own")
        first = images[0][1]
        clips[name] = CocoClip(
            tuple(image["file_name"] for _, image in images),
            _read_size(first, f"{where}, video {name!r}"),
            is_video=True,
            frame_indices=_read_numbers([order for (_, order, _), _ in images]),
            fps=rates.get(video_id),
        )
        frame_of.update({get_field(image, "id", where): (name, t) for t, (_, image) in enumerate(images)})

    def locate(annotation: dict[str, Any], place: str) -> _Located:
        name, t = _look_up(frame_of, get_field(annotation, "image_id", place), "image", place)
        track = next((annotation[key] for key in _TRACK_KEYS if key in annotation), None)
        if track is None and not annotation.get("iscrowd") and clips[name].is_video:
            raise DatasetError(
                f"{place}: it is on a frame of a video but has no 'track_id', which says what is one object"
            )
        region, defect = parse_region(get_field(annotation, "segmentation", place, (list, dict, type(None))), place)
        return clips[name], {t: region}, None if track is None else (name, track), defect

    return clips, _add_objects(document, where, locate)


def _read_single_pictures(
    document: Mapping[str, Any], where: str
) -> tuple[dict[str, CocoClip], dict[Any, tuple[str, int]]]:
    """The pictures that are no frame of a video, by name, and name and frame by image id."""
    clips: dict[str, CocoClip] = {}
    places: dict[Any, tuple[str, int]] = {}
    for image in document["images"]:
        if isinstance(image, dict) and "video_id" not in image:
            file_name = get_field(image, "file_name", where, str)
            clips[file_name] = CocoClip((file_name,), _read_size(image, f"{where}, {file_name!r}"), is_video=False)
            places[get_field(image, "id", where)] = (file_name, 0)
    return clips, places


def _read_whole_videos(document: Mapping[str, Any], where: str) -> _Read:
    clips: dict[str, CocoClip] = {}
    names, ids = {}, UniqueIds("video", where)
    titles = _read_video_names(document, where)
    for number, video in enumerate(document["videos"]):
        place = f"{where}, video {number}"
        frames = get_field(video, "file_names", place, list)
        if not frames or not all(isinstance(frame, str) for frame in frames):
            raise DatasetError(f"{place}: the file_names are {frames!r:.60}; they should be a list of names")
        video_id = ids.add(video, frames[0], place)
        name = titles.get(video_id) or Path(frames[0]).parent.as_posix()
        names[video_id] = name if name not in ("", ".") else str(video_id)
        if names[video_id] in clips:
            raise DatasetError(f"{place}: two videos are named {names[video_id]!r}; give each a name of its own")
        clips[names[video_id]] = CocoClip(
            tuple(frames),
            _read_size(video, place),
            is_video=True,
            frame_indices=_read_numbers(video.get("frame_indices")),
            fps=_read_rates({"videos": [video]}).get(video_id),
        )

    def locate(annotation: dict[str, Any], place: str) -> _Located:
        clip = clips[_look_up(names, get_field(annotation, "video_id", place), "video", place)]
        found = get_field(annotation, "segmentations", place, list)
        if len(found) != len(clip.frames):
            raise DatasetError(f"{place}: it has {len(found)} segmentations, but the video {len(clip.frames)} frames")
        regions, defects = {}, []
        boxes = annotation.get("bboxes")
        for t, one in enumerate(found):
            # null, or nothing and no box: it is not seen there
            if one is None or (one == [] and not (isinstance(boxes, list) and t < len(boxes) and boxes[t])):
                continue
            regions[t], defect = parse_region(one, f"{place}, frame {t}")
            defects += [defect] if defect else []
        return clip, regions, None, f"{defects[0]} on a frame that shows the object" if defects else ""

    return clips, _add_objects(document, where, locate)


_Located = tuple[CocoClip, dict[int, Any], Any, str]
_Locate = Callable[[dict[str, Any], str], _Located]
"""Says for an annotation: its clip, its masks by frame, what it has in common with others of the same object, and why
it is no truth; empty if it is."""


def _add_objects(document: Mapping[str, Any], where: str, locate: _Locate) -> list[tuple[str, str]]:
    """Put every annotation into its clip; returns reason and place of those that have no mask.

    An object that has none on one of the frames that show it is left out of all.
    """
    categories = {}
    ids = UniqueIds("category", where)
    for number, category in enumerate(get_field(document, "categories", where, list)):
        place = f"{where}, category {number}"
        name = get_field(category, "name", place, str).strip()
        categories[ids.add(category, name, place)] = name
    tracks: dict[Any, Instance] = {}
    unmasked: dict[int, tuple[CocoClip, list[Instance]]] = {}
    left_out: list[tuple[str, str]] = []
    for number, annotation in enumerate(get_field(document, "annotations", where, list)):
        place = f"{where}, annotation {number}"
        clip, regions, same, defect = locate(annotation, place)
        if annotation.get("iscrowd"):
            clip.crowds.append({t: region for t, region in regions.items() if region is not None})
            continue
        name = _look_up(categories, get_field(annotation, "category_id", place), "category", place)
        found = tracks.get(same) if same is not None else None
        if found is None:
            track = next((annotation[key] for key in _TRACK_KEYS if key in annotation), None)
            found = Instance(name, box_xyxy=parse_box(annotation.get("bbox"), place), id=track)
            clip.objects[len(clip.objects) + 1] = found
            if same is not None:
                tracks[same] = found
        twice = sorted(set(found.regions) & set(regions))
        if twice:
            raise DatasetError(f"{place}: its track already has a mask on frame {twice[0]}; a track has one per frame")
        found.regions.update(regions)
        found.scores.update(_read_scores(annotation, regions))
        added = parse_expressions(annotation.get("expressions", []), place)
        found.expressions = tuple(dict.fromkeys((*found.expressions, *added)))
        if defect:
            left_out.append((defect, place))
            unmasked.setdefault(id(clip), (clip, []))[1].append(found)
        box = parse_box(annotation.get("bbox"), place) if defect else None
        if box is not None:
            found.regions.update({t: _pack_box(box) for t in regions if regions[t] is None})
    for clip, some in unmasked.values():
        _leave_out(clip, some)
    return left_out


def _leave_out(clip: CocoClip, unmasked: list[Instance]) -> None:
    """Take objects without a mask out of a clip; where they are, nothing is counted for or against anybody."""
    for number, one in list(clip.objects.items()):
        if not any(one is other for other in unmasked):
            continue
        texts = [text for text in (one.name, *one.expressions) if text]
        clip.incomplete_texts.update(texts)
        if None in one.regions.values() or not one.regions:
            clip.unlocated_texts.update(texts)
        clip.crowds.append({t: region for t, region in one.regions.items() if region is not None})
        del clip.objects[number]


def _read_scores(annotation: Mapping[str, Any], frames: Iterable[int]) -> dict[int, float]:
    """What predictions have beside their masks: one score, or, in our own files, one per frame."""
    whole, each = annotation.get("score"), annotation.get("scores")
    values = {t: each[t] if isinstance(each, list) and t < len(each) else whole for t in frames}
    return {
        t: float(value)
        for t, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
    }


def _pack_box(box: Box) -> Any:
    x1, y1, x2, y2 = box
    return pack_region([[x1, y1, x2, y1, x2, y2, x1, y2]], "box")


def _look_up(table: Mapping[Any, Any], key: Any, what: str, place: str) -> Any:
    try:
        return table[key]
    except (KeyError, TypeError):
        raise DatasetError(f"{place}: {what} {key!r:.40} is not among the file's {len(table)}") from None


def _read_size(row: Mapping[str, Any], place: str) -> tuple[int, int]:
    return int(get_field(row, "height", place, (int, float))), int(get_field(row, "width", place, (int, float)))


def _read_video_names(document: Mapping[str, Any], where: str) -> dict[Any, str]:
    """Names of the videos that have one, by id."""
    return {
        get_field(video, "id", f"{where}, video"): video["name"]
        for video in document.get("videos") or []
        if isinstance(video, dict) and isinstance(video.get("name"), str) and video["name"]
    }


def _read_rates(document: Mapping[str, Any]) -> dict[Any, float]:
    """Frames per second of the videos that say it, by id."""
    videos = [video for video in document.get("videos") or [] if isinstance(video, dict)]
    rates = {video.get("id"): video.get("fps") for video in videos if isinstance(video.get("id"), (int, str))}
    return {key: float(rate) for key, rate in rates.items() if isinstance(rate, (int, float)) and 0 < rate < 1e6}


def _read_numbers(values: Any) -> list[int]:
    """Frame numbers, if they are whole and ascending; else none."""
    if not isinstance(values, list) or not all(type(value) is int and value >= 0 for value in values):
        return []
    return values if all(before < after for before, after in pairwise(values)) else []
