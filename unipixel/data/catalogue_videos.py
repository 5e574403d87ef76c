"""Catalogue rows of the sets of videos with expressions and masks."""

from __future__ import annotations

from unipixel.data import expressions, groundmore, sav, vicas
from unipixel.data.records import Dataset

VIDEOS: dict[str, Dataset] = {
    "revos": Dataset(
        title="ReVOS",
        paper="arXiv 2407.11325 (VISA)",
        licence="CC BY-NC-SA 4.0",
        home="github.com/cilinyan/ReVOS-api",
        splits=("train", "valid"),
        files={
            "train": ("revos/meta_expressions_train_.json", "revos/mask_dict.json"),
            "valid": (
                "revos/meta_expressions_valid_.json",
                "revos/mask_dict.json",
                "revos/mask_dict_foreground.json",
            ),
        },
        index=expressions.read_records,
        sample=expressions.read_sample,
    ),
    "mevis": Dataset(
        title="MeViS",
        paper="arXiv 2308.08544",
        licence="CC BY-NC-SA 4.0",
        home="github.com/henghuiding/MeViS",
        splits=("train", "valid_u", "valid"),
        files={
            "train": ("mevis/train/meta_expressions.json", "mevis/train/mask_dict.json", "mevis/train/JPEGImages"),
            "valid_u": (
                "mevis/valid_u/meta_expressions.json",
                "mevis/valid_u/mask_dict.json",
                "mevis/valid_u/JPEGImages",
            ),
            "valid": ("mevis/valid/meta_expressions.json", "mevis/valid/JPEGImages"),
        },
        index=expressions.read_records,
        sample=expressions.read_sample,
    ),
    "lvvis": Dataset(
        title="LV-VIS",
        paper="arXiv 2304.01715",
        licence="CC BY-NC-SA 4.0, research only",
        home="github.com/haochenheheda/LVVIS",
        splits=("train",),
        files={"train": ("lvvis/meta_expressions.json", "lvvis/mask_dict.json", "lvvis/train/JPEGImages")},
        index=expressions.read_records,
        sample=expressions.read_sample,
    ),
    "ref_youtube_vos": Dataset(
        title="Ref-YouTube-VOS",
        paper="URVOS, ECCV 2020",
        licence="annotations CC BY 4.0, videos research only",
        home="youtube-vos.org/dataset/rvos",
        splits=("train", "valid"),
        files={
            "train": (
                "ref_youtube_vos/meta_expressions/train/meta_expressions.json",
                "ref_youtube_vos/mask_dict.pkl",
                "ref_youtube_vos/train/JPEGImages",
            ),
            "valid": (
                "ref_youtube_vos/meta_expressions/valid/meta_expressions.json",
                "ref_youtube_vos/valid/JPEGImages",
            ),
        },
        index=expressions.read_records,
        sample=expressions.read_sample,
    ),
    "ref_davis17": Dataset(
        title="Ref-DAVIS17",
        paper="arXiv 1803.08006",
        licence="research only",
        home="davischallenge.org",
        splits=("train", "valid"),
        files={
            split: (
                f"ref_davis17/meta_expressions/{split}/meta_expressions.json",
                f"ref_davis17/{split}/mask_dict.pkl",
                "ref_davis17/DAVIS/JPEGImages/480p",
            )
            for split in ("train", "valid")
        },
        index=expressions.read_records,
        sample=expressions.read_sample,
    ),
    "ref_sav": Dataset(
        title="Ref-SAV",
        paper="arXiv 2501.04001 (Sa2VA)",
        licence="CC BY 4.0 (SA-V)",
        home="huggingface.co/datasets/Dense-World/Sa2VA-Training; videos: ai.meta.com/datasets/segment-anything-video",
        splits=("train", "valid"),
        files={
            "train": ("ref_sav/Ref-SAV-Min-Ratio-0.3.json", "sav/sav_train"),
            "valid": (
                "ref_sav/valid/meta_expressions_valid.json",
                "ref_sav/valid/mask_dict.json",
                "ref_sav/valid/videos",
            ),
        },
        index=sav.read_records,
        sample=sav.read_sample,
    ),
    "groundmore": Dataset(
        title="GroundMoRe",
        paper="arXiv 2411.09921",
        licence="none stated; research only",
        home="groundmore.github.io",
        splits=("train", "test"),
        files={
            "train": ("groundmore/trainval_v2.json", "groundmore/annotations"),
            "test": ("groundmore/test_v2.json", "groundmore/annotations"),
        },
        index=groundmore.read_records,
        sample=groundmore.read_sample,
    ),
    "vicas": Dataset(
        title="ViCaS",
        paper="arXiv 2412.09754",
        licence="research only",
        home="github.com/Ali2500/ViCaS",
        splits=("train", "val", "test"),
        files={
            split: (f"vicas/splits/v1.0/{split}.json", "vicas/annotations", "vicas/video_frames")
            for split in ("train", "val", "test")
        },
        index=vicas.read_records,
        sample=vicas.read_sample,
    ),
}
"""By name."""
