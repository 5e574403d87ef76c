"""The built-in world as a benchmark: its questions stay the same, and runs are stopped, divided and scored again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from worlds import Counting

from unipixel.data import read
from unipixel.errors import PromptError, UnipixelError
from unipixel.eval.predictors import BlankPredictor, PerfectPredictor
from unipixel.eval.protocols import Prediction, Question
from unipixel.eval.report import ReportSection, collect_sections, render_markdown
from unipixel.eval.runner import BenchmarkRun, predict, rescore
from unipixel.eval.stickers import STICKER_TASKS
from unipixel.stickers import EVAL_SEED, WORLDS


def open_stickers(name: str, count: int = 5, world: str = "hard", **options: Any) -> BenchmarkRun:
    protocol = replace(STICKER_TASKS[name], settings=WORLDS[world], count=count)
    records = protocol.read_records("stickers", None, "val")
    return BenchmarkRun(
        name="stickers", split=name, protocol=protocol, records=records, read=read, model="m", **options
    )


def ask(run: BenchmarkRun) -> list[tuple[Any, ...]]:
    """Everything that a predictor gets, of every question."""
    questions = [q for unit in run.list_units() for q in run.protocol.build_questions(unit, read, 16)]
    return [
        (q.text, q.sample.media.frame(0).tobytes(), [repr(p)[:200] for p in q.prompts], q.query.answer, q.query.targets)
        for q in questions
    ]


def text(sections: list[ReportSection]) -> str:
    return render_markdown(sections) + json.dumps([one.to_json() for one in sections])


@pytest.mark.parametrize("name", STICKER_TASKS)
def test_more_questions_begin_with_the_same_ones(name: str) -> None:
    few, many = ask(open_stickers(name, 2)), ask(open_stickers(name, 3))
    assert len(few) == 2 * len(STICKER_TASKS[name].seeds) and many[: len(few)] == few
    ids = [record.id for record in open_stickers(name, 3).records]
    assert len(set(ids)) == len(ids) and all(int(i.split("/")[0]) >= EVAL_SEED for i in ids)
    protocol = open_stickers(name, 3).protocol
    assert [record.id for record in protocol.read_records("stickers", None, "val", 2)] == ids[: len(few)]


def test_every_task_has_scenes_of_its_own() -> None:
    seeds = [seed for task in STICKER_TASKS.values() for seed in task.seeds]
    assert sorted(seeds) == list(range(9))


@pytest.mark.parametrize("name", ["absent", "point"])
def test_a_run_that_was_stopped_or_divided_reports_what_the_whole_one_does(name: str, tmp_path: Path) -> None:
    predict(open_stickers(name, 20), PerfectPredictor(), tmp_path / "whole")
    whole = text(collect_sections([tmp_path / "whole"]))
    stopped = Counting(stop_at=18 * len(STICKER_TASKS[name].seeds))
    with pytest.raises(KeyboardInterrupt):
        predict(open_stickers(name, 20), stopped, tmp_path / "stopped")
    again = Counting()
    predict(open_stickers(name, 20), again, tmp_path / "stopped")
    assert again.asked == 4 * len(STICKER_TASKS[name].seeds)  # the first batch was kept
    assert text(collect_sections([tmp_path / "stopped"])) == whole
    for place in (0, 1):
        predict(open_stickers(name, 20, shard=(place, 2)), PerfectPredictor(), tmp_path / f"{place}")
    sections = collect_sections([tmp_path / "0", tmp_path / "1"])
    assert text(sections) == whole
    renewed = rescore(open_stickers(name, 20), sections[0].lines, 16)
    assert [line.measures for line in renewed] == [line.measures for line in sections[0].lines]


class Failing(PerfectPredictor):
    """Answers everything but the questions at some places of a batch."""

    def __init__(self, *places: int) -> None:
        self._places = places

    def answer_batch(self, questions: Sequence[Question]) -> list[Prediction | UnipixelError]:
        replies = super().answer_batch(questions)
        return [PromptError("no") if n in self._places else reply for n, reply in enumerate(replies)]


def test_a_question_that_fails_in_a_batch_fails_its_unit_alone_and_is_wrong() -> None:
    run = open_stickers("absent", 4)
    lines = predict(run, Failing(2), None).values()  # the absent thing of the second unit
    assert [line.error for line in lines] == ["", "PromptError: no", "", ""]
    figures = {one.name: one.value for one in run.protocol.summarize([m for line in lines for m in line.measures])}
    assert figures == {"not there": 75.0, "absent": 75.0, "present": 75.0}
    run = open_stickers("box", 4)
    lines = predict(run, Failing(0), None).values()
    (figure,) = run.protocol.summarize([m for line in lines for m in line.measures])
    assert figure.value == 75.0 and figure.baseline is not None and 0 < figure.baseline < 100


@pytest.mark.parametrize("name", STICKER_TASKS)
def test_the_trivial_guess_does_not_depend_on_the_predictor(name: str) -> None:
    baselines = []
    for predictor in (PerfectPredictor(), BlankPredictor()):
        run = open_stickers(name, 3)
        lines = predict(run, predictor, None).values()
        first, *_ = run.protocol.summarize([m for line in lines for m in line.measures])
        assert first.value == (100.0 if isinstance(predictor, PerfectPredictor) else 50.0 * (name == "absent"))
        baselines.append(first.baseline)
    assert baselines[0] == baselines[1]
