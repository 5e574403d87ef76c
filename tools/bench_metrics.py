"""Time J and F of many frames against a plain OpenCV dilation loop, both in this process, and compare the values.

    pip install opencv-python-headless        # only this script needs it
    python tools/bench_metrics.py [--frames 1000] [--masks FOLDER]

Without ``--masks`` the frames are 854x480 with a wobbling blob and a shifted copy; FOLDER holds pairs of PNG files
named ``*_gt.png`` and ``*_pred.png``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from unipixel.metrics import boundary_radius, frame_scores

try:
    import cv2
except ImportError:
    raise SystemExit("OpenCV is missing; this script alone needs it: pip install opencv-python-headless") from None

Pair = tuple[np.ndarray, np.ndarray]


def blobs(count: int, size_hw: tuple[int, int] = (480, 854)) -> list[Pair]:
    """Pairs of bool masks (H, W): a blob with a wavy edge, and the same shifted and with another wave."""
    rng = np.random.default_rng(0)
    height, width = size_hw
    y, x = np.mgrid[:height, :width]
    pairs = []
    for _ in range(count):
        cx, cy = rng.uniform(0.3, 0.7, 2) * (width, height)
        radius = rng.uniform(0.1, 0.45) * height
        angle, distance = np.arctan2(y - cy, x - cx), np.hypot(y - cy, x - cx)
        target = distance < radius * (1 + 0.2 * np.sin(5 * angle))
        prediction = np.roll(distance < radius * (1 + 0.2 * np.sin(5 * angle) + 0.05 * np.sin(23 * angle)), 3, axis=1)
        pairs.append((prediction, target))
    return pairs


def pairs_in(folder: Path) -> list[Pair]:
    """Pairs of bool masks from ``*_pred.png`` and ``*_gt.png`` files."""
    names = sorted(folder.glob("*_gt.png"))
    if not names:
        raise SystemExit(f"{folder} holds no *_gt.png file")

    def load(path: Path) -> np.ndarray:
        return np.asarray(Image.open(path)) > 0

    return [(load(name.with_name(name.name.replace("_gt", "_pred"))), load(name)) for name in names]


def opencv_boundary(mask: np.ndarray) -> np.ndarray:
    """Boundary map by whole-frame comparisons of shifted copies."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def opencv_score(prediction: np.ndarray, target: np.ndarray, disk: np.ndarray) -> tuple[float, float]:
    """J and F of a frame, the straightforward way: dilate both boundary maps with a disk."""
    union = np.count_nonzero(prediction | target)
    J = np.count_nonzero(prediction & target) / union if union else 1.0
    edges = [opencv_boundary(mask) for mask in (prediction, target)]
    near = [cv2.dilate(edge.astype(np.uint8), disk).astype(bool) for edge in edges]
    sums = [np.count_nonzero(edge) for edge in edges]
    if not all(sums):
        return J, float(sums[0] == sums[1])
    precision = np.count_nonzero(edges[0] & near[1]) / sums[0]
    recall = np.count_nonzero(edges[1] & near[0]) / sums[1]
    return J, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def best_of(repeats: int, work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Shortest time in seconds of several runs, and the result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return min(times), result


def main() -> None:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--masks", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    distinct = pairs_in(options.masks) if options.masks else blobs(min(options.frames, 50))
    pairs = [distinct[index % len(distinct)] for index in range(options.frames)]
    radius = boundary_radius(distinct[0][0].shape)
    reach = np.arange(-radius, radius + 1)
    disk = (reach[:, None] ** 2 + reach**2 <= radius**2).astype(np.uint8)

    def ours() -> np.ndarray:
        scores = frame_scores((pair[0] for pair in pairs), (pair[1] for pair in pairs))
        return np.stack([scores["J"], scores["F"]], axis=1)

    ours_s, our_scores = best_of(options.repeats, ours)
    print(f"{len(pairs)} frames of {distinct[0][0].shape[1]}x{distinct[0][0].shape[0]}, tolerance {radius} px")
    print(f"unipixel.metrics            {ours_s:7.2f} s   {1000 * ours_s / len(pairs):6.2f} ms a frame")
    for threads in sorted({1, cv2.getNumberOfCPUs()}):
        cv2.setNumThreads(threads)
        loop_s, scores = best_of(options.repeats, lambda: np.array([opencv_score(*pair, disk) for pair in pairs]))
        print(
            f"OpenCV loop, {threads:2d} thread(s)   {loop_s:7.2f} s   {1000 * loop_s / len(pairs):6.2f} ms a frame"
            f"   {loop_s / ours_s:.1f} x slower, largest difference {np.abs(scores - our_scores).max():.1e}"
        )


if __name__ == "__main__":
    main()
