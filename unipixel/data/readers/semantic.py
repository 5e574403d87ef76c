"""ADE20K, COCO-Stuff and Mapillary Vistas: a class for every pixel of a photo.

Layout under ``data/lisa``::

    ade20k/{images,annotations}/{training,validation}/ADE_train_00000001.{jpg,png}    0 unlabelled, 1 to 150 a class
    coco/{train2017,val2017}/000000000009.jpg  cocostuff/{train2017,val2017}/000000000009.png     0 to 181, 255 nothing
    mapillary/{training,validation}/{images/<key>.jpg,v2.0/labels/<key>.png}          0 to 123, of which 123 unlabelled
    mapillary/config_v2.0.json                                          names of the classes; a list of ours without it

Records: one per label picture, with a query of kind ``query`` per class in it, in ascending order; each class is one
object. Ids are ADE20K's and COCO-Stuff's own class numbers (pixel value + 1 for the latter) and pixel value + 1 for
Mapillary, so that 0 never stands for an object. Which classes a photo has is only known once its labels are read.

Known defects, and what is done about them:

* COCO-Stuff's catch-all classes (``wall-other``, ``floor-stone``: the names with a hyphen) are no names that anyone
  would use; LISA leaves them out. In the released loader that list is shifted by one class, so that it drops
  ``person``, ``bush``, ``grass`` and others and keeps the catch-alls. Here the names with a hyphen are left out;
  `read_original_records` leaves out what the released loader does.
* Mapillary's last class is "unlabeled": left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from unipixel.data.encodings import read_index_png
from unipixel.data.files import get_field, read_json, require
from unipixel.data.frames import PICTURE_SUFFIXES, check_size, open_picture, repeat_mask
from unipixel.data.records import Dataset, Record
from unipixel.errors import DatasetError
from unipixel.sample import Query, Sample


def _split_names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(";"))


ADE20K = _split_names(
    """wall; building; sky; floor; tree; ceiling; road; bed; windowpane; grass; cabinet; sidewalk; person; earth; door;
    table; mountain; plant; curtain; chair; car; water; painting; sofa; shelf; house; sea; mirror; rug; field; armchair;
    seat; fence; desk; rock; wardrobe; lamp; bathtub; railing; cushion; base; box; column; signboard; chest of drawers;
    counter; sand; sink; skyscraper; fireplace; refrigerator; grandstand; path; stairs; runway; case; pool table;
    pillow; screen door; stairway; river; bridge; bookcase; blind; coffee table; toilet; flower; book; hill; bench;
    countertop; stove; palm; kitchen island; computer; swivel chair; boat; bar; arcade machine; hovel; bus; towel;
    light; truck; tower; chandelier; awning; streetlight; booth; television; airplane; dirt track; apparel; pole; land;
    bannister; escalator; ottoman; bottle; buffet; poster; stage; van; ship; fountain; conveyer belt; canopy; washer;
    plaything; swimming pool; stool; barrel; basket; waterfall; tent; bag; minibike; cradle; oven; ball; food; step;
    tank; trade name; microwave; pot; animal; bicycle; lake; dishwasher; screen; blanket; sculpture; hood; sconce; vase;
    traffic light; tray; ashcan; fan; pier; crt screen; plate; monitor; bulletin board; shower; radiator; glass; clock;
    flag"""
)
"""The 150 classes of the scene parsing benchmark, pixel values 1 to 150; of several synonyms the first.

Source: objectInfo150.txt of the benchmark.
"""

COCO_STUFF = _split_names(
    """person; bicycle; car; motorcycle; airplane; bus; train; truck; boat; traffic light; fire hydrant; street sign;
    stop sign; parking meter; bench; bird; cat; dog; horse; sheep; cow; elephant; bear; zebra; giraffe; hat; backpack;
    umbrella; shoe; eye glasses; handbag; tie; suitcase; frisbee; skis; snowboard; sports ball; kite; baseball bat;
    baseball glove; skateboard; surfboard; tennis racket; bottle; plate; wine glass; cup; fork; knife; spoon; bowl;
    banana; apple; sandwich; orange; broccoli; carrot; hot dog; pizza; donut; cake; chair; couch; potted plant; bed;
    mirror; dining table; window; desk; toilet; door; tv; laptop; mouse; remote; keyboard; cell phone; microwave; oven;
    toaster; sink; refrigerator; blender; book; clock; vase; scissors; teddy bear; hair drier; toothbrush; hair brush;
    banner; blanket; branch; bridge; building-other; bush; cabinet; cage; cardboard; carpet; ceiling-other;
    ceiling-tile; cloth; clothes; clouds; counter; cupboard; curtain; desk-stuff; dirt; door-stuff; fence; floor-marble;
    floor-other; floor-stone; floor-tile; floor-wood; flower; fog; food-other; fruit; furniture-other; grass; gravel;
    ground-other; hill; house; leaves; light; mat; metal; mirror-stuff; moss; mountain; mud; napkin; net; paper;
    pavement; pillow; plant-other; plastic; platform; playingfield; railing; railroad; river; road; rock; roof; rug;
    salad; sand; sea; shelf; sky-other; skyscraper; snow; solid-other; stairs; stone; straw; structural-other; table;
    tent; textile-other; towel; tree; vegetable; wall-brick; wall-concrete; wall-other; wall-panel; wall-stone;
    wall-tile; wall-wood; water-other; waterdrops; window-blind; window-other;
    wood"""
)
"""The 182 classes, pixel values 0 to 181 in the stuffthingmaps; the dataset's own ids are one higher.

Source: labels.txt of COCO-Stuff.
"""

MAPILLARY = _split_names(
    """bird; ground animal; ambiguous barrier; concrete block; curb; fence; guard rail; barrier; road median; road side;
    lane separator; temporary barrier; wall; bike lane; crosswalk - plain; curb cut; driveway; parking; parking aisle;
    pedestrian area; rail track; road; road shoulder; service lane; sidewalk; traffic island; bridge; building; garage;
    tunnel; person; person group; bicyclist; motorcyclist; other rider; lane marking - dashed line;
    lane marking - straight line; lane marking - zigzag line; lane marking - ambiguous; lane marking - arrow (left);
    lane marking - arrow (other); lane marking - arrow (right); lane marking - arrow (split left or straight);
    lane marking - arrow (split right or straight); lane marking - arrow (straight); lane marking - crosswalk;
    lane marking - give way (row); lane marking - give way (single); lane marking - hatched (chevron);
    lane marking - hatched (diagonal); lane marking - other; lane marking - stop line; lane marking - symbol (bicycle);
    lane marking - symbol (other); lane marking - text; lane marking (only) - dashed line;
    lane marking (only) - crosswalk; lane marking (only) - other; lane marking (only) - test; mountain; sand; sky; snow;
    terrain; vegetation; water; banner; bench; bike rack; catch basin; cctv camera; fire hydrant; junction box; mailbox;
    manhole; parking meter; phone booth; pothole; signage - advertisement; signage - ambiguous; signage - back;
    signage - information; signage - other; signage - store; street light; pole; pole group; traffic sign frame;
    utility pole; traffic cone; traffic light - general (single); traffic light - pedestrians;
    traffic light - general (upright); traffic light - general (horizontal); traffic light - cyclists;
    traffic light - other; traffic sign - ambiguous; traffic sign (back); traffic sign - direction (back);
    traffic sign - direction (front); traffic sign (front); traffic sign - parking; traffic sign - temporary (back);
    traffic sign - temporary (front); trash can; bicycle; boat; bus; car; caravan; motorcycle; on rails; other vehicle;
    trailer; truck; vehicle group; wheeled slow; water valve; car mount; dynamic; ego vehicle; ground; static;
    unlabeled"""
)
"""The 124 classes of version 2.0, pixel values 0 to 123; its own config_v2.0.json is preferred where it is there."""


_MAPILLARY_CONFIG = "lisa/mapillary/config_v2.0.json"


@dataclass(frozen=True)
class _SemanticLayout:
    """Where a set lies, and what its pixels mean."""

    images: str
    """Folder of the photos; ``{}`` is the split's own name."""
    labels: str
    splits: dict[str, str]
    names: tuple[str, ...]
    first_value: int
    """Pixel value of the first name."""
    first_id: int
    """Object id of the first name."""
    nothing: tuple[int, ...]
    """Pixel values without a class, or with one that is not asked for."""
    originally_nothing: tuple[int, ...] | None = None
    """The same in the released loader, where it differs."""


_CATCH_ALLS = tuple(value for value, name in enumerate(COCO_STUFF) if "-" in name)

_SOURCES = {
    "ade20k": _SemanticLayout(
        images="lisa/ade20k/images/{}",
        labels="lisa/ade20k/annotations/{}",
        splits={"train": "training", "val": "validation"},
        names=ADE20K,
        first_value=1,
        first_id=1,
        nothing=(0, 255),
    ),
    "cocostuff": _SemanticLayout(
        images="lisa/coco/{}",
        labels="lisa/cocostuff/{}",
        splits={"train": "train2017", "val": "val2017"},
        names=COCO_STUFF,
        first_value=0,
        first_id=1,
        nothing=(255, *_CATCH_ALLS),
        originally_nothing=(255, 0, *(value + 1 for value in _CATCH_ALLS)),
    ),
    "mapillary": _SemanticLayout(
        images="lisa/mapillary/{}/images",
        labels="lisa/mapillary/{}/v2.0/labels",
        splits={"train": "training", "val": "validation"},
        names=MAPILLARY,
        first_value=0,
        first_id=1,
        nothing=(123, 255),
    ),
}


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """The records of a split: one per label picture.

    Raises:
        DatasetError: a folder is missing or empty, or a photo is missing.
    """
    return _list_photos(root, dataset, split, _SOURCES[dataset].nothing)


def read_original_records(root: Path, dataset: str, split: str) -> list[Record]:
    """The records without the classes that the released loader leaves out.

    Raises:
        DatasetError: as `index`.
    """
    source = _SOURCES[dataset]
    return _list_photos(root, dataset, split, source.originally_nothing or source.nothing)


def _list_photos(root: Path, dataset: str, split: str, nothing: tuple[int, ...]) -> list[Record]:
    source = _SOURCES[dataset]
    images, labels = (where.format(source.splits[split]) for where in (source.images, source.labels))
    stems = sorted(path.stem for path in require(root / labels, dataset, "folder").iterdir() if path.suffix == ".png")
    if not stems:
        raise DatasetError(f"{dataset}: the folder {root / labels} holds no PNG of classes; fetch the labels again")
    photos = {
        path.stem: path.name
        for path in require(root / images, dataset, "folder").iterdir()
        if path.suffix.lower() in PICTURE_SUFFIXES
    }
    missing = [stem for stem in stems if stem not in photos]
    if missing:
        raise DatasetError(
            f"{dataset}: {len(missing)} of {len(stems)} photos are missing in {root / images}, such as "
            f"{missing[0]}.jpg; fetch the photos of the split {split!r} again"
        )
    return [
        Record(
            dataset=dataset,
            split=split,
            id=stem,
            data_type="seg_image",
            root=root,
            frame_names=(f"{images}/{photos[stem]}",),
            raw=(f"{labels}/{stem}.png", nothing),
        )
        for stem in stems
    ]


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """A photo with the classes seen in it.

    Raises:
        DatasetError: photo or labels are missing, damaged or of two sizes, or a pixel value has no class.
    """
    path, nothing = record.raw
    source, names = _SOURCES[record.dataset], _find_class_names(record.root, record.dataset)
    media = open_picture(record, frames)
    labels = read_index_png(record.root / path, record.source)
    check_size((labels.shape[0], labels.shape[1]), media.size_hw, record, path)
    objects, queries = {}, []
    for value in np.flatnonzero(np.bincount(labels.reshape(-1))).tolist():
        if value in nothing:
            continue
        place = value - source.first_value
        if not 0 <= place < len(names):
            raise DatasetError(
                f"{record.source}: {path} holds the value {value}, but there are {len(names)} classes; "
                "the labels are of another version"
            )
        object_id = source.first_id + place
        objects[object_id] = repeat_mask(labels == value, media.num_frames)
        queries.append(Query(kind="query", text=names[place], targets=(object_id,)))
    return Sample(media=media, objects=objects, queries=tuple(queries), source=record.source)


def _find_class_names(root: Path, dataset: str) -> tuple[str, ...]:
    if dataset == "mapillary" and (root / _MAPILLARY_CONFIG).is_file():
        return _read_mapillary_names(root / _MAPILLARY_CONFIG)
    return _SOURCES[dataset].names


@lru_cache(maxsize=4)
def _read_mapillary_names(path: Path) -> tuple[str, ...]:
    rows = get_field(read_json(path, "mapillary"), "labels", f"mapillary: {path}", list)
    where = f"mapillary: {path}, label"
    return tuple(get_field(row, "readable", f"{where} {number}", str).lower() for number, row in enumerate(rows))


DATASETS = {
    name: Dataset(
        title=title,
        paper=paper,
        licence=licence,
        home=home,
        teaches="class names -> masks",
        splits=tuple(_SOURCES[name].splits),
        files={
            split: (_SOURCES[name].images.format(own), _SOURCES[name].labels.format(own))
            for split, own in _SOURCES[name].splits.items()
        },
        index=read_records,
        sample=read_sample,
        original=read_original_records if _SOURCES[name].originally_nothing else None,
    )
    for name, title, paper, licence, home in (
        (
            "ade20k",
            "ADE20K scene parsing",
            "arXiv 1608.05442",
            "BSD-3; photos research only",
            "ADEChallengeData2016, sceneparsing.csail.mit.edu",
        ),
        (
            "cocostuff",
            "COCO-Stuff",
            "arXiv 1612.03716",
            "CC BY 4.0; photos Flickr",
            "github.com/nightrome/cocostuff, stuffthingmaps_trainval2017; photos: cocodataset.org, train2017 and "
            "val2017",
        ),
        (
            "mapillary",
            "Mapillary Vistas 2.0",
            "Neuhold et al., ICCV 2017",
            "CC BY-NC-SA 4.0",
            "mapillary.com/dataset/vistas, version 2.0",
        ),
    )
}
