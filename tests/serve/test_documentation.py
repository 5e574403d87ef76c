"""Every code block of the documentation is run, or checked by what would read it: `CHECKED_ONLY` says which, and why.

Python runs page by page with nano, in a folder that has the media and data which the pages name. Commands of
``unipixel`` run there too, where that takes seconds; the others go through the real parser of the command line. What
speaks to a server gets one, at the address of this test. A block in another language, or an unknown command, fails.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from live import EXAMPLES, Live, data_url, running
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import unipixel
from unipixel.cli import app
from unipixel.engine.engine import Engine
from unipixel.model.weights import save_model

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PRINTED = "http://127.0.0.1:8000"
"""The server's address in the documentation."""

CHECKED_ONLY = {
    "convert": "needs the files of other tools; tests/formats converts",
    "train": "training takes minutes; tests/train trains",
    "eval": "needs a benchmark's files; tests/eval evaluates",
    "report": "needs an evaluation's output; tests/eval reports",
    "serve": "runs until it is stopped; the other tests in this folder start servers",
    "bench": "takes minutes; tests/test_bench.py measures",
    "data": "needs a dataset's files; tests/data reads miniatures",
    "ask": "needs a checkpoint or media that are not here",
    "batch": "needs many media, or a cluster; tests/batch answers",
    "doctor": "needs a checkpoint that is not here",
}
"""Commands of unipixel that are parsed and not run, unless `runs` says otherwise; and why."""
OTHER_PROGRAMS = {
    "curl": "part of a block that runs with a server, or of the container's",
    "docker": "no containers here; tests/serve/test_container.py checks the recipe",
    "podman": "no containers here; tests/serve/test_container.py checks the recipe",
    "export": "sets a variable",
    "pre-commit": "a tool of contributors",
    "ray": "starts a cluster; tools/scale_batch.py does",
}
"""Programs whose arguments are not looked at; and why."""
PLACEHOLDERS = {"FOLDER": "nano"}
"""Words of the pages that stand for something, and what they stand for here."""
SMALL = {"export", "memory", "demo", "stickers", "chat"}
"""Commands that always run: they need nothing but what is in the package or the folder."""


@dataclass(frozen=True)
class Block:
    """A block of code in a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, and indented ones, which are commands here."""
    lines = page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        start = at
        fence = re.match(r"( *)(```+)(\S*)", lines[at])
        if fence:
            at += 1
            while lines[at].strip() != fence[2]:
                at += 1
            inside = [line.removeprefix(fence[1]) for line in lines[start + 1 : at]]
            yield Block(page, start + 1, fence[3], "\n".join(inside) + "\n")
        elif lines[at].startswith("    ") and not (at and lines[at - 1].strip()):
            while at < len(lines) and lines[at].startswith("    "):
                at += 1
            yield Block(page, start + 1, "bash", "\n".join(line[4:] for line in lines[start:at]) + "\n")
        at += 1


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def written_in(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def speaks_to_server(block: Block) -> bool:
    return PRINTED in block.text and "podman" not in block.text


SHELL = [block for block in written_in("bash") if not speaks_to_server(block)]


def commands_of(script: str) -> list[list[str]]:
    """The words of each command; variables that are set in front of it, substitutions and redirections aside."""
    found = []
    for line in re.sub(r"\\\n", " ", script).splitlines():
        lexer = shlex.shlex(re.sub(r"\$\([^()]*\)", "SUBSTITUTED", line), posix=True, punctuation_chars=";|&")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set(";|&"):
                if words or not re.match(r"\w+=", word):
                    words.append(PLACEHOLDERS.get(word, word))
            elif words:
                found.append([word for word in words if word != "..."])
                words = []
    return found


def unipixel_words(words: list[str]) -> list[str] | None:
    """The arguments of ``unipixel`` in a command, also behind a launcher; None where it is another program's."""
    if words[0] in {"unipixel", "torchrun", "accelerate"}:
        return words[words.index("unipixel") + 1 :]
    return None


def runs(words: list[str], folder: Path) -> bool:
    """Whether a command of unipixel has all it needs in the folder, and takes seconds."""
    if (
        words[0] in SMALL
        or words == ["--version"]
        or words in (["data", "list"], ["train", "list"], ["doctor", "nano"], ["models"])
    ):
        return True
    if words[0] in ("ask", "info"):
        return "--model" not in words and any(folder.glob(words[1]))
    return words[0] == "data" and words[2].partition(":")[0] in {"folder", "coco"}


def parse(words: list[str]) -> None:
    """Let the command line's own parser read a command without running it."""
    command: Any = typer.main.get_command(app)
    context, name, rest = None, "unipixel", words
    while True:
        context = command.make_context(name, list(rest), parent=context)
        if not hasattr(command, "commands"):
            return
        left = [*getattr(context, "_protected_args", ()), *context.args]
        if not left:
            return
        name, command, rest = command.resolve_command(context, left)


def check_other_program(words: list[str]) -> None:
    """Check a command of another program as far as that is possible without running it."""
    if words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
    elif words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for asked in re.findall(r"unipixel\[([\w,]+)\]", " ".join(words)):
            assert set(asked.split(",")) <= set(extras)
    elif words[0] in {"python", "taskset"}:
        (script,) = [word for word in words if word.endswith(".py")]
        source = (ROOT / script).read_text(encoding="utf-8")
        options = [word.partition("=")[0] for word in words[words.index(script) :] if word.startswith("-")]
        assert not [option for option in options if f'"{option}"' not in source]
    else:
        assert words[0] in OTHER_PROGRAMS, f"no check is known for {words[0]!r}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, nano_engine: Engine) -> Path:
    """A folder with the media, datasets and checkpoints that the pages name."""
    folder = tmp_path_factory.mktemp("documentation")
    shutil.copy(EXAMPLES / "picture.png", folder / "photo.png")
    shutil.copy(EXAMPLES / "clip.mp4", folder / "clip.mp4")
    picture = Image.open(folder / "photo.png").convert("RGB")
    picture.save(folder / "photo.jpg")
    (folder / "photos").mkdir()
    picture.save(folder / "photos" / "umbrella.jpg")
    picture.save(folder / "photos" / "dog.jpg")
    mask = np.zeros((picture.height, picture.width), np.uint8)
    mask[20:60, 20:80], mask[80:99, 30:70] = 1, 2
    labels = {"0001": {"1": "skirt", "2": {"name": "shoe", "expressions": ["the left shoe"]}}}
    for name in ("garments", "my_data", "mine"):
        for number in range(1, 5):
            for kind in ("images", "masks"):
                (folder / name / kind).mkdir(parents=True, exist_ok=True)
            picture.save(folder / name / "images" / f"{number:04}.jpg")
            Image.fromarray(mask).save(folder / name / "masks" / f"{number:04}.png")
        (folder / name / "labels.json").write_text(json.dumps(labels))
        (folder / name / "splits.json").write_text('{"train": ["0001", "0002", "0003"], "val": ["0004"]}')
    shutil.copytree(folder / "garments" / "images", folder / "garments-coco" / "images")
    coco = {
        "images": [
            {"id": n, "file_name": f"{n:04}.jpg", "height": picture.height, "width": picture.width} for n in range(1, 5)
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "iscrowd": 0, "area": 2400, "bbox": [20, 20, 60, 40]}
            | {"segmentation": [[20, 20, 80, 20, 80, 60, 20, 60]]}
            for n in range(1, 5)
        ],
        "categories": [{"id": 1, "name": "skirt"}],
    }
    (folder / "garments-coco" / "instances.json").write_text(json.dumps(coco))
    splits = {"train": ["0001.jpg", "0002.jpg", "0003.jpg"], "val": ["0004.jpg"]}
    (folder / "garments-coco" / "splits.json").write_text(json.dumps(splits))
    save_model(nano_engine.model, folder / "UniPixel-base")
    nano_engine.processor.save(folder / "UniPixel-base")
    # a part of a model, as a stage leaves it: what was trained, without the rest
    shutil.copytree(
        folder / "UniPixel-base", folder / "stage3_adapter", ignore=shutil.ignore_patterns("*.safetensors*", "*.bin*")
    )
    weights = {
        name: tensor
        for path in (folder / "UniPixel-base").glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }
    trained = {name: tensor + 1 for name, tensor in weights.items() if "seg_head" in name}
    assert trained
    save_file(trained, folder / "stage3_adapter" / "pytorch_model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def saving(nano_engine: Engine, tmp_path: Path) -> Iterator[Live]:
    with running(nano_engine, state=tmp_path / "state") as live:
        yield live


def test_no_block_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    known = {"bash", "json", "nginx", "python", "text", "xml", "yaml"}
    assert not [f"{block}: {block.language or 'no language'}" for block in BLOCKS if block.language not in known]
    with capsys.disabled():
        print("", dict(Counter(block.language for block in BLOCKS)), end=" ")


PYTHON_PAGES = sorted({block.page for block in written_in("python")})


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.name)
def test_python_runs(page: Path, folder: Path, saving: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": "documentation"}
    for block in written_in("python"):
        if block.page == page:
            text = block.text.replace(PRINTED, saving.url)
            text = text.replace("https://example.org/clip.mp4", data_url(folder / "clip.mp4", "video/mp4"))
            exec(compile("\n" * block.line + text, str(page), "exec"), names)


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_run_or_are_accepted(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True, capture_output=True)
    commands = commands_of(block.text)
    assert commands
    for words in commands:
        ours = unipixel_words(words)
        if ours is None:
            check_other_program(words)
        elif runs(ours, folder):
            done = CliRunner().invoke(app, ours, input="What is this?\n")
            assert done.exit_code == 0, f"{' '.join(words)}: {done.output}"
        else:
            parse(ours)
            assert ours[0] in CHECKED_ONLY, f"it is not known whether {' '.join(words)!r} can be run"


def test_a_wrong_command_would_not_be_accepted() -> None:
    for line in ("unipixel ask photo.jpg --colour red", "unipixel evaluate revos", "unipixel data find refcoco"):
        ((_, *words),) = commands_of(line)
        with pytest.raises(Exception, match=r"[Nn]o such"):
            parse(words)
    with pytest.raises(AssertionError):
        check_other_program(["python", "tools/average_checkpoints.py", "a", "--weight", "1"])
    with pytest.raises(subprocess.CalledProcessError):
        check_other_program(["make", "nothing-of-this-name"])
    with pytest.raises(AssertionError):
        check_other_program(["pip", "install", "unipixel[nothing]"])


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("block", [block for block in written_in("bash") if speaks_to_server(block)], ids=str)
def test_requests_to_a_server_are_answered(block: Block, saving: Live, folder: Path) -> None:
    script = block.text.replace(PRINTED, saving.url).replace("curl ", "curl --silent --show-error --fail-with-body ")
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    if "/v1/chat/completions" in script:
        answer = json.loads(done.stdout)
        expected = saving.engine.ask(str(folder / "photo.png"), "Please segment the dog in this image.")
        assert answer["choices"][0]["message"]["content"] == expected.text
        objects = answer["choices"][0]["message"]["unipixel"]["objects"]
        assert [one["rles"] for one in objects] == [one.to_json()["rles"] for one in expected.objects]
    if "coco.json" in script:
        exported = json.loads((folder / "coco.json").read_text())
        assert exported["annotations"] and exported["images"]
        (folder / "coco.json").unlink()
    if "-X DELETE $API/$ID\n" in script:
        assert done.stdout.count("data: [DONE]") == 2 and "event: masks" in done.stdout
        assert saving.get("/v1/sessions") == {"sessions": []}


@pytest.mark.parametrize("block", written_in("xml"), ids=str)
def test_labelling_configurations_are_usable(block: Block, saving: Live) -> None:
    assert saving.post("/validate", {"config": block.text}) == {"status": "ok"}


@pytest.mark.parametrize("block", written_in("json", "yaml"), ids=str)
def test_data_can_be_parsed(block: Block) -> None:
    assert json.loads(block.text) if block.language == "json" else yaml.safe_load(block.text)


@pytest.mark.parametrize("block", written_in("nginx"), ids=str)
def test_nginx_directives_are_closed(block: Block) -> None:
    """nginx is not here to read them; every line ends as a directive does, and braces match."""
    lines = [re.sub(r"\s*#.*", "", line).strip() for line in block.text.splitlines()]
    assert not [line for line in lines if line and line[-1] not in ";{}"]
    assert block.text.count("{") == block.text.count("}")


SCRIPTS = sorted({*(ROOT / "examples").glob("*.py")} - {ROOT / "examples" / "gradio_app.py"})
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
SHOWN = {"notebook_finetune": ("<img", 1), "notebook_image": ("<img", 4), "notebook_video": ("<video", 2)}
"""What the cells of a notebook show, and how often at least."""


def run_example(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^object 1: .*\d", done.stdout, re.MULTILINE)
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_examples_run_on_the_media_of_the_package(script: Path, tmp_path: Path) -> None:
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 40
    run_example([str(script)], tmp_path)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_and_show_masks(notebook: Path, tmp_path: Path) -> None:
    """Their cells one after the other, as "Run all" does."""
    cells = [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert sum(len(cell["source"]) for cell in cells) <= 40
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    run_example(["-m", "tools.run_notebook", str(notebook), "-o", "page.html"], tmp_path)
    shown, (what, least) = (tmp_path / "page.html").read_text(encoding="utf-8"), SHOWN[notebook.stem]
    assert shown.count(what) >= least and "cannot be read any more" not in shown


def test_the_gradio_app_answers_without_gradio() -> None:
    source = (ROOT / "examples" / "gradio_app.py").read_text(encoding="utf-8")
    assert "import annotations" not in source  # Gradio hands events to parameters whose annotation is a class, not text
    assert len(source.splitlines()) <= 120
    names: dict[str, Any] = {"__name__": "gradio_app"}
    exec(compile(source, "gradio_app.py", "exec"), names)
    picture, words = names["ask_picture"](str(names["EXAMPLES"] / "picture.png"), "", [(96, 96), (100, 100)])
    assert picture.size == (336, 336) and re.match(r".*\[1\]", words) and words.count("\n") == 1
    path, words = names["ask_clip"](str(names["EXAMPLES"] / "clip.mp4"), "Please segment the butterfly.")
    assert unipixel.open_media(path).num_frames > 1 and "[1]" in words
    for given, message in ((None, "nothing to ask about"), (__file__, "neither an image")):
        with pytest.raises(unipixel.MediaError, match=message):
            names["ask_picture"](given, "What is this?", [])
    with pytest.raises(unipixel.PromptError, match="the question has 501 characters"):
        names["ask_clip"](path, "a" * 501)


def test_every_route_of_the_table_exists(saving: Live) -> None:
    described = saving.get("/openapi.json")["paths"]
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    for path in ("/v1/chat/completions", "/v1/models", "/health", "/metrics", "/v1/sessions", "/v1/sessions/upload"):
        assert path in described and f"`{path}`" in text.replace("GET ", "").replace("POST ", "")
    mentioned = set(re.findall(r"…/([a-z]+)", text))
    known = {path.split("/")[4] for path in described if path.startswith("/v1/sessions/{session_id}/")}
    assert known <= mentioned


def test_reference_has_every_option_route_and_name(saving: Live) -> None:
    from tools import docs_pages

    commands = docs_pages.command_line_page()
    asked = CliRunner().invoke(app, ["ask", "--help"], env={"COLUMNS": "200"}).output
    for option in set(re.findall(r"--[a-z][\w-]+", asked)) - {"--help"}:
        assert f"{option}" in commands
    described = saving.get("/openapi.json")
    http = docs_pages.http_page(described)
    for path, operations in described["paths"].items():
        assert all(f"## {method.upper()} `{path}`" in http for method in operations)
    assert all(f"### {name}\n" in http for name in described["components"]["schemas"])
    assert all(f"unipixel.{name}" in docs_pages.python_page() for name in unipixel.__all__)


def test_links_lead_somewhere() -> None:
    """Relative links of every page, on a code host and, redirected, on the site."""
    from tools import docs_pages

    broken = []
    for page in PAGES:
        here = page.relative_to(ROOT).as_posix()
        text = page.read_text(encoding="utf-8")
        broken += [f"{here}: {m[2]}" for m in docs_pages.LINK.finditer(text) if not (page.parent / m[2]).exists()]
    assert not broken
    moved = docs_pages.redirect_links("[a](docs/serving.md#chat) ![b](docs/demo.png) [c](LICENSE)", "README.md", "")
    assert moved == "[a](serving.md#chat) ![b](demo.png) c"
    moved = docs_pages.redirect_links("[d](../README.md) [e](../LICENSE)", "docs/tutorial.md", "https://example.org/u/")
    assert moved == "[d](index.md) [e](https://example.org/u/blob/main/LICENSE)"
