"""Answers one shard of a batch and writes it whole: every item becomes one row, with an answer or with an error.

An item may fail, or end the process that answers it. Before anything is asked, a note beside the output says of which
items; whoever takes up the shard after such an end asks those first, each by itself, and gives one up that has ended
the process alone too often.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from unipixel.batch.inputs import decode_items, import_arrow, open_parquet, parse_prompts
from unipixel.batch.storage import Store, fetch_media, repeat
from unipixel.checks import join_lines, parse_json
from unipixel.errors import DatasetError, UnipixelError
from unipixel.media import LOCAL, Media, choose_limits, open_media

if TYPE_CHECKING:
    from unipixel.engine.answer import Answer
    from unipixel.engine.engine import Engine
    from unipixel.engine.requests import Request

PLAN, ANSWERS, ATTEMPTS = "plan", "answers", "attempts"
"""Folders of the output: items by shard, their answers, and what is being asked now."""
NAMED_FAILURES = 10
"""Failures that the summaries of a shard and of a batch name."""
COCO_STRIDE = 1_000_000
"""Image ids of a shard's COCO file: the item's number times this, plus the frame."""


def name_shard(number: int, suffix: str) -> str:
    """What the files of a shard are called."""
    return f"part-{number:06d}{suffix}"


def build_schema() -> Any:
    """Columns of the answers, as a pyarrow schema.

    Raises:
        ValueError: pyarrow is not installed.
    """
    pa = import_arrow()
    rle = pa.struct([("height", pa.int32()), ("width", pa.int32()), ("counts", pa.string())])
    found = pa.struct(
        [
            ("id", pa.int64()),
            ("label", pa.string()),
            ("score", pa.float64()),  # null: not there
            ("frame_scores", pa.list_(pa.float64())),
            ("boxes_xyxy", pa.list_(pa.list_(pa.float32()))),  # null where it is not visible
            ("rles", pa.list_(rle)),
        ]
    )
    return pa.schema(
        [
            ("item", pa.int64()),
            ("id", pa.string()),
            ("media", pa.string()),
            ("question", pa.string()),
            ("text", pa.string()),
            ("raw_text", pa.string()),
            ("objects", pa.list_(found)),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("fps", pa.float64()),
            ("frame_indices", pa.list_(pa.int64())),
            ("num_tokens", pa.int32()),
            ("timings_s", pa.map_(pa.string(), pa.float64())),
            ("seconds", pa.float64()),
            ("error", pa.string()),  # null: it was answered
            ("error_kind", pa.string()),
            ("attempts", pa.int32()),
        ]
    )


class ShardWorker:
    """A model that answers shards.

    Args:
        place: the batch's folder or address.
        settings: see `unipixel.batch.SETTINGS`.
        engine: the model, if it is loaded already; else it is at the first question.
    """

    def __init__(self, place: str, settings: Mapping[str, Any], engine: Engine | None = None) -> None:
        self._settings = settings
        self._retries = int(settings["retries"])
        self._store = Store(place, self._retries)
        self._given = engine

    @cached_property
    def _engine(self) -> Engine:
        if self._given is not None:
            return self._given
        import torch

        from unipixel.engine.engine import load

        if self._settings["threads"]:
            torch.set_num_threads(self._settings["threads"])
        settings = self._settings
        names = ("device", "dtype", "base", "pool_memories")
        return load(settings["model"], **{name: settings[name] for name in names})

    def answer_shard(self, number: int) -> dict[str, Any]:
        """Answer a shard and write it, unless that is done; returns its summary.

        Returns:
            ``shard``, ``items``, ``failed``, ``failures`` (the first few, as text) and ``pid``.

        Raises:
            DatasetError: the plan or a finished shard is damaged.
            OSError: the output cannot be written.
        """
        done = read_shard(self._store, number)
        if done is None:
            items = self._read_items(number)
            first = number * int(self._settings["shard_size"])
            done = self._answer_items(number, first, items)
            self._write_answers(number, done)
        self._store.remove(f"{ATTEMPTS}/{name_shard(number, '.json')}")
        failures = [f"{row['id']}: {row['error']}" for row in done if row["error"] is not None]
        shown = failures[:NAMED_FAILURES]
        return {
            "shard": number,
            "items": len(done),
            "failed": len(failures),
            "failures": shown,
            "pid": os.getpid(),
        }

    def _read_items(self, number: int) -> list[dict[str, Any]]:
        name = f"{PLAN}/{name_shard(number, '.jsonl')}"
        data = self._store.read(name)
        if data is None:
            raise DatasetError(f"{self._store.place}/{name} is gone; it says what is asked, and belongs to the batch")
        return decode_items(data, f"{self._store.place}/{name}")

    def _answer_items(self, number: int, first: int, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows of all items, in their order."""
        note = f"{ATTEMPTS}/{name_shard(number, '.json')}"
        alone, suspects = read_note(self._store.read(note), len(items))
        rows: dict[int, dict[str, Any]] = {}
        coco: dict[int, dict[str, Any]] = {}
        for place in [one for one in suspects if alone.get(one, 0) > self._retries]:
            reason = f"the process that answered it ended {alone[place]} times"
            rows[place] = self._build_row(first + place, items[place], "ProcessEnded", reason, alone[place])
        rest = [place for place in range(len(items)) if place not in suspects]
        size = int(self._settings["batch_size"])
        chunks = [[place] for place in suspects if place not in rows]
        chunks += [rest[begin : begin + size] for begin in range(0, len(rest), size)]
        for chunk in chunks:
            waiting = [place for place in suspects if place not in rows]
            self._store.write(note, write_note(alone, chunk, waiting))
            with ExitStack() as stack:
                for place, outcome, attempts, seconds in self._answer_chunk(stack, chunk, items):
                    row = self._build_row(first + place, items[place], attempts=attempts + alone.get(place, 0))
                    if isinstance(outcome, Exception):
                        row |= {"error": join_lines(outcome), "error_kind": type(outcome).__name__}
                    else:
                        row |= convert_answer(outcome)
                        coco[place] = self._write_extras(first + place, items[place], outcome)
                    rows[place] = row | {"seconds": round(seconds, 6)}
        if self._settings["coco"]:
            merged = merge_coco([(first + place, coco[place]) for place in sorted(coco)])
            self._store.write(f"coco/{name_shard(number, '.json')}", json.dumps(merged).encode())
        return [rows[place] for place in range(len(items))]

    def _answer_chunk(
        self, stack: ExitStack, chunk: Sequence[int], items: Sequence[dict[str, Any]]
    ) -> list[tuple[int, Answer | Exception, int, float]]:
        """Outcome, attempts and seconds of some items: pictures are answered together, clips one after another."""
        outcomes: list[tuple[int, Answer | Exception, int, float]] = []
        pictures: list[tuple[int, Media]] = []
        for place in chunk:
            begin = time.perf_counter()
            try:
                media = self._open(stack, items[place])
            except Exception as error:
                outcomes.append((place, error, 1, time.perf_counter() - begin))
                continue
            if media.num_frames == 1:
                pictures.append((place, media))
            else:
                outcomes.append(self._answer_alone(place, items[place], media))
                media.close()
        if len(pictures) > 1:
            begin = time.perf_counter()
            asked = [partial(self._prepare, items[place], media) for place, media in pictures]
            try:
                answers = self._engine.answer_batch(asked, on_error="return")
            except Exception:  # one of them; which, shows when each is asked by itself
                answers = []
            seconds = (time.perf_counter() - begin) / len(pictures)
            if answers:
                return outcomes + [
                    (place, answer, 1, seconds) for (place, _), answer in zip(pictures, answers, strict=True)
                ]
        return outcomes + [self._answer_alone(place, items[place], media) for place, media in pictures]

    def _answer_alone(
        self, place: int, item: dict[str, Any], media: Media
    ) -> tuple[int, Answer | Exception, int, float]:
        """Ask for one item; what is no fault of its own is tried again."""
        begin = time.perf_counter()
        outcome: Answer | Exception | None = None
        attempts = 0
        while outcome is None or (
            isinstance(outcome, Exception) and not isinstance(outcome, UnipixelError | ValueError)
        ):
            if attempts > self._retries:
                break
            attempts += 1
            try:
                (outcome,) = self._engine.answer_batch([partial(self._prepare, item, media)], on_error="return")
            except Exception as error:  # a row says so, and the batch goes on
                outcome = error
        assert outcome is not None
        return place, outcome, attempts, time.perf_counter() - begin

    def _open(self, stack: ExitStack, item: Mapping[str, Any]) -> Media:
        """The media of an item; files are decoded in another process, which a hostile one may cost."""
        media = str(item["media"])
        limits = replace(choose_limits(media) if media.startswith("http") else LOCAL, isolated=True)

        def fetch() -> Media:
            with ExitStack() as inner:
                place = inner.enter_context(fetch_media(media, limits, self._retries))
                opened = open_media(place, limits=limits)
                stack.enter_context(inner.pop_all())
                stack.callback(opened.close)
                return opened

        if not media.startswith(("http://", "https://")):
            return fetch()
        return repeat(fetch, self._retries)

    def _prepare(self, item: Mapping[str, Any], media: Media) -> Request:
        batch = {name: self._settings[name] for name in ("num_frames", "track", "each", "max_new_tokens")}
        asked = batch | item["options"]
        session = self._engine.open(media, num_frames=asked.pop("num_frames"), track=asked.pop("track"))
        return session.prepare(item["question"], prompts=parse_prompts(item["prompts"]), **asked)

    def _build_row(
        self, number: int, item: Mapping[str, Any], kind: str | None = None, error: str | None = None, attempts: int = 1
    ) -> dict[str, Any]:
        names = {"id": item["id"], "media": item["media"], "question": item["question"]}
        return {"item": number, **names, "error": error, "error_kind": kind, "attempts": attempts}

    def _write_extras(self, number: int, item: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
        """Write the pictures that were asked for; returns the answer as COCO, if that is."""
        name = name_item(number, str(item["media"]))
        with tempfile.TemporaryDirectory(prefix="unipixel-batch-") as folder:
            if self._settings["overlays"]:
                path = Path(folder) / f"{name}{'.mp4' if len(answer.clip.frame_indices) > 1 else '.png'}"
                answer.save(path)
                self._store.write(f"overlays/{path.name}", path.read_bytes())
            if self._settings["masks"]:
                for path in answer.to_davis(Path(folder) / "masks"):
                    self._store.write(f"masks/{name}/{path.name}", path.read_bytes())
        if not self._settings["coco"]:
            return {}
        coco = answer.to_coco()
        for image in coco["images"]:
            image["source"] = item["media"]
            image["file_name"] = image["file_name"] if answer.clip.media.is_video else item["media"]
        return coco

    def _write_answers(self, number: int, rows: Sequence[Mapping[str, Any]]) -> None:
        pa = import_arrow()
        schema = build_schema()
        buffer = pa.BufferOutputStream()
        pa.parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), buffer, compression="zstd")
        self._store.write(f"{ANSWERS}/{name_shard(number, '.parquet')}", buffer.getvalue().to_pybytes())


def name_item(number: int, media: str) -> str:
    """What the files of an item are called: its number, which is its own, and what its media are called."""
    stem = PurePosixPath(media.split("?", 1)[0].replace("\\", "/")).stem if not media.startswith("data:") else "data"
    return f"{number:09d}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', stem)[:60] or 'media'}"


def read_shard(store: Store, number: int) -> list[dict[str, Any]] | None:
    """The rows of a finished shard, None if it is not finished.

    Raises:
        DatasetError: it is damaged.
    """
    name = f"{ANSWERS}/{name_shard(number, '.parquet')}"
    data = store.read(name)
    if data is None:
        return None
    pa = import_arrow()
    try:
        with open_parquet(pa.BufferReader(data)) as file:
            return list(file.read(use_threads=False).to_pylist())
    except pa.ArrowException as error:
        raise DatasetError(f"{store.place}/{name} is damaged ({join_lines(error)}); delete it and run again") from error


def write_note(alone: Mapping[int, int], running: Sequence[int], suspects: Sequence[int]) -> bytes:
    """What a worker leaves for the one after it: ends by item, what it asks now, and what is to be asked alone."""
    return json.dumps(
        {"alone": {str(place): ends for place, ends in alone.items()}, "running": running, "suspects": suspects}
    ).encode()


def read_note(data: bytes | None, count: int) -> tuple[dict[int, int], list[int]]:
    """How often each item was alone when its process ended, and the items that are to be asked alone, in order.

    A note that is damaged is as good as none: it holds no answers.
    """
    if data is None:
        return {}, []
    try:
        note = parse_json(data)
        alone = {int(place): int(ends) for place, ends in note["alone"].items()}
        running, suspects = ([int(place) for place in note[name]] for name in ("running", "suspects"))
    except (TypeError, ValueError, LookupError, AttributeError):
        return {}, []
    if len(running) == 1:
        alone[running[0]] = alone.get(running[0], 0) + 1
    listed = sorted({place for place in (*running, *suspects, *alone) if 0 <= place < count})
    return {place: ends for place, ends in alone.items() if place in listed}, listed


def convert_answer(answer: Answer) -> dict[str, Any]:
    """An answer as the columns of a row."""
    height, width = answer.clip.media.size_hw
    objects = []
    for one in answer.objects:
        boxes = [None if box[0] != box[0] else [float(side) for side in box] for box in one.boxes]
        rles = [
            None if rle is None else {"height": rle["size"][0], "width": rle["size"][1], "counts": rle["counts"]}
            for rle in one.track.rles
        ]
        score = None if isinstance(one.score, str) else round(one.score, 6)
        scores = [round(float(score), 6) for score in one.frame_scores]
        record = {"id": one.id, "label": one.label, "score": score, "frame_scores": scores}
        objects.append(record | {"boxes_xyxy": boxes, "rles": rles})
    return {
        "text": answer.text,
        "raw_text": answer.raw_text,
        "objects": objects,
        "height": height,
        "width": width,
        "fps": answer.clip.fps,
        "frame_indices": list(answer.clip.frame_indices),
        "num_tokens": len(answer.tokens),
        "timings_s": [(stage, round(seconds, 6)) for stage, seconds in answer.timings.items()],
    }


def merge_coco(parts: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """COCO datasets of several items as one: names of categories are shared, ids are made anew.

    Args:
        parts: numbers of the items, and their datasets.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    for number, part in parts:
        names = {one["id"]: one["name"] for one in part["categories"]}
        images += [image | {"id": number * COCO_STRIDE + image["id"]} for image in part["images"]]
        for one in part["annotations"]:
            category = categories.setdefault(names[one["category_id"]], len(categories) + 1)
            image = number * COCO_STRIDE + one["image_id"]
            annotations.append(one | {"id": len(annotations) + 1, "image_id": image, "category_id": category})
    named = [{"id": place, "name": name} for name, place in categories.items()]
    return {"images": images, "annotations": annotations, "categories": named}
