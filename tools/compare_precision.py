"""How near a checkpoint's answers in another precision are to those in fp32, on held-out questions of stickers.

    python tools/compare_precision.py --model nano --dtype int8 -n 200

Prints how many answers have the same words, and the mean and least IoU between masks of the same question.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace

import numpy as np
import torch

from unipixel.engine.engine import Engine, load
from unipixel.sample import Turn
from unipixel.stickers import EVAL_SEED, Scene, generate_scene, generate_turns

SEED = EVAL_SEED + 70


def list_questions(count: int) -> list[tuple[Scene, Turn]]:
    """One question about each of ``count`` scenes, without its answer; none about given masks."""
    found: list[tuple[Scene, Turn]] = []
    index = 0
    while len(found) < count:
        scene = generate_scene(SEED, index)
        turns = generate_turns(scene, np.random.default_rng((SEED, index)), 1)
        found += [(scene, replace(turn, answer="", targets=())) for turn in turns if not turn.regions]
        index += 1
    return found


def answer(engine: Engine, scene: Scene, turn: Turn) -> tuple[str, list[np.ndarray], float]:
    """Words, masks (T, H, W) in the order of the text, and processor seconds."""
    started = time.process_time()
    with engine.open(scene.image) as session:
        reply = session.ask_turn(turn, max_new_tokens=48)
    return reply.text, [one.masks for one in reply.objects], time.process_time() - started


def compute_iou(one: np.ndarray, other: np.ndarray) -> float:
    """Of two masks; 1 where both are empty."""
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 1.0


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description="Answers of a checkpoint in another precision beside those in fp32.")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--dtype", default="int8", help="'int8', 'int4' or 'bf16'")
    parser.add_argument("-n", type=int, default=200, help="questions")
    given = parser.parse_args()
    torch.set_num_threads(1)
    full = load(given.model, dtype="fp32", device="cpu")
    other = load(given.model, dtype=given.dtype, device="cpu")
    same, ious, spent = 0, [], [0.0, 0.0]
    for number, (scene, turn) in enumerate(list_questions(given.n), 1):
        (text, masks, first), (words, found, second) = answer(full, scene, turn), answer(other, scene, turn)
        same += text == words
        ious += [compute_iou(a, b) for a, b in zip(masks, found, strict=False)]
        ious += [0.0] * abs(len(masks) - len(found))
        spent = [spent[0] + first, spent[1] + second]
        if number in (1, 20, 50) or number % 100 == 0 or number == given.n:
            figures = {
                "dtype": given.dtype,
                "questions": number,
                "same_words": same,
                "masks": len(ious),
                "mean_iou": float(np.mean(ious)) if ious else None,
                "least_iou": min(ious, default=None),
                "seconds": {"fp32": spent[0], given.dtype: spent[1]},
            }
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
