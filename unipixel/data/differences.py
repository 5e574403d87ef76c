"""Where the original's evaluation and training do something else: the tables that code, reports and docs share.

The original is UniPixel's own code, mistakes included, since the published figures and the released weights were made
with it. Whatever is in no table is the same: words of prompts, turns, frames, sizes of pictures, the order of region
lines, masks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

EXPRESSIONS = (
    "revos", "mevis", "ref_youtube_vos", "ref_davis17/valid", "ref_sav", "groundmore",
    "refcoco", "refcoco+", "refcocog", "reason_seg",
)  # fmt: skip
"""Benchmarks (or single splits) whose answers are masks of an expression."""
GENERAL = ("mvbench", "videomme")
POINTING = ("videorefer_short_caption", "inst_it_image_short_caption_raw", "videorefer_qa", "inst_it_video_qa_raw")
"""Data sets of the stages whose objects are pointed at."""


Difference: TypeAlias = tuple[tuple[str, ...], str, str]
"""Where (benchmarks, benchmark/split, or datasets; none: all), how the original does it, and how it is done else."""

EVALUATION: tuple[Difference, ...] = (
    (
        EXPRESSIONS,
        "only a reply's first mask counts",
        "the union of all masks of a reply counts",
    ),
    (
        EXPRESSIONS,
        "an error is scored as an empty mask, which gains points on frames without the object",
        "an error scores 0",
    ),
    (
        ("revos",),
        "A and R compare masks of 0 and 255 with masks of 0 and 1",
        "A and R compare masks with masks",
    ),
    (
        ("ref_davis17/valid",),
        "the truth of the n-th expression, videos and ids sorted as strings, is the n-th mask of the file",
        "the truth of an expression is its own mask",
    ),
    (
        ("reason_seg",),
        "pixels to be ignored are background",
        "pixels to be ignored count nowhere",
    ),
    (
        ("videorefer_bench_q", *GENERAL),
        "the letter is that of the first word up to a blank, with the commas in it; a reply that is empty or begins "
        "with a blank, at which the original's scorer stops, is wrong",
        "the letter is that of the first word, without its commas, whatever white space stands around it",
    ),
    (
        ("videorefer_bench_q",),
        "a reply has up to 512 tokens",
        "a reply is cut after 8 tokens, since only its first word counts",
    ),
    (
        GENERAL,
        "a reply has up to 256 tokens",
        "a reply is cut after 8 tokens, since only its first word counts",
    ),
    (
        GENERAL,
        "a file gives 2 frames a second, at least 4, at most 16, an even number, spread from its first to its last; "
        "one of a single frame fails",
        "a file gives 2 frames a second, at least 4, at most as many as the checkpoint sees",
    ),
    (
        GENERAL,
        "of a folder of frames the model sees all 32 that the set takes",
        "of a folder of frames the model sees as many as it usually does",
    ),
    (
        GENERAL,
        "positions follow the real seconds between two frames of a file, cut down to whole seconds per temporal step",
        "positions are those that segmentation uses, whatever the rate",
    ),
    (
        GENERAL,
        "a frame has at most 256 visual tokens, however few there are; frames of files are resized as tensors",
        "few frames share the tokens of those that are lacking; all frames are resized by Pillow",
    ),
    (
        ("mvbench",),
        "accuracy is over all questions",
        "accuracy is the mean of the tasks, which is the same where all have equally many questions",
    ),
    (
        ("pixelqa",),
        "the pre-filling answer is dictated: the ids that the question names, each with a mask",
        "the model writes the pre-filling answer by itself, and may find less",
    ),
    (
        ("pixelqa",),
        "objects keep the ids of the data, from 0",
        "objects count from 1",
    ),
    (
        ("pixelqa",),
        "a full stop stands behind the options, in front of the request to localize",
        "the request to localize follows the options",
    ),
    (
        ("pixelqa",),
        "all objects are pointed at on the question's frame: one that is not there by the point (0, 0), or by a box "
        "with the corners (768, 768) and (-1, -1)",
        "an object is pointed at on the frame nearest to the question's on which it is there",
    ),
    (
        ("pixelqa",),
        "points and boxes are taken from the mask stretched to 768 x 768: its most interior pixel, the first of "
        "equals, and inclusive pixel indices, without the half pixel to a pixel's centre or outer edge",
        "points are centres of the most interior pixel at source size, boxes the outer edges of the mask",
    ),
    (
        ("pixelqa",),
        "mixed: round(n / 2) objects get points, halves rounded to even; a lone one gets either",
        "mixed: half of the objects get points; of an odd number chance decides the last",
    ),
    (
        ("pixelqa",),
        "an object without a mask is the whole frame in the question, not in the score",
        "an object without a mask is pointed at once more in the question",
    ),
    (
        ("pixelqa",),
        'the reply is primed with "The best option is (" and has up to 512 tokens; the letter is that of its first '
        "word up to a blank, and an empty reply, or one that begins with a blank, is wrong",
        "the reply is free, of up to 32 tokens, and its first letter in brackets counts",
    ),
    (
        ("pixelqa",),
        "volumes are compared in single precision with 1e-6 in the denominators: both empty score 0",
        "volumes are compared exactly: both empty score 1",
    ),
    (
        ("pixelqa",),
        "masks are scored as volumes only; F is their Dice coefficient",
        "J and boundary F of single frames are reported as well",
    ),
    (
        ("videorefer_bench_d",),
        "a grade counts where its line has exactly the form asked for, and whatever its value is",
        "a grade counts in bold too, and only from 0 to 5",
    ),
)  # fmt: skip
"""What ``unipixel eval --protocol original`` does differently, in the order of the docs."""

TRAINING: tuple[Difference, ...] = (
    (
        ("paco_lvis", "pascal_part"),
        "every annotation is asked for by itself, so that a name of which a picture has several is asked with several "
        "right answers",
        "the annotations of one name are one object, their union",
    ),
    (
        ("cocostuff",),
        "the list of catch-all classes that are not asked for is shifted by one: `person`, `bush`, `grass` and others "
        "are left out, `building-other` and its like stay",
        "the catch-all classes, those with a hyphen, are left out",
    ),
    (
        POINTING,
        "points and boxes come from the mask stretched to SAM's square: integer pixels, and inclusive pixel indices, "
        "without the half pixel to a pixel's centre or outer edge",
        "points are centres of pixels at source size, boxes the outer edges of the mask",
    ),
    (
        ("inst_it_video_qa_raw",),
        "where objects are given as regions, a clip whose questions have more than 5 objects together is left out",
        "a question about more than 5 objects is left out",
    ),
)
"""What a recipe's ``protocol=original`` trains on differently, in the order of the docs."""

TRAINING_ALWAYS: tuple[Difference, ...] = (
    (
        (),
        "a sample that cannot be read is replaced by another one of its set",
        "it stops the run and is named",
    ),
    (
        (),
        "a draw of frames that does not show an object that is asked about is replaced by another sample",
        "frames are drawn again, up to 10 times",
    ),
    (
        (),
        "masks of another size than their frames are stretched",
        "they are refused",
    ),
    (
        (),
        "requests are drawn from the original's sets of templates",
        "the first template of each set is the original's, the others are this project's own",
    ),
    (
        ("inst_it_video_qa_raw",),
        "the objects of a question are in the order of a hash that changes with every run; where they are pointed at, "
        "the points may be swapped among them",
        "they are in ascending order, behind those of the clip's earlier questions; points and boxes are those of "
        "their own objects",
    ),
    (
        POINTING,
        "a box around what lies on one row or column of SAM's square has no inside",
        "it is one pixel wide",
    ),
    (
        ("osprey_conversation", "osprey_pos_neg"),
        "a misspelt tag takes the character behind it with it or is left in the text, and `<region0>` is the last "
        "region",
        "misspelt tags are read as meant, and rows with a region that there is not are left out",
    ),
    (
        ("osprey_detail_description",),
        "a description is its first line",
        "a description is taken whole",
    ),
    (
        ("llava_instruct_665k_videogpt_plus_576k",),
        "a conversation that the assistant opens is replaced by another one; a last question without an answer is kept",
        "the opening is taken off, and so is the last question",
    ),
    (
        (),
        "the loss of several processes is the mean of their means",
        "it is the mean over tokens and samples of the whole batch",
    ),
    (
        (),
        "the first stages do not save the random Fourier matrices, which are drawn anew later",
        "they are saved",
    ),
)
"""What is different in training under either protocol, in the order of the docs."""


def find_differences(benchmark: str, split: str) -> list[Difference]:
    """Those that concern a benchmark's split."""
    return [row for row in EVALUATION if benchmark in row[0] or f"{benchmark}/{split}" in row[0]]


def describe_differences(benchmark: str, split: str) -> str:
    """What the original does differently there, as one line; empty: nothing."""
    return "; ".join(original for _, original, _ in find_differences(benchmark, split))


def format_differences(rows: Iterable[Difference], subject: str, ours: str) -> str:
    """A table of the docs in Markdown.

    Args:
        subject: title of the first column, what a row is about.
        ours: title of the last one.
    """
    lines = [f"| {subject} | `original` | {ours} |", "|---|---|---|"]
    for where, original, correct in rows:
        names = ", ".join(f"`{name.partition('/')[0]}`" for name in where) or "all"
        place = "all that segment expressions" if where == EXPRESSIONS else names
        lines.append(f"| {place} | {original} | {correct} |")
    return "\n".join(lines)
