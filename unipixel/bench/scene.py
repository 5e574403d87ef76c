"""What is measured and by what: an engine of random weights, a clip that moves, queries, and a stopwatch."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import numpy as np
import torch

from unipixel.engine.engine import Engine
from unipixel.model.config import SamConfig, SectionConfig
from unipixel.model.presets import IMAGE_SIZE, build_nano_config, initialise
from unipixel.model.unipixel import UniPixel
from unipixel.processing import ImageSettings, Processor
from unipixel.processing.chat import SYSTEM
from unipixel.processing.tokenizer import build_tokenizer

QUESTION = "What is this?"


def build_random_engine(
    sam: SamConfig | None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
    language: SectionConfig | None = None,
) -> Engine:
    """An engine of random weights: language and vision parts of nano's size, the segmenter of the size given.

    Args:
        sam: size of the segmenter; None for nano's.
        language: size of the decoder; None for nano's.
        dtype: of the parameters; buffers stay in fp32, as in a loaded checkpoint.
    """
    tokenizer = build_tokenizer(
        [SYSTEM, "system user assistant", QUESTION, "Please segment and tell about the region."]
    )
    nano = build_nano_config(len(tokenizer), Processor(tokenizer).chat.ids)
    config = nano if sam is None else replace(nano, sam=sam)
    if language is not None:
        vision = copy.copy(config.vision)
        vision.out_hidden_size = language.hidden_size
        config = replace(config, vision=vision, language=language)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UniPixel(config)
    initialise(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        # every object counts as there, so that its masks take the whole way to the end
        model.segmenter.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(10.0)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
        parameter.requires_grad_(False)  # counting arithmetic would ask for gradients of its views
    settings = ImageSettings(
        min_pixels=IMAGE_SIZE**2, max_pixels=IMAGE_SIZE**2, share_budget=False, sam_size=config.sam.image_size
    )
    return Engine(model.to(device), Processor(tokenizer, settings))


def draw_moving_discs(num_frames: int, size_hw: tuple[int, int], seed: int = 0) -> np.ndarray:
    """uint8 (T, H, W, 3): three coloured discs that wander over a gradient."""
    height, width = size_hw
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    plain = np.stack([x * 120 / width + 40, y * 120 / height + 40, np.full((height, width), 90.0)], -1).astype(np.uint8)
    colours = rng.integers(120, 256, (3, 3))
    phases = rng.random((3, 2)) * 2 * np.pi
    frames = np.repeat(plain[None], num_frames, 0)
    for t in range(num_frames):
        for colour, (a, b) in zip(colours, phases, strict=True):
            middle_x = width * (0.5 + 0.35 * np.sin(a + t / 9))
            middle_y = height * (0.5 + 0.35 * np.sin(b + t / 7))
            frames[t][(x - middle_x) ** 2 + (y - middle_y) ** 2 < (min(size_hw) / 8) ** 2] = colour
    return frames


def draw_random_queries(engine: Engine, count: int, seed: int = 0) -> torch.Tensor:
    """(N, Q, C) mask queries, as a reply with ``count`` `<|seg|>` tokens would give."""
    config = engine.model.config
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(count, config.hidden_tokens, config.sam.hidden_size, generator=generator)
    return queries.to(engine.device, engine.model.dtype)


class Stopwatch:
    """Adds up the time that its ``with`` blocks take, work waiting on an accelerator included.

    Attributes:
        wall_s: seconds as on a clock on the wall.
        cpu_s: seconds of all threads of this process; other programs on the machine do not count.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.wall_s, self.cpu_s = device, 0.0, 0.0

    def __enter__(self) -> None:
        self._synchronize()
        self._begin = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self._synchronize()
        wall, cpu = self._begin
        self.wall_s += time.perf_counter() - wall
        self.cpu_s += time.process_time() - cpu

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
