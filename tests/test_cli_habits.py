"""Habits of command lines: short options, help, what is refused before a model is loaded."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from unipixel import __version__
from unipixel.cli import app


def invoke(*arguments: object, **options: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


def list_commands(name: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield name, command
    for part, inner in getattr(command, "commands", {}).items():
        yield from list_commands((*name, part), inner)


COMMANDS = dict(list_commands((), typer.main.get_command(app)))


def test_short_help_is_the_long_one_everywhere_and_flags_show_no_type() -> None:
    for name in COMMANDS:
        short = invoke(*name, "-h", env={"COLUMNS": "200"})
        assert short.exit_code == 0 and "Usage" in short.output
        assert short.output == invoke(*name, "--help", env={"COLUMNS": "200"}).output
        assert "<bool>" not in short.output, name


def test_version_has_a_short_name() -> None:
    assert invoke("-V").stdout == invoke("--version").stdout == f"unipixel {__version__}\n"


def test_every_command_can_be_quiet_or_verbose() -> None:
    for name, command in COMMANDS.items():
        if not hasattr(command, "commands"):
            assert {"-q", "-v"} <= {word for option in command.params for word in option.opts}, name


def test_options_that_mean_the_same_have_one_name() -> None:
    options = [(name, option) for name, command in COMMANDS.items() for option in command.params]
    for name, option in options:
        words = set(option.opts)
        assert not words & {"--root", "--frames", "--output"}, name
        if "--json" in words:
            assert option.is_flag, f"{name}: --json prints JSON, -o writes files"
        if "--dtype" in words:
            assert "'float32'" in option.help and "fp32" not in option.help, name
        for long, short in (("--out", "-o"), ("--count", "-n")):
            assert (long in words) == (short in words), name


def test_completion_is_offered() -> None:
    words = {word for option in COMMANDS[()].params for word in option.opts}
    assert {"--install-completion", "--show-completion"} <= words
    asked = {"_UNIPIXEL_COMPLETE": "complete_bash", "COMP_WORDS": "unipixel me", "COMP_CWORD": "1"}
    assert CliRunner().invoke(app, env=asked, prog_name="unipixel").stdout.split() == ["memory"]


def test_a_port_in_use_is_found_before_the_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        # the model is not there either, which would be said were it looked for first
        result = invoke("serve", "--no-state", "--port", port, "--model", tmp_path / "nowhere")
    assert result.exit_code == 2 and f"cannot listen on 127.0.0.1 port {port} (address already in use)" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_an_address_of_another_machine_is_found_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIPIXEL_API_KEYS", "a-key-that-is-long-enough")
    result = invoke("serve", "--no-state", "--host", "192.0.2.1", "--port", 8000, "--model", tmp_path / "nowhere")
    assert result.exit_code == 2 and "cannot listen on 192.0.2.1 port 8000" in result.stderr


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can write")
@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", "PICTURE", "What?", "-o", "/proc/out"],
        ["ask", "PICTURE", "What?", "-o", "/proc/out.png"],
        ["chat", "PICTURE", "-o", "/proc/out"],
        ["demo", "-o", "/proc/out"],
        ["stickers", "-n", "1", "-o", "/proc/out"],
        ["batch", "PICTURE", "What?", "-o", "/proc/out"],
        ["train", "finetune", "-o", "/proc/out"],
        ["bench", "-o", "/proc/out.json"],
        ["serve", "--port", "0", "--state", "/proc/out"],
        ["export", "hf", "nano", "/proc/out"],
        ["convert", "PICTURE", "/proc/out", "--to", "davis"],
        ["data", "show", "ade20k", "-o", "/proc/out"],
    ],
)
def test_a_folder_that_cannot_be_written_is_found_before_any_work(arguments: list[str], tmp_path: Path) -> None:
    from PIL import Image

    picture = tmp_path / "picture.png"
    Image.new("RGB", (32, 24)).save(picture)
    result = invoke(*[str(picture) if one == "PICTURE" else one for one in arguments])
    assert result.exit_code == 2 and "/proc cannot be written to" in result.stderr, result.output
    assert len(result.stderr.strip().splitlines()) == 1
