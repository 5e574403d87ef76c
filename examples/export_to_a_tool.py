"""Segment something and hand the masks to other tools: python examples/export_to_a_tool.py [IMAGE] [TEXT] [OUT]."""

import sys
from importlib.resources import files
from pathlib import Path

import unipixel
from unipixel.formats import read_annotations


def main() -> None:
    """Write one answer for CVAT, Label Studio, Ultralytics and COCO, and read one of the files again."""
    source = sys.argv[1] if len(sys.argv) > 1 else str(files("unipixel") / "examples" / "picture.png")
    text = sys.argv[2] if len(sys.argv) > 2 else "Please segment the dog."
    out = Path(sys.argv[3] if len(sys.argv) > 3 else "exports")

    answer = unipixel.load().open(source).ask(text)
    for kind, name in (("cvat", "cvat.xml"), ("label-studio", "tasks.json"), ("yolo", "yolo"), ("coco", "coco.json")):
        print(f"{kind}: {answer.export(out / name, kind)[0]}")

    (read,) = read_annotations(out / "cvat.xml")
    for object_id, track in read.tracks.items():
        print(f"object {object_id}: {read.labels[object_id] or 'without a name'}, {track.areas[0]} pixels")


if __name__ == "__main__":
    main()
