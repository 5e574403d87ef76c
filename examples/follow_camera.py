"""Follow something through a camera or an endless stream: python examples/follow_camera.py [URL] [TEXT] [WINDOWS]."""

import sys
from collections.abc import Iterator
from importlib.resources import files

import av
import numpy as np

import unipixel

WINDOW = 8  # frames that are tracked together; memory does not grow with the stream


def read_windows(source: str) -> Iterator[np.ndarray]:
    """Frames of a stream (rtsp://..., a device such as /dev/video0, a file) in windows that share one frame."""
    window: list[np.ndarray] = []
    with av.open(source) as stream:
        for frame in stream.decode(video=0):
            window.append(frame.to_ndarray(format="rgb24"))
            if len(window) == WINDOW:
                yield np.stack(window)
                window = window[-1:]


def main() -> None:
    """Find it in the first window; in each later one, go on from its mask on the frame that both have."""
    source = sys.argv[1] if len(sys.argv) > 1 else str(files("unipixel") / "examples" / "clip.mp4")
    text = sys.argv[2] if len(sys.argv) > 2 else "Please segment the butterfly."
    engine, prompts = unipixel.load(), list[unipixel.Mask]()
    for number, frames in zip(range(int(sys.argv[3]) if len(sys.argv) > 3 else 3), read_windows(source), strict=False):
        with engine.open(frames, num_frames=WINDOW) as session:
            found = session.ask(None if prompts else text, prompts=prompts).objects
            for one in found:
                print(f"object {one.id}: window {number}, pixels per frame {one.masks.sum(axis=(1, 2)).tolist()}")
            prompts = [unipixel.Mask(one.masks[-1], 0, one.id) for one in found if one.masks[-1].any()]


if __name__ == "__main__":
    main()
