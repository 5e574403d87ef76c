"""Two processes with half of the batch each do what one does with the whole."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unipixel.model.weights import load_model

ROOT = Path(__file__).resolve().parents[2]
# Forks before anything is computed, so that torch is imported once.
RUNS = """
import os, sys
from dataclasses import replace
from pathlib import Path
from unipixel.train.recipe import Evaluation, Start
from unipixel.train.recipes import RECIPES
from unipixel.train.run import run

start, folder = sys.argv[1], Path(sys.argv[2])
recipe = replace(RECIPES["debug"](), start=Start(model=start), steps=3, batch_size=4, distinct=4,
                 evaluation=Evaluation(), log_steps=1, save_steps=2, learning_rate=1e-3)
for name, world, micro in (("whole", 1, 4), ("shared", 2, 1)):
    children = []
    for rank in range(world):
        child = os.fork()
        if not child:
            if world > 1:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
            run(replace(recipe, micro_batch=micro), folder / name, workers=0, report=("none",))
            os._exit(0)
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        sys.exit(f"{name} failed")
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_one_process_equals_two_that_accumulate_parts_of_the_batch(tiny: Path, tmp_path: Path) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUNS, str(tiny), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **address}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    whole, shared = losses(tmp_path / "whole"), losses(tmp_path / "shared")
    assert len(whole) == 3
    assert shared == pytest.approx(whole, rel=1e-4)
    one, other = (load_model(tmp_path / name / "final").state_dict() for name in ("whole", "shared"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=2e-4, msg=name)
