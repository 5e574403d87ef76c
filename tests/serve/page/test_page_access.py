"""What axe-core finds on the page: nothing, at desktop and phone size, in both themes, on every screen and window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import Live, running
from PIL import Image
from visitor import DESK, PHONE, Visitor

from unipixel.engine.engine import Engine

pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
pytestmark = pytest.mark.slow  # minutes in a browser, which not every machine has
Visit = Callable[..., Visitor]
KEY = "a-key-of-the-tests"


def find_violations(visitor: Visitor, where: str) -> list[str]:
    """What axe-core complains of, by rule, with the elements."""
    found = axe.Axe().run(visitor.page, options={"resultTypes": ["violations"]}).response
    assert found["passes"]
    return [
        f"{where}: {one['id']} ({one['help']}): {[node['html'][:150] for node in one['nodes'][:4]]}"
        for one in found["violations"]
    ]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with three pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"p{number}.png")
    return folder


def test_axe_finds_what_is_wrong(quick: Live, visit: Visit) -> None:
    """The other test is worth something only because of this one."""
    visitor = visit(quick.url)
    visitor.see("#start")
    visitor.page.evaluate(
        """() => {
          const text = document.querySelector('.lead');
          text.style.color = 'var(--edge)';
          document.querySelector('main').append(document.createElement('img'), document.createElement('button'));
        }"""
    )
    rules = {line.split(": ")[1].split(" ")[0] for line in find_violations(visitor, "start")}
    assert {"button-name", "color-contrast", "image-alt"} <= rules


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desk", "phone"])
def test_axe_finds_nothing(
    quick_engine: Engine, visit: Visit, media: Path, pictures: Path, tmp_path: Path, size: str, theme: str
) -> None:
    options: dict[str, Any] = {"viewport": DESK, "color_scheme": theme}
    if size == "phone":
        options |= {"viewport": PHONE, "is_mobile": True, "has_touch": True}
    found: list[str] = []
    with running(quick_engine, folder=pictures, state=tmp_path / "state") as live:
        visitor = visit(live.url, **options)
        page, press = visitor.page, visitor.page.keyboard.press

        def check(where: str) -> None:
            found.extend(find_violations(visitor, f"{where}, {size}, {theme}"))

        visitor.see("#server-folder")
        page.locator(".options summary").click()
        check("start")
        visitor.open(media / "clip.mp4")
        check("a clip")
        visitor.click(20, 20)
        visitor.ask("Please segment the dog.")
        page.locator(".select").first.dispatch_event("click")
        check("objects and an answer")
        if size == "phone":
            page.locator(".switch [data-panel=objects]").click()
            check("objects")
        for opener, window in (("#export-open", "#export"), ("#view-open", "#view-menu"), ("#help-open", "#help")):
            page.locator(opener).click()
            visitor.see(window)
            check(window)
            press("Escape")
            visitor.see(window, "hidden")
        visitor.tool("brush")
        visitor.drag((20, 20), (30, 20))
        visitor.see("#draft")
        check("a painted mask")
        page.locator("#draft-discard").click()
        visitor.tool("polygon")
        check("an outline")
        page.locator(".delete").first.dispatch_event("click")
        visitor.see(".notice")
        check("something deleted")
        page.goto(f"{live.url}/#s-aaaaaaaaaaaaaaaaaaaaaa")
        visitor.see(".notice.error")
        check("an error")
        page.locator("#server-folder-open").click()
        visitor.see("#name:has-text('p0.png')")
        visitor.see('#overlay[data-shown="0"]')
        page.locator("#classes-edit").click()
        page.locator("#classes-text").fill("dog\ncat")
        check("classes")
        page.locator("#classes-form [type=submit]").click()
        visitor.tool("point")
        visitor.click(20, 20)
        check("a set")
        page.locator("#export-open").click()
        page.locator("#split").check()
        check("export of a set")
        press("Escape")
        page.goto(f"{live.url}/#")
        visitor.see("#recent")
        check("start with sessions")
    with running(quick_engine, api_keys=(KEY,)) as live:
        visitor = visit(live.url, **options)
        visitor.see("#key-dialog[open]")
        found += find_violations(visitor, f"the key, {size}, {theme}")
    assert not found, "\n".join(found)
