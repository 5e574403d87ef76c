"""Every benchmark of the table: the truth fed back scores 100, saying nothing scores the defined floor.

The miniatures are used where there are any; the other sets are small trees and samples of the documented kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from worlds import held_out, media, read, record, square, write_clip, write_photos

from unipixel.data import DATASETS
from unipixel.data.readers.multiple_choice import TASKS
from unipixel.eval.benchmarks import BENCHMARKS, get_protocol, select_splits
from unipixel.eval.predictors import BlankPredictor, PerfectPredictor
from unipixel.eval.protocols import Predictor
from unipixel.eval.report import ReportSection, collect_sections, format_rows
from unipixel.eval.runner import BenchmarkRun, open_run, predict
from unipixel.sample import Query, Sample

TABLE = [(name, split) for name, benchmark in BENCHMARKS.items() for split in benchmark.splits]
CHECKED = {"CIDEr-D (no judge)"}
"""Figures without a highest value of their own: what is rare depends on the set."""
LIMIT = 2


def mvbench_tree(root: Path) -> Path:
    """One question per task over a folder of three frames."""
    for place, (task, (name, folder)) in enumerate(TASKS.items()):
        frames = root / "data" / "mvbench" / "video" / folder / "clip"
        frames.mkdir(parents=True, exist_ok=True)
        for t in range(1, 4):
            Image.fromarray(np.full((16, 20, 3), 40 * t, dtype=np.uint8)).save(frames / f"{t:05d}.jpg")
        row = {"video": "clip", "question": task, "candidates": ["x", "y", "z"], "answer": "xyz"[place % 3]}
        path = root / "data" / "mvbench" / "json" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([row]))
    return root


def videomme_records() -> list:
    def make(place: int) -> Callable[[], Sample]:
        query = Query(
            kind="choice",
            text="When?",
            answer="ABCD"[place],
            options=("now", "then", "soon", "never"),
            category=("short", "medium", "long")[place % 3],
        )
        return lambda: Sample(media=media(20), queries=(query,), source=f"videomme/test {place}")

    return [record(f"{place}", make(place), 20, "videomme") for place in range(4)]


def people() -> list:
    """RefCOCO+'s testA, which the miniature lacks."""
    query = Query(kind="query", text="left man", targets=(1,))
    track = square(2, 2, 1)
    sample = Sample(media=media(1), objects={1: track}, boxes={1: (2, 2, 10, 10)}, queries=(query,), source="people")
    return [record("p/0", lambda: sample, 1)]


def four_annotators() -> list:
    def make(number: int) -> Callable[[], Sample]:
        query = Query(kind="query", text=f"{number}", targets=(1,))
        track = square(2 + 12 * (number // 4), 4, hidden=(0, 5))
        return lambda: Sample(media=media(), objects={1: track}, queries=(query,), source=f"v/{number}")

    return [record(f"v/{number}", make(number)) for number in range(8)]


IN_MEMORY = {
    ("videomme", "test"): videomme_records,
    ("ref_davis17", "classic"): four_annotators,
    ("refcoco+", "testA"): people,
}


def photos_tree(root: Path) -> Path:
    """Three photos, two of them with a person."""
    write_photos(root / "data" / "photos", "coco_subset", held_out(3))
    return root


def davis_tree(root: Path) -> Path:
    """One clip."""
    write_clip(root / "data" / "davis_clips")
    return root


TREES = {"mvbench": mvbench_tree, "photos": photos_tree, "davis_clips": davis_tree}


@pytest.fixture
def open_one(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, str, str], BenchmarkRun]:
    """Opens a benchmark split for a predictor named as the model."""

    def open_it(name: str, split: str, model: str) -> BenchmarkRun:
        own = IN_MEMORY.get((name, split))
        if own is not None:
            protocol = get_protocol(name, split, "correct")
            return BenchmarkRun(name=name, split=split, protocol=protocol, records=own(), read=read, model=model)
        if name == "stickers":
            return open_run(name, split, None, model=model, limit=2)
        if name in TREES:
            return open_run(name, split, TREES[name](tmp_path / name), model=model)
        root = request.getfixturevalue("benchmarks_dir")
        # all of what is quick; of videos only the first
        many = BENCHMARKS[name].dataset in ("refcoco", "refcoco+", "refcocog", "reason_seg", "mvbench")
        return open_run(name, split, root, model=model, limit=None if many else LIMIT)

    return open_it


def evaluated(run: BenchmarkRun, predictor: Predictor, out: Path) -> ReportSection:
    predict(run, predictor, out)
    (one,) = collect_sections([out])
    assert not one.failures
    return one


def absent_share(run: BenchmarkRun) -> float:
    """Mean share of frames without the object: what empty masks get of J and F."""
    shares = []
    for unit in run.list_units():
        for question in run.protocol.build_questions(unit, run.read, 16):
            sample = question.sample
            seen = np.zeros(sample.media.num_frames, dtype=bool)
            for i in question.query.targets:
                if i is not None:
                    seen |= sample.objects[i].visible
            shares.append(1 - seen.mean())
    return 100 * float(np.mean(shares))


@pytest.mark.parametrize(("name", "split"), TABLE)
def test_the_truth_scores_full_marks_and_nothing_the_floor(
    name: str, split: str, open_one: Callable[[str, str, str], BenchmarkRun], tmp_path: Path
) -> None:
    run = open_one(name, split, "perfect")
    perfect = evaluated(run, PerfectPredictor(), tmp_path / "perfect")
    blank = evaluated(replace(run, model="blank"), BlankPredictor(), tmp_path / "blank")
    assert perfect.questions == blank.questions > 0
    if BENCHMARKS[name].splits[split].layout:
        assert not perfect.figures  # a server keeps the truth
        return
    own = [figure for figure in perfect.figures if " by " not in figure.name]  # and no trivial guess
    best = {figure.name: (figure.value, figure.best) for figure in own}
    floor = {figure.name: figure.value for figure in blank.figures if figure.name in best}
    if name == "stickers":
        spilt = {"IoU on the others"} & set(best)
        assert {key: value for key, (value, _) in best.items()} == dict.fromkeys(best, 100.0) | dict.fromkeys(
            spilt, 0.0
        )
        floors = {"not there": 50.0, "absent": 100.0}
        assert floor == {key: floors.get(key, 0.0) for key in best}
        return
    assert {key for key, (value, top) in best.items() if value != pytest.approx(top)} <= CHECKED, best
    assert floor == pytest.approx(expected_floor(name, split, run, floor), abs=1e-3)


def expected_floor(name: str, split: str, run: BenchmarkRun, figures: dict[str, float]) -> dict[str, float]:
    """What a predictor that says nothing gets: 0, but for frames on which there is nothing to find."""
    expected = dict.fromkeys(figures, 0.0)
    if split == "classic":
        return expected  # the first and last frame, on which the squares are hidden, do not count
    if set("JF") <= set(figures) and name not in ("pixelqa", "davis_clips"):
        expected |= {key: absent_share(run) for key in ("J", "F", "J&F")}
    if name == "groundmore":
        expected |= {key: figures[key] for key in figures if key.endswith(" J&F")}  # parts of the figures above
    if name == "revos":  # nothing is painted outside of the target, and the background is right
        expected |= {key: 100.0 for key in figures if key.split()[-1] == "R"}
        expected |= {key: figures[key] for key in figures if key.split()[-1] == "A"}
    return expected


def test_every_benchmark_names_a_dataset_and_splits_that_exist() -> None:
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.dataset in DATASETS, name
        assert set(benchmark.default) <= set(benchmark.splits)
        for split in benchmark.splits.values():
            assert split.data in DATASETS[benchmark.dataset].splits, name


def test_the_table_has_every_benchmark_of_the_paper() -> None:
    published = {
        name
        for name, benchmark in BENCHMARKS.items()
        if any(split.published or split.in_paper for split in benchmark.splits.values())
    }
    assert set(BENCHMARKS) - published == {"videomme", "photos", "davis_clips", "stickers"}
    assert BENCHMARKS["revos"].splits["valid"].published["J&F"][0] == 62.1
    assert BENCHMARKS["refcocog"].splits["test"].published["cIoU"][1] == 77.1


def test_names_stand_for_a_split_or_for_those_that_are_usual() -> None:
    assert select_splits("mevis") == [("mevis", "valid_u")]
    assert select_splits("mevis/valid") == [("mevis", "valid")]
    assert select_splits("refcoco+") == [("refcoco+", "val"), ("refcoco+", "testA"), ("refcoco+", "testB")]
    with pytest.raises(ValueError, match="no benchmark 'mevi'; there are revos, mevis"):
        select_splits("mevi")
    with pytest.raises(ValueError, match="mevis has no split 'test'; it has valid_u, valid"):
        select_splits("mevis/test")


def test_protocols_that_do_not_differ_share_their_predictions() -> None:
    assert get_protocol("revos", "valid", "original").original
    assert not get_protocol("ref_davis17", "classic", "original").original
    assert not get_protocol("stickers", "refer", "original").original
    with pytest.raises(ValueError, match="the protocol is 'new'; it must be 'correct' or 'original'"):
        get_protocol("revos", "valid", "new")


def test_published_figures_stand_beside_ours_with_the_difference(tmp_path: Path) -> None:
    run = BenchmarkRun(
        name="videomme",
        split="test",
        protocol=get_protocol("videomme", "test", "correct"),
        records=videomme_records(),
        read=read,
        model="m",
    )
    section = evaluated(run, PerfectPredictor(), tmp_path)
    assert format_rows(section)[0] == ("accuracy", "100.0", "", "", "", "", "4", "")
    assert [row[0] for row in format_rows(section)] == ["accuracy", "long", "medium", "short"]
