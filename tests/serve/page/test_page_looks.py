"""Who can use the page, and where: by keyboard, by screen reader, on a phone, in the dark; and what it may load."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import Live, wait_for
from visitor import PHONE, Visitor

pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytestmark = pytest.mark.slow  # minutes in a browser, which not every machine has
Visit = Callable[..., Visitor]
BOX = {"type": "box", "box": [20, 10, 50, 40]}
PAGE = Path(__file__).parents[3] / "unipixel" / "serve" / "page"
CONTROLS = {"button", "checkbox", "combobox", "link", "radio", "searchbox", "slider", "spinbutton", "textbox", "switch"}
CONTRASTS = [
    *((ink, paper, 4.5) for ink in ("text", "soft", "accent", "danger") for paper in ("card", "raised")),
    *((ink, "page", 4.5) for ink in ("text", "soft")),
    *((ink, "accent-soft", 4.5) for ink in ("text", "soft", "accent")),
    ("text", "danger-soft", 4.5),
    ("danger", "danger-soft", 4.5),
    ("on-accent", "accent", 4.5),
    ("edge", "card", 3.0),
    ("edge", "page", 3.0),
    ("accent", "sunken", 3.0),
]
"""Ink, paper, and the least contrast that WCAG 2.2 asks for at level AA."""


@pytest.fixture(scope="module")
def address(quick: Live, media: Path) -> str:
    """A session about a video in which something is known and was asked."""
    address = quick.upload(media / "clip.mp4", num_frames=3)
    quick.post(f"{address}/objects", {"prompts": [BOX], "label": "ball"})
    quick.post(f"{address}/ask", {"text": "And [1]?", "max_tokens": 4})
    return address


def resumed(quick: Live, visit: Visit, address: str, **options: Any) -> Visitor:
    visitor = visit(f"{quick.url}/#{address.rsplit('/', 1)[1]}", **options)
    visitor.opened()
    return visitor


def unnamed(visitor: Visitor) -> list[str]:
    """Controls without a name, as the browser tells them to screen readers."""
    tree = visitor.page.context.new_cdp_session(visitor.page).send("Accessibility.getFullAXTree")
    nodes = [node for node in tree["nodes"] if not node["ignored"]]
    found = [node for node in nodes if node["role"]["value"] in CONTROLS | {"application", "dialog", "log"}]
    assert found
    return [node["role"]["value"] for node in found if not node.get("name", {}).get("value", "").strip()]


def test_every_control_has_a_name(quick: Live, visit: Visit, address: str) -> None:
    visitor = visit(quick.url)
    visitor.page.locator(".options summary").click()
    assert not unnamed(visitor)
    visitor = resumed(quick, visit, address)
    visitor.tool("brush")
    visitor.drag((20, 20), (30, 20))
    assert not unnamed(visitor)
    visitor.page.get_by_role("button", name="Export objects").click()
    assert not unnamed(visitor)
    visitor.page.keyboard.press("Escape")
    visitor.page.keyboard.press("?")
    visitor.see("#help[open]")
    assert not unnamed(visitor)


def luminance(colour: str) -> float:
    channels = np.array([float(part) for part in re.findall(r"[\d.]+", colour)[:3]]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_told_apart(quick: Live, visit: Visit, theme: str) -> None:
    visitor = visit(quick.url, color_scheme=theme)
    names = sorted({name for ink, paper, _ in CONTRASTS for name in (ink, paper)})
    colours = visitor.page.evaluate(
        """(names) => {
          const probe = document.body.appendChild(document.createElement('i'));
          return Object.fromEntries(names.map((name) => {
            probe.style.color = `var(--${name})`;
            return [name, getComputedStyle(probe).color];
          }));
        }""",
        names,
    )
    for ink, paper, least in CONTRASTS:
        dark, bright = sorted((luminance(colours[ink]), luminance(colours[paper])))
        assert (bright + 0.05) / (dark + 0.05) >= least, (theme, ink, paper)


def test_theme_follows_the_system_until_another_is_chosen(quick: Live, visit: Visit) -> None:
    visitor = visit(quick.url, color_scheme="dark")

    def brightness() -> float:
        return luminance(visitor.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert brightness() < 0.05
    visitor.page.get_by_role("button", name="Switch to the light theme").click()
    assert brightness() > 0.8
    visitor.page.reload()
    assert brightness() > 0.8
    visitor.page.get_by_role("button", name="Switch to the dark theme").click()
    assert brightness() < 0.05 and visitor.page.evaluate("localStorage.length") == 0


def test_page_says_what_the_model_is_and_offers_what_it_can_do(nano: Live, quick: Live, visit: Visit) -> None:
    visitor = visit(nano.url)
    visitor.see("#limits:not(:empty)")
    parameters = round(nano.get("/health")["parameters"] / 1e6)
    assert re.fullmatch(rf"nano · {parameters} M · cpu · \d+\.\d GB", visitor.text("#model").strip())
    assert "drawn pictures" in visitor.text("#start .model-note") and "3B" in visitor.text("#start .model-note")
    address = visitor.open(PAGE.parents[1] / "examples" / "picture.png")
    ideas = visitor.page.locator("#suggestions button")
    assert all("segment" in idea for idea in ideas.all_inner_texts()) and ideas.count() == 2
    nano.http.delete(address)
    with open(PAGE.parents[1] / "examples" / "picture.png", "rb") as file:
        opened = nano.http.post("/v1/sessions/upload", files={"file": ("mine.png", file)}).json()
    visitor.page.goto(f"{nano.url}/#{opened['id']}")
    visitor.see("#name:has-text('mine.png')")
    assert ideas.all_inner_texts() == ["Please segment the … in this image."]  # of scenes nano can say nothing
    visitor.click(90, 110)
    assert ideas.all_inner_texts() == ["Please segment the … in this image.", "What is [1]?"]
    other = visit(quick.url)
    other.see("#limits:not(:empty)")
    assert other.page.locator("#start .model-note").is_hidden()


def test_phone_needs_no_scrolling_sideways(quick: Live, visit: Visit, address: str) -> None:
    wide = "Math.max(...[...document.querySelectorAll('body, body *')].filter((one) => one.checkVisibility() "
    wide += "&& !one.closest('svg, .unseen, .sheet')).map((one) => one.getBoundingClientRect().right))"
    phone = {"viewport": PHONE, "is_mobile": True, "has_touch": True}
    start = visit(quick.url, **phone)
    start.page.locator(".options summary").click()
    assert start.page.evaluate(wide) <= PHONE["width"]
    visitor = resumed(quick, visit, address, **phone)
    assert visitor.page.evaluate(wide) <= PHONE["width"]
    visitor.tool("brush")
    visitor.page.locator(".switch [data-panel=objects]").tap()
    assert visitor.page.locator("#objects-list").is_visible() and not visitor.page.locator("#question").is_visible()
    assert visitor.page.evaluate(wide) <= PHONE["width"]
    assert visitor.page.evaluate("document.documentElement.scrollHeight") <= PHONE["height"]
    visitor.page.locator("#help-open").tap()
    assert visitor.page.evaluate(wide) <= PHONE["width"]
    visitor.page.get_by_role("button", name="Close").tap()
    visitor.tool("point")
    visitor.page.locator("[data-mode=new]").tap()
    visitor.page.touchscreen.tap(*visitor.place(30, 20))
    visitor.idle()
    made = [one for one in quick.get(address)["objects"] if one["prompts"]]
    assert made[-1]["prompts"][0]["type"] == "point" and abs(made[-1]["prompts"][0]["x"] - 30) < 0.3
    quick.http.delete(f"{address}/objects/{made[-1]['id']}")


def test_everything_can_be_done_by_keyboard(quick: Live, visit: Visit) -> None:
    visitor = visit(quick.url)
    press = visitor.page.keyboard.press
    visitor.see("#start")
    for _ in range(20):
        press("Tab")
        if "A video" in str(visitor.page.evaluate("document.activeElement.innerText")):
            break
    press("Enter")
    address = visitor.opened()
    press("x")
    assert visitor.page.evaluate("document.activeElement.id") == "overlay"
    press("ArrowLeft")
    press("Shift+ArrowUp")
    assert re.fullmatch(r"\d+, \d+.*", visitor.text("#news"))
    press("Enter")
    visitor.idle()
    press("ArrowRight")
    press("Alt+Enter")
    visitor.idle()
    (point, other) = quick.get(f"{address}/objects/1")["prompts"]
    assert point["positive"] and not other["positive"] and other["x"] > point["x"]
    press("n")
    press("b")
    press("Enter")
    for key in ("Shift+ArrowRight", "Shift+ArrowDown", "Enter"):
        press(key)
    visitor.idle()
    box = quick.get(f"{address}/objects/{visitor.state('state.target.id')}")["prompts"][0]
    assert box["type"] == "box" and box["box"][2] > box["box"][0]
    press("n")
    press("m")
    for key in ("Enter", "ArrowRight", "ArrowRight", "Enter"):
        press(key)
    assert visitor.text("#draft-text") == "1 stroke on frame 1"
    press("Tab")
    press("Enter")  # the first button of the painted mask discards it
    visitor.see("#draft", "hidden")
    press("1")
    press("r")
    visitor.page.keyboard.type("wing")
    press("Enter")
    press("/")
    visitor.page.keyboard.type("And [1]?")
    press("Enter")
    visitor.see(".answered")
    visitor.idle()
    assert quick.get(f"{address}/objects/1")["label"] == "wing"
    visitor.page.locator(".asked .chip").focus()
    press("Enter")
    assert visitor.state("[state.lit, state.target.id]") == [1, 1]
    press("u")  # the answer's objects, if there were any, or else the name
    visitor.idle()
    wait_for(lambda: visitor.state("state.session.canRedo"))
    press("Control+y")
    visitor.idle()
    assert not visitor.state("state.session.canRedo") and quick.get(f"{address}/objects/1")["label"] == "wing"


def test_keys_of_one_letter_can_be_switched_off(quick: Live, visit: Visit, address: str) -> None:
    visitor = resumed(quick, visit, address)
    visitor.page.keyboard.press("?")
    visitor.page.get_by_label("Shortcuts of a single key").uncheck()
    visitor.page.keyboard.press("Escape")
    visitor.page.keyboard.press("b")
    assert visitor.state("state.tool") == "point"
    visitor.page.keyboard.press("ArrowRight")
    assert visitor.state("state.frame") == 1


def test_page_loads_nothing_from_elsewhere_and_runs_no_foreign_script(quick: Live, visit: Visit, address: str) -> None:
    for path in ("/", "/main.js", "/work.css", "/examples/picture.png"):
        headers = quick.http.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"] and "unsafe" not in str(headers)
        assert headers["cache-control"] == "no-cache" and headers["x-content-type-options"] == "nosniff"
    label = "<img src=x onerror=alert(1)>"
    quick.http.patch(f"{address}/objects/1", json={"label": label})
    visitor = resumed(quick, visit, address)
    assert visitor.page.get_by_label("Name of object 1").input_value() == label
    assert visitor.page.locator("#objects-list img, #turns img").count() == 0
    assert {host.rstrip("/") for host in visitor.hosts if host.startswith("http")} <= {
        quick.url,
        *(f"{quick.url}/{path.name}" for path in PAGE.iterdir()),
        f"{quick.url}/health",
    }
    quick.http.patch(f"{address}/objects/1", json={"label": "ball"})
