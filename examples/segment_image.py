"""Segment something in an image and ask about it: python examples/segment_image.py [IMAGE] [TEXT]."""

import sys
from importlib.resources import files

import unipixel


def main() -> None:
    """Ask for masks, then ask a question about the first object that was found, and draw both."""
    source = sys.argv[1] if len(sys.argv) > 1 else str(files("unipixel") / "examples" / "picture.png")
    text = sys.argv[2] if len(sys.argv) > 2 else "Please segment the dog."

    session = unipixel.load().open(source)
    answer = session.ask(text)
    print(answer.text)
    for found in answer.objects:
        print(f"object {found.id}: score {found.score}, {int(found.masks.sum())} pixels")
    if answer.objects:
        print(session.ask("What is this?", about=answer.objects[:1]).text)


if __name__ == "__main__":
    main()
