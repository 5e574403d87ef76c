"""``ask`` about several media, standard input and output, ``info``, ``models``, and ``chat`` as people type."""

from __future__ import annotations

import io
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from typer.testing import CliRunner, Result

from unipixel.bench.scene import draw_moving_discs
from unipixel.cli import app
from unipixel.cli.ask import name_folders, split_arguments
from unipixel.cli.chat import take_word
from unipixel.draw import write_mp4, write_png
from unipixel.engine.engine import Engine, load
from unipixel.engine.session import Session

HEIGHT, WIDTH = 48, 64
Run = Callable[..., Result]


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A folder with two pictures, a clip of 3 frames and a picture that is cut off."""
    folder = tmp_path / "photos"
    frames = draw_moving_discs(3, (HEIGHT, WIDTH))
    for number in (1, 2):
        write_png(frames[number], folder / f"{number}.png")
    write_mp4(frames, folder / "clip.mp4")
    (folder / "bad.jpg").write_bytes(b"no picture at all")
    return folder


def invoke(*arguments: object, typed: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed)


@pytest.fixture
def run(checkpoint: Path) -> Run:
    """Run a command with the small checkpoint and short replies."""

    def run(command: str, *arguments: object, typed: str | bytes | None = None) -> Result:
        options = ["--model", checkpoint, "--device", "cpu", "--max-new-tokens", "4"]
        return invoke(command, *arguments, *options, typed=typed)

    return run


def test_a_bad_file_among_several_is_reported_and_does_not_end_the_rest(run: Run, media: Path, tmp_path: Path) -> None:
    names = [media / "1.png", media / "bad.jpg", media / "gone.png", media / "clip.mp4", media / "2.png"]
    result = run("ask", *names, "What is this?", "-o", tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1", "2", "clip"]
    for name, frames in (("1", 1), ("clip", 3), ("2", 1)):
        answer = json.loads((tmp_path / "out" / name / "answer.json").read_text())
        assert answer["question"] == "What is this?" and len(answer["media"]["frame_indices"]) == frames
    complaints = result.stderr.strip().splitlines()
    assert len(complaints) == 3 and "gone.png does not exist" in complaints[0]
    assert "bad.jpg is neither an image" in complaints[1] and "2 of 5 media failed" in complaints[2]
    assert [line for line in result.stdout.splitlines() if line.endswith(":")] == [
        f"{media / name}:" for name in ("1.png", "clip.mp4", "2.png")
    ]


def test_json_of_several_is_a_line_each(run: Run, media: Path) -> None:
    result = run("ask", media / "1.png", media / "bad.jpg", "What is this?", "--json")
    assert result.exit_code == 1
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["media"]["source"] == str(media / "1.png") and "text" in first
    assert second["media"]["source"] == str(media / "bad.jpg") and "neither an image" in second["error"]


def test_nothing_is_loaded_where_nothing_is_there(media: Path) -> None:
    result = invoke("ask", media / "a.png", media / "b.png", "What?", "--model", media / "nowhere")
    assert result.exit_code == 1 and "2 of 2 media failed" in result.stderr and "nowhere" not in result.stderr


def test_pictures_of_a_folder_can_be_asked_about_one_by_one(run: Run, media: Path, tmp_path: Path) -> None:
    (media / "bad.jpg").unlink()
    whole = run("ask", media, "What is this?", "--json")
    assert len(json.loads(whole.stdout)["media"]["frame_indices"]) == 2
    result = run("ask", media, "What is this?", "--pictures", "--json")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["media"]["frame_indices"] for line in result.stdout.splitlines()] == [[0], [0]]


def test_patterns_that_no_shell_has_expanded_are_expanded(run: Run, media: Path) -> None:
    result = run("ask", media / "[12].png", "What is this?", "--json")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["media"]["source"] for line in result.stdout.splitlines()] == [
        str(media / "1.png"),
        str(media / "2.png"),
    ]
    assert "nothing is there" in run("ask", media / "*.gif", "What?").stderr


def test_several_media_need_a_folder(run: Run, media: Path, tmp_path: Path) -> None:
    result = run("ask", media / "1.png", media / "2.png", "What?", "-o", tmp_path / "out.png")
    assert result.exit_code == 2 and "there are 2 media; name a folder" in result.stderr


def test_the_last_word_is_the_question_unless_it_is_a_file(media: Path) -> None:
    picture, other = str(media / "1.png"), str(media / "2.png")
    assert split_arguments([picture], None, has_prompts=False) == ([picture], None)
    assert split_arguments([picture, "What?"], None, has_prompts=False) == ([picture], "What?")
    assert split_arguments([picture, ""], None, has_prompts=True) == ([picture], "")
    assert split_arguments([picture, other], None, has_prompts=True) == ([picture, other], None)
    assert split_arguments([picture, other], "What?", has_prompts=False) == ([picture, other], "What?")
    with pytest.raises(ValueError, match="is a file and no question"):
        split_arguments([picture, other], None, has_prompts=False)
    with pytest.raises(ValueError, match=r"dgo\.png does not exist; if it is the question"):
        split_arguments([picture, "dgo.png"], None, has_prompts=False)


def test_answers_of_several_media_lie_in_folders_of_their_own() -> None:
    names = ["a/cat.png", "a/cat.jpg", "b/cat.jpg", "https://example.org/dog.mp4?x=1", "-", "frames/"]
    assert list(name_folders(names).values()) == ["cat.png", "cat.jpg", "cat.jpg-2", "dog", "stdin", "frames"]


def test_a_picture_may_come_from_standard_input_and_go_to_standard_output(run: Run, media: Path) -> None:
    data = (media / "1.png").read_bytes()
    box = ["--box", "30,20,50,40", "--force"]
    by_name = json.loads(run("ask", media / "1.png", *box, "--json").stdout)
    by_stream = json.loads(run("ask", "-", *box, "--json", typed=data).stdout)
    assert by_stream["objects"] == by_name["objects"]
    drawn = run("ask", "-", *box, "-o", "-", typed=data)
    assert drawn.exit_code == 0, drawn.stderr
    assert Image.open(io.BytesIO(drawn.stdout_bytes)).size == (WIDTH, HEIGHT)
    assert "standard input, which is empty" in run("ask", "-", "What?", typed=b"").stderr
    assert run("ask", media / "1.png", "What?", "-o", "-", "--json").exit_code == 2


def test_quiet_leaves_the_answer_alone(run: Run, media: Path, tmp_path: Path) -> None:
    loud = run("ask", media / "1.png", "What is this?", "-o", tmp_path / "a")
    quiet = run("ask", media / "1.png", "What is this?", "-o", tmp_path / "a", "-q")
    assert "wrote" in loud.stdout and "wrote" not in quiet.stdout and quiet.stderr == ""
    assert loud.stdout.startswith(quiet.stdout.strip())


def test_verbose_shows_where_an_error_came_from(media: Path) -> None:
    assert "Traceback" in invoke("ask", media / "bad.jpg", "What?", "-v").stderr
    assert "Traceback" not in invoke("ask", media / "bad.jpg", "What?").stderr


def test_a_terminal_is_told_what_goes_on(run: Run, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    shown = run("ask", media / "1.png", "What is this?").stderr
    assert "opening" in shown and "loading" in shown and "reading" in shown
    assert "opening" not in run("ask", media / "1.png", "What is this?", "-q").stderr


def test_info_tells_what_media_are(media: Path) -> None:
    picture = json.loads(invoke("info", media / "1.png", "--json").stdout)
    assert (picture["kind"], picture["width"], picture["height"], picture["frames"]) == ("image", WIDTH, HEIGHT, 1)
    assert picture["bytes"] == (media / "1.png").stat().st_size
    clip = json.loads(invoke("info", media / "clip.mp4", "--json").stdout)
    assert (clip["kind"], clip["frames"]) == ("video", 3) and clip["seconds"] == pytest.approx(
        3 / clip["fps"], abs=1e-2
    )
    piped = json.loads(invoke("info", "-", "--json", typed=(media / "1.png").read_bytes()).stdout)
    assert (piped["source"], piped["width"]) == ("standard input", WIDTH)
    refused = invoke("info", media / "bad.jpg")
    assert refused.exit_code == 2 and refused.stdout == "" and "neither an image" in refused.stderr
    shown = invoke("info", media / "clip.mp4").stdout
    assert "video" in shown and str(WIDTH) in shown


def test_info_tells_what_a_session_knows(checkpoint: Path, media: Path, tmp_path: Path) -> None:
    from unipixel.masks import MaskTrack

    masks = np.zeros((3, HEIGHT, WIDTH), dtype=bool)
    masks[1:, 5:20, 5:20] = True
    with load(checkpoint, device="cpu").open(str(media / "clip.mp4"), track="all") as session:
        session.add_object(4, MaskTrack.from_masks(masks), "disc", [0.0, 0.5, 0.7])
        session.save(tmp_path / "talk.session")
    told = json.loads(invoke("info", tmp_path / "talk.session", "--json").stdout)
    assert (told["kind"], told["about"], told["frames"]) == ("saved session", str(media / "clip.mp4"), 3)
    (known,) = told["objects"]
    assert (known["id"], known["label"], known["frames_visible"], known["first_frame"]) == (4, "disc", 2, 1)
    assert "[4]" in invoke("info", tmp_path / "talk.session").stdout
    whole = (tmp_path / "talk.session").read_bytes()
    (tmp_path / "cut.session").write_bytes(whole[: len(whole) // 2])
    assert invoke("info", tmp_path / "cut.session").exit_code == 2


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """A Hub that has the small checkpoint under every id, and the calls that it got."""
    calls: list[dict[str, Any]] = []

    def download(repo_id: str, **options: Any) -> str:
        calls.append({"repo_id": repo_id, **options})
        return str(shutil.copytree(checkpoint, options.get("local_dir", tmp_path / "cache"), dirs_exist_ok=True))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    yield calls


def test_models_are_fetched_by_their_short_names(hub: list[dict[str, Any]], tmp_path: Path) -> None:
    result = invoke("models", "get", "3b", "-o", tmp_path / "mine")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'mine'}\n" and "--model" in result.stderr
    assert hub[0]["repo_id"] == "PolyU-ChenLab/UniPixel-3B" and "*.safetensors" in hub[0]["allow_patterns"]
    assert invoke("models", "get", "someone/else", "-q").stderr == ""
    assert hub[1]["repo_id"] == "someone/else" and "local_dir" not in hub[1]
    for name in ("5b", "nano", str(tmp_path)):
        refused = invoke("models", "get", name)
        assert refused.exit_code == 2 and "cannot be fetched" in refused.stderr


def test_a_fetch_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(repo_id: str, **options: Any) -> str:
        raise LocalEntryNotFoundError("there is no network\nand more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    result = invoke("models", "get", "3b")
    assert result.exit_code == 2 and len(result.stderr.strip().splitlines()) == 1
    assert "cannot be fetched from the Hugging Face Hub (there is no network)" in result.stderr


def test_a_fetch_that_is_not_whole_is_refused(hub: list[dict[str, Any]], checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    whole = checkpoint / "model.safetensors"
    (tmp_path / "kept").write_bytes(whole.read_bytes())
    try:
        whole.write_bytes(whole.read_bytes()[:-100])
        result = invoke("models", "get", "3b", "-o", tmp_path / "mine")
    finally:
        whole.write_bytes((tmp_path / "kept").read_bytes())
    assert result.exit_code == 2 and "is not whole" in result.stderr


def test_models_at_hand_are_told_from_those_that_can_be_had(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner, name in (("me", "mine"), ("you", "other")):
        snapshot = tmp_path / f"models--{owner}--{name}" / "snapshots" / ("0" * 40)
        shutil.copytree(checkpoint, snapshot)
        (snapshot.parent.parent / "refs").mkdir()
        (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text('{"model_type": "bert"}')
    scan = huggingface_hub.scan_cache_dir
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: scan(tmp_path))
    listed = {one["name"]: one for one in json.loads(invoke("models", "--json").stdout)}
    assert list(listed) == ["nano", "me/mine", "3b", "7b"]
    assert Path(listed["me/mine"]["folder"]).is_dir() and listed["nano"]["folder"]
    assert listed["3b"]["folder"] is None and 7e9 < listed["3b"]["bytes"] < 9e9 and listed["3b"]["parameters"] > 3e9
    shown = invoke("models").stdout
    assert "models get 7b" in shown and "me/mine" in shown


@pytest.mark.parametrize(
    ("line", "word", "rest"),
    [
        ("talk.session", "talk.session", ""),
        (r"C:\Users\me\talk.session", r"C:\Users\me\talk.session", ""),
        (r'"C:\my files\a.png" What\'s this?', r"C:\my files\a.png", r"What\'s this?"),
        ("'a b.png' x", "a b.png", "x"),
        ("What's this?", "What's", "this?"),
        ("", "", ""),
    ],
)
def test_words_of_a_chat_are_taken_as_they_are_typed(line: str, word: str, rest: str) -> None:
    assert take_word(line) == (word, rest)


def test_chat_takes_prompts_with_their_question_in_one_line(run: Run, media: Path, tmp_path: Path) -> None:
    mask = tmp_path / "my mask.png"
    Image.fromarray(np.where(np.eye(HEIGHT, WIDTH), 255, 0).astype(np.uint8)).save(mask)
    typed = [
        "help",
        "/point 1=20,14 1=-2,2 What's this?",
        "/box 30,20,50,40 30,20 What is this?",
        f'/mask "{mask}" Where is it?',
        "/objects",
        f'/save "{tmp_path / "my talk.session"}"',
        "QUIT",
        "never read",
    ]
    result = run("chat", media / "1.png", "-o", tmp_path / "turns", typed="\n".join(typed))
    assert result.exit_code == 0, result.output
    assert "/segment" in result.stdout and "noted" not in result.stdout
    (complaint,) = result.stderr.strip().splitlines()
    assert "'30,20' is not a box" in complaint
    turns = sorted((tmp_path / "turns").glob("turn-*.json"))
    asked = [json.loads(path.read_text())["question"] for path in turns]
    assert set(asked) <= {"What's this?", "Where is it?"} and "Where is it?" in asked
    assert (tmp_path / "my talk.session").exists()


def test_ctrl_c_stops_the_answer_and_not_the_chat(
    run: Run, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, pieces_given = Session.stream, []

    def stream(self: Session, *arguments: Any, **options: Any) -> Iterator[Any]:
        pieces = real(self, *arguments, **options)
        try:
            for number, piece in enumerate(pieces):
                pieces_given.append(piece)
                if number == 1:
                    signal.raise_signal(signal.SIGINT)
                yield piece
        finally:
            pieces.close()

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Session, "stream", stream)
    typed = ["/box 1=30,20,50,40", "/segment", "/objects", "quit"]
    result = run("chat", media / "clip.mp4", "-o", tmp_path, typed="\n".join(typed))
    assert result.exit_code == 0, result.output
    assert "stopped; what was tracked so far is kept" in result.stdout and "stopping" in result.stderr
    assert len(pieces_given) == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_ends_a_chat_that_waits_only_when_pressed_twice(
    run: Run, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: Iterator[Any] = iter([KeyboardInterrupt, "/objects", KeyboardInterrupt, KeyboardInterrupt, "never"])

    def read(prompt: str) -> str:
        line = next(lines)
        if line is KeyboardInterrupt:
            raise KeyboardInterrupt
        return line

    monkeypatch.setattr("builtins.input", read)
    result = run("chat", media / "1.png", "-o", tmp_path)
    assert result.exit_code == 130 and result.stdout.count("Ctrl-C once more too") == 2
    assert next(lines) == "never"


def test_chat_reads_its_lines_from_standard_input_and_no_picture(run: Run) -> None:
    assert "the medium cannot" in run("chat", "-").stderr


def test_short_names_lead_to_the_hub(hub: list[dict[str, Any]]) -> None:
    assert isinstance(load("3B", device="cpu"), Engine)
    assert hub[0]["repo_id"] == "PolyU-ChenLab/UniPixel-3B"
