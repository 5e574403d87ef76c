"""From the engine's records to those of the API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from unipixel.engine.answer import Answer, MaskPiece
from unipixel.engine.engine import Engine
from unipixel.engine.memory import KnownObject
from unipixel.engine.session import Session
from unipixel.masks import encode_rle
from unipixel.sample import Box, Point, Prompt
from unipixel.serve.schemas import (
    BoxPrompt,
    FinishReason,
    MaskPrompt,
    MaskRle,
    MediaOut,
    ObjectOut,
    PointPrompt,
    Usage,
)


def build_prompt(prompt: Prompt) -> PointPrompt | BoxPrompt | MaskPrompt:
    """A prompt as it came in, without the id of the object it is listed with."""
    frame = int(prompt.frame)
    if isinstance(prompt, Point):
        x, y = float(prompt.x), float(prompt.y)
        return PointPrompt(type="point", x=x, y=y, positive=bool(prompt.positive), frame=frame)
    if isinstance(prompt, Box):
        corners = [float(value) for value in (prompt.x1, prompt.y1, prompt.x2, prompt.y2)]
        return BoxPrompt(type="box", box=corners, frame=frame)
    return MaskPrompt(type="mask", rle=MaskRle.model_construct(**encode_rle(prompt.mask)), frame=frame)


def build_object(found: KnownObject, text: str = "") -> ObjectOut:
    """An object with its masks, and where a text mentions it."""
    fields = found.to_json()
    mark_span, label_span = find_spans(text, found.id, found.label)
    return ObjectOut(
        **{
            **fields,
            "score": fields["score"] if found.is_there else None,
            "rles": [rle and MaskRle.model_construct(**rle) for rle in found.track.rles],  # of any length
        },
        is_there=found.is_there,
        mark_span=mark_span,
        label_span=label_span,
        prompts=[build_prompt(prompt) for prompt in found.prompts],
    )


def find_spans(text: str, object_id: int, label: str) -> tuple[list[int] | None, list[int] | None]:
    """Where ``[id]`` stands in a text, and the label right in front of it; None for what does not."""
    mark = f"[{object_id}]"
    start = text.find(mark)
    if start < 0:
        return None, None
    place = text.rfind(label, 0, start) if label else -1
    is_in_front = place >= 0 and not text[place + len(label) : start].strip()
    return [start, start + len(mark)], [place, place + len(label)] if is_in_front else None


def build_masks(piece: MaskPiece) -> dict[Literal["frame", "objects"], object]:
    """Masks of one frame, as objects are tracked, for JSON."""
    objects = [{"id": i, "rle": rle, "score": round(piece.scores[i], 6)} for i, rle in piece.rles.items()]
    return {"frame": piece.t, "objects": objects}


def build_media(session: Session, name: str) -> MediaOut:
    """The clip of a session."""
    height, width = session.media.size_hw
    return MediaOut(
        name=name,
        num_frames=session.num_frames,
        height=height,
        width=width,
        fps=session.clip.fps,
        frame_indices=list(session.frame_indices),
        seen_frames=list(session.seen_frames),
    )


def build_timings(answer: Answer) -> dict[str, float]:
    """Seconds of an answer by stage."""
    return {stage: round(seconds, 4) for stage, seconds in answer.timings.items()}


def get_finish_reason(engine: Engine, answer: Answer) -> FinishReason:
    """``"stop"``, ``"length"`` for a reply that was cut off, ``"loop"`` for one that repeated itself."""
    if answer.is_loop:
        return "loop"
    ends = {engine.processor.turn_end_id, *engine.model.config.eos_token_ids}
    return "stop" if not answer.tokens or answer.tokens[-1] in ends else "length"


def count_usage(engine: Engine, num_visual: int, turns: Sequence[tuple[str, str]], answer: Answer) -> Usage:
    """Tokens of a reply and of what stands in front of it.

    Args:
        num_visual: tokens of the image or video.
        turns: earlier questions with their replies; the question that is answered is the answer's own.
    """
    chat = engine.processor.chat
    before = len(chat.encode_opening(num_visual))
    for place, (question, reply) in enumerate(turns):
        tokens = chat.encode_next_question(question) if place else chat.encode_question(question)
        before += len(tokens) + len(chat.encode_answer(reply))
    if answer.question:
        before += len(chat.encode_next_question(answer.question) if turns else chat.encode_question(answer.question))
    written = len(answer.tokens)
    return {"prompt_tokens": before, "completion_tokens": written, "total_tokens": before + written}
