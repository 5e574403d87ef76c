"""Teach nano your pictures: python examples/finetune.py [DATASET STEPS], DATASET as label_folder.py writes it."""

import json
import sys
from pathlib import Path

import numpy as np

import unipixel
from unipixel.cli import app
from unipixel.draw import write_png
from unipixel.masks import save_davis_png
from unipixel.stickers import generate_scene


def draw_dataset(folder: Path) -> None:
    """A few drawn pictures, for want of your own."""
    labels = {}
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for index, scene in enumerate(generate_scene(seed=7, index=number) for number in range(4)):
        numbers = np.arange(1, len(scene.objects) + 1, dtype=np.uint8)[:, None, None]
        write_png(scene.frames[0], folder / "images" / f"{index}.png")
        save_davis_png((scene.masks[:, 0] * numbers).max(0), folder / "masks" / f"{index}.png")
        labels[str(index)] = {str(k): one.thing.name for k, one in enumerate(scene.objects, start=1)}
    (folder / "labels.json").write_text(json.dumps(labels))


def main() -> None:
    """Train, then ask what was learnt; the same as `unipixel train finetune` and `unipixel ask`."""
    dataset, steps = (Path(sys.argv[1]), sys.argv[2]) if len(sys.argv) > 2 else (Path("drawn"), "2")
    if len(sys.argv) <= 2:
        draw_dataset(dataset)
    sizes = ["--set", f"steps={steps}", "--set", "batch_size=2", "--set", "evaluation.samples=2"]
    app(["train", "finetune", "--data", f"folder:{dataset}", "-o", "taught", *sizes], standalone_mode=False)
    for found in unipixel.load("taught/final").ask(dataset / "images" / "0.png", "Please segment the lion.").objects:
        print(f"object {found.id}: score {found.score}")


if __name__ == "__main__":
    main()
