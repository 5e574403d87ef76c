"""Peak memory of a question, measured in a process of its own, beside what `unipixel memory` predicts.

    python tools/check_memory.py                    # small sizes, a few minutes
    python tools/check_memory.py --size 3b          # the released size in bfloat16; asks for 12 GB that are free

Weights are constant, which costs the same memory as any others; objects are boxes whose masks are taken without asking.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import torch

from unipixel.bench.memory import peak_memory_mb
from unipixel.bench.scene import QUESTION, draw_moving_discs
from unipixel.engine.engine import Engine, load
from unipixel.engine.footprint import predict_memory
from unipixel.engine.machine import read_available_memory
from unipixel.model.config import SamConfig
from unipixel.model.presets import build_nano_config, build_released_config
from unipixel.model.weights import build_empty_model
from unipixel.processing import ImageSettings, Processor
from unipixel.processing.chat import SYSTEM
from unipixel.processing.tokenizer import build_tokenizer
from unipixel.sample import Box

CASES = (
    ("nano", 1, 1, "float32"), ("nano", 16, 8, "float32"), ("b+", 1, 8, "float32"), ("b+", 8, 2, "float32"),
    ("b+", 8, 2, "bfloat16"), ("middle", 8, 2, "bfloat16"),
)  # fmt: skip
"""Size, frames, objects, type."""
SIZE_HW = (360, 640)
REPLY = 8


def build_engine(size: str, dtype: str) -> Engine:
    """nano itself; nano with Hiera-B+; eight layers of the released width with Hiera-B+; or the whole released size."""
    if size == "nano":
        return load("nano", "cpu", dtype)
    tokenizer = build_tokenizer([SYSTEM, "system user assistant", QUESTION, "Please segment and localize the objects."])
    ids, settings = Processor(tokenizer).chat.ids, ImageSettings()
    config = replace(build_nano_config(len(tokenizer), ids), sam=SamConfig())
    if size in ("3b", "7b", "middle"):
        config = build_released_config("3b" if size == "middle" else size, ids)
        if size == "middle":
            config.language.num_hidden_layers, config.vision.depth = 8, 8
            config.language.vocab_size = 32000
    model = build_empty_model(config)
    kept = {name for name, _ in model.named_buffers()}
    for name, parameter in list(model.named_parameters()):
        module = model.get_submodule(name.rpartition(".")[0])
        kind = getattr(torch, dtype)
        filled = torch.full(parameter.shape, 0.001, dtype=kind) if parameter.is_meta else parameter.detach().to(kind)
        setattr(module, name.rpartition(".")[2], torch.nn.Parameter(filled, requires_grad=False))
    assert kept == {name for name, _ in model.named_buffers()}
    if config.tie_word_embeddings:
        model.lm_head.weight = model.language.embed_tokens.weight
    return Engine(model, Processor(tokenizer, settings))


def measure(size: str, frames: int, objects: int, dtype: str) -> dict[str, float]:
    """Ask in this process; MB predicted and measured, and of it what was there with the weights alone."""
    engine = build_engine(size, dtype)
    loaded = peak_memory_mb()
    clip = draw_moving_discs(frames, SIZE_HW)
    height, width = SIZE_HW
    left = np.linspace(0.05, 0.7, objects)
    boxes = [Box(width * x, height * x, width * (x + 0.2), height * (x + 0.2)) for x in left]
    with engine.open(clip, num_frames=frames) as session:
        answer = session.ask(QUESTION, prompts=boxes, force="always", max_new_tokens=REPLY)
    assert len(answer.objects) >= objects
    settings = engine.processor.settings
    parts = predict_memory(
        engine.model.config,
        settings,
        frames=frames,
        objects=objects,
        size_hw=SIZE_HW,
        dtype=dtype,
        max_new_tokens=REPLY,
    )
    return {"predicted": parts["peak"] / 1e6, "measured": peak_memory_mb() or 0.0, "loaded": loaded or 0.0}


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("3b", "7b"), help="a released size instead of the small ones")
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--objects", type=int, default=2)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        size, frames, objects, dtype = json.loads(options.case)
        print(json.dumps(measure(size, frames, objects, dtype)))
        return
    cases = [(options.size, options.frames, options.objects, "bfloat16")] if options.size else list(CASES)
    free = read_available_memory()
    if options.size and free is not None and free < (12e9 if options.size == "3b" else 22e9):
        sys.exit(f"{free / 1e9:.1f} GB are free, too little for {options.size} in bfloat16")
    for case in cases:
        command = [sys.executable, "-m", "tools.check_memory", "--case", json.dumps(case)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        ratio = figures["predicted"] / figures["measured"]
        words = f"{case[0]}, {case[1]} frames, {case[2]} objects, {case[3]}"
        rest = f"{figures['measured']:.0f} MB measured, {figures['loaded']:.0f} MB of it when loaded"
        print(f"{words}: {figures['predicted']:.0f} MB predicted, {rest}; {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
