"""Box -> mask, point -> mask and "the person" on photos that nano was not trained on, and clips followed from a mask.

    python tools/eval_photos.py [PHOTOS] [--clips CLIPS] [--model nano] [-n 100] [--spread] [--frames 0]

PHOTOS is a folder as `unipixel.data.photos` reads it; its split ``val`` is used. One region per photo is drawn for the
box and the point (at least 2 % of the picture, from a generator seeded with the photo's place); "the person" is asked
wherever exactly one person is labelled. The first photos of the collection are asked about, those of COCO; --spread
takes as many evenly from all sets. Beside each figure stands that of the filled box, a disc of average area, and the
whole picture.

CLIPS is a folder as `unipixel.data.davis_clips` reads it; its split ``val`` is used. Each sequence is followed from the
true mask of the first frame that shows the object, which is not scored itself; beside it stands that mask, unmoved.
The same clips are asked for by their first expression, with all frames scored.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import unipixel
from unipixel.data import davis_clips, photos
from unipixel.masks import find_interior_point, mask_to_box
from unipixel.metrics import frame_scores, overlap, overlap_scores
from unipixel.sample import Box, Mask, Point, Prompt

MIN_SHARE = 0.02


def chosen(found: list[Any], count: int, spread: bool) -> list[Any]:
    """The first ``count`` of a list, or as many evenly from all of it."""
    if not spread or len(found) <= count:
        return found[:count]
    return [found[int(n)] for n in np.linspace(0, len(found) - 1, count)]


def regions(folder: Path, count: int, spread: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Picture and mask of one region of each photo."""
    found = []
    for place, record in enumerate(photos.read_records(folder, "photos", "val")):
        sample = photos.read_sample(record)
        masks = [track.mask(0) for track in sample.objects.values()]
        large = [mask for mask in masks if mask.mean() >= MIN_SHARE]
        if large:
            found.append((sample.media.frame(0), large[int(np.random.default_rng(place).integers(len(large)))]))
    return chosen(found, count, spread)


def persons(folder: Path, count: int, spread: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Picture and mask of each photo with exactly one person."""
    found = []
    for record in photos.read_records(folder, "photos", "val"):
        sample = photos.read_sample(record)
        own = [query.about[0] for query in sample.queries if query.answer == "the person"]
        if len(own) == 1:
            found.append((sample.media.frame(0), sample.objects[own[0]].mask(0)))
    return chosen(found, count, spread)


def masks_of(
    engine: unipixel.Engine, pictures: list[np.ndarray], texts: list[str | None], prompts: list[list[Prompt]]
) -> list[np.ndarray]:
    """Everything that each answer segments, bool (H, W)."""
    answers = engine.ask_batch(pictures, texts, prompts=prompts, max_new_tokens=24, on_error="return")
    joined = []
    for picture, answer in zip(pictures, answers, strict=True):
        mask = np.zeros(picture.shape[:2], dtype=bool)
        if isinstance(answer, Exception):
            print(f"failed, scored as empty: {answer}")
        else:
            for one in answer.objects:
                mask |= one.masks[0]
        joined.append(mask)
    return joined


def filled(mask: np.ndarray) -> tuple[Box, np.ndarray]:
    """The box around a mask, and its pixels."""
    x1, y1, x2, y2 = (int(v) for v in mask_to_box(mask) or (0, 0, 1, 1))
    whole = np.zeros_like(mask)
    whole[y1:y2, x1:x2] = True
    return Box(x1, y1, x2, y2), whole


def disc(mask: np.ndarray, area: float) -> tuple[Point, np.ndarray]:
    """The most interior point of a mask, and the disc of that area around it."""
    px, py = find_interior_point(mask)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    return Point(px, py), (x + 0.5 - px) ** 2 + (y + 0.5 - py) ** 2 <= area / np.pi


def given_and_asked(engine: unipixel.Engine, folder: Path, most: int) -> Iterator[tuple[str, float, float, float]]:
    """Name of each held-out clip, and J&F: of the object followed from its mask, of that mask unmoved, and by text."""
    for record in davis_clips.read_records(folder, "clips", "val"):
        whole = davis_clips.read_sample(record)
        number, track = next(iter(whole.objects.items()))
        first = int(np.flatnonzero(track.visible)[0])
        frames = list(range(first, track.num_frames))[: most or None]
        sample = davis_clips.read_sample(record, frames)
        truth = sample.objects[number].masks
        expression = next(query.text for query in sample.queries if query.kind == "query")
        with engine.open(sample.media, track="all") as session:
            known = session.segment(Mask(truth[0]))[0]
            ours = mean_jf(known.track.masks[1:], truth[1:])
        still = mean_jf(np.broadcast_to(truth[:1], truth.shape)[1:].copy(), truth[1:])
        with engine.open(sample.media, track="all") as session:
            answer = session.ask(f"Please segment {expression} in this video.", max_new_tokens=24)
            found = np.zeros_like(truth)
            for one in answer.objects:
                found |= one.masks
        yield record.id, ours, still, mean_jf(found, truth)


def mean_jf(masks: np.ndarray, truth: np.ndarray) -> float:
    """Mean of J and F over frames, bool (T, H, W)."""
    return float(frame_scores(masks, truth).means()["J&F"])


def measure_clips(engine: unipixel.Engine, folder: Path, most: int) -> None:
    """Measure and print every clip, and the means."""
    rows = []
    for name, *figures in given_and_asked(engine, folder, most):
        rows.append(figures)
        print(f"  {name:20s} " + "  ".join(f"{figure:.3f}" for figure in figures), flush=True)
    given, still, asked = np.mean(rows, 0)
    print(
        f"clips, true first mask given: J&F {given:.3f} (unmoved {still:.3f}); by text {asked:.3f}; {len(rows)} clips"
    )


def measure_photos(engine: unipixel.Engine, folder: Path, count: int, spread: bool) -> None:
    """Measure and print box, point and "the person"."""
    drawn = regions(folder, count, spread)
    pictures, truths = [p for p, _ in drawn], [m for _, m in drawn]
    share = float(np.mean([m.mean() for m in truths]))
    boxes = [filled(m) for m in truths]
    points = [disc(m, share * m.size) for m in truths]
    for name, made in (("box", boxes), ("point", points)):
        ours = masks_of(engine, pictures, [None] * len(pictures), [[prompt] for prompt, _ in made])
        value = np.mean([overlap(a, b).iou for a, b in zip(ours, truths, strict=True)])
        trivial = np.mean([overlap(a, b).iou for (_, a), b in zip(made, truths, strict=True)])
        print(f"{name} -> mask IoU {value:.3f} (trivial {trivial:.3f}), {len(truths)} regions")
    asked = persons(folder, count, spread)
    ours = masks_of(
        engine, [p for p, _ in asked], ["Please segment the person in this image."] * len(asked), [[]] * len(asked)
    )
    scores = overlap_scores([overlap(a, m) for a, (_, m) in zip(ours, asked, strict=True)])
    whole = overlap_scores([overlap(np.ones_like(m), m) for _, m in asked])
    print(f"the person: cIoU {scores.cIoU:.3f}, mIoU {scores.gIoU:.3f} (trivial {whole.cIoU:.3f}), {len(asked)} photos")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--spread", action="store_true")
    parser.add_argument("--frames", type=int, default=0, help="of each clip at most so many; 0: all")
    options = parser.parse_args()
    if options.photos is None and options.clips is None:
        parser.error("give a folder of photos, or --clips, or both")
    engine = unipixel.load(options.model)
    if options.photos is not None:
        measure_photos(engine, options.photos, options.n, options.spread)
    if options.clips is not None:
        measure_clips(engine, options.clips, options.frames)


if __name__ == "__main__":
    main()
