"""Uploads in the layout that the servers want, and the pages and tables of a report."""

from __future__ import annotations

import io
import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from worlds import FRAMES, SIZE_HW, Counting, choices, expressions, run, square

from unipixel.errors import DatasetError
from unipixel.eval.choices import Choices
from unipixel.eval.expression_masks import UploadedVideoMasks, VideoMasks
from unipixel.eval.pages import render_examples, render_page
from unipixel.eval.pixelqa import PixelQA
from unipixel.eval.predictions import write_zip
from unipixel.eval.predictors import BlankPredictor, PerfectPredictor
from unipixel.eval.report import collect_sections, render_markdown
from unipixel.eval.runner import BenchmarkRun, predict


def server(**options: object) -> BenchmarkRun:
    return run(UploadedVideoMasks(), expressions(2), "mevis", "valid", **options)


@pytest.mark.parametrize(("layout", "root"), [("mevis", ""), ("ref_youtube_vos", "Annotations/")])
def test_uploads_have_one_png_per_frame_and_expression(tmp_path: Path, layout: str, root: str) -> None:
    lines = list(predict(server(), PerfectPredictor(), tmp_path / "out").values())
    count = write_zip(lines, layout, tmp_path / "upload.zip")
    with zipfile.ZipFile(tmp_path / "upload.zip") as archive:
        names = archive.namelist()
        expected = [f"{root}v{v}/{e}/{t:05d}.png" for v in range(2) for e in range(2) for t in range(FRAMES)]
        assert names == expected and count == len(expected)
        image = Image.open(io.BytesIO(archive.read(f"{root}v1/1/00003.png")))
    assert image.mode == "L" and image.size == SIZE_HW[::-1]
    assert np.array_equal(np.asarray(image), np.where(square(5, 5).mask(3), 255, 0))


def test_nothing_found_is_an_empty_png_and_the_same_masks_give_the_same_bytes(tmp_path: Path) -> None:
    lines = list(predict(server(), BlankPredictor(), tmp_path / "out").values())
    paths = [tmp_path / "a.zip", tmp_path / "b.zip"]
    for path in paths:
        write_zip(lines, "mevis", path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with zipfile.ZipFile(paths[0]) as archive:
        assert not np.asarray(Image.open(io.BytesIO(archive.read("v0/0/00000.png")))).any()


def test_what_failed_is_not_uploaded_as_empty_masks(tmp_path: Path) -> None:
    lines = list(predict(server(), Counting(fail=[1]), tmp_path / "out").values())
    with pytest.raises(DatasetError, match=r"v0/1 failed \(RuntimeError: out of memory\).*--retry"):
        write_zip(lines, "mevis", tmp_path / "upload.zip")
    assert not (tmp_path / "upload.zip").exists()
    with pytest.raises(ValueError, match="the layout is 'davis'"):
        write_zip([], "davis", tmp_path / "upload.zip")


@pytest.fixture
def evaluated(tmp_path: Path) -> tuple[Path, list[BenchmarkRun]]:
    """Two benchmarks with one failure."""
    runs = [
        run(VideoMasks(), expressions(2), "mevis", "valid_u"),
        run(PixelQA(prompts="mixed"), choices(), "pixelqa", "mixed"),
        run(Choices(style="videorefer", regions="single"), choices(), "videorefer_bench_q", "single"),
    ]
    predict(runs[0], Counting(fail=[1]), tmp_path)
    for one in runs[1:]:
        predict(one, PerfectPredictor(), tmp_path)
    return tmp_path, runs


def test_a_report_has_figures_published_ones_differences_counts_and_failures(
    evaluated: tuple[Path, list[BenchmarkRun]],
) -> None:
    sections = collect_sections([evaluated[0]])
    values = json.loads(json.dumps([one.to_json() for one in sections]))
    (mevis,) = [one for one in values if one["benchmark"] == "mevis"]
    assert (mevis["questions"], mevis["failed"], mevis["units"], mevis["done"]) == (4, 1, 4, 4)
    assert mevis["failures"] == [{"id": "v0/1", "error": "RuntimeError: out of memory"}]
    (JF,) = [figure for figure in mevis["figures"] if figure["name"] == "J&F"]
    assert JF == {
        "name": "J&F",
        "value": 75.0,
        "count": 4,
        "best": 100.0,
        "published": {"UniPixel-3B": 59.7},
        "difference": {"UniPixel-3B": 15.3},
        "release": {"UniPixel-3B": "paper"},
        "secondary_source": True,
    }
    text = render_markdown(sections)
    assert "| J&F | 75.0 | 59.7* | +15.3 |  |  | 4 | paper |" in text
    (accuracy,) = [line for line in text.splitlines() if line.startswith("| accuracy ") and "72.2" in line]
    assert accuracy.endswith("| released 3B; released 7B, October 2025 |")
    assert "* failed: 1 (a failed question counts as 0)" in text
    assert "* failed: v0/1: RuntimeError: out of memory" in text
    assert "read from notes on the paper's tables" in text
    assert "the published figures are of the original's protocol" in text


def test_the_page_needs_no_other_file_and_shows_examples(evaluated: tuple[Path, list[BenchmarkRun]]) -> None:
    sections = collect_sections([evaluated[0]])
    by_name = {(one.name, one.split): one for one in evaluated[1]}
    shown = [render_examples(one, lambda s: by_name[s.header.benchmark, s.header.split], number=2) for one in sections]
    assert [len(few) for few in shown] == [2, 2, 2]
    assert [re.findall(r'title="([^"]*)"', few[0]) for few in shown] == [
        ["truth", "answer"],
        ["given masks"],
        ["given", "truth", "answer"],
    ]
    text = render_page(sections, shown)
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", text)
    assert text.count("data:image/jpeg;base64,") == 2 * (2 + 1 + 3)
    assert "v0/1: RuntimeError: out of memory" in text
    assert "<b>replied</b> The best option is (B)" in text


def test_texts_of_a_page_are_escaped(evaluated: tuple[Path, list[BenchmarkRun]]) -> None:
    sections = collect_sections([evaluated[0]])
    hostile = "<script>alert(1)</script>"
    line = replace(sections[0].lines[1], error=hostile)
    sections[0].lines = (line,)
    assert hostile not in render_page(sections, [[]] * len(sections))


def test_a_report_without_data_has_tables_and_no_pictures(evaluated: tuple[Path, list[BenchmarkRun]]) -> None:
    def gone(_: object) -> BenchmarkRun:
        raise DatasetError("the data are gone")

    (first, *_) = collect_sections([evaluated[0]])
    assert render_examples(first, gone) == []
