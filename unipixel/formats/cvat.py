"""CVAT XML 1.1, "for images": every picture or frame with the masks on it, run lengths row by row.

A mask's ``group_id`` is the object's id. Frames are called ``frame_000000``, as CVAT calls those of a video, so that a
file of one clip goes into a task of that video; CVAT's tracks hold no masks. Also read are polygons and ellipses, and
the tracks of "for video" files frame by frame, as CVAT writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from unipixel.atomic import write_text
from unipixel.checks import check_integer, check_number, check_text, parse_xml, shorten
from unipixel.errors import DatasetError
from unipixel.formats.annotations import (
    Annotations,
    Losses,
    Picture,
    Shape,
    build_sets,
    count_unkept,
    fit_parts,
    iterate_pictures,
    list_classes,
    read_with,
)
from unipixel.masks import encode_rle, mask_to_box, polygons_to_mask
from unipixel.masks.rle import check_size_hw

VERSION = "1.1"
_MASKLESS = ("box", "polyline", "points", "cuboid", "skeleton", "tag")
_MAX_FRAMES = 10_000_000


def write_cvat(
    sets: Sequence[Annotations], path: Path, losses: Losses, *, polygons: bool = False, classes: Sequence[str] = ()
) -> list[Path]:
    """Write one XML file."""
    count_unkept(sets, losses, subsets=True)
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = VERSION
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    for name in list_classes(sets, classes):
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = _make_writable(name)
        ElementTree.SubElement(label, "attributes")
    for number, (one, t, name) in enumerate(iterate_pictures(sets)):
        height, width = one.size_hw
        size = {"width": str(width), "height": str(height)}
        size |= {"subset": _make_writable(one.subset)} if one.subset else {}
        image = ElementTree.SubElement(root, "image", {"id": str(number), "name": _make_writable(name), **size})
        for object_id, label_text, _, _ in one.list_shapes(t):
            mask = one.tracks[object_id].mask(t)
            common = {"label": _make_writable(label_text), "source": "auto", "occluded": "0"}
            last = {"z_order": "0", "group_id": str(object_id)}
            for tag, fields in _build_polygons(mask, losses) if polygons else [("mask", _build_mask(mask))]:
                ElementTree.SubElement(image, tag, {**common, **fields, **last})
    ElementTree.indent(root, " ")
    text = ElementTree.tostring(root, encoding="unicode")
    write_text(path, f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n', sync=False)
    return [path]


def _make_writable(text: str) -> str:
    """Text without the signs that XML 1.0 cannot hold."""
    return "".join(
        c if c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c >= "\U00010000" else "?"
        for c in text
    )


def _build_mask(mask: np.ndarray) -> dict[str, str]:
    x1, y1, x2, y2 = mask_to_box(mask) or (0, 0, 1, 1)
    flat = mask[y1:y2, x1:x2].reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    box = {"left": str(x1), "top": str(y1), "width": str(x2 - x1), "height": str(y2 - y1)}
    return {"rle": ", ".join(map(str, [0, *runs] if flat[0] else runs)), **box}


def _build_polygons(mask: np.ndarray, losses: Losses) -> Iterator[tuple[str, dict[str, str]]]:
    for corners in fit_parts(mask, losses, "coco"):
        yield "polygon", {"points": ";".join(f"{x:.2f},{y:.2f}" for x, y in corners)}


def read_cvat(path: Path, losses: Losses, pictures: Path | None = None) -> list[Annotations]:
    """An XML file of CVAT, or a folder with its ``annotations.xml``.

    Raises:
        DatasetError: it is damaged, or something else.
    """
    file = path / "annotations.xml" if path.is_dir() else path
    root = read_with(str(file), lambda: parse_xml(file.read_bytes().decode("utf-8-sig")))
    if root.tag != "annotations":
        raise DatasetError(f"{file}: the outermost tag is <{root.tag[:40]}>; CVAT's is <annotations>")
    rows = read_with(str(file), lambda: [*_read_images(root, losses), *_read_tracks(root, losses)])
    folders = [pictures] if pictures is not None else [file.parent / "images", file.parent]
    return build_sets(rows, losses, folders)


def _read_images(root: ElementTree.Element, losses: Losses) -> Iterator[Picture]:
    for image in root.iter("image"):
        name = check_text(image.get("name"), "the name of an <image>")
        size_hw = check_size_hw([_get_integer(image, "height", 1), _get_integer(image, "width", 1)])
        yield name, size_hw, [shape for tag in image for shape in _read_shape(tag, "", None, size_hw, losses)]


def _read_tracks(root: ElementTree.Element, losses: Losses) -> Iterator[Picture]:
    """The frames of a video's file: of every task its tracks, whose shapes say their frame."""
    tracks = list(root.iter("track"))
    if not tracks:
        return
    size = root.find(".//original_size")
    if size is None:
        raise ValueError("it has tracks, but no <original_size>, which says how large the frames are")
    height, width = (check_integer(int(size.findtext(tag) or 0), tag, 1) for tag in ("height", "width"))
    size_hw = check_size_hw([height, width])
    frames: dict[int, list[Shape]] = {}
    for number, track in enumerate(tracks, start=1):
        label = check_text(track.get("label"), "the label of a <track>")
        for tag in track:
            if tag.get("outside") == "1":
                continue
            frame = _get_integer(tag, "frame", 0, _MAX_FRAMES)
            frames.setdefault(frame, []).extend(_read_shape(tag, label, number, size_hw, losses))
    last = max(frames, default=0)
    text = root.findtext(".//task/size") or ""
    last = max(last, int(text) - 1) if text.isdecimal() and int(text) <= _MAX_FRAMES else last
    for frame in range(last + 1):
        yield f"frame_{frame:06d}.png", size_hw, frames.get(frame, [])


def _read_shape(
    tag: ElementTree.Element, label: str, key: int | None, size_hw: tuple[int, int], losses: Losses
) -> Iterator[Shape]:
    if tag.tag in _MASKLESS:
        losses[f"shapes of the type {tag.tag} have no mask and are left out"] += 1
        return
    if tag.tag not in ("mask", "polygon", "ellipse"):
        raise ValueError(f"there is a <{tag.tag[:40]}>, which CVAT's files do not have")
    if tag.tag == "mask":
        mask = _unpack_mask(tag, size_hw)
    elif tag.tag == "polygon":
        pairs = [pair.split(",") for pair in (tag.get("points") or "").split(";")]
        mask = polygons_to_mask([[[float(value) for value in pair] for pair in pairs]], size_hw)
    else:
        cx, cy, rx, ry = (check_number(float(tag.get(name) or "nan"), name) for name in ("cx", "cy", "rx", "ry"))
        turn = np.deg2rad(check_number(float(tag.get("rotation") or 0), "rotation"))
        angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
        x, y = rx * np.cos(angles), ry * np.sin(angles)
        corners = np.stack([cx + x * np.cos(turn) - y * np.sin(turn), cy + x * np.sin(turn) + y * np.cos(turn)], axis=1)
        mask = polygons_to_mask([corners], size_hw)
    group = _get_integer(tag, "group_id", 0) if tag.get("group_id") else 0
    yield (
        key or group or None,
        label or check_text(tag.get("label"), f"the label of a <{tag.tag}>"),
        encode_rle(mask),
        None,
    )


def _unpack_mask(tag: ElementTree.Element, size_hw: tuple[int, int]) -> np.ndarray:
    left, top = (_get_integer(tag, name, 0) for name in ("left", "top"))
    width, height = (_get_integer(tag, name, 1) for name in ("width", "height"))
    if left + width > size_hw[1] or top + height > size_hw[0]:
        raise ValueError(
            f"a mask of {width} x {height} at {left}, {top} is not inside of its picture of {size_hw[1]} x {size_hw[0]}"
        )
    text = tag.get("rle") or ""
    try:
        runs = np.array([int(word) for word in text.split(",")], dtype=np.int64)
    except (ValueError, OverflowError):
        raise ValueError(
            f"the rle of a mask is {shorten(text)}; it must be whole numbers with commas between"
        ) from None
    if runs.min() < 0 or runs.max() > width * height or int(runs.sum()) != width * height:
        raise ValueError(f"the runs of a mask of {width} x {height} must add up to {width * height}, not {runs.sum()}")
    mask = np.zeros(size_hw, dtype=bool)
    mask[top : top + height, left : left + width] = np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(
        height, width
    )
    return mask


def _get_integer(tag: ElementTree.Element, name: str, low: int, high: int = 1 << 31) -> int:
    text = (tag.get(name) or "").strip()
    if not text.isdecimal() or len(text) > 12:
        raise ValueError(f"the {name} of a <{tag.tag}> is {shorten(text)}; it must be a whole number")
    return check_integer(int(text), f"the {name} of a <{tag.tag}>", low, high)
