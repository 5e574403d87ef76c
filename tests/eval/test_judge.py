"""Descriptions graded by an endpoint, over a real connection to a server of our own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner
from worlds import Counting, captions, run

from unipixel.cli import app
from unipixel.eval.captions import Captions
from unipixel.eval.judge import EndpointJudge, JudgeError, get_grades_path, grade_predictions, parse_grades
from unipixel.eval.predictors import PerfectPredictor
from unipixel.eval.report import collect_sections
from unipixel.eval.runner import BenchmarkRun, predict

FULL = """1. Subject Correspondence: 5
Explanation: the same.
2. Appearance Description: 4
Explanation: nearly.
3. Temporal Description: 3
Explanation: in part.
4. Hallucination Detection: 2
Explanation: two things are made up."""


class Server(ThreadingHTTPServer):
    """Answers with what it is told to, one after the other, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[tuple[int, str]] = []
        self.asked: list[dict] = []
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({"path": self.path, **body})
        self.server.keys.append(self.headers.get("Authorization"))
        status, text = self.server.replies.pop(0) if self.server.replies else (200, FULL)
        reply = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def judge(server: Server, **options: object) -> EndpointJudge:
    return EndpointJudge("m", server.url, wait_s=0.0, timeout_s=5.0, **options)


def described() -> BenchmarkRun:
    return run(Captions(regions="multiple"), captions(), "videorefer_bench_d", "multi")


def test_the_request_is_the_published_one(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert judge(server).grade("a cat", "a dog") == {"SC": 5.0, "AD": 4.0, "TD": 3.0, "HD": 2.0}
    (asked,) = server.asked
    assert asked["path"] == "/v1/chat/completions"
    assert (asked["model"], asked["temperature"], asked["top_p"], asked["max_tokens"]) == ("m", 0.7, 0.95, 800)
    assert asked["messages"][1]["content"] == "##Correct answer: a cat\n##Predicted answer: a dog\n"
    assert server.keys == ["Bearer secret"]
    monkeypatch.delenv("OPENAI_API_KEY")
    judge(server).grade("a", "b")
    assert server.keys[1] is None


def test_faults_that_pass_are_tried_again_and_others_not(server: Server) -> None:
    server.replies = [(500, ""), (429, ""), (200, "I like both."), (200, FULL)]
    assert judge(server).grade("a", "b")["SC"] == 5.0
    server.replies = [(200, "no")] * 5
    with pytest.raises(JudgeError, match=r"gave no grades .*in the form asked for"):
        judge(server).grade("a", "b")
    server.replies, server.asked = [(401, "")], []
    with pytest.raises(JudgeError, match="it answered 401"):
        judge(server).grade("a", "b")
    assert len(server.asked) == 1


def test_an_endpoint_that_is_not_there_is_named() -> None:
    nowhere = EndpointJudge("m", "http://127.0.0.1:9", tries=1)
    with pytest.raises(JudgeError, match=r"the judge m at http://127\.0\.0\.1:9 gave no grades"):
        nowhere.grade("a", "b")
    with pytest.raises(JudgeError, match="must begin with http"):
        EndpointJudge("m", "file:///x").grade("a", "b")


@pytest.mark.parametrize(
    ("text", "grades"),
    [
        ("1. subject correspondence: 4", {"SC": 4.0}),
        ("1. **Subject Correspondence**: 4\n4. **Hallucination Detection:** 3.5", {"SC": 4.0, "HD": 3.5}),
        ("1. Subject Correspondence: 9", {}),
        ("Subject Correspondence: 4", {}),
        ("", {}),
    ],
)
def test_grades_are_read_from_the_lines_asked_for(text: str, grades: dict[str, float]) -> None:
    assert parse_grades(text) == grades


def test_without_a_judge_descriptions_are_kept_and_called_ungraded(tmp_path: Path) -> None:
    predict(described(), PerfectPredictor(), tmp_path)
    (one,) = collect_sections([tmp_path])
    names = [figure.name for figure in one.figures]
    assert names == ["token F1 (no judge)", "CIDEr-D (no judge)"]
    assert any("descriptions without grades: 2" in note for note in one.notes)


def test_a_judge_grades_what_is_written_once_and_goes_on_where_it_stopped(tmp_path: Path, server: Server) -> None:
    made = described()
    predict(made, PerfectPredictor(), tmp_path)
    server.replies = [(200, FULL), (403, "")]
    grade_predictions(made.get_path(tmp_path), judge(server))
    (one,) = collect_sections([tmp_path])
    values = {figure.name: figure.value for figure in one.figures}
    assert (values["average"], values["SC"], values["HD"]) == (3.5, 5.0, 2.0)
    assert one.to_json()["figures"][0]["difference"]["UniPixel-3B"] == pytest.approx(0.06)
    assert "graded by m" in one.notes
    assert "descriptions that got no grades from the judge, in no average of grades: 1" in one.notes
    grade_predictions(made.get_path(tmp_path), judge(server))
    assert len(server.asked) == 2
    grade_predictions(made.get_path(tmp_path), judge(server), retry=True)
    assert len(server.asked) == 3
    (one,) = collect_sections([tmp_path])
    assert [figure.count for figure in one.figures if figure.name == "SC"] == [2]


def test_the_command_line_asks_a_judge(benchmarks_dir: Path, tmp_path: Path, server: Server) -> None:
    asked = ["eval", "videorefer_bench_d/multi", "--model", "perfect", "--limit", 2, "--data-root", benchmarks_dir]
    options = [*asked, "--judge", server.url, "--judge-model", "m", "-o", tmp_path, "--json"]
    result = CliRunner().invoke(app, [str(option) for option in options])
    assert result.exit_code == 0, result.output
    (section,) = json.loads(result.stdout)["sections"]
    assert section["figures"][0]["name"] == "average" and section["figures"][0]["value"] == 3.5
    assert len(server.asked) == 2


def test_grades_of_two_judges_are_not_mixed(tmp_path: Path, server: Server) -> None:
    made = described()
    predict(made, PerfectPredictor(), tmp_path)
    grade_predictions(made.get_path(tmp_path), judge(server))
    other = EndpointJudge("other", server.url)
    with pytest.raises(ValueError, match=r"grades\.jsonl holds grades of m, not of other"):
        grade_predictions(made.get_path(tmp_path), other)


def test_failed_descriptions_get_the_lowest_grades_and_are_not_shown_to_the_judge(
    tmp_path: Path, server: Server
) -> None:
    made = described()
    predict(made, Counting(fail=[0]), tmp_path)
    grade_predictions(made.get_path(tmp_path), judge(server))
    assert len(server.asked) == 1 and get_grades_path(made.get_path(tmp_path)).exists()
    (one,) = collect_sections([tmp_path])
    values = {figure.name: figure.value for figure in one.figures}
    assert values["SC"] == 2.5
    assert one.failed == 1
