"""``unipixel ask``: one question about an image or a video, or about several of them."""

from __future__ import annotations

import glob
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unipixel.cli import options
from unipixel.cli.options import (
    load_engine,
    open_session,
    open_source,
    parse_prompts,
    parse_start,
    parse_track,
)
from unipixel.cli.output import (
    FAILED,
    check_folder,
    check_out,
    describe_error,
    print_error,
    print_json,
    save_answer,
    show_objects,
    show_stream,
    show_written,
)
from unipixel.errors import MediaError

if TYPE_CHECKING:
    from unipixel.engine.answer import Answer

STREAM = "-"
"""Standard input as the medium, standard output as the place to write."""


def ask(
    media: Annotated[
        list[str],
        typer.Argument(
            metavar="MEDIA... [TEXT]",
            help="Images, videos, folders of frames, URLs, '-' for standard input; then the question. Without one, the "
            "prompted objects are segmented.",
        ),
    ],
    question: Annotated[
        str | None, typer.Option("--text", metavar="TEXT", help="The question, where it could be taken for a file.")
    ] = None,
    point: options.Points = None,
    negative_point: options.NegativePoints = None,
    box: options.Boxes = None,
    mask: options.Masks = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Ask about each picture of a folder by itself; its frames are no clip.")
    ] = False,
    out: options.Out = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the answer as JSON and nothing else; of several media, one on each line."),
    ] = False,
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
    force: Annotated[
        bool, typer.Option("--force", help="Segment what is pointed at even if the model says that nothing is there.")
    ] = False,
) -> None:
    """Ask about an image or a video; the answer comes with masks for the objects it mentions.

    Several media are asked about one after the other. One that fails is reported and does not end the rest; the exit
    code is then 1.
    """
    prompts = parse_prompts(point, negative_point, box, mask)
    names, text = split_arguments(media, question, has_prompts=bool(prompts))
    names = expand_names(names, pictures)
    to_stdout = str(out) == STREAM
    if to_stdout and (as_json or len(names) > 1):
        raise ValueError("-o - writes one picture or clip to standard output; name a folder, or leave out the rest")
    if len(names) == 1:
        check_out(None if to_stdout else out)
    elif out is not None:
        if out.suffix:
            raise ValueError(f"{out} is one file, and there are {len(names)} media; name a folder")
        check_folder(out, "--out")
    asking: dict[str, Any] = {
        "start": parse_start(start),
        "max_new_tokens": max_new_tokens,
        "force": force,
        "each": each,
    }
    parse_track(track)
    if len(names) > 1:
        places = name_folders(names)
        ready = [name for name in names if _is_there(name, as_json)]
    else:
        # before the model is loaded, so that a misspelled name or a bad file is refused at once
        opened, places, ready = open_source(names[0], no_limits), {}, names
    failed = len(names) - len(ready)
    engine = load_engine(model, device, dtype, base, pool_memories) if ready else None
    for name in ready:
        assert engine is not None  # it is loaded where something is ready
        target = out if out is None or len(names) == 1 else out / places[name]
        try:
            source = open_source(name, no_limits) if len(names) > 1 else opened
            with open_session(engine, source, num_frames, track) as session:
                if len(names) > 1 and not as_json:
                    typer.echo(f"{name}:")
                answer = show_stream(session, text, quiet=as_json or to_stdout, prompts=prompts, **asking)
                assert answer is not None
                if to_stdout:
                    typer.echo(answer.text, err=True)
                    write_stdout(answer)
                    return
                written = save_answer(answer, target) if target is not None else []
        except Exception as error:
            if len(names) == 1:
                raise
            failed += 1
            _report_failure(name, describe_error(error)[1], as_json)
            continue
        if as_json:
            print_json(answer.to_json(), one_line=len(names) > 1)
            continue
        show_objects(answer.objects, len(answer.clip.frame_indices))
        show_written(written)
    if failed:
        print_error(f"{failed} of {len(names)} media failed")
        raise typer.Exit(FAILED)


def split_arguments(words: Sequence[str], question: str | None, *, has_prompts: bool) -> tuple[list[str], str | None]:
    """The media and the question, which is the last word, unless that is a file or there is none.

    Args:
        question: of --text.
        has_prompts: whether something is pointed at, which needs no question.

    Raises:
        ValueError: the last word may be meant as either.
    """
    if question is not None or len(words) == 1:
        return list(words), question
    *media, last = words
    is_address = last.startswith(("http://", "https://", "data:")) and " " not in last
    if last.strip() and (last == STREAM or is_address or _exists(last)):
        if has_prompts:
            return list(words), None
        raise ValueError(f"{last!r} is a file and no question; put the question last, or behind --text")
    if _looks_like_file(last):
        raise ValueError(f"{last} does not exist; if it is the question, put it behind --text")
    return media, last


def expand_names(names: Sequence[str], pictures: bool) -> list[str]:
    """Patterns that the shell has left become files, and with ``pictures`` folders the pictures in them.

    Raises:
        MediaError: there is nothing.
    """
    from unipixel.media.sources import list_folder_frames

    files: list[str] = []
    for name in names:
        if any(sign in name for sign in "*?[") and "://" not in name and not _exists(name):
            found = sorted(glob.glob(name))
            if not found:
                raise MediaError(f"nothing is there that {name} stands for")
            files += found
        else:
            files.append(name)
    if pictures:
        files = [
            one
            for name in files
            for one in (map(str, list_folder_frames(Path(name))) if Path(name).is_dir() else [name])
        ]
    return list(dict.fromkeys(files))


def name_folders(names: Sequence[str]) -> dict[str, str]:
    """For each medium the name of the folder for its answer: its own without the ending, where that is one medium's."""
    whole = {
        name: "medium" if name.startswith("data:") else Path(name.rstrip("/\\")).name.partition("?")[0] or "medium"
        for name in names
    }
    stems = [Path(one).stem for one in whole.values()]
    chosen: dict[str, str] = {}
    for name, own in whole.items():
        place = "stdin" if name == STREAM else Path(own).stem if stems.count(Path(own).stem) == 1 else own
        number = 2
        while place in chosen.values():
            place, number = f"{own}-{number}", number + 1
        chosen[name] = place
    return chosen


def write_stdout(answer: Answer) -> None:
    """The picture with its masks as PNG, a clip as MP4, to standard output.

    Raises:
        ValueError: that is a terminal.
    """
    if sys.stdout.isatty():
        raise ValueError("-o - writes a picture, and standard output is a terminal; lead it into a file")
    suffix = ".mp4" if len(answer.clip.frame_indices) > 1 else ".png"
    with tempfile.TemporaryDirectory(prefix="unipixel-") as folder:
        data = answer.save(Path(folder) / f"answer{suffix}").read_bytes()
    stream = typer.get_binary_stream("stdout")
    stream.write(data)
    stream.flush()


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long for a name, or no user of that name
        return False


def _looks_like_file(word: str) -> bool:
    from unipixel.media.images import SUFFIXES
    from unipixel.media.names import VIDEO_SUFFIXES

    return Path(word).suffix.lower() in SUFFIXES | VIDEO_SUFFIXES and not any(sign.isspace() for sign in word)


def _is_there(name: str, as_json: bool) -> bool:
    """Whether a medium may be opened; a file that is missing is reported before a model is loaded."""
    if name == STREAM or "://" in name or name.startswith("data:") or _exists(name):
        return True
    _report_failure(name, f"{name} does not exist", as_json)
    return False


def _report_failure(name: str, sentence: str, as_json: bool) -> None:
    print_error(sentence if name in sentence else f"{name}: {sentence}")
    if as_json:
        record: dict[str, Any] = {"media": {"source": name}, "error": sentence}
        print_json(record, one_line=True)
