"""Random edits of files: of JSON as a tree, of tensors by name and shape, of zips entry by entry, of bytes.

Every edit takes the bytes of a valid file and a generator, and gives the bytes of one that is probably none.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import random
import struct
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

# edits of JSON

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 77, -(2**40), 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e308, 1e-308,
    float("nan"), float("inf"), -float("inf"), "", "x", "nan", "0", "\ud800", "\x00", "é" * 70, "../../x", "/x",
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


# zips


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
        more.append((rng.choice(["../../evil", "/evil", "frames/000099.png", "x" * 300, "frames/"]), b"x"))
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
