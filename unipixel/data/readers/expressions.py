"""Videos with expressions: ReVOS, MeViS, LV-VIS, Ref-YouTube-VOS, Ref-DAVIS17 and the evaluation half of Ref-SAV.

All are one ``meta_expressions`` file per split with the masks in a second file. A record is one expression; its objects
are one object with id 1, the union of all that are meant.

Layout under ``data``, which `LAYOUTS` spells out: an expression file, a mask file, and frames
``<folder>/<video>/<frame>.jpg``; those of ReVOS may also be in the folder ``JPEGImages`` that its archive makes.

Raw record (ReVOS)::

    {"videos": {"TAO/x": {"frames": ["00000", ...], "height": 480, "width": 640, "vid_id": 3, "expressions": {
        "0": {"exp": "the red car", "obj_id": [1], "anno_id": [10], "type_id": 0}}}}}

``anno_id`` are keys of ``mask_dict.json``: lists of one RLE or null per frame. Videos may lie in folders of their own
(``TAO/x``). Ref-YouTube-VOS and Ref-DAVIS17 have no ``anno_id`` but number their expressions, see below.

Known defects and peculiarities:

* **ReVOS, type 2** (no such object) and every expression without annotation: left out of training; elsewhere the
  query's target is None. Types are the categories ``referring``, ``reasoning``, ``no object``.
* **ReVOS, TAO videos** are long and their objects short: in training a clip runs from the first to the last frame with
  the expression's objects. Expressions whose objects are on fewer than two frames are left out.
* **ReVOS, foreground** (`Sample.areas`, split valid): the union of all annotated objects of the video, for the
  robustness score.
* **Numbered masks** (``mask_dict.pkl``): keys count the expressions of all videos in the order of the *file*. The
  released evaluation counts them with videos and expression ids sorted as *strings* ("10" before "2"), which differs
  from it as soon as a video has more than ten expressions. `Expression.number` is the former and used for reading;
  `Expression.string_number` the latter, to reproduce figures scored that way.
* **No masks to have**: MeViS valid and Ref-YouTube-VOS valid are scored by servers. Their samples have queries but no
  objects, and the queries no targets.
* **Ref-YouTube-VOS valid** lists 507 videos, 305 of which belong to the test split and come without frames. Indexed are
  the 202 others: those that ``meta_expressions/test/meta_expressions.json`` does not list, or without that file those
  whose frame folder exists.
* **Ref-DAVIS17** has four expressions per object (two annotators, by first frame and by whole video), so that the
  expression id is 4 * object + annotator in the real files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unipixel.data.encodings import rles_to_track
from unipixel.data.files import get_field, open_mask_lists, read_json, read_json_cached, read_numbered_masks, require
from unipixel.data.frames import open_clip, resolve_frames
from unipixel.data.records import Dataset, Expression, Record
from unipixel.errors import DatasetError
from unipixel.masks import MaskTrack, area_rle, parse_rle
from unipixel.sample import Query, QueryKind, Sample


@dataclass(frozen=True, kw_only=True)
class ExpressionLayout:
    """Where one split lies, relative to the ``data`` folder, and how it differs from the others."""

    expressions: str
    frames: tuple[str, ...]
    """Folder of the videos' frame folders: the first of these that exists."""
    masks: str | None = None
    """JSON by annotation id, or pickle by running number; None: no masks are given out."""
    foreground: str | None = None
    tests: str | None = None
    """Expression file that, if there, lists videos which are not part of this split."""
    kind: QueryKind = "query"
    questions: bool = False
    """Whether expressions that end with a question mark are sentences."""
    names: bool = False
    """Whether expressions are names of categories, with ``_`` for blanks."""
    training: bool = False
    """Whether expressions without objects are left out and TAO clips cut."""

    @property
    def files(self) -> tuple[str, ...]:
        """What must be there, as far as there is one place for it."""
        places = (self.expressions, self.masks, self.foreground, self.frames[0] if len(self.frames) == 1 else None)
        return tuple(place for place in places if place is not None)


_YOUTUBE = "ref_youtube_vos/meta_expressions"

LAYOUTS: dict[str, dict[str, ExpressionLayout]] = {
    "revos": {
        "train": ExpressionLayout(
            expressions="revos/meta_expressions_train_.json",
            frames=("revos/JPEGImages", "revos"),
            masks="revos/mask_dict.json",
            questions=True,
            training=True,
        ),
        "valid": ExpressionLayout(
            expressions="revos/meta_expressions_valid_.json",
            frames=("revos/JPEGImages", "revos"),
            masks="revos/mask_dict.json",
            foreground="revos/mask_dict_foreground.json",
            questions=True,
        ),
    },
    "mevis": {
        "train": ExpressionLayout(
            expressions="mevis/train/meta_expressions.json",
            frames=("mevis/train/JPEGImages",),
            masks="mevis/train/mask_dict.json",
            training=True,
        ),
        "valid_u": ExpressionLayout(
            expressions="mevis/valid_u/meta_expressions.json",
            frames=("mevis/valid_u/JPEGImages",),
            masks="mevis/valid_u/mask_dict.json",
        ),
        "valid": ExpressionLayout(expressions="mevis/valid/meta_expressions.json", frames=("mevis/valid/JPEGImages",)),
    },
    "lvvis": {
        "train": ExpressionLayout(
            expressions="lvvis/meta_expressions.json",
            frames=("lvvis/train/JPEGImages",),
            masks="lvvis/mask_dict.json",
            names=True,
            training=True,
        ),
    },
    "ref_youtube_vos": {
        "train": ExpressionLayout(
            expressions=f"{_YOUTUBE}/train/meta_expressions.json",
            frames=("ref_youtube_vos/train/JPEGImages",),
            masks="ref_youtube_vos/mask_dict.pkl",
            training=True,
        ),
        "valid": ExpressionLayout(
            expressions=f"{_YOUTUBE}/valid/meta_expressions.json",
            frames=("ref_youtube_vos/valid/JPEGImages",),
            tests=f"{_YOUTUBE}/test/meta_expressions.json",
        ),
    },
    "ref_davis17": {
        split: ExpressionLayout(
            expressions=f"ref_davis17/meta_expressions/{split}/meta_expressions.json",
            frames=("ref_davis17/DAVIS/JPEGImages/480p",),
            masks=f"ref_davis17/{split}/mask_dict.pkl",
            training=split == "train",
        )
        for split in ("train", "valid")
    },
    "ref_sav": {
        "valid": ExpressionLayout(
            expressions="ref_sav/valid/meta_expressions_valid.json",
            frames=("ref_sav/valid/videos",),
            masks="ref_sav/valid/mask_dict.json",
            kind="description",
        ),
    },
}
"""Dataset -> split -> where it lies."""


CATEGORIES = {0: "referring", 1: "reasoning", 2: "no object"}
"""What a ReVOS expression is, by ``type_id``."""
_NO_OBJECT = 2
_CUT = "TAO/"
"""Videos of ReVOS that are much longer than their objects are to be seen."""


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """One record per expression, in file order.

    Raises:
        DatasetError: no such split, or a file is missing or damaged.
    """
    layout, where = _find_layout(dataset, split), f"{dataset}/{split}"
    path = root / layout.expressions
    videos = get_field(read_json(path, where), "videos", f"{where}: {path}", dict)
    masks = None if layout.masks is None else require(root / layout.masks, where, "mask file")
    if layout.foreground is not None:
        require(root / layout.foreground, where, "mask file")
    folder = next((name for name in layout.frames if (root / name).is_dir()), layout.frames[-1])
    if layout.tests is not None:
        videos = _drop_test_videos(root, layout.tests, folder, videos, where)
    records = []
    spans: dict[tuple[str, ...], tuple[int, int] | None] = {}
    for video, frames, raws in _read_videos(videos, layout, f"{where}: {path}"):
        names = tuple(f"{folder}/{video}/{frame}.jpg" for frame in frames)
        for raw in raws:
            span: tuple[int, int] | None = (0, len(names))
            if layout.training and masks is not None and raw.number is None:
                # Several expressions mean the same objects; their masks need to be read once.
                if (video, *raw.masks) not in spans:
                    spans[video, *raw.masks] = _find_span(masks, raw, where)
                span = spans[video, *raw.masks]
            if span is None:
                continue
            record = Record(
                dataset=dataset,
                split=split,
                id=f"{video}/{raw.expression}",
                data_type="seg_video" if span[1] - span[0] > 1 else "seg_image",
                root=root,
                frame_names=names if span == (0, len(names)) else names[slice(*span)],
                raw=replace(raw, frames=range(*span)),
            )
            records.append(record)
    return records


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """The clip with its expression as the one query, and as object 1 what it means.

    Raises:
        DatasetError: a file is missing or damaged, or masks do not fit their frames.
        ValueError: a frame is not in the clip.
    """
    raw: Expression = record.raw
    layout = _find_layout(record.dataset, record.split)
    ts = resolve_frames(record, frames, record.num_frames or 0)
    media = open_clip(record, ts)
    places = [raw.frames[t] for t in ts]
    objects: dict[int, MaskTrack] = {}
    areas: dict[str, MaskTrack] = {}
    if layout.masks is not None and 1 in raw.query.targets:
        lists = _read_mask_lists(record.root / layout.masks, raw, record.source)
        objects[1] = rles_to_track([[rles[t] for rles in lists] for t in places], media.size_hw, record.source)
    if layout.foreground is not None:
        rles = _read_foreground(record.root / layout.foreground, raw, record.source)
        areas["foreground"] = rles_to_track([[rles[t]] for t in places], media.size_hw, f"{record.source}, foreground")
    return Sample(media=media, objects=objects, areas=areas, queries=(raw.query,), source=record.source)


def _find_layout(dataset: str, split: str) -> ExpressionLayout:
    layouts = LAYOUTS.get(dataset, {})
    if split not in layouts:
        raise DatasetError(f"{dataset} has no split {split!r}; it has {', '.join(layouts) or 'none'}")
    return layouts[split]


def _drop_test_videos(root: Path, tests: str, folder: str, videos: dict[str, Any], where: str) -> dict[str, Any]:
    """The videos of a split whose expression file also lists those of the test split."""
    path = root / tests
    if path.exists():
        others = get_field(read_json(path, where), "videos", f"{where}: {path}", dict)
        return {video: value for video, value in videos.items() if video not in others}
    kept = {video: value for video, value in videos.items() if (root / folder / video).is_dir()}
    if videos and not kept:
        raise DatasetError(
            f"{where}: none of the {len(videos)} videos has a frame folder in {root / folder}; unpack the frames there"
        )
    return kept


def _read_videos(
    videos: dict[str, Any], layout: ExpressionLayout, where: str
) -> Iterator[tuple[str, list[str], list[Expression]]]:
    """Yield id, frame names and expressions of each video."""
    numbered = layout.masks is not None and layout.masks.endswith(".pkl")
    listed = {
        video: get_field(value, "expressions", f"{where}, video {video!r}", dict) for video, value in videos.items()
    }
    pairs = [(video, expression) for video, expressions in listed.items() for expression in expressions]
    # Video ids sort as strings, and within a video the expression ids do: what pairs of strings do by themselves.
    string_numbers = {pair: number for number, pair in enumerate(sorted(pairs))} if numbered else {}
    number = 0
    for video, expressions in listed.items():
        place = f"{where}, video {video!r}"
        frames = get_field(videos[video], "frames", place, list)
        if not frames or not all(isinstance(frame, str) for frame in frames):
            raise DatasetError(f"{place}: its frames are {frames!r:.60}; they should be a list of names")
        raws = []
        for expression, value in expressions.items():
            where_it_is = f"{place}, expression {expression!r}"
            type_id = _parse_type_id(value, where_it_is)
            has_keys = layout.masks is not None and not numbered and type_id != _NO_OBJECT
            text = get_field(value, "exp", where_it_is, str).strip()
            text = text.replace("_", " ") if layout.names else text
            masks = _parse_annotation_ids(value, where_it_is) if has_keys else ()
            query = Query(
                kind="sentence" if layout.questions and text.endswith("?") else layout.kind,
                text=text,
                targets=() if layout.masks is None else (1,) if masks or numbered else (None,),
                category="" if type_id is None else CATEGORIES[type_id],
            )
            raw = Expression(
                video=video,
                expression=expression,
                query=query,
                masks=masks,
                num_masks=len(frames),
                number=number if numbered else None,
                string_number=string_numbers.get((video, expression)),
                total=len(pairs),
            )
            number += 1
            raws.append(raw)
        yield video, frames, raws


def _parse_annotation_ids(value: Mapping[str, Any], where: str) -> tuple[str, ...]:
    ids = get_field(value, "anno_id", where, (list, int, str))
    return tuple(str(number) for number in ids) if isinstance(ids, list) else (str(ids),)


def _parse_type_id(value: Any, where: str) -> int | None:
    type_id = value.get("type_id") if isinstance(value, Mapping) else None
    if type_id is not None and type_id not in CATEGORIES:
        raise DatasetError(f"{where}: type_id is {type_id!r}; it should be 0, 1 or 2")
    return type_id


def _find_span(path: Path, raw: Expression, where: str) -> tuple[int, int] | None:
    """First frame and end of the clip that shows an expression's objects in training; None: it is left out."""
    if not raw.masks:
        return None
    if not raw.video.startswith(_CUT):
        return 0, raw.num_masks
    seen = list(zip(*_read_mask_lists(path, raw, where), strict=True))
    first = next((t for t in range(len(seen)) if _has_mask(seen[t])), 0)
    last = next((t for t in reversed(range(len(seen))) if _has_mask(seen[t])), 0)
    return (first, last + 1) if last > first else None


def _has_mask(rles: Sequence[Any]) -> bool:
    try:
        return any(rle is not None and area_rle(parse_rle(rle)) > 0 for rle in rles)
    except ValueError:
        return True  # said, with the record's name, when the sample is read


def _read_mask_lists(path: Path, raw: Expression, where: str) -> list[list[Any]]:
    """Per annotation of the expression its RLE or None on each frame of the whole video."""
    if raw.number is not None:
        found = {str(raw.number): read_numbered_masks(path, raw.number, raw.total, where)}
    else:
        lists = open_mask_lists(path, where.split(" ")[0])
        found = {key: lists.find(key, where) for key in raw.masks}
    for key, rles in found.items():
        _check_length(rles, raw, f"{where}: the masks {key!r} in {path}")
    return list(found.values())


def _read_foreground(path: Path, raw: Expression, where: str) -> list[Any]:
    masks = read_json_cached(path, where.split(" ")[0])
    rles = get_field(get_field(masks, raw.video, f"{where}: {path}", dict), "masks_rle", f"{where}: {path}", list)
    _check_length(rles, raw, f"{where}: the foreground masks in {path}")
    return rles


def _check_length(rles: Any, raw: Expression, what: str) -> None:
    if not isinstance(rles, (list, tuple)) or len(rles) != raw.num_masks:
        given = f"{len(rles)} frames" if isinstance(rles, (list, tuple)) else f"one {type(rles).__name__}"
        raise DatasetError(
            f"{what} are for {given}, but the video has {raw.num_masks} frames; both files must come from the same "
            "release of the dataset"
        )


def _describe(name: str, title: str, paper: str, licence: str, home: str, teaches: str) -> Dataset:
    return Dataset(
        title=title,
        paper=paper,
        licence=licence,
        home=home,
        teaches=teaches,
        splits=tuple(LAYOUTS[name]),
        files={split: layout.files for split, layout in LAYOUTS[name].items()},
        index=read_records,
        sample=read_sample,
    )


DATASETS = {
    row[0]: _describe(*row)
    for row in (
        (
            "revos",
            "ReVOS",
            "arXiv 2407.11325 (VISA)",
            "CC BY-NC-SA 4.0",
            "github.com/cilinyan/ReVOS-api",
            "expressions and implicit questions -> masks in video",
        ),
        (
            "mevis",
            "MeViS",
            "arXiv 2308.08544",
            "CC BY-NC-SA 4.0",
            "github.com/henghuiding/MeViS",
            "expressions of motion -> masks in video",
        ),
        (
            "lvvis",
            "LV-VIS",
            "arXiv 2304.01715",
            "CC BY-NC-SA 4.0, research only",
            "github.com/haochenheheda/LVVIS",
            "class names -> masks in video",
        ),
        (
            "ref_youtube_vos",
            "Ref-YouTube-VOS",
            "URVOS, ECCV 2020",
            "annotations CC BY 4.0, videos research only",
            "youtube-vos.org/dataset/rvos",
            "expressions -> mask in video",
        ),
        (
            "ref_davis17",
            "Ref-DAVIS17",
            "arXiv 1803.08006",
            "research only",
            "davischallenge.org",
            "expressions -> mask in video",
        ),
    )
}
