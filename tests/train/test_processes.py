"""Two processes with half of the batch each do what one does with the whole, however they share the model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from unipixel.model.weights import load_model
from unipixel.train.arguments import build_arguments
from unipixel.train.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]
# Forks before anything is computed, so that torch is imported once.
RUNS = """
import os, shutil, sys
from dataclasses import replace
from pathlib import Path
from unipixel.train.recipe import Start, ValidationSettings
from unipixel.train.recipes import RECIPES
from unipixel.train.run import run

start, folder, ways = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
recipe = replace(RECIPES["debug"](), start=Start(model=start), steps=3, batch_size=4, distinct=4,
                 evaluation=ValidationSettings(), log_steps=1, save_steps=2, learning_rate=1e-3)

def shared(place, world, parallel):
    children = []
    for rank in range(world):
        child = os.fork()
        if not child:
            if world > 1:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
            made = replace(recipe, micro_batch=4 if world == 1 else 1)
            run(made, place, workers=0, report=("none",), parallel=parallel)
            os._exit(0)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        sys.exit(f"{place.name} failed")

for way in ways:
    shared(folder / way, 1 if way == "whole" else 2, "ddp" if way == "whole" else way)
    if way not in ("whole", "ddp"):
        again = folder / f"{way}-again"
        shutil.copytree(folder / way, again)
        for gone in ("checkpoint-3", "final"):
            shutil.rmtree(again / gone)
        (again / "log.jsonl").unlink()
        shared(again, 2, way)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def started(tiny: Path, folder: Path, *ways: str) -> None:
    """Runs in ``folder``, by the ways to share them; all but the plainest are also taken up from their checkpoint."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUNS, str(tiny), str(folder), *ways]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **address}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def check_equal(one: Path, other: Path) -> None:
    """The same parameters, in the official layout."""
    first, second = (load_model(folder / "final").state_dict() for folder in (one, other))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=2e-4, msg=name)


@pytest.fixture(scope="module")
def runs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    started(tiny, folder, "whole", "ddp", "fsdp")
    return folder


def test_one_process_equals_two_that_accumulate_parts_of_the_batch(runs: Path) -> None:
    whole = losses(runs / "whole")
    assert len(whole) == 3
    assert losses(runs / "ddp") == pytest.approx(whole, rel=1e-4)
    check_equal(runs / "whole", runs / "ddp")


def test_shards_give_what_whole_copies_give_and_are_taken_up_exactly(runs: Path) -> None:
    assert losses(runs / "fsdp") == pytest.approx(losses(runs / "ddp"), rel=1e-4)
    check_equal(runs / "ddp", runs / "fsdp")
    assert losses(runs / "fsdp-again") == losses(runs / "fsdp")[2:]
    # written only where parameters really lie in shards
    assert (runs / "fsdp/checkpoint-2/pytorch_model_fsdp.bin").is_file()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="the package deepspeed is not installed")
@pytest.mark.parametrize("way", ["zero2", "zero3"])
def test_zero_gives_what_whole_copies_give_and_is_taken_up_exactly(
    way: str, runs: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    started(tiny, tmp_path, way)
    assert losses(tmp_path / way) == pytest.approx(losses(runs / "ddp"), rel=1e-4)
    check_equal(runs / "ddp", tmp_path / way)
    assert losses(tmp_path / f"{way}-again") == losses(tmp_path / way)[2:]


@pytest.mark.parametrize("way", ["fsdp", "zero2"])
def test_muon_is_refused_where_matrices_are_cut_up(way: str, tmp_path: Path) -> None:
    recipe = replace(RECIPES["debug"](), muon=2.0)
    with pytest.raises(ValueError, match="Muon needs whole"):
        build_arguments(recipe, tmp_path, parallel=way)
