"""Makes the committed golden numbers (``tests/fixtures/*.tar.xz``) from full folders, and unpacks them.

    python tools/trim_fixtures.py PARITY RELEASED PROTOCOLS [-o tests/fixtures]

The full folders hold what the original code computed. What no test reads is left out, and the rest is packed tightly:

* ``logits`` at some positions (``logits_positions``); the states they follow from are kept at all of them;
* clips of 8 and 10 frames are cut to 4, beside which stands how many there were (``num_frames``: tracking only looks
  back, but places in time are shares of the whole); the clip of 20 frames is kept whole. Masks at source size are
  kept on a few frames (``video_res_frames``);
* outputs are rounded to steps far below what the tests allow: 2^-17 (language, 4e-6 off) and 2^-14 (SAM, 3e-5 off);
* of logits of which only the sign is read, the sign;
* SAM weights of the released checkpoints are drawn anew from their names when the archive is unpacked, and their masks
  (``seg/``) are left out: SAM's arithmetic is compared with the weights of ``parity``.
* gradients are rounded to 2^-16 of their largest entry, where tests allow 1e-3; those of matrices above 8,192 entries
  are compared by their norms alone.

All other weights, and inputs, keep every bit. The same folders give the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as serialize
from torch import Tensor

SUFFIX = ".packed"
"""Of a safetensors file in an archive, which is stored as header and bytes that compress well."""
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 26}]
LANGUAGE, SAM = 2.0**-17, 2.0**-14
CUT = {"v10_obj3": 4, "v8_obj1": 4}
"""Frames that are kept of a clip."""
UNREAD = re.compile(
    r"out/(backbone_pos\d|maskmem_pos_enc|multimask_flag|last_is_seg|window_index(_\d)?|sam_sparse_embeddings_frame0"
    r"|diag_.*|ref_proj.*|ref_sparse.*|tem_.*|vision_merged_\d|vision_pre_mlp_window_order_\d|multimask_low_res(\.\d+)?"
    r"|seg_head_out.*)"
)
"""Intermediate results that no test reads."""
Tensors = dict[str, Tensor]


# archives


def unpack(archive: Path, folder: Path) -> Path:
    """Write the files of an archive under ``folder``."""
    with tarfile.open(archive, "r:xz") as files:
        for member in files:
            stream = files.extractfile(member)
            if stream is None:
                continue
            path = folder / member.name.removesuffix(SUFFIX)
            path.parent.mkdir(parents=True, exist_ok=True)
            content = stream.read()
            path.write_bytes(_unpack_tensors(content) if member.name.endswith(SUFFIX) else content)
    return folder


def pack(contents: dict[str, bytes], archive: Path) -> None:
    """Write files, by their names, as an archive that depends on nothing else."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as files:
        for name, content in sorted(contents.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            files.addfile(entry, io.BytesIO(content))
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(lzma.compress(stream.getvalue(), filters=FILTERS))
    print(f"{archive}: {archive.stat().st_size / 1e6:.2f} MB, {len(contents)} files")


def _split_planes(values: np.ndarray) -> np.ndarray:
    """Byte 0 of all numbers, then byte 1, and so on; signs move to the end, so that exponents fill a byte."""
    bits = 8 * values.dtype.itemsize
    turned = (values << 1) | (values >> (bits - 1))
    return np.ascontiguousarray(turned.view(np.uint8).reshape(-1, bits // 8).T)


def _join_planes(planes: bytes, size: int) -> bytes:
    """Undo `_split_planes`."""
    turned = np.ascontiguousarray(np.frombuffer(planes, np.uint8).reshape(size, -1).T).view(f"<u{size}").reshape(-1)
    return bytes(((turned >> 1) | (turned << (8 * size - 1))).astype(f"<u{size}").tobytes())


def _pack_tensors(tensors: Tensors, metadata: dict[str, str] | None, drawn: Collection[str] = ()) -> bytes:
    """Header and bytes of a safetensors file, without those of tensors that are ``drawn``."""
    rows, body = [], b""
    for name, tensor in tensors.items():
        size, way = tensor.element_size(), "plain"
        content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        if name in drawn:
            content, way = b"", "drawn"
        elif tensor.is_floating_point() and content and "pixel_values" not in name:  # those are of few values
            content, way = _split_planes(np.frombuffer(content, f"<u{size}")).tobytes(), "planes"
        rows.append([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), way])
        body += content
    header = json.dumps({"metadata": metadata, "tensors": rows}).encode()
    return len(header).to_bytes(8, "little") + header + body


def _unpack_tensors(content: bytes) -> bytes:
    """The safetensors file of what `_pack_tensors` made."""
    start = 8 + int.from_bytes(content[:8], "little")
    header, tensors = json.loads(content[8:start]), {}
    for name, kind, shape, way in header["tensors"]:
        dtype = getattr(torch, kind)
        if way == "drawn":
            tensors[name] = draw_values(name, shape).to(dtype)
            continue
        end = start + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        plain = _join_planes(content[start:end], dtype.itemsize) if way == "planes" else content[start:end]
        flat = torch.frombuffer(bytearray(plain), dtype=dtype) if plain else torch.empty(0, dtype=dtype)
        tensors[name], start = flat.reshape(shape), end
    return serialize(tensors, header["metadata"])


def draw_values(name: str, shape: list[int]) -> Tensor:
    """Small random weights that depend on the name alone, about 1 for the scales of norms."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    values = 0.02 * torch.randn(shape, generator=generator)
    return values + 1 if len(shape) == 1 and name.endswith("weight") else values


# what is kept


def read(path: Path) -> tuple[Tensors, dict[str, str] | None]:
    """Tensors and metadata of a safetensors file."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def round_to(tensor: Tensor, step: float) -> Tensor:
    """Multiples of ``step``; infinite values, and those that are none, stay."""
    return torch.where(tensor.isfinite(), (tensor.double() / step).round() * step, tensor.double()).float()


def keep_some_logits(case: Tensors, prefix: str) -> None:
    """Every eighth position and the last one of ``logits`` (B, L, V), which are then named beside them."""
    logits = case[f"{prefix}logits"]
    length = logits.shape[1]
    places = torch.tensor(sorted({*range(length - 1, -1, -8), 0}))
    case[f"{prefix}logits"], case[f"{prefix}logits_positions"] = round_to(logits[:, places], LANGUAGE), places


def trim_case(file: str, name: str, case: Tensors) -> Tensors:
    """What tests read of one case of a golden file, by ``in/...`` and ``out/...``."""
    case = {key: tensor for key, tensor in case.items() if not UNREAD.fullmatch(key)}
    if file == "train_loss":
        fixed = any(key.startswith("out/grad_rope_fixed.") for key in case)
        unread = ("out/logits", *(["out/grad."] if fixed else []))
        case = {key: tensor for key, tensor in case.items() if not key.startswith(unread)}
        gradients = [key for key in case if key.startswith(("out/grad.", "out/grad_rope_fixed."))]
        for key in gradients:
            if case[key].numel() > 8192:
                del case[key]
            elif (largest := float(case[key].abs().max())) > 0:
                case[key] = round_to(case[key], largest * 2.0**-16)
        return case
    if file == "generate":
        case = {key: tensor for key, tensor in case.items() if key not in ("out/low_res_masks",)}
        if (masks := case.get("out/video_res_mask_logits")) is not None:  # read as: below, about, above zero
            case["out/video_res_mask_logits"] = torch.where(masks.abs() > 1e-3, masks.sign(), 0).half()
    if file.startswith("segment"):
        case = keep_frames(name, case)
        for key in ("backbone_fpn0", "backbone_fpn1", "backbone_fpn2", "video_res_mask_logits", "low_res_masks",
                    "multimask_low_res_raw", "pix_feat_with_mem", "maskmem_features", "obj_ptr"):  # fmt: skip
            if (tensor := case.get(f"out/{key}")) is not None:
                case[f"out/{key}"] = round_to(tensor, SAM)
    if "out/logits" in case:
        keep_some_logits(case, "out/")
    for key in ("hidden_pre_norm", "inputs_embeds", "vision_merged", "vision_pre_mlp_window_order", "step_logits"):
        if (tensor := case.get(f"out/{key}")) is not None:
            case[f"out/{key}"] = round_to(tensor, LANGUAGE)
    return case


def keep_frames(name: str, case: Tensors) -> Tensors:
    """A clip cut to its first frames, with masks at source size on the first and the last of them."""
    total = len(case["in/frames.0"])
    length = CUT.get(name, total)
    case = dict(case)
    case["in/frames.0"] = case["in/frames.0"][:length]
    if length < total:
        case["in/num_frames"] = torch.tensor(total)
    per_frame = ("low_res_masks", "ious", "obj_score_logits", "obj_ptr", "maskmem_features")
    for key in (f"out/{one}" for one in per_frame):
        if key in case:
            assert case[key].shape[1] == total, (name, key)
            case[key] = case[key][:, :length]
    had = case.get("out/video_res_frames", torch.arange(total))
    kept = [place for place, t in enumerate(had.tolist()) if t < length]
    if len(kept) > 2:
        kept = [kept[0], *kept[1:-1][:: max(1, (len(kept) - 2) // 2)][:1], kept[-1]]
    for key in ("out/video_res_mask_logits", "out/multimask_low_res_raw", "out/pix_feat_with_mem"):
        if key in case:
            assert case[key].shape[1] == len(had), (name, key)
            case[key] = case[key][:, kept]
    if kept != list(range(total)):
        case["out/video_res_frames"] = had[kept].clone()
    return case


def trim_golden(path: Path) -> bytes:
    """A golden file of cases."""
    tensors, metadata = read(path)
    cases: dict[str, Tensors] = {}
    for key, tensor in tensors.items():
        name, _, rest = key.partition("/")
        cases.setdefault(name, {})[rest] = tensor
    kept = {
        f"{name}/{key}": tensor
        for name, case in cases.items()
        for key, tensor in trim_case(path.stem, name, case).items()
    }
    return _pack_tensors(kept, metadata)


def store_arrays(path: Path) -> bytes:
    """An npz file without compression of its own."""
    arrays, stream = np.load(path), io.BytesIO()
    np.savez(stream, **{name: arrays[name] for name in arrays.files})
    return stream.getvalue()


def list_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names and paths of all files but descriptions."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".md":
            yield path.relative_to(folder).as_posix(), path


def trim_parity(folder: Path) -> dict[str, bytes]:
    """Golden numbers of the model and of the processor; ``protocols`` is a folder of its own."""
    out = {}
    for name, path in list_files(folder):
        if name.startswith("protocols/"):
            continue
        if name == "meta.json":
            out[name] = json.dumps({"train_param_names": json.loads(path.read_text())["train_param_names"]}).encode()
        elif name == "model.safetensors":
            out[name + SUFFIX] = _pack_tensors(*read(path))
        elif path.suffix == ".safetensors":
            out[name + SUFFIX] = trim_golden(path)
        else:
            out[name] = store_arrays(path) if path.suffix == ".npz" else path.read_bytes()
    return out


def trim_released(folder: Path) -> dict[str, bytes]:
    """Checkpoints in the form in which the original leaves them."""
    out = {}
    for name, path in list_files(folder):
        if path.suffix != ".safetensors":
            out[name] = path.read_bytes()
            continue
        tensors, metadata = read(path)
        if path.name == "expected.safetensors":
            tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("seg/")}
            for key in [key for key in tensors if key.endswith("logits")]:
                keep_some_logits(tensors, key.removesuffix("logits"))
        drawn = [key for key in tensors if "sam2." in key or path.parent.name == "sam2.1"]
        if path.name == "init.safetensors":  # small, and compared before and after
            drawn = []
        out[name + SUFFIX] = _pack_tensors(tensors, metadata, drawn)
    return out


def copy_all(folder: Path) -> dict[str, bytes]:
    """Every file as it is: small drawn clips, and what the original asks, sees and scores."""
    return {name: path.read_bytes() for name, path in list_files(folder)}


KINDS: dict[str, Callable[[Path], dict[str, bytes]]] = {
    "parity": trim_parity,
    "released": trim_released,
    "protocols": copy_all,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind in KINDS:
        parser.add_argument(kind, type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("tests/fixtures"))
    options: Any = parser.parse_args(arguments)
    for kind, trim in KINDS.items():
        pack(trim(getattr(options, kind)), options.out / f"{kind}.tar.xz")


if __name__ == "__main__":
    main()
