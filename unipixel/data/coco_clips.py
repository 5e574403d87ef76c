"""A COCO file of pictures or videos, put together picture by picture and video by video."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unipixel.data.files import entry, read_json
from unipixel.data.instances import Box, box_of, pack_region
from unipixel.data.own import expressions_of
from unipixel.errors import DatasetError
from unipixel.media.sources import natural_key

_FRAME_KEYS = ("frame_id", "frame_index")
_TRACK_KEYS = ("track_id", "instance_id")


@dataclass(slots=True)
class ClipObject:
    """An object of a picture or video."""

    name: str
    expressions: tuple[str, ...] = ()
    regions: dict[int, Any] = field(default_factory=dict)
    """Packed mask by frame t."""
    box_xyxy: Box | None = None


@dataclass(slots=True)
class Clip:
    """A picture or video."""

    frames: tuple[str, ...]
    size_hw: tuple[int, int]
    is_video: bool
    objects: dict[int, ClipObject] = field(default_factory=dict)
    """By number, from 1."""
    crowds: list[dict[int, Any]] = field(default_factory=list)
    """Packed masks by frame of what is not told apart."""


def read_clips(path: Path, dataset: str) -> dict[str, Clip]:
    """Pictures and videos that have an annotated object, by name.

    Raises:
        DatasetError: the file is missing, damaged or in another layout, or nothing in it is annotated.
    """
    document, where = read_json(path, dataset), f"{dataset}: {path}"
    videos = document.get("videos")
    if isinstance(videos, list) and any(isinstance(video, dict) and "file_names" in video for video in videos):
        clips = _whole_videos(document, where)
    elif any(isinstance(image, dict) and "video_id" in image for image in entry(document, "images", where, list)):
        clips = _frame_by_frame(document, where)
    else:
        clips = _pictures(document, where)
    annotated = {name: clip for name, clip in clips.items() if clip.objects}
    if not annotated:
        raise DatasetError(f"{where}: no picture and no video in it has an annotated object")
    return annotated


def _pictures(document: Mapping[str, Any], where: str) -> dict[str, Clip]:
    clips, names = {}, {}
    for number, image in enumerate(entry(document, "images", where, list)):
        place = f"{where}, image {number}"
        file_name = entry(image, "file_name", place, str)
        names[entry(image, "id", place)] = file_name
        clips[file_name] = Clip((file_name,), _size_hw(image, place), is_video=False)

    def locate(annotation: dict[str, Any], place: str) -> tuple[Clip, dict[int, Any], Any]:
        clip = clips[_known(names, entry(annotation, "image_id", place), "image", place)]
        return clip, {0: _region(annotation, place)}, None

    _add_objects(document, where, locate)
    return clips


def _frame_by_frame(document: Mapping[str, Any], where: str) -> dict[str, Clip]:
    grouped: dict[Any, list[tuple[Any, dict[str, Any]]]] = {}
    for number, image in enumerate(document["images"]):
        place = f"{where}, image {number}"
        order = next((image[key] for key in _FRAME_KEYS if key in image), None)
        entry(image, "file_name", place, str)
        # Frames without a number keep the natural order of their names.
        key = (0, order, "") if isinstance(order, (int, float)) else (1, 0, natural_key(image["file_name"]))
        grouped.setdefault(entry(image, "video_id", place), []).append((key, image))
    titles = _video_names(document, where)
    clips, frame_of = {}, {}
    for video_id, images in grouped.items():
        images.sort(key=lambda pair: pair[0])
        name = titles.get(video_id, str(video_id))
        first = images[0][1]
        clips[name] = Clip(
            tuple(image["file_name"] for _, image in images), _size_hw(first, f"{where}, video {name!r}"), is_video=True
        )
        frame_of.update({entry(image, "id", where): (name, t) for t, (_, image) in enumerate(images)})

    def locate(annotation: dict[str, Any], place: str) -> tuple[Clip, dict[int, Any], Any]:
        name, t = _known(frame_of, entry(annotation, "image_id", place), "image", place)
        track = next((annotation[key] for key in _TRACK_KEYS if key in annotation), None)
        if track is None and not annotation.get("iscrowd"):
            raise DatasetError(
                f"{place}: it is on a frame of a video but has no 'track_id', which says what is one object"
            )
        return clips[name], {t: _region(annotation, place)}, (name, track)

    _add_objects(document, where, locate)
    return clips


def _whole_videos(document: Mapping[str, Any], where: str) -> dict[str, Clip]:
    clips, names = {}, {}
    titles = _video_names(document, where)
    for number, video in enumerate(document["videos"]):
        place = f"{where}, video {number}"
        frames = entry(video, "file_names", place, list)
        if not frames or not all(isinstance(frame, str) for frame in frames):
            raise DatasetError(f"{place}: the file_names are {frames!r:.60}; they should be a list of names")
        video_id = entry(video, "id", place)
        name = titles.get(video_id) or Path(frames[0]).parent.as_posix()
        names[video_id] = name if name not in ("", ".") else str(video_id)
        clips[names[video_id]] = Clip(tuple(frames), _size_hw(video, place), is_video=True)

    def locate(annotation: dict[str, Any], place: str) -> tuple[Clip, dict[int, Any], Any]:
        clip = clips[_known(names, entry(annotation, "video_id", place), "video", place)]
        found = entry(annotation, "segmentations", place, list)
        if len(found) != len(clip.frames):
            raise DatasetError(f"{place}: it has {len(found)} segmentations, but the video {len(clip.frames)} frames")
        return clip, {t: pack_region(one, place) for t, one in enumerate(found) if one}, None

    _add_objects(document, where, locate)
    return clips


_Locate = Callable[[dict[str, Any], str], tuple[Clip, dict[int, Any], Any]]
"""Says for an annotation: its clip, its masks by frame, and what it has in common with others of the same object."""


def _add_objects(document: Mapping[str, Any], where: str, locate: _Locate) -> None:
    """Put every annotation into its clip."""
    categories = {
        entry(category, "id", f"{where}, category"): entry(category, "name", f"{where}, category", str).strip()
        for category in entry(document, "categories", where, list)
    }
    tracks: dict[Any, ClipObject] = {}
    for number, annotation in enumerate(entry(document, "annotations", where, list)):
        place = f"{where}, annotation {number}"
        clip, regions, same = locate(annotation, place)
        if annotation.get("iscrowd"):
            clip.crowds.append(regions)
            continue
        name = _known(categories, entry(annotation, "category_id", place), "category", place)
        found = tracks.get(same) if same is not None else None
        if found is None:
            found = ClipObject(name, box_xyxy=box_of(annotation.get("bbox"), place))
            clip.objects[len(clip.objects) + 1] = found
            if same is not None:
                tracks[same] = found
        twice = sorted(set(found.regions) & set(regions))
        if twice:
            raise DatasetError(f"{place}: its track already has a mask on frame {twice[0]}; a track has one per frame")
        found.regions.update(regions)
        added = expressions_of(annotation.get("expressions", []), place)
        found.expressions = tuple(dict.fromkeys((*found.expressions, *added)))


def _region(annotation: Mapping[str, Any], place: str) -> Any:
    return pack_region(entry(annotation, "segmentation", place, (list, dict)), place)


def _known(table: Mapping[Any, Any], key: Any, what: str, place: str) -> Any:
    try:
        return table[key]
    except (KeyError, TypeError):
        raise DatasetError(f"{place}: {what} {key!r:.40} is not among the file's {len(table)}") from None


def _size_hw(row: Mapping[str, Any], place: str) -> tuple[int, int]:
    return int(entry(row, "height", place, (int, float))), int(entry(row, "width", place, (int, float)))


def _video_names(document: Mapping[str, Any], where: str) -> dict[Any, str]:
    """Names of the videos that have one, by id."""
    return {
        entry(video, "id", f"{where}, video"): video["name"]
        for video in document.get("videos") or []
        if isinstance(video, dict) and isinstance(video.get("name"), str) and video["name"]
    }
