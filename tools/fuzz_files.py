"""Valid files edited at random and handed to the package, which must refuse them in one sentence or make use of them.

    python tools/fuzz_files.py sessions --count 500 --seed 0
    python tools/fuzz_files.py runs --count 100
    python tools/fuzz_files.py checkpoints --count 100

sessions: saved sessions, opened and then used in every way. runs: folders of training, evaluation and ablations, gone
on with. checkpoints: whole models and adapters, loaded and asked. Every case has a seed of its own, by which ``--only``
runs it again. Ends with 1 if anything went wrong inside, a refusal was not one sentence, or a case took too much time
or memory.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import pickle
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from typer.testing import CliRunner

from unipixel import ablation
from unipixel.bench import draw_moving_discs
from unipixel.cli import app
from unipixel.engine.engine import Engine, load
from unipixel.engine.session import Session
from unipixel.errors import CheckpointError, MediaError, PromptError
from unipixel.sample import Box, Mask, Point

MAX_CPU_S = 60.0
"""Processor seconds that one case may take."""
MAX_GROWTH = 1 << 30
"""Bytes by which one case may raise the peak of the process."""
MAX_SPACE = 12 << 30
"""Bytes of address space that the process may have; a bare one of torch takes some 5 GB of it."""
MAX_MESSAGE = 2500
Edit = Callable[[bytes, random.Random], bytes]


@dataclass
class Report:
    """What became of the cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    sentences: dict[str, str] = field(default_factory=dict)
    slowest_s: float = 0.0
    largest: int = 0

    def lines(self) -> Iterator[str]:
        """For people."""
        for outcome, count in sorted(self.outcomes.items()):
            yield f"{count:6d}  {outcome}"
        yield f"{len(self.failures)} failures of {sum(self.outcomes.values())} cases"
        yield f"the slowest took {self.slowest_s:.1f} processor seconds, the largest {self.largest >> 20} MiB more"
        yield from (f"FAILED {one}" for one in self.failures)


class InternalError(Exception):
    """Something that the package may not do with a file, whatever is in it."""


# edits of JSON

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 77, -(2**40), 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e308, 1e-308,
    float("nan"), float("inf"), -float("inf"), "", "x", "nan", "0", "\ud800", "\x00", "é" * 70, "../../x", "/etc/x",
    "http://127.0.0.1:9/x", [], [[]], [0], [None], {}, {"a": {}}, [1, 2], ["x"], [0.5, -3], [[1, 2], [3, 4]],
)  # fmt: skip


def list_places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything inside a value; of long lists the first few and the last."""
    if isinstance(value, dict):
        keys: Any = list(value)
    elif isinstance(value, list):
        keys = sorted({*range(min(len(value), 4)), *([len(value) - 1] if value else [])})
    else:
        return
    for key in keys:
        yield (*path, key)
        yield from list_places(value[key], (*path, key))


def edit_value(tree: Any, rng: random.Random) -> Any:
    """A deep copy with one thing in it changed, removed, added, doubled or exchanged."""
    tree = copy.deepcopy(tree)
    places = list(list_places(tree))
    if not places:
        return rng.choice(ODD_VALUES)
    *above, key = rng.choice(places)
    parent = tree
    for step in above:
        parent = parent[step]
    kind = rng.choice(["odd", "odd", "near", "near", "remove", "add", "double", "exchange", "nest", "wipe"])
    if kind == "odd":
        parent[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    elif kind == "near":
        parent[key] = change_slightly(parent[key], rng)
    elif kind == "remove":
        del parent[key]
    elif kind == "add" and isinstance(parent, dict):
        parent[rng.choice(["", "extra", "0", "mask", "point", "box", "é"])] = copy.deepcopy(rng.choice(ODD_VALUES))
    elif kind in ("add", "double") and isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(parent[key]))
    elif kind == "nest":
        for _ in range(rng.choice([1, 2, 5000])):
            parent[key] = [parent[key]]
    elif kind == "wipe":
        parent[key] = type(parent[key])()
    else:
        *others, last = rng.choice(places)
        with suppress(KeyError, IndexError, TypeError):
            other = tree
            for step in others:
                other = other[step]
            parent[key], other[last] = copy.deepcopy(other[last]), copy.deepcopy(parent[key])
    return tree


def change_slightly(value: Any, rng: random.Random) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice(
            [value + 1, value - 1, -value, value * 2, value + 1000, value * 10**6, float(value), -1 - value]
        )
    if isinstance(value, float):
        return rng.choice([value * 2, -value, value + 1.0, value * 1e30, value / 3, float("nan"), float("inf")])
    if isinstance(value, str) and value:
        place = rng.randrange(len(value))
        return rng.choice([value[:place], value + value, value[:place] + rng.choice("~0Zé\n") + value[place + 1 :]])
    if isinstance(value, list):
        return rng.choice([value[::-1], value[:-1], value + value, value * 50, [value]])
    if isinstance(value, dict):
        return rng.choice([list(value.items()), dict(list(value.items())[1:]), list(value)])
    return rng.choice(ODD_VALUES)


def write_json(tree: Any) -> bytes:
    """A JSON text, also of what Python's own writer refuses: nested very deep, or with very long numbers."""
    limit = sys.getrecursionlimit()
    digits = sys.get_int_max_str_digits()
    sys.setrecursionlimit(30_000)
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(tree).encode()
    except RecursionError:
        return b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    finally:
        sys.setrecursionlimit(limit)
        sys.set_int_max_str_digits(digits)


def edit_json(data: bytes, rng: random.Random) -> bytes:
    """A JSON file with one to three edits."""
    tree = json.loads(data)
    for _ in range(rng.choice([1, 1, 2, 3])):
        with suppress(RecursionError):
            tree = edit_value(tree, rng)
    return write_json(tree)


def edit_lines(data: bytes, rng: random.Random) -> bytes:
    """A file of JSON lines with an edited one, or with lines exchanged, doubled or gone."""
    lines = data.splitlines()
    place = rng.randrange(len(lines))
    kind = rng.choice(["edit", "edit", "edit", "edit", "double", "remove", "exchange", "cut"])
    if kind == "edit":
        lines[place] = edit_json(lines[place], rng).replace(b"\n", b" ")
    elif kind == "double":
        lines.insert(place, lines[place])
    elif kind == "remove":
        del lines[place]
    elif kind == "exchange":
        other = rng.randrange(len(lines))
        lines[place], lines[other] = lines[other], lines[place]
    else:
        lines[place] = lines[place][: rng.randrange(len(lines[place]))]
    return b"\n".join(lines) + b"\n"


# edits of tensors and bytes


def edit_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bits turned over, a part cut off, doubled, zeroed or foreign."""
    if not data:
        return b"\x00"
    place, count = rng.randrange(len(data)), rng.choice([1, 8, 64, 4096])
    kind = rng.choice(["flip", "flip", "flip", "cut", "zero", "garbage", "insert", "empty", "tail"])
    if kind == "flip":
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 4, 32])):
            changed[rng.randrange(rng.choice([min(len(data), 512), len(data)]))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == "cut":
        return data[:place]
    if kind == "zero":
        return data[:place] + bytes(min(count, len(data) - place)) + data[place + count :]
    if kind == "garbage":
        return data[:place] + rng.randbytes(count) + data[place + count :]
    if kind == "insert":
        return data[:place] + rng.randbytes(count) + data[place:]
    return b"" if kind == "empty" else data + rng.randbytes(count)


def edit_tensor(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """A tensor of other values, type or shape."""
    tensor = tensor.clone()
    flat = tensor.reshape(-1)
    kind = rng.choice(["value", "value", "type", "shape", "empty", "large", "transpose", "zero"])
    if kind == "value" and len(flat):
        if tensor.is_floating_point():
            odd = [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, -1.0, 1e9]
            flat[rng.randrange(len(flat))] = rng.choice(odd)
        elif tensor.dtype != torch.bool:
            flat[rng.randrange(len(flat))] = rng.choice([0, 1, 2, 3, 4, 99])
        return tensor
    if kind == "type":
        kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
        return tensor.to(rng.choice(kinds))
    if kind == "shape":
        return rng.choice([flat, tensor[None], flat[: rng.randrange(len(flat) + 1)], tensor[..., None]]).clone()
    if kind == "empty":
        return tensor.new_zeros((0, *tensor.shape[1:]))
    if kind == "large":
        return (
            tensor.expand(1 if not tensor.ndim else -1, *tensor.shape[1:]).repeat(
                rng.choice([2, 50]), *[1] * (tensor.ndim - 1)
            )
            if tensor.ndim
            else tensor[None].repeat(50)
        )
    return tensor.transpose(0, -1).contiguous() if kind == "transpose" and tensor.ndim else torch.zeros_like(tensor)


def edit_table(tensors: dict[str, torch.Tensor], rng: random.Random) -> dict[str, torch.Tensor]:
    """A table of tensors with one of them changed, gone, under another name or besides."""
    names = sorted(tensors)
    if not names:
        return {"extra": torch.zeros(2)}
    name, other = rng.choice(names), rng.choice(names)
    kind = rng.choice(["edit"] * 6 + ["remove", "rename", "add", "exchange"])
    if kind == "edit":
        tensors[name] = edit_tensor(tensors[name], rng)
    elif kind == "remove":
        del tensors[name]
    elif kind == "rename":
        tensors[rng.choice(["", "x", name + "0", name.upper(), "../" + name])] = tensors.pop(name)
    elif kind == "add":
        tensors[rng.choice(["", "extra", name + "0"])] = torch.ones(3)
    else:
        tensors[name], tensors[other] = tensors[other].clone(), tensors[name].clone()
    return tensors


def edit_safetensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with other tensors, or with another header over the same ones."""
    if rng.random() < 0.75:
        tensors = edit_table(dict(load_tensors(data)), rng)
        return save_tensors({name: tensor.contiguous().clone() for name, tensor in tensors.items()})
    length = struct.unpack("<Q", data[:8])[0]
    header = edit_json(data[8 : 8 + length], rng)
    stated = len(header) if rng.random() < 0.8 else rng.choice([0, 1, 2**63, 10**9, len(header) + 7])
    return struct.pack("<Q", stated) + header + data[8 + length :]


class Touch:
    """A pickle that would make a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def edit_torch(data: bytes, rng: random.Random, touched: Path) -> bytes:
    """A torch file with other contents, or one that carries code."""
    if rng.random() < 0.15:
        return pickle.dumps(Touch(touched))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
    if rng.random() < 0.2:
        tree = {"state": Touch(touched), "param_groups": Touch(touched)}
    elif isinstance(tree, dict):
        places = list(list_places(tree))
        *above, key = rng.choice(places)
        parent = tree
        for step in above:
            parent = parent[step]
        if isinstance(parent[key], torch.Tensor) and rng.random() < 0.8:
            parent[key] = edit_tensor(parent[key], rng)
        elif rng.random() < 0.7:
            parent[key] = copy.deepcopy(rng.choice(ODD_VALUES))
        else:
            del parent[key]
    else:
        tree = rng.choice(ODD_VALUES)
    out = io.BytesIO()
    torch.save(tree, out)
    return out.getvalue()


# saved sessions


def edit_frame(data: bytes, rng: random.Random) -> bytes:
    """A PNG that is damaged, of another size or kind, or claims to be huge."""
    kind = rng.choice(["bytes", "size", "mode", "claim", "foreign"])
    with Image.open(io.BytesIO(data)) as picture:
        size = picture.size
        out = io.BytesIO()
        if kind == "size":
            picture.resize((size[0] + rng.choice([-1, 1, 100]), size[1])).save(out, "PNG")
        elif kind == "mode":
            picture.convert(rng.choice(["L", "RGBA", "P", "I;16", "1"]) if rng.random() < 0.9 else "L").save(out, "PNG")
        elif kind == "foreign":
            picture.save(out, rng.choice(["JPEG", "BMP", "GIF"]))
        if out.tell():
            return out.getvalue()
    if kind == "claim":
        return (
            data[:16] + struct.pack(">II", *rng.choice([(2**31 - 1, 2**31 - 1), (50_000, 50_000), (0, 0)])) + data[24:]
        )
    return edit_bytes(data, rng)


def edit_zip(entries: dict[str, bytes], rng: random.Random) -> bytes:
    """A session's zip with other entries, other packing, or with sizes in its directory that are not true."""
    kinds = dict.fromkeys(entries, zipfile.ZIP_DEFLATED)
    more: list[tuple[str, bytes]] = []
    kind = rng.choice(["rename", "remove", "add", "double", "packing", "bomb", "size", "crypt", "bytes", "exchange"])
    name = rng.choice(sorted(entries))
    if kind == "rename":
        new = rng.choice(["../" + name, "/" + name, name.upper(), "frames/999999.png", "", "frames/"])
        entries = {new if one == name else one: data for one, data in entries.items()}
        kinds = dict.fromkeys(entries, zipfile.ZIP_DEFLATED)
    elif kind == "remove":
        del entries[name]
    elif kind == "add":
        more.append((rng.choice(["../../evil", "/tmp/evil", "frames/000099.png", "x" * 300, "frames/"]), b"x"))
    elif kind == "double":
        more.append((name, entries[rng.choice(sorted(entries))]))
    elif kind == "packing":
        kinds[name] = rng.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    elif kind == "bomb":
        filler = rng.choice([b" ", b"[", b'[[],"",', b"\x00"])
        entries[name] = rng.choice([b"", entries[name]]) + filler * (rng.choice([40, 200]) * 2**20 // len(filler))
    elif kind == "exchange":
        other = rng.choice(sorted(entries))
        entries[name], entries[other] = entries[other], entries[name]
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(out, "w") as file:
            for one, data in [*entries.items(), *more]:
                file.writestr(zipfile.ZipInfo(one or "x"), data, kinds.get(one, zipfile.ZIP_DEFLATED), 1)
    data = out.getvalue()
    if kind == "bytes":
        return edit_bytes(data, rng)
    if kind in ("size", "crypt"):
        changed, place = bytearray(data), data.find(b"PK\x01\x02")
        if kind == "crypt":
            changed[place + 8] |= 1
        else:
            struct.pack_into("<I", changed, place + rng.choice([20, 24]), rng.choice([0, 1, 100, 2**31, 2**32 - 2]))
        return bytes(changed)
    return data


def edit_session(source: Path, target: Path, rng: random.Random) -> None:
    """A copy of a session with one to three edits, most of them of its record."""
    with zipfile.ZipFile(source) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    kind = rng.choice(["record"] * 6 + ["tensors"] * 4 + ["frame", "zip", "zip", "bytes"])
    if kind == "record":
        entries["session.json"] = edit_json(entries["session.json"], rng)
    elif kind == "tensors":
        entries["tensors.safetensors"] = edit_safetensors(entries["tensors.safetensors"], rng)
    elif kind == "frame":
        names = [name for name in entries if name.endswith(".png")]
        for name in names[: rng.choice([1, 1, len(names)])] if rng.random() < 0.5 else names[-1:]:
            entries[name] = edit_frame(entries[name], rng)
    if kind == "zip":
        target.write_bytes(edit_zip(entries, rng))
        return
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    target.write_bytes(edit_bytes(out.getvalue(), rng) if kind == "bytes" else out.getvalue())


def build_sessions(engine: Engine, folder: Path) -> list[Path]:
    """Sessions in which everything has happened, in order of what they hold."""
    frames, still = draw_moving_discs(4, (60, 80)), draw_moving_discs(1, (48, 64), 1)[0]
    mask = np.zeros((60, 80), dtype=bool)
    mask[5:30, 8:50] = True
    paths = []
    for number, media in enumerate((frames, frames, still)):
        with engine.open(list(media) if media.ndim == 4 else media) as session:
            size = session.media.size_hw
            session.ask("What is this?", prompts=[Point(40, 30), Box(5, 5, 40, 40)], force=True, max_new_tokens=6)
            if number == 0:
                session.segment(Mask(mask), label="a blob")
                session.correct(1, [Point(50, 40, frame=2), Point(5, 5, frame=2, positive=False)])
                session.correct(2, Mask(mask, frame=1))
                session.ask("What is [1]?", max_new_tokens=4)
                session.remove(2)
            elif number == 2:
                session.rename(1, "renamed")
                session.correct(1, Box(1, 1, size[1] / 2, size[0] / 2))
            paths.append(folder / f"{number}.session")
            session.save(paths[-1])
    return paths


def use_session(session: Session, path: Path) -> None:
    """Everything that can be done with an open session; what it refuses, it must refuse as a prompt."""

    def attempt(work: Callable[[], Any]) -> None:
        with suppress(PromptError):
            work()

    last = session.num_frames - 1
    for one in session.objects.values():
        json.dumps(one.to_json(), allow_nan=False)
    attempt(lambda: session.ask("What is this?", max_new_tokens=3))
    ids = list(session.objects)
    for number in ids[:2]:
        attempt(lambda number=number: session.ask(f"Where is [{number}]?", max_new_tokens=2))
        attempt(lambda number=number: session.correct(number, Point(3, 3, frame=last)))
        attempt(lambda number=number: session.remove_prompt(number, -1))
        attempt(lambda number=number: session.remove_prompt(number, 0))
        attempt(lambda number=number: session.rename(number, "other"))
    attempt(lambda: session.segment(Box(2, 2, 20, 20), force="always"))
    attempt(session.undo)
    attempt(session.redo)
    attempt(session.undo)
    attempt(session.track)
    attempt(lambda: session.track(start=last))
    answer = session.ask("Tell.", prompts=[Point(9, 9)], max_new_tokens=2, force=True)
    json.dumps(answer.to_json(), allow_nan=False)
    answer.to_coco()
    answer.draw(0)
    session.save(path)


def check_session(engine: Engine, sources: list[Path], folder: Path, rng: random.Random) -> str:
    """One edited session; returns what became of it."""
    path, again = folder / "edited.session", folder / "again.session"
    edit_session(rng.choice(sources), path, rng)
    try:
        session = engine.open_session(path)
    except (MediaError, CheckpointError) as error:
        return f"refused: {check_sentence(str(error), path)}"
    with session:
        use_session(session, again)
    with engine.open_session(again) as restored:
        restored.ask("What is this?", max_new_tokens=1)
    return "accepted"


def check_sentence(message: str, *paths: Path) -> str:
    """The message of a refusal without its paths; what is no one short sentence for people is an error."""
    if "\n" in message or len(message) > MAX_MESSAGE or "Traceback" in message:
        raise InternalError(f"the refusal is no sentence: {message[:2000]!r}")
    for path in paths:
        message = message.replace(str(path), "FILE")
    return message


# checkpoints


def build_checkpoints(folder: Path) -> list[Path]:
    """A whole model, one in shards, and an adapter over the first."""
    from dataclasses import replace

    from unipixel.model.weights import load_model, save_model
    from unipixel.processing import Processor
    from unipixel.train.recipe import Lora, Start
    from unipixel.train.recipes import RECIPES
    from unipixel.train.run import run

    whole = build_checkpoint(folder / "whole")
    save_model(load_model(whole), folder / "shards", max_shard_size="300KB")
    Processor.from_folder(whole).save(folder / "shards")
    recipe = replace(
        RECIPES["debug"](),
        start=Start(model=str(whole)),
        steps=1,
        evaluation=replace(RECIPES["debug"]().evaluation, samples=0),
        trainable=("seg_head.",),
        lora=Lora(rank=2, alpha=4.0),
        save="adapter",
    )
    run(recipe, folder / "training", workers=0, report=("none",))
    return [whole, folder / "shards", folder / "training" / "final"]


def edit_file(path: Path, rng: random.Random, touched: Path) -> None:
    """A file of a folder with other contents, or none."""
    data, chance = path.read_bytes(), rng.random()
    if chance < 0.04:
        path.unlink()
    elif chance < 0.07:
        path.unlink()
        path.mkdir()
    elif chance < 0.2:
        path.write_bytes(edit_bytes(data, rng))
    elif path.suffix == ".json":
        path.write_bytes(edit_json(data, rng))
    elif path.suffix == ".jsonl":
        path.write_bytes(edit_lines(data, rng))
    elif path.suffix == ".safetensors":
        path.write_bytes(edit_safetensors(data, rng))
    elif path.suffix in (".pt", ".pth", ".bin"):
        path.write_bytes(edit_torch(data, rng, touched))
    else:
        path.write_bytes(edit_bytes(data, rng))


def check_checkpoint(sources: list[Path], folder: Path, rng: random.Random) -> str:
    """One edited checkpoint; returns what became of it."""
    target, touched, again = folder / "edited", folder / "touched", folder / "again.session"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(rng.choice(sources), target)
    names = sorted(target.iterdir())
    weights = [one for one in names if one.suffix in (".safetensors", ".bin")]
    settings = [one for one in names if one.name in ("config.json", "sam2_config.json", "preprocessor_config.json")]
    edit_file(rng.choice(rng.choice([names, weights, settings, settings])), rng, touched)
    try:
        engine = load(target, device="cpu")
    except CheckpointError as error:
        return f"refused: {check_sentence(str(error), target).partition(' (`unipixel doctor')[0]}"
    finally:
        if touched.exists():
            raise InternalError("code in a file was run")
    frames = list(draw_moving_discs(3, (60, 80)))
    try:
        with engine.open(frames) as session:
            session.segment([Point(40, 30), Box(5, 5, 40, 40)], force=True)
            use_session(session, again)
    except (MediaError, PromptError) as error:
        return f"accepted, unfit for the clip: {check_sentence(str(error), target)}"
    return "accepted"


# folders of training, evaluation and ablations

TRAINING = ["train", "debug", "--workers", "0", "--report", "none", "--set", "evaluation.samples=0", "--set", "turns=1"]
VARIANTS = {
    "whole": [],
    "muon": ["--set", "muon=2"],
    "adapter": ["--set", "save=adapter", "--set", "lora.rank=2", "--set", "trainable=seg_head."],
}
EVALUATED = ("refcoco/testA", "mevis/valid_u", "mevis/valid", "reason_seg/val", "refcoco/val")
FIGURES = {"refer": 0.5, "prompt": 0.25}


def invoke(*arguments: object) -> tuple[int, str]:
    """Exit code of a command, and the last line that it wrote on stderr."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    lines = result.stderr.strip().splitlines()
    return result.exit_code, lines[-1] if lines else ""


def judge_command(code: int, line: str, *paths: Path) -> str:
    """What became of a command: it did its work, or refused it in one sentence."""
    if code == 0:
        return "accepted"
    if code != 2 or not line.startswith("unipixel: "):
        raise InternalError(f"the command ended with {code}: {line[:600]!r}")
    return f"refused: {check_sentence(line.removeprefix('unipixel: '), *paths)}"


def build_runs(folder: Path) -> Path:
    """A folder with runs of two steps, evaluations on small data, and an ablation's figures."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from miniatures import write_miniatures

    model = build_checkpoint(folder / "model")
    for name, changes in VARIANTS.items():
        start = ["--model", model] if name == "adapter" else []
        run = folder / "training" / name
        code, line = invoke(*TRAINING, *changes, *start, "--set", "steps=2", "--set", "save_steps=1", "-o", run)
        if code:
            raise RuntimeError(f"the run {name} failed: {line}")
        shutil.rmtree(run / "final")
        shutil.rmtree(run / "checkpoint-1")
    write_miniatures(folder / "data")
    for name in EVALUATED:
        out = folder / "eval" / name.replace("/", "-")
        code, line = invoke("eval", name, "--model", "perfect", "--data-root", folder, "-o", out, "--limit", 4)
        if code:
            raise RuntimeError(f"the evaluation {name} failed: {line}")
    ablation._run_sticker_world = lambda *_: dict(FIGURES)  # what is edited are the figures, not the training
    run_tokens(folder / "ablation")
    for name in VARIANTS:  # what is not edited must be gone on with, or nothing that is refused says anything
        shutil.copytree(folder / "training" / name, folder / "edited")
        outcome = resume_training(folder, name, folder / "edited")
        if outcome != "accepted":
            raise RuntimeError(f"the run {name} cannot be gone on with: {outcome}")
        shutil.rmtree(folder / "edited")
    return folder


def resume_training(source: Path, name: str, run: Path) -> str:
    """Go on with a run for one more step; returns what became of it."""
    start = ["--model", source / "model"] if name == "adapter" else []
    changes = [*VARIANTS[name], *start, "--set", "steps=3", "--set", "save_steps=1"]
    outcome = judge_command(*invoke(*TRAINING, *changes, "-o", run), run)
    if outcome == "accepted":
        load(run / "final", device="cpu")
    return outcome


def run_tokens(out: Path) -> tuple[int, str]:
    """The smallest ablation."""
    return invoke("train", "ablation", "tokens", "-o", out, "--set", "steps=1", "--count", "1")


def check_run(source: Path, folder: Path, rng: random.Random) -> str:
    """One edited folder of a run; returns what became of it."""
    target, touched = folder / "edited", folder / "touched"
    shutil.rmtree(target, ignore_errors=True)
    kind = rng.choice(["training"] * 5 + ["eval"] * 3 + ["ablation"])
    if kind == "ablation":
        shutil.copytree(source / kind, target)
        edit_file(target / "tokens.json", rng, touched)
        return judge_command(*run_tokens(target), target)
    name = rng.choice(sorted(path.name for path in (source / kind).iterdir()))
    shutil.copytree(source / kind / name, target)
    if kind == "eval":
        (path,) = target.glob("*/*/*.jsonl")
        edit_file(path, rng, touched)
        again = ["--data-root", source, "-o", target]
        commands: list[list[Any]] = [
            ["report", target, "-o", target],
            ["report", target, "--rescore", *again],
            ["eval", name.replace("-", "/"), "--model", "perfect", "--limit", "4", *again],
        ]
        return judge_command(*invoke(*rng.choice(commands)), target)
    names = [path for path in target.rglob("*") if path.is_file()]
    states = [path for path in names if path.suffix in (".pt", ".pth", ".bin") or path.name == "trainer_state.json"]
    records = [path for path in names if path.name in ("recipe.json", "log.jsonl")]
    edit_file(rng.choice(rng.choice([names, states, states, records])), rng, touched)
    outcome = resume_training(source, name, target)
    if touched.exists():
        raise InternalError("code in a file was run")
    return outcome


# cases


def run_cases(count: int, seed: int, only: int | None, check: Callable[[random.Random], str], report: Report) -> None:
    """Run the cases and note what became of each."""
    for number in range(count) if only is None else [only]:
        rng = random.Random(f"{seed}/{number}")
        peak, began = read_peak(), time.process_time()
        try:
            outcome = check(rng)
        except Exception as error:  # whatever it is
            outcome = f"internal: {type(error).__name__}"
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            report.failures.append(f"case {number}: {type(error).__name__} at {place}: {str(error)[:300]}")
            print(report.failures[-1], file=sys.stderr, flush=True)
            if only is not None:
                traceback.print_exc()
        if only is not None:
            print(outcome)
        seconds, growth = time.process_time() - began, read_peak() - peak
        report.slowest_s, report.largest = max(report.slowest_s, seconds), max(report.largest, growth)
        if seconds > MAX_CPU_S or growth > MAX_GROWTH:
            report.failures.append(f"case {number}: took {seconds:.1f} processor seconds and {growth >> 20} MiB")
            print(report.failures[-1], file=sys.stderr, flush=True)
        kind, _, sentence = outcome.partition(": ")
        report.outcomes[kind] += 1
        if kind == "refused":
            report.sentences.setdefault(sentence.rpartition("(")[2][:40], sentence)
        if (number + 1) % 25 == 0:
            print(f"{number + 1} of {count}: {dict(report.outcomes)}", file=sys.stderr, flush=True)


def read_peak() -> int:
    """Most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def build_checkpoint(folder: Path) -> Path:
    """A checkpoint folder of the smallest model with every part, its weights random."""
    from unipixel.train.checkpoints import save_whole
    from unipixel.train.recipes import RECIPES
    from unipixel.train.setup import prepare_training

    setup = prepare_training(RECIPES["debug"]())
    save_whole(setup.model.config, setup.model.state_dict(), folder, None)
    setup.processor.save(folder)
    return folder


def main() -> int:
    """Run the cases of one kind and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["sessions", "runs", "checkpoints"])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this case alone, with its trace")
    parser.add_argument("--sentences", action="store_true", help="print an example of each kind of refusal")
    given = parser.parse_args()
    torch.set_num_threads(1)
    # what would take more ends as an error, not the machine
    resource.setrlimit(resource.RLIMIT_AS, (MAX_SPACE, MAX_SPACE))
    warnings.simplefilter("ignore")
    if given.only is not None:
        os.environ["UNIPIXEL_TRACE"] = "1"
    report = Report()
    with tempfile.TemporaryDirectory(prefix="unipixel-fuzz-") as name:
        folder = Path(name)
        if given.kind == "sessions":
            engine = load(build_checkpoint(folder / "model"), device="cpu")
            (folder / "sessions").mkdir()
            sources = build_sessions(engine, folder / "sessions")

            def check(rng: random.Random) -> str:
                return check_session(engine, sources, folder, rng)

        elif given.kind == "runs":
            source = build_runs(folder)

            def check(rng: random.Random) -> str:
                return check_run(source, folder, rng)

        else:
            sources = build_checkpoints(folder)

            def check(rng: random.Random) -> str:
                return check_checkpoint(sources, folder, rng)

        run_cases(given.count, given.seed, given.only, check, report)
    if given.sentences:
        for sentence in sorted(report.sentences.values()):
            print(f"- {sentence}")
    print("\n".join(report.lines()))
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
