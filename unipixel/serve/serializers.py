"""Between the wire and the engine: prompts to records, and answers, objects and pieces to JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from unipixel.engine.answer import Answer, AnswerObject, MaskPiece
from unipixel.engine.memory import KnownObject
from unipixel.engine.session import Session
from unipixel.errors import PromptError
from unipixel.masks import decode_rle, encode_rle
from unipixel.processing import Processor
from unipixel.sample import Box, Mask, Point, Prompt
from unipixel.serve.schemas import BoxPrompt, MaskPrompt, PointPrompt


def to_prompts(given: Sequence[PointPrompt | BoxPrompt | MaskPrompt], size_hw: tuple[int, int]) -> list[Prompt]:
    """The engine's prompts.

    Args:
        size_hw: of the media; a mask of another size is refused before it is unpacked.

    Raises:
        PromptError: a mask is malformed or has another size.
    """
    return [_to_prompt(one, size_hw) for one in given]


def _to_prompt(given: PointPrompt | BoxPrompt | MaskPrompt, size_hw: tuple[int, int]) -> Prompt:
    if isinstance(given, PointPrompt):
        return Point(given.x, given.y, given.frame, given.positive, given.object_id)
    if isinstance(given, BoxPrompt):
        x1, y1, x2, y2 = given.box
        return Box(x1, y1, x2, y2, given.frame, given.object_id)
    height, width = size_hw
    if given.rle.size != [height, width]:
        raise PromptError(f"the mask's size is {given.rle.size}; it must be the media's, [{height}, {width}]")
    try:
        return Mask(decode_rle(given.rle.model_dump()), given.frame, given.object_id)
    except ValueError as error:
        raise PromptError(str(error)) from error


def build_prompt(prompt: Prompt) -> dict[str, Any]:
    """A prompt as it came in."""
    frame = int(prompt.frame)
    if isinstance(prompt, Point):
        place = {"x": float(prompt.x), "y": float(prompt.y), "positive": bool(prompt.positive)}
        return {"type": "point", **place, "frame": frame}
    if isinstance(prompt, Box):
        corners = [float(v) for v in (prompt.x1, prompt.y1, prompt.x2, prompt.y2)]
        return {"type": "box", "box": corners, "frame": frame}
    return {"type": "mask", "rle": dict(encode_rle(prompt.mask)), "frame": frame}


def build_object(one: AnswerObject, text: str = "") -> dict[str, Any]:
    """An object with its masks, and where a text speaks of it."""
    known = one.to_json()
    mark, words = find_spans(text, one.id, one.label)
    return {
        **known,
        "is_there": one.is_there,
        "score": known["score"] if one.is_there else None,
        "mark_span": mark,
        "label_span": words,
        "prompts": [build_prompt(p) for p in one.prompts] if isinstance(one, KnownObject) else [],
    }


def find_spans(text: str, object_id: int, label: str) -> tuple[list[int] | None, list[int] | None]:
    """Where ``[id]`` stands in a text, and the label right in front of it; None for what does not."""
    mark = f"[{object_id}]"
    start = text.find(mark)
    if start < 0:
        return None, None
    place = text.rfind(label, 0, start) if label else -1
    is_before = place >= 0 and not text[place + len(label) : start].strip()
    return [start, start + len(mark)], [place, place + len(label)] if is_before else None


def build_masks(piece: MaskPiece) -> dict[str, Any]:
    """Masks of one frame while objects are tracked."""
    objects = [
        {"id": i, "rle": None if rle is None else dict(rle), "score": round(piece.scores[i], 6)}
        for i, rle in piece.rles.items()
    ]
    return {"frame": piece.t, "objects": objects}


def build_media(session: Session, name: str) -> dict[str, Any]:
    """The clip of a session."""
    clip = session.workspace.clip
    height, width = clip.media.size_hw
    return {
        "name": name,
        "num_frames": session.num_frames,
        "height": height,
        "width": width,
        "fps": clip.fps,
        "frame_indices": list(clip.frame_indices),
        "seen_frames": list(session.seen_frames),
    }


def get_finish_reason(processor: Processor, answer: Answer, eos_ids: Iterable[int]) -> str:
    """``"stop"``, or ``"length"`` for a reply that was cut off."""
    ends = {processor.turn_end_id, *eos_ids}
    return "stop" if not answer.tokens or answer.tokens[-1] in ends else "length"


def count_usage(
    processor: Processor, num_visual: int, turns: Sequence[tuple[str, str]], answer: Answer
) -> dict[str, int]:
    """Tokens of a reply and of what stands in front of it.

    Args:
        num_visual: tokens of the visual.
        turns: earlier questions with their answers; the question that is answered is the answer's own.
    """
    chat = processor.chat
    before = len(chat.encode_opening(num_visual))
    for place, (question, reply) in enumerate(turns):
        asked = chat.encode_next_question(question) if place else chat.encode_question(question)
        before += len(asked) + len(chat.encode_answer(reply))
    if answer.question:
        before += len(chat.encode_next_question(answer.question) if turns else chat.encode_question(answer.question))
    written = len(answer.tokens)
    return {"prompt_tokens": before, "completion_tokens": written, "total_tokens": before + written}
