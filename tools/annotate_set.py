"""Annotate a folder of pictures on the page as a person would, and count clicks and keys.

    python -m tools.annotate_set -o DIR [--count 10] [--keyboard] [--phone] [--dark]

Starts ``unipixel serve --folder`` with held-out scenes of the built-in world and works through them in a headless
Chromium: opens the folder, writes three classes, and in each picture clicks on every thing of these classes, gives it
its class, and clicks again where most is wrong, until the mask is good enough or three clicks are made. Then it exports
the set as COCO and as YOLO, whole and divided, and reads both back with pycocotools and, where it is installed, with
Ultralytics' reader. ``DIR`` gets the exports and a picture of the page at every step.

The truth of the scenes says where to click, as in the usual protocol for numbers of clicks: first the point deepest
inside of the thing, then that of the largest error. With ``--keyboard`` a crosshair is moved by arrow keys instead, and
no mouse is touched.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unipixel import stickers
from unipixel.draw import write_png
from unipixel.masks import decode_rle, find_interior_point

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SIZES: dict[str, Any] = {"desk": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}
GOOD_IOU, MAX_CLICKS = 0.85, 3
"""From which IoU on a mask is left as it is, and how often a thing is clicked at most."""
SMALL, FAR = 8, 48
"""CSS pixels that an arrow key moves the crosshair, and with Shift."""
IDLE = """async () => {
  const { state } = await import('/state.js');
  const isIdle = () => !state.busy && !state.pending.length && state.shown === state.frame;
  for (let quiet = 0; quiet < 3; quiet = isIdle() ? quiet + 1 : 0) await new Promise((done) => setTimeout(done, 10));
}"""

Truth = list[tuple[str, np.ndarray]]
"""Name and mask (H, W) of every thing in a picture that is to be annotated."""


def write_pictures(folder: Path, count: int) -> tuple[list[str], dict[str, Truth]]:
    """Write scenes that hold things of three classes; the classes, the most frequent first, and what is in each."""
    scenes = [stickers.generate_scene(stickers.EVAL_SEED + 160, index) for index in range(count * 8)]
    frequent = Counter(one.thing.name for scene in scenes for one in scene.objects)
    classes = [name for name, _ in frequent.most_common(3)]
    truth: dict[str, Truth] = {}
    for scene in scenes:
        found = [
            (one.thing.name, scene.masks[n, 0]) for n, one in enumerate(scene.objects) if one.thing.name in classes
        ]
        if found and len(truth) < count:
            name = f"scene-{len(truth) + 1}.png"
            write_png(scene.frames[0], folder / name)
            truth[name] = found
    if len(truth) < count:
        raise ValueError(f"only {len(truth)} scenes hold one of {classes}; ask for fewer")
    return classes, truth


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address of a server of its own that opens the folder."""
    command = [sys.executable, "-m", "unipixel", "serve", "--port", "0", "--no-state", "--folder", str(folder)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        for line in server.stderr:
            if found := re.search(r" on (http://\S+)", line):
                yield found[1]
                break
        else:
            raise RuntimeError("the server has ended before it listened")
    finally:
        server.terminate()
        server.wait(60)


class Annotator:
    """Someone at the page, whose clicks and keys are counted.

    Args:
        page: of Playwright.
        out: where pictures of the page go.
    """

    def __init__(self, page: Any, out: Path, keyboard: bool) -> None:
        self.page, self.out, self.keyboard = page, out, keyboard
        self.counts: Counter[str] = Counter()
        self.shots = 0

    def press(self, *keys: str) -> None:
        """Press keys one after another."""
        for key in keys:
            self.page.keyboard.press(key)
            self.counts["keys"] += 1

    def write(self, text: str) -> None:
        """Write words."""
        self.page.keyboard.type(text)
        self.counts["letters"] += len(text)

    def shoot(self, name: str) -> None:
        """Take a picture of the page."""
        self.shots += 1
        self.page.screenshot(path=self.out / f"{self.shots:02d}-{name}.png")

    def wait(self) -> None:
        """Wait until the server has done everything."""
        self.page.evaluate(IDLE)

    def ask_state(self, expression: str) -> Any:
        """What the page knows."""
        return self.page.evaluate(f"import('/state.js').then(({{state}}) => {expression})")

    def reach(self, selector: str, key: str = "Enter") -> None:
        """Press Tab until something has the focus, then a key; or click on it."""
        if not self.keyboard:
            self.page.locator(selector).click()
            self.counts["clicks"] += 1
            return
        for _ in range(60):
            if self.page.evaluate(f"document.activeElement?.matches({json.dumps(selector)}) ?? false"):
                return self.press(key)
            self.press("Tab")
        raise RuntimeError(f"{selector} cannot be reached by Tab")

    def point(self, x: float, y: float, key: str | None = None) -> None:
        """Click on a pixel of the picture, with a key held down, and wait for what comes of it."""
        if self.keyboard:
            self._point_by_keys(x, y, key)
        else:
            box = self.page.locator("#overlay").bounding_box()
            width, height = self.ask_state("[state.session.media.width, state.session.media.height]")
            if key:
                self.page.keyboard.down(key)
                self.counts["keys"] += 1
            self.page.mouse.click(box["x"] + x / width * box["width"], box["y"] + y / height * box["height"])
            self.counts["clicks"] += 1
            if key:
                self.page.keyboard.up(key)
        self.wait()

    def _point_by_keys(self, x: float, y: float, key: str | None) -> None:
        if self.page.evaluate("document.activeElement.id") != "overlay":
            self.press("x")
        scale = self.page.evaluate("import('/stage.js').then((one) => one.shownScale())")
        steps = {far: max(1, round(pixels / scale)) for far, pixels in ((True, FAR), (False, SMALL))}
        at = self.page.evaluate("import('/stage.js').then((one) => one.doing.crosshair)")
        for way, names in (("x", ("ArrowLeft", "ArrowRight")), ("y", ("ArrowUp", "ArrowDown"))):
            rest = {"x": x, "y": y}[way] - at[way]
            for far in (True, False):
                while abs(rest) > steps[far] / 2 and (not far or abs(rest) > steps[True] / 2):
                    self.press(("Shift+" if far else "") + names[rest > 0])
                    rest -= steps[far] if rest > 0 else -steps[far]
        self.press(f"{key}+Enter" if key else "Enter")


def compute_iou(one: np.ndarray, other: np.ndarray) -> float:
    """IoU of two masks (H, W)."""
    return float((one & other).sum() / max((one | other).sum(), 1))


def annotate_picture(person: Annotator, classes: list[str], truth: Truth) -> list[float]:
    """Click on everything that is to be annotated, and give it its class; the IoU of each mask."""
    ious = []
    for name, mask in truth:
        found = person.ask_state("state.objects.get(state.target.id)?.rles[0]")
        x, y = find_interior_point(mask)
        if found is not None and decode_rle(found)[int(y), int(x)]:
            person.press("n")  # else it would be a correction of the one before
        key: str | None = None
        for number in range(MAX_CLICKS):
            person.point(x, y, key)
            rle = person.ask_state("state.objects.get(state.target.id)?.rles[0]")
            seen = np.zeros_like(mask) if rle is None else decode_rle(rle)
            iou = compute_iou(seen, mask)
            if iou >= GOOD_IOU or number == MAX_CLICKS - 1:
                break
            missing, wrong = mask & ~seen, seen & ~mask
            key = "Shift" if missing.sum() >= wrong.sum() else "Alt"
            x, y = find_interior_point(missing if key == "Shift" else wrong)
        if person.ask_state("state.objects.get(state.target.id)?.label") != name:
            person.press(str(classes.index(name) + 1))
            person.page.wait_for_function(
                "(name) => import('/state.js').then(({state}) => state.objects.get(state.target.id)?.label === name)",
                arg=name,
            )
        ious.append(iou)
    return ious


def export(person: Annotator, kind: str, out: Path, divided: bool) -> Path:
    """Export the set, and return the file."""
    person.press("e")
    if divided != person.page.locator("#split").is_checked():
        person.reach("#split", "Space")
    person.shoot(f"export-{kind}{'-divided' if divided else ''}")
    with person.page.expect_download() as coming:
        person.reach(f"[data-set-format={kind}]")
    path = out / f"{kind}{'-divided' if divided else ''}{Path(coming.value.suggested_filename).suffix}"
    coming.value.save_as(path)
    return path


def check_coco(path: Path, truth: dict[str, Truth]) -> int:
    """Read a COCO file with pycocotools; how many masks it draws, which are as large as the file says."""
    from pycocotools.coco import COCO

    coco = COCO(str(path))
    assert {one["file_name"] for one in coco.dataset["images"]} == set(truth)
    assert all(coco.annToMask(one).sum() == one["area"] for one in coco.dataset["annotations"])
    return len(coco.anns)


def check_yolo(folder: Path, parts: tuple[str, ...]) -> int:
    """Read a YOLO folder with Ultralytics' own reader; how many outlines it finds."""
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    data = check_det_dataset(str(folder / "data.yaml"))
    found = 0
    for part in parts:
        dataset = YOLODataset(img_path=str(data[part]), data=data, task="segment", augment=False)
        found += sum(len(label["segments"]) for label in dataset.labels)
    return found


def work(person: Annotator, url: str, classes: list[str], truth: dict[str, Truth], out: Path) -> None:
    """From opening the folder to the exports."""
    page = person.page
    page.goto(url)
    page.locator("#server-folder").wait_for()
    person.shoot("start")
    person.reach("#server-folder-open")
    page.locator('#overlay[data-shown="0"]').wait_for()
    person.press("c")
    person.write("\n".join(classes))
    person.shoot("classes")
    person.reach("#classes-form [type=submit]")
    opening, ious = person.counts.copy(), list[float]()
    print("to open the folder and write the classes:", dict(opening))
    for number, (name, things) in enumerate(truth.items()):
        page.locator("#name", has_text=name).wait_for()
        person.wait()
        ious += annotate_picture(person, classes, things)
        if number in (0, 1, len(truth) - 1):
            person.shoot(f"picture-{number + 1}")
        person.press("d")
    page.locator(".notice", has_text="All pictures of the set are done").wait_for()
    person.shoot("done")
    used, objects = person.counts - opening, len(ious)
    print(f"{len(truth)} pictures, {objects} objects of {classes}: {dict(used)}")
    print(
        f"per object: {used['clicks'] / objects:.2f} clicks, {used['keys'] / objects:.2f} keys; "
        f"mean IoU {np.mean(ious):.3f}, {sum(iou >= GOOD_IOU for iou in ious)} of {objects} at {GOOD_IOU} or more"
    )
    before = person.counts.copy()
    for divided in (False, True):
        for kind in ("coco", "yolo"):
            path = export(person, kind, out, divided)
            if path.suffix == ".zip":
                with zipfile.ZipFile(path) as archive:
                    archive.extractall(out / path.stem)
        if not divided:
            print("two exports:", dict(person.counts - before))
    print(f"pycocotools reads {check_coco(out / 'coco.json', truth)} masks")
    divided_files = sorted((out / "coco-divided").glob("*.json"))
    counts = {path.stem: len(json.loads(path.read_text())["images"]) for path in divided_files}
    print(f"divided: {counts}")
    try:
        print(f"Ultralytics reads {check_yolo(out / 'yolo', ('train',))} outlines")
        print(f"divided: {check_yolo(out / 'yolo-divided', ('train', 'val', 'test'))} outlines")
    except ImportError:
        print("Ultralytics is not installed, and has not read the YOLO folder")


def main() -> None:
    """Annotate, export, print the figures."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for exports and pictures of the page")
    parser.add_argument("--count", type=int, default=10, help="pictures")
    parser.add_argument("--keyboard", action="store_true", help="touch no mouse")
    parser.add_argument("--phone", action="store_true", help="in a window of a phone's size")
    parser.add_argument("--dark", action="store_true", help="in the dark theme")
    args = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"no Chromium is installed ({', '.join(BROWSERS)})")
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pictures-") as folder:
        classes, truth = write_pictures(Path(folder), args.count)
        with serve(Path(folder)) as url, sync_playwright() as driver:
            chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            page = chromium.new_page(
                viewport=SIZES["phone" if args.phone else "desk"], color_scheme="dark" if args.dark else "light"
            )
            page.set_default_timeout(120_000)
            failures: list[str] = []
            page.on("pageerror", lambda error: failures.append(str(error)))
            work(Annotator(page, args.out, args.keyboard), url, classes, truth, args.out)
            chromium.close()
    if failures:
        sys.exit(f"scripts of the page have failed: {failures}")


if __name__ == "__main__":
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())
    main()
