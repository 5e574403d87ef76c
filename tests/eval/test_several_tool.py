"""The tool that measures referring of several things: what it asks, and how it counts."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from unipixel.engine.request_parser import split_request

PATH = Path(__file__).resolve().parents[2] / "tools" / "eval_several.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = spec_from_file_location("eval_several", PATH)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    import sys

    sys.modules["eval_several"] = module
    spec.loader.exec_module(module)
    return module


def bar(start: int, stop: int) -> np.ndarray:
    mask = np.zeros((1, 4, 12), dtype=bool)
    mask[:, :, start:stop] = True
    return mask


def test_a_thing_is_found_once_by_the_best_of_its_masks(tool: ModuleType) -> None:
    truth = np.stack([bar(0, 4), bar(6, 10)])
    assert tool.matches([bar(0, 4), bar(6, 9)], truth) == 2
    assert tool.matches([bar(0, 4), bar(0, 4), bar(0, 3)], truth) == 1
    assert tool.matches([bar(3, 7)], truth) == 0
    assert tool.matches([bar(0, 2), bar(0, 4)], truth) == 1  # 2 of 4 columns are just enough, but the other is better
    assert tool.matches([bar(0, 2)], truth) == 1
    assert tool.matches([], truth) == 0


def test_what_is_asked_is_taken_apart_into_the_things_that_are_wanted(tool: ModuleType) -> None:
    for moving in (False, True):
        streams = {kind: make(moving) for kind, make in tool.KINDS.items()}
        for _ in range(5):
            request = next(streams["named one by one"])
            assert request.world.is_video is moving and request.world.is_held_out
            assert len(split_request(request.text)) == len(request.truth) >= 2
            request = next(streams["all of a kind"])
            assert len(split_request(request.text)) == 1 < len(request.truth) <= split_request(request.text)[0][1]
