"""Masks in the files of other tools: read into `Annotations`, and written from them.

| format | place | masks | ids | scores | reads |
|---|---|---|---|---|---|
| ``answer`` | .json | exact | yes | yes | yes |
| ``jsonl`` | .jsonl, a line for each | exact | yes | yes | yes |
| ``session`` | .session | exact | yes | yes | yes; written with a model, see `unipixel.cli.convert` |
| ``coco`` | .json | exact | yes | yes | yes |
| ``youtube-vis`` | .json | exact | yes | yes | yes |
| ``davis`` | folder | exact, without overlaps | up to 255 | no | yes |
| ``yolo`` | folder | outlines of about 100 corners | no | no | yes |
| ``labelme`` | folder, or .json of one picture | exact | yes | no | yes |
| ``cvat`` | .xml | exact | yes | no | yes |
| ``label-studio`` | .json | exact | yes | yes | yes |
| ``datumaro`` | folder | exact | yes | yes | yes |
| ``numpy`` | .npz, of several a folder | exact | yes | yes | yes |
| ``overlay`` | .png, .gif, .mp4, of several a folder | drawn | drawn | no | no |

supervision's ``Detections`` and FiftyOne's samples, which live in memory, are in `unipixel.formats.libraries`. What a
format has no place for is counted and warned of, or refused; nothing is dropped in silence.
"""

from __future__ import annotations

import inspect
import json
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from unipixel.errors import DatasetError, MediaError
from unipixel.formats.annotations import Annotations, Losses, assign_subsets, find_pictures
from unipixel.formats.coco import read_coco, write_coco, write_youtube_vis
from unipixel.formats.cvat import read_cvat, write_cvat
from unipixel.formats.datumaro import read_datumaro, write_datumaro
from unipixel.formats.label_studio import read_label_studio, write_label_studio
from unipixel.formats.labelme import read_labelme, write_labelme
from unipixel.formats.rasters import read_davis, read_numpy, write_davis, write_numpy, write_overlay
from unipixel.formats.sessions import read_answer, read_jsonl, read_session, write_answer, write_jsonl
from unipixel.formats.yolo import read_yolo, write_yolo
from unipixel.media import open_media
from unipixel.media.names import is_junk

__all__ = [
    "READERS",
    "WRITERS",
    "Annotations",
    "Losses",
    "assign_subsets",
    "attach_pictures",
    "describe_losses",
    "find_format",
    "guess_format",
    "read_annotations",
    "write_annotations",
    "write_sets",
]

READERS: dict[str, Callable[..., list[Annotations]]] = {
    "answer": read_answer,
    "jsonl": read_jsonl,
    "session": read_session,
    "coco": read_coco,
    "youtube-vis": read_coco,
    "davis": read_davis,
    "yolo": read_yolo,
    "labelme": read_labelme,
    "cvat": read_cvat,
    "label-studio": read_label_studio,
    "datumaro": read_datumaro,
    "numpy": read_numpy,
}
WRITERS: dict[str, Callable[..., list[Path]]] = {
    "answer": write_answer,
    "jsonl": write_jsonl,
    "coco": write_coco,
    "youtube-vis": write_youtube_vis,
    "davis": write_davis,
    "yolo": write_yolo,
    "labelme": write_labelme,
    "cvat": write_cvat,
    "label-studio": write_label_studio,
    "datumaro": write_datumaro,
    "numpy": write_numpy,
    "overlay": write_overlay,
}
FOLDERS = ("davis", "yolo", "datumaro")
"""Formats that are folders, always."""
_ENDINGS = {
    ".json": ("coco", "youtube-vis", "label-studio", "answer", "labelme"),
    ".jsonl": ("jsonl",),
    ".xml": ("cvat",),
    ".npz": ("numpy",),
    ".png": ("overlay",),
    ".gif": ("overlay",),
    ".mp4": ("overlay",),
    ".session": ("session",),
    "": (*FOLDERS, "labelme", "numpy", "overlay"),
}
"""What may be written under a name that ends so."""


def read_annotations(
    path: str | Path, kind: str | None = None, *, media: str | Path | None = None
) -> list[Annotations]:
    """The objects in a file or folder, of every picture and clip.

    Args:
        kind: a key of `READERS`; None: see `find_format`.
        media: the picture or video, or the folder of pictures, where the file does not lead to them.

    Raises:
        DatasetError: the file is missing or damaged, or in a format that is not known.
        MediaError: the media are not those that the masks are about.

    Warns:
        UserWarning: of what is not read, such as boxes without a mask.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"{path} does not exist")
    kind = kind or find_format(path)
    if kind not in READERS:
        raise DatasetError(f"{kind!r} cannot be read; there are {', '.join(READERS)}")
    losses: Losses = Losses()
    read = READERS[kind]
    folder = Path(media) if media is not None and Path(media).is_dir() else None
    options = {"pictures": folder} if "pictures" in inspect.signature(read).parameters else {}
    try:
        sets = read(path, losses, **options)
    except OSError as error:
        raise DatasetError(f"{error.filename or path} cannot be read ({error.strerror or error})") from error
    if media is not None:
        attach_pictures(sets, media)
    _warn(path, losses)
    return sets


def write_annotations(
    sets: Sequence[Annotations],
    path: str | Path,
    kind: str | None = None,
    *,
    polygons: bool = False,
    classes: Sequence[str] = (),
) -> list[Path]:
    """Write objects in the format of a tool, and return the files.

    Args:
        path: a file, whose folder is made, or a folder, which must be new or empty.
        kind: a key of `WRITERS`; None: see `guess_format`.
        polygons: write outlines where the format knows masks as well.
        classes: those that come first in the format's list of classes, if it has one, with objects or without.

    Raises:
        DatasetError: the format cannot hold these objects, or not under this name.
        MediaError: the format needs the pictures, and they are not known.
        ValueError: the format is not known, or knows no choice of polygons.

    Warns:
        UserWarning: of what the format has no place for.
    """
    path = Path(path)
    kind = kind or guess_format(path)
    if kind not in WRITERS:
        raise ValueError(f"{kind!r} cannot be written; there are {', '.join(WRITERS)}")
    ending = path.suffix.lower()
    if kind in FOLDERS and ending in _ENDINGS and ending:
        raise DatasetError(f"{kind} is a folder, and {path} the name of a file; name a folder")
    if kind not in FOLDERS and kind not in _ENDINGS.get(ending, ()):
        fitting = [end or "a folder" for end, kinds in _ENDINGS.items() if kind in kinds]
        raise DatasetError(f"{path} cannot be written as {kind}; name {' or '.join(fitting)}")
    if path.is_dir() and any(path.iterdir()):
        raise DatasetError(f"the folder {path} is not empty; name a new one, so that old files do not count as written")
    if polygons and "polygons" not in inspect.signature(WRITERS[kind]).parameters:
        raise ValueError(f"{kind} has no choice between masks and polygons")
    losses: Losses = Losses()
    (path if kind in FOLDERS else path.parent).mkdir(parents=True, exist_ok=True)
    paths = write_sets(sets, path, kind, losses, polygons=polygons, classes=classes)
    _warn(path, losses)
    return paths


def write_sets(
    sets: Sequence[Annotations], path: Path, kind: str, losses: Losses, **options: bool | Sequence[str]
) -> list[Path]:
    """Write with the writer of a format, given those options that it has; see `write_annotations`.

    Raises:
        DatasetError, MediaError, ValueError: as `write_annotations`.
    """
    write = WRITERS[kind]
    known = inspect.signature(write).parameters
    return write(sets, path, losses, **{name: value for name, value in options.items() if name in known})


def describe_losses(losses: Losses) -> list[str]:
    """What was counted, as words with numbers, the most frequent first."""
    return [f"{count} {what}" for what, count in losses.most_common() if count]


def _warn(path: Path, losses: Losses) -> None:
    for sentence in describe_losses(losses):
        warnings.warn(f"{path}: {sentence}", UserWarning, stacklevel=3)


def attach_pictures(sets: Iterable[Annotations], media: str | Path) -> None:
    """Say which pictures annotations are about: one picture or video for one set, or a folder that has them by name.

    Raises:
        MediaError: they are not there, or not those that the masks are about.
    """
    path, sets = Path(media), list(sets)
    names = [name for one in sets for name in one.frame_names]
    if path.is_dir():
        missing = next((name for name in names if find_pictures([name], [path]) is None), None)
        for one in sets if missing is None else ():
            one.attach(find_pictures(one.frame_names, [path]) or [])
        if missing is None:
            return
        if len(sets) != 1 or not sets[0].is_video:
            raise MediaError(f"the picture {missing!r} is not in {path}")
    if len(sets) != 1:
        raise MediaError(f"{path} is one picture or clip, and there are {len(sets)}; give the folder with all of them")
    sets[0].attach(open_media(path))


def guess_format(path: Path) -> str:
    """The format that the name of a file to be written says.

    Raises:
        ValueError: it says none, or several are written under such a name.
    """
    kinds = _ENDINGS.get(path.suffix.lower(), ())
    if len(kinds) == 1:
        return kinds[0]
    several = f"{path.suffix} may be {', '.join(kinds)}" if path.suffix else f"a folder may be {', '.join(kinds)}"
    raise ValueError(f"{several if kinds else f'the name {path.name!r} says no format'}; say which with --to")


def find_format(path: Path) -> str:
    """The format of a file or folder, by what is in it.

    Raises:
        DatasetError: it is none that is known.
    """
    try:
        found = _look_into_folder(path) if path.is_dir() else _look_into_file(path)
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} cannot be read ({error})") from error
    if found is None:
        raise DatasetError(f"{path} is in none of the formats {', '.join(READERS)}; say which with --from")
    return found


def _look_into_file(path: Path) -> str | None:
    with open(path, "rb") as file:
        head = file.read(4096)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return "session" if "session.json" in names else "numpy" if "masks.npy" in names else None
    if head.startswith(b"\x93NUMPY"):
        return "numpy"
    if path.suffix.lower() == ".jsonl":
        return "jsonl"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<"):
        return "cvat"
    if path.suffix.lower() in (".yaml", ".yml"):
        return "yolo"
    if not start.startswith((b"{", b"[")):
        return None
    return _recognize(json.loads(path.read_bytes()))


def _recognize(document: Any) -> str | None:
    """The format of a JSON document."""
    if isinstance(document, list):
        return "label-studio" if document and isinstance(document[0], dict) and "data" in document[0] else None
    if not isinstance(document, dict):
        return None
    videos = document.get("videos")
    if isinstance(videos, list) and any(isinstance(one, dict) and "file_names" in one for one in videos):
        return "youtube-vis"
    for kind, keys in (
        ("coco", ("images", "annotations", "categories")),
        ("labelme", ("shapes", "imagePath")),
        ("datumaro", ("items", "categories")),
        ("answer", ("media", "objects")),
    ):
        if all(key in document for key in keys):
            return kind
    return None


def _look_into_folder(path: Path) -> str | None:
    names = {one.name: one for one in path.iterdir() if not is_junk(one.name)}
    endings = {one.suffix.lower() for one in names.values()}
    if "answer.json" in names:
        return "answer"
    if "annotations.xml" in names:
        return "cvat"
    if ".yaml" in endings or ".yml" in endings:
        return "yolo"
    if ".npz" in endings:
        return "numpy"
    if "davis_semantics.json" in names or "Annotations" in names:
        return "davis"
    for file in sorted([*path.glob("*.json"), *path.glob("annotations/*.json"), *path.glob("*/*.json")]):
        found = None if is_junk(file.name) else _recognize(json.loads(file.read_bytes()))
        if found:
            return "coco" if found == "youtube-vis" else found
    has_inner = any(next(one.glob("*.png"), None) for one in names.values() if one.is_dir())
    return "davis" if ".png" in endings or has_inner else None
