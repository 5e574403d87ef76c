"""Points, boxes and masks checked against the media and turned into SAM's coordinates; the wording of requests.

Source coordinates are (x, y) in pixels from the outer corner of the top-left pixel; SAM's are the same, scaled so that
both sides of the frame are S.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from unipixel.errors import PromptError
from unipixel.processing.chat import SEG
from unipixel.sample import Box, Mask, Point, Prompt

BORDER_TOLERANCE = 1.0
"""Pixels by which a box may leave its frame before it is refused."""
MAX_POINTS = 2
"""Points that one ``<|ref|>`` can carry: a point, two points, or the two corners of a box."""


SamPoints: TypeAlias = tuple[Tensor, Tensor, int]
"""The prompts of one object in SAM's terms: coords float32 (P, 2), (x, y) in 0..S; labels int64 (P,), 1 foreground, 0
background, 2 box top-left, 3 bottom-right; frame t of the clip."""


def check_prompt(prompt: Prompt, size_hw: tuple[int, int], num_frames: int) -> None:
    """Refuse a prompt that does not fit the clip.

    Raises:
        PromptError: a coordinate is not a finite number or outside the frame, a box or mask is empty, a mask has
            another size than the frame, or the clip has no such frame.
    """
    if not isinstance(prompt, (Point, Box, Mask)):
        raise PromptError(f"a prompt is a {type(prompt).__name__}, expected a Point, Box or Mask")
    frame = prompt.frame
    if isinstance(frame, bool) or not isinstance(frame, (int, np.integer)) or not 0 <= frame < num_frames:
        raise PromptError(f"the prompt's frame is {frame!r}; the clip has frames 0 to {num_frames - 1}")
    if isinstance(prompt, Point):
        _check_point(prompt, size_hw)
    elif isinstance(prompt, Box):
        _check_box(prompt, size_hw)
    else:
        _check_mask(prompt.mask, size_hw)


def clip_to_frame(prompt: Prompt, size_hw: tuple[int, int]) -> Prompt:
    """The prompt, a box cut to the frame where it leaves it by a pixel at most, as rounding and padding make it do."""
    if not isinstance(prompt, Box):
        return prompt
    height, width = size_hw
    corners: tuple[Any, ...] = (prompt.x1, prompt.y1, prompt.x2, prompt.y2)
    if any(isinstance(value, bool) or not isinstance(value, Real) for value in corners):
        return prompt
    sides = (width, height, width, height)
    cut = [
        0.0 if -BORDER_TOLERANCE <= value < 0 else float(side) if side < value <= side + BORDER_TOLERANCE else value
        for value, side in zip(corners, sides, strict=True)
    ]
    return prompt if tuple(cut) == corners else replace(prompt, x1=cut[0], y1=cut[1], x2=cut[2], y2=cut[3])


def _check_point(point: Point, size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    _check_numbers("point", point.x, point.y)
    if not (0 <= point.x < width and 0 <= point.y < height):
        raise PromptError(
            f"the point ({point.x:.10g}, {point.y:.10g}) is outside the frame; "
            f"x must be in 0 to {width} (exclusive) and y in 0 to {height} (exclusive)"
        )


def _check_box(box: Box, size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    corners = (box.x1, box.y1, box.x2, box.y2)
    _check_numbers("box", *corners)
    text = ", ".join(f"{value:.10g}" for value in corners)
    if box.x2 <= box.x1 or box.y2 <= box.y1:
        raise PromptError(f"the box ({text}) is empty; it must be x1, y1, x2, y2 with x1 < x2 and y1 < y2")
    if min(box.x1, box.y1) < 0 or box.x2 > width or box.y2 > height:
        most = max(-box.x1, -box.y1, box.x2 - width, box.y2 - height)
        raise PromptError(
            f"the box ({text}) leaves the frame by {most:.10g} pixels; x must be in 0 to {width} and y in 0 to {height}"
        )


def _check_numbers(what: str, *values: Any) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise PromptError(f"a coordinate of the {what} is {value!r}; it must be a finite number")


def _check_mask(mask: Any, size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        kind = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
        raise PromptError(f"the mask is {kind}; it must be a NumPy array of bool")
    if mask.shape != (height, width):
        raise PromptError(f"the mask has the shape {mask.shape}; the frame needs ({height}, {width})")
    if not mask.any():
        raise PromptError("the mask is empty; it must cover at least one pixel")


def build_sam_points(
    prompts: Sequence[Point | Box], size_hw: tuple[int, int], num_frames: int, sam_size: int, *, check: bool = True
) -> SamPoints:
    """Any number of checked points and boxes of one object on one frame, as SAM's point prompts (boxes first).

    Args:
        check: refuse prompts that do not fit the clip.

    Raises:
        PromptError: no prompt, one that does not fit the clip, a mask, several boxes, or prompts on several frames.
    """
    if not prompts:
        raise PromptError("an object reference has no prompt; give it a point or a box")
    for prompt in prompts:
        if check:
            check_prompt(prompt, size_hw, num_frames)
        if isinstance(prompt, Mask):
            raise PromptError("a mask cannot be an object reference; give it as a known object instead")
    frames = sorted({int(prompt.frame) for prompt in prompts})
    if len(frames) > 1:
        raise PromptError(f"the prompts of one object are on frames {frames}; they must all be on one frame")
    boxes = [prompt for prompt in prompts if isinstance(prompt, Box)]
    points = [prompt for prompt in prompts if isinstance(prompt, Point)]
    if len(boxes) > 1:
        raise PromptError(f"one object has {len(boxes)} boxes; it can have one")
    rows = [corner for box in boxes for corner in ((box.x1, box.y1, 2), (box.x2, box.y2, 3))]
    rows += [(point.x, point.y, 1 if point.positive else 0) for point in points]
    table = torch.tensor(rows, dtype=torch.float64)
    height, width = size_hw
    scale = torch.tensor([sam_size / width, sam_size / height], dtype=torch.float64)
    return (table[:, :2] * scale).float(), table[:, 2].long(), frames[0]


def build_reference(
    prompts: Sequence[Point | Box], size_hw: tuple[int, int], num_frames: int, sam_size: int, *, check: bool = True
) -> SamPoints:
    """The prompts of one ``<|ref|>``: a point, two points, or a box; arguments as in `build_sam_points`.

    Raises:
        PromptError: as `build_sam_points`, or more than fits one ``<|ref|>`` (see `choose_strongest`).
    """
    found = build_sam_points(prompts, size_hw, num_frames, sam_size, check=check)
    if len(found[1]) > MAX_POINTS:
        raise PromptError(f"one <|ref|> has {len(prompts)} prompts; it takes a point, two points, or one box")
    return found


def choose_strongest(prompts: Sequence[Point | Box]) -> Point | Box:
    """The one prompt that says most about an object: its box, else its first positive point, else its first point."""
    return min(prompts, key=lambda prompt: 0 if isinstance(prompt, Box) else 1 if prompt.positive else 2)


Wording = Literal["query", "sentence", "explanatory", "question", "description"]
"""What the words of a request are: a noun phrase, a sentence that implies the object, the same with reasons asked for,
a question to be answered in words too, or a description."""

QUERIES = (
    "Can you segment the {} in this {}?",
    "Please segment the {} in this {}.",
    "Where is the {} in this {}? Please respond with the segmentation mask.",
    "What is the {} in this {}? Please output the segmentation mask.",
    "Find the {} in this {} and segment it.",
    "Could you show me the {} in this {} as a mask?",
    "I am looking for the {} in this {}. Please segment it.",
)
SENTENCES = (
    "{} Please provide the segmentation mask.",
    "{} Segment the target directly.",
    "{} Please answer with the segmentation mask.",
    "{} Show what is meant as a mask.",
    "{} Give the mask of what this is about.",
)
EXPLANATORY = (
    "{} Please provide the segmentation mask and explain why.",
    "{} Segment the target and give your reasons.",
    "{} Answer with the mask, then say why it is this one.",
    "{} Show it as a mask and explain your choice.",
    "{} Please segment it and tell how you know.",
)
QUESTIONS = (
    "{} Please answer the question and provide the segmentation mask.",
    "{} Answer in words and segment what you speak of.",
    "{} Give your answer together with its mask.",
    "{} Say who or what it is, and segment it.",
    "{} Reply in a few words and show the mask.",
)
DESCRIPTIONS = (
    "Please segment the object according to the description: {}",
    "Segment what is described here: {}",
    "Find what fits this description and give its mask: {}",
    "Which object is this? Please segment it: {}",
    "Here is a description of an object; show it as a mask: {}",
)
ANSWERS = (
    f"The target is {SEG}.",
    f"The segmentation result is {SEG}.",
    f"Sure, the segmentation mask is {SEG}.",
    f"Sure, it is {SEG}.",
    f"{SEG}.",
)
"""Short answers of the released training data."""

QUERY = QUERIES[1]
"""What evaluation asks with; of the other kinds it takes the first template."""
_TEMPLATES: dict[str, tuple[str, ...]] = {
    "query": QUERIES,
    "sentence": SENTENCES,
    "explanatory": EXPLANATORY,
    "question": QUESTIONS,
    "description": DESCRIPTIONS,
}


def format_request(wording: Wording, text: str, *, is_video: bool, rng: np.random.Generator | None = None) -> str:
    """A request to segment what ``text`` speaks of.

    Args:
        rng: picks among the templates for training; None takes the one that evaluation uses.

    Raises:
        ValueError: unknown wording.
    """
    templates = _TEMPLATES.get(wording)
    if templates is None:
        raise ValueError(f"wording is {wording!r}; it must be one of {', '.join(_TEMPLATES)}")
    template = templates[0 if rng is None else int(rng.integers(len(templates)))]
    if wording == "query":
        template = QUERY if rng is None else template
        return template.format(format_noun_phrase(text), "video" if is_video else "image")
    return template.format(text)


def format_noun_phrase(text: str) -> str:
    """A query in the form that the templates continue: no full stops at its ends, first letter small, no article.

    Source: the released code, to the letter, since its checkpoints were trained on it: blanks stay, the first letter is
    made small before articles are looked for, and the word behind one keeps its capital.
    """
    phrase = text.strip(".")
    phrase = phrase[:1].lower() + phrase[1:]
    for article in ("the ", "an ", "a "):
        phrase = phrase.removeprefix(article)
    return phrase
