"""Where ``protocol=original`` trains on something else than ``protocol=correct``: the one table that code and docs use.

The original is UniPixel's own training code, mistakes included, since the released weights were made with it; the
paper's stages follow it. Whatever is in neither table is the same: words of prompts, turns, frames, sizes of pictures,
masks.
"""

from __future__ import annotations

from dataclasses import dataclass

POINTING = ("videorefer_short_caption", "inst_it_image_short_caption_raw", "videorefer_qa", "inst_it_video_qa_raw")
"""Data sets of the stages whose objects are pointed at."""


@dataclass(frozen=True)
class Difference:
    """One thing that is done differently."""

    where: tuple[str, ...]
    """Data sets; none: all."""
    original: str
    correct: str


DIFFERENCES = (
    Difference(
        ("paco_lvis", "pascal_part"),
        "every annotation is asked for by itself, so that a name of which a picture has several is asked with several "
        "right answers",
        "the annotations of one name are one object, their union",
    ),
    Difference(
        ("cocostuff",),
        "the list of catch-all classes that are not asked for is shifted by one: `person`, `bush`, `grass` and others "
        "are left out, `building-other` and its like stay",
        "the catch-all classes, those with a hyphen, are left out",
    ),
    Difference(
        POINTING,
        "points and boxes come from the mask stretched to SAM's square: integer pixels, and inclusive pixel indices, "
        "without the half pixel to a pixel's centre or outer edge",
        "points are centres of pixels at source size, boxes the outer edges of the mask",
    ),
    Difference(
        ("inst_it_video_qa_raw",),
        "where objects are given as regions, a clip whose questions have more than 5 objects together is left out",
        "a question about more than 5 objects is left out",
    ),
)
"""What ``protocol`` decides, in the order of the docs."""

ALWAYS = (
    Difference(
        (),
        "a sample that cannot be read is replaced by another one of its set",
        "it stops the run and is named",
    ),
    Difference(
        (),
        "a draw of frames that does not show an object that is asked about is replaced by another sample",
        "frames are drawn again, up to 10 times",
    ),
    Difference(
        (),
        "masks of another size than their frames are stretched",
        "they are refused",
    ),
    Difference(
        (),
        "requests are drawn from the original's sets of templates",
        "the first template of each set is the original's, the others are this project's own",
    ),
    Difference(
        ("inst_it_video_qa_raw",),
        "the objects of a question are in the order of a hash that changes with every run; where they are pointed at, "
        "the points may be swapped among them",
        "they are in ascending order, behind those of the clip's earlier questions; points and boxes are those of "
        "their own objects",
    ),
    Difference(
        POINTING,
        "a box around what lies on one row or column of SAM's square has no inside",
        "it is one pixel wide",
    ),
    Difference(
        ("osprey_conversation", "osprey_pos_neg"),
        "a misspelt tag takes the character behind it with it or is left in the text, and `<region0>` is the last "
        "region",
        "misspelt tags are read as meant, and rows with a region that there is not are left out",
    ),
    Difference(
        ("osprey_detail_description",),
        "a description is its first line",
        "a description is taken whole",
    ),
    Difference(
        ("llava_instruct_665k_videogpt_plus_576k",),
        "a conversation that the assistant opens is replaced by another one; a last question without an answer is kept",
        "the opening is taken off, and so is the last question",
    ),
    Difference(
        (),
        "the loss of several processes is the mean of their means",
        "it is the mean over tokens and samples of the whole batch",
    ),
    Difference(
        (),
        "the first stages do not save the random Fourier matrices, which are drawn anew later",
        "they are saved",
    ),
)
"""What is different under either protocol, in the order of the docs."""


def format_table(rows: tuple[Difference, ...]) -> str:
    """A table of the docs."""
    lines = ["| data | `original` | here |", "|---|---|---|"]
    if rows is DIFFERENCES:
        lines[0] = "| data | `original` | `correct` |"
    for one in rows:
        names = ", ".join(f"`{name}`" for name in one.where) or "all"
        lines.append(f"| {names} | {one.original} | {one.correct} |")
    return "\n".join(lines)
