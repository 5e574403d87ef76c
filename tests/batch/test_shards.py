"""Plans, shards, taking up, failures and items that end the process; all of it without Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image
from typer.testing import CliRunner

from unipixel.batch import SETTINGS, list_missing, plan_batch, read_answers, run_batch
from unipixel.batch import storage as storage_module
from unipixel.batch.storage import Store
from unipixel.batch.worker import ShardWorker, merge_coco, name_item, read_note, write_note
from unipixel.cli import app
from unipixel.engine.answer import Answer, Clip
from unipixel.engine.memory import KnownObject
from unipixel.errors import DatasetError, PromptError
from unipixel.masks import MaskTrack, encode_rle


class Ended(BaseException):
    """Stands for the end of the process: nothing catches it, and what is on the disk stays as it is."""


class StandIn:
    """An engine that finds the bright pixels of the first frame, so that masks depend on the media; ``ends`` names what
    it cannot bear."""

    def __init__(self, fails: str = "", ends: str = "") -> None:
        self.fails, self.ends, self.asked = fails, ends, []

    def open(self, media: Any, **options: Any) -> Any:
        class Opened:
            def prepare(self, question: str | None, **asked: Any) -> Any:
                return question, media, options | asked

        return Opened()

    def answer_batch(self, questions: Any, *, on_error: str) -> list[Any]:
        results: list[Any] = []
        requests = [question() for question in questions]
        if self.ends and any(self.ends in media.source for _, media, _ in requests):
            raise Ended
        if self.fails and any(self.fails in media.source for _, media, _ in requests):
            raise RuntimeError("the device is out of memory")
        for question, media, _ in requests:
            self.asked.append((Path(media.source).name, len(requests)))
            if "refuse" in (question or ""):
                results.append(PromptError("the point lies outside"))
                continue
            mask = media.frame(0)[..., 0] > 127
            track = MaskTrack(media.size_hw, (encode_rle(mask),) * media.num_frames)
            found = KnownObject(id=1, label="light", track=track, frame_scores=(0.5,) * media.num_frames)
            results.append(
                Answer(
                    text=f"{question} [1]", raw_text="x", objects=(found,), clip=Clip.from_media(media), question="q"
                )
            )
        return results


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "FIRST_PAUSE_S", 0.0)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(11):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def list_masks(out: Path) -> list[Any]:
    return [[one["rles"] for one in row["objects"] or ()] for row in read_answers(out)]


def test_every_item_is_a_row_in_natural_order_and_the_broken_one_says_why(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    seen: list[tuple[int, int, int]] = []
    totals = run_batch(
        pictures, out, "light", engine=StandIn(), shard_size=5, progress=lambda *counts: seen.append(counts)
    )
    assert (totals["items"], totals["failed"], totals["answered_now"]) == (12, 1, 3)
    assert seen[0] == (0, 12, 0) and seen[-1] == (12, 12, 1)
    rows = list(read_answers(out))
    assert [row["item"] for row in rows] == list(range(12))
    assert [Path(row["media"]).name for row in rows] == sorted(
        (path.name for path in pictures.iterdir()),
        key=lambda name: (name == "broken.jpg", int("0" + name.split(".")[0].strip("broken"))),
    )
    assert rows[-1]["error_kind"] == "MediaError" and "neither an image" in rows[-1]["error"]
    first = rows[0]
    assert first["text"] == "light [1]" and first["error"] is None and (first["height"], first["width"]) == (6, 8)
    with Image.open(first["media"]) as image:
        mask = np.asarray(image)[..., 0] > 127
    assert first["objects"][0]["rles"][0]["counts"] == encode_rle(mask)["counts"]
    assert not list((out / "attempts").iterdir())


def test_a_batch_that_was_ended_goes_on_and_finished_shards_stay(pictures: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_batch(pictures, whole, "light", engine=StandIn(), shard_size=3)
    run_batch(pictures, out, "light", engine=StandIn(), shard_size=3)
    kept = (out / "answers/part-000000.parquet").stat().st_mtime_ns
    (out / "answers/part-000002.parquet").unlink()
    engine = StandIn()
    totals = run_batch(pictures, out, "light", engine=engine, shard_size=3)
    assert totals["answered_now"] == 1 and totals["items"] == 12 and len(engine.asked) == 3
    assert (out / "answers/part-000000.parquet").stat().st_mtime_ns == kept
    assert list_masks(out) == list_masks(whole)
    assert run_batch(pictures, out, "light", engine=engine, shard_size=3)["answered_now"] == 0


def test_another_source_question_or_setting_is_refused(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_batch(pictures, out, "light", engine=StandIn())
    with pytest.raises(ValueError, match="others, or other questions; choose another -o"):
        run_batch(pictures, out, "dark", engine=StandIn())
    with pytest.raises(ValueError, match="shard_size 32, this one has 4"):
        run_batch(pictures, out, "light", engine=StandIn(), shard_size=4)
    header = json.loads((out / "batch.json").read_text())
    assert header["settings"].pop("pool_memories") is False
    (out / "batch.json").write_text(json.dumps(header))  # as it was before there was such a setting
    assert run_batch(pictures, out, "light", engine=StandIn())["answered_now"] == 0
    with pytest.raises(ValueError, match="pool_memories False, this one has True"):
        run_batch(pictures, out, "light", engine=StandIn(), pool_memories=True)
    Image.new("RGB", (4, 4)).save(pictures / "new.png")
    with pytest.raises(ValueError, match=r"12 items, and .* has 13 now"):
        run_batch(pictures, out, "light", engine=StandIn())
    (out / "batch.json").unlink()
    with pytest.raises(ValueError, match=r"holds answers, but no batch\.json"):
        run_batch(pictures, out, "light", engine=StandIn())
    with pytest.raises(ValueError, match="there is no setting 'colour'"):
        run_batch(pictures, out, "light", colour=1)


def test_a_plan_that_was_cut_off_is_written_anew(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = {**SETTINGS, "shard_size": 5}
    assert plan_batch(pictures, Store(out), "light", settings) == 12
    (out / "batch.json").unlink()
    (out / "plan/part-000001.jsonl").write_text("half a li")
    assert plan_batch(pictures, Store(out), "light", settings) == 12
    assert run_batch(pictures, out, "light", engine=StandIn(), shard_size=5)["items"] == 12
    assert list_missing(Store(out), 3) == []


def test_an_error_of_the_model_is_tried_again_alone_and_spares_the_others(pictures: Path, tmp_path: Path) -> None:
    engine = StandIn(fails="4.png")
    totals = run_batch(pictures, tmp_path / "out", "light", engine=engine, retries=2)
    rows = {Path(row["media"]).name: row for row in read_answers(tmp_path / "out")}
    assert totals["failed"] == 2
    assert rows["4.png"]["error_kind"] == "RuntimeError" and rows["4.png"]["attempts"] == 3
    assert rows["3.png"]["error"] is None and rows["5.png"]["error"] is None
    # a refusal of the package's own is not asked again
    totals = run_batch(pictures / "3.png", tmp_path / "one", "refuse", engine=engine)
    (row,) = read_answers(tmp_path / "one")
    assert (row["error"], row["error_kind"], row["attempts"]) == ("the point lies outside", "PromptError", 1)


def test_an_item_that_ends_the_process_is_given_up_and_all_others_are_answered(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ends = 0
    while True:
        try:
            run_batch(pictures, out, "light", engine=StandIn(ends="7.png"), shard_size=6, retries=2)
        except Ended:
            ends += 1
            assert ends < 10
        else:
            break
    # once among others, then as often alone as there are tries
    assert ends == 1 + 3
    rows = list(read_answers(out))
    failed = {Path(row["media"]).name: row["error_kind"] for row in rows if row["error"] is not None}
    assert [row["item"] for row in rows] == list(range(12))
    assert failed == {"7.png": "ProcessEnded", "broken.jpg": "MediaError"}


def test_a_full_disk_leaves_what_is_there_and_the_batch_goes_on_later(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write, full = Store._write, [True]

    def fill(self: Store, name: str, data: bytes) -> None:
        if full[0] and name == "answers/part-000001.parquet":
            raise OSError(28, "No space left on device", name)
        write(self, name, data)

    monkeypatch.setattr(Store, "_write", fill)
    with pytest.raises(OSError, match="No space left"):
        run_batch(pictures, out, "light", engine=StandIn(), shard_size=4, retries=1)
    assert [path.name for path in sorted((out / "answers").iterdir())] == ["part-000000.parquet"]
    full[0] = False
    assert run_batch(pictures, out, "light", engine=StandIn(), shard_size=4)["answered_now"] == 2
    assert [row["item"] for row in read_answers(out)] == list(range(12))


def test_pictures_are_asked_together_and_clips_alone(pictures: Path, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 6), (40 * number, 0, 0)) for number in range(3)]
    frames[0].save(pictures / "3clip.gif", save_all=True, append_images=frames[1:], duration=100)
    engine = StandIn()
    run_batch(pictures, tmp_path / "out", "light", engine=engine, batch_size=4, masks=True, overlays=True, coco=True)
    sizes = dict(engine.asked)
    assert sizes["3clip.gif"] == 1 and sizes["0.png"] == 4
    names = {path.name for path in (tmp_path / "out/overlays").iterdir()}
    assert len(names) == 12 and "000000004-3clip.mp4" in names and "000000000-0.png" in names
    assert len(list((tmp_path / "out/masks/000000004-3clip").iterdir())) == 3
    coco = json.loads((tmp_path / "out/coco/part-000000.json").read_text())
    assert len({one["id"] for one in coco["images"]}) == len(coco["images"]) == 14
    assert {one["image_id"] for one in coco["annotations"]} <= {one["id"] for one in coco["images"]}


def test_notes_count_ends_of_items_alone_and_a_damaged_one_counts_for_nothing() -> None:
    assert read_note(None, 4) == ({}, []) == read_note(b"{", 4) == read_note(b'{"alone": 3}', 4)
    assert read_note(write_note({}, [0, 1, 2], []), 4) == ({}, [0, 1, 2])
    assert read_note(write_note({}, [1], [1, 2]), 4) == ({1: 1}, [1, 2])
    assert read_note(write_note({1: 1}, [1], [1, 2]), 4) == ({1: 2}, [1, 2])
    assert read_note(write_note({9: 1}, [9], []), 4) == ({}, [])


def test_names_of_items_are_plain_and_their_own() -> None:
    assert name_item(7, "s3://bucket/a b/c\u00e9.mp4?x=/y") == "000000007-c_"
    assert name_item(8, "data:image/png;base64,AAAA") == "000000008-data"


def test_coco_files_are_merged_by_the_names_of_categories() -> None:
    def part(*labels: str) -> dict[str, Any]:
        categories = [{"id": place, "name": label} for place, label in enumerate(labels, start=1)]
        shown = [{"id": place, "image_id": 0, "category_id": place} for place in range(1, len(labels) + 1)]
        return {"images": [{"id": 0}], "annotations": shown, "categories": categories}

    merged = merge_coco([(0, part("dog")), (3, part("cat", "dog"))])
    assert [one["category_id"] for one in merged["annotations"]] == [1, 2, 1]
    assert [one["id"] for one in merged["annotations"]] == [1, 2, 3]
    assert [one["id"] for one in merged["images"]] == [0, 3_000_000]


def test_a_damaged_shard_is_named(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_batch(pictures, out, "light", engine=StandIn())
    (out / "answers/part-000000.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DatasetError, match=r"part-000000\.parquet is damaged .*; delete it and run again"):
        list(read_answers(out))
    with pytest.raises(DatasetError, match="holds no batch"):
        list(read_answers(tmp_path / "nowhere"))


COUNT_THREADS = """
import os, sys
import pyarrow.parquet
from unipixel.batch import read_answers
from unipixel.batch.inputs import read_items
before = len(os.listdir("/proc/self/task"))
assert list(read_answers(sys.argv[1])) and list(read_items(sys.argv[2], "what?"))
assert len(os.listdir("/proc/self/task")) == before
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_tables_are_read_without_threads_that_outlive_the_program(pictures: Path, tmp_path: Path) -> None:
    """One that lets go of a Python object while the interpreter ends aborts a program that has done all its work."""
    out, table = tmp_path / "out", tmp_path / "t.parquet"
    run_batch(pictures, out, "light", engine=StandIn())
    parquet.write_table(pa.table({"media": [str(pictures / "a.png")] * 3}), table)
    subprocess.run([sys.executable, "-c", COUNT_THREADS, str(out), str(table)], check=True)


@pytest.fixture
def stand_in_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ShardWorker, "_engine", StandIn())
    yield


@pytest.mark.usefixtures("stand_in_model")
def test_the_command_counts_names_failures_and_refuses_in_one_sentence(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runner = CliRunner()
    done = runner.invoke(app, ["batch", str(pictures), "light", "-o", str(out)])
    assert done.exit_code == 0 and done.stdout.startswith("12 items, 1 failed"), done.output
    assert "broken.jpg" in done.stderr
    done = runner.invoke(app, ["batch", str(pictures), "light", "-o", str(out), "--max-bad", "0.01", "--json"])
    assert done.exit_code == 1 and json.loads(done.stdout)["failed"] == 1
    for words, sentence in (
        (["light"], "there is no -o"),
        (["-o", str(tmp_path / "x")], "neither a question nor a prompt"),
        (["light", "-o", str(tmp_path / "x"), "--address", "auto"], "--actors is 0"),
        (["light", "-o", "http://example.org/x"], "cannot be written to"),
        (["light", "-o", str(tmp_path / "x"), "--shard-size", "0"], "shard_size is 0"),
    ):
        done = runner.invoke(app, ["batch", str(pictures), *words])
        assert done.exit_code == 2 and sentence in done.stderr, done.output
    missing = runner.invoke(app, ["batch", str(tmp_path / "no"), "light", "-o", str(tmp_path / "x")])
    assert missing.exit_code == 2 and "does not exist; name a folder" in missing.stderr
