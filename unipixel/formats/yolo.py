"""YOLO segmentation as Ultralytics reads it: ``data.yaml``, ``images/NAME.jpg`` and ``labels/NAME.txt``.

Parts of a dataset have folders of their own, ``images/train`` and ``labels/train``.

A line of a label file is an object: ``class x1 y1 x2 y2 ...`` in 0..1. Its outline has about a hundred corners and an
IoU of at least 0.98 with the mask, as Ultralytics and supervision draw it; those for which a hundred do not suffice are
counted. An object of several parts stays one line, its parts joined by the shortest ways; holes are cut open.

Lines have no ids: what is read are single pictures, a clip's frames too, whose objects are numbered line by line.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from unipixel import draw
from unipixel.atomic import write_text
from unipixel.checks import check_number, shorten
from unipixel.errors import DatasetError, MediaError
from unipixel.formats.annotations import (
    Annotations,
    Losses,
    Picture,
    Shape,
    build_sets,
    count_bad_outline,
    count_unkept,
    get_stem,
    group_subsets,
    iterate_pictures,
    list_classes,
    read_with,
    read_with_path,
)
from unipixel.masks import draw_outline, encode_rle, fit_outline
from unipixel.media import open_media
from unipixel.media.names import is_junk

SUFFIXES = (".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
"""Pictures that Ultralytics opens and that can be copied as they are."""
_ORIENTATION = 274
"""Number of the Exif field that says how a picture is turned."""
_MAX_BYTES = 1 << 24


def build_yolo_files(
    sets: Sequence[Annotations], losses: Losses, classes: Sequence[str] = ()
) -> Iterator[tuple[str, str]]:
    """Names and texts of ``data.yaml`` and of the label files; `classes` come first, in their order."""
    classes = list_classes(sets, classes)
    names = "".join(f"  {number}: {quote_yaml(label)}\n" for number, label in enumerate(classes))
    parts = {part: f"images/{part}" for part in group_subsets(sets) if part} or {"train": "images", "val": "images"}
    usual = next(iter(parts.values()))  # Ultralytics asks for a part to train with and one to look at
    parts = {"train": parts.get("train", usual), "val": parts.get("val", usual), **parts}
    folders = "".join(f"{part}: {folder}\n" for part, folder in parts.items())
    # without a path, which Ultralytics would look for where it was started and not beside this file
    yield "data.yaml", f"{folders}names:{' {}' if not classes else ''}\n{names}"
    for one, t, name in iterate_pictures(sets):
        height, width = one.size_hw
        lines = []
        for object_id, label, _, _ in one.list_shapes(t):
            corners, iou = fit_outline(one.tracks[object_id].mask(t))
            count_bad_outline(iou, losses)
            numbers = " ".join(f"{value:.6f}" for value in (corners / (width, height)).clip(0, 1).reshape(-1))
            lines.append(f"{classes.index(label)} {numbers}\n")
        yield (Path("labels") / one.subset / f"{get_stem(name)}.txt").as_posix(), "".join(lines)


def write_yolo(sets: Sequence[Annotations], path: Path, losses: Losses, *, classes: Sequence[str] = ()) -> list[Path]:
    """A folder with ``data.yaml``, labels, and the pictures, where they are known: copied, or frames as JPEG."""
    count_unkept(sets, losses, clips=True, subsets=True)
    losses["clips become single pictures, whose objects have no ids"] += sum(one.is_video for one in sets)
    paths = []
    for name, text in build_yolo_files(sets, losses, classes):
        paths.append(path / name)
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        write_text(paths[-1], text, sync=False)
    for one, t, name in iterate_pictures(sets):
        if not one.has_pictures:
            losses["pictures are not there; put them into images/, or say where they are with --media"] += 1
            continue
        paths.append(_save_picture(one, t, path / "images" / one.subset / name))
    return paths


def _save_picture(one: Annotations, t: int, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = one.find_file()
    if file is not None and file.suffix.lower() in SUFFIXES:
        try:
            with Image.open(file) as picture:
                is_plain = picture.getexif().get(_ORIENTATION, 1) == 1 and picture.size == one.size_hw[::-1]
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            is_plain = False
        if is_plain:
            shutil.copyfile(file, path.with_suffix(file.suffix))
            return path.with_suffix(file.suffix)
    if not one.is_video:
        return draw.write_png(one.media.frame(t), path.with_name(f"{get_stem(path.name)}.png"))
    target = path.with_name(f"{get_stem(path.name)}.jpg")
    Image.fromarray(one.media.frame(t)).save(target, quality=95)
    return target


def quote_yaml(text: str) -> str:
    """Text in YAML's double quotes: what prints as it is, the rest escaped, and nothing that UTF-8 cannot hold."""
    text = text.encode("utf-8", errors="replace").decode("utf-8")
    quoted = {'"': '\\"', "\\": "\\\\"}
    signs = (quoted.get(c) or (c if c.isprintable() else f"\\U{ord(c):08X}") for c in text)
    return f'"{"".join(signs)}"'


def read_yolo(path: Path, losses: Losses, pictures: Path | None = None) -> list[Annotations]:
    """A folder as `write_yolo` makes it, also with subsets (``labels/train``), or its ``data.yaml``.

    Args:
        pictures: where the pictures are, whose sizes are needed; by default in ``images``.

    Raises:
        DatasetError: a file is missing or damaged, or a picture not there.
    """
    root = path.parent if path.is_file() else path
    # Roboflow and others put labels into the subset's folder
    folders = [root / "labels", *sorted(one / "labels" for one in root.iterdir() if one.is_dir())]
    folders = [one for one in folders if one.is_dir()]
    config = path if path.is_file() else next((one for one in sorted(root.glob("*.y*ml")) if one.is_file()), None)
    if config is None or not folders:
        raise DatasetError(f"{root} is no YOLO dataset; it should hold data.yaml and a folder labels")
    classes = read_with(str(config), lambda: _read_classes(config))
    sets = []
    for labels in folders:
        images = labels.parent / "images" if pictures is None else pictures
        rows = _read_pictures(labels, images, classes, losses)
        sets += build_sets(rows, losses, [images], grouping=False)
    return sets


def _read_classes(path: Path) -> dict[int, str]:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError("it is too large for a list of classes")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"it is no YAML ({error})") from error
    names = document.get("names") if isinstance(document, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(type(key) is int for key in names):
        raise ValueError(f"its names are {shorten(names)}; they must be a list, or names by number")
    return {key: str(name) for key, name in names.items()}


def _read_pictures(labels: Path, images: Path, classes: dict[int, str], losses: Losses) -> Iterator[Picture]:
    found = {
        get_stem(file.relative_to(images).as_posix()): file
        for file in sorted(images.rglob("*") if images.is_dir() else ())
        if file.suffix.lower() in SUFFIXES and not is_junk(file.name)
    }
    files = {
        get_stem(file.relative_to(labels).as_posix()): file
        for file in sorted(labels.rglob("*.txt"))
        if not is_junk(file.name) and file.name != "classes.txt"
    }
    missing = next((stem for stem in files if stem not in found), None)
    if missing is not None:
        raise DatasetError(
            f"{files[missing]}: there is no picture {missing!r} in {images}, and without it nobody knows how large the "
            "masks are; put the pictures there, or say where they are with --media"
        )
    for stem, file in found.items():
        try:
            size_hw = open_media(file).size_hw
        except MediaError as error:
            raise DatasetError(str(error)) from error
        shapes: list[Shape] = []
        if stem in files:
            lines = read_with_path(files[stem], lambda file: file.read_text(encoding="utf-8").splitlines())
            for number, line in enumerate(lines, 1):
                where = f"{files[stem]}, line {number}"
                shapes += read_with(where, partial(_read_line, line, classes, size_hw, losses))
        yield file.relative_to(images).as_posix(), size_hw, shapes


def _read_line(line: str, classes: dict[int, str], size_hw: tuple[int, int], losses: Losses) -> list[Shape]:
    words = line.split()
    if not words:
        return []
    if not words[0].isdecimal() or int(words[0]) not in classes:
        raise ValueError(f"the class is {shorten(words[0])}; data.yaml has {len(classes)} classes, by number")
    values: list[Any] = [check_number(float(word), "a coordinate", -0.01, 1.01) for word in words[1:]]
    if len(values) == 4:
        losses["boxes without a mask are left out"] += 1
        return []
    if len(values) % 2 or len(values) < 6:
        raise ValueError(f"there are {len(values)} coordinates; an outline needs at least three x, y pairs")
    height, width = size_hw
    corners = np.array(values).reshape(-1, 2).clip(0, 1) * (width, height)
    mask = draw_outline(np.minimum(corners, (width - 0.01, height - 0.01)), size_hw)
    return [(None, classes[int(words[0])], encode_rle(mask), None)]
