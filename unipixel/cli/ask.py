"""``unipixel ask`` and ``unipixel chat``: one question about an image or a video, or a conversation."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unipixel.cli import options
from unipixel.cli.options import (
    load_engine,
    open_source,
    parse_box,
    parse_mask,
    parse_point,
    parse_prompts,
    parse_start,
    parse_track,
)
from unipixel.cli.output import (
    check_folder,
    check_out,
    print_error,
    print_json,
    save_answer,
    show_objects,
    show_stream,
    show_written,
)
from unipixel.errors import UnipixelError

if TYPE_CHECKING:
    from unipixel.engine.session import Session

HELP = """\
Ask anything; [1] in a question means object 1. Commands:
  /point [ID=][-]X,Y[@FRAME] ...   add a point to the next question ('-': beside the object)
  /box [ID=]X1,Y1,X2,Y2[@FRAME]    add a box to the next question
  /mask [ID=]FILE[@FRAME]          add a mask to the next question
  /segment                         segment what the prompts show, without a question
  /objects                         list known objects
  /forget ID                       remove an object
  /undo, /redo                     take back the last change of the objects, or make it again
  /save FILE                       save the session, to be opened with Engine.open_session
  /help, /quit"""

PARSERS: dict[str, Callable[[str], object]] = {"point": parse_point, "box": parse_box, "mask": parse_mask}


def ask(
    media: options.Medium,
    text: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="The question; without one, the prompted objects are segmented."),
    ] = None,
    point: options.Points = None,
    negative_point: options.NegativePoints = None,
    box: options.Boxes = None,
    mask: options.Masks = None,
    out: options.Out = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON and nothing else.")] = False,
    model: options.Model = "nano",
    base: options.Base = None,
    device: options.Device = "auto",
    dtype: options.DType = None,
    num_frames: options.NumFrames = None,
    track: options.Track = "sampled",
    start: options.Start = "0",
    no_limits: options.NoLimits = False,
    max_new_tokens: options.MaxTokens = 256,
    each: options.Each = None,
    force: Annotated[
        bool, typer.Option("--force", help="Segment what is pointed at even if the model says that nothing is there.")
    ] = False,
) -> None:
    """Ask about an image or a video; the answer comes with masks for the objects it mentions."""
    check_out(out)
    prompts = parse_prompts(point, negative_point, box, mask)
    # before the model is loaded, so that a misspelled name is refused at once
    opened = open_source(media, no_limits)
    engine = load_engine(model, device, dtype, base)
    with engine.open(opened, num_frames=num_frames, track=parse_track(track)) as session:
        answer = show_stream(
            session,
            text,
            quiet=as_json,
            prompts=prompts,
            start=parse_start(start),
            max_new_tokens=max_new_tokens,
            force=force,
            each=each,
        )
        written = save_answer(answer, out) if out is not None else []
    if as_json:
        print_json(answer.to_json())
        return
    show_objects(answer.objects, len(answer.clip.frame_indices))
    show_written(written)


def chat(
    media: options.Medium,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for the masks of each turn.")] = Path(
        "unipixel-chat"
    ),
    model: options.Model = "nano",
    base: options.Base = None,
    device: options.Device = "auto",
    dtype: options.DType = None,
    num_frames: options.NumFrames = None,
    track: options.Track = "sampled",
    start: options.Start = "0",
    no_limits: options.NoLimits = False,
    max_new_tokens: options.MaxTokens = 256,
    each: options.Each = None,
) -> None:
    """Ask many questions about one image or video; the session remembers what was found before."""
    check_folder(out, "--out")
    frame = parse_start(start)
    opened = open_source(media, no_limits)
    engine = load_engine(model, device, dtype, base)
    with engine.open(opened, num_frames=num_frames, track=parse_track(track)) as session:
        typer.echo(f"{media}: {session.num_frames} frame(s). /help lists the commands, /quit ends.")
        TerminalChat(session, out, {"start": frame, "max_new_tokens": max_new_tokens, "each": each}).run()


class TerminalChat:
    """A session at the terminal: the prompts that wait for the next question, and the turns counted."""

    def __init__(self, session: Session, out: Path, ask_options: dict[str, Any]) -> None:
        self._session, self._out, self._ask_options = session, out, ask_options
        self._turn = 0
        self._pending: dict[str, list[str]] = {"point": [], "box": [], "mask": []}
        self._commands: dict[str, Callable[[list[str]], None]] = {
            "point": lambda words: self._add_prompts("point", words),
            "box": lambda words: self._add_prompts("box", words),
            "mask": lambda words: self._add_prompts("mask", words),
            "segment": lambda _: self._ask(None),
            "objects": lambda _: show_objects(self._session.objects.values(), self._session.num_frames),
            "forget": self._forget,
            "undo": lambda _: self._report_change(self._session.undo()),
            "redo": lambda _: self._report_change(self._session.redo()),
            "save": self._save,
            "help": lambda _: typer.echo(HELP),
        }

    def run(self) -> None:
        """Answer until the input ends. Bad input gets one sentence, and the conversation goes on."""
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                typer.echo()
                return
            if line in ("/quit", "/exit"):
                return
            try:
                self._run_line(line)
            except (UnipixelError, ValueError) as error:
                print_error(str(error))

    def _run_line(self, line: str) -> None:
        if line.startswith("/"):
            name, *words = shlex.split(line[1:]) or [""]
            if name not in self._commands:
                raise ValueError(f"there is no command /{name}; /help lists them")
            self._commands[name](words)
        elif line:
            self._ask(line)

    def _add_prompts(self, kind: str, words: list[str]) -> None:
        if not words:
            raise ValueError(f"/{kind} needs something behind it; /help shows how it is written")
        for word in words:
            PARSERS[kind](word)  # a bad one is refused now, not with the question
        self._pending[kind] += words
        typer.echo("noted for the next question")

    def _ask(self, text: str | None) -> None:
        prompts = parse_prompts(self._pending["point"], None, self._pending["box"], self._pending["mask"])
        for words in self._pending.values():
            words.clear()
        asking = self._ask_options | ({"each": None} if prompts else {})
        answer = show_stream(self._session, text, prompts=prompts, **asking)
        self._turn += 1
        show_objects(answer.objects, self._session.num_frames)
        if answer.objects:
            suffix = ".mp4" if self._session.num_frames > 1 else ".png"
            show_written(save_answer(answer, self._out / f"turn-{self._turn:02d}{suffix}"))

    def _forget(self, words: list[str]) -> None:
        if len(words) != 1 or not words[0].isdecimal():
            raise ValueError("/forget needs the number of one object, such as /forget 2")
        self._session.remove(int(words[0]))
        typer.echo(f"object {words[0]} is forgotten")

    def _report_change(self, ids: Sequence[int]) -> None:
        typer.echo(f"changed: {', '.join(f'[{i}]' for i in ids)}")

    def _save(self, words: list[str]) -> None:
        if len(words) != 1:
            raise ValueError("/save needs the name of one file, such as /save talk.session")
        self._session.save(words[0])
        typer.echo(f"wrote {words[0]}")
