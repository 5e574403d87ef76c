"""Records of a dataset drawn side by side, with their masks and texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unipixel.data import Record, read
from unipixel.draw import make_contact_sheet, mark_prompts, overlay
from unipixel.masks import MaskTrack
from unipixel.media import sample_indices
from unipixel.sample import Query, Sample, Turn

MAX_FRAMES = 4
"""Frames of a clip that are drawn."""
MAX_TEXTS = 8
"""Texts of a record that are written."""
MAX_CHARACTERS = 400


def draw_sheet(records: Sequence[Record]) -> np.ndarray:
    """Pictures of records with captions, uint8 (H, W, 3).

    Raises:
        DatasetError: a sample cannot be read.
    """
    pictures, captions, is_video = [], [], False
    for record in records:
        # All of the clip where it names no frames: then only the video file knows how many there are.
        ts = None if record.num_frames is None else sample_indices(record.num_frames, MAX_FRAMES)
        sample = read(record, ts)
        pictures.append(_draw_sample(sample))
        captions.append("\n".join([record.id, *_list_texts(sample)]))
        is_video |= not sample.is_text_only and sample.media.num_frames > 1
    if is_video:
        return make_contact_sheet(pictures, captions, columns=2, cell_width=800)
    return make_contact_sheet(pictures, captions, cell_width=400)


def _draw_sample(sample: Sample) -> np.ndarray:
    """Up to four frames side by side with the masks of all objects; a grey field for words alone."""
    if sample.is_text_only:
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


def _list_texts(sample: Sample) -> list[str]:
    texts = [_format_query(query) for query in sample.queries] + [_format_turn(turn) for turn in sample.turns]
    more = len(texts) - MAX_TEXTS
    return texts[:MAX_TEXTS] + ([f"... and {more} more"] if more > 0 else [])


def _format_query(query: Query) -> str:
    options = "".join(f" ({letter}) {text}" for letter, text in zip("ABCDEFGHIJ", query.options, strict=False))
    targets = ", ".join("not there" if target is None else str(target) for target in query.targets)
    answer = " ".join(filter(None, [query.answer, f"[{targets}]" if targets else ""]))
    return _shorten(f"{query.kind}: {query.text}{options}" + (f" -> {answer}" if answer else ""))


def _format_turn(turn: Turn) -> str:
    return _shorten(f"{turn.question} -> {turn.answer}")


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 3] + "..."
