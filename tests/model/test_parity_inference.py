"""The released model's arithmetic: ours equals the original's on every inference fixture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from parity import Case, batch_of, cases, closeness

from unipixel.model.segmenter import MaskPrediction, Segmenter
from unipixel.model.tracker import Cohort, Tracker
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import load_model

LM, SAM = 1e-4, 1e-3  # absolute tolerances that the fixtures' README suggests
Find = Callable[[str], Path]


@pytest.fixture(scope="module")
def model(parity_file: Find) -> UniPixel:
    return load_model(parity_file("model.safetensors").parent).eval()


def embeds_and_positions(model: UniPixel, given: Case, wanted: Case, label: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Everything up to the decoder, checked on the way."""
    check, batch = closeness(label), batch_of(given)
    real = given["attention_mask"].bool()
    videos = images = ref = mem = None
    if batch["pixel_values"] is not None:
        videos = model.encode_vision(batch["pixel_values"], batch["grid_thw"])
    if "pixel_values" in given:
        images = model.encode_vision(given["pixel_values"], given["image_grid_thw"])
    if (only := videos or images) is not None and "vision_merged" in wanted:
        check("vision_merged", only.merged, wanted["vision_merged"], LM)
        check("vision_pre_mlp", only.pre_merge, wanted["vision_pre_mlp_window_order"], LM)
    if "point_coords" in batch:
        ref = model.encode_points(
            batch["point_coords"], batch["point_labels"], batch["point_frames"], batch["point_num_frames"]
        )
        check("ref_emb", ref, wanted["ref_emb"], LM)
    if "region_masks" in batch:
        check(
            "mem_pooled",
            model.region_pool.pool(videos.pre_merge, videos.grid_thw, batch["region_masks"]),
            wanted["mem_pooled"],
            LM,
        )
        mem = model.pool_regions(videos, batch["region_masks"])
        check("mem_emb", mem, wanted["mem_emb"], LM)
    embeds = model.embed(given["input_ids"], videos and videos.merged, ref, mem, images and images.merged)
    if "inputs_embeds" in wanted:
        check("inputs_embeds", embeds[real], wanted["inputs_embeds"][real], LM)
    positions, following = model.compute_rope_index(
        given["input_ids"], real, batch["grid_thw"], batch["second_per_grid"], given.get("image_grid_thw")
    )
    if "position_ids" in wanted:
        assert torch.equal(positions[:, real], wanted["position_ids"][:, real]), f"{label}: mRoPE positions differ"
    delta = following - given["input_ids"].shape[1]  # the original counts padding in
    assert torch.equal(delta[:, None], wanted["rope_deltas"]), f"{label}: rope deltas differ"
    return embeds, positions


def check_logits(label: str, model: UniPixel, hidden: torch.Tensor, real: torch.Tensor, wanted: Case) -> None:
    """Logits at the positions that the fixture keeps."""
    at = wanted.get("logits_positions", torch.arange(hidden.shape[1]))
    closeness(label)("logits", model.compute_logits(hidden[:, at])[real[:, at]], wanted["logits"][real[:, at]], LM)


@pytest.mark.parametrize("file", ["text_video", "refer_points", "refer_masks"])
def test_text_and_vision_equal_the_original(model: UniPixel, parity_file: Find, file: str) -> None:
    with torch.inference_mode():
        for name, given, wanted in cases(parity_file(f"{file}.safetensors")):
            label, real = f"{file}/{name}", given["attention_mask"].bool()
            embeds, positions = embeds_and_positions(model, given, wanted, label)
            hidden = model.decode(embeds, positions, None if real.all() else real)
            closeness(label)("hidden_pre_norm", hidden[real], wanted["hidden_pre_norm"][real], LM)
            check_logits(label, model, hidden, real, wanted)


def test_a_tied_head_equals_the_original(parity_file: Find, tmp_path: Path) -> None:
    source, wanted = parity_file("config_tied.json").parent, parity_file("text_video_tied.safetensors")
    from safetensors.torch import load_file, save_file

    weights = load_file(source / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    for theirs, ours in (("config_tied.json", "config.json"), ("sam2_config.json", "sam2_config.json")):
        (tmp_path / ours).write_bytes((source / theirs).read_bytes())
    tied = load_model(tmp_path).eval()
    inputs = {name: given for name, given, _ in cases(parity_file("text_video.safetensors"))}
    with torch.inference_mode():
        for name, _, expected in cases(wanted):
            given = inputs[name]
            real = given["attention_mask"].bool()
            hidden = tied(**batch_of(given) | {"sam_frames": None}).hidden
            closeness(name)("hidden_pre_norm", hidden[real], expected["hidden_pre_norm"][real], LM)
            check_logits(name, tied, hidden, real, expected)


def num_frames(given: Case) -> int:
    """Frames of the clip that was tracked; the fixture may keep the first of them alone."""
    return int(given.get("num_frames", torch.tensor(len(given["frames.0"]))))


def check_masks(label: str, segmenter: Segmenter, steps: list[MaskPrediction], wanted: Case) -> None:
    """Compare what was decoded on all frames, objects first, frames second."""
    check = closeness(label)
    check("low_res_masks", torch.cat([s.low_res_masks for s in steps], 1), wanted["low_res_masks"], SAM)
    for field, key in (
        ("multimask_ious", "ious"),
        ("object_score_logits", "obj_score_logits"),
        ("object_pointer", "obj_ptr"),
    ):
        check(key, torch.stack([getattr(s, field) for s in steps], 1), wanted[key], SAM)
    if "multimask_low_res_raw" in wanted:
        kept = wanted.get("video_res_frames", torch.arange(len(steps))).tolist()
        raw = torch.stack([steps[t].multimask_logits for t in kept], 1)
        check("multimask_low_res_raw", raw, wanted["multimask_low_res_raw"], SAM)


def at_source_size(steps: list[MaskPrediction], given: Case, wanted: Case) -> torch.Tensor:
    """(N, T, H, W) logits on the frames that the fixture keeps."""
    kept = wanted.get("video_res_frames", torch.arange(len(steps))).tolist()
    size = tuple(given["frame_size.0"].tolist())
    return torch.cat([F.interpolate(steps[t].low_res_masks, size=size, mode="bilinear") for t in kept], 1)


@pytest.mark.parametrize("file", ["segment_image", "segment_video", "segment_video_long"])
def test_objects_are_segmented_and_tracked_as_in_the_original(model: UniPixel, parity_file: Find, file: str) -> None:
    with torch.inference_mode():
        for name, given, wanted in cases(parity_file(f"{file}.safetensors")):
            label, check = f"{file}/{name}", closeness(f"{file}/{name}")
            hidden = model(**batch_of(given) | {"sam_frames": None}).hidden
            check("hidden_pre_norm", hidden, wanted["hidden_pre_norm"], LM)
            check("last logits", model.compute_logits(hidden[:, -1]), wanted["last_position_logits"], LM)
            queries = model.compute_seg_tokens(hidden[0, wanted["seg_positions"]])
            check("seg_tokens", queries, wanted["seg_tokens"], LM)
            features = model.segmenter.encode(given["frames.0"])
            for ours, theirs in (("high_res_0", "fpn0"), ("high_res_1", "fpn1"), ("embed", "fpn2")):
                expected = wanted[f"backbone_{theirs}"]
                check(theirs, getattr(features, ours)[: len(expected)], expected, SAM)
            tracker = Tracker(model.segmenter, num_frames(given))
            steps = [tracker.add_prompts(features[:1], list(range(len(queries))), queries)]
            for t in range(1, len(features)):
                following = tracker.step(features[t : t + 1])
                assert following is not None
                steps.append(following)
            check_masks(label, model.segmenter, steps, wanted)
            check("video_res_mask_logits", at_source_size(steps, given, wanted), wanted["video_res_mask_logits"], SAM)


@pytest.mark.parametrize("file", ["segment_image", "segment_video", "segment_video_long"])
def test_memories_and_conditioned_features_equal_the_original(model: UniPixel, parity_file: Find, file: str) -> None:
    segmenter = model.segmenter
    with torch.inference_mode():
        for name, given, wanted in cases(parity_file(f"{file}.safetensors")):
            check = closeness(f"{file}/{name}")
            features = segmenter.encode(given["frames.0"])
            first = segmenter.add_no_memory(features[:1])
            decoded = segmenter.decode(first, features[:1], wanted["seg_tokens"])
            cohort = Cohort(segmenter, num_frames(given))
            cohort.begin(features[:1], decoded)
            steps, conditioned = [decoded], [first.expand(len(decoded.low_res_masks), -1, -1, -1)]
            for t in range(1, len(features)):
                conditioned.append(cohort.condition(features[t : t + 1]))
                steps.append(cohort.step(features[t : t + 1]))
            kept = wanted.get("video_res_frames", torch.arange(len(steps))).tolist()
            check("pix_feat", torch.stack([conditioned[t] for t in kept], 1), wanted["pix_feat_with_mem"], SAM)
            memories = [
                segmenter.encode_memory(features[t : t + 1].embed, s.low_res_masks, s.object_score_logits)
                for t, s in enumerate(steps)
            ]
            grid = torch.stack(memories, 1).transpose(2, 3).unflatten(3, wanted["maskmem_features"].shape[-2:])
            check("maskmem_features", grid, wanted["maskmem_features"], SAM)


def test_frames_prompted_one_by_one_equal_the_originals_batch_mode(model: UniPixel, parity_file: Find) -> None:
    segmenter = model.segmenter
    with torch.inference_mode():
        for name, given, wanted in cases(parity_file("segment_batch_mode.safetensors")):
            features = segmenter.encode(given["frames.0"])
            frames = [features[t : t + 1] for t in range(len(features))]
            steps = [segmenter.decode(segmenter.add_no_memory(f), f, wanted["seg_tokens"]) for f in frames]
            label = f"segment_batch_mode/{name}"
            check_masks(label, segmenter, steps, wanted)
            logits = at_source_size(steps, given, wanted)
            closeness(label)("video_res_mask_logits", logits, wanted["video_res_mask_logits"], SAM)
