"""Measuring: the loop that is compared against gives the same masks, and every figure is there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tools.pair_official import WORDS, ask_officially, ask_ours, build_official, build_predictor, draw_weights
from unipixel.bench import (
    BenchReport,
    Ratio,
    attend_by_layers,
    compare_objects,
    compare_questions,
    run_bench,
    track_separately,
    track_together,
)
from unipixel.bench.memory import peak_memory_mb, track_video, write_video
from unipixel.bench.scene import QUESTION, Stopwatch, build_random_engine, draw_moving_discs, draw_random_queries
from unipixel.cli import app
from unipixel.engine.answer import STAGES
from unipixel.engine.engine import Engine
from unipixel.masks import iou_rles
from unipixel.media import Media
from unipixel.model.config import RELEASED_PIXEL
from unipixel.model.presets import TINY_SAM, build_config
from unipixel.model.weights import build_empty_model
from unipixel.processing import ImageSettings, Processor
from unipixel.processing.chat import SYSTEM
from unipixel.processing.tokenizer import build_tokenizer

SIZE_HW = (48, 64)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return build_random_engine(TINY_SAM)


@torch.no_grad()
def test_memory_attention_equals_the_forward_of_the_layers(engine: Engine) -> None:
    segmenter, generator = engine.model.segmenter, torch.Generator().manual_seed(1)
    cells = segmenter.config.grid**2
    embed = torch.randn(
        1, segmenter.config.hidden_size, segmenter.config.grid, segmenter.config.grid, generator=generator
    )
    memories = torch.randn(1, 3, cells, segmenter.config.memory_size, generator=generator)
    pointers = torch.randn(1, 4, segmenter.config.hidden_size, generator=generator)
    arguments = (embed, memories, [6, 1, 0], pointers, [3 / 7, 1 / 7, 2 / 7, 1.5])
    ours, theirs = segmenter.attend(*arguments), attend_by_layers(segmenter, *arguments)
    assert torch.allclose(ours, theirs, atol=1e-5)


@torch.no_grad()
def test_memory_attention_of_many_objects_equals_each_alone(engine: Engine) -> None:
    segmenter, generator = engine.model.segmenter, torch.Generator().manual_seed(2)
    cells = segmenter.config.grid**2
    embed = torch.randn(
        1, segmenter.config.hidden_size, segmenter.config.grid, segmenter.config.grid, generator=generator
    )
    memories = torch.randn(3, 2, cells, segmenter.config.memory_size, generator=generator)
    pointers = torch.randn(3, 2, segmenter.config.hidden_size, generator=generator)
    together = segmenter.attend(embed, memories, [6, 0], pointers, [1.0, 0.5])
    for i in range(3):
        alone = segmenter.attend(embed, memories[i : i + 1], [6, 0], pointers[i : i + 1], [1.0, 0.5])
        assert torch.allclose(together[i], alone[0], atol=1e-5)


@pytest.mark.parametrize("attention", ["layers", "ours"])
def test_encoding_once_gives_the_masks_of_encoding_again_for_every_object(engine: Engine, attention: str) -> None:
    # longer than the memory, so that frames drop out of it
    media = Media.from_array(draw_moving_discs(10, SIZE_HW))
    queries = draw_random_queries(engine, 2)
    together = track_together(engine, media, queries)
    for i in range(2):
        alone = track_separately(
            engine.model.segmenter,
            media,
            engine.processor.settings,
            queries[i : i + 1],
            attention,
        )
        for one, other in zip(alone, together[i], strict=True):
            assert one is not None and other is not None
            assert iou_rles(one, other) > 0.99


@pytest.mark.parametrize(("num_frames", "ways"), [(1, 1), (3, 2)])
def test_both_ways_of_tracking_objects_are_timed(engine: Engine, num_frames: int, ways: int) -> None:
    ratios = compare_objects(engine, num_frames, 2, 2.5, SIZE_HW, strict=ways == 2)
    assert [ratio.required for ratio in ratios] == [2.5, None][:ways]
    for ratio in ratios:
        assert ratio.agreement is not None and ratio.agreement > 0.99
        assert ratio.speedup == ratio.other.wall_s / ratio.ours.wall_s > 0
        assert ratio.to_json()["cpu_speedup"] == ratio.other.cpu_s / ratio.ours.cpu_s


def test_second_question_reads_and_encodes_nothing_again(engine: Engine) -> None:
    answers, _ = compare_questions(engine, 3, 5.0, SIZE_HW)
    first, second = (answer.timings for answer in answers)
    assert set(first) == set(STAGES)
    assert first.counts["sam_encode"] == 3
    assert second.counts.get("sam_encode", 0) == 0
    assert second["vision_tower"] == second["sam_encode"] == second["read"] == 0.0
    assert answers[1].objects[0].track.num_frames == 3
    assert answers[1].objects[0].id != answers[0].objects[0].id


def test_tracking_through_a_video_tells_its_peak_memory(tmp_path: Path) -> None:
    use = track_video(write_video(tmp_path / "clip.mp4", 12), quick=True)
    assert use["frames"] == 12
    assert use["peak_mb"] >= use["start_mb"] > 0


def test_moving_blobs_are_the_same_every_time_and_move() -> None:
    frames = draw_moving_discs(3, SIZE_HW)
    assert frames.shape == (3, *SIZE_HW, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames, draw_moving_discs(3, SIZE_HW))
    assert not np.array_equal(frames[0], frames[1])


def test_random_engine_is_the_same_every_time_in_the_dtype_asked_for() -> None:
    one, other = (
        build_random_engine(TINY_SAM, dtype=torch.bfloat16),
        build_random_engine(TINY_SAM, dtype=torch.bfloat16),
    )
    assert one.model.dtype == torch.bfloat16
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_spent_time_adds_up() -> None:
    total = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with total:
            sum(range(10000))
    assert 0 < total.cpu_s
    once = total.cpu_s, total.wall_s
    with total:
        sum(range(10000))
    assert total.cpu_s > once[0] and total.wall_s > once[1]


def test_peak_memory_never_falls() -> None:
    before = peak_memory_mb()
    assert before is not None
    grown = np.ones(10_000_000)
    after = peak_memory_mb()
    assert grown.sum() == 10_000_000 and after is not None and after >= before


def test_one_measurement_alone_makes_a_report_of_plain_values() -> None:
    told: list[str] = []
    report = run_bench(quick=True, only=("image",), dtype="fp32", progress=told.append)
    assert isinstance(report, BenchReport) and told
    assert [type(ratio) for ratio in report.ratios] == [Ratio] and not report.stages and report.memory_growth is None
    assert json.loads(json.dumps(report.to_json()))["ratios"][0]["name"] == "1 image, 3 objects"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"only": ("video",)}, "there is no measurement 'video'; choose from memory, image, clip, session, limits"),
        ({"dtype": "int8"}, "dtype is 'int8'; it must be 'fp32', 'bf16' or 'auto'"),
        ({"threads": 0}, "threads is 0; it must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_bench(**wrong)


def test_every_stage_stands_beside_its_limit_and_what_it_asks_of_the_host() -> None:
    limits = run_bench(quick=True, only=("limits",), dtype="fp32").limits
    assert limits is not None and min(limits["rates"].values()) > 0
    names = [row["stage"].partition(",")[0] for row in limits["stages"]]
    assert names == ["vision_tower", "prefill", "sam_encode", "track", "track", "decode"]
    for row in limits["stages"]:
        assert 0 < row["limit_s"] and row["share"] == row["limit_s"] / row["seconds"]
    eight, one = limits["stages"][4], limits["stages"][3]
    assert eight["limit_s"] > 4 * one["limit_s"]  # what grows with objects is counted
    counts = {row["what"]: row for row in limits["host_operations"]}
    assert list(counts) == ["token", "token, static step", "tracked frame, 1 object", "tracked frame, 8 objects"]
    assert counts["token, static step"]["waits"] == {} and counts["token"]["waits"] == {"tolist": 1}
    assert counts["token, static step"]["kernels"] < counts["token"]["kernels"]
    assert limits["resizing_difference"] == 0.0  # of a CPU from itself
    assert json.loads(json.dumps(limits)) == limits


def test_a_report_about_a_gpu_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(app, ["bench", "--gpu-report"])
    assert done.exit_code != 0
    assert "torch finds no CUDA device here" in str(done.exception) + done.output


def test_transformers_own_generate_writes_our_reply(tmp_path: Path) -> None:
    words = build_tokenizer([SYSTEM, "system user assistant", QUESTION, "Please segment them."])
    processor = Processor(words, ImageSettings(sam_size=TINY_SAM.image_size))
    language = {"hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {"depth": 3, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "fullatt_block_indexes": [1]}
    config = build_config(
        len(processor.tokenizer),
        processor.chat.ids,
        TINY_SAM,
        language=language | {"num_key_value_heads": 2, "max_position_embeddings": 2048},
        vision=vision | {"window_size": 112},
        pixel=RELEASED_PIXEL,
        tied=False,
        mrope_section=(4, 6, 6),
    )
    model = build_empty_model(config)
    draw_weights(model, processor, torch.bfloat16)
    engine, clip = Engine(model, processor), draw_moving_discs(4, (90, 120))
    written, _ = ask_officially(build_official(engine), None, engine, clip, QUESTION, WORDS)
    with engine.open(clip) as session:
        assert ask_ours(session, QUESTION, WORDS) == (written, [])
        assert ask_ours(session, QUESTION, WORDS + 2)[0] == [*written, *[config.seg_token_id] * 2]
    assert len(set(written)) == WORDS
    with pytest.raises(SystemExit, match="checkout of sam2"):
        build_predictor(tmp_path, None, TINY_SAM)
