"""Outlines on the page: the corners of a mask are moved, added and removed, by pointer and by key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import Live
from visitor import PHONE, Visitor

from unipixel.masks import decode_rle, encode_rle

pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytestmark = pytest.mark.slow  # minutes in a browser, which not every machine has
Visit = Callable[..., Visitor]
SQUARE = np.zeros((48, 64), bool)
SQUARE[10:30, 10:40] = True


@pytest.fixture
def address(quick: Live, media: Path) -> str:
    """A session about a picture with a rectangle as its only object."""
    found = quick.upload(media / "picture.png")
    body = {"label": "square", "rles": [encode_rle(SQUARE)]}
    assert quick.http.put(f"{found}/objects/1", json=body).status_code == 200
    return found


def begun(live: Live, visit: Visit, address: str, **options: Any) -> Visitor:
    visitor = visit(f"{live.url}/#{address.rpartition('/')[2]}", **options)
    visitor.opened()
    visitor.page.keyboard.press("g")
    visitor.page.keyboard.press("1")
    visitor.see('#overlay[data-corners="4"]')
    return visitor


def mask_of(live: Live, address: str) -> np.ndarray:
    return decode_rle(live.get(f"{address}/objects/1")["rles"][0])


def expected(*corners: tuple[float, float]) -> np.ndarray:
    """What lies within corners, by the centres of pixels."""
    y, x = np.mgrid[:48, :64] + 0.5
    inside = np.zeros((48, 64), bool)
    for (x1, y1), (x2, y2) in zip(corners, (*corners[1:], corners[0]), strict=True):
        if x1 != x2:
            inside ^= ((x1 <= x) != (x2 <= x)) & (y >= y1 + (x - x1) / (x2 - x1) * (y2 - y1))
    return inside


def corner(visitor: Visitor, ring: int, place: int) -> tuple[float, float]:
    """Where a corner is, in pixels of the source."""
    x, y = visitor.page.evaluate(f"import('/outline.js').then((one) => one.ringsShown()[{ring}][{place}])")
    return x, y


def test_corners_are_moved_added_and_removed_and_become_the_mask(quick: Live, visit: Visit, address: str) -> None:
    visitor = begun(quick, visit, address)
    visitor.drag((10, 10), (4, 4))
    assert visitor.text("#draft-text") == "1 change"
    visitor.drag((40, 20), (50, 20))  # of an edge, where there was no corner
    visitor.see('#overlay[data-corners="5"]')
    visitor.click(10, 30, "Alt")
    visitor.see('#overlay[data-corners="4"]')
    assert visitor.text("#draft-text") == "3 changes" and (mask_of(quick, address) == SQUARE).all()
    visitor.page.keyboard.press("Control+z")
    visitor.see('#overlay[data-corners="5"]')
    visitor.page.keyboard.press("Control+Shift+z")
    visitor.see('#overlay[data-corners="4"]')
    corners = [corner(visitor, 0, place) for place in range(4)]
    visitor.page.locator("#draft-apply").click()
    visitor.idle()
    assert np.abs(np.array(corners) - [(4, 4), (40, 10), (50, 20), (40, 30)]).max() < 0.3
    assert (mask_of(quick, address) == expected(*corners)).all()
    # the corners are where they were put
    assert [corner(visitor, 0, place) for place in range(4)] == corners
    visitor.page.keyboard.press("Control+z")
    visitor.idle()
    assert (mask_of(quick, address) == SQUARE).all()
    visitor.page.keyboard.press("Control+y")
    visitor.idle()
    assert (mask_of(quick, address) == expected(*corners)).all()


def test_outline_keeps_three_corners_and_its_object(quick: Live, visit: Visit, address: str) -> None:
    visitor = begun(quick, visit, address)
    visitor.click(10, 10, "Alt")
    visitor.see('#overlay[data-corners="3"]')
    visitor.click(40, 10, "Alt")
    assert visitor.notice().startswith("An outline needs three corners")
    other = {"prompts": [{"type": "mask", "rle": encode_rle(np.roll(SQUARE, 20, axis=1))}], "label": "other"}
    quick.post(f"{address}/objects", other)
    visitor.page.keyboard.press("Escape")
    visitor.page.locator("#draft-discard").click()
    visitor.see("#draft", "hidden")
    visitor.see('#overlay[data-corners="4"]')
    assert (mask_of(quick, address) == SQUARE).all()
    visitor.page.reload()
    visitor.opened()
    visitor.page.keyboard.press("g")
    visitor.click(55, 20)  # only the other one is there
    assert visitor.state("state.objects.get(state.target.id).label") == "other"
    visitor.drag((30, 10), (28, 8))
    visitor.click(12, 20)
    assert visitor.notice().startswith("Apply or discard")
    assert visitor.state("state.objects.get(state.target.id).label") == "other"


def test_parts_and_holes_are_outlines_of_their_own(quick: Live, visit: Visit, address: str) -> None:
    mask = SQUARE.copy()
    mask[15:25, 20:30] = False
    mask[36:44, 50:60] = True
    body = {"label": "ring", "rles": [encode_rle(mask)]}
    quick.http.put(f"{address}/objects/1", json=body)
    visitor = visit(f"{quick.url}/#{address.rpartition('/')[2]}")
    visitor.opened()
    visitor.page.keyboard.press("1")
    visitor.page.keyboard.press("g")
    visitor.see('#overlay[data-corners="12"]')
    visitor.drag((20, 15), (16, 12))
    for place in ((60, 36), (60, 44)):
        visitor.click(*place, "Alt")
    visitor.see('#overlay[data-corners="8"]')  # a part with two corners is none
    visitor.page.keyboard.press("Enter")
    visitor.idle()
    found = mask_of(quick, address)
    assert not found[36:44, 50:60].any() and not found[14, 18] and found[11, 12] and not found[20, 25]


def test_outline_is_changed_by_keyboard(quick: Live, visit: Visit, address: str) -> None:
    visitor = begun(quick, visit, address)
    press = visitor.page.keyboard.press
    press("]")
    assert visitor.text("#news").startswith("Corner 1 of 4, at 10, 10")
    press("Enter")
    press("Shift+ArrowLeft")
    press("ArrowUp")
    press("Enter")
    (x, y), (right, top) = corner(visitor, 0, 0), corner(visitor, 0, 1)
    assert x < 10 and y < 10 and (right, top) == (40, 10)
    press("[")
    assert visitor.text("#news").startswith("Corner 4 of 4, at 10, 30")
    press("Delete")
    visitor.see('#overlay[data-corners="3"]')
    press("Control+Enter")
    visitor.idle()
    assert (mask_of(quick, address) == expected((x, y), (40, 10), (40, 30))).all()
    press("]")
    press("Enter")
    press("ArrowLeft")
    press("Escape")  # it is let go of where it was
    assert visitor.state("state.draft") is None and corner(visitor, 0, 0) == (x, y)


def test_outlines_are_close_to_masks_and_fill_them_exactly(quick: Live, visit: Visit) -> None:
    visitor = visit(quick.url)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:120, :160]
    for _ in range(6):
        mask = np.zeros((120, 160), bool)
        for _ in range(3):
            cy, cx = rng.uniform(20, 100), rng.uniform(20, 140)
            mask ^= ((y - cy) / rng.uniform(5, 40)) ** 2 + ((x - cx) / rng.uniform(5, 50)) ** 2 < 1
        exact, wrong, count = visitor.page.evaluate(
            """async (rle) => {
              const { decode, outlines } = await import('/rle.js');
              const { fill, ringsOf } = await import('/outline.js');
              const bits = decode(rle);
              const pairs = (flat) => Array.from({ length: flat.length / 2 }, (_, i) => flat.slice(2 * i, 2 * i + 2));
              const differ = (rings) => fill(rings, ...rle.size).reduce((sum, bit, i) => sum + (bit ^ bits[i]), 0);
              const rings = ringsOf(bits, ...rle.size);
              return [differ(outlines(bits, ...rle.size).map(pairs)), differ(rings), rings.flat().length];
            }""",
            encode_rle(mask),
        )
        assert exact == 0 and wrong <= 0.05 * mask.sum() and count < 80


def test_pixels_far_from_a_moved_corner_stay_as_they_are(quick: Live, visit: Visit, address: str) -> None:
    y, x = np.mgrid[:48, :64]
    mask = ((y - 24) ** 2 + (x - 30) ** 2 < 330) ^ ((x % 7 == 0) & (y % 9 == 0) & (x > 20) & (x < 40) & (y > 14))
    quick.http.put(f"{address}/objects/1", json={"label": "disk", "rles": [encode_rle(mask)]})
    visitor = visit(f"{quick.url}/#{address.rpartition('/')[2]}")
    visitor.opened()
    visitor.page.keyboard.press("1")
    visitor.page.keyboard.press("g")
    visitor.see('#overlay:not([data-corners=""])')
    rings = visitor.page.evaluate("import('/outline.js').then((one) => one.ringsShown())")
    moved = max((corner for ring in rings for corner in ring), key=lambda corner: corner[0])
    visitor.drag(tuple(moved), (62, moved[1]))
    visitor.page.keyboard.press("Enter")
    visitor.idle()
    found = mask_of(quick, address)
    assert found[int(moved[1]), 55:60].any() and (found[:, :30] == mask[:, :30]).all()


def test_outline_is_changed_by_finger(quick: Live, visit: Visit, address: str) -> None:
    visitor = begun(quick, visit, address, viewport=PHONE, is_mobile=True, has_touch=True)
    touches = visitor.page.context.new_cdp_session(visitor.page)
    (x1, y1), (x2, y2) = visitor.place(10, 10), visitor.place(4, 6)
    for kind, points in (
        ("touchStart", [(x1 + 9, y1 + 9)]),
        ("touchMove", [(x2, y2)]),
        # a finger that is lifted while it moves flings, and browsers take the next tap for stopping that
        ("touchMove", [(x2 + 1, y2)]),
        ("touchMove", [(x2, y2)]),
        ("touchEnd", []),
    ):
        touches.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})
    visitor.see("#draft")
    assert np.abs(np.array(corner(visitor, 0, 0)) - (4, 6)).max() < 0.5
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    visitor.page.locator("#draft-apply").tap()
    visitor.see("#draft", "hidden")
    visitor.idle()
    assert mask_of(quick, address)[9, 9]
