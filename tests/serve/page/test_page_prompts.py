"""Prompts and questions on the page: what is clicked, drawn, painted and asked is what the server gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from live import Live
from PIL import Image
from pycocotools import mask as coco
from visitor import Visitor

from unipixel.bench.scene import draw_moving_discs
from unipixel.draw import get_colour, write_mp4
from unipixel.masks import decode_rle, encode_rle

pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytestmark = pytest.mark.slow  # minutes in a browser, which not every machine has
Visit = Callable[..., Visitor]
EXAMPLES = Path(__file__).parents[3] / "unipixel" / "examples"


def prompts(live: Live, address: str, object_id: int = 1) -> list[dict]:
    return live.get(f"{address}/objects/{object_id}")["prompts"]


def made(live: Live, address: str) -> dict[int, int]:
    """Objects that were made by prompts, and how many each has."""
    return {one["id"]: len(one["prompts"]) for one in live.get(address)["objects"] if one["prompts"]}


def test_click_makes_an_object_and_further_clicks_correct_it(quick: Live, media: Path, visit: Visit) -> None:
    visitor = visit(quick.url)
    address = visitor.open(media / "picture.png")
    visitor.click(20, 12)
    # the model of random weights finds other things besides
    assert "1" in visitor.masks().split() and visitor.text(".facts").endswith("1 prompt")
    assert visitor.page.locator("#objects-list > li").count() == len(quick.get(address)["objects"])
    visitor.click(40, 30, "Alt")
    visitor.click(50, 40, button="right")
    visitor.page.locator("[data-mode=away]").click()
    visitor.click(10, 40)
    visitor.click(12, 40, "Shift")
    visitor.page.locator("[data-mode=add]").click()
    visitor.click(14, 40)
    given = prompts(quick, address)
    assert [one["positive"] for one in given] == [True, False, False, False, True, True]
    for one, (x, y) in zip(given, [(20, 12), (40, 30), (50, 40), (10, 40), (12, 40), (14, 40)], strict=True):
        assert abs(one["x"] - x) < 0.2 and abs(one["y"] - y) < 0.2
    visitor.page.locator("[data-mode=new]").click()
    visitor.click(30, 20)
    assert made(quick, address) == {1: 6, visitor.state("state.target.id"): 1}


def test_click_beside_the_selected_object_starts_another(quick: Live, media: Path, visit: Visit) -> None:
    visitor = visit(quick.url)
    address = visitor.open(media / "picture.png")
    mask = np.zeros((48, 64), bool)
    mask[4:20, 4:30] = True
    quick.post(f"{address}/objects", {"prompts": [{"type": "mask", "rle": encode_rle(mask)}]})
    visitor.page.reload()
    visitor.opened()
    visitor.page.keyboard.press("1")
    visitor.click(50, 40)
    second = visitor.state("state.target.id")
    assert made(quick, address) == {1: 1, second: 1}
    visitor.page.keyboard.press("1")
    visitor.click(10, 10)  # on it
    assert made(quick, address) == {1: 2, second: 1}
    visitor.tool("box")
    visitor.drag((40, 5), (60, 20))
    visitor.idle()
    third = visitor.state("state.target.id")
    assert made(quick, address) == {1: 2, second: 1, third: 1} and len({1, second, third}) == 3
    visitor.page.keyboard.press("1")
    visitor.page.keyboard.down("Shift")
    visitor.drag((5, 5), (30, 20))
    visitor.page.keyboard.up("Shift")
    visitor.idle()
    assert made(quick, address)[1] == 3
    visitor.page.keyboard.press("s")
    visitor.drag((5, 5), (30, 20))
    assert visitor.notice() == "A box cannot take away; use points or the brush."
    visitor.page.keyboard.press("n")
    visitor.tool("point")
    visitor.click(10, 44, "Alt")
    assert visitor.notice() == "Select the object that this is to be taken away from first."
    assert sum(made(quick, address).values()) == 5


def test_view_is_zoomed_by_the_wheel_and_moved_by_space(quick: Live, media: Path, visit: Visit) -> None:
    visitor = visit(quick.url)
    visitor.open(media / "clip.mp4", num_frames=3)
    overlay = visitor.page.locator("#overlay")
    whole = overlay.bounding_box()
    at = visitor.place(16, 12)
    visitor.page.mouse.move(*at)
    visitor.page.mouse.wheel(0, -300)
    wait = "(before) => document.getElementById('overlay').getBoundingClientRect().width > before * 2"
    visitor.page.wait_for_function(wait, arg=whole["width"])
    assert np.allclose(visitor.place(16, 12), at, atol=3)  # it stays under the pointer
    width = visitor.state("state.session.media.width")
    percent = int(visitor.page.locator("#zoom-text").inner_text().split()[0])
    assert abs(percent - 100 * overlay.bounding_box()["width"] / width) < 2
    before = overlay.bounding_box()
    visitor.page.mouse.move(*visitor.place(20, 20))
    visitor.page.keyboard.down(" ")
    visitor.page.mouse.down()
    visitor.page.mouse.move(*[a - 40 for a in visitor.place(20, 20)], steps=3)
    visitor.page.mouse.up()
    visitor.page.keyboard.up(" ")
    after = overlay.bounding_box()
    assert after["x"] < before["x"] and after["y"] < before["y"] and after["width"] == before["width"]
    assert visitor.state("state.objects.size") == 0 and visitor.page.get_by_label("Play").is_visible()
    visitor.page.keyboard.press("-")
    assert overlay.bounding_box()["width"] < after["width"]
    visitor.page.keyboard.press("+")
    assert abs(overlay.bounding_box()["width"] - after["width"]) < 2
    visitor.page.keyboard.press("0")
    assert overlay.bounding_box() == whole
    visitor.page.keyboard.press(" ")  # nothing was moved: it plays
    visitor.see('#overlay[data-shown="2"]')


def test_masks_are_drawn_as_one_likes_to_see_them(quick: Live, media: Path, visit: Visit) -> None:
    visitor = visit(quick.url)
    address = visitor.open(media / "picture.png")
    masks = np.zeros((3, 48, 64), bool)
    masks[0, 10:20, 10:20] = masks[1, 4:44, 4:60] = masks[2, 30:40, 30:50] = True  # the second lies around the others
    for number, (mask, score) in enumerate(zip(masks, (0.9, 0.45, 0.1), strict=True), 1):
        body = {"label": f"thing {number}", "rles": [encode_rle(mask)], "frame_scores": [score]}
        assert quick.http.put(f"{address}/objects/{number}", json=body).status_code == 200
    visitor.page.reload()
    visitor.opened()

    def colour(x: float, y: float) -> list[int]:
        return visitor.page.evaluate(
            """([x, y]) => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
              const canvas = document.getElementById('overlay');
              const { data } = canvas.getContext('2d').getImageData(x * canvas.width, y * canvas.height, 1, 1);
              done([...data]);
            })))""",
            [x / 64, y / 48],
        )

    facts = visitor.page.locator(".facts").all_inner_texts()
    assert [fact.split(" · ")[0] for fact in facts] == ["sure", "unsure", "guess"] and "0." not in "".join(facts)
    small, large = colour(15, 15), colour(50, 20)
    assert small[3] > large[3] > 0  # both are seen where they overlap
    visitor.tool("select")
    visitor.click(15, 15)
    assert visitor.state("state.target.id") == 1  # though the larger one came later
    visitor.page.keyboard.press("o")
    visitor.page.mouse.move(5, 5)
    assert colour(50, 20)[3] == 0
    visitor.page.keyboard.press("o")
    visitor.page.locator("#view-open").click()
    visitor.page.locator("#opacity").fill("90")
    assert colour(50, 20)[3] > 220
    visitor.page.keyboard.press("Escape")
    visitor.page.keyboard.press("Shift+H")
    assert visitor.masks() == ""
    visitor.page.keyboard.press("Shift+H")
    visitor.page.get_by_label("Only unsure ones (2)").check()
    assert visitor.masks() == "2 3" and visitor.page.locator(".object:visible").count() == 2
    visitor.page.reload()
    visitor.opened()
    assert visitor.page.locator("#opacity").input_value() == "90" and visitor.masks() == "1 2 3"
    titles = visitor.page.locator("[aria-keyshortcuts]").evaluate_all("(all) => all.map((one) => one.title)")
    assert "Point (P)" in titles and "Undo (Ctrl+Z)" in titles and all(title.endswith(")") for title in titles)


def test_quick_clicks_wait_for_each_other(quick: Live, media: Path, visit: Visit) -> None:
    visitor = visit(quick.url)
    address = visitor.open(media / "clip.mp4", num_frames=3)
    for x in (20, 30, 40):
        visitor.page.mouse.click(*visitor.place(x, 20))
        visitor.page.keyboard.down("Shift")
    visitor.page.keyboard.up("Shift")
    visitor.idle()
    assert made(quick, address) == {1: 3}
    visitor.page.keyboard.press("ArrowRight")  # the crosshair has not taken the keys
    visitor.see('#overlay[data-shown="1"]')


def test_masks_are_selected_where_they_are_clicked(quick: Live, media: Path, visit: Visit) -> None:
    visitor = visit(quick.url)
    address = visitor.open(media / "picture.png")
    masks = np.zeros((2, 48, 64), bool)
    masks[0, 4:14, 4:20] = masks[1, 24:44, 30:60] = True
    masks[1, 30:36, 40:50] = False  # a hole
    for mask in masks:
        quick.post(f"{address}/objects", {"prompts": [{"type": "mask", "rle": encode_rle(mask)}]})
    visitor.page.reload()
    visitor.opened()
    visitor.tool("select")
    for place, target in [((10, 8), 1), ((32, 26), 2), ((45, 33), None), ((58, 40), 2)]:
        visitor.click(*place)
        assert visitor.state("state.target.id") == target and visitor.state("state.lit") == target
    assert made(quick, address) == {1: 1, 2: 1}


def test_box_is_dragged_in_any_direction_and_a_further_one_is_for_another_object(
    quick: Live, media: Path, visit: Visit
) -> None:
    visitor = visit(quick.url)
    address = visitor.open(media / "picture.png")
    visitor.tool("box")
    visitor.drag((50, 40), (30, 20), (20, 10))
    visitor.idle()
    (given,) = prompts(quick, address)
    assert given["type"] == "box" and np.allclose(given["box"], [20, 10, 50, 40], atol=0.2)
    visitor.drag((5, 5), (15, 20))
    visitor.idle()
    assert made(quick, address) == {1: 1, visitor.state("state.target.id"): 1}


def test_painted_mask_is_taken_as_it_is_and_can_be_corrected(quick: Live, media: Path, visit: Visit) -> None:
    visitor = visit(quick.url)
    address = visitor.open(media / "picture.png")
    visitor.tool("brush")
    visitor.page.locator("#brush-size").fill("25")  # 6 pixels
    visitor.drag((10, 24), (50, 24))
    visitor.drag((30, 10), (30, 40))
    assert visitor.text("#draft-text") == "2 strokes"
    visitor.page.locator("#undo").click()
    assert visitor.text("#draft-text") == "1 stroke"
    visitor.page.locator("#draft-apply").click()
    visitor.idle()
    y, x = np.mgrid[:48, :64] + 0.5
    expected = np.hypot(np.clip(x, 10, 50) - x, y - 24) <= 3
    mask = decode_rle(quick.get(f"{address}/objects/1")["rles"][0])
    assert (mask != expected).sum() <= 6  # the pointer stops at whole pixels of the screen
    visitor.page.keyboard.down("Alt")
    visitor.drag((30, 24), (30, 24))
    visitor.page.keyboard.up("Alt")
    visitor.page.keyboard.press("Enter")
    visitor.idle()
    left = decode_rle(quick.get(f"{address}/objects/1")["rles"][0])
    assert not left[24, 30] and left[24, 15] and not (left & ~mask).any() and len(prompts(quick, address)) == 2


def test_run_lengths_and_outlines_are_what_other_programs_make(quick: Live, visit: Visit) -> None:
    random = np.random.default_rng(7)
    masks = [
        random.random((height, width)) < share
        for height, width, share in [
            (1, 1, 1),
            (1, 7, 0.5),
            (9, 1, 0.5),
            (23, 31, 0.02),
            (23, 31, 0.5),
            (40, 30, 0.97),
            (64, 48, 0),
            (5, 6, 1),
        ]
    ]
    wide = np.zeros((300, 2000), bool)
    wide[150:, 900:] = True
    masks.append(wide)
    packed = [coco.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    given = [
        {"size": list(mask.shape), "counts": rle["counts"].decode()} for mask, rle in zip(masks, packed, strict=True)
    ]
    told = visit(quick.url).page.evaluate(
        """async (given) => {
          const { decode, encode, outlines } = await import('/rle.js');
          return given.map((rle) => {
            const bits = decode(rle);
            let area = 0;  // by the shoelace formula
            for (const line of outlines(bits, ...rle.size))
              for (let i = 0; i < line.length; i += 2) {
                const j = (i + 2) % line.length;
                area += (line[i] * line[j + 1] - line[j] * line[i + 1]) / 2;
              }
            return { counts: encode(bits, ...rle.size).counts, sum: bits.reduce((a, b) => a + b, 0), area };
          });
        }""",
        given,
    )
    for mask, rle, one in zip(masks, given, told, strict=True):
        assert one == {"counts": rle["counts"], "sum": mask.sum(), "area": mask.sum()}


def test_objects_have_the_colours_of_exported_pictures(quick: Live, visit: Visit) -> None:
    told = visit(quick.url).page.evaluate(
        "import('/colours.js').then(({ rgbOf }) => Array.from({ length: 30 }, (_, i) => rgbOf(i + 1)))"
    )
    assert np.abs(np.array(told) - [get_colour(i + 1) for i in range(30)]).max() <= 1


def test_answer_is_streamed_and_its_chips_point_at_masks(nano: Live, visit: Visit) -> None:
    visitor = visit(nano.url)
    visitor.page.locator("[data-example='picture.png']").click()
    address = visitor.opened()
    visitor.page.evaluate(
        """() => {
          window.lengths = [];
          const seen = () => window.lengths.push(document.querySelector('.is-writing')?.innerText.length ?? 0);
          new MutationObserver(seen).observe(document.getElementById('turns'), { childList: true, subtree: true });
        }"""
    )
    visitor.page.get_by_role("button", name="Please segment the dog in this image.").click()
    visitor.page.locator("#send").click()
    visitor.see(".answered:not(.is-writing) .chip:enabled")
    assert len(set(visitor.page.evaluate("window.lengths"))) > 2
    assert "dog" in visitor.text(".answered") and visitor.text(".words") == "dog"
    assert visitor.page.locator(".label").input_value() == "dog"
    (told,) = nano.get(address)["objects"]
    mask = decode_rle(told["rles"][0])
    y, x = np.argwhere(mask).mean(axis=0)

    def opacity() -> int:
        return visitor.page.evaluate(
            """([x, y]) => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
              const canvas = document.getElementById('overlay');
              const { data } = canvas.getContext('2d').getImageData(x * canvas.width, y * canvas.height, 1, 1);
              done(data[3]);
            })))""",
            [x / 336, y / 336],
        )

    assert mask[int(y), int(x)]
    before = opacity()
    chip = visitor.page.get_by_role("button", name="Object 1, dog", exact=True)
    chip.hover()
    assert opacity() > before and visitor.page.locator("#overlay").get_attribute("data-lit") == "1"
    visitor.page.mouse.move(5, 5)
    assert opacity() == before
    chip.focus()
    assert opacity() > before
    chip.click()
    assert visitor.page.locator("#objects-list > li[aria-current]").count() == 1


def test_page_and_engine_give_the_same_masks(nano: Live, visit: Visit) -> None:
    visitor = visit(nano.url)
    visitor.page.locator("[data-example='clip.mp4']").click()
    address = visitor.opened()
    question = "Please segment the pizza in this video."
    visitor.ask(question)
    with nano.engine.open(str(EXAMPLES / "clip.mp4")) as session:
        answer = session.ask(question)
    told = nano.get(address)
    assert [turn["text"] for turn in told["turns"]] == [answer.text]
    assert [one["rles"] for one in told["objects"]] == [one.to_json()["rles"] for one in answer.objects]
    shown = visitor.state("[...state.objects.values()].map((one) => one.rles)")
    assert shown == [one["rles"] for one in told["objects"]]


def test_places_are_right_in_large_and_in_upright_media(quick: Live, visit: Visit, tmp_path: Path) -> None:
    photo, film = tmp_path / "photo.jpg", tmp_path / "upright.mp4"
    Image.new("RGB", (4000, 3000), "teal").save(photo)
    write_mp4(draw_moving_discs(3, (96, 54)), film)
    for path, places, tolerance in [(photo, [(3900, 100)], 4.0), (film, [(50, 5), (5, 90)], 0.2)]:
        visitor = visit(quick.url)
        address = visitor.open(path)
        for place in places:
            visitor.click(*place, "Shift")
        found = [(one["x"], one["y"]) for one in prompts(quick, address)]
        assert np.allclose(found, places, atol=tolerance)


def test_zoomed_picture_is_clicked_where_it_is_seen(quick: Live, media: Path, visit: Visit) -> None:
    visitor = visit(quick.url)
    address = visitor.open(media / "picture.png")
    before = visitor.page.locator("#overlay").bounding_box()
    for _ in range(3):
        visitor.page.keyboard.press("+")
    box = visitor.page.locator("#overlay").bounding_box()
    assert box["width"] > 3 * before["width"]
    visitor.click(32, 24)
    (given,) = prompts(quick, address)
    assert np.allclose([given["x"], given["y"]], [32, 24], atol=0.2)
    visitor.page.keyboard.press("0")
    assert visitor.page.locator("#overlay").bounding_box() == before
