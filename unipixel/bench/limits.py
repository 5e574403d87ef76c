"""Each stage beside the least time that the machine allows it, and what it asks of the host.

A stage cannot take less than its arithmetic at the rate of a large matrix product, nor less than reading its weights
and its cache at the rate of reading memory; both rates are measured in the same process. Products and attention are
counted by torch's own counter, bytes from the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unipixel.bench.counting import OperationCounter
from unipixel.bench.scene import QUESTION, Stopwatch, draw_moving_discs, draw_random_queries
from unipixel.engine.engine import Engine
from unipixel.engine.generation import ConversationCache, DecodingOptions, PrefillInput, Reply, generate
from unipixel.engine.memory import Anchor, set_spans
from unipixel.engine.static_decoding import StaticDecoder
from unipixel.engine.tracking import FrameFeatureCache, propagate
from unipixel.media import Media
from unipixel.model.language import fuse_projections
from unipixel.model.presets import TINY_SAM, build_config
from unipixel.model.tracker import Tracker
from unipixel.model.unipixel import UniPixel
from unipixel.processing import ImageSettings, Processor
from unipixel.processing.chat import SYSTEM
from unipixel.processing.images import prepare_sam_frames
from unipixel.processing.tokenizer import build_tokenizer

RUNS = 3
"""Runs of a stage, of which the median counts."""
LONG_RUNS_S = 10.0
"""Seconds after which a stage is not run again: long runs differ little from each other."""
TOKENS = 8
"""Tokens that are timed in each run of decoding."""
WARM_FRAMES = 8
"""Tracked frames after which a frame costs about what later ones cost: all memories are there, if not all pointers."""
Row = dict[str, Any]


def measure_read_rate(device: torch.device) -> float:
    """Bytes per second that the product of a matrix that fits no cache and a vector reads."""
    matrix = torch.ones((1 << 17) if device.type == "cuda" else (1 << 13), 4096, device=device)
    vector = torch.ones(4096, device=device)
    return matrix.nbytes / _time(device, lambda: torch.mv(matrix, vector), least=True)


def measure_product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large product."""
    side = 8192 if device.type == "cuda" else 1024
    square = torch.ones(side, side, dtype=dtype, device=device)
    return 2 * side**3 / _time(device, lambda: square @ square, least=True)


def compare_resizing(device: torch.device, settings: ImageSettings) -> float:
    """Largest difference between SAM's frame as resized on a device and on the host, in normalised units."""
    frame = torch.from_numpy(draw_moving_discs(1, (720, 1280)))
    there, here = (prepare_sam_frames(one, settings).cpu() for one in (frame.to(device), frame))
    return float((there - here).abs().max())


def _time(device: torch.device, run: Callable[[], object], *, least: bool = False) -> float:
    """Seconds of a run that was made before: of this process on a CPU, on the wall on others.

    The median of `RUNS`, or the least of them, or of fewer that took `LONG_RUNS_S` together.
    """
    spent: list[float] = []
    while len(spent) < RUNS and sum(spent) < LONG_RUNS_S:
        watch = Stopwatch(device)
        with watch:
            run()
        spent.append(watch.cpu_s if device.type == "cpu" else watch.wall_s)
    return max(min(spent) if least else median(spent), 1e-9)


@torch.no_grad()
def measure_stages(engine: Engine, rates: Row, progress: Callable[[str], None]) -> list[Row]:
    """Seconds of each stage but decoding, at the engine's sizes, beside the least that its arithmetic takes."""
    model, device, settings = engine.model, engine.device, engine.processor.settings
    vision, sam = model.config.vision, model.config.sam
    side = 2 * vision.spatial_merge_size * round(settings.min_pixels**0.5 / settings.token_side / 2)
    grid = torch.tensor([[1, side, side]])
    patches = torch.zeros(side * side, 3 * settings.temporal_patch_size * settings.patch_size**2, device=device)
    frame = torch.zeros(1, 3, sam.image_size, sam.image_size, device=device)
    embeds = torch.zeros(1, 300, model.config.language.hidden_size, dtype=model.dtype, device=device)
    positions = torch.arange(300, device=device).expand(3, 1, -1)

    def start_tracking(count: int) -> Callable[[], object]:
        features, tracker = model.segmenter.encode(frame), Tracker(model.segmenter, 30)
        tracker.add_prompts(features, list(range(count)), draw_random_queries(engine, count))
        for _ in range(WARM_FRAMES):
            tracker.step(features)
        return partial(tracker.step, features)

    # each is made ready when it is its turn, which takes long for a tracker
    stages: dict[str, Callable[[], Callable[[], object]]] = {
        f"vision_tower, {side * side} patches": lambda: lambda: model.encode_vision(patches.to(model.dtype), grid),
        "prefill, 300 tokens": lambda: lambda: model.decode(embeds, positions),
        "sam_encode, 1 frame": lambda: lambda: model.segmenter.encode(frame),
        "track, 1 frame, 1 object": lambda: start_tracking(1),
        "track, 1 frame, 8 objects": lambda: start_tracking(8),
    }
    rows = []
    for name, prepare in stages.items():
        progress(f"beside its limit: {name}")
        run = prepare()
        with FlopCounterMode(display=False) as flops:
            run()
        spent, limit = _time(device, run), flops.get_total_flops() / rates["flop_per_s"]
        rows.append({"stage": name, "seconds": spent, "limit_s": limit, "share": limit / spent, "bound": "arithmetic"})
    return rows


@torch.no_grad()
def build_decoder(layers: int, device: torch.device, dtype: torch.dtype, width: int = 2048) -> UniPixel:
    """A model whose decoder layers have the shape of UniPixel-3B's, or are narrower; its other parts are tiny."""
    tokenizer = build_tokenizer([SYSTEM, QUESTION])
    heads = width // 128
    language = {"hidden_size": width, "intermediate_size": width * 43 // 8, "num_hidden_layers": layers}
    language |= {"num_attention_heads": heads, "num_key_value_heads": max(heads // 8, 1)}
    language |= {"max_position_embeddings": 32768}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "fullatt_block_indexes": [0]}
    ids = Processor(tokenizer).chat.ids
    config = build_config(
        max(32_000, len(tokenizer)),
        ids,
        TINY_SAM,
        language=language,
        vision=vision,
        tied=True,
        mrope_section=(16, 24, 24),
    )
    with torch.device("meta"):
        model = UniPixel(replace(config, eos_token_ids=()))
    for module in model.modules():
        for name, one in module.named_parameters(recurse=False):
            # norms of one, and weights small enough for a stack of any depth
            value = torch.full(one.shape, 1.0 if one.ndim == 1 else 0.0, dtype=dtype, device=device)
            module._parameters[name] = nn.Parameter(value.uniform_(-0.02, 0.02) if one.ndim > 1 else value)
    model.lm_head.weight = model.language.embed_tokens.weight
    return model.eval()


@torch.no_grad()
def measure_decoding(model: UniPixel, rates: Row, contexts: tuple[int, ...], rows: int = 1) -> list[Row]:
    """Seconds of a token for each row of a batch after contexts of so many tokens, beside reading weights and cache."""
    device, language, found = model.device, model.config.language, []
    weights = (
        sum(one.nbytes for layer in model.language.layers for one in layer.parameters()) + model.lm_head.weight.nbytes
    )
    width = language.hidden_size // language.num_attention_heads * language.num_key_value_heads
    token = 2 * width * language.num_hidden_layers * model.lm_head.weight.element_size()
    for context in contexts:
        steps = start_reply(model, context, rows)
        for _ in islice(steps, 3):
            pass
        spent = _time(device, partial(_read_tokens, steps)) / TOKENS
        limit = (weights + rows * context * token) / rates["read_bytes_per_s"]
        name = f"decode, {rows} row{'s' * (rows > 1)}, {context} tokens before"
        found.append({"stage": name, "seconds": spent, "limit_s": limit, "share": limit / spent, "bound": "reading"})
    return found


def _read_tokens(steps: Iterator[object]) -> None:
    for _ in range(TOKENS):
        next(steps)


@torch.no_grad()
def start_reply(model: UniPixel, context: int, rows: int = 1) -> Iterator[object]:
    """Replies after ``context`` tokens, to be read token by token; they do not end by themselves.

    Keys and values of the context are random numbers, since reading them takes as long as reading true ones.
    """
    conversation, language = ConversationCache(), model.config.language
    shape = rows, language.num_key_value_heads, context - 1, language.hidden_size // language.num_attention_heads
    for number in range(language.num_hidden_layers):
        keys, values = torch.randn(2, *shape, dtype=model.dtype, device=model.device)
        conversation.cache.update(keys, values, number)
    ids = torch.tensor([1])
    passage = PrefillInput(ids, model.language.embed_tokens(ids.to(model.device)), torch.full((3, 1), context), context)
    options = DecodingOptions(max_new_tokens=512, stops_loops=False)
    replies = [Reply(options=options) for _ in range(rows)]
    return generate(model, conversation, [passage] * rows, replies, options)


@torch.no_grad()
def count_host_operations(engine: Engine) -> list[Row]:
    """Operations that the host starts, and places where it waits, for a token of 36 layers and for a tracked frame.

    A token is also counted as a step of `StaticDecoder`, which CUDA replays as one graph.
    """
    found: list[Row] = []
    model = build_decoder(36, engine.device, engine.model.dtype, width=128)
    steps = start_reply(model, 50)
    for _ in islice(steps, 3):
        pass
    with OperationCounter() as counter:
        next(steps)
    found.append({"what": "token", "kernels": counter.kernels.total(), "waits": dict(counter.waits)})
    fuse_projections(model.language)
    decoder = StaticDecoder(model, 1, 1024)
    with OperationCounter() as counter:
        decoder.step(model)
    found.append({"what": "token, static step", "kernels": counter.kernels.total(), "waits": dict(counter.waits)})
    segmenter = engine.model.segmenter
    media = Media.from_array(draw_moving_discs(WARM_FRAMES + 2, (96, 128)))
    features = FrameFeatureCache(segmenter, media, engine.processor.settings)
    for t in range(media.num_frames):
        features.get(t, range(t + 1, media.num_frames))
    for count in (1, 8):
        queries = draw_random_queries(engine, count)
        anchors = {i: set_spans([Anchor(0, query)], media.num_frames) for i, query in enumerate(queries)}
        pieces = propagate(segmenter, features, media.size_hw, media.num_frames, anchors)
        for _ in islice(pieces, WARM_FRAMES):
            pass
        with OperationCounter() as counter:
            next(pieces)
        what = f"tracked frame, {count} object{'s' * (count > 1)}"
        found.append({"what": what, "kernels": counter.kernels.total(), "waits": dict(counter.waits)})
    return found


def measure_limits(engine: Engine, *, quick: bool, progress: Callable[[str], None]) -> Row:
    """Rates, stages beside their limits, host operations and the exactness of resizing there, as plain values.

    Decoding is measured at the width of UniPixel-3B, on a CPU with 4 of its 36 layers, on CUDA with all.
    """
    device, dtype = engine.device, engine.model.dtype
    rates = {"flop_per_s": measure_product_rate(device, dtype), "read_bytes_per_s": measure_read_rate(device)}
    on_gpu = device.type == "cuda"
    stages = measure_stages(engine, rates, progress)
    progress("operations that the host starts")
    operations = count_host_operations(engine)
    progress("beside its limit: decoding at the width of 3B")
    model = build_decoder(36 if on_gpu else 4, device, dtype, width=128 if quick else 2048)
    stages += measure_decoding(model, rates, (50,) if quick else (300, 1600, 4000))
    if on_gpu and not quick:
        stages += measure_decoding(model, rates, (300,), rows=8)
    resizing = compare_resizing(device, engine.processor.settings)
    return {"rates": rates, "stages": stages, "host_operations": operations, "resizing_difference": resizing}
