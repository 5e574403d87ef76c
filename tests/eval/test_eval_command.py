"""``unipixel eval`` and ``unipixel report`` from the command line."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from unipixel.cli import app
from unipixel.eval.benchmarks import BENCHMARKS

MINIATURES = [name for name in BENCHMARKS if name not in ("mvbench", "videomme", "refcoco+", "photos", "davis_clips")]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Result, words: str) -> bool:
    assert result.exit_code == 2, result.output
    return words in result.stderr and "Traceback" not in result.stderr and not result.stdout


def test_an_evaluation_writes_predictions_reports_and_uploads(benchmarks_dir: Path, tmp_path: Path) -> None:
    asked = ["refcoco/testA", "mevis/valid", "--model", "perfect", "--data-root", benchmarks_dir]
    result = invoke("eval", *asked, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert "RefCOCO testA: perfect, protocol correct; questions: " in result.stdout
    values = json.loads((tmp_path / "report.json").read_text())
    assert [one["benchmark"] for one in values["sections"]] == ["mevis", "refcoco"]
    assert "| cIoU | 100.0 | 82.6 | +17.4 | 83.0 | +17.0 |" in (tmp_path / "report.md").read_text()
    assert "data:image/jpeg" in (tmp_path / "report.html").read_text()
    with zipfile.ZipFile(tmp_path / "mevis-valid-correct.zip") as archive:
        assert all(len(name.split("/")) == 3 for name in archive.namelist())
    first = (tmp_path / "report.json").read_text()
    again = invoke("eval", *asked, "-o", tmp_path, "--json")
    assert json.loads(again.stdout) == values and (tmp_path / "report.json").read_text() == first


def test_a_run_with_pooled_memories_is_another_run(benchmarks_dir: Path, tmp_path: Path) -> None:
    asked = ["eval", "mevis/valid_u", "--model", "perfect", "--data-root", benchmarks_dir, "--limit", 1, "-o", tmp_path]
    result = invoke(*asked, "--pool-memories")
    assert result.exit_code == 0, result.output
    assert "perfect, memories pooled, protocol correct" in result.stdout
    assert refused(invoke(*asked), "memories pooled")


def test_shards_are_merged_by_the_report_command(benchmarks_dir: Path, tmp_path: Path) -> None:
    asked = ["eval", "refcocog/val", "--model", "blank", "--data-root", benchmarks_dir, "--limit", 4, "-o"]
    for place in (0, 1):
        assert invoke(*asked, tmp_path / f"{place}", "--shard", f"{place}/2").exit_code == 0
    assert invoke(*asked, tmp_path / "whole").exit_code == 0
    result = invoke("report", tmp_path / "0", tmp_path / "1", "-o", tmp_path / "merged")
    assert result.exit_code == 0, result.output
    for name in ("report.json", "report.md"):
        assert (tmp_path / "merged" / name).read_text() == (tmp_path / "whole" / name).read_text()
    options = ["--rescore", "--data-root", benchmarks_dir, "-o", tmp_path / "again"]
    assert invoke("report", tmp_path / "whole", *options).exit_code == 0
    assert (tmp_path / "again" / "report.html").read_text() == (tmp_path / "whole" / "report.html").read_text()


def test_stickers_are_a_benchmark_among_others(tmp_path: Path) -> None:
    result = invoke("eval", "stickers", "--model", "perfect", "--limit", 1, "-o", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    sections = json.loads(result.stdout)["sections"]
    figures = {one["name"]: one["value"] for section in sections for one in section["figures"]}
    assert figures["refer cIoU"] == figures["PixelQA"] == figures["not there"] == 100.0
    assert sum(section["questions"] for section in sections) == 9  # "not there" asks two questions


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eval", "nonsense", "-o", "OUT"], "there is no benchmark 'nonsense'; there are revos"),
        (["eval", "revos/test", "-o", "OUT"], "revos has no split 'test'"),
        (["eval", "revos"], "there is no -o"),
        (["eval", "revos", "-o", "OUT"], "no data root was given"),
        (["eval", "revos", "--data-root", "OUT", "-o", "OUT/x"], "is not a folder"),
        (["eval", "stickers", "--protocol", "best", "-o", "OUT"], "the protocol is 'best'"),
        (["eval", "stickers", "--shard", "2", "-o", "OUT"], "--shard is '2'"),
        (["eval", "stickers", "--shard", "2/2", "-o", "OUT"], "the shard is 2/2"),
        (["eval", "stickers", "--limit", "0", "-o", "OUT"], "the limit is 0"),
        (["eval", "stickers", "--only", "refer", "-o", "OUT"], "--only, --count"),
        (["eval", "revos", "-o", "OUT.json"], "name a folder, without a suffix"),
        (["report", "OUT"], "holds no predictions"),
    ],
)
def test_wrong_requests_are_refused_in_a_sentence(arguments: list[str], words: str, tmp_path: Path) -> None:
    result = invoke(*(one.replace("OUT", str(tmp_path / "out")) for one in arguments))
    assert refused(result, words), result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["correct", "original"])
def test_nano_runs_on_every_benchmark_that_has_a_miniature(benchmarks_dir: Path, tmp_path: Path, protocol: str) -> None:
    asked = [
        "eval",
        *MINIATURES,
        "refcoco+/val",
        "--data-root",
        benchmarks_dir,
        "--limit",
        1,
        "--protocol",
        protocol,
        "-o",
        tmp_path,
    ]
    result = invoke(*(one for one in asked if protocol == "correct" or one != "stickers"), "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    sections = json.loads(result.stdout)["sections"]
    assert all(one["done"] == one["units"] and not one["failures"] for one in sections), sections
    assert {one["benchmark"] for one in sections} >= set(MINIATURES) - {"stickers"}
