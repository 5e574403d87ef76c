"""Models whose blocks do not lie on the model's device."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from unipixel import Box, stickers
from unipixel.engine.answer import Answer
from unipixel.engine.engine import Engine, load
from unipixel.engine.machine import choose_places
from unipixel.errors import CheckpointError
from unipixel.model.placement import Places, list_parts, plan_places
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import build_empty_model, read_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scene() -> stickers.Scene:
    return stickers.generate_scene(stickers.EVAL_SEED, 3)


def ask(engine: Engine, scene: stickers.Scene) -> tuple[Answer, Answer]:
    with engine.open(scene.image) as session:
        first = session.ask("Segment every object.")
        second = session.ask("What is [1]?", prompts=[Box(10, 10, 90, 90, object_id=1)])
    return first, second


@pytest.mark.parametrize(
    ("device_map", "waiting"),
    [
        ({"language.layers": "disk"}, "language.layers."),
        ({"visual": "disk", "language.layers.1": "disk"}, ("visual.blocks.", "language.layers.1.")),
    ],
)
def test_blocks_read_from_their_files_answer_alike(
    scene: stickers.Scene,
    device_map: dict[str, str],
    waiting: str | tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = load("nano", device="cpu", dtype="fp32")
    with caplog.at_level(logging.WARNING):
        parted = load("nano", device="cpu", dtype="fp32", device_map=device_map)
    assert "in their files" in caplog.text
    for _ in range(2):  # the weights are let go after each use, and found again
        for one, other in zip(ask(whole, scene), ask(parted, scene), strict=True):
            assert one.text == other.text
            assert [x.label for x in one.objects] == [x.label for x in other.objects]
            assert all(np.array_equal(x.masks, y.masks) for x, y in zip(one.objects, other.objects, strict=True))
    meta = {name for name, value in parted.model.named_parameters() if value.is_meta}
    assert meta == {name for name, _ in whole.model.named_parameters() if name.startswith(waiting)}


def test_a_parted_model_is_not_saved(tmp_path: Path) -> None:
    engine = load("nano", device="cpu", device_map={"language.layers": "disk"})
    with pytest.raises(CheckpointError, match="wait outside its device"):
        engine.save_pretrained(tmp_path / "out")


@pytest.fixture(scope="module")
def empty() -> UniPixel:
    return build_empty_model(read_checkpoint("nano")[0])


def plan(empty: UniPixel, monkeypatch: pytest.MonkeyPatch, free: dict[int | str, float], main: str = "cpu") -> Places:
    monkeypatch.setattr("accelerate.utils.get_max_memory", lambda: free)
    return plan_places(empty, "auto", torch.device(main), torch.float32)


def measure(empty: UniPixel) -> tuple[dict[str, int], int]:
    blocks = {name: 4 * size for name, size in list_parts(empty).items()}
    rest = 4 * sum(one.numel() for one in empty.parameters()) - sum(blocks.values())
    return blocks, rest


def test_auto_keeps_on_the_device_what_fits(empty: UniPixel, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, rest = measure(empty)
    assert set(plan(empty, monkeypatch, {"cpu": 10**12}).values()) == {CPU}
    two = blocks["language.layers.0"] + blocks["language.layers.1"]
    places = plan(empty, monkeypatch, {"cpu": (rest + two) / 0.8 + 1000})
    assert [name for name, place in places.items() if place == CPU] == ["language.layers.0", "language.layers.1"]
    assert places["visual"] is None


def test_auto_fills_other_gpus_then_main_memory(empty: UniPixel, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, rest = measure(empty)
    layer = blocks["language.layers.0"]
    count = len(empty.language.layers)
    free = {0: (rest + layer) / 0.8 + 1000, 1: 2 * layer / 0.8 + 1000, "cpu": 10**12}
    places = plan(empty, monkeypatch, free, "cuda:0")
    by_layer = [str(places[f"language.layers.{number}"]) for number in range(count)]
    assert by_layer == ["cuda:0", "cuda:1", "cuda:1", *["cpu"] * (count - 3)]


def test_maps_name_parts_and_single_layers(empty: UniPixel) -> None:
    given = {"visual": "cuda:1", "language.layers": "cpu", "language.layers.0": "cuda:0"}
    places = plan_places(empty, given, torch.device("cuda:0"), torch.float32)
    assert str(places["visual"]) == "cuda:1"
    assert (str(places["language.layers.0"]), str(places["language.layers.1"])) == ("cuda:0", "cpu")


@pytest.mark.parametrize("key", ["segmenter", "language", "language.layers.99", "visual.blocks.0", "model"])
def test_names_that_are_no_parts_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="device_map names"):
        load("nano", device="cpu", device_map={key: "cpu"})


@pytest.mark.parametrize(
    ("device_map", "message"),
    [
        ("everywhere", "no device|cannot be used"),
        ("disk", "cannot lie on disk"),
        ({"": "disk"}, "cannot lie on disk"),
        ({"visual": "moon"}, "no device"),
        ({"visual": "cuda:7"}, "cannot be used here"),
    ],
)
def test_places_that_are_none_are_refused(device_map: str | dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("nano", device="cpu", device_map=device_map)


def test_rounded_weights_lie_in_one_place() -> None:
    with pytest.raises(ValueError, match="do not go together"):
        load("nano", device="cpu", dtype="int8", device_map={"visual": "disk"})


def test_one_device_for_all() -> None:
    assert choose_places("auto", "cpu") == (CPU, None)
    assert choose_places("auto", {"": "cpu"}) == (CPU, None)
    assert choose_places("cpu", None) == (CPU, None)
    assert choose_places("cpu", {"": "cpu", "visual": "disk"}) == (CPU, {"visual": "disk"})
