"""The one table of what the two protocols do differently: complete, true to the code, and the same in the docs."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import choices, expressions, read

from unipixel.data.differences import EVALUATION, describe_differences, find_differences, format_differences
from unipixel.eval.benchmarks import BENCHMARKS, get_protocol

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


def test_the_docs_hold_the_table_as_the_code_has_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = text.partition("<!-- differences")[2].partition("-->\n")[2].partition("<!-- end of differences")[0]
    assert table == f"{format_differences(EVALUATION, 'benchmarks', '`correct`')}\n"


def test_every_row_is_about_benchmarks_that_exist_and_is_there_once() -> None:
    for where, _, _ in EVALUATION:
        for name in where:
            benchmark, _, split = name.partition("/")
            assert benchmark in BENCHMARKS and (not split or split in BENCHMARKS[benchmark].splits), name
    assert len(set(EVALUATION)) == len(EVALUATION)
    assert all(original != correct for _, original, correct in EVALUATION)


def test_a_benchmark_without_a_row_has_one_protocol_and_others_have_two() -> None:
    for name, benchmark in BENCHMARKS.items():
        for split in benchmark.splits:
            assert get_protocol(name, split, "original").original == bool(find_differences(name, split)), (name, split)
    assert not describe_differences("ref_davis17", "classic") and "sorted as strings" in describe_differences(
        "ref_davis17", "valid"
    )


ALIKE = (
    "revos",
    "mevis",
    "ref_davis17",
    "ref_sav",
    "groundmore",
    "reason_seg",
    "videorefer_bench_q",
    "videorefer_bench_d",
)


@pytest.mark.parametrize("name", [*ALIKE, "pixelqa"])
def test_only_pixelqa_among_them_is_asked_otherwise(name: str) -> None:
    split = BENCHMARKS[name].default[0]
    records = choices() if BENCHMARKS[name].dataset.startswith("videorefer") else expressions()
    asked = []
    for protocol in ("correct", "original"):
        how = get_protocol(name, split, protocol)
        (question, *_) = how.build_questions(how.group_records(records)[0], read, 16)
        asked.append((question.text, question.prompts, question.regions, question.view))
    assert (asked[0] == asked[1]) == (name in ALIKE)
