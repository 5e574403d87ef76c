"""Catalogue rows of the sets of pictures with masks, of the built-in world, and of people's own data."""

from __future__ import annotations

from unipixel.data import coco, folder, parts, reason_seg, refer, semantic, stickers
from unipixel.data.records import Dataset

_LISA = "LISA's data folder, github.com/dvlab-research/LISA (dataset section of its README)"
_REFER = "github.com/lichengunc/refer (expressions); photos: "
_COCO_2014 = "cocodataset.org, train2014"
_COCO_2017 = "cocodataset.org, train2017 and val2017"


def _refer_files(name: str, by: str, photos: str) -> tuple[str, ...]:
    folder = "lisa/refer_seg"
    return f"{folder}/{name}/instances.json", f"{folder}/{name}/refs({by}).p", f"{folder}/images/{photos}"


_REFCOCO_SPLITS = ("train", "val", "testA", "testB")
_REFCLEF_SPLITS = ("train", "val", "test", "testA", "testB", "testC")
_COCO_PHOTOS = "mscoco/images/train2014"
_REASON_SEG = "lisa/reason_seg/ReasonSeg"
_VOC_PHOTOS = "lisa/vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages"

PICTURES: dict[str, Dataset] = {
    "reason_seg": Dataset(
        title="ReasonSeg",
        paper="arXiv 2308.00692",
        licence="Apache-2.0; photos OpenImages, ScanNetv2",
        home=_LISA,
        splits=("train", "val", "test"),
        files={
            "train": (f"{_REASON_SEG}/train", f"{_REASON_SEG}/explanatory/train.json"),
            "val": (f"{_REASON_SEG}/val",),
            "test": (f"{_REASON_SEG}/test",),
        },
        index=reason_seg.read_records,
        sample=reason_seg.read_sample,
    ),
    "ade20k": Dataset(
        title="ADE20K scene parsing",
        paper="arXiv 1608.05442",
        licence="BSD-3; photos research only",
        home="ADEChallengeData2016, sceneparsing.csail.mit.edu",
        splits=("train", "val"),
        files={
            "train": ("lisa/ade20k/images/training", "lisa/ade20k/annotations/training"),
            "val": ("lisa/ade20k/images/validation", "lisa/ade20k/annotations/validation"),
        },
        index=semantic.read_records,
        sample=semantic.read_sample,
    ),
    "cocostuff": Dataset(
        title="COCO-Stuff",
        paper="arXiv 1612.03716",
        licence="CC BY 4.0; photos Flickr",
        home=f"github.com/nightrome/cocostuff, stuffthingmaps_trainval2017; photos: {_COCO_2017}",
        splits=("train", "val"),
        files={
            "train": ("lisa/coco/train2017", "lisa/cocostuff/train2017"),
            "val": ("lisa/coco/val2017", "lisa/cocostuff/val2017"),
        },
        index=semantic.read_records,
        original=semantic.read_original_records,
        sample=semantic.read_sample,
    ),
    "mapillary": Dataset(
        title="Mapillary Vistas 2.0",
        paper="Neuhold et al., ICCV 2017",
        licence="CC BY-NC-SA 4.0",
        home="mapillary.com/dataset/vistas, version 2.0",
        splits=("train", "val"),
        files={
            "train": ("lisa/mapillary/training/images", "lisa/mapillary/training/v2.0/labels"),
            "val": ("lisa/mapillary/validation/images", "lisa/mapillary/validation/v2.0/labels"),
        },
        index=semantic.read_records,
        sample=semantic.read_sample,
    ),
    "paco_lvis": Dataset(
        title="PACO-LVIS",
        paper="arXiv 2301.01795",
        licence="MIT; photos Flickr",
        home=f"github.com/facebookresearch/paco; photos: {_COCO_2017}",
        splits=("train", "val"),
        files={
            "train": ("lisa/vlpart/paco/annotations/paco_lvis_v1_train.json", "lisa/coco"),
            "val": ("lisa/vlpart/paco/annotations/paco_lvis_v1_val.json", "lisa/coco"),
        },
        index=parts.read_records,
        original=parts.read_original_records,
        sample=parts.read_sample,
    ),
    "pascal_part": Dataset(
        title="Pascal-Part",
        paper="arXiv 1406.2031",
        licence="none stated; photos Flickr",
        home="github.com/facebookresearch/VLPart (train.json); photos: PASCAL VOC 2010",
        splits=("train",),
        files={"train": ("lisa/vlpart/pascal_part/train.json", _VOC_PHOTOS)},
        index=parts.read_records,
        original=parts.read_original_records,
        sample=parts.read_sample,
    ),
    "refcoco": Dataset(
        title="RefCOCO",
        paper="arXiv 1608.00272",
        licence="Apache-2.0; photos Flickr",
        home=_REFER + _COCO_2014,
        splits=_REFCOCO_SPLITS,
        files=dict.fromkeys(_REFCOCO_SPLITS, _refer_files("refcoco", "unc", _COCO_PHOTOS)),
        index=refer.read_records,
        sample=refer.read_sample,
    ),
    "refcoco+": Dataset(
        title="RefCOCO+",
        paper="arXiv 1608.00272",
        licence="Apache-2.0; photos Flickr",
        home=_REFER + _COCO_2014,
        splits=_REFCOCO_SPLITS,
        files=dict.fromkeys(_REFCOCO_SPLITS, _refer_files("refcoco+", "unc", _COCO_PHOTOS)),
        index=refer.read_records,
        sample=refer.read_sample,
    ),
    "refcocog": Dataset(
        title="RefCOCOg (UMD split)",
        paper="arXiv 1511.02283",
        licence="Apache-2.0; photos Flickr",
        home=_REFER + _COCO_2014,
        splits=("train", "val", "test"),
        files=dict.fromkeys(("train", "val", "test"), _refer_files("refcocog", "umd", _COCO_PHOTOS)),
        index=refer.read_records,
        sample=refer.read_sample,
    ),
    "refclef": Dataset(
        title="RefCLEF (UNC split)",
        paper="Kazemzadeh et al., EMNLP 2014",
        licence="Apache-2.0; photos research only",
        home=_REFER + "SAIAPR TC-12",
        splits=_REFCLEF_SPLITS,
        files=dict.fromkeys(_REFCLEF_SPLITS, _refer_files("refclef", "unc", "saiapr_tc-12")),
        index=refer.read_records,
        sample=refer.read_sample,
    ),
    "stickers": Dataset(
        title="Stickers, the built-in world",
        paper="none",
        licence="as this package",
        home="made on the spot, nothing to fetch",
        splits=("train", "val", "train_video", "val_video"),
        index=stickers.read_records,
        sample=stickers.read_sample,
    ),
    "folder": Dataset(
        title="Own data: pictures and masks (folder:PATH)",
        paper="yours",
        licence="yours",
        home="docs: your own data; images/ and masks/ with the object's number in every pixel",
        splits=("train", "val", "all"),
        index=folder.read_records,
        sample=folder.read_sample,
    ),
    "coco": Dataset(
        title="Own data: a COCO instance file (coco:PATH)",
        paper="yours",
        licence="yours",
        home="docs: your own data; a COCO JSON beside images/",
        splits=("train", "val", "all"),
        index=coco.read_records,
        sample=coco.read_sample,
    ),
}
"""By name."""
