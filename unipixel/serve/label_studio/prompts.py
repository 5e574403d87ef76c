"""What an annotator drew with a smart tool, as prompts for the model, and what the model found, as regions to draw.

Percent become pixels and times become frames, and back.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from unipixel.engine.memory import KnownObject
from unipixel.errors import MediaError
from unipixel.masks import decode_brush, encode_brush, find_interior_point, mask_to_box, simplify_polygons
from unipixel.media import Media
from unipixel.sample import Box, Point, Prompt
from unipixel.serve.errors import ApiError
from unipixel.serve.label_studio.config import Kind, LabelConfig
from unipixel.serve.label_studio.schemas import Region, RegionValue

MAX_TRACKED_FRAMES = 200
"""Frames of one video on which objects are tracked; between them Label Studio interpolates."""
_BOX = ("x", "y", "width", "height")


class Timeline:
    """The frames of a clip in time.

    Args:
        times_s: seconds from the video's beginning to each frame of the clip.
        duration: seconds of the whole video.
        rate: frames per second that Label Studio counts.
        frames_count: frames of the whole video, as Label Studio counts; by default at that rate.
    """

    def __init__(self, times_s: Sequence[float], duration: float, rate: float, frames_count: int | None = None) -> None:
        self.times_s, self.duration, self.rate = times_s, duration, rate
        self.frames_count = max(1, round(duration * rate)) if frames_count is None else frames_count

    def apply_counts(self, frames_count: float, duration: float) -> Timeline:
        """The same with the numbers that a region of Label Studio's carries, if it carries any."""
        if not (1 <= frames_count <= 1e8 and 0 < duration < 1e8):
            return self
        return Timeline(self.times_s, duration, frames_count / duration, round(frames_count))

    def to_number(self, t: int) -> int:
        """Label Studio's number of frame ``t`` of the clip."""
        return min(max(round(self.times_s[t] * self.rate) + 1, 1), self.frames_count)

    def find_nearest(self, number: int) -> int:
        """The frame of the clip that is nearest to a frame by Label Studio's number."""
        return int(np.argmin(np.abs(np.array(self.times_s) - (number - 1) / self.rate)))


def select_clip(media: Media, max_frames: int) -> Media:
    """The clip in which objects are tracked: all frames of a video, or every n-th."""
    step = -(-media.num_frames // min(max_frames, MAX_TRACKED_FRAMES))
    return media if step == 1 else media.select(range(0, media.num_frames, step))


def build_timeline(video: Media, clip: Media, rate: float) -> Timeline:
    """The timeline of a clip of a video.

    Raises:
        MediaError: the video does not say when its frames are shown.
    """
    every, chosen, fps = video.timestamps_s, clip.timestamps_s, video.fps
    if every is None or chosen is None:
        raise MediaError(f"{video.source} does not say when its frames are shown; Label Studio counts frames by time")
    gap = 1 / fps if fps else (every[-1] / (len(every) - 1) if len(every) > 1 else 0.0)
    return Timeline(chosen, every[-1] + gap, rate)


@dataclass(frozen=True)
class RegionRequest:
    """One thing that a task asks for: words, or prompts that show one object."""

    label: str
    """What its regions are called; empty: as the model names them, if that is a label."""
    text: str = ""
    prompts: tuple[Prompt, ...] = ()
    region_id: str | None = None
    """The region that the answer replaces."""
    rotation: float = 0.0
    """How far the annotator has turned the picture: only to be sent back."""
    timeline: Timeline | None = None
    """How Label Studio counts the frames of the video."""


def read_requests(
    drawn: Sequence[Region], config: LabelConfig, size_hw: tuple[int, int], timeline: Timeline | None
) -> list[RegionRequest]:
    """What the regions of a context ask for: one object per label, or per region of a video; then what words say.

    Args:
        timeline: of the clip, if it is a video.

    Raises:
        ApiError: a region cannot be used.
    """
    groups: dict[str, list[Region]] = {}
    words: list[RegionRequest] = []
    for place, region in enumerate(drawn):
        if region.type == "textarea":
            words += _read_text_requests(region, config, timeline, place)
        elif timeline is not None:
            groups.setdefault(region.id or str(place), []).append(region)
        else:
            groups.setdefault(_find_label(region, config), []).append(region)
    shown = enumerate(groups.items(), start=1)  # the numbers of the objects, which come before the words
    if timeline is not None:
        return [
            *(_read_video_request(group, config, size_hw, timeline, number) for number, (_, group) in shown),
            *words,
        ]
    return [*(_read_image_request(group, label, size_hw, number) for number, (label, group) in shown), *words]


def _read_image_request(group: Sequence[Region], label: str, size_hw: tuple[int, int], number: int) -> RegionRequest:
    prompts: list[Prompt] = []
    for region in group:
        prompts += _read_prompts(region, size_hw, number)
    if all(isinstance(one, Point) and not one.positive for one in prompts):
        raise _build_prompt_error(
            f"there are only clicks beside the object {label[:40]!r}; click on it, or draw a box, first"
        )
    boxes = [one for one in prompts if isinstance(one, Box)]
    last = boxes[-1:]  # a second box corrects the first
    kept = tuple(one for one in prompts if not isinstance(one, Box) or one in last)
    return RegionRequest(label, prompts=kept, rotation=group[-1].image_rotation or 0.0)


def _read_prompts(region: Region, size_hw: tuple[int, int], number: int) -> list[Prompt]:
    """Prompts for object ``number`` from one region of a picture."""
    positive = region.is_positive is not False
    if region.type == "keypointlabels":
        click = _parse_value(region, "x", "y")
        x, y = _to_pixels(click.x, click.y, size_hw)
        return [Point(x, y, positive=positive, object_id=number)]
    if region.type == "rectanglelabels":
        box = _to_box(_parse_value(region, *_BOX), size_hw, number)
        if not positive:
            return [Point((box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2, positive=False, object_id=number)]
        return [box]
    if region.type == "brushlabels":
        return _read_brush(region, size_hw, number, positive)
    known = "keypointlabels, rectanglelabels or brushlabels"
    raise _build_prompt_error(f"a region of type {region.type[:40]!r} is no prompt for the model; draw {known}")


def _read_brush(region: Region, size_hw: tuple[int, int], number: int, positive: bool) -> list[Prompt]:
    """A rough mask: the box around it and the point deepest inside."""
    height, width = size_hw
    if (region.original_height, region.original_width) != size_hw:
        size = f"{region.original_width} x {region.original_height}"
        raise _build_prompt_error(
            f"the painted mask is of a picture of {size} pixels; the task's is {width} x {height}"
        )
    try:
        mask = decode_brush(_parse_value(region, "format", "rle").rle, size_hw)
    except ValueError as error:
        raise _build_prompt_error(str(error)) from error
    box = mask_to_box(mask)
    if box is None:
        raise _build_prompt_error("the painted mask is empty; paint over the object")
    x, y = find_interior_point(mask)
    inside = Point(x, y, positive=positive, object_id=number)
    return [Box(*box, object_id=number), inside] if positive else [inside]


def _read_video_request(
    group: Sequence[Region], config: LabelConfig, size_hw: tuple[int, int], timeline: Timeline, number: int
) -> RegionRequest:
    """Boxes on frames of a video, for one object."""
    region = group[-1]
    if region.type != "videorectangle":
        raise _build_prompt_error(
            f"a region of type {region.type[:40]!r} is no prompt on a video; draw a box with <VideoRectangle>"
        )
    value = _parse_value(region, "sequence")
    counted = timeline.apply_counts(value.framesCount, value.duration)
    boxes: dict[int, Box] = {}
    for key in value.sequence:
        t = counted.find_nearest(key.frame)
        boxes[t] = _to_box(key, size_hw, number, t)
    label = next((name for name in value.labels if name in config.queries), _get_only_label(config))
    return RegionRequest(label, prompts=tuple(boxes.values()), region_id=region.id, timeline=counted)


def _read_text_requests(
    region: Region, config: LabelConfig, timeline: Timeline | None, place: int
) -> list[RegionRequest]:
    given = _parse_value(region, "text").text
    texts = [text.strip() for text in ([given] if isinstance(given, str) else given) if text.strip()]
    if not texts:
        raise _build_prompt_error(f"the text of region {place + 1} is empty; say what is to be found")
    rotation = region.image_rotation or 0.0
    return [RegionRequest(match_label(text, config), text=text, rotation=rotation, timeline=timeline) for text in texts]


def match_label(text: str, config: LabelConfig) -> str:
    """The label that a text is, in whatever case; else the only one there is, or none."""
    same = [label for label, words in config.queries.items() if text.lower() in (label.lower(), words.lower())]
    return same[0] if same else _get_only_label(config)


def _get_only_label(config: LabelConfig) -> str:
    return next(iter(config.queries)) if len(config.queries) == 1 else ""


def _find_label(region: Region, config: LabelConfig) -> str:
    given = region.value.get(region.type)
    names = given if isinstance(given, list) else []
    label = next((name for name in names if isinstance(name, str) and name in config.queries), _get_only_label(config))
    if not label:
        raise _build_prompt_error(
            f"{str(names)[:60]} is no label of a control that draws; choose one of {', '.join(config.queries)[:200]}"
        )
    return label


def _to_box(value: RegionValue, size_hw: tuple[int, int], number: int, frame: int = 0) -> Box:
    """The upright box around a box that may be turned, clipped to the picture."""
    height, width = size_hw
    angle = math.radians(value.rotation)
    across, down = value.width * width / 100, value.height * height / 100
    corners = np.array([(0, 0), (across, 0), (across, down), (0, down)])
    turned = corners @ np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
    xs = np.clip(turned[:, 0] + value.x * width / 100, 0, width)
    ys = np.clip(turned[:, 1] + value.y * height / 100, 0, height)
    if xs.max() - xs.min() < 1e-6 or ys.max() - ys.min() < 1e-6:
        raise _build_prompt_error("a box has no area inside the picture; draw it around the object")
    return Box(float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max()), frame, number)


def _to_pixels(x: float, y: float, size_hw: tuple[int, int]) -> tuple[float, float]:
    height, width = size_hw
    if not (0 <= x <= 100 and 0 <= y <= 100):
        raise _build_prompt_error(f"a click is at ({x:g} %, {y:g} %), which is outside of the picture")
    return min(x * width / 100, width - 1e-3), min(y * height / 100, height - 1e-3)


def _parse_value(region: Region, *required: str) -> RegionValue:
    """The value of a region, which must have some fields, and each box of a sequence those of a box."""
    try:
        value = RegionValue.model_validate(region.value)
        parts = [("", value, required)]
        parts += [(f"sequence.{place}.", key, (*_BOX, "frame")) for place, key in enumerate(value.sequence)]
        missing = [
            f"{place}{name}" for place, part, names in parts for name in names if name not in part.model_fields_set
        ]
        why = f"{missing[0]}: Field required" if missing else ""
    except ValidationError as error:
        first: Any = error.errors()[0]
        why = f"{'.'.join(str(part) for part in first['loc'])[:80]}: {first['msg']}"
    if why:
        raise _build_prompt_error(f"the value of a region of type {region.type[:40]!r} is not usable: {why}")
    return value


def _build_prompt_error(message: str) -> ApiError:
    return ApiError(400, message, code="bad_prompt", param="params.context.result")


def build_regions(found: Sequence[tuple[RegionRequest, KnownObject]], config: LabelConfig) -> list[Region]:
    """Regions for objects, one per object and control, for polygons one per part."""
    regions = []
    for request, one in found:
        if not one.is_there:
            continue
        # the label that the model's own words are, or else the first
        label = request.label or match_label(one.label, config) or next(iter(config.queries))
        for kind, name, labels in config.controls:
            if label not in labels:
                continue
            for value in _build_values(kind, one, label, request.timeline):
                region = Region(
                    id=request.region_id or secrets.token_hex(5),
                    from_name=name,
                    to_name=config.object_name,
                    type=kind,
                    value=value,
                    score=round(float(one.score), 6),
                )
                if config.medium == "image":
                    region.original_height, region.original_width = one.track.size_hw
                    region.image_rotation = request.rotation
                regions.append(region)
    return regions


def _build_values(kind: Kind, one: KnownObject, label: str, timeline: Timeline | None) -> Iterator[dict[str, Any]]:
    if timeline is not None:
        yield {**build_sequence(one, timeline), "labels": [label]}
    elif kind == "brushlabels":
        yield {"format": "rle", "rle": encode_brush(one.track.mask(0)), "brushlabels": [label]}
    elif kind == "polygonlabels":
        height, width = one.track.size_hw
        for corners in simplify_polygons(one.track.polygons(0)):
            points = (corners * (100 / np.array([width, height]))).round(6).tolist()
            yield {"points": points, "closed": True, "polygonlabels": [label]}
    else:
        yield {**_to_percent(one, 0), "rectanglelabels": [label]}


def _to_percent(one: KnownObject, t: int) -> dict[str, float]:
    """The box of frame ``t``."""
    height, width = one.track.size_hw
    x1, y1, x2, y2 = (float(value) for value in one.boxes[t])
    box = {"x": x1 / width, "y": y1 / height, "width": (x2 - x1) / width, "height": (y2 - y1) / height}
    return {**{name: round(100 * share, 6) for name, share in box.items()}, "rotation": 0}


def build_sequence(one: KnownObject, timeline: Timeline) -> dict[str, Any]:
    """An object's boxes through a video.

    A keyframe holds until the next one, with boxes between them interpolated; one that is not ``enabled`` is the last
    of a visible stretch.
    """
    keys: dict[int, dict[str, Any]] = {}
    visible = one.visible
    for t in np.flatnonzero(visible).tolist():
        goes_on = t + 1 == len(visible) or bool(visible[t + 1])
        number = timeline.to_number(t)
        time = {"frame": number, "time": round(timeline.times_s[t], 6), "enabled": goes_on}
        keys[number] = {**_to_percent(one, t), **time}
    return {
        "framesCount": timeline.frames_count,
        "duration": round(timeline.duration, 6),
        "sequence": [keys[number] for number in sorted(keys)],
    }
