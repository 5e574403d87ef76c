"""Runs that are stopped, divided, repeated and broken all lead to the report of one undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from worlds import Counting, expressions, read, run

from unipixel import data
from unipixel.errors import DatasetError
from unipixel.eval.expression_masks import VideoMasks
from unipixel.eval.predictions import LineFile, PredictionLine, read_lines
from unipixel.eval.predictors import PerfectPredictor
from unipixel.eval.protocols import Prediction, Question
from unipixel.eval.report import ReportSection, collect_sections, render_markdown
from unipixel.eval.runner import BenchmarkRun, predict, rescore

WHERE = {"name": "mevis", "split": "valid_u"}


def squares(**options: object) -> BenchmarkRun:
    return run(VideoMasks(), expressions(), **WHERE, **options)


def text(sections: list[ReportSection]) -> str:
    return render_markdown(sections) + json.dumps([one.to_json() for one in sections])


@pytest.fixture
def undisturbed(tmp_path: Path) -> str:
    predict(squares(), PerfectPredictor(), tmp_path / "undisturbed")
    return text(collect_sections([tmp_path / "undisturbed"]))


def test_a_run_that_was_stopped_goes_on_where_it_was_and_reports_the_same(tmp_path: Path, undisturbed: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        predict(squares(), Counting(stop_at=3), tmp_path / "out")
    again = Counting()
    predict(squares(), again, tmp_path / "out")
    assert again.asked == 3  # of six
    assert text(collect_sections([tmp_path / "out"])) == undisturbed


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_line_that_was_cut_off_is_asked_again(tmp_path: Path, undisturbed: str, cut: int) -> None:
    out = tmp_path / "out"
    predict(squares(), PerfectPredictor(), out)
    path = squares().get_path(out)
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(whole[: last + cut] if cut > 0 else whole[:-1])
    again = Counting()
    predict(squares(), again, out)
    assert again.asked == 1
    assert text(collect_sections([out])) == undisturbed


def test_a_file_whose_header_was_cut_off_is_begun_anew(tmp_path: Path, undisturbed: str) -> None:
    path = squares().get_path(tmp_path / "out")
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"benchmark": "mev')
    predict(squares(), PerfectPredictor(), tmp_path / "out")
    assert text(collect_sections([tmp_path / "out"])) == undisturbed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_killed_process_loses_at_most_the_line_it_was_writing(tmp_path: Path, undisturbed: str) -> None:
    class Slow(PerfectPredictor):
        def answer(self, question: Question) -> Prediction:
            time.sleep(0.05)
            return super().answer(question)

    path = squares().get_path(tmp_path / "out")
    child = os.fork()
    if not child:  # no clean end: this process is to be killed
        predict(squares(), Slow(), tmp_path / "out")
        time.sleep(60)
        os._exit(1)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (not path.exists() or path.read_bytes().count(b"\n") < 3):
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(read_lines(path, PredictionLine)[1]) >= 2
    predict(squares(), PerfectPredictor(), tmp_path / "out")
    assert text(collect_sections([tmp_path / "out"])) == undisturbed


@pytest.mark.parametrize("number", [2, 3, 5])
def test_merged_shards_report_what_the_undivided_run_reports(tmp_path: Path, undisturbed: str, number: int) -> None:
    shards = [Counting() for _ in range(number)]
    for place, predictor in enumerate(shards):
        predict(squares(shard=(place, number)), predictor, tmp_path / f"machine {place % 2}")
    assert sum(one.asked for one in shards) == 6
    assert all(one.asked % 2 == 0 for one in shards)  # both questions about a clip stay together
    merged = collect_sections(sorted(tmp_path.glob("machine *")))
    assert text(merged) == undisturbed


def test_missing_shards_are_told(tmp_path: Path) -> None:
    predict(squares(shard=(0, 2)), PerfectPredictor(), tmp_path)
    (one,) = collect_sections([tmp_path])
    assert "not complete: 4 of 6 done" in one.notes


def test_failures_are_written_down_counted_and_scored_as_the_report_says(tmp_path: Path) -> None:
    lines = predict(squares(), Counting(fail=[1, 4]), tmp_path)
    assert lines["v0/1"].error == "RuntimeError: out of memory"
    (one,) = collect_sections([tmp_path])
    assert one.failed == 2 and one.questions == 6
    assert [unit for unit, _ in one.failures] == ["v0/1", "v2/0"]
    assert one.figures[2].value == pytest.approx(100 * 4 / 6)
    assert "failed: 2 (a failed question counts as 0)" in one.notes


def test_failures_stay_until_they_are_asked_again_on_request(tmp_path: Path, undisturbed: str) -> None:
    predict(squares(), Counting(fail=[1, 4]), tmp_path)
    idle = Counting()
    predict(squares(), idle, tmp_path)
    assert idle.asked == 0
    predict(squares(), idle, tmp_path, retry=True)
    assert idle.asked == 2
    assert text(collect_sections([tmp_path])) == undisturbed


def without_pictures(*names: str, original: bool = False) -> BenchmarkRun:
    """The run of `squares` with some records whose data cannot be read."""

    def reading(record: data.Record, *more: object) -> object:
        if record.id in names:
            raise DatasetError("the picture is gone")
        return read(record, *more)

    made = squares()
    protocol = replace(made.protocol, original=original)
    return BenchmarkRun(**WHERE, protocol=protocol, records=made.records, read=reading, model="test")


def test_records_that_cannot_be_read_are_left_out_and_named(tmp_path: Path) -> None:
    predict(without_pictures("v1/0"), PerfectPredictor(), tmp_path)
    (one,) = collect_sections([tmp_path])
    assert one.failures == [] and one.failed == 0
    assert one.left_out == {"v1/0": "DatasetError: the picture is gone"}
    assert all(figure.value == 100 for figure in one.figures)  # they count neither way
    assert any("left out: 1 of" in note and "v1/0" in note for note in one.notes)
    predict(squares(), PerfectPredictor(), tmp_path, retry=True)
    assert collect_sections([tmp_path])[0].left_out == {}


def test_the_original_scores_records_that_cannot_be_read_as_failures(tmp_path: Path) -> None:
    predict(without_pictures("v1/0", original=True), PerfectPredictor(), tmp_path)
    assert collect_sections([tmp_path])[0].failures == [("v1/0", "DatasetError: the picture is gone")]


def test_too_many_unreadable_records_end_a_run_which_can_be_taken_up(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"2 of \d+ records cannot be read, .*v0/0: .*--max-bad allows more"):
        predict(without_pictures("v0/0", "v1/0"), PerfectPredictor(), tmp_path)
    predict(without_pictures("v0/0", "v1/0"), PerfectPredictor(), tmp_path, max_bad=0.9)
    assert len(collect_sections([tmp_path])[0].left_out) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "other"}, "a run with model 'test', this one has 'other'"),
        ({"limit": 2}, "a run with limit None, this one has 2"),
    ],
)
def test_predictions_of_another_run_are_not_mixed_in(tmp_path: Path, options: dict[str, object], words: str) -> None:
    predict(squares(), PerfectPredictor(), tmp_path)
    with pytest.raises(ValueError, match=words):
        predict(squares(**options), PerfectPredictor(), tmp_path)


def test_a_damaged_line_names_file_and_line(tmp_path: Path) -> None:
    predict(squares(), PerfectPredictor(), tmp_path)
    path = squares().get_path(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'{"id":"v0/1"', b'{"id":"v0/1', 1))
    with pytest.raises(DatasetError, match=r"0-of-1\.jsonl, line 3 is no JSON"):
        collect_sections([tmp_path])
    with pytest.raises(DatasetError, match="line 3 is no JSON"):
        LineFile(path, squares().build_header(6, 16), PredictionLine)


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (0, {"units": "6"}),
        (0, {"shard": 3}),
        (0, {"limit": True}),
        (0, {"benchmark": None}),
        (0, {"more": 1}),
        (1, {"place": -1}),
        (1, {"id": 3}),
        (1, {"seconds": "1"}),
        (1, {"measures": {}}),
        (1, {"measures": [3]}),
        (1, {"measures": [{"J": 10**400}]}),
        (1, {"measures": [{"J": float("nan")}]}),
        (1, {"error": ["x"]}),
        (1, {"replies": {}}),
        (1, {"replies": [{"text": 3, "objects": []}]}),
        (1, {"replies": [{"text": "", "objects": [{"id": 1}]}]}),
        (1, {"replies": [{"text": "", "objects": [{"id": 1, "size": [2, 2], "rles": [None], "scores": []}]}]}),
        (1, {"more": 1}),
    ],
)
def test_every_field_of_predictions_is_checked(tmp_path: Path, number: int, change: dict[str, object]) -> None:
    predict(squares(), PerfectPredictor(), tmp_path)
    path = squares().get_path(tmp_path)
    lines = path.read_text().splitlines()
    lines[number] = json.dumps(json.loads(lines[number]) | change)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DatasetError, match=r"of an evaluation|is no JSON") as error:
        collect_sections([tmp_path])
    assert "\n" not in str(error.value) and "Error:" not in str(error.value)


@pytest.mark.parametrize("measures", [[{}], [{"J": "x"}], [{"J": None, "F": 1, "J&F": 1, "category": ""}], [[]]])
def test_measures_that_are_not_those_of_the_protocol_are_refused(tmp_path: Path, measures: list[object]) -> None:
    predict(squares(), PerfectPredictor(), tmp_path)
    path = squares().get_path(tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(
            json.dumps(line | {"measures": measures}) + "\n" if "id" in line else json.dumps(line) + "\n"
            for line in lines
        )
    )
    with pytest.raises(DatasetError):
        collect_sections([tmp_path])


def test_a_limit_asks_the_first_questions_only(tmp_path: Path) -> None:
    lines = predict(squares(limit=3), PerfectPredictor(), tmp_path)
    assert list(lines) == ["v0/0", "v0/1", "v1/0"]
    (one,) = collect_sections([tmp_path])
    assert any("limited to the first 3" in note for note in one.notes)


def test_two_records_of_one_id_are_refused_and_not_skipped() -> None:
    twice = run(VideoMasks(), [*expressions(1), *expressions(1)], **WHERE)
    with pytest.raises(DatasetError, match="the id 'v0/0' stands for two records"):
        twice.list_units()


@pytest.mark.parametrize(("option", "value"), [("shard", (2, 2)), ("shard", (0, 0)), ("limit", 0)])
def test_impossible_parts_are_refused(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=option):
        squares(**{option: value})


def test_scoring_needs_nothing_but_the_lines_and_the_truth(tmp_path: Path) -> None:
    predict(squares(), Counting(fail=[2]), tmp_path)
    (one,) = collect_sections([tmp_path])
    spoilt = [replace(line, measures=({"J": 0.1},)) for line in one.lines]
    assert [line.measures for line in rescore(squares(), spoilt, 16)] == [line.measures for line in one.lines]
    with pytest.raises(ValueError, match="'v9/0' is no unit of mevis/valid_u"):
        rescore(squares(), [PredictionLine(id="v9/0", place=0)], 16)


def test_a_folder_without_predictions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no predictions"):
        collect_sections([tmp_path])
