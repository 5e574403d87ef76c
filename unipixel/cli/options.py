"""Options that several commands share, and what they mean: prompts, media, the engine.

Prompts are written ``[ID=][-]X,Y[@FRAME]``, ``[ID=]X1,Y1,X2,Y2[@FRAME]`` and ``[ID=]FILE[@FRAME]``: coordinates in
pixels of the source, frames counted from 0 within the clip. Prompts with one ID are about one object; one without an ID
starts an object of its own, but a negative point joins the only object that there is.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from unipixel.cli.output import stderr
from unipixel.errors import MediaError, PromptError

if TYPE_CHECKING:
    from unipixel.engine.engine import Engine
    from unipixel.engine.session import Session
    from unipixel.media import Media
    from unipixel.sample import Box, Mask, Point, Prompt

_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_POINT = re.compile(rf"(?:(?P<id>\d+)=)?(?P<beside>-)?(?P<x>{_NUMBER}),(?P<y>{_NUMBER})(?:@(?P<frame>\d+))?")
_BOX = re.compile(rf"(?:(?P<id>\d+)=)?(?P<corners>-?{_NUMBER}(?:,-?{_NUMBER}){{3}})(?:@(?P<frame>\d+))?")
_MASK = re.compile(r"(?:(?P<id>\d+)=)?(?P<file>.+?)(?:@(?P<frame>\d+))?")
MAX_OBJECTS = 50
"""Ids in one mask file; more say that it is a grey picture and no index of objects."""

Medium = Annotated[str, typer.Argument(metavar="MEDIA", help="Image, video, folder of frames, or URL.")]
Model = Annotated[
    str,
    typer.Option("--model", metavar="NAME", help="'nano', '3b', '7b', a checkpoint folder, or a Hugging Face Hub id."),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="NAME",
        help="The base model, where --model holds only a part of one (LoRA, a training stage).",
    ),
]
Device = Annotated[str, typer.Option("--device", help="'auto', 'cpu', 'cuda', 'cuda:1', 'mps'.")]
DType = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="'float32', 'bfloat16', or, on CPUs, 'bf16-weights', 'int8', 'int4'; by default the one that suits.",
    ),
]
PoolMemories = Annotated[
    bool,
    typer.Option(
        "--pool-memories",
        help="Track faster and approximately: what is remembered of frames but the first is pooled 2 x 2.",
    ),
]
NumFrames = Annotated[
    int | None,
    typer.Option(
        "--num-frames", metavar="N", help="Number of evenly spread frames of a video that the language model reads."
    ),
]
Track = Annotated[
    str,
    typer.Option(
        "--track",
        help="'sampled': track through the frames that the model reads; 'all': through every frame of the source.",
    ),
]
Start = Annotated[
    str | None,
    typer.Option(
        "--start",
        metavar="FRAME",
        help="Frame of the clip where tracking starts, or 'best': where each object is clearest. "
        "[default: as the checkpoint says]",
    ),
]
Each = Annotated[
    bool | None,
    typer.Option(
        "--each/--no-each",
        help="Ask for each thing in a request separately, and for 'all' and plurals until nothing new is found; by "
        "default where the checkpoint needs it.",
    ),
]
MaxTokens = Annotated[int, typer.Option("--max-new-tokens", metavar="N", help="Longest reply, in tokens.")]
Points = Annotated[
    list[str] | None,
    typer.Option(
        "--point",
        metavar="[ID=][-]X,Y[@FRAME]",
        help="A point on an object, in pixels of the source, or beside it with '-' before X. Repeat for more points; "
        "those with the same ID belong to one object.",
    ),
]
NegativePoints = Annotated[
    list[str] | None,
    typer.Option(
        "--negative-point",
        metavar="[ID=]X,Y[@FRAME]",
        help="A point beside an object; the same as --point with '-' before X.",
    ),
]
Boxes = Annotated[
    list[str] | None,
    typer.Option(
        "--box",
        metavar="[ID=]X1,Y1,X2,Y2[@FRAME]",
        help="A box around an object, in pixels of the source. Repeat for more.",
    ),
]
Masks = Annotated[
    list[str] | None,
    typer.Option(
        "--mask",
        metavar="[ID=]FILE[@FRAME]",
        help="A mask as a grey or palette PNG: pixels above 0 are the object; several ids in a palette are several "
        "objects.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        metavar="OUT",
        help="Where to write: a folder (overlay, JSON, one PNG of ids per frame), or a .png, .gif, .mp4 (with the JSON "
        "beside it) or .json file.",
    ),
]
NoLimits = Annotated[
    bool, typer.Option("--no-limits", help="Open media of any size and length, as far as memory allows.")
]


def parse_point(text: str, *, negative: bool = False) -> Point:
    """``[ID=][-]X,Y[@FRAME]``.

    Args:
        beside: a negative point even without the '-'.

    Raises:
        PromptError: it is not written so.
    """
    from unipixel.sample import Point

    found = _POINT.fullmatch(text.replace(" ", ""))
    if not found:
        raise PromptError(
            f"{text!r} is not a point; write X,Y or X,Y@FRAME such as 120,80@0, with a number and = in front "
            "to name the object (2=120,80), and - before X for a point beside it"
        )
    positive = not (negative or found["beside"])
    return Point(float(found["x"]), float(found["y"]), _parse_frame(found), positive, _parse_id(found))


def parse_box(text: str) -> Box:
    """``[ID=]X1,Y1,X2,Y2[@FRAME]``.

    Raises:
        PromptError: it is not written so.
    """
    from unipixel.sample import Box

    found = _BOX.fullmatch(text.replace(" ", ""))
    if not found:
        raise PromptError(
            f"{text!r} is not a box; write X1,Y1,X2,Y2 or X1,Y1,X2,Y2@FRAME such as 40,30,200,180@0, left top "
            "before right bottom"
        )
    x1, y1, x2, y2 = (float(value) for value in found["corners"].split(","))
    return Box(x1, y1, x2, y2, _parse_frame(found), _parse_id(found))


def parse_mask(text: str) -> list[Mask]:
    """``[ID=]FILE[@FRAME]``; a file with several ids gives a mask for each, under that id.

    Raises:
        PromptError: the file marks nothing, or too many objects to be an index.
        MediaError: it cannot be read.
    """
    import numpy as np

    from unipixel.masks import load_annotated_ids
    from unipixel.sample import Mask

    found = _MASK.fullmatch(text)
    if found is None:
        raise PromptError(f"{text!r} is not a mask; write FILE or FILE@FRAME, such as dog.png@0")
    number, frame, file = _parse_id(found), _parse_frame(found), found["file"]
    if Path(text).exists():  # its name may look like a frame or an id
        number, frame, file = None, 0, text
    if not file.strip():
        raise PromptError("--mask is empty; name a file (is a variable unset?)")
    ids, _ = load_annotated_ids(file, of_one=number is not None)
    values = [int(value) for value in np.unique(ids) if value]
    if not values:
        raise PromptError(f"the mask {file} is empty; it must mark at least one pixel with a value above 0")
    if number is not None or len(values) == 1:
        return [Mask(ids > 0, frame, number)]
    if len(values) > MAX_OBJECTS:
        raise PromptError(
            f"the mask {file} holds {len(values)} values, too many to be object ids (at most {MAX_OBJECTS}); give a "
            "mask of black and white, or name its object (1=FILE) to take every pixel above 0"
        )
    return [Mask(ids == value, frame, value) for value in values]


def parse_prompts(
    points: Sequence[str] | None,
    negative_points: Sequence[str] | None,
    boxes: Sequence[str] | None,
    masks: Sequence[str] | None,
) -> list[Prompt]:
    """All prompts of a question.

    Raises:
        PromptError: one is not written as it should be, or a negative point does not say which object it is beside.
    """
    clicks = [parse_point(text) for text in points or ()]
    clicks += [parse_point(text, negative=True) for text in negative_points or ()]
    rest: list[Prompt] = [parse_box(text) for text in boxes or ()]
    for text in masks or ():
        rest += parse_mask(text)
    positive: list[Prompt] = [*(p for p in clicks if p.positive), *rest]
    negative = [p for p in clicks if not p.positive]
    if any(p.object_id is None for p in negative):
        named = {p.object_id for p in [*positive, *negative]} - {None}
        unnamed = [p for p in positive if p.object_id is None]
        if len(named) + len(unnamed) != 1:
            raise PromptError(
                f"{len(named) + len(unnamed)} objects are prompted and a negative point does not say which one it is "
                "beside; write the same number and = in front of both, such as 1=40,30 and 1=-90,30"
            )
        # the one object's number: its own, or the first that a session gives
        number = next(iter(named), 1)
        positive = [replace(p, object_id=number) for p in positive]
        negative = [replace(p, object_id=number) for p in negative]
    return [*positive, *negative]


def _parse_id(found: re.Match[str]) -> int | None:
    return int(found["id"]) if found["id"] is not None else None


def _parse_frame(found: re.Match[str]) -> int:
    return int(found["frame"] or 0)


def open_source(media: str, no_limits: bool = False) -> Media:
    """The media that a command is about, with a line on stderr while they are opened; ``-`` is standard input.

    Raises:
        MediaError: they cannot be read.
    """
    with stderr().status(f"opening {media[:60]}"):
        from unipixel.media import UNLIMITED, choose_limits, open_media

        limits = UNLIMITED if no_limits else replace(choose_limits(media), remedy="--no-limits opens it all the same")
        return open_media(read_stdin() if media == "-" else media, limits=limits)


def read_stdin() -> bytes:
    """The file that standard input holds.

    Raises:
        MediaError: it holds none, or is a terminal.
    """
    if sys.stdin.isatty():
        raise MediaError("'-' is the file on standard input, which is a terminal; lead a file into it")
    data = typer.get_binary_stream("stdin").read()
    if not data:
        raise MediaError("'-' is the file on standard input, which is empty")
    return data


def open_session(engine: Engine, media: Media, num_frames: int | None, track: str) -> Session:
    """A session about media, with a line on stderr while the frames are chosen.

    Raises:
        MediaError: they cannot be read.
        ValueError: an option is wrong.
    """
    with stderr().status("opening"):
        return engine.open(media, num_frames=num_frames, track=parse_track(track))


def load_engine(
    model: str, device: str, dtype: str | None = None, base: str | None = None, pool_memories: bool = False
) -> Engine:
    """The engine, with a line on stderr while it loads.

    Threads of torch then sleep while they wait for each other, unless ``OMP_WAIT_POLICY`` says otherwise: where other
    work takes the cores, those that spin burn the time that the one they wait for would need.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, when torch is loaded
    with stderr().status(f"loading {model}"):
        with _keep_imports():
            from unipixel.engine.engine import load

        return load(model, device=device, dtype=dtype, base=base, pool_memories=pool_memories)


@contextmanager
def _keep_imports() -> Iterator[None]:
    """What torch makes while it is imported lives as long as the process: it is not looked through for garbage."""
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def parse_start(text: str | None) -> int | Literal["best"] | None:
    """A frame, "best", or None: as the checkpoint says.

    Raises:
        ValueError: neither.
    """
    if text is None or text == "best":
        return None if text is None else "best"
    if not text.isdecimal():
        raise ValueError(f"--start is {text!r}; it must be 'best' or the number of a frame, from 0")
    return int(text)


def parse_track(text: str) -> Literal["sampled", "all"]:
    """ "sampled" or "all".

    Raises:
        ValueError: neither.
    """
    if text == "sampled":
        return "sampled"
    if text == "all":
        return "all"
    raise ValueError(f"--track is {text!r}; it must be 'sampled' or 'all'")
