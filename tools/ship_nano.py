"""Put a trained checkpoint into the package as ``nano``: bf16 weights in shards below 16 MB, tokenizer and settings.

python tools/ship_nano.py RUN/final
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from unipixel.model.weights import load_model, save_model
from unipixel.processing import Processor

SHARD_BYTES = 15_000_000


def main(source: str) -> None:
    """Write ``unipixel/checkpoints/nano`` from a checkpoint folder."""
    target = Path(__file__).parent.parent / "unipixel" / "checkpoints" / "nano"
    target.mkdir(parents=True, exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    save_model(load_model(source), target, max_shard_size=SHARD_BYTES, dtype=torch.bfloat16)
    Processor.from_folder(source).save(target)
    for path in sorted(target.iterdir()):
        print(f"{path.name:40s} {path.stat().st_size / 1e6:6.2f} MB")


if __name__ == "__main__":
    main(sys.argv[1])
