"""The command line on a very small checkpoint: what it prints and writes, and how it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from unipixel import __version__
from unipixel.bench.scene import draw_moving_discs
from unipixel.cli import app
from unipixel.cli.commands import CommandGroup
from unipixel.cli.demo import find_clip_scene, find_still_scene, open_example
from unipixel.cli.options import parse_box, parse_mask, parse_point, parse_prompts
from unipixel.draw import write_mp4, write_png
from unipixel.engine.engine import load
from unipixel.errors import MediaError, PromptError
from unipixel.masks import decode_rle, save_davis_png
from unipixel.sample import Box, Mask, Point

HEIGHT, WIDTH = 48, 64
Ask = Callable[..., Result]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``picture.png`` and ``clip.mp4`` of 5 frames."""
    folder = tmp_path_factory.mktemp("media")
    frames = draw_moving_discs(5, (HEIGHT, WIDTH))
    write_png(frames[0], folder / "picture.png")
    write_mp4(frames, folder / "clip.mp4")
    return folder


@pytest.fixture
def ask(checkpoint: Path) -> Ask:
    """Run ``unipixel ask`` with the small checkpoint and short replies."""

    def run(*arguments: object) -> Result:
        fixed = ["--model", checkpoint, "--device", "cpu", "--max-new-tokens", "4"]
        return invoke("ask", *arguments, *fixed)

    return run


def invoke(*arguments: object, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed)


def assert_refused(result: Result, words: str, code: int = 2) -> None:
    """One sentence on stderr with these words, nothing on stdout, no traceback."""
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert result.stdout == "" and "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_help_names_every_command_without_loading_deep_learning() -> None:
    code = (
        "import sys; from unipixel.cli import app; app(['--help'], standalone_mode=False); "
        "print(sorted({'torch', 'transformers', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(name in done.stdout for name in ("ask", "chat", "demo", "stickers", "eval", "bench"))


PICTURE = Path(__file__).parents[1] / "unipixel" / "examples" / "picture.png"


def test_a_question_loads_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    """Seconds differ from machine to machine; what is imported does not."""
    own = [
        "train",
        "eval",
        "serve",
        "batch",
        "bench",
        "ablation",
        "hub",
        "stickers",
        "data.catalogue",
        "data.readers.refer",
    ]
    others = [
        "pandas",
        "scipy",
        "sklearn",
        "peft",
        "fastapi",
        "starlette",
        "uvicorn",
        "ray",
        "pyarrow",
        "torchvision",
        "matplotlib",
        "datasets",
    ]
    forbidden = [*(f"unipixel.{name}" for name in own), *others]
    code = (
        "import gc, os, sys; from unipixel.cli import app; "
        f"app(['ask', {str(PICTURE)!r}, 'Segment the dog.', '-o', {str(tmp_path)!r}], standalone_mode=False); "
        f"print(sorted(set({forbidden}) & set(sys.modules)), os.environ['OMP_WAIT_POLICY'], "
        "gc.isenabled(), gc.get_freeze_count() > 100_000)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    # what torch has made is frozen, and garbage of later work is looked for as ever
    assert done.stdout.splitlines()[-1] == "[] PASSIVE True True"


@pytest.mark.parametrize("command", ["ask", "chat", "demo", "stickers", "bench", "eval"])
def test_every_command_has_help(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0 and "Usage" in result.output


def test_version_is_printed() -> None:
    assert invoke("--version").stdout == f"unipixel {__version__}\n"


def test_json_is_all_that_stdout_holds(ask: Ask, media: Path) -> None:
    result = ask(media / "picture.png", "What is this?", "--point", "20,14", "--force", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["question"] == "What is this?"
    (found,) = answer["objects"]
    assert found["id"] == 1 and len(found["rles"]) == 1
    assert decode_rle(found["rles"][0]).shape == (HEIGHT, WIDTH)


def test_things_are_asked_for_one_by_one_if_wanted(ask: Ask, checkpoint: Path, media: Path) -> None:
    text = "Please segment the dog and the ball."
    engine, picture = load(checkpoint, device="cpu"), media / "picture.png"
    expected = {each: engine.ask(picture, text, each=each, max_new_tokens=4).raw_text for each in (True, False)}
    assert expected[True] != expected[False]
    for each, option in ((True, "--each"), (False, "--no-each")):
        result = ask(media / "picture.png", text, option, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["raw_text"] == expected[each]
    assert_refused(ask(media / "picture.png", text, "--each", "--point", "20,14"), "each is for things that a question")


def test_answer_about_a_video_is_written_to_a_folder(ask: Ask, media: Path, tmp_path: Path) -> None:
    prompts = ["--point", "1=20,14@1", "--point", "1=-2,2@1", "--box", "2=30,20,50,40"]
    result = ask(media / "clip.mp4", *prompts, "--force", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["answer.json", "masks", "overlay.mp4"]
    assert len(list((tmp_path / "out" / "masks").glob("*.png"))) == 5
    assert [one["id"] for one in json.loads((tmp_path / "out" / "answer.json").read_text())["objects"]] == [1, 2]
    assert f"wrote {tmp_path / 'out' / 'overlay.mp4'}" in result.stdout
    assert "5 of 5" in result.stdout


@pytest.mark.parametrize("suffix", [".png", ".gif", ".mp4"])
def test_overlay_has_the_json_beside_it(ask: Ask, media: Path, tmp_path: Path, suffix: str) -> None:
    place = tmp_path / "deep" / f"answer{suffix}"
    result = ask(media / "clip.mp4", "--box", "30,20,50,40", "--force", "--num-frames", "2", "-o", place)
    assert result.exit_code == 0, result.output
    assert place.stat().st_size > 0
    assert json.loads(place.with_suffix(".json").read_text())["media"]["frame_indices"] == [0, 4]


def test_mask_file_becomes_the_object_itself(ask: Ask, media: Path, tmp_path: Path) -> None:
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[10:20, 10:30], ids[30:40, 40:60] = 3, 7
    save_davis_png(ids, tmp_path / "ids.png")
    result = ask(media / "picture.png", "--mask", tmp_path / "ids.png", "--json")
    assert result.exit_code == 0, result.output
    objects = json.loads(result.stdout)["objects"]
    assert [one["id"] for one in objects] == [3, 7]
    assert np.array_equal(decode_rle(objects[0]["rles"][0]), ids == 3)


def test_all_frames_are_tracked_when_asked_for(ask: Ask, media: Path) -> None:
    options = ["--box", "30,20,50,40", "--force", "--json", "--num-frames", 2, "--track", "all", "--start", "best"]
    answer = json.loads(ask(media / "clip.mp4", *options).stdout)
    assert answer["media"]["frame_indices"] == [0, 1, 2, 3, 4]
    assert len(answer["objects"][0]["rles"]) == 5


def test_memories_are_pooled_when_asked_for(ask: Ask, checkpoint: Path, media: Path) -> None:
    options = ["--box", "30,20,50,40", "--force", "--json"]
    (plain, pooled), (still, same) = (
        [json.loads(ask(media / name, *options, *more).stdout)["objects"][0] for more in ([], ["--pool-memories"])]
        for name in ("clip.mp4", "picture.png")
    )
    assert still == same
    # there is nothing to pool before a second memory is there
    assert (
        plain["frame_scores"][:2] == pooled["frame_scores"][:2]
        and plain["frame_scores"][2:] != pooled["frame_scores"][2:]
    )
    engine = load(checkpoint, "cpu", pool_memories=True)
    answer = engine.ask(media / "clip.mp4", prompts=[Box(30, 20, 50, 40)], force=True, max_new_tokens=4)
    assert answer.to_json()["objects"][0]["frame_scores"] == pooled["frame_scores"]
    for command in ("ask", "chat", "eval", "batch", "serve"):
        assert "--pool-memories" in invoke(command, "--help").output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.png", "Hello"], "nowhere.png does not exist"),
        (["MEDIA/picture.png"], "the question is empty"),
        (["MEDIA/picture.png", "", "--point", "x"], "'x' is not a point"),
        (["MEDIA/picture.png", "--point", "64,10"], "outside the frame"),
        (["MEDIA/picture.png", "--point", "6,10@3"], "the prompt's frame is 3"),
        (
            ["MEDIA/picture.png", "--point", "3,3", "--point", "9,9", "--point", "-6,9"],
            "does not say which one",
        ),
        (["MEDIA/picture.png", "--box", "1,2,3"], "'1,2,3' is not a box"),
        (["MEDIA/picture.png", "--box", "9,9,3,3"], "is empty"),
        (["MEDIA/picture.png", "--mask", "nowhere.png"], "nowhere.png"),
        (["MEDIA/picture.png", "--mask", "MEDIA/picture.png"], "object ids need a palette or grey PNG"),
        (["MEDIA/picture.png", "Hello", "--start", "last"], "--start is 'last'"),
        (["MEDIA/picture.png", "Hello", "--track", "none"], "--track is 'none'"),
        (["MEDIA/picture.png", "Hello", "--num-frames", "0"], "num_frames is 0"),
        (["MEDIA/picture.png", "Hello", "--dtype", "int7"], "dtype is 'int7'"),
        (["MEDIA/picture.png", "Hello", "-o", "out.webm"], "out.webm cannot be written"),
        (["MEDIA/picture.png", "Hello", "-o", "MEDIA/picture.png/below"], "picture.png"),
        (["MEDIA/picture.png", "Say <|seg|>"], "<|seg|>"),
        (["MEDIA", "Hello", "--model", "nowhere"], "nowhere is not a folder"),
        (["MEDIA/picture.png", "Hello", "--base", "MEDIA"], "is a whole model, yet a base model"),
    ],
)
def test_bad_input_ends_with_one_sentence_and_exit_code_2(
    arguments: list[str], words: str, checkpoint: Path, media: Path
) -> None:
    given = [argument.replace("MEDIA", str(media)) for argument in arguments]
    model = [] if "--model" in given else ["--model", checkpoint]
    assert_refused(invoke("ask", *given, *model, "--device", "cpu", "--max-new-tokens", "2"), words)


def test_unknown_options_are_bad_input_too() -> None:
    result = invoke("ask", "picture.png", "--colour", "red")
    assert result.exit_code == 2 and "--colour" in result.stderr


def test_chat_goes_on_after_bad_input_and_saves_every_turn(checkpoint: Path, media: Path, tmp_path: Path) -> None:
    typed = [
        "/box 30,20,50",
        "/box 30,20,50,40",
        "/segment",
        "/nonsense",
        "/objects",
        "What is [1]?",
        "/forget 1",
        "/forget 9",
        f"/save {tmp_path / 'talk.session'}",
        "/quit",
        "never read",
    ]
    options = ["--model", checkpoint, "--device", "cpu", "-o", tmp_path / "turns", "--max-new-tokens", "4"]
    result = invoke("chat", media / "clip.mp4", *options, typed="\n".join(typed))
    assert result.exit_code == 0, result.output
    assert len(result.stderr.strip().splitlines()) == 3
    assert "'30,20,50' is not a box" in result.stderr and "no command /nonsense" in result.stderr
    assert "object 9 is not known" in result.stderr
    assert json.loads((tmp_path / "turns" / "turn-01.json").read_text())["objects"][0]["id"] == 1
    assert (tmp_path / "turns" / "turn-01.mp4").exists()
    assert (tmp_path / "talk.session").exists()


def test_chat_undoes_and_makes_again(checkpoint: Path, media: Path, tmp_path: Path) -> None:
    typed = ["/undo", "/box 30,20,50,40", "/segment", "/forget 1", "/undo", "/redo", "/objects", "/quit"]
    options = ["--model", checkpoint, "--device", "cpu", "-o", tmp_path, "--max-new-tokens", "4"]
    result = invoke("chat", media / "picture.png", *options, typed="\n".join(typed))
    assert result.exit_code == 0, result.output
    assert len(result.stderr.strip().splitlines()) == 1 and "undo" in result.stderr
    assert result.stdout.count("changed: [1]") == 2


def test_chat_ends_with_its_input(checkpoint: Path, media: Path) -> None:
    result = invoke("chat", media / "picture.png", "--model", checkpoint, "--device", "cpu", typed="/help\n")
    assert result.exit_code == 0 and "/segment" in result.stdout


def test_demo_asks_scores_and_writes_what_it_names(checkpoint: Path, tmp_path: Path) -> None:
    options = ["--model", checkpoint, "--device", "cpu", "--max-new-tokens", "3"]
    result = invoke("demo", "-o", tmp_path / "demo", *options)
    assert result.exit_code == 0, result.output
    named = [Path(line.removeprefix("wrote ")) for line in result.stdout.splitlines() if line.startswith("wrote ")]
    assert {path.name for path in named} == {"demo.png", "demo.mp4"}
    assert all(path.stat().st_size > 0 for path in named)
    for asked in ("Please segment the", "(a click on the", "What is [1]?", "Options:", "in this video."):
        assert asked in result.stdout
    assert "IoU 0." in result.stdout and result.stdout.count("J&F 0.") == 2


def test_demo_scenes_hold_what_is_shown() -> None:
    still, clip = find_still_scene(), find_clip_scene()
    assert still.is_held_out and clip.is_held_out and len(still.objects) == 4
    leaving = [n for n, item in enumerate(clip.objects) if "leave" in item.does]
    assert len(leaving) == 1 and clip.areas[leaving[0], 0] and not clip.areas[leaving[0], -1]
    assert any(clip.areas[n].all() for n in range(len(clip.objects)))


def test_bundled_files_are_small() -> None:
    for name in ("picture.png", "clip.mp4"):
        with open_example(name) as path:
            assert path.stat().st_size < 150_000


def test_evaluation_prints_a_figure_beside_its_baseline(checkpoint: Path, tmp_path: Path) -> None:
    options = ["--model", checkpoint, "--device", "cpu", "--only", "box", "-n", "2"]
    result = invoke("eval", "stickers", *options, "-o", tmp_path / "figures.json")
    assert result.exit_code == 0, result.output
    assert "box IoU" in result.stdout and "the box filled" in result.stdout
    (figure,) = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert figure["count"] == 2 and 0 < figure["baseline"] < 1
    assert_refused(invoke("eval", "stickers", "--count", "0"), "--count is 0; it must be at least 1")


def test_stickers_are_written_to_look_at(tmp_path: Path) -> None:
    result = invoke("stickers", "-n", 2, "-o", tmp_path / "samples", "--seed", 3)
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "samples").iterdir()}
    assert {"0000.png", "0000.json", "0001.png", "contact_sheet.png"} <= names
    assert "contact_sheet.png" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-n", "0"], "the number of samples is 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--sprites", "nowhere"], "--sprites is nowhere, which is not a folder"),
    ],
)
def test_wrong_wishes_for_stickers_are_refused(arguments: list[str], words: str, tmp_path: Path) -> None:
    assert_refused(invoke("stickers", "-o", tmp_path, *arguments), words)


def test_bench_prints_a_table_or_json(tmp_path: Path) -> None:
    quick = ["bench", "--quick", "--only", "image", "--dtype", "fp32"]
    result = invoke(*quick, "-o", tmp_path / "figures.json")
    assert result.exit_code == 0, result.output
    assert "1 image, 3 objects" in result.stdout
    assert json.loads((tmp_path / "figures.json").read_text())["setting"]["quick"] is True
    assert json.loads(invoke(*quick, "--json").stdout)["ratios"][0]["agreement"] > 0.99
    assert_refused(invoke("bench", "--only", "nothing"), "there is no measurement 'nothing'")


def test_errors_become_exit_codes() -> None:
    trial = typer.Typer(cls=CommandGroup)

    @trial.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    @trial.command()
    def broken() -> None:
        raise ZeroDivisionError("one over\nnothing")

    @trial.command()
    def unreadable() -> None:
        Path("nowhere/at/all").read_text()

    run = CliRunner().invoke
    assert_refused(run(trial, ["interrupted"]), "interrupted; what was written before is kept", 130)
    assert_refused(run(trial, ["broken"]), "failed with ZeroDivisionError: one over nothing; -v shows where", 1)
    assert_refused(run(trial, ["unreadable"]), "nowhere/at/all cannot be used: No such file or directory", 2)


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("120,80", Point(120, 80)),
        ("120.5,.5@3", Point(120.5, 0.5, frame=3)),
        ("-120,80", Point(120, 80, positive=False)),
        ("2=120,80@1", Point(120, 80, frame=1, object_id=2)),
        ("2=-120, 80", Point(120, 80, positive=False, object_id=2)),
    ],
)
def test_points_are_read(text: str, point: Point) -> None:
    assert parse_point(text) == point


@pytest.mark.parametrize("text", ["", "120", "120,80,3", "a,b", "120,80@", "120,80@-1", "=120,80", "120,-80", "nan,1"])
def test_what_is_no_point_is_refused(text: str) -> None:
    with pytest.raises(PromptError, match="is not a point"):
        parse_point(text)


def test_boxes_are_read() -> None:
    assert parse_box("1,2,3.5,4") == Box(1, 2, 3.5, 4)
    assert parse_box("4=1,2,3,4@5") == Box(1, 2, 3, 4, frame=5, object_id=4)


def test_negative_point_joins_the_only_object() -> None:
    joined = parse_prompts(["10,10"], ["20,20"], None, None)
    assert joined == [Point(10, 10, object_id=1), Point(20, 20, positive=False, object_id=1)]
    assert parse_prompts(["-20,20"], None, ["5=1,1,9,9"], None)[1] == Point(20, 20, positive=False, object_id=5)


def test_points_without_a_number_are_objects_of_their_own() -> None:
    assert [p.object_id for p in parse_prompts(["1,1", "2,2"], None, ["1,1,2,2"], None)] == [None, None, None]


def test_mask_files_are_read_with_their_frame_and_number(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    Image.fromarray(np.where(np.eye(8), 255, 0).astype(np.uint8)).save(path)
    (mask,) = parse_mask(f"4={path}@2")
    assert isinstance(mask, Mask) and (mask.object_id, mask.frame) == (4, 2)
    assert np.array_equal(mask.mask, np.eye(8, dtype=bool))
    odd = path.rename(tmp_path / "one@5")
    assert parse_mask(str(odd))[0].frame == 0


def test_mask_files_that_mark_nothing_or_far_too_much_are_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "empty.png")
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "photo.png")
    with pytest.raises(PromptError, match="is empty"):
        parse_mask(str(tmp_path / "empty.png"))
    with pytest.raises(MediaError, match="256 grey values"):
        parse_mask(str(tmp_path / "photo.png"))
    with pytest.raises(MediaError):
        parse_mask(str(tmp_path / "nowhere.png"))
