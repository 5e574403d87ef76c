"""Official code and ours in turns, on the same random weights: processor seconds of one thread, and their ratios.

    python tools/pair_official.py DIR                                    # SAM alone: Hiera-B+ at 768 px
    python tools/pair_official.py DIR --cases 1x1,8x3 --turns 5          # frames x objects
    python tools/pair_official.py DIR --whole                            # all of UniPixel-3B; 10 GB of free memory

DIR is a checkout of Meta's `sam2`, or its unpacked source archive; ``--packages`` names a folder with what it needs
besides torch (hydra-core, iopath, tqdm), where this Python does not have it. Nothing is copied from there.

What is the official code itself: Meta's ``SAM2VideoPredictor`` with all its layers, and ``generate`` of transformers'
``Qwen2_5_VLForConditionalGeneration`` with its attention "sdpa". What is rebuilt here from the description of the
released inference are the joints between them, which cost next to nothing: mask queries beside SAM's prompt tokens,
their head over all positions of every forward, inputs cast to the type of the weights, features of all frames computed
in batches of 16, and each `<|seg|>` segmented by itself, as soon as it is written, in a state for which every frame is
encoded anew. A later question is read with its visual from the beginning, as are all questions there. Pictures are
brought to both sizes by our processor for both sides, once a clip. A checkout of UniPixel itself is not driven.

Both sides hold the very same tensors, in bfloat16 where the processor computes in it and in float32 elsewhere, unless
``--dtype`` says otherwise. Before anything is timed, masks of both are compared on small squares, in fp32
and in the type that is measured, and replies are compared token by token; where they differ by more than rounding does,
the run ends with an error. The masks of what was timed are compared too (``mean_iou``). The output head is drawn such
that the likeliest reply is known: some words, and then `<|seg|>` to the last token.

Source: UniPixel (arXiv 2509.18094) and its released inference; SAM 2.1; Qwen2.5-VL.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from unipixel.bench import track_together
from unipixel.bench.memory import peak_memory_mb
from unipixel.bench.scene import QUESTION, build_random_engine, draw_moving_discs, draw_random_queries
from unipixel.engine.engine import Engine
from unipixel.engine.machine import computes_in_bf16, read_available_memory
from unipixel.engine.session import Session
from unipixel.masks import MaskTrack
from unipixel.media import Media
from unipixel.model.config import SamConfig
from unipixel.model.presets import build_released_config
from unipixel.model.tensor_names import build_disk_layout, to_memory_name
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import build_empty_model
from unipixel.processing import ImageSettings, Processor
from unipixel.processing.chat import SYSTEM
from unipixel.processing.images import prepare_sam_frames
from unipixel.processing.tokenizer import build_tokenizer
from unipixel.sample import Turn

SIZE_HW = (360, 640)
FRAMES_AT_ONCE = 16
"""Frames that the original encodes together."""
CASES = "1x1,1x3,1x8,8x1,8x3,8x8"
WHOLE_CASES = "1x1,1x3,1x8,8x1"
WORDS = 5
"""Tokens of a reply before its first `<|seg|>`, and of one without."""
LEAST_FP32, LEAST_BF16 = 0.99, 0.9
"""Mean IoU between masks of both sides below which nothing is timed. Random weights leave much near the threshold."""
SMALL = 256
"""Side of the squares on which masks are compared before anything is timed, pixels."""
FREE = 10e9
"""Bytes that the whole model needs in bfloat16."""
NEXT_QUESTION = "What is it doing?"
Result = TypeVar("Result")


# The official side


def build_predictor(folder: Path, packages: Path | None, sam: SamConfig) -> Any:
    """Meta's ``SAM2VideoPredictor`` of these sizes, with the options that the released inference has.

    Raises:
        SystemExit: the folder is no checkout, or something that it needs is missing.
    """
    if not (folder / "sam2" / "sam2_video_predictor.py").is_file():
        sys.exit(f"{folder} has no sam2/sam2_video_predictor.py; pass a checkout of sam2 or its unpacked archive")
    sys.path.insert(0, str(folder))
    if packages is not None:
        sys.path.append(str(packages))
    try:
        importlib.import_module("sam2.sam2_video_predictor")
        config, instantiate = importlib.import_module("omegaconf").OmegaConf, importlib.import_module("hydra.utils")
    except ImportError as error:
        sys.exit(f"sam2 does not load ({error}); pass --packages FOLDER with hydra-core, iopath and tqdm")
    tree = config.load(folder / "sam2" / "configs" / "sam2.1" / "sam2.1_hiera_b+.yaml").model
    tree._target_ = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    tree.image_size = sam.image_size
    predictor = instantiate.instantiate(tree).eval()
    _join_predictor(predictor)
    return predictor


def _join_predictor(predictor: Any) -> None:
    """Let a predictor take frames and mask queries, in the type of its weights."""

    def cast(value: Any) -> Any:
        if isinstance(value, list):
            return [cast(one) for one in value]
        return value.to(predictor.no_mem_embed.dtype) if torch.is_tensor(value) and value.is_floating_point() else value

    def cast_inputs(_: nn.Module, args: Any, kwargs: Any) -> Any:
        return tuple(cast(one) for one in args), {name: cast(one) for name, one in kwargs.items()}

    for name in ("image_encoder", "sam_mask_decoder", "memory_encoder", "memory_attention", "obj_ptr_tpos_proj"):
        getattr(predictor, name).register_forward_pre_hook(cast_inputs, with_kwargs=True)

    def add_query(_: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        sparse, dense = output
        return (sparse if predictor.query is None else torch.cat([cast(sparse), predictor.query], 1)), dense

    predictor.query = None
    predictor.sam_prompt_encoder.register_forward_hook(add_query)

    look_up = predictor._get_image_feature

    def look_up_all(state: dict[str, Any], frame_idx: int, batch_size: int) -> Any:
        known = state["cached_features"]
        for start in range(0, 0 if known else len(state["images"]), FRAMES_AT_ONCE):
            chunk = state["images"][start : start + FRAMES_AT_ONCE]
            found = predictor.forward_image(chunk)
            for i in range(len(chunk)):
                rows = {k: [x[i : i + 1] for x in found[k]] for k in ("backbone_fpn", "vision_pos_enc")}
                known[start + i] = chunk[i : i + 1], rows
        return look_up(state, frame_idx, batch_size)

    predictor._get_image_feature = look_up_all
    module = importlib.import_module("sam2.sam2_video_predictor")
    # frames come as a tensor with the size of the source; and no bar of progress is drawn
    module.load_video_frames = lambda video_path, **_: video_path  # type: ignore[attr-defined]
    module.tqdm = lambda steps, **_: steps  # type: ignore[attr-defined]


@torch.inference_mode()
def segment_officially(predictor: Any, frames: Tensor, size_hw: tuple[int, int], query: Tensor) -> np.ndarray:
    """Masks bool (T, H, W) of one object, with nothing shared.

    Args:
        frames: (T, 3, S, S) normalised.
        query: (1, Q, C) of its `<|seg|>`.
    """
    state = predictor.init_state((frames, *size_hw))
    place = predictor._obj_id_to_idx(state, 0)
    predictor.query = query
    try:
        out, _ = predictor._run_single_frame_inference(
            inference_state=state,
            output_dict=state["output_dict_per_obj"][place],
            frame_idx=0,
            batch_size=1,
            is_init_cond_frame=True,
            point_inputs=None,
            mask_inputs=None,
            reverse=False,
            run_mem_encoder=False,
        )
    finally:
        predictor.query = None
    state["temp_output_dict_per_obj"][place]["cond_frame_outputs"][0] = out
    whole = predictor._consolidate_temp_output_across_obj(state, 0, is_cond=True, consolidate_at_video_res=True)
    predictor._get_orig_video_res_output(state, whole["pred_masks_video_res"])
    masks = [logits[0, 0] > 0 for _, _, logits in predictor.propagate_in_video(state)]
    return torch.stack(masks).numpy()


def fill_predictor(predictor: Any, engine: Engine) -> None:
    """Give a predictor the tensors of an engine's segmenter, under Meta's names."""
    state = {}
    for name, places in build_disk_layout(engine.model.state_dict()).items():
        if name.startswith("sam2."):
            parts = name.removeprefix("sam2.").split(".")
            if parts[:3] == ["memory_encoder", "fuser", "layers"] and parts[-1] == "weight" and len(parts) == 5:
                parts[-1] = "gamma"
            state[".".join(parts)] = places[0][1]
    predictor.load_state_dict(state, strict=True, assign=True)


class SegWatcher:
    """Segments each `<|seg|>` of a reply while transformers' ``generate`` writes it; it sees every step's scores."""

    def __init__(self, official: Any, engine: Engine, segment: Callable[[Tensor], np.ndarray]) -> None:
        self.engine, self.segment = engine, segment
        self.masks: list[np.ndarray] = []
        self._hidden: Tensor | None = None
        self._hook = official.model.language_model.norm.register_forward_pre_hook(self._remember)

    def _remember(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._hidden = args[0]

    def close(self) -> None:
        self._hook.remove()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        assert self._hidden is not None
        queries = self.engine.model.compute_seg_tokens(self._hidden)  # of every position, as in the original
        if int(scores[0].argmax()) == self.engine.model.config.seg_token_id:
            self.masks.append(self.segment(queries[:, -1]))
        return scores


def build_official(engine: Engine) -> Any:
    """transformers' Qwen2.5-VL with the very tensors of an engine's model."""
    library = importlib.import_module("transformers")
    tree = engine.model.config.to_dict()
    tied = engine.model.config.tie_word_embeddings
    config = library.Qwen2_5_VLConfig(
        text_config=tree["text_config"] | {"torch_dtype": str(engine.model.dtype).removeprefix("torch.")},
        vision_config=tree["vision_config"],
        tie_word_embeddings=tied,
        **{name: tree[name] for name in ("image_token_id", "video_token_id", "vision_start_token_id")},
    )
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        official = library.Qwen2_5_VLForConditionalGeneration(config)
    state = {}
    for name, places in build_disk_layout(engine.model.state_dict()).items():
        if name.startswith(("visual.", "model.", "lm_head.")):
            state[to_memory_name(name)] = places[0][1]
    official.load_state_dict(state, strict=True, assign=True)
    for part in (official.model.visual.rotary_pos_emb, official.model.language_model.rotary_emb):
        part.__init__(part.config)  # what no file holds
    assert not any(one.is_meta for one in (*official.parameters(), *official.buffers()))
    return official.eval()


@torch.inference_mode()
def ask_officially(
    official: Any, predictor: Any, engine: Engine, array: np.ndarray, question: str, most: int
) -> tuple[list[int], list[np.ndarray]]:
    """Tokens and masks of a reply of ``most`` tokens to a question about frames (T, H, W, 3)."""
    processor, media = engine.processor, Media.from_array(array)
    visual = processor.build_visual(media)
    ids = processor.build_first_turn(Turn(question=question), visual).input_ids[None]
    frames: list[Tensor] = []

    def segment(query: Tensor) -> np.ndarray:
        if not frames:
            frames.append(prepare_sam_frames(array, processor.settings))
        return segment_officially(predictor, frames[0], media.size_hw, query)

    watcher = SegWatcher(official, engine, segment)
    try:
        written = official.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=2 * (ids == engine.model.config.video_token_id).int(),
            pixel_values_videos=visual.pixel_values,
            video_grid_thw=visual.grid_thw,
            second_per_grid_ts=visual.second_per_grid,
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            logits_processor=[watcher],
        )
    finally:
        watcher.close()
    return written[0, ids.shape[1] :].tolist(), watcher.masks


# Our side


def build_whole(layers: int, blocks: int, sam: Engine) -> Engine:
    """UniPixel-3B with random weights, so many decoder layers and vision blocks, and this segmenter, whose type it has.

    The head is not tied to the embedding as the released one is: it says what follows which token.
    """
    tokenizer = build_tokenizer([SYSTEM, "system user assistant", QUESTION, NEXT_QUESTION, "Please segment them."])
    processor = Processor(tokenizer, ImageSettings(sam_size=sam.model.config.sam.image_size))
    config = replace(build_released_config("3b", processor.chat.ids), tie_word_embeddings=False)
    config = replace(config, sam=sam.model.config.sam)
    config.language.num_hidden_layers, config.vision.depth = layers, blocks
    config.vision.fullatt_block_indexes = [i for i in config.vision.fullatt_block_indexes if i < blocks]
    model = build_empty_model(config)
    draw_weights(model, processor, sam.model.dtype)
    model.segmenter = sam.model.segmenter
    return Engine(model, processor)


def draw_weights(model: UniPixel, processor: Processor, dtype: torch.dtype) -> None:
    """Give all parameters of a model random numbers in a type, and a head that writes some words and then `<|seg|>`.

    Numbers come from a pool, from another place each time, because drawing billions takes a minute.
    """
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(1 << 22, generator=generator).to(dtype)
    for name, one in list(model.named_parameters()):
        place, _, last = name.rpartition(".")
        if one.ndim == 1:
            value = torch.full(one.shape, 1.0 if last == "weight" else 0.0, dtype=dtype)
        else:
            value = torch.empty(one.shape, dtype=dtype)
            spread = 1.0 if "embed_tokens" in name else one[0].numel() ** -0.5
            for piece in value.view(-1).split(len(pool) // 2):
                start = int(torch.randint(0, len(pool) // 2, (1,), generator=generator))
                torch.mul(pool[start : start + len(piece)], spread, out=piece)
        model.get_submodule(place)._parameters[last] = nn.Parameter(value, requires_grad=False)
    chat = processor.chat
    chain = [chat.encode_question("")[-1], *chat.encode("system user assistant Please segment them")[:WORDS]]
    chain += [model.config.seg_token_id] * 2
    embed, head = model.language.embed_tokens.weight, model.lm_head.weight
    head[chain] = 0
    for before, after in pairwise(chain):  # the state of a token is mostly its embedding, which the head looks for
        head[after] += embed[before]


def ask_ours(session: Session, question: str, most: int) -> tuple[list[int], list[np.ndarray]]:
    """Tokens and masks of a reply of ``most`` tokens."""
    answer = session.ask(question, each=False, max_new_tokens=most)
    return list(answer.tokens), [one.masks for one in answer.objects]


# Both


def compare_masks(ones: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Mean IoU over objects and frames of masks (T, H, W); 1 where both are empty."""
    scores = []
    for one, other in zip(ones, others, strict=True):
        for a, b in zip(one, other, strict=True):
            union = int((a | b).sum())
            scores.append(int((a & b).sum()) / union if union else 1.0)
    return float(np.mean(scores)) if scores else 1.0


def measure_time(run: Callable[[], Result]) -> tuple[Result, float]:
    """What a call returns, and seconds of this process."""
    started = time.process_time()
    result = run()
    return result, time.process_time() - started


def print_line(figures: dict[str, Any]) -> None:
    """As JSON, with numbers of three digits behind the point."""

    def shorten(value: Any) -> Any:
        if isinstance(value, list):
            return [shorten(one) for one in value]
        return round(value, 3) if isinstance(value, float) else value

    print(json.dumps({name: shorten(value) for name, value in figures.items()}), flush=True)


def summarize(name: str, official: Sequence[float], ours: Sequence[float], **rest: Any) -> None:
    """Print medians, ranges, and the ratio of the medians with its range over the turns."""
    ratios = [a / b for a, b in zip(official, ours, strict=True)]
    figures = {
        "case": name,
        "official_s": median(official),
        "official_range_s": [min(official), max(official)],
        "ours_s": median(ours),
        "ours_range_s": [min(ours), max(ours)],
        "ratio": median(official) / median(ours),
        "ratio_range": [min(ratios), max(ratios)],
        "turns": len(ratios),
        **rest,
    }
    print_line(figures)


@torch.inference_mode()
def segment_together(engine: Engine, array: np.ndarray, queries: Tensor) -> list[np.ndarray]:
    """Masks bool (T, H, W) of objects with queries (N, Q, C) on frames (T, H, W, 3), by our tracking of all at once."""
    media = Media.from_array(array)
    return [MaskTrack(media.size_hw, tuple(rles)).masks for rles in track_together(engine, media, queries)]


def parse_cases(text: str) -> list[tuple[int, int]]:
    """Frames and objects of ``"1x8,8x3"``."""
    pairs = [part.split("x") for part in text.split(",")]
    if not all(len(pair) == 2 and all(x.isdigit() and int(x) for x in pair) for pair in pairs):
        sys.exit(f"--cases is {text!r}; write frames x objects, such as {CASES}")
    return [(int(frames), int(objects)) for frames, objects in pairs]


def check_sam(predictor: Any, sam: SamConfig, dtypes: Sequence[torch.dtype]) -> None:
    """Compare masks of two objects on two frames, on small squares, which the same weights take as well."""
    small, own = replace(sam, image_size=SMALL), predictor.image_size
    _set_size(predictor, SMALL)
    for dtype in dtypes:
        least = LEAST_FP32 if dtype == torch.float32 else LEAST_BF16
        engine = build_random_engine(small, dtype=dtype)
        fill_predictor(predictor, engine)
        array, queries = draw_moving_discs(2, SIZE_HW), draw_random_queries(engine, 2)
        frames = prepare_sam_frames(array, engine.processor.settings)
        theirs = [segment_officially(predictor, frames, SIZE_HW, query[None]) for query in queries]
        iou, area = compare_masks(theirs, segment_together(engine, array, queries)), float(np.mean(theirs))
        name = str(dtype).removeprefix("torch.")
        print_line({"case": f"masks at {SMALL} px in {name}", "mean_iou": iou, "area": area})
        if iou < least:
            sys.exit(f"in {name} the masks of both sides have a mean IoU of {iou:.3f}: this is not the same model")
    _set_size(predictor, own)


def _set_size(predictor: Any, size: int) -> None:
    """Let a predictor take squares of another size."""
    predictor.image_size, prompts = size, predictor.sam_prompt_encoder
    predictor.sam_image_embedding_size = size // predictor.backbone_stride
    prompts.input_image_size = size, size
    prompts.image_embedding_size = (predictor.sam_image_embedding_size,) * 2


def measure_sam(
    predictor: Any, engine: Engine, cases: Sequence[tuple[int, int]], turns: int, alone: int | None = None
) -> None:
    """Time the segmenter alone, cases of the same clip together.

    The official code takes one object after the other, so that three objects are the first three of eight there. Ours
    has its turn with that many objects right after the last of them.

    Args:
        alone: objects that the official code really takes; further ones count as much as the mean of these.
    """
    for frames in sorted({frames for frames, _ in cases}):
        counts = sorted({objects for other, objects in cases if other == frames})
        array, queries = draw_moving_discs(frames, SIZE_HW), draw_random_queries(engine, counts[-1])
        spent: dict[int, list[list[float]]] = {count: [[], []] for count in counts}
        for turn in range(turns):
            prepared, before = measure_time(partial(prepare_sam_frames, array, engine.processor.settings))
            theirs: list[np.ndarray] = []
            passes: list[float] = []
            for number, query in enumerate(queries, 1):
                if alone is None or number <= alone:
                    run = partial(segment_officially, predictor, prepared, SIZE_HW, query[None])
                    masks, seconds = measure_time(run)
                    theirs, passes = [*theirs, masks], [*passes, seconds]
                if number in counts:
                    ours, own = measure_time(partial(segment_together, engine, array, queries[:number]))
                    spent[number][0].append(before + number * sum(passes) / len(passes))
                    spent[number][1].append(own)
                    if turn + 1 == turns:
                        known: dict[str, Any] = {
                            "mean_iou": compare_masks(theirs, ours[: len(theirs)]),
                            "official_objects": len(passes),
                        }
                        summarize(f"SAM, {frames}x{number}", *spent[number], **known)


def measure_whole(predictor: Any, engine: Engine, cases: Sequence[tuple[int, int]], turns: int, count: int) -> None:
    """Time questions from pixels to masks, and questions that follow that for one object.

    Args:
        count: questions of a session.

    Raises:
        SystemExit: the two sides write different replies.
    """
    official = build_official(engine)
    for frames, objects in cases:
        array = draw_moving_discs(frames, SIZE_HW)
        questions = [("first", QUESTION, WORDS + objects)]
        if objects == 1:
            later = [("second, in words", NEXT_QUESTION, WORDS), ("third, with a mask", QUESTION, WORDS + 1)]
            questions += later[: count - 1]
        spent: dict[str, list[list[float]]] = {name: [[], []] for name, _, _ in questions}
        for turn in range(turns):
            with engine.open(array, num_frames=frames) as session:
                for name, question, most in questions:
                    sides = [
                        partial(ask_officially, official, predictor, engine, array, question, most),
                        partial(ask_ours, session, question, most),
                    ]
                    replies: dict[int, tuple[list[int], list[np.ndarray]]] = {}
                    for side in (0, 1) if turn % 2 == 0 else (1, 0):
                        replies[side], seconds = measure_time(sides[side])
                        spent[name][side].append(seconds)
                    (ids, masks), (own_ids, own_masks) = replies[0], replies[1]
                    case = f"whole, {frames}x{objects}, {name}"
                    if ids != own_ids:
                        sys.exit(f"{case}: the official reply is {ids} and ours {own_ids}")
                    if turn + 1 == turns:
                        figures: dict[str, Any] = {"tokens": len(ids), "masks": len(masks), "peak_mb": peak_memory_mb()}
                        summarize(case, *spent[name], mean_iou=compare_masks(masks, own_masks), **figures)


def main() -> None:
    """Compare, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a checkout or unpacked archive of sam2")
    parser.add_argument("--packages", type=Path, help="a site-packages folder with hydra-core, iopath and tqdm")
    parser.add_argument("--whole", action="store_true", help="the whole model at 3B instead of SAM alone")
    parser.add_argument("--cases", help=f"frames x objects; by default {CASES}, with --whole {WHOLE_CASES}")
    own = "bfloat16" if computes_in_bf16() else "float32"
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=own, help="type of both sides: %(default)s")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--layers", type=int, default=36, help="decoder layers of the whole model")
    parser.add_argument("--blocks", type=int, default=32, help="blocks of its vision tower")
    parser.add_argument("--sam-size", type=int, default=768, help="side of SAM's frames, pixels")
    parser.add_argument("--questions", type=int, default=3, help="questions of a session of the whole model, 1 to 3")
    parser.add_argument("--alone", type=int, help="objects that official SAM takes; more count as the mean of these")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sam = SamConfig(image_size=given.sam_size)
    cases = parse_cases(given.cases or (WHOLE_CASES if given.whole else CASES))
    predictor = build_predictor(given.folder, given.packages, sam)
    free = read_available_memory()
    needed = FREE * (2 if given.dtype == "float32" else 1)
    if given.whole and given.layers == 36 and free is not None and free < needed:
        sys.exit(f"{free / 1e9:.1f} GB are free, too little for the whole model; try fewer --layers")
    dtype = getattr(torch, given.dtype)
    check_sam(predictor, sam, list(dict.fromkeys([torch.float32, dtype])))
    engine = build_random_engine(sam, dtype=dtype)
    fill_predictor(predictor, engine)
    if given.whole:
        whole = build_whole(given.layers, given.blocks, engine)
        measure_whole(predictor, whole, cases, given.turns, given.questions)
    else:
        measure_sam(predictor, engine, cases, given.turns, given.alone)


if __name__ == "__main__":
    main()
