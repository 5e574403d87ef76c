"""OpenAI's chat format, as far as it applies here, with our extension under ``unipixel``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from unipixel.serve.schemas import (
    LEFT_OUT,
    ClipOptions,
    MasksOut,
    MediaOut,
    Number,
    ObjectOut,
    QuestionOptions,
    UsageOut,
)

MAX_MESSAGES = 128
MAX_IMAGES = 64


class OpenAIModel(BaseModel):
    """A record of OpenAI's: unknown fields are ignored, since more may be added to it."""

    model_config = ConfigDict(extra="ignore", strict=True)


class MediaUrl(OpenAIModel):
    """Where the media are."""

    url: str = Field(description="A `data:` URL with base64, or an http(s) URL.")


class TextPart(OpenAIModel):
    """Text."""

    type: Literal["text"]
    text: str


class ImagePart(OpenAIModel):
    """An image; several of one size are the frames of a clip."""

    type: Literal["image_url"]
    image_url: MediaUrl | str


class VideoPart(OpenAIModel):
    """A video."""

    type: Literal["video_url"]
    video_url: MediaUrl | str


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]
Words = str | Annotated[list[TextPart], Field(max_length=MAX_IMAGES)]


class SystemMessage(OpenAIModel):
    """Instructions; they are put in front of the first question."""

    role: Literal["system", "developer"]
    content: Words


class UserMessage(OpenAIModel):
    """A question; the first one carries the image or video."""

    role: Literal["user"]
    content: str | Annotated[list[Part], Field(max_length=2 * MAX_IMAGES)]
    unipixel: QuestionOptions | None = Field(None, description="Prompts for this question.")


class AssistantMessage(OpenAIModel):
    """An earlier answer, as it was given."""

    role: Literal["assistant"]
    content: Words | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class UnipixelOptions(QuestionOptions, ClipOptions):
    """Prompts for the last question, and how the clip is chosen."""

    stream_masks: bool = Field(False, description="With `stream`: send masks frame by frame, as they are tracked.")


class StreamOptions(OpenAIModel):
    """What a stream carries besides the answer."""

    include_usage: bool | None = None


class ResponseFormat(OpenAIModel):
    """The form of the answer, which can only be text."""

    type: Literal["text"] = "text"


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


class ChatRequest(OpenAIModel):
    """One question with the conversation before it."""

    model_config = ConfigDict(extra="ignore", strict=True, json_schema_extra={"examples": EXAMPLES})

    model: str = Field(max_length=500)
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = Field(None, description="0 (greedy) by default.")
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    n: Literal[1] | None = 1
    unipixel: UnipixelOptions | None = None
    response_format: ResponseFormat | None = None
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
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatResponse(BaseModel):
    """A complete answer."""

    id: str
    created: int
    model: str
    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: UsageOut


class ChatMasks(BaseModel):
    """Masks of one frame, as they are tracked."""

    masks: MasksOut


class ChatDelta(BaseModel):
    """What a chunk adds to the answer."""

    role: Annotated[Literal["assistant"] | None, LEFT_OUT] = None
    content: Annotated[str | None, LEFT_OUT] = None
    unipixel: Annotated[ChatObjects | ChatMasks | None, LEFT_OUT] = None


class ChunkChoice(BaseModel):
    """The only choice of a chunk."""

    index: int = 0
    delta: ChatDelta
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: None = None


class ChatChunk(BaseModel):
    """One event of an answer that is streamed."""

    id: str
    created: int
    model: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChunkChoice]
    usage: UsageOut | None = None
