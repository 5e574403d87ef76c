"""Photos with labelled regions in one JSON line each: the collection that `nano` is trained on besides stickers.

Gathered from COCO (Lin et al., arXiv 1405.0312), LVIS (Gupta et al., arXiv 1908.03195), Clothing Co-Parsing (Yang et
al., CVPR 2014), DUTS (Wang et al., CVPR 2017), ECSSD (Yan et al., CVPR 2013), Oxford-IIIT Pet, Penn-Fudan, Weizmann
Horses, 17 Flowers, VOC 2007, MSRC and a few smaller sets. A photo is in ``val`` when the CRC-32 of its file's stem is
divisible by 10, so that a photo that several sets contain is held out of all of them.

Layout, in the folder that is given or in ``photos`` in it, for each set of `SETS`; absent sets are passed over::

    <set>/labels.jsonl, <set>/images/*.jpg

One line: ``{"image": "images/000000000009.jpg", "width": 320, "height": 240, "instances": [{"id": 1, "category":
"bowl", "iscrowd": 0, "bbox": [x, y, w, h], "area": 30143, "rle": {"size": [240, 320], "counts": "..."}, "color_frac":
0.7, "exprs": [{"text": "the lowest bowl", "type": "position"}]}], "person_rle": ...}``

Known defects: crowds cover many objects and are left out; regions of Clothing Co-Parsing are classes, whose ids are no
object numbers, so objects are numbered by their place in the line; its whole person stands in ``person_rle`` and
becomes one more object. Expressions and their uniqueness are heuristic: those that the set's own defects make
ambiguous are left out (see `TRUSTED`, `_choose_expressions`), and names are those that stickers use (see `WORDS`).
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unipixel.data.encodings import rle_to_mask
from unipixel.data.files import get_field, require
from unipixel.data.records import Dataset, Instance, Record
from unipixel.errors import DatasetError
from unipixel.masks import MaskTrack
from unipixel.media import open_media
from unipixel.sample import Query, Sample

SETS = (
    "coco_subset",
    "coco_single_person",
    "lvis_val100_subset",
    "ccp_fashion",
    "duts_objects",
    "ecssd_objects",
    "oxford_pets",
    "human_photos",
    "penn_fudan",
    "weizmann_horses",
    "feral_cats",
    "car_parts",
    "flowers17",
    "voc2007_instances",
    "nuts_dates_figs",
    "msrc_cows",
)
"""New sets come last: the photos of the first ones keep their places, by which evaluation draws regions."""
MIN_SHARE = 0.004
"""Smaller regions, as a share of the picture, are left out."""

KINDS_OF_EXPRESSION = frozenset({"category", "position", "size", "color"})
TRUSTED: dict[str, frozenset[str]] = {
    "penn_fudan": frozenset({"size"}),  # pedestrians that are hidden or tiny have no label
    "weizmann_horses": frozenset(),  # second horses have no label
    "flowers17": frozenset(),  # other flowers have no label
}
"""Set -> kinds of expression that fit one object of the photo for sure; all of them where the set is not named."""
PLAIN_COLOUR = 0.6
"""Share of an object that its colour must fill for "the red X"."""
NO_COLOURS = ("beige ", "light ")
"""Beginnings of colour expressions that people would argue about."""

WORDS: dict[str, str] = {
    "hot dog": "hotdog",
    "teddy bear": "teddy",
    "tv": "television",
    "cell phone": "phone",
    "hamburger": "burger",
    "orange": "tangerine",
    "tennis racket": "racket",
    "sports ball": "ball",
    "hen": "chicken",
    "rooster": "chicken",
    "laptop computer": "laptop",
    "motor scooter": "scooter",
    "necktie": "tie",
    "trousers": "pants",
    "jean": "jeans",
    "t-shirt": "shirt",
    "computer keyboard": "keyboard",
    "fireplug": "fire hydrant",
    "mouse": "computer mouse",
    "bow-tie": "tie",
    "playingfield": "field",
}
"""Name in a set -> the one word that stickers, or most sets, have for it."""
_SIDE = re.compile(r"\b(left|right) ")
_MADE_OF = re.compile(r"^(wall|floor|window)-\w+$")


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """Every photo of a split that shows a usable region.

    Raises:
        DatasetError: no set is there, or a line is not as documented.
    """
    root = root / "photos" if (root / "photos").is_dir() else root
    present = [name for name in SETS if (root / name / "labels.jsonl").is_file()]
    if not present:
        require(root / SETS[0] / "labels.jsonl", f"{dataset}/{split}")
    records = []
    for name in present:
        path = root / name / "labels.jsonl"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            where = f"{dataset}/{split}: line {number} of {path}"
            try:
                raw = json.loads(line)
            except ValueError as error:
                raise DatasetError(f"{where} is not valid JSON ({error}); fetch the file again") from error
            image = Path(get_field(raw, "image", where, str))
            held_out = zlib.crc32(image.stem.encode()) % 10 == 0
            if held_out != (split == "val") or not _parse_regions(raw, name, where):
                continue
            records.append(
                Record(
                    dataset=dataset,
                    split=split,
                    id=f"{name}/{image.stem}",
                    data_type="seg_image",
                    root=root,
                    frame_names=(f"{name}/{image}",),
                    raw=raw,
                )
            )
    return records


def read_regions(record: Record) -> list[Instance]:
    """The usable regions of a photo as RLEs of frame 0, in the order of `sample`'s object numbers from 1 on.

    Each expression begins with "the" and fits its region alone.

    Raises:
        DatasetError: an entry is missing or malformed.
    """
    return _parse_regions(record.raw, record.id.split("/")[0], record.source)


def list_absent_names(record: Record, names: Sequence[str]) -> list[str]:
    """Those of the names of COCO's things that a photo does not show for sure, by the rules of its set.

    COCO labels all its things throughout, LVIS says which names it has looked for in vain; nothing is known elsewhere.
    """
    name_of_set = record.id.split("/")[0]
    if name_of_set == "lvis_val100_subset":
        return [_normalise_name(str(one), name_of_set) for one in record.raw.get("neg_categories", ())]
    if name_of_set != "coco_subset":
        return []
    shown = {_normalise_name(one["category"], name_of_set) for one in record.raw["instances"]}
    return [name for name in names if name not in shown]


def list_coco_things(records: Sequence[Record]) -> list[str]:
    """Names of the things that ``coco_subset`` labels in some photo."""
    found = {
        _normalise_name(one["category"], "coco_subset")
        for record in records
        if record.id.startswith("coco_subset/")
        for one in record.raw["instances"]
        if one.get("isthing", True)
    }
    return sorted(found)


def _parse_regions(raw: dict[str, Any], name_of_set: str, where: str) -> list[Instance]:
    least = MIN_SHARE * get_field(raw, "width", where, int) * get_field(raw, "height", where, int)
    instances = get_field(raw, "instances", where, list)
    sources: dict[str, set[str]] = {}
    for one in instances:
        category = get_field(one, "category", where, str)
        sources.setdefault(_normalise_name(category, name_of_set), set()).add(category)
    found = []
    for one in instances:
        if one.get("iscrowd") or get_field(one, "area", where, (int, float)) < least:
            continue
        name = _normalise_name(one["category"], name_of_set)
        # names that became one may each have fitted alone before
        texts = _choose_expressions(one, raw, name_of_set, name) if len(sources[name]) == 1 else ()
        thing = bool(one.get("isthing", True))
        found.append(Instance(name, texts, {0: get_field(one, "rle", where, dict)}, is_thing=thing))
    if "person_rle" in raw:
        found.append(Instance("person", ("the person",), {0: raw["person_rle"]}))
    return found


def _normalise_name(category: str, name_of_set: str) -> str:
    """What the region is called."""
    plain = category.replace("_", " ")
    if name_of_set == "car_parts":
        return _SIDE.sub("", plain)  # nobody knows whose left it is
    return WORDS.get(plain) or _MADE_OF.sub(r"\1", plain)


def _choose_expressions(one: dict[str, Any], raw: dict[str, Any], name_of_set: str, name: str) -> tuple[str, ...]:
    """Expressions of a region that its set's defects leave in no doubt, in the words of stickers."""
    category = one["category"].replace("_", " ")
    doubted = [str(other).replace("_", " ") for other in raw.get("not_exhaustive", ())]
    if category in doubted or (name_of_set == "car_parts" and _SIDE.search(category)):
        return ()
    trusted = TRUSTED.get(name_of_set, KINDS_OF_EXPRESSION)
    made = []
    for expression in one.get("exprs", ()):
        kind = expression.get("type", "")
        text = expression["text"].removeprefix("the ")
        if kind and kind not in trusted:
            continue
        if kind == "color" and (text.startswith(NO_COLOURS) or one.get("color_frac", 1.0) < PLAIN_COLOUR):
            continue
        if name != category and category in text:
            text = text.replace(category, name)
        made.append("the " + re.sub(r"\bgray\b", "grey", text))
    return tuple(made)


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """A photo with its regions, an expression or two for some of them, and the name of each.

    Raises:
        DatasetError: a mask does not fit.
        MediaError: the photo cannot be read.
    """
    assert record.frame_names is not None
    media = open_media([record.root / record.frame_names[0]])
    objects, queries = {}, []
    for number, region in enumerate(read_regions(record), 1):
        mask = rle_to_mask(region.regions[0], media.size_hw, record.source)
        objects[number] = MaskTrack.from_masks(mask[None])
        queries += [
            Query(kind="query", text=text, targets=(number,), category=region.name) for text in region.expressions
        ]
        queries.append(Query(kind="caption", text=f"What is [{number}]?", answer=f"the {region.name}", about=(number,)))
    return Sample(media=media, objects=objects, queries=tuple(queries), source=record.source)


DATASETS = {
    "photos": Dataset(
        title="Photos with labelled regions, of which nano learns",
        paper="none; COCO, LVIS, DUTS, ECSSD and others",
        licence="of each set: CC BY 4.0, CC BY-SA 4.0, Apache-2.0 or research only; photos as each line says",
        home="a folder with a folder for each set, images/ and labels.jsonl in it; or the folder 'photos' of the root",
        teaches="names and expressions -> masks; regions -> names",
        splits=("train", "val"),
        index=read_records,
        sample=read_sample,
    )
}
