"""Pixels: palette PNGs as in DAVIS, NumPy archives, and the pictures with masks drawn over them."""

from __future__ import annotations

import base64
import html
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np

from unipixel import draw
from unipixel.atomic import replace_file, write_text
from unipixel.checks import check_integer, check_number, parse_json, shorten
from unipixel.data.encodings import read_index_png
from unipixel.errors import DatasetError, MediaError
from unipixel.formats.annotations import (
    Annotations,
    Losses,
    compute_scores,
    count_subsets,
    count_unkept,
    name_files,
    read_with,
    read_with_path,
)
from unipixel.formats.sessions import NOT_THERE
from unipixel.masks import MaskTrack, Rle, encode_rle, save_davis_png
from unipixel.masks.rle import MAX_MASK_PIXELS, check_size_hw
from unipixel.media.names import is_junk
from unipixel.media.sources import build_sort_key

MAX_DAVIS_ID = 255
MAX_ARRAY_VALUES = 1 << 34
"""Pixels of all masks in one archive."""
SHEET_FRAMES = 8
"""Frames of a video that a single picture of it shows."""
SHOWN_SIDE, SHOWN_FRAMES = 960, 240
"""Longer side in pixels, and frames, of what a notebook shows."""
SEMANTICS = "davis_semantics.json"
"""What the objects of DAVIS 2017 are called: ``{"bear": {"1": "bear"}}``."""
_DAVIS_FOLDERS = ("Annotations/480p", "Annotations/Full-Resolution", "Annotations")


def write_davis_frames(one: Annotations, folder: Path, losses: Losses) -> list[Path]:
    """One palette PNG per frame, pixel value = object id, named by the frame's index in the source.

    Where objects overlap, the one with the higher score on that frame wins, and the pixels are counted as lost.

    Raises:
        ValueError: an object id is above 255, the most that such a PNG can hold.
    """
    largest = max(one.tracks, default=0)
    if largest > MAX_DAVIS_ID:
        raise ValueError(f"object id {largest} does not fit a palette PNG; ids must be at most {MAX_DAVIS_ID}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for t, index in enumerate(one.frame_indices):
        pixels = np.zeros(one.size_hw, dtype=np.uint8)
        seen = [i for i, track in one.tracks.items() if track.rles[t] is not None]
        for object_id in sorted(seen, key=lambda i: one.get_score(i, t) or 0.0):
            mask = one.tracks[object_id].mask(t)
            losses["pixels on which objects overlap went to one of them"] += int((pixels[mask] > 0).sum())
            pixels[mask] = object_id
        paths.append(folder / f"{index:05d}.png")
        save_davis_png(pixels, paths[-1])
    return paths


def write_davis(sets: Sequence[Annotations], path: Path, losses: Losses) -> list[Path]:
    """A folder of PNGs per picture and clip, and what the objects are called as DAVIS 2017 says it."""
    count_unkept(sets, losses)
    names = name_files(sets)
    paths = [png for one, name in zip(sets, names, strict=True) for png in write_davis_frames(one, path / name, losses)]
    semantics = {name: {str(i): one.get_class(i) for i in one.tracks} for one, name in zip(sets, names, strict=True)}
    write_text(path / SEMANTICS, json.dumps(semantics, indent=1), sync=False)
    return [*paths, path / SEMANTICS]


def read_davis(path: Path, losses: Losses) -> list[Annotations]:
    """A folder of PNGs, or of such folders, also as DAVIS lays them out.

    Raises:
        DatasetError: there are none, or one is damaged, of colours, or of another size than the others.
    """
    root = next((path / name for name in _DAVIS_FOLDERS if (path / name).is_dir()), path)
    folders = [root] if _list_pngs(root) else sorted(one for one in root.iterdir() if one.is_dir() and _list_pngs(one))
    if not folders:
        raise DatasetError(f"{path} holds no PNG and no folder of PNGs")
    known: Any = {}
    for place in (path, root, path.parent):
        if (place / SEMANTICS).is_file():
            known = read_with_path(place / SEMANTICS, lambda file: parse_json(file.read_bytes()))
            break
    sets = []
    for folder in folders:
        labels = known.get(folder.name, {}) if isinstance(known, dict) else {}
        sets.append(_read_davis_clip(folder, root, labels if isinstance(labels, dict) else {}))
    return sets


def _list_pngs(folder: Path) -> list[Path]:
    found = [one for one in folder.iterdir() if one.suffix.lower() == ".png" and not is_junk(one.name)]
    return sorted(found, key=lambda one: build_sort_key(one.name))


def _read_davis_clip(folder: Path, root: Path, labels: dict[str, Any]) -> Annotations:
    files = _list_pngs(folder)
    rles: dict[int, list[Rle | None]] = {}
    size_hw: tuple[int, ...] = ()
    for t, file in enumerate(files):
        ids = read_index_png(file, str(folder))
        size_hw = size_hw or ids.shape
        if ids.shape != size_hw:
            raise DatasetError(f"{file} has {ids.shape} pixels (height, width), the frames before it {size_hw}")
        for value in np.unique(ids).tolist():
            if value:
                rles.setdefault(value, [None] * len(files))[t] = encode_rle(ids == value)
    numbers = [int(file.stem) if file.stem.isdecimal() and len(file.stem) < 10 else -1 for file in files]
    is_numbered = -1 not in numbers and sorted(set(numbers)) == numbers
    pictures = root.parent.parent / "JPEGImages" / root.name / folder.name
    frames = [pictures / f"{file.stem}.jpg" for file in files]
    return Annotations(
        folder.name,
        size_hw,
        {i: MaskTrack((size_hw[0], size_hw[1]), tuple(some)) for i, some in sorted(rles.items())},
        {i: str(labels.get(str(i), "")) for i in rles},
        frame_names=[f"{file.stem}.png" for file in files],
        frame_indices=numbers if is_numbered else None,
        is_video=len(files) > 1,
        pictures=frames if all(frame.is_file() for frame in frames) else None,
    )


def write_numpy(sets: Sequence[Annotations], path: Path, losses: Losses) -> list[Path]:
    """An ``.npz`` per picture or clip; of several, a folder of them.

    It holds ``masks`` bool (N, T, H, W), ``ids`` int (N,), ``labels`` text (N,), ``scores`` float (N, T), 1 where
    nothing is known, ``frame_indices`` int (T,), ``frame_names`` text (T,), ``name``, ``is_video``, ``fps``, which
    is nan where it is not known, and ``subset``, the part of a dataset. No array needs pickle.
    """
    if path.suffix.lower() == ".npz" and len(sets) == 1:
        return [_write_archive(sets[0], path)]
    if path.suffix.lower() == ".npz":
        raise DatasetError(f"{path} holds one picture or clip, and there are {len(sets)}; name a folder")
    names = name_files(sets)
    path.mkdir(parents=True, exist_ok=True)
    return [_write_archive(one, path / f"{name}.npz") for one, name in zip(sets, names, strict=True)]


def _write_archive(one: Annotations, path: Path) -> Path:
    shape = (len(one.tracks), one.num_frames, *one.size_hw)
    scores = np.ones(shape[:2])
    for place, object_id in enumerate(one.tracks):
        scores[place] = one.scores.get(object_id, scores[place])
    arrays: dict[str, Any] = {
        "ids": np.array(list(one.tracks), dtype=np.int64),
        "labels": np.array([one.labels[i] for i in one.tracks], dtype=np.str_),
        "scores": scores,
        "frame_indices": np.array(one.frame_indices, dtype=np.int64),
        "frame_names": np.array(one.frame_names, dtype=np.str_),
        "name": np.array(one.name),
        "is_video": np.array(one.is_video),
        "fps": np.array(np.nan if one.fps is None else one.fps),
        "subset": np.array(one.subset),
    }
    with replace_file(path, sync=False) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        # mask by mask, because together they may be larger than the memory
        with archive.open("masks.npy", "w", force_zip64=True) as file:
            header = {"descr": "|b1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for track in one.tracks.values():
                for t in range(one.num_frames):
                    file.write(track.mask(t).tobytes())
    return path


def read_numpy(path: Path, losses: Losses) -> list[Annotations]:
    """What `write_numpy` writes, a folder of it, or an ``.npy`` of whole numbers (H, W) or (T, H, W): object ids.

    Raises:
        DatasetError: a file is damaged, needs pickle, or holds something else.
    """
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.suffix.lower() == ".npz" and not is_junk(one.name))
        if not files:
            raise DatasetError(f"{path} holds no .npz file")
        return [one for file in files for one in read_numpy(file, losses)]
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return [read_with(str(path), lambda: _read_archive(archive, path))]
        with open(path, "rb") as file:
            return [read_with(str(path), lambda: _read_ids(file, path))]
    except (
        OSError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        SyntaxError,
        TokenError,
        RuntimeError,
        MemoryError,
    ) as error:
        raise DatasetError(f"{path} is no NumPy file, or it is damaged ({error})") from error


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array, checked before any of it is read.

    Raises:
        ValueError: it is no array, holds Python objects or is too large.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"the array has the format {version}; it must be (1, 0) or (2, 0)")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("the array holds Python objects, which would have to be unpickled; save plain numbers or text")
    if fortran and len(shape) > 1:
        raise ValueError("the array lies in Fortran's order; save it in C's")
    if np.prod(np.array(shape, dtype=object), initial=1) * dtype.itemsize > MAX_ARRAY_VALUES:
        raise ValueError(f"the array is {shape}, which is more than may be read")
    return shape, dtype


def _read_bytes(file: IO[bytes], shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    data = file.read(size)
    if len(data) < size:
        raise ValueError(f"the array ends after {len(data)} of {size} bytes")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _read_archive(archive: zipfile.ZipFile, path: Path) -> Annotations:
    names = set(archive.namelist())
    arrays: dict[str, np.ndarray] = {}
    for key in ("ids", "labels", "scores", "frame_indices", "frame_names", "name", "is_video", "fps", "subset"):
        if f"{key}.npy" in names:
            with archive.open(f"{key}.npy") as file:
                shape, dtype = _read_header(file)
                if np.prod(np.array(shape, dtype=object), initial=1) * dtype.itemsize > MAX_MASK_PIXELS:
                    raise ValueError(f"{key} is {shape}, which is more than may be read")
                arrays[key] = _read_bytes(file, shape, dtype)
    if "masks.npy" not in names:
        raise ValueError("the archive has no array 'masks', bool (N, T, H, W)")
    with archive.open("masks.npy") as file:
        shape, dtype = _read_header(file)
        if len(shape) != 4 or dtype != np.bool_:
            raise ValueError(f"'masks' is {dtype} {shape}; it must be bool (N, T, H, W)")
        size_hw = check_size_hw(list(shape[2:]))
        rles: list[list[Rle | None]] = []
        for _ in range(shape[0]):
            masks = (_read_bytes(file, size_hw, dtype) for _ in range(shape[1]))
            rles.append([encode_rle(mask) if mask.any() else None for mask in masks])
    count, frames = shape[:2]
    ids = [check_integer(i, "an id", 1) for i in _take(arrays, "ids", (count,), "iu", range(1, count + 1))]
    if len(set(ids)) < len(ids):
        raise ValueError("two objects have one id")
    scores = _take(arrays, "scores", (count, frames), "f", None)
    fps = _take(arrays, "fps", (), "f", None)
    return Annotations(
        _take(arrays, "name", (), "U", None) or path.stem,
        size_hw,
        {i: MaskTrack(size_hw, tuple(some)) for i, some in zip(ids, rles, strict=True)},
        dict(zip(ids, _take(arrays, "labels", (count,), "U", [""] * count), strict=True)),
        {}
        if scores is None
        else {i: [check_number(s, "a score", 0, 1) for s in some] for i, some in zip(ids, scores, strict=True)},
        frame_names=_take(arrays, "frame_names", (frames,), "U", ()),
        frame_indices=_take(arrays, "frame_indices", (frames,), "iu", range(frames)),
        fps=fps if fps is not None and 0 < fps < 1e6 else None,
        is_video=bool(_take(arrays, "is_video", (), "b", frames > 1)),
        subset=_take(arrays, "subset", (), "U", ""),
    )


def _take(arrays: dict[str, np.ndarray], key: str, shape: tuple[int, ...], kinds: str, missing: Any) -> Any:
    if key not in arrays:
        return missing
    if arrays[key].shape != shape or arrays[key].dtype.kind not in kinds:
        raise ValueError(f"{key!r} is {arrays[key].dtype} {arrays[key].shape}, which does not fit the masks")
    return arrays[key].tolist()


def _read_ids(file: IO[bytes], path: Path) -> Annotations:
    shape, dtype = _read_header(file)
    if len(shape) not in (2, 3) or dtype.kind not in "biu" or not all(shape):
        raise ValueError(f"the array is {dtype} {shape}; it must be object ids, whole numbers (H, W) or (T, H, W)")
    frames = shape[0] if len(shape) == 3 else 1
    size_hw = check_size_hw(list(shape[-2:]))
    rles: dict[int, list[Rle | None]] = {}
    for t in range(frames):
        ids = _read_bytes(file, size_hw, dtype)
        for value in np.unique(ids).tolist():
            if value:
                number = check_integer(int(value), "an object id", 1)
                rles.setdefault(number, [None] * frames)[t] = encode_rle(ids == value)
    tracks = {i: MaskTrack(size_hw, tuple(some)) for i, some in sorted(rles.items())}
    return Annotations(path.stem, size_hw, tracks, frame_indices=range(frames), is_video=len(shape) == 3)


def draw_frame(one: Annotations, t: int) -> np.ndarray:
    """Frame ``t`` with masks and labels over it, uint8 (H, W, 3)."""
    return _draw_over(one, one.media.frame(t), t)


def draw_frames(one: Annotations) -> Iterator[np.ndarray]:
    """Every frame with masks and labels over it."""
    for t, frame in enumerate(one.media):
        yield _draw_over(one, frame, t)


def _draw_over(one: Annotations, frame: np.ndarray, t: int) -> np.ndarray:
    seen = [i for i, track in one.tracks.items() if track.rles[t] is not None]
    return draw.overlay(
        frame,
        (one.tracks[i].mask(t) for i in seen),
        labels=[f"{i} {one.labels[i]}".strip() for i in seen],
        ids=seen,
    )


def draw_sheet(one: Annotations) -> np.ndarray:
    """The picture, or for a clip up to 8 frames of it beside each other, with masks."""
    if one.num_frames == 1:
        return draw_frame(one, 0)
    shown = sorted({round(i) for i in np.linspace(0, one.num_frames - 1, min(SHEET_FRAMES, one.num_frames))})
    captions = [f"frame {one.frame_indices[t]}" for t in shown]
    return draw.make_contact_sheet([draw_frame(one, t) for t in shown], captions)


def build_page(one: Annotations, text: str) -> str:
    """HTML of an answer for a notebook: the words, the picture or the clip with masks, and a line for every object.

    A clip of more than 240 frames is shown by evenly spread ones; frames are shown at most 960 pixels wide or high.
    """
    parts = [f"<p>{html.escape(text)}</p>"] if text else []
    if one.tracks:
        parts.append(_build_figure(one))
    for i, track in one.tracks.items():
        seen = int(np.count_nonzero(track.visible))
        score = compute_scores(one, i)
        words = [html.escape(f"[{i}] {one.labels[i]}".strip())]
        words.append(NOT_THERE if not seen else "" if score is None else f"score {score:.2f}")
        words.append(f"on {seen} of {track.num_frames} frames" if seen and one.num_frames > 1 else "")
        colour = "#{:02x}{:02x}{:02x}".format(*draw.get_colour(i))
        parts.append(f'<div><span style="color:{colour}">&#9632;</span> {", ".join(w for w in words if w)}</div>')
    return "\n".join(parts)


def _build_figure(one: Annotations) -> str:
    try:
        if one.num_frames == 1:
            data, kind = draw.encode_png(draw.shrink(draw_frame(one, 0), SHOWN_SIDE)), "image/png"
        else:
            number = min(one.num_frames, SHOWN_FRAMES)
            shown = {round(i) for i in np.linspace(0, one.num_frames - 1, number)}
            rate = {key: max(fps * len(shown) / one.num_frames, 0.01) for key, fps in compute_rate(one).items()}
            frames = (_draw_over(one, frame, t) for t, frame in enumerate(one.media) if t in shown)
            data, kind = draw.encode_clip((draw.shrink(frame, SHOWN_SIDE) for frame in frames), **rate)
    except (MediaError, OSError, ValueError) as error:  # of a file that is gone, or a stream that was closed
        return f"<p><em>{html.escape(f'The frames cannot be read any more ({error}).')}</em></p>"
    address = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    if kind == "video/mp4":
        return f'<video controls loop autoplay muted playsinline style="max-width:100%" src="{address}"></video>'
    return f'<img style="max-width:100%" alt="the picture with masks" src="{address}">'


def compute_rate(one: Annotations) -> dict[str, float]:
    """Frames per second at which the clip plays as long as its source does, as an argument of `draw.write_mp4`."""
    indices = one.frame_indices
    if not one.fps or len(indices) < 2:
        return {}
    return {"fps": one.fps * (len(indices) - 1) / max(indices[-1] - indices[0], 1)}


def write_overlay(sets: Sequence[Annotations], path: Path, losses: Losses) -> list[Path]:
    """The pictures with masks over them: ``.png``, of a clip a sheet; ``.gif`` and ``.mp4``, all frames; or a folder.

    Raises:
        ValueError: another suffix.
        MediaError: the pictures are not there.
    """
    kind = path.suffix.lower()
    if not kind:
        endings = [".mp4" if one.num_frames > 1 else ".png" for one in sets]
        names = name_files(sets)
        pairs = zip(sets, names, endings, strict=True)
        return [file for one, name, end in pairs for file in write_overlay([one], path / (name + end), losses)]
    count_subsets(sets, losses)
    if kind not in (".png", ".gif", ".mp4"):
        raise ValueError(f"masks are drawn into .png, .gif, .mp4 or a folder, not into {shorten(path.name)}")
    if len(sets) != 1:
        raise DatasetError(f"{path} shows one picture or clip, and there are {len(sets)}; name a folder")
    if kind == ".png":
        draw.write_png(draw_sheet(sets[0]), path)
    else:
        write = draw.write_gif if kind == ".gif" else draw.write_mp4
        write(draw_frames(sets[0]), path, **compute_rate(sets[0]))
    return [path]
