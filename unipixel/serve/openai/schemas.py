"""OpenAI's chat format, as far as it applies here, with our extension under ``unipixel``.

Unknown fields are ignored, since OpenAI may add more of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from unipixel.serve.schemas import (
    ClipOptions,
    MediaOut,
    Number,
    ObjectOut,
    QuestionOptions,
    Usage,
)

MAX_MESSAGES = 128
MAX_IMAGES = 64


class MediaUrl(BaseModel, strict=True):
    """Where the media are."""

    url: str = Field(description="A `data:` URL with base64, or an http(s) URL.")


class ContentPart(BaseModel, strict=True):
    """A text, an image or a video, in the field that its type names."""

    type: Literal["text", "image_url", "video_url"]
    text: str | None = None
    image_url: MediaUrl | str | None = Field(None, description="Several of one size are the frames of a clip.")
    video_url: MediaUrl | str | None = None

    @model_validator(mode="after")
    def check_type(self) -> ContentPart:
        """Refuse a part without the field that its type names."""
        if getattr(self, self.type) is None:
            raise PydanticCustomError("no_content", f"a part of type '{self.type}' must have the field '{self.type}'")
        return self


class ChatMessage(BaseModel, strict=True):
    """Instructions for the first question; a question, of which the first carries the media; or an earlier answer."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[ContentPart], Field(max_length=2 * MAX_IMAGES)] | None = Field(
        None, description="Images and videos in a question only; null in an answer only."
    )
    unipixel: QuestionOptions | None = Field(None, description="Prompts for this question.")

    @model_validator(mode="after")
    def check_content(self) -> ChatMessage:
        """Refuse media where none belong, and a message without content that is no answer."""
        if self.content is None and self.role != "assistant":
            raise PydanticCustomError("no_content", f"a message of the role '{self.role}' must have content")
        if self.role != "user" and isinstance(self.content, list) and any(p.type != "text" for p in self.content):
            raise PydanticCustomError("bad_content", f"a message of the role '{self.role}' must be text only")
        return self


class UnipixelOptions(QuestionOptions, ClipOptions):
    """Prompts for the last question, and how the clip is chosen."""

    stream_masks: bool = Field(False, description="With `stream`: send masks frame by frame, as they are tracked.")


EXAMPLE_IMAGE = "data:image/png;base64,iVBORw0KGgo..."
EXAMPLES: list[Any] = [
    {
        "model": "nano",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": EXAMPLE_IMAGE}},
                    {"type": "text", "text": "Please segment the dog in this image."},
                ],
            }
        ],
    },
    {
        "model": "nano",
        "stream": True,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "video_url", "video_url": {"url": "https://example.org/clip.mp4"}},
                    {"type": "text", "text": "What is this?"},
                ],
            }
        ],
        "unipixel": {"prompts": [{"type": "point", "x": 120, "y": 80, "frame": 0}], "num_frames": 8},
    },
]


class ChatRequest(BaseModel, strict=True):
    """One question with the conversation before it."""

    model_config = ConfigDict(json_schema_extra={"examples": EXAMPLES})

    model: str = Field(max_length=500)
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = False
    stream_options: dict[str, bool | None] | None = Field(
        None, description="With `include_usage`, a stream ends with the tokens.", examples=[{"include_usage": True}]
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = Field(None, description="0 (greedy) by default.")
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    n: Literal[1] | None = 1
    unipixel: UnipixelOptions | None = None
    response_format: dict[str, Any] | None = Field(
        None,
        description="`text`; `json_object`: the content is JSON of the words and objects; `json_schema`: of the fields "
        "that a schema names, among them one choice with an enum of texts. What cannot be promised is refused.",
        examples=[{"type": "json_object"}],
    )
    stop: Annotated[list[str], Field(max_length=0)] | None = Field(None, description="Not supported.")
    tools: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="Not supported.")
    logprobs: Literal[False] | None = Field(None, description="Not supported.")
    frequency_penalty: Number | None = Field(None, description="Only 0.")
    presence_penalty: Number | None = Field(None, description="Only 0.")

    @field_validator("frequency_penalty", "presence_penalty")
    @classmethod
    def refuse_penalties(cls, value: float | None) -> float | None:
        """Refuse penalties other than 0."""
        if value:
            raise ValueError("penalties are not supported; it must be 0")
        return value


class ChatObjects(BaseModel):
    """What the answer speaks of."""

    objects: list[ObjectOut] = Field(description="Objects that were prompted, then those that the reply segments.")
    media: MediaOut
    raw_text: str = Field(description="The reply as the model wrote it, with `<|seg|>` where `[id]` stands.")
    is_loop: bool = Field(description="Whether the reply was cut off because it repeated itself.")
    timings_s: dict[str, float]


class ChatAnswerMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"]
    content: str
    refusal: None = None
    unipixel: ChatObjects


class ChatChoice(BaseModel):
    """The only choice."""

    index: int
    message: ChatAnswerMessage
    finish_reason: Literal["stop", "length"] = Field(description="`length` for a reply that was cut off.")
    logprobs: None = None


class ChatResponse(BaseModel):
    """A complete answer."""

    id: str
    created: int
    model: str
    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: Usage
