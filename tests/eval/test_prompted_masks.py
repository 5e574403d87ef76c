"""Photos and real clips: which regions are asked about, and what is scored."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from worlds import expressions, held_out, read, write_clip, write_photos

from unipixel.data import open_index
from unipixel.data import read as read_record
from unipixel.data.readers.photos import SETS
from unipixel.eval.benchmarks import BENCHMARKS
from unipixel.eval.predictors import BlankPredictor, PerfectPredictor
from unipixel.eval.protocols import BenchmarkProtocol, Prediction, Predictor, Question
from unipixel.eval.runner import open_run, predict

TOOL = Path(__file__).parents[2] / "tools" / "eval_photos.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("eval_photos", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    return module


def get_protocol(name: str, split: str) -> BenchmarkProtocol:
    return BENCHMARKS[name].splits[split].protocol


def measure(name: str, split: str, root: Path, predictor: Predictor) -> tuple[dict[str, float], int]:
    """Figures by name, those of the trivial guess too, and the number of questions."""
    run = open_run(name, split, root)
    lines = predict(run, predictor, None).values()
    assert all(line.is_answered for line in lines)
    figures = run.protocol.summarize([one for line in lines for one in line.measures])
    values = {one.name: one.value for one in figures}
    trivial = [one.baseline for one in figures if one.baseline is not None]
    return values | ({"trivial": trivial[0]} if trivial else {}), len(lines)


def test_added_sets_change_no_question_about_the_first_ones(tmp_path: Path) -> None:
    protocol = get_protocol("photos", "box")
    write_photos(tmp_path, "coco_subset", held_out(6))
    before = protocol.group_records(open_index("photos", tmp_path, "val"))
    for name in SETS[4:]:
        write_photos(tmp_path, name, held_out(8)[6:])
    after = protocol.group_records(open_index("photos", tmp_path, "val"))
    assert [unit.id for unit in before] == [unit.id for unit in after[:6]]
    assert len({unit.id.rpartition("/")[2] for unit in before}) > 1
    assert len(after) == 6 + 2 * len(SETS[4:])


def test_the_truth_scores_full_marks_on_photos_and_nothing_scores_none(tmp_path: Path) -> None:
    write_photos(tmp_path, "coco_subset", held_out(5))
    for split, name, count in (("box", "box IoU", 5), ("point", "point IoU", 5), ("person", "mIoU", 3)):
        perfect, asked = measure("photos", split, tmp_path, PerfectPredictor())
        blank, _ = measure("photos", split, tmp_path, BlankPredictor())
        assert (perfect[name], blank[name], asked) == (100.0, 0.0, count)
    assert measure("photos", "box", tmp_path, BlankPredictor())[0]["trivial"] == 100.0  # the regions are boxes
    assert 0 < measure("photos", "point", tmp_path, BlankPredictor())[0]["trivial"] < 100


def test_clips_are_scored_from_the_frame_behind_the_given_mask(tmp_path: Path, tool: ModuleType) -> None:
    name = write_clip(tmp_path)
    perfect, _ = measure("davis_clips", "given", tmp_path, PerfectPredictor())
    assert perfect == {"J&F": 100.0, "trivial": pytest.approx(200 / 3)}
    assert measure("davis_clips", "text", tmp_path, PerfectPredictor())[0]["J&F"] == 100.0
    (record,) = open_index("davis_clips", tmp_path, "val")
    asked: list[Question] = []
    for most, frames in ((0, 4), (3, 3)):
        (unit,) = get_protocol("davis_clips", "given").group_records([record])
        (question,) = get_protocol("davis_clips", "given").build_questions(
            unit, lambda one, most=most: tool.read_frames(one, most), 16
        )
        assert question.sample.media.num_frames == frames and unit.id == name
        asked.append(question)
    assert get_protocol("davis_clips", "given").score(asked[1], Prediction())["trivial"] == 1.0
    (question,) = get_protocol("davis_clips", "text").build_questions(unit, read_record, 16)
    assert question.text == "Please segment the box in this video."


def test_the_tool_takes_the_first_units_or_as_many_evenly_from_all(tool: ModuleType) -> None:
    def choose(count: int, spread: bool) -> list[str]:
        run = tool.ChosenRun(
            name="mevis", split="valid_u", protocol=get_protocol("mevis", "valid_u"), records=expressions(50),
            read=read, model="m", count=count, spread=spread,
        )  # fmt: skip
        return [unit.id for unit in run.list_units()]

    everything = [f"v{v}/{e}" for v in range(50) for e in range(2)]
    assert choose(4, False) == everything[:4]
    assert choose(4, True) == [everything[n] for n in (0, 33, 66, 99)]
    assert choose(200, True) == everything
