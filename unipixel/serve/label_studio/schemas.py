"""Requests and responses of Label Studio. Fields that are not used here are ignored, since versions differ in them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from unipixel.serve.schemas import LEFT_OUT, MAX_PROMPTS

MAX_TASKS = 1000
"""Tasks of one request; they are worked at one after the other."""
MAX_CONFIG = 200_000
"""Characters of a labelling configuration."""
MAX_BRUSH = 1 << 22
"""Bytes of one brush mask."""

Percent = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=200)]
Names = Annotated[list[Name], Field(max_length=MAX_PROMPTS)]


class LabelStudioModel(BaseModel):
    """A record of Label Studio's."""

    model_config = ConfigDict(extra="ignore")


class KeyPointValue(LabelStudioModel):
    """A click, in percent of the picture."""

    x: Percent
    y: Percent
    keypointlabels: Names = []


class RectangleValue(LabelStudioModel):
    """A box, in percent of the picture, turned clockwise around its top left corner by ``rotation`` degrees."""

    x: Percent
    y: Percent
    width: Percent
    height: Percent
    rotation: Percent = 0.0
    rectanglelabels: Names = []


class BrushValue(LabelStudioModel):
    """A painted mask."""

    format: Literal["rle"]
    rle: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(max_length=MAX_BRUSH)]
    brushlabels: Names = []


class KeyFrame(RectangleValue):
    """A box on one frame of a video."""

    frame: Annotated[int, Field(ge=1, le=10_000_000, description="Counted from 1, at the rate of `<Video>`.")]
    enabled: bool = True


class VideoRectangleValue(LabelStudioModel):
    """An object's boxes through a video."""

    sequence: Annotated[list[KeyFrame], Field(min_length=1, max_length=10_000)]
    framesCount: float = 0.0
    duration: float = 0.0
    labels: Names = []


class TextValue(LabelStudioModel):
    """Words typed into a `<TextArea>`."""

    text: Annotated[str, Field(max_length=2000)] | Annotated[list[str], Field(max_length=20)]


class RegionIn(LabelStudioModel):
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


class PredictContext(LabelStudioModel):
    """What an annotator is doing right now."""

    result: Annotated[list[RegionIn], Field(max_length=MAX_PROMPTS)] = []


class PredictParams(LabelStudioModel):
    """The part of a request that may hold a context."""

    context: PredictContext | None = None


class LabelStudioTask(LabelStudioModel):
    """A task, as Label Studio keeps it."""

    id: int | str | None = None
    data: dict[str, Any]


EXAMPLE: dict[str, Any] = {
    "tasks": [{"id": 7, "data": {"image": "https://example.org/street.jpg"}}],
    "label_config": '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="car"/></BrushLabels></View>',
    "params": {"context": None},
}


class PredictIn(LabelStudioModel):
    """`POST /predict`."""

    tasks: Annotated[list[LabelStudioTask], Field(min_length=1, max_length=MAX_TASKS)]
    label_config: Annotated[str, Field(max_length=MAX_CONFIG)]
    params: PredictParams | None = None

    model_config = ConfigDict(extra="ignore", json_schema_extra={"example": EXAMPLE})


class SetupOut(BaseModel):
    """Which model answers."""

    model_version: str


class VersionsOut(BaseModel):
    """The versions of the model; there is one."""

    versions: list[str]


class StatusOut(BaseModel):
    """The outcome of a request."""

    status: Literal["ok", "ignored"]


class RegionOut(BaseModel):
    """A region, as Label Studio draws it."""

    id: str
    from_name: str
    to_name: str
    type: str
    value: dict[str, Any]
    score: float
    original_width: Annotated[int | None, LEFT_OUT] = None
    original_height: Annotated[int | None, LEFT_OUT] = None
    image_rotation: Annotated[float | None, LEFT_OUT] = None


class PredictionOut(BaseModel):
    """The regions of one task."""

    result: list[RegionOut]
    score: float = Field(description="Mean score of the regions; 0 where there is none.")
    model_version: str


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
