"""Referring of several things in the built-in world: precision and recall of a checkpoint, with and without `each`.

    python tools/eval_several.py --model nano -n 100 -o several

Two kinds of requests on held-out stills, and on clips with ``--clips``: things named one by one ("the dog and the red
car", 2 or 3 of them), and "all the dogs", of which there are 2 or 3. A mask is right if its IoU with that of a thing
asked for is at least 0.5; each thing can be found once. Of "all the dogs", every dog of the scene is asked for.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from unipixel.engine.answer import Answer
from unipixel.engine.engine import Engine, load
from unipixel.stickers import EVAL_SEED, Scene, SceneSettings, generate_scene, generate_turns, generate_video

SEED = EVAL_SEED + 60
MATCH = 0.5
"""IoU from which a mask counts as that of a thing."""


@dataclass(frozen=True)
class Request:
    """What is asked of a scene, and the true masks, bool (N, T, H, W)."""

    world: Scene
    text: str
    truth: np.ndarray


def named(moving: bool) -> Iterator[Request]:
    """Scenes with a request for two or three things."""
    for index in range(1_000_000):
        world = (generate_video if moving else generate_scene)(SEED, index)
        made = generate_turns(world, np.random.default_rng((SEED, index, 1)), 1, {"refer_many": 1.0})
        if made:
            place = {item.id: n for n, item in enumerate(world.objects)}
            yield Request(world, made[0].question, world.masks[[place[i] for i in made[0].targets if i is not None]])


def alike(moving: bool) -> Iterator[Request]:
    """Scenes with two or three things of one name, and a request for all of them."""
    settings = replace(SceneSettings(), twins=1.0)
    for index in range(1_000_000):
        world = (generate_video if moving else generate_scene)(SEED + 1, index, settings)
        names = [item.thing.name for item in world.objects]
        most = max(names, key=names.count)
        places = [n for n, name in enumerate(names) if name == most]
        thing = world.objects[places[0]].thing
        if len(places) > 1 and not thing.is_plural:
            visual = "video" if moving else "image"
            yield Request(world, f"Please segment all the {thing.plural} in this {visual}.", world.masks[places])


KINDS: dict[str, Callable[[bool], Iterator[Request]]] = {"named one by one": named, "all of a kind": alike}


def matches(found: list[np.ndarray], truth: np.ndarray) -> int:
    """How many masks (T, H, W) are right, best pairs first, each true mask taken once."""
    pairs = [
        (float((mask & goal).sum() / max((mask | goal).sum(), 1)), a, b)
        for a, mask in enumerate(found)
        for b, goal in enumerate(truth)
    ]
    taken: set[tuple[str, int]] = set()
    right = 0
    for iou, a, b in sorted(pairs, reverse=True):
        if iou >= MATCH and not taken & {("found", a), ("true", b)}:
            taken |= {("found", a), ("true", b)}
            right += 1
    return right


def measure(engine: Engine, requests: list[Request], each: bool) -> dict[str, float]:
    """Precision and recall over all requests, and the share of requests of which everything was found and no more."""
    right = found = wanted = whole = 0
    for request in requests:
        media = list(request.world.frames) if request.world.is_video else request.world.image
        with engine.open(media) as session:
            answer: Answer = session.ask(request.text, each=each, max_new_tokens=48)
        masks = [one.masks for one in answer.objects if one.is_there]
        hit = matches(masks, request.truth)
        right, found, wanted = right + hit, found + len(masks), wanted + len(request.truth)
        whole += hit == len(masks) == len(request.truth)
    return {
        "precision": right / max(found, 1),
        "recall": right / wanted,
        "exact": whole / len(requests),
        "masks": found,
        "things": wanted,
    }


def main() -> None:
    """Measure, print a table, and write it."""
    parser = argparse.ArgumentParser(description="Precision and recall of referring to several things at once.")
    parser.add_argument("--model", default="nano")
    parser.add_argument("-n", type=int, default=100, help="requests of each kind")
    parser.add_argument("--clips", action="store_true", help="clips instead of stills")
    parser.add_argument("-o", "--out", type=Path, help="folder for the table and the figures as JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    engine = load(given.model)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    rows = ["| request | asked | precision | recall | exactly right | masks / things |", "|---" * 6 + "|"]
    for kind, make in KINDS.items():
        stream = make(given.clips)
        requests = [next(stream) for _ in range(given.n)]
        for how, each in (("as it is", False), ("each", True)):
            found = figures.setdefault(kind, {})[how] = measure(engine, requests, each)
            shown = " | ".join(f"{found[name]:.3f}" for name in ("precision", "recall", "exact"))
            rows.append(f"| {kind} ({given.n}) | {how} | {shown} | {found['masks']:.0f} / {found['things']:.0f} |")
            print(rows[-1], flush=True)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "several.json").write_text(json.dumps(figures, indent=1) + "\n")
        (given.out / "several.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
