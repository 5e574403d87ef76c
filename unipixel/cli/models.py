"""``unipixel models``: the checkpoints that are at hand, those that can be had, and the way to get one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from unipixel.cli.output import check_folder, is_quiet, print_json, stderr, stdout
from unipixel.errors import CheckpointError

models = typer.Typer(help="List the checkpoints that are here and that can be had; get one.")


@models.callback(invoke_without_command=True)
def list_models(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON and nothing else.")] = False,
) -> None:
    """List the checkpoints that are here and that can be had, with their sizes; `models get NAME` fetches one."""
    if ctx.invoked_subcommand is not None:
        return
    with stderr().status("looking for checkpoints"):
        found = list(find_models())
    if as_json:
        print_json(found)
        return
    table = Table("model", "parameters", "size, GB", "where", box=None)
    table.columns[0].no_wrap = True
    for one in found:
        where = one["folder"] or one["problem"] or f"not here; `unipixel models get {one['name']}`"
        table.add_row(one["name"], _write_count(one["parameters"]), f"{one['bytes'] / 1e9:.2f}", where)
    stdout().print(table)
    stdout().print("--model takes these names, any other Hub id, and folders.")


@models.command("get")
def get_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="'3b', '7b', or a Hugging Face Hub id.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Folder for it; by default the cache of the Hub's client."),
    ] = None,
) -> None:
    """Fetch a checkpoint from the Hugging Face Hub. The same command goes on where it was stopped."""
    if out is not None:
        check_folder(out, "--out")
    with stderr().status("asking the Hub"):
        from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

        from unipixel.model.weights import RELEASED_IDS, is_hub_id, resolve_checkpoint

    if name.lower() not in RELEASED_IDS and not is_hub_id(name):
        raise ValueError(f"{name!r} cannot be fetched; name {', '.join(RELEASED_IDS)}, or a Hub id 'owner/model'")
    if Path(name).is_dir():
        raise ValueError(f"{name} is a folder here; --model takes it as it is")
    if is_quiet():
        disable_progress_bars()
    try:
        folder = resolve_checkpoint(name, **({} if out is None else {"local_dir": out}))
    finally:
        if is_quiet():
            enable_progress_bars()
    described = describe_model(name, folder)
    if described["problem"]:
        raise CheckpointError(f"{folder} is not whole ({described['problem']}); the same command goes on with it")
    typer.echo(str(folder))
    if not is_quiet():
        use = name if out is None else out
        typer.echo(f"{_write_count(described['parameters'])} parameters; use it with --model {use}", err=True)


def find_models() -> Iterator[dict[str, Any]]:
    """Every model as name, parameters, bytes, folder and what is wrong with it.

    ``folder`` is None where the model is not here, or not whole, and ``bytes`` then those that it has at the Hub.
    """
    import huggingface_hub
    from huggingface_hub.errors import CacheNotFound

    from unipixel.engine.footprint import count_weight_bytes
    from unipixel.model.presets import build_released_config
    from unipixel.model.weights import RELEASED_IDS, build_empty_model, resolve_checkpoint

    yield describe_model("nano", resolve_checkpoint("nano"))
    try:
        cached = {repo.repo_id: repo for repo in huggingface_hub.scan_cache_dir().repos if repo.repo_type == "model"}
    except CacheNotFound:
        cached = {}
    short = {hub_id: name for name, hub_id in RELEASED_IDS.items()}
    shown = set()
    for hub_id, repo in sorted(cached.items()):
        for revision in sorted(repo.revisions, key=lambda one: -one.last_modified)[:1]:
            if _is_ours(revision.snapshot_path):
                shown.add(hub_id)
                yield describe_model(short.get(hub_id, hub_id), revision.snapshot_path)
    for hub_id, name in short.items():
        if hub_id not in shown:
            model = build_empty_model(build_released_config(name))
            parameters = sum(one.numel() for one in model.parameters())
            size = round(count_weight_bytes(model, "bfloat16"))
            yield {"name": name, "parameters": parameters, "bytes": size, "folder": None, "problem": None}


def describe_model(name: str, folder: Path) -> dict[str, Any]:
    """A model in a folder, by the headers of its files."""
    from unipixel.model.tensor_files import count_parameters, read_folder

    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    try:
        parameters, problem = count_parameters(read_folder(folder)), None
    except CheckpointError as error:
        parameters, problem = 0, str(error)
    where = None if problem else str(folder)
    return {"name": name, "parameters": parameters, "bytes": size, "folder": where, "problem": problem}


def _is_ours(folder: Path) -> bool:
    """Whether a folder of the cache holds a model of this kind rather than anybody's."""
    from unipixel.model.config import MODEL_TYPE
    from unipixel.model.tensor_files import read_json

    try:
        return read_json(folder / "config.json").get("model_type") == MODEL_TYPE
    except (CheckpointError, OSError):
        return False


def _write_count(parameters: int) -> str:
    if not parameters:
        return ""
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"
