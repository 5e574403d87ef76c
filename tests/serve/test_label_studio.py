"""The Label Studio backend, with Label Studio's own brush codec, configuration parser and client's habits."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import EXAMPLES, Live, data_url, running

from unipixel.engine.engine import Engine
from unipixel.masks import encode_rle, iou_rles, polygons_to_mask
from unipixel.sample import Box, Point
from unipixel.serve.label_studio.config import LabelConfig

brush = pytest.importorskip("label_studio_sdk.converter.brush")
interface = pytest.importorskip("label_studio_sdk.label_interface")
objects = pytest.importorskip("label_studio_sdk.label_interface.objects")

PICTURE, CLIP = EXAMPLES / "picture.png", EXAMPLES / "clip.mp4"
LABELS = '<Label value="dog"/><Label value="rocket"/><Label value="pizza"/>'
IMAGE = f"""<View><Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image">{LABELS}</BrushLabels>
  <PolygonLabels name="polygon" toName="image">{LABELS}</PolygonLabels>
  <RectangleLabels name="box" toName="image">{LABELS}</RectangleLabels>
  <KeyPointLabels name="click" toName="image" smart="true">{LABELS}</KeyPointLabels></View>"""
SMART = f"""<View><Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image">{LABELS}</BrushLabels>
  <KeyPointLabels name="click" toName="image" smart="true">{LABELS}</KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true">{LABELS}</RectangleLabels></View>"""
VIDEO = """<View><Video name="video" value="$video" frameRate="$fps"/>
  <VideoRectangle name="track" toName="video" smart="true"/>
  <Labels name="labels" toName="video"><Label value="Ball" hint="butterfly"/></Labels></View>"""


def task(number: int = 1, **data: Any) -> dict[str, Any]:
    return {"id": number, "data": {"image": data_url(PICTURE), **data}, "annotations": [], "predictions": []}


def request(config: str, *tasks: dict[str, Any], drawn: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """What Label Studio's client sends."""
    context = None if drawn is None else {"result": drawn}
    params = {"login": None, "password": None, "context": context}
    return {"tasks": list(tasks), "project": "3.1700000000", "label_config": config, "params": params}


def predictions(
    live: Live, config: str, *tasks: dict[str, Any], drawn: list[dict[str, Any]] | None = None
) -> list[Any]:
    """Predictions that Label Studio's own parser finds nothing wrong with."""
    answer = live.post("/predict", request(config, *tasks, drawn=drawn))
    parsed = interface.LabelInterface(config)
    for given in answer["results"]:
        objects.PredictionValue(**given)
        assert parsed.validate_prediction(given, return_errors=True) == []
        assert given["model_version"] == answer["model_version"] != ""
        assert len({region["id"] for region in given["result"]}) == len(given["result"])
    return list(answer["results"])


def by_control(prediction: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [region for region in prediction["result"] if region["from_name"] == name]


def painted(region: dict[str, Any]) -> np.ndarray:
    """The mask of a brush region, as Label Studio's exporter reads it."""
    height, width = region["original_height"], region["original_width"]
    flat = brush.decode_rle(region["value"]["rle"]).reshape(height, width, 4)
    assert set(np.unique(flat)) <= {0, 255}
    return np.asarray(flat[:, :, 3] == 255)


def test_labels_of_the_configuration_are_looked_for_and_drawn_with_every_control(nano: Live) -> None:
    (given,) = predictions(nano, IMAGE, task())
    expected = {
        label: nano.engine.ask(str(PICTURE), f"Please segment the {label} in this image.").objects[0]
        for label in ("dog", "rocket", "pizza")
    }
    there = [label for label, one in expected.items() if one.is_there]
    assert "dog" in there
    height, width = expected["dog"].track.size_hw
    assert [region["value"]["brushlabels"] for region in by_control(given, "brush")] == [[label] for label in there]
    for label, region in zip(there, by_control(given, "brush"), strict=True):
        one = expected[label]
        assert (painted(region) == one.track.mask(0)).all()
        assert region["type"] == "brushlabels" and region["score"] == pytest.approx(one.score, abs=1e-6)
        (box,) = [r["value"] for r in by_control(given, "box") if r["value"]["rectanglelabels"] == [label]]
        corners = np.array([box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]])
        np.testing.assert_allclose(corners * np.array([width, height] * 2) / 100, one.boxes[0], atol=1e-4)
        parts = [r["value"] for r in by_control(given, "polygon") if r["value"]["polygonlabels"] == [label]]
        scale = np.array([width, height]) / 100
        drawn = polygons_to_mask([np.array(part["points"]) * scale for part in parts], (height, width))
        assert iou_rles(encode_rle(drawn), one.track.rles[0]) > 0.95
        assert sum(len(part["points"]) for part in parts) < sum(len(p) for p in one.track.polygons(0)) / 4
    assert given["score"] == pytest.approx(np.mean([expected[label].score for label in there]), abs=1e-5)


def click(x: float, y: float, label: str = "dog", positive: bool = True, **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": 0.3, "keypointlabels": [label]}
    return {**drawn_with("click", "keypointlabels", value), "is_positive": positive, **more}


def rectangle(
    x: float, y: float, width: float, height: float, label: str = "dog", rotation: float = 0
) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation, "rectanglelabels": [label]}
    return {**drawn_with("box", "rectanglelabels", value), "is_positive": True}


def drawn_with(name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    size = {"original_width": 336, "original_height": 336, "image_rotation": 0}
    return {"id": "fBWv1t0S2L", "from_name": name, "to_name": "image", "type": kind, "value": value, **size}


def test_clicks_become_the_engines_mask_with_the_label_that_was_chosen(nano: Live) -> None:
    drawn = [click(30, 30, "rocket"), click(80, 80, "rocket", positive=False, image_rotation=90)]
    (given,) = predictions(nano, SMART, task(), drawn=drawn)
    points = [Point(100.8, 100.8, object_id=1), Point(268.8, 268.8, positive=False, object_id=1)]
    expected = nano.engine.ask(str(PICTURE), None, prompts=points, force=True).objects[0]
    (region,) = given["result"]
    assert (painted(region) == expected.track.mask(0)).all() and expected.is_there
    assert region["value"]["brushlabels"] == ["rocket"] and region["image_rotation"] == 90
    assert region["id"] != drawn[0]["id"]


def test_next_click_on_the_same_picture_uses_its_features(nano: Live) -> None:
    first = predictions(nano, SMART, task(), drawn=[click(30, 30)])
    kept = len(nano.runtime.session_cache)
    assert kept > 0
    again = predictions(nano, SMART, task(), drawn=[click(30, 30)])
    assert len(nano.runtime.session_cache) == kept
    assert [r["value"] for r in again[0]["result"]] == [r["value"] for r in first[0]["result"]]


def test_box_that_was_turned_is_the_upright_box_around_it(nano: Live) -> None:
    (given,) = predictions(nano, SMART, task(), drawn=[rectangle(50, 12, 36, 38, rotation=90)])
    box = Box(168 - 0.38 * 336, 0.12 * 336, 168, 0.48 * 336, object_id=1)
    expected = nano.engine.ask(str(PICTURE), None, prompts=[box], force=True).objects[0]
    assert (painted(given["result"][0]) == expected.track.mask(0)).all() and expected.is_there


def test_rough_painting_becomes_the_mask_of_what_is_under_it(nano: Live) -> None:
    mask = np.zeros((336, 336), dtype=np.uint8)
    mask[50:150, 50:150] = 255
    value = {"format": "rle", "rle": brush.mask2rle(mask), "brushlabels": ["dog"]}
    drawn = [{**drawn_with("brush", "brushlabels", value), "is_positive": True}]
    (given,) = predictions(nano, SMART, task(), drawn=drawn)
    prompts = [Box(50, 50, 150, 150, object_id=1), Point(100.5, 100.5, object_id=1)]
    expected = nano.engine.ask(str(PICTURE), None, prompts=prompts, force=True).objects[0]
    found = painted(given["result"][0])
    assert found.any() and iou_rles(encode_rle(found), expected.track.rles[0]) > 0.98


def test_drawings_with_different_labels_are_different_objects(nano: Live) -> None:
    drawn = [click(30, 30, "dog"), rectangle(60, 60, 30, 30, "pizza")]
    (given,) = predictions(nano, SMART, task(), drawn=drawn)
    assert [region["value"]["brushlabels"] for region in given["result"]] == [["dog"], ["pizza"]]


def test_words_of_a_task_say_what_is_looked_for(nano: Live) -> None:
    config = IMAGE.replace("<View>", '<View><Text name="text" value="$caption"/>')
    (given,) = predictions(nano, config, task(caption="The dog."))
    expected = nano.engine.ask(str(PICTURE), "Please segment the dog in this image.").objects
    regions = by_control(given, "brush")
    assert len(regions) == len(expected) == 1 and (painted(regions[0]) == expected[0].track.mask(0)).all()
    area = {"from_name": "prompt", "to_name": "image", "type": "textarea", "value": {"text": ["dog"]}}
    (typed,) = predictions(nano, IMAGE, task(), drawn=[area])
    assert [r["value"] for r in by_control(typed, "brush")] == [r["value"] for r in regions]
    assert regions[0]["value"]["brushlabels"] == ["dog"]


def test_every_task_gets_its_own_prediction_and_a_failed_one_gets_none(nano: Live) -> None:
    broken = {"id": 2, "data": {"image": "data:image/png;base64,AAAA"}}
    answer = nano.post("/predict", request(SMART, task(1), broken, task(3)))
    first, second, third = answer["results"]
    assert [r["value"] for r in first["result"]] == [r["value"] for r in third["result"]] != []
    assert second == [] and [one["task"] for one in answer["errors"]] == [2]
    assert "neither an image" in answer["errors"][0]["message"]
    assert nano.post("/predict", request(SMART, broken), 400)["error"]["code"] == "bad_media"


def video_task(fps: float = 8) -> dict[str, Any]:
    return {"id": 5, "data": {"video": data_url(CLIP, "video/mp4"), "fps": fps}}


def test_label_is_followed_through_a_video(nano: Live) -> None:
    config = VIDEO
    (given,) = predictions(nano, config, video_task())
    session = nano.engine.open(str(CLIP), track="all")
    expected = session.ask("Please segment the butterfly in this video.").objects[0]
    media, fps = session.media, session.clip.fps
    assert fps is not None
    (region,) = given["result"]
    value = region["value"]
    times = media.timestamps_s
    assert times is not None
    seen = [t for t, is_visible in enumerate(expected.visible) if is_visible]
    assert value["labels"] == ["Ball"] and region["type"] == "videorectangle"
    assert value["duration"] == pytest.approx(times[-1] + 1 / fps, abs=1e-3)
    assert value["framesCount"] == round(value["duration"] * 8)
    assert [key["time"] for key in value["sequence"]] == pytest.approx([times[t] for t in seen], abs=1e-5)
    assert [key["frame"] for key in value["sequence"]] == [round(times[t] * 8) + 1 for t in seen]
    height, width = media.size_hw
    for t, key in zip(seen, value["sequence"], strict=True):
        box = np.array([key["x"] * width, key["y"] * height, key["width"] * width, key["height"] * height]) / 100
        x1, y1, x2, y2 = expected.boxes[t]
        np.testing.assert_allclose(box, [x1, y1, x2 - x1, y2 - y1], atol=1e-4)


def test_words_and_a_box_on_a_video_are_two_regions(nano: Live) -> None:
    key = {"frame": 1, "enabled": True, "x": 20, "y": 20, "width": 30, "height": 30, "time": 0}
    value = {"sequence": [key], "framesCount": 16, "duration": 2.0, "labels": ["Ball"]}
    typed = {"from_name": "prompt", "to_name": "video", "type": "textarea", "value": {"text": ["butterfly"]}}
    drawn = [typed, {"id": "abcde", "type": "videorectangle", "value": value}]
    (given,) = predictions(nano, VIDEO, video_task(), drawn=drawn)
    assert [region["type"] for region in given["result"]] == ["videorectangle"] * 2
    assert given["result"][0]["id"] == "abcde" != given["result"][1]["id"]


def test_box_on_one_frame_is_followed_and_its_region_replaced(nano: Live) -> None:
    key = {"frame": 3, "enabled": True, "x": 20, "y": 20, "width": 30, "height": 30, "rotation": 0, "time": 0.1}
    value = {"sequence": [key], "framesCount": 16, "duration": 2.0, "labels": ["Ball"]}
    drawn = [{"id": "abcde", "from_name": "track", "to_name": "video", "type": "videorectangle", "value": value}]
    (given,) = predictions(nano, VIDEO, video_task(), drawn=drawn)
    (region,) = given["result"]
    assert region["id"] == "abcde" and region["value"]["labels"] == ["Ball"]
    assert (region["value"]["framesCount"], region["value"]["duration"]) == (16, 2.0)
    with nano.engine.open(str(CLIP), track="all") as session:
        height, width = session.media.size_hw
        times = session.media.timestamps_s or ()
        frame = int(np.argmin(np.abs(np.array(times) - 2 / 8)))
        box = Box(0.2 * width, 0.2 * height, 0.5 * width, 0.5 * height, frame=frame)
        expected = session.segment([box], force=True)[0]
    seen = [t for t, is_visible in enumerate(expected.visible) if is_visible]
    assert [key["frame"] for key in region["value"]["sequence"]] == sorted({round(times[t] * 8) + 1 for t in seen})


def test_configurations_in_the_documentation_are_valid_and_usable() -> None:
    page = (Path(__file__).parents[2] / "docs" / "annotation.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```xml\n(.*?)```", page, re.DOTALL)
    kinds = []
    for block in blocks:
        interface.LabelInterface(block).validate()
        kinds.append([kind for kind, _, _ in LabelConfig(block).controls])
    assert kinds == [["brushlabels"], ["polygonlabels"], ["rectanglelabels"], ["videorectangle"]]


def test_label_studios_calls_in_order(nano_engine: Engine) -> None:
    """Health, setup, versions (a GET with a body) and annotations, with the key as the password of basic auth."""
    key = "k" * 20
    with running(nano_engine, api_keys=(key,)) as live:
        assert live.http.get("/health").json()["status"] == "UP"
        setup = {
            "project": "3.1700000000",
            "schema": SMART,
            "hostname": "http://localhost:8080",
            "access_token": "t",
            "extra_params": None,
        }
        assert live.http.post("/setup", json=setup).status_code == 401
        password = base64.b64encode(f"annotator:{key}".encode()).decode()
        live.http.headers["Authorization"] = f"Basic {password}"
        version = live.post("/setup", setup)["model_version"]
        assert version.startswith("nano-") and live.post("/setup", {**setup, "schema": "<View></View>"})
        body = {"project": "3.1700000000"}
        answer = live.http.request("GET", "/versions", json=body)
        assert answer.json() == {"versions": [version]}
        assert live.post("/validate", {"config": SMART}) == {"status": "ok"}
        assert live.post("/webhook", {"action": "ANNOTATION_CREATED", "task": {}}) == {"status": "ignored"}
        assert "does not train" in live.post("/webhook", {"action": "START_TRAINING"}, 400)["error"]["message"]
        live.http.headers["Authorization"] = "Basic " + base64.b64encode(b"annotator:wrong").decode()
        assert live.http.post("/predict", json=request(SMART, task())).status_code == 401
        live.http.headers["Authorization"] = "Basic ????"
        assert live.http.get("/versions").status_code == 401
