"""Records of a dataset drawn side by side, with their masks and texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unipixel.data import Record, read
from unipixel.draw import contact_sheet, mark_prompts, overlay
from unipixel.masks import MaskTrack
from unipixel.media import sample_indices
from unipixel.sample import Query, Sample, Turn

MAX_FRAMES = 4
"""Frames of a clip that are drawn."""
MAX_TEXTS = 8
"""Texts of a record that are written."""
MAX_LETTERS = 400


def sheet(records: Sequence[Record]) -> np.ndarray:
    """Pictures of records with captions, uint8 (H, W, 3).

    Raises:
        DatasetError: a sample cannot be read.
    """
    pictures, captions, is_video = [], [], False
    for record in records:
        # All of the clip where it names no frames: then only the video file knows how many there are.
        ts = None if record.num_frames is None else sample_indices(record.num_frames, MAX_FRAMES)
        sample = read(record, ts)
        pictures.append(_picture(sample))
        captions.append("\n".join([record.id, *_texts(sample)]))
        is_video |= not sample.words_only and sample.media.num_frames > 1
    if is_video:
        return contact_sheet(pictures, captions, columns=2, cell_width=800)
    return contact_sheet(pictures, captions, cell_width=400)


def _picture(sample: Sample) -> np.ndarray:
    """Up to four frames side by side with the masks of all objects; a grey field for words alone."""
    if sample.words_only:
        return np.full((100, 160, 3), 128, dtype=np.uint8)
    tracks: list[tuple[int, str, MaskTrack]] = []
    if "ignore" in sample.areas:
        tracks.append((0, "ignored", sample.areas["ignore"]))
    tracks += [(number, str(number), one) for number, one in sample.objects.items()]
    drawn = []
    for t in sample_indices(sample.media.num_frames, MAX_FRAMES):
        frame = sample.media.frame(t)
        if tracks:
            masks = np.stack([one.mask(t) for _, _, one in tracks])
            frame = overlay(frame, masks, [label for _, label, _ in tracks], [number for number, _, _ in tracks])
        drawn.append(mark_prompts(frame, boxes=list(sample.boxes.values())) if sample.boxes else frame)
    return np.concatenate(drawn, axis=1)


def _texts(sample: Sample) -> list[str]:
    texts = [_query_text(query) for query in sample.queries] + [_turn_text(turn) for turn in sample.turns]
    more = len(texts) - MAX_TEXTS
    return texts[:MAX_TEXTS] + ([f"... and {more} more"] if more > 0 else [])


def _query_text(query: Query) -> str:
    options = "".join(f" ({letter}) {text}" for letter, text in zip("ABCDEFGHIJ", query.options, strict=False))
    targets = ", ".join("not there" if target is None else str(target) for target in query.targets)
    answer = " ".join(filter(None, [query.answer, f"[{targets}]" if targets else ""]))
    return _cut(f"{query.kind}: {query.text}{options}" + (f" -> {answer}" if answer else ""))


def _turn_text(turn: Turn) -> str:
    return _cut(f"{turn.question} -> {turn.answer}")


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_LETTERS else text[: MAX_LETTERS - 3] + "..."
