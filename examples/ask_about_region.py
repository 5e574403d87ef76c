"""Box or paint something in an image and ask about it: python examples/ask_about_region.py [IMAGE X1 Y1 X2 Y2]."""

import sys
from importlib.resources import files

import unipixel


def main() -> None:
    """Ask about a box, then about the mask that the box became, then correct it with a click beside it."""
    source = sys.argv[1] if len(sys.argv) > 1 else str(files("unipixel") / "examples" / "picture.png")
    x1, y1, x2, y2 = (float(value) for value in sys.argv[2:6]) if len(sys.argv) > 5 else (47.0, 68.0, 118.0, 150.0)

    session = unipixel.load().open(source)
    answer = session.ask("What is this?", prompts=[unipixel.Box(x1, y1, x2, y2)])
    print(answer.text)
    for found in answer.objects:
        print(f"object {found.id}: score {found.score}, {int(found.masks.sum())} pixels")
    if not answer.objects or answer.objects[0].score == "not there":
        return
    mask = answer.objects[0].masks[0]  # any mask does, for example one that was painted
    again = unipixel.load().open(source).ask("What is this?", prompts=[unipixel.Mask(mask)])
    print(f"the same by its mask: {again.text}")
    (corrected,) = session.segment([unipixel.Point(x2 - 2, y2 - 2, positive=False, object_id=answer.objects[0].id)])
    print(f"object {corrected.id}: {int(corrected.masks.sum())} pixels without the corner")


if __name__ == "__main__":
    main()
