"""Objects of other libraries, in memory: supervision's ``Detections`` and FiftyOne's samples."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unipixel.formats.annotations import UNNAMED, Annotations, Losses, Picture, Shape, build_sets, list_classes
from unipixel.masks import Rle, decode_rle, encode_rle
from unipixel.masks.rle import check_size_hw

CORNER_MARGIN = 1e-6
"""Pixels that a corner is moved so that it does not fall below its number when it is rounded down."""
FIELD = "objects"
"""Of FiftyOne's samples and frames, where the objects are."""


def import_library(name: str, caller: str) -> Any:
    """A library that is used only here.

    Raises:
        ImportError: it is not installed; says how to get it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{caller} needs the package {name!r}, which is not installed; pip install {name}") from error


def to_supervision(one: Annotations) -> list[Any]:
    """One ``supervision.Detections`` per frame: masks, boxes, scores, and the object ids as tracker ids.

    Classes are the labels, numbered in the order of the objects, with the words in ``data["class_name"]``. Scores are
    left out where one of a frame's objects has none.

    Raises:
        ImportError: the package ``supervision`` is not installed.
    """
    supervision = import_library("supervision", "to_supervision")
    classes = list_classes([one])
    frames = []
    for t in range(one.num_frames):
        seen = list(one.list_shapes(t))
        if not seen:
            frames.append(supervision.Detections.empty())
            continue
        scores = [score for *_, score in seen]
        frames.append(
            supervision.Detections(
                xyxy=np.stack([one.tracks[i].boxes[t] for i, *_ in seen]),
                mask=np.stack([decode_rle(rle) for _, _, rle, _ in seen]),
                confidence=None if None in scores else np.array(scores),
                class_id=np.array([classes.index(label) for _, label, _, _ in seen]),
                tracker_id=np.array([i for i, *_ in seen]),
                data={"class_name": np.array([label for _, label, _, _ in seen])},
            )
        )
    return frames


def from_supervision(
    detections: Any, *, name: str = "picture", classes: Sequence[str] = (), size_hw: Sequence[int] | None = None
) -> Annotations:
    """A picture's ``Detections``, or a list of them, one per frame of a clip.

    Args:
        name: of the picture or clip.
        classes: names by class id, where ``data["class_name"]`` does not say them.
        size_hw: of the frames; by default that of the masks.

    Raises:
        ValueError: there are boxes without masks, or no mask at all and no size.
    """
    frames = list(detections) if isinstance(detections, (list, tuple)) else [detections]
    is_video = isinstance(detections, (list, tuple))
    size = None if size_hw is None else check_size_hw([int(side) for side in size_hw])
    pictures: list[list[Shape]] = []
    for t, frame in enumerate(frames):
        shapes: list[Shape] = []
        if len(frame) and frame.mask is None:
            raise ValueError(f"the detections of frame {t} have boxes and no masks; give those of a segmentation model")
        for place in range(len(frame)):
            mask = np.asarray(frame.mask[place], dtype=bool)
            size = size or check_size_hw([int(side) for side in mask.shape])
            if mask.shape != size:
                raise ValueError(f"a mask of frame {t} is {mask.shape} (height, width), the frames {size}")
            number = None if frame.class_id is None else int(frame.class_id[place])
            names = frame.data.get("class_name")
            label = UNNAMED
            if names is not None:
                label = str(names[place])
            elif number is not None:
                label = classes[number] if 0 <= number < len(classes) else f"class {number}"
            key = None if frame.tracker_id is None else int(frame.tracker_id[place])
            score = None if frame.confidence is None else float(frame.confidence[place])
            shapes.append((key, label, encode_rle(mask), score))
        pictures.append(shapes)
    if size is None:
        raise ValueError("there is no mask among the detections; give size_hw, the size of the frames")
    return _join_frames(pictures, size, name, is_video)


def _join_frames(
    frames: Sequence[list[Shape]],
    size_hw: tuple[int, int],
    name: str,
    is_video: bool,
    indices: Sequence[int] | None = None,
) -> Annotations:
    """Annotations of frames in order; what a frame says twice of one object is joined."""
    losses: Losses = Losses()
    numbers = range(len(frames)) if indices is None else indices
    rows: list[Picture] = [
        (f"frame_{n:06d}.png" if is_video else name, size_hw, some) for n, some in zip(numbers, frames, strict=True)
    ]
    (found,) = build_sets(rows, losses)
    found.name = name
    if not is_video:
        found.frame_names = (name,)
    return found


def to_fiftyone(one: Annotations, filepath: str | Path | None = None) -> Any:
    """A ``fiftyone.Sample`` with the objects in its field ``objects``, of a clip in that of its frames, from 1.

    A detection's ``index`` is the object's id, its mask that of its box.

    Args:
        filepath: the picture or the video file; by default where the annotations say it is.

    Raises:
        ImportError: the package ``fiftyone`` is not installed.
        ValueError: nobody says where the picture is.
    """
    fiftyone = import_library("fiftyone", "to_fiftyone")
    source = filepath if filepath is not None else one.find_file() or (one.name if Path(one.name).is_file() else None)
    if source is None:
        raise ValueError(f"FiftyOne's samples are about files; say with filepath= where {one.name!r} is")
    sample = fiftyone.Sample(filepath=str(source))
    for t, index in enumerate(one.frame_indices):
        detections = [_build_detection(fiftyone, one, t, *shape) for shape in one.list_shapes(t)]
        target = fiftyone.Frame(frame_number=index + 1) if one.is_video else sample
        target[FIELD] = fiftyone.Detections(detections=detections)
        if one.is_video:
            sample.frames[index + 1] = target
    return sample


def _build_detection(
    fiftyone: Any, one: Annotations, t: int, object_id: int, label: str, rle: Rle, score: float | None
) -> Any:
    height, width = one.size_hw
    x1, y1, x2, y2 = one.tracks[object_id].boxes[t].tolist()
    # FiftyOne cuts corners down to whole pixels, and x1 / width * width may lie just below x1
    left, top = (x1 + CORNER_MARGIN) / width, (y1 + CORNER_MARGIN) / height
    return fiftyone.Detection(
        label=label,
        bounding_box=[left, top, (x2 - x1) / width, (y2 - y1) / height],
        mask=decode_rle(rle)[int(y1) : int(y2), int(x1) : int(x2)],
        confidence=score,
        index=object_id,
    )


def from_fiftyone(sample: Any, size_hw: Sequence[int] | None = None, *, field: str = FIELD) -> Annotations:
    """The objects of one of FiftyOne's samples.

    Args:
        size_hw: of the picture; by default what the sample's metadata say.
        field: where they are, in the sample or in its frames.

    Raises:
        ValueError: the size is not known, or a detection has no mask.
    """
    if size_hw is None:
        metadata = sample.metadata
        height = getattr(metadata, "height", None) or getattr(metadata, "frame_height", None)
        width = getattr(metadata, "width", None) or getattr(metadata, "frame_width", None)
        if height is None or width is None:
            raise ValueError("the sample does not say how large its picture is; give size_hw, or compute its metadata")
        size_hw = (height, width)
    size = check_size_hw([int(side) for side in size_hw])
    is_video = sample.media_type == "video"
    numbers = sorted(sample.frames) if is_video else [1]
    holders = [sample.frames[number] for number in numbers] if is_video else [sample]
    frames = [
        [_read_detection(one, size) for one in (holder[field].detections if holder[field] is not None else [])]
        for holder in holders
    ]
    return _join_frames(frames, size, str(sample.filepath), is_video, [number - 1 for number in numbers])


def _read_detection(detection: Any, size_hw: tuple[int, int]) -> Shape:
    if detection.mask is None:
        raise ValueError(f"the detection {str(detection.label)[:40]!r} has a box and no mask")
    height, width = size_hw
    x, y, w, h = detection.bounding_box
    left, top = round(x * width), round(y * height)
    right, bottom = round((x + w) * width), round((y + h) * height)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"the box {detection.bounding_box} is not inside of the picture")
    part = np.asarray(detection.mask) > 0
    if part.shape != (bottom - top, right - left):  # FiftyOne stretches masks to their boxes
        scaled = Image.fromarray(part).resize((right - left, bottom - top), Image.Resampling.NEAREST)
        part = np.asarray(scaled, dtype=bool)
    mask = np.zeros(size_hw, dtype=bool)
    mask[top:bottom, left:right] = part
    confidence = detection.confidence
    score = float(confidence) if confidence is not None and 0 <= confidence <= 1 else None
    return detection.index, str(detection.label or UNNAMED), encode_rle(mask), score
