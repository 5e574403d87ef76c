"""Many questions about many media, on one device or a cluster: planned once, answered by shards, taken up anywhere.

The items of a source are divided, in their order, into shards of a fixed size. Each shard is a file that is written in
one step under a name that follows from its number, so a shard is there whole or not at all, and whoever writes it twice
writes it in the same place. What a batch was asked is written down before anything is answered: to take it up means to
answer the shards that are not there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipixel.batch.inputs import encode_item, import_arrow, read_items
from unipixel.batch.storage import Store, is_remote, to_local
from unipixel.batch.worker import ANSWERS, NAMED_FAILURES, PLAN, ShardWorker, name_shard, read_shard
from unipixel.checks import check_integer, check_mapping, check_text, join_lines, parse_json
from unipixel.errors import DatasetError

if TYPE_CHECKING:
    from unipixel.engine.engine import Engine

__all__ = ["SETTINGS", "list_missing", "plan_batch", "read_answers", "run_batch"]

HEADER = "batch.json"
"""What a batch is: its items and settings. Written once the whole plan is there."""
SETTINGS: Mapping[str, Any] = {
    "model": "nano",
    "base": None,
    "device": "auto",
    "dtype": None,
    "threads": 0,
    "num_frames": None,
    "track": "sampled",
    "pool_memories": False,
    "each": None,
    "max_new_tokens": 256,
    "shard_size": 32,
    "batch_size": 8,
    "retries": 3,
    "overlays": False,
    "masks": False,
    "coco": False,
}
"""Settings of a batch with their defaults. ``threads``: of one actor on a CPU, 0 leaves it to torch. ``batch_size``:
pictures that the language model reads together. ``retries``: of what fails, and ends of the process that one item may
cost. ``overlays``, ``masks``, ``coco``: further files to write."""
MUTABLE = ("device", "threads", "batch_size", "retries")
"""Settings that answers do not depend on: a batch may go on with others."""
Progress = Callable[[int, int, int], None]
"""Called with the items done, those there are, and those that failed."""


def run_batch(
    source: Any,
    out: str | Path,
    question: str | None = None,
    *,
    actors: int = 0,
    address: str | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Ask about everything in a source, and write the answers; goes on where an earlier run was ended.

    Args:
        source: see `inputs.read_items`.
        out: folder or address such as ``s3://bucket/folder``; shards of answers lie in ``answers/``.
        question: of items that have none.
        actors: models that answer at the same time, on Ray, one for each device; 0: in this process, without Ray.
        address: of a Ray cluster that is there (``"auto"``, ``host:port``); None starts one on this machine.
        engine: the model, if it is loaded already; only without Ray.
        progress: called before the first and after every shard.
        settings: of `SETTINGS`.

    Returns:
        ``items``, ``failed``, ``failures`` (the first few, as text), ``answered_now`` (shards).

    Raises:
        DatasetError: the source or the plan cannot be read.
        ValueError: a setting is wrong, or ``out`` holds another batch.
        OSError: the output cannot be written; what is there stays valid.
    """
    chosen = check_settings(settings)
    import_arrow()
    place = str(out) if is_remote(str(out)) else str(to_local(str(out)).absolute())
    store = Store(place, chosen["retries"])
    total = plan_batch(source, store, question, chosen)
    shards = -(-total // chosen["shard_size"])
    missing = list_missing(store, shards)
    totals: dict[str, Any] = {"items": 0, "failed": 0, "failures": [], "answered_now": len(missing)}

    def count(summary: Mapping[str, Any]) -> None:
        totals["items"] += summary["items"]
        totals["failed"] += summary["failed"]
        totals["failures"] = [*totals["failures"], *summary["failures"]][:NAMED_FAILURES]
        if progress is not None:
            progress(totals["items"], total, totals["failed"])

    if progress is not None:
        progress(0, total, 0)
    # finished shards are only counted
    counter = ShardWorker(store.place, chosen)
    for number in sorted(set(range(shards)) - set(missing)):
        count(counter.answer_shard(number))
    for summary in _answer(missing, store.place, chosen, actors, address, engine):
        count(summary)
    if totals["items"] != total or list_missing(store, shards):
        raise DatasetError(
            f"{out} has answers for {totals['items']} of {total} items; start the same command again to answer the rest"
        )
    return totals


def _answer(
    missing: Sequence[int],
    place: str,
    settings: Mapping[str, Any],
    actors: int,
    address: str | None,
    engine: Engine | None,
) -> Iterator[Mapping[str, Any]]:
    if not missing:
        return
    if actors:
        from unipixel.batch.cluster import answer_shards

        yield from answer_shards(missing, place, settings, actors, address)
        return
    worker = ShardWorker(place, settings, engine)
    for number in missing:
        yield worker.answer_shard(number)


def check_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a batch, with defaults for those that are not named.

    Raises:
        ValueError: there is no such setting, or its value is out of range.
    """
    unknown = next((name for name in settings if name not in SETTINGS), None)
    if unknown is not None:
        raise ValueError(f"there is no setting {unknown!r}; there are {', '.join(SETTINGS)}")
    chosen = {**SETTINGS, **settings}
    for name, low in (("shard_size", 1), ("batch_size", 1), ("retries", 0), ("threads", 0), ("max_new_tokens", 1)):
        check_integer(chosen[name], name, low)
    if chosen["num_frames"] is not None:
        check_integer(chosen["num_frames"], "num_frames", 1)
    return chosen


def plan_batch(source: Any, store: Store, question: str | None, settings: Mapping[str, Any]) -> int:
    """Write down what is asked, shard by shard, or check that it is what was written down before.

    Returns:
        The number of items.

    Raises:
        DatasetError: the source cannot be read, or the plan is damaged.
        ValueError: the output holds a batch of other items or settings.
    """
    known = _read_header(store)
    if known is None and store.list_names(ANSWERS):
        raise ValueError(f"{store.place} holds answers, but no {HEADER} that says to what; choose another -o")
    fixed = {name: value for name, value in settings.items() if name not in MUTABLE}
    if known is not None:
        for name, value in fixed.items():
            before = known["settings"].get(name, SETTINGS[name])  # a batch may be older than the setting
            if before != value:
                raise ValueError(
                    f"{store.place} holds a batch with {name} {before!r}, this one has {value!r}; choose another -o"
                )
    digest, total = hashlib.sha256(), 0
    for number, items in enumerate(_group(read_items(source, question), settings["shard_size"])):
        data = b"".join(map(encode_item, items))
        digest.update(data)
        total += len(items)
        if known is None:
            store.write(f"{PLAN}/{name_shard(number, '.jsonl')}", data)
    header = {"items": total, "digest": digest.hexdigest(), "settings": fixed}
    if known is None:
        store.write(HEADER, json.dumps(header, indent=1).encode())
    elif (known["items"], known["digest"]) != (total, header["digest"]):
        raise ValueError(
            f"{store.place} holds a batch of {known['items']} items, and {source} has {total} now, or others, or other "
            "questions; choose another -o"
        )
    return total


def _group(items: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


def _read_header(store: Store) -> dict[str, Any] | None:
    data = store.read(HEADER)
    if data is None:
        return None
    try:
        header = check_mapping(parse_json(data), "it", ("items", "digest", "settings"))
        check_integer(header["items"], "items", 1)
        check_text(header["digest"], "digest")
        check_mapping(header["settings"], "settings")
    except ValueError as error:
        raise DatasetError(f"{store.place}/{HEADER} is not of a batch ({join_lines(error)})") from error
    return header


def list_missing(store: Store, shards: int) -> list[int]:
    """Numbers of the shards that are not answered yet."""
    there = store.list_names(ANSWERS)
    return [number for number in range(shards) if name_shard(number, ".parquet") not in there]


def read_answers(out: str | Path) -> Iterator[dict[str, Any]]:
    """Rows of a finished batch, in the order of its items; see `worker.build_schema`.

    Raises:
        DatasetError: there is no batch, a shard is not answered yet, or one is damaged.
    """
    store = Store(out)
    header = _read_header(store)
    if header is None:
        raise DatasetError(f"{out} holds no batch; name a folder that `unipixel batch ... -o` has written")
    for number in range(-(-header["items"] // header["settings"]["shard_size"])):
        rows = read_shard(store, number)
        if rows is None:
            raise DatasetError(f"shard {number} of {out} is not answered yet; start the same batch again")
        yield from rows
