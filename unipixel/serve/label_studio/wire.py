"""What Label Studio sends and what it reads. Fields that are not used here are let pass: versions differ in them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from unipixel.serve.wire import MOST_PROMPTS

MOST_TASKS = 1000
"""Tasks of one request; they are worked at one after the other."""
MAX_CONFIG = 200_000
"""Characters of a labelling configuration."""
MAX_BRUSH = 1 << 22
"""Bytes of one brush mask."""

Percent = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=200)]
Names = Annotated[list[Name], Field(max_length=MOST_PROMPTS)]


class Lenient(BaseModel):
    """A record of Label Studio's."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class KeyPointValue(Lenient):
    """A click, in percent of the picture."""

    x: Percent
    y: Percent
    keypointlabels: Names = []


class RectangleValue(Lenient):
    """A box, in percent of the picture, turned clockwise around its top left corner by ``rotation`` degrees."""

    x: Percent
    y: Percent
    width: Percent
    height: Percent
    rotation: Percent = 0.0
    rectanglelabels: Names = []


class BrushValue(Lenient):
    """A painted mask."""

    format: Literal["rle"]
    rle: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(max_length=MAX_BRUSH)]
    brushlabels: Names = []


class KeyFrame(RectangleValue):
    """A box on one frame of a video."""

    frame: Annotated[int, Field(ge=1, le=10_000_000, description="Counted from 1, at the rate of `<Video>`.")]
    enabled: bool = True


class VideoRectangleValue(Lenient):
    """An object's boxes through a video."""

    sequence: Annotated[list[KeyFrame], Field(min_length=1, max_length=10_000)]
    framesCount: float = 0.0
    duration: float = 0.0
    labels: Names = []


class TextValue(Lenient):
    """Words typed into a `<TextArea>`."""

    text: Annotated[str, Field(max_length=2000)] | Annotated[list[str], Field(max_length=20)]


class RegionIn(Lenient):
    """Something that an annotator drew with a smart tool."""

    id: Name | None = None
    type: Name
    value: dict[str, Any]
    from_name: Name | None = None
    to_name: Name | None = None
    original_width: int | None = None
    original_height: int | None = None
    image_rotation: Percent = 0.0
    is_positive: bool | None = Field(None, description="False: it is beside the object.")


class Context(Lenient):
    """What an annotator is doing right now."""

    result: Annotated[list[RegionIn], Field(max_length=MOST_PROMPTS)] = []


class Params(Lenient):
    """The part of a request that may hold a context."""

    context: Context | None = None


class Task(Lenient):
    """A task, as Label Studio keeps it."""

    id: int | str | None = None
    data: dict[str, Any]


EXAMPLE: dict[str, Any] = {
    "tasks": [{"id": 7, "data": {"image": "https://example.org/street.jpg"}}],
    "label_config": '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="car"/></BrushLabels></View>',
    "params": {"context": None},
}


class PredictIn(Lenient):
    """`POST /predict`."""

    tasks: Annotated[list[Task], Field(min_length=1, max_length=MOST_TASKS)]
    label_config: Annotated[str, Field(max_length=MAX_CONFIG)]
    params: Params | None = None

    model_config = ConfigDict(extra="ignore", json_schema_extra={"example": EXAMPLE})


class SetupIn(Lenient):
    """`POST /setup`. A host name and an access token that come along are not used: the server has its own."""

    label_config: Annotated[str, Field(max_length=MAX_CONFIG, alias="schema")] = ""


class ValidateIn(Lenient):
    """`POST /validate`."""

    config: Annotated[str, Field(max_length=MAX_CONFIG)]


class WebhookIn(Lenient):
    """`POST /webhook`: something happened in Label Studio."""

    action: Name


class SetupOut(BaseModel):
    """Which model answers."""

    model_version: str

    model_config = ConfigDict(protected_namespaces=())


class VersionsOut(BaseModel):
    """Which models there are: one."""

    versions: list[str]


class StatusOut(BaseModel):
    """What came of it."""

    status: Literal["ok", "ignored"]


class RegionOut(BaseModel):
    """A region, as Label Studio draws it."""

    id: str
    from_name: str
    to_name: str
    type: str
    value: dict[str, Any]
    score: float
    original_width: int | None = None
    original_height: int | None = None
    image_rotation: float | None = None


class PredictionOut(BaseModel):
    """The regions of one task."""

    result: list[RegionOut]
    score: float = Field(description="Mean score of the regions; 0 where there is none.")
    model_version: str

    model_config = ConfigDict(protected_namespaces=())


class TaskError(BaseModel):
    """Why a task got no prediction."""

    task: int | str | None
    message: str
    code: str


class PredictOut(BaseModel):
    """Predictions in the order of the tasks, an empty list in the place of a task that failed among others."""

    results: list[PredictionOut | list[PredictionOut]]
    model_version: str
    errors: list[TaskError] = []

    model_config = ConfigDict(protected_namespaces=())
