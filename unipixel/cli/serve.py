"""``unipixel serve``: the HTTP API, and the page where one clicks and asks."""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from unipixel.cli import options
from unipixel.cli.options import load_engine
from unipixel.cli.output import check_folder, is_quiet, is_verbose

KEYS_VARIABLE = "UNIPIXEL_API_KEYS"
MEGABYTE = 1 << 20
MAX_OWN_STATES = 16
"""Servers of one user and one model at a time whose sessions are kept without --state."""


def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on; any but loopback needs API keys.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 takes a free one.")] = 8000,
    model: options.Model = "nano",
    base: options.Base = None,
    device: options.Device = "auto",
    dtype: options.DType = None,
    pool_memories: options.PoolMemories = False,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", metavar="DIR", help="Folder in which sessions survive a restart; by default one of your own."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", metavar="DIR", help="Folder of pictures and videos that the page offers as a set to annotate."
        ),
    ] = None,
    no_state: Annotated[bool, typer.Option("--no-state", help="Keep no sessions beyond the server's end.")] = False,
    api_keys: Annotated[
        Path | None,
        typer.Option(
            "--api-keys",
            metavar="FILE",
            help=f"File of API keys, one per line, of which requests must carry one; or set {KEYS_VARIABLE} (commas).",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option("--cors-origin", metavar="URL", help="Allow calls from web pages of this origin. Repeat."),
    ] = None,
    private_urls: Annotated[
        bool, typer.Option("--private-urls", help="Also fetch media from this machine and from private networks.")
    ] = False,
    max_upload_mb: Annotated[
        int, typer.Option("--max-upload-mb", help="Largest uploaded or fetched file, in MB.")
    ] = 512,
    max_pixels: Annotated[int, typer.Option("--max-pixels", help="Largest frame, in pixels.")] = 1 << 25,
    max_frames: Annotated[int, typer.Option("--max-frames", help="Longest clip that is tracked, in frames.")] = 1024,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Longest reply that may be requested.")] = 4096,
    max_sessions: Annotated[
        int, typer.Option("--max-sessions", help="Sessions that may be open at the same time.")
    ] = 64,
    max_queue: Annotated[
        int, typer.Option("--max-queue", help="Requests that may wait; further ones are refused.")
    ] = 64,
    max_running: Annotated[
        int, typer.Option("--max-running", help="Requests under way at a time, whose replies are written together.")
    ] = 8,
    idle_minutes: Annotated[
        float, typer.Option("--idle-minutes", help="Close sessions that were unused for this long.")
    ] = 30.0,
    log_level: Annotated[
        str | None,
        typer.Option(
            "--log-level",
            metavar="LEVEL",
            help="'debug', 'info' (a line for each request; the default), 'warning' (what failed; with -q), 'error'.",
        ),
    ] = None,
    grace_seconds: Annotated[
        float, typer.Option("--grace-seconds", help="Time for running answers to finish at shutdown.")
    ] = 30.0,
) -> None:
    """Serve the web page and the HTTP API: OpenAI's chat, sessions, exports. Ctrl-C stops it after running answers."""
    keys = read_keys(api_keys)
    if state is not None:
        if no_state:
            raise ValueError("--state names a folder for sessions and --no-state refuses one; give one of them")
        check_folder(state, "--state")
    try:
        from unipixel.serve import MediaFolder, ServeSettings, lock_state, run
    except ImportError as error:
        raise ValueError(
            f"the server needs {error.name or 'more'}; install it: pip install 'unipixel[serve]'"
        ) from error
    # a folder's place on this machine is nobody's business
    model_name = Path(model).resolve().name if Path(model).is_dir() else model
    settings = ServeSettings(
        host=host,
        port=port,
        model_name=model_name,
        log_level=log_level or ("warning" if is_quiet() else "debug" if is_verbose() else "info"),
        state=None if state is None else state.resolve(),
        folder=None if folder is None else MediaFolder(folder).root,
        api_keys=keys,
        cors_origins=tuple(cors_origin or ()),
        private_urls=private_urls,
        label_studio_url=os.environ.get("LABEL_STUDIO_URL", ""),
        label_studio_key=os.environ.get("LABEL_STUDIO_API_KEY", ""),
        max_upload_bytes=max_upload_mb * MEGABYTE,
        max_pixels=max_pixels,
        max_frames=max_frames,
        max_tokens=max_tokens,
        max_sessions=max_sessions,
        max_queue=max_queue,
        max_running=max_running,
        idle_s=idle_minutes * 60,
        grace_s=grace_seconds,
    )
    check_port(host, port)  # as the next line, before anybody waits for the model
    if settings.state is not None:
        lock_state(settings.state).release()  # for the server to take again: a refusal need not wait for the model
    elif not no_state:
        settings = replace(settings, state=find_own_state(model_name))
    engine = load_engine(model, device, dtype, base, pool_memories)
    run(engine, settings, lambda address: typer.echo(f"serving {settings.model_name} on {address}", err=True))


def find_own_state(model_name: str) -> Path | None:
    """A folder of this user's for sessions with a model, which another one could not go on with; made if need be.

    Several servers at a time get one each, always in the same order. None, with a warning, where nothing can be
    written.
    """
    from platformdirs import user_state_path

    from unipixel.serve import lock_state

    name = re.sub(r"[^\w.-]+", "-", model_name).strip(".-") or "model"
    root = user_state_path("unipixel", appauthor=False) / "serve"
    reason = "servers are using all of them"
    for number in range(1, MAX_OWN_STATES + 1):
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            check_folder(folder, "the default of --state")
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (ValueError, OSError) as error:
            reason = str(error)
            break
        with suppress(ValueError):  # another server has it
            lock_state(folder).release()
            typer.echo(f"sessions are kept in {folder}", err=True)
            return folder
    typer.echo(f"warning: sessions will not outlive this server ({reason}); --state DIR keeps them", err=True)
    return None


def check_port(host: str, port: int) -> None:
    """Refuse an address that is in use or is none of this machine.

    Raises:
        ValueError: says why nothing can listen there.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        code = error.errno or 0  # below 0 it is about the name of the host
        reason = (os.strerror(code) if code > 0 else error.strerror or str(error)).lower()
        raise ValueError(
            f"cannot listen on {host} port {port} ({reason}); --port takes another, and 0 any that is free"
        ) from error


def read_keys(file: Path | None) -> tuple[str, ...]:
    """API keys from a file and from the environment; never from the command line, which others can read.

    Raises:
        ValueError: the file holds no key.
        OSError: it cannot be read.
    """
    lines = file.read_text(encoding="utf-8").splitlines() if file is not None else []
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if file is not None and not keys:
        raise ValueError(f"--api-keys is {file}, which holds no key; write one per line")
    keys += [key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(",") if key.strip()]
    return tuple(dict.fromkeys(keys))
