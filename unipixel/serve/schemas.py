"""What travels: prompts and options coming in, objects going out. Masks are COCO RLE, coordinates source pixels.

Fields are taken as they are, never converted: ``"1"`` is no number and ``true`` is none either.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_PROMPTS = 256
"""Prompts of one request."""
DEFAULT_TOKENS = 256
"""Longest reply where a request does not say."""
MAX_OBJECT_ID = 99_999
MAX_FRAME = 1_000_000
MAX_RLE = 8 << 20
"""Characters of one mask's counts."""

Frame = Annotated[int, Field(ge=0, le=MAX_FRAME, description="Frame of the clip, from 0.")]
ObjectId = Annotated[int, Field(ge=1, le=MAX_OBJECT_ID)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Start = Annotated[
    Frame | Literal["best"],
    Field(description="Frame on which objects that the model segments start, or `best`: where each is clearest."),
]


class StrictModel(BaseModel):
    """A record of ours: unknown fields are refused, values are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class RleIn(StrictModel):
    """A mask in COCO run lengths, compressed or not."""

    size: Annotated[list[int], Field(min_length=2, max_length=2, description="Height, width of the source.")]
    counts: Annotated[str, Field(max_length=MAX_RLE)] | Annotated[list[int], Field(max_length=MAX_RLE // 8)]


class PromptFields(StrictModel):
    """What all prompts say."""

    frame: Frame = 0
    object_id: ObjectId | None = Field(
        None, description="Prompts with one id describe one object, and correct it if it is known; without, a new one."
    )


class PointPrompt(PromptFields):
    """A click on an object, or beside it."""

    type: Literal["point"]
    x: Number
    y: Number
    positive: bool = Field(True, description="False: the click is beside the object.")


class BoxPrompt(PromptFields):
    """A box around an object."""

    type: Literal["box"]
    box: Annotated[list[Number], Field(min_length=4, max_length=4, description="x1, y1, x2, y2; x1 < x2, y1 < y2.")]


class MaskPrompt(PromptFields):
    """An object's mask on one frame; it is taken as it is."""

    type: Literal["mask"]
    rle: RleIn


PromptIn = Annotated[PointPrompt | BoxPrompt | MaskPrompt, Field(discriminator="type")]
Prompts = Annotated[list[PromptIn], Field(max_length=MAX_PROMPTS)]

PROMPT_EXAMPLES: list[Any] = [
    [{"type": "point", "x": 120, "y": 80}],
    [
        {"type": "box", "box": [40, 30, 200, 180], "frame": 0, "object_id": 1},
        {"type": "point", "x": 60, "y": 50, "positive": False, "object_id": 1},
    ],
]


class QuestionOptions(StrictModel):
    """What a question can carry besides its words."""

    prompts: Prompts = Field([], examples=PROMPT_EXAMPLES)
    about: Annotated[list[ObjectId], Field(max_length=MAX_PROMPTS)] = Field(
        [], description="Known objects that the question is about; those named as `[1]` are included by themselves."
    )
    start: Start = 0
    force: bool = Field(False, description="Segment what is pointed at even if the model says that nothing is there.")
    each: bool | None = Field(
        None,
        description="Ask for each thing of a request by itself ('the dog and two cats'), 'all' and plurals until "
        "nothing new comes; not with prompts. By default where the checkpoint needs it.",
    )


class ClipOptions(StrictModel):
    """How a clip is chosen from its source."""

    num_frames: Annotated[int, Field(ge=1, le=MAX_FRAME)] | None = Field(
        None, description="Evenly spread frames that the language model reads; by default the model's own number."
    )
    track: Literal["sampled", "all"] = Field(
        "sampled", description="`sampled`: the clip is those frames. `all`: it is every frame of the source."
    )
    every: Annotated[int, Field(ge=1, le=MAX_FRAME)] = Field(1, description="Keep every so many-th frame only.")


class RleOut(BaseModel):
    """A mask."""

    size: list[int] = Field(description="Height, width.")
    counts: str = Field(description="COCO's compressed text form.")


class ObjectOut(BaseModel):
    """An object with its masks."""

    id: int
    label: str
    is_there: bool = Field(description="Whether it is visible on any frame.")
    score: float | None = Field(description="Mean score of the frames it is visible on; null if it is on none.")
    frame_scores: list[float]
    visible: list[bool]
    boxes_xyxy: list[list[float] | None]
    size: list[int] = Field(description="Height, width of the masks.")
    rles: list[RleOut | None] = Field(description="One COCO RLE per frame of the clip; null where not visible.")
    mark_span: list[int] | None = Field(None, description="Where `[id]` stands in the text, in characters.")
    label_span: list[int] | None = Field(None, description="Where the words for it stand in front of that mark.")
    prompts: list[dict[str, Any]] = Field([], description="What the user has said about it, in order.")


class MediaOut(BaseModel):
    """The clip that an answer speaks of."""

    name: str
    num_frames: int
    height: int
    width: int
    fps: float | None
    frame_indices: list[int] = Field(description="Index in the source of every frame of the clip.")
    seen_frames: list[int] = Field(description="Frames of the clip that the language model reads.")


class UsageOut(BaseModel):
    """Tokens, as OpenAI counts them."""

    prompt_tokens: int = Field(description="The visual's tokens and those of all text before the reply.")
    completion_tokens: int
    total_tokens: int


class ErrorBody(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorOut(BaseModel):
    """Every refusal, in OpenAI's form."""

    error: ErrorBody

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "error": {
                    "message": "the point (640, 10) is outside the frame; x must be in 0 to 336 (exclusive) and y in 0 "
                    "to 336 (exclusive)",
                    "type": "invalid_request_error",
                    "param": None,
                    "code": "bad_prompt",
                }
            }
        }
    )
