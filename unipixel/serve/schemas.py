"""Records of the API that several routes share: prompts and options in, objects and errors out.

Masks are COCO RLE, coordinates source pixels. Fields are taken as they are, never converted: ``"1"`` is no number and
``true`` is none either. The form of a request is checked here; what it means for a clip, the session checks.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from unipixel.errors import PromptError
from unipixel.masks import decode_rle
from unipixel.sample import Box, Mask, Point

MAX_PROMPTS = 256
"""Prompts of one request."""
DEFAULT_TOKENS = 256
"""Longest reply where a request does not say."""
MAX_OBJECT_ID = 99_999
MAX_FRAME = 1_000_000
MAX_RLE = 8 << 20
"""Characters of one mask's counts."""

LEFT_OUT = Field(exclude_if=lambda value: value is None)
"""Marks a field that is not sent where it is None."""

Frame = Annotated[int, Field(ge=0, le=MAX_FRAME, description="Frame of the clip, from 0.")]
ObjectId = Annotated[int, Field(ge=1, le=MAX_OBJECT_ID)]
PromptedId = Annotated[
    ObjectId | None,
    Field(
        description="Prompts with one id describe one object, and correct it if it is known; without an id, each "
        "describes a new one."
    ),
    LEFT_OUT,
]
Number = Annotated[float, Field(allow_inf_nan=False)]
StartFrame = Annotated[
    Frame | Literal["best"],
    Field(
        description="Frame on which objects that the model segments start, or `best`: where each is clearest, of the "
        "frames that the model reads. By default as the checkpoint says."
    ),
]


class StrictModel(BaseModel):
    """A record of our own: unknown fields are refused, values are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class MaskRle(StrictModel):
    """A mask in COCO run lengths."""

    size: Annotated[list[int], Field(min_length=2, max_length=2, description="Height, width of the source.")]
    counts: Annotated[str, Field(max_length=MAX_RLE)] | Annotated[list[int], Field(max_length=MAX_RLE // 8)] = Field(
        description="COCO's compressed text form; of requests also the plain numbers."
    )


class PointPrompt(StrictModel):
    """A click on an object, or beside it."""

    type: Literal["point"]
    x: Number
    y: Number
    positive: bool = Field(True, description="False: the click is beside the object.")
    frame: Frame = 0
    object_id: PromptedId = None

    def to_prompt(self, size_hw: tuple[int, int]) -> Point:
        """The engine's prompt, for media of a height and width."""
        return Point(self.x, self.y, self.frame, self.positive, self.object_id)


class BoxPrompt(StrictModel):
    """A box around an object."""

    type: Literal["box"]
    box: Annotated[list[Number], Field(min_length=4, max_length=4, description="x1, y1, x2, y2; x1 < x2, y1 < y2.")]
    frame: Frame = 0
    object_id: PromptedId = None

    def to_prompt(self, size_hw: tuple[int, int]) -> Box:
        """The engine's prompt, for media of a height and width."""
        x1, y1, x2, y2 = self.box
        return Box(x1, y1, x2, y2, self.frame, self.object_id)


class MaskPrompt(StrictModel):
    """The mask of an object on one frame, which is taken as it is."""

    type: Literal["mask"]
    rle: MaskRle
    frame: Frame = 0
    object_id: PromptedId = None

    def to_prompt(self, size_hw: tuple[int, int]) -> Mask:
        """The engine's prompt, for media of a height and width.

        Raises:
            PromptError: the mask is malformed or has another size, which is refused before it is unpacked.
        """
        height, width = size_hw
        if self.rle.size != [height, width]:
            raise PromptError(f"the mask's size is {self.rle.size}; it must be the media's, [{height}, {width}]")
        try:
            return Mask(decode_rle(self.rle.model_dump()), self.frame, self.object_id)
        except ValueError as error:
            raise PromptError(str(error)) from error


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
        [], description="Known objects that the question is about; those named as `[1]` are included anyway."
    )
    start: StartFrame | None = None
    force: bool = Field(False, description="Segment what is pointed at even if the model says that nothing is there.")
    each: bool | None = Field(
        None,
        description="Ask for each thing in a request separately ('the dog and two cats'), for 'all' and plurals until "
        "nothing new is found; not with prompts. By default where the checkpoint needs it.",
    )


class ClipOptions(StrictModel):
    """How a clip is chosen from its source."""

    num_frames: Annotated[int, Field(ge=1, le=MAX_FRAME)] | None = Field(
        None, description="Evenly spread frames that the language model reads; by default the model's own number."
    )
    track: Literal["sampled", "all"] = Field(
        "sampled", description="`sampled`: the clip is those frames. `all`: it is every frame of the source."
    )
    every: Annotated[int, Field(ge=1, le=MAX_FRAME)] = Field(1, description="Keep only every n-th frame.")


class ObjectOut(BaseModel):
    """An object with its masks."""

    id: int
    label: str
    score: float | None = Field(description="Mean score of the frames it is visible on; null if there are none.")
    frame_scores: list[float]
    visible: list[bool]
    boxes_xyxy: list[list[float] | None]
    size: list[int] = Field(description="Height, width of the masks.")
    rles: list[MaskRle | None] = Field(description="One COCO RLE per frame of the clip; null where not visible.")
    is_there: bool = Field(description="Whether it is visible on any frame.")
    mark_span: list[int] | None = Field(description="Where `[id]` stands in the text, in characters.")
    label_span: list[int] | None = Field(description="Where the words for it stand in front of that mark.")
    prompts: list[PromptIn] = Field(description="The user's prompts for it, in order.")


class MediaOut(BaseModel):
    """The clip that an answer is about."""

    name: str
    num_frames: int
    height: int
    width: int
    fps: float | None
    frame_indices: list[int] = Field(description="Index in the source of every frame of the clip.")
    seen_frames: list[int] = Field(description="Frames of the clip that the language model reads.")


FinishReason: TypeAlias = Literal["stop", "length", "loop"]
"""Why a reply ended: by itself, at the most tokens that it may have, or because it repeated itself."""

Usage: TypeAlias = Annotated[
    dict[Literal["prompt_tokens", "completion_tokens", "total_tokens"], int],
    Field(
        min_length=3,
        description="Tokens, as OpenAI counts them: the prompt is the image or video and all text before the reply.",
    ),
]


class ErrorOut(BaseModel):
    """Every error, in OpenAI's form."""

    error: dict[Literal["message", "type", "param", "code"], str | None] = Field(min_length=4)

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
