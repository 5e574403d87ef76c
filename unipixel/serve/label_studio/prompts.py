"""What an annotator drew with a smart tool, as prompts for the model. Percent become pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError

from unipixel.masks import box_xyxy, interior_point
from unipixel.masks.brush import decode_brush
from unipixel.sample import Box, Point, Prompt
from unipixel.serve.faults import Refusal
from unipixel.serve.label_studio.config import LabelConfig
from unipixel.serve.label_studio.timeline import Timeline
from unipixel.serve.label_studio.wire import (
    BrushValue,
    KeyPointValue,
    Lenient,
    RectangleValue,
    RegionIn,
    TextValue,
    VideoRectangleValue,
)

Value = TypeVar("Value", bound=Lenient)


@dataclass(frozen=True)
class Wanted:
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


def wanted(
    drawn: Sequence[RegionIn], config: LabelConfig, size_hw: tuple[int, int], timeline: Timeline | None
) -> list[Wanted]:
    """What the regions of a context ask for: one object per label, or per region of a video; then what words say.

    Args:
        timeline: of the clip, if it is a video.

    Raises:
        Refusal: a region cannot be used.
    """
    groups: dict[str, list[RegionIn]] = {}
    words: list[Wanted] = []
    for place, region in enumerate(drawn):
        if region.type == "textarea":
            words += _words(region, config, timeline, place)
        elif timeline is not None:
            groups.setdefault(region.id or str(place), []).append(region)
        else:
            groups.setdefault(_label(region, config), []).append(region)
    shown = enumerate(groups.items(), start=1)  # the numbers of the objects, which come before the words
    if timeline is not None:
        return [*(_through_video(group, config, size_hw, timeline, number) for number, (_, group) in shown), *words]
    return [*(_on_picture(group, label, size_hw, number) for number, (label, group) in shown), *words]


def _on_picture(group: Sequence[RegionIn], label: str, size_hw: tuple[int, int], number: int) -> Wanted:
    prompts: list[Prompt] = []
    for region in group:
        prompts += _prompts(region, size_hw, number)
    if all(isinstance(one, Point) and not one.positive for one in prompts):
        raise _bad(f"there are only clicks beside the object {label[:40]!r}; click on it, or draw a box, first")
    boxes = [one for one in prompts if isinstance(one, Box)]
    last = boxes[-1:]  # a second box corrects the first
    kept = tuple(one for one in prompts if not isinstance(one, Box) or one in last)
    return Wanted(label, prompts=kept, rotation=group[-1].image_rotation)


def _prompts(region: RegionIn, size_hw: tuple[int, int], number: int) -> list[Prompt]:
    """Prompts for object ``number`` from one region of a picture."""
    positive = region.is_positive is not False
    if region.type == "keypointlabels":
        click = _read(KeyPointValue, region)
        x, y = _inside(click.x, click.y, size_hw)
        return [Point(x, y, positive=positive, object_id=number)]
    if region.type == "rectanglelabels":
        box = _box(_read(RectangleValue, region), size_hw, number)
        if not positive:
            return [Point((box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2, positive=False, object_id=number)]
        return [box]
    if region.type == "brushlabels":
        return _painted(region, size_hw, number, positive)
    known = "keypointlabels, rectanglelabels or brushlabels"
    raise _bad(f"a region of type {region.type[:40]!r} is no prompt for the model; draw {known}")


def _painted(region: RegionIn, size_hw: tuple[int, int], number: int, positive: bool) -> list[Prompt]:
    """A rough mask: the box around it and the point deepest inside."""
    height, width = size_hw
    if (region.original_height, region.original_width) != size_hw:
        told = f"{region.original_width} x {region.original_height}"
        raise _bad(f"the painted mask is of a picture of {told} pixels; the task's is {width} x {height}")
    try:
        mask = decode_brush(_read(BrushValue, region).rle, size_hw)
    except ValueError as error:
        raise _bad(str(error)) from error
    box = box_xyxy(mask)
    if box is None:
        raise _bad("the painted mask is empty; paint over the object")
    x, y = interior_point(mask)
    inside = Point(x, y, positive=positive, object_id=number)
    return [Box(*box, object_id=number), inside] if positive else [inside]


def _through_video(
    group: Sequence[RegionIn], config: LabelConfig, size_hw: tuple[int, int], timeline: Timeline, number: int
) -> Wanted:
    """Boxes on frames of a video, for one object."""
    region = group[-1]
    if region.type != "videorectangle":
        raise _bad(f"a region of type {region.type[:40]!r} is no prompt on a video; draw a box with <VideoRectangle>")
    value = _read(VideoRectangleValue, region)
    counted = timeline.counted(value.framesCount, value.duration)
    boxes: dict[int, Box] = {}
    for key in value.sequence:
        t = counted.nearest(key.frame)
        boxes[t] = _box(key, size_hw, number, t)
    label = next((name for name in value.labels if name in config.words), _only(config))
    return Wanted(label, prompts=tuple(boxes.values()), region_id=region.id, timeline=counted)


def _words(region: RegionIn, config: LabelConfig, timeline: Timeline | None, place: int) -> list[Wanted]:
    given = _read(TextValue, region).text
    texts = [text.strip() for text in ([given] if isinstance(given, str) else given) if text.strip()]
    if not texts:
        raise _bad(f"the text of region {place + 1} is empty; say what is to be found")
    rotation = region.image_rotation
    return [Wanted(named(text, config), text=text, rotation=rotation, timeline=timeline) for text in texts]


def named(text: str, config: LabelConfig) -> str:
    """The label that a text is, in whatever case; else the only one there is, or none."""
    same = [label for label, words in config.words.items() if text.lower() in (label.lower(), words.lower())]
    return same[0] if same else _only(config)


def _only(config: LabelConfig) -> str:
    return next(iter(config.words)) if len(config.words) == 1 else ""


def _label(region: RegionIn, config: LabelConfig) -> str:
    given = region.value.get(region.type)
    names = given if isinstance(given, list) else []
    label = next((name for name in names if isinstance(name, str) and name in config.words), _only(config))
    if not label:
        raise _bad(
            f"{str(names)[:60]} is no label of a control that draws; choose one of {', '.join(config.words)[:200]}"
        )
    return label


def _box(value: RectangleValue, size_hw: tuple[int, int], number: int, frame: int = 0) -> Box:
    """The upright box around a box that may be turned, clipped to the picture."""
    height, width = size_hw
    angle = math.radians(value.rotation)
    across, down = value.width * width / 100, value.height * height / 100
    corners = np.array([(0, 0), (across, 0), (across, down), (0, down)])
    turned = corners @ np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
    xs = np.clip(turned[:, 0] + value.x * width / 100, 0, width)
    ys = np.clip(turned[:, 1] + value.y * height / 100, 0, height)
    if xs.max() - xs.min() < 1e-6 or ys.max() - ys.min() < 1e-6:
        raise _bad("a box has no area inside the picture; draw it around the object")
    return Box(float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max()), frame, number)


def _inside(x: float, y: float, size_hw: tuple[int, int]) -> tuple[float, float]:
    height, width = size_hw
    if not (0 <= x <= 100 and 0 <= y <= 100):
        raise _bad(f"a click is at ({x:g} %, {y:g} %), which is outside of the picture")
    return min(x * width / 100, width - 1e-3), min(y * height / 100, height - 1e-3)


def _read(kind: type[Value], region: RegionIn) -> Value:
    try:
        return kind.model_validate(region.value)
    except ValidationError as error:
        first: Any = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:80]
        raise _bad(
            f"the value of a region of type {region.type[:40]!r} is not usable: {where}: {first['msg']}"
        ) from error


def _bad(sentence: str) -> Refusal:
    return Refusal(400, sentence, code="bad_prompt", param="params.context.result")
