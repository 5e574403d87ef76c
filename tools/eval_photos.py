"""Box -> mask, point -> mask and "the person" on photos that nano was not trained on.

    python tools/eval_photos.py PHOTOS [--model nano] [-n 100]

PHOTOS is a folder as `unipixel.data.photos` reads it; its split ``val`` is used. One region per photo is drawn for the
box and the point (at least 2 % of the picture, from a generator seeded with the photo's place); "the person" is asked
wherever exactly one person is labelled. Beside each figure stands that of the filled box, a disc of average area, and
the whole picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import unipixel
from unipixel.data import photos
from unipixel.masks import box_xyxy, interior_point
from unipixel.metrics import overlap, overlap_scores
from unipixel.sample import Box, Point, Prompt

MIN_SHARE = 0.02


def regions(folder: Path, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Picture and mask of one region of each photo."""
    found = []
    for place, record in enumerate(photos.index(folder, "photos", "val")):
        sample = photos.sample(record)
        masks = [track.mask(0) for track in sample.objects.values()]
        large = [mask for mask in masks if mask.mean() >= MIN_SHARE]
        if large:
            found.append((sample.media.frame(0), large[int(np.random.default_rng(place).integers(len(large)))]))
    return found[:count]


def persons(folder: Path, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Picture and mask of each photo with exactly one person."""
    found = []
    for record in photos.index(folder, "photos", "val"):
        sample = photos.sample(record)
        own = [query.about[0] for query in sample.queries if query.answer == "the person"]
        if len(own) == 1:
            found.append((sample.media.frame(0), sample.objects[own[0]].mask(0)))
    return found[:count]


def masks_of(
    engine: unipixel.Engine, pictures: list[np.ndarray], texts: list[str | None], prompts: list[list[Prompt]]
) -> list[np.ndarray]:
    """Everything that each answer segments, bool (H, W)."""
    answers = engine.ask(pictures, texts, prompts=prompts, max_new_tokens=24, on_error="return")
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
    x1, y1, x2, y2 = (int(v) for v in box_xyxy(mask) or (0, 0, 1, 1))
    whole = np.zeros_like(mask)
    whole[y1:y2, x1:x2] = True
    return Box(x1, y1, x2, y2), whole


def disc(mask: np.ndarray, area: float) -> tuple[Point, np.ndarray]:
    """The most interior point of a mask, and the disc of that area around it."""
    px, py = interior_point(mask)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    return Point(px, py), (x + 0.5 - px) ** 2 + (y + 0.5 - py) ** 2 <= area / np.pi


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("-n", type=int, default=100)
    options = parser.parse_args()
    engine = unipixel.load(options.model)
    drawn = regions(options.photos, options.n)
    pictures, truths = [p for p, _ in drawn], [m for _, m in drawn]
    share = float(np.mean([m.mean() for m in truths]))
    boxes = [filled(m) for m in truths]
    points = [disc(m, share * m.size) for m in truths]
    for name, made in (("box", boxes), ("point", points)):
        ours = masks_of(engine, pictures, [None] * len(pictures), [[prompt] for prompt, _ in made])
        value = np.mean([overlap(a, b).iou for a, b in zip(ours, truths, strict=True)])
        trivial = np.mean([overlap(a, b).iou for (_, a), b in zip(made, truths, strict=True)])
        print(f"{name} -> mask IoU {value:.3f} (trivial {trivial:.3f}), {len(truths)} regions")
    asked = persons(options.photos, options.n)
    ours = masks_of(
        engine, [p for p, _ in asked], ["Please segment the person in this image."] * len(asked), [[]] * len(asked)
    )
    scores = overlap_scores([overlap(a, m) for a, (_, m) in zip(ours, asked, strict=True)])
    whole = overlap_scores([overlap(np.ones_like(m), m) for _, m in asked])
    print(f"the person: cIoU {scores.cIoU:.3f}, mIoU {scores.gIoU:.3f} (trivial {whole.cIoU:.3f}), {len(asked)} photos")


if __name__ == "__main__":
    main()
