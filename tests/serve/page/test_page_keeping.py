"""Nothing of an annotator's is lost: idle tabs, killed servers, lost sessions, full disks, deleting and dropping."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live import Live, data_url, running, wait_for
from pycocotools.coco import COCO
from visitor import PHONE, Visitor

from unipixel.engine.engine import Engine
from unipixel.masks import decode_rle

pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytestmark = pytest.mark.slow  # minutes in a browser, which not every machine has
Visit = Callable[..., Visitor]
KNOWN = "[...state.objects.values()].map(({ id, label, rles, frame_scores }) => ({ id, label, rles, frame_scores }))"
HELD = """async (id) => {
  const { held, listHeld } = await import('/keeping.js');
  await held();
  return (await listHeld()).find((one) => one.id === id)?.objects.length ?? 0;
}"""


def objects(live: Live, address: str) -> list[dict[str, Any]]:
    return [{k: one[k] for k in ("id", "label", "rles", "frame_scores")} for one in live.get(address)["objects"]]


def drop(visitor: Visitor, path: Path, name: str) -> None:
    visitor.page.evaluate(
        """async ([url, name]) => {
          const data = new DataTransfer();
          const bytes = Uint8Array.from(atob(url.split(',')[1]), (c) => c.charCodeAt(0));
          data.items.add(new File([bytes], name, { type: 'image/png' }));
          for (const type of ['dragover', 'drop'])
            document.body.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        [data_url(path), name],
    )


def test_session_of_an_open_tab_outlives_the_idle_time(quick_engine: Engine, media: Path, visit: Visit) -> None:
    with running(quick_engine, idle_s=1.0) as live:
        visitor = visit(live.url)
        address = visitor.open(media / "picture.png")
        visitor.click(20, 20)
        for _ in range(3):  # others, of which nobody tells that they are used, come and go
            other = live.upload(media / "picture.png")
            wait_for(lambda other=other: other.rpartition("/")[2] not in {e.id for e in live.sessions.entries()})
        before = objects(live, address)
        assert visitor.text("#saved") == "In this browser" and before
        visitor.click(60, 44)
        assert objects(live, address)[: len(before)] and visitor.page.locator(".notice").count() == 0


def test_everything_acknowledged_is_there_after_a_kill(
    quick_engine: Engine, media: Path, visit: Visit, tmp_path: Path
) -> None:
    with running(quick_engine, state=tmp_path / "state") as live:
        visitor = visit(live.url)
        address = visitor.open(media / "clip.mp4", num_frames=3)
        steps: list[Callable[[], Any]] = [
            lambda: visitor.click(20, 20),
            lambda: visitor.ask("What is [1]?"),
            lambda: (
                visitor.page.get_by_label("Name of object 1", exact=True).fill("wing"),
                visitor.page.keyboard.press("Enter"),
            ),
            lambda: visitor.page.keyboard.press("Control+z"),
            lambda: visitor.page.keyboard.press("Control+y"),
            lambda: visitor.page.locator("#track").click(),
            lambda: visitor.page.locator(".delete").first.click(),
        ]
        for number, step in enumerate(steps):
            revision = visitor.state("JSON.stringify([[...state.objects], state.turns.length])")
            step()
            if number not in (5,):  # tracking again can come to the same masks
                expression = "JSON.stringify([[...state.objects], state.turns.length])"
                wait_for(lambda r=revision, e=expression: visitor.state(e) != r)
            visitor.idle()
            told, turns = visitor.state(KNOWN), visitor.state("state.turns.length")
            # what a kill at this moment would leave behind
            copy = tmp_path / f"killed-{number}"
            shutil.copytree(tmp_path / "state", copy)
            with running(quick_engine, state=copy) as again:
                assert objects(again, address) == told and len(again.get(address)["turns"]) == turns
        visitor.see("#saved:has-text('Saved')")


def test_lost_session_is_opened_again_from_what_the_browser_holds(quick: Live, media: Path, visit: Visit) -> None:
    visitor = visit(quick.url)
    address = visitor.open(media / "clip.mp4", num_frames=3)
    visitor.click(20, 20)
    visitor.page.get_by_label("Name of object 1", exact=True).fill("wing")
    visitor.page.keyboard.press("Enter")
    wait_for(lambda: visitor.state("state.objects.get(1).label") == "wing")
    told, lost = visitor.state(KNOWN), address.rpartition("/")[2]
    assert visitor.page.evaluate(HELD, lost) == len(told)
    quick.http.delete(address)
    visitor.page.mouse.click(*visitor.place(50, 40))
    visitor.see(".notice.error")
    row = visitor.see(f'#held-list li[data-id="{lost}"]')
    assert "clip.mp4" in row.inner_text()
    with visitor.page.expect_download() as coming:
        row.get_by_role("button", name="COCO of clip.mp4").click()
    coco = COCO(coming.value.path())
    masks = {
        (a["track_id"], a["image_id"]): coco.annToMask(a) for a in coco.loadAnns(coco.getAnnIds()) if a["area"] > 0
    }
    expected = {(o["id"], t): decode_rle(r) for o in told for t, r in enumerate(o["rles"]) if r}
    assert masks.keys() == expected.keys() and all((masks[key] == expected[key]).all() for key in expected)
    assert {c["name"] for c in coco.loadCats(coco.getCatIds())} >= {"wing"}
    row.get_by_role("button", name="Open clip.mp4 again").click()
    again = visitor.opened()
    assert again != address and objects(quick, again) == told == visitor.state(KNOWN)
    visitor.page.reload()
    assert visitor.opened() == again
    visitor.page.locator("#open-other").click()
    visitor.see("#recent-list li")
    assert visitor.page.locator("#held-list li").count() == 0


def test_unknown_session_offers_what_is_held_and_asks_for_the_file(
    quick: Live, media: Path, visit: Visit, tmp_path: Path
) -> None:
    """On a phone; the session was opened elsewhere, so that the browser does not have its file."""
    address = quick.upload(media / "picture.png")
    quick.post(f"{address}/objects", {"prompts": [{"type": "box", "box": [20, 10, 50, 40]}], "label": "thing"})
    lost = address.rpartition("/")[2]
    visitor = visit(f"{quick.url}/#{lost}", viewport=PHONE, is_mobile=True, has_touch=True)
    visitor.opened()
    told = visitor.state(KNOWN)
    assert visitor.page.evaluate(HELD, lost) == len(told)
    quick.http.delete(address)
    visitor.page.reload()
    row = visitor.see(f'#held-list li[data-id="{lost}"]')
    assert visitor.page.evaluate("document.activeElement.innerText") == "Open again"
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for path, is_right in ((media / "clip.mp4", False), (media / "picture.png", True)):
        sessions = len(quick.get("/v1/sessions")["sessions"])
        with visitor.page.expect_file_chooser() as choosing:
            row.get_by_role("button", name="again").tap()
        choosing.value.set_files(path)
        if not is_right:
            visitor.see(".notice.error:has-text('This is not the file')")
            assert len(quick.get("/v1/sessions")["sessions"]) == sessions
    again = visitor.opened()
    assert objects(quick, again) == told


def test_disk_that_is_full_is_told_and_tried_again(
    quick_engine: Engine, media: Path, visit: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(quick_engine, state=tmp_path) as live:
        visitor = visit(live.url)
        address = visitor.open(media / "picture.png")

        def fail(*_: Any) -> None:
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(os, "fsync", fail)
        visitor.click(20, 20)
        visitor.see("#saved.is-failed")
        assert "disk is full" in str(visitor.page.locator("#saved").get_attribute("title")) and objects(live, address)
        monkeypatch.undo()
        visitor.page.keyboard.press("Control+z")
        visitor.page.keyboard.press("Control+y")
        visitor.see("#saved:not(.is-failed):has-text('Saved')")
        assert live.get(address)["is_saved"]


def test_file_dropped_on_work_in_progress_loses_nothing(quick: Live, media: Path, visit: Visit) -> None:
    visitor = visit(quick.url)
    address = visitor.open(media / "picture.png")
    visitor.tool("brush")
    visitor.drag((10, 24), (50, 24))
    drop(visitor, media / "picture.png", "other.png")
    assert visitor.notice().startswith("Apply or discard what you have painted first")
    assert visitor.text("#draft-text") == "1 stroke"
    visitor.page.keyboard.press("Control+z")
    assert visitor.page.locator("#draft").is_hidden()
    visitor.page.keyboard.press("Control+y")
    assert visitor.text("#draft-text") == "1 stroke"
    visitor.page.locator("#draft-discard").click()
    visitor.page.locator("#redo").click()
    visitor.page.locator("#draft-apply").click()
    visitor.idle()
    told = objects(quick, address)
    drop(visitor, media / "picture.png", "other.png")
    visitor.see("#name:has-text('other.png')")
    visitor.page.get_by_role("button", name="Back to it").click()
    visitor.see("#name:has-text('picture.png')")
    assert visitor.opened() == address and visitor.state(KNOWN) == told
    assert json.dumps(told) == json.dumps(objects(quick, address))
