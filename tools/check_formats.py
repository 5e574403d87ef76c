"""Compare the files of `unipixel.formats` mask by mask with what the tools' own libraries read from them, and back.

    python -m tools.check_formats [IN] [--only NAME ...] [--count 24] [--out DIR]

IN is anything that ``unipixel convert`` reads, with its pictures; without it, pictures and clips of the built-in world
are taken. A library that is not installed is named and passed over; any that is there may be of another version than
the ones in docs/formats.md. None of them is needed by the package.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unipixel import stickers
from unipixel.draw import write_png
from unipixel.formats import Annotations, read_annotations, write_annotations
from unipixel.formats.annotations import iterate_pictures
from unipixel.formats.libraries import from_fiftyone, from_supervision, to_fiftyone, to_supervision
from unipixel.masks import decode_rle
from unipixel.media import open_media

Pair = tuple[np.ndarray, np.ndarray]
"""A mask as it is, and as a library has read it; bool (H, W)."""


def build_sets(count: int, folder: Path) -> list[Annotations]:
    """Scenes of the built-in world, every sixth a clip; stills lie on disk as PNG."""
    sets = []
    for index in range(count):
        is_video = index % 6 == 5
        make = stickers.generate_video if is_video else stickers.generate_scene
        scene = make(stickers.EVAL_SEED + 77, index)
        name = f"clip {index}" if is_video else f"scene {index}.png"
        tracks = {n: track for n, track in scene.build_tracks().items() if track.visible.any()}
        labels = {one.id: one.thing.name for one in scene.objects}
        media = open_media(scene.frames if is_video else write_png(scene.frames[0], folder / name))
        scores = {n: [0.5 + n / 100] * track.num_frames for n, track in tracks.items()}
        sets.append(Annotations(name, media.size_hw, tracks, labels, scores, is_video=is_video, pictures=media))
    return sets


def list_truth(sets: Sequence[Annotations]) -> list[list[tuple[int, str, np.ndarray]]]:
    """Of every frame: id, class and mask of its objects."""
    return [
        [(i, label, decode_rle(rle)) for i, label, rle, _ in one.list_shapes(t)] for one, t, _ in iterate_pictures(sets)
    ]


def check_pycocotools(sets: Sequence[Annotations], folder: Path) -> Iterator[tuple[str, Pair]]:
    from pycocotools import mask as coco
    from pycocotools.coco import COCO

    truth = list_truth(sets)
    for polygons in (False, True):
        (path,) = write_annotations(sets, folder / f"{polygons}.json", "coco", polygons=polygons)
        read = COCO(str(path))
        for number, objects in enumerate(truth):
            found = {one["track_id"]: one for one in read.loadAnns(read.getAnnIds(imgIds=number))}
            assert len(found) == len(objects)
            for i, label, mask in objects:
                assert read.cats[found[i]["category_id"]]["name"] == label
                yield f"coco, {'polygons' if polygons else 'run lengths'}", (mask, read.annToMask(found[i]) > 0)
    clips = [one for one in sets if one.is_video]
    (path,) = write_annotations(clips, folder / "vis.json", "youtube-vis")
    document = json.loads(path.read_text())
    pieces = iter(document["annotations"])
    for one in clips:
        for track in one.tracks.values():
            for t, region in enumerate(next(pieces)["segmentations"]):
                if region is not None:
                    yield "youtube-vis", (track.mask(t), coco.decode(coco.frPyObjects(region, *one.size_hw)) > 0)


def check_supervision(sets: Sequence[Annotations], folder: Path) -> Iterator[tuple[str, Pair]]:
    import supervision as sv

    for one in sets:
        frames = to_supervision(one)
        back = from_supervision(frames if one.is_video else frames[0], size_hw=one.size_hw)
        for t, frame in enumerate(frames):
            for place, (i, label, rle, _) in enumerate(one.list_shapes(t)):
                mask = decode_rle(rle)
                assert frame.data["class_name"][place] == label and back.get_class(i) == label
                yield "Detections", (mask, frame.mask[place])
                yield "Detections, back", (mask, back.tracks[i].mask(t))
    stills = [one for one in sets if not one.is_video]
    write_annotations(stills, folder / "yolo", "yolo")
    yolo = sv.DetectionDataset.from_yolo(
        str(folder / "yolo" / "images"), str(folder / "yolo" / "labels"), str(folder / "yolo" / "data.yaml"), True
    )
    (path,) = write_annotations(stills, folder / "coco.json", "coco")
    coco = sv.DetectionDataset.from_coco(str(folder / "yolo" / "images"), str(path), True)
    coco.as_coco(annotations_path=str(folder / "theirs.json"))
    theirs = {one.name: one for one in read_annotations(folder / "theirs.json")}
    for one in stills:
        for kind, dataset in (("yolo", yolo), ("coco", coco)):
            found = dataset.annotations[str(folder / "yolo" / "images" / one.name)]
            for place, (_, label, rle, _) in enumerate(one.list_shapes(0)):
                assert dataset.classes[found.class_id[place]] == label
                yield kind, (decode_rle(rle), found.mask[place])
        for track, mine in zip(theirs[one.name].tracks.values(), one.tracks.values(), strict=True):
            yield "coco, theirs read by us", (mine.mask(0), track.mask(0))


def check_ultralytics(sets: Sequence[Annotations], folder: Path) -> Iterator[tuple[str, Pair]]:
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset, polygon2mask

    write_annotations(sets, folder / "yolo", "yolo")
    data = check_det_dataset(str(folder / "yolo" / "data.yaml"), autodownload=False)
    dataset = YOLODataset(img_path=str(folder / "yolo" / "images"), data=data, task="segment", imgsz=640, augment=False)
    labels = {
        Path(one["im_file"]).relative_to(folder / "yolo" / "images").with_suffix("").as_posix(): one
        for one in dataset.labels
    }
    for (one, _, name), objects in zip(iterate_pictures(sets), list_truth(sets), strict=True):
        found = labels[name.rpartition(".")[0]]
        assert len(found["segments"]) == len(objects)
        for place, (_, label, mask) in enumerate(objects):
            assert data["names"][int(found["cls"][place, 0])] == label
            corners = found["segments"][place] * (one.size_hw[1], one.size_hw[0])
            yield "yolo", (mask, polygon2mask(one.size_hw, [corners.reshape(-1)]) > 0)


def check_labelme(sets: Sequence[Annotations], folder: Path) -> Iterator[tuple[str, Pair]]:
    import loguru
    from labelme._label_file import read_label_file
    from labelme.utils import shapes_to_label

    loguru.logger.disable("labelme")
    for polygons in (False, True):
        out = folder / str(polygons)
        write_annotations(sets, out, "labelme", polygons=polygons)
        for (one, _, name), objects in zip(iterate_pictures(sets), list_truth(sets), strict=True):
            shapes = read_label_file(str(out / f"{name.rpartition('.')[0]}.json")).shapes
            for i, label, mask in objects:
                own = [shape for shape in shapes if (shape["group_id"], shape["label"]) == (i, label)]
                found = shapes_to_label(one.size_hw, own, {label: 1})[0] > 0
                yield "polygons" if polygons else "masks", (mask, found)


def check_datumaro(sets: Sequence[Annotations], folder: Path) -> Iterator[tuple[str, Pair]]:
    import datumaro as dm

    for kind, polygons in (("datumaro", False), ("datumaro", True), ("cvat", False), ("cvat", True)):
        out = folder / f"{kind} {polygons}"
        if kind == "cvat":
            write_annotations(sets, out / "default.xml", kind, polygons=polygons)
            for one, t, name in iterate_pictures(sets):
                write_png(one.media.frame(t), out / "images" / name)
        else:
            write_annotations(sets, out, kind, polygons=polygons)
        dataset = dm.Dataset.import_from(str(out), kind)
        items = {item.id: item for item in dataset}
        labels = dataset.categories()[dm.AnnotationType.label]
        for (one, _, name), objects in zip(iterate_pictures(sets), list_truth(sets), strict=True):
            item = items[name.rpartition(".")[0]]
            for i, label, mask in objects:
                own = [part for part in item.annotations if part.group == i]
                assert own and {labels[part.label].name for part in own} == {label}
                found = np.zeros(one.size_hw, bool)
                for part in own:
                    found |= _draw_datumaro(part, one.size_hw)
                yield f"{kind}{', polygons' if polygons else ''}", (mask, found)
        if not polygons:
            dataset.export(str(folder / f"theirs {kind}"), kind, save_media=True)
            path = folder / f"theirs {kind}"
            theirs = read_annotations(next(path.glob("*.xml")) if kind == "cvat" else path)
            yield from _compare(f"{kind}, theirs read by us", sets, theirs)


def _draw_datumaro(part: Any, size_hw: tuple[int, int]) -> np.ndarray:
    from pycocotools import mask as coco

    if hasattr(part, "image"):
        return np.asarray(part.image) > 0
    return coco.decode(coco.merge(coco.frPyObjects([part.points], *size_hw))) > 0


def _compare(kind: str, sets: Sequence[Annotations], theirs: Sequence[Annotations]) -> Iterator[tuple[str, Pair]]:
    """Masks of pictures that another tool has written, matched by the picture's name and the greatest overlap."""
    frames = {name.rpartition(".")[0]: (one, t) for one in theirs for t, name in enumerate(one.frame_names)}
    for (_, _, name), objects in zip(iterate_pictures(sets), list_truth(sets), strict=True):
        one, t = frames[name.rpartition(".")[0]]
        shapes = [(label, decode_rle(rle)) for _, label, rle, _ in one.list_shapes(t)]
        assert len(shapes) == len(objects)
        for _, label, mask in objects:
            yield kind, (mask, max((m for text, m in shapes if text == label), key=lambda m: (m & mask).sum()))


def check_label_studio(sets: Sequence[Annotations], folder: Path) -> Iterator[tuple[str, Pair]]:
    from label_studio_sdk.converter import brush

    (path,) = write_annotations(sets, folder / "a.json", "label-studio")
    tasks = json.loads(path.read_text())
    theirs = json.loads(path.read_text())
    for number, (task, objects) in enumerate(zip(tasks, list_truth(sets), strict=True)):
        for place, (region, (_, label, mask)) in enumerate(zip(task["annotations"][0]["result"], objects, strict=True)):
            assert region["value"]["brushlabels"] == [label]
            values = np.asarray(brush.decode_rle(region["value"]["rle"])).reshape(*mask.shape, 4)
            yield "brush", (mask, values[:, :, 3] > 0)
            encoded = brush.encode_rle(  # type: ignore[no-untyped-call, unused-ignore]
                np.repeat(mask.reshape(-1, 1) * 255, 4, axis=1).reshape(-1).astype(np.uint8)
            )
            theirs[number]["annotations"][0]["result"][place]["value"]["rle"] = list(map(int, encoded))
    (folder / "theirs.json").write_text(json.dumps(theirs))
    yield from _compare("brush, theirs read by us", sets, read_annotations(folder / "theirs.json"))


def check_fiftyone(sets: Sequence[Annotations], folder: Path) -> Iterator[tuple[str, Pair]]:
    for number, one in enumerate(sets):
        path = one.find_file() or folder / f"{number}.mp4"
        sample = to_fiftyone(one, path)
        height, width = one.size_hw
        back = from_fiftyone(sample, one.size_hw)
        for t, index in enumerate(one.frame_indices):
            holder = sample.frames[index + 1] if one.is_video else sample
            detections = {detection.index: detection for detection in holder["objects"].detections}
            for i, label, rle, _ in one.list_shapes(t):
                assert detections[i].label == label
                mask = decode_rle(rle)
                yield "samples", (mask, detections[i].to_segmentation(frame_size=(width, height), target=1).mask > 0)
                yield "samples, back", (mask, back.tracks[i].mask(t))


def check_pillow(sets: Sequence[Annotations], folder: Path) -> Iterator[tuple[str, Pair]]:
    """Palette PNGs as the toolkits of DAVIS open them: objects that overlap lose pixels, which are not compared."""
    write_annotations(sets, folder / "davis", "davis")
    pictures = iter(list_truth(sets))
    for one in sets:
        for index in one.frame_indices:
            objects = next(pictures)
            name = one.name.rpartition(".")[0] or one.name
            ids = np.array(Image.open(folder / "davis" / name / f"{index:05d}.png"))
            shared = sum((mask.astype(int) for _, _, mask in objects), np.zeros(one.size_hw, int)) > 1
            for i, _, mask in objects:
                yield "davis", (mask & ~shared, (ids == i) & ~shared)


CHECKS: dict[str, tuple[str, Callable[[Sequence[Annotations], Path], Iterator[tuple[str, Pair]]]]] = {
    "pycocotools": ("pycocotools", check_pycocotools),
    "supervision": ("supervision", check_supervision),
    "ultralytics": ("ultralytics", check_ultralytics),
    "labelme": ("labelme", check_labelme),
    "datumaro": ("datumaro", check_datumaro),
    "label_studio_sdk": ("label-studio-sdk", check_label_studio),
    "fiftyone": ("fiftyone", check_fiftyone),
    "PIL": ("pillow", check_pillow),
}


def main() -> None:
    """Print a table: library, what was read, masks, how many of them are equal, and IoU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("source", nargs="?", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(CHECKS), default=list(CHECKS))
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        sets = (
            build_sets(options.count, out / "pictures") if options.source is None else read_annotations(options.source)
        )
        print(f"{len(sets)} pictures and clips, {sum(map(len, list_truth(sets)))} masks")
        for module, (package, check) in CHECKS.items():
            if module not in options.only:
                continue
            try:
                importlib.import_module(module)
            except ImportError as error:
                print(f"{package}: passed over ({error})")
                continue
            scores: dict[str, list[float]] = {}
            (out / module).mkdir(parents=True, exist_ok=True)
            for kind, (expected, found) in check(sets, out / module):
                union = (expected | found).sum()
                scores.setdefault(kind, []).append(float((expected & found).sum() / union) if union else 1.0)
            for kind, some in scores.items():
                equal, below = sum(score == 1 for score in some), sum(score < 0.98 for score in some)
                print(
                    f"{package} {importlib.metadata.version(package)}: {kind}: {len(some)} masks, {equal} equal, "
                    f"lowest IoU {min(some):.4f}, mean {np.mean(some):.4f}, {below} below 0.98",
                    flush=True,
                )


if __name__ == "__main__":
    main()
