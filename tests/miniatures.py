"""Miniatures of every benchmark and dataset, drawn by the built-in world of stickers in their true layouts on disk.

`write_miniatures` lays out a ``data`` folder: pictures and clips are drawn, annotations are about what was drawn, and
places, names and fields are those in which the datasets are given out. They are written here without any of the
package's own tables of places, so that a reader that looks elsewhere finds nothing.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unipixel.data.readers.semantic import COCO_STUFF
from unipixel.draw import write_mp4
from unipixel.masks import encode_rle
from unipixel.stickers import SceneSettings, generate_scene, generate_video

SIZE = (96, 128)
CLIPS, PICTURES, FRAMES = 4, 6, 20
SEED = 900


@dataclass(frozen=True)
class Clip:
    """What is drawn of one picture (of one frame) or clip."""

    name: str
    frames: np.ndarray
    """uint8 (T, H, W, 3)."""
    masks: np.ndarray
    """bool (N, T, H, W), of objects in sight on the first frame."""
    names: tuple[str, ...]
    """Of the objects, in singular."""

    def rles(self, number: int) -> list[dict[str, Any] | None]:
        """Masks of an object by frame, None where it is out of sight."""
        return [encode(mask) if mask.any() else None for mask in self.masks[number]]


def draw_clip(index: int, *, is_video: bool) -> Clip:
    """The scene of that number."""
    settings = SceneSettings(size_hw=SIZE, num_objects=(2, 4), num_frames=(FRAMES, FRAMES), twins=0.0)
    drawn = (generate_video if is_video else generate_scene)(SEED, index, settings)
    shown = [n for n in range(len(drawn.objects)) if drawn.masks[n][0].any()]
    assert shown, f"scene {index} shows nothing on its first frame"
    names = tuple(drawn.objects[n].thing.name for n in shown)
    return Clip(f"clip-{index}", np.asarray(drawn.frames), np.asarray(drawn.masks)[shown], names)


# writing


def encode(mask: np.ndarray) -> dict[str, Any]:
    return dict(encode_rle(mask))


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_pickle(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=2))


def write_picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_frames(folder: Path, clip: Clip, called: str = "{:05d}.jpg") -> list[str]:
    """Files of a clip's frames; their names."""
    names = [called.format(t) for t in range(len(clip.frames))]
    for name, frame in zip(names, clip.frames, strict=True):
        write_picture(folder / name, frame)
    return names


def write_video(path: Path, frames: np.ndarray, fps: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(list(frames), path, fps=fps)


def find_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width, height of the box around a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def draw_outline(mask: np.ndarray, points: int = 24) -> list[list[float]]:
    """An ellipse in the box of a mask, as [x, y] rows."""
    x, y, width, height = find_box(mask)
    turns = np.linspace(0, 2 * np.pi, points, endpoint=False)
    xs, ys = x + width / 2 * (1 + np.cos(turns)), y + height / 2 * (1 + np.sin(turns))
    return [[round(float(a), 2), round(float(b), 2)] for a, b in zip(xs, ys, strict=True)]


# videos with expressions

EXPRESSIONS: dict[str, tuple[tuple[str, str, str | None], ...]] = {
    # expressions, folder of the videos, masks; all below the dataset's own folder
    "revos": (
        ("meta_expressions_train_.json", "", "mask_dict.json"),
        ("meta_expressions_valid_.json", "", "mask_dict.json"),
    ),
    "mevis": (
        ("train/meta_expressions.json", "train/JPEGImages", "train/mask_dict.json"),
        ("valid_u/meta_expressions.json", "valid_u/JPEGImages", "valid_u/mask_dict.json"),
        ("valid/meta_expressions.json", "valid/JPEGImages", None),
    ),
    "lvvis": (("meta_expressions.json", "train/JPEGImages", "mask_dict.json"),),
    "ref_youtube_vos": (
        ("meta_expressions/train/meta_expressions.json", "train/JPEGImages", "mask_dict.pkl"),
        ("meta_expressions/valid/meta_expressions.json", "valid/JPEGImages", None),
    ),
    "ref_davis17": (
        ("meta_expressions/train/meta_expressions.json", "DAVIS/JPEGImages/480p", "train/mask_dict.pkl"),
        ("meta_expressions/valid/meta_expressions.json", "DAVIS/JPEGImages/480p", "valid/mask_dict.pkl"),
    ),
    "ref_sav": (("valid/meta_expressions_valid.json", "valid/videos", "valid/mask_dict.json"),),
}
"""Masks in a JSON are called by annotation, those in a pickle by the running number of their expression."""


def describe_object(dataset: str, clip: Clip, number: int, way: int) -> str:
    """What an object is called in a dataset; the second way of ReVOS is a question."""
    name = clip.names[number]
    if dataset == "lvvis":
        return name.replace(" ", "_")
    if dataset == "revos" and way:
        return f"Which of these things could be called a {name}?"
    if dataset == "ref_sav":
        return f"A {name} that moves over a plain background, drawn in few colours and seen from the side."
    return ("The {}.", "a {} in sight", "the {} that moves", "{}")[way].format(name)


def write_expressions(root: Path, clips: Sequence[Clip]) -> None:
    dictionaries: dict[Path, dict[str, Any]] = {}
    for dataset, splits in EXPRESSIONS.items():
        for place, (file, folder, masks) in enumerate(splits):
            dictionary = dictionaries.setdefault(root / dataset / masks, {}) if masks else None
            videos = {}
            for clip in (clips[(place + k) % len(clips)] for k in range(2)):
                vid = f"{('TAO', 'LVVIS')[place]}/{clip.name}" if dataset == "revos" else clip.name
                names = write_frames(root / dataset / folder / vid, clip)
                height, width = clip.frames.shape[1:3]
                videos[vid] = {
                    "frames": [Path(name).stem for name in names],
                    "height": height,
                    "width": width,
                    "vid_id": len(videos),
                    "expressions": build_expressions(dataset, clip, dictionary),
                }
                if dataset == "revos":
                    whole = clip.masks.any(0)
                    foreground = dictionaries.setdefault(root / "revos/mask_dict_foreground.json", {})
                    shares = whole.mean((1, 2)).tolist()
                    foreground[vid] = {"masks_rle": [encode(mask) for mask in whole], "foreground_ratio": shares}
            write_json(root / dataset / file, {"videos": videos})
    for path, values in dictionaries.items():
        (write_pickle if path.suffix == ".pkl" else write_json)(path, values)


def build_expressions(dataset: str, clip: Clip, dictionary: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Expressions of a clip's first two objects; their masks go into the dictionary of the split, where it has one."""
    written: dict[str, dict[str, Any]] = {}
    for number in range(min(2, len(clip.names))):
        for way in range({"revos": 2, "ref_davis17": 4}.get(dataset, 1)):
            row: dict[str, Any] = {"exp": describe_object(dataset, clip, number, way)}
            if dictionary is not None:
                key = len(dictionary)
                dictionary[str(key)] = clip.rles(number)
                called_by_number = dataset in ("ref_youtube_vos", "ref_davis17")
                row |= {"obj_id": str(number + 1)} if called_by_number else {"obj_id": [number], "anno_id": [key]}
            if dataset == "revos":
                row["type_id"] = way
            written[str(len(written))] = row
    return written


def write_ref_sav(root: Path, clips: Sequence[Clip]) -> None:
    """Descriptions of objects of SA-V videos of 24 frames per second, with masks at 6."""
    listed = {}
    for k, clip in enumerate(clips):
        vid, place = f"sav_{k:06d}", "sav_train/sav_000"
        write_video(root / "sav" / place / f"{vid}.mp4", np.repeat(clip.frames[:10], 4, axis=0), 24)
        count, height, width = len(clip.names), *SIZE
        masks = [[encode(clip.masks[n, t]) for n in range(count)] for t in range(10)]
        manual = {
            "video_id": vid, "video_duration": 40 / 24, "video_frame_count": 40.0, "video_height": float(height),
            "video_width": float(width), "video_resolution": float(height * width), "video_environment": "Indoor",
            "video_split": "train", "masklet": masks, "masklet_id": list(range(count)), "masklet_num": count,
            "masklet_frame_count": [10] * count, "masklet_type": ["manual"] * count,
        }  # fmt: skip
        write_json(root / "sav" / place / f"{vid}_manual.json", manual)
        objects = {
            str(n): {"video_id": vid, "obj_id": n, "formated": describe_object("ref_sav", clip, n, 0)}
            for n in range(min(2, count))
        }
        paths = {"video_path": f"sav/{place}/{vid}.mp4", "anno_path": f"sav/{place}/{vid}_manual.json"}
        listed[vid] = paths | {"objects": objects}
    write_json(root / "ref_sav/Ref-SAV-Min-Ratio-0.3.json", listed)


def write_groundmore(root: Path, clips: Sequence[Clip]) -> None:
    """Questions about actions, with the clip's start and end in its name and masks of all objects in one picture."""
    kinds = ("Causal", "Sequential", "Counterfactual", "Descriptive")
    for file, chosen in (("trainval_v2", clips[:2]), ("test_v2", clips[1:4])):
        videos = {}
        for k, clip in enumerate(chosen):
            vid = f"{clip.name.replace('-', '')}_0005_0009"
            folder = root / "groundmore/annotations" / vid
            write_frames(folder / "images", clip, "frame_{:06d}.jpg")
            for t in range(len(clip.frames)):
                ids = np.zeros(SIZE, dtype=np.uint8)
                for number, masks in enumerate(clip.masks):
                    ids[masks[t]] = number + 1
                write_picture(folder / "masks" / f"frame_{t:06d}.png", ids)
            asked = {
                str(n): {
                    "question": f"What looks like a {name}" + "?" * (n % 2), "answer": f"The {name}",
                    "obj_id": str(n + 1), "q_type": kinds[(k + n) % 4], "action_start": "0:05", "action_end": "0:08",
                }
                for n, name in enumerate(clip.names[:2])
            }  # fmt: skip
            videos[vid] = {"questions": asked}
        write_json(root / f"groundmore/{file}.json", {"videos": videos})


def write_vicas(root: Path, clips: Sequence[Clip]) -> None:
    annotations = {}
    for k, clip in enumerate(clips[:3], start=1):
        vid = f"{k:06d}"
        names = write_frames(root / "vicas/video_frames" / vid, clip)
        write_json(root / f"vicas/masks/{vid}/0.json", [[one] for one in clip.rles(0)])
        annotations[vid] = {
            "filename": f"{vid}.mp4",
            "caption_raw_en": f"A {clip.names[0]}.",
            "object_referrals": [{"track_ids": [1], "prompt": f"Can you segment the {clip.names[0]}?"}],
            "segmentations": [
                {"frame_index": t, "filename": name, "track_ids": [1]} for t, name in enumerate(names)
            ],
        }  # fmt: skip
    write_json(root / "vicas/annotations/annotations_wo_masks_v1.0.json", annotations)
    for split, ids in {"train": [1, 2], "val": [3], "test": [3]}.items():
        write_json(root / f"vicas/splits/v1.0/{split}.json", ids)


TYPES = (
    "Basic Questions", "Relationship Questions", "Reasoning Questions", "Future Predictions", "Sequential Questions",
)  # fmt: skip


def write_videorefer_bench(root: Path, clips: Sequence[Clip]) -> None:
    folder = root / "videorefer/VideoRefer-Bench"
    questions, descriptions = [], []
    for k in range(len(TYPES) + 1):
        clip = clips[k % len(clips)]
        place = f"DAVIS/JPEGImages/480p/{clip.name}"
        write_frames(folder / "videos" / place, clip)
        masks = {str(t): {"segmentation": encode(mask)} for t, mask in enumerate(clip.masks[0]) if mask.any()}
        options = ["(A) A lamp post", f"(B) A {clip.names[0]}", "(C) A cloud", "(D) Nothing"]
        questions.append(
            {
                "id": k, "video": place, "Question": "What is <object0><region>?", "type": TYPES[k % len(TYPES)],
                "options": options, "Answer": options[1], "frame_idx": "0", "annotation": [masks],
            }
        )  # fmt: skip
    for k, clip in enumerate(clips):
        write_video(folder / "videos/Panda-70M-part" / f"{clip.name}.mp4", clip.frames, 10)
        caption = f"A {clip.names[0]} that is seen from its side moves slowly over a background of one colour."
        shown = {str(t): {"segmentation": encode(mask)} for t, mask in enumerate(clip.masks[0]) if mask.any()}
        row = {"id": k, "video": f"{clip.name}.mp4", "caption": caption, "frame_idx": "0", "annotation": [shown]}
        descriptions.append(row)
    write_json(folder / "VideoRefer-Bench-Q.json", questions)
    write_json(folder / "VideoRefer-Bench-D.json", descriptions)


# pictures

REFERRING: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    # dataset, who wrote the references, folder of the photos, their names, splits
    ("refcoco", "unc", "mscoco/images/train2014", "COCO_train2014_{:012d}.jpg", ("train", "val", "testA", "testB")),
    ("refcoco+", "unc", "mscoco/images/train2014", "COCO_train2014_{:012d}.jpg", ("train", "val", "testA", "testB")),
    ("refcocog", "umd", "mscoco/images/train2014", "COCO_train2014_{:012d}.jpg", ("train", "val", "test")),
    ("refclef", "unc", "saiapr_tc-12", "{:04d}.jpg", ("train", "val", "test")),
)


def number_names(pictures: Iterable[Clip]) -> dict[str, int]:
    """Ids of all names."""
    return {name: k for k, name in enumerate(sorted({name for one in pictures for name in one.names}), start=1)}


def write_referring(root: Path, pictures: Sequence[Clip]) -> None:
    folder, ids = root / "lisa/refer_seg", number_names(pictures)
    for dataset, author, place, called, splits in REFERRING:
        images, annotations, references, told = [], [], [], 0
        for k, one in enumerate(pictures, start=1):
            file = called.format(k)
            write_picture(folder / "images" / place / file, one.frames[0])
            height, width = SIZE
            images.append({"id": k, "file_name": file, "height": height, "width": width})
            split = splits[(k - 1) % len(splits)]
            for name, (mask,) in zip(one.names, one.masks, strict=True):
                shape = (
                    [encode(mask)] if dataset == "refclef" else [[value for row in draw_outline(mask) for value in row]]
                )
                number = len(annotations) + 1
                annotations.append(
                    {
                        "id": number, "image_id": k, "category_id": ids[name], "segmentation": shape,
                        "bbox": list(find_box(mask)), "area": int(mask.sum()), "iscrowd": 0,
                    }
                )  # fmt: skip
                sentences = []
                for text in (f"the {name}", f"{name} on the picture"):
                    sentences.append({"tokens": text.split(), "raw": text, "sent": text, "sent_id": told})
                    told += 1
                references.append(
                    {
                        "ref_id": number, "ann_id": number, "category_id": ids[name], "image_id": k, "split": split,
                        "file_name": file, "sent_ids": [s["sent_id"] for s in sentences], "sentences": sentences,
                    }
                )  # fmt: skip
        document = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in ids.items()],
        }
        write_json(folder / dataset / "instances.json", document)
        write_pickle(folder / dataset / f"refs({author}).p", references)


def write_reason_seg(root: Path, pictures: Sequence[Clip]) -> None:
    folder, explained = root / "lisa/reason_seg/ReasonSeg", []
    for k, one in enumerate(pictures):
        split, name = ("train", "val", "test")[k % 3], f"{k:012d}"
        write_picture(folder / split / f"{name}.jpg", one.frames[0])
        is_sentence = k % 2 == 0
        text = f"Which thing here would be called a {one.names[0]}?" if is_sentence else f"the {one.names[0]}"
        labels = ["target", *(["ignore"] if split == "test" and len(one.names) > 1 else [])]
        shapes = [
            {"label": label, "labels": [label], "shape_type": "polygon", "image_name": f"{name}.jpg",
             "points": draw_outline(mask[0])} for label, mask in zip(labels, one.masks, strict=False)
        ]  # fmt: skip
        shapes.append({"label": "flag", "shape_type": "polygon", "image_name": f"{name}.jpg", "points": []})
        write_json(folder / split / f"{name}.json", {"text": [text], "is_sentence": is_sentence, "shapes": shapes})
        if split == "train":
            row = {"image": f"{name}.jpg", "query": f"What is the {one.names[0]}?", "json": f"{name}.json"}
            explained.append(row | {"outputs": f"It is drawn as a {one.names[0]}."})
    write_json(folder / "explanatory/train.json", explained)


def write_parts(root: Path, pictures: Sequence[Clip]) -> None:
    """PACO-LVIS and Pascal-Part: whole things, and the upper half of each as its part."""
    for file, photos, called in (
        ("lisa/vlpart/paco/annotations/paco_lvis_v1_train.json", "lisa/coco", "train2017/{:012d}.jpg"),
        (
            "lisa/vlpart/pascal_part/train.json",
            "lisa/vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages",
            "2008_{:06d}.jpg",
        ),
    ):
        ids: dict[str, int] = {}
        images, annotations = [], []
        for k, one in enumerate(pictures, start=1):
            write_picture(root / photos / called.format(k), one.frames[0])
            height, width = SIZE
            images.append({"id": k, "file_name": called.format(k), "height": height, "width": width})
            for n, (name, (mask,)) in enumerate(zip(one.names, one.masks, strict=True)):
                upper, (_, y, _, tall) = mask.copy(), find_box(mask)
                upper[y + tall // 2 :] = False
                whole = f"{name}_(thing)" if "paco" in file else name
                for shown, part in ((mask, whole), (upper, f"{whole}:top"), *([(upper, whole)] if n == 0 else [])):
                    number = ids.setdefault(part.replace(" ", "_"), len(ids) + 1)
                    annotations.append(
                        {
                            "id": len(annotations) + 1, "image_id": k, "category_id": number,
                            "segmentation": encode(shown), "bbox": list(find_box(mask)), "area": int(shown.sum()),
                            "iscrowd": 0,
                        }
                    )  # fmt: skip
        listed = [{"id": number, "name": name} for name, number in ids.items()]
        write_json(root / file, {"images": images, "annotations": annotations, "categories": listed})


def write_cocostuff(root: Path, pictures: Sequence[Clip]) -> None:
    """A class for every pixel: a ground, and things in classes that are asked for and in those that catch the rest."""
    values = {name: k for k, name in enumerate(COCO_STUFF)}
    rest = [k for k, name in enumerate(COCO_STUFF) if "-" in name]
    for k, one in enumerate(pictures):
        split = ("train2017", "val2017")[k % 2]
        labels = np.full(SIZE, values["grass"], dtype=np.uint8)
        labels[:4] = 255
        classes = [values["person"], rest[k % len(rest)], values["dirt"], values["fence"]]
        for n, (mask,) in enumerate(one.masks):
            labels[mask] = classes[(n + k // 2) % 4]
        labels[-6:, :20], labels[-6:, 20:40] = values["dirt"], values["fence"]
        write_picture(root / f"lisa/coco/{split}/{k + 100:012d}.jpg", one.frames[0])
        write_picture(root / f"lisa/cocostuff/{split}/{k + 100:012d}.png", labels)


def write_miniatures(root: Path) -> Path:
    """Draw everything under ``root``, the folder that readers know as ``data``."""
    clips = [draw_clip(k, is_video=True) for k in range(CLIPS)]
    pictures = [draw_clip(k, is_video=False) for k in range(PICTURES)]
    for write in (write_expressions, write_ref_sav, write_groundmore, write_vicas, write_videorefer_bench):
        write(root, clips)
    for write in (write_referring, write_reason_seg, write_parts, write_cocostuff):
        write(root, pictures)
    return root
