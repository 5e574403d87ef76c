"""Many pictures on the page: a set with classes, worked through by keyboard, exported as one, and resumed."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from live import Live, running, wait_for
from PIL import Image
from pycocotools.coco import COCO
from visitor import PHONE, Visitor

import unipixel
from unipixel.engine.engine import Engine

pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytestmark = pytest.mark.slow  # minutes in a browser, which not every machine has
Visit = Callable[..., Visitor]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Four small pictures, and a text that is none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"p{number}.png")
    (folder / "notes.txt").write_text("none")
    return sorted(folder.iterdir())


def at(visitor: Visitor, name: str) -> None:
    """Wait until a picture is there."""
    visitor.see(f"#name:has-text('{name}')")
    visitor.see('#overlay[data-shown="0"]')


def begun(visitor: Visitor, pictures: list[Path], classes: str = "dog\ncat\nbird") -> None:
    visitor.page.locator("#file").set_input_files(pictures)
    at(visitor, "p0.png")
    visitor.page.locator("#classes-edit").click()
    visitor.page.locator("#classes-text").fill(classes)
    visitor.page.locator("#classes-form [type=submit]").click()
    if classes:
        visitor.see(".class")


def states(visitor: Visitor) -> list[str]:
    return visitor.page.locator("#set-strip button").evaluate_all("(all) => all.map((one) => one.dataset.state)")


def test_set_is_worked_through_exported_and_resumed(
    quick_engine: Engine, visit: Visit, pictures: list[Path], tmp_path: Path
) -> None:
    """With fewer open sessions than pictures: those that are saved sleep."""
    with running(quick_engine, state=tmp_path / "state", max_sessions=3) as live:
        visitor = visit(live.url)
        begun(visitor, pictures)
        assert visitor.notice().startswith("1 file is neither a picture nor a video") and states(visitor) == ["new"] * 4
        press, labels = visitor.page.keyboard.press, []
        for number, key in enumerate("121"):
            press(key)
            visitor.click(20 + number, 20)
            visitor.see("#saved:has-text('Saved')")
            labels.append(visitor.state("state.objects.get(state.target.id).label"))
            press("d")
            at(visitor, f"p{number + 1}.png")
        assert labels == ["dog", "cat", "dog"]
        assert states(visitor) == ["done"] * 3 + ["new"] and "3 of 4 done" in visitor.text("#set-progress")
        visitor.click(30, 30)
        visitor.page.locator(".select").first.click()
        press("3")
        wait_for(lambda: visitor.page.locator(".label").first.input_value() == "bird")
        press("PageUp")
        at(visitor, "p2.png")
        visitor.page.locator("#set-strip button").first.click()
        at(visitor, "p0.png")
        assert states(visitor) == ["done"] * 3 + ["work"]
        visitor.page.reload()
        at(visitor, "p0.png")
        visitor.see("#set-strip button[aria-current]")
        assert states(visitor) == ["done"] * 3 + ["work"] and visitor.page.locator(".class").count() == 3

        (tmp_path / "coco.json").write_bytes(exported(visitor, "coco"))
        coco = COCO(tmp_path / "coco.json")
        assert {one["file_name"] for one in coco.dataset["images"]} == {f"p{i}.png" for i in range(4)}
        assert [coco.cats[i]["name"] for i in (1, 2, 3)] == ["dog", "cat", "bird"]  # as in the palette
        assert all(coco.annToMask(one).sum() == one["area"] for one in coco.dataset["annotations"])
        with zipfile.ZipFile(io.BytesIO(exported(visitor, "yolo"))) as archive:
            assert {f"images/p{i}.png" for i in range(4)} | {f"labels/p{i}.txt" for i in range(4)} <= set(
                archive.namelist()
            )
            assert archive.read("images/p0.png") == pictures[1].read_bytes()  # the first is the text
            assert 'names:\n  0: "dog"\n  1: "cat"\n  2: "bird"\n' in archive.read("data.yaml").decode()
        lines = exported(visitor, "jsonl").decode().splitlines()
        assert [json.loads(line)["file_name"] for line in lines] == [f"p{i}.png" for i in range(4)]
        visitor.page.locator("#export-open").click()
        visitor.page.get_by_label("Divide it").check()
        shares = [visitor.page.locator(f"#share-{part}") for part in ("train", "val", "test")]
        assert [one.input_value() for one in shares] == ["80", "10", "10"]
        for place, value, made in (
            (0, "50", "50 10 40"),
            (1, "70", "30 70 0"),
            (2, "40", "0 60 40"),
            (0, "50", "50 50 0"),
        ):
            shares[place].fill(value)
            shares[place].press("Tab")
            assert " ".join(one.input_value() for one in shares) == made
        visitor.page.keyboard.press("Escape")
        with zipfile.ZipFile(io.BytesIO(exported(visitor, "coco"))) as archive:
            parts = {name: json.loads(archive.read(name)) for name in archive.namelist()}
            assert {name: len(one["images"]) for name, one in parts.items()} == dict.fromkeys(
                ("instances_train.json", "instances_val.json"), 2
            )
        # everything is there again for another server, and for a page that is opened anew
    with running(quick_engine, state=tmp_path / "state", port=int(live.url.rsplit(":", 1)[1])):
        visitor.page.goto(f"{live.url}/#")
        visitor.page.reload()
        visitor.page.get_by_role("button", name="Go on with p0.png").click()
        at(visitor, "p3.png")
        assert visitor.page.locator(".label").first.input_value() == "bird"
        visitor.page.keyboard.press("d")
        visitor.see(".notice p:has-text('All pictures of the set are done.')")


def exported(visitor: Visitor, kind: str) -> bytes:
    """The set as a file."""
    visitor.page.locator("#export-open").click()
    with visitor.page.expect_download() as coming:
        visitor.page.locator(f"[data-set-format={kind}]").click()
    return Path(coming.value.path()).read_bytes()


def test_folder_of_the_server_is_a_set_whose_pictures_come_when_they_are_seen(
    quick_engine: Engine, visit: Visit, pictures: list[Path], tmp_path: Path
) -> None:
    folder = pictures[0].parent
    for number in range(4, 2000):
        os.link(folder / f"p{number % 4}.png", folder / f"p{number}.png")
    (folder / "p1.png").unlink()
    (folder / "p1.png").write_bytes(b"no picture")
    asked: list[str] = []
    with running(quick_engine, folder=folder, state=tmp_path / "state") as live:
        visitor = visit(live.url)
        visitor.page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
        visitor.see("#server-folder-title:has-text('pictures')")
        assert "2,000 pictures and videos on the server, 0 of 2000 done" in visitor.text("#server-folder-text")
        visitor.page.locator("#server-folder-open").click()
        at(visitor, "p0.png")
        visitor.click(20, 20)
        strip = visitor.page.locator("#set-strip")

        def thumbnails() -> set[str]:
            visitor.page.evaluate("0")  # what was asked for is heard of meanwhile
            return {url.rpartition("=")[2] for url in asked if "/v1/folder/thumbnail?" in url}

        wait_for(lambda: "p3.png" in thumbnails())
        assert (
            len(thumbnails()) < 40
            and sum(url.startswith("POST") and url.endswith("/v1/sessions") for url in asked) == 1
        )
        strip.evaluate("(one) => one.scrollTo(one.scrollWidth, 0)")
        wait_for(lambda: "p1999.png" in thumbnails())
        drawn = "(one) => one.getContext('2d').getImageData(36, 36, 1, 1).data[3]"
        wait_for(lambda: visitor.page.locator("#set-strip li").last.locator("canvas").evaluate(drawn) == 255)
        assert len(thumbnails()) < 80
        visitor.page.keyboard.press("d")
        assert "“p1.png” is neither an image" in visitor.notice()
        visitor.page.keyboard.press("PageDown")  # past the one that cannot be read
        at(visitor, "p2.png")
        assert states(visitor)[:4] == ["done", "broken", "new", "new"]
        visitor.click(20, 20)
        visitor.page.locator("#set-strip button").last.click()
        at(visitor, "p1999.png")
        coco = json.loads(exported(visitor, "coco"))
        assert [one["file_name"] for one in coco["images"]] == ["p0.png", "p2.png"]
        (folder / "p0a.png").write_bytes((folder / "p2.png").read_bytes())
        visitor.page.goto(f"{live.url}/#")
        visitor.page.reload()
        visitor.see("#server-folder")
        assert "2,001 pictures and videos on the server, 1 of 2000 done" in visitor.text("#server-folder-text")
        visitor.page.locator("#server-folder-open").click()
        at(visitor, "p0a.png")
        assert states(visitor)[:5] == ["done", "new", "broken", "work", "new"]
        # what the server has lost is made anew from what this browser holds
        first = visitor.page.evaluate(
            "import('/set.js').then((one) => one.listSets()).then(([set]) => set.items[0].session)"
        )
        assert live.http.delete(f"/v1/sessions/{first}").status_code == 204
        visitor.page.locator("#set-strip button").first.click()
        at(visitor, "p0.png")
        assert visitor.state("state.objects.size") > 0 and visitor.page.url.split("#")[1] != first


def test_folder_of_the_server_is_worked_through_from_several_browsers(
    quick_engine: Engine, visit: Visit, pictures: list[Path], tmp_path: Path
) -> None:
    (pictures[0].parent / "p3.png").unlink()

    def opened(visitor: Visitor, name: str) -> None:
        visitor.see("#server-folder")
        visitor.page.locator("#server-folder-open").click()
        at(visitor, name)

    def told(live: Live) -> dict[str, str]:
        return {name: one["state"] for name, one in live.get("/v1/folder")["progress"]["items"].items()}

    settings = {"folder": pictures[0].parent, "state": tmp_path / "state"}
    with running(quick_engine, **settings) as live:
        first, second = visit(live.url), visit(live.url)
        opened(first, "p0.png")
        opened(second, "p0.png")
        first.page.keyboard.press("c")
        first.page.locator("#classes-text").fill("dog\ncat")
        first.page.locator("#classes-form [type=submit]").click()
        first.click(20, 20)
        wait_for(lambda: told(live) == {"p0.png": "work"})
        second.click(30, 30)  # it has been open here since before
        assert second.notice().startswith("Somebody else works on “p0.png” too")
        second.page.keyboard.press("PageDown")
        at(second, "p1.png")
        assert states(second) == ["work", "new", "new"] and second.page.locator(".class").count() == 2
        second.click(20, 20)
        second.page.keyboard.press("d")
        at(second, "p2.png")
        first.page.keyboard.press("PageDown")
        at(first, "p1.png")
        assert states(first) == ["work", "done", "new"]
        items = live.get("/v1/folder")["progress"]["items"]
        assert first.page.url.endswith(f"#{items['p1.png']['session']}")  # the session of the other
        # a link to a session shows the set in a browser that has never seen it
        third = visit(first.page.url)
        at(third, "p1.png")
        third.see("#set-strip button[aria-current]")
        assert states(third) == ["work", "done", "new"]
        third.page.keyboard.press("PageUp")
        at(third, "p0.png")
        third.page.keyboard.press("d")
        wait_for(lambda: told(live) == {"p0.png": "done", "p1.png": "done"})
    port = int(live.url.rsplit(":", 1)[1])
    (file,) = (tmp_path / "state").glob("folder-*.json")
    file.unlink()
    with running(quick_engine, **settings, port=port) as live:  # a server that has forgotten is told again
        first.page.goto(f"{live.url}/#")
        first.page.reload()
        first.see("#server-folder-text:has-text('1 of 3 done')")
        opened(first, "p0.png")
        wait_for(lambda: told(live) == {"p0.png": "work", "p1.png": "done"})
        assert live.get("/v1/folder")["progress"]["classes"] == ["dog", "cat"]


def test_set_is_opened_annotated_named_and_exported_without_a_mouse(
    quick_engine: Engine, visit: Visit, pictures: list[Path]
) -> None:
    with running(quick_engine, folder=pictures[0].parent) as live:
        visitor = visit(live.url)
        press, write = visitor.page.keyboard.press, visitor.page.keyboard.type

        def reach(selector: str) -> None:
            for _ in range(40):
                if visitor.page.evaluate("(one) => document.activeElement.matches(one)", selector):
                    return
                press("Tab")
            raise AssertionError(f"{selector} cannot be reached by Tab")

        visitor.see("#server-folder")
        reach("#server-folder-open")
        press("Enter")
        at(visitor, "p0.png")
        press("c")
        write("dog\ncat")
        reach("#classes-form [type=submit]")
        press("Enter")
        visitor.see(".class")
        press("x")
        for name, key in (("p0.png", "1"), ("p1.png", "2")):
            at(visitor, name)
            press("Shift+ArrowLeft")
            press("ArrowUp")
            press("Enter")  # the crosshair stays where it was in the picture before
            visitor.idle()
            press(key)
            wait_for(
                lambda key=key: (
                    visitor.state("state.objects.get(state.target.id).label") == {"1": "dog", "2": "cat"}[key]
                )
            )
            press("d")
        at(visitor, "p2.png")
        press("PageUp")
        at(visitor, "p1.png")
        press("k")
        press("g")
        press("]")
        press("Enter")
        press("Shift+ArrowRight")
        press("Enter")
        visitor.see("#draft")
        press("Control+Enter")
        visitor.see("#draft", "hidden")
        visitor.idle()
        press("e")
        reach("[data-set-format=yolo]")
        with visitor.page.expect_download() as coming:
            press("Enter")
        with zipfile.ZipFile(coming.value.path()) as archive:
            assert {"labels/p0.txt", "labels/p1.txt", "images/p1.png"} <= set(archive.namelist())
            assert 'names:\n  0: "dog"\n  1: "cat"\n' in archive.read("data.yaml").decode()
            assert archive.read("labels/p0.txt").startswith(b"0 ")
        press("e")
        reach("#split")
        press("Space")
        reach("#share-train")
        press("ArrowUp")
        reach("#share-val")
        assert visitor.page.locator("#share-test").input_value() == "9"


def test_pictures_that_the_server_lost_are_opened_again(quick: Live, visit: Visit, pictures: list[Path]) -> None:
    visitor = visit(quick.url)
    begun(visitor, pictures)
    visitor.click(20, 20)
    first = visitor.page.url.split("#")[1]
    told = visitor.state("[...state.objects.values()].map((one) => one.rles)")
    visitor.page.keyboard.press("PageDown")
    at(visitor, "p1.png")
    looked_at = visitor.page.url.split("#")[1]
    quick.http.delete(f"/v1/sessions/{first}")
    visitor.page.keyboard.press("PageUp")
    at(visitor, "p0.png")
    assert visitor.state("[...state.objects.values()].map((one) => one.rles)") == told
    wait_for(lambda: quick.http.get(f"/v1/sessions/{looked_at}").status_code == 404)  # nothing was done there
    assert visitor.page.url.split("#")[1] != first and states(visitor) == ["work"] + ["new"] * 3


def test_one_question_is_asked_about_every_picture(quick: Live, visit: Visit, pictures: list[Path]) -> None:
    visitor = visit(quick.url)
    begun(visitor, pictures, "")
    visitor.page.locator("#ask-all").click()
    assert visitor.notice().startswith("Write what to ask")
    visitor.page.locator("#question").fill("Please segment the dog.")
    visitor.page.locator("#ask-all").click()
    visitor.see("#ask-all:has-text('Stop asking')")
    visitor.see("#ask-all:has-text('Ask all')")
    for number in range(1, 4):
        visitor.page.keyboard.press("Escape")
        visitor.page.locator("#set-next").click()
        at(visitor, f"p{number}.png")
        assert visitor.state("state.turns.map((one) => one.question)") == ["Please segment the dog."]


def test_every_picture_is_asked_for_the_classes(nano: Live, visit: Visit, pictures: list[Path]) -> None:
    example = Path(unipixel.__file__).parent / "examples" / "picture.png"
    for place in (1, 2):
        pictures[place].write_bytes(example.read_bytes())
    visitor = visit(nano.url)
    begun(visitor, pictures[:3], "zebra\nrocket\ndog")
    visitor.page.locator("#ask-all").click()
    visitor.see("#ask-all:has-text('Stop asking')")
    visitor.see("#ask-all:has-text('Ask all')")
    visitor.page.locator("#set-next").click()
    at(visitor, "p1.png")
    (question,) = visitor.state("state.turns.map((one) => one.question)")
    assert question == "Please segment the zebra, the rocket and the dog."
    labels = visitor.state("[...state.objects.values()].map((one) => one.label)")
    assert labels == ["zebra", "rocket", "dog"]  # called by their classes, in whose colours they are drawn
    colours = visitor.page.locator("#objects-list .swatch, #classes .swatch").evaluate_all(
        "(all) => all.map((one) => getComputedStyle(one).backgroundColor)"
    )
    assert colours[:3] == colours[3:] and len(set(colours)) == 3


def test_set_fits_a_phone_and_classes_are_read_from_files(
    quick: Live, visit: Visit, pictures: list[Path], tmp_path: Path
) -> None:
    visitor = visit(quick.url, viewport=PHONE, is_mobile=True, has_touch=True)
    begun(visitor, pictures, "dog")
    files = {
        "coco.json": (json.dumps({"categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "bus"}]}), "car\nbus"),
        "setup.xml": ('<View><BrushLabels><Label value="sky"/><Label value="tree"/></BrushLabels></View>', "sky\ntree"),
        "names.txt": ("one\n\ntwo\none\n", "one\ntwo"),
    }
    visitor.page.locator("#classes-edit").tap()
    for name, (text, names) in files.items():
        (tmp_path / name).write_text(text)
        visitor.page.locator("#classes-file").set_input_files(tmp_path / name)
        wait_for(lambda names=names: visitor.page.locator("#classes-text").input_value() == names)
    visitor.page.locator("#classes-form [type=submit]").tap()
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert visitor.page.evaluate("document.documentElement.scrollHeight") <= PHONE["height"]
    visitor.page.locator(".class").first.tap()
    visitor.page.touchscreen.tap(*visitor.place(30, 20))
    visitor.idle()
    assert visitor.state("state.objects.get(state.target.id).label") == "one"
    visitor.page.locator("#set-done").tap()
    at(visitor, "p1.png")
