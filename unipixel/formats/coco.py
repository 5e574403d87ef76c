"""COCO: instances of pictures, of videos frame by frame, and YouTube-VIS, whose objects have a mask per frame.

Written are run lengths, or polygons that COCO draws as exactly the same masks (holes are cut open). Beyond the format
stand ``track_id`` (the object's id), ``score``, and of frames ``source`` and ``frame_index``; readers that do not know
them pass over them. What is read is said in `unipixel.data.readers.coco`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unipixel.atomic import write_text
from unipixel.data.coco_files import CocoClip, read_all_clips, unpack_region
from unipixel.data.readers.coco import find_files, find_picture_folder
from unipixel.errors import DatasetError
from unipixel.formats.annotations import (
    UNNAMED,
    Annotations,
    Losses,
    choose_file_names,
    compute_scores,
    count_unkept,
    find_pictures,
    get_stem,
    group_subsets,
    list_classes,
    make_file_name,
    read_with,
)
from unipixel.masks import MaskTrack, Rle, encode_rle, mask_to_polygons


def build_coco(sets: Sequence[Annotations], *, polygons: bool = False, classes: Sequence[str] = ()) -> dict[str, Any]:
    """A COCO dataset: one image per frame, one annotation per object and frame it is visible on.

    Image ids count the frames from 0; a video's have a ``video_id`` in addition, their place in the video
    ``frame_index``. A still is called as its source, a frame of a video ``frame_`` and its index in six digits, as
    annotation tools do, in a folder of its own where there are several pictures and videos. Categories count from 1:
    those of ``classes`` in their order, then what else the objects are called.
    """
    classes = list_classes(sets, classes)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    videos: list[dict[str, Any]] = []
    for one, names in zip(sets, choose_file_names(sets), strict=True):
        height, width = one.size_hw
        video: dict[str, Any] = {}
        if one.is_video:
            video = {"video_id": len(videos) + 1}
            videos.append({"id": len(videos) + 1, "name": one.name, "width": width, "height": height})
            if one.fps is not None:
                videos[-1]["fps"] = one.fps
        for t, index in enumerate(one.frame_indices):
            image: dict[str, Any] = {"id": len(images), "width": width, "height": height}
            image["file_name"] = names[t] if one.is_video else one.name
            images.append({**image, **video, "source": one.name, "frame_index": index})
        first = len(images) - one.num_frames
        for object_id, track in one.tracks.items():
            for t in np.flatnonzero(track.visible).tolist():
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": first + t,
                    **video,
                    "category_id": classes.index(one.get_class(object_id)) + 1,
                    "track_id": object_id,
                    "segmentation": track.polygons(t) if polygons else track.rles[t],
                    "area": int(track.areas[t]),
                    "bbox": _get_bbox(track, t),
                    "iscrowd": 0,
                }
                score = one.get_score(object_id, t)
                annotations.append(annotation if score is None else {**annotation, "score": score})
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    return {**document, "videos": videos} if videos else document


def build_youtube_vis(
    sets: Sequence[Annotations], *, polygons: bool = False, classes: Sequence[str] = ()
) -> dict[str, Any]:
    """A YouTube-VIS dataset: one video per clip, one annotation per object with its mask on every frame, or null."""
    classes = list_classes(sets, classes)
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for one, names in zip(sets, choose_file_names(sets), strict=True):
        height, width = one.size_hw
        folder = get_stem(make_file_name(one.name))
        video = {
            "id": len(videos) + 1,
            "name": one.name,
            "width": width,
            "height": height,
            "length": one.num_frames,
            "file_names": [name if "/" in name or not one.is_video else f"{folder}/{name}" for name in names],
            "frame_indices": list(one.frame_indices),
        }
        videos.append(video if one.fps is None else {**video, "fps": one.fps})
        for object_id, track in one.tracks.items():
            seen = track.visible.tolist()
            annotation = {
                "id": len(annotations) + 1,
                "video_id": len(videos),
                "category_id": classes.index(one.get_class(object_id)) + 1,
                "track_id": object_id,
                "segmentations": [_get_region(track, t, polygons) if seen[t] else None for t in range(len(seen))],
                "areas": [int(area) if area else None for area in track.areas],
                "bboxes": [_get_bbox(track, t) if seen[t] else None for t in range(len(seen))],
                "height": height,
                "width": width,
                "length": 1,
                "iscrowd": 0,
            }
            score = compute_scores(one, object_id)
            if score is not None:
                annotation |= {"score": score, "scores": list(one.scores[object_id])}
            annotations.append(annotation)
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    return {"videos": videos, "annotations": annotations, "categories": categories}


def _get_bbox(track: MaskTrack, t: int) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in track.boxes[t])
    return [x1, y1, x2 - x1, y2 - y1]


def _get_region(track: MaskTrack, t: int, polygons: bool) -> dict[str, Any] | list[list[float]]:
    """A mask as YouTube-VIS has it: run lengths as a list of numbers, as in its own files."""
    mask = track.mask(t)
    if polygons:
        return mask_to_polygons(mask)
    flat = mask.reshape(-1, order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def write_coco(
    sets: Sequence[Annotations], path: Path, losses: Losses, *, polygons: bool = False, classes: Sequence[str] = ()
) -> list[Path]:
    """Write `build_coco` as JSON; of each part of a dataset a file of its own, such as ``instances_train.json``."""
    count_unkept(sets, losses, scores=True, clips=True, subsets=True)
    return _write_parts(build_coco, sets, path, polygons, classes)


def write_youtube_vis(
    sets: Sequence[Annotations], path: Path, losses: Losses, *, polygons: bool = False, classes: Sequence[str] = ()
) -> list[Path]:
    """Write `build_youtube_vis` as JSON; parts of a dataset as `write_coco`."""
    losses["single pictures become clips of one frame"] += sum(not one.is_video for one in sets)
    return _write_parts(build_youtube_vis, sets, path, polygons, classes)


def _write_parts(
    build: Callable[..., dict[str, Any]],
    sets: Sequence[Annotations],
    path: Path,
    polygons: bool,
    classes: Sequence[str],
) -> list[Path]:
    """A file per part, all with the same categories."""
    classes, paths = list_classes(sets, classes), []
    for subset, some in group_subsets(sets).items():
        paths.append(path.with_name(f"{path.stem}_{subset}{path.suffix}") if subset else path)
        write_text(paths[-1], json.dumps(build(some, polygons=polygons, classes=classes)), sync=False)
    return paths


def read_coco(path: Path, losses: Losses) -> list[Annotations]:
    """A COCO or YouTube-VIS file, or a folder with one.

    Raises:
        DatasetError: the file is missing, damaged or in another layout.
    """
    files = [file for file, _ in find_files(path, "all", "coco")]
    sets: list[Annotations] = []
    for file in files:
        clips, left_out = read_all_clips(file, "coco")
        for reason, _ in left_out:
            losses[f"annotations {reason} are left out"] += 1
        names = [frame for clip in clips.values() for frame in clip.frames]
        try:
            folders = [find_picture_folder(file, names, "coco")] if names else []
        except DatasetError:
            folders = []
        for name, clip in clips.items():
            where = f"coco: {file}, {name!r}"
            sets.append(read_with(where, partial(_build_set, name, clip, where, folders, losses)))
        losses["crowds and objects without a mask are left out"] += sum(len(clip.crowds) for clip in clips.values())
    return sets


def _build_set(name: str, clip: CocoClip, where: str, folders: Sequence[Path], losses: Losses) -> Annotations:
    tracks: dict[int, MaskTrack] = {}
    labels: dict[int, str] = {}
    scores: dict[int, list[float]] = {}
    known = {one.id for one in clip.objects.values() if isinstance(one.id, int) and one.id > 0}
    following = max(known, default=0) + 1
    for one in clip.objects.values():
        has_id = isinstance(one.id, int) and one.id > 0 and one.id not in tracks
        number = one.id if has_id else following
        following += not has_id
        rles: list[Rle | None] = [None] * len(clip.frames)
        for t, region in one.regions.items():
            mask = unpack_region(region, clip.size_hw, f"{where}, frame {t}")
            rles[t] = encode_rle(mask) if mask.any() else None
        losses["masks without a pixel are left out"] += sum(rles[t] is None for t in one.regions)
        tracks[number] = MaskTrack(clip.size_hw, tuple(rles))
        labels[number] = "" if one.name == UNNAMED else one.name
        if one.scores:
            scores[number] = [one.scores.get(t, 0.0) for t in range(len(clip.frames))]
    numbers = clip.frame_indices
    return Annotations(
        name,
        clip.size_hw,
        tracks,
        labels,
        scores,
        frame_names=clip.frames,
        frame_indices=numbers if len(numbers) == len(clip.frames) else None,
        fps=clip.fps,
        is_video=clip.is_video,
        pictures=find_pictures(clip.frames, folders),
    )
