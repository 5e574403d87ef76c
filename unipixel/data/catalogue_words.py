"""Catalogue rows of the sets whose answers are words: about regions, about clips, and about anything."""

from __future__ import annotations

from unipixel.data import choices, general, inst_it, osprey, videorefer, videorefer_bench
from unipixel.data.records import Dataset

_VIDEOREFER = (
    "huggingface.co/datasets/DAMO-NLP-SG/VideoRefer-700K; files without masks and mask folders: UniPixel's data "
    "release, huggingface.co/datasets/PolyU-ChenLab/UniPixel-SFT-1M"
)
_VIDEOREFER_FOLDER = "videorefer/VideoRefer-700K"
_BENCH_FOLDER = "videorefer/VideoRefer-Bench"
_BENCH = "huggingface.co/datasets/DAMO-NLP-SG/VideoRefer-Bench; DAVIS and MeViS frames from their own sites"
_INST_IT = "huggingface.co/datasets/Inst-IT/Inst-It-Dataset (images_raw, videos_raw; annotations with masks)"
_INST_IT_FOLDER = "inst_it/Inst-IT-Dataset"
_OSPREY = "huggingface.co/datasets/AntGroup-MI/Osprey-724K; photos: cocodataset.org, "

WORDS: dict[str, Dataset] = {
    "videorefer_short_caption": Dataset(
        title="VideoRefer-700K, short captions",
        paper="arXiv 2501.00599",
        licence="Apache-2.0; videos Panda-70M",
        home=_VIDEOREFER,
        splits=("train",),
        files={
            "train": (
                f"{_VIDEOREFER_FOLDER}/videorefer-short-caption-500k-wo-masks.json",
                f"{_VIDEOREFER_FOLDER}/masks_short_caption",
                f"{_VIDEOREFER_FOLDER}/videos",
            )
        },
        index=videorefer.read_records,
        sample=videorefer.read_sample,
    ),
    "videorefer_detailed_caption": Dataset(
        title="VideoRefer-700K, detailed captions",
        paper="arXiv 2501.00599",
        licence="Apache-2.0; videos Panda-70M",
        home=_VIDEOREFER,
        splits=("train",),
        files={
            "train": (
                f"{_VIDEOREFER_FOLDER}/videorefer-detailed-caption-125k-wo-masks.json",
                f"{_VIDEOREFER_FOLDER}/masks_detailed_caption",
                f"{_VIDEOREFER_FOLDER}/videos",
            )
        },
        index=videorefer.read_records,
        sample=videorefer.read_sample,
    ),
    "videorefer_qa": Dataset(
        title="VideoRefer-700K, questions",
        paper="arXiv 2501.00599",
        licence="Apache-2.0; videos Panda-70M",
        home=_VIDEOREFER,
        splits=("train",),
        files={
            "train": (
                f"{_VIDEOREFER_FOLDER}/videorefer-qa-75k-wo-masks.json",
                f"{_VIDEOREFER_FOLDER}/masks_qa",
                f"{_VIDEOREFER_FOLDER}/videos",
            )
        },
        index=videorefer.read_records,
        sample=videorefer.read_sample,
    ),
    "videorefer_bench_q": Dataset(
        title="VideoRefer-Bench-Q",
        paper="arXiv 2501.00599",
        licence="Apache-2.0; videos DAVIS, MeViS",
        home=_BENCH,
        splits=("test",),
        files={"test": (f"{_BENCH_FOLDER}/VideoRefer-Bench-Q.json", f"{_BENCH_FOLDER}/videos")},
        index=videorefer_bench.read_records,
        sample=videorefer_bench.read_sample,
    ),
    "videorefer_bench_d": Dataset(
        title="VideoRefer-Bench-D",
        paper="arXiv 2501.00599",
        licence="Apache-2.0; videos Panda-70M",
        home=_BENCH,
        splits=("test",),
        files={"test": (f"{_BENCH_FOLDER}/VideoRefer-Bench-D.json", f"{_BENCH_FOLDER}/videos/Panda-70M-part")},
        index=videorefer_bench.read_records,
        sample=videorefer_bench.read_sample,
    ),
    "inst_it_image_short_caption_raw": Dataset(
        title="Inst-IT, short captions of objects in images",
        paper="arXiv 2412.03565",
        licence="Apache-2.0; images of their sources",
        home=_INST_IT,
        splits=("train",),
        files={"train": (f"{_INST_IT_FOLDER}/inst_it_dataset_image_51k_w_mask.json", f"{_INST_IT_FOLDER}/images_raw")},
        index=inst_it.read_records,
        sample=inst_it.read_sample,
    ),
    "inst_it_image_long_caption_raw": Dataset(
        title="Inst-IT, long captions of objects in images",
        paper="arXiv 2412.03565",
        licence="Apache-2.0; images of their sources",
        home=_INST_IT,
        splits=("train",),
        files={"train": (f"{_INST_IT_FOLDER}/inst_it_dataset_image_51k_w_mask.json", f"{_INST_IT_FOLDER}/images_raw")},
        index=inst_it.read_records,
        sample=inst_it.read_sample,
    ),
    "inst_it_video_qa_raw": Dataset(
        title="Inst-IT, questions about clips",
        paper="arXiv 2412.03565",
        licence="Apache-2.0; videos of their sources",
        home=_INST_IT,
        splits=("train",),
        files={"train": (f"{_INST_IT_FOLDER}/inst_it_dataset_video_21k_w_mask.json", f"{_INST_IT_FOLDER}/videos_raw")},
        index=inst_it.read_records,
        sample=inst_it.read_sample,
    ),
    "osprey_conversation": Dataset(
        title="Osprey-724K, conversations about regions",
        paper="arXiv 2312.10032",
        licence="CC BY-NC 4.0; photos COCO",
        home=_OSPREY + "train2014",
        splits=("train",),
        files={"train": ("osprey/Osprey-724K/osprey_conversation.json", "osprey/coco/train2014")},
        index=osprey.read_records,
        sample=osprey.read_sample,
    ),
    "osprey_detail_description": Dataset(
        title="Osprey-724K, descriptions of regions",
        paper="arXiv 2312.10032",
        licence="CC BY-NC 4.0; photos COCO",
        home=_OSPREY + "train2014",
        splits=("train",),
        files={"train": ("osprey/Osprey-724K/osprey_detail_description.json", "osprey/coco/train2014")},
        index=osprey.read_records,
        sample=osprey.read_sample,
    ),
    "osprey_pos_neg": Dataset(
        title="Osprey-724K, what a region is and is not",
        paper="arXiv 2312.10032",
        licence="CC BY-NC 4.0; photos COCO",
        home=_OSPREY + "train2017 and val2017 in one folder imgs",
        splits=("train",),
        files={"train": ("osprey/Osprey-724K/osprey_lvis_positive_negative.json", "osprey/coco/imgs")},
        index=osprey.read_records,
        sample=osprey.read_sample,
    ),
    "llava_instruct_665k_videogpt_plus_576k": Dataset(
        title="LLaVA-1.5 and VideoGPT+ instructions",
        paper="arXiv 2310.03744, 2406.09418",
        licence="CC BY 4.0 (LLaVA texts, GPT-4 terms); VideoGPT+ none stated; media of their sources",
        home="huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K and MBZUAI/VideoGPT-plus_Training_Dataset; "
        "the joined file: UniPixel's data release",
        splits=("train",),
        files={
            "train": (
                "general/llava_v1_5_mix665k_with_videogpt_plus_576k.json",
                "llava_instruct",
                "videogpt_plus",
            )
        },
        index=general.read_records,
        sample=general.read_sample,
    ),
    "mvbench": Dataset(
        title="MVBench",
        paper="arXiv 2311.17005",
        licence="MIT; videos of their sources",
        home="huggingface.co/datasets/OpenGVLab/MVBench",
        splits=("test",),
        files={
            "test": (
                *(f"mvbench/json/{name}.json" for name, _ in choices.TASKS.values()),
                *dict.fromkeys(f"mvbench/video/{folder}" for _, folder in choices.TASKS.values()),
            )
        },
        index=choices.read_records,
        sample=choices.read_sample,
    ),
    "videomme": Dataset(
        title="Video-MME",
        paper="arXiv 2405.21075",
        licence="its own, research only",
        home="huggingface.co/datasets/lmms-lab/Video-MME (videos re-encoded at 3 fps, 480 pixels, without sound)",
        splits=("test",),
        files={"test": (choices.VIDEOMME_FILE, "videomme/videos_3fps_480_noaudio")},
        index=choices.read_records,
        sample=choices.read_sample,
    ),
}
"""By name."""
