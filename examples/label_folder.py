"""Label a folder of pictures for training: python examples/label_folder.py [PICTURES OUT NAME ...].

OUT is then a dataset for `unipixel data check folder:OUT` and `unipixel train finetune --data folder:OUT -o runs/mine`.
"""

import json
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

import unipixel
from unipixel.masks import save_davis_png


def main() -> None:
    """Ask for each name in each picture; keep what the model is sure of, to be looked over before it is learnt."""
    pictures = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(str(files("unipixel") / "examples"))
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("labelled")
    names, engine, labels = sys.argv[3:] or ["dog", "unicorn"], unipixel.load(), dict[str, dict[str, str]]()
    for path in sorted(p for p in pictures.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg")):
        picture = Image.open(path).convert("RGB")
        index, own = np.zeros(picture.size[::-1], dtype=np.uint8), dict[str, str]()
        for name in names:
            for found in engine.ask(picture, f"Please segment the {name}.").objects:
                if found.score != "not there" and found.score > 0.5:
                    own[str(len(own) + 1)], index[found.masks[0]] = name, len(own) + 1
                    print(f"object {len(own)}: {name} in {path.name}, {found.score:.2f}")
        (out / "images").mkdir(parents=True, exist_ok=True)
        (out / "masks").mkdir(exist_ok=True)
        picture.save(out / "images" / f"{path.stem}.png")
        save_davis_png(index, out / "masks" / f"{path.stem}.png")
        labels[path.stem] = own
    (out / "labels.json").write_text(json.dumps(labels, indent=1))


if __name__ == "__main__":
    main()
