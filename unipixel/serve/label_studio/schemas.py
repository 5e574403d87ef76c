"""Requests and responses of Label Studio. Fields that are not used here are ignored, since versions differ in them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

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


class RegionValue(BaseModel):
    """What was drawn, on a video frame by frame. The type of a region says which of the fields it must have."""

    x: Percent = Field(0.0, description="Of a click, or of the top left corner of a box, in percent of the picture.")
    y: Percent = 0.0
    width: Percent = 0.0
    height: Percent = 0.0
    rotation: Percent = Field(0.0, description="Degrees by which a box is turned clockwise around that corner.")
    format: Literal["rle"] = "rle"
    rle: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(max_length=MAX_BRUSH)] = Field(
        [], description="A painted mask."
    )
    frame: int = Field(1, ge=1, le=10_000_000, description="Counted from 1, at the rate of `<Video>`.")
    sequence: Annotated[list[RegionValue], Field(min_length=1, max_length=10_000)] = Field(
        [], description="An object's boxes through a video."
    )
    framesCount: float = 0.0
    duration: float = 0.0
    labels: Names = []
    text: Annotated[str, Field(max_length=2000)] | Annotated[list[str], Field(max_length=20)] = Field(
        "", description="Words typed into a `<TextArea>`."
    )


class Region(BaseModel):
    """What an annotator drew with a smart tool, or what the model found."""

    id: Name | None = None
    from_name: Name | None = None
    to_name: Name | None = None
    type: Name
    value: dict[str, Any]
    score: float | None = None
    original_width: Annotated[int | None, LEFT_OUT] = None
    original_height: Annotated[int | None, LEFT_OUT] = None
    image_rotation: Annotated[Percent | None, LEFT_OUT] = None
    is_positive: Annotated[bool | None, LEFT_OUT] = Field(default=None, description="False: it is beside the object.")


class PredictContext(BaseModel):
    """What an annotator is doing right now."""

    result: Annotated[list[Region], Field(max_length=MAX_PROMPTS)] = []


class PredictParams(BaseModel):
    """The part of a request that may hold a context."""

    context: PredictContext | None = None


class LabelStudioTask(BaseModel):
    """A task, as Label Studio keeps it."""

    id: int | str | None = None
    data: dict[str, Any]


Tasks = Annotated[
    list[LabelStudioTask],
    Field(
        min_length=1,
        max_length=MAX_TASKS,
        examples=[[{"id": 7, "data": {"image": "https://example.org/street.jpg"}}]],
    ),
]
ConfigXml = Annotated[
    str,
    Field(
        max_length=MAX_CONFIG,
        examples=[
            '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
            '<Label value="car"/></BrushLabels></View>'
        ],
    ),
]


class PredictionOut(BaseModel):
    """The regions of one task."""

    result: list[Region]
    score: float = Field(description="Mean score of the regions; 0 where there is none.")
    model_version: str


class PredictOut(BaseModel):
    """Predictions in the order of the tasks, an empty list in the place of a task that failed among others."""

    results: list[PredictionOut | list[PredictionOut]]
    model_version: str
    errors: list[dict[Literal["task", "message", "code"], int | str | None]] = Field(
        default=[], description="Why tasks got no prediction."
    )
