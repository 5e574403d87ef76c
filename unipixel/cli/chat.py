"""``unipixel chat``: a conversation about one image or video, at the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unipixel.cli import options
from unipixel.cli.options import (
    load_engine,
    open_session,
    open_source,
    parse_box,
    parse_mask,
    parse_point,
    parse_prompts,
    parse_start,
)
from unipixel.cli.output import (
    check_folder,
    describe_error,
    print_error,
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
  /point [ID=][-]X,Y[@FRAME] ...   add points to the next question ('-': beside the object)
  /box [ID=]X1,Y1,X2,Y2[@FRAME]    add a box to the next question
  /mask [ID=]FILE[@FRAME]          add a mask to the next question
  /segment                         segment what the prompts show, without a question
  /objects                         list known objects
  /forget ID                       remove an object
  /undo, /redo                     take back the last change of the objects, or make it again
  /save FILE                       save the session, to be opened with Engine.open_session
  help, quit                       this list; the end, as Ctrl-D
A question may stand behind the prompts: /point 120,80 What is this?
Names with blanks go into quotes. Ctrl-C stops an answer and keeps what is tracked."""

PARSERS: dict[str, Callable[[str], object]] = {"point": parse_point, "box": parse_box, "mask": parse_mask}
_WORD = re.compile(r"""\s*("[^"]*"|'[^']*'|\S+)""")
_NUMBERS = re.compile(r"[-\d.,=@]*,[-\d.,=@]*")
_FILE = re.compile(r"(?:\d+=)?(?P<file>.+?\.(?:png|bmp|gif|tiff?|webp|jpe?g))(?:@\d+)?", re.IGNORECASE)


def take_word(text: str) -> tuple[str, str]:
    """The first word of a line, without the quotes around it, and the rest.

    Backslashes are those of Windows' paths, and an apostrophe inside of a word is one.
    """
    found = _WORD.match(text)
    if found is None:
        return "", ""
    word = found[1]
    if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'":
        word = word[1:-1]
    return word, text[found.end() :].strip()


def is_prompt(kind: str, word: str) -> bool:
    """Whether a word is meant as a further prompt, well written or not, rather than as the question's first."""
    return bool(_FILE.fullmatch(word) if kind == "mask" else _NUMBERS.fullmatch(word))


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
    start: options.Start = None,
    pool_memories: options.PoolMemories = False,
    no_limits: options.NoLimits = False,
    max_new_tokens: options.MaxTokens = 256,
    each: options.Each = None,
) -> None:
    """Ask many questions about one image or video; the session remembers what was found before."""
    check_folder(out, "--out")
    frame = parse_start(start)
    if media == "-":
        raise ValueError("the lines of a chat come from standard input, so that the medium cannot; name a file")
    opened = open_source(media, no_limits)
    engine = load_engine(model, device, dtype, base, pool_memories)
    with open_session(engine, opened, num_frames, track) as session:
        number = session.num_frames
        typer.echo(f"{media}: {number} {'frame' if number == 1 else 'frames'}. help lists the commands, quit ends.")
        TerminalChat(session, out, {"start": frame, "max_new_tokens": max_new_tokens, "each": each}).run()


class TerminalChat:
    """A session at the terminal: the prompts that wait for the next question, and the turns counted."""

    def __init__(self, session: Session, out: Path, ask_options: dict[str, Any]) -> None:
        self._session, self._out, self._ask_options = session, out, ask_options
        self._turn = 0
        self._pending: dict[str, list[str]] = {"point": [], "box": [], "mask": []}
        self._commands: dict[str, Callable[[str], None]] = {
            "point": lambda rest: self._add_prompts("point", rest),
            "box": lambda rest: self._add_prompts("box", rest),
            "mask": lambda rest: self._add_prompts("mask", rest),
            "segment": lambda _: self._ask(None),
            "objects": lambda _: show_objects(self._session.objects.values(), self._session.num_frames),
            "forget": self._forget,
            "undo": lambda _: self._report_change(self._session.undo()),
            "redo": lambda _: self._report_change(self._session.redo()),
            "save": self._save,
            "help": lambda _: typer.echo(HELP),
        }

    def run(self) -> None:
        """Answer until the input ends. Bad input gets one sentence, and the conversation goes on.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed twice while nothing was being answered.
        """
        was_interrupted = False
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                typer.echo()
                return
            except KeyboardInterrupt:
                if was_interrupted:
                    raise
                was_interrupted = True
                typer.echo("\nquit or Ctrl-D ends the chat, Ctrl-C once more too")
                continue
            was_interrupted = False
            if line.lower().lstrip("/") in ("quit", "exit"):
                return
            try:
                self._run_line(line)
            except KeyboardInterrupt:
                print_error("stopped")
            except (UnipixelError, ValueError, OSError) as error:
                print_error(describe_error(error)[1])

    def _run_line(self, line: str) -> None:
        if line.startswith("/"):
            name, rest = take_word(line[1:])
            if name not in self._commands:
                raise ValueError(f"there is no command /{name}; help lists them")
            if rest and name in ("segment", "objects", "undo", "redo", "help"):
                raise ValueError(f"/{name} takes nothing behind it, and there is {rest!r}")
            self._commands[name](rest)
        elif line.lower() == "help":
            typer.echo(HELP)
        elif line:
            self._ask(line)

    def _add_prompts(self, kind: str, rest: str) -> None:
        """Note the prompts at the beginning of a line, and ask the question behind them, if there is one."""
        words: list[str] = []
        while rest:
            word, behind = take_word(rest)
            if words and not is_prompt(kind, word):
                break
            PARSERS[kind](word)  # a bad one is refused now, not with the question
            words.append(word)
            rest = behind
        if not words:
            raise ValueError(f"/{kind} needs something behind it; help shows how it is written")
        self._pending[kind] += words
        if rest:
            self._ask(rest)
        else:
            typer.echo("noted for the next question")

    def _ask(self, text: str | None) -> None:
        prompts = parse_prompts(self._pending["point"], None, self._pending["box"], self._pending["mask"])
        for words in self._pending.values():
            words.clear()
        asking = self._ask_options | ({"each": None} if prompts else {})
        answer = show_stream(self._session, text, can_stop=True, prompts=prompts, **asking)
        if answer is None:
            typer.echo("stopped; what was tracked so far is kept")
            return
        self._turn += 1
        show_objects(answer.objects, self._session.num_frames)
        if answer.objects:
            suffix = ".mp4" if self._session.num_frames > 1 else ".png"
            show_written(save_answer(answer, self._out / f"turn-{self._turn:02d}{suffix}"))

    def _forget(self, rest: str) -> None:
        number = rest.strip("[]")
        if not number.isdecimal():
            raise ValueError("/forget needs the number of one object, such as /forget 2")
        self._session.remove(int(number))
        typer.echo(f"object {number} is forgotten")

    def _report_change(self, ids: Sequence[int]) -> None:
        typer.echo(f"changed: {', '.join(f'[{i}]' for i in ids)}")

    def _save(self, rest: str) -> None:
        name, behind = take_word(rest)
        if not name or behind:
            raise ValueError('/save needs the name of one file, such as /save talk.session or /save "my talk.session"')
        self._session.save(name)
        show_written([Path(name)])
