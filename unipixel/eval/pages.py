"""The report as one HTML page that needs nothing else: tables, notes, failures, and pictures of examples."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from unipixel import draw
from unipixel.errors import UnipixelError
from unipixel.eval.protocols import Prediction, Question, merge_predictions, merge_targets, merge_tracks
from unipixel.eval.report import COLUMNS, FAILURES_NAMED, SECONDARY, ReportSection, format_rows
from unipixel.eval.runner import BenchmarkRun
from unipixel.masks import MaskTrack
from unipixel.sample import Box, Point

EXAMPLES = 4
"""Examples per benchmark."""
WIDTH = 420
"""Pixels of a picture."""
LONGEST = 600
"""Characters of a text."""

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.5rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--line); text-align: right }
th:first-child, td:first-child { text-align: left }
td:nth-child(2) { font-weight: 600 }
ul { padding-left: 1.2rem } .failed { color: #c33 }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem }
figure { margin: 0; padding: .6rem; background: var(--soft); border-radius: .5rem }
figure div { display: flex; gap: .4rem } figure img { flex: 1; min-width: 0; max-width: 100%; border-radius: .25rem }
figcaption { font-size: .85rem; overflow-wrap: anywhere } small { opacity: .7 }
"""


def render_examples(
    one: ReportSection, open_run: Callable[[ReportSection], BenchmarkRun], number: int = EXAMPLES
) -> list[str]:
    """Evenly spread questions of a section with their answers; those whose data cannot be read any more are left out.

    Returns:
        HTML of each, with pictures.
    """
    answered = [line for line in one.lines if line.predictions]
    try:
        run = open_run(one)
        units = {unit.id: unit for unit in run.list_units()}
    except UnipixelError:
        return []
    places = sorted({round(i) for i in np.linspace(0, len(answered) - 1, min(number, len(answered)))})
    found = []
    for line in (answered[place] for place in places):
        try:
            questions = run.protocol.build_questions(units[line.id], run.read, one.header.num_frames)
            found.append(_render_example(line.id, questions[0], next(iter(line.predictions or ()))))
        except (UnipixelError, ValueError, LookupError):
            continue
    return found


def _render_example(unit: str, question: Question, reply: Prediction) -> str:
    sample = question.sample
    if question.prompts or question.regions:
        ids = [i for i in question.query.about if i in sample.objects]
        truth = [(i, sample.objects[i]) for i in ids]
        found = [(one.id, one.track) for one in reply.objects]
    else:
        truth = [(1, merge_targets(question))] if question.query.targets else []
        found = [(1, merge_predictions(question, reply))] if reply.objects else []
    t = _choose_frame([track for _, track in (*truth, *found)], question)
    frame = sample.media.frame(t)
    given = _mark_prompts(frame, question, t)
    pictures = [("given" if given is not frame else f"frame {t}", given)] if not truth or given is not frame else []
    if truth:
        pictures.append(("given masks" if question.regions else "truth", _draw_masks(frame, truth, t)))
    if not question.regions and (found or truth):
        pictures.append(("answer", _draw_masks(frame, found, t)))
    images = "".join(f'<img alt="{name}" title="{name}" src="{encode_data_url(image)}">' for name, image in pictures)
    texts = [("asked", question.text), ("replied", question.prime + reply.text), ("right", question.query.answer)]
    lines = "".join(f"<br><b>{name}</b> {html.escape(_shorten(text))}" for name, text in texts if text)
    return (
        f"<figure><div>{images}</div><figcaption><small>{html.escape(unit)}: {', '.join(name for name, _ in pictures)}"
        f"</small>{lines}</figcaption></figure>"
    )


def _choose_frame(tracks: Sequence[MaskTrack], question: Question) -> int:
    """The frame that shows most of the masks; one that is pointed at comes first."""
    if question.prompts:
        return int(question.prompts[0].frame)
    areas = merge_tracks(list(tracks), question.sample).areas
    return int(areas.argmax())


def _mark_prompts(frame: np.ndarray, question: Question, t: int) -> np.ndarray:
    points = [(p.x, p.y, p.positive) for p in question.prompts if isinstance(p, Point) and p.frame == t]
    boxes = [(p.x1, p.y1, p.x2, p.y2) for p in question.prompts if isinstance(p, Box) and p.frame == t and p.x1 <= p.x2]
    return draw.mark_prompts(frame, points, boxes) if points or boxes else frame


def _draw_masks(frame: np.ndarray, tracks: Sequence[tuple[int, MaskTrack]], t: int) -> np.ndarray:
    masks = np.stack([track.mask(t) for _, track in tracks]) if tracks else np.zeros((0, *frame.shape[:2]), dtype=bool)
    ids = [i for i, _ in tracks]
    return draw.overlay(frame, masks, labels=[f"{i}" if len(ids) > 1 else "" for i in ids], ids=ids)


def render_page(sections: Sequence[ReportSection], shown: Sequence[Sequence[str]]) -> str:
    """The page.

    Args:
        shown: examples of each section, see `render_examples`.
    """
    body = "".join(_render_section(one, few) for one, few in zip(sections, shown, strict=True))
    starred = any(one.split.in_paper for one in sections)
    note = f"<p><small>{html.escape(SECONDARY.replace(chr(92), ''))}</small></p>" if starred else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluation</title><style>{_STYLE}</style></head><body><h1>Evaluation</h1>{body}{note}</body></html>\n"
    )


def _render_section(one: ReportSection, few: Sequence[str]) -> str:
    head = f"{one.title} <small>{html.escape(one.header.model)}, protocol {one.header.protocol}</small>"
    failed = f'<span class="failed">failed: {one.failed}</span>' if one.failed else "failed: 0"
    columns = "".join(f"<th>{name}</th>" for name in COLUMNS)
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>" for cells in format_rows(one)
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in one.notes)
    failures = "".join(
        f'<li class="failed">{html.escape(unit)}: {html.escape(error)}</li>'
        for unit, error in one.failures[:FAILURES_NAMED]
    )
    return (
        f"<section><h2>{head}</h2><p>Questions: {one.questions}, {failed}.</p>"
        f"<table><tr>{columns}</tr>{rows}</table><ul>{notes}{failures}</ul>"
        f'<div class="examples">{"".join(few)}</div></section>'
    )


def encode_data_url(image: np.ndarray) -> str:
    """A picture, uint8 (H, W, 3), as a small JPEG inside an address."""
    picture = Image.fromarray(image)
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, max(1, round(picture.height * WIDTH / picture.width))))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
