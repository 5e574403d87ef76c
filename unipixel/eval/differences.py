"""Where ``--protocol original`` does something else than ``--protocol correct``: the one table that code and docs use.

The original is UniPixel's own evaluation code, mistakes included, since the published figures were made with it.
Whatever is not listed here is the same in both: words of prompts, frames, sizes of pictures, the order of region lines.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

EXPRESSIONS = (
    "revos", "mevis", "ref_youtube_vos", "ref_davis17/valid", "ref_sav", "groundmore",
    "refcoco", "refcoco+", "refcocog", "reason_seg",
)  # fmt: skip
"""Benchmarks (or single splits) whose answers are masks of an expression."""
GENERAL = ("mvbench", "videomme")


@dataclass(frozen=True)
class ProtocolDifference:
    """One thing that the two protocols do differently."""

    where: tuple[str, ...]
    """Benchmarks, or benchmark/split."""
    original: str
    correct: str


DIFFERENCES = (
    ProtocolDifference(
        EXPRESSIONS,
        "only a reply's first mask counts",
        "the union of all masks of a reply counts",
    ),
    ProtocolDifference(
        EXPRESSIONS,
        "an error is scored as an empty mask, which gains points on frames without the object",
        "an error scores 0",
    ),
    ProtocolDifference(
        ("revos",),
        "A and R compare masks of 0 and 255 with masks of 0 and 1",
        "A and R compare masks with masks",
    ),
    ProtocolDifference(
        ("ref_davis17/valid",),
        "the truth of the n-th expression, videos and ids sorted as strings, is the n-th mask of the file",
        "the truth of an expression is its own mask",
    ),
    ProtocolDifference(
        ("reason_seg",),
        "pixels to be ignored are background",
        "pixels to be ignored count nowhere",
    ),
    ProtocolDifference(
        ("videorefer_bench_q", *GENERAL),
        "the letter is that of the first word up to a blank, with the commas in it; a reply that is empty or begins "
        "with a blank, at which the original's scorer stops, is wrong",
        "the letter is that of the first word, without its commas, whatever white space stands around it",
    ),
    ProtocolDifference(
        ("videorefer_bench_q",),
        "a reply has up to 512 tokens",
        "a reply is cut after 8 tokens, since only its first word counts",
    ),
    ProtocolDifference(
        GENERAL,
        "a reply has up to 256 tokens",
        "a reply is cut after 8 tokens, since only its first word counts",
    ),
    ProtocolDifference(
        GENERAL,
        "a file gives 2 frames a second, at least 4, at most 16, an even number, spread from its first to its last; "
        "one of a single frame fails",
        "a file gives 2 frames a second, at least 4, at most as many as the checkpoint sees",
    ),
    ProtocolDifference(
        GENERAL,
        "of a folder of frames the model sees all 32 that the set takes",
        "of a folder of frames the model sees as many as it usually does",
    ),
    ProtocolDifference(
        GENERAL,
        "positions follow the real seconds between two frames of a file, cut down to whole seconds per temporal step",
        "positions are those that segmentation uses, whatever the rate",
    ),
    ProtocolDifference(
        GENERAL,
        "a frame has at most 256 visual tokens, however few there are; frames of files are resized as tensors",
        "few frames share the tokens of those that are lacking; all frames are resized by Pillow",
    ),
    ProtocolDifference(
        ("mvbench",),
        "accuracy is over all questions",
        "accuracy is the mean of the tasks, which is the same where all have equally many questions",
    ),
    ProtocolDifference(
        ("pixelqa",),
        "the pre-filling answer is dictated: the ids that the question names, each with a mask",
        "the model writes the pre-filling answer by itself, and may find less",
    ),
    ProtocolDifference(
        ("pixelqa",),
        "objects keep the ids of the data, from 0",
        "objects count from 1",
    ),
    ProtocolDifference(
        ("pixelqa",),
        "a full stop stands behind the options, in front of the request to localize",
        "the request to localize follows the options",
    ),
    ProtocolDifference(
        ("pixelqa",),
        "all objects are pointed at on the question's frame: one that is not there by the point (0, 0), or by a box "
        "with the corners (768, 768) and (-1, -1)",
        "an object is pointed at on the frame nearest to the question's on which it is there",
    ),
    ProtocolDifference(
        ("pixelqa",),
        "points and boxes are taken from the mask stretched to 768 x 768: its most interior pixel, the first of "
        "equals, and inclusive pixel indices, without the half pixel to a pixel's centre or outer edge",
        "points are centres of the most interior pixel at source size, boxes the outer edges of the mask",
    ),
    ProtocolDifference(
        ("pixelqa",),
        "mixed: round(n / 2) objects get points, halves rounded to even; a lone one gets either",
        "mixed: half of the objects get points; of an odd number chance decides the last",
    ),
    ProtocolDifference(
        ("pixelqa",),
        "an object without a mask is the whole frame in the question, not in the score",
        "an object without a mask is pointed at once more in the question",
    ),
    ProtocolDifference(
        ("pixelqa",),
        'the reply is primed with "The best option is (" and has up to 512 tokens; the letter is that of its first '
        "word up to a blank, and an empty reply, or one that begins with a blank, is wrong",
        "the reply is free, of up to 32 tokens, and its first letter in brackets counts",
    ),
    ProtocolDifference(
        ("pixelqa",),
        "volumes are compared in single precision with 1e-6 in the denominators: both empty score 0",
        "volumes are compared exactly: both empty score 1",
    ),
    ProtocolDifference(
        ("pixelqa",),
        "masks are scored as volumes only; F is their Dice coefficient",
        "J and boundary F of single frames are reported as well",
    ),
    ProtocolDifference(
        ("videorefer_bench_d",),
        "a grade counts where its line has exactly the form asked for, and whatever its value is",
        "a grade counts in bold too, and only from 0 to 5",
    ),
)  # fmt: skip
"""In the order of the docs."""


def find_differences(benchmark: str, split: str) -> list[ProtocolDifference]:
    """Those that concern a benchmark's split."""
    return [one for one in DIFFERENCES if benchmark in one.where or f"{benchmark}/{split}" in one.where]


def describe_differences(benchmark: str, split: str) -> str:
    """What the original does differently there, as one line; empty: nothing."""
    return "; ".join(one.original for one in find_differences(benchmark, split))


def format_differences() -> str:
    """The table of the docs."""
    lines = ["| benchmarks | `original` | `correct` |", "|---|---|---|"]
    lines += [f"| {_format_names(one.where)} | {one.original} | {one.correct} |" for one in DIFFERENCES]
    return "\n".join(lines)


def _format_names(where: Iterable[str]) -> str:
    """Benchmarks as the table names them."""
    if tuple(where) == EXPRESSIONS:
        return "all that segment expressions"
    return ", ".join(f"`{name.partition('/')[0]}`" for name in where)


def insert_table(text: str) -> str:
    """A page with the table between the two comments that mark its place.

    Raises:
        ValueError: the comments are missing.
    """
    begin, end = text.find("<!-- differences"), text.find("<!-- end of differences")
    if not 0 <= begin < end:
        raise ValueError(
            "the page has no place for the table; it is marked by <!-- differences --> and <!-- end of ... -->"
        )
    first = text.index("\n", begin) + 1
    return f"{text[:first]}{format_differences()}\n{text[end:]}"
