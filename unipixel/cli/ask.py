"""``unipixel ask``: one question about one image or video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from unipixel.cli import options
from unipixel.cli.output import check_out, print_json, save_answer, show_objects, show_stream, show_written, stderr
from unipixel.cli.prompts import parse_prompts

if TYPE_CHECKING:
    from unipixel.engine.engine import Engine
    from unipixel.media import Media


def ask(
    media: options.Medium,
    text: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="The question; without one, the prompted objects are segmented."),
    ] = None,
    point: options.Points = None,
    negative_point: options.NegativePoints = None,
    box: options.Boxes = None,
    mask: options.Masks = None,
    out: options.Out = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON and nothing else.")] = False,
    model: options.Model = "nano",
    base: options.Base = None,
    device: options.Device = "auto",
    dtype: options.DType = None,
    num_frames: options.NumFrames = None,
    track: options.Track = "sampled",
    start: options.Start = "0",
    no_limits: options.NoLimits = False,
    max_new_tokens: options.MaxTokens = 256,
    each: options.Each = None,
    force: Annotated[
        bool, typer.Option("--force", help="Segment what is pointed at even if the model says that nothing is there.")
    ] = False,
) -> None:
    """Ask about an image or a video; the answer comes with masks for the objects it speaks of."""
    check_out(out)
    prompts = parse_prompts(point, negative_point, box, mask)
    # before the model is loaded, so that a misspelled name is told at once
    opened = open_source(media, no_limits)
    engine = load_engine(model, device, dtype, base)
    with engine.open(opened, num_frames=num_frames, track=parse_track(track)) as session:
        answer = show_stream(
            session,
            text,
            quiet=as_json,
            prompts=prompts,
            start=parse_start(start),
            max_new_tokens=max_new_tokens,
            force=force,
            each=each,
        )
        written = save_answer(answer, out) if out is not None else []
    if as_json:
        print_json(answer.to_json())
        return
    show_objects(answer.objects, len(answer.clip.frame_indices))
    show_written(written)


def open_source(media: str, no_limits: bool = False) -> Media:
    """The media that a command is about.

    Raises:
        MediaError: they cannot be read.
    """
    from dataclasses import replace

    from unipixel.media import UNLIMITED, choose_limits, open_media

    limits = UNLIMITED if no_limits else replace(choose_limits(media), remedy="--no-limits opens it all the same")
    return open_media(media, limits=limits)


def load_engine(model: str, device: str, dtype: str | None = None, base: str | None = None) -> Engine:
    """The engine, with a line on stderr while it loads.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    with stderr().status(f"loading {model}"):
        from unipixel.engine.engine import load

        return load(model, device=device, dtype=dtype, base=base)


def parse_start(text: str) -> int | Literal["best"]:
    """A frame, or "best".

    Raises:
        ValueError: neither.
    """
    if text == "best":
        return "best"
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
