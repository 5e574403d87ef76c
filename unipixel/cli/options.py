"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Medium = Annotated[str, typer.Argument(metavar="MEDIA", help="Image, video, folder of frames, or URL.")]
Model = Annotated[
    str, typer.Option("--model", metavar="NAME", help="'nano', a checkpoint folder, or a Hugging Face Hub id.")
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="NAME",
        help="What --model is laid over, where that holds only a part of a model (LoRA, a stage).",
    ),
]
Device = Annotated[str, typer.Option("--device", help="'auto', 'cpu', 'cuda', 'cuda:1', 'mps'.")]
DType = Annotated[
    str | None, typer.Option("--dtype", help="'float32' or 'bfloat16'; by default what suits model and device.")
]
NumFrames = Annotated[
    int | None,
    typer.Option("--num-frames", metavar="N", help="Frames of a video that the language model sees, evenly spread."),
]
Track = Annotated[
    str, typer.Option("--track", help="'sampled': the clip is the frames the model sees; 'all': all of the source.")
]
Start = Annotated[
    str,
    typer.Option(
        "--start", metavar="FRAME", help="Frame of the clip on which objects start, or 'best': where each is clearest."
    ),
]
Each = Annotated[
    bool | None,
    typer.Option(
        "--each/--no-each",
        help="Ask for each thing of a request by itself, and for 'all' and plurals until nothing new comes; by default "
        "where the checkpoint needs it.",
    ),
]
MaxTokens = Annotated[int, typer.Option("--max-new-tokens", metavar="N", help="Longest reply, in tokens.")]
Points = Annotated[
    list[str] | None,
    typer.Option(
        "--point",
        metavar="[ID=][-]X,Y[@FRAME]",
        help="A point on an object, in pixels of the source; '-' before X says that it is beside it. Repeat for more; "
        "points with one ID are about one object.",
    ),
]
NegativePoints = Annotated[
    list[str] | None,
    typer.Option("--negative-point", metavar="[ID=]X,Y[@FRAME]", help="The same as --point with a '-'."),
]
Boxes = Annotated[
    list[str] | None,
    typer.Option("--box", metavar="[ID=]X1,Y1,X2,Y2[@FRAME]", help="A box around an object. Repeat for more."),
]
Masks = Annotated[
    list[str] | None,
    typer.Option(
        "--mask",
        metavar="[ID=]FILE[@FRAME]",
        help="A grey or palette PNG: pixels above 0 are the object; a palette with several ids gives several objects.",
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
    bool, typer.Option("--no-limits", help="Open media of any size and length; the machine must have the memory.")
]
