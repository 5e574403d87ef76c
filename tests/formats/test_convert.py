"""``unipixel convert``, and answers and sessions in the formats of other tools."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image

import unipixel
from unipixel.cli.commands import app
from unipixel.engine.answer import Answer, Clip
from unipixel.engine.engine import Engine
from unipixel.engine.memory import KnownObject
from unipixel.errors import MediaError
from unipixel.formats import Annotations, read_annotations, write_annotations
from unipixel.formats.libraries import from_supervision
from unipixel.masks import MaskTrack
from unipixel.media import Media, open_media


def run(*words: object) -> int:
    """The exit code of a command."""
    return int(app([str(word) for word in words], standalone_mode=False) or 0)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return unipixel.load(device="cpu")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def answer(picture: Path) -> Answer:
    mask = np.zeros((1, 40, 60), bool)
    mask[0, 5:25, 10:40] = True
    objects = [
        KnownObject(id=1, label="cat", track=MaskTrack.from_masks(mask), frame_scores=(0.9,)),
        KnownObject(id=2, label="", track=MaskTrack.from_masks(np.roll(mask, 12, axis=2)), frame_scores=(0.5,)),
    ]
    return Answer(text="a", raw_text="a", objects=tuple(objects), clip=Clip.from_media(open_media(picture)))


def test_an_answer_goes_through_every_format_and_back(
    answer: Answer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer.save(tmp_path / "answer.json")
    before = tmp_path / "answer.json"
    for kind, name in (
        ("coco", "a.json"),
        ("label-studio", "b.json"),
        ("cvat", "c.xml"),
        ("datumaro", "d"),
        ("labelme", "e"),
        ("numpy", "f.npz"),
        ("youtube-vis", "g.json"),
        ("answer", "h.json"),
    ):
        assert run("convert", before, tmp_path / name, "--to", kind) == 0, capsys.readouterr().err
        before = tmp_path / name
    (again,) = read_annotations(before)
    for one in answer.objects:
        assert again.tracks[one.id] == one.track and again.labels[one.id] == one.label
    errors = capsys.readouterr().err
    assert "scores have no place in this format" in errors and "single pictures become clips of one frame" in errors


def test_a_dataset_is_divided_on_the_way(answer: Answer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (one,) = [answer.to_annotations()]
    sets = [Annotations(f"p{n}.png", one.size_hw, one.tracks, one.labels) for n in range(10)]
    write_annotations(sets, tmp_path / "all.jsonl")
    divide = ("--divide", "60, 30,10")
    assert run("convert", tmp_path / "all.jsonl", tmp_path / "a.json", "--to", "coco", *divide) == 0
    parts = {part: json.loads((tmp_path / f"a_{part}.json").read_text()) for part in ("train", "val", "test")}
    assert [len(part["images"]) for part in parts.values()] == [6, 3, 1]
    capsys.readouterr()
    assert run("convert", tmp_path / "all.jsonl", tmp_path / "davis", "--to", "davis", *divide) == 0
    assert "10 pictures and clips are in one whole" in capsys.readouterr().err
    for wrong in ("80,10", "80,10,20", "a,b,c", "110,-5,-5", ",,", "50.5,49.5,0", "99999999999999999999,0,1"):
        assert run("convert", tmp_path / "all.jsonl", tmp_path / "no.xml", "--divide", wrong) == 2
        assert "give three whole numbers that make 100, such as 80,10,10" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "no.xml").exists()


def test_formats_are_said_by_names_and_contents(
    answer: Answer, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer.export(tmp_path / "a.json", "coco")
    assert run("convert", tmp_path / "a.json", tmp_path / "a.xml") == 0
    assert run("convert", tmp_path / "a.xml", tmp_path / "a.png", "--media", picture) == 0
    assert Image.open(tmp_path / "a.png").size == (60, 40)
    said = capsys.readouterr().out
    assert "1 pictures and clips, 1 frames, 2 objects" in said and f"wrote {tmp_path / 'a.png'}" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("a.json", "b.json"), "may be coco, youtube-vis, label-studio, answer, labelme; say which with --to"),
        (("a.json", "b"), "a folder may be davis, yolo"),
        (("a.json", "b.abc"), "says no format"),
        (("a.json", "b.json", "--to", "pascal"), "'pascal' cannot be written"),
        (("a.json", "b.json", "--to", "yolo"), "yolo is a folder"),
        (("a.json", "b.txt", "--to", "coco"), "cannot be written as coco; name .json"),
        (("a.json", "b.xml", "--from", "pascal"), "'pascal' cannot be read"),
        (("a.json", "a.json", "--to", "coco"), "OUT is IN"),
        (("none.json", "b.xml"), "does not exist"),
        (("a.json", "b.npz", "--polygons"), "no choice between masks and polygons"),
        (("a.json", "b.gif", "--media", "none.png"), "none.png does not exist"),
    ],
)
def test_what_cannot_be_converted_is_said_in_one_sentence(
    answer: Answer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    answer.export("a.json", "coco")
    assert run("convert", *words) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_an_answer_is_made_of_what_a_file_holds(answer: Answer, picture: Path, tmp_path: Path) -> None:
    answer.export(tmp_path / "a.json", "coco")
    (found,) = read_annotations(tmp_path / "a.json", media=picture)
    again = Answer.from_annotations(found)
    expected = zip((1, 2), ("cat", ""), answer.objects, strict=True)
    assert [(one.id, one.label, one.track) for one in again.objects] == [
        (i, text, one.track) for i, text, one in expected
    ]
    assert again.objects[0].score == pytest.approx(0.9) and np.array_equal(again.draw(), answer.draw())
    with pytest.raises(MediaError, match="say where they are"):
        Answer.from_annotations(found.drop_pictures())


def test_supervision_is_read_without_the_library() -> None:
    masks = np.zeros((2, 8, 9), bool)
    masks[0, :3, :3], masks[1, 4:, 4:] = True, True

    class Detections:
        mask = masks
        class_id = np.array([1, 0])
        tracker_id = None
        confidence = np.array([0.5, 0.25])
        data = MappingProxyType({})

        def __len__(self) -> int:
            return 2

    one = from_supervision(Detections(), classes=["cat", "dog"], name="a.jpg")
    assert one.labels == {1: "dog", 2: "cat"} and one.scores == {1: (0.5,), 2: (0.25,)} and not one.is_video
    assert np.array_equal(one.tracks[2].mask(0), masks[1])
    assert from_supervision([Detections()] * 3).num_frames == 3


def test_sessions_are_read_without_their_model_and_written_with_one(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = np.random.default_rng(3).integers(0, 255, (5, 40, 60, 3), dtype=np.uint8)
    masks = np.zeros((3, 40, 60), bool)
    masks[:2, 5:25, 10:40] = True
    track = MaskTrack.from_masks(masks)
    with engine.open(Media.from_array(frames, fps=8.0).select([0, 2, 4]), track="all") as session:
        session.add_object(4, track, "cat", [0.5, 0.25, 0.0])
        session.save(tmp_path / "a.session")
    (found,) = read_annotations(tmp_path / "a.session")
    assert found.tracks == {4: track} and found.labels == {4: "cat"} and found.scores == {4: (0.5, 0.25, 0.0)}
    assert found.frame_indices == (0, 2, 4) and found.fps == 8.0
    assert np.array_equal(found.media.frame(1), frames[2])

    assert run("convert", tmp_path / "a.session", tmp_path / "a.npz") == 0
    monkeypatch.setattr("unipixel.cli.options.load_engine", lambda *_: engine)
    words = ("convert", tmp_path / "a.npz", tmp_path / "b.session")
    assert run(*words) == 2 and "say where they are with --media" in capsys.readouterr().err
    assert run("convert", tmp_path / "a.session", tmp_path / "b.session") == 0
    with engine.open_session(tmp_path / "b.session") as session:
        (known,) = session.objects.values()
        assert (known.id, known.label, known.track, known.frame_scores) == (4, "cat", track, (0.5, 0.25, 0.0))


def test_a_session_whose_source_is_gone_still_has_its_objects(engine: Engine, tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "gone.png")
    mask = np.ones((1, 40, 60), bool)
    with engine.open(tmp_path / "gone.png") as session:
        session.add_object(1, MaskTrack.from_masks(mask), "wall")
        session.save(tmp_path / "a.session", frames=False)
    (found,) = read_annotations(tmp_path / "a.session")
    assert found.find_file() == tmp_path / "gone.png"
    (tmp_path / "gone.png").unlink()
    (found,) = read_annotations(tmp_path / "a.session")
    assert not found.has_pictures and found.tracks[1].areas.tolist() == [2400]


def test_annotations_say_what_does_not_fit() -> None:
    track = MaskTrack.from_masks(np.ones((2, 4, 5), bool))
    with pytest.raises(ValueError, match="there are 3 frames, but 2 masks"):
        Annotations("a", (4, 5), {1: track}, frame_indices=[0, 1, 2])
    with pytest.raises(ValueError, match="a mask is 4 x 5, but its frame 5 x 5"):
        Annotations("a", (5, 5), {1: track})
    assert json.dumps(repr(Annotations("a", (4, 5), {1: track})))
