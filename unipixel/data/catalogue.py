"""Every dataset that can be read: what it is, whose it is, where it comes from and which files it needs."""

from __future__ import annotations

from unipixel.data.catalogue_pictures import PICTURES
from unipixel.data.catalogue_videos import VIDEOS
from unipixel.data.catalogue_words import WORDS
from unipixel.data.records import Dataset

DATASETS: dict[str, Dataset] = {**VIDEOS, **PICTURES, **WORDS}
"""By name."""

WITHOUT_ROOT = ("stickers",)
"""Datasets that need no files."""

TRAINS = {
    "revos": "expressions and implicit questions -> masks in video",
    "mevis": "expressions of motion -> masks in video",
    "lvvis": "class names -> masks in video",
    "ref_youtube_vos": "expressions -> mask in video",
    "ref_davis17": "expressions -> mask in video",
    "ref_sav": "long descriptions -> mask in video",
    "groundmore": "questions -> words and masks in video",
    "vicas": "sentences -> masks in video",
    "reason_seg": "implicit questions -> mask, with reasons",
    "ade20k": "class names -> masks",
    "cocostuff": "class names -> masks",
    "mapillary": "class names -> masks",
    "paco_lvis": "names of objects and parts -> masks",
    "pascal_part": "names of parts -> masks",
    "refcoco": "expressions -> mask",
    "refcoco+": "expressions without places -> mask",
    "refcocog": "long expressions -> mask",
    "refclef": "expressions -> mask",
    "stickers": "everything, in small",
    "folder": "your names and expressions -> masks",
    "coco": "your names and expressions -> masks",
    "videorefer_short_caption": "an object in video -> short caption",
    "videorefer_detailed_caption": "an object in video -> long caption",
    "videorefer_qa": "questions about objects in video; memory",
    "videorefer_bench_q": "nothing, evaluation: choices about objects",
    "videorefer_bench_d": "nothing, evaluation: descriptions of objects",
    "inst_it_image_short_caption_raw": "an object in an image -> short caption",
    "inst_it_image_long_caption_raw": "an object in an image -> long caption",
    "inst_it_video_qa_raw": "questions about objects in video; memory",
    "osprey_conversation": "conversations about regions",
    "osprey_detail_description": "a region -> long description",
    "osprey_pos_neg": "is a region this thing?",
    "llava_instruct_665k_videogpt_plus_576k": "general instructions",
    "mvbench": "nothing, evaluation: choices about video",
    "videomme": "nothing, evaluation: choices about video",
}
"""What each dataset teaches, in a few words."""
