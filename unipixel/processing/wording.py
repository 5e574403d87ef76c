"""Queries of a dataset put into words: the turns of a conversation, for training and for evaluation.

How the objects that a query is about are given to the model is a matter of form:

    regions   their masks, as lines of ``<|mem|>`` in front of the first question
    points    a point beside the first mention of each: ``[3] <|ref|>``
    boxes     a box in the same place
    mixed     half of the objects by points, half by boxes
    bare      points or boxes without ids, in the place of the first mention: ``What is <|ref|>?``
    memory    points or boxes, and what is asked for is the masks: the question is repeated with its options, the answer
              is ``[id] <|seg|>`` for every object (the pre-filling of the object memory)

Without a generator the wording is the fixed one of evaluation and depends on nothing but the sample; with one,
everything that may vary does: templates, which queries are asked, frames, points, edges of boxes, and the id of a lone
object.

Source: UniPixel (arXiv 2509.18094), section 3.3 and appendix.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeVar, get_args

import numpy as np

from unipixel.errors import DatasetError
from unipixel.masks import MaskTrack, find_interior_point, jitter_box, sample_point
from unipixel.processing.chat import REF, SEG
from unipixel.processing.prompts import ANSWERS, format_noun_phrase, format_request
from unipixel.processing.regions import build_target_masks
from unipixel.sample import Box, Point, Query, Sample, Turn

PromptForm = Literal["regions", "points", "boxes", "mixed", "bare", "memory"]
PointingForm = Literal["points", "boxes", "mixed"]
ChoiceStyle = Literal["videorefer", "mvbench"]

CHOICE_PRIMERS: dict[ChoiceStyle, str] = {"videorefer": "The best option is (", "mvbench": "Best Option: ("}
"""What the released evaluation writes for the model as the beginning of its answer to a choice."""
CHOOSE = "Please only give the best option."
DETAILED_CAPTIONS = (
    "Please give a detailed description of the highlighted object {} in the {}.",
    "Describe {} in this {} as fully as you can.",
    "What can be said about {}? Take in everything that the {} shows of it.",
    "Give a thorough account of {} as it is seen in the {}.",
    "I would like to know all about {} in this {}. What is it like?",
    "Tell me in detail what {} in the {} looks like and what happens to it.",
)
"""Requests for a long caption of an object; the first is that of VideoRefer-Bench-D."""
PICTURE_CAPTION = "Can you provide me with a detailed description of the region in the picture marked by {}?"
"""Another one, of objects in stills, with which the released training asks for Osprey's descriptions."""
SHORT_CAPTIONS = (
    "Give me a short description of {}.",
    "Describe {} in a few words.",
    "In one phrase, what is {}?",
    "How would you sum up {} briefly?",
    "Name {} and say in short what it is like.",
)
MEMORY_REQUESTS = (
    "{} Please localize the relevant objects with IDs.",
    "{} Which objects is this about? Segment them with their IDs.",
    "{} Before you answer, segment every object that has an ID.",
    "Segment the objects with IDs in this question: {}",
    "Track the objects that are named by IDs here: {}",
    "To answer the following, find the masks of the objects with IDs first. {}",
)
"""What wraps a question of the memory form."""

BOX_NOISE = 0.1
"""Edges of training boxes are off by up to this share of the box's side ..."""
MAX_BOX_NOISE = 20 / 768
"""... and by no more than this share of the frame's side (20 pixels of SAM's 768)."""
RANDOM_IDS = 16
"""A lone object gets an id from 0 to 15 in training."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_T = TypeVar("_T")


def write_turns(
    sample: Sample,
    rng: np.random.Generator | None = None,
    *,
    form: PromptForm = "regions",
    max_turns: int | None = None,
    pointing: PointingForm = "mixed",
    one_frame_share: float = 0.0,
    random_ids: bool = True,
    grid: int | None = None,
    named: bool = False,
) -> Sample:
    """The sample with a turn for each of its queries; the queries that are asked stay, in the order of the turns.

    Args:
        sample: with queries; its turns are replaced.
        rng: draws everything that varies, for training; None: the fixed wording, all queries in order.
        form: how objects are given, see the module.
        max_turns: ask at most so many queries: random ones with ``rng``, the first ones without. A conversation is
            always taken whole.
        pointing: what the forms "bare" and "memory" point with.
        one_frame_share: with ``rng`` and regions, this share of clips is given masks of one frame only.
        random_ids: with ``rng``, whether a lone object gets a random id.
        grid: side of a square grid, in pixels, over which masks are stretched before points and boxes are taken from
            them, as integer pixels: SAM's, as in the released training. None: they are taken from the masks as they
            are, points in the middle of a pixel and boxes around the outermost ones.
        named: answers name what they segment, see `chat.NAMED_SEG`.

    Raises:
        DatasetError: no query, or an object of a query is not in the sample or seen on no frame.
        ValueError: unknown form, or ``max_turns`` below 1.
    """
    if form not in get_args(PromptForm) or pointing not in get_args(PointingForm):
        raise ValueError(
            f"form and pointing are {form!r} and {pointing!r}; use one of {', '.join(get_args(PromptForm))}"
        )
    if max_turns is not None and max_turns < 1:
        raise ValueError(f"max_turns is {max_turns}; it must be at least 1")
    if not sample.queries:
        raise DatasetError(f"{sample.source or 'sample'}: there is no query to put into words; it needs at least one")
    sample = replace(sample, queries=_choose_queries(sample.queries, rng, max_turns))
    _check_objects(sample)
    if rng is not None:
        if random_ids and form != "bare":
            sample = _renumber_objects(sample, rng)
        if form == "regions" and rng.random() < one_frame_share:
            sample = _reduce_to_one_frame(sample, rng)
    writer = _TurnWriter(sample, rng, form, pointing, grid, named)
    return replace(sample, turns=tuple(writer.write_turn(query) for query in sample.queries))


def format_query(query: Query, is_video: bool) -> str:
    """What a user would type to ask this, in the fixed wording of evaluation; objects are mentioned as ``[id]``."""
    return _write_question(query, is_video, None)


def format_choice(query: Query, style: ChoiceStyle = "videorefer") -> str:
    """A choice with its lettered options and the request to name one.

    Args:
        style: ``"mvbench"`` begins options with a capital letter; `CHOICE_PRIMERS` has how the answer then begins.
    """
    return f"{_append_options(query, style)}\n{CHOOSE}"


def join_words(words: Sequence[str]) -> str:
    """Words as an enumeration: "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _choose_queries(queries: Sequence[Query], rng: np.random.Generator | None, most: int | None) -> tuple[Query, ...]:
    """The queries that become turns."""
    if any(query.kind == "conversation" for query in queries):
        return tuple(queries)
    count = len(queries) if most is None else min(most, len(queries))
    if rng is None:
        return tuple(queries[:count])
    return tuple(queries[int(k)] for k in rng.permutation(len(queries))[:count])


def _check_objects(sample: Sample) -> None:
    """Every object that is asked about is known and seen somewhere."""
    for number in _find_objects(sample.queries):
        track = sample.objects.get(number)
        if track is None or not track.visible.any():
            what = "is not among the objects" if track is None else "is seen on none of the clip's frames"
            raise DatasetError(
                f"{sample.source or 'sample'}: object {number}, which is asked about, {what}; "
                "give masks of it, or choose frames that show it"
            )


def _find_objects(queries: Sequence[Query]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(number for query in queries for number in query.about))


def _renumber_objects(sample: Sample, rng: np.random.Generator) -> Sample:
    """A lone object that is asked about, under a random id; one that is introduced keeps its own."""
    if len(sample.objects) != 1 or _find_objects(sample.queries) != tuple(sample.objects):
        return sample
    if any(query.introduction for query in sample.queries):
        return sample
    ((old, track),) = sample.objects.items()
    new = int(rng.integers(RANDOM_IDS))

    def renumber(words: str) -> str:
        return words.replace(f"[{old}]", f"[{new}]")

    queries = tuple(
        replace(
            query,
            text=renumber(query.text),
            answer=renumber(query.answer),
            options=tuple(map(renumber, query.options)),
            about=(new,) if query.about else (),
            targets=tuple(new if target == old else target for target in query.targets),
        )
        for query in sample.queries
    )
    boxes = {new if number == old else number: box for number, box in sample.boxes.items()}
    return replace(sample, objects={new: track}, queries=queries, boxes=boxes)


def _reduce_to_one_frame(sample: Sample, rng: np.random.Generator) -> Sample:
    """The objects that are asked about with the mask of one frame that shows them all, if there is one."""
    about = _find_objects(sample.queries)
    if not about or sample.media.num_frames == 1:
        return sample
    shown = np.flatnonzero(np.all([sample.objects[number].visible for number in about], axis=0))
    if not len(shown):
        return sample
    t = int(_pick(shown.tolist(), rng))
    objects = dict(sample.objects)
    for number in about:
        rles = objects[number].rles
        objects[number] = MaskTrack(objects[number].size_hw, tuple(r if k == t else None for k, r in enumerate(rles)))
    return replace(sample, objects=objects, queries=tuple(replace(query, frame=t) for query in sample.queries))


def _pick(options: Sequence[_T], rng: np.random.Generator | None) -> _T:
    """One of them at random; the first without a generator."""
    return options[0 if rng is None else int(rng.integers(len(options)))]


def _write_question(query: Query, is_video: bool, rng: np.random.Generator | None) -> str:
    """A query as a question, its objects mentioned as ``[id]``."""
    if query.kind == "part":
        whole, _, part = query.text.partition(":")
        phrases = (f"{format_noun_phrase(whole)} {part.strip()}", f"{part.strip()} of the {format_noun_phrase(whole)}")
        return format_request("query", _pick(phrases, rng) if part else query.text, is_video=is_video, rng=rng)
    if query.kind == "choice":
        return format_choice(query, _choose_style(query))
    if query.kind == "qa" or query.kind == "conversation":
        return query.text
    if query.kind == "caption":
        return query.text or _write_caption_request(query, is_video, rng)
    return format_request(query.kind, query.text, is_video=is_video, rng=rng)


def _write_caption_request(query: Query, is_video: bool, rng: np.random.Generator | None) -> str:
    """A request to describe the objects of a query that has no words of its own; without objects, the whole picture."""
    visual = "video" if is_video else "image"
    if not query.about:
        return f"Please describe this {visual}."
    templates: tuple[str, ...] = SHORT_CAPTIONS if query.category == "short" else DETAILED_CAPTIONS
    if rng is not None and not is_video and query.category != "short":
        templates = (PICTURE_CAPTION, *DETAILED_CAPTIONS)
    template = _pick(templates, rng)
    return template.format(join_words([f"[{number}]" for number in query.about]), visual)


def _write_answer(query: Query, rng: np.random.Generator | None, named: bool) -> str:
    """The annotated answer, with one ``<|seg|>`` per target."""
    if query.kind == "choice":
        return f"({query.answer})" if query.answer else ""
    if query.kind in ("caption", "qa", "conversation") or not query.targets:
        return query.answer
    if named and query.kind == "query" and None not in query.targets:
        return join_words([f"the {format_noun_phrase(query.text.strip())} {SEG}"] * len(query.targets))
    masks = join_words([SEG] * len(query.targets))
    if query.kind == "question" and query.answer:
        return f"{query.answer.rstrip('. ')} {masks}."
    stock = _pick(ANSWERS, rng).replace(SEG, masks)
    return f"{stock} {query.answer}" if query.kind == "explanatory" and query.answer else stock


def _choose_style(query: Query) -> ChoiceStyle:
    return "videorefer" if query.about else "mvbench"


def _append_options(query: Query, style: ChoiceStyle) -> str:
    options = query.options
    if style == "mvbench":
        options = tuple(option[:1].upper() + option[1:] for option in options)
    lines = (f"\n({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    return f"{query.text}\nOptions:{''.join(lines)}"


class _TurnWriter:
    """Writes the turns of one conversation; knows which objects have been given already."""

    def __init__(
        self,
        sample: Sample,
        rng: np.random.Generator | None,
        form: PromptForm,
        pointing: PointingForm,
        grid: int | None,
        named: bool,
    ) -> None:
        self._sample, self._rng, self._form, self._grid, self._named = sample, rng, form, grid, named
        self._about = _find_objects(sample.queries)
        self._boxed = _choose_boxes(self._about, pointing if form in ("bare", "memory") else form, rng, sample.source)
        self._given: set[int] = set()
        self._is_video = not sample.is_text_only and sample.media.is_video

    def write_turn(self, query: Query) -> Turn:
        """The next turn."""
        if self._form == "memory" and query.about:
            return self._write_memory_turn(query)
        text = _write_question(query, self._is_video, self._rng)
        answer = _write_answer(query, self._rng, self._named)
        references: tuple[tuple[Point | Box, ...], ...] = ()
        regions: tuple[int, ...] = ()
        if self._form == "regions":
            regions = tuple(number for number in self._about if number not in self._given)
            self._given.update(regions)
        else:
            text, order = self._insert_references(text, [number for number in query.about if number not in self._given])
            references = tuple((self._draw_prompt(number, query.frame),) for number in order)
        return Turn(
            question=text,
            answer=answer,
            references=references,
            regions=regions,
            targets=query.targets if SEG in answer else (),
            task=query.kind,
        )

    def _write_memory_turn(self, query: Query) -> Turn:
        """The question for the masks of what a query is about."""
        if query.kind == "choice":
            text = _append_options(query, _choose_style(query))
        else:
            text = _write_question(query, self._is_video, self._rng)
            if query.introduction:
                text = f"{query.introduction}\n{text}"
            if query.answer:
                # any letter: which one is right must not be learnt from here
                text += f"\nOptions:\n({_pick('ABCD', self._rng)}) {query.answer}"
        text, order = self._insert_references(text, query.about)
        return Turn(
            question=_pick(MEMORY_REQUESTS, self._rng).format(text),
            answer=" ".join(f"[{number}] {SEG}" for number in order),
            references=tuple((self._draw_prompt(number, query.frame),) for number in order),
            targets=tuple(order),
            task="memory",
        )

    def _insert_references(self, text: str, numbers: Sequence[int]) -> tuple[str, list[int]]:
        """The text with a ``<|ref|>`` beside (or for) each object's first mention, and the objects in that order."""
        unmentioned = [f"[{number}]" for number in numbers if f"[{number}]" not in text]
        if unmentioned:
            text = f"About {join_words(unmentioned)}: {text}"
        order = sorted(numbers, key=lambda number: text.index(f"[{number}]"))
        for number in numbers:
            text = text.replace(f"[{number}]", REF if self._form == "bare" else f"[{number}] {REF}", 1)
        self._given.update(numbers)
        return text, order

    def _draw_prompt(self, number: int, frame: int | None) -> Point | Box:
        """A point or a box on an object, on the frame that the query names if it is seen there."""
        track = self._sample.objects[number]
        shown = np.flatnonzero(track.visible).tolist()
        if frame is None or frame not in shown:
            frame = int(track.areas.argmax()) if self._rng is None else int(_pick(shown, self._rng))
        make = _draw_box if number in self._boxed else _draw_point
        return make(track, frame, self._rng, self._grid)


def _choose_boxes(about: Sequence[int], form: str, rng: np.random.Generator | None, source: str) -> set[int]:
    """Which objects are given by a box."""
    if form != "mixed":
        return set(about) if form == "boxes" else set()
    # The odd one out is a box half of the time; without a generator the sample's name decides.
    odd = zlib.crc32(source.encode()) % 2 if rng is None else int(rng.integers(2))
    order = list(about) if rng is None else [about[int(k)] for k in rng.permutation(len(about))]
    return set(order[odd::2]) if len(order) > 1 else set(order[: 1 - odd])


def _draw_point(track: MaskTrack, t: int, rng: np.random.Generator | None, grid: int | None) -> Point:
    """A random pixel of the object, without a generator its most interior one."""
    mask, (across, down) = _resize_to_grid(track, t, grid)
    if rng is None:
        x, y = find_interior_point(mask)
        if grid is not None:
            x, y = np.floor(x), np.floor(y)
        return Point(float(x) * across, float(y) * down, frame=t)
    x, y = sample_point(mask, rng)
    if grid is not None:
        x, y = x - 0.5, y - 0.5
    return Point(x * across, y * down, frame=t)


def _draw_box(track: MaskTrack, t: int, rng: np.random.Generator | None, grid: int | None) -> Box:
    """The object's box, with noise if there is a generator."""
    mask, (across, down) = _resize_to_grid(track, t, grid)
    height, width = mask.shape
    if grid is None:
        x1, y1, x2, y2 = (float(value) for value in track.boxes[t])
        right, bottom = float(width), float(height)
    else:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x1, y1, x2, y2 = (float(value) for value in (columns[0], rows[0], columns[-1], rows[-1]))
        right, bottom = width - 1.0, height - 1.0
    if rng is not None:
        most = MAX_BOX_NOISE * width / right  # a share of the whole side, also where the last pixel is the limit
        x1, y1, x2, y2 = jitter_box((x1, y1, x2, y2), (bottom, right), rng, noise=BOX_NOISE, most=most)
    # what lies on a single row or column of the grid still needs a box with an inside
    x2, y2 = x2 if x2 > x1 else x1 + 1, y2 if y2 > y1 else y1 + 1
    return Box(x1 * across, y1 * down, x2 * across, y2 * down, frame=t)


def _resize_to_grid(track: MaskTrack, t: int, grid: int | None) -> tuple[np.ndarray, tuple[float, float]]:
    """The mask of frame ``t`` on the grid, and the source pixels that one of its pixels is across and down."""
    if grid is None:
        return track.mask(t), (1.0, 1.0)
    height, width = track.size_hw
    one = MaskTrack(track.size_hw, (track.rles[t],))
    return build_target_masks([one], 1, grid, "touched")[0, 0].numpy(), (width / grid, height / grid)
