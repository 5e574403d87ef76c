"""Point at something in the first frame of a video and follow it: python examples/track_video.py [VIDEO X Y]."""

import sys
from importlib.resources import files

import unipixel


def main() -> None:
    """Turn one click into an object, follow it through the clip, and print where it is seen."""
    source = sys.argv[1] if len(sys.argv) > 1 else str(files("unipixel") / "examples" / "clip.mp4")
    x, y = (float(value) for value in sys.argv[2:4]) if len(sys.argv) > 3 else (78.0, 118.0)

    session = unipixel.load().open(source, num_frames=8)
    answer = session.ask("What is this?", prompts=[unipixel.Point(x, y, frame=0)])
    print(answer.text)
    for found in answer.objects:
        areas = found.masks.sum(axis=(1, 2))
        print(f"object {found.id}: pixels per frame {areas.tolist()}")


if __name__ == "__main__":
    main()
