"""What one goes through on the page: opening, scrubbing, tracking, undoing, naming, exporting, reloading, errors."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import LONG, Live, data_url, running, wait_for
from PIL import Image
from visitor import Visitor

from unipixel.engine.engine import Engine
from unipixel.masks import decode_rle, load_index_png

pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytestmark = pytest.mark.slow  # minutes in a browser, which not every machine has
Visit = Callable[..., Visitor]
BOX = {"type": "box", "box": [20, 10, 50, 40]}
KEY = "the-only-key-of-the-test"


def resumed(live: Live, visit: Visit, path: Path, objects: int = 1, **options: Any) -> tuple[Visitor, str]:
    """A visitor of a session in which objects were made before."""
    address = live.upload(path, **options)
    for number in range(objects):
        prompt = {**BOX, "object_id": number + 1}
        live.post(f"{address}/objects", {"prompts": [prompt], "label": f"thing {number + 1}"})
    for one in live.get(address)["objects"][objects:]:  # what the model of random weights found besides
        live.http.delete(f"{address}/objects/{one['id']}")
    visitor = visit(f"{live.url}/#{address.rsplit('/', 1)[1]}")
    visitor.opened()
    return visitor, address


# opening


def test_file_can_be_dropped(quick: Live, media: Path, visit: Visit) -> None:
    visitor = visit(quick.url)
    visitor.see("#start")
    visitor.page.evaluate(
        """async (url) => {
          const data = new DataTransfer();
          const bytes = Uint8Array.from(atob(url.split(',')[1]), (c) => c.charCodeAt(0));
          data.items.add(new File([bytes], 'dropped.png', { type: 'image/png' }));
          for (const type of ['dragover', 'drop'])
            document.body.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        data_url(media / "picture.png"),
    )
    address = visitor.opened()
    assert visitor.text("#name") == "dropped.png" == quick.get(address)["name"]


def test_address_can_be_opened_and_sessions_are_listed_and_closed(quick: Live, media: Path, visit: Visit) -> None:
    visitor = visit(quick.url)
    visitor.page.locator("#url").fill(data_url(media / "picture.png"))
    visitor.page.locator("#url-form button").click()
    address = visitor.opened()
    session_id = address.rsplit("/", 1)[1]
    visitor.page.locator("#open-other").click()
    visitor.see("#recent-list li")
    assert visitor.page.url.endswith("#")
    visitor.page.go_back()
    assert visitor.opened() == address
    visitor.page.go_forward()
    entry = visitor.see(f'#recent-list li[data-id="{session_id}"]')
    entry.get_by_role("button", name="Delete").click()
    visitor.see(f'#recent-list li[data-id="{session_id}"]', "detached")
    visitor.page.get_by_role("button", name="Undo").click()
    visitor.see(f'#recent-list li[data-id="{session_id}"]').get_by_role("button", name="Delete").click()
    visitor.see(f'#recent-list li[data-id="{session_id}"]', "detached")
    assert quick.get(address)["id"] == session_id  # there until it cannot be undone any more
    visitor.page.get_by_role("button", name="Dismiss").click()
    wait_for(lambda: quick.http.get(address).status_code == 404)


# frames


def test_frames_are_scrubbed_and_played(quick: Live, media: Path, visit: Visit) -> None:
    visitor, _ = resumed(quick, visit, media / "clip.mp4", num_frames=5)
    press = visitor.page.keyboard.press
    press("ArrowRight")
    visitor.see('#overlay[data-shown="1"]')
    assert visitor.text("#frame-text").startswith("2 / 5")
    press(".")
    press("End")
    visitor.see('#overlay[data-shown="4"]')
    press("Home")
    visitor.page.locator("#frame").fill("3")
    visitor.see('#overlay[data-shown="3"]')
    assert visitor.page.get_by_label("Frame", exact=True).get_attribute("aria-valuetext") == "frame 4 of 5"
    visitor.page.locator("#previous").click()
    visitor.see('#overlay[data-shown="2"]')
    visitor.page.get_by_label("Play").click()
    visitor.see('#overlay[data-shown="4"]')
    visitor.see('#play[aria-label="Play"]')


# tracking


def test_masks_appear_while_tracking_runs_and_stopping_keeps_them(quick: Live, media: Path, visit: Visit) -> None:
    visitor = visit(quick.url)
    address = visitor.open(media / "long.mp4", track="all")
    visitor.page.mouse.click(*visitor.place(30, 20))
    visitor.see("#busy-progress[max]")
    assert visitor.text("#busy-text").startswith("Tracking ") and visitor.page.locator("#busy-progress").is_visible()
    reached = "Math.max(0, ...[...state.objects.values()].map((one) => one.frame_scores.filter((s) => s > 0).length))"
    wait_for(lambda: visitor.state(reached) > 3 and visitor.state("state.shown") > 0)  # it follows
    assert visitor.state(reached) < LONG
    visitor.page.get_by_role("button", name="Stop").click()
    assert visitor.notice() == "Stopped. What was tracked so far is kept."
    visitor.idle()
    kept = quick.get(address)["objects"]
    assert 0 < max(sum(score > 0 for score in one["frame_scores"]) for one in kept) < LONG
    assert visitor.state("[...state.objects.values()].map((one) => one.rles)") == [one["rles"] for one in kept]
    assert visitor.state("state.frame") == 0  # where it was before
    visitor.page.locator("#track").click()
    visitor.see("#busy-progress[max]")
    visitor.page.keyboard.press("Escape")
    visitor.see("#busy", "hidden")
    wait_for(lambda: not quick.get(address)["is_busy"])


def test_object_is_tracked_again_from_a_frame(quick: Live, media: Path, visit: Visit) -> None:
    visitor, address = resumed(quick, visit, media / "clip.mp4", num_frames=3)
    box = {**BOX, "frame": 2, "box": [5, 5, 25, 25]}
    before = quick.post(f"{address}/objects/1/prompts", {"prompts": [box]})["objects"][0]["rles"]
    visitor.page.reload()
    visitor.opened()
    visitor.page.keyboard.press("End")
    visitor.see('#overlay[data-shown="2"]')
    visitor.page.get_by_role("button", name="Track object 1, thing 1 from this frame").click()
    visitor.idle()
    after = quick.get(f"{address}/objects/1")["rles"]
    assert after != before and visitor.state("state.objects.get(1).rles") == after


# objects


def test_prompts_are_taken_back_one_by_one(quick: Live, media: Path, visit: Visit) -> None:
    visitor, address = resumed(quick, visit, media / "picture.png")
    first = quick.get(f"{address}/objects/1")["rles"]
    visitor.page.keyboard.press("1")
    visitor.click(25, 15, "Shift")
    assert len(quick.get(f"{address}/objects/1")["prompts"]) == 2
    visitor.page.keyboard.press("Control+z")
    visitor.idle()
    assert visitor.state("state.objects.get(1).rles") == first == quick.get(f"{address}/objects/1")["rles"]
    visitor.page.keyboard.press("Control+Shift+Z")
    visitor.idle()
    assert len(quick.get(f"{address}/objects/1")["prompts"]) == 2
    visitor.page.keyboard.press("Control+z")
    visitor.idle()
    visitor.page.keyboard.press("Control+y")
    visitor.idle()
    assert len(quick.get(f"{address}/objects/1")["prompts"]) == 2 and visitor.page.locator("#redo").is_disabled()
    while visitor.page.locator("#undo").is_enabled():
        visitor.page.locator("#undo").click()
        visitor.idle()
    assert quick.get(address)["objects"] == [] and visitor.page.locator(".object").count() == 0
    assert visitor.masks() == ""


def test_objects_are_renamed_hidden_and_deleted(quick: Live, media: Path, visit: Visit) -> None:
    visitor, address = resumed(quick, visit, media / "picture.png", objects=2)
    assert visitor.masks() == "1 2"
    visitor.page.get_by_label("Name of object 1").fill("left wing")
    visitor.page.keyboard.press("Enter")
    wait_for(lambda: quick.get(f"{address}/objects/1")["label"] == "left wing")
    visitor.page.get_by_role("button", name="Show object 1, left wing").click()
    visitor.page.mouse.move(300, 60)
    visitor.page.locator("h1").click()
    assert visitor.masks() == "2"
    visitor.page.reload()
    visitor.opened()
    assert visitor.masks() == "2" and visitor.page.get_by_label("Name of object 1").input_value() == "left wing"
    before = quick.get(f"{address}/objects/2")
    visitor.page.get_by_role("button", name="Delete object 2, thing 2").click()
    assert visitor.notice() == "Object 2, thing 2, is deleted."
    visitor.page.locator(".notice").get_by_role("button", name="Undo").click()
    visitor.see('.object[data-id="2"]')
    assert quick.get(f"{address}/objects/2") == before
    visitor.page.keyboard.press("2")
    visitor.page.keyboard.press("Delete")
    wait_for(lambda: [one["id"] for one in quick.get(address)["objects"]] == [1])
    visitor.see('.object[data-id="2"]', "detached")


def test_exports_arrive_with_what_is_known(quick: Live, media: Path, visit: Visit) -> None:
    visitor, address = resumed(quick, visit, media / "picture.png", objects=2)
    known = {one["id"]: decode_rle(one["rles"][0]) for one in quick.get(address)["objects"]}

    def exported(label: str) -> tuple[str, bytes]:
        visitor.page.get_by_role("button", name="Export objects").click()
        with visitor.page.expect_download() as coming:
            visitor.page.locator("#export").get_by_role("button", name=label).click()
        return coming.value.suggested_filename, Path(coming.value.path()).read_bytes()

    name, content = exported("COCO")
    told = json.loads(content)
    assert name == "picture-coco.json" and {one["name"] for one in told["categories"]} == {"thing 1", "thing 2"}
    assert {one["track_id"]: one["area"] for one in told["annotations"]} == {i: m.sum() for i, m in known.items()}
    name, content = exported("DAVIS")
    assert name == "picture-davis.zip"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (ids,) = (load_index_png(io.BytesIO(archive.read(one))) for one in archive.namelist())
    assert np.array_equal(ids > 0, known[1] | known[2])
    name, content = exported("Overlay")
    assert name == "picture-overlay.png" and Image.open(io.BytesIO(content)).size == (64, 48)
    visitor.page.get_by_role("button", name="Show object 2").click()
    visitor.page.get_by_role("button", name="Export objects").click()
    visitor.page.get_by_label("Only objects that are shown").check()
    visitor.page.keyboard.press("Escape")
    name, content = exported("YOLO")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        lines = archive.read("labels/picture.txt").decode().splitlines()
        assert name == "picture-yolo.zip" and len(lines) == 1 and "thing 2" not in archive.read("data.yaml").decode()


def test_reload_brings_everything_back(quick: Live, media: Path, visit: Visit) -> None:
    visitor, address = resumed(quick, visit, media / "clip.mp4", num_frames=3)
    visitor.ask("And [1]?")
    known = "[[...state.objects.values()], state.turns.map(({ question, text }) => [question, text])]"
    objects, turns = visitor.state(known)
    visitor.page.reload()
    assert visitor.opened() == address
    assert visitor.state(known) == [quick.get(address)["objects"], turns]
    assert [one["rles"] for one in visitor.state(known)[0]] == [one["rles"] for one in objects]
    assert visitor.page.locator(".asked .chip").get_attribute("aria-label") == "Object 1, thing 1"
    visitor.page.get_by_role("button", name="Export objects").click()
    visitor.page.get_by_role("button", name="Save on the server").click()
    wait_for(lambda: visitor.text(".notice:last-child p").startswith("Saved."))
    assert quick.get(address)["is_saved"]


# errors


def test_broken_file_is_told_in_a_sentence_that_can_be_dismissed(quick: Live, visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("this is no picture")
    visitor = visit(quick.url)
    visitor.page.locator("#file").set_input_files(tmp_path / "broken.png")
    told = visitor.notice()
    assert told.endswith(".") and told.startswith("“broken.png” is neither") and "\n" not in told
    assert visitor.page.locator("#notices").get_attribute("role") == "alert"
    visitor.page.get_by_role("button", name="Dismiss").click()
    assert visitor.page.locator(".notice").count() == 0 and visitor.page.locator("#choose").is_visible()


def test_file_that_is_too_large_is_not_sent(quick_engine: Engine, visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(b"x" * 200_000)
    with running(quick_engine, max_upload_bytes=100_000) as live:
        visitor = visit(live.url)
        visitor.see("#limits:not(:empty)")
        visitor.page.locator("#file").set_input_files(tmp_path / "large.png")
        assert visitor.notice() == "“large.png” is 196 kB large; at most 98 kB are allowed here."


def test_server_that_is_full_is_told(quick_engine: Engine, media: Path, visit: Visit) -> None:
    with running(quick_engine, max_sessions=1) as live:
        live.upload(media / "picture.png")
        visitor = visit(live.url)
        visitor.page.locator("#file").set_input_files(media / "picture.png")
        assert visitor.notice().startswith("1 sessions are open, as many as are allowed")


def test_server_that_ends_while_it_tracks_is_told(quick_engine: Engine, media: Path, visit: Visit) -> None:
    with running(quick_engine, grace_s=0.05) as live:
        visitor = visit(live.url)
        visitor.open(media / "long.mp4", track="all")
        visitor.page.mouse.click(*visitor.place(30, 20))
        visitor.see("#busy-progress[max]")
        live.begin_to_stop()
        visitor.see(".notice p:has-text('shutting down')")
        assert visitor.page.locator("#stop").is_hidden()


def test_refused_prompt_and_lost_session_are_told(quick: Live, media: Path, visit: Visit) -> None:
    visitor, address = resumed(quick, visit, media / "picture.png")
    quick.http.delete(f"{address}/objects/1")  # by someone else
    visitor.page.keyboard.press("1")
    visitor.click(20, 20, "Shift")
    assert visitor.notice().startswith("Object 1 is not known") and visitor.masks() == ""
    visitor.click(20, 20)
    visitor.click(50, 40)
    assert len(visitor.masks().split()) > 1  # it goes on
    quick.http.delete(address)
    visitor.click(30, 20)
    assert visitor.notice().startswith("There is no session") and visitor.page.locator("#start").is_visible()
    visitor.page.goto("about:blank")  # from the page itself, another name behind # would load nothing anew
    visitor.page.goto(f"{quick.url}/#s-{'x' * 22}")
    assert visitor.notice().startswith("There is no session")


def test_server_that_is_gone_is_told(quick: Live, media: Path, visit: Visit) -> None:
    visitor, _ = resumed(quick, visit, media / "picture.png")
    visitor.page.context.set_offline(True)
    visitor.page.locator("#question").fill("What is this?")
    visitor.page.keyboard.press("Enter")
    assert visitor.notice() == "The server cannot be reached. Is it still running?"
    assert visitor.page.locator("#question").input_value() == "What is this?"  # to be asked again
    visitor.page.context.set_offline(False)
    visitor.page.keyboard.press("Enter")
    visitor.see(".answered:nth-child(4):not(.is-writing)")


def test_key_is_asked_for_until_it_is_right(quick_engine: Engine, media: Path, visit: Visit) -> None:
    with running(quick_engine, api_keys=(KEY,)) as live:
        visitor = visit(live.url)
        visitor.see("#key-dialog[open]")
        visitor.page.get_by_label("API key").fill("wrong")
        visitor.page.keyboard.press("Enter")
        visitor.page.get_by_text("That key was not accepted").wait_for()
        visitor.page.get_by_label("API key").fill(KEY)
        visitor.page.keyboard.press("Enter")
        visitor.see("#key-dialog", "hidden")
        visitor.open(media / "picture.png")
        visitor.click(30, 20)
        assert visitor.masks()
        visitor.page.reload()
        visitor.opened()  # pictures, too, are asked for with the key, which is kept for as long as the tab
        assert visitor.page.evaluate("localStorage.length") == 0


def test_wrong_files_and_links_are_one_sentence_and_lose_nothing(
    quick: Live, media: Path, visit: Visit, tmp_path: Path
) -> None:
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(whole, "JPEG")
    files = {
        "cut.jpg": (whole.getvalue()[: len(whole.getvalue()) // 2], "“cut.jpg” is damaged"),
        "notes.txt": (b"Remember the milk.", "“notes.txt” is neither an image"),
        "empty.png": (b"", "“empty.png” is empty"),
    }
    visitor, address = resumed(quick, visit, media / "picture.png")
    known = quick.get(address)["objects"]
    for name, (content, words) in files.items():
        (tmp_path / name).write_bytes(content)
        visitor.page.locator("#file").set_input_files(tmp_path / name)
        told = visitor.see(f".notice p:has-text('{words}')").inner_text()
        assert told.endswith(".") and "\n" not in told
        assert visitor.masks() == "1" and quick.get(address)["objects"] == known  # the work is still there
    visitor.page.locator("#open-other").click()
    for url, words in [
        ("http://no-such-host.invalid/a.png", "there is no such host"),
        ("ftp://host/a.png", "is no address"),
    ]:
        visitor.page.locator("#url").fill(url)
        visitor.page.locator("#url-form button").click()
        assert "Errno" not in visitor.see(f".notice p:has-text('{words}')").inner_text()
    for link in ("#nonsense", "#%E0%A4%A", "#s-short"):
        visitor.page.goto("about:blank")
        visitor.page.goto(f"{quick.url}/{link}")
        assert visitor.notice().startswith(f"This link names no session: it ends in “{link}”.")
        assert visitor.page.locator("#choose").is_visible() and visitor.page.url.endswith("#")
    visitor.page.route("**/frames/0*", lambda route: route.fulfill(status=400, json=BROKEN))
    visitor.page.goto(f"{quick.url}/#{address.rsplit('/', 1)[1]}")
    visitor.see("#stage-wait:has-text('The picture cannot be shown. Its file is damaged.')")


BROKEN = {
    "error": {"message": "its file is damaged", "type": "invalid_request_error", "param": None, "code": "bad_media"}
}
