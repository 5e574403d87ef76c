"""Many media at once: the same answers as one by one, and errors that stay where they belong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unipixel.engine import machine
from unipixel.engine.answer import Answer
from unipixel.engine.engine import Engine, load
from unipixel.engine.machine import choose_device, choose_precision, read_dtype
from unipixel.errors import CheckpointError, MediaError, PromptError
from unipixel.model.quantization import name_precision
from unipixel.sample import Box, Mask, Point

Clips = Callable[..., np.ndarray]
SHORT: dict[str, Any] = {"max_new_tokens": 16}


def assert_same(a: Answer, b: Answer) -> None:
    assert (a.text, a.raw_text, a.tokens) == (b.text, b.raw_text, b.tokens)
    assert [o.id for o in a.objects] == [o.id for o in b.objects]
    for one, other in zip(a.objects, b.objects, strict=True):
        assert (one.masks == other.masks).mean() > 0.9999
        np.testing.assert_allclose(one.frame_scores, other.frame_scores, atol=1e-3)


def test_a_batch_answers_as_one_by_one(tiny_engine: Engine, clip: Clips) -> None:
    media = [clip(4), clip(1, 60, 200, seed=1)[0], clip(3, seed=2), clip(2, 130, 70, seed=3)]
    texts = ["Please segment the dog in this video.", "What is this?", "What colour is the ball and where is it?", None]
    mask = np.zeros((90, 120), bool)
    mask[3:40, 3:40] = True
    prompts: list[list[Any]] = [[], [Point(30, 30), Box(50, 5, 90, 50)], [Mask(mask, frame=1)], [Point(9, 9, frame=1)]]
    together = tiny_engine.ask_batch(media, texts, prompts=prompts, batch_size=3, **SHORT)
    assert len(together) == 4
    for source, text, given, answer in zip(media, texts, prompts, together, strict=True):
        assert_same(answer, tiny_engine.open(source).ask(text, prompts=given, **SHORT))
        assert_same(answer, tiny_engine.ask(source, text, prompts=given, **SHORT))
        assert answer.draw().shape[-3:] == (*answer.clip.media.size_hw, 3)


def test_one_text_is_for_all_of_a_batch(tiny_engine: Engine, clip: Clips) -> None:
    answers = tiny_engine.ask_batch((clip(1, seed=1), clip(1, seed=2)), "What is this?", **SHORT)
    assert [a.question for a in answers] == ["What is this?"] * 2
    assert tiny_engine.ask_batch([], "What is this?") == []


def test_a_bad_member_of_a_batch_leaves_the_others_as_they_are(
    tiny_engine: Engine, clip: Clips, tmp_path: Path
) -> None:
    good, text = clip(2), "Please segment the dog in this video."
    media = [good, tmp_path / "absent.mp4", good, good]
    prompts = [[], [], [Point(500, 0)], [Point(40, 30)]]
    results = tiny_engine.ask_batch(media, text, prompts=prompts, on_error="return", **SHORT)
    assert isinstance(results[1], MediaError)
    assert isinstance(results[2], PromptError)
    assert_same(results[0], tiny_engine.ask(good, text, **SHORT))
    assert_same(results[3], tiny_engine.ask(good, text, prompts=[Point(40, 30)], **SHORT))
    with pytest.raises(MediaError, match="does not exist"):
        tiny_engine.ask_batch(media, text, prompts=prompts, **SHORT)


def test_media_that_break_while_they_are_read_fail_in_their_place(
    tiny_engine: Engine, clip: Clips, tmp_path: Path
) -> None:
    from PIL import Image

    for t, frame in enumerate(clip(3)):
        Image.fromarray(frame).save(tmp_path / f"{t}.png")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    results = tiny_engine.ask_batch([tmp_path, clip(2)], "What is this?", on_error="return", **SHORT)
    assert isinstance(results[0], MediaError)
    assert isinstance(results[1], Answer)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"text": ["a"]}, "1 questions were given for 2 sources"),
        ({"text": "a", "prompts": [[]]}, "prompts of a batch must be a list of 2 lists"),
        ({"text": "a", "prompts": Point(1, 1)}, "prompts of a batch must be a list of 2 lists"),
        ({"text": "a", "on_error": "ignore"}, "on_error is 'ignore'"),
        ({"text": "a", "batch_size": 0}, "batch_size is 0"),
        ({"text": "a", "track": "some"}, "track is 'some'"),
        ({"text": "a", "num_frames": 0}, "num_frames is 0"),
    ],
)
def test_wrong_arguments_are_refused(tiny_engine: Engine, clip: Clips, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny_engine.ask_batch([clip(1), clip(1)], **arguments)


def test_a_batch_is_a_list_and_one_question_is_about_one_source(tiny_engine: Engine, clip: Clips) -> None:
    frames = clip(2)
    with pytest.raises(ValueError, match="ask_batch takes a list of sources, not a ndarray; ask takes a single one"):
        tiny_engine.ask_batch(frames, "What is this?")
    assert_same(
        tiny_engine.ask(list(frames), "What is this?", **SHORT), tiny_engine.ask(frames, "What is this?", **SHORT)
    )


def test_devices_and_dtypes_go_by_name() -> None:
    assert str(choose_device("cpu")) == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="device 'abacus' cannot be used here"):
        choose_device("abacus")
    cpu = choose_device("cpu")
    assert choose_precision(None, "nano", cpu) == (torch.float32, None)
    assert choose_precision("bfloat16", "nano", cpu) == choose_precision(torch.bfloat16, "nano", cpu)
    assert choose_precision("bf16", "nano", cpu) == (torch.bfloat16, None)
    assert choose_precision("int8", "nano", cpu) == (torch.float32, 8)
    for dtype in ("int8", "int64", "half of it"):
        with pytest.raises(ValueError, match=f"dtype is '{dtype}'"):
            read_dtype(dtype)
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        choose_precision("int8", "nano", cpu, one_type=True)


WITHOUT = {"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False, "amx_int8": True}


@pytest.mark.parametrize(
    ("capabilities", "free", "large", "expected", "words"),
    [
        (WITHOUT, 1 << 40, True, "float32", "computes in bfloat16 slowly"),
        ({}, None, True, "float32", "computes in bfloat16 slowly"),
        (WITHOUT, 1000, True, "bf16-weights", "held in bfloat16 and multiplied in float32"),
        ({}, 1000, True, "bf16-weights", "held in bfloat16 and multiplied in float32"),
        (WITHOUT | {"avx512_bf16": True}, 1 << 40, True, "bfloat16", "which this machine computes in"),
        (WITHOUT | {"amx_bf16": True}, 1 << 40, True, "bfloat16", "which this machine computes in"),
        (WITHOUT | {"avx512_bf16": True, "amx_bf16": True}, 1 << 40, False, "float32", ""),
    ],
)
def test_a_large_model_is_loaded_in_the_type_in_which_the_processor_computes(
    capabilities: dict[str, bool],
    free: int | None,
    large: bool,
    expected: str,
    words: str,
    tiny_engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With capabilities, free memory, and the size from which a model is large, as they are given."""
    tiny_engine.save_pretrained(tmp_path)
    if large:
        monkeypatch.setattr(machine, "LARGE_MODEL", 1)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(machine, "read_available_memory", lambda: free)
    loaded = load(tmp_path, device="cpu")
    assert name_precision(loaded.model) == expected
    assert (words in caplog.text) if words else not caplog.text
    in_between = torch.bfloat16 if expected == "bfloat16" else torch.float32
    assert load(tmp_path, device="cpu", dtype="int8").model.dtype == in_between
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # a torch that cannot tell
    assert not machine.computes_in_bf16()


@pytest.mark.parametrize(
    ("free", "expected", "words"),
    [
        (1 << 40, "float32", "computes in bfloat16 slowly"),
        (None, "float32", "computes in bfloat16 slowly"),
        (1000, "bfloat16", "slowly on this processor, because float32 takes"),
    ],
)
def test_a_large_model_that_is_spread_has_one_type_that_fits(
    free: int | None, expected: str, words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: WITHOUT)
    monkeypatch.setattr(machine, "read_available_memory", lambda: free)
    assert choose_precision(None, "large", choose_device("cpu"), 1 << 32, one_type=True) == (
        getattr(torch, expected),
        None,
    )
    assert words in caplog.text


def test_bfloat16_is_warned_of_where_it_would_be_emulated(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cpu = choose_device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: WITHOUT)
    assert choose_precision("float32", "large", cpu, 1 << 32) == (torch.float32, None)
    assert choose_precision("bf16", "small", cpu, 1000) == (torch.bfloat16, None)
    assert not caplog.text
    assert choose_precision("bf16", "large", cpu, 1 << 32) == (torch.bfloat16, None)
    slowly = "large: this processor computes in bfloat16 very slowly"
    assert f"{slowly}; 'bf16-weights' is many times as fast" in caplog.text
    assert choose_precision("bf16", "large", cpu, 1 << 32, one_type=True) == (torch.bfloat16, None)
    assert f"{slowly}; 'float32' is many times as fast" in caplog.text


def test_a_checkpoint_folder_becomes_an_engine(tiny_engine: Engine, clip: Clips, tmp_path: Path) -> None:
    from unipixel.model.weights import save_model

    save_model(tiny_engine.model, tmp_path)
    tiny_engine.processor.save(tmp_path)
    loaded = load(tmp_path, device="cpu")
    question = "Please segment the dog in this video."
    assert_same(loaded.ask(clip(2), question, **SHORT), tiny_engine.ask(clip(2), question, **SHORT))
    with pytest.raises(CheckpointError, match="is not a folder"):
        load("no such checkpoint", device="cpu")


def test_everything_runs_in_half_precision(tiny_engine: Engine, clip: Clips, tmp_path: Path) -> None:
    from unipixel.model.weights import save_model

    save_model(tiny_engine.model, tmp_path)
    tiny_engine.processor.save(tmp_path)
    with load(tmp_path, device="cpu", dtype="bfloat16").open(clip(3)) as session:
        answer = session.ask("What is this?", prompts=[Point(30, 30), Box(3, 3, 40, 40, 1)], start="best", **SHORT)
        assert all(one.masks.shape == (3, 90, 120) for one in answer.objects)
        session.correct(1, [Point(5, 5, frame=2)])
        session.ask("What is [1]?", **SHORT)
        session.save(tmp_path / "s.zip")
    assert load(tmp_path, device="cpu").open_session(tmp_path / "s.zip").objects.keys() >= {1, 2}
