"""Requests and responses of the sessions API."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from unipixel.serve.schemas import (
    MAX_FRAME,
    PROMPT_EXAMPLES,
    ClipOptions,
    FinishReason,
    MaskRle,
    MediaOut,
    Number,
    ObjectId,
    ObjectOut,
    Prompts,
    QuestionOptions,
    StartFrame,
    StrictModel,
    Usage,
)

FPS = Annotated[Number, Field(gt=0, lt=1_000_000)]
Label = Annotated[str, Field(max_length=80)]
CLIP_EXAMPLE: list[Any] = [{"url": "https://example.org/clip.mp4", "num_frames": 16, "track": "sampled"}]


class OpenRequest(ClipOptions):
    """A session to be opened about the media at a URL."""

    model_config = ConfigDict(json_schema_extra={"examples": CLIP_EXAMPLE})

    url: str = Field(
        description="A `data:` URL with base64, an http(s) URL, or `folder:` and a name that `GET /v1/folder` lists."
    )
    name: Annotated[str, Field(max_length=200)] | None = Field(None, description="What to call the session.")
    fps: FPS | None = Field(None, description="Frames per second of a source that does not state it.")


class AskRequest(QuestionOptions):
    """A question."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "Please segment the dog.", "stream": True},
                {"text": "What is this?", "prompts": PROMPT_EXAMPLES[0]},
                {"text": "What colour is [1]?"},
            ]
        }
    )

    text: str | None = Field(None, description="Without a text, only what the prompts show is segmented.")
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Longest reply; 256 by default, or as many as the server allows if that is less."
    )
    temperature: Annotated[Number, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    stream: bool = Field(False, description="Send events: `text`, `masks`, and at the end `answer`.")


class SegmentRequest(StrictModel):
    """Prompts that become objects, all called by the label if there is one."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompts": PROMPT_EXAMPLES[1], "label": "left wing"}]})

    prompts: Annotated[Prompts, Field(min_length=1)]
    label: Label | None = None
    start: StartFrame | None = None
    force: bool = Field(True, description="Give a mask even if the model says that nothing is there.")
    stream: bool = Field(False, description="Send events: `masks` frame by frame, and at the end `objects`.")


class CorrectRequest(StrictModel):
    """Prompts that correct an object; their `object_id` may be left out."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompts": [{"type": "point", "x": 60, "y": 50, "positive": False}]}]}
    )

    prompts: Annotated[Prompts, Field(min_length=1)]
    stream: bool = False


class TrackRequest(StrictModel):
    """Objects to be tracked again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"objects": [1], "start": 3, "stream": True}, {}]})

    objects: Annotated[list[ObjectId], Field(max_length=1000)] | None = Field(None, description="Ids; by default all.")
    start: StartFrame | None = Field(
        None,
        description="The frame whose masks are carried over the whole clip; by default all that is known is used.",
    )
    stream: bool = False


class ObjectRequest(StrictModel):
    """What an object is called; to put one back, also its masks."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"label": "left wing"}]})

    label: Label
    rles: Annotated[list[MaskRle | None], Field(min_length=1, max_length=MAX_FRAME)] | None = Field(
        None, description="One COCO RLE per frame of the clip, null where it is not visible; with `PUT` only."
    )
    frame_scores: Annotated[list[Annotated[Number, Field(ge=0, le=1)]], Field(max_length=MAX_FRAME)] | None = Field(
        None, description="One score per frame; by default 1 where it is visible."
    )


class TurnOut(BaseModel):
    """A question that was asked in a session."""

    question: str
    text: str
    objects: list[int]


class SessionOut(BaseModel):
    """A session with everything that it knows."""

    id: str
    name: str
    created: int = Field(description="Unix time.")
    is_saved: bool
    is_busy: bool = Field(description="Whether work for it is queued or running.")
    can_undo: bool = Field(description="Whether there is a change of the objects to be undone.")
    can_redo: bool = Field(description="Whether a change was undone, and nothing has changed since.")
    media: MediaOut
    objects: list[ObjectOut]
    turns: list[TurnOut]


class SessionSummary(BaseModel):
    """A session in a list."""

    id: str
    name: str
    created: int
    is_saved: bool
    is_open: bool = Field(description="False: it is saved but not open; the next request opens it.")


class AnswerOut(BaseModel):
    """An answer."""

    question: str
    text: str = Field(description="With `[id]` where the model mentions an object.")
    raw_text: str
    finish_reason: FinishReason = Field(description="`loop`: it repeated itself, and was stopped.")
    objects: list[ObjectOut] = Field(description="Objects that were prompted, then those that the reply segments.")
    usage: Usage
    timings_s: dict[str, float]


ObjectsOut: TypeAlias = Annotated[
    dict[Literal["objects"], list[ObjectOut]], Field(min_length=1, description="Objects with their masks.")
]
